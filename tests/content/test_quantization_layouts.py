"""Quantised weights as publishers lay them out: each agrees with its scales in its own layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from bundler.content.model import ModelContent, check_model
from bundler.content.model_format import SPEC_FORMATS
from bundler.core.specs.spec import WeightFormat
from bundler.errors import Finding
from tests.content.files import references, write_json, write_shard, zeros
from tests.content.published_layouts import LAYOUTS, Tensors, quantized


def write(folder: Path, config: dict[str, Any], tensors: Tensors) -> None:
    write_shard(folder / "model.safetensors", {n: zeros(t, *shape) for n, (t, shape) in tensors.items()})
    write_json(folder / "config.json", {"architectures": ["X"], **config})


def check(folder: Path, format: str) -> ModelContent:
    return check_model(folder, sorted(path.name for path in folder.iterdir()), format=format)


def errors(content: ModelContent) -> list[str]:
    return references(finding for finding in content.findings if finding.is_error)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_published_layout_is_accepted_in_its_format(tmp_path: Path, name: str) -> None:
    config, tensors, format = LAYOUTS[name]
    write(tmp_path, config, tensors)
    content = check(tmp_path, format)
    assert content.findings == ()
    assert content.facts["format"] == format


def _scales(tensors: Tensors) -> list[str]:
    return [n for n in tensors if n.endswith(("_scale_inv", "weight_scale", ".scale", "_scales", ".scales"))]


_SCALED = [(name, scale) for name, (_, tensors, _) in LAYOUTS.items() for scale in _scales(tensors)]


@pytest.mark.parametrize(("name", "scale"), _SCALED)
def test_a_missing_scale_of_a_known_layout_is_refused(tmp_path: Path, name: str, scale: str) -> None:
    config, tensors, _ = LAYOUTS[name]
    write(tmp_path, config, {one: value for one, value in tensors.items() if one != scale})
    assert set(errors(check(tmp_path, "any"))) & {"fp8-scale", "int4-scale", "quantization-scale"}


@pytest.mark.parametrize(("name", "scale"), _SCALED)
def test_a_scale_of_a_wrong_shape_is_refused(tmp_path: Path, name: str, scale: str) -> None:
    config, tensors, _ = LAYOUTS[name]
    dtype, shape = tensors[scale]
    write(tmp_path, config, {**tensors, scale: (dtype, (*shape[:-1], shape[-1] + 3) if shape else (7,))})
    assert set(errors(check(tmp_path, "any"))) & {"fp8-scale", "int4-scale", "quantization-scale"}


@pytest.mark.parametrize("config", [{}, quantized({"quant_method": "bitnet-of-2027"})])
def test_an_unknown_layout_is_carried_and_says_what_was_not_checked(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    write(tmp_path, config, {"l.weight": ("U8", (64, 32)), "l.absmax": ("F32", (64,))})
    content = check(tmp_path, "any")
    assert errors(content) == []
    assert references(content.findings) == ["quantization-unchecked"]
    assert any("l.weight" in finding.found for finding in content.findings)


def test_an_unknown_layout_is_refused_where_a_known_one_was_asked_for(tmp_path: Path) -> None:
    write(tmp_path, {}, {"l.weight": ("U8", (64, 32))})
    assert errors(check(tmp_path, "nvfp4")) == ["weight-format"]


def test_an_nvfp4_export_that_holds_fp8_is_refused_when_nvfp4_was_asked_for(tmp_path: Path) -> None:
    config = quantized({"quant_method": "modelopt", "quant_algo": "NVFP4"})
    write(tmp_path, config, {"l.weight": ("F8_E4M3", (64, 32)), "l.weight_scale": ("F32", ())})
    assert errors(check(tmp_path, "nvfp4")) == ["weight-format"]


def test_modelopt_may_state_the_quantisation_in_its_own_file_alone(tmp_path: Path) -> None:
    _, tensors, _ = LAYOUTS["modelopt NVFP4 with zero-dim scalars"]
    write(tmp_path, {}, {name: value for name, value in tensors.items() if name != "l.weight_scale"})
    write_json(tmp_path / "hf_quant_config.json", {"quantization": {"quant_algo": "NVFP4", "group_size": 16}})
    assert "quantization-scale" in errors(check(tmp_path, "any"))
    write(tmp_path, {}, tensors)
    assert check(tmp_path, "nvfp4").findings == ()


def test_packed_values_are_counted_as_parameters_and_scales_are_not(tmp_path: Path) -> None:
    for name, parameters in (
        ("Kimi-K3: mxfp4 with U8 scales", 64 * 64 + 48 + 64),
        ("GPTQ: packed along the inputs", 128 * 64),
    ):
        config, tensors, _ = LAYOUTS[name]
        write(tmp_path, config, tensors)
        assert check(tmp_path, "any").facts["parameters"] == parameters


def only(content: ModelContent, reference: str) -> Finding:
    (finding,) = [finding for finding in content.findings if finding.reference == reference]
    return finding


@pytest.mark.parametrize(
    "tensors",
    [
        {"l.weight": ("F16", (16, 16))},
        {"l.weight": ("U8", (16, 16))},
        {"l.weight": ("F64", (16, 16))},
        {"l.weight": ("I64", (16, 16))},
        {"a.weight": ("F16", (16, 16)), "b.weight": ("F32", (16, 16))},
        {"l.weight": ("F8_E4M3", (16, 16))},
        {},
    ],
)
def test_the_hint_of_a_wrong_format_is_one_that_passes(tmp_path: Path, tensors: Tensors) -> None:
    write(tmp_path, {}, tensors)
    finding = only(check(tmp_path, "bf16"), "weight-format")
    assert finding.found in get_args(WeightFormat)
    assert f"`format: {finding.found}`" in finding.hint
    assert errors(check(tmp_path, finding.found)) == []


def test_the_spec_offers_every_format_that_is_found() -> None:
    assert set(SPEC_FORMATS) == set(get_args(WeightFormat))


def test_what_lies_in_folders_beside_the_weights_does_not_refuse_them(tmp_path: Path) -> None:
    write(tmp_path, {}, {"l.weight": ("BF16", (4, 4))})
    (tmp_path / "original").mkdir()
    write_shard(tmp_path / "original/model--00001-of-00007.safetensors", {"b.blocks": zeros("U8", 2, 16)})
    write_json(tmp_path / "original/model.safetensors.index.json", {"weight_map": {"b": "gone.safetensors"}})
    (tmp_path / "original/dtypes.json").write_text(json.dumps({"b.blocks": "FP4"}))
    files = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()]
    content = check_model(tmp_path, files, format="bf16")
    assert errors(content) == []
    assert "shard-missing" in references(content.findings)
