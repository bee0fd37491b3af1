"""Sizes as people write and read them. GB is 10^9 bytes, GiB is 2^30 bytes."""

from __future__ import annotations

import re

from bundler.errors import UsageError

_FACTORS = {"": 1, "B": 1}
for _power, _letter in enumerate("KMGTP", start=1):
    _FACTORS[f"{_letter}B"] = 1000**_power
    _FACTORS[f"{_letter}IB"] = 1024**_power
_SIZE = re.compile(r"([0-9]+)(?:\.([0-9]+))?\s*([A-Za-z]*)")


def parse_size(text: str) -> int:
    """Bytes from `700GB`, `650GiB`, `1.5TB` or a plain number. Raises UsageError (`bad-size`)."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or match[3].upper() not in _FACTORS:
        raise UsageError(
            "bad-size",
            "a size cannot be read",
            expected="a number with B, KB, MB, GB, TB, PB or KiB, MiB, GiB, TiB, PiB",
            found=repr(text),
            hint="write for example 700GB (10^9) or 650GiB (2^30)",
        )
    fraction = match[2] or ""
    scale: int = 10 ** len(fraction)
    return int(match[1] + fraction) * _FACTORS[match[3].upper()] // scale


_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?:in)?)?(?:(\d+)s?)?", re.ASCII)


def parse_duration(text: str) -> float:
    """Seconds from `2h`, `90m`, `1h30m`, `45s` or a plain number. Raises UsageError (`bad-duration`)."""
    match = _DURATION.fullmatch(text.replace(" ", "").lower())
    if match is None or not any(match.groups()) or len(text) > 40:
        raise UsageError(
            "bad-duration",
            "a length of time cannot be read",
            expected="hours, minutes or seconds",
            found=repr(text[:40]),
            hint="write for example 2h, 90m, 1h30m or 45s",
        )
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(3600 * hours + 60 * minutes + seconds)


def format_bytes(count: int) -> str:
    """`1.03 TB`, `16.4 MB`, `12 B`: decimal units, three significant digits."""
    value, unit = float(count), "B"
    for unit in ("B", "KB", "MB", "GB", "TB", "PB"):
        if abs(value) < 999.5 or unit == "PB":
            break
        value /= 1000
    if unit == "B":
        return f"{count} B"
    digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{digits}f} {unit}"


def format_seconds(seconds: float) -> str:
    """`850 ms`, `12.3 s`, `4 min 05 s`, `2 h 07 min`."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
