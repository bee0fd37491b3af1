"""Reading a terabyte: every chunk of every file hashed in parallel and compared, damage named by byte range.

Threads take work units (consecutive chunks of one file) in order; `hashlib` lets other threads run while it
works. What is in memory is hashed there, what is not is read past the page cache. Memory is one buffer per
thread whatever the size. Also runs in `verify.pyz`: standard library only, Python 3.9.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from bundler.core.chunks import DIGEST_BYTES, FileChunks
from bundler.core.manifest import FileEntry
from bundler.core.progress import Progress
from bundler.errors import ExitCode, Finding, SealiftError
from bundler.storage.direct import (
    ALIGNMENT,
    EXTRA_READERS,
    PART_BYTES,
    DirectFile,
    in_memory,
    thread_buffer,
)
from bundler.storage.mapped import MappedFile, take_lease
from bundler.storage.no_follow import open_file
from bundler.storage.tree import Stamp

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

UNIT_BYTES = 64 << 20
"""Bytes a thread takes at a time: opening and read-ahead cost nothing, and the work still spreads."""
BUFFER_BYTES = 512 << 10
"""Plain reads: best of 64 KiB to 4 MiB, measured where the L2 cache of a core has 512 KiB."""
LARGE_FROM_BYTES = 1 << 20
"""Shorter ranges are read plainly: mapping or going past the page cache costs more than it saves."""
STEP_BYTES = 8 << 20
"""Bytes hashed between two looks whether to stop: a chunk may be a whole model file."""
SAMPLED_UNITS = 16
"""Large units that are looked at, spread over all, to tell whether the bytes are in memory."""
ADVICE_BYTES = 128 << 10
"""The kernel cuts one POSIX_FADV_WILLNEED to its own window (128 KiB by default), so we ask in such steps."""
READ_ERRORS_PER_UNIT = 8
"""After so many the rest of the unit is given up: each may have cost a failing disk half a minute."""


@dataclass(frozen=True)
class Unit:
    """Consecutive chunks of one file from chunk number `first`, and the stamp the file must have.

    `digests` holds 32 bytes for each chunk of this unit only, so that a unit can be given to another process.
    `again` marks bytes that another unit reads too; they are not counted twice.
    """

    path: str
    file_size: int
    chunk_size: int
    digests: bytes
    stamp: Stamp
    first: int = 0
    again: bool = False

    @property
    def count(self) -> int:
        """How many chunks the unit has."""
        return len(self.digests) // DIGEST_BYTES

    @property
    def numbers(self) -> range:
        """The chunk numbers in the file."""
        return range(self.first, self.first + self.count)

    @property
    def span(self) -> tuple[int, int]:
        """The half-open byte range."""
        if not self.count:
            return 0, 0
        return self.chunk_span(self.first)[0], self.chunk_span(self.first + self.count - 1)[1]

    @property
    def size(self) -> int:
        """Bytes of the range."""
        start, end = self.span
        return end - start

    @property
    def is_whole_file(self) -> bool:
        """Whether the unit compares the file as one chunk."""
        return self.file_size <= self.chunk_size

    def chunk_span(self, number: int) -> tuple[int, int]:
        """The half-open byte range of a chunk, by its number in the file."""
        start = number * self.chunk_size
        return start, min(start + self.chunk_size, self.file_size)

    def digest(self, number: int) -> bytes:
        """The expected SHA-256 of a chunk, by its number in the file."""
        at = (number - self.first) * DIGEST_BYTES
        return self.digests[at : at + DIGEST_BYTES]

    def part(self, skipped: int, count: int) -> Unit:
        """`count` chunks of the unit, after the first `skipped` of them."""
        digests = self.digests[skipped * DIGEST_BYTES : (skipped + count) * DIGEST_BYTES]
        return replace(self, first=self.first + skipped, digests=digests)


@dataclass(frozen=True)
class Damage:
    """One chunk that is not as signed: a mismatch, a read error or a file that changed meanwhile."""

    unit: Unit
    number: int
    reference: str
    found: str


@dataclass(frozen=True)
class HashOutcome:
    """What hashing found; `bytes_read` counts what was read and compared in this run.

    `unread` is about files that could not be opened.
    """

    damage: tuple[Damage, ...]
    unread: tuple[Finding, ...]
    bytes_read: int
    seconds: float

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Everything as findings, neighbouring damage together."""
        return (*self.unread, *damage_findings(self.damage))


