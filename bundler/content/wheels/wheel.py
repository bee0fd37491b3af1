"""What a wheel must look like, checked without running or unpacking it.

One reading of the archive (`content.zip_archive`), safe member names, a `.dist-info` that agrees with the
file name, and a RECORD that lists every file with its digest, compared with the bytes. Installers compare
little of this: pip and uv do not look at RECORD's digests. Source: the binary distribution format,
https://packaging.python.org/en/latest/specifications/binary-distribution-format/.
"""

from __future__ import annotations

import email
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from packaging.tags import Tag, parse_tag
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from bundler.content import zip_archive
from bundler.content.stand_ins import HEAD_BYTES, stand_in_finding
from bundler.content.wheels.archive import bad_wheel, dist_info_folder, finding, member_bytes, name_findings
from bundler.content.wheels.installed_files import installed_findings
from bundler.content.wheels.lock_file import (
    LOCK_LIMIT,
    WheelFile,
    WheelLock,
    parse_requirements,
    parse_wheel_lock,
)
from bundler.content.wheels.name import WheelName, parse_wheel_name
from bundler.content.wheels.record import record_findings
from bundler.content.zip_archive import Member
from bundler.errors import ExitCode, Finding, SealiftError
from bundler.storage.bounded_read import open_regular, read_small

TEXT_LIMIT = 16 << 20
"""Bytes of METADATA or WHEEL that are read."""
SCHEMES = frozenset({"purelib", "platlib", "headers", "scripts", "data"})
"""Folders below `.data/` (PEP 427)."""
ACCELERATOR_LIBRARIES = {"cuda": "libtorch_cuda", "rocm": "libtorch_hip"}
"""How the GPU library inside a torch wheel is called, by what the engine computes on."""


def check_wheel(path: Path, *, deep: bool = True) -> list[Finding]:
    """Everything wrong with the wheel at `path`; empty when nothing is.

    Without `deep` the structure, names and metadata are checked, but no member is hashed.
    """
    where = path.name
    findings: list[Finding] = []
    try:
        name = parse_wheel_name(path.name)
        with open_regular(path, where=where) as fd:
            size = os.fstat(fd).st_size
            stand_in = stand_in_finding(where, os.pread(fd, HEAD_BYTES, 0), size)
            if stand_in is not None:
                return [stand_in]
            members = zip_archive.read_members(fd, where)
            findings += name_findings(members, where)
            if findings:
                return findings
            findings += _dist_info_findings(fd, members, name, where)
            findings += record_findings(fd, members, dist_info_folder(members, where), where, deep=deep)
    except SealiftError as error:
        findings += error.findings
    return findings


def check_wheels(
    folder: Path, *, workers: int = 4, deep: bool = True, digests: Mapping[str, str] | None = None
) -> list[Finding]:
    """Everything wrong with the wheels in `folder` and the locks below it, `workers` wheels at a time.

    Every lock line has its file and every wheel is in a lock; each fits the lock's target; nothing is a
    source distribution; a torch has the libraries of the lock's accelerator. `digests` (file name to
    SHA-256, from the manifest or the store) are compared with the locks when given: the files themselves
    are not hashed once more.
    """
    wheels = sorted(folder.glob("*.whl"))
    with ThreadPoolExecutor(max_workers=workers) as pool:
        findings = [item for found in pool.map(partial(check_wheel, deep=deep), wheels) for item in found]
    findings += [
        finding("not-a-wheel", "a file among the wheels is none", path.name, "another kind of archive")
        for path in sorted(folder.iterdir())
        if path.suffix in _ARCHIVES
    ]
    locks, faults = _locks(folder)
    findings += faults
    listed = {item.filename: item for lock in locks.values() for item in lock.files}
    findings += [
        finding("wheel-unlisted", "a wheel is in no lock", path.name, "no line that asks for it")
        for path in wheels
        if path.name not in listed
    ]
    for where, lock in locks.items():
        findings += _lock_findings(lock, folder, where, digests or {})
        # A wheel that cannot be read was told above already.
        findings += [item for item in installed_findings(lock, folder, where) if item not in findings]
    return findings


_ARCHIVES = frozenset({".gz", ".zip", ".bz2", ".tgz", ".xz", ".egg"})


def _locks(folder: Path) -> tuple[dict[str, WheelLock], list[Finding]]:
    """The locks below `folder` by path, with the findings of those that cannot be read."""
    found: dict[str, WheelLock] = {}
    faults: list[Finding] = []
    for path in sorted((*folder.glob("locks/*/pylock.toml"), *folder.glob("*/pylock.toml"))):
        where = path.relative_to(folder).as_posix()
        try:
            found[where] = parse_wheel_lock(read_small(path, limit=LOCK_LIMIT, where=where), where=where)
            faults += _requirement_findings(path.with_name("requirements.txt"), found[where], where)
        except SealiftError as error:
            faults += error.findings
    return found, faults


def _requirement_findings(path: Path, lock: WheelLock, where: str) -> list[Finding]:
    """A finding when `requirements.txt` asks for something else than the lock beside it."""
    here = f"{where.rpartition('/')[0]}/{path.name}"
    pins = parse_requirements(read_small(path, limit=LOCK_LIMIT, where=here), where=here)
    wanted = {item.project: (item.version, item.sha256) for item in lock.files}
    different = sorted(name for name in pins.keys() | wanted.keys() if pins.get(name) != wanted.get(name))
    if not different:
        return []
    found = ", ".join(different)[:200]
    return [
        finding("lock-disagrees", "requirements.txt and pylock.toml ask for different files", here, found)
    ]


