"""What a model's configuration says about quantisation, in the dialects that publishers use.

Sources: `quantization_config` of transformers (fp8, mxfp4, gptq, awq), compressed-tensors
(`config/base.py`), NVIDIA modelopt (`hf_quant_config.json`), DeepSeek-V4 (`expert_dtype`).
What is *not* checked: which layers the lists of exceptions name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

KNOWN_METHODS = frozenset(
    {"fp8", "fbgemm_fp8", "mxfp8", "compressed-tensors", "modelopt", "modelopt_fp4", "modelopt_mixed"}
    | {"gptq", "awq", "mxfp4", "deepseek_v4_fp8"}
)
"""Methods with a row in `quantization_layouts`; the scales of any other are not checked."""
MODELOPT = frozenset({"modelopt", "modelopt_fp4", "modelopt_mixed"})
_NESTING = 3
"""Levels of sub-configurations (`text_config`, `thinker_config.text_config`) that are searched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """How one group of modules is quantised; everything that is not said is None."""

    format: str = ""
    """compressed-tensors' name of a layout, such as `nvfp4-pack-quantized`."""
    bits: int | None = None
    group_size: int | None = None
    """Values along a row that share a scale; None is one scale per row or tensor."""
    block: tuple[int, int] | None = None
    """Rows and columns that share a scale."""
    symmetric: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """What the configuration says; all absent when the weights are not quantised."""

    method: str = ""
    """`quant_method`: fp8, compressed-tensors, modelopt..."""
    schemes: tuple[Scheme, ...] = ()
    per_layer: bool = False
    """Whether single layers have other bits and groups than the schemes (GPTQ `dynamic`, modelopt)."""
    stored_plain: bool = False
    """Whether the weights are stored without quantisation although a method is named."""

    @property
    def known(self) -> bool:
        """Whether the method has a row in the table of layouts."""
        return self.method in KNOWN_METHODS

    @property
    def blocks(self) -> tuple[tuple[int, int], ...]:
        """The FP8 block sizes."""
        return tuple(scheme.block for scheme in self.schemes if scheme.block)

    def bits(self, default: int = 4) -> tuple[int, ...]:
        """The widths of packed integers, in bits."""
        found = {scheme.bits for scheme in self.schemes if scheme.bits}
        return tuple(sorted(found | ({2, 3, 4, 8} if self.per_layer else set()) or {default}))

    @property
    def group_sizes(self) -> tuple[int | None, ...]:
        """The group sizes; None stands for one scale per row."""
        return tuple({scheme.group_size for scheme in self.schemes})

    @classmethod
    def of_config(cls, config: object, modelopt: object = None) -> Quantization:
        """From a `config.json`, at its top or in a sub-configuration; else from a `hf_quant_config.json`."""
        value = next(_declared(config, _NESTING), None) or _of_modelopt(modelopt)
        if value is None:
            return cls()
        return cls(
            method=_method(value),
            schemes=tuple(_schemes(value)),
            per_layer=bool(value.get("dynamic")) or value.get("quant_algo") == "MIXED_PRECISION",
            stored_plain=_stored_plain(value),
        )


def _of_modelopt(document: object) -> dict[str, Any] | None:
    value = _member(document, "quantization")
    return {"quant_method": "modelopt", **value} if isinstance(value, dict) else None


def _declared(config: object, levels: int) -> Iterator[dict[str, Any]]:
    if not isinstance(config, dict):
        return
    for name in ("quantization_config", "compression_config"):
        if isinstance(config.get(name), dict) and config[name]:
            yield config[name]
    if levels:
        for name, member in config.items():
            if name.endswith("_config"):
                yield from _declared(member, levels - 1)


def _method(value: Mapping[str, Any]) -> str:
    method = value.get("quant_method")
    if isinstance(method, str) and method:
        return method.lower()
    # Some modelopt exports name no method, only the algorithm.
    return "modelopt" if isinstance(value.get("quant_algo"), str) else "unnamed"


def _schemes(value: Mapping[str, Any]) -> Iterator[Scheme]:
    block = _block(value.get("weight_block_size"))
    bits, group = (
        _positive(value.get("bits", value.get("w_bit"))),
        value.get("group_size", value.get("q_group_size")),
    )
    if block or bits or _positive(group):
        symmetric = value.get("sym", False if value.get("zero_point") else None)
        yield Scheme(block=block, bits=bits, group_size=_positive(group), symmetric=_flag(symmetric))
    groups = value.get("config_groups")
    for item in groups.values() if isinstance(groups, dict) else ():
        weights = _member(item, "weights")
        if isinstance(weights, dict):
            yield _scheme(weights, _member(item, "format") or value.get("format"))


def _scheme(weights: Mapping[str, Any], layout: object) -> Scheme:
    return Scheme(
        format=layout if isinstance(layout, str) else "",
        bits=_positive(weights.get("num_bits")),
        group_size=_positive(weights.get("group_size")),
        block=_block(weights.get("block_structure")),
        symmetric=_flag(weights.get("symmetric")),
    )


def _stored_plain(value: Mapping[str, Any]) -> bool:
    """Sparsity or a KV cache's precision alone, or "fake" quantisation: weights as in the original model."""
    if value.get("quant_method") == "compressed-tensors":
        return value.get("format") == "dense" or not value.get("config_groups")
    modelopt = value.get("quant_method") in MODELOPT
    return modelopt and not value.get("quant_algo") and not value.get("config_groups")


def _member(value: object, name: str) -> object:
    return value.get(name) if isinstance(value, dict) else None


def _positive(value: object) -> int | None:
    return value if type(value) is int and 0 < value < 1 << 40 else None


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _block(value: object) -> tuple[int, int] | None:
    if isinstance(value, list) and len(value) == 2 and all(_positive(item) for item in value):
        return value[0], value[1]
    return None
