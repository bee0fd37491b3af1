"""What a model's files must be together: shards and index, scales, formats, pickles, executable content."""

from __future__ import annotations

import json
import os
import pickle
import struct
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from bundler.content.model import ModelContent, check_model
from bundler.demo.tiny_gguf import write_gguf
from bundler.demo.tiny_kimi import Variant, write_model
from bundler.errors import ExitCode, Finding
from tests.content.files import references, write_json, write_shard, zeros

INDEX = "model.safetensors.index.json"
DECLARED = {"bf16": "bf16", "fp8": "block-fp8", "int4": "int4"}


def check(folder: Path, format: str = "any", **options: Any) -> ModelContent:
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())
    return check_model(folder, files, format=format, **options)


def errors(content: ModelContent) -> list[str]:
    return references(finding for finding in content.findings if finding.severity == "error")


def only(content: ModelContent, reference: str) -> Finding:
    (finding,) = [finding for finding in content.findings if finding.reference == reference]
    return finding


def edit_json(path: Path, **members: Any) -> None:
    value = json.loads(path.read_text())
    value.update(members)
    write_json(path, value)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_model(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("variant", ["bf16", "fp8", "int4"])
def test_each_variant_is_found_to_be_what_it_is(tmp_path: Path, variant: Variant) -> None:
    write_model(tmp_path, variant)
    content = check(tmp_path, DECLARED[variant])
    assert content.findings == ()
    assert content.acceptable
    assert content.facts["format"] == DECLARED[variant]
    assert content.facts["architecture"] == "DeepseekV3ForCausalLM"
    assert content.facts["contextLength"] == 131072
    assert content.facts["parameters"] == 4_939_408
    assert content.facts["weightFiles"] == 3


@pytest.mark.parametrize(
    ("variant", "declared"), [("bf16", "block-fp8"), ("fp8", "bf16"), ("int4", "bf16"), ("fp8", "gguf")]
)
def test_weights_in_another_format_than_declared_are_refused(
    tmp_path: Path, variant: Variant, declared: str
) -> None:
    write_model(tmp_path, variant)
    content = check(tmp_path, declared)
    assert errors(content) == ["weight-format"]
    finding = only(content, "weight-format")
    assert (finding.expected, finding.found) == (declared, DECLARED[variant])
    assert finding.exit_code == ExitCode.POLICY


def test_a_gguf_says_its_architecture_and_that_it_holds_a_template(tmp_path: Path) -> None:
    write_gguf(tmp_path, parts=2)
    content = check(tmp_path, "gguf")
    assert content.findings == ()
    assert content.facts["architecture"] == "deepseek2"
    assert content.facts["contextLength"] == 4096
    assert content.executable == ("tiny-kimi-00001-of-00002.gguf",)


def test_findings_carry_the_path_in_the_bundle(model: Path) -> None:
    with (model / "model-00002-of-000003.safetensors").open("ab") as file:
        file.write(b"PK\x05\x06" + bytes(12))
    finding = only(check(model, label="payload/models/x"), "safetensors-trailing-bytes")
    assert finding.where == "payload/models/x/model-00002-of-000003.safetensors"
    assert finding.found == "16 more"


def test_bf16_that_is_half_float32_is_mixed(tmp_path: Path) -> None:
    write_shard(tmp_path / "model.safetensors", {"a": zeros("BF16", 64, 64), "b": zeros("F32", 64, 64)})
    assert only(check(tmp_path, "bf16"), "weight-format").found == "mixed"


# --- shards and index -------------------------------------------------------------------------------------


def test_a_missing_shard_is_told_by_index_and_numbering(model: Path) -> None:
    (model / "model-00002-of-000003.safetensors").unlink()
    content = check(model)
    assert errors(content) == ["shard-missing", "shard-numbering"]
    assert only(content, "shard-numbering").found == "2 shards; missing 2"


def test_a_shard_that_no_index_names_is_a_warning(model: Path) -> None:
    write_shard(model / "extra.safetensors", {"extra": zeros("BF16", 2)})
    content = check(model)
    assert errors(content) == []
    assert only(content, "shard-unlisted").where == "extra.safetensors"


def test_a_tensor_in_two_shards_is_refused(model: Path) -> None:
    write_shard(model / "extra.safetensors", {"lm_head.weight": zeros("BF16", 2), "extra": zeros("BF16", 2)})
    assert errors(check(model)) == []
    index = json.loads((model / INDEX).read_text())
    index["weight_map"]["extra"] = "extra.safetensors"
    write_json(model / INDEX, index)
    assert errors(check(model)) == ["tensor-twice"]


def test_an_index_that_names_a_tensor_no_shard_has_is_refused(model: Path) -> None:
    index = json.loads((model / INDEX).read_text())
    index["weight_map"]["model.ghost.weight"] = "model-00001-of-000003.safetensors"
    write_json(model / INDEX, index)
    finding = only(check(model), "tensor-missing")
    assert "'model.ghost.weight'" in finding.found


def test_a_tensor_the_index_does_not_name_is_a_warning(model: Path) -> None:
    index = json.loads((model / INDEX).read_text())
    del index["weight_map"]["lm_head.weight"]
    write_json(model / INDEX, index)
    assert errors(check(model)) == []
    assert references(check(model).findings) == ["tensor-unlisted"]


def test_a_tensor_mapped_to_the_wrong_shard_is_told_both_ways(model: Path) -> None:
    index = json.loads((model / INDEX).read_text())
    index["weight_map"]["lm_head.weight"] = "model-00001-of-000003.safetensors"
    write_json(model / INDEX, index)
    assert errors(check(model)) == []
    assert references(check(model).findings) == ["tensor-missing", "tensor-unlisted"]


@pytest.mark.parametrize("size", [1, "9878848", 9878848.0, True, None])
def test_a_total_size_that_is_not_the_sum_is_a_warning(model: Path, size: object) -> None:
    index = json.loads((model / INDEX).read_text())
    index["metadata"]["total_size"] = size
    write_json(model / INDEX, index)
    assert errors(check(model)) == []
    assert references(check(model).findings) == ([] if size is None else ["total-size"])


@pytest.mark.parametrize(
    "name", ["../up.safetensors", "/abs.safetensors", "sub/x.safetensors", "x.bin", 5, "a\\b.safetensors"]
)
def test_an_index_that_points_elsewhere_is_refused(model: Path, name: object) -> None:
    index = json.loads((model / INDEX).read_text())
    index["weight_map"]["x"] = name
    write_json(model / INDEX, index)
    assert only(check(model), "shard-index").found == repr(str(name))


@pytest.mark.parametrize("index", [{}, [], {"weight_map": []}, {"weight_map": {}}])
def test_an_index_without_its_form_is_refused(model: Path, index: object) -> None:
    write_json(model / INDEX, index)
    assert "shard-index" in errors(check(model))


def test_an_index_with_a_key_twice_is_refused(model: Path) -> None:
    (model / INDEX).write_text('{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}')
    assert "duplicate-key" in errors(check(model))


def test_whole_shards_without_an_index_are_a_warning(model: Path) -> None:
    (model / INDEX).unlink()
    assert errors(check(model)) == []
    assert references(check(model).findings) == ["index-missing"]
    (model / "model-00003-of-000003.safetensors").unlink()
    assert errors(check(model)) == ["shard-numbering"]


def test_shard_numbers_need_not_be_padded(tmp_path: Path) -> None:
    names = [f"model-{n}-of-11.safetensors" for n in range(1, 12)]
    for number, name in enumerate(names):
        write_shard(tmp_path / name, {f"t{number}": zeros("BF16", 4)})
    write_json(tmp_path / "config.json", {})
    write_json(
        tmp_path / INDEX,
        {"metadata": {"total_size": 88}, "weight_map": {f"t{n}": name for n, name in enumerate(names)}},
    )
    assert check(tmp_path, "bf16").findings == ()


def test_shards_of_two_totals_are_refused(tmp_path: Path) -> None:
    names = ["model-1-of-2.safetensors", "model-2-of-3.safetensors"]
    for number, name in enumerate(names):
        write_shard(tmp_path / name, {f"t{number}": zeros("BF16", 4)})
    write_json(tmp_path / INDEX, {"weight_map": {f"t{n}": name for n, name in enumerate(names)}})
    assert errors(check(tmp_path)) == ["shard-numbering"]


# --- scales -----------------------------------------------------------------------------------------------

FP8_CONFIG = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
INT4_CONFIG = {
    "quantization_config": {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": 32}}},
    }
}


@pytest.mark.parametrize(
    ("scale", "found"),
    [
        (None, "no such tensor"),
        (zeros("F32", 2, 1), "F32 [2, 1]"),
        (zeros("F32", 1, 2), "F32 [1, 2]"),
        (zeros("I32", 2, 2), "I32 [2, 2]"),
        (zeros("F32", 4), "F32 [4]"),
    ],
    ids=["missing", "columns short", "rows short", "another dtype", "one dimension"],
)
def test_an_fp8_weight_needs_a_scale_for_every_block(tmp_path: Path, scale: Any, found: str) -> None:
    tensors = {"a.weight": zeros("F8_E4M3", 129, 200)}
    if scale is not None:
        tensors["a.weight_scale_inv"] = scale
    write_shard(tmp_path / "model.safetensors", tensors)
    write_json(tmp_path / "config.json", FP8_CONFIG)
    finding = only(check(tmp_path, "block-fp8"), "fp8-scale")
    assert finding.expected == "a.weight_scale_inv: F32, BF16, F16 or F8_E8M0, [2, 2]"
    assert finding.found == found


def test_an_fp8_scale_without_its_weight_is_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "model.safetensors", {"a.weight_scale_inv": zeros("F32", 1, 1)})
    assert "fp8-scale" in errors(check(tmp_path))


