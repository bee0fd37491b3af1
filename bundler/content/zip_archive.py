"""ZIP archives read in one way only: what two readers could see differently is refused.

`zipfile` and the readers of installers differ about prepended bytes, gaps, archives with two directories,
local headers that contradict the central directory and data after the declared end. All of that is a fault
here, so that every installer unpacks what was checked. Source: APPNOTE.TXT 6.3.10 (sections in comments);
the confusion attacks: https://blog.pypi.org/posts/2025-08-07-wheel-archive-confusion-attacks/.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bundler.errors import MalformedError
from bundler.storage.bounded_read import read_exactly

STORED, DEFLATED = 0, 8
DIRECTORY_LIMIT = 256 << 20
"""Bytes of a central directory that are read; a torch wheel with 15,000 members has 1.4 MB."""
PIECE = 1 << 20
RATIO_LIMIT = 200
RATIO_COUNTS_FROM = 256 << 20
"""An archive that unpacks to more than this many bytes may not grow more than `RATIO_LIMIT` times.

Measured: CUDA libraries grow 2 to 3 times, text 5 to 10. Deflate cannot exceed 1032.
"""
_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_FLAG_ENCRYPTED, _FLAG_DESCRIPTOR, _FLAG_STRONG, _FLAG_UTF8 = 1, 8, 64, 2048
_FLAGS_KNOWN = 0b110 | _FLAG_DESCRIPTOR | _FLAG_UTF8
"""Bits 1 and 2 only say how hard the compressor tried (section 4.4.4)."""
_NEWEST_VERSION = 63
"""Of the format itself (section 4.4.3.2); Python refuses members that say they need a newer reader."""
_ZIP64_EXTRA, _UNICODE_PATH_EXTRA = 0x0001, 0x7075
_MAX16, _MAX32 = 0xFFFF, 0xFFFFFFFF


@dataclass(frozen=True)
class Member:
    """One file or directory of an archive, as its central directory says and its local header confirms."""

    name: str
    method: int
    crc: int
    compressed: int
    """Bytes in the archive."""
    size: int
    """Bytes unpacked."""
    header_offset: int
    flags: int = 0
    mode: int = 0
    """Unix mode bits, 0 when the archive was not made on Unix."""
    raw_name: bytes = b""
    data_offset: int = 0

    @property
    def is_directory(self) -> bool:
        """Whether it only makes a directory."""
        return self.name.endswith("/")


@dataclass(frozen=True)
class Directory:
    """Where the central directory lies: bytes from the start of the archive, and how many members."""

    offset: int
    size: int
    count: int
    end: int
    """Offset of the first end record behind it."""


def read_members(fd: int, where: str) -> list[Member]:
    """Every member, in the order of the archive's bytes, after all structure checks.

    Raises MalformedError (`bad-zip`, `zip-bomb`) at the first fault: nothing behind it could be trusted.
    Does not read member data; that is `contents`.
    """
    size = os.fstat(fd).st_size
    tail = read_exactly(fd, min(size, TAIL), max(0, size - TAIL))
    directory = locate_directory(tail, size, where)
    listed = parse_directory(read_exactly(fd, directory.size, directory.offset), directory, where)
    members = _confirm(fd, sorted(listed, key=lambda member: member.header_offset), directory.offset, where)
    _refuse_bombs(members, where)
    return members


TAIL = _END.size + _END64_LOCATOR.size + _END64.size
"""Bytes at the end of an archive without comment that hold all its end records."""


def locate_directory(tail: bytes, size: int, where: str) -> Directory:
    """Where the central directory is, from the last bytes of an archive of `size` bytes.

    The end record must be the very last thing: a comment or trailing bytes could hold a second one.
    """
    if len(tail) < _END.size or tail[-_END.size :][:4] != b"PK\x05\x06":
        raise _bad(where, "the end record as the last 22 bytes", "something else, or a comment, at the end")
    _, disk, first_disk, here, count, length, offset, comment = _END.unpack(tail[-_END.size :])
    if comment or disk or first_disk or here != count:
        raise _bad(where, "one disk and no comment", f"disk {disk}, comment of {comment} bytes")
    end = size - _END.size
    before = tail[: -_END.size]
    if before[-_END64_LOCATOR.size :][:4] == b"PK\x06\x07":
        return _locate_64(before, end, (count, length, offset), where)
    return _checked(Directory(offset, length, count, end), where)


def _locate_64(before: bytes, end: int, small: tuple[int, int, int], where: str) -> Directory:
    _, disk, at, disks = _END64_LOCATOR.unpack(before[-_END64_LOCATOR.size :])
    record = before[: -_END64_LOCATOR.size][-_END64.size :]
    start = end - _END64_LOCATOR.size - _END64.size
    if len(record) < _END64.size or record[:4] != b"PK\x06\x06" or at != start or disk or disks > 1:
        raise _bad(where, "a zip64 end record right before its locator", "none there")
    values = _END64.unpack(record)
    length, count, size, offset = values[1], values[7], values[8], values[9]
    # Readers that ignore zip64 must come to the same directory, or give up (section 4.4.1.4).
    agreed = zip((count, size, offset), small, (_MAX16, _MAX32, _MAX32), strict=True)
    if length != _END64.size - 12 or not all(old in (new, limit) for new, old, limit in agreed):
        raise _bad(where, "end records that agree", "a zip64 end record that contradicts the other one")
    return _checked(Directory(offset, size, count, start), where)


def _checked(directory: Directory, where: str) -> Directory:
    if directory.offset + directory.size != directory.end:
        raise _bad(where, "the central directory right before the end record", "a gap, or a wrong offset")
    if directory.size > DIRECTORY_LIMIT:
        raise _bad(
            where, f"a central directory of at most {DIRECTORY_LIMIT} bytes", f"{directory.size} bytes"
        )
    return directory


def parse_directory(data: bytes, directory: Directory, where: str) -> list[Member]:
    """The members the central directory lists; `data` is exactly the directory."""
    members: list[Member] = []
    at = 0
    while at < len(data):
        if len(data) - at < _CENTRAL.size or data[at : at + 4] != b"PK\x01\x02":
            raise _bad(where, "an entry of the central directory", f"other bytes at {directory.offset + at}")
        fields = _CENTRAL.unpack_from(data, at)
        name_end = at + _CENTRAL.size + fields[10]
        extra_end = name_end + fields[11]
        end = extra_end + fields[12]
        if end > len(data):
            raise _bad(where, "entries inside the central directory", "an entry that runs past its end")
        raw = data[at + _CENTRAL.size : name_end]
        members.append(_member(fields, raw, data[name_end:extra_end], where))
        at = end
    if len(members) != directory.count:
        raise _bad(where, f"{directory.count} members", str(len(members)))
    return members


def _member(fields: tuple[int, ...], raw: bytes, extra: bytes, where: str) -> Member:
    version, flags, method, crc = fields[2], fields[3], fields[4], fields[7]
    name = _name(raw, flags, where)
    if flags & ~_FLAGS_KNOWN or method not in (STORED, DEFLATED) or version > _NEWEST_VERSION:
        raise _bad(
            f"{where}: {name}",
            "a stored or deflated member, not encrypted",
            f"method {method}, flags {flags:#x}, version {version}",
        )
    sizes = _zip64(
        extra, {"size": fields[9], "compressed": fields[8], "header_offset": fields[16]}, f"{where}: {name}"
    )
    made_on_unix = fields[1] >> 8 == 3
    return Member(
        name=name,
        method=method,
        crc=crc,
        flags=flags,
        mode=fields[15] >> 16 if made_on_unix else 0,
        raw_name=raw,
        **sizes,
    )


def _name(raw: bytes, flags: int, where: str) -> str:
    """The member's name; outside ASCII only with the UTF-8 flag, since readers guess differently."""
    try:
        return raw.decode("utf-8" if flags & _FLAG_UTF8 else "ascii")
    except UnicodeDecodeError:
        raise _bad(where, "member names in ASCII, or in UTF-8 and marked so", repr(raw)[:200]) from None


