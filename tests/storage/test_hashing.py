"""Reading every chunk: what is compared, how damage is named, and what happens when reading fails."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundler.core.chunks import FileChunks
from bundler.core.manifest import FileEntry
from bundler.core.paths import BundlePath
from bundler.core.progress import SilentProgress
from bundler.errors import ExitCode
from bundler.storage import hashing
from bundler.storage.direct import thread_buffer
from bundler.storage.hashing import (
    READ_ERRORS_PER_UNIT,
    STEP_BYTES,
    HashOutcome,
    Unit,
    as_one_chunk,
    damage_findings,
    hash_units,
    plan_units,
    started,
)
from bundler.storage.mapped import MappedFile, take_lease
from bundler.storage.tree import Stamp, opened_root, walk_tree
from bundler.verification.steps import machine_trouble

CHUNK = 4096
MEBIBYTE = 1 << 20


def chunks_of(path: str, data: bytes, size: int = CHUNK) -> FileChunks:
    digests = b"".join(hashlib.sha256(data[at : at + size]).digest() for at in range(0, len(data), size))
    entry = FileEntry(path=BundlePath(path), size=len(data), sha256=hashlib.sha256(data).hexdigest())
    return FileChunks(entry=entry, chunk_size=size, digests=digests)


def write(root: Path, path: str, data: bytes, size: int = CHUNK) -> FileChunks:
    (root / path).write_bytes(data)
    return chunks_of(path, data, size)


def read(
    root: Path, files: Sequence[FileChunks], unit_bytes: int = 4 * CHUNK, workers: int = 2
) -> HashOutcome:
    with opened_root(root) as descriptor:
        units = plan_units(files, walk_tree(descriptor).files, unit_bytes)
        return hash_units(descriptor, units, workers=workers, progress=SilentProgress())


def flip(path: Path, *offsets: int) -> None:
    data = bytearray(path.read_bytes())
    for offset in offsets:
        data[offset] ^= 1
    path.write_bytes(data)


def test_equal_bytes_give_no_finding_and_are_all_counted(tmp_path: Path) -> None:
    files = [
        write(tmp_path, "a", os.urandom(9 * CHUNK + 5)),
        write(tmp_path, "b", b"x"),
        write(tmp_path, "c", b""),
    ]

    outcome = read(tmp_path, files)

    assert outcome.findings == ()
    assert outcome.bytes_read == 9 * CHUNK + 6


@settings(max_examples=30, deadline=None)
@given(
    size=st.integers(0, 5000),
    chunk=st.integers(1, 600),
    unit=st.integers(1, 3000),
    workers=st.integers(1, 5),
)
def test_units_cover_every_byte_once_whatever_the_sizes(
    tmp_path_factory: pytest.TempPathFactory, size: int, chunk: int, unit: int, workers: int
) -> None:
    root = tmp_path_factory.mktemp("t")
    outcome = read(root, [write(root, "f", os.urandom(size), chunk)], unit, workers)

    assert (outcome.findings, outcome.bytes_read) == ((), size)


@pytest.mark.parametrize(
    ("offset", "number", "span"),
    [(0, 0, "0-4095"), (4095, 0, "0-4095"), (4096, 1, "4096-8191"), (9 * CHUNK + 4, 9, "36864-36868")],
)
def test_a_flipped_byte_is_named_by_chunk_and_byte_range(
    tmp_path: Path, offset: int, number: int, span: str
) -> None:
    files = [write(tmp_path, "f", os.urandom(9 * CHUNK + 5))]
    flip(tmp_path / "f", offset)

    (finding,) = read(tmp_path, files).findings

    assert finding.reference == "digest-mismatch"
    assert finding.where == f"f, bytes {span} (chunk {number})"
    start, end = map(int, span.split("-"))
    assert finding.expected == f"sha256:{files[0].digest(number).hex()}"
    actual = hashlib.sha256((tmp_path / "f").read_bytes()[start : end + 1]).hexdigest()
    assert finding.found == f"sha256:{actual}"


def test_neighbouring_damage_is_one_finding_even_across_units(tmp_path: Path) -> None:
    files = [write(tmp_path, "f", os.urandom(12 * CHUNK))]
    flip(tmp_path / "f", 3 * CHUNK, 4 * CHUNK, 5 * CHUNK, 9 * CHUNK)

    where = [finding.where for finding in read(tmp_path, files, unit_bytes=2 * CHUNK).findings]

    assert where == ["f, bytes 12288-24575 (chunks 3-5)", "f, bytes 36864-40959 (chunk 9)"]


def test_a_file_without_chunks_is_compared_by_its_own_digest(tmp_path: Path) -> None:
    whole = as_one_chunk(write(tmp_path, "f", os.urandom(3 * MEBIBYTE)).entry)
    assert read(tmp_path, [whole]).findings == ()
    flip(tmp_path / "f", 2 * MEBIBYTE)

    (finding,) = read(tmp_path, [whole]).findings

    assert (finding.reference, finding.where) == ("digest-mismatch", f"f, bytes 0-{3 * MEBIBYTE - 1}")


def test_an_empty_file_with_another_digest_is_told(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"")
    entry = FileEntry(path=BundlePath("f"), size=0, sha256="0" * 64)

    (finding,) = read(tmp_path, [as_one_chunk(entry)]).findings

    assert (finding.reference, finding.where) == ("digest-mismatch", "f")


def test_one_file_that_vanished_does_not_stop_the_others(tmp_path: Path) -> None:
    files = [write(tmp_path, name, os.urandom(3 * CHUNK)) for name in "abc"]
    flip(tmp_path / "c", 5)
    with opened_root(tmp_path) as root:
        units = plan_units(files, walk_tree(root).files, CHUNK)
        (tmp_path / "a").unlink()
        outcome = hash_units(root, units, workers=2, progress=SilentProgress())

    assert [(f.reference, f.where) for f in outcome.findings] == [
        ("missing-file", "a"),
        ("digest-mismatch", "c, bytes 0-4095 (chunk 0)"),
    ]


def test_a_link_put_in_place_of_a_file_is_not_followed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    files = [write(root, "f", os.urandom(CHUNK))]
    with opened_root(root) as descriptor:
        units = plan_units(files, walk_tree(descriptor).files)
        (root / "f").rename(tmp_path / "same-bytes")
        (root / "f").symlink_to(tmp_path / "same-bytes")
        outcome = hash_units(descriptor, units, workers=1, progress=SilentProgress())

    assert [finding.reference for finding in outcome.findings] == ["not-openable"]
    assert outcome.bytes_read == 0


class Meddler(SilentProgress):
    """Does something to the files after the first chunk was read."""

    def __init__(self, path: Path, *, restore_times: bool = False, shrink: bool = False) -> None:
        self.path, self.restore_times, self.shrink, self.done = path, restore_times, shrink, False

    def advance(self, count: int) -> None:
        if self.done:
            return
        self.done = True
        before = self.path.stat()
        if self.shrink:
            os.truncate(self.path, CHUNK)
        else:
            flip(self.path, 0)
        if self.restore_times:
            os.utime(self.path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("restore_times", [False, True], ids=["as it is", "with its old mtime put back"])
def test_a_file_that_is_written_while_it_is_read_never_passes(tmp_path: Path, restore_times: bool) -> None:
    files = [write(tmp_path, "f", os.urandom(8 * CHUNK))]
    with opened_root(tmp_path) as root:
        units = plan_units(files, walk_tree(root).files)
        meddler = Meddler(tmp_path / "f", restore_times=restore_times)
        outcome = hash_units(root, units, workers=1, progress=meddler)

    assert meddler.done
    assert {finding.reference for finding in outcome.findings} == {"changed-while-verifying"}


def test_a_file_that_is_truncated_while_it_is_read_never_passes(tmp_path: Path) -> None:
    files = [write(tmp_path, "f", os.urandom(8 * CHUNK))]
    with opened_root(tmp_path) as root:
        units = plan_units(files, walk_tree(root).files)
        outcome = hash_units(root, units, workers=1, progress=Meddler(tmp_path / "f", shrink=True))

    assert {finding.reference for finding in outcome.findings} == {"changed-while-verifying"}


def test_an_unreadable_range_is_named_and_the_reading_goes_on(tmp_path: Path) -> None:
    # The kernel answers EIO to reading the unmapped first pages of a process: a real input/output error.
    good = write(tmp_path, "good", os.urandom(2 * CHUNK))
    bad = chunks_of("mem", bytes(3 * CHUNK))
    unit = Unit("mem", 3 * CHUNK, CHUNK, bad.digests, Stamp.of(os.stat("/proc/self/mem")))
    with opened_root(Path(f"/proc/{os.getpid()}")) as process:
        outcome = hash_units(process, [unit], workers=1, progress=SilentProgress())

    (finding,) = outcome.findings
    assert finding.reference == "read-error"
    assert finding.where == "mem, bytes 0-12287 (chunks 0-2)"
    assert finding.found == os.strerror(5)
    assert outcome.bytes_read == 0
    assert read(tmp_path, [good]).findings == ()


def test_a_failing_disk_is_not_asked_for_every_chunk_of_a_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = os.preadv

    def counting(descriptor: int, buffers: Sequence[memoryview], offset: int) -> int:
        asked.append(offset)
        return real(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", counting)
    bad = chunks_of("mem", bytes(100 * CHUNK))
    unit = Unit("mem", 100 * CHUNK, CHUNK, bad.digests, Stamp.of(os.stat("/proc/self/mem")))
    with opened_root(Path(f"/proc/{os.getpid()}")) as process:
        (finding,) = hash_units(process, [unit], workers=1, progress=SilentProgress()).findings

    assert finding.where == f"mem, bytes 0-{100 * CHUNK - 1} (chunks 0-99)"
    assert len(asked) == READ_ERRORS_PER_UNIT


def test_verified_units_are_reported_one_by_one_and_damaged_ones_are_not(tmp_path: Path) -> None:
    files = [write(tmp_path, "f", os.urandom(8 * CHUNK))]
    flip(tmp_path / "f", 5 * CHUNK)
    seen: list[Unit] = []
    with opened_root(tmp_path) as root:
        units = plan_units(files, walk_tree(root).files, 2 * CHUNK)
        hash_units(root, units, workers=2, progress=SilentProgress(), verified=seen.append)

    assert sorted(unit.span for unit in seen) == [(0, 8192), (8192, 16384), (24576, 32768)]


def test_large_ranges_give_the_same_verdict_mapped_and_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [write(tmp_path, "f", os.urandom(5 * MEBIBYTE + 3), MEBIBYTE)]
    flip(tmp_path / "f", 3 * MEBIBYTE + 7)

    mapped = read(tmp_path, files, unit_bytes=2 * MEBIBYTE)
    monkeypatch.setattr("bundler.storage.hashing.take_lease", lambda descriptor: False)
    plain = read(tmp_path, files, unit_bytes=2 * MEBIBYTE)

    assert mapped.findings == plain.findings
    assert [finding.where for finding in plain.findings] == ["f, bytes 3145728-4194303 (chunk 3)"]


def test_a_mapped_range_has_the_digest_of_its_bytes_at_any_offset(tmp_path: Path) -> None:
    data = os.urandom(70_000)
    (tmp_path / "f").write_bytes(data)
    descriptor = os.open(tmp_path / "f", os.O_RDONLY)
    mapped = MappedFile(descriptor, len(data))
    try:
        for start, end in ((0, 10), (5, 70_000), (4097, 9000), (69_999, 70_000)):
            digest = hashlib.sha256()
            if mapped.update(digest, start, end):
                assert digest.digest() == hashlib.sha256(data[start:end]).digest()
    finally:
        mapped.close()
        os.close(descriptor)


def test_pages_beyond_the_end_of_a_file_are_never_touched(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 100)
    descriptor = os.open(tmp_path / "f", os.O_RDONLY)
    mapped = MappedFile(descriptor, MEBIBYTE)
    try:
        assert not mapped.update(hashlib.sha256(), 0, MEBIBYTE)  # and not SIGBUS
    finally:
        mapped.close()
        os.close(descriptor)


def test_a_lease_holds_off_writers_until_the_file_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x" * CHUNK)
    script = "import os,sys; os.open(sys.argv[1], os.O_WRONLY | os.O_NONBLOCK)"
    writer = [sys.executable, "-c", script, str(path)]
    descriptor = os.open(path, os.O_RDONLY)
    leased = take_lease(descriptor)
    try:
        if not leased:
            pytest.skip("this file system gives no leases")
        held = subprocess.run(writer, capture_output=True, text=True, check=False)
    finally:
        os.close(descriptor)

    assert "BlockingIOError" in held.stderr
    assert subprocess.run(writer, check=False).returncode == 0


def test_there_is_no_lease_while_somebody_writes(tmp_path: Path) -> None:
    with (tmp_path / "f").open("wb") as writer:
        writer.write(b"x")
        descriptor = os.open(tmp_path / "f", os.O_RDONLY)
        try:
            assert not take_lease(descriptor)
        finally:
            os.close(descriptor)


def test_a_chunk_of_a_whole_file_is_left_in_the_middle_when_it_is_stopped(tmp_path: Path) -> None:
    files = [as_one_chunk(write(tmp_path, "f", bytes(5 * STEP_BYTES), MEBIBYTE).entry)]
    asked: list[bool] = []

    def stopped() -> bool:
        asked.append(True)
        return len(asked) == 3

    with opened_root(tmp_path) as root:
        (unit,) = plan_units(files, walk_tree(root).files)
        reader = hashing._Reader(root, unit, thread_buffer(), None)
        with pytest.raises(hashing._Stopped):
            reader.compare(0, *unit.span, stopped=stopped)
        assert reader.compare(0, *unit.span) is None
        reader.close()


def test_no_damage_gives_no_findings() -> None:
    assert damage_findings([]) == []


@pytest.mark.slow
def test_memory_stays_flat_while_a_large_file_is_read(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from tests.peak_memory import peak_kibibytes
from tests.storage.test_hashing import chunks_of, read
from bundler.core.chunks import FileChunks
import hashlib
root, size, chunk = Path(sys.argv[1]), 600 << 20, 4 << 20
block = bytes(chunk)
one = chunks_of("f", block, chunk)
from dataclasses import replace
files = [FileChunks(replace(one.entry, size=size), chunk, one.digests * (size // chunk))]
base = peak_kibibytes()
outcome = read(root, files, unit_bytes=64 << 20)
assert outcome.findings == () and outcome.bytes_read == size, outcome
print(peak_kibibytes() - base)
"""
    with (tmp_path / "f").open("wb") as file:
        file.truncate(600 << 20)
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 80 << 10, "KiB over the base: two buffers and two windows of shared pages"


class Stingy(ThreadPoolExecutor):
    """A pool on a machine that gives `room` threads and no more."""

    def __init__(self, room: int) -> None:
        super().__init__(max_workers=8)
        self.room = room

    def submit(self, *arguments: Any, **named: Any) -> Any:
        self.room -= 1
        if self.room < 0:
            raise RuntimeError("can't start new thread")
        return super().submit(*arguments, **named)


def test_fewer_threads_than_wanted_do_the_work_alone() -> None:
    ran: list[int] = []
    with Stingy(2) as pool:
        futures = started(pool, lambda: ran.append(1), 8)
        assert [future.result() for future in futures] == [None, None]
    assert len(ran) == 2


def test_a_machine_without_a_thread_is_to_blame_itself() -> None:
    with Stingy(0) as pool, pytest.raises(OSError, match="ulimit") as caught:
        started(pool, lambda: None, 8)
    assert machine_trouble(caught.value).exit_code == ExitCode.MACHINE