def test_the_block_size_is_the_configurations_own_also_inside_text_config(tmp_path: Path) -> None:
    tensors = {"a.weight": zeros("F8_E4M3", 129, 200), "a.weight_scale_inv": zeros("F32", 3, 4)}
    write_shard(tmp_path / "model.safetensors", tensors)
    inner = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [64, 64]}}
    write_json(tmp_path / "config.json", {"text_config": inner})
    assert errors(check(tmp_path, "block-fp8")) == []


def test_a_wrong_block_size_is_told_for_the_first_weights_and_counted(tmp_path: Path) -> None:
    write_model(tmp_path, "fp8")
    edit_json(
        tmp_path / "config.json", quantization_config={"quant_method": "fp8", "weight_block_size": [64, 64]}
    )
    findings = [finding for finding in check(tmp_path).findings if finding.reference == "fp8-scale"]
    assert len(findings) == 9
    assert any(finding.found == "72 weights in all" for finding in findings)


def test_fp8_without_blocks_is_not_block_fp8(tmp_path: Path) -> None:
    write_model(tmp_path, "fp8")
    edit_json(tmp_path / "config.json", quantization_config={"quant_method": "fp8"})
    assert only(check(tmp_path, "block-fp8"), "weight-format").found == "fp8"


def int4_triple(**changes: Any) -> dict[str, Any]:
    tensors = {
        "a.weight_packed": zeros("I32", 8, 8),
        "a.weight_scale": zeros("BF16", 8, 2),
        "a.weight_shape": zeros("I32", 2),
    }
    tensors.update({f"a.weight_{name}": tensor for name, tensor in changes.items()})
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


