"""Reading past the page cache: the same digests, memory left alone, plain reading where it is refused."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from bundler.core.chunks import FileChunks
from bundler.core.progress import SilentProgress
from bundler.storage import direct
from bundler.storage.direct import DirectFile, fits_in_memory, in_memory, thread_buffer
from bundler.storage.hashing import READ_ERRORS_PER_UNIT, HashOutcome, Unit, hash_units, plan_units
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

    def forget(self) -> None:
        """Have the kernel drop the file's pages."""
        os.fsync(self.descriptor)
        os.posix_fadvise(self.descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def lies_in_memory(self) -> bool:
        """Whether much of it is in the page cache, looked at where nobody else looks. For one look."""
        places = range(12_345 * 3, SIZE, SIZE // 61)
        return sum(in_memory(self.descriptor, at, at + 1) for at in places) > 3

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
    found.forget()
    try:
        if in_memory(descriptor, 0, SIZE):
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
    file = DirectFile(cold.descriptor, thread_buffer())
    assert file.digest(start, end) == hashlib.sha256(cold.data[start:end]).digest()
    file.close()
    assert not cold.lies_in_memory()


def test_what_was_read_through_the_cache_is_known_to_be_in_memory(cold: Cold) -> None:
    assert (cold.root / "f").read_bytes() == cold.data
    assert in_memory(cold.descriptor, 0, SIZE)


def test_a_look_whether_bytes_are_in_memory_brings_a_page_at_most(cold: Cold) -> None:
    for start in range(0, SIZE, MEBIBYTE):
        assert not in_memory(cold.descriptor, start, min(start + MEBIBYTE, SIZE))
    assert not cold.lies_in_memory()


@pytest.mark.parametrize(("start", "end"), [(1, 4096), (SIZE, SIZE + 1), (20 * MEBIBYTE, SIZE + 4096)])
def test_what_cannot_be_read_directly_is_left_to_plain_reading(cold: Cold, start: int, end: int) -> None:
    file = DirectFile(cold.descriptor, thread_buffer())
    assert file.digest(start, end) is None
    assert os.pread(cold.descriptor, 5, 3) == cold.data[3:8]


def test_a_large_cold_file_is_verified_without_filling_memory(cold: Cold) -> None:
    seen: list[Unit] = []
    outcome = cold.hash(seen)
    assert (outcome.findings, outcome.bytes_read) == ((), SIZE)
    assert sorted(unit.span for unit in seen) == [(0, UNIT_BYTES), (UNIT_BYTES, SIZE)]
    assert not cold.lies_in_memory()


def test_it_stays_in_memory_for_whoever_reads_it_next(cold: Cold) -> None:
    assert cold.hash(keep_in_memory=True).findings == ()
    assert in_memory(cold.descriptor, 0, SIZE)


def test_a_damaged_chunk_is_named_and_its_unit_is_not_called_verified(cold: Cold) -> None:
    flip(cold.root / "f", 3 * MEBIBYTE + 7)
    cold.forget()
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


def test_a_device_that_wants_another_alignment_is_read_plainly(
    cold: Cold, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DirectFile, "_read", lambda self, start, end: -1)
    outcome = cold.hash()
    assert (outcome.findings, outcome.bytes_read) == ((), SIZE)


def test_a_failing_device_is_named_and_not_asked_for_every_chunk(
    cold: Cold, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def fail(self: DirectFile, start: int, end: int) -> int:
        asked.append(start)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(DirectFile, "_read", fail)
    findings = cold.hash().findings
    assert {finding.reference for finding in findings} == {"read-error"}
    # A thread that had begun when the others gave up may ask once more.
    assert len(asked) <= 2 * READ_ERRORS_PER_UNIT + 8


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
