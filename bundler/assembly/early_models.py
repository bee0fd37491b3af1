"""A model judged before its weights are fetched: listing, small documents, then the headers of its weights.

The rules are those of `content.early`, which judge the files themselves after the download too. A wrong
checkpoint of 61 shards costs some seconds and megabytes instead of a night and a terabyte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from bundler.content.early import (
    Beginning,
    header_findings,
    listing_findings,
    parsed_documents,
    small_document_findings,
)
from bundler.content.gguf import END_OF_FILE, parse_header
from bundler.content.shards import INDEX_SUFFIX, SHARD_SUFFIX, whole_copy_findings
from bundler.content.weights import GGUF_SUFFIXES, is_document
from bundler.core.specs.lock import LockedModel, LockedModelFile
from bundler.errors import ExitCode, Finding, IntegrityError, MalformedError, NetworkError, SealiftError

if TYPE_CHECKING:
    from bundler.sources.hub.client import Patience

DOCUMENT_LIMIT = 128 << 20
"""Bytes of one JSON document that are read early: the largest index known has 60 MB."""
SMALL_BYTES = 1 << 20
"""Files up to this size are read whole: something else in their place (a pointer, a page) is small."""
SMALL_FILES = 256
"""Small files that are read; a repository with more of them is judged when it is fetched."""
POINTER_BYTES = 1024
"""A weight file up to this size may be a git-lfs pointer (git-lfs takes no longer file for one)."""
LARGE = 16 << 20
"""Bytes of weights from which their headers are read first."""
HEADER_READERS = 8
"""Requests under way at once: 61 headers in about two seconds."""
_WEIGHTS = (SHARD_SUFFIX, *GGUF_SUFFIXES)


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyReader:
    """How to read the locked files of a model upstream.

    `whole` gives a file's bytes, equal to its digest; `beginning` the first ones of a weight file,
    with its whole header.
    """

    whole: Callable[[LockedModel, str, int], bytes]
    beginning: Callable[[LockedModel, LockedModelFile], bytes]


def hub_reader(patience: Patience | None = None) -> EarlyReader:
    """Reads from the Hub that the model was pinned on."""
    from bundler.sources.hub.repository import preview_header, read_small

    return EarlyReader(
        whole=partial(read_small, patience=patience), beginning=partial(preview_header, patience=patience)
    )


def is_large(model: LockedModel) -> bool:
    """Whether the weights are so large that reading their headers first is worth the requests."""
    return sum(file.size for file in model.files if file.path.lower().endswith(_WEIGHTS)) >= LARGE


def document_findings(model: LockedModel, reader: EarlyReader) -> list[Finding]:
    """What listing and small documents of `model` show: no request for a weight. For `lock`."""
    return _documents_judged(model, reader)[0]


def early_findings(model: LockedModel, reader: EarlyReader) -> list[Finding]:
    """What is known to be wrong with `model` before its weights are fetched. For `plan` and `build`.

    Each stage runs only if the one before found no error, so a fault in a small document costs no request
    for a weight. A file that cannot be read is a warning.
    """
    findings, documents = _documents_judged(model, reader)
    # Headers are judged by the documents beside them: without one of these nothing can be said.
    if _has_error(findings) or any(finding.reference == "not-judged-early" for finding in findings):
        return findings
    return findings + _from_headers(model, reader, documents)


def located(model: LockedModel, findings: Iterable[Finding]) -> list[Finding]:
    """The findings with the repository before each path."""
    return [
        finding
        if finding.where.startswith(model.repo)
        else replace(finding, where=f"{model.repo}: {finding.where}")
        for finding in findings
    ]


def _documents_judged(model: LockedModel, reader: EarlyReader) -> tuple[list[Finding], dict[str, bytes]]:
    """Findings of listing and small files, and the JSON documents by path."""
    sizes = {file.path: file.size for file in model.files}
    findings = listing_findings(sizes, model.format, allow_pickle=model.allow_pickle)
    if _has_error(findings):
        return findings, {}
    small = _read_small_files(model, reader, findings)
    for path, data in small.items():
        findings += small_document_findings(path, data)
    documents = {path: data for path, data in small.items() if is_document(path)}
    indexes = {path: value for path, value in parsed_documents(documents) if path.endswith(INDEX_SUFFIX)}
    findings += whole_copy_findings(sizes, indexes)
    return findings, documents


def _read_small_files(model: LockedModel, reader: EarlyReader, findings: list[Finding]) -> dict[str, bytes]:
    """Path to bytes. What upstream does not give as locked is left to the build, which refuses it."""
    small = {}
    for file in _small_files(model):
        try:
            small[file.path] = reader.whole(model, file.path, DOCUMENT_LIMIT)
        except (NetworkError, IntegrityError) as error:
            findings.append(_not_read(model, file, f"{error.reference}: {error.findings[0].what}"))
            break  # what is missing already ends the early look; a dead network is not asked again
    return small


def _has_error(findings: list[Finding]) -> bool:
    return any(finding.is_error for finding in findings)


def _small_files(model: LockedModel) -> Iterator[LockedModelFile]:
    """JSON documents, and what is small enough to be something else in the place of a file."""
    documents = [file for file in model.files if is_document(file.path) and file.size <= DOCUMENT_LIMIT]
    others = [
        file
        for file in model.files
        if not is_document(file.path)
        and file.size <= (POINTER_BYTES if file.path.lower().endswith(_WEIGHTS) else SMALL_BYTES)
    ]
    yield from documents
    yield from others[:SMALL_FILES]


def _from_headers(model: LockedModel, reader: EarlyReader, documents: dict[str, bytes]) -> list[Finding]:
    """Findings from the headers of all weight files. One that cannot be read early is only a warning."""
    weights = [file for file in model.files if file.path.lower().endswith(_WEIGHTS)]
    with ThreadPoolExecutor(HEADER_READERS) as pool:
        read = list(pool.map(lambda file: _beginning(model, file, reader), weights))
    failed = [finding for _, findings in read for finding in findings]
    beginnings = {
        file.path: Beginning(data=data, size=file.size)
        for file, (data, _) in zip(weights, read, strict=True)
        if data is not None
    }
    if failed or len(beginnings) < len(weights):
        # What compares files with each other needs all of them.
        return failed
    return header_findings(beginnings, documents, model.format)


def _beginning(
    model: LockedModel, file: LockedModelFile, reader: EarlyReader
) -> tuple[bytes | None, list[Finding]]:
    try:
        data = reader.beginning(model, file)
    except NetworkError as error:
        return None, [_not_read(model, file, error.findings[0].what)]
    except SealiftError as error:
        return None, list(error.findings)
    if file.path.lower().endswith(GGUF_SUFFIXES) and len(data) < file.size and not _whole_gguf(data, file):
        return None, [_not_read(model, file, "a header longer than what is read early")]
    return data, []


def _whole_gguf(data: bytes, file: LockedModelFile) -> bool:
    """Whether `data`, a beginning of the file, holds the whole header, or a fault of it."""
    try:
        parse_header(data, file.size, where=file.path)
    except MalformedError as error:
        return error.findings[0].found != END_OF_FILE
    return True


def _not_read(model: LockedModel, file: LockedModelFile, found: str) -> Finding:
    return Finding(
        "not-judged-early",
        "a file could not be judged before the download; the build will judge it",
        where=f"{model.repo}: {file.path}",
        expected="the bytes that were locked, or the first of them",
        found=found,
        hint="`sealift build` judges it after the download and refuses what is not as locked",
        severity="warning",
        exit_code=ExitCode.NETWORK,
    )
