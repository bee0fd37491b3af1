"""What a wheel must look like, checked without running or unpacking it.

One reading of the archive (`content.zip_archive`), safe member names, a `.dist-info` that agrees with the
file name, and a RECORD that lists every file with its digest, compared with the bytes. Installers compare
little of this: pip and uv do not look at RECORD's digests. Source: the binary distribution format,
https://packaging.python.org/en/latest/specifications/binary-distribution-format/.
"""

from __future__ import annotations

import base64
import csv
import email
import io
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.tags import Tag, parse_tag
from packaging.utils import InvalidWheelFilename, NormalizedName, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from bundler.content import zip_archive
from bundler.content.opened import open_regular
from bundler.content.zip_archive import Member
from bundler.core.paths import path_fault
from bundler.errors import ExitCode, Finding, MalformedError, SealiftError

TEXT_LIMIT = 16 << 20
"""Bytes of METADATA or WHEEL that are read."""
RECORD_LIMIT = 128 << 20
"""Bytes of RECORD that are read; a torch wheel's has 1.3 MB."""
SCHEMES = frozenset({"purelib", "platlib", "headers", "scripts", "data"})
"""Folders below `.data/` (PEP 427)."""
DIGESTS = ("sha256", "sha384", "sha512")
ACCELERATOR_LIBRARIES = {"cuda": "libtorch_cuda", "rocm": "libtorch_hip"}
"""How the GPU library inside a torch wheel is called, by what the engine computes on."""


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


def check_wheel(path: Path, *, deep: bool = True) -> list[Finding]:
    """Everything wrong with the wheel at `path`; empty when nothing is.

    Without `deep` the structure, names and metadata are checked, but no member is hashed.
    """
    where = path.name
    try:
        name = parse_wheel_name(path.name)
        with open_regular(path, where=where) as fd:
            members = zip_archive.read_members(fd, where)
            findings = name_findings(members, where)
            if not findings:
                findings += _dist_info_findings(fd, members, name, where)
                findings += _record_findings(fd, members, where, deep=deep)
    except SealiftError as error:
        return list(error.findings)
    return findings


def name_findings(members: list[Member], where: str) -> list[Finding]:
    """Findings about members that could land elsewhere, twice, or as something else than a file."""
    findings = [
        _finding("unsafe-member", f"a member's name is refused: {fault}", where, repr(member.name)[:200])
        for member in members
        if (fault := _name_fault(member.name))
    ]
    findings += [
        _finding("unsafe-member", "a member is a link or device", where, f"{member.name}: {member.mode:o}")
        for member in members
        if zip_archive.is_odd_mode(member)
    ]
    counted = Counter(member.name.rstrip("/") for member in members)
    findings += [
        _finding("duplicate-member", "an archive has one name several times", where, repr(name)[:200])
        for name, count in counted.items()
        if count > 1
    ]
    return findings + _file_and_folder(members, where)


def _file_and_folder(members: list[Member], where: str) -> list[Finding]:
    files = {member.name for member in members if not member.is_directory}
    folders = {parent for member in members for parent in _parents(member.name)}
    return [
        _finding("duplicate-member", "a member is both a file and a folder", where, repr(name)[:200])
        for name in sorted(files & folders)
    ]


def _parents(name: str) -> Iterator[str]:
    parts = name.rstrip("/").split("/")
    return ("/".join(parts[:depth]) for depth in range(1, len(parts)))


def _name_fault(name: str) -> str:
    """Why a member's name is unsafe on the target (Linux); empty when it is not."""
    if name.startswith("/"):
        return "it is absolute"
    if "\\" in name or ":" in name.split("/")[0]:
        return "it holds a backslash or a drive"
    if any(ord(character) < 32 or ord(character) == 127 for character in name):
        return "it holds a control character"
    parts = name.rstrip("/").split("/") if name != "/" else [""]
    if any(part in ("", ".", "..") for part in parts):
        return "it has an empty, `.` or `..` component"
    return ""


