"""Files below a folder, reached by name step by step so that no link is ever followed.

A path like `payload/models/x` is opened component by component with O_NOFOLLOW from a descriptor of the
root: a link that someone plants while we work is refused, wherever in the path it stands.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bundler.errors import IntegrityError

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


@contextmanager
def parent_beneath(root: int, path: str, *, create: bool = False) -> Iterator[tuple[int, str]]:
    """A descriptor of the folder that holds `path` below the descriptor `root`, and the last name.

    `create` makes missing folders and their entries durable. Raises IntegrityError (`link-in-tree`) when a
    component is a link or no folder; FileNotFoundError when one is missing and not created.
    """
    *folders, name = path.split("/")
    current = os.dup(root)
    try:
        for depth, folder in enumerate(folders, start=1):
            below = _step(current, folder, "/".join(folders[:depth]), create)
            os.close(current)
            current = below
        yield current, name
    finally:
        os.close(current)


def _step(current: int, folder: str, shown: str, create: bool) -> int:
    if create:
        _make_folder(current, folder)
    try:
        return os.open(folder, _FOLDER, dir_fd=current)
    except OSError as error:
        # O_NOFOLLOW says ELOOP for a link; with O_DIRECTORY, Linux says ENOTDIR (open(2)).
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
        raise _refused(shown, "a folder", os.lstat(folder, dir_fd=current)) from error


def _make_folder(current: int, folder: str) -> None:
    try:
        os.mkdir(folder, 0o755, dir_fd=current)
    except FileExistsError:
        return
    os.fsync(current)


def regular_file_facts(parent: int, name: str, shown: str) -> os.stat_result | None:
    """lstat of the file `name` in `parent`, None when there is none.

    Raises IntegrityError (`link-in-tree`) for anything but a regular file with this one name.
    """
    try:
        facts = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1:
        raise _refused(shown, "a regular file with one name", facts)
    return facts


def _refused(shown: str, expected: str, facts: os.stat_result) -> IntegrityError:
    return IntegrityError(
        "link-in-tree",
        "something in the tree is not what was put there",
        where=shown,
        expected=expected,
        found=_kind(facts),
        hint=f"find out who put it there (`ls -ld {shown}` in the tree), remove it, and run again",
    )


def _kind(facts: os.stat_result) -> str:
    if stat.S_ISREG(facts.st_mode):
        return f"a file with {facts.st_nlink} names (hard links)" if facts.st_nlink > 1 else "a file"
    kinds = {stat.S_IFLNK: "a symbolic link", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe"}
    return kinds.get(stat.S_IFMT(facts.st_mode), "a device or socket")


def open_folder(folder: Path) -> int:
    """A descriptor of `folder` itself, made if missing; links on the way to it are the user's own."""
    folder.mkdir(parents=True, exist_ok=True)
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
