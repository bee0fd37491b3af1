"""The walk of a bundle's folder: what it sees, what it refuses, and that it follows no link."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from bundler.errors import IntegrityError, MachineError, MalformedError
from bundler.storage.no_follow import open_beneath, open_file
from bundler.storage.tree import (
    Stamp,
    Tree,
    changed_findings,
    opened_root,
    read_small,
    walk_tree,
)


def walk(root: Path) -> Tree:
    with opened_root(root) as descriptor:
        return walk_tree(descriptor)


def told(root: Path) -> list[tuple[str, str]]:
    return [(finding.reference, finding.where) for finding in walk(root).findings]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "a/b").mkdir(parents=True)
    (folder / "a/b/file").write_bytes(b"12345")
    (folder / ".hidden").write_bytes(b"")
    return folder


def test_files_and_directories_are_listed_with_their_stamps(root: Path) -> None:
    tree = walk(root)

    assert list(tree.files) == [".hidden", "a/b/file"]
    assert tree.files["a/b/file"] == Stamp.of((root / "a/b/file").stat())
    assert tree.directories == ("a", "a/b")
    assert tree.findings == ()


def test_a_link_to_a_file_is_told_and_not_followed(root: Path) -> None:
    (root / "link").symlink_to(root / "a/b/file")

    tree = walk(root)

    assert [(f.reference, f.where) for f in tree.findings] == [("symbolic-link", "link")]
    assert "link" not in tree.files


def test_a_link_to_a_directory_is_told_and_not_entered(root: Path) -> None:
    (root / "again").symlink_to("a", target_is_directory=True)

    tree = walk(root)

    assert [(f.reference, f.where) for f in tree.findings] == [("symbolic-link", "again")]
    assert not any(path.startswith("again") for path in tree.files)


def test_a_link_that_leads_in_a_circle_ends_the_walk(root: Path) -> None:
    (root / "a/loop").symlink_to("..", target_is_directory=True)

    assert told(root) == [("symbolic-link", "a/loop")]


def test_both_names_of_a_hard_linked_file_are_told(root: Path) -> None:
    os.link(root / "a/b/file", root / "second")

    assert sorted(told(root)) == [("hard-link", "a/b/file"), ("hard-link", "second")]


def test_a_hard_link_from_outside_is_told(root: Path, tmp_path: Path) -> None:
    os.link(root / "a/b/file", tmp_path / "outside")

    assert told(root) == [("hard-link", "a/b/file")]


def test_a_fifo_is_told_without_waiting_for_a_writer(root: Path) -> None:
    os.mkfifo(root / "pipe")

    assert told(root) == [("special-file", "pipe")]


def test_a_socket_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s")
        assert told(root) == [("special-file", "s")]


def test_a_device_is_told(root: Path) -> None:
    try:
        os.mknod(root / "null", 0o20666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("making device nodes needs root")

    assert told(root) == [("special-file", "null")]


def test_a_name_that_is_not_utf8_is_told_with_its_bytes(root: Path) -> None:
    Path(os.fsdecode(os.fsencode(root / "a") + b"/caf\xe9")).write_bytes(b"")

    assert told(root) == [("bad-name", "a/caf\\xe9")]


def test_a_path_over_the_limit_is_told_and_not_entered(root: Path) -> None:
    deep = root
    for _ in range(6):
        deep = deep / ("d" * 200)
    deep.mkdir(parents=True)

    assert [reference for reference, _ in told(root)] == ["bad-name"]


def test_a_directory_without_permission_is_told(root: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (root / "a").chmod(0)
    try:
        assert told(root) == [("unreadable", "a")]
    finally:
        (root / "a").chmod(0o755)


def test_the_root_itself_must_not_be_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)

    with pytest.raises(IntegrityError) as refused, opened_root(tmp_path / "link"):
        pass

    assert refused.value.reference == "root-is-link"
    assert refused.value.findings[0].found == f"a link to {root}"


def test_a_root_that_is_a_file_or_missing_is_refused(root: Path) -> None:
    with pytest.raises(MachineError) as file, opened_root(root / ".hidden"):
        pass
    with pytest.raises(MachineError) as nothing, opened_root(root / "no"):
        pass

    assert (file.value.reference, nothing.value.reference) == ("not-a-directory", "no-such-bundle")


@pytest.mark.parametrize("path", ["..", "a/../../x", "a//b", "/etc/passwd", "", ".", "a/b/"])
def test_a_path_that_is_none_below_the_root_is_never_opened(root: Path, path: str) -> None:
    with opened_root(root) as descriptor, pytest.raises(ValueError, match="not a path below"):
        open_beneath(descriptor, path)


@pytest.mark.parametrize("link", ["a", "a/b", "a/b/file"])
def test_a_link_anywhere_in_a_path_is_refused_by_the_kernel(root: Path, tmp_path: Path, link: str) -> None:
    (root / link).rename(tmp_path / "moved")
    (root / link).symlink_to(tmp_path / "moved")

    with opened_root(root) as descriptor, pytest.raises(IntegrityError) as refused:
        open_file(descriptor, "a/b/file")

    assert refused.value.reference == "not-openable"


def test_no_descriptor_is_left_open(root: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - descriptors, not files

    with opened_root(root) as descriptor:
        os.close(open_beneath(descriptor, "a/b/file"))
        for missing in ("a/x/y", "a/b/x"):
            with pytest.raises(IntegrityError, match="missing-file"):
                open_file(descriptor, missing)
        with pytest.raises(IntegrityError):
            open_file(descriptor, "a/b")

    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_a_small_file_over_its_limit_is_not_read(root: Path) -> None:
    with opened_root(root) as descriptor, pytest.raises(MalformedError) as refused:
        read_small(descriptor, "a/b/file", 4)

    assert (refused.value.reference, refused.value.findings[0].found) == ("too-large", "5 bytes")


def test_what_changed_between_two_walks_is_told(root: Path) -> None:
    before = walk(root)
    (root / "new").write_bytes(b"x")
    (root / ".hidden").unlink()
    (root / "a/b/file").write_bytes(b"54321")
    (root / "empty").mkdir()

    told_now = {(f.where, f.found) for f in changed_findings(before, walk(root))}

    assert told_now == {
        ("new", "it appeared"),
        (".hidden", "it vanished"),
        ("a/b/file", "another device, inode, size or time"),
        ("empty", "it appeared"),
    }
