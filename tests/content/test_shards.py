"""Shards and their index: what an engine ignores is a warning, what it trips over an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bundler.content.model import ModelContent, check_model
from tests.content.files import references, write_json, write_shard, zeros

INDEX = "model.safetensors.index.json"
CONFIG = {"architectures": ["LlamaForCausalLM"]}


def check(folder: Path) -> ModelContent:
    return check_model(folder, sorted(path.name for path in folder.iterdir()), format="any")


def write(folder: Path, names: list[str], *, config: Any = None, metadata: Any = None) -> dict[str, str]:
    """One tensor `t0.weight`, `t1.weight`... in each shard, and a right index."""
    weight_map = {f"t{number}.weight": name for number, name in enumerate(names)}
    for tensor, name in weight_map.items():
        write_shard(folder / name, {tensor: zeros("BF16", 4)})
    write_json(folder / "config.json", {**CONFIG, **(config or {})})
    write_json(folder / INDEX, {"metadata": metadata or {}, "weight_map": weight_map})
    return weight_map


def errors(content: ModelContent) -> list[str]:
    return references(finding for finding in content.findings if finding.is_error)


NUMBERED = "model-{:05d}-of-{:05d}.safetensors"


@pytest.mark.parametrize(
    ("names", "warnings"),
    [
        ([NUMBERED.format(n, 3) for n in (0, 1, 2)], []),
        ([NUMBERED.format(n, 3) for n in (1, 2, 3)], []),
        ([NUMBERED.format(n, 14) for n in range(15)], []),
        ([NUMBERED.format(n, 130) for n in range(125)], ["shard-numbering"]),
        ([f"model-{n}-of-61.safetensors" for n in range(1, 62)], []),
        ([f"model-{n:05d}-of-000064.safetensors" for n in range(1, 65)], []),
        (["model.safetensors", "model_mtp.safetensors", "model_visual.safetensors"], []),
        ([f"model_pp0_ep0_shard{n}.safetensors" for n in range(3)], []),
    ],
    ids=["from 0", "from 1", "gpt-oss", "M2.7", "K2", "6-digit total", "side files", "no numbers"],
)
def test_habits_of_numbering_are_no_errors(tmp_path: Path, names: list[str], warnings: list[str]) -> None:
    write(tmp_path, names)
    content = check(tmp_path)
    assert errors(content) == []
    assert references(content.findings) == warnings


@pytest.mark.parametrize("numbers", [(0, 2), (1, 3), (2, 3), (0, 1, 3)])
def test_a_gap_in_the_numbers_is_refused_even_with_a_right_index(tmp_path: Path, numbers: list[int]) -> None:
    write(tmp_path, [NUMBERED.format(n, 3) for n in numbers])
    assert errors(check(tmp_path)) == ["shard-numbering"]


@pytest.mark.parametrize("numbers", [(0, 1), (1, 2), (1,)])
def test_missing_last_shards_without_an_index_are_refused(tmp_path: Path, numbers: list[int]) -> None:
    write(tmp_path, [NUMBERED.format(n, 4) for n in numbers])
    (tmp_path / INDEX).unlink()
    assert errors(check(tmp_path)) == ["shard-numbering"]


def test_side_files_and_consolidated_copies_need_no_index(tmp_path: Path) -> None:
    write(tmp_path, ["model.safetensors", "consolidated.safetensors", "model_mtp.safetensors"])
    (tmp_path / INDEX).unlink()
    content = check(tmp_path)
    assert errors(content) == []
    assert references(content.findings) == ["index-missing"]


def test_a_consolidated_copy_with_its_own_index_is_no_double(tmp_path: Path) -> None:
    names = [NUMBERED.format(n, 2) for n in (1, 2)]
    weight_map = write(tmp_path, names)
    copies = {tensor: name.replace("model", "consolidated") for tensor, name in weight_map.items()}
    for tensor, name in copies.items():
        write_shard(tmp_path / name, {tensor: zeros("BF16", 4)})
    write_json(tmp_path / "consolidated.safetensors.index.json", {"weight_map": copies})
    assert check(tmp_path).findings == ()


def test_shards_of_an_earlier_split_that_no_index_names_are_a_warning(tmp_path: Path) -> None:
    write(tmp_path, [NUMBERED.format(n, 2) for n in (1, 2)])
    write_shard(tmp_path / NUMBERED.format(2, 3), {"t0.weight": zeros("BF16", 4)})
    content = check(tmp_path)
    assert errors(content) == []
    assert references(content.findings) == ["shard-unlisted"]


def test_a_left_over_index_of_another_name_is_a_warning(tmp_path: Path) -> None:
    write(tmp_path, ["model.safetensors"])
    write_json(tmp_path / "old.safetensors.index.json", {"weight_map": {"a": "gone-1-of-1.safetensors"}})
    content = check(tmp_path)
    assert errors(content) == []
    assert references(content.findings) == ["index-unused"]


def test_an_index_the_engine_opens_must_name_shards_that_exist(tmp_path: Path) -> None:
    weight_map = write(tmp_path, ["model.safetensors"])
    write_json(tmp_path / INDEX, {"weight_map": {**weight_map, "b": "gone.safetensors"}})
    assert errors(check(tmp_path)) == ["shard-missing"]


@pytest.mark.parametrize("metadata", [{}, {"total_size": 1}, {"total_size": "many"}, {"total_parameters": 7}])
def test_totals_of_an_index_are_advisory(tmp_path: Path, metadata: dict[str, Any]) -> None:
    write(tmp_path, ["a.safetensors", "b.safetensors"], metadata=metadata)
    content = check(tmp_path)
    assert errors(content) == []
    assert references(content.findings) == (["total-size"] if "total_size" in metadata else [])


@pytest.mark.parametrize(
    ("tensor", "config", "refused"),
    [
        ("lm_head.weight", {"tie_word_embeddings": True}, False),
        ("lm_head.weight", {}, False),
        ("language_model.lm_head.weight", {"text_config": {"tie_word_embeddings": True}}, False),
        ("lm_head.weight", {"tie_word_embeddings": False}, True),
        ("mtp.fc.weight", {}, False),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", {}, False),
        ("model.layers.0.mlp.up_proj.weight", {}, True),
    ],
)
def test_a_tensor_in_no_shard_is_refused_unless_engines_do_without(
    tmp_path: Path, tensor: str, config: dict[str, Any], refused: bool
) -> None:
    weight_map = write(tmp_path, ["model.safetensors"], config=config)
    write_json(tmp_path / INDEX, {"weight_map": {**weight_map, tensor: "model.safetensors"}})
    content = check(tmp_path)
    assert references(content.findings) == ["tensor-missing"]
    assert errors(content) == (["tensor-missing"] if refused else [])
