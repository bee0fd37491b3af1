"""What a perimeter needs to install sealift itself: its requirements, uv and pip, for each target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from packaging.requirements import Requirement

from bundler.core.specs.lock import LockedEngine
from bundler.core.specs.target import Target
from bundler.sources.wheels.indexes import engine_indexes
from bundler.sources.wheels.own_wheel import DISTRIBUTION, own_distribution
from bundler.sources.wheels.provenance import with_provenance
from bundler.sources.wheels.refusals import Question
from bundler.sources.wheels.resolution import Resolution

OLDEST_PYTHON = "3.11"
"""sealift's own `requires-python`; a target with an older one gets its tools for this one."""
BESIDE = ("pip", "uv")
"""Carried too: installing engines needs uv, and pip installs all of it where only Python is."""


def resolve_tools(
    engines: Sequence[LockedEngine], *, environ: Mapping[str, str] | None = None
) -> tuple[LockedEngine, ...]:
    """The wheels sealift needs beside its own one, for each target of `engines`.

    Two engines that differ only in glibc share one set, for the older glibc. sealift's own wheel is not among
    them: it comes from no index. Raises as `wheels.resolve_engine` does.
    """
    return tuple(_resolve(target, environ) for target in tool_targets(engines))


def tool_targets(engines: Sequence[LockedEngine]) -> list[Target]:
    """The distinct targets of `engines` as tools see them, sorted."""
    oldest: dict[tuple[str, str], Target] = {}
    for engine in engines:
        python = max(engine.python, OLDEST_PYTHON, key=lambda text: int(text.split(".")[1]))
        target = Target(python=python, platform=engine.platform, glibc=engine.glibc)
        known = oldest.setdefault((engine.platform, python), target)
        if target.glibc_minor < known.glibc_minor:
            oldest[engine.platform, python] = target
    return [oldest[key] for key in sorted(oldest)]


def own_requirements() -> tuple[str, ...]:
    """sealift's runtime requirements as its own metadata says, with pip and uv, extras left out.

    Raises MachineError (`not-installed`).
    """
    stated = [Requirement(text) for text in own_distribution().requires or ()]
    runtime = [item for item in stated if item.marker is None or "extra" not in str(item.marker)]
    beside = [name for name in BESIDE if name not in {item.name for item in runtime}]
    return tuple(sorted([*map(str, runtime), *beside]))


def _resolve(target: Target, environ: Mapping[str, str] | None) -> LockedEngine:
    question = Question(where=f"sealift's own tools for {target}", requirements=own_requirements())
    indexes = engine_indexes((), {}, environ)
    wheels = Resolution(question=question, target=target, indexes=indexes).wheels()
    version = own_distribution().version
    return LockedEngine(
        id=DISTRIBUTION,
        name="sealift",
        requirement=f"{DISTRIBUTION}=={version}",
        version=version,
        python=target.python,
        platform=target.platform,
        glibc=target.glibc,
        accelerator="cpu",
        wheels=with_provenance([wheel.locked for wheel in wheels], indexes),
    )