@pytest.mark.parametrize(
    "changes",
    [
        {"packed": None},
        {"scale": None},
        {"shape": None},
        {"scale": zeros("BF16", 8, 3)},
        {"scale": zeros("BF16", 4, 2)},
        {"scale": zeros("I32", 8, 2)},
        {"shape": zeros("I32", 3)},
        {"shape": zeros("F32", 2)},
        {"packed": zeros("U8", 8, 8)},
        {"packed": zeros("I32", 64)},
    ],
    ids=lambda changes: f"{next(iter(changes))} {'changed' if next(iter(changes.values())) else 'missing'}",
)
def test_an_int4_triple_is_whole_and_its_shapes_agree(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_shard(tmp_path / "model.safetensors", int4_triple(**changes))
    write_json(tmp_path / "config.json", INT4_CONFIG)
    assert "int4-scale" in errors(check(tmp_path, "any"))


def test_a_good_int4_triple_is_accepted_and_counted_in_values(tmp_path: Path) -> None:
    write_shard(tmp_path / "model.safetensors", int4_triple())
    write_json(tmp_path / "config.json", INT4_CONFIG)
    content = check(tmp_path, "int4")
    assert content.findings == ()
    assert content.facts["parameters"] == 8 * 64


@pytest.mark.parametrize("config", [FP8_CONFIG, INT4_CONFIG], ids=["fp8", "int4"])
def test_a_configuration_that_declares_what_the_weights_are_not_is_refused(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    write_shard(tmp_path / "model.safetensors", {"a.weight": zeros("BF16", 4, 4)})
    write_json(tmp_path / "config.json", config)
    assert errors(check(tmp_path, "bf16")) == ["quantization-config"]


# --- files that run code ----------------------------------------------------------------------------------


def zip_of(*names: str) -> bytes:
    import io

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return buffer.getvalue()


PICKLES = {
    "pytorch_model.bin": b"anything",
    "weights.pt": b"",
    "consolidated.00.PTH": b"x",
    "model.h5": b"x",
    "state.npy": b"x",
    "notes.txt": pickle.dumps({"a": 1}, protocol=4),
    "readme.md": pickle.dumps({"a": 1}, protocol=2),
    "data.dat": zip_of("archive/data.pkl", "archive/version"),
    "broken.zip": b"PK\x03\x04" + b"junk" * 8,
    "array.json.gz": b"\x93NUMPY\x01\x00",
    "model.data": b"\x89HDF\r\n\x1a\n",
}


@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_is_refused_by_name_or_first_bytes_and_can_be_waived_by_name(model: Path, name: str) -> None:
    (model / name).write_bytes(PICKLES[name])
    finding = only(check(model), "pickle-refused")
    assert (finding.where, finding.exit_code) == (name, ExitCode.POLICY)
    waived = check(model, allow_pickle=[name])
    assert waived.acceptable
    assert only(waived, "pickle-waived").severity == "warning"
    assert not check(model, allow_pickle=["other/" + name]).acceptable


def test_a_waiver_that_nothing_needs_is_told(model: Path) -> None:
    assert only(check(model, allow_pickle=["LICENSE"]), "waiver-unused").where == "LICENSE"


NATIVE = {
    "custom.so": b"",
    "lib.so.1": b"",
    "__pycache__/modeling.cpython-311.pyc": b"",
    "innocent.txt": b"\x7fELF\x02\x01\x01",
    "weights.md": b"\xa7\x0d\r\n" + bytes(12),
    "tool": b"MZ\x90\x00\x03",
}


@pytest.mark.parametrize("name", NATIVE)
def test_compiled_code_is_refused_and_cannot_be_waived(model: Path, name: str) -> None:
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).write_bytes(NATIVE[name])
    assert errors(check(model, allow_pickle=[name])) == ["compiled-code"]


def test_ordinary_files_are_not_taken_for_code(model: Path) -> None:
    (model / "notes.txt").write_bytes(b"ab\r\ncd\r\n")
    (model / "figure.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(20))
    (model / "docs.zip").write_bytes(zip_of("readme.md"))
    assert check(model).findings == ()


def test_python_files_and_templates_are_listed_as_executable(tmp_path: Path) -> None:
    write_model(tmp_path, remote_code=True)
    edit_json(tmp_path / "tokenizer_config.json", chat_template="{{ messages }}")
    content = check(tmp_path)
    assert content.findings == ()
    assert content.executable == (
        "chat_template.jinja",
        "configuration_tiny.py",
        "modeling_tiny.py",
        "tokenizer_config.json",
    )


@pytest.mark.parametrize("where", ["config.json", "tokenizer_config.json", "preprocessor_config.json"])
@pytest.mark.parametrize(
    ("target", "reference"),
    [
        ("missing_module.Class", "remote-code-missing"),
        ("someone/else--modeling.Class", "remote-code-elsewhere"),
        ("no_class", "remote-code-target"),
        ("../up.Class", "remote-code-target"),
        ("a.b.C", "remote-code-target"),
        (5, "remote-code-target"),
        (["missing_module.Slow", None], "remote-code-missing"),
    ],
)
def test_auto_map_must_name_a_listed_file(model: Path, where: str, target: object, reference: str) -> None:
    if not (model / where).exists():
        write_json(model / where, {})
    edit_json(model / where, auto_map={"AutoModel": target})
    content = check(model)
    assert errors(content) == [reference]
    assert only(content, reference).where.startswith(where + ": auto_map")


def test_auto_map_is_found_inside_other_members(model: Path) -> None:
    edit_json(model / "config.json", vision_config={"parts": [{"auto_map": {"AutoConfig": "ghost.Config"}}]})
    assert errors(check(model)) == ["remote-code-missing"]


def test_custom_pipelines_are_code_too(model: Path) -> None:
    edit_json(model / "config.json", custom_pipelines={"x": {"impl": "other/repo--pipe.Pipe"}})
    assert errors(check(model)) == ["remote-code-elsewhere"]


def test_a_module_the_code_imports_must_come_along(tmp_path: Path) -> None:
    write_model(tmp_path, remote_code=True)
    (tmp_path / "configuration_tiny.py").unlink()
    content = check(tmp_path)
    assert errors(content) == ["remote-code-missing"]
    assert only(content, "remote-code-import-missing").expected == "configuration_tiny.py"


def test_tool_call_tokens_marked_special_are_a_warning(model: Path) -> None:
    value = json.loads((model / "tokenizer_config.json").read_text())
    for token in value["added_tokens_decoder"].values():
        token["special"] = True
    write_json(model / "tokenizer_config.json", value)
    content = check(model)
    assert content.acceptable
    assert "<|tool_call_begin|>" in only(content, "tool-call-tokens-special").expected


# --- what lies on the disk --------------------------------------------------------------------------------


def test_a_listed_file_that_is_missing_is_told_once(model: Path) -> None:
    files = sorted(path.name for path in model.iterdir())
    for name in ("config.json", "LICENSE", "model-00001-of-000003.safetensors"):
        (model / name).unlink()
    content = check_model(model, files, format="any")
    missing = [finding.where for finding in content.findings if finding.reference == "missing-file"]
    assert sorted(missing) == ["LICENSE", "config.json", "model-00001-of-000003.safetensors"]


@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_what_is_no_regular_file_is_refused_without_waiting(model: Path, kind: str) -> None:
    path = model / "model-00001-of-000003.safetensors"
    path.rename(model.parent / "elsewhere")
    if kind == "link":
        path.symlink_to(model.parent / "elsewhere")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    content = check_model(model, [path.name], format="any")
    assert {"link": "not-openable"}.get(kind, "not-a-regular-file") in errors(content)


def test_a_model_without_weights_is_told(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {})
    assert references(check(tmp_path).findings) == ["no-weights"]
    assert "weight-format" in errors(check(tmp_path, "bf16"))


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b'{"a":1,"a":2}', b"[1]", b'"text"', b"[" * 100_000])
def test_configuration_that_cannot_be_read_is_a_finding(model: Path, data: bytes) -> None:
    (model / "config.json").write_bytes(data)
    content = check(model)
    assert content.findings
    assert all(isinstance(finding, Finding) for finding in content.findings)


