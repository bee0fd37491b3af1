"""The strict safetensors header: what is refused, what is told, and that the library agrees with us."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import deserialize

from bundler.content.safetensors import DTYPE_BITS, HEADER_LIMIT
from bundler.errors import MalformedError
from tests.content.files import entry, raw_safetensors, read_safetensors, write_shard, zeros

BF16 = entry("BF16", [2, 2], 0, 8)
GOOD = raw_safetensors({"__metadata__": {"format": "pt"}, "a": BF16, "b": entry("F32", [], 8, 12)}, bytes(12))
DEEP = b'{"a":' + b"[" * 20_000 + b"]" * 20_000 + b"}"
REFUSED = {
    "an empty file": (b"", "safetensors-truncated"),
    "a file shorter than its length field": (b"\x01\x02", "safetensors-truncated"),
    "a header longer than the file": (struct.pack("<Q", 100) + b"{}", "safetensors-truncated"),
    "a header of one byte": (struct.pack("<Q", 1) + b"{", "safetensors-header-length"),
    "a header beyond the limit": (
        struct.pack("<Q", HEADER_LIMIT + 1) + b"{}" + bytes(9),
        "safetensors-header-length",
    ),
    "a length with the sign bit": (struct.pack("<Q", 1 << 63) + b"{}", "safetensors-header-length"),
    "data cut short": (GOOD[:-1], "safetensors-truncated"),
    "one byte appended": (GOOD + b"\0", "safetensors-trailing-bytes"),
    "another file appended": (GOOD + b"PK\x05\x06" + bytes(18), "safetensors-trailing-bytes"),
    "a list as header": (raw_safetensors(b"[]"), "safetensors-header"),
    "a space before the header": (raw_safetensors(b' {"a":1}'), "safetensors-header"),
    "a newline after the header": (raw_safetensors(b"{}\n"), "safetensors-header"),
    "garbage after the header": (raw_safetensors(b'{} {"x":1}'), "bad-json"),
    "bad UTF-8": (raw_safetensors(b'{"\xff\xfe":1}'), "bad-json"),
    "a NaN": (raw_safetensors(b'{"a":NaN}'), "bad-json"),
    "twenty thousand levels": (raw_safetensors(DEEP), "too-deep"),
    "a tensor twice": (
        raw_safetensors(
            b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
            b'"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
            b"\0",
        ),
        "duplicate-key",
    ),
    "a further field": (raw_safetensors({"a": {**BF16, "x": 1}}, bytes(8)), "safetensors-tensor"),
    "a missing field": (raw_safetensors({"a": {"dtype": "U8", "shape": [0]}}), "safetensors-tensor"),
    "an entry that is no object": (raw_safetensors({"a": 5}), "safetensors-tensor"),
    "an unknown dtype": (raw_safetensors({"a": entry("F12", [1], 0, 2)}, bytes(2)), "safetensors-tensor"),
    "a dtype that is a list": (
        raw_safetensors({"a": {"dtype": [], "shape": [1], "data_offsets": [0, 2]}}, bytes(2)),
        "safetensors-tensor",
    ),
    "a negative dimension": (raw_safetensors({"a": entry("U8", [-1], 0, 1)}, b"\0"), "safetensors-tensor"),
    "a boolean dimension": (raw_safetensors({"a": entry("U8", [True], 0, 1)}, b"\0"), "safetensors-tensor"),
    "a float dimension": (raw_safetensors({"a": entry("U8", [1.0], 0, 1)}, b"\0"), "bad-json"),
    "a boolean offset": (
        raw_safetensors({"a": {"dtype": "U8", "shape": [1], "data_offsets": [False, True]}}, b"\0"),
        "safetensors-tensor",
    ),
    "offsets the wrong way round": (raw_safetensors({"a": entry("U8", [0], 1, 0)}), "safetensors-tensor"),
    "three offsets": (
        raw_safetensors({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1, 2]}}, b"\0"),
        "safetensors-tensor",
    ),
    "a shape that needs more bytes": (
        raw_safetensors({"a": entry("F32", [3], 0, 8)}, bytes(8)),
        "safetensors-tensor",
    ),
    "a shape that overflows 64 bits": (
        raw_safetensors({"a": entry("F32", [2**32, 2**32, 4], 0, 0)}),
        "safetensors-tensor",
    ),
    "half a byte": (raw_safetensors({"a": entry("F4", [3], 0, 1)}, b"\0"), "safetensors-tensor"),
    "two tensors on the same bytes": (
        raw_safetensors({"a": entry("U8", [4], 0, 4), "b": entry("U8", [4], 0, 4)}, bytes(4)),
        "safetensors-overlap",
    ),
    "two tensors that overlap": (
        raw_safetensors({"a": entry("U8", [4], 0, 4), "b": entry("U8", [4], 2, 6)}, bytes(6)),
        "safetensors-overlap",
    ),
    "a gap": (
        raw_safetensors({"a": entry("U8", [1], 0, 1), "b": entry("U8", [1], 2, 3)}, bytes(3)),
        "safetensors-gap",
    ),
    "data that begins late": (raw_safetensors({"a": entry("U8", [1], 4, 5)}, bytes(5)), "safetensors-gap"),
    "metadata that is no text": (raw_safetensors({"__metadata__": {"a": 1}}), "safetensors-header"),
    "metadata that is a list": (raw_safetensors({"__metadata__": []}), "safetensors-header"),
}


@pytest.mark.parametrize(("data", "reference"), REFUSED.values(), ids=REFUSED.keys())
def test_a_header_that_two_readers_could_read_differently_is_refused(
    tmp_path: Path, data: bytes, reference: str
) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(data)
    with pytest.raises(MalformedError) as caught:
        read_safetensors(path)
    assert caught.value.reference == reference
    finding = caught.value.findings[0]
    assert finding.where.startswith("bad.safetensors")
    assert finding.expected
    assert finding.found


def test_the_message_of_a_size_mismatch_has_expected_and_found_the_right_way_round(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw_safetensors({"a": entry("F32", [3], 0, 8)}, bytes(8)))
    with pytest.raises(MalformedError) as caught:
        read_safetensors(path)
    assert caught.value.findings[0].expected == "12 bytes for F32 of shape [3]"
    assert caught.value.findings[0].found == "8 bytes"


def test_every_faulty_entry_is_told_up_to_twenty(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw_safetensors({f"t{n}": 1 for n in range(50)}))
    with pytest.raises(MalformedError) as caught:
        read_safetensors(path)
    assert len(caught.value.findings) == 20


def test_a_hostile_shape_of_a_million_dimensions_costs_no_time(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw_safetensors({"a": entry("F32", [2**53 - 1] * 200_000, 0, 0)}))
    with pytest.raises(MalformedError, match="safetensors-tensor"):
        read_safetensors(path)


def test_a_good_header_says_what_the_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "good.safetensors"
    path.write_bytes(GOOD)
    header = read_safetensors(path)
    assert header.metadata == {"format": "pt"}
    assert header.tensors["a"].shape == (2, 2)
    assert header.tensors["b"].count == 1
    assert header.data_bytes == 12
    assert header.hole is None


def test_empty_headers_and_empty_tensors_are_legal(tmp_path: Path) -> None:
    (tmp_path / "none.safetensors").write_bytes(raw_safetensors(b"{}      "))
    write_shard(tmp_path / "zero.safetensors", {"a": zeros("F32", 0, 4), "b": zeros("U8", 3)})
    assert read_safetensors(tmp_path / "none.safetensors").tensors == {}
    assert read_safetensors(tmp_path / "zero.safetensors").tensors["a"].count == 0


def test_a_region_that_was_never_written_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "hole.safetensors"
    path.write_bytes(raw_safetensors({"a": entry("U8", [8 << 20], 0, 8 << 20)}, b"x"))
    data_start = path.stat().st_size - 1
    os.truncate(path, data_start + (8 << 20))
    hole = read_safetensors(path).hole
    if hole is None:
        pytest.skip("this file system does not tell holes; run the tests on ext4, xfs, btrfs or tmpfs")
    assert data_start < hole[0] < hole[1] == path.stat().st_size


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.text(max_size=12).filter(lambda name: name != "__metadata__"),
        st.tuples(st.sampled_from(sorted(DTYPE_BITS)), st.lists(st.integers(0, 4), max_size=3)),
        max_size=5,
    )
)
def test_what_we_accept_the_library_opens_with_the_same_names(
    tmp_path: Path, wanted: dict[str, tuple[str, list[int]]]
) -> None:
    header, offset = {}, 0
    for name, (dtype, shape) in wanted.items():
        bits = DTYPE_BITS[dtype]
        for dimension in shape:
            bits *= dimension
        header[name] = entry(dtype, shape, offset, offset + bits // 8)
        offset += bits // 8
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw_safetensors(header, bytes(offset)))
    try:
        ours = read_safetensors(path)
    except MalformedError as error:
        # Only a value of less than a byte can be wrong here.
        assert error.findings[0].expected == "values that fill whole bytes"  # noqa: PT017
        return
    theirs = {name: tuple(tensor["shape"]) for name, tensor in deserialize(path.read_bytes())}  # type: ignore[no-untyped-call]
    assert theirs == {name: tensor.shape for name, tensor in ours.tensors.items()}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=200), st.binary(max_size=120).map(lambda b: raw_safetensors(b))))
def test_any_bytes_give_a_header_or_our_own_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "fuzz.safetensors"
    path.write_bytes(data)
    try:
        read_safetensors(path)
    except MalformedError as error:
        assert error.findings  # noqa: PT017


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_a_flipped_byte_never_makes_us_accept_what_the_library_refuses(
    tmp_path: Path, position: int, change: int
) -> None:
    data = bytearray(GOOD)
    data[position] ^= change
    path = tmp_path / "flip.safetensors"
    path.write_bytes(data)
    try:
        ours = {name: tensor.shape for name, tensor in read_safetensors(path).tensors.items()}
    except MalformedError:
        return
    assert {name: tuple(tensor["shape"]) for name, tensor in deserialize(bytes(data))} == ours  # type: ignore[no-untyped-call]
