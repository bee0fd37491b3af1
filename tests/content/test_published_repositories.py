"""Small copies of whole repositories as they are published: file names, side files, indexes, documents."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bundler.content.model import check_model
from bundler.content.second_opinion import library_findings
from tests.content.files import references, write_shard, zeros
from tests.content.published_layouts import BLOCKS, Tensors, quantized
from tests.content.test_gguf_engine import ARCHITECTURE, gguf

CONFIG: dict[str, Any] = {"architectures": ["X"], "model_type": "x"}
File = dict[str, Any] | str | bytes | Tensors


def shard(number: int, count: int, stem: str = "model") -> str:
    return f"{stem}-{number:05d}-of-{count:05d}.safetensors"


def plain(name: str) -> Tensors:
    return {name: ("BF16", (8, 8))}


def index(shards: Mapping[str, Mapping[str, object]]) -> dict[str, Any]:
    weight_map = {tensor: name for name, tensors in shards.items() for tensor in tensors}
    return {"metadata": {"total_size": 480_000_000_000}, "weight_map": weight_map}


def blocks(stem: str) -> Tensors:
    return {f"{stem}_blocks": ("U8", (2, 8, 3, 16)), f"{stem}_scales": ("U8", (2, 8, 3))}


GPT_OSS = {shard(n, 2): blocks(f"l{n}.mlp.experts.gate_up_proj") for n in range(3)}
ORIGINAL = {"model--00001-of-00001.safetensors": {"b.mlp1_weight.blocks": ("U8", (2, 8, 3, 16))}}
MISTRAL = {shard(n, 2, "consolidated"): plain(f"layers.{n}.wq.weight") for n in (1, 2)}
MISTRAL_HF = {shard(n, 3): plain(f"model.layers.{n}.q_proj.weight") for n in (1, 2, 3)}
K2 = {
    "model-1-of-2.safetensors": {
        "l.weight": ("F8_E4M3", (576, 256)),
        "l.weight_scale_inv": ("F32", (5, 2)),
        "model.layers.0.self_attn.rotary_emb.inv_freq": ("BF16", (4,)),
    },
    "model-2-of-2.safetensors": plain("lm_head.weight"),
}
M27 = {shard(n, 130): plain(f"l{n}.weight") for n in range(125)}
QWEN = {"model.safetensors": plain("a.weight"), "model_mtp.safetensors": plain("mtp.fc.weight")}


def split(number: int) -> tuple[Any, ...]:
    return (
        ("split.no", 2, number.to_bytes(2, "little")),
        ("split.count", 2, b"\x02\0"),
        ("split.tensors.count", 5, b"\x01\0\0\0"),
    )


REPOSITORIES: dict[str, dict[str, File]] = {
    "gpt-oss: three copies": {
        "config.json": {**CONFIG, **quantized({"quant_method": "mxfp4"})},
        **GPT_OSS,
        "model.safetensors.index.json": index(GPT_OSS),
        **{f"original/{name}": tensors for name, tensors in ORIGINAL.items()},
        "original/model.safetensors.index.json": index(ORIGINAL),
        "original/config.json": {"num_experts": 128},
        "original/dtypes.json": {"b": "FP4"},
        "chat_template.jinja": "{{ messages }}",
        "USAGE_POLICY": "Be lawful.",
    },
    "Mistral: consolidated and model shards": {
        "config.json": CONFIG,
        "params.json": {"dim": 4096},
        "tekken.json": {"vocab": []},
        **MISTRAL,
        **MISTRAL_HF,
        "consolidated.safetensors.index.json": index(MISTRAL),
        "model.safetensors.index.json": index(MISTRAL_HF),
    },
    "Mistral native: no config.json": {
        "params.json": {"dim": 4096},
        "tekken.json": {"vocab": []},
        **MISTRAL,
        "consolidated.safetensors.index.json": index(MISTRAL),
    },
    "Kimi-K2: unpadded shards, tiktoken, 10^30": {
        "config.json": {**CONFIG, **quantized(BLOCKS), "auto_map": {"AutoConfig": "configuration_x.C"}},
        "configuration_x.py": "class C: pass\n",
        "tokenizer_config.json": '{"model_max_length": 1000000000000000019884624838656}',
        "tiktoken.model": "IQ== 0\n",
        **K2,
        "model.safetensors.index.json": index(K2),
        "figures/x.png": b"\x89PNG\r\n\x1a\n",
    },
    "MiniMax-M2.7: 125 of 130 from 0": {
        "config.json": CONFIG,
        **M27,
        "model.safetensors.index.json": index(M27),
    },
    "Qwen: side file and an index that names what is nowhere": {
        "config.json": {**CONFIG, "tie_word_embeddings": True},
        **QWEN,
        "model.safetensors.index.json": {
            "weight_map": {**index(QWEN)["weight_map"], "lm_head.weight": "model.safetensors"}
        },
        "pytorch_model.bin.index.json": {"weight_map": {"a": "pytorch_model-00001-of-00002.bin"}},
    },
    "Nemotron: Infinity in the configuration": {
        "config.json": '{"architectures": ["X"], "time_step_limit": [0.0, Infinity]}',
        "model.safetensors": plain("a.weight"),
        "hf_quant_config.json": {"quantization": {"quant_algo": None, "kv_cache_quant_algo": "FP8"}},
    },
    "unsloth GGUF: a first part without tensors, foreign extension": {
        "UD-Q4/m-UD-Q4-00001-of-00002.gguf": gguf((ARCHITECTURE, *split(0)), ()),
        "UD-Q4/m-UD-Q4-00002-of-00002.gguf": gguf(split(1), (("a", (64, 2), 42),)),
        "mmproj-BF16.gguf": gguf(tensors=(("v", (3, 1), 30),), padded=False),
        "imatrix_unsloth.gguf_file": gguf((), (("b.in_sum2", (8, 1), 0),)),
        "MTP/README.md": "# Drafts",
    },
}


def write(folder: Path, name: str, file: File) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".safetensors"):
        assert isinstance(file, dict)
        write_shard(path, {tensor: zeros(dtype, *shape) for tensor, (dtype, shape) in file.items()})
    elif isinstance(file, bytes):
        path.write_bytes(file)
    else:
        path.write_text(file if isinstance(file, str) else json.dumps(file))


@pytest.mark.parametrize("name", REPOSITORIES)
def test_a_published_repository_is_acceptable(tmp_path: Path, name: str) -> None:
    for path, file in REPOSITORIES[name].items():
        write(tmp_path, path, file)
    content = check_model(tmp_path, list(REPOSITORIES[name]), format="any")
    assert references(finding for finding in content.findings if finding.is_error) == []
    assert content.facts["weightFiles"] > 0
    assert library_findings(tmp_path, [p for p in REPOSITORIES[name] if p.endswith(".safetensors")]) == []
