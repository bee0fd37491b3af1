"""What changed between two manifests or locks."""

from __future__ import annotations

from typing import Any

from bundler.core.differences import manifest_difference, value_difference
from bundler.core.manifest import FileEntry, Manifest, compose
from bundler.core.paths import BundlePath


def manifest(serial: int, files: dict[str, tuple[int, str]], **members: Any) -> Manifest:
    entries = [FileEntry(BundlePath(path), size, digit * 64) for path, (size, digit) in files.items()]
    return Manifest.parse(compose(channel="c", serial=serial, files=entries, chunks=None, **members))


def test_added_removed_and_changed_files_are_told_apart() -> None:
    before = manifest(1, {"payload/a": (1, "a"), "payload/b": (2, "b")})
    after = manifest(2, {"payload/b": (2, "c"), "payload/d": (5, "d")})
    difference = manifest_difference(before, after)
    assert [(change.kind, change.where) for change in difference.files] == [
        ("removed", "payload/a"),
        ("changed", "payload/b"),
        ("added", "payload/d"),
    ]
    assert [change.where for change in difference.members] == ["serial"]


def test_bytes_that_only_moved_do_not_have_to_be_carried() -> None:
    before = manifest(1, {"payload/old-name": (1000, "a")})
    after = manifest(
        2, {"payload/new-name": (1000, "a"), "payload/twice-1": (7, "e"), "payload/twice-2": (7, "e")}
    )
    assert manifest_difference(before, after).new_bytes == 7


def test_a_manifest_does_not_differ_from_itself() -> None:
    one = manifest(1, {"payload/a": (1, "a")}, artifacts=[{"id": "x", "source": {"resolved": "1"}}])
    difference = manifest_difference(one, one)
    assert difference.files == difference.artifacts == difference.members == ()
    assert difference.new_bytes == 0


def test_an_artifact_that_resolved_anew_is_named() -> None:
    def with_commit(commit: str) -> Manifest:
        return manifest(1, {}, artifacts=[{"id": "model:k2", "source": {"resolved": commit}}])

    (change,) = manifest_difference(with_commit("aaa"), with_commit("bbb")).artifacts
    assert (change.where, change.before, change.after) == ("model:k2", "aaa", "bbb")


def test_an_insertion_into_a_list_is_one_change() -> None:
    before = {"wheels": [{"filename": "a.whl", "size": 1}, {"filename": "c.whl", "size": 3}]}
    after = {
        "wheels": [{"filename": "a.whl", "size": 1}, {"filename": "b.whl", "size": 2}, *before["wheels"][1:]]
    }
    changes = value_difference(before, after)
    assert [(change.kind, change.where) for change in changes] == [
        ("added", "wheels[b.whl].filename"),
        ("added", "wheels[b.whl].size"),
    ]
