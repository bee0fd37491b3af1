"""Files of earlier bundles, Hub caches and folders, taken instead of fetching what is here already.

A file is found by its size and by the digest that its place states: the manifest of a bundle, the name of a
blob in a Hub cache or an OCI layout. Where nothing states a digest, the file is hashed. Whatever was stated,
the bytes count only when the digest of the copy is the locked one.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

from bundler.core.manifest import MANIFEST_NAME, Manifest
from bundler.core.progress import Progress
from bundler.core.strict_json import MANIFEST_LIMIT
from bundler.errors import SealiftError
from bundler.sources.jobs import FetchJob
from bundler.storage.bounded_read import read_named
from bundler.storage.payload import PayloadStore

_BLOB_NAME = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
"""Blobs are called by their digest: SHA-256, or the git blob id for small files of a model repository."""
_PIECE_BYTES = 1 << 20


@dataclass(slots=True, kw_only=True)
class Candidate:
    """A file that may be a wanted one."""

    path: Path
    stated: str | None
    """SHA-256 or git blob id, as its place states it; proves nothing."""
    measured: frozenset[str] = field(default=frozenset())
    """Both digests of its bytes, once they were needed."""

    def may_be(self, job: FetchJob) -> bool:
        """Whether this could be the wanted file; hashes it when its place states no digest of that kind."""
        wanted = {digest for digest in (job.sha256, job.git_blob_sha1) if digest is not None}
        if self.stated is not None and len(self.stated) in {len(digest) for digest in wanted}:
            return self.stated in wanted
        if not self.measured:
            self.measured = _digests(self.path)
        return wanted <= self.measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Reused:
    """What did not have to be fetched."""

    files: int = 0
    bytes: int = 0


class ReusableFiles:
    """All files in `places`, by size. Raises nothing: what cannot be read is noted and passed over."""

    def __init__(self, places: Sequence[Path], progress: Progress) -> None:
        self._by_size: dict[int, list[Candidate]] = {}
        self._progress = progress
        for place in places:
            for candidate in self._candidates(place):
                self._add(candidate)

    def _candidates(self, place: Path) -> Iterator[Candidate]:
        stated = self._stated_by_manifest(place)
        for path in _files_below(place):
            name = path.relative_to(place).as_posix()
            named = path.name if _BLOB_NAME.fullmatch(path.name) else None
            yield Candidate(path=path, stated=stated.get(name, named))

    def _stated_by_manifest(self, place: Path) -> dict[str, str]:
        if not (place / MANIFEST_NAME).is_file():
            return {}
        try:
            manifest = Manifest.parse(read_named(place / MANIFEST_NAME, MANIFEST_LIMIT))
        except (SealiftError, OSError) as error:
            self._progress.note(f"{place}: its manifest cannot be read ({error}), hashing its files instead")
            return {}
        return {entry.path: entry.sha256 for entry in manifest.files}

    def _add(self, candidate: Candidate) -> None:
        try:
            facts = candidate.path.stat()
        except OSError:
            return  # a dangling link, or gone meanwhile: fetched instead
        if stat.S_ISREG(facts.st_mode) and facts.st_size:
            self._by_size.setdefault(facts.st_size, []).append(candidate)

    def take(self, jobs: Iterable[FetchJob], store: PayloadStore) -> Reused:
        """Store every wanted file that is here; the others are left for the downloader."""
        wanted = [
            job
            for job in jobs
            if job.size in self._by_size and (job.sha256 or job.git_blob_sha1) and not _is_stored(job, store)
        ]
        if not wanted:
            return Reused()
        self._progress.start("reusing", sum(job.size for job in wanted))
        taken = [job for job in wanted if self._take_one(job, store)]
        self._progress.finish()
        return Reused(files=len(taken), bytes=sum(job.size for job in taken))

    def _take_one(self, job: FetchJob, store: PayloadStore) -> bool:
        self._progress.item(job.path)
        for candidate in self._by_size[job.size]:
            try:
                if candidate.may_be(job) and _adopted(candidate, job, store, self._progress):
                    return True
            except OSError as error:
                self._progress.note(f"{candidate.path}: cannot be read ({error.strerror}), not reused")
                continue
            if candidate.stated in (job.sha256, job.git_blob_sha1) and candidate.stated is not None:
                self._progress.note(f"{candidate.path}: not the bytes its place states, not reused")
        return False

    def shared_bytes(self, jobs: Iterable[FetchJob], store: PayloadStore) -> int:
        """Bytes of wanted files for which the file system needs no more space, as it shares their blocks."""
        shares: dict[int, bool] = {}
        return sum(job.size for job in jobs if self._is_shared(job, store, shares))

    def _is_shared(self, job: FetchJob, store: PayloadStore, shares: dict[int, bool]) -> bool:
        if _is_stored(job, store):
            return False
        for candidate in self._by_size.get(job.size, ()):
            if candidate.stated is None or candidate.stated not in (job.sha256, job.git_blob_sha1):
                continue
            try:
                with _opened(candidate.path) as file:
                    device = os.fstat(file.fileno()).st_dev
                    if device not in shares:
                        shares[device] = store.shares_blocks_with(file.fileno())
                    return shares[device]
            except OSError:
                continue
        return False


def _adopted(candidate: Candidate, job: FetchJob, store: PayloadStore, progress: Progress) -> bool:
    counted = 0

    def watch(count: int) -> None:
        nonlocal counted
        counted += count
        progress.advance(count)

    with _opened(candidate.path) as file:
        stored = store.adopt(
            job.path,
            job.size,
            file.fileno(),
            sha256=job.sha256,
            git_blob_sha1=job.git_blob_sha1,
            watch=watch,
        )
    if stored is None:
        progress.advance(-counted)
    return stored is not None


def _is_stored(job: FetchJob, store: PayloadStore) -> bool:
    kept = store.kept(job.path)
    if kept is None:
        return False
    if job.sha256 is not None:
        return kept.sha256 == job.sha256
    return job.git_blob_sha1 is not None and kept.git_blob_sha1 == job.git_blob_sha1


def _files_below(place: Path) -> Iterator[Path]:
    """Every file and link below `place`, in order; folders are not entered through links."""
    for folder, folders, names in os.walk(place):
        folders.sort()
        for name in sorted(names):
            yield Path(folder, name)


@contextmanager
def _opened(path: Path) -> Iterator[FileIO]:
    # O_NONBLOCK: a FIFO that took a file's place meanwhile must not make us wait. Links may be followed: the
    # snapshots of a Hub cache are links, and the digest decides.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        yield file


def _digests(path: Path) -> frozenset[str]:
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        while piece := file.read(_PIECE_BYTES):
            sha256.update(piece)
            git.update(piece)
    return frozenset({sha256.hexdigest(), git.hexdigest()})
