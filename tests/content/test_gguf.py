"""The strict GGUF header and split sets."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bundler.content.gguf import GgufArray, ValueType, split_findings
from bundler.content.model import check_model
from bundler.demo.tiny_gguf import Entry, StoredTensor, gguf_bytes, gguf_files, write_gguf
from bundler.errors import MalformedError
from tests.content.files import read_gguf, references

METADATA: dict[str, Entry] = {
    "general.architecture": (ValueType.STRING, "tiny"),
    "tiny.context_length": (ValueType.UINT32, 64),
    "tiny.flag": (ValueType.BOOL, True),
    "tokens": (ValueType.ARRAY, ValueType.STRING, ["a", "bc"]),
}
TENSORS = {"x": StoredTensor(0, (4, 2), bytes(32)), "y": StoredTensor(8, (32,), bytes(34))}
GOOD = gguf_bytes(METADATA, TENSORS)
HEAD = b"GGUF" + struct.pack("<IQQ", 3, 0, 1)


def key(name: bytes, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(name)) + name + struct.pack("<I", kind) + value


def tensor_file(*entries: bytes, data: bytes = b"") -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(entries), 0) + b"".join(entries)
    return head + bytes(-len(head) % 32) + data


def tensor(name: bytes, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    rank = len(shape)
    return struct.pack("<Q", len(name)) + name + struct.pack(f"<I{rank}QIQ", rank, *shape, kind, offset)


REFUSED = {
    "an empty file": (b"", "gguf-truncated"),
    "another magic": (b"GGML" + GOOD[4:], "gguf-magic"),
    "version 1": (b"GGUF" + struct.pack("<I", 1) + GOOD[8:], "gguf-version"),
    "version 4": (b"GGUF" + struct.pack("<I", 4) + GOOD[8:], "gguf-version"),
    "a big-endian file": (b"GGUF" + struct.pack(">I", 3) + GOOD[8:], "gguf-version"),
    "too many tensors": (b"GGUF" + struct.pack("<IQQ", 3, 1 << 40, 0), "gguf-header"),
    "too many keys": (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 40), "gguf-header"),
    "a key longer than the file": (HEAD + struct.pack("<Q", 60_000) + b"x", "gguf-truncated"),
    "a key that is too long": (HEAD + struct.pack("<Q", 1 << 62) + b"x", "gguf-header"),
    "an empty key": (HEAD + key(b"", 0, b"\1"), "gguf-header"),
    "an unknown value type": (HEAD + key(b"k", 13, b"\0" * 8), "gguf-header"),
    "an array longer than the file": (HEAD + key(b"k", 9, struct.pack("<IQ", 0, 1 << 60)), "gguf-truncated"),
    "a string array longer than the file": (
        HEAD + key(b"k", 9, struct.pack("<IQ", 8, 1 << 60)),
        "gguf-truncated",
    ),
    "an alignment of 64 bits": (HEAD + key(b"general.alignment", 10, struct.pack("<Q", 32)), "gguf-header"),
    "an array of no arrays": (HEAD + key(b"k", 9, struct.pack("<IQ", 9, 0)), "gguf-header"),
    "arrays within arrays without end": (
        HEAD + key(b"k", 9, struct.pack("<IQ", 9, 1) * 40 + bytes(64)),
        "gguf-header",
    ),
    "a key twice": (
        b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + 2 * key(b"k", 0, b"\1") + bytes(32),
        "gguf-duplicate",
    ),
    "an alignment of 24": (HEAD + key(b"general.alignment", 4, struct.pack("<I", 24)), "gguf-header"),
    "an alignment of 0": (HEAD + key(b"general.alignment", 4, struct.pack("<I", 0)), "gguf-header"),
    "an alignment that is text": (HEAD + key(b"general.alignment", 8, struct.pack("<Q", 0)), "gguf-header"),
    "a tensor twice": (
        tensor_file(tensor(b"x", (8,), 0, 0), tensor(b"x", (8,), 0, 32), data=bytes(64)),
        "gguf-duplicate",
    ),
    "a tensor of five dimensions": (tensor_file(tensor(b"x", (1,) * 5, 0, 0), data=bytes(32)), "gguf-tensor"),
    "a tensor that overflows": (tensor_file(tensor(b"x", (1 << 62, 1 << 62), 0, 0)), "gguf-tensor"),
    "a removed type": (tensor_file(tensor(b"x", (32,), 4, 0), data=bytes(32)), "gguf-tensor"),
    "a row of half a block": (tensor_file(tensor(b"x", (16,), 8, 0), data=bytes(32)), "gguf-tensor"),
    "a name of 64 bytes": (tensor_file(tensor(b"x" * 64, (8,), 0, 0), data=bytes(32)), "gguf-header"),
    "an offset that is not aligned": (tensor_file(tensor(b"x", (8,), 0, 8), data=bytes(64)), "gguf-tensor"),
    "two tensors on the same bytes": (
        tensor_file(tensor(b"x", (8,), 0, 0), tensor(b"y", (8,), 0, 0), data=bytes(64)),
        "gguf-tensor",
    ),
    "a gap between tensors": (
        tensor_file(tensor(b"x", (8,), 0, 0), tensor(b"y", (8,), 0, 64), data=bytes(128)),
        "gguf-tensor",
    ),
    "data cut short": (tensor_file(tensor(b"x", (8,), 0, 0), data=bytes(31)), "gguf-truncated"),
    "a type beyond the engine's": (tensor_file(tensor(b"x", (32,), 43, 0), data=bytes(32)), "gguf-tensor"),
}


@pytest.mark.parametrize(("data", "reference"), REFUSED.values(), ids=REFUSED.keys())
def test_a_header_that_contradicts_itself_or_the_file_is_refused(
    tmp_path: Path, data: bytes, reference: str
) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    with pytest.raises(MalformedError) as caught:
        read_gguf(path)
    assert caught.value.reference == reference
    assert caught.value.findings[0].where.startswith("bad.gguf")


@pytest.mark.parametrize(
    "data",
    [
        HEAD + key(b"\xff", 0, b"\1") + bytes(64),
        HEAD + key(b"k", 7, b"\2") + bytes(64),
        HEAD + key(b"general.alignment", 4, struct.pack("<I", 1)),
        HEAD + key(b"general.alignment", 4, struct.pack("<I", 1 << 21)),
        HEAD + key(b"k" * 70_000, 0, b"\1") + bytes(64),
        tensor_file(tensor(b"x", (), 0, 0), data=bytes(32)),
        tensor_file(tensor(b"x", (0,), 0, 0), data=bytes(32)),
        tensor_file(tensor(b"x", (64, 2), 42, 0), data=bytes(64)),
        tensor_file(tensor(b"x", (32, 2), 9, 0), data=bytes(96)),
        tensor_file(tensor(b"x" * 63, (8,), 0, 0), data=bytes(32)),
    ],
    ids=["key", "bool", "align 1", "align 2 MiB", "long key", "rank 0", "empty", "Q2_0", "Q8_1", "63 bytes"],
)
def test_what_the_engine_opens_is_read(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.gguf").write_bytes(data)
    assert read_gguf(tmp_path / "x.gguf").version == 3


def test_bytes_after_the_last_tensor_are_a_warning(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(tensor_file(tensor(b"x", (8,), 0, 0), data=bytes(33)))
    content = check_model(tmp_path, ["x.gguf"], format="gguf")
    assert content.acceptable
    assert [(f.reference, f.severity) for f in content.findings] == [("gguf-trailing-bytes", "warning")]


def test_a_foreign_extension_is_checked_and_is_no_weight(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(GOOD)
    (tmp_path / "imatrix_unsloth.gguf_file").write_bytes(GOOD[:-40])
    content = check_model(tmp_path, ["x.gguf", "imatrix_unsloth.gguf_file"], format="gguf")
    assert references(content.findings) == ["gguf-truncated"]


def test_a_whole_model_may_be_named_part_one_of_one(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(GOOD)
    assert split_findings({"x-00001-of-00001.gguf": read_gguf(tmp_path / "x.gguf")}) == []


def test_a_good_header_says_what_the_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "good.gguf"
    path.write_bytes(GOOD)
    header = read_gguf(path)
    assert header.version == 3
    assert header.metadata == {
        "general.architecture": "tiny",
        "tiny.context_length": 64,
        "tiny.flag": True,
        "tokens": GgufArray(ValueType.STRING, 2),
    }
    assert header.tensors["x"].count == 8
    assert header.tensors["y"].size == 34
    assert header.tensors["y"].offset == 32
    assert header.data_start % 32 == 0


def test_the_last_tensor_needs_no_padding_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "good.gguf"
    path.write_bytes(GOOD[:-30])
    assert set(read_gguf(path).tensors) == {"x", "y"}


def split(tmp_path: Path, parts: int) -> list[str]:
    names = write_gguf(tmp_path, parts=parts)
    return references(split_findings({name: read_gguf(tmp_path / name) for name in names}))


def test_a_complete_split_has_no_findings(tmp_path: Path) -> None:
    assert split(tmp_path, 3) == []


def test_a_missing_part_is_told_with_its_number(tmp_path: Path) -> None:
    names = write_gguf(tmp_path, parts=3)
    headers = {name: read_gguf(tmp_path / name) for name in names}
    del headers[names[1]]
    (finding,) = split_findings(headers)
    assert (finding.reference, finding.expected, finding.found) == ("gguf-split", "parts 1 to 3", "missing 2")


def test_a_part_under_the_name_of_another_is_told(tmp_path: Path) -> None:
    names = write_gguf(tmp_path, parts=2)
    headers = {name: read_gguf(tmp_path / name) for name in names}
    swapped = {names[0]: headers[names[1]], names[1]: headers[names[0]]}
    findings = split_findings(swapped)
    assert {finding.where for finding in findings} >= set(names)
    assert references(findings) == ["gguf-split"]


def test_the_same_part_twice_is_told(tmp_path: Path) -> None:
    names = write_gguf(tmp_path, parts=2)
    header = read_gguf(tmp_path / names[0])
    assert references(split_findings({names[0]: header, names[1]: header})) == ["gguf-split"]


def test_a_part_renamed_to_look_whole_is_told(tmp_path: Path) -> None:
    names = write_gguf(tmp_path, parts=2)
    (finding,) = split_findings({"model.gguf": read_gguf(tmp_path / names[0])})
    assert finding.expected == "a name ending in -0000N-of-00002.gguf"


def test_a_whole_file_named_like_a_part_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(GOOD)
    findings = split_findings({"x-00001-of-00002.gguf": read_gguf(path)})
    assert references(findings) == ["gguf-split"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=300), st.binary(max_size=300).map(lambda b: HEAD + b)))
def test_any_bytes_give_a_header_or_our_own_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "fuzz.gguf"
    path.write_bytes(data)
    try:
        read_gguf(path)
    except MalformedError as error:
        assert error.findings  # noqa: PT017


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_flipped_bytes_in_the_header_give_a_header_or_our_own_error(
    tmp_path: Path, data: st.DataObject
) -> None:
    changed = bytearray(GOOD)
    for position in data.draw(st.lists(st.integers(0, len(GOOD) - 1), min_size=1, max_size=4)):
        changed[position] = data.draw(st.integers(0, 255))
    path = tmp_path / "flip.gguf"
    path.write_bytes(changed)
    try:
        read_gguf(path)
    except MalformedError as error:
        assert error.findings  # noqa: PT017


def test_writing_the_tiny_model_twice_gives_the_same_bytes() -> None:
    assert gguf_files() == gguf_files()
