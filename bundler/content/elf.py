"""What an ELF file needs of the machine it is loaded on: the names in its dynamic section.

Reads a few hundred bytes of a file of any size: program headers, the dynamic section, and each name. Offsets
and counts of a hostile file are bounded; what makes no sense is no ELF file with needs. Source: the System V
ABI, chapters 4 and 5 (`elf.h`). Relocations and symbol versions are not looked at.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

Read = Callable[[int, int], bytes]
"""Bytes at an offset: `read(offset, length)`, fewer at the end of the file."""

MAX_HEADERS = 4096
MAX_DYNAMIC = 1 << 20
"""Bytes; the largest seen has 1 KiB."""
MAX_NEEDED = 1024
MAX_NAME = 4096
_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_NULL, _DT_NEEDED, _DT_STRTAB, _DT_SONAME, _DT_RPATH, _DT_RUNPATH = 0, 1, 5, 14, 15, 29
LIBC = frozenset(
    (
        *("libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2"),
        *("librt.so.1", "libutil.so.1", "libresolv.so.2", "libanl.so.1"),
    )
)
"""Parts of glibc, whose version `install` checks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ElfNeeds:
    """Names of the libraries a file needs, its own name, and where it asks the loader to look."""

    needed: tuple[str, ...]
    soname: str = ""
    search: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the fields are, by word size: struct formats without byte order."""

    order: str
    wide: bool

    @property
    def word(self) -> int:
        return 8 if self.wide else 4

    def numbers(self, data: bytes, form: str) -> tuple[int, ...]:
        return struct.unpack_from(self.order + form, data)


def read_needs(read: Read) -> ElfNeeds | None:
    """The needs of the ELF file that `read` reads; None when it is none, or is not linked dynamically."""
    head = read(0, 64)
    if len(head) < 52 or head[:4] != b"\x7fELF" or head[4] not in (1, 2) or head[5] not in (1, 2):
        return None
    layout = _Layout("<" if head[5] == 1 else ">", head[4] == 2)
    try:
        return _needs(read, layout, head)
    except (struct.error, UnicodeDecodeError, OverflowError):
        return None


def _needs(read: Read, layout: _Layout, head: bytes) -> ElfNeeds | None:
    if layout.wide:
        (start,) = layout.numbers(head[32:], "Q")
        size, count = layout.numbers(head[54:], "HH")
    else:
        (start,) = layout.numbers(head[28:], "I")
        size, count = layout.numbers(head[42:], "HH")
    if not 0 < count <= MAX_HEADERS or size < (56 if layout.wide else 32) or size > 256:
        return None
    table = read(start, size * count)
    segments = [_segment(layout, table[at : at + size]) for at in range(0, size * count, size)]
    loads = [segment for segment in segments if segment[0] == _PT_LOAD]
    dynamic = next((segment for segment in segments if segment[0] == _PT_DYNAMIC), None)
    if dynamic is None or dynamic[3] > MAX_DYNAMIC:
        return None
    entries = list(_entries(layout, read(dynamic[1], dynamic[3])))
    strings = next((_offset(loads, value) for tag, value in entries if tag == _DT_STRTAB), None)
    if strings is None:
        return None

    def names(tag: int) -> tuple[str, ...]:
        found = [value for name, value in entries if name == tag][:MAX_NEEDED]
        return tuple(_text(read, strings + value) for value in found)

    search = (*names(_DT_RUNPATH), *names(_DT_RPATH))
    return ElfNeeds(
        needed=names(_DT_NEEDED),
        soname="".join(names(_DT_SONAME)[:1]),
        search=tuple(path for paths in search for path in paths.split(":")),
    )


def _segment(layout: _Layout, data: bytes) -> tuple[int, int, int, int]:
    """Kind, offset in the file, address, and bytes in the file of one program header."""
    if layout.wide:
        kind, _, offset, address, _, size = layout.numbers(data, "IIQQQQ")
    else:
        kind, offset, address, _, size = layout.numbers(data, "IIIII")
    return kind, offset, address, size


def _entries(layout: _Layout, data: bytes) -> Iterator[tuple[int, int]]:
    step = 2 * layout.word
    for at in range(0, len(data) - step + 1, step):
        tag, value = layout.numbers(data[at : at + step], "qQ" if layout.wide else "iI")
        if tag == _DT_NULL:
            return
        yield tag, value


def _offset(loads: list[tuple[int, int, int, int]], address: int) -> int | None:
    for _, offset, start, size in loads:
        if start <= address < start + size:
            return address - start + offset
    return None


def _text(read: Read, offset: int) -> str:
    data, end, _ = read(offset, MAX_NAME).partition(b"\0")
    if not end:
        raise UnicodeDecodeError("utf-8", data[:1], 0, 1, "a name without an end")
    return data.decode("utf-8")
