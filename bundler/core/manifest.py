"""The manifest: the complete list of a bundle's files and artifacts (format.md section 3)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bundler.core import strict_json
from bundler.core.digest import is_sha256_hex
from bundler.core.paths import BundlePath, parse_bundle_path, path_set_findings
from bundler.errors import ExitCode, Finding, MalformedError

MANIFEST_TYPE = "urn:sealift:manifest:v1"
MANIFEST_NAME = "manifest.json"
ATTESTATIONS = "attestations"
SHA256SUMS_PATH = "SHA256SUMS"
REQUIRED = frozenset({"type", "channel", "serial", "files"})
OPTIONAL = frozenset({"name", "createdAt", "tool", "artifacts", "chunks", "lock", "launch", "critical"})
UNDERSTOOD = REQUIRED | OPTIONAL
MAX_FAULTS = 10_000
"""Faulty entries that are reported. A manifest with more was made to cost time and memory, not by mistake."""


@dataclass(frozen=True)
class FileEntry:
    """One listed file: where it lies, its bytes and their SHA-256, and the artifact it belongs to."""

    path: BundlePath
    size: int
    sha256: str
    artifact: str = ""

    def to_json(self) -> dict[str, Any]:
        """The manifest's form of the entry; no `artifact` member when it belongs to none."""
        value: dict[str, Any] = {"path": self.path, "size": self.size, "sha256": self.sha256}
        if self.artifact:
            value["artifact"] = self.artifact
        return value


@dataclass(frozen=True)
class ChunkList:
    """Where the chunk digests lie and how many bytes a chunk has (format.md section 4)."""

    path: BundlePath
    size: int


@dataclass(frozen=True)
class Manifest:
    """A manifest whose shape has been checked. Says nothing about who signed it.

    `files` are in code point order of their paths. `members` is the whole object as read, with every
    member that this version does not know.
    """

    channel: str
    serial: int
    files: tuple[FileEntry, ...]
    sha256: str
    """SHA-256 of the very bytes it was parsed from, in hexadecimal: what signatures and the state name."""
    size: int
    """The number of those bytes."""
    chunks: ChunkList | None = None
    members: Mapping[str, Any] = field(default_factory=dict)

    @property
    def total_bytes(self) -> int:
        """The bytes of all listed files."""
        return sum(entry.size for entry in self.files)

    @property
    def unknown_members(self) -> tuple[str, ...]:
        """Names of members that are kept and shown but not understood."""
        return tuple(sorted(self.members.keys() - UNDERSTOOD))

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """The manifest that `data` says. Raises MalformedError with every fault that could be found."""
        value = strict_json.loads(data, limit=strict_json.MANIFEST_LIMIT, where=MANIFEST_NAME)
        if not isinstance(value, dict):
            raise _fault("manifest.json", "an object", value)
        _check_head(value)
        files = _parse_files(value.get("files"))
        return cls(
            channel=value["channel"],
            serial=value["serial"],
            files=files,
            sha256=hashlib.sha256(data).hexdigest(),
            size=len(data),
            chunks=_parse_chunks(value.get("chunks"), files),
            members=value,
        )


def compose(
    *, channel: str, serial: int, files: Sequence[FileEntry], chunks: ChunkList | None, **members: Any
) -> bytes:
    """The bytes of a manifest with these members, files put in code point order.

    The bytes are parsed once more before they are given back, so a builder cannot write what a verifier
    refuses.
    """
    value: dict[str, Any] = {name: member for name, member in members.items() if member is not None}
    value.update(
        type=MANIFEST_TYPE,
        channel=channel,
        serial=serial,
        files=[entry.to_json() for entry in sorted(files, key=lambda entry: entry.path)],
    )
    if chunks is not None:
        value["chunks"] = {"path": chunks.path, "size": chunks.size}
    data = strict_json.dumps(value)
    Manifest.parse(data)
    return data


