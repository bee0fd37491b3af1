"""Instants: RFC 3339 text and seconds since 1970 UTC. Reads no clock."""

from __future__ import annotations

import datetime
import re

UTC = datetime.timezone.utc  # noqa: UP017 - datetime.UTC came with Python 3.11
_RFC3339 = re.compile(
    r"(\d{4})-(\d{2})-(\d{2})[Tt](\d{2}):(\d{2}):(\d{2})(?:\.\d{1,9})?(?:[Zz]|([+-])(\d{2}):(\d{2}))",
    re.ASCII,
)
_FIRST = int(datetime.datetime(1, 1, 1, tzinfo=UTC).timestamp())
_LAST = int(datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp())


def parse_instant(text: object) -> int | None:
    """Whole seconds since 1970-01-01T00:00:00Z of an RFC 3339 text, or None when it is not one.

    Times that have no year from 1 to 9999 in UTC are none either, so that `format_instant` can write every
    instant. A leap second (`:60`) counts as the second before it. Source: RFC 3339 section 5.6.
    """
    match = _RFC3339.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(match[n]) for n in range(1, 7))
    offset = 60 * (60 * int(match[8] or 0) + int(match[9] or 0)) * (-1 if match[7] == "-" else 1)
    try:
        moment = datetime.datetime(year, month, day, hour, minute, second if second != 60 else 59, tzinfo=UTC)
    except ValueError:
        return None
    seconds = int(moment.timestamp()) - offset
    return seconds if is_instant(seconds) else None


def is_instant(seconds: int) -> bool:
    """Whether `seconds` are in the years 1 to 9999 UTC, which RFC 3339 can write."""
    return _FIRST <= seconds <= _LAST


def format_instant(seconds: int) -> str:
    """`2026-11-22T01:06:37Z`, for an instant as in `is_instant`."""
    epoch = datetime.datetime(1970, 1, 1)  # noqa: DTZ001 - UTC, written as Z below
    # Not strftime: it writes the year 33 in two digits.
    return (epoch + datetime.timedelta(seconds=seconds)).isoformat() + "Z"
