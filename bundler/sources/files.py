"""Other files of a bundle: from a URL with its digest, or from this machine."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from bundler.core import layout
from bundler.core.paths import BundlePath, parse_bundle_path
from bundler.core.specs.lock import LockedFile
from bundler.core.specs.spec import DocumentSpec, FileSpec
from bundler.errors import IntegrityError, MalformedError, NetworkError
from bundler.sources.http import (
    Headers,
    HttpByteSource,
    Timeouts,
    TransientError,
    no_headers,
    session,
    shown_url,
)
from bundler.sources.jobs import FetchJob

PIECE_BYTES = 1 << 20
FOLDERS = {"file": layout.FILES, "license": layout.LICENSES, "document": layout.DOCUMENTS}


def resolve_file(
    spec: FileSpec | DocumentSpec,
    base: Path,
    *,
    kind: Literal["license", "document"] = "document",
    headers: Headers = no_headers,
    timeouts: Timeouts | None = None,
) -> LockedFile:
    """`spec` with its size and digest; local paths are relative to `base`, the folder of the spec.

    `kind` says what a DocumentSpec is. A URL is asked for its size, and read through once when it does not
    say. Raises MalformedError (`bad-path`, `no-source`), IntegrityError (`digest-mismatch`), NetworkError.
    """
    if isinstance(spec, DocumentSpec):
        return _resolve_document(spec, base, kind)
    path = destination("file", spec.path)
    if spec.url is not None:
        assert spec.sha256 is not None
        return LockedFile(
            path=path,
            url=spec.url,
            sha256=spec.sha256,
            size=_size_at(spec.url, spec.sha256, headers, timeouts or Timeouts()),
        )
    assert spec.source is not None
    size, sha256 = _hash_local(base, spec.source, spec.sha256)
    return LockedFile(path=path, source=spec.source, size=size, sha256=sha256)


def _resolve_document(spec: DocumentSpec, base: Path, kind: Literal["license", "document"]) -> LockedFile:
    path = destination(kind, spec.name or PurePosixPath(spec.source).name)
    size, sha256 = _hash_local(base, spec.source, None)
    return LockedFile(
        path=path,
        source=spec.source,
        size=size,
        sha256=sha256,
        kind=kind,
        title=spec.title,
        applies_to=spec.applies_to,
    )


def destination(kind: Literal["file", "license", "document"], name: str) -> BundlePath:
    """Where a file of this kind and name is in the bundle. Raises MalformedError (`bad-path`)."""
    # The name alone first: `/etc/x` and `../x` must be refused by their own fault, not hidden by the folder.
    parse_bundle_path(name, where=f"{kind} {name!r}"[:200])
    return parse_bundle_path(f"{FOLDERS[kind]}/{name}")


def file_jobs(
    files: Sequence[LockedFile],
    base: Path,
    *,
    headers: Headers = no_headers,
    timeouts: Timeouts | None = None,
) -> list[FetchJob]:
    """One job for each locked file; local paths are relative to `base`, the folder of the lock.

    Raises MalformedError (`bad-path`) for a lock that sends a file anywhere but where its kind belongs.
    """
    shared, times = session(), timeouts or Timeouts()
    jobs = []
    for file in files:
        _check_destination(file)
        source: HttpByteSource | LocalByteSource
        if file.url is not None:
            source = HttpByteSource(
                url=file.url, size=file.size, session=shared, headers=headers, timeouts=times
            )
        else:
            source = LocalByteSource(path=base / (file.source or ""), size=file.size)
        jobs.append(FetchJob(path=file.path, size=file.size, sha256=file.sha256, source=source))
    return jobs


def _check_destination(file: LockedFile) -> None:
    parse_bundle_path(file.path)
    folder = FOLDERS[file.kind]
    if not file.path.startswith(f"{folder}/"):
        raise MalformedError(
            "bad-path",
            "a file of the lock would go where it does not belong",
            where=file.path,
            expected=f"a path below {folder}/",
            found=file.path,
            hint="write the lock anew with `sealift lock SPEC`; a lock is not edited by hand",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalByteSource:
    """A file of this machine as a ByteSource; links are followed, for its owner named it."""

    path: Path
    size: int

    @contextmanager
    def open(self, offset: int) -> Iterator[Iterator[bytes]]:
        """The bytes from `offset` on. MalformedError (`no-source`), IntegrityError (`source-changed`)."""
        descriptor = _open_regular(self.path)
        with os.fdopen(descriptor, "rb", buffering=0) as reading:
            found = os.fstat(descriptor).st_size
            if found != self.size:
                raise IntegrityError(
                    "source-changed",
                    "a local file is no longer the one that was locked",
                    where=str(self.path),
                    expected=f"{self.size} bytes",
                    found=f"{found} bytes",
                    hint="put the old one back, or lock again with `sealift lock SPEC`",
                )
            reading.seek(offset)
            yield iter(lambda: reading.read(PIECE_BYTES), b"")


def _open_regular(path: Path) -> int:
    """A descriptor of the regular file at `path`. Raises MalformedError (`no-source`) when it is none."""
    try:
        # O_NONBLOCK: opening a named pipe must not wait for someone to write into it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _no_source(path, error.strerror or "it cannot be opened") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _no_source(path, "something else")
    return descriptor


def _no_source(path: Path, found: str) -> MalformedError:
    return MalformedError(
        "no-source",
        "a local file that the spec names cannot be read",
        where=str(path),
        expected="a readable regular file",
        found=found,
        hint="correct `source` in the spec: it is relative to the spec's folder",
    )


def _hash_local(base: Path, source: str, expected: str | None) -> tuple[int, str]:
    """Size and SHA-256 of a local file."""
    path = base / source
    with os.fdopen(_open_regular(path), "rb", buffering=0) as reading:
        sha256, size = _hash_pieces(iter(lambda: reading.read(PIECE_BYTES), b""))
    _check_digest(str(path), expected, sha256)
    return size, sha256


def _size_at(url: str, sha256: str, headers: Headers, timeouts: Timeouts) -> int:
    """Bytes of the file at `url`: as the server says, else counted while its digest is checked."""
    with session() as asking:
        source = HttpByteSource(url=url, session=asking, headers=headers, timeouts=timeouts)
        announced = _announced_size(source)
        if announced is not None:
            return announced
        with source.open(0) as body:
            found, size = _hash_pieces(body)
    _check_digest(shown_url(url), sha256, found)
    return size


def _announced_size(source: HttpByteSource) -> int | None:
    """Content-Length of a HEAD answer; None when absent, when of coded bytes, or when HEAD is refused."""
    try:
        hop = source.head()
    except TransientError:
        raise
    except NetworkError:
        return None  # 403, 404 and 405 to HEAD alone are common (signed URLs): GET tells the truth
    length = "" if "content-encoding" in hop.headers else hop.headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdigit() else None


def _hash_pieces(pieces: Iterator[bytes]) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    for piece in pieces:
        digest.update(piece)
        size += len(piece)
    return digest.hexdigest(), size


def _check_digest(where: str, expected: str | None, found: str) -> None:
    if expected is not None and expected != found:
        raise IntegrityError(
            "digest-mismatch",
            "a file is not the one the spec names",
            where=where,
            expected=f"sha256:{expected}",
            found=f"sha256:{found}",
            hint="correct `sha256` in the spec, after making sure which of the two is right",
        )
