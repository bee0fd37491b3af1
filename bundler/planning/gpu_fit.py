"""How launch profiles fit the machine they are sized for, told as findings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from bundler.core.specs.spec import LaunchSpec, NodeSpec
from bundler.core.units import format_bytes, parse_size
from bundler.errors import ExitCode, Finding
from bundler.sizing.gpus import GpuKind, gpu_kind
from bundler.sizing.memory import (
    DEFAULT_OVERHEAD,
    DEFAULT_RAM_OVERHEAD,
    Demand,
    Fit,
    Layout,
    ModelShape,
    element_bytes,
    fit,
    fit_ram,
    nodes_that_would_do,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A model with the way it is to be launched, as far as that is known."""

    name: str
    model: str
    weights: int
    shape: ModelShape | None
    profile: LaunchSpec | None
    engine: str
    accelerator: str
    formula: bool = False
    findings: tuple[Finding, ...] = field(default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchPlan:
    """How one launch profile, or a model without one, fits the stated node and which nodes would do."""

    name: str
    """The profile; empty for a model that no profile launches."""
    model: str
    weights: int
    """Bytes of the weight files."""
    formula: bool
    """Whether `weights` was computed because no file is pinned yet."""
    fit: Fit | None
    """None when no node is stated."""
    nodes: tuple[Fit, ...]
    findings: tuple[Finding, ...] = ()
    idle: int = 0
    """GPUs of the node that this launch leaves without work."""

    @property
    def verdict(self) -> str:
        """One word: `fits`, `shorter` (with less context than wanted), `no` or `unknown`.

        No good word stands beside an error: a launch that the engine would refuse does not fit.
        """
        found = self.fit.verdict if self.fit is not None else "context-unknown"
        errors = {item.reference for item in self.findings if item.is_error}
        if errors - {"does-not-fit"}:
            return "no"
        return "unknown" if found == "context-unknown" else found


def judge(
    candidates: Iterable[Candidate], node: NodeSpec | None, overhead: int | None
) -> tuple[LaunchPlan, ...]:
    """How each candidate fits `node`. Raises MalformedError (`unknown-gpu`).

    `overhead` is bytes beside weights and KV cache, on each GPU or in main memory; the defaults when None.
    """
    return tuple(_launch(candidate, node, overhead) for candidate in candidates)


def _launch(candidate: Candidate, node: NodeSpec | None, overhead: int | None) -> LaunchPlan:
    on_cpu = candidate.accelerator == "cpu"
    demand = _demand(candidate, overhead, on_cpu)
    found, findings = (_fit_ram if on_cpu else _fit_gpus)(candidate, demand, node)
    findings = [*candidate.findings, *findings, *_context_findings(candidate)]
    nodes = () if on_cpu else nodes_that_would_do(demand)
    idle = _idle_gpus(candidate, found, node)
    if idle and node is not None and found is not None:
        findings.append(_gpus_idle(candidate, found.layout, node, idle))
    if found is not None and found.verdict in ("no", "shorter"):
        findings.append(_does_not_fit(candidate, found, nodes, demand))
    return LaunchPlan(
        name=candidate.name,
        model=candidate.model,
        weights=candidate.weights,
        formula=candidate.formula,
        fit=found,
        nodes=nodes,
        findings=tuple(findings),
        idle=idle,
    )


def _demand(candidate: Candidate, overhead: int | None, on_cpu: bool) -> Demand:
    profile = candidate.profile
    usual = DEFAULT_RAM_OVERHEAD if on_cpu else DEFAULT_OVERHEAD
    # An unknown type of cache is judged at two bytes, the largest in use: never too optimistic.
    each = element_bytes(profile.kv_cache_dtype if profile else None) or 2
    return Demand(
        weights=candidate.weights,
        shape=candidate.shape,
        context=profile.context_length if profile else None,
        utilisation=Fraction(profile.gpu_memory_utilization) if profile else Fraction(9, 10),
        overhead=usual if overhead is None else overhead,
        bytes_per_element=each,
    )


def _fit_ram(candidate: Candidate, demand: Demand, node: NodeSpec | None) -> tuple[Fit | None, list[Finding]]:
    if node is None or node.ram is None:
        needed = format_bytes(demand.weights + demand.overhead)
        what = f"no main memory is stated: it needs {needed} and room for its KV cache"
        return None, [_not_judged(candidate, what, "node: {ram: 512GiB}")]
    return fit_ram(demand, parse_size(node.ram)), []


def _fit_gpus(
    candidate: Candidate, demand: Demand, node: NodeSpec | None
) -> tuple[Fit | None, list[Finding]]:
    if node is None or node.gpu is None:
        return None, [_not_judged(candidate, "no GPUs are stated", "node: {gpu: H200-141G, count: 8}")]
    layout = _layout(candidate, node)
    findings = [*_count_findings(candidate, layout, node), *_heads_findings(candidate, layout)]
    return fit(demand, node_kind(node), layout), findings


def node_kind(node: NodeSpec) -> GpuKind:
    """The GPUs of `node`. Raises MalformedError (`unknown-gpu`)."""
    memory = parse_size(node.memory) if node.memory else None
    return gpu_kind(node.gpu or "", memory=memory, where="node.gpu")


def _layout(candidate: Candidate, node: NodeSpec) -> Layout:
    if candidate.engine == "llama.cpp":
        # llama.cpp gives whole layers to each GPU.
        return Layout(pipeline=node.count)
    if candidate.profile is None:
        return Layout.of_node(node.count, candidate.shape)
    return Layout.of_launch(candidate.profile.tensor_parallel, candidate.profile.arguments)


def _count_findings(candidate: Candidate, layout: Layout, node: NodeSpec) -> list[Finding]:
    if layout.gpus <= node.count:
        return []
    return [
        _policy(
            "too-few-gpus",
            "a launch profile wants more GPUs than the node has",
            candidate,
            f"at most {node.count}",
            f"{layout.gpus}: tensor parallel {layout.tensor} x pipeline {layout.pipeline}",
            _whole_node(candidate, node.count),
        )
    ]


def _heads_findings(candidate: Candidate, layout: Layout) -> list[Finding]:
    shape = candidate.shape
    if shape is None or shape.heads % layout.tensor == 0:
        return []
    what = "tensor parallelism must divide the model's attention heads"
    expected, found = f"a divisor of {shape.heads}", str(layout.tensor)
    divisor = _tensor_sizes(shape, layout.tensor)[-1]
    return [_policy("tensor-parallel", what, candidate, expected, found, f"tensorParallel: {divisor}")]


def _tensor_sizes(shape: ModelShape | None, most: int) -> list[int]:
    """What `tensorParallel` may be, at most `most`: powers of two that divide the attention heads."""
    sizes = [1 << bits for bits in range(max(most, 1).bit_length())]
    return [size for size in sizes if shape is None or shape.heads % size == 0]


def _whole_node(candidate: Candidate, count: int) -> str:
    """Members of a launch profile that use exactly `count` GPUs, such that the spec takes them."""
    tensor = [size for size in _tensor_sizes(candidate.shape, min(count, 8)) if count % size == 0][-1]
    flag = {"vllm": "--pipeline-parallel-size", "sglang": "--pp-size"}.get(candidate.engine)
    stages = count // tensor
    if stages == 1:
        return f"tensorParallel: {tensor}"
    return f'tensorParallel: {tensor}, arguments: ["{flag or "--pipeline-parallel-size"}", "{stages}"]'


def _idle_gpus(candidate: Candidate, found: Fit | None, node: NodeSpec | None) -> int:
    if found is None or node is None or candidate.profile is None or candidate.accelerator == "cpu":
        return 0
    return max(0, node.count - found.layout.gpus)


def _gpus_idle(candidate: Candidate, layout: Layout, node: NodeSpec, idle: int) -> Finding:
    return Finding(
        reference="gpus-idle",
        what=f"{idle} of {node.count} GPUs are left without work",
        where=_where(candidate),
        expected=f"a launch over {node.count} GPUs",
        found=f"{layout.gpus}: tensor parallel {layout.tensor} x pipeline {layout.pipeline}",
        hint=f"{_whole_node(candidate, node.count)}; or serve from several such launches side by side",
        severity="warning",
        exit_code=ExitCode.PASSED,
    )


def _context_findings(candidate: Candidate) -> list[Finding]:
    wanted = candidate.profile.context_length if candidate.profile else None
    longest = candidate.shape.context if candidate.shape else None
    if wanted is None or longest is None or wanted <= longest:
        return []
    what = "a launch profile wants more context than the model was made for"
    hint = f"contextLength: {longest}"
    return [_policy("context-too-long", what, candidate, f"at most {longest}", str(wanted), hint)]


def _does_not_fit(candidate: Candidate, found: Fit, nodes: Sequence[Fit], demand: Demand) -> Finding:
    if found.verdict == "shorter":
        what = "the context that is wanted does not fit"
        expected, fact = f"{found.wanted_context} tokens", f"{found.kv_tokens} tokens of KV cache"
        hint = f"contextLength: {found.longest_context}"
    else:
        what = "the model does not fit the stated node"
        needed = found.weights + found.overhead
        expected = f"{format_bytes(found.budget)} for weights, overhead and KV cache{_each(found)}"
        fact = f"{format_bytes(needed)} for weights and overhead alone"
        hint = "give --overhead SIZE when the engine is known to need less"
    if nodes:
        hint += f"; memory would do on {', '.join(node_text(node) for node in nodes)}"
    return _policy("does-not-fit", what, candidate, expected, fact, hint)


def _each(found: Fit) -> str:
    return "" if found.device == "RAM" else " on each GPU"


def node_text(node: Fit) -> str:
    """`16x H100-80G`."""
    return f"{node.gpus}x {node.device}"


def _not_judged(candidate: Candidate, what: str, hint: str) -> Finding:
    return Finding(
        reference="fit-not-judged",
        what=f"whether it fits is not judged: {what}",
        where=_where(candidate),
        hint=f"say in the spec what will serve: {hint}",
        severity="warning",
        exit_code=ExitCode.PASSED,
    )


def _policy(reference: str, what: str, candidate: Candidate, expected: str, found: str, hint: str) -> Finding:
    return Finding(
        reference=reference,
        what=what,
        where=_where(candidate),
        expected=expected,
        found=found,
        hint=hint,
        exit_code=ExitCode.POLICY,
    )


def _where(candidate: Candidate) -> str:
    return f"launch profile {candidate.name}" if candidate.name else f"model {candidate.model}"
