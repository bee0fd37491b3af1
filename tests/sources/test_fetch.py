"""Fetching many files: resumed, retried, checked, and stopped when there is no point in going on."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bundler.errors import IntegrityError, MachineError, MalformedError, NetworkError, SealiftError
from bundler.sources.fetch import FetchSummary, fetch_all
from bundler.sources.http import (
    ChangedUpstreamError,
    HttpByteSource,
    Timeouts,
    TransientError,
    accept_all,
    pinned,
    session,
)
from bundler.sources.jobs import ByteSource, FetchJob
from bundler.sources.retry import RetryPolicy
from bundler.storage.payload import PayloadStore, partial_name
from tests.servers.http import Fault, FileServer
from tests.storage.full_disk import small_disk

NAMES = ("a", "b", "c", "d", "e")
SIZES = (300_000, 1_200_000, 17, 0, 500_000)
DATA = {f"/{name}": random.Random(name).randbytes(size) for name, size in zip(NAMES, SIZES, strict=True)}
LARGEST = "/b"
QUICK = RetryPolicy(first=0.01, longest=0.05, tries=3)


class Meter:
    """A Progress that remembers."""

    def __init__(self) -> None:
        self.total = self.done = 0
        self.items: list[str] = []
        self.notes: list[str] = []
        self.finished = False
        self._guard = threading.Lock()

    def start(self, what: str, total: int) -> None:
        assert what == "fetching"
        self.total = total

    def advance(self, count: int) -> None:
        with self._guard:
            self.done += count
            assert 0 <= self.done <= self.total

    def item(self, name: str) -> None:
        self.items.append(name)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer(dict(DATA)) as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PayloadStore]:
    with PayloadStore(tmp_path / "tree", tmp_path / "work") as opened:
        yield opened


def _source(server: FileServer, path: str, *, size: int | None = None) -> HttpByteSource:
    return HttpByteSource(
        url=server.url + path, size=size, session=session(), timeouts=Timeouts(connect=1, stall=0.4)
    )


def _job(
    server: FileServer, path: str, *, source: ByteSource | None = None, anchor: str = "sha256"
) -> FetchJob:
    data = DATA[path]
    return FetchJob(
        path=f"payload{path}",
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest() if anchor == "sha256" else None,
        git_blob_sha1=hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest() if anchor == "git" else None,
        source=source or _source(server, path),
    )


def _jobs(server: FileServer) -> list[FetchJob]:
    return [_job(server, path) for path in DATA]


def _is_complete(store: PayloadStore) -> bool:
    return {f"/{path.name}": path.read_bytes() for path in (store.root / "payload").iterdir()} == DATA


def _fails(jobs: list[FetchJob], store: PayloadStore, *, workers: int = 2, tries: int = 2) -> SealiftError:
    retries = RetryPolicy(first=0.01, longest=0.02, tries=tries)
    with pytest.raises(SealiftError) as caught:
        fetch_all(jobs, store, workers=workers, retries=retries)
    return caught.value


@pytest.mark.parametrize("workers", [1, 4, 40])
@pytest.mark.parametrize("anchor", ["sha256", "git", "none"])
def test_all_files_arrive_and_are_counted(
    server: FileServer, store: PayloadStore, workers: int, anchor: str
) -> None:
    meter = Meter()
    jobs = [_job(server, path, anchor=anchor) for path in DATA]
    summary = fetch_all(jobs, store, workers=workers, progress=meter, retries=QUICK)
    assert _is_complete(store)
    assert meter.done == meter.total == sum(SIZES)
    assert meter.finished
    assert summary == FetchSummary(fetched=5, fetched_bytes=sum(SIZES), kept=0, kept_bytes=0)


def test_the_largest_file_comes_first(server: FileServer, store: PayloadStore) -> None:
    meter = Meter()
    fetch_all(_jobs(server), store, workers=1, progress=meter, retries=QUICK)
    assert meter.items == ["payload/b", "payload/e", "payload/a", "payload/c", "payload/d"]


def test_nothing_to_fetch_is_fine(store: PayloadStore) -> None:
    assert fetch_all([], store).fetched == 0


@pytest.mark.parametrize("anchor", ["sha256", "git"])
def test_finished_files_are_not_asked_for_again(server: FileServer, store: PayloadStore, anchor: str) -> None:
    jobs = [_job(server, path, anchor=anchor) for path in DATA]
    fetch_all(jobs, store, retries=QUICK)
    before, meter = len(server.requests), Meter()
    summary = fetch_all(jobs, store, progress=meter, retries=QUICK)
    assert len(server.requests) == before
    assert meter.done == meter.total
    assert (summary.fetched, summary.kept, summary.kept_bytes) == (0, 5, sum(SIZES))


def test_a_finished_file_that_is_not_the_locked_one_is_replaced(
    server: FileServer, store: PayloadStore
) -> None:
    store.put_bytes("payload/a", b"of an older lock")
    fetch_all(_jobs(server), store, retries=QUICK)
    assert _is_complete(store)


def test_a_file_without_a_known_digest_is_fetched_whole(server: FileServer, store: PayloadStore) -> None:
    with store.writer("payload/a", SIZES[0]) as writer:
        writer.write(b"z" * 1000)
    fetch_all([_job(server, "/a", anchor="none")], store, retries=QUICK)
    assert (store.root / "payload/a").read_bytes() == DATA["/a"]
    assert server.gets("/a")[0].first_byte == 0


def test_a_partial_file_is_continued_and_counted(server: FileServer, store: PayloadStore) -> None:
    with store.writer("payload/b", SIZES[1]) as writer:
        writer.write(DATA["/b"][:1_000_000])
    meter = Meter()
    fetch_all(_jobs(server), store, progress=meter, retries=QUICK)
    assert _is_complete(store)
    assert [seen.first_byte for seen in server.gets("/b")] == [1_000_000]
    assert server.sent("/b") == 200_000
    assert "payload/b: continuing at 1.00 MB" in meter.notes
    assert meter.done == meter.total


def test_two_jobs_that_want_the_same_are_one(server: FileServer, store: PayloadStore) -> None:
    fetch_all([_job(server, "/a"), _job(server, "/a")], store, retries=QUICK)
    assert len(server.gets("/a")) == 1


@pytest.mark.parametrize(
    ("paths", "reference"),
    [
        (["../x"], "bad-path"),
        (["payload/x", "payload/X"], "path-collision"),
        (["payload/x", "payload/x/y"], "path-collision"),
        (["payload/x", "payload/x"], "duplicate-path"),
    ],
)
def test_paths_that_cannot_all_exist_are_refused_before_anything_is_fetched(
    server: FileServer, store: PayloadStore, paths: list[str], reference: str
) -> None:
    jobs = [
        FetchJob(path=path, size=number + 1, source=_source(server, "/a"))
        for number, path in enumerate(paths)
    ]
    error = _fails(jobs, store)
    assert isinstance(error, MalformedError)
    assert error.reference == reference
    assert server.requests == []


@pytest.mark.parametrize(
    "fault",
    [
        Fault(drop_after=200_000),
        Fault(stall_after=200_000),
        Fault(short=700_000),
        Fault(status=503),
        Fault(status=429, headers={"Retry-After": "0"}),
        Fault(silent=True),
        Fault(drop_after=0),
    ],
    ids=["dropped", "stalled", "ended early", "503", "429", "silent", "dropped at once"],
)
def test_what_may_pass_is_tried_again_behind_the_last_byte(
    server: FileServer, store: PayloadStore, fault: Fault
) -> None:
    server.faults[LARGEST] = [fault]
    meter = Meter()
    fetch_all(_jobs(server), store, progress=meter, retries=QUICK)
    assert _is_complete(store)
    first, second = server.gets(LARGEST)
    assert second.first_byte == first.sent
    assert server.sent(LARGEST) == SIZES[1]
    assert meter.done == meter.total
    assert any(note.startswith("payload/b: ") and "trying again in" in note for note in meter.notes)


def test_a_server_without_ranges_still_ends_well(server: FileServer, store: PayloadStore) -> None:
    server.faults[LARGEST] = [Fault(drop_after=200_000)]
    server.always[LARGEST] = Fault(no_range=True)
    fetch_all(_jobs(server), store, retries=QUICK)
    assert _is_complete(store)


def test_the_server_decides_how_long_to_wait(server: FileServer, store: PayloadStore) -> None:
    server.faults["/a"] = [Fault(status=429, headers={"Retry-After": "1"})]
    began = time.monotonic()
    fetch_all([_job(server, "/a")], store, retries=RetryPolicy(first=0.001))
    assert 1.0 <= time.monotonic() - began < 3.0


def test_progress_begins_a_new_count_of_tries(server: FileServer, store: PayloadStore) -> None:
    server.faults[LARGEST] = [Fault(drop_after=300_000)] * 3 + [Fault(status=503)]
    fetch_all([_job(server, LARGEST)], store, retries=RetryPolicy(first=0.01, longest=0.01, tries=3))
    assert (store.root / "payload/b").read_bytes() == DATA[LARGEST]


def test_a_server_that_gives_a_little_each_time_is_given_up(server: FileServer, store: PayloadStore) -> None:
    server.always[LARGEST] = Fault(drop_after=10)
    error = _fails([_job(server, LARGEST)], store, tries=4)
    assert isinstance(error, TransientError)
    assert len(server.gets(LARGEST)) == 4


def test_tries_come_to_an_end_and_the_rest_arrives(server: FileServer, store: PayloadStore) -> None:
    server.always[LARGEST] = Fault(status=503)
    error = _fails(_jobs(server), store, tries=3)
    assert isinstance(error, NetworkError)
    assert [finding.reference for finding in error.findings] == ["server-busy"]
    assert len(server.gets(LARGEST)) == 3
    assert sorted(store.stored()) == ["payload/a", "payload/c", "payload/d", "payload/e"]


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_what_is_final_is_asked_once(server: FileServer, store: PayloadStore, status: int) -> None:
    server.always["/a"] = Fault(status=status)
    error = _fails(_jobs(server), store)
    assert not isinstance(error, TransientError)
    assert len(server.gets("/a")) == 1
    assert len(store.stored()) == 4


def test_the_errors_of_all_jobs_are_told_the_gravest_first(server: FileServer, store: PayloadStore) -> None:
    server.always["/a"] = Fault(status=404)
    server.always["/b"] = Fault(flip_at=1_199_999)
    server.always["/e"] = Fault(status=403)
    error = _fails(_jobs(server), store, workers=1)
    assert isinstance(error, IntegrityError)
    assert [finding.reference for finding in error.findings] == ["digest-mismatch", "forbidden", "not-found"]
    assert sorted(store.stored()) == ["payload/c", "payload/d"]


@pytest.mark.parametrize("anchor", ["sha256", "git"])
def test_a_flipped_byte_is_refused_kept_and_not_asked_for_again(
    server: FileServer, store: PayloadStore, anchor: str
) -> None:
    server.always["/a"] = Fault(flip_at=150_000)
    error = _fails([_job(server, "/a", anchor=anchor)], store)
    assert isinstance(error, IntegrityError)
    bad = (store.work / "partial" / partial_name("payload/a", SIZES[0])).with_suffix(".bad")
    assert str(bad) in error.findings[0].found
    assert bad.read_bytes()[150_000] == DATA["/a"][150_000] ^ 0xFF
    assert len(server.gets("/a")) == 1
    assert not (store.root / "payload/a").exists()


def test_one_byte_more_than_locked_is_refused(server: FileServer, store: PayloadStore) -> None:
    server.always["/a"] = Fault(extra=b"!")
    error = _fails([_job(server, "/a")], store)
    assert isinstance(error, IntegrityError)
    assert error.reference == "too-many-bytes"
    assert not (store.root / "payload/a").exists()


def test_a_damaged_partial_costs_one_more_download_and_no_more(
    server: FileServer, store: PayloadStore
) -> None:
    with store.writer("payload/b", SIZES[1]) as writer:
        writer.write(b"z" * 1000)
    meter = Meter()
    fetch_all([_job(server, "/b")], store, progress=meter, retries=QUICK)
    assert (store.root / "payload/b").read_bytes() == DATA["/b"]
    assert [seen.first_byte for seen in server.gets("/b")] == [1000, 0]
    assert "payload/b: the parts do not fit together, fetching it once more from the start" in meter.notes
    assert meter.done == meter.total


def test_a_damaged_partial_and_a_wrong_source_end_in_an_error(
    server: FileServer, store: PayloadStore
) -> None:
    with store.writer("payload/b", SIZES[1]) as writer:
        writer.write(b"z" * 1000)
    server.always["/b"] = Fault(flip_at=2000)
    assert _fails([_job(server, "/b")], store).reference == "digest-mismatch"
    assert [seen.first_byte for seen in server.gets("/b")] == [1000, 0]


def test_a_changed_commit_stops_everything(server: FileServer, store: PayloadStore) -> None:
    server.extra_headers = {"X-Repo-Commit": "f" * 40}
    check = pinned(x_repo_commit="0" * 40)

    def moved(path: str) -> HttpByteSource:
        return HttpByteSource(
            url=server.url + path, session=session(), check=check if path == LARGEST else accept_all
        )

    error = _fails([_job(server, path, source=moved(path)) for path in DATA], store, workers=1)
    assert isinstance(error, ChangedUpstreamError)
    assert error.findings[0].found == f"x-repo-commit: {'f' * 40}"
    assert [seen.path for seen in server.requests] == [LARGEST]
    assert store.stored() == {}


def test_a_fault_of_ours_stops_everything_and_keeps_its_traceback(
    server: FileServer, store: PayloadStore
) -> None:
    class Broken:
        @contextmanager
        def open(self, offset: int) -> Iterator[Iterator[bytes]]:
            raise ZeroDivisionError("a mistake in the program")
            yield iter(())

    with pytest.raises(ZeroDivisionError, match="a mistake in the program"):
        fetch_all([_job(server, "/b", source=Broken()), _job(server, "/a")], store, workers=1)


def test_a_stop_tears_other_streams_away_and_leaves_them_resumable(
    server: FileServer, store: PayloadStore
) -> None:
    server.always["/b"] = Fault(stall_after=100_000)
    slow = HttpByteSource(url=f"{server.url}/b", session=session(), timeouts=Timeouts(stall=60))
    small = HttpByteSource(url=f"{server.url}/e", size=1, session=session())
    began = time.monotonic()
    error = _fails([_job(server, "/b", source=slow), _job(server, "/e", source=small)], store)
    assert isinstance(error, ChangedUpstreamError)
    assert time.monotonic() - began < 5
    assert threading.active_count() <= 1 + _server_threads()
    server.always.clear()
    fetch_all([_job(server, "/b")], store, retries=QUICK)
    assert (store.root / "payload/b").read_bytes() == DATA["/b"]


def _server_threads() -> int:
    return sum("sealift-fetch" not in thread.name for thread in threading.enumerate())


@pytest.mark.slow
@pytest.mark.parametrize("mebibytes", [1, 3])
def test_a_full_disk_stops_the_build_and_it_continues_on_a_larger_one(
    server: FileServer, tmp_path: Path, mebibytes: int
) -> None:
    for name in "fgh":
        server.files[f"/{name}"] = random.Random(name).randbytes(1_500_000)
    jobs = [
        FetchJob(
            path=f"payload{path}",
            size=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            source=_source(server, path),
        )
        for path, data in server.files.items()
    ]
    with small_disk(tmp_path / "disk", mebibytes) as disk:
        with PayloadStore(disk / "tree", disk / "work") as store:
            error = _fails(jobs, store, workers=2)
        assert isinstance(error, MachineError)
        finding = error.findings[0]
        assert finding.reference == "disk-full"
        assert finding.where.startswith(str(disk / "tree" / "payload"))
        assert "continues where it stopped" in finding.hint
        received = sum(path.stat().st_size for path in disk.rglob("payload/*"))
        subprocess.run(["mount", "-o", "remount,size=32m", str(disk)], check=True)
        sent = {path: server.sent(path) for path in server.files}
        with PayloadStore(disk / "tree", disk / "work") as store:
            partial = sum(path.stat().st_size for path in (disk / "work" / "partial").iterdir())
            fetch_all(jobs, store, retries=QUICK)
            again = sum(server.sent(path) - sent[path] for path in server.files)
            assert again == sum(map(len, server.files.values())) - received - partial
            assert len(store.stored()) == len(jobs)


def _write_jobs(folder: Path, server: FileServer) -> Path:
    jobs = [
        {
            "path": f"payload{path}",
            "size": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "url": server.url + path,
        }
        for path, data in server.files.items()
    ]
    (folder / "jobs.json").write_text(json.dumps(jobs))
    return folder / "jobs.json"


def _download(folder: Path, jobs: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.sources.downloading", str(folder), str(jobs)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


def _received(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*/pa*/*") if path.suffix != ".bad")


def _wait_for(folder: Path, count: int) -> None:
    deadline = time.monotonic() + 30
    while _received(folder) < count:
        assert time.monotonic() < deadline, "the download does not get on"
        time.sleep(0.01)


def test_a_download_killed_with_signal_9_fetches_only_the_rest(tmp_path: Path) -> None:
    files = {f"/{name}": random.Random(name).randbytes(4_000_000) for name in "klm"}
    with FileServer(files, rate=6_000_000) as server:
        jobs = _write_jobs(tmp_path, server)
        first = _download(tmp_path, jobs)
        _wait_for(tmp_path, 5_000_000)
        first.send_signal(signal.SIGKILL)
        first.communicate()
        kept = _received(tmp_path)
        assert not list(tmp_path.glob("tree/payload/*.part"))
        before, server.rate = len(server.requests), None
        second = _download(tmp_path, jobs)
        second.communicate()
        assert second.returncode == 0
        assert sum(seen.sent for seen in server.requests[before:]) == 12_000_000 - kept
    assert kept >= 5_000_000
    assert {f"/{path.name}": path.read_bytes() for path in (tmp_path / "tree/payload").iterdir()} == files


@pytest.mark.parametrize("fault", [Fault(), Fault(stall_after=1_000_000)], ids=["receiving", "waiting"])
def test_ctrl_c_ends_within_two_seconds_and_the_next_run_continues(tmp_path: Path, fault: Fault) -> None:
    files = {f"/{name}": random.Random(name).randbytes(4_000_000) for name in "klm"}
    with FileServer(files, rate=2_000_000) as server:
        server.always = dict.fromkeys(files, fault)
        jobs = _write_jobs(tmp_path, server)
        first = _download(tmp_path, jobs)
        _wait_for(tmp_path, 2_000_000)
        began = time.monotonic()
        first.send_signal(signal.SIGINT)
        first.communicate()
        assert time.monotonic() - began < 2.5
        assert first.returncode == 130
        kept = _received(tmp_path)
        before, server.rate, server.always = len(server.requests), None, {}
        second = _download(tmp_path, jobs)
        second.communicate()
        assert second.returncode == 0
        assert sum(seen.sent for seen in server.requests[before:]) == 12_000_000 - kept


@pytest.mark.slow
def test_memory_stays_flat_for_a_gigabyte_with_four_workers(tmp_path: Path) -> None:
    block = os.urandom(256 << 20)
    with FileServer({f"/{name}": block for name in "wxyz"}) as server:
        process = _download(tmp_path, _write_jobs(tmp_path, server))
        output, _ = process.communicate()
    assert process.returncode == 0
    assert int(output) < 200 << 10, f"peak RSS was {int(output) >> 10} MiB"
