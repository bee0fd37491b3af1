"""Seal: the closed world, and what it writes."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bundler.assembly.seal import seal
from bundler.core.chunks import split_chunk_list
from bundler.core.manifest import Manifest
from bundler.errors import IntegrityError
from bundler.storage.payload import PayloadStore

CHUNK = 1000
FILES = {
    "README.md": b"read me\n",
    "payload/files/big.bin": bytes(range(256)) * 10,
    "payload/files/empty": b"",
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PayloadStore]:
    with PayloadStore(tmp_path / "work" / "bundle", tmp_path / "work", chunk_size=CHUNK) as opened:
        for path, data in FILES.items():
            opened.put_bytes(path, data)
        yield opened


def sealed(store: PayloadStore) -> bytes:
    return seal(store, planned=FILES, channel="c", serial=3, owners={"README.md": "x"}, members={"name": "n"})


def test_the_manifest_lists_every_other_file_with_size_and_digest(store: PayloadStore) -> None:
    manifest = Manifest.parse(sealed(store))
    listed = {str(entry.path): entry for entry in manifest.files}
    assert set(listed) == {*FILES, "payload/chunks.sha256", "SHA256SUMS"}
    for path, entry in listed.items():
        data = (store.root / path).read_bytes()
        assert (entry.size, entry.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert (store.root / "manifest.json").read_bytes() == sealed(store)
    assert listed["README.md"].artifact == "x"


def test_the_chunk_list_covers_each_chunk_of_each_file_but_itself_and_the_sums(store: PayloadStore) -> None:
    manifest = Manifest.parse(sealed(store))
    parts = split_chunk_list(manifest, (store.root / "payload/chunks.sha256").read_bytes())
    assert {part.entry.path for part in parts} == set(FILES)
    for part in parts:
        data = (store.root / part.entry.path).read_bytes()
        for number in range(len(part)):
            start, stop = part.span(number)
            assert part.digest(number) == hashlib.sha256(data[start:stop]).digest()
    assert sum(len(part) for part in parts) == 1 + 3 + 0


def test_coreutils_can_check_the_sums(store: PayloadStore) -> None:
    sealed(store)
    done = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd=store.root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.count(": OK") == len(FILES) + 1


def refuse(store: PayloadStore) -> list[tuple[str, str]]:
    with pytest.raises(IntegrityError) as caught:
        sealed(store)
    assert not (store.root / "manifest.json").exists()
    return [(finding.reference, finding.where) for finding in caught.value.findings]


@pytest.mark.parametrize(
    "name", ["payload/files/x.partial", "payload/files/x.bad", ".hidden", "payload/extra"]
)
def test_anything_unlisted_prevents_sealing(store: PayloadStore, name: str) -> None:
    (store.root / name).write_bytes(b"?")
    assert refuse(store) == [("extra-file", name)]


def test_an_empty_directory_prevents_sealing(store: PayloadStore) -> None:
    (store.root / "payload" / "nothing").mkdir()
    assert refuse(store) == [("unlisted-directory", "payload/nothing")]


def test_a_link_prevents_sealing(store: PayloadStore) -> None:
    (store.root / "payload" / "link").symlink_to("/etc/passwd")
    assert ("symbolic-link", "payload/link") in refuse(store)


def test_a_file_that_went_away_prevents_sealing(store: PayloadStore) -> None:
    (store.root / "payload/files/big.bin").unlink()
    assert refuse(store) == [("missing-file", "payload/files/big.bin")]


def test_a_file_that_changed_after_it_was_stored_prevents_sealing(store: PayloadStore) -> None:
    (store.root / "payload/files/big.bin").write_bytes(b"other")
    assert refuse(store) == [("missing-file", "payload/files/big.bin")]


def test_sealing_twice_gives_the_same_bytes(store: PayloadStore) -> None:
    assert sealed(store) == sealed(store)
