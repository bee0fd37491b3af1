"""How quantised weights and their scales lie in safetensors files: one row for each layout in the wild.

Weights and scales must agree in *their own* layout: the row is chosen by the names and types of the tensors,
and the configuration only gives block, group and bits. A wrong shape or a missing scale of a known layout is
an error. A layout without a row is reported as not checked. What is *not* checked: the values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bundler.content.findings import COMPARE, malformed
from bundler.content.quantization import Quantization
from bundler.content.safetensors import Tensor
from bundler.errors import ExitCode, Finding

FP8_DTYPES = frozenset({"F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"})
REAL = frozenset({"F32", "BF16", "F16"})
EXPONENTS = frozenset({"U8", "F8_E8M0"})
"""Scales that are powers of two: the bytes of F8_E8M0, often stored as U8."""
_WEIGHT_ENDINGS = ("", ".weight", "_packed", ".qweight", "_blocks", ".blocks")
SCALE_ENDINGS = ("_scale_inv", "_scale", "_scales", ".scale", ".scales", ".scale_inv", ".qscale_weight")
WORD_BITS = 32
PURE_SHARE = 0.99
"""Share of bytes that one dtype has in weights that are not quantised: the rest is norms and routers."""
PLAIN_FORMATS = frozenset({"bf16", "f16", "f32"})
INTEGER_FORMATS = frozenset({"int2", "int3", "int4", "int8"})
OTHER = "mixed"
_SHOWN = 8
Tensors = Mapping[str, Tensor]
Shape = tuple[int, ...]


class Fault(NamedTuple):
    """What is wrong with one weight."""

    reference: str
    expected: str
    found: str


@dataclass(frozen=True, slots=True)
class Judged:
    """One quantised weight: its format, how many values it stands for, and what is wrong, if anything.

    `unchecked` says why its scales were not compared with it.
    """

    format: str
    values: int
    fault: Fault | None = None
    unchecked: str = ""


Check = Callable[[Tensor, Tensors, Quantization], Judged | None]


@dataclass(frozen=True, slots=True)
class Layout:
    """One row: which tensors are its weights (by the end of the name and by dtype), and their check."""

    name: str
    ending: str
    dtypes: frozenset[str]
    check: Check


@dataclass(slots=True)
class Quantized:
    """What all tensors of a folder show."""

    formats: Counter[str] = field(default_factory=Counter)
    """Bytes of quantised weights by format."""
    plain: Counter[str] = field(default_factory=Counter)
    """Bytes of all other tensors by dtype."""
    values: int = 0
    """Parameters of the model: packed values unpacked, scales left out."""
    faults: list[tuple[str, Fault]] = field(default_factory=list)
    unchecked: dict[str, list[str]] = field(default_factory=dict)
    """Why scales were not checked, with the names of the weights."""

    @property
    def format(self) -> str:
        """The format with the most bytes: quantised before plain; `mixed` for any other, `none` without."""
        if self.formats:
            return self.formats.most_common(1)[0][0]
        total = sum(self.plain.values())
        if not total:
            return "none"
        dtype, size = self.plain.most_common(1)[0]
        return dtype.lower() if size >= PURE_SHARE * total and dtype.lower() in PLAIN_FORMATS else OTHER


def judge_layouts(tensors: Tensors, quantization: Quantization) -> Quantized:
    """Every tensor by the first row that it fits; scales and other companions are not counted as values."""
    found = Quantized()
    for name, tensor in tensors.items():
        judged = _judge(tensor, tensors, quantization)
        if judged is not None:
            found.formats[judged.format] += tensor.size
            found.values += judged.values
            if judged.fault:
                found.faults.append((name, judged.fault))
            if judged.unchecked:
                found.unchecked.setdefault(judged.unchecked, []).append(name)
            continue
        found.plain[tensor.dtype] += tensor.size
        if not _is_companion(name, tensors):
            found.values += tensor.count
    return found


def _judge(tensor: Tensor, tensors: Tensors, quantization: Quantization) -> Judged | None:
    for layout in _BY_DTYPE.get(tensor.dtype, ()):
        if tensor.name.endswith(layout.ending):
            judged = layout.check(tensor, tensors, quantization)
            if judged is not None:
                return judged
    return None


# --- shapes -----------------------------------------------------------------------------------------------


def _ceil(value: int, by: int) -> int:
    return -(-value // by)


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def scale_of(weight: Tensor, tensors: Tensors) -> Tensor | None:
    """The scale beside a weight, under the names that publishers use."""
    name = weight.name
    names = [name + ending for ending in SCALE_ENDINGS]
    if name.endswith(".weight"):
        names += [_stem(name) + ending for ending in (".scale", ".scale_inv", ".scales", ".qscale_weight")]
    return next((tensors[one] for one in names if one in tensors), None)


def _is_scale(name: str, tensors: Tensors) -> bool:
    """Whether a tensor is the scale of another one, found by its name."""
    for ending in SCALE_ENDINGS:
        if name.endswith(ending):
            base = name.removesuffix(ending)
            # One look-up each: a set operation would walk through all tensors for every scale.
            if any(base + part in tensors for part in _WEIGHT_ENDINGS):
                return True
    return False


_COMPANIONS = (
    *(".weight_shape", ".weight_zero_point", ".weight_g_idx", ".g_idx", ".qzeros", ".input_scale"),
    *(".weight_global_scale", ".input_global_scale", ".weight_scale_2", "_scale_2", "_input_scale"),
    *(".k_scale", ".v_scale", ".q_scale", ".pre_quant_scale", ".qscale_act", ".input_zero_point"),
)


def _is_companion(name: str, tensors: Tensors) -> bool:
    return name.endswith(_COMPANIONS) or _is_scale(name, tensors) or name.endswith("_scale_inv")


def _per_tensor_or_row(shape: Shape, rows: Shape, columns: int) -> bool:
    """One scale for all, for each expert, or for each row or column (3-D experts are stored either way)."""
    bare = tuple(size for size in shape if size != 1)
    full = tuple(size for size in rows if size != 1)
    lead = tuple(size for size in rows[:-1] if size != 1)
    across = tuple(size for size in (*rows[:-1], columns) if size != 1)
    return bare in ((), full, lead) or (len(rows) > 1 and bare == across)


def _grouped(shape: Shape, rows: Shape, columns: int, sizes: Iterable[int]) -> bool:
    return any(shape == (*rows, _ceil(columns, size)) for size in sizes)


def _text(tensor: Tensor | None) -> str:
    return f"{tensor.dtype} {list(tensor.shape)[:8]}" if tensor else "no such tensor"


# --- 8 bits -----------------------------------------------------------------------------------------------


def _fp8(weight: Tensor, tensors: Tensors, quantization: Quantization) -> Judged | None:
    if weight.name.endswith(SCALE_ENDINGS):
        return None
    scale, blocks = scale_of(weight, tensors), quantization.blocks
    declared = "block-fp8" if blocks else "fp8"
    if len(weight.shape) < 2:
        return Judged(declared, weight.count, unchecked="FP8 tensors that are not matrices")
    if scale is None and not quantization.known:
        return Judged("fp8", weight.count, unchecked="FP8 tensors without scales that this check knows")
    rows, columns = weight.shape[:-1], weight.shape[-1]
    wanted = [(*rows[:-1], _ceil(rows[-1], r), _ceil(columns, c)) for r, c in blocks]
    if scale is not None and scale.dtype in REAL | EXPONENTS and _squeezed(scale.shape) in wanted:
        exact = "mxfp8" if scale.dtype in EXPONENTS and (1, 32) in blocks else "block-fp8"
        return Judged(exact, weight.count)
    if scale is not None and (not blocks or len(quantization.schemes) > 1 or quantization.per_layer):
        kind = _fp8_without_blocks(weight, scale, quantization)
        if kind:
            return Judged(kind, weight.count)
    shapes = " or ".join(str(list(shape)) for shape in wanted) or "one value, one for each row, or groups"
    name = scale.name if scale else f"{weight.name}_scale_inv" if blocks else f"{weight.name}_scale"
    return Judged(
        declared,
        weight.count,
        Fault("fp8-scale", f"{name}: F32, BF16, F16 or F8_E8M0, {shapes}", _text(scale)),
    )


def _squeezed(shape: Shape) -> Shape:
    """modelopt writes block scales as [rows, 1, columns, 1]."""
    return (shape[0], shape[2]) if len(shape) == 4 and shape[1] == shape[3] == 1 else shape


def _fp8_without_blocks(weight: Tensor, scale: Tensor, quantization: Quantization) -> str:
    rows, columns = weight.shape[:-1], weight.shape[-1]
    sizes = [size for size in quantization.group_sizes if size]
    if scale.dtype in EXPONENTS and _grouped(scale.shape, rows, columns, sizes or [32]):
        return "mxfp8"
    if scale.dtype in REAL and (
        _per_tensor_or_row(scale.shape, rows, columns) or _grouped(scale.shape, rows, columns, sizes)
    ):
        return "fp8"
    return ""


def _byte_weight(weight: Tensor, tensors: Tensors, quantization: Quantization) -> Judged | None:
    """I8 and U8 matrices: the dtype of the scale says whether two FP4 values share a byte."""
    scale = scale_of(weight, tensors)
    if weight.name.endswith(SCALE_ENDINGS) and scale is None:
        return None
    if scale is None:
        return _without_scale(weight, quantization)
    if scale.dtype == "F8_E4M3":
        return _nvfp4(weight, scale, tensors)
    if scale.dtype in EXPONENTS:
        return _fp4(weight, scale, "mxfp4", 32)
    if weight.dtype == "I8":
        return _int8(weight, scale, quantization)
    return Judged(OTHER, weight.count, unchecked="packed U8 weights with scales of real numbers")


def _without_scale(weight: Tensor, quantization: Quantization) -> Judged | None:
    if not weight.name.endswith(".weight") or len(weight.shape) < 2:
        return None
    if quantization.known and not quantization.stored_plain:
        fault = Fault("quantization-scale", f"{weight.name}_scale", "no such tensor")
        return Judged("int8" if weight.dtype == "I8" else OTHER, weight.count, fault)
    return Judged(
        OTHER, weight.count, unchecked=f"{weight.dtype} weights without scales that this check knows"
    )


def _int8(weight: Tensor, scale: Tensor, quantization: Quantization) -> Judged:
    rows, columns = weight.shape[:-1], weight.shape[-1] if weight.shape else 1
    sizes = [size for size in quantization.group_sizes if size]
    fits = scale.dtype in REAL and (
        _per_tensor_or_row(scale.shape, rows, columns) or _grouped(scale.shape, rows, columns, sizes)
    )
    fault = (
        None
        if fits
        else Fault("quantization-scale", f"{scale.name}: one value, or one for each row", _text(scale))
    )
    return Judged("int8", weight.count, fault)


# --- 4 bits -----------------------------------------------------------------------------------------------


def _fp4(weight: Tensor, scale: Tensor | None, name: str, group: int) -> Judged:
    """Two values in a byte (dtype F4: the shape counts values), a scale for each `group` of a row."""
    per_element = 1 if weight.dtype == "F4" else 2
    values = weight.count * per_element
    shapes = [(*weight.shape[:-1], _ceil(weight.shape[-1] * per_element, group))] if weight.shape else []
    if len(weight.shape) == 3:
        # Fused experts may be stored with the packed dimension in the middle.
        experts, inner, outer = weight.shape
        shapes.append((experts, _ceil(inner * per_element, group), outer))
    if scale is not None and scale.shape in shapes:
        return Judged(name, values)
    expected = " or ".join(str(list(shape)) for shape in shapes) or "a matrix"
    what = scale.name if scale else f"{weight.name}: a scale"
    return Judged(name, values, Fault("quantization-scale", f"{what}: {expected}", _text(scale)))


def _nvfp4(weight: Tensor, scale: Tensor, tensors: Tensors) -> Judged:
    judged = _fp4(weight, scale, "nvfp4", 16)
    base = scale.name.removesuffix("_scale")
    names = [f"{scale.name}_2", f"{base}_global_scale", f"{base}_scale_2"]
    whole = next((tensors[name] for name in names if name in tensors), None)
    if judged.fault or (whole is not None and whole.dtype == "F32" and len(whole.shape) < 3):
        return judged
    fault = Fault(
        "quantization-scale", f"{names[0]} or {names[1]}: F32, one value or one for each expert", _text(whole)
    )
    return Judged("nvfp4", judged.values, fault)


def _float4(weight: Tensor, tensors: Tensors, quantization: Quantization) -> Judged | None:
    scale = scale_of(weight, tensors)
    if scale is None and not quantization.known:
        return Judged(OTHER, weight.count, unchecked="F4 tensors without scales that this check knows")
    if scale is not None and scale.dtype == "F8_E4M3":
        return _nvfp4(weight, scale, tensors)
    return _fp4(weight, scale, "mxfp4", 32)


def _blocks(weight: Tensor, tensors: Tensors, quantization: Quantization) -> Judged | None:
    """gpt-oss: 32 values in 16 bytes as a dimension of their own, `_scales` without that dimension."""
    separator = weight.name[-7]
    scale = tensors.get(f"{weight.name[:-7]}{separator}scales")
    values = weight.count * 2
    if (
        scale is not None
        and scale.dtype in EXPONENTS
        and weight.shape[-1:] == (16,)
        and scale.shape == weight.shape[:-1]
    ):
        return Judged("mxfp4", values)
    if scale is None and not quantization.known:
        return None
    expected = f"{weight.name[:-6]}scales: U8 {list(weight.shape[:-1])}, with 16 bytes a block"
    return Judged("mxfp4", values, Fault("quantization-scale", expected, _text(scale)))


# --- compressed-tensors' packed weights -------------------------------------------------------------------


def _packed(weight: Tensor, tensors: Tensors, quantization: Quantization) -> Judged | None:
    scale = tensors.get(f"{_stem(weight.name)}.weight_scale")
    floats = any(scheme.format.startswith(("nvfp4", "mxfp4")) for scheme in quantization.schemes)
    if weight.dtype == "U8" and (floats or (scale is not None and scale.dtype in EXPONENTS | {"F8_E4M3"})):
        return _packed_float(weight, scale, tensors, quantization)
    return _packed_integers(weight, scale, tensors, quantization)


def _packed_float(
    weight: Tensor, scale: Tensor | None, tensors: Tensors, quantization: Quantization
) -> Judged:
    declared = {scheme.format.partition("-")[0] for scheme in quantization.schemes if scheme.format}
    kind = "nvfp4" if scale is not None and scale.dtype == "F8_E4M3" else "mxfp4"
    floats = declared & {"nvfp4", "mxfp4"}
    if scale is None or (kind == "mxfp4" and scale.dtype not in EXPONENTS) or (floats and kind not in floats):
        kind = next(iter(sorted(floats)), kind)
        wanted = "F8_E4M3" if kind == "nvfp4" else "U8 or F8_E8M0"
        expected = f"{_stem(weight.name)}.weight_scale: {wanted}, as {kind} has it"
        return Judged(kind, weight.count * 2, Fault("quantization-scale", expected, _text(scale)))
    return _nvfp4(weight, scale, tensors) if kind == "nvfp4" else _fp4(weight, scale, "mxfp4", 32)


def _packed_integers(
    weight: Tensor, scale: Tensor | None, tensors: Tensors, quantization: Quantization
) -> Judged:
    widths = [bits for bits in quantization.bits() if bits <= 8] or [4]
    faults: list[Fault] = []
    for bits in widths:
        fault = _packed_fault(weight, scale, tensors, quantization, bits)
        if fault is None:
            return Judged(_integer_format(bits), weight.count * WORD_BITS // bits)
        faults.append(fault)
    return Judged(_integer_format(widths[0]), weight.count * WORD_BITS // widths[0], faults[0])


def _integer_format(bits: int) -> str:
    return f"int{bits}" if f"int{bits}" in INTEGER_FORMATS else OTHER


def _packed_fault(
    weight: Tensor, scale: Tensor | None, tensors: Tensors, quantization: Quantization, bits: int
) -> Fault | None:
    """Values lie dense in words of 32 bits: a row of n values takes ceil(n * bits / 32) words."""
    stem = _stem(weight.name)
    shape, zero = tensors.get(f"{stem}.weight_shape"), tensors.get(f"{stem}.weight_zero_point")
    if scale is None or shape is None:
        missing = [n for n, t in (("weight_scale", scale), ("weight_shape", shape)) if t is None]
        return Fault("int4-scale", "weight_packed, weight_scale and weight_shape", "no " + ", ".join(missing))
    if weight.dtype != "I32" or len(weight.shape) < 2:
        return Fault("int4-scale", "weight_packed: I32, two dimensions", _text(weight))
    shapes = ((2,), (3,), (weight.shape[0], 2)) if len(weight.shape) == 3 else ((2,),)
    if shape.dtype not in ("I32", "I64") or shape.shape not in shapes:
        return Fault("int4-scale", "weight_shape: I32 or I64 [2]", _text(shape))
    rows, words = weight.shape[:-1], weight.shape[-1]
    most, least = words * WORD_BITS // bits, ((words - 1) * WORD_BITS) // bits + 1
    groups = {
        count
        for size in quantization.group_sizes or (None,)
        for count in (range(_ceil(least, size), _ceil(most, size) + 1) if size else (1,))
    }
    one = None in quantization.group_sizes and _per_tensor_or_row(scale.shape, rows, most)
    if scale.dtype not in REAL or not (one or any(scale.shape == (*rows, count) for count in groups)):
        wanted = " or ".join(str([*rows, count]) for count in sorted(groups)[:2])
        return Fault("int4-scale", f"weight_scale: {wanted} for rows of {most} values", _text(scale))
    return _zero_point_fault(zero, scale, quantization, bits)


def _zero_point_fault(
    zero: Tensor | None, scale: Tensor, quantization: Quantization, bits: int
) -> Fault | None:
    if zero is None:
        asked = bool(quantization.schemes) and all(s.symmetric is False for s in quantization.schemes)
        return Fault("int4-scale", "weight_zero_point, since `symmetric` is false", "none") if asked else None
    *lead, rows, groups = scale.shape if len(scale.shape) > 1 else (*scale.shape, 1)
    packed = (*lead, _ceil(rows * bits, WORD_BITS), groups)
    if (zero.dtype, zero.shape) == ("I32", packed) or (
        zero.dtype in ("I8", "U8") and zero.shape == scale.shape
    ):
        return None
    return Fault("int4-scale", f"weight_zero_point: I32 {list(packed)}", _text(zero))


# --- GPTQ and AWQ -----------------------------------------------------------------------------------------


def _qweight(weight: Tensor, tensors: Tensors, quantization: Quantization) -> Judged | None:
    """GPTQ packs along the input dimension, AWQ along the output; both have `scales` [groups, outputs]."""
    stem = _stem(weight.name)
    scale, zeros = tensors.get(f"{stem}.scales"), tensors.get(f"{stem}.qzeros")
    widths = quantization.bits()
    packings = {"gptq": (True,), "awq": (False,)}.get(quantization.method, (True, False))
    values = weight.count * WORD_BITS // widths[0]
    if not quantization.known and quantization.method not in ("", "unnamed", "auto-round", "autoround"):
        return Judged(OTHER, values, unchecked=f"weights of the method {quantization.method[:40]!r}")
    for bits in widths:
        for along_input in packings:
            if _qweight_fits(
                weight, scale, zeros, tensors.get(f"{stem}.g_idx"), quantization, bits, along_input
            ):
                return Judged(_integer_format(bits), weight.count * WORD_BITS // bits)
    found = f"{_text(weight)}, scales {_text(scale)}, qzeros {_text(zeros)}"
    expected = f"qweight, scales [groups, outputs] and qzeros that fit {widths[0]} bits"
    return Judged(_integer_format(widths[0]), values, Fault("quantization-scale", expected, found))


def _qweight_fits(
    weight: Tensor,
    scale: Tensor | None,
    zeros: Tensor | None,
    order: Tensor | None,
    quantization: Quantization,
    bits: int,
    along_input: bool,
) -> bool:
    if scale is None or scale.dtype not in REAL or len(scale.shape) != 2 or len(weight.shape) != 2:
        return False
    groups, outputs = scale.shape
    words = _ceil(outputs * bits, WORD_BITS)
    inputs = order.shape[0] if order is not None and order.shape else weight.shape[0] * WORD_BITS // bits
    if not along_input:
        inputs = weight.shape[0]
    expected = (_ceil(inputs * bits, WORD_BITS), outputs) if along_input else (inputs, words)
    counts = {_ceil(inputs, size) if size else 1 for size in quantization.group_sizes or (128,)}
    if weight.shape != expected or (groups not in counts and not quantization.per_layer):
        return False
    if zeros is None:
        return any(scheme.symmetric for scheme in quantization.schemes)
    return zeros.dtype == "I32" and zeros.shape == (groups, words)


LAYOUTS = (
    Layout("compressed-tensors pack-quantized (1 to 8 bits)", ".weight_packed", frozenset({"I32"}), _packed),
    Layout("compressed-tensors mxfp4 and nvfp4", ".weight_packed", frozenset({"U8"}), _packed),
    Layout("GPTQ and AWQ", ".qweight", frozenset({"I32"}), _qweight),
    Layout("gpt-oss MXFP4", "_blocks", frozenset({"U8"}), _blocks),
    Layout("gpt-oss MXFP4, original", ".blocks", frozenset({"U8"}), _blocks),
    Layout("FP8 by block, group, row or tensor; MXFP8", "", FP8_DTYPES, _fp8),
    Layout(
        "FP4 in bytes (modelopt NVFP4, DeepSeek-V4 experts), INT8", "", frozenset({"U8", "I8"}), _byte_weight
    ),
    Layout("FP4 as the dtype F4", "", frozenset({"F4"}), _float4),
)
"""The first row that fits a tensor judges it. No row: the tensor is not quantised, or not known to be."""
_BY_DTYPE: Mapping[str, tuple[Layout, ...]] = {
    dtype: tuple(layout for layout in LAYOUTS if dtype in layout.dtypes)
    for dtype in {dtype for layout in LAYOUTS for dtype in layout.dtypes}
}


# --- findings ---------------------------------------------------------------------------------------------


def quantization_findings(
    tensors: Tensors, quantization: Quantization, found: Quantized, *, where: str
) -> Iterator[Finding]:
    """Findings about scales, about a configuration that the weights contradict, and what was not checked.

    References: `fp8-scale`, `int4-scale`, `quantization-scale`, `quantization-config` (errors);
    `quantization-unchecked` (warning).
    """
    yield from _fault_findings([*_orphans(tensors, quantization), *found.faults], where)
    declared = bool(quantization.method) and not quantization.stored_plain
    if declared and quantization.known and tensors and not found.formats:
        expected = f"weights quantised as `{quantization.method}`"
        yield _finding("quantization-config", where, expected, found.format)
    if declared and not quantization.known:
        method = quantization.method[:60]
        yield _unchecked(where, f"the method {method!r}, which this check does not know")
    for reason, names in sorted(found.unchecked.items()):
        yield _unchecked(where, f"{reason}: {len(names)}, for example {names[0][:120]!r}")


def _orphans(tensors: Tensors, quantization: Quantization) -> Iterator[tuple[str, Fault]]:
    """Scales and shapes whose weight is missing."""
    for name in tensors:
        if name.endswith("_scale_inv") and not _is_scale(name, tensors):
            yield name, Fault("fp8-scale", "the weight that this scale belongs to", "no such tensor")
        elif name.endswith(".weight_shape") and f"{_stem(name)}.weight_packed" not in tensors:
            yield name, Fault("int4-scale", f"{_stem(name)}.weight_packed", "no such tensor")
        elif name.endswith(".weight_scale") and quantization.known and not _is_scale(name, tensors):
            yield name, Fault("quantization-scale", f"{_stem(name)}.weight", "no such tensor")


def _fault_findings(faults: Sequence[tuple[str, Fault]], where: str) -> Iterator[Finding]:
    """One finding per faulty weight; only the first ones, since one wrong block size spoils all."""
    counts = Counter(fault.reference for _, fault in faults)
    shown: Counter[str] = Counter()
    for name, fault in sorted(faults):
        shown[fault.reference] += 1
        if shown[fault.reference] <= _SHOWN:
            yield _finding(fault.reference, f"{where}: {name!r}", fault.expected, fault.found)
    for reference, count in sorted(counts.items()):
        if count > _SHOWN:
            yield _finding(reference, where, "scales that fit every weight", f"{count} weights in all")


_WHAT = {
    "fp8-scale": "an FP8 weight and its scales do not fit each other",
    "int4-scale": "a packed integer weight and its scales do not fit each other",
    "quantization-scale": "a quantised weight and its scales do not fit each other",
    "quantization-config": "config.json declares a quantisation that the weights do not have",
}


def _finding(reference: str, where: str, expected: str, found: str) -> Finding:
    return malformed(reference, _WHAT[reference], where, expected, found, hint=COMPARE)


def _unchecked(where: str, found: str) -> Finding:
    return Finding(
        "quantization-unchecked",
        "quantised weights were not compared with their scales",
        where=where,
        expected="a layout that this check knows",
        found=found,
        hint="start the engine with this model once on the connected side before it is carried",
        severity="warning",
        exit_code=ExitCode.POLICY,
    )
