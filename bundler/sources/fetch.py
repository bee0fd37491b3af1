"""Fetches many files at once, each resumed, retried and checked by itself."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from bundler.core.paths import parse_bundle_path, path_set_findings
from bundler.core.progress import Progress, SilentProgress, credit
from bundler.core.units import format_bytes
from bundler.errors import (
    IntegrityError,
    MachineError,
    MalformedError,
    SealiftError,
    gravest_first,
    gravity,
)
from bundler.sources import pace
from bundler.sources.http import ChangedUpstreamError
from bundler.sources.jobs import FetchJob
from bundler.sources.retry import RetryPolicy, TransientError, persistently
from bundler.storage.payload import PayloadStore, PayloadWriter, StoredFile

# Longest wait for threads after Ctrl-C or a fatal error. One that still waits for a connection then is
# left behind: it is a daemon, and looks at the stop sign before it writes another byte.
LEAVE_SECONDS = 1.5
# Each stall of a download costs a minute before it is noticed: all tries get that time.
DOWNLOAD_RETRIES = RetryPolicy(fruitless=600.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchSummary:
    """What `fetch_all` did: files fetched and files that were there already, with their bytes."""

    fetched: int
    fetched_bytes: int
    kept: int
    kept_bytes: int


@runtime_checkable
class _Abortable(Protocol):
    def abort(self) -> None:
        """Ends a read that waits in another thread."""


class _Stopped(Exception):
    """This run ends: leave the partial as it is."""


def fetch_all(
    jobs: Sequence[FetchJob],
    store: PayloadStore,
    *,
    workers: int = 4,
    progress: Progress | None = None,
    retries: RetryPolicy | None = None,
) -> FetchSummary:
    """Brings every file of `jobs` into `store`, with `workers` at a time, largest first.

    Files that are there with the wanted digest are not fetched again, partial ones continue. Two jobs that
    want the same are one. All jobs are tried, and their errors raised together at the end; after a fatal
    one (this machine, or upstream serving another revision) the others stop where they are, resumable.
    KeyboardInterrupt passes through within about two seconds.

    Raises MalformedError (`bad-path`, `path-collision`) before anything is fetched; IntegrityError,
    MachineError, NetworkError with the findings of all failed jobs.
    """
    wanted = _distinct(jobs)
    meter = progress or SilentProgress()
    meter.start("fetching", sum(job.size for job in wanted))
    kept = [job for job in wanted if _is_kept(job, store)]
    kept_paths = {job.path for job in kept}
    credit(meter, sum(job.size for job in kept))
    missing = [job for job in wanted if job.path not in kept_paths]
    run = _Run(missing, store, meter, retries or DOWNLOAD_RETRIES)
    try:
        run.work(workers)
    finally:
        meter.finish()
    run.raise_errors()
    return FetchSummary(
        fetched=len(missing),
        fetched_bytes=sum(job.size for job in missing),
        kept=len(kept),
        kept_bytes=sum(job.size for job in kept),
    )


def _distinct(jobs: Iterable[FetchJob]) -> list[FetchJob]:
    """The jobs without repetitions. Raises MalformedError for paths that cannot all exist."""
    found: dict[tuple[object, ...], FetchJob] = {}
    for job in jobs:
        parse_bundle_path(job.path)
        found.setdefault((job.path, job.size, job.sha256, job.git_blob_sha1), job)
    faults = path_set_findings([job.path for job in found.values()], where="files to fetch")
    if faults:
        raise MalformedError.of(faults)
    return list(found.values())


def _is_kept(job: FetchJob, store: PayloadStore) -> bool:
    """Whether the wanted file is there; one that is there but not the wanted one is discarded."""
    kept = store.kept(job.path)
    if kept is None:
        return False
    same = kept.size == job.size and _matches(job, kept)
    if not same:
        store.discard(job.path)
    return same


def _matches(job: FetchJob, kept: StoredFile) -> bool:
    if job.sha256 is not None:
        return kept.sha256 == job.sha256
    # Without any digest to compare there is no telling whether the old file is still the wanted one.
    return job.git_blob_sha1 is not None and kept.git_blob_sha1 == job.git_blob_sha1


class _Run:
    """One call of `fetch_all`: what is to do, what went wrong, and the stop sign."""

    def __init__(
        self, jobs: Sequence[FetchJob], store: PayloadStore, progress: Progress, retries: RetryPolicy
    ) -> None:
        self._todo = deque(sorted(jobs, key=lambda job: (-job.size, job.path)))
        self._store = store
        self._progress = progress
        self._retries = retries
        self._errors: list[SealiftError] = []
        self._crash: BaseException | None = None
        self._stop = threading.Event()
        self._bodies: set[_Abortable] = set()
        self._guard = threading.Lock()

    def work(self, workers: int) -> None:
        """Runs the jobs in threads until none is left or one says stop."""
        count = min(max(workers, 1), len(self._todo))
        threads = [
            threading.Thread(target=self._worker, name=f"sealift-fetch-{number}", daemon=True)
            for number in range(count)
        ]
        try:
            for thread in threads:
                thread.start()
            self._wait(threads)
        finally:
            # Also reached by KeyboardInterrupt, which arrives in this thread only.
            self._leave(threads)

    def _wait(self, threads: Sequence[threading.Thread]) -> None:
        for thread in threads:
            while thread.is_alive() and not self._stop.is_set():
                thread.join(0.2)

    def _leave(self, threads: Sequence[threading.Thread]) -> None:
        self._stop.set()
        with self._guard:
            waiting = list(self._bodies)
        for body in waiting:
            body.abort()
        share = LEAVE_SECONDS / max(len(threads), 1)
        for thread in threads:
            if thread.ident is not None:
                thread.join(share)

    def raise_errors(self) -> None:
        """Raises everything that went wrong as one error of the gravest kind."""
        if self._crash is not None:
            raise self._crash
        if self._errors:
            raise _together(self._errors)

    def _worker(self) -> None:
        while not self._stop.is_set():
            try:
                job = self._todo.popleft()
            except IndexError:
                return
            self._guarded(job)

    def _guarded(self, job: FetchJob) -> None:
        try:
            _Download(self, job).run()
        except _Stopped:
            return
        except SealiftError as error:
            self._errors.append(error)
            if isinstance(error, (MachineError, ChangedUpstreamError)):
                self._stop.set()
        except BaseException as error:  # handed to the caller's thread, traceback and all
            self._crash = error
            self._stop.set()

    def check(self) -> None:
        """Raises _Stopped when the run is over."""
        if self._stop.is_set():
            raise _Stopped

    def pause(self, seconds: float) -> None:
        """Waits, unless the run ends meanwhile."""
        if self._stop.wait(seconds):
            raise _Stopped

    def reading(self, body: object) -> None:
        """Remembers a stream that may have to be torn away from its reader."""
        if isinstance(body, _Abortable):
            with self._guard:
                self._bodies.add(body)
        self.check()

    def read(self, body: object) -> None:
        """Forgets it again."""
        if isinstance(body, _Abortable):
            with self._guard:
                self._bodies.discard(body)


class _Download:
    """One job until it is stored."""

    def __init__(self, run: _Run, job: FetchJob) -> None:
        self._run = run
        self._job = job
        self._store = run._store
        self._progress = run._progress
        self._retries = run._retries
        self._counted = 0
        self._streams = 0

    def run(self) -> None:
        """Fetches and stores the file; once more from the start when bytes of several streams do not fit."""
        self._progress.item(self._job.path)
        try:
            self._fetch(resume=self._job.sha256 is not None or self._job.git_blob_sha1 is not None)
        except IntegrityError as error:
            # Joined from parts: after a power cut, or from a mirror out of step, a part may be the wrong
            # one. What came in one stream was wrong at the source, and would be again.
            if error.reference != "digest-mismatch" or self._streams < 2:
                raise
            self._note("the parts do not fit together, fetching it once more from the start")
            self._count(-self._counted)
            self._streams = 0
            self._fetch(resume=False)

    def _fetch(self, *, resume: bool) -> None:
        job = self._job
        with self._store.writer(
            job.path,
            job.size,
            git_blob=job.git_blob_sha1 is not None,
            resume=resume,
            watch=self._hashed,
        ) as writer:
            if writer.resumed:
                self._streams += 1
                self._note(f"continuing at {format_bytes(writer.resumed)}")
            self._receive(writer)
            writer.commit(sha256=job.sha256, git_blob_sha1=job.git_blob_sha1)

    def _hashed(self, count: int) -> None:
        self._run.check()
        self._counted += count
        credit(self._progress, count)

    def _receive(self, writer: PayloadWriter) -> None:
        marks = [writer.offset]

        def progressed() -> bool:
            marks.append(writer.offset)
            return marks[-1] - marks[-2] >= self._retries.progress_bytes

        persistently(
            lambda: self._once(writer),
            policy=self._retries,
            pause=self._run.pause,
            note=self._note,
            progressed=progressed,
        )

    def _once(self, writer: PayloadWriter) -> None:
        if writer.offset >= writer.size:
            return
        try:
            self._stream(writer)
        except TransientError:
            self._run.check()  # a stream torn away looks like a dropped one
            raise

    def _stream(self, writer: PayloadWriter) -> None:
        self._streams += 1
        with self._job.source.open(writer.offset) as body:
            try:
                self._run.reading(body)
                for piece in body:
                    self._run.check()
                    writer.write(piece)
                    self._count(len(piece))
                    if wait := pace.wait_after(len(piece)):
                        self._run.pause(wait)
            finally:
                self._run.read(body)
        if writer.offset < writer.size:
            raise TransientError(
                "ended-early",
                "the bytes ended before the locked size",
                where=self._job.path,
                expected=f"{writer.size} bytes",
                found=f"{writer.offset} bytes",
            )

    def _count(self, count: int) -> None:
        self._counted += count
        self._progress.advance(count)

    def _note(self, text: str) -> None:
        self._progress.note(f"{self._job.path}: {text}")


def _together(errors: Sequence[SealiftError]) -> SealiftError:
    """One error with the findings of all; those of the gravest family first."""
    if len(errors) == 1:
        return errors[0]
    gravest = min(errors, key=lambda error: (gravity(error.exit_code), not _is_final(error)))
    return type(gravest).of(gravest_first(finding for error in errors for finding in error.findings))


def _is_final(error: SealiftError) -> bool:
    """Whether upstream serves something else by now, so that trying again cannot help."""
    return isinstance(error, ChangedUpstreamError)
