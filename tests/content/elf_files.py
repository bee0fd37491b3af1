"""Small ELF files for tests, as the loader reads them: headers, one loaded segment, a dynamic section."""

from __future__ import annotations

import struct
from collections.abc import Sequence


def elf_file(
    needed: Sequence[str], *, soname: str = "", runpath: str = "", wide: bool = True, order: str = "<"
) -> bytes:
    """An ELF file of 64 or 32 bits in either byte order that needs these libraries."""
    strings, entries = b"\0", []
    for tag, text in [(1, name) for name in needed] + [(14, soname), (29, runpath)]:
        if text:
            entries.append((tag, len(strings)))
            strings += text.encode() + b"\0"
    header, program = (64, 56) if wide else (52, 32)
    word = 8 if wide else 4
    dynamic_at = header + 2 * program
    size = (len(entries) + 2) * 2 * word
    strings_at, base = dynamic_at + size, 0x1000
    entries += [(5, base + strings_at), (0, 0)]
    dynamic = b"".join(struct.pack(order + ("qQ" if wide else "iI"), *entry) for entry in entries)
    total = strings_at + len(strings)
    ident = b"\x7fELF" + bytes([2 if wide else 1, 1 if order == "<" else 2, 1]) + bytes(9)
    machine = 62 if wide else 3
    body = struct.pack(order + "HHI" + ("QQQ" if wide else "III"), 3, machine, 1, 0, header, 0)
    body += struct.pack(order + "IHHHHHH", 0, header, program, 2, 0, 0, 0)
    loaded = _program(1, 0, base, total, wide, order)
    return (
        ident
        + body
        + loaded
        + _program(2, dynamic_at, base + dynamic_at, size, wide, order)
        + dynamic
        + strings
    )


def _program(kind: int, offset: int, address: int, size: int, wide: bool, order: str) -> bytes:
    if wide:
        return struct.pack(order + "IIQQQQQQ", kind, 4, offset, address, address, size, size, 8)
    return struct.pack(order + "IIIIIIII", kind, offset, address, address, size, size, 4, 4)
