"""The tree that is being built: only finished files in it, whatever happens on the way."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundler.errors import IntegrityError, MachineError, MalformedError
from bundler.storage import payload
from bundler.storage.payload import PayloadStore, PayloadWriter, partial_name
from bundler.storage.stream_digests import FileDigester, hashing_pool
from tests.storage.full_disk import remount_read_only, small_disk

PATH = "payload/models/shard.safetensors"
CHUNK = 1000
DATA = random.Random(1).randbytes(4321)
SHA256 = hashlib.sha256(DATA).hexdigest()
CHUNKS = b"".join(hashlib.sha256(DATA[at : at + CHUNK]).digest() for at in range(0, len(DATA), CHUNK))
GIT_BLOB = hashlib.sha1(b"blob 4321\0" + DATA).hexdigest()


def _store(folder: Path) -> PayloadStore:
    return PayloadStore(folder / "tree", folder / "work", chunk_size=CHUNK)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PayloadStore]:
    with _store(tmp_path) as opened:
        yield opened


def _partial(folder: Path) -> Path:
    return folder / "work" / "partial" / partial_name(PATH, len(DATA))


def _bad(folder: Path) -> Path:
    return _partial(folder).with_suffix(".bad")


def _leave_partial(folder: Path, data: bytes) -> None:
    with _store(folder) as store, store.writer(PATH, len(DATA)) as writer:
        writer.write(data)


def _finish(writer: PayloadWriter, rest: bytes) -> None:
    for at in range(0, len(rest), 1 << 20):
        writer.write(rest[at : at + (1 << 20)])
    writer.commit()


def _tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def _pieces(sizes: list[int]) -> Iterator[bytes]:
    at = 0
    for size in sizes:
        yield DATA[at : at + size]
        at += size
    yield DATA[at:]


@given(st.lists(st.integers(0, 2000)), st.integers(1, 5000))
@settings(deadline=None)
def test_digests_do_not_depend_on_how_the_bytes_come(sizes: list[int], chunk_size: int) -> None:
    with hashing_pool() as pool:
        for used in (None, pool):
            digester = FileDigester(chunk_size=chunk_size, git_blob_size=len(DATA), pool=used)
            for piece in _pieces(sizes):
                digester.update(piece)
            assert digester.sha256() == SHA256
            assert digester.git_blob_sha1() == GIT_BLOB
            assert digester.chunk_digests() == b"".join(
                hashlib.sha256(DATA[at : at + chunk_size]).digest() for at in range(0, len(DATA), chunk_size)
            )


def test_digests_of_large_pieces_are_computed_beside_and_in_order() -> None:
    data = random.Random(2).randbytes(9_000_000)
    with hashing_pool() as pool:
        digester = FileDigester(git_blob_size=len(data), pool=pool)
        for at in range(0, len(data), 777_777):
            digester.update(data[at : at + 777_777])
        assert digester.sha256() == hashlib.sha256(data).hexdigest()
        chunks = [hashlib.sha256(data[at : at + (4 << 20)]).digest() for at in range(0, len(data), 4 << 20)]
        assert digester.chunk_digests() == b"".join(chunks)


def test_a_finished_file_stands_in_the_tree_with_all_its_digests(store: PayloadStore) -> None:
    with store.writer(PATH, len(DATA), git_blob=True) as writer:
        writer.write(DATA[:1234])
        assert _tree(store.root) == []
        writer.write(DATA[1234:])
        file = writer.commit(sha256=SHA256, git_blob_sha1=GIT_BLOB)
    assert (file.path, file.size, file.sha256, file.chunk_digests) == (PATH, 4321, SHA256, CHUNKS)
    assert file.git_blob_sha1 == GIT_BLOB
    assert (store.root / PATH).read_bytes() == DATA
    assert store.kept(PATH) == file
    assert store.stored() == {PATH: file}
    assert list((store.work / "partial").iterdir()) == []


def test_an_empty_file_has_no_chunks(store: PayloadStore) -> None:
    file = store.put_bytes("payload/empty", b"")
    assert (file.size, file.chunk_digests) == (0, b"")
    assert (store.root / "payload/empty").read_bytes() == b""


def test_finished_files_are_known_to_the_next_process(tmp_path: Path) -> None:
    with _store(tmp_path) as store:
        first = store.put_bytes(PATH, DATA)
    with _store(tmp_path) as store:
        assert store.kept(PATH) == first
        assert store.stored() == {PATH: first}


@pytest.mark.parametrize("change", ["grown", "touched", "gone"])
def test_a_file_that_changed_since_is_not_kept(tmp_path: Path, change: str) -> None:
    with _store(tmp_path) as store:
        store.put_bytes(PATH, DATA)
        file = store.root / PATH
        if change == "grown":
            stamp = file.stat().st_mtime_ns
            file.write_bytes(DATA + b"x")
            os.utime(file, ns=(stamp, stamp))
        elif change == "touched":
            os.utime(file, ns=(1, 1))
        else:
            file.unlink()
        assert store.kept(PATH) is None
        assert store.stored() == {}


def test_an_interrupted_file_continues_behind_its_last_byte(tmp_path: Path) -> None:
    _leave_partial(tmp_path, DATA[:3000])
    hashed: list[int] = []
    with _store(tmp_path) as store, store.writer(PATH, len(DATA), watch=hashed.append) as writer:
        assert (writer.offset, writer.resumed, sum(hashed)) == (3000, 3000, 3000)
        writer.write(DATA[3000:])
        assert writer.commit(sha256=SHA256).chunk_digests == CHUNKS


def test_bytes_to_come_are_those_neither_stored_nor_partial(tmp_path: Path) -> None:
    with _store(tmp_path) as store:
        assert store.missing_bytes(PATH, len(DATA)) == 4321
    _leave_partial(tmp_path, DATA[:3000])
    with _store(tmp_path) as store:
        assert store.missing_bytes(PATH, len(DATA)) == 1321
        store.put_bytes(PATH, DATA)
        assert store.missing_bytes(PATH, len(DATA)) == 0


def test_hashing_what_is_there_can_be_stopped(tmp_path: Path) -> None:
    _leave_partial(tmp_path, DATA[:3000])

    def stop(_count: int) -> None:
        raise KeyboardInterrupt

    with _store(tmp_path) as store:
        with pytest.raises(KeyboardInterrupt):
            store.writer(PATH, len(DATA), watch=stop)
        with store.writer(PATH, len(DATA)) as writer:
            assert writer.offset == 3000


def test_without_resume_the_file_begins_again(tmp_path: Path) -> None:
    _leave_partial(tmp_path, b"z" * 3000)
    with _store(tmp_path) as store, store.writer(PATH, len(DATA), resume=False) as writer:
        assert (writer.offset, writer.resumed) == (0, 0)
        writer.write(DATA)
        writer.commit(sha256=SHA256)


def test_a_file_without_a_journal_line_is_hashed_again_and_not_fetched(tmp_path: Path) -> None:
    with _store(tmp_path) as store:
        store.put_bytes(PATH, DATA)
    (tmp_path / "work" / "journal.jsonl").unlink()
    with _store(tmp_path) as store:
        assert store.kept(PATH) is None
        with store.writer(PATH, len(DATA)) as writer:
            assert writer.offset == writer.size
            writer.commit(sha256=SHA256)
        assert store.kept(PATH) is not None


def test_a_file_changed_behind_our_back_is_found_out(tmp_path: Path) -> None:
    with _store(tmp_path) as store:
        store.put_bytes(PATH, DATA)
    (tmp_path / "tree" / PATH).write_bytes(b"z" + DATA[1:])
    with _store(tmp_path) as store:
        with store.writer(PATH, len(DATA)) as writer, pytest.raises(IntegrityError) as caught:
            writer.commit(sha256=SHA256)
        assert caught.value.reference == "digest-mismatch"
        assert store.kept(PATH) is None
    assert not (tmp_path / "tree" / PATH).exists()


WRONG = b"z" + DATA[1:]


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        ({"sha256": SHA256}, hashlib.sha256(WRONG)),
        ({"git_blob_sha1": GIT_BLOB}, hashlib.sha1(b"blob 4321\0" + WRONG)),
    ],
    ids=["sha256", "git blob sha1"],
)
def test_wrong_bytes_are_put_aside_and_reported_with_both_digests(
    store: PayloadStore, expected: dict[str, str], found: hashlib._Hash
) -> None:
    with store.writer(PATH, len(DATA), git_blob=True) as writer:
        writer.write(WRONG)
        with pytest.raises(IntegrityError) as caught:
            writer.commit(**expected)
    finding = caught.value.findings[0]
    algorithm, value = next(iter(expected.items()))
    bad = _bad(store.root.parent)
    assert finding.reference == "digest-mismatch"
    assert finding.where == PATH
    assert finding.expected == f"{algorithm.replace('git_blob_', 'git blob ')}:{value}"
    assert (
        finding.found == f"{algorithm.replace('git_blob_', 'git blob ')}:{found.hexdigest()} (kept as {bad})"
    )
    assert bad.read_bytes() == WRONG
    assert _tree(store.root) == []
    assert store.kept(PATH) is None


def test_one_byte_too_many_is_refused_before_it_is_written(store: PayloadStore) -> None:
    with store.writer(PATH, len(DATA)) as writer:
        writer.write(DATA[:4000])
        with pytest.raises(IntegrityError) as caught:
            writer.write(DATA[4000:] + b"x")
    assert caught.value.reference == "too-many-bytes"
    assert caught.value.findings[0].expected == "4321 bytes"
    assert _bad(store.root.parent).read_bytes() == DATA[:4000]
    assert _tree(store.root) == []


def test_too_few_bytes_are_not_accepted_and_stay_resumable(store: PayloadStore) -> None:
    with store.writer(PATH, len(DATA)) as writer:
        writer.write(DATA[:4000])
        with pytest.raises(IntegrityError) as caught:
            writer.commit(sha256=SHA256)
    assert caught.value.reference == "too-few-bytes"
    assert caught.value.findings[0].found == "4000 bytes"
    with store.writer(PATH, len(DATA)) as writer:
        assert writer.offset == 4000


def test_the_same_bytes_are_not_written_twice(store: PayloadStore) -> None:
    store.put_bytes(PATH, DATA)
    before = (store.root / PATH).stat()
    store.put_bytes(PATH, DATA)
    after = (store.root / PATH).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    store.put_bytes(PATH, b"other")
    assert (store.root / PATH).read_bytes() == b"other"


def test_a_local_file_is_copied_and_checked(store: PayloadStore, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(DATA)
    assert store.put_file(PATH, tmp_path / "source", sha256=SHA256).chunk_digests == CHUNKS
    (tmp_path / "source").unlink()
    assert store.put_file(PATH, tmp_path / "source", sha256=SHA256).sha256 == SHA256
    (tmp_path / "source").write_bytes(DATA[::-1])
    with pytest.raises(IntegrityError) as caught:
        store.put_file("payload/other", tmp_path / "source", sha256=SHA256)
    assert caught.value.reference == "digest-mismatch"
    assert store.put_file("payload/free", tmp_path / "source").size == len(DATA)


def test_a_discarded_file_is_gone_with_the_folders_it_leaves_empty(tmp_path: Path) -> None:
    with _store(tmp_path) as store:
        store.put_bytes(PATH, DATA)
        store.put_bytes("payload/other", b"x")
        store.discard(PATH)
        store.discard("payload/never/was")
        assert _tree(store.root) == ["payload", "payload/other"]
        assert store.kept(PATH) is None
    with _store(tmp_path) as store:
        assert list(store.stored()) == ["payload/other"]


@pytest.mark.parametrize(
    "path", ["../x", "/etc/x", "payload/../../x", "payload//x", "", "a\0b", "attestations/x"]
)
def test_hostile_paths_are_refused_and_nothing_is_made(tmp_path: Path, path: str) -> None:
    with _store(tmp_path) as store:
        with pytest.raises(MalformedError) as caught:
            store.writer(path, 1)
        with pytest.raises(MalformedError):
            store.discard(path)
        assert caught.value.reference == "bad-path"
        assert _tree(tmp_path) == ["tree", "work", "work/guard", "work/journal.jsonl", "work/partial"]


def test_a_link_planted_for_a_folder_is_refused(store: PayloadStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (store.root / "payload").symlink_to(outside)
    with pytest.raises(IntegrityError) as caught:
        store.put_bytes(PATH, DATA)
    finding = caught.value.findings[0]
    assert (finding.reference, finding.where, finding.found) == ("link-in-tree", "payload", "a symbolic link")
    assert _tree(outside) == []


def test_a_link_planted_while_the_file_is_written_is_refused(store: PayloadStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    with store.writer(PATH, len(DATA)) as writer:
        writer.write(DATA)
        (store.root / "payload").mkdir()
        (store.root / "payload" / "models").symlink_to(outside)
        with pytest.raises(IntegrityError, match="link-in-tree"):
            writer.commit(sha256=SHA256)
    assert _tree(outside) == []
    (store.root / "payload" / "models").unlink()
    with store.writer(PATH, len(DATA)) as writer:
        assert writer.offset == len(DATA)
        writer.commit(sha256=SHA256)


@pytest.mark.parametrize("kind", ["symbolic link", "hard link", "named pipe", "folder"])
def test_only_a_regular_file_may_stand_where_a_file_goes(
    store: PayloadStore, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    place = store.root / PATH
    place.parent.mkdir(parents=True)
    if kind == "symbolic link":
        place.symlink_to(tmp_path / "precious")
    elif kind == "hard link":
        place.hardlink_to(tmp_path / "precious")
    elif kind == "named pipe":
        os.mkfifo(place)
    else:
        place.mkdir()
    with pytest.raises(IntegrityError) as caught:
        store.put_bytes(PATH, DATA)
    assert caught.value.reference == "link-in-tree"
    assert kind.split()[-1] in caught.value.findings[0].found
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_a_link_in_place_of_the_partial_is_not_followed(store: PayloadStore, tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    _partial(tmp_path).symlink_to(tmp_path / "precious")
    with pytest.raises(IntegrityError, match="link-in-tree"):
        store.writer(PATH, len(DATA))
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_a_thread_left_behind_cannot_put_anything_into_a_closed_store(tmp_path: Path) -> None:
    with _store(tmp_path) as store:
        writer = store.writer(PATH, len(DATA))
        writer.write(DATA)
    with pytest.raises(RuntimeError, match="the store is closed"):
        writer.commit(sha256=SHA256)
    writer.close()
    assert _tree(tmp_path / "tree") == []
    with _store(tmp_path) as store, store.writer(PATH, len(DATA)) as again:
        assert again.offset == len(DATA)


def test_one_process_at_a_time_and_the_other_is_named(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib\n"
        "from bundler.storage.payload import PayloadStore\n"
        "with PayloadStore(pathlib.Path(sys.argv[1]) / 'tree', pathlib.Path(sys.argv[1]) / 'work'):\n"
        "    print('in', flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"in\n"
        with pytest.raises(MachineError) as caught:
            PayloadStore(tmp_path / "tree", tmp_path / "work").__enter__()
        other.kill()
    finding = caught.value.findings[0]
    assert finding.reference == "busy"
    assert finding.found.startswith(f"process {other.pid}: {sys.executable} -c")
    assert f"kill {other.pid}" in finding.hint
    with PayloadStore(tmp_path / "tree", tmp_path / "work"):
        pass  # free again, however the other one ended


def test_a_journal_of_another_chunk_size_is_refused(tmp_path: Path) -> None:
    with _store(tmp_path):
        pass
    with pytest.raises(MalformedError) as caught:
        PayloadStore(tmp_path / "tree", tmp_path / "work").__enter__()
    assert caught.value.reference == "other-chunk-size"
    assert caught.value.findings[0].expected == "4194304 bytes"
    assert caught.value.findings[0].found == "1000 bytes"


def test_a_damaged_journal_prevents_the_build_and_frees_the_guard(tmp_path: Path) -> None:
    with _store(tmp_path) as store:
        store.put_bytes(PATH, DATA)
    journal = tmp_path / "work" / "journal.jsonl"
    whole = journal.read_bytes()
    journal.write_bytes(b"{}\n" + whole)
    with pytest.raises(MalformedError, match="damaged-journal"):
        _store(tmp_path).__enter__()
    journal.write_bytes(whole)
    with _store(tmp_path) as store:
        assert store.kept(PATH) is not None


def test_bytes_are_pushed_to_the_disk_on_the_way(
    store: PayloadStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    real = os.fdatasync

    def watched(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)
        real(descriptor)

    monkeypatch.setattr(payload, "SYNC_BYTES", 1000)
    with store.writer(PATH, len(DATA)) as writer:
        monkeypatch.setattr(os, "fdatasync", watched)
        for at in range(0, len(DATA), 400):
            writer.write(DATA[at : at + 400])
    assert synced == [1200, 2400, 3600]


def test_threads_may_store_and_discard_in_one_folder_at_once(store: PayloadStore) -> None:
    faults: list[BaseException] = []

    def work(who: int) -> None:
        try:
            for number in range(15):
                path = f"payload/shared/{who}-{number}"
                store.put_bytes(path, b"x")
                if number % 2:
                    store.discard(path)
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert len(store.stored()) == 4 * 8


@pytest.mark.parametrize(
    ("number", "reference"),
    [(errno.ENOSPC, "disk-full"), (errno.EIO, "device-error"), (errno.EROFS, "read-only")],
)
@pytest.mark.parametrize("call", ["write", "fdatasync", "rename", "fsync"])
def test_whatever_the_disk_refuses_the_next_run_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, reference: str, call: str
) -> None:
    def refuse(*_arguments: object, **_keywords: object) -> None:
        raise OSError(number, os.strerror(number))

    with _store(tmp_path) as store, store.writer(PATH, len(DATA)) as writer:
        writer.write(DATA[:3000])
        with monkeypatch.context() as patch:
            patch.setattr(os, call, refuse)
            with pytest.raises(MachineError) as caught:
                _finish(writer, DATA[3000:])
    finding = caught.value.findings[0]
    assert (finding.reference, finding.where) == (reference, str(tmp_path / "tree" / PATH))
    assert "continues where it stopped" in finding.hint
    with _store(tmp_path) as store:
        assert store.kept(PATH) is None
        with store.writer(PATH, len(DATA)) as writer:
            assert writer.offset >= 3000
            writer.write(DATA[writer.offset :])
            writer.commit(sha256=SHA256)
        assert (tmp_path / "tree" / PATH).read_bytes() == DATA


@pytest.mark.slow
def test_a_full_disk_says_how_much_is_missing_and_the_rest_continues(tmp_path: Path) -> None:
    data = os.urandom(12 << 20)
    with small_disk(tmp_path / "disk", 8) as disk:
        with (
            PayloadStore(disk / "tree", disk / "work") as store,
            store.writer(PATH, len(data)) as writer,
            pytest.raises(MachineError) as caught,
        ):
            _finish(writer, data)
        finding = caught.value.findings[0]
        assert finding.reference == "disk-full"
        assert finding.where == str(disk / "tree" / PATH)
        missing = int(finding.expected.split("(")[1].split(" bytes")[0])
        assert 4 << 20 <= missing <= 5 << 20
        assert finding.found == "0 B (0 bytes) free"
        assert not (disk / "tree" / PATH).exists()
        subprocess.run(["mount", "-o", "remount,size=32m", str(disk)], check=True)
        with PayloadStore(disk / "tree", disk / "work") as store, store.writer(PATH, len(data)) as writer:
            assert writer.offset > 6 << 20
            writer.write(data[writer.offset :])
            writer.commit(sha256=hashlib.sha256(data).hexdigest())


@pytest.mark.slow
def test_a_disk_that_turns_read_only_keeps_what_was_there(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 8) as disk:
        _leave_partial(disk, DATA[:3000])
        remount_read_only(disk)
        before = _tree(disk)
        with pytest.raises(MachineError) as caught:
            _store(disk).__enter__()
        assert caught.value.reference == "read-only"
        assert _tree(disk) == before


@pytest.mark.slow
def test_work_on_another_file_system_is_refused(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 8) as disk, pytest.raises(MachineError) as caught:
        PayloadStore(tmp_path / "tree", disk / "work").__enter__()
    assert caught.value.reference == "other-file-system"
    assert caught.value.findings[0].where == str(tmp_path / "disk" / "work")


def test_a_process_killed_while_writing_leaves_a_partial_and_no_file(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib, time\n"
        "from bundler.storage.payload import PayloadStore\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "with PayloadStore(folder / 'tree', folder / 'work', chunk_size=1000) as store:\n"
        f"    writer = store.writer({PATH!r}, {len(DATA)})\n"
        "    writer.write(sys.stdin.buffer.read(3333)); print('written', flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(DATA[:3333])
        process.stdin.flush()
        assert process.stdout.readline() == b"written\n"
        process.kill()
    began = time.monotonic()
    with _store(tmp_path) as store:
        assert store.stored() == {}
        with store.writer(PATH, len(DATA)) as writer:
            assert writer.offset == 3333
            writer.write(DATA[3333:])
            writer.commit(sha256=SHA256)
    assert time.monotonic() - began < 5
