"""The machine an engine's wheels are for: which tags it accepts and how environment markers read there.

Everything is said for the target, never asked of the host: pip and uv both fall into that trap when a
wheel set is resolved on another machine (platform compatibility tags: PEP 425, 600; markers: PEP 508).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from packaging.markers import Environment
from packaging.tags import Tag, compatible_tags, cpython_tags

ARCHITECTURES = {"linux/amd64": "x86_64", "linux/arm64": "aarch64"}
_OLDEST_GLIBC = {"x86_64": 5, "aarch64": 17}
"""glibc minor version the first manylinux policy of an architecture stands for (PEP 513, 599)."""
_LEGACY_NAMES = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
_UV_GLIBC = (17, 28, *range(31, 41))
"""glibc minor versions uv has a `--python-platform` for (uv 0.9 to 0.13)."""
_MANYLINUX = re.compile(r"manylinux_2_([0-9]{1,2})_(\w+)")


@dataclass(frozen=True, kw_only=True)
class Target:
    """CPython `python` (`3.12`) on `platform` (`linux/amd64`) with at least glibc `glibc` (`2.31`)."""

    python: str
    platform: str
    glibc: str

    @property
    def arch(self) -> str:
        """The architecture as wheel tags and markers name it: `x86_64` or `aarch64`."""
        return ARCHITECTURES[self.platform]

    @property
    def python_version(self) -> tuple[int, int]:
        """`python` as numbers."""
        major, minor = self.python.split(".")
        return int(major), int(minor)

    @property
    def glibc_minor(self) -> int:
        """N of glibc 2.N."""
        return int(self.glibc.split(".")[1])

    @cached_property
    def tags(self) -> tuple[Tag, ...]:
        """Every tag the target accepts, the most specific first."""
        interpreter = f"cp{self.python.replace('.', '')}"
        platforms = list(self._platforms())
        specific = cpython_tags(self.python_version, [interpreter], platforms)
        return (*specific, *compatible_tags(self.python_version, interpreter, platforms))

    @cached_property
    def _accepted(self) -> frozenset[Tag]:
        return frozenset(self.tags)

    def accepts(self, tags: Iterable[Tag]) -> bool:
        """Whether a wheel with these tags can be installed on the target."""
        return not self._accepted.isdisjoint(tags)

    def _platforms(self) -> Iterator[str]:
        for minor in range(self.glibc_minor, _OLDEST_GLIBC[self.arch] - 1, -1):
            yield f"manylinux_2_{minor}_{self.arch}"
            if minor in _LEGACY_NAMES:
                yield f"{_LEGACY_NAMES[minor]}_{self.arch}"
        yield f"linux_{self.arch}"

    @property
    def environment(self) -> Environment:
        """Values of the PEP 508 markers; the patch version is 0, as uv assumes for `--python-version`."""
        return Environment(
            implementation_name="cpython",
            implementation_version=f"{self.python}.0",
            os_name="posix",
            platform_machine=self.arch,
            platform_release="",
            platform_system="Linux",
            platform_version="",
            python_full_version=f"{self.python}.0",
            platform_python_implementation="CPython",
            python_version=self.python,
            sys_platform="linux",
        )

    @property
    def uv_platform(self) -> str:
        """The newest `--python-platform` of uv that asks for no more glibc than the target has."""
        minors = [minor for minor in _UV_GLIBC if minor <= self.glibc_minor]
        return f"{self.arch}-manylinux_2_{max(minors, default=_UV_GLIBC[0])}"

    def __str__(self) -> str:
        return f"CPython {self.python} on {self.platform} with glibc {self.glibc}"


def needed_glibc(tags: Iterable[Tag]) -> int | None:
    """The smallest N such that glibc 2.N suits one of `tags`; None when no tag names a glibc."""
    found = [_glibc_of(tag.platform) for tag in tags]
    return min((minor for minor in found if minor is not None), default=None)


def _glibc_of(platform: str) -> int | None:
    match = _MANYLINUX.fullmatch(platform)
    if match:
        return int(match[1])
    names = {name: minor for minor, name in _LEGACY_NAMES.items()}
    return names.get(platform.split("_")[0])
