"""Our GGUF reader beside the one inside the pinned engine: both open and refuse the same headers."""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bundler.content.gguf import TENSOR_TYPES
from bundler.errors import MalformedError
from tests.content.files import read_gguf

ENGINE = "xllamacpp==2026.10.11549"
LIBRARY = "xllamacpp/xllamacpp.abi3.so"
_ASK = """
import ctypes, json, os, sys
class Parameters(ctypes.Structure):
    _fields_ = [("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p)]
library = ctypes.CDLL(sys.argv[1])
library.gguf_init_from_file.restype = ctypes.c_void_p
library.gguf_init_from_file.argtypes = [ctypes.c_char_p, Parameters]
opened = {}
for path in sys.argv[2:]:
    # The library ends the process for some headers: each is read by a child.
    child = os.fork()
    if not child:
        os._exit(0 if library.gguf_init_from_file(path.encode(), Parameters(True, None)) else 1)
    opened[path] = os.waitpid(child, 0)[1] == 0
print(json.dumps(opened))
"""
ARCHITECTURE = ("general.architecture", 8, struct.pack("<Q", 5) + b"llama")
Key = tuple[str | bytes, int, bytes]
Entry = tuple[str | bytes, tuple[int, ...], int]


def text(value: str | bytes) -> bytes:
    data = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(data)) + data


