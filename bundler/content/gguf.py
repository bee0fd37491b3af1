"""What a GGUF file says about itself, read strictly; weights are never loaded.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian, and
the checks of llama.cpp's own reader (tensors in order, each right after the one before). That reader, in the
pinned engine, is the judge: what it refuses is refused, and what it opens is not, except for the bounds
below and for data that is cut off, which the engine finds only when it loads the weights.
What is *not* checked: the values of the weights, and whether an engine knows the architecture.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import NamedTuple, NoReturn

from bundler.content.findings import FETCH_AGAIN, malformed
from bundler.errors import Finding, MalformedError

END_OF_FILE = "the end of the file"
"""What is found where bytes should follow: of a beginning of a file, that the header goes on behind it."""
MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
ALIGNMENT = "general.alignment"
HEADER_LIMIT = 64 << 20
"""Bytes of metadata and tensor list. A vocabulary of 163,840 tokens with merges takes about 10 MB."""
MAX_KEYS = 1 << 20
MAX_TENSORS = 1 << 20
MAX_STRING = HEADER_LIMIT
MAX_NAME_BYTES = 63
"""GGML_MAX_NAME is 64 with the terminating NUL."""
MAX_DIMENSIONS = 4
KEPT_TEXT = 4096
"""Longer text values (chat templates) are checked but only their beginning is kept."""
_BLOCK = 1 << 20


class ValueType(IntEnum):
    """Types of metadata values (gguf.md, `gguf_metadata_value_type`)."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


SCALARS: Mapping[ValueType, struct.Struct] = {
    ValueType.UINT8: struct.Struct("<B"),
    ValueType.INT8: struct.Struct("<b"),
    ValueType.UINT16: struct.Struct("<H"),
    ValueType.INT16: struct.Struct("<h"),
    ValueType.UINT32: struct.Struct("<I"),
    ValueType.INT32: struct.Struct("<i"),
    ValueType.FLOAT32: struct.Struct("<f"),
    ValueType.BOOL: struct.Struct("<B"),
    ValueType.UINT64: struct.Struct("<Q"),
    ValueType.INT64: struct.Struct("<q"),
    ValueType.FLOAT64: struct.Struct("<d"),
}


class TensorType(NamedTuple):
    """A ggml type: a block of `values` values takes `size` bytes."""

    name: str
    values: int
    size: int


TENSOR_TYPES: Mapping[int, TensorType] = {
    number: TensorType(name, values, size)
    for number, name, values, size in (
        (0, "F32", 1, 4),
        (1, "F16", 1, 2),
        (2, "Q4_0", 32, 18),
        (3, "Q4_1", 32, 20),
        (6, "Q5_0", 32, 22),
        (7, "Q5_1", 32, 24),
        (8, "Q8_0", 32, 34),
        (9, "Q8_1", 32, 36),
        (10, "Q2_K", 256, 84),
        (11, "Q3_K", 256, 110),
        (12, "Q4_K", 256, 144),
        (13, "Q5_K", 256, 176),
        (14, "Q6_K", 256, 210),
        (15, "Q8_K", 256, 292),
        (16, "IQ2_XXS", 256, 66),
        (17, "IQ2_XS", 256, 74),
        (18, "IQ3_XXS", 256, 98),
        (19, "IQ1_S", 256, 50),
        (20, "IQ4_NL", 32, 18),
        (21, "IQ3_S", 256, 110),
        (22, "IQ2_S", 256, 82),
        (23, "IQ4_XS", 256, 136),
        (24, "I8", 1, 1),
        (25, "I16", 1, 2),
        (26, "I32", 1, 4),
        (27, "I64", 1, 8),
        (28, "F64", 1, 8),
        (29, "IQ1_M", 256, 56),
        (30, "BF16", 1, 2),
        (34, "TQ1_0", 256, 54),
        (35, "TQ2_0", 256, 66),
        (39, "MXFP4", 32, 17),
        (40, "NVFP4", 64, 36),
        (41, "Q1_0", 128, 18),
        (42, "Q2_0", 64, 18),
    )
}
"""The types of the pinned engine, xllamacpp 2026.10.11549 (a test asks it); removed numbers are refused."""


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor. `shape` has the fastest-running dimension first; `offset` counts from the data's start."""

    name: str
    type: TensorType
    shape: tuple[int, ...]
    offset: int

    @property
    def count(self) -> int:
        """Number of values."""
        count = 1
        for dimension in self.shape:
            count *= dimension
        return count

    @property
    def size(self) -> int:
        """Bytes, without padding."""
        return self.count // self.type.values * self.type.size


