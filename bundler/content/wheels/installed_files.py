"""Where the files of wheels land in one environment, and what an installer would refuse or overwrite there.

Building and installing ask the same function, so that no bundle is sealed which cannot be installed. Only
directories of archives, RECORD and `entry_points.txt` are read. Source: the binary distribution format,
https://packaging.python.org/en/latest/specifications/binary-distribution-format/, and what uv refuses.
"""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bundler.content import zip_archive
from bundler.content.wheels.archive import (
    bad_wheel,
    dist_info_folder,
    finding,
    member_bytes,
    name_findings,
)
from bundler.content.wheels.lock_file import WheelLock
from bundler.content.wheels.name import parse_wheel_name
from bundler.content.wheels.record import RECORD_LIMIT, parse_record
from bundler.content.zip_archive import Member
from bundler.errors import Finding, MalformedError, SealiftError
from bundler.storage.bounded_read import open_regular

ENTRY_POINTS_LIMIT = 4 << 20
"""Bytes of `entry_points.txt` that are read; the largest known has 30 kB."""
_SCRIPT_GROUPS = ("console_scripts", "gui_scripts")
_TARGET = re.compile(r"[\w.-]+[ \t]*:[ \t]*[\w.-]+(?:[ \t]*\[[^\]\n]*\])?")
"""`module:function [extras]`: uv refuses every other target of a script."""
_INTERPRETER = re.compile(r"(?:python|pythonw|pypy|pypyw|graalpy)[0-9.]*t?(?:\.exe)?", re.IGNORECASE)
_ACTIVATION = re.compile(r"activate(?:_this\.py|\.[a-z0-9]+)?")
_OWN_FILES = frozenset({"pyvenv.cfg", "sealift-install.json", "lib64", "bin", "lib"})
"""Paths in an environment that are not a package's to write: its settings, our marker, its folders."""


@dataclass(frozen=True, slots=True)
class InstalledFile:
    """One file that a wheel writes. `path` is relative to the environment, `identity` is equal for equal
    bytes, and `generated` marks a script that the installer makes from an entry point.
    """

    path: str
    identity: str
    generated: bool = False


def installed_findings(lock: WheelLock, folder: Path, where: str) -> list[Finding]:
    """What an installer would refuse of the wheels of `lock` in `folder`, or one would overwrite of another.

    A wheel that is missing is left to other checks; one that cannot be read is a finding.
    """
    wheels: dict[str, list[InstalledFile]] = {}
    findings: list[Finding] = []
    for item in lock.files:
        if not (folder / item.filename).is_file():
            continue
        try:
            wheels[item.filename] = installed_files(folder / item.filename, lock.target.python)
        except SealiftError as error:
            findings += error.findings
    for filename, files in wheels.items():
        findings += reserved_findings(files, f"{where}: {filename}")
    return findings + collision_findings(wheels, where)


def installed_files(path: Path, python: str) -> list[InstalledFile]:
    """The files that the wheel at `path` writes under CPython `python`, such as `3.12`.

    Raises MalformedError (`bad-zip`, `bad-wheel`, `bad-record`, `bad-wheel-name`, `unsafe-member`).
    """
    where = path.name
    project = str(parse_wheel_name(path.name).project)
    with open_regular(path, where=where) as fd:
        members = zip_archive.read_members(fd, where)
        refused = name_findings(members, where)
        if refused:
            raise MalformedError.of(refused)
        folder = dist_info_folder(members, where)
        digests = _digests(member_bytes(fd, members, f"{folder}/RECORD", RECORD_LIMIT, where), where)
        scripts = entry_point_scripts(_entry_points(fd, members, folder, where), where)
    files = [_installed(member, digests, project, python) for member in members if not member.is_directory]
    made = [InstalledFile(f"bin/{name}", f"entry point {target}", True) for name, target in scripts.items()]
    return files + made


def _digests(record: bytes, where: str) -> dict[str, str]:
    return {row.path: f"{row.algorithm}:{row.digest.hex()}" for row in parse_record(record, where)}


def _installed(member: Member, digests: dict[str, str], project: str, python: str) -> InstalledFile:
    identity = digests.get(member.name) or f"crc32:{member.crc}:{member.size}"
    return InstalledFile(installed_path(member.name, project, python), identity)


