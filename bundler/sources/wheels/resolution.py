"""One run of the resolver, and what of its answer may be locked.

uv resolves for the target, from wheels only; what it answers is read with `packaging.pylock` (PEP 751),
selected by the target's markers and tags, and checked once more here: the index is not trusted to name
files well, and a direct reference is accepted only where we made it ourselves. For a file whose index offers
no digest, uv fetches it and the lock has the digest of what came: from then on it is pinned all the same.
"""

from __future__ import annotations

import datetime
import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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

from bundler.content.wheels.name import WheelName, parse_wheel_name
from bundler.core.digest import is_sha256_hex
from bundler.core.specs.lock import LockedWheel
from bundler.core.specs.spec import IndexSpec
from bundler.core.specs.target import Target
from bundler.errors import ExitCode, Finding, MalformedError, PolicyError
from bundler.sources.http import HttpByteSource
from bundler.sources.wheels.indexes import Indexes, fitting_wheels
from bundler.sources.wheels.package_index import (
    IndexFile,
    LocalByteSource,
    sizes_of,
)
from bundler.sources.wheels.refusals import Question, explain
from bundler.sources.wheels.uv import THROW_AWAY_NAME, Compilation, UvFailure
from bundler.storage.private_folder import private_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Selected:
    """One wheel uv chose: what the lock says of it, and where it can be looked at."""

    locked: LockedWheel
    name: WheelName
    source: HttpByteSource | LocalByteSource


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """One run of the resolver: one question, for one target, with these indexes."""

    question: Question
    target: Target
    indexes: Indexes

    def wheels(self) -> list[Selected]:
        """Everything to install, sorted by project. Raises as `wheels.resolve_engine` does."""
        pinned = {pin.project: pin for pin in map(self._pin, self.question.overrides) if pin is not None}
        found = self._resolved(pinned)
        findings: list[Finding] = []
        rows = [row for row in (self._row(*pair, pinned, findings) for pair in found) if row is not None]
        if findings:
            raise PolicyError.of(findings)
        return self._with_sizes(sorted(rows, key=lambda row: row.name.project))

    def _resolved(self, pinned: Mapping[str, Pin]) -> list[tuple[Package, object]]:
        """What uv installs, each project of `sources` from its own index, and none that nothing asks for.

        uv looks at `sources` for direct requirements only, and a direct requirement is always installed. So a
        project becomes one only after it was seen to be needed: among what a first answer installs, or named
        where that failed. One that nothing asks for any more, once the others come from their own index, is
        taken back; a project is taken back once, so this ends.
        """
        routed: set[str] = set()
        taken_back: set[str] = set()
        while True:
            found, failure = self._attempt(pinned, routed)
            seen = {package.name for package, _ in found} if failure is None else _named(failure.whole)
            needed = (seen & self._routable()) - routed
            if needed:
                routed |= needed
                continue
            if failure is not None:
                explain(failure, self.question, self.target, self.indexes)
            unneeded = self._unneeded(pinned, routed) - taken_back
            if not unneeded:
                return found
            routed -= unneeded
            taken_back |= unneeded

    def _attempt(
        self, pinned: Mapping[str, Pin], routed: set[str]
    ) -> tuple[list[tuple[Package, object]], UvFailure | None]:
        with self._compilation(pinned, routed) as compilation:
            try:
                text = compilation.lock()
            except UvFailure as failure:
                return [], failure
        return select(text, self.target, where=self.question.where), None

    def _routable(self) -> set[str]:
        """Projects of `sources` that no requirement and no override names: those have their index already."""
        asked = (*self.question.requirements, *self.question.overrides)
        named = {canonicalize_name(Requirement(text).name) for text in asked}
        return {str(project) for project in self.indexes.sources} - named

    def _unneeded(self, pinned: Mapping[str, Pin], routed: set[str]) -> set[str]:
        """Those of `routed` that nothing asks for but we."""
        if not routed:
            return set()
        with self._compilation(pinned, routed) as compilation:
            required_by = compilation.required_by()
        reached = {canonicalize_name(Requirement(text).name) for text in self.question.requirements}
        while more := {name for name, asking in required_by.items() if asking & reached} - reached:
            reached |= {canonicalize_name(name) for name in more}
        return routed - reached

    @contextmanager
    def _compilation(self, pinned: Mapping[str, Pin], routed: set[str]) -> Iterator[Compilation]:
        overrides = [self._override_line(text, pinned) for text in self.question.overrides]
        with private_folder("sealift-resolve-") as folder:
            (folder / "pyproject.toml").write_text(self._project(routed), "utf-8")
            (folder / "overrides.txt").write_text("".join(f"{line}\n" for line in overrides), "utf-8")
            yield Compilation(
                folder=folder,
                target=self.target,
                index=self.indexes.default_url(),
                exclude_newer=end_of_day(self.question.exclude_newer),
                not_excluded=self._without_upload_times(),
                environ=self.indexes.environ,
            )

    def _project(self, routed: set[str]) -> str:
        """The throw-away project: static metadata, so that uv has nothing to build."""
        used = set(self.indexes.sources.values())
        indexes = [self._uv_index(item) for item in self.indexes.specs if item.name in used]
        sources = {project: {"index": name} for project, name in self.indexes.sources.items()}
        project = {
            "name": THROW_AWAY_NAME,
            "version": "0",
            "requires-python": f">={self.target.python}",
            "dependencies": [*self.question.requirements, *sorted(routed)],
        }
        return tomli_w.dumps({"project": project, "tool": {"uv": {"index": indexes, "sources": sources}}})

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
                where=f"{self.question.where}: overrides: {override}",
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
        if self.question.exclude_newer is None:
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
            findings.append(_not_a_wheel(package, chosen, self.question.where))
            return None
        assert isinstance(chosen, PackageWheel | PackageArchive)
        try:
            return self._selected(package, chosen)
        except MalformedError as error:
            findings += error.findings
            return None

    def _selected(self, package: Package, chosen: PackageWheel | PackageArchive) -> Selected:
        filename = file_name(chosen)
        where = f"{self.question.where}: {filename}"
        name = parse_wheel_name(filename, where=f"{self.question.where}: {package.name}")
        sha256 = chosen.hashes.get("sha256", "")
        if not is_sha256_hex(sha256):
            raise _bad_answer(where, "a SHA-256 for each file", "none")
        if name.project != package.name or (package.version and name.version != package.version):
            raise _bad_answer(where, f"{package.name} {package.version}", filename)
        if not self.target.accepts(name.tags):
            raise _bad_answer(where, f"a wheel for {self.target}", filename)
        index = self.indexes.of(package.name)
        address = chosen.url or Path(chosen.path or "").absolute().as_uri()
        # uv follows such a link, and the lock would hold a file of the release engineer's own machine.
        if address.startswith("file:") and not index.is_local:
            raise _bad_answer(where, "an address on the web", "a link to a file of this machine")
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


def _named(text: str) -> set[str]:
    """Every word of uv's explanation that could be a project, normalised."""
    return {
        str(canonicalize_name(word))
        for word in re.findall(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?", text)
    }


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