def _extras(extra: bytes, where: str) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(extra):
        if len(extra) - at < 4:
            raise _bad(where, "whole extra fields", f"{len(extra) - at} bytes left over")
        kind, length = struct.unpack_from("<HH", extra, at)
        at += 4
        if at + length > len(extra):
            raise _bad(where, "whole extra fields", f"field {kind:#06x} runs past its end")
        yield kind, extra[at : at + length]
        at += length


def _zip64(extra: bytes, sizes: dict[str, int], where: str) -> dict[str, int]:
    """`sizes` with the 64-bit values where a 32-bit field is full (section 4.5.3)."""
    found = list(_extras(extra, where))
    if any(kind == _UNICODE_PATH_EXTRA for kind, _ in found):
        raise _bad(where, "one name", "a second name in a Unicode path field")
    wanted = [name for name, value in sizes.items() if value == _MAX32]
    fields = [data for kind, data in found if kind == _ZIP64_EXTRA]
    if len(fields) > 1 or bool(wanted) > bool(fields):
        raise _bad(where, "one zip64 field where a size is beyond 32 bits", f"{len(fields)}")
    if not wanted:
        return sizes
    if len(fields[0]) < 8 * len(wanted):
        raise _bad(where, "64-bit sizes", "a zip64 field that is too short")
    values = struct.unpack_from(f"<{len(wanted)}Q", fields[0])
    return {**sizes, **dict(zip(wanted, values, strict=True))}


