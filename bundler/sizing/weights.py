"""Weights by formula, for when a model's configuration is known and its files are not pinned yet.

Against published figures: 958.49 GiB for Kimi-K2-Instruct in block-FP8 (the Hub's calculator says 958.52),
594.21 GB for the language model of Kimi-K2.7-Code in INT4 (its files with the vision tower: 595.18 GB).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bundler.sizing.memory import count_of, language_config

Matrices = list[tuple[int, int, int]]
"""Rows, columns, how many of them."""
_NEEDED = (
    "hidden_size",
    "num_hidden_layers",
    "first_k_dense_replace",
    "intermediate_size",
    "n_routed_experts",
    "n_shared_experts",
    "moe_intermediate_size",
    "q_lora_rank",
    "kv_lora_rank",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "v_head_dim",
    "num_attention_heads",
    "vocab_size",
)
KIMI_K2_CONFIG: Mapping[str, int] = {
    "hidden_size": 7168,
    "num_hidden_layers": 61,
    "first_k_dense_replace": 1,
    "intermediate_size": 18432,
    "n_routed_experts": 384,
    "n_shared_experts": 1,
    "moe_intermediate_size": 2048,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "num_attention_heads": 64,
    "vocab_size": 163840,
    "max_position_embeddings": 262144,
}
"""The language model's members that decide sizes, as published for Kimi K2; only for the reference table."""


def formula_weights(config: Mapping[str, Any], weight_format: str) -> int | None:
    """Bytes of the language model's weights by formula, without a vision tower.

    For DeepSeek-V3-shaped models (Kimi K2): latent attention, leading dense layers, routed and shared
    experts. `block-fp8`: 1 byte a parameter and 4 for each 128x128 block, embeddings, norms and router in
    bf16. `int4` (compressed-tensors, groups of 32, routed experts only): half a byte, 2 bytes a group, 8 a
    matrix, the rest in bf16. None for other formats or when a member is missing.
    """
    text = language_config(config)
    members = {name: count_of(text, name) for name in _NEEDED}
    if None in members.values() or weight_format not in ("bf16", "block-fp8", "int4"):
        return None
    counts = {name: value for name, value in members.items() if value is not None}
    dense, routed = _dense_matrices(counts), _routed_matrices(counts)
    rest = _bf16_rest(counts)
    if weight_format == "bf16":
        return rest + 2 * _parameters(dense + routed)
    if weight_format == "block-fp8":
        return rest + sum((a * b + 4 * -(-a // 128) * -(-b // 128)) * n for a, b, n in dense + routed)
    return rest + 2 * _parameters(dense) + sum((a * b // 2 + 2 * a * (b // 32) + 8) * n for a, b, n in routed)


def _parameters(matrices: Matrices) -> int:
    return sum(rows * columns * count for rows, columns, count in matrices)


def _dense_matrices(c: Mapping[str, int]) -> Matrices:
    """Attention, dense layers and shared experts."""
    hidden, layers, heads = c["hidden_size"], c["num_hidden_layers"], c["num_attention_heads"]
    attention = [
        (c["q_lora_rank"], hidden),
        (heads * (c["qk_nope_head_dim"] + c["qk_rope_head_dim"]), c["q_lora_rank"]),
        (c["kv_lora_rank"] + c["qk_rope_head_dim"], hidden),
        (heads * (c["qk_nope_head_dim"] + c["v_head_dim"]), c["kv_lora_rank"]),
        (hidden, heads * c["v_head_dim"]),
    ]
    first = c["first_k_dense_replace"]
    matrices = [(rows, columns, layers) for rows, columns in attention]
    matrices += _feed_forward(c["intermediate_size"], hidden, first)
    return matrices + _feed_forward(
        c["moe_intermediate_size"], hidden, (layers - first) * c["n_shared_experts"]
    )


def _routed_matrices(c: Mapping[str, int]) -> Matrices:
    count = (c["num_hidden_layers"] - c["first_k_dense_replace"]) * c["n_routed_experts"]
    return _feed_forward(c["moe_intermediate_size"], c["hidden_size"], count)


def _feed_forward(inner: int, hidden: int, count: int) -> Matrices:
    """Gate, up and down projection."""
    return [(inner, hidden, count), (inner, hidden, count), (hidden, inner, count)]


def _bf16_rest(c: Mapping[str, int]) -> int:
    """Bytes of embeddings, head, norms and router (bf16) with the router's bias (f32)."""
    hidden, layers = c["hidden_size"], c["num_hidden_layers"]
    routers = (layers - c["first_k_dense_replace"]) * c["n_routed_experts"]
    norms = layers * (2 * hidden + c["q_lora_rank"] + c["kv_lora_rank"]) + hidden
    return 2 * (norms + routers * hidden + 2 * c["vocab_size"] * hidden) + 4 * routers
