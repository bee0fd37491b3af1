"""Which index a wheel of an engine comes from, and which of its wheels fits a target best."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import requests
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from requests.utils import get_netrc_auth

from bundler.content.wheels.name import parse_wheel_name
from bundler.core.specs.spec import IndexSpec
from bundler.core.specs.target import Target
from bundler.errors import MalformedError
from bundler.sources.http import session
from bundler.sources.wheels.package_index import IndexFile, PackageIndex, expand_url, wheels_among
from bundler.sources.wheels.uv import default_index

DEFAULT_INDEX = "default"


@dataclass(frozen=True, kw_only=True)
class Indexes:
    """The indexes of one engine: the default one and those its `sources` send projects to."""

    specs: Sequence[IndexSpec]
    sources: Mapping[str, str]
    """Normalised project name to index name."""
    environ: Mapping[str, str] = field(repr=False)
    session: requests.Session = field(repr=False)

    @cached_property
    def _by_name(self) -> dict[str | None, PackageIndex]:
        named: dict[str | None, PackageIndex] = {item.name: self._index(item) for item in self.specs}
        return {None: self._default(), **named}

    def named(self, name: str | None) -> PackageIndex:
        """The index called `name`; None is the default one. Raises MalformedError (`unknown-index`)."""
        if name not in self._by_name:
            raise MalformedError(
                "unknown-index",
                "the lock names an index that the spec does not have",
                where=f"index {name}",
                expected=", ".join(sorted(item.name for item in self.specs)) or "no index",
                hint="lock the spec again with `sealift lock SPEC`",
            )
        return self._by_name[name]

    def of(self, project: str) -> PackageIndex:
        """The index `project` comes from."""
        return self.named(self.sources.get(canonicalize_name(project)))

    def url(self, spec: IndexSpec) -> str:
        """The address of an explicit index, variables filled in. Raises UsageError (`variable-unset`)."""
        return expand_url(spec.url, self.environ, where=f"index {spec.name}")

    def _index(self, spec: IndexSpec) -> PackageIndex:
        prefix = f"UV_INDEX_{re.sub('[^A-Z0-9]', '_', spec.name.upper())}"
        user, password = (self.environ.get(f"{prefix}_{part}") for part in ("USERNAME", "PASSWORD"))
        url = self.url(spec)
        credentials = (user or "", password or "") if user or password else _netrc(url)
        return PackageIndex(
            url, name=spec.name, session=self.session, flat=spec.format == "flat", credentials=credentials
        )

    def default_url(self) -> str:
        """The address of the default index, as uv itself would find it."""
        return expand_url(default_index(self.environ), {}, where="the default index")

    def _default(self) -> PackageIndex:
        url = self.default_url()
        return PackageIndex(url, name=DEFAULT_INDEX, session=self.session, credentials=_netrc(url))


def _netrc(url: str) -> tuple[str, str] | None:
    return get_netrc_auth(url) if url.startswith("http") else None


def engine_indexes(
    specs: Sequence[IndexSpec], sources: Mapping[str, str], environ: Mapping[str, str] | None
) -> Indexes:
    """The indexes of an engine with `specs` and `sources`; `environ` is the process's own when left out."""
    return Indexes(
        specs=specs,
        sources={canonicalize_name(project): name for project, name in sources.items()},
        environ=os.environ if environ is None else environ,
        session=session(),
    )


def fitting_wheels(files: Sequence[IndexFile], requirement: Requirement, target: Target) -> list[IndexFile]:
    """Wheels that satisfy `requirement` on `target`, the best first: version, then tags, then build."""
    order = {tag: position for position, tag in enumerate(target.tags)}
    fitting = wheels_among(files, lambda item: target.accepts(parse_wheel_name(item.filename).tags))
    names = {item.filename: parse_wheel_name(item.filename) for item in fitting}
    allowed = set(requirement.specifier.filter({name.version for name in names.values()}))

    def rank(item: IndexFile) -> tuple[Version, int, tuple[int, str] | tuple[()]]:
        name = names[item.filename]
        return name.version, -min(order.get(tag, len(order)) for tag in name.tags), name.build

    kept = [item for item in fitting if names[item.filename].version in allowed]
    return sorted(kept, key=rank, reverse=True)