def _confirm(fd: int, members: list[Member], end: int, where: str) -> list[Member]:
    """The members with `data_offset`, each local header in its place and equal, no byte between them."""
    confirmed: list[Member] = []
    at = 0
    for member in members:
        if member.header_offset != at:
            raise _bad(
                f"{where}: {member.name}",
                f"a member at byte {at}: no gap, overlap or bytes before the first",
                f"at byte {member.header_offset}",
            )
        placed = _check_local(fd, member, where)
        at = placed.data_offset + member.compressed
        at += _descriptor_length(fd, placed, where) if member.flags & _FLAG_DESCRIPTOR else 0
        confirmed.append(placed)
    if at != end:
        raise _bad(where, f"the central directory at byte {at}", f"at byte {end}")
    return confirmed


def _check_local(fd: int, member: Member, where: str) -> Member:
    here = f"{where}: {member.name}"
    head = read_exactly(fd, _LOCAL.size, member.header_offset)
    if len(head) < _LOCAL.size or head[:4] != b"PK\x03\x04":
        raise _bad(here, "a local header", "other bytes")
    _, _, flags, method, _, _, crc, compressed, size, name_length, extra_length = _LOCAL.unpack(head)
    rest = read_exactly(fd, name_length + extra_length, member.header_offset + _LOCAL.size)
    sizes = _zip64(rest[name_length:], {"size": size, "compressed": compressed}, here)
    told = (crc, sizes["compressed"], sizes["size"])
    known = (member.crc, member.compressed, member.size)
    later = flags & _FLAG_DESCRIPTOR and told in ((0, 0, 0), known)
    same = (rest[:name_length], method, flags) == (member.raw_name, member.method, member.flags)
    if not same or not (later or told == known):
        raise _bad(here, "a local header that says what the central directory says", "another one")
    data_offset = member.header_offset + _LOCAL.size + name_length + extra_length
    return Member(**{**_fields(member), "data_offset": data_offset})


def _fields(member: Member) -> dict[str, int | str | bytes]:
    return dict(vars(member))


def _descriptor_length(fd: int, member: Member, where: str) -> int:
    """Bytes of the data descriptor behind the member (section 4.3.9): 32 or 64 bit, signature or not."""
    behind = read_exactly(fd, 24, member.data_offset + member.compressed)
    for sizes in ("<3L", "<L2Q"):
        plain = struct.pack(sizes, member.crc, *_fitting(sizes, member))
        for form in (b"PK\x07\x08" + plain, plain):
            if behind.startswith(form):
                return len(form)
    raise _bad(f"{where}: {member.name}", "a data descriptor that says the same sizes", "another one")


