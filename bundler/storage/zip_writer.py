"""A ZIP archive whose bytes depend on its members alone: fixed times and modes, nothing compressed.

zlib versions differ in their output, so members are stored as they are.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that ZIP can hold."""
_UNIX = 3
_REGULAR_FILE = 0o100644 << 16


def zip_bytes(members: Mapping[str, bytes], *, prefix: bytes = b"") -> bytes:
    """The archive with `members` (name to bytes) in their order, behind `prefix` (such as a `#!` line)."""
    buffer = io.BytesIO()
    buffer.write(prefix)
    # "a" writes behind what is there, with offsets that count the prefix.
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            member = zipfile.ZipInfo(name, _EPOCH)
            member.create_system = _UNIX
            member.external_attr = _REGULAR_FILE
            archive.writestr(member, data)
    return buffer.getvalue()
