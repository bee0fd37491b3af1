"""Models from a Hugging Face Hub: a loose name becomes a commit with a digest for every file, and jobs.

Nothing the Hub says is believed where it can be compared: its two listings with each other, each LFS
pointer with its blob id, each file's commit and ETag with the lock while fetching, each byte with its digest.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

from bundler.core.digest import is_git_commit
from bundler.core.evidence import MODEL_SIGNATURE_LIMIT, model_evidence, model_evidence_path
from bundler.core.paths import path_fault, path_set_findings
from bundler.core.specs.lock import LockedModel, LockedModelFile
from bundler.core.specs.spec import ModelSpec
from bundler.core.units import format_bytes
from bundler.errors import ExitCode, Finding, IntegrityError, MalformedError, NetworkError, SealiftError
from bundler.sources.hub.access import TokenChoice, hub_access, read_token
from bundler.sources.hub.client import HubClient, Patience
from bundler.sources.hub.files import (
    HubModel,
    ListedFile,
    git_blob_sha1,
    listed_files,
    listing_findings,
    pin_findings,
)
from bundler.sources.hub.xet import XetByteSource, XetTransport
from bundler.sources.jobs import ByteSource, FetchJob
from bundler.trust.upstream.model_signatures import is_signature_name

__all__ = [
    "model_jobs",
    "preview_header",
    "read_small",
    "read_token",
    "resolve_model",
    "signature_jobs",
    "unmatched_includes",
]

Transport = Literal["http", "xet"]
SAFETENSORS_HEADER_LIMIT = 100_000_000
"""Longest header the safetensors library itself reads, in bytes."""
GGUF_HEADER_BYTES = 16 << 20
"""How much of a GGUF file is read for its header, whose length is nowhere stated; tokenizers make it long."""
SMALL_LIMIT = 64 << 20
MAX_SIGNATURES = 16
"""Signatures of one repository that are carried and tried; the spec may name the right one."""
_IDENTIFIER = re.compile(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?")


def resolve_model(
    spec: ModelSpec,
    *,
    endpoint: str | None = None,
    token: TokenChoice = None,
    patience: Patience | None = None,
) -> LockedModel:
    """The model pinned: 40-hex commit, and for each selected file its size and digest.

    `endpoint` overrides the spec's. `token` is None for this machine's own, False for none. Raises
    MalformedError (`bad-model-id`, `bad-path`, `path-collision`, `nothing-selected`), IntegrityError
    (`hub-disagrees`, `lfs-pointer-mismatch`), NetworkError (`cannot-be-pinned`, and those of
    `HubClient.model_info`), UsageError and MachineError as `hub_access`. All findings are reported together.
    """
    _refuse_bad_identifier(spec)
    client = _client(spec.endpoint, endpoint, token, patience)
    info = client.model_info(spec.repo, spec.revision)
    commit = _commit_of(info, spec, client.access.endpoint)
    listed = listed_files(client.tree(spec.repo, commit), where=f"{client.access.endpoint}/{spec.repo}")
    model = LockedModel(
        id=spec.identifier,
        repo=spec.repo,
        revision=spec.revision,
        commit=commit,
        format=spec.format,
        endpoint=spec.endpoint,
        declared_license=declared_license(info.card),
        concluded_license=spec.license,
        gated=info.gated,
        allow_pickle=spec.allow_pickle,
        include=spec.include,
        exclude=spec.exclude,
        files=(),
    )
    chosen = _selected(spec, listed)
    signatures = _signatures(spec, model, listed)
    pinned = {file.path: file for file in (*chosen, *signatures)}
    _raise_all(
        listing_findings(listed, info.siblings, where=spec.repo)
        + _path_findings(model, chosen)
        + pin_findings([pinned[path] for path in sorted(pinned)], where=spec.repo)
    )
    return model.model_copy(
        update={
            "files": tuple(map(_locked_file, chosen)),
            "signature_files": tuple(map(_locked_file, signatures)),
        }
    )


def model_jobs(
    model: LockedModel,
    *,
    endpoint: str | None = None,
    token: TokenChoice = None,
    transport: Transport = "http",
    patience: Patience | None = None,
    note: Callable[[str], None] = lambda _text: None,
) -> list[FetchJob]:
    """One job for each file of the model, to its place in the snapshot folder.

    With `transport="xet"` the files that have a Xet hash come through it; `note` gets how many do not.
    """
    client = _client(model.endpoint, endpoint, token, patience)
    shared = XetTransport(client=client, repo=model.repo, commit=model.commit)

    def source(file: LockedModelFile) -> ByteSource:
        if transport == "xet" and file.xet_hash is not None and file.size:
            return XetByteSource(transport=shared, path=file.path, xet_hash=file.xet_hash, size=file.size)
        return client.file(model.repo, model.commit, file.path, size=file.size, etag=_etag(file))

    plain = [file for file in model.files if file.xet_hash is None]
    if transport == "xet" and plain:
        total = format_bytes(sum(file.size for file in plain))
        note(f"{model.repo}: {len(plain)} files ({total}) are not in Xet and come over HTTP")
    return [_job(model, file, source(file)) for file in model.files]


def signature_jobs(
    model: LockedModel,
    *,
    endpoint: str | None = None,
    token: TokenChoice = None,
    patience: Patience | None = None,
) -> list[FetchJob]:
    """One job for each signature that the repository holds, to its place among the evidence."""
    client = _client(model.endpoint, endpoint, token, patience)
    jobs = []
    for file in model.signature_files:
        place = model_evidence(model, file)
        source = client.file(model.repo, model.commit, file.path, size=file.size, etag=_etag(file))
        jobs.append(
            FetchJob(
                path=place.path,
                size=place.size,
                sha256=place.sha256,
                git_blob_sha1=place.git_blob_sha1,
                source=source,
            )
        )
    return jobs


def preview_header(
    model: LockedModel,
    file: LockedModelFile,
    *,
    endpoint: str | None = None,
    token: TokenChoice = None,
    patience: Patience | None = None,
) -> bytes:
    """The beginning of a weight file with its whole header, before anything is downloaded.

    For safetensors exactly the 8 length bytes and the header; for others (GGUF) the first 16 MiB, or the
    file if it is shorter. Not verified: the digest of a shard needs the whole shard. Raises MalformedError
    (`bad-header-length`) and NetworkError.
    """
    client = _client(model.endpoint, endpoint, token, patience)

    def beginning(count: int) -> bytes:
        stop = min(count, file.size)
        source = client.file(
            model.repo, model.commit, file.path, size=file.size, etag=_etag(file), stop=stop or None
        )
        return client.read(source, limit=stop)

    if not file.path.endswith(".safetensors"):
        return beginning(GGUF_HEADER_BYTES)
    first = beginning(8)
    length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
    if not 2 <= length <= min(SAFETENSORS_HEADER_LIMIT, file.size - 8):
        raise MalformedError(
            "bad-header-length",
            "a safetensors file does not begin with the length of its header",
            where=f"{model.repo}: {file.path}",
            expected=f"2 to {min(SAFETENSORS_HEADER_LIMIT, max(file.size - 8, 2))}",
            found=str(length),
        )
    return beginning(8 + length)


def read_small(
    model: LockedModel,
    path: str,
    limit: int = SMALL_LIMIT,
    *,
    endpoint: str | None = None,
    token: TokenChoice = None,
    patience: Patience | None = None,
) -> bytes:
    """The bytes of a locked file of at most `limit` bytes, equal to its digest.

    Raises MalformedError (`not-locked`, `too-large`), IntegrityError (`digest-mismatch`), NetworkError.
    """
    file = next((file for file in model.files if file.path == path), None)
    where = f"{model.repo}: {path}"
    if file is None:
        raise MalformedError("not-locked", "the lock has no such file", where=where)
    if file.size > limit:
        raise MalformedError(
            "too-large",
            "a file is too large to be read at once",
            where=where,
            expected=f"at most {limit} bytes",
            found=f"{file.size} bytes",
        )
    client = _client(model.endpoint, endpoint, token, patience)
    source = client.file(model.repo, model.commit, path, size=file.size, etag=_etag(file))
    data = client.read(source, limit=file.size + 1)
    _refuse_other_bytes(file, data, where)
    return data


def unmatched_includes(model: LockedModel) -> tuple[str, ...]:
    """Include patterns that no file of the lock matches: often a slip of the pen."""
    paths = [file.path for file in model.files]
    return tuple(pattern for pattern in model.include if not _any_match(paths, pattern))


def declared_license(card: Mapping[str, Any]) -> str | None:
    """The licence a model card declares: its own name for `other`, several joined by commas; None without."""
    declared = card.get("license")
    if declared in (None, "", "other"):
        declared = card.get("license_name") or declared
    names = declared if isinstance(declared, list) else [declared]
    text = ", ".join(name.strip() for name in names if isinstance(name, str))
    # It is someone's text on its way into the lock: one line that a terminal can show.
    return "".join(character for character in text if character.isprintable())[:400].strip() or None


def _client(
    named: str | None,
    endpoint: str | None,
    token: TokenChoice,
    patience: Patience | None,
) -> HubClient:
    return HubClient(
        access=hub_access(named=named, endpoint=endpoint, token=token),
        patience=patience or Patience(),
    )


def _refuse_bad_identifier(spec: ModelSpec) -> None:
    if not _IDENTIFIER.fullmatch(spec.identifier):
        raise MalformedError(
            "bad-model-id",
            "the repository's name cannot serve as the model's short name",
            where=f"models: {spec.repo}",
            expected="at most 64 of a-z 0-9 . _ -, a letter or digit first and last",
            found=spec.identifier[:100],
            hint="give the model an `id:` in the spec",
        )


def _commit_of(info: HubModel, spec: ModelSpec, endpoint: str) -> str:
    commit = info.sha
    if commit is None or not is_git_commit(commit):
        raise NetworkError(
            "hub-answer",
            "the Hub names no commit",
            where=f"{endpoint}/{spec.repo}",
            expected="40 hexadecimal digits",
            found=str(commit)[:80],
        )
    if is_git_commit(spec.revision) and commit != spec.revision:
        raise IntegrityError(
            "hub-disagrees",
            "the Hub answers with another commit than the one asked for",
            where=f"{endpoint}/{spec.repo}",
            expected=spec.revision,
            found=commit,
        )
    return commit


def _any_match(paths: Iterable[str], pattern: str) -> bool:
    return any(_matches(path, pattern) for path in paths)


def _matches(path: str, pattern: str) -> bool:
    """As huggingface_hub's allow_patterns: `*` also matches `/`, and a folder means all below it."""
    return fnmatchcase(path, pattern + "*" if pattern.endswith("/") else pattern)