@dataclass(frozen=True, slots=True)
class GgufArray:
    """An array of metadata: its element type and length. The elements are checked for form and not kept."""

    element: ValueType
    length: int


GgufValue = int | float | bool | str | GgufArray


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufHeader:
    """A header that obeys every rule; `data_start` is where the first tensor is in the file."""

    version: int
    metadata: Mapping[str, GgufValue]
    tensors: Mapping[str, GgufTensor]
    alignment: int
    data_start: int
    trailing: int = 0

    def text(self, key: str) -> str | None:
        """The text value of `key`, or None."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None

    def integer(self, key: str) -> int | None:
        """The integer value of `key`, or None."""
        value = self.metadata.get(key)
        return value if type(value) is int else None


@dataclass(slots=True)
class _Reader:
    """A window on the file that moves forward; every read is bounded by the file and by `HEADER_LIMIT`."""

    read: Callable[[int, int], bytes]
    """Bytes of the file: a count, and the position of the first."""
    size: int
    where: str
    position: int = 0
    window: bytes = b""
    window_start: int = 0

    def take(self, count: int, what: str) -> bytes:
        """The next `count` bytes. Raises MalformedError (`gguf-truncated`, `gguf-header`)."""
        self.require(count, what)
        begin = self.position - self.window_start
        if begin + count > len(self.window):
            self.window = self.read(max(count, _BLOCK), self.position)
            self.window_start, begin = self.position, 0
        piece = self.window[begin : begin + count]
        if len(piece) < count:
            self.refuse("gguf-truncated", f"{count} bytes of {what}", END_OF_FILE)
        self.position += count
        return piece

    def require(self, count: int, what: str) -> None:
        """Refuse what cannot fit before anything is read or kept."""
        if self.position + count > self.size:
            found = f"{self.size - self.position} bytes before the end of the file"
            self.refuse("gguf-truncated", f"{count} bytes of {what}", found)
        if self.position + count > HEADER_LIMIT:
            self.refuse("gguf-header", f"a header of at most {HEADER_LIMIT} bytes", what)

    def skip(self, count: int, what: str) -> None:
        """Move on by `count` bytes."""
        self.require(count, what)
        self.position += count

    def integer(self, width: int, what: str) -> int:
        """A little-endian unsigned integer of `width` bytes."""
        return int.from_bytes(self.take(width, what), "little")

    def text(self, limit: int, what: str) -> str:
        """A string: its length in 8 bytes, then UTF-8."""
        # The engine compares bytes and does not decode them; a byte that is no UTF-8 is shown as \\xNN.
        return self.take(self.length(limit, what), what).decode("utf-8", "backslashreplace")

    def length(self, limit: int, what: str) -> int:
        """The length before a string, at most `limit`."""
        length = self.integer(8, f"the length of {what}")
        if length > limit:
            self.refuse("gguf-header", f"{what} of at most {limit} bytes", f"{length} bytes")
        return length

    def refuse(self, reference: str, expected: str, found: str) -> NoReturn:
        """Raise MalformedError with the position in the file."""
        _refuse(reference, f"{self.where}, byte {self.position}", expected, found)


def read_header(fd: int, *, where: str) -> GgufHeader:
    """The header of the GGUF file open as `fd`; `where` names the file in errors.

    Raises MalformedError: `gguf-truncated`, `gguf-magic`, `gguf-version`, `gguf-header`, `gguf-duplicate`,
    `gguf-tensor`.
    """
    return _read(_Reader(lambda count, at: os.pread(fd, count, at), os.fstat(fd).st_size, where))


def parse_header(beginning: bytes, size: int, *, where: str) -> GgufHeader:
    """The header in the first bytes of a file of `size` bytes, as `read_header` reads it from the file.

    `beginning` holds the whole header, or it is refused as cut off.
    """
    return _read(_Reader(lambda count, at: beginning[at : at + count], size, where))


def _read(reader: _Reader) -> GgufHeader:
    version = _version(reader)
    tensor_count = _count(reader, MAX_TENSORS, "tensors")
    key_count = _count(reader, MAX_KEYS, "metadata keys")
    metadata = _metadata(reader, key_count)
    alignment = _alignment(reader, metadata)
    tensors = _tensors(reader, tensor_count)
    data_start = _padded(reader.position, alignment)
    end = _check_layout(tensors.values(), alignment, data_start, reader)
    return GgufHeader(
        version=version,
        metadata=metadata,
        tensors=tensors,
        alignment=alignment,
        data_start=data_start,
        trailing=max(0, reader.size - max(end, reader.position)),
    )


def _version(reader: _Reader) -> int:
    magic = reader.take(4, "magic")
    if magic != MAGIC:
        reader.refuse("gguf-magic", repr(MAGIC), repr(magic))
    version = reader.integer(4, "version")
    if version not in VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        big = " (a big-endian file)" if swapped in VERSIONS else ""
        reader.refuse("gguf-version", "version 2 or 3, little-endian", f"{version}{big}")
    return version


def _count(reader: _Reader, limit: int, what: str) -> int:
    count = reader.integer(8, f"the number of {what}")
    if count > limit:
        reader.refuse("gguf-header", f"at most {limit} {what}", str(count))
    return count


def _metadata(reader: _Reader, count: int) -> dict[str, GgufValue]:
    metadata: dict[str, GgufValue] = {}
    for _ in range(count):
        key = reader.text(MAX_STRING, "a metadata key")
        if not key:
            reader.refuse("gguf-header", "a metadata key of at least one byte", "an empty one")
        if key in metadata:
            reader.refuse("gguf-duplicate", "every metadata key once", repr(key)[:200])
        kind = _value_type(reader, key)
        if key == ALIGNMENT and kind is not ValueType.UINT32:
            reader.refuse("gguf-header", f"{ALIGNMENT} as UINT32", kind.name)
        metadata[key] = _value(reader, kind, key)
    return metadata


def _value_type(reader: _Reader, key: str) -> ValueType:
    number = reader.integer(4, f"the type of {key[:80]!r}")
    try:
        return ValueType(number)
    except ValueError:
        reader.refuse("gguf-header", "a metadata type from 0 to 12", f"{number} for {key[:80]!r}")


def _value(reader: _Reader, kind: ValueType, key: str) -> GgufValue:
    if kind is ValueType.STRING:
        return reader.text(MAX_STRING, f"the text of {key[:80]!r}")[:KEPT_TEXT]
    if kind is ValueType.ARRAY:
        return _array(reader, key)
    scalar = SCALARS[kind]
    value: int | float = scalar.unpack(reader.take(scalar.size, f"the value of {key[:80]!r}"))[0]
    return bool(value) if kind is ValueType.BOOL else value


def _array(reader: _Reader, key: str) -> GgufArray:
    element = _value_type(reader, key)
    length = reader.integer(8, f"the length of {key[:80]!r}")
    what = f"the array {key[:80]!r}"
    if element is ValueType.ARRAY:
        reader.refuse("gguf-header", f"no array within {what}", "an array of arrays")
    if element is ValueType.STRING:
        reader.require(8 * length, what)
        for _ in range(length):
            reader.skip(reader.length(MAX_STRING, what), what)
    else:
        reader.skip(SCALARS[element].size * length, what)
    return GgufArray(element, length)


def _alignment(reader: _Reader, metadata: Mapping[str, GgufValue]) -> int:
    alignment = metadata.get(ALIGNMENT, DEFAULT_ALIGNMENT)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        reader.refuse("gguf-header", f"{ALIGNMENT}: a power of two", repr(alignment))
    return alignment


def _tensors(reader: _Reader, count: int) -> dict[str, GgufTensor]:
    tensors: dict[str, GgufTensor] = {}
    for _ in range(count):
        tensor = _tensor(reader)
        if tensor.name in tensors:
            reader.refuse("gguf-duplicate", "every tensor once", repr(tensor.name))
        tensors[tensor.name] = tensor
    return tensors


def _tensor(reader: _Reader) -> GgufTensor:
    name = reader.text(MAX_NAME_BYTES, "a tensor's name")
    rank = reader.integer(4, f"the dimensions of {name!r}")
    if rank > MAX_DIMENSIONS:
        reader.refuse("gguf-tensor", f"at most {MAX_DIMENSIONS} dimensions of {name!r}", str(rank))
    shape = struct.unpack(f"<{rank}Q", reader.take(8 * rank, f"the shape of {name!r}"))
    number = reader.integer(4, f"the type of {name!r}")
    offset = reader.integer(8, f"the offset of {name!r}")
    kind = TENSOR_TYPES.get(number)
    if kind is None:
        reader.refuse("gguf-tensor", f"a known type of {name!r}", str(number))
    tensor = GgufTensor(name, kind, shape, offset)
    row = shape[0] if shape else 1
    if max(shape, default=0) >= 1 << 63 or tensor.count >= 1 << 63 or row % kind.values:
        expected = f"rows of whole blocks of {kind.values} values of {name!r}"
        reader.refuse("gguf-tensor", expected, f"{kind.name} of shape {list(shape)}")
    return tensor


def _padded(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment


def _check_layout(tensors: Iterable[GgufTensor], alignment: int, data_start: int, reader: _Reader) -> int:
    """Where the data ends in the file, padding included: each tensor right after the one before, aligned."""
    offset = end = 0
    for tensor in tensors:
        if tensor.offset != offset:
            where = f"{reader.where}: {tensor.name!r}"
            _refuse("gguf-tensor", where, f"data from offset {offset}", f"offset {tensor.offset}")
        end = offset + tensor.size
        offset = _padded(end, alignment)
    if data_start + end > reader.size and end:
        found = f"{reader.size} bytes"
        _refuse("gguf-truncated", reader.where, f"{data_start + end} bytes in the file", found)
    return data_start + offset


_SPLIT = re.compile(r"(?P<stem>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf")


def trailing_finding(where: str, header: GgufHeader) -> Finding | None:
    """A warning (`gguf-trailing-bytes`) for bytes behind the last tensor: the engine opens such a file."""
    if not header.trailing:
        return None
    found = _finding("gguf-trailing-bytes", where, "the end of the file", f"{header.trailing} more bytes")
    return replace(found, severity="warning")


def split_findings(headers: Mapping[str, GgufHeader]) -> list[Finding]:
    """Findings about split files among `headers` (path to header): each set complete, numbered and disjoint.

    Source: llama.cpp `gguf-split`: names `-00001-of-0000N.gguf`, keys `split.no` (from 0), `split.count`,
    `split.tensors.count` (of all parts).
    """
    sets: dict[tuple[str, int], dict[int, str]] = {}
    findings: list[Finding] = []
    for path, header in headers.items():
        match = _SPLIT.fullmatch(path)
        declared = header.integer("split.count") or 0
        if match is None:
            if declared > 1:
                expected = f"a name ending in -0000N-of-{declared:05d}.gguf"
                findings.append(_finding("gguf-split", path, expected, path.rsplit("/", 1)[-1]))
            continue
        number, count = int(match["number"]), int(match["count"])
        if number == count == 1 and declared <= 1:
            # A whole model under a part's name: the engine opens it and asks for no further file.
            continue
        sets.setdefault((match["stem"], count), {})[number] = path
        if (header.integer("split.no"), declared) != (number - 1, count):
            found = f"split.no {header.integer('split.no')}, split.count {declared}"
            findings.append(
                _finding("gguf-split", path, f"split.no {number - 1}, split.count {count}", found)
            )
    for (stem, count), parts in sets.items():
        findings += _set_findings(stem, count, parts, headers)
    return findings


def _set_findings(
    stem: str, count: int, parts: Mapping[int, str], headers: Mapping[str, GgufHeader]
) -> list[Finding]:
    missing = sorted(set(range(1, count + 1)) - parts.keys())[:8]
    if missing or len(parts) != count:
        found = "missing " + ", ".join(map(str, missing)) if missing else f"{len(parts)} parts"
        return [_finding("gguf-split", stem, f"parts 1 to {count}", found)]
    findings: list[Finding] = []
    owner: dict[str, str] = {}
    for number in sorted(parts):
        for name in headers[parts[number]].tensors:
            if name in owner:
                found = f"{name!r} also in {owner[name]}"
                findings.append(_finding("gguf-split", parts[number], "every tensor in one part", found))
            owner[name] = parts[number]
    promised = headers[parts[1]].integer("split.tensors.count")
    if promised != len(owner):
        findings.append(
            _finding(
                "gguf-split", stem, f"{promised} tensors in all parts (split.tensors.count)", str(len(owner))
            )
        )
    return findings


_WHAT = {
    "gguf-truncated": "a GGUF file is shorter than its header says",
    "gguf-magic": "a GGUF file does not begin like one",
    "gguf-version": "a GGUF file has a version that is not read",
    "gguf-header": "a GGUF header is not in its form",
    "gguf-duplicate": "a GGUF header names something twice",
    "gguf-tensor": "a tensor's entry contradicts itself or the file",
    "gguf-trailing-bytes": "bytes after the last tensor belong to none",
    "gguf-split": "the parts of a split GGUF do not fit each other",
}


def _finding(reference: str, where: str, expected: str, found: str) -> Finding:
    return malformed(reference, _WHAT[reference], where, expected, found, hint=FETCH_AGAIN)


def _refuse(reference: str, where: str, expected: str, found: str) -> NoReturn:
    raise MalformedError.of([_finding(reference, where, expected, found)])
