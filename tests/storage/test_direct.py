"""Reading past the page cache: the same digests, memory left alone, plain reading where it is refused."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import mmap
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bundler.core.chunks import FileChunks
from bundler.core.progress import SilentProgress
from bundler.storage import direct, hashing
from bundler.storage.direct import DirectFile, fits_in_memory, in_memory, thread_buffer
from bundler.storage.hashing import HashOutcome, Unit, hash_units, plan_units
from bundler.storage.tree import opened_root, walk_tree
from tests.storage.test_hashing import MEBIBYTE, chunks_of, flip

SIZE = 20 * MEBIBYTE + 12_345
UNIT_BYTES = 16 * MEBIBYTE


@dataclass
class Cold:
    """A file `f` in `root` whose bytes lie on the disk only."""

    root: Path
    data: bytes
    chunks: FileChunks
    descriptor: int

    def forget(self) -> bool:
        """Have the kernel drop the file's pages; whether it did. Those still being written need a while."""
        for _ in range(100):
            os.fsync(self.descriptor)
            os.posix_fadvise(self.descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            if not self.lies_in_memory():
                return True
            time.sleep(0.02)
        return False

    def lies_in_memory(self) -> bool:
        """Whether more than a twentieth of the file is in the page cache."""
        pages = self.resident()
        return sum(pages) > len(pages) // 20

    def resident(self) -> list[bool]:
        """For each page whether it is in the page cache: mincore(2), which brings none there."""
        mapping = mmap.mmap(self.descriptor, SIZE)
        here = (ctypes.c_char * SIZE).from_buffer(mapping)
        told = (ctypes.c_ubyte * -(-SIZE // mmap.PAGESIZE))()
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            assert libc.mincore(here, ctypes.c_size_t(SIZE), told) == 0, os.strerror(ctypes.get_errno())
        finally:
            del here
            mapping.close()
        return [bool(page & 1) for page in told]

    def hash(self, seen: list[Unit] | None = None, *, keep_in_memory: bool = False) -> HashOutcome:
        """Hash it in two units; `seen` gets the verified ones."""
        with opened_root(self.root) as root:
            units = plan_units([self.chunks], walk_tree(root).files, UNIT_BYTES)
            return hash_units(
                root,
                units,
                workers=2,
                progress=SilentProgress(),
                keep_in_memory=keep_in_memory,
                verified=(seen if seen is not None else []).append,
            )


@pytest.fixture
def cold(tmp_path: Path) -> Iterator[Cold]:
    data = os.urandom(SIZE)
    (tmp_path / "f").write_bytes(data)
    descriptor = os.open(tmp_path / "f", os.O_RDWR)
    found = Cold(tmp_path, data, chunks_of("f", data, MEBIBYTE), descriptor)
    try:
        if not found.forget():
            pytest.skip("this file system keeps everything in memory: run the tests on a disk")
        yield found
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("start", "end"),
    [(0, SIZE), (4096, 8192), (MEBIBYTE, 5 * MEBIBYTE + 7), (20 * MEBIBYTE, SIZE), (0, 1)],
)
def test_a_range_has_the_digest_of_its_bytes_and_stays_out_of_memory(
    cold: Cold, start: int, end: int
) -> None:
    file, digest = DirectFile(cold.descriptor, thread_buffer(), nullcontext()), hashlib.sha256()
    assert file.update(digest, start, end)
    assert digest.digest() == hashlib.sha256(cold.data[start:end]).digest()
    file.close()
    assert not cold.lies_in_memory()


@pytest.fixture
def directly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing counts as being in memory, whatever a fast disk brought there during a look."""
    monkeypatch.setattr(hashing, "in_memory", lambda descriptor, start, end: False)


def test_what_was_read_through_the_cache_is_known_to_be_in_memory(cold: Cold) -> None:
    assert (cold.root / "f").read_bytes() == cold.data
    assert in_memory(cold.descriptor, 0, SIZE)


def test_a_look_whether_bytes_are_in_memory_brings_few_pages_there(cold: Cold) -> None:
    looks = [in_memory(cold.descriptor, at, at + MEBIBYTE) for at in range(0, 20 * MEBIBYTE, MEBIBYTE)]
    # A fast disk may have brought the page within the look itself; never all three of all of them.
    assert sum(looks) < 10
    assert sum(cold.resident()) <= 3 * len(looks)


@pytest.mark.parametrize(("start", "end"), [(1, 4096), (SIZE, SIZE + 1), (20 * MEBIBYTE, SIZE + 4096)])
def test_what_cannot_be_read_directly_is_left_to_plain_reading(cold: Cold, start: int, end: int) -> None:
    file = DirectFile(cold.descriptor, thread_buffer(), nullcontext())
    assert not file.update(hashlib.sha256(), start, end)
    assert os.pread(cold.descriptor, 5, 3) == cold.data[3:8]


@pytest.mark.usefixtures("directly")
def test_a_large_cold_file_is_verified_without_filling_memory(cold: Cold) -> None:
    seen: list[Unit] = []
    outcome = cold.hash(seen)
    assert (outcome.findings, outcome.bytes_read) == ((), SIZE)
    assert sorted(unit.span for unit in seen) == [(0, UNIT_BYTES), (UNIT_BYTES, SIZE)]
    assert not cold.lies_in_memory()


def test_small_chunks_are_read_through_the_cache_which_reads_ahead(
    cold: Cold, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: Any) -> None:
        raise AssertionError("one request for each small chunk is five times slower")

    monkeypatch.setattr(DirectFile, "update", refuse)
    cold.chunks = chunks_of("f", cold.data, MEBIBYTE // 2)
    outcome = cold.hash()
    assert (outcome.findings, outcome.bytes_read) == ((), SIZE)
    assert cold.lies_in_memory()


def test_it_stays_in_memory_for_whoever_reads_it_next(cold: Cold) -> None:
    assert cold.hash(keep_in_memory=True).findings == ()
    assert in_memory(cold.descriptor, 0, SIZE)


@pytest.mark.usefixtures("directly")
def test_a_damaged_chunk_is_named_and_its_unit_is_not_called_verified(cold: Cold) -> None:
    flip(cold.root / "f", 3 * MEBIBYTE + 7)
    assert cold.forget()
    seen: list[Unit] = []
    (finding,) = cold.hash(seen).findings
    assert finding.where == "f, bytes 3145728-4194303 (chunk 3)"
    assert [unit.span for unit in seen] == [(UNIT_BYTES, SIZE)]
    assert not cold.lies_in_memory()


def test_a_file_that_ends_early_is_told_where(cold: Cold) -> None:
    units: Sequence[Unit]
    with opened_root(cold.root) as root:
        units = plan_units([cold.chunks], walk_tree(root).files, UNIT_BYTES)
        os.truncate(cold.root / "f", 20 * MEBIBYTE)
        outcome = hash_units(root, units, workers=2, progress=SilentProgress())
    assert {finding.reference for finding in outcome.findings} == {"changed-while-verifying"}


def test_a_file_system_without_direct_reading_is_read_plainly(
    cold: Cold, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct, "_O_DIRECT", 0)
    assert cold.hash().findings == ()
    assert in_memory(cold.descriptor, 0, SIZE)


@pytest.mark.usefixtures("directly")
def test_a_device_that_wants_another_alignment_is_read_plainly(
    cold: Cold, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DirectFile, "_read", lambda self, start, end: -1)
    outcome = cold.hash()
    assert (outcome.findings, outcome.bytes_read) == ((), SIZE)


@pytest.mark.usefixtures("directly")
def test_pages_that_somebody_has_in_memory_are_dropped_so_that_what_is_read_next_was_verified(
    cold: Cold,
) -> None:
    at = 3 * MEBIBYTE + 4096
    os.posix_fadvise(cold.descriptor, 0, 0, os.POSIX_FADV_RANDOM)
    assert os.pread(cold.descriptor, 1, at) == cold.data[at : at + 1]
    assert cold.resident()[at // mmap.PAGESIZE]
    assert cold.hash().findings == ()
    assert not cold.resident()[at // mmap.PAGESIZE]


@pytest.mark.usefixtures("directly")
@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOMEM, errno.EOPNOTSUPP, errno.EAGAIN])
def test_what_only_direct_reading_cannot_do_is_done_plainly(
    cold: Cold, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    real = os.preadv

    def refusing(descriptor: int, buffers: list[memoryview], offset: int, *flags: int) -> int:
        if not flags and fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(code, os.strerror(code))
        return real(descriptor, buffers, offset, *flags)

    monkeypatch.setattr(os, "preadv", refusing)
    outcome = cold.hash()
    assert (outcome.findings, outcome.bytes_read) == ((), SIZE)


@pytest.mark.usefixtures("directly")
def test_a_failing_device_is_named_with_what_it_says(cold: Cold, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.preadv

    def failing(descriptor: int, buffers: list[memoryview], offset: int, *flags: int) -> int:
        if not flags and 9 * MEBIBYTE <= offset < 11 * MEBIBYTE:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(descriptor, buffers, offset, *flags)

    monkeypatch.setattr(os, "preadv", failing)
    (finding,) = cold.hash().findings
    assert (finding.reference, finding.found) == ("read-error", os.strerror(errno.EIO))
    assert finding.where == "f, bytes 9437184-11534335 (chunks 9-10)"


class CountedTurns:
    """Turns that note how many threads have one at a time."""

    def __init__(self) -> None:
        self.turns: AbstractContextManager[Any] = nullcontext()
        self.guard = threading.Lock()
        self.now = self.most = 0

    def __enter__(self) -> None:
        self.turns.__enter__()
        with self.guard:
            self.now += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *error: Any) -> None:
        with self.guard:
            self.now -= 1
        self.turns.__exit__(*error)


@pytest.mark.usefixtures("directly")
def test_no_more_threads_hash_at_a_time_than_were_asked_for(
    cold: Cold, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, counted = hashing._direct_file, CountedTurns()

    def counting(descriptor: int, unit: Unit, buffer: memoryview, turns: Any) -> DirectFile | None:
        counted.turns = turns
        return real(descriptor, unit, buffer, counted)

    monkeypatch.setattr(hashing, "_direct_file", counting)
    assert cold.hash().findings == ()
    assert counted.most in (1, 2)


@pytest.mark.parametrize(
    ("table", "size", "fits"),
    [
        ("MemTotal: 9 kB\nMemAvailable:   100 kB\n", 51_200, True),
        ("MemTotal: 9 kB\nMemAvailable:   100 kB\n", 51_201, False),
        ("MemTotal: 9 kB\n", 1, False),
        ("nonsense", 1, False),
    ],
)
def test_half_of_the_available_memory_may_be_filled(
    tmp_path: Path, table: str, size: int, fits: bool
) -> None:
    (tmp_path / "meminfo").write_text(table)
    assert fits_in_memory(size, table=str(tmp_path / "meminfo")) is fits
    assert not fits_in_memory(1, table=str(tmp_path / "absent"))
