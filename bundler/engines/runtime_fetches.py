"""What an engine fetches or compiles when it first computes, though no requirement of its wheels says so.

Behind the gap that first request fails, or waits for a compiler. So each row is looked at when an engine is
locked. A CPU rehearsal cannot find these: the code that fetches runs on a GPU only. Sources: the engines'
own wheel metadata (vLLM's `requirements/cuda.txt` says that flashinfer-cubin left the public index after
0.6.13), FlashInfer's installation guide, and the tracker of each engine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from packaging.version import InvalidVersion, Version

from bundler.errors import ExitCode, Finding

CUBIN_INDEX = "https://flashinfer.ai/whl"


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeFetch:
    """One thing that is missing when `present` is installed without `carried`."""

    present: str
    """Normalised project whose code fetches or compiles."""
    carried: str
    """Normalised project that brings it along."""
    does: str
    remedy: str
    """What to add to the spec; `{version}` is that of `present`."""
    same_version: bool = False
    """Whether `carried` is of use in the version of `present` only."""
    unrequired_since: Mapping[str, str]
    """Engine to the first version known not to require `carried` any more; shown, not decisive."""


RUNTIME_FETCHES = (
    RuntimeFetch(
        present="flashinfer-python",
        carried="flashinfer-cubin",
        does="FlashInfer fetches GPU kernels from NVIDIA when it first computes, or compiles them with nvcc",
        remedy="add `flashinfer-cubin=={version}` to the engine's `with`, and send it with `sources` to an "
        f"index in `indexes` with the address {CUBIN_INDEX}",
        same_version=True,
        unrequired_since={"vllm": "0.26", "sglang": "0.5.23"},
    ),
    RuntimeFetch(
        present="deep-gemm",
        carried="nvidia-cuda-nvcc",
        does="DeepGEMM compiles its GPU kernels with nvcc when it first computes",
        remedy="add `nvidia-cuda-nvcc` to the engine's `with`, or install the CUDA toolkit on the node",
        unrequired_since={},
    ),
)


def runtime_fetch_findings(engine: str, wheels: Mapping[str, str], *, where: str) -> list[Finding]:
    """A warning (`fetched-at-run-time`) for each row that the locked wheels leave open.

    `wheels` maps normalised project names to locked versions; `engine` is the engine's name in a spec.
    """
    return list(_findings(engine, wheels, where))


def _findings(engine: str, wheels: Mapping[str, str], where: str) -> Iterable[Finding]:
    for row in RUNTIME_FETCHES:
        version, brought = wheels.get(row.present), wheels.get(row.carried)
        if version is None or (brought and (not row.same_version or _same(version, brought))):
            continue
        since = row.unrequired_since.get(engine)
        yield Finding(
            reference="fetched-at-run-time",
            what=f"{row.does}, and neither works behind the gap",
            where=f"{where}: {row.present} {version}",
            expected=row.carried + (f" {version}" if row.same_version else ""),
            found=(f"{row.carried} {brought}" if brought else f"no {row.carried}")
            + (f"; {engine} does not require it since {since}" if since else ""),
            hint=row.remedy.format(version=version),
            severity="warning",
            exit_code=ExitCode.PASSED,
        )


def _same(one: str, other: str) -> bool:
    """Whether two versions agree; a local part such as `+cu129` does not count."""
    try:
        return Version(one).public == Version(other).public
    except InvalidVersion:
        return one == other
