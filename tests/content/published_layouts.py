"""Small copies of how real repositories lay out their weights: name to (config.json, tensors, format)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Tensors = dict[str, tuple[str, tuple[int, ...]]]
BLOCKS = {
    "quant_method": "fp8",
    "fmt": "e4m3",
    "activation_scheme": "dynamic",
    "weight_block_size": [128, 128],
}
NVFP4 = {
    "weight": ("U8", (64, 32)),
    "weight_scale": ("F8_E4M3", (64, 4)),
    "weight_scale_2": ("F32", ()),
    "input_scale": ("F32", ()),
}


def compressed(format: str, **weights: Any) -> dict[str, Any]:
    """A `quantization_config` of compressed-tensors with one group."""
    group = {"targets": ["Linear"], "format": format, "weights": weights}
    return {"quant_method": "compressed-tensors", "format": format, "config_groups": {"group_0": group}}


def quantized(value: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A config.json with this `quantization_config` at its top."""
    return {"quantization_config": value, **more}


def module(stem: str, parts: Mapping[str, tuple[str, tuple[int, ...]]]) -> Tensors:
    """Tensors of one module."""
    return {f"{stem}.{name}": value for name, value in parts.items()}


INT4 = {
    "weight_packed": ("I32", (64, 8)),
    "weight_scale": ("BF16", (64, 2)),
    "weight_shape": ("I32", (2,)),
}
MXFP4_PACKED = {"weight_packed": ("U8", (64, 32)), "weight_scale": ("U8", (64, 2))}
NVFP4_PACKED = {
    "weight_packed": ("U8", (64, 32)),
    "weight_scale": ("F8_E4M3", (64, 4)),
    "weight_global_scale": ("F32", (1,)),
}
GPTQ = {
    "qweight": ("I32", (16, 64)),
    "qzeros": ("I32", (2, 8)),
    "scales": ("F16", (2, 64)),
    "g_idx": ("I32", (128,)),
}
AWQ = {"qweight": ("I32", (128, 8)), "qzeros": ("I32", (2, 8)), "scales": ("F16", (2, 64))}
TWO_GROUPS = {
    "quant_method": "compressed-tensors",
    "format": "mixed-precision",
    "config_groups": {
        "group_0": {"format": "float-quantized", "weights": {"num_bits": 8, "type": "float"}},
        "group_1": {"format": "nvfp4-pack-quantized", "weights": {"num_bits": 4, "group_size": 16}},
    },
}