def _lock_findings(
    lock: WheelLock, folder: Path, where: str, digests: Mapping[str, str]
) -> Iterator[Finding]:
    for item in lock.files:
        here, path = f"{where}: {item.filename}", folder / item.filename
        if not path.is_file():
            yield finding(
                "wheel-missing",
                "a lock asks for a wheel that is not there",
                here,
                "no such file",
                exit_code=ExitCode.INTEGRITY,
            )
            continue
        size, sha256 = path.stat().st_size, digests.get(item.filename, item.sha256)
        if (size, sha256) != (item.size, item.sha256):
            expected, found = f"{item.size} bytes, sha256:{item.sha256}", f"{size} bytes, sha256:{sha256}"
            yield finding(
                "wheel-differs",
                "a wheel is not the one its lock asks for",
                here,
                found,
                expected=expected,
                exit_code=ExitCode.INTEGRITY,
            )
        if not lock.target.accepts(parse_wheel_name(item.filename).tags):
            yield finding("wheel-tags", "a wheel does not fit the target of its lock", here, str(lock.target))
        yield from _accelerator_findings(item, lock, path, here)


def _accelerator_findings(item: WheelFile, lock: WheelLock, path: Path, where: str) -> Iterator[Finding]:
    if item.project != "torch" or lock.accelerator not in ACCELERATOR_LIBRARIES:
        return
    try:
        names = member_names(path)
    except SealiftError:
        return  # told by check_wheel already
    if not has_accelerator(names, lock.accelerator):
        expected = f"{ACCELERATOR_LIBRARIES[lock.accelerator]}*.so in torch/lib"
        yield finding(
            "no-gpu-library",
            f"the torch of a {lock.accelerator} engine cannot use {lock.accelerator}",
            where,
            "none",
            expected=expected,
            exit_code=ExitCode.POLICY,
        )


def _dist_info_findings(fd: int, members: list[Member], name: WheelName, where: str) -> list[Finding]:
    folder = dist_info_folder(members, where)
    stem = folder.removesuffix(".dist-info")
    findings = list(_project_findings(stem.split("-"), name, f"{where}: {folder}"))
    findings += _data_findings(members, stem, where)
    metadata = _headers(fd, members, f"{folder}/METADATA", where)
    told = [metadata["Name"] or "", metadata["Version"] or ""]
    findings += _project_findings(told, name, f"{where}: {folder}/METADATA")
    return findings + _wheel_file_findings(_headers(fd, members, f"{folder}/WHEEL", where), name, where)


def _headers(fd: int, members: list[Member], path: str, where: str) -> email.message.Message:
    data = member_bytes(fd, members, path, TEXT_LIMIT, where)
    try:
        return email.message_from_string(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise bad_wheel(f"{where}: {path}", "UTF-8", str(error)) from None


def metadata_text(path: Path) -> str:
    """METADATA of the wheel at `path`, for licence and requirement readers.

    Raises MalformedError (`bad-zip`, `bad-wheel`) and IntegrityError when the file cannot be read.
    """
    with open_regular(path, where=path.name) as fd:
        members = zip_archive.read_members(fd, path.name)
        folder = dist_info_folder(members, path.name)
        data = member_bytes(fd, members, f"{folder}/METADATA", TEXT_LIMIT, path.name)
    return data.decode("utf-8", "replace")


def _project_findings(told: list[str], name: WheelName, where: str) -> Iterator[Finding]:
    """A finding when `told` (project, version) is not what the file name says."""
    project, version = (told[0], told[1]) if len(told) == 2 else ("", "")
    try:
        same = canonicalize_name(project) == name.project and Version(version) == name.version
    except InvalidVersion:
        same = False
    if not same:
        yield finding(
            "wheel-name-mismatch",
            "a wheel says inside that it is another project or version",
            where,
            " ".join(told)[:200] or "nothing",
            expected=f"{name.project} {name.version}",
        )


def _data_findings(members: list[Member], stem: str, where: str) -> list[Finding]:
    """Findings about `.data` folders: only the wheel's own, and only the schemes installers know."""
    findings = []
    for member in members:
        root, _, rest = member.name.partition("/")
        if not root.endswith(".data") or not rest:
            continue
        if root != f"{stem}.data" or rest.split("/")[0] not in SCHEMES:
            findings.append(
                finding("unsafe-member", "a .data folder that no installer may know", where, member.name)
            )
    return findings


def _wheel_file_findings(headers: email.message.Message, name: WheelName, where: str) -> list[Finding]:
    version = (headers["Wheel-Version"] or "").strip()
    if version.split(".")[0] != "1":
        return [finding("bad-wheel", "a wheel of an unknown format version", where, version or "none")]
    tags = frozenset(tag for text in headers.get_all("Tag", []) for tag in _tags(text))
    if tags == name.tags:
        return []
    # Installers go by the file name; renamed and repaired wheels often forget this file.
    return [
        finding(
            "wheel-tags-differ",
            "a wheel's WHEEL file names other tags than its file name",
            where,
            ", ".join(sorted(map(str, tags)))[:200] or "none",
            severity="note",
        )
    ]


def _tags(text: str) -> frozenset[Tag]:
    try:
        return parse_tag(text.strip())
    except ValueError:
        return frozenset()


def has_accelerator(names: Iterable[str], accelerator: str) -> bool:
    """Whether member names of a torch wheel hold the library of `accelerator`; always for `cpu`."""
    library = ACCELERATOR_LIBRARIES.get(accelerator)
    if library is None:
        return True
    return any(name.startswith("torch/lib/") and name.split("/")[-1].startswith(library) for name in names)


def member_names(path: Path) -> list[str]:
    """Names of all members of the wheel at `path`. Raises MalformedError (`bad-zip`)."""
    with open_regular(path, where=path.name) as fd:
        return [member.name for member in zip_archive.read_members(fd, path.name)]
