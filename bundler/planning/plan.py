"""The plan: what a build would fetch, whether disks can take it, whether the stated machine can serve it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bundler.assembly.build import building_folder
from bundler.assembly.early_models import EarlyReader, early_findings, is_large, located
from bundler.assembly.pinned_files import KINDS, PinnedFile, generated_bytes, pinned_files
from bundler.content.system_libraries import needs_lines
from bundler.core.specs.lock import Lock, LockedEngine, LockedModel
from bundler.core.specs.spec import EngineSpec, LaunchSpec, NodeSpec
from bundler.errors import ExitCode, Finding, MalformedError, NetworkError, gravest_code
from bundler.planning.gpu_fit import Candidate, LaunchPlan, judge
from bundler.planning.model_shape import read_shape, weight_files
from bundler.sizing.memory import ModelShape
from bundler.storage.disk_space import SpaceReport, check_space, partial_bytes, present_files

GENERATED = "generated"
"""Stands for all files a build writes itself, in the space needed."""
ShapeReader = Callable[[LockedModel, str | None, Sequence[Path]], ModelShape | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class KindTotal:
    """Files of one kind: how many and how many bytes, and how much of it is already here."""

    kind: str
    files: int
    bytes: int
    present_files: int
    present_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchPlan:
    """What a build into `out` would fetch and write, and where."""

    out: Path
    totals: tuple[KindTotal, ...]
    begun: int
    """Bytes of unfinished files; they are hashed again and continued."""
    space: SpaceReport

    @property
    def fetch_bytes(self) -> int:
        """Bytes still to be fetched."""
        return max(0, sum(total.bytes - total.present_bytes for total in self.totals) - self.begun)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that can be said before a byte is fetched."""

    fetch: FetchPlan | None
    """None when nothing is pinned yet."""
    launches: tuple[LaunchPlan, ...]
    contents: tuple[Finding, ...] = ()
    """What documents and headers of models show before the download."""
    machine_needs: tuple[str, ...] = ()
    """What machines of the perimeter must have that no wheel brings, a line for each, by engine."""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What speaks against going on, and what is not known."""
        space = self.fetch.space.findings if self.fetch else ()
        return (*space, *self.contents, *(finding for launch in self.launches for finding in launch.findings))

    @property
    def exit_code(self) -> ExitCode:
        """12 when a launch cannot fit, 4 when a disk cannot take it, else 0.

        Another disk is easier found than another machine, so the fit decides when both are missing.
        """
        return gravest_code(self.findings)


def plan_lock(
    lock: Lock,
    out: Path,
    *,
    overhead: int | None = None,
    node: NodeSpec | None = None,
    shape_of: ShapeReader = read_shape,
    early: EarlyReader | None = None,
) -> Plan:
    """The plan to build `lock` into `out`. Nothing is written.

    `node` is judged instead of the one in the lock, which stays as it is. `overhead` is bytes beside weights
    and KV cache, on each GPU or in main memory. Model configurations are read from the unfinished or finished
    bundle when they are there, else from the Hub; without a network the plan says what is not known. Raises
    IntegrityError when the Hub no longer has what is locked.
    """
    fetch = plan_fetch(lock, out)
    places = (out, building_folder(out) / "bundle")
    candidates = _candidates(lock, places, shape_of)
    return Plan(
        fetch=fetch,
        launches=judge(candidates, node or lock.node, overhead),
        contents=_early(lock, places, early),
        machine_needs=tuple(
            f"{engine.requirement}: {line}"
            for engine in lock.engines
            for line in needs_lines([wheel.name for wheel in engine.wheels], engine.accelerator)
        ),
    )


def _early(lock: Lock, places: Sequence[Path], reader: EarlyReader | None) -> tuple[Finding, ...]:
    """What small documents and headers of large models show, of which not all is here yet."""
    findings: list[Finding] = []
    for model in lock.models if reader is not None else ():
        sizes = {f"{model.snapshot}/{file.path}": file.size for file in model.files}
        here = any(present_files(place, sizes) == set(sizes) for place in places)
        if reader is not None and is_large(model) and not here:
            findings += located(model, early_findings(model, reader))
    return tuple(findings)


def plan_fetch(lock: Lock, out: Path) -> FetchPlan:
    """What a build of `lock` into `out` would fetch, and whether the disks can take it."""
    files = pinned_files(lock)
    work = building_folder(out)
    root = work / "bundle"
    sizes = {file.path: file.size for file in files}
    here = present_files(out, sizes) | present_files(root, sizes)
    missing = {path: size for path, size in sizes.items() if path not in here}
    begun = partial_bytes(work)
    if missing:
        missing[GENERATED] = generated_bytes(files)
    space = check_space(root, missing, begun=begun)
    return FetchPlan(out=out, totals=_totals(files, here), begun=begun, space=space)


def _totals(files: Iterable[PinnedFile], here: set[str]) -> tuple[KindTotal, ...]:
    by_kind: dict[str, list[PinnedFile]] = {}
    for file in files:
        by_kind.setdefault(file.kind, []).append(file)
    return tuple(_total(kind, by_kind[kind], here) for kind in KINDS if kind in by_kind)


def _total(kind: str, files: Sequence[PinnedFile], here: set[str]) -> KindTotal:
    present = [file.size for file in files if file.path in here]
    return KindTotal(
        kind=kind,
        files=len(files),
        bytes=sum(file.size for file in files),
        present_files=len(present),
        present_bytes=sum(present),
    )


def _candidates(lock: Lock, places: Sequence[Path], shape_of: ShapeReader) -> list[Candidate]:
    """Every launch profile, and every model with weights that no profile launches."""
    models = {model.id: model for model in lock.models}
    engines = {engine.id: engine for engine in lock.engines}
    launched = {profile.model for profile in lock.launch}
    found = [_candidate(models[one.model], one, engines[one.engine], places, shape_of) for one in lock.launch]
    rest = [model for model in lock.models if model.id not in launched and weight_files(model, None)]
    return found + [_candidate(model, None, None, places, shape_of) for model in rest]


def _candidate(
    model: LockedModel,
    profile: LaunchSpec | None,
    engine: LockedEngine | None,
    places: Sequence[Path],
    shape_of: ShapeReader,
) -> Candidate:
    model_file = profile.model_file if profile else None
    findings: tuple[Finding, ...] = ()
    try:
        shape = shape_of(model, model_file, places)
        if shape is None:
            findings = (_unknown_shape(model, "no configuration that tells layers and heads"),)
    except (NetworkError, MalformedError) as error:
        shape, findings = None, (_unknown_shape(model, f"{error.reference}: {error.findings[0].what}"),)
    return Candidate(
        name=profile.profile if profile else "",
        model=model.id,
        weights=sum(file.size for file in weight_files(model, model_file)),
        shape=shape,
        profile=profile,
        engine=engine.name if engine else "",
        accelerator=engine.accelerator if engine else "",
        findings=findings,
    )


def _unknown_shape(model: LockedModel, found: str) -> Finding:
    return Finding(
        reference="context-not-known",
        what="the size of the KV cache is not known: only weights and overhead are judged",
        where=f"model {model.id}",
        expected="its config.json, or the header of its GGUF",
        found=found,
        hint="plan again where the Hub can be reached, or after a build",
        severity="warning",
        exit_code=ExitCode.PASSED,
    )


def plan_formula(
    launch: Sequence[LaunchSpec],
    engines: Sequence[EngineSpec],
    formats: Mapping[str, str],
    config: Mapping[str, Any],
    node: NodeSpec | None,
    *,
    overhead: int | None = None,
) -> Plan:
    """The fit alone, before anything is pinned: weights by formula from a model's `config`.

    `formats` is the weight format of each model by id. Raises MalformedError (`no-formula`) when the formula
    does not cover the model or format.
    """
    from bundler.sizing.weights import formula_weights

    by_id = {engine.identifier: engine for engine in engines}
    candidates = []
    for profile in launch:
        weights = formula_weights(config, formats[profile.model])
        if weights is None:
            raise _no_formula(profile.model, formats[profile.model])
        engine = by_id[profile.engine]
        candidates.append(
            Candidate(
                name=profile.profile,
                model=profile.model,
                weights=weights,
                shape=ModelShape.parse(config),
                profile=profile,
                engine=engine.name,
                accelerator=engine.accelerator,
                formula=True,
            )
        )
    return Plan(fetch=None, launches=judge(candidates, node, overhead))


def _no_formula(model: str, weight_format: str) -> MalformedError:
    return MalformedError(
        "no-formula",
        "the weights cannot be computed from this configuration",
        where=f"model {model}",
        expected="a DeepSeek-V3-shaped model (Kimi K2) with format bf16, block-fp8 or int4",
        found=f"format {weight_format}",
        hint="`sealift lock` pins the files; then their sizes are known",
    )
