"""Files that are here already are taken by their digest, never by their name."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bundler.core.progress import SilentProgress
from bundler.sources.jobs import FetchJob
from bundler.sources.reuse import ReusableFiles, Reused
from bundler.storage.payload import PayloadStore
from tests.verification.bundles import make_bundle, some_bytes

DATA = some_bytes(3_000_001, "wanted")
SHA256 = hashlib.sha256(DATA).hexdigest()
GIT = hashlib.sha1(b"blob %d\0" % len(DATA) + DATA).hexdigest()


class Nothing:
    """A source that must not be asked."""

    @contextmanager
    def open(self, offset: int) -> Iterator[Iterator[bytes]]:
        raise AssertionError(f"asked from {offset}")
        yield


class Notes(SilentProgress):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.total = self.done = 0

    def start(self, what: str, total: int) -> None:
        self.total = total

    def advance(self, count: int) -> None:
        self.done += count

    def note(self, text: str) -> None:
        self.notes.append(text)


def job(sha256: str | None = SHA256, git: str | None = None) -> FetchJob:
    return FetchJob(
        path="payload/models/m/model.gguf",
        size=len(DATA),
        sha256=sha256,
        git_blob_sha1=git,
        source=Nothing(),
    )


def take(place: Path, tmp_path: Path, wanted: FetchJob | None = None) -> tuple[Reused, list[str]]:
    """What reusing `place` gives, after checking what is stored then."""
    notes = Notes()
    with PayloadStore(tmp_path / "tree", tmp_path / "work") as store:
        reused = ReusableFiles([place], notes).take([wanted or job()], store)
        kept = store.kept("payload/models/m/model.gguf")
    stored = tmp_path / "tree/payload/models/m/model.gguf"
    assert stored.is_file() is (kept is not None) is bool(reused.files)
    if reused.files:
        assert stored.read_bytes() == DATA
        assert stored.stat().st_nlink == 1
        assert notes.done == notes.total == len(DATA)
    assert list((tmp_path / "work/partial").iterdir()) == []
    return reused, notes.notes


ALL = Reused(files=1, bytes=len(DATA))


def test_a_hub_cache_gives_its_blobs(tmp_path: Path) -> None:
    blobs = tmp_path / "hub/models--o--n/blobs"
    blobs.mkdir(parents=True)
    (blobs / SHA256).write_bytes(DATA)
    (blobs / ("0" * 64)).write_bytes(some_bytes(len(DATA), "another of this size"))
    snapshot = tmp_path / "hub/models--o--n/snapshots/c"
    snapshot.mkdir(parents=True)
    (snapshot / "model.gguf").symlink_to(f"../../blobs/{SHA256}")
    for number, place in enumerate((tmp_path / "hub", tmp_path / "hub/models--o--n", snapshot)):
        assert take(place, tmp_path / str(number)) == (ALL, [])


def test_a_bundle_gives_what_its_manifest_lists(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "old", {"payload/elsewhere.bin": DATA, "payload/empty": b""})
    assert take(bundle.root, tmp_path) == (ALL, [])


@pytest.mark.parametrize("name", ["renamed.bin", "0123"], ids=["any name", "a name like a digest"])
def test_a_folder_gives_files_by_their_bytes(name: str, tmp_path: Path) -> None:
    place = tmp_path / "place/deep"
    place.mkdir(parents=True)
    (place / name).write_bytes(DATA)
    (place / "a").write_bytes(some_bytes(len(DATA), "another of this size"))
    assert take(tmp_path / "place", tmp_path) == (ALL, [])


def test_a_file_known_by_its_git_blob_id_is_found(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    (tmp_path / "place/config.json").write_bytes(DATA)
    assert take(tmp_path / "place", tmp_path, job(None, GIT)) == (ALL, [])


def test_a_file_without_any_locked_digest_is_not_reused(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    (tmp_path / "place/model.gguf").write_bytes(DATA)
    assert take(tmp_path / "place", tmp_path, job(None, None)) == (Reused(), [])


def test_a_blob_that_lies_about_itself_is_noted_and_not_reused(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / SHA256).write_bytes(some_bytes(len(DATA), "rotten"))
    reused, notes = take(tmp_path / "place", tmp_path)
    assert reused == Reused()
    assert notes == [f"{tmp_path}/place/{SHA256}: not the bytes its place states, not reused"]


def test_a_second_candidate_serves_when_the_first_is_rotten(tmp_path: Path) -> None:
    for name, data in (("a", some_bytes(len(DATA), "rotten")), ("b", DATA)):
        (tmp_path / "place" / name).mkdir(parents=True)
        (tmp_path / "place" / name / SHA256).write_bytes(data)
    reused, notes = take(tmp_path / "place", tmp_path)
    assert (reused, len(notes)) == (ALL, 1)


def test_a_bundle_whose_manifest_is_broken_still_gives_its_files(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "old", {"payload/a": DATA})
    (bundle.root / "manifest.json").write_bytes(b"{")
    reused, notes = take(bundle.root, tmp_path)
    assert reused == ALL
    assert "its manifest cannot be read" in notes[0]


def test_pipes_links_to_nowhere_and_devices_are_passed_over(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    os.mkfifo(place / SHA256)
    (place / "dangling").symlink_to("nowhere")
    (place / "zero").symlink_to("/dev/zero")
    assert take(place, tmp_path) == (Reused(), [])


def test_a_candidate_that_cannot_be_read_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "place"
    place.mkdir()
    (place / SHA256).write_bytes(DATA)
    real = os.read

    def broken(descriptor: int, count: int) -> bytes:
        if Path(f"/proc/self/fd/{descriptor}").readlink() == place / SHA256:
            raise OSError(5, "Input/output error")
        return real(descriptor, count)

    monkeypatch.setattr(os, "read", broken)
    reused, notes = take(place, tmp_path)
    assert reused == Reused()
    assert notes == [f"{place}/{SHA256}: cannot be read (Input/output error), not reused"]


def test_changing_the_old_file_does_not_change_the_new_one(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    (place / SHA256).write_bytes(DATA)
    take(place, tmp_path)
    with (place / SHA256).open("r+b") as file:
        file.write(b"changed")
    assert (tmp_path / "tree/payload/models/m/model.gguf").read_bytes() == DATA