def _dist_info_findings(fd: int, members: list[Member], name: WheelName, where: str) -> list[Finding]:
    folder = dist_info_folder(members, where)
    stem = folder.removesuffix(".dist-info")
    findings = list(_project_findings(stem.split("-"), name, f"{where}: {folder}"))
    findings += _data_findings(members, stem, where)
    metadata = _headers(fd, members, f"{folder}/METADATA", where)
    told = [metadata["Name"] or "", metadata["Version"] or ""]
    findings += _project_findings(told, name, f"{where}: {folder}/METADATA")
    return findings + _wheel_file_findings(_headers(fd, members, f"{folder}/WHEEL", where), name, where)


def dist_info_folder(members: list[Member], where: str) -> str:
    """The only `.dist-info` folder. Raises MalformedError (`bad-wheel`) when there is none or another."""
    roots = {member.name.split("/")[0] for member in members if "/" in member.name}
    folders = sorted(root for root in roots if root.endswith(".dist-info"))
    if len(folders) != 1:
        raise _bad(where, "one .dist-info folder", ", ".join(folders) or "none")
    return folders[0]


def _headers(fd: int, members: list[Member], path: str, where: str) -> email.message.Message:
    data = _member_bytes(fd, members, path, TEXT_LIMIT, where)
    try:
        return email.message_from_string(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _bad(f"{where}: {path}", "UTF-8", str(error)) from None


def _member_bytes(fd: int, members: list[Member], path: str, limit: int, where: str) -> bytes:
    member = zip_archive.by_name(members).get(path)
    if member is None:
        raise _bad(where, path, "no such member")
    return zip_archive.read_member(fd, member, limit=limit, where=where)


def metadata_text(path: Path) -> str:
    """METADATA of the wheel at `path`, for licence and requirement readers.

    Raises MalformedError (`bad-zip`, `bad-wheel`) and IntegrityError when the file cannot be read.
    """
    with open_regular(path, where=path.name) as fd:
        members = zip_archive.read_members(fd, path.name)
        folder = dist_info_folder(members, path.name)
        data = _member_bytes(fd, members, f"{folder}/METADATA", TEXT_LIMIT, path.name)
    return data.decode("utf-8", "replace")


def _project_findings(told: list[str], name: WheelName, where: str) -> Iterator[Finding]:
    """A finding when `told` (project, version) is not what the file name says."""
    project, version = (told[0], told[1]) if len(told) == 2 else ("", "")
    try:
        same = canonicalize_name(project) == name.project and Version(version) == name.version
    except InvalidVersion:
        same = False
    if not same:
        yield _finding(
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
                _finding("unsafe-member", "a .data folder that no installer may know", where, member.name)
            )
    return findings


def _wheel_file_findings(headers: email.message.Message, name: WheelName, where: str) -> list[Finding]:
    version = (headers["Wheel-Version"] or "").strip()
    if version.split(".")[0] != "1":
        return [_finding("bad-wheel", "a wheel of an unknown format version", where, version or "none")]
    tags = frozenset(tag for text in headers.get_all("Tag", []) for tag in _tags(text))
    if tags == name.tags:
        return []
    # Installers go by the file name; renamed and repaired wheels often forget this file.
    return [
        _finding(
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


@dataclass(frozen=True)
class RecordRow:
    """One line of RECORD: a path with the algorithm and raw digest, empty when none is given."""

    path: str
    algorithm: str
    digest: bytes
    size: str


def parse_record(data: bytes, where: str) -> list[RecordRow]:
    """The rows of a RECORD file. Raises MalformedError (`bad-record`)."""
    try:
        rows = list(csv.reader(io.StringIO(data.decode("utf-8"), newline=""), strict=True))
        return [_row(row) for row in rows if row]
    except (UnicodeDecodeError, csv.Error, ValueError) as error:
        raise MalformedError(
            "bad-record",
            "a wheel's RECORD does not have its form",
            where=f"{where}: RECORD",
            expected="rows of path, algorithm=digest, size",
            found=str(error)[:200],
        ) from None


def _row(row: list[str]) -> RecordRow:
    if len(row) != 3:
        raise ValueError(f"a row with {len(row)} fields: {row[:1]!r}")
    path, digest, size = row
    algorithm, equals, value = digest.partition("=")
    if bool(digest) != bool(equals) or (size and not size.isascii()) or (size and not size.isdigit()):
        raise ValueError(f"a row that is not path, algorithm=digest, size: {path!r}")
    return RecordRow(path, algorithm.lower(), base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)), size)


def _record_findings(fd: int, members: list[Member], where: str, *, deep: bool) -> list[Finding]:
    folder = dist_info_folder(members, where)
    rows = parse_record(_member_bytes(fd, members, f"{folder}/RECORD", RECORD_LIMIT, where), where)
    listed = {row.path: row for row in rows}
    unsigned = {f"{folder}/RECORD", f"{folder}/RECORD.jws", f"{folder}/RECORD.p7s"}
    files = {member.name: member for member in members if not member.is_directory}
    findings = _set_findings(rows, files, unsigned, where)
    for name in (name for name in files if name in listed and name not in unsigned):
        findings += _row_findings(fd, files[name], listed[name], where, deep=deep)
    return findings


def _set_findings(
    rows: list[RecordRow], files: Mapping[str, Member], unsigned: set[str], where: str
) -> list[Finding]:
    """Findings about names: in the archive and not in RECORD, or the other way round."""
    listed = {row.path for row in rows}
    findings = [
        _finding("record-incomplete", "a file in a wheel is not in its RECORD", where, name)
        for name in sorted(files.keys() - listed - unsigned)
    ]
    findings += [
        _finding("record-ambiguous", "RECORD says two things about one file", where, path)
        for path in _contradicted(rows)
    ]
    # Nothing unchecked is installed because of such a row; old build tools left some behind.
    findings += [
        _finding("record-names-nothing", "RECORD lists what is not there", where, path, severity="warning")
        for path in sorted(listed - files.keys() - unsigned)
    ]
    return findings


def _contradicted(rows: list[RecordRow]) -> list[str]:
    told: dict[str, RecordRow] = {}
    return sorted({row.path for row in rows if told.setdefault(row.path, row) != row})


def _row_findings(fd: int, member: Member, row: RecordRow, where: str, *, deep: bool) -> list[Finding]:
    """Findings about one listed file: algorithm, size and, when `deep`, the digest of its bytes."""
    here = f"{where}: {member.name}"
    if row.algorithm not in DIGESTS:
        return [
            _finding(
                "record-weak-digest",
                "RECORD has no digest that proves anything",
                here,
                row.algorithm or "none",
                expected=", ".join(DIGESTS),
            )
        ]
    if row.size and int(row.size) != member.size:
        return [_record_differs(here, f"{row.size} bytes", f"{member.size} bytes")]
    if not deep:
        return []
    try:
        found = zip_archive.digest(fd, member, row.algorithm, where)
    except SealiftError as error:
        return list(error.findings)
    if found == row.digest:
        return []
    return [_record_differs(here, f"{row.algorithm}:{row.digest.hex()}", f"{row.algorithm}:{found.hex()}")]


def _record_differs(where: str, expected: str, found: str) -> Finding:
    return Finding(
        "record-mismatch",
        "a file in a wheel is not what the wheel's RECORD says",
        where=where,
        expected=expected,
        found=found,
        hint="the wheel was changed after it was made: get it from its publisher again",
        exit_code=ExitCode.INTEGRITY,
    )


def has_accelerator(names: Iterator[str] | list[str], accelerator: str) -> bool:
    """Whether member names of a torch wheel hold the library of `accelerator`; always for `cpu`."""
    library = ACCELERATOR_LIBRARIES.get(accelerator)
    if library is None:
        return True
    return any(name.startswith("torch/lib/") and name.split("/")[-1].startswith(library) for name in names)


def member_names(path: Path) -> list[str]:
    """Names of all members of the wheel at `path`. Raises MalformedError (`bad-zip`)."""
    with open_regular(path, where=path.name) as fd:
        return [member.name for member in zip_archive.read_members(fd, path.name)]


def _finding(
    reference: str, what: str, where: str, found: str, *, expected: str = "", severity: str = "error"
) -> Finding:
    return Finding(
        reference,
        what,
        where=where,
        expected=expected,
        found=found,
        severity=severity,
        exit_code=ExitCode.MALFORMED,
    )


def _bad(where: str, expected: str, found: str) -> MalformedError:
    return MalformedError(
        "bad-wheel", "a wheel does not have its form", where=where, expected=expected, found=found
    )