LAYOUTS: dict[str, tuple[dict[str, Any], Tensors, str]] = {
    "Kimi-K2: F32 block scales, 576 rows are no multiple": (
        quantized(BLOCKS),
        module("l", {"weight": ("F8_E4M3", (576, 256)), "weight_scale_inv": ("F32", (5, 2))}),
        "block-fp8",
    ),
    "Kimi-K2.5: int4 in text_config, weight_shape I32": (
        {"text_config": quantized(compressed("pack-quantized", num_bits=4, group_size=32, symmetric=True))},
        module("language_model.e", INT4),
        "int4",
    ),
    "compressed-tensors: weight_shape I64 and zero points": (
        quantized(compressed("pack-quantized", num_bits=4, group_size=32, symmetric=False)),
        module("e", {**INT4, "weight_shape": ("I64", (2,)), "weight_zero_point": ("I32", (8, 2))}),
        "int4",
    ),
    "compressed-tensors: 3 bits lie dense over words, g_idx": (
        quantized(compressed("pack-quantized", num_bits=3, group_size=32)),
        module(
            "e",
            {
                "weight_packed": ("I32", (16, 6)),
                "weight_scale": ("F16", (16, 2)),
                "weight_shape": ("I64", (2,)),
                "weight_g_idx": ("I32", (64,)),
            },
        ),
        "int3",
    ),
    "compressed-tensors: int8 per channel": (
        quantized(compressed("int-quantized", num_bits=8, strategy="channel")),
        module("l", {"weight": ("I8", (64, 32)), "weight_scale": ("BF16", (64, 1))}),
        "int8",
    ),
    "compressed-tensors: FP8 per channel (GLM-4.5-FP8)": (
        quantized(compressed("float-quantized", num_bits=8, strategy="channel")),
        module("l", {"weight": ("F8_E4M3", (64, 32)), "weight_scale": ("BF16", (64, 1))}),
        "fp8",
    ),
    "compressed-tensors: mxfp8": (
        quantized(compressed("mxfp8-quantized", num_bits=8, group_size=32)),
        module("l", {"weight": ("F8_E4M3", (64, 70)), "weight_scale": ("U8", (64, 3))}),
        "mxfp8",
    ),
    "compressed-tensors: nvfp4": (
        quantized(compressed("nvfp4-pack-quantized", num_bits=4, group_size=16)),
        module("l", NVFP4_PACKED),
        "nvfp4",
    ),
    "compressed-tensors: FP8 beside nvfp4 in two groups": (
        quantized(TWO_GROUPS),
        {
            **module("a", NVFP4_PACKED),
            **module("b", {"weight": ("F8_E4M3", (16, 16)), "weight_scale": ("F32", (16, 1))}),
        },
        "nvfp4",
    ),
    "Kimi-K3: mxfp4 with U8 scales": (
        {"text_config": quantized(compressed("mxfp4-pack-quantized", num_bits=4, group_size=32))},
        {**module("e.w1", MXFP4_PACKED), "conv.weight": ("F32", (12, 1, 4)), "n.weight": ("BF16", (64,))},
        "mxfp4",
    ),
    "DeepSeek-V3.2: ue8m0 in the config, F32 on the disk": (
        quantized({**BLOCKS, "scale_fmt": "ue8m0"}),
        module("indexer.wk", {"weight": ("F8_E4M3", (128, 256)), "weight_scale_inv": ("F32", (1, 2))}),
        "block-fp8",
    ),
    "DeepSeek-V4: I8 fp4 experts, E8M0 scales called .scale": (
        {**quantized({**BLOCKS, "scale_fmt": "ue8m0"}), "expert_dtype": "fp4"},
        {
            **module(
                "layers.0.ffn.experts.0.w1", {"weight": ("I8", (96, 112)), "scale": ("F8_E8M0", (96, 7))}
            ),
            **module("layers.0.attn.wq_a", {"weight": ("F8_E4M3", (130, 64)), "scale": ("F8_E8M0", (2, 1))}),
            "layers.0.hc_attn_fn": ("F32", (4, 16)),
            "layers.0.gate.bias": ("F32", (8,)),
        },
        "mxfp4",
    ),
    "Qwen3-32B-FP8: BF16 scales": (
        quantized(BLOCKS),
        module("l", {"weight": ("F8_E4M3", (256, 128)), "weight_scale_inv": ("BF16", (2, 1))}),
        "block-fp8",
    ),
    "Qwen3-4B-FP8: F16 scales": (
        quantized({**BLOCKS, "modules_to_not_convert": ["lm_head"]}),
        module("l", {"weight": ("F8_E4M3", (256, 128)), "weight_scale_inv": ("F16", (2, 1))}),
        "block-fp8",
    ),
    "Qwen3.5: fused experts without a suffix": (
        {"text_config": quantized(BLOCKS)},
        {
            "experts.gate_up_proj": ("F8_E4M3", (2, 256, 128)),
            "experts.gate_up_proj_scale_inv": ("F32", (2, 2, 1)),
        },
        "block-fp8",
    ),
    "Quark: block scales without _inv": (
        quantized(BLOCKS),
        module("l", {"weight": ("F8_E4M3", (256, 128)), "weight_scale": ("F32", (2, 1))}),
        "block-fp8",
    ),
    "MiniMax-M3-MXFP8: blocks of one row and 32 columns": (
        quantized({"quant_method": "mxfp8", "weight_block_size": [1, 32]}),
        module("l", {"weight": ("F8_E4M3", (8, 64)), "weight_scale_inv": ("U8", (8, 2))}),
        "mxfp8",
    ),
    "gpt-oss: blocks and scales": (
        quantized({"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]}),
        {
            "e.gate_up_proj_blocks": ("U8", (2, 8, 3, 16)),
            "e.gate_up_proj_scales": ("U8", (2, 8, 3)),
            "e.gate_up_proj_bias": ("BF16", (2, 8)),
            "attn.sinks": ("BF16", (8,)),
        },
        "mxfp4",
    ),
    "modelopt NVFP4 with zero-dim scalars": (
        quantized({"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"]}),
        module("l", NVFP4),
        "nvfp4",
    ),
    "modelopt FP8 per tensor, method not named": (
        quantized({"quant_algo": "FP8", "kv_cache_scheme": "FP8"}),
        {
            **module(
                "l",
                {"weight": ("F8_E4M3", (64, 32)), "weight_scale": ("F32", ()), "input_scale": ("F32", ())},
            ),
            "k_proj.k_scale": ("F32", ()),
        },
        "fp8",
    ),
    "modelopt mixed precision": (
        quantized(
            {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": {"l": {}}}
        ),
        {
            **module("a", NVFP4),
            **module("b", {"weight": ("F8_E4M3", (16, 32)), "weight_scale": ("F32", ())}),
            **module("c", {"weight": ("F8_E4M3", (16, 64)), "weight_scale": ("U8", (16, 2))}),
        },
        "nvfp4",
    ),
    "DeepSeek-V4-NVFP4: two dialects, MTP experts still I8": (
        quantized(
            {**BLOCKS, "moe_quant_algo": "NVFP4", "config_groups": {"g": {"weights": {"num_bits": 4}}}}
        ),
        {
            **module("e", NVFP4),
            **module("mtp.0.e", {"weight": ("I8", (16, 32)), "scale": ("F8_E8M0", (16, 2))}),
            **module("a", {"weight": ("F8_E4M3", (16, 64)), "scale": ("F8_E8M0", (1, 1))}),
        },
        "nvfp4",
    ),
    "GPTQ: packed along the inputs": (
        quantized({"quant_method": "gptq", "bits": 4, "group_size": 64, "sym": True, "desc_act": False}),
        module("l", GPTQ),
        "int4",
    ),
    "GPTQ 8 bits with one group": (
        quantized({"quant_method": "gptq", "bits": 8, "group_size": -1, "sym": True}),
        module("l", {"qweight": ("I32", (32, 64)), "qzeros": ("I32", (1, 16)), "scales": ("BF16", (1, 64))}),
        "int8",
    ),
    "AWQ: packed along the outputs": (
        quantized(
            {"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": True, "version": "gemm"}
        ),
        module("l", AWQ),
        "int4",
    ),
    "Mistral consolidated: qscale_weight": (
        quantized({"quant_method": "fp8", "activation_scheme": "static"}),
        module(
            "l", {"weight": ("F8_E4M3", (64, 32)), "qscale_weight": ("F32", ()), "qscale_act": ("F32", ())}
        ),
        "fp8",
    ),
    "compressed-tensors: sparsity alone": (
        quantized({"quant_method": "compressed-tensors", "sparsity_config": {}, "config_groups": {}}),
        module("l", {"weight": ("BF16", (4, 4))}),
        "bf16",
    ),
    "MiniMax-M3: BF16 with a 5-D F32 tensor": (
        {},
        {"l.weight": ("BF16", (512, 512)), "patch_embedding.weight": ("F32", (2, 3, 2, 7, 7))},
        "bf16",
    ),
    "dtype F4, whose shape counts values": (
        quantized({"quant_method": "mxfp4"}),
        module("l", {"weight": ("F4", (8, 64)), "weight_scale": ("F8_E8M0", (8, 2))}),
        "mxfp4",
    ),
}
