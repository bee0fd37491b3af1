"""What listings, small documents and headers tell before the weights are fetched."""

from __future__ import annotations

from pathlib import Path

import pytest

from bundler.content.early import Beginning, header_findings, listing_findings, small_document_findings
from bundler.content.model import check_model
from bundler.demo.tiny_gguf import write_gguf
from bundler.demo.tiny_kimi import Variant, write_model
from bundler.errors import Finding
from tests.content.files import references, write_json

SHARD = "model-{:05d}-of-00002.safetensors"


def beginnings(folder: Path) -> dict[str, Beginning]:
    """As Range reads give them: the header and not one byte of data, but for GGUF the whole small file."""
    found = {}
    for path in folder.rglob("*"):
        if path.suffix == ".safetensors":
            data = path.read_bytes()
            stop = 8 + int.from_bytes(data[:8], "little")
            found[path.name] = Beginning(data=data[:stop], size=len(data))
        elif path.suffix == ".gguf":
            data = path.read_bytes()
            found[path.name] = Beginning(data=data, size=len(data))
    return found


def documents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.json")}


def early(folder: Path, format: str) -> list[Finding]:
    return header_findings(beginnings(folder), documents(folder), format)


@pytest.mark.parametrize(("variant", "format"), [("bf16", "bf16"), ("fp8", "block-fp8"), ("int4", "int4")])
def test_headers_alone_accept_a_good_model(tmp_path: Path, variant: Variant, format: str) -> None:
    write_model(tmp_path, variant)
    assert early(tmp_path, format) == []
    assert references(early(tmp_path, "nvfp4")) == ["weight-format"]


def test_headers_alone_find_what_the_whole_files_show(tmp_path: Path) -> None:
    write_model(tmp_path, "fp8")
    (tmp_path / "model-00002-of-000003.safetensors").unlink()
    write_json(
        tmp_path / "config.json",
        {"quantization_config": {"quant_method": "fp8", "weight_block_size": [64, 64]}},
    )
    files = [path.name for path in tmp_path.iterdir()]
    late = {f for f in check_model(tmp_path, files, format="bf16").findings if f.where != "LICENSE"}
    assert {(f.reference, f.where) for f in early(tmp_path, "bf16")} == {(f.reference, f.where) for f in late}
    assert {"shard-missing", "fp8-scale", "weight-format"} <= set(references(late))


def test_gguf_headers_are_read_from_their_beginning(tmp_path: Path) -> None:
    names = write_gguf(tmp_path, parts=2)
    assert early(tmp_path, "gguf") == []
    (tmp_path / names[1]).unlink()
    assert references(early(tmp_path, "gguf")) == ["gguf-split"]


def test_a_pointer_in_place_of_weights_is_told_by_its_first_bytes() -> None:
    data = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"
    found = header_findings({"model.safetensors": Beginning(data=data, size=len(data))}, {}, "any")
    assert [f.where for f in found if f.is_error] == ["model.safetensors"]
    assert "stand-in-file" in references(found)


@pytest.mark.parametrize(
    ("sizes", "format", "expected"),
    [
        ({SHARD.format(1): 9, SHARD.format(2): 9}, "bf16", []),
        ({SHARD.format(0): 9, SHARD.format(1): 9}, "bf16", []),
        ({SHARD.format(1): 9}, "bf16", ["shard-numbering"]),
        ({SHARD.format(1): 9, "model.safetensors.index.json": 9}, "bf16", []),
        ({"pytorch_model.bin": 9, "model.safetensors": 9}, "any", ["pickle-refused"]),
        ({"lib/custom.so": 9, "model.safetensors": 9}, "any", ["compiled-code"]),
        ({"model.safetensors": 9}, "gguf", ["weight-format"]),
        ({"Q4/model.gguf": 9}, "bf16", ["weight-format"]),
        ({"Q4/model.gguf": 9}, "gguf", []),
        ({"config.json": 9}, "any", []),
        ({"config.json": 9}, "int4", ["weight-format"]),
        ({"tokenizer.model": 0, "model.safetensors": 9}, "any", ["stand-in-file"]),
    ],
)
def test_a_listing_tells_what_names_and_sizes_can(
    sizes: dict[str, int], format: str, expected: list[str]
) -> None:
    assert references(listing_findings(sizes, format)) == expected


def test_a_waived_pickle_in_a_listing_is_a_warning() -> None:
    (found,) = listing_findings({"model.bin": 9}, "any", allow_pickle=["model.bin"])
    assert (found.reference, found.severity) == ("pickle-waived", "warning")


@pytest.mark.parametrize(
    ("path", "data", "expected"),
    [
        ("config.json", b'{"a": Infinity}', []),
        ("config.json", b'{"a": 1,}', ["bad-json"]),
        ("config.json", b"Entry not found", ["stand-in-file"]),
        ("config.json", b'{"auto_map": {"a": 1, "a": 2}}', ["duplicate-key"]),
        ("chat_template.jinja", b"<!doctype html><html></html>", ["stand-in-file"]),
        ("chat_template.jinja", b"{{ x }}", []),
    ],
)
def test_a_small_document_is_judged_by_its_bytes(path: str, data: bytes, expected: list[str]) -> None:
    assert references(small_document_findings(path, data)) == expected
