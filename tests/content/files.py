"""Small safetensors and GGUF files made by hand, right or wrong."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bundler.content import gguf, safetensors
from bundler.demo.tiny_kimi import TinyTensor, safetensors_bytes
from bundler.errors import Finding


def raw_safetensors(header: object, data: bytes = b"") -> bytes:
    """A file with this header (JSON value, or its bytes as they are) and this data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype: str, shape: list[Any], start: int, end: int) -> dict[str, Any]:
    """One entry of a header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def read_safetensors(path: Path) -> safetensors.SafetensorsHeader:
    """The strict header of a file."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return safetensors.read_header(fd, where=path.name)
    finally:
        os.close(fd)


def read_gguf(path: Path) -> gguf.GgufHeader:
    """The strict header of a file."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return gguf.read_header(fd, where=path.name)
    finally:
        os.close(fd)


def zeros(dtype: str, *shape: int) -> TinyTensor:
    """A tensor of zeros."""
    count = 1
    for dimension in shape:
        count *= dimension
    return TinyTensor(dtype, shape, bytes(count * safetensors.DTYPE_BITS[dtype] // 8))


def write_shard(path: Path, tensors: Mapping[str, TinyTensor]) -> None:
    """One safetensors file."""
    path.write_bytes(safetensors_bytes(tensors))


def write_json(path: Path, value: object) -> None:
    """One JSON document."""
    path.write_text(json.dumps(value))


def references(findings: Iterable[Finding]) -> list[str]:
    """The distinct references of the errors and warnings among findings, sorted."""
    return sorted({finding.reference for finding in findings})
