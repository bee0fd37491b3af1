"""What our safetensors reader accepts, the library that engines use must see the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from bundler.content.safetensors import DTYPE_BITS
from bundler.content.second_opinion import library_findings
from bundler.demo.tiny_kimi import Variant, write_model
from bundler.errors import ExitCode
from tests.content.files import entry, raw_safetensors, read_safetensors, write_shard, zeros


@pytest.mark.parametrize("variant", ["bf16", "fp8", "int4"])
def test_both_readers_see_the_same_in_good_shards(tmp_path: Path, variant: Variant) -> None:
    write_model(tmp_path, variant)
    shards = [path.name for path in tmp_path.glob("*.safetensors")]
    assert len(shards) == 3
    assert library_findings(tmp_path, shards) == []


def test_both_readers_know_the_same_dtypes_and_shapes(tmp_path: Path) -> None:
    tensors = {dtype: zeros(dtype, 8, 1, 4) for dtype in DTYPE_BITS}
    write_shard(tmp_path / "a.safetensors", {**tensors, "scalar": zeros("F32"), "none": zeros("I8", 0)})
    assert library_findings(tmp_path, ["a.safetensors"]) == []


def test_a_file_that_the_library_refuses_is_an_error(tmp_path: Path) -> None:
    # The product of the dimensions is 0 to us; the library overflows on the way there.
    huge = 2**53 - 1
    path = tmp_path / "a.safetensors"
    path.write_bytes(raw_safetensors({"x": entry("F32", [huge, huge, 0], 0, 0)}))
    assert read_safetensors(path).tensors["x"].count == 0
    (finding,) = library_findings(tmp_path, [path.name], label="payload/models/m")
    assert finding.reference == "safetensors-readers-differ"
    assert finding.where == "payload/models/m/a.safetensors"
    assert "overflow" in finding.found
    assert (finding.severity, finding.exit_code) == ("error", ExitCode.MALFORMED)


def test_what_our_reader_refuses_is_not_reported_again(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    assert library_findings(tmp_path, ["a.safetensors", "missing.safetensors"]) == []


def test_more_files_than_one_process_opens_are_all_read(tmp_path: Path) -> None:
    shards = [f"{number}.safetensors" for number in range(70)]
    for name in shards:
        write_shard(tmp_path / name, {name: zeros("BF16", 2)})
    (tmp_path / shards[-1]).write_bytes(raw_safetensors({"x": entry("F32", [2**53 - 1] * 2 + [0], 0, 0)}))
    assert [finding.where for finding in library_findings(tmp_path, shards)] == [shards[-1]]
