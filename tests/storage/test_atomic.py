"""Files and folders that are there whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from bundler.errors import MachineError, UsageError
from bundler.storage import atomic
from bundler.storage.atomic import rename_directory, write_all, write_atomic
from bundler.storage.machine_errors import machine_faults


def test_a_new_file_has_the_bytes_and_exactly_the_mode(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        write_atomic(tmp_path / "a", b"bytes")
        write_atomic(tmp_path / "key", b"secret", mode=0o600)
    finally:
        os.umask(old)
    assert (tmp_path / "a").read_bytes() == b"bytes"
    assert (tmp_path / "a").stat().st_mode & 0o7777 == 0o644
    assert (tmp_path / "key").stat().st_mode & 0o7777 == 0o600


def test_an_old_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    write_atomic(tmp_path / "a", b"new")
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == {"a": b"new"}


def test_a_link_is_replaced_and_its_target_not_written(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"precious")
    (tmp_path / "link").symlink_to("target")
    write_atomic(tmp_path / "link", b"new")
    assert (tmp_path / "target").read_bytes() == b"precious"
    assert not (tmp_path / "link").is_symlink()


def test_a_failed_write_leaves_the_old_bytes_and_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"old")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MachineError) as caught:
        write_atomic(tmp_path / "a", b"new bytes")
    finding = caught.value.findings[0]
    assert finding.reference == "disk-full"
    assert finding.where == str(tmp_path / "a")
    assert finding.expected == "9 B (9 bytes) more"
    assert finding.found.endswith("free")
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == {"a": b"old"}


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, bytes(data)[:3]))
    with (tmp_path / "a").open("wb") as file:
        write_all(file.fileno(), b"more than three")
    assert (tmp_path / "a").read_bytes() == b"more than three"


def test_a_folder_gets_a_free_name(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "file").write_bytes(b"x")
    rename_directory(tmp_path / "work", tmp_path / "done")
    assert (tmp_path / "done" / "file").read_bytes() == b"x"
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("there", ["empty folder", "full folder", "file", "dangling link"])
@pytest.mark.parametrize("kernel", ["knows the flag", "does not know the flag"])
def test_a_folder_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str, kernel: str
) -> None:
    if kernel == "does not know the flag":
        # What the C library answers on file systems without RENAME_NOREPLACE: EINVAL.
        monkeypatch.setattr(atomic, "_RENAME_NOREPLACE", 1 << 20)
    target, source = tmp_path / "done", tmp_path / "work"
    source.mkdir()
    (source / "new").write_bytes(b"new")
    if there == "dangling link":
        target.symlink_to("nowhere")
    elif there == "file":
        target.write_bytes(b"old")
    else:
        target.mkdir()
        if there == "full folder":
            (target / "old").write_bytes(b"old")
    with pytest.raises(UsageError) as caught:
        rename_directory(source, target)
    assert caught.value.reference == "already-there"
    assert caught.value.findings[0].where == str(target)
    assert (source / "new").read_bytes() == b"new"
    assert not (target / "new").exists()


def test_a_folder_is_renamed_where_the_kernel_does_not_know_the_flag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic, "_RENAME_NOREPLACE", 1 << 20)
    (tmp_path / "work").mkdir()
    rename_directory(tmp_path / "work", tmp_path / "done")
    assert (tmp_path / "done").is_dir()


@pytest.mark.parametrize(
    ("number", "reference"),
    [
        (errno.ENOSPC, "disk-full"),
        (errno.EDQUOT, "disk-full"),
        (errno.EFBIG, "file-too-large"),
        (errno.EROFS, "read-only"),
        (errno.EIO, "device-error"),
        (errno.EACCES, "no-permission"),
        (errno.EPERM, "no-permission"),
    ],
)
def test_what_the_system_refuses_says_what_to_fix(number: int, reference: str, tmp_path: Path) -> None:
    with pytest.raises(MachineError) as caught, machine_faults(tmp_path / "x", needed=5_000_000):
        raise OSError(number, os.strerror(number))
    finding = caught.value.findings[0]
    assert (finding.reference, finding.where) == (reference, str(tmp_path / "x"))
    assert finding.hint
    assert ("5.00 MB" in finding.expected) == (reference == "disk-full")


def test_other_refusals_pass_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), machine_faults(tmp_path):
        (tmp_path / "none").read_bytes()
