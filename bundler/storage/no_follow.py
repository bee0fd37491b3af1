"""Files below a folder, reached by name step by step so that no link is ever followed.

A path like `payload/models/x` is opened component by component with O_NOFOLLOW from a descriptor of the
root: a link that someone plants while we work is refused, wherever in the path it stands. Also runs in
`verify.pyz`: standard library only, Python 3.9.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bundler.errors import IntegrityError, MachineError, SealiftError
from bundler.storage.machine_errors import machine_error

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a FIFO must not wait for a writer. It has no effect on regular files.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_OF_THE_TREE = frozenset({errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO, errno.ENAMETOOLONG})
"""What a tree itself causes by what stands in the place of a file: a link, a folder, a socket."""


def open_beneath(root: int, path: str, *, directory: bool = False) -> int:
    """A read-only descriptor of `path` below the directory descriptor `root`, following no link anywhere.

    Each component is opened with O_NOFOLLOW from the descriptor of the one before it. Raises OSError
    (ELOOP or ENOTDIR at a link, ENOENT, EACCES), or ValueError for a path that would leave the root.
    """
    *folders, name = path.split("/")
    if any(component in ("", ".", "..") for component in (*folders, name)):
        raise ValueError(f"not a path below the root: {path!r}")
    at = root
    try:
        for folder in folders:
            below = os.open(folder.encode(), _FOLDER, dir_fd=at)
            if at != root:
                os.close(at)
            at = below
        return os.open(name.encode(), _FOLDER if directory else _FILE, dir_fd=at)
    finally:
        if at != root:
            os.close(at)


def open_file(root: int, path: str) -> int:
    """Like `open_beneath`, and what was opened is a regular file.

    Raises IntegrityError (`missing-file`, `not-openable`, `special-file`) or MachineError.
    """
    try:
        descriptor = open_beneath(root, path)
    except OSError as error:
        raise open_fault(path, error) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise IntegrityError(
            "special-file", "a listed path is no regular file", where=path, expected="a regular file"
        )
    return descriptor


def open_fault(where: str, error: OSError) -> SealiftError:
    """Why a path of a tree cannot be opened: an IntegrityError only where the tree itself is the cause.

    A tired host (EIO, EMFILE, ENOMEM, ESTALE, ...) must not look like tampering.
    """
    if error.errno == errno.ENOENT:
        return IntegrityError(
            "missing-file",
            "a file is missing",
            where=where,
            expected="a regular file",
            found="nothing",
            hint="name the folder that holds manifest.json, or copy or receive this file again",
        )
    if error.errno in _OF_THE_TREE:
        return IntegrityError(
            "not-openable",
            "a path cannot be opened without following links",
            where=where,
            expected="regular files and directories only (format.md section 1)",
            found=error.strerror or "",
            hint="copy or receive this file again",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return MachineError(
            "unreadable",
            "a file cannot be opened by this user",
            where=where,
            found=error.strerror or "",
            hint="run as a user who may read the whole bundle",
        )
    return machine_error(error, where)


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
