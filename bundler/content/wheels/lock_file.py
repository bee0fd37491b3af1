"""The lock beside a bundle's wheels, as the side without network reads it (PEP 751, `[tool.sealift]`)."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from packaging.pylock import Package, Pylock, PylockValidationError

from bundler.content.wheels.name import parse_wheel_name
from bundler.core.digest import is_sha256_hex
from bundler.core.specs.target import ARCHITECTURES, Target
from bundler.errors import MalformedError

LOCK_LIMIT = 64 << 20
"""Bytes of a lock that are read; 200 wheels make 70 kB."""
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_PIN = re.compile(r"([a-z0-9]+(?:-[a-z0-9]+)*)==([^\s;\\]+)")
_PYTHON = re.compile(r"3\.[0-9]{1,2}")
_GLIBC = re.compile(r"2\.[0-9]{1,2}")
_FACTS = ("id", "engine", "requirement", "version", "accelerator")


@dataclass(frozen=True)
class WheelFile:
    """One wheel of a lock."""

    project: str
    version: str
    filename: str
    size: int
    sha256: str


@dataclass(frozen=True)
class WheelLock:
    """What one engine consists of, and the machine it is for."""

    id: str
    engine: str
    requirement: str
    version: str
    accelerator: str
    target: Target
    files: tuple[WheelFile, ...]

    @property
    def pins(self) -> dict[str, str]:
        """Version by project."""
        return {item.project: item.version for item in self.files}


def parse_wheel_lock(data: bytes, *, where: str) -> WheelLock:
    """The lock that `data` says. Raises MalformedError (`bad-wheel-lock`, `bad-wheel-name`).

    Narrower than PEP 751: one wheel for each package, by a relative path to the folder above, with size and
    SHA-256, no markers. That is all sealift writes.
    """
    try:
        value = tomllib.loads(data.decode("utf-8"))
        lock = Pylock.from_dict(value)
    # ValueError: not UTF-8, not TOML, or (outside of TOMLDecodeError) a number of thousands of digits.
    except (ValueError, PylockValidationError, RecursionError) as error:
        raise _bad(where, "a valid pylock.toml (PEP 751)", str(error)[:300]) from None
    facts = _facts(value, where)
    files = tuple(_file(package, where) for package in lock.packages)
    projects = [item.project for item in files]
    if len(set(projects)) != len(projects):
        raise _bad(where, "each project once", "one several times")
    target = Target(python=facts["python"], platform=facts["platform"], glibc=facts["glibc"])
    return WheelLock(**{name: facts[name] for name in _FACTS}, target=target, files=files)


def _facts(value: Mapping[str, Any], where: str) -> dict[str, str]:
    tool = value.get("tool")
    facts = tool.get("sealift") if isinstance(tool, dict) else None
    if not isinstance(facts, dict) or not all(isinstance(facts.get(name), str) for name in _FACTS):
        raise _bad(where, f"[tool.sealift] with {', '.join(_FACTS)}", repr(facts)[:200])
    python, glibc = str(facts.get("python")), str(facts.get("glibc"))
    known = facts.get("platform") in ARCHITECTURES
    if not known or not _PYTHON.fullmatch(python) or not _GLIBC.fullmatch(glibc):
        raise _bad(where, "[tool.sealift] with a known platform, python and glibc", repr(facts)[:200])
    return {name: member for name, member in facts.items() if isinstance(member, str)}


def _file(package: Package, where: str) -> WheelFile:
    here = f"{where}: {package.name}"
    if package.wheels is None or len(package.wheels) != 1 or package.version is None or package.marker:
        raise _bad(here, "exactly one wheel and a version, no marker", "something else")
    wheel = package.wheels[0]
    filename, sha256 = (wheel.path or "").rpartition("/")[2], wheel.hashes.get("sha256", "")
    if wheel.url or wheel.path not in (f"../{filename}", f"../../{filename}") or wheel.name != filename:
        raise _bad(here, "a relative path to the folder of the wheels", repr(wheel.url or wheel.path)[:200])
    if not is_sha256_hex(sha256) or wheel.size is None:
        raise _bad(here, "a size and a SHA-256", f"{wheel.size}, {sha256 or 'none'}")
    parse_wheel_name(filename, where=here)
    return WheelFile(package.name, str(package.version), filename, wheel.size, sha256)


def parse_requirements(data: bytes, *, where: str) -> dict[str, tuple[str, str]]:
    """Project to version and SHA-256 of a requirements file as sealift writes it, one wheel a line.

    Raises MalformedError (`bad-requirements`) for anything else: options, addresses, lines without digest.
    """
    pins: dict[str, tuple[str, str]] = {}
    text = data.decode("utf-8", "replace").replace("\\\n", " ")
    for line in (line.strip() for line in text.splitlines()):
        if not line or line.startswith("#"):
            continue
        requirement, _, rest = line.partition(" ")
        pin, digest = _PIN.fullmatch(requirement), _HASH.fullmatch(rest.strip())
        if pin is None or digest is None or pin[1] in pins:
            raise MalformedError(
                "bad-requirements",
                "a requirements file is not valid",
                where=where,
                expected="project==version --hash=sha256:…, each project once",
                found=line[:200],
            )
        pins[pin[1]] = (pin[2], digest[1])
    return pins


def _bad(where: str, expected: str, found: str) -> MalformedError:
    return MalformedError(
        "bad-wheel-lock",
        "a lock of wheels is not valid",
        where=where[:400],
        expected=expected,
        found=found[:300],
    )
