"""The mount table of this process, `/proc/self/mountinfo` (proc(5)).

Also runs in `verify.pyz`: standard library only, Python 3.9.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

MOUNTINFO = Path("/proc/self/mountinfo")
_OCTAL = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True)
class Mount:
    """One mounted file system: where, its kind (`ext4`, `nfs4`, ...), and whether it is read-only."""

    point: str
    kind: str
    read_only: bool


def mount_table(path: Path = MOUNTINFO) -> list[Mount]:
    """Every mount, in the table's order: a later one on the same point hides the earlier one.

    Empty where the system has no table. Bytes that are no UTF-8 become lone surrogates, as in `os.fsdecode`.
    """
    try:
        return parse_mount_table(path.read_bytes())
    except OSError:
        return []


def parse_mount_table(data: bytes) -> list[Mount]:
    """The mounts in the bytes of a mount table; lines of another form are left out."""
    return [mount for mount in map(_mount, data.splitlines()) if mount is not None]


def _mount(line: bytes) -> Mount | None:
    before, dash, after = line.partition(b" - ")
    fields = before.split(b" ")
    if not dash or len(fields) < 6:
        return None
    point = _OCTAL.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), fields[4])
    return Mount(
        point=point.decode("utf-8", "surrogateescape"),
        kind=after.split(b" ")[0].decode("utf-8", "surrogateescape"),
        read_only=b"ro" in fields[5].split(b","),
    )