def installed_path(name: str, project: str, python: str) -> str:
    """Where a member lands, relative to the environment: by its scheme below `.data`, else site-packages."""
    site = f"lib/python{python}/site-packages"
    root, _, rest = name.partition("/")
    if not root.endswith(".data") or not rest:
        return f"{site}/{name}"
    scheme, _, inner = rest.partition("/")
    bases = {"scripts": "bin/", "data": "", "headers": f"include/site/python{python}/{project}/"}
    return f"{bases.get(scheme, f'{site}/')}{inner}"


def _entry_points(fd: int, members: list[Member], folder: str, where: str) -> bytes:
    path = f"{folder}/entry_points.txt"
    if path not in zip_archive.by_name(members):
        return b""
    return member_bytes(fd, members, path, ENTRY_POINTS_LIMIT, where)


def entry_point_scripts(data: bytes, where: str) -> dict[str, str]:
    """Name to target of the scripts that an installer makes from `entry_points.txt`.

    Raises MalformedError (`bad-wheel`) for a file that cannot be read, a name that is no plain file name, or
    a target that names no function.
    """
    here = f"{where}: entry_points.txt"
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        parser.read_string(data.decode("utf-8"))
    except (configparser.Error, UnicodeDecodeError) as error:
        raise bad_wheel(here, "sections of name = module:function", str(error)[:200]) from None
    scripts: dict[str, str] = {}
    for group in (group for group in _SCRIPT_GROUPS if parser.has_section(group)):
        for name, target in parser.items(group):
            _require_script(name, target, here)
            scripts[name] = target
    return scripts


def _require_script(name: str, target: str, where: str) -> None:
    if name in ("", ".", "..") or "/" in name or "\\" in name or not name.isprintable():
        raise bad_wheel(where, "a script's name that is one plain file name", repr(name)[:200])
    if not _TARGET.fullmatch(target):
        raise bad_wheel(where, f"module:function for the script {name[:100]}", repr(target)[:200])


def reserved_findings(files: Iterable[InstalledFile], where: str) -> list[Finding]:
    """Findings about files that would replace the environment's own programs and settings."""
    return [
        finding(
            "wheel-replaces-environment",
            "a wheel would replace a program or file of the environment it is installed in",
            where,
            file.path,
            expected="a name that is not the environment's own",
        )
        for file in files
        if _is_reserved(file.path)
    ]


def _is_reserved(path: str) -> bool:
    folder, _, name = path.rpartition("/")
    if folder == "bin":
        return bool(_INTERPRETER.fullmatch(name) or _ACTIVATION.fullmatch(name))
    return path in _OWN_FILES


def collision_findings(wheels: dict[str, list[InstalledFile]], where: str) -> list[Finding]:
    """Findings about files that two wheels write with different bytes: which one stays is chance.

    The same bytes twice are usual (`nvidia/__init__.py`). Two entry points of one name are a warning only:
    `fastapi` and `fastapi-cli` are published so, and no engine starts through such a script.
    """
    findings: list[Finding] = []
    first: dict[str, tuple[str, InstalledFile]] = {}
    for wheel in sorted(wheels):
        for file in wheels[wheel]:
            owner, other = first.setdefault(file.path, (wheel, file))
            if owner != wheel and other.identity != file.identity:
                both = file.generated and other.generated
                findings.append(_collision(file.path, owner, wheel, where, "warning" if both else "error"))
    return findings + list(_files_as_folders(first, where))


def _files_as_folders(first: dict[str, tuple[str, InstalledFile]], where: str) -> Iterator[Finding]:
    """Findings about a file of one wheel where another wheel needs a folder."""
    folders: dict[str, str] = {}
    for path, (wheel, _) in first.items():
        parent = path.rpartition("/")[0]
        while parent and parent not in folders:
            folders[parent] = wheel
            parent = parent.rpartition("/")[0]
    for path in sorted(folders.keys() & first.keys()):
        yield _collision(path, first[path][0], folders[path], where, "error")


def _collision(path: str, one: str, other: str, where: str, severity: str) -> Finding:
    return finding(
        "wheels-write-one-file",
        "two wheels write one file with different contents",
        f"{where}: {path}",
        f"{one} and {other}",
        expected="each file from one wheel, or the same bytes",
        severity=severity,
    )
