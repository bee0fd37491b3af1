"""A wheel's file name: project, version, build and tags (PEP 427), refused when it is anything else."""

from __future__ import annotations

from dataclasses import dataclass

from packaging.tags import Tag
from packaging.utils import InvalidWheelFilename, NormalizedName, parse_wheel_filename
from packaging.version import Version

from bundler.core.paths import path_fault
from bundler.errors import MalformedError


@dataclass(frozen=True)
class WheelName:
    """What a wheel's file name says."""

    project: NormalizedName
    version: Version
    build: tuple[int, str] | tuple[()]
    tags: frozenset[Tag]


def parse_wheel_name(filename: str, *, where: str = "") -> WheelName:
    """The parts of a wheel's file name. Raises MalformedError (`bad-wheel-name`).

    The name comes from an index: it must also be one plain path component.
    """
    fault = "it holds a slash" if "/" in filename else path_fault(filename)
    try:
        if fault:
            raise InvalidWheelFilename(fault)
        return WheelName(*parse_wheel_filename(filename))
    except InvalidWheelFilename as error:
        raise MalformedError(
            "bad-wheel-name",
            "a file name is not that of a wheel",
            where=where or "wheel",
            expected="project-version[-build]-python-abi-platform.whl",
            found=f"{filename!r}: {fault or error}"[:300],
        ) from None
