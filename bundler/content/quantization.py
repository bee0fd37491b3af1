"""What format weights are in, told from the tensors and the model's own configuration, and its rules.

Block-FP8 (DeepSeek-V3, Kimi K2): every `F8_E4M3` tensor `X.weight` has `X.weight_scale_inv`, F32, one value
per block of `quantization_config.weight_block_size`. INT4 (compressed-tensors, `pack-quantized`): triples
`X.weight_packed` (I32, eight values each), `X.weight_scale` and `X.weight_shape`.
What is *not* checked: the values, scales included.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bundler.content.findings import COMPARE, malformed
from bundler.content.safetensors import Tensor
from bundler.errors import ExitCode, Finding

FP8_DTYPES = ("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
SCALE_INV = "_scale_inv"
PACKED, SCALE, SHAPE = ".weight_packed", ".weight_scale", ".weight_shape"
PACKED_BITS = 32
SCALE_DTYPES = ("BF16", "F16", "F32")
PURE_SHARE = 0.99
"""Share of bytes that one dtype has in weights that are not quantised: the rest is norms and routers."""
_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """What config.json says about quantisation; all absent when the weights are not quantised."""

    method: str = ""
    """`quant_method`: fp8, compressed-tensors..."""
    block: tuple[int, int] | None = None
    """`weight_block_size`: rows and columns of an FP8 block."""
    bits: int | None = None
    """`num_bits` of compressed-tensors weights."""
    group_size: int | None = None
    """Values along a row that share a scale (compressed-tensors); None is one scale per row."""

    @classmethod
    def of_config(cls, config: object) -> Quantization:
        """The `quantization_config` of a config.json, at its top or in its `text_config`."""
        value = _member(config, "quantization_config") or _member(
            _member(config, "text_config"), "quantization_config"
        )
        if not isinstance(value, dict):
            return cls()
        weights = _group_weights(value.get("config_groups"))
        return cls(
            method=value.get("quant_method") if isinstance(value.get("quant_method"), str) else "",  # type: ignore[arg-type]
            block=_block(value.get("weight_block_size")),
            bits=_positive(weights.get("num_bits")),
            group_size=_positive(weights.get("group_size")),
        )


def _member(value: object, name: str) -> object:
    return value.get(name) if isinstance(value, dict) else None


def _positive(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None


def _block(value: object) -> tuple[int, int] | None:
    if isinstance(value, list) and len(value) == 2 and all(_positive(item) for item in value):
        return value[0], value[1]
    return None


def _group_weights(groups: object) -> Mapping[str, Any]:
    """The `weights` of the first of `config_groups` (published models have one)."""
    if isinstance(groups, dict):
        for group in groups.values():
            weights = _member(group, "weights")
            if isinstance(weights, dict):
                return weights
    return {}


def found_format(tensors: Iterable[Tensor], quantization: Quantization) -> str:
    """`block-fp8`, `fp8`, `int4`, `int<n>`, `bf16`, another dtype in lower case, `mixed`, or `none`."""
    sizes: Counter[str] = Counter()
    packed = False
    for tensor in tensors:
        sizes[tensor.dtype] += tensor.size
        packed = packed or tensor.name.endswith(PACKED)
    if packed:
        return f"int{quantization.bits or 4}"
    if any(sizes[dtype] for dtype in FP8_DTYPES):
        return "block-fp8" if quantization.block and sizes["F8_E4M3"] else "fp8"
    total = sum(sizes.values())
    if not total:
        return "none"
    dtype, size = sizes.most_common(1)[0]
    return dtype.lower() if size >= PURE_SHARE * total else "mixed"


def quantization_findings(
    tensors: Mapping[str, Tensor], quantization: Quantization, found: str, *, where: str
) -> list[Finding]:
    """Findings about scales: present, of the right dtype and shape, and none without its weight; and about a
    configuration that declares another format than the `found` one.

    References: `fp8-scale`, `int4-scale`, `quantization-config`.
    """
    findings = _fp8_findings(tensors, quantization, where)
    findings += _packed_findings(tensors, quantization, where)
    if quantization.method == "fp8" and "fp8" not in found:
        findings.append(_finding("quantization-config", where, "FP8 tensors, as config.json says", found))
    if quantization.method == "compressed-tensors" and quantization.bits == 4 and found != "int4":
        findings.append(
            _finding("quantization-config", where, "packed INT4 tensors, as config.json says", found)
        )
    return findings


def _fp8_findings(tensors: Mapping[str, Tensor], quantization: Quantization, where: str) -> list[Finding]:
    weights = [t for t in tensors.values() if t.dtype == "F8_E4M3" and t.name.endswith(".weight")]
    orphans = [
        name for name in tensors if name.endswith(SCALE_INV) and name.removesuffix(SCALE_INV) not in tensors
    ]
    findings = [
        _finding("fp8-scale", f"{where}: {name!r}", "the weight that this scale belongs to", "no such tensor")
        for name in sorted(orphans)[:_SHOWN]
    ]
    if quantization.block is None:
        # Per-tensor or per-channel FP8 has no blocks: its scales have other names and no rule here.
        return findings
    faults = ((t.name, _fp8_fault(t, tensors.get(t.name + SCALE_INV), quantization.block)) for t in weights)
    return findings + _scale_findings("fp8-scale", where, faults)


def _fp8_fault(weight: Tensor, scale: Tensor | None, block: tuple[int, int]) -> tuple[str, str] | None:
    if len(weight.shape) != 2:
        return "two dimensions", str(list(weight.shape))
    shape = (-(-weight.shape[0] // block[0]), -(-weight.shape[1] // block[1]))
    expected = f"{weight.name}{SCALE_INV}: F32 {list(shape)}"
    if scale is None:
        return expected, "no such tensor"
    if scale.dtype != "F32" or scale.shape != shape:
        return expected, f"{scale.dtype} {list(scale.shape)}"
    return None


def _packed_findings(tensors: Mapping[str, Tensor], quantization: Quantization, where: str) -> list[Finding]:
    stems = {
        name.removesuffix(suffix) for name in tensors for suffix in (PACKED, SHAPE) if name.endswith(suffix)
    }
    faults = ((stem, _packed_fault(stem, tensors, quantization)) for stem in sorted(stems))
    return _scale_findings("int4-scale", where, faults)


def _packed_fault(
    stem: str, tensors: Mapping[str, Tensor], quantization: Quantization
) -> tuple[str, str] | None:
    missing = [suffix for suffix in (PACKED, SCALE, SHAPE) if stem + suffix not in tensors]
    if missing:
        return "weight_packed, weight_scale and weight_shape", "no " + ", ".join(
            s.lstrip(".") for s in missing
        )
    packed, scale, shape = (tensors[stem + suffix] for suffix in (PACKED, SCALE, SHAPE))
    if packed.dtype != "I32" or len(packed.shape) != 2:
        return "weight_packed: I32, two dimensions", f"{packed.dtype} {list(packed.shape)}"
    if shape.dtype not in ("I32", "I64") or shape.shape != (2,):
        return "weight_shape: I32 or I64 [2]", f"{shape.dtype} {list(shape.shape)}"
    rows, columns = packed.shape[0], packed.shape[1] * (PACKED_BITS // (quantization.bits or 4))
    groups = -(-columns // quantization.group_size) if quantization.group_size else 1
    if scale.dtype not in SCALE_DTYPES or scale.shape != (rows, groups):
        return (
            f"weight_scale: {[rows, groups]} for {rows} rows of {columns} values",
            f"{scale.dtype} {list(scale.shape)}",
        )
    return None


def _scale_findings(
    reference: str, where: str, faults: Iterable[tuple[str, tuple[str, str] | None]]
) -> list[Finding]:
    """One finding per faulty weight; only the first ones, since one wrong block size spoils all."""
    wrong = [(name, fault) for name, fault in faults if fault is not None]
    findings = [_finding(reference, f"{where}: {name!r}", *fault) for name, fault in wrong[:_SHOWN]]
    if len(wrong) > _SHOWN:
        found = f"{len(wrong)} weights in all"
        findings.append(_finding(reference, where, "scales that fit every weight", found))
    return findings


def parameter_count(tensors: Iterable[Tensor], quantization: Quantization) -> int:
    """Parameters of the model: packed values unpacked, scales and shapes left out."""
    total = 0
    for tensor in tensors:
        if tensor.name.endswith(PACKED):
            total += tensor.count * (PACKED_BITS // (quantization.bits or 4))
        elif not tensor.name.endswith((SCALE_INV, SCALE, SHAPE)):
            total += tensor.count
    return total


def format_finding(declared: str, found: str, *, where: str) -> Finding | None:
    """A finding (`weight-format`) when the weights are not what the spec declared; `any` fits all."""
    if declared in ("any", found):
        return None
    return Finding(
        "weight-format",
        "the weights are not in the declared format",
        where=where,
        expected=declared,
        found=found,
        hint=f"set `format: {found}` in the spec if that is what was wanted, or take another revision",
        exit_code=ExitCode.POLICY,
    )


_WHAT = {
    "fp8-scale": "an FP8 weight and its block scales do not fit each other",
    "int4-scale": "a packed INT4 weight and its scales do not fit each other",
    "quantization-config": "config.json declares a quantisation that the weights do not have",
}


def _finding(reference: str, where: str, expected: str, found: str) -> Finding:
    return malformed(reference, _WHAT[reference], where, expected, found, hint=COMPARE)