def _fitting(sizes: str, member: Member) -> tuple[int, int]:
    limit = _MAX32 if sizes == "<3L" else (1 << 64) - 1
    return member.compressed & limit, member.size & limit


def _refuse_bombs(members: list[Member], where: str) -> None:
    packed = sum(member.compressed for member in members)
    unpacked = sum(member.size for member in members)
    if unpacked > RATIO_COUNTS_FROM and unpacked > RATIO_LIMIT * packed:
        raise MalformedError(
            "zip-bomb",
            "an archive unpacks to far more bytes than it has",
            where=where,
            expected=f"at most {RATIO_LIMIT} times its {packed} bytes",
            found=f"{unpacked} bytes",
        )


def is_odd_mode(member: Member) -> bool:
    """Whether the member is a link, device or anything but a regular file or directory."""
    kind = stat.S_IFMT(member.mode)
    return kind not in (0, stat.S_IFDIR if member.is_directory else stat.S_IFREG)


def contents(fd: int, member: Member, where: str) -> Iterator[bytes]:
    """The member's bytes in pieces of about 1 MiB, its declared size and CRC-32 compared at the end.

    Raises MalformedError (`bad-zip`) when the data ends early, goes on after its end, or differs.
    """
    if member.method == STORED:
        pieces = _packed(fd, member)
    else:
        pieces = _inflate(_packed(fd, member), f"{where}: {member.name}")
    crc, size = 0, 0
    for piece in pieces:
        crc, size = zlib.crc32(piece, crc), size + len(piece)
        if size > member.size:
            break
        yield piece
    if (crc, size) != (member.crc, member.size):
        raise _bad(
            f"{where}: {member.name}",
            f"{member.size} bytes with CRC-32 {member.crc:08x}",
            f"{size} bytes with CRC-32 {crc:08x}",
        )


def _packed(fd: int, member: Member) -> Iterator[bytes]:
    at, end = member.data_offset, member.data_offset + member.compressed
    while at < end:
        piece = read_exactly(fd, min(PIECE, end - at), at)
        if not piece:
            return
        at += len(piece)
        yield piece


def _inflate(pieces: Iterator[bytes], where: str) -> Iterator[bytes]:
    stream = zlib.decompressobj(-15)
    try:
        for piece in pieces:
            waiting = piece
            while waiting and not stream.eof:
                yield stream.decompress(waiting, PIECE)
                waiting = stream.unconsumed_tail
            if stream.eof and (waiting or stream.unused_data):
                raise _bad(where, "one deflate stream", "bytes behind its end")
        yield stream.flush()
    except zlib.error as error:
        raise _bad(where, "deflated data", str(error)) from None
    if not stream.eof:
        raise _bad(where, "a whole deflate stream", "one that stops early")


def digest(fd: int, member: Member, algorithm: str, where: str) -> bytes:
    """The member's digest, read as a stream."""
    value = hashlib.new(algorithm)
    for piece in contents(fd, member, where):
        value.update(piece)
    return value.digest()


def read_member(fd: int, member: Member, *, limit: int, where: str) -> bytes:
    """All bytes of a small member. Raises MalformedError (`bad-zip`) when it has more than `limit`."""
    if member.size > limit:
        raise _bad(f"{where}: {member.name}", f"at most {limit} bytes", f"{member.size} bytes")
    return b"".join(contents(fd, member, where))


def by_name(members: list[Member]) -> Mapping[str, Member]:
    """Members by name; of two with one name the last one, so look for duplicates first."""
    return {member.name: member for member in members}


def _bad(where: str, expected: str, found: str) -> MalformedError:
    return MalformedError(
        "bad-zip",
        "an archive can be read in more than one way, or not at all",
        where=where,
        expected=expected,
        found=found,
        hint="get the wheel from its publisher again, or ask for another version",
    )