# --- size -------------------------------------------------------------------------------------------------

SHARDS, EXPERTS = 61, 384


def sparse_shard(path: Path, tensors: list[tuple[str, str, tuple[int, int]]]) -> int:
    """A shard that takes no room on the disk; gives back its bytes of data."""
    header, offset = {}, 0
    for name, dtype, shape in tensors:
        size = shape[0] * shape[1] * {"F8_E4M3": 1, "F32": 4}[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)
    return offset


def build_k2(folder: Path) -> int:
    weight_map: dict[str, str] = {}
    total = 0
    for number in range(1, SHARDS + 1):
        name = f"model-{number}-of-{SHARDS}.safetensors"
        tensors = []
        for expert in range(EXPERTS):
            for part, shape in (("gate", (2048, 7168)), ("up", (2048, 7168)), ("down", (7168, 2048))):
                stem = f"model.layers.{number}.mlp.experts.{expert}.{part}_proj.weight"
                tensors.append((stem, "F8_E4M3", shape))
                tensors.append((stem + "_scale_inv", "F32", (shape[0] // 128, shape[1] // 128)))
        total += sparse_shard(folder / name, tensors)
        weight_map.update(dict.fromkeys((tensor[0] for tensor in tensors), name))
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    write_json(folder / "config.json", FP8_CONFIG)
    return total


@pytest.mark.slow
def test_a_model_of_k2_size_is_checked_in_seconds(tmp_path: Path) -> None:
    total = build_k2(tmp_path)
    began = time.monotonic()
    content = check(tmp_path, "block-fp8")
    seconds = time.monotonic() - began
    assert references(content.findings) in ([], ["never-written-region"])
    assert content.facts["tensors"] == 2 * 3 * EXPERTS * SHARDS == 140_544
    assert content.facts["weightBytes"] == total > 10**12
    # 2 s alone on two cores; the bound only notices a change of order.
    assert seconds < 30
    print(f"{content.facts['tensors']} tensors in {seconds:.1f} s")
    path = tmp_path / f"model-7-of-{SHARDS}.safetensors"
    os.truncate(path, path.stat().st_size - 1)
    assert "safetensors-truncated" in errors(check(tmp_path, "block-fp8"))
