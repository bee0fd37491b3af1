"""What a Hub says about the files of a commit, and whether it can be true."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bundler.core.digest import is_git_commit, is_sha256_hex
from bundler.core.strict_json import MAX_INTEGER
from bundler.errors import ExitCode, Finding, NetworkError


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ToldFile:
    """A file as the model's information names it; a mirror may say less than the Hub."""

    path: str
    size: int | None = None
    oid: str | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HubModel:
    """What a Hub says about a model at one revision."""

    id: str
    sha: str | None
    gated: bool = False
    card: Mapping[str, Any] = field(default_factory=dict)
    siblings: tuple[ToldFile, ...] = ()


def hub_model(value: Any, *, where: str) -> HubModel:
    """The answer of `/api/models/OWNER/NAME/revision/REVISION`. Raises NetworkError (`hub-answer`)."""
    answer = value if isinstance(value, Mapping) else {}
    siblings = answer.get("siblings") or []
    name = answer.get("id") or answer.get("modelId")
    well_formed = isinstance(name, str) and isinstance(siblings, list)
    if not well_formed or not all(_is_sibling(one) for one in siblings):
        raise NetworkError(
            "hub-answer",
            "the answer is not one of a Hugging Face Hub",
            where=where,
            expected="model metadata: an id, and siblings with file names",
            found=repr(value)[:200],
            hint="check HF_ENDPOINT and `endpoint` in the spec; a proxy may be answering instead",
        )
    sha, card = answer.get("sha"), answer.get("cardData")
    return HubModel(
        id=str(name),
        sha=sha if isinstance(sha, str) else None,
        gated=bool(answer.get("gated")),
        card=card if isinstance(card, Mapping) else {},
        siblings=tuple(map(_told, siblings)),
    )


def _is_sibling(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("rfilename"), str)


def _told(sibling: Mapping[str, Any]) -> ToldFile:
    size, oid, lfs = (sibling.get(name) for name in ("size", "blobId", "lfs"))
    sha256 = lfs.get("sha256") if isinstance(lfs, Mapping) else None
    return ToldFile(
        path=str(sibling["rfilename"]),
        size=size if type(size) is int else None,
        oid=oid if isinstance(oid, str) else None,
        sha256=sha256 if isinstance(sha256, str) else None,
    )


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
    listed: Sequence[ListedFile], siblings: Sequence[ToldFile], *, where: str
) -> list[Finding]:
    """Files on which the Hub's model information and its tree of the commit disagree.

    Model information is cut off for very large repositories, so the tree may have more. What it leaves out
    of a file (mirrors do) is not compared.
    """
    tree = {file.path: file for file in listed}
    findings = []
    for told in siblings:
        known = tree.get(told.path)
        if known is None or not _agree(told, known):
            findings.append(_disagreement(f"{where}: {told.path}", _facts(told), _facts(known)))
    return findings


def _agree(told: ToldFile, known: ListedFile) -> bool:
    pairs = ((told.size, known.size), (told.oid, known.oid), (told.sha256, known.sha256))
    return all(one is None or one == other for one, other in pairs)


def _facts(file: ToldFile | ListedFile | None) -> str:
    if file is None:
        return "not there"
    return f"{file.size} bytes, git blob {file.oid or 'unknown'}, sha256 {file.sha256 or 'none'}"


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
