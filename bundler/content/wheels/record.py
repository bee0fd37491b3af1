"""RECORD: the list of files and digests inside a wheel, compared with what is really there.

Installers compare little of it: pip and uv do not look at the digests.
https://packaging.python.org/en/latest/specifications/recording-installed-packages/#the-record-file
"""

from __future__ import annotations

import base64
import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass

from bundler.content import zip_archive
from bundler.content.wheels.archive import TEXT_SHOWN, finding, member_bytes
from bundler.content.zip_archive import Member
from bundler.errors import ExitCode, Finding, MalformedError, SealiftError

RECORD_LIMIT = 128 << 20
"""Bytes of RECORD that are read; a torch wheel's has 1.3 MB."""
DIGESTS = ("sha256", "sha384", "sha512")
_SIZE = re.compile("[0-9]{1,20}")
"""Python refuses to read numbers of thousands of digits; no file has more bytes than this."""


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
            "a wheel's RECORD is not valid",
            where=f"{where}: RECORD",
            expected="rows of path, algorithm=digest, size",
            found=str(error)[:200],
        ) from None


def _row(row: list[str]) -> RecordRow:
    if len(row) != 3:
        raise ValueError(f"a row with {len(row)} fields: {row[:1]!r}")
    path, digest, size = row
    algorithm, equals, value = digest.partition("=")
    if bool(digest) != bool(equals) or (size and not _SIZE.fullmatch(size)):
        raise ValueError(f"a row that is not path, algorithm=digest, size: {path!r}")
    return RecordRow(path, algorithm.lower(), base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)), size)


def record_findings(fd: int, members: list[Member], folder: str, where: str, *, deep: bool) -> list[Finding]:
    """Findings about RECORD of the `.dist-info` folder `folder`; members are hashed only when `deep`."""
    rows = parse_record(member_bytes(fd, members, f"{folder}/RECORD", RECORD_LIMIT, where), where)
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
        finding("record-incomplete", "a file in a wheel is not in its RECORD", where, name)
        for name in sorted(files.keys() - listed - unsigned)
    ]
    findings += [
        finding("record-ambiguous", "RECORD says two things about one file", where, path)
        for path in _contradicted(rows)
    ]
    # Nothing unchecked is installed because of such a row; old build tools left some behind.
    findings += [
        finding("record-names-nothing", "RECORD lists what is not there", where, path, severity="warning")
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
            finding(
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
        where=where[:TEXT_SHOWN],
        expected=expected[:TEXT_SHOWN],
        found=found,
        hint="the wheel was changed after it was made: get it from its publisher again",
        exit_code=ExitCode.INTEGRITY,
    )
