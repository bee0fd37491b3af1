"""A wheel as an archive: names that can only land where they belong, and its `.dist-info` folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from bundler.content import zip_archive
from bundler.content.zip_archive import Member
from bundler.errors import ExitCode, Finding, MalformedError

TEXT_SHOWN = 1024
"""Letters of a hostile name that an error repeats."""


def name_findings(members: list[Member], where: str) -> list[Finding]:
    """Findings about members that could land elsewhere, twice, or as something else than a file."""
    findings = [
        finding("unsafe-member", f"a member's name is refused: {fault}", where, repr(member.name)[:200])
        for member in members
        if (fault := _name_fault(member.name))
    ]
    findings += [
        finding("unsafe-member", "a member is a link or device", where, f"{member.name}: {member.mode:o}")
        for member in members
        if zip_archive.is_odd_mode(member)
    ]
    counted = Counter(member.name.rstrip("/") for member in members)
    findings += [
        finding("duplicate-member", "an archive has one name several times", where, repr(name)[:200])
        for name, count in counted.items()
        if count > 1
    ]
    return findings + _file_and_folder(members, where)


def _file_and_folder(members: list[Member], where: str) -> list[Finding]:
    files = {member.name for member in members if not member.is_directory}
    folders = {parent for member in members for parent in _parents(member.name)}
    return [
        finding("duplicate-member", "a member is both a file and a folder", where, repr(name)[:200])
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


def dist_info_folder(members: list[Member], where: str) -> str:
    """The only `.dist-info` folder. Raises MalformedError (`bad-wheel`) when there is none or another."""
    roots = {member.name.split("/")[0] for member in members if "/" in member.name}
    folders = sorted(root for root in roots if root.endswith(".dist-info"))
    if len(folders) != 1:
        raise bad_wheel(where, "one .dist-info folder", ", ".join(folders) or "none")
    return folders[0]


def member_bytes(fd: int, members: list[Member], path: str, limit: int, where: str) -> bytes:
    member = zip_archive.by_name(members).get(path)
    if member is None:
        raise bad_wheel(where, path, "no such member")
    return zip_archive.read_member(fd, member, limit=limit, where=where)


def finding(
    reference: str,
    what: str,
    where: str,
    found: str,
    *,
    expected: str = "",
    severity: str = "error",
    exit_code: ExitCode = ExitCode.MALFORMED,
) -> Finding:
    """A finding about a wheel; of the family "malformed" unless said otherwise."""
    return Finding(
        reference,
        what,
        where=where[:TEXT_SHOWN],
        expected=expected,
        found=found[:TEXT_SHOWN],
        severity=severity,
        exit_code=exit_code,
    )


def bad_wheel(where: str, expected: str, found: str) -> MalformedError:
    """A wheel that is not valid at `where`."""
    return MalformedError("bad-wheel", "a wheel is not valid", where=where, expected=expected, found=found)
