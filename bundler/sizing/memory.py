"""Whether a model fits a machine: weights, overhead and KV cache on each GPU. Integers and fractions only.

For each GPU: weights / N + overhead + tokens x KV bytes per token <= memory x utilisation.

- **Weights** are all parameters, never the active ones: every expert is in memory. They are the real shard
  sizes; `sizing.weights` estimates them before anything is pinned.
- **KV cache.** Multi-head latent attention (DeepSeek-V3, Kimi K2) keeps one latent vector of `kv_lora_rank`
  + `qk_rope_head_dim` elements per token and layer, and it is **the same on every tensor-parallel rank**:
  only decode context parallelism divides it. Grouped-query attention keeps 2 x head_dim elements per KV head,
  divided over min(tensor parallel, KV heads) ranks. Pipeline stages keep only their own layers. Sliding
  windows and linear attention are counted like full attention, so the answer errs on the safe side.
- **Overhead** (activations, CUDA graphs, communication buffers) cannot be derived. The default of 11.2 GB is
  calibrated on one published point: the vLLM recipe for Kimi-K2-Thinking on 8x H200, tensor parallel 8,
  utilisation 0.90, states 715,072 tokens of KV cache; solving the line above gives 11.15 GB. Other engines
  and small models need less: override it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from bundler.sizing.gpus import GPU_KINDS, GpuKind

DEFAULT_OVERHEAD = 11_200_000_000
"""Bytes on each GPU; see the module's text for where it comes from."""
DEFAULT_RAM_OVERHEAD = 4_000_000_000
"""Bytes of main memory beside weights and KV cache on a CPU: engine process (62 MB llama.cpp, 2.5 GB vLLM,
measured with a tiny model) and compute buffers (not measured with a large one). Override it."""
CONTEXT_STEP = 1024
MAX_STAGES = 16
Verdict = Literal["fits", "shorter", "no", "context-unknown"]
_BYTES_PER_ELEMENT = {
    "auto": 2,
    "bfloat16": 2,
    "float16": 2,
    "fp8": 1,
    "fp8_e4m3": 1,
    "fp8_e5m2": 1,
    "f16": 2,
    "q8_0": 1,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What of a model's `config.json` decides the size of its KV cache."""

    layers: int
    heads: int
    kv_heads: int
    """1 for latent attention: one latent vector serves all heads."""
    elements_per_head: int
    """Cached numbers per token, layer and KV head."""
    latent: bool
    """Multi-head latent attention: every tensor-parallel rank holds the same cache."""
    context: int | None
    """Longest context the model was made for."""

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> ModelShape | None:
        """The shape in `config`, or in its `text_config`; None when the members needed are not all there."""
        text = language_config(config)
        layers, heads = count_of(text, "num_hidden_layers"), count_of(text, "num_attention_heads")
        if layers is None or heads is None:
            return None
        context = count_of(text, "max_position_embeddings")
        rank, rope = count_of(text, "kv_lora_rank"), count_of(text, "qk_rope_head_dim")
        if rank is not None and rope is not None:
            return cls(
                layers=layers,
                heads=heads,
                kv_heads=1,
                elements_per_head=rank + rope,
                latent=True,
                context=context,
            )
        kv_heads = count_of(text, "num_key_value_heads") or heads
        head = count_of(text, "head_dim") or (count_of(text, "hidden_size") or 0) // heads
        if not head:
            return None
        return cls(
            layers=layers,
            heads=heads,
            kv_heads=kv_heads,
            elements_per_head=2 * head,
            latent=False,
            context=context,
        )

    @classmethod
    def parse_gguf(cls, architecture: str, integer: Callable[[str], int | None]) -> ModelShape | None:
        """The shape in a GGUF header, whose members `integer` looks up; None when one needed is missing.

        llama.cpp keeps `key_length` + `value_length` numbers per KV head, for latent attention too.
        """

        def member(name: str) -> int | None:
            value = integer(f"{architecture}.{name}")
            return value if value is not None and 0 < value < 2**40 else None

        layers, heads = member("block_count"), member("attention.head_count")
        if layers is None or heads is None:
            return None
        head = (member("embedding_length") or 0) // heads
        key, value = member("attention.key_length") or head, member("attention.value_length") or head
        if not key or not value:
            return None
        kv_heads = member("attention.head_count_kv") or heads
        return cls(
            layers=layers,
            heads=heads,
            kv_heads=kv_heads,
            elements_per_head=key + value,
            latent=kv_heads == 1,
            context=member("context_length"),
        )

    def kv_bytes(self, layout: Layout, bytes_per_element: int = 2) -> int:
        """Bytes of KV cache that one token needs on each GPU."""
        ranks = 1 if self.latent else min(layout.tensor, self.kv_heads)
        heads = -(-self.kv_heads // ranks)
        return heads * self.elements_per_head * layout.layers_per_stage(self.layers) * bytes_per_element


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a model is spread: each layer over `tensor` GPUs, the layers over `pipeline` stages."""

    tensor: int = 1
    pipeline: int = 1
    decode_context: int = 1
    """Decode context parallelism: the tokens of one sequence over so many of the tensor ranks."""

    @property
    def gpus(self) -> int:
        """GPUs in all; decode context parallelism reuses the tensor ranks."""
        return self.tensor * self.pipeline

    def layers_per_stage(self, layers: int) -> int:
        """Layers of the fullest stage."""
        return -(-layers // self.pipeline)

    @classmethod
    def of_launch(cls, tensor: int, arguments: Sequence[str]) -> Layout:
        """The layout a launch asks for, with the pipeline and context flags among its further arguments."""
        return cls(
            tensor=tensor,
            pipeline=_flag(arguments, "--pipeline-parallel-size", "-pp", "--pp-size", "--pp_size"),
            decode_context=_flag(arguments, "--decode-context-parallel-size", "-dcp"),
        )

    @classmethod
    def of_node(cls, gpus: int, shape: ModelShape | None) -> Layout:
        """The usual layout on `gpus`: tensor parallel up to 8 (a power of two dividing them), then stages."""
        fitting = [size for size in (1, 2, 4, 8) if gpus % size == 0 and _heads_divide(shape, size)]
        return cls(tensor=fitting[-1], pipeline=gpus // fitting[-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What has to fit: a model and what is wanted from it."""

    weights: int
    """Bytes of all weight files."""
    shape: ModelShape | None
    """None when the configuration is not known: then only the weights are judged."""
    context: int | None = None
    """Tokens wanted in one sequence; the model's own context when None."""
    utilisation: Fraction = Fraction(9, 10)
    """Share of each GPU's memory the engine may take."""
    overhead: int = DEFAULT_OVERHEAD
    bytes_per_element: int = 2
    """Bytes of one cached number."""

    @property
    def wanted_context(self) -> int | None:
        """The context to judge by."""
        return self.context or (self.shape.context if self.shape else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How a demand fits one kind of device, per GPU (or in main memory). All sizes in bytes."""

    device: str
    layout: Layout
    weights: int
    """On each GPU, rounded up."""
    budget: int
    """What the engine may take of each GPU."""
    overhead: int
    left: int
    """For the KV cache; negative when weights and overhead alone are too much."""
    kv_bytes_per_token: int | None
    kv_tokens: int | None
    """Tokens of KV cache over all sequences; None when the configuration is not known."""
    wanted_context: int | None
    model_context: int | None = None
    """Longest context the model was made for."""

    @property
    def gpus(self) -> int:
        """GPUs used."""
        return self.layout.gpus

    @property
    def longest_context(self) -> int | None:
        """Tokens that fit in one sequence, rounded down to 1024; never more than the model was made for."""
        if self.kv_tokens is None:
            return None
        fitting = self.kv_tokens // CONTEXT_STEP * CONTEXT_STEP
        return fitting if self.model_context is None else min(fitting, self.model_context)

    @property
    def verdict(self) -> Verdict:
        """`fits`; `shorter`: it loads, with less context than wanted; `no`: it does not load;
        `context-unknown`: weights and overhead fit, the KV cache could not be judged.

        With fewer than 1024 tokens it counts as not loading: no engine serves anything useful there.
        """
        if self.left <= 0 or self.longest_context == 0:
            return "no"
        if self.kv_tokens is None:
            return "context-unknown"
        return "shorter" if self.wanted_context and self.kv_tokens < self.wanted_context else "fits"

    @property
    def sequences(self) -> Fraction | None:
        """How many sequences of the wanted context the cache holds."""
        if self.kv_tokens is None or not self.wanted_context:
            return None
        return Fraction(self.kv_tokens, self.wanted_context)

    def to_json(self) -> dict[str, Any]:
        """Integers and text only."""
        return {
            "device": self.device,
            "gpus": self.gpus,
            "tensorParallel": self.layout.tensor,
            "pipelineParallel": self.layout.pipeline,
            "decodeContextParallel": self.layout.decode_context,
            "weights": self.weights,
            "budget": self.budget,
            "overhead": self.overhead,
            "left": self.left,
            "kvBytesPerToken": self.kv_bytes_per_token,
            "kvTokens": self.kv_tokens,
            "wantedContext": self.wanted_context,
            "longestContext": self.longest_context,
            "verdict": self.verdict,
        }


def fit(demand: Demand, kind: GpuKind, layout: Layout) -> Fit:
    """How `demand` fits GPUs of `kind` in `layout`."""
    return _fit(demand, kind.name, kind.memory * demand.utilisation, layout)


def fit_ram(demand: Demand, ram: int) -> Fit:
    """How `demand` fits `ram` bytes of main memory; the utilisation does not apply."""
    return _fit(demand, "RAM", Fraction(ram), Layout())


def _fit(demand: Demand, device: str, budget: Fraction, layout: Layout) -> Fit:
    shape = demand.shape
    weights = weights_per_gpu(demand.weights, shape, layout)
    left = budget - weights - demand.overhead
    per_token = shape.kv_bytes(layout, demand.bytes_per_element) if shape else None
    return Fit(
        device=device,
        layout=layout,
        weights=-(-weights.numerator // weights.denominator),
        budget=int(budget),
        overhead=demand.overhead,
        left=left.numerator // left.denominator,
        kv_bytes_per_token=per_token,
        kv_tokens=None if per_token is None else max(0, int(left * layout.decode_context / per_token)),
        wanted_context=demand.wanted_context,
        model_context=shape.context if shape else None,
    )


def weights_per_gpu(weights: int, shape: ModelShape | None, layout: Layout) -> Fraction:
    """Bytes of weights on the fullest GPU: layers cannot be cut between pipeline stages."""
    share = Fraction(1, layout.pipeline)
    if shape is not None:
        share = Fraction(layout.layers_per_stage(shape.layers), shape.layers)
    return weights * share / layout.tensor


def nodes_that_would_do(demand: Demand, kinds: Iterable[GpuKind] = GPU_KINDS) -> tuple[Fit, ...]:
    """For each kind of GPU the smallest layout in which `demand` fits; kinds that never do are left out.

    Tensor parallel 1, 2, 4, 8 in one machine, then further machines of 8 as pipeline stages. Empty when the
    model's shape is not known.
    """
    found = []
    for kind in kinds:
        fits = (fit(demand, kind, layout) for layout in _layouts(demand.shape))
        smallest = next((one for one in fits if one.verdict == "fits"), None)
        if smallest is not None:
            found.append(smallest)
    return tuple(found)


def _layouts(shape: ModelShape | None) -> Iterable[Layout]:
    sizes = [size for size in (1, 2, 4, 8) if _heads_divide(shape, size)]
    yield from (Layout(tensor=size) for size in sizes)
    yield from (Layout(tensor=sizes[-1], pipeline=stages) for stages in range(2, MAX_STAGES + 1))


def _heads_divide(shape: ModelShape | None, tensor: int) -> bool:
    return shape is None or shape.heads % tensor == 0


def element_bytes(kv_cache_dtype: str | None) -> int | None:
    """Bytes of one cached number for an engine's `--kv-cache-dtype`; None for a type not known here."""
    return _BYTES_PER_ELEMENT.get(kv_cache_dtype or "auto")


def language_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's members: those of `text_config` where a model also sees (Kimi K2.5 and later)."""
    nested = config.get("text_config")
    return nested if isinstance(nested, Mapping) else config


def count_of(config: Mapping[str, Any], name: str) -> int | None:
    """A positive whole number in a configuration nobody has checked; None for anything else."""
    value = config.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**40 else None


def _flag(arguments: Sequence[str], *names: str) -> int:
    """The number given to one of the flags `names` as `--flag N` or `--flag=N`; 1 when absent."""
    following = dict(itertools.pairwise(arguments))
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name in names:
            text = value if equals else following.get(argument, "")
            if text.isascii() and text.isdigit() and 0 < int(text) <= 4096:
                return int(text)
    return 1
