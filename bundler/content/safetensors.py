"""What a safetensors file says about itself, read strictly; weights are never loaded.

Source: https://huggingface.co/docs/safetensors (format). Stricter than the library where two readers could
see different tensors: duplicate keys, further fields, and bytes around the header are refused here.
What is *not* checked: the values of the weights.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from bundler.content.findings import FETCH_AGAIN, malformed
from bundler.core import strict_json
from bundler.errors import Finding, MalformedError
from bundler.storage.bounded_read import read_exactly

LENGTH_BYTES = 8
HEADER_LIMIT = 100_000_000
"""Bytes of JSON; the library stops at the same size. A K2 shard has about 300,000."""
ENTRY_MEMBERS = frozenset({"dtype", "shape", "data_offsets"})
DTYPE_BITS: Mapping[str, int] = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
"""Bits per value of every dtype that safetensors 0.8 knows."""
_TOO_MANY = 1 << 63
_FINDINGS_PER_FILE = 20


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor: its values are in bytes [start, end) of the data that follows the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.start

    @property
    def count(self) -> int:
        """Number of values; a scalar (no dimensions) has one."""
        return value_count(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class SafetensorsHeader:
    """A header that obeys every rule. `hole` is the first half-open byte range of the file that was never
    written (the file system knows no data for it), which preallocation leaves behind.
    """

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    header_bytes: int
    data_bytes: int
    hole: tuple[int, int] | None = None


def read_header(fd: int, *, where: str, limit: int = HEADER_LIMIT) -> SafetensorsHeader:
    """The header of the safetensors file open as `fd`, at most `limit` bytes of JSON.

    `where` names the file in errors. Raises MalformedError with up to twenty findings:
    `safetensors-truncated`, `safetensors-header-length`, `safetensors-header`, `safetensors-tensor`,
    `safetensors-overlap`, `safetensors-gap`, `safetensors-trailing-bytes`, and those of strict JSON
    (`bad-json`, `duplicate-key`, `too-deep`).
    """
    size = os.fstat(fd).st_size
    length = _header_length(read_exactly(fd, LENGTH_BYTES, 0), size, where, limit)
    header = _parse(read_exactly(fd, length, LENGTH_BYTES), size, where)
    return replace(header, hole=first_hole(fd, LENGTH_BYTES + length, size))


def parse_header(beginning: bytes, size: int, *, where: str, limit: int = HEADER_LIMIT) -> SafetensorsHeader:
    """The header in the first bytes of a file of `size` bytes, as `read_header` reads it from the file.

    `beginning` holds the whole header. Raises MalformedError as `read_header` does.
    """
    length = _header_length(beginning[:LENGTH_BYTES], size, where, limit)
    return _parse(beginning[LENGTH_BYTES : LENGTH_BYTES + length], size, where)


def _parse(text: bytes, size: int, where: str) -> SafetensorsHeader:
    entries = _parse_json(text, where)
    metadata = _metadata(entries.pop("__metadata__", {}), where)
    tensors = _tensors(entries, where)
    data_bytes = size - LENGTH_BYTES - len(text)
    _check_layout(tensors, data_bytes, where)
    return SafetensorsHeader(
        tensors=tensors, metadata=metadata, header_bytes=len(text), data_bytes=data_bytes
    )


def value_count(shape: tuple[int, ...]) -> int:
    """The product of the dimensions; stops growing at 2^63, so that a hostile shape costs nothing."""
    if 0 in shape:
        return 0
    count = 1
    for dimension in shape:
        count *= dimension
        if count >= _TOO_MANY:
            return _TOO_MANY
    return count


def first_hole(fd: int, start: int, end: int) -> tuple[int, int] | None:
    """The first never-written range in [start, end), or None; also None where the file system cannot tell."""
    if start >= end:
        return None
    try:
        hole = os.lseek(fd, start, os.SEEK_HOLE)
    except OSError:
        return None
    if hole >= end:
        return None
    try:
        return hole, min(os.lseek(fd, hole, os.SEEK_DATA), end)
    except OSError:
        return hole, end


def _header_length(prefix: bytes, size: int, where: str, limit: int) -> int:
    if len(prefix) < LENGTH_BYTES:
        _refuse("safetensors-truncated", where, "8 bytes with the header's length", f"{size} bytes in all")
    length = int.from_bytes(prefix, "little")
    if not 2 <= length <= limit:
        _refuse(
            "safetensors-header-length", where, f"a header of 2 to {limit} bytes", f"a length of {length}"
        )
    if LENGTH_BYTES + length > size:
        _refuse(
            "safetensors-truncated",
            where,
            f"a header of {length} bytes",
            f"{size - LENGTH_BYTES} bytes after its length",
        )
    return length


def _parse_json(header: bytes, where: str) -> dict[str, Any]:
    text = header.rstrip(b" ")
    if not text.startswith(b"{") or not text.endswith(b"}"):
        _refuse(
            "safetensors-header",
            where,
            "a JSON object, with nothing but spaces after it",
            f"it begins with {header[:12]!r} and ends with {header[-12:]!r}",
        )
    value = strict_json.loads(text, limit=len(text), where=where)
    assert isinstance(value, dict)
    return value


def _metadata(value: object, where: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        _refuse("safetensors-header", f"{where}: __metadata__", "text for every key", repr(value)[:120])
    return value


def _tensors(entries: Mapping[str, Any], where: str) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    findings: list[Finding] = []
    for name, entry in entries.items():
        fault = _entry_fault(entry)
        if not fault:
            start, end = entry["data_offsets"]
            tensors[name] = Tensor(name, entry["dtype"], tuple(entry["shape"]), start, end)
            fault = _size_fault(tensors[name])
        if fault:
            findings.append(_finding("safetensors-tensor", f"{where}: {name[:120]!r}", *fault))
            if len(findings) == _FINDINGS_PER_FILE:
                break
    if findings:
        raise MalformedError.of(findings)
    return tensors


def _entry_fault(entry: object) -> tuple[str, str] | None:
    """Expected and found when `entry` has not its form; None when it has."""
    if not isinstance(entry, dict) or entry.keys() != ENTRY_MEMBERS:
        return "exactly dtype, shape and data_offsets", repr(entry)[:160]
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in DTYPE_BITS:
        return "a dtype that safetensors knows", repr(entry["dtype"])[:60]
    if not _naturals(entry["shape"]):
        return "a shape of integers >= 0", repr(entry["shape"])[:120]
    offsets = entry["data_offsets"]
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        return "data_offsets [start, end] with start <= end", repr(offsets)[:120]
    return None


def _naturals(value: object) -> bool:
    # type() and not isinstance(): JSON's true is an int to Python.
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _size_fault(tensor: Tensor) -> tuple[str, str] | None:
    bits = tensor.count * DTYPE_BITS[tensor.dtype]
    if bits % 8:
        return "values that fill whole bytes", f"{tensor.dtype} of shape {list(tensor.shape)[:8]}"
    if bits // 8 != tensor.size:
        shape = list(tensor.shape)[:8]
        return f"{bits // 8} bytes for {tensor.dtype} of shape {shape}", f"{tensor.size} bytes"
    return None


def _check_layout(tensors: Mapping[str, Tensor], data_bytes: int, where: str) -> None:
    """The tensors cover the data exactly once: no overlap, no gap, nothing after the last."""
    position, before = 0, "the start"
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.start, tensor.end)):
        if tensor.start != position:
            reference = "safetensors-overlap" if tensor.start < position else "safetensors-gap"
            _refuse(
                reference,
                f"{where}: {tensor.name[:120]!r}",
                f"data from byte {position}, right after {before[:120]}",
                f"data from byte {tensor.start}",
            )
        position, before = tensor.end, repr(tensor.name)
    if position > data_bytes:
        _refuse("safetensors-truncated", where, f"{position} bytes of data", f"{data_bytes} bytes")
    if position < data_bytes:
        _refuse(
            "safetensors-trailing-bytes", where, f"{position} bytes of data", f"{data_bytes - position} more"
        )


_WHAT = {
    "safetensors-truncated": "a safetensors file is shorter than its header says",
    "safetensors-header-length": "a safetensors header has an impossible length",
    "safetensors-header": "a safetensors header is not in its form",
    "safetensors-tensor": "a tensor's entry contradicts itself",
    "safetensors-overlap": "two tensors share bytes",
    "safetensors-gap": "bytes between two tensors belong to none",
    "safetensors-trailing-bytes": "bytes after the last tensor belong to none",
}


def _finding(reference: str, where: str, expected: str, found: str) -> Finding:
    return malformed(reference, _WHAT[reference], where, expected, found, hint=FETCH_AGAIN)


def _refuse(reference: str, where: str, expected: str, found: str) -> NoReturn:
    raise MalformedError.of([_finding(reference, where, expected, found)])