def _check_head(value: Mapping[str, Any]) -> None:
    if value.get("type") != MANIFEST_TYPE:
        raise _fault("type", repr(MANIFEST_TYPE), value.get("type"))
    if not isinstance(value.get("channel"), str) or not value["channel"]:
        raise _fault("channel", "text", value.get("channel"))
    if type(value.get("serial")) is not int or value["serial"] < 0:
        raise _fault("serial", "an integer >= 0", value.get("serial"))
    critical = value.get("critical", [])
    if not isinstance(critical, list) or not all(isinstance(name, str) for name in critical):
        raise _fault("critical", "a list of member names", critical)
    unknown = sorted(set(critical) - UNDERSTOOD)
    if unknown:
        raise MalformedError(
            "unknown-critical-member",
            "the manifest needs a newer verifier",
            where="manifest.json: critical",
            expected="members this version understands: " + ", ".join(sorted(UNDERSTOOD)),
            found=", ".join(unknown)[:200],
            hint="install the sealift version that built the bundle; `sealift inspect BUNDLE` names it",
        )
    missing = sorted(set(critical) - value.keys())
    if missing:
        raise _fault("critical", "members that are present", missing)


def _parse_files(value: object) -> tuple[FileEntry, ...]:
    if not isinstance(value, list):
        raise _fault("files", "a list", value)
    findings: list[Finding] = []
    entries: list[FileEntry] = []
    for position, item in enumerate(value):
        try:
            entries.append(_parse_entry(item, f"files[{position}]"))
        except MalformedError as error:
            findings.extend(error.findings)
            if len(findings) >= MAX_FAULTS:
                raise MalformedError.of(findings) from error
    paths = [entry.path for entry in entries]
    # manifest.json and attestations/* are in the tree without being listed: nothing may collide with them.
    findings += path_set_findings([MANIFEST_NAME, *paths], where=MANIFEST_NAME)
    if paths != sorted(paths):
        at = next(n for n in range(1, len(paths)) if paths[n - 1] > paths[n])
        findings.append(
            Finding(
                "unsorted-files",
                "the manifest's files are not in code point order",
                where=f"manifest.json: files, near {paths[at]!r}",
                expected="code point order of path (format.md section 4)",
                found=f"{paths[at - 1]!r} before {paths[at]!r}",
                exit_code=ExitCode.MALFORMED,
            )
        )
    if findings:
        raise MalformedError.of(findings)
    return tuple(entries)


def _parse_entry(item: object, where: str) -> FileEntry:
    if not isinstance(item, dict):
        raise _fault(where, "an object", item)
    path = parse_bundle_path(item.get("path"), where=f"manifest.json: {where}.path")
    if type(item.get("size")) is not int or item["size"] < 0:
        raise _fault(f"{where}.size", "an integer >= 0, in bytes", item.get("size"))
    if not is_sha256_hex(item.get("sha256")):
        raise _fault(f"{where}.sha256", "64 lower-case hexadecimal digits", item.get("sha256"))
    if not isinstance(item.get("artifact", ""), str):
        raise _fault(f"{where}.artifact", "text", item["artifact"])
    return FileEntry(path=path, size=item["size"], sha256=item["sha256"], artifact=item.get("artifact", ""))


def _parse_chunks(value: object, files: Sequence[FileEntry]) -> ChunkList | None:
    if value is None:
        return None
    if not isinstance(value, dict) or type(value.get("size")) is not int or not 0 < value["size"] <= 1 << 30:
        raise _fault("chunks", "an object with a path and a size from 1 to 1 GiB", value)
    path = parse_bundle_path(value.get("path"), where="manifest.json: chunks.path")
    if path not in {entry.path for entry in files}:
        raise _fault("chunks.path", "a listed file", path)
    return ChunkList(path=path, size=value["size"])


def _fault(where: str, expected: str, found: object) -> MalformedError:
    return MalformedError(
        "bad-manifest",
        "the manifest is not valid",
        where=where if where.startswith("manifest.json") else f"manifest.json: {where}",
        expected=expected,
        found=repr(found)[:200],
    )
