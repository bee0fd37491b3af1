"""Leases: who has a file open for writing is noticed, also through a mapping that leaves no stamp."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bundler.errors import ExitCode
from bundler.storage import leases as module
from bundler.storage.leases import F_SETLEASE, Leases
from bundler.storage.tree import Stamp, opened_root, walk_tree


@contextmanager
def rooted(folder: Path) -> Iterator[tuple[int, dict[str, Stamp]]]:
    with opened_root(folder) as root:
        yield root, dict(walk_tree(root).files)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(name.encode() * 8192)
    return tmp_path


def test_files_that_nobody_writes_give_no_finding(folder: Path) -> None:
    with rooted(folder) as (root, stamps), Leases() as leases:
        assert leases.take(root, stamps) == []
        assert leases.findings(root) == []
        assert leases.not_checked() == ()


@pytest.mark.parametrize("how", ["open", "mapped", "mapped and closed", "appending"])
def test_a_file_that_is_open_for_writing_is_named(folder: Path, how: str) -> None:
    descriptor = os.open(folder / "b", os.O_WRONLY | os.O_APPEND if how == "appending" else os.O_RDWR)
    mapped = mmap.mmap(descriptor, 8192) if how.startswith("mapped") else None
    if how == "mapped and closed":
        os.close(descriptor)
    with rooted(folder) as (root, stamps), Leases() as leases:
        (finding,) = leases.take(root, stamps)
        assert (finding.reference, finding.where) == ("open-for-writing", "b")
        assert finding.exit_code == ExitCode.INTEGRITY
        # Still a finding after the writer has gone: what it wrote meanwhile is not known.
        if mapped is not None:
            mapped.close()
        if how != "mapped and closed":
            os.close(descriptor)
        assert [item.where for item in leases.findings(root)] == ["b"]


WRITER = "import os, sys; os.close(os.open(sys.argv[1], os.O_WRONLY))"


def test_a_later_writer_breaks_the_lease_and_is_not_held_up(folder: Path) -> None:
    with rooted(folder) as (root, stamps), Leases() as leases:
        assert leases.take(root, stamps) == []
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", WRITER, str(folder / "c")], check=True, timeout=30)
        assert time.monotonic() - began < 20  # the kernel alone would let him wait for 45 seconds
        assert [item.where for item in leases.findings(root)] == ["c"]


def test_closing_gives_every_lease_and_descriptor_back(folder: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    with rooted(folder) as (root, stamps):
        with Leases() as leases:
            leases.take(root, stamps)
        leases.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == limit
    with (folder / "a").open("r+b"):
        pass


FEW = """
import resource, sys, os
from pathlib import Path
from bundler.storage.leases import Leases
from bundler.storage.tree import opened_root, walk_tree
soft, hard = int(sys.argv[2]), int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
with opened_root(Path(sys.argv[1])) as root, Leases() as leases:
    stamps = walk_tree(root).files
    assert len(stamps) == 900, len(stamps)
    first = leases.take(root, stamps)
    held = len(os.listdir("/proc/self/fd"))
    os.open(os.path.join(sys.argv[1], "f0899"), os.O_WRONLY)
    later = [item.where for item in leases.findings(root)]
    leases.restore_limit()
    print(len(first), held > 800, later, resource.getrlimit(resource.RLIMIT_NOFILE)[0] == soft)
"""


@pytest.mark.parametrize(
    ("soft", "hard", "all_held"), [(1024, 20000, True), (64, 20000, True), (300, 300, False), (40, 40, False)]
)
def test_more_files_than_may_be_open_are_all_looked_at(
    tmp_path: Path, soft: int, hard: int, all_held: bool
) -> None:
    for number in range(900):
        (tmp_path / f"f{number:04}").write_bytes(b"x")
    done = subprocess.run(
        [sys.executable, "-c", FEW, str(tmp_path), str(soft), str(hard)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.split("\n")[0] == f"0 {all_held} ['f0899'] True", done.stderr


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.EACCES, "does not own"), (errno.EINVAL, "keeps no leases"), (errno.ENOLCK, "keeps no leases")],
)
def test_where_no_lease_can_be_had_it_is_said_not_checked(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    real = fcntl.fcntl

    def refusing(descriptor: int, command: int, argument: int = 0) -> int:
        if command == F_SETLEASE:
            raise OSError(number, os.strerror(number))
        return real(descriptor, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", refusing)
    with rooted(folder) as (root, stamps), Leases() as leases:
        assert leases.take(root, stamps) == []
        (text,) = leases.not_checked()
        assert words in text
        assert "3 files" in text


def test_a_servers_refusal_says_nothing_about_writers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_is_remote", lambda root: True)
    with (folder / "a").open("r+b"), rooted(folder) as (root, stamps), Leases() as leases:
        assert leases.take(root, stamps) == []
        assert "1 files" in leases.not_checked()[0]


def test_a_file_that_cannot_be_opened_counts_as_not_checked(folder: Path) -> None:
    with rooted(folder) as (root, stamps), Leases() as leases:
        (folder / "b").unlink()
        assert leases.take(root, stamps) == []
        (text,) = leases.not_checked()
        assert text.endswith("it was not possible to open 1 files")
