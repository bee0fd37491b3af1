"""Two tables to print: Kimi K2 on the nodes people ask about, and the simple arithmetic of the guides."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from bundler.sizing.gpus import gpu_kind
from bundler.sizing.memory import DEFAULT_OVERHEAD, Demand, Fit, Layout, ModelShape, fit
from bundler.sizing.weights import KIMI_K2_CONFIG, formula_weights


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceRow:
    """One row of the reference table: what is true, beside what is often said."""

    weights: str
    gpus: int
    gpu: str
    fit: Fit
    at_097: Fit
    """The same with nearly all memory given to the engine."""
    said: str
    """What widely copied guides say about this node."""

    @property
    def verdict(self) -> str:
        """`3.3 x 256K`, `max-model-len 188,416`, `no`, or `no (0.97: ...)` where it is close."""
        if self.fit.verdict == "no":
            return f"no{self._close()}"
        if self.fit.verdict == "shorter":
            return f"max-model-len {self.fit.longest_context:,}"
        sequences = self.fit.sequences or Fraction(0)
        return f"{_tenths(sequences)} x 256K"

    def _close(self) -> str:
        """What 0.97 would give, when less than an eighth of a GPU is missing."""
        if -self.fit.left * 8 > gpu_kind(self.gpu).memory or self.weights == "any":
            return ""
        if self.at_097.left > 0:
            return f" (0.97: {self.at_097.kv_tokens:,} tokens)"
        return f" (0.97: {_tenths(Fraction(self.at_097.left, 10**9))})"


_REFERENCE = (
    ("block-fp8", 8, "H200-141G", "fits, 128 GB headroom"),
    ("block-fp8", 16, "H200-141G", ""),
    ("block-fp8", 8, "H100-80G", "no"),
    ("block-fp8", 8, "B200-180G", ""),
    ("int4", 8, "H200-141G", ""),
    ("int4", 8, "H100-80G", "fits, 140 GB headroom"),
    ("int4", 16, "H100-80G", ""),
    ("int4", 4, "B200-180G", ""),
    ("any", 2, "H100-80G", "serves a real workload"),
    ("bf16", 24, "H200-141G", "~2,000 GB"),
)


def reference_table(overhead: int = DEFAULT_OVERHEAD) -> tuple[ReferenceRow, ...]:
    """Kimi K2 on the nodes people ask about, at 262,144 tokens and 0.90, weights by formula.

    Every GPU is taken as a tensor-parallel rank that holds the whole KV cache (the cautious reading for more
    than one machine); `any` is the smallest format, int4.
    """
    return tuple(_reference_row(*row, overhead) for row in _REFERENCE)


def _reference_row(weights: str, gpus: int, gpu: str, said: str, overhead: int) -> ReferenceRow:
    size = formula_weights(KIMI_K2_CONFIG, "int4" if weights == "any" else weights)
    assert size is not None
    shape, layout, kind = ModelShape.parse(KIMI_K2_CONFIG), Layout(tensor=gpus), gpu_kind(gpu)
    usual = Demand(weights=size, shape=shape, overhead=overhead)
    nearly_all = Demand(weights=size, shape=shape, overhead=overhead, utilisation=Fraction(97, 100))
    return ReferenceRow(
        weights=weights,
        gpus=gpus,
        gpu=gpu,
        fit=fit(usual, kind, layout),
        at_097=fit(nearly_all, kind, layout),
        said=said,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SimpleRow:
    """One row of the weights-only table, in bytes: parameters x bytes each against the memory on the box."""

    weights_format: str
    weights: int
    node: str
    memory: int

    @property
    def headroom(self) -> int:
        """Memory that weights leave; negative when they do not fit."""
        return self.memory - self.weights


def weights_only_table(parameters: int = 10**12) -> tuple[SimpleRow, ...]:
    """The simple arithmetic that guides print: no KV cache, no overhead, sold memory. Not for decisions."""
    per_parameter = {"BF16": Fraction(2), "FP8": Fraction(1), "4-bit": Fraction(1, 2)}
    sold = {"8x H100": 80, "8x H200": 141, "8x B200": 192}
    return tuple(
        SimpleRow(weights_format=name, weights=int(parameters * each), node=node, memory=8 * size * 10**9)
        for name, each in per_parameter.items()
        for node, size in sold.items()
    )


def _tenths(number: Fraction) -> str:
    """`3.3`, `-2.5`: one decimal, half to even, without floats."""
    tenths = round(number * 10)
    return f"{'-' if tenths < 0 else ''}{abs(tenths) // 10}.{abs(tenths) % 10}"