def _selected(spec: ModelSpec, listed: Sequence[ListedFile]) -> list[ListedFile]:
    chosen = [
        file
        for file in listed
        if any(_matches(file.path, pattern) for pattern in spec.include)
        and not any(_matches(file.path, pattern) for pattern in spec.exclude)
    ]
    if not chosen:
        raise _nothing_selected(spec, [file.path for file in listed])
    return chosen


def _signatures(spec: ModelSpec, model: LockedModel, listed: Sequence[ListedFile]) -> list[ListedFile]:
    """The one that the spec names, or else the first few with a signature's name."""
    named = spec.signature.file if spec.signature else None
    found = [
        file
        for file in listed
        if (file.path == named if named else is_signature_name(file.path))
        and file.size <= MODEL_SIGNATURE_LIMIT
        and not path_fault(model_evidence_path(model, file.path))
    ]
    return found[:MAX_SIGNATURES]


def _nothing_selected(spec: ModelSpec, paths: Sequence[str]) -> MalformedError:
    idle = [pattern for pattern in spec.include if not _any_match(paths, pattern)]
    shown = ", ".join(repr(pattern) for pattern in idle)
    if not paths:
        found = "the repository is empty"
    elif idle:
        found = f"no file matches {shown}"
    else:
        found = "the exclude patterns leave out every file that include takes"
    return MalformedError(
        "nothing-selected",
        "the patterns select no file of the model",
        where=f"models: {spec.repo}",
        expected="at least one file",
        found=found[:400],
        hint="the repository has " + (", ".join(sorted(paths)[:5])[:200] or "no files"),
    )