def gguf(
    keys: tuple[Key, ...] = (ARCHITECTURE,),
    tensors: tuple[Entry, ...] = (("a", (32, 2), 0),),
    *,
    version: int = 3,
    alignment: int = 32,
    offsets: tuple[int, ...] = (),
    counts: tuple[int, int] | None = None,
    after: bytes = b"",
    padded: bool = True,
) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, *(counts or (len(tensors), len(keys))))
    head += b"".join(text(name) + struct.pack("<I", kind) + value for name, kind, value in keys)
    offset, data = 0, b""
    for number, (name, shape, kind) in enumerate(tensors):
        _, values, size = TENSOR_TYPES.get(kind, ("", 1, 4))
        count = 1
        for dimension in shape:
            count *= dimension
        at = offsets[number] if offsets else offset
        head += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, at)
        piece = bytes(count // values * size)
        last = number == len(tensors) - 1
        data += piece + (b"" if last and not padded else bytes(-len(piece) % alignment))
        offset = len(data)
    return head + bytes(-len(head) % alignment) + data + after


def key(kind: int, value: bytes, name: str | bytes = "x") -> bytes:
    return gguf((ARCHITECTURE, (name, kind, value)))


def array(kind: int, count: int, elements: bytes = b"") -> bytes:
    return key(9, struct.pack("<IQ", kind, count) + elements)


def corpus() -> Iterator[tuple[str, bytes]]:
    """Headers that are right, odd and wrong, with what they are."""
    for kind in range(46):
        values = TENSOR_TYPES.get(kind, ("", 1, 4))[1]
        yield f"type {kind}", gguf(tensors=(("a", (values, 2), kind),))
        yield f"type {kind}, half a block", gguf(tensors=(("a", (max(values // 2, 1), 2), kind),))
    for size in (1, 2, 4, 8, 16, 32, 64, 1 << 20, 1 << 21):
        yield (
            f"alignment {size}",
            gguf((ARCHITECTURE, ("general.alignment", 4, struct.pack("<I", size))), alignment=size),
        )
    for size in (0, 3, 24, 31):
        yield f"alignment {size}", gguf((ARCHITECTURE, ("general.alignment", 4, struct.pack("<I", size))))
    for kind, form in ((2, "<H"), (5, "<i"), (10, "<Q"), (11, "<q")):
        yield (
            f"alignment of type {kind}",
            gguf((ARCHITECTURE, ("general.alignment", kind, struct.pack(form, 32)))),
        )
    for version in (0, 1, 2, 3, 4, 1 << 16):
        yield f"version {version}", gguf(version=version)
    good = gguf()
    yield "big-endian", b"GGUF" + struct.pack(">I", 3) + good[8:]
    yield "another magic", b"GGML" + good[4:]
    yield "no keys", gguf(())
    yield "no tensors", gguf(tensors=())
    yield "nothing at all", gguf((), ())
    yield "a key twice", gguf((ARCHITECTURE, ARCHITECTURE))
    yield "a tensor twice", gguf(tensors=(("a", (32,), 0), ("a", (32,), 0)))
    yield "no padding at the end", gguf(tensors=(("a", (3,), 0),), padded=False)
    for count in (1, 32, 5000):
        yield f"{count} bytes behind", gguf(after=bytes(count))
    for size in (0, 3, 4, 8, 24, 40):
        yield f"cut at {size}", good[:size]
    for size in (0, 1, 62, 63, 64, 65):
        yield f"a name of {size} bytes", gguf(tensors=(("n" * size, (32,), 0),))
    yield "a name with NUL", gguf(tensors=(("a\0b", (32,), 0),))
    yield "names that are no UTF-8", gguf(tensors=((b"\xff", (32,), 0), (b"\xfe", (32,), 0)))
    for name in ("", "k" * 65_535, "k" * 65_536, b"\xff", "a\0b", "Not Lower.Case"):
        yield f"key {name[:8]!r} of {len(name)}", key(4, bytes(4), name)
    for rank in range(6):
        yield f"{rank} dimensions", gguf(tensors=(("a", (32, 1, 1, 1, 1)[:rank], 0),))
    for shape in ((0,), (32, 0), (0, 32)):
        yield f"shape {shape}", gguf(tensors=(("a", shape, 0),))
    row = struct.pack("<IQ", 1, 32)
    for shape in ((1 << 62,), (1 << 63,), (1 << 31, 1 << 31), (1 << 32, 1 << 32), ((1 << 64) - 1,)):
        entry = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        yield f"shape {shape}", gguf(tensors=(("a", (32,), 0),)).replace(row, entry)
    two = (("a", (8,), 0), ("b", (8,), 0))
    for pair in itertools.product((0, 16, 32), (0, 16, 32, 64, 1 << 40, 1 << 63)):
        yield f"offsets {pair}", gguf(tensors=two, offsets=pair)
    for kind, value in (
        (0, 1),
        (1, 1),
        (2, 2),
        (3, 2),
        (4, 4),
        (5, 4),
        (6, 4),
        (7, 1),
        (10, 8),
        (11, 8),
        (12, 8),
    ):
        yield f"value of type {kind}", key(kind, b"\x01" * value)
        yield f"array of type {kind}", array(kind, 2, b"\x01" * value * 2)
        yield f"empty array of type {kind}", array(kind, 0)
    for kind in (13, 14, 99, 0xFFFFFFFF):
        yield f"value of type {kind}", key(kind, bytes(8))
        yield f"array of type {kind}", array(kind, 0)
    for byte in (0, 1, 2, 255):
        yield f"boolean {byte}", key(7, bytes([byte]))
    yield "text that is no UTF-8", key(8, text(b"\xff\xfe"))
    yield "empty text", key(8, text(""))
    yield "array of texts", array(8, 2, text("a") + text(""))
    yield "array of no arrays", array(9, 0)
    yield "array of arrays", array(9, 1, struct.pack("<IQI", 4, 1, 7))
    for kind in (0, 8):
        yield f"endless array of type {kind}", array(kind, 1 << 40)
    yield "endless text", key(8, struct.pack("<Q", 1 << 40))
    for counts in ((2, 1), (1, 2), (1, 0), (0, 1), (1 << 50, 1), (1, 1 << 50), ((1 << 64) - 1, 1)):
        yield f"counts {counts}", gguf(counts=counts)
    for number in range(3):
        split = (
            ("split.no", 2, struct.pack("<H", number)),
            ("split.count", 2, struct.pack("<H", 3)),
            ("split.tensors.count", 5, struct.pack("<i", 2)),
        )
        yield f"part {number}", gguf((ARCHITECTURE, *split))
        yield f"part {number} without tensors", gguf((ARCHITECTURE, *split), ())


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library inside the pinned engine's wheel."""
    target = tmp_path_factory.mktemp("engine")
    uv = Path(sys.executable).with_name("uv")
    install = [str(uv), "pip", "install", "-q", "--no-deps", "--target", str(target), ENGINE]
    if not uv.exists() or subprocess.run(install, capture_output=True).returncode:
        pytest.skip(f"no index offers {ENGINE} here; pip install uv, and give it an index")
    return target / LIBRARY


@pytest.mark.slow
def test_the_engines_reader_and_ours_open_the_same_headers(engine: Path, tmp_path: Path) -> None:
    cases = dict(corpus())
    paths = {str(tmp_path / f"{number}.gguf"): name for number, name in enumerate(cases)}
    for path, name in paths.items():
        Path(path).write_bytes(cases[name])
    done = subprocess.run(
        [sys.executable, "-c", _ASK, str(engine), *paths], capture_output=True, text=True, check=True
    )
    theirs = {paths[path]: opened for path, opened in json.loads(done.stdout).items()}
    ours = {name: _opens(Path(path)) for path, name in paths.items()}
    assert ours == theirs
    assert 60 < sum(theirs.values()) < len(theirs) - 60


def _opens(path: Path) -> bool:
    try:
        read_gguf(path)
    except MalformedError:
        return False
    return True


@pytest.mark.slow
def test_our_types_are_those_of_the_engine(engine: Path) -> None:
    library = ctypes.CDLL(os.fspath(engine))
    library.ggml_type_name.restype = ctypes.c_char_p
    library.ggml_blck_size.restype = ctypes.c_int64
    library.ggml_type_size.restype = ctypes.c_size_t
    theirs = {
        number: (library.ggml_type_name(number).decode().upper(), library.ggml_blck_size(number), size)
        for number in range(43)
        if (size := library.ggml_type_size(number))
    }
    assert {number: (kind.name.upper(), *kind[1:]) for number, kind in TENSOR_TYPES.items()} == theirs