class HashUnits(Protocol):
    """A function like `hash_units`: in this process, or spread over other machines."""

    def __call__(
        self,
        root: int,
        units: Sequence[Unit],
        *,
        workers: int,
        progress: Progress,
        keep_in_memory: bool = False,
        verified: Callable[[Unit], None] = lambda unit: None,
    ) -> HashOutcome:
        """Read every unit and compare every chunk."""


def as_one_chunk(entry: FileEntry) -> FileChunks:
    """A file without chunk digests, as one chunk with the file's own digest."""
    return FileChunks(entry=entry, chunk_size=max(entry.size, 1), digests=bytes.fromhex(entry.sha256))


def plan_units(
    files: Iterable[FileChunks],
    stamps: Mapping[str, Stamp],
    unit_bytes: int = UNIT_BYTES,
    *,
    again: bool = False,
) -> tuple[Unit, ...]:
    """The work for these files, in their order. An empty file is compared by its own digest."""
    found = (unit for chunks in files for unit in _units(chunks, stamps[chunks.entry.path], unit_bytes))
    return tuple(replace(unit, again=True) for unit in found) if again else tuple(found)


def _units(chunks: FileChunks, stamp: Stamp, unit_bytes: int) -> Iterator[Unit]:
    if chunks.entry.size == 0:
        chunks = as_one_chunk(chunks.entry)
    entry = chunks.entry
    whole = Unit(entry.path, entry.size, chunks.chunk_size, chunks.digests, stamp)
    step = max(1, unit_bytes // chunks.chunk_size)
    yield from (whole.part(first, step) for first in range(0, whole.count, step))


def available_cores() -> int:
    """The cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def hash_units(
    root: int,
    units: Sequence[Unit],
    *,
    workers: int,
    progress: Progress,
    keep_in_memory: bool = False,
    verified: Callable[[Unit], None] = lambda unit: None,
) -> HashOutcome:
    """Read every unit below the directory descriptor `root` and compare every chunk.

    With `keep_in_memory` all is read through the page cache, for whoever reads the same bytes next.
    `verified` is called from a worker's thread for each unit without damage. Findings: `digest-mismatch`,
    `truncated-file`, `read-error`, `changed-while-verifying` and those of `open_file`; one file does
    not stop the others.
    """
    began = time.monotonic()
    direct = not keep_in_memory and _direct_is_better(root, units)
    threads = workers + EXTRA_READERS if direct else workers
    work = _Work(root, units, workers, progress, verified, direct=direct)
    with ThreadPoolExecutor(max_workers=threads, thread_name_prefix="hash") as pool:
        futures = started(pool, work.run, threads)
        try:
            for future in futures:
                future.result()
        finally:
            work.stop = True
    return HashOutcome(
        damage=tuple(work.damage),
        unread=tuple(work.findings),
        bytes_read=work.bytes_read,
        seconds=time.monotonic() - began,
    )


def started(pool: ThreadPoolExecutor, run: Callable[[], None], count: int) -> list[Future[None]]:
    """`run` in as many threads as this machine lets us have, at most `count`.

    Raises OSError (EAGAIN) when not even one can be started: too little memory, or a limit on processes.
    """
    futures: list[Future[None]] = []
    for _ in range(count):
        try:
            futures.append(pool.submit(run))
        except RuntimeError as error:
            if not futures:
                raise OSError(errno.EAGAIN, f"{error} (see `ulimit -v` and `ulimit -u`)") from error
            break
    return futures


def _direct_is_better(root: int, units: Sequence[Unit]) -> bool:
    """Whether bytes seem to lie outside memory and can be read past it, by a look at some large units."""
    large = [unit for unit in units if unit.size >= LARGE_FROM_BYTES]
    return any(_is_direct(root, unit) for unit in large[:: max(1, len(large) // SAMPLED_UNITS)])


def _is_direct(root: int, unit: Unit) -> bool:
    try:
        descriptor = open_file(root, unit.path)
    except SealiftError:
        return False  # told when its turn comes
    try:
        return _direct_file(descriptor, unit, memoryview(b""), nullcontext()) is not None
    finally:
        os.close(descriptor)


class _Work:
    """The units still to do and what was found, shared by the threads of one `hash_units`."""

    def __init__(
        self,
        root: int,
        units: Sequence[Unit],
        workers: int,
        progress: Progress,
        verified: Callable[[Unit], None],
        *,
        direct: bool,
    ) -> None:
        self.root, self.units, self.workers = root, units, workers
        self.progress, self.verified, self.direct = progress, verified, direct
        self.stop = False
        self.damage: list[Damage] = []
        self.findings: list[Finding] = []
        self.bytes_read = 0
        self._next, self._begun = 0, 0
        self._undone: dict[int, int] = {}
        self._turns = threading.Semaphore(workers)
        self._guard = threading.Lock()
        self._advice_guard = threading.Lock()

    def run(self) -> None:
        """One thread: take parts of units until there are none."""
        buffer = thread_buffer()
        waiting = not self.direct
        while (taken := self._take()) is not None:
            number, part = taken
            if waiting:
                self._read_ahead(number)
            waiting = self._part(number, part, buffer) and not self.direct

    def _take(self) -> tuple[int, Unit] | None:
        """The number of the unit whose turn it is, and a part of it; all of it unless we read directly."""
        with self._guard:
            if self.stop or self._next == len(self.units):
                return None
            number, unit = self._next, self.units[self._next]
            step = max(1, PART_BYTES // unit.chunk_size) if self.direct else unit.count
            part = unit.part(self._begun, step)
            self._undone.setdefault(number, unit.count)
            self._begun += part.count
            if self._begun == unit.count:
                self._next, self._begun = self._next + 1, 0
            return number, part

    def _read_ahead(self, number: int) -> None:
        # One thread at a time asks, in the order of the units: a rotating disk then sees one stream, and the
        # device works on the next units while these are hashed. The first round asks for itself as well.
        wanted = [number + self.workers] if number >= self.workers else [number, number + self.workers]
        with self._advice_guard:
            for unit in (self.units[n] for n in wanted if n < len(self.units)):
                _advise(self.root, unit)

    def _part(self, number: int, part: Unit, buffer: memoryview) -> bool:
        """Hash a part of a unit; gives back whether the device, not the processor, set the pace."""
        self.progress.item(part.path)
        try:
            reader = _Reader(self.root, part, buffer, self._turns if self.direct else None)
        except SealiftError as error:
            self._tell(error.findings)
            self.progress.advance(part.size)
            return False
        try:
            damage = self._chunks(part, reader)
            if reader.stamp() != part.stamp:
                damage = _all_of(part, "changed-while-verifying", "another device, inode, size or time")
        finally:
            reader.close()
        self._done(number, part, damage, reader.bytes_read)
        return reader.mostly_waited

    def _done(self, number: int, part: Unit, damage: list[Damage], bytes_read: int) -> None:
        """Note what a part gave, and tell of its unit when that was its last part and all were whole."""
        with self._guard:
            self.damage += damage
            self.bytes_read += 0 if part.again else bytes_read
            if damage or self.stop:
                return
            self._undone[number] -= part.count
            if self._undone[number]:
                return
            del self._undone[number]
        self.verified(self.units[number])

    def _tell(self, findings: Iterable[Finding]) -> None:
        with self._guard:
            self.findings += [finding for finding in findings if finding not in self.findings]

    def _chunks(self, part: Unit, reader: _Reader) -> list[Damage]:
        if reader.stamp() != part.stamp:
            self.progress.advance(part.size)
            return _all_of(part, "changed-while-verifying", "another device, inode, size or time")
        damage: list[Damage] = []
        errors = 0
        for number in part.numbers:
            start, end = part.chunk_span(number)
            try:
                if errors < READ_ERRORS_PER_UNIT:
                    found = reader.compare(number, start, end, stopped=lambda: self.stop)
                    errors += found is not None and found.reference == "read-error"
                else:
                    found = Damage(part, number, "read-error", "not read after too many errors nearby")
            except _Stopped:
                break
            damage += [found] if found else []
            self.progress.advance(end - start)
        return damage


def _all_of(unit: Unit, reference: str, found: str) -> list[Damage]:
    return [Damage(unit, number, reference, found) for number in unit.numbers]


class _Reader:
    """One file, open for one unit in one thread."""

    def __init__(self, root: int, unit: Unit, buffer: memoryview, turns: threading.Semaphore | None) -> None:
        """With `turns`, what is not in memory is read past it, by more threads than may hash at a time."""
        self.descriptor = open_file(root, unit.path)
        self.unit, self.buffer, self.turns = unit, buffer, turns or nullcontext()
        self.direct = _direct_file(self.descriptor, unit, buffer, turns) if turns is not None else None
        self.mapped = _mapped_file(self.descriptor, unit) if self.direct is None else None
        self.bytes_read = 0
        self.began, self._waited = time.monotonic(), 0.0

    def close(self) -> None:
        """Give back buffer and mapping, and the descriptor and with it the lease."""
        for opened in (self.direct, self.mapped):
            if opened is not None:
                opened.close()
        os.close(self.descriptor)

    def stamp(self) -> Stamp:
        """The file's stamp now."""
        return Stamp.of(os.fstat(self.descriptor))

    @property
    def mostly_waited(self) -> bool:
        """Whether getting at the bytes took a quarter of the time since the file was opened.

        In the page cache it takes a tenth (measured, mapped or copied). Reading past it needs no advice.
        """
        waited = self._waited + (self.mapped.waited if self.mapped is not None else 0.0)
        return waited > 0.25 * (time.monotonic() - self.began)

    def compare(
        self, number: int, start: int, end: int, *, stopped: Callable[[], bool] = lambda: False
    ) -> Damage | None:
        """Nothing when bytes [start, end) have the digest of chunk `number`. Raises _Stopped."""
        try:
            found = self._digest(start, end, stopped)
        except _Shorter as shorter:
            return Damage(self.unit, number, "truncated-file", f"the file ends at byte {shorter.end}")
        except OSError as error:
            return Damage(self.unit, number, "read-error", error.strerror or str(error))
        self.bytes_read += end - start
        if found == self.unit.digest(number):
            return None
        return Damage(self.unit, number, "digest-mismatch", f"sha256:{found.hex()}")

    def _digest(self, start: int, end: int, stopped: Callable[[], bool]) -> bytes:
        digest = hashlib.sha256()
        for at in range(start, end, STEP_BYTES):
            if stopped():
                raise _Stopped
            # The first UNIT_BYTES were asked for with the unit; of a longer one the device works ahead here.
            if at >= start + UNIT_BYTES - STEP_BYTES and self.direct is None and self.mostly_waited:
                _will_need(self.descriptor, at + STEP_BYTES, min(at + 2 * STEP_BYTES, end))
            digest = self._fed(digest, at, min(at + STEP_BYTES, end))
        return digest.digest()

    def _fed(self, digest: Hash, start: int, end: int) -> Hash:
        """`digest` with bytes [start, end): past the page cache, mapped, or else read plainly."""
        before = digest.copy()
        if self.direct is not None and self.direct.update(digest, start, end):
            return digest
        with self.turns:
            if self.mapped is not None and self.mapped.update(digest, start, end):
                return digest
            self._read_plainly(before, start, end)
            return before

    def _read_plainly(self, digest: Hash, start: int, end: int) -> None:
        while start < end:
            view = self.buffer[: min(BUFFER_BYTES, end - start)]
            began = time.monotonic()
            count = os.preadv(self.descriptor, [view], start)
            self._waited += time.monotonic() - began
            if count == 0:
                raise _Shorter(start)
            digest.update(view[:count])
            start += count


def _direct_file(
    descriptor: int, unit: Unit, buffer: memoryview, turns: AbstractContextManager[Any]
) -> DirectFile | None:
    """A way past the page cache for large chunks that are not in it; None where there is none."""
    start, end = unit.span
    small = min(unit.size, unit.chunk_size) < LARGE_FROM_BYTES
    if small or start % ALIGNMENT or in_memory(descriptor, start, end):
        return None
    try:
        return DirectFile(descriptor, buffer, turns)
    except OSError:
        return None


def _mapped_file(descriptor: int, unit: Unit) -> MappedFile | None:
    """The large unit mapped; None where that is not safe."""
    if unit.size < LARGE_FROM_BYTES or not take_lease(descriptor):
        return None
    return MappedFile(descriptor, unit.span[1])


class _Stopped(Exception):
    """Someone asked to stop in the middle of a chunk."""


class _Shorter(Exception):
    """The file ended at byte `end`, before the range did."""

    def __init__(self, end: int) -> None:
        super().__init__(end)
        self.end = end


def _advise(root: int, unit: Unit) -> None:
    try:
        descriptor = open_file(root, unit.path)
    except SealiftError:
        return  # told when its turn comes
    try:
        start, end = unit.span
        _will_need(descriptor, start, min(end, start + UNIT_BYTES))
    finally:
        os.close(descriptor)


def _will_need(descriptor: int, start: int, end: int) -> None:
    if not hasattr(os, "posix_fadvise"):
        return
    with suppress(OSError):  # advice only: some file systems take none
        for at in range(start, end, ADVICE_BYTES):
            os.posix_fadvise(descriptor, at, min(ADVICE_BYTES, end - at), os.POSIX_FADV_WILLNEED)


_WHAT = {
    "digest-mismatch": "a file differs from the signed manifest",
    "truncated-file": "a file ends early",
    "read-error": "a range of a file cannot be read",
    "changed-while-verifying": "a file changed while it was being verified",
}
_HINT = {
    "digest-mismatch": "fetch or receive this file again, then `sealift verify BUNDLE --resume`",
    "truncated-file": "fetch or receive this file again, then `sealift verify BUNDLE --resume`",
    "read-error": "copy the file from another medium; the kernel's log (`dmesg`) names the device",
    "changed-while-verifying": "stop whatever writes there, or mount it read-only, and verify again",
}


def damage_findings(damage: Iterable[Damage]) -> list[Finding]:
    """One finding per run of neighbouring chunks of one file with the same trouble."""
    runs: list[list[Damage]] = []
    for item in sorted(damage, key=lambda item: (item.unit.path, item.number)):
        if runs and _continues(runs[-1][-1], item):
            runs[-1].append(item)
        else:
            runs.append([item])
    return [_finding(run) for run in runs]


def _continues(last: Damage, item: Damage) -> bool:
    same = last.unit.path == item.unit.path and last.unit.chunk_size == item.unit.chunk_size
    return same and last.number + 1 == item.number and last.reference == item.reference


def _finding(run: Sequence[Damage]) -> Finding:
    first, last = run[0], run[-1]
    path = first.unit.path
    start, end = first.unit.chunk_span(first.number)[0], last.unit.chunk_span(last.number)[1]
    where = f"{path}, bytes {start}-{end - 1}" if end > start else path
    if not first.unit.is_whole_file:
        where += f" (chunk {first.number})" if len(run) == 1 else f" (chunks {first.number}-{last.number})"
    single = len(run) == 1
    return Finding(
        first.reference,
        _WHAT[first.reference],
        where=where,
        expected=f"sha256:{first.unit.digest(first.number).hex()}"
        if single
        else f"{len(run)} signed digests",
        found=first.found if single or first.reference != "digest-mismatch" else f"{len(run)} other digests",
        hint=_HINT[first.reference],
        # A device that gives no bytes says nothing about whether they would be the signed ones.
        exit_code=ExitCode.MACHINE if first.reference == "read-error" else ExitCode.INTEGRITY,
    )