def _path_findings(model: LockedModel, chosen: Sequence[ListedFile]) -> list[Finding]:
    """The rules of bundle paths, for the path each file will have."""
    findings: list[Finding] = []
    good: list[str] = []
    for file in chosen:
        path = f"{model.snapshot}/{file.path}"
        fault = path_fault(path) or ("it has more than 400 characters" if len(file.path) > 400 else "")
        if not fault:
            good.append(path)
            continue
        findings.append(
            Finding(
                reference="bad-path",
                what=f"a file of the model cannot be carried: {fault}",
                where=model.repo,
                expected="a relative path as in format.md section 1",
                found=repr(file.path)[:200],
                hint="leave it out with an exclude pattern, or ask its owner to rename it",
                exit_code=ExitCode.MALFORMED,
            )
        )
    return findings + path_set_findings(good, where=model.repo)


def _raise_all(findings: Sequence[Finding]) -> None:
    """Raise all findings together."""
    if findings:
        raise SealiftError.of(list(findings))


def _locked_file(file: ListedFile) -> LockedModelFile:
    return LockedModelFile(
        path=file.path,
        size=file.size,
        git_blob_sha1=file.oid,
        lfs_sha256=file.sha256,
        xet_hash=file.xet_hash,
    )


def _etag(file: LockedModelFile) -> str:
    return file.lfs_sha256 or file.git_blob_sha1


def _job(model: LockedModel, file: LockedModelFile, source: ByteSource) -> FetchJob:
    return FetchJob(
        path=f"{model.snapshot}/{file.path}",
        size=file.size,
        sha256=file.lfs_sha256,
        git_blob_sha1=None if file.lfs_sha256 else file.git_blob_sha1,
        source=source,
    )


def _refuse_other_bytes(file: LockedModelFile, data: bytes, where: str) -> None:
    if file.lfs_sha256 is not None:
        expected, found = f"sha256:{file.lfs_sha256}", f"sha256:{hashlib.sha256(data).hexdigest()}"
    else:
        expected, found = f"git blob {file.git_blob_sha1}", f"git blob {git_blob_sha1(data)}"
    if len(data) != file.size or expected != found:
        raise IntegrityError(
            "digest-mismatch",
            "the Hub sends other bytes than the lock says",
            where=where,
            expected=f"{file.size} bytes, {expected}",
            found=f"{len(data)} bytes, {found}",
        )
