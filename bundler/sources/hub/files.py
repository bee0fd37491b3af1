"""What a Hub says about the files of a commit, and whether it can be true."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bundler.core.digest import is_git_commit, is_sha256_hex
from bundler.core.strict_json import MAX_INTEGER
from bundler.errors import ExitCode, Finding, NetworkError

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedFile:
    """A file as the tree of a commit lists it. Digests are what the Hub says, not yet checked."""

    path: str
    size: int
    oid: str
    """Git blob id of the file, or of its LFS pointer."""
    sha256: str | None = None
    """LFS digest of the bytes."""
    xet_hash: str | None = None


def git_blob_sha1(data: bytes) -> str:
    """The id git gives a file with these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def lfs_pointer_sha1(sha256: str, size: int) -> str:
    """The git blob id of the pointer that stands for an LFS file.

    The pointer's text is canonical: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md.
    """
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
    return git_blob_sha1(text.encode("ascii", "replace"))


def listed_files(entries: Iterable[Mapping[str, Any]], *, where: str) -> list[ListedFile]:
    """The files among the entries of a tree, in code point order. Raises NetworkError (`hub-answer`)."""
    files = [_listed(entry, where) for entry in entries if entry.get("type") != "directory"]
    return sorted(files, key=lambda file: file.path)


def _listed(entry: Mapping[str, Any], where: str) -> ListedFile:
    path, size, oid, lfs = (entry.get(name) for name in ("path", "size", "oid", "lfs"))
    lfs = lfs if isinstance(lfs, Mapping) else {}
    well_formed = isinstance(path, str) and type(size) is int and 0 <= size <= MAX_INTEGER
    if not well_formed or lfs.get("size", size) != size:
        raise NetworkError(
            "hub-answer",
            "the Hub lists a file in a way that cannot be",
            where=where,
            expected="a path and a size",
            found=repr(dict(entry))[:200],
        )
    xet_hash = entry.get("xetHash")
    return ListedFile(
        path=str(path),
        size=int(str(size)),
        oid=str(oid or ""),
        sha256=str(lfs["oid"]) if lfs.get("oid") else None,
        xet_hash=xet_hash if is_sha256_hex(xet_hash) else None,
    )


def pin_findings(files: Iterable[ListedFile], *, where: str) -> list[Finding]:
    """Files without a digest that would pin them, and LFS files whose pointer is not that of the commit."""
    findings = (_pin_finding(file, where) for file in files)
    return [finding for finding in findings if finding is not None]


def _pin_finding(file: ListedFile, where: str) -> Finding | None:
    if not is_git_commit(file.oid) or not (file.sha256 is None or is_sha256_hex(file.sha256)):
        return Finding(
            reference="cannot-be-pinned",
            what="the Hub gives no digest for a file: nothing would tell whether the right bytes arrive",
            where=f"{where}: {file.path[:300]}",
            expected="a git blob id, with the SHA-256 for LFS files",
            found=f"blob id {file.oid[:80]!r}, SHA-256 {(file.sha256 or '')[:80]!r}",
            hint="leave the file out with an exclude pattern, or lock from another Hub",
            exit_code=ExitCode.NETWORK,
        )
    if file.sha256 is None or lfs_pointer_sha1(file.sha256, file.size) == file.oid:
        return None
    return Finding(
        reference="lfs-pointer-mismatch",
        what="the SHA-256 the Hub gives for a file is not the one in the commit",
        where=f"{where}: {file.path[:300]}",
        expected=f"git blob {file.oid}",
        found=f"git blob {lfs_pointer_sha1(file.sha256, file.size)} for sha256:{file.sha256}",
        hint="ask the model's owner or the Hub; do not use this file",
        exit_code=ExitCode.INTEGRITY,
    )


def listing_findings(
    listed: Sequence[ListedFile], siblings: Sequence[RepoSibling], *, where: str
) -> list[Finding]:
    """Files on which the Hub's model information and its tree of the commit disagree.

    Model information is cut off for very large repositories, so the tree may have more.
    """
    tree = {file.path: _facts(file.size, file.oid, file.sha256) for file in listed}
    findings = []
    for sibling in siblings:
        sha256 = sibling.lfs.sha256 if sibling.lfs else None
        told = _facts(sibling.size, sibling.blob_id, sha256)
        known = tree.get(str(sibling.rfilename), "not there")
        if told != known:
            findings.append(_disagreement(f"{where}: {sibling.rfilename}", told, known))
    return findings


def _facts(size: int | None, oid: str | None, sha256: str | None) -> str:
    return f"{size} bytes, git blob {oid or 'unknown'}, sha256 {sha256 or 'none'}"


def _disagreement(where: str, told: str, known: str) -> Finding:
    return Finding(
        reference="hub-disagrees",
        what="the Hub says two different things about a file",
        where=where,
        expected=f"as in the tree of the commit: {known}",
        found=f"model information: {told}",
        hint="try again; if it stays, ask the Hub and do not use this model",
        exit_code=ExitCode.INTEGRITY,
    )
