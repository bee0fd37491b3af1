"""What a failure of the resolver means for the person who asked, and what would help."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from packaging.requirements import InvalidRequirement, Requirement

from bundler.content.wheels.name import WheelName, parse_wheel_name
from bundler.core.specs.target import Target, needed_glibc
from bundler.errors import MalformedError, NetworkError, PolicyError
from bundler.sources.wheels.indexes import Indexes, fitting_wheels
from bundler.sources.wheels.package_index import IndexFile, wheels_among
from bundler.sources.wheels.uv import UvFailure


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked of the resolver."""

    where: str
    """How errors name it: `engine vllm`."""
    requirements: tuple[str, ...]
    overrides: tuple[str, ...] = ()
    exclude_newer: datetime.date | None = None


_PROJECT = r"([A-Za-z0-9][A-Za-z0-9._-]*)"
_NO_WHEELS = re.compile(_PROJECT + r"(?:\{[^}]*\})?([<>=!~]\S*)? has no (?:usable )?wheels")
_NOT_THERE = re.compile(_PROJECT + r" was not found in the (?:package registry|provided)")
_NO_VERSION = re.compile(r"there (?:is|are) no versions? of " + _PROJECT)
_NETWORK = re.compile(
    r"(?i)error sending request|dns error|failed to fetch|http status|timed? ?out|connect error"
)


def explain(failure: UvFailure, question: Question, target: Target, indexes: Indexes) -> NoReturn:
    """Raises what uv's failure means for the person who asked, with a next step."""
    text, where = failure.explanation, question.where
    wheels = _NO_WHEELS.search(text)
    if wheels:
        raise PolicyError(
            "no-fitting-wheel",
            f"{wheels[1]} has no wheel for the target",
            where=where,
            expected=f"a wheel for {target}",
            found=text,
            hint=why_no_wheel(wheels[1], wheels[2] or "", target, indexes),
        )
    missing, version = _NOT_THERE.search(text), _NO_VERSION.search(text)
    if missing:
        raise MalformedError(
            "unknown-project",
            f"the index has no project {missing[1]}",
            where=where,
            found=text,
            hint="correct the name, or send it to the index that has it (`sources` in the spec)",
        )
    if version:
        raise MalformedError(
            "no-such-version",
            f"no version of {version[1]} is what is asked for",
            where=where,
            found=text,
            hint=_hint_about_versions(question.exclude_newer),
        )
    if _NETWORK.search(text):
        raise NetworkError(
            "index-unreachable",
            "the package index cannot be used",
            where=where,
            found=text,
            hint="check the network, proxies and UV_DEFAULT_INDEX, then run the same command again",
        )
    raise PolicyError(
        "unsatisfiable",
        "the requirements contradict each other on the target",
        where=where,
        expected=f"one set of wheels for {target}",
        found=text,
        hint="change the requirement, `excludeNewer`, or replace what a package asks for with `overrides`",
    )


def _hint_about_versions(exclude_newer: datetime.date | None) -> str:
    if exclude_newer is None:
        return "look at the versions the index has, or override whoever asks for it"
    return (
        f"nothing newer than {exclude_newer} is taken (`excludeNewer`), and nothing at all from an "
        "index that does not say when its files came"
    )


def why_no_wheel(project: str, specifier: str, target: Target, indexes: Indexes) -> str:
    """What would have to change for `project` to have a wheel: glibc, Python, architecture or version."""
    try:
        files = indexes.of(project).files(project)
        asked = Requirement(f"{project}{specifier}")
    except (NetworkError, MalformedError, InvalidRequirement):
        return "override it with a version that has wheels"
    newest = Target(python=target.python, platform=target.platform, glibc="2.99")
    close = [parse_wheel_name(item.filename) for item in fitting_wheels(files, asked, newest)]
    glibc = min((minor for name in close if (minor := needed_glibc(name.tags))), default=None)
    if glibc is not None:
        needed = f"2.{glibc}"
        return (
            f"its wheels need glibc {needed}: set `glibc: '{needed}'` if the target has it, or carry an image"
        )
    return _other_machines(files, asked, target)


def _other_machines(files: Sequence[IndexFile], asked: Requirement, target: Target) -> str:
    versions = asked.specifier
    wheels = [
        name
        for item in wheels_among(files, lambda _: True)
        if versions.contains((name := parse_wheel_name(item.filename)).version, prereleases=True)
    ]
    if not wheels:
        return "it comes as a source distribution only: override it with a version that has wheels"
    others = _summary(wheels, target)
    return f"its wheels are for {others}: change the target, or override it with a version that fits"


def _summary(wheels: Sequence[WheelName], target: Target) -> str:
    """The Pythons that have wheels for the target's architecture; the other systems when none has."""
    tags = {tag for name in wheels for tag in name.tags}
    here = {tag.interpreter for tag in tags if target.arch in tag.platform}
    elsewhere = ", ".join(sorted({tag.platform for tag in tags})[:6])
    return ", ".join(sorted(here)[:8]) or f"other machines ({elsewhere})"
