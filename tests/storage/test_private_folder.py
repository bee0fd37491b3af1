"""Working folders: new, private, ours, and in places where nobody else can exchange them."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from bundler.errors import MachineError
from bundler.storage import private_folder as module
from bundler.storage.private_folder import (
    ensure_folder,
    folder_fault,
    make_new_folder,
    private_folder,
    require_own_folder,
    require_safe_folder,
    require_safe_tree,
    write_private,
)

ME = os.geteuid()
FOREIGN = 4242 if ME != 4242 else 4243


def status(mode: int, uid: int = ME, gid: int = 0, kind: int = stat.S_IFDIR) -> os.stat_result:
    return cast(os.stat_result, SimpleNamespace(st_mode=kind | mode, st_uid=uid, st_gid=gid))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777], ids=oct)
def test_a_private_folder_has_its_mode_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with private_folder("sealift-", below=tmp_path) as folder:
            assert mode(folder) == 0o700
            write_private(folder / "secret", b"x")
            assert mode(folder / "secret") == 0o600
    finally:
        os.umask(before)
    assert list(tmp_path.iterdir()) == []


def test_names_cannot_be_guessed_and_hold_only_plain_letters(tmp_path: Path) -> None:
    names = set()
    for _ in range(50):
        with private_folder("sealift-", below=tmp_path) as folder:
            names.add(folder.name.removeprefix("sealift-"))
    assert len(names) == 50
    assert all(len(name) == 16 and set(name) <= set("0123456789abcdef") for name in names)


def test_what_is_there_already_is_never_adopted(tmp_path: Path) -> None:
    (tmp_path / "planted").mkdir()
    with pytest.raises(FileExistsError):
        make_new_folder(tmp_path / "planted")
    (tmp_path / "link").symlink_to(tmp_path / "planted")
    with pytest.raises(FileExistsError):
        make_new_folder(tmp_path / "link")


@pytest.mark.parametrize(
    ("facts", "fault"),
    [
        (status(0o700), ""),
        (status(0o755, uid=0), ""),
        (status(0o1777, uid=0), ""),
        (status(0o777), "everybody may write there"),
        (status(0o757), "everybody may write there"),
        (status(0o775, gid=FOREIGN), f"group {FOREIGN} may write there"),
        (status(0o755, uid=FOREIGN), f"user {FOREIGN}"),
        # The owner of a folder with the sticky bit may still exchange what is in it.
        (status(0o1777, uid=FOREIGN), f"user {FOREIGN}"),
        # On a file the sticky bit protects nothing.
        (status(0o1777, kind=stat.S_IFREG), "everybody may write there"),
    ],
)
def test_others_who_could_exchange_the_contents_are_named(facts: os.stat_result, fault: str) -> None:
    assert (fault in folder_fault(facts)) if fault else folder_fault(facts) == ""


def test_a_group_that_is_the_users_own_may_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_is_private_group", lambda gid: gid == 77)
    assert folder_fault(status(0o775, gid=77)) == ""
    assert folder_fault(status(0o775, gid=78)) != ""


def test_a_folder_above_that_is_open_to_all_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open/inner").mkdir(parents=True)
    (tmp_path / "open").chmod(0o777)
    for check in (require_safe_folder, ensure_folder, require_safe_tree):
        with pytest.raises(MachineError) as caught:
            check(tmp_path / "open/inner")
        assert caught.value.reference == "work-folder-open"
        assert caught.value.findings[0].where == str(tmp_path / "open")
    # The hint is a command that works.
    hint = caught.value.findings[0].hint
    assert hint == f"chmod go-w {tmp_path / 'open'}"
    assert os.system(hint) == 0
    require_safe_folder(tmp_path / "open/inner")


def test_a_link_is_judged_by_the_folder_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "link").symlink_to(tmp_path / "open")
    with pytest.raises(MachineError):
        require_safe_folder(tmp_path / "link")


@pytest.mark.parametrize("umask", [0o000, 0o777], ids=oct)
def test_missing_folders_are_made_with_the_mode_asked_for(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        ensure_folder(tmp_path / "a/b/c", mode=0o755)
    finally:
        os.umask(before)
    assert {mode(tmp_path / name) for name in ("a", "a/b", "a/b/c")} == {0o755}


def test_a_program_that_others_may_change_is_refused(tmp_path: Path) -> None:
    (tmp_path / "engine/bin").mkdir(parents=True)
    (tmp_path / "engine/bin/python").write_text("#!/bin/sh\n")
    (tmp_path / "engine/bin/link").symlink_to("/usr/bin/env")
    (tmp_path / "engine/.lock").touch()
    (tmp_path / "engine/.lock").chmod(0o666)  # as `uv venv` leaves it
    require_safe_tree(tmp_path / "engine")
    (tmp_path / "engine/bin/python").chmod(0o757)
    with pytest.raises(MachineError) as caught:
        require_safe_tree(tmp_path / "engine")
    assert caught.value.findings[0].where == str(tmp_path / "engine/bin/python")


def test_an_unfinished_folder_of_another_user_is_not_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "bundle.building"
    with pytest.raises(FileNotFoundError):
        require_own_folder(work)
    work.mkdir()
    require_own_folder(work)
    monkeypatch.setattr(module, "_trusted_owners", lambda itself: {FOREIGN})
    with pytest.raises(MachineError) as caught:
        require_own_folder(work)
    assert caught.value.reference == "work-folder-open"
