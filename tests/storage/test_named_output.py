"""Files that a person names with -o: nothing but a regular file is replaced, and never an input."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from bundler.errors import UsageError
from bundler.storage.named_output import require_outputs, write_output


def device(path: Path) -> None:
    os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3)) if os.geteuid() == 0 else os.mkfifo(path)


KINDS: dict[str, Callable[[Path], object]] = {
    "a FIFO": os.mkfifo,
    "a device": device,
    "a folder": lambda path: path.mkdir(),
    "a link to a file": lambda path: path.symlink_to("precious"),
    "a dangling link": lambda path: path.symlink_to("nowhere"),
    "a link to a device": lambda path: path.symlink_to("/dev/null"),
}


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_regular_file_is_refused_and_stays(kind: str, replace: bool, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("old")
    KINDS[kind](tmp_path / "out")
    before = (tmp_path / "out").lstat()
    for attempt in (require_outputs, lambda path, **given: write_output(path, b"new", **given)):
        with pytest.raises(UsageError, match="output-not-regular"):
            attempt(tmp_path / "out", replace=replace)
    after = (tmp_path / "out").lstat()
    assert (after.st_mode, after.st_ino, after.st_rdev) == (before.st_mode, before.st_ino, before.st_rdev)
    assert (tmp_path / "precious").read_text() == "old"
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_a_new_output_has_its_mode_whatever_the_umask(umask: int, tmp_path: Path) -> None:
    old = os.umask(umask)
    try:
        write_output(tmp_path / "document", b"new")
        write_output(tmp_path / "key", b"new", mode=0o600)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "document").stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["document", "key"]


def test_a_regular_file_is_replaced_only_when_asked(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("old")
    with pytest.raises(UsageError, match="output-exists"):
        write_output(out, b"new")
    assert out.read_text() == "old"
    write_output(out, b"new", replace=True)
    assert out.read_text() == "new"


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    from bundler.storage import named_output

    def late(path: Path, **_: object) -> None:
        path.write_text("somebody else's")

    monkeypatch.setattr(named_output, "_require_target", late)
    with pytest.raises(UsageError, match="output-exists"):
        write_output(out, b"new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("out", "somebody else's")]


@pytest.mark.parametrize("name", ["spec", "./spec", "folder/../spec", "link/spec", "hard"])
def test_an_input_is_never_an_output(name: str, tmp_path: Path) -> None:
    (tmp_path / "spec").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(".")
    (tmp_path / "hard").hardlink_to(tmp_path / "spec")
    with pytest.raises(UsageError, match="output-is-input"):
        require_outputs(Path(f"{tmp_path}/{name}"), inputs=[tmp_path / "spec"], replace=True)


def test_two_outputs_are_never_one_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(".")
    with pytest.raises(UsageError, match="same-output"):
        require_outputs(tmp_path / "a", tmp_path / "link" / "a")
    require_outputs(tmp_path / "a", tmp_path / "b", None)


def test_an_output_needs_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="no-folder") as caught:
        require_outputs(tmp_path / "absent" / "out")
    assert caught.value.findings[0].hint == f"mkdir -p {tmp_path}/absent"
    with pytest.raises(UsageError, match="no-folder"):
        require_outputs(tmp_path / "file" / "out")
