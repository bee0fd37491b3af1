"""Working folders that nobody else can prepare, enter or exchange.

A folder with a name that can be guessed, in a place where others may write, can be there already: with
another user's files in it. So a working folder is made here: a new one, with a random name, mode 0700
whatever the umask, and its owner is checked. The folders above it must not let others rename it either.
Also runs in `verify.pyz`: standard library only, Python 3.9.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import secrets
import shlex
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bundler.errors import MachineError

PRIVATE = 0o700
SHARED = 0o755


@contextlib.contextmanager
def private_folder(prefix: str, *, below: Path | None = None) -> Iterator[Path]:
    """A new private folder, removed with everything in it at the end.

    It is made in `below`, by default the machine's temporary folder. Its name is `prefix` and hexadecimal
    digits: nothing random reaches the grammar of a name that is made from it. Raises MachineError
    (`work-folder-open`).
    """
    folder = make_private_folder(Path(tempfile.gettempdir()) if below is None else below, prefix)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_private_folder(below: Path, prefix: str) -> Path:
    """Make a new folder of ours in `below`: random name, mode 0700.

    Raises MachineError (`work-folder-open`).
    """
    require_safe_folder(below)
    folder = below / f"{prefix}{secrets.token_hex(8)}"
    make_new_folder(folder)
    return folder


def make_new_folder(folder: Path) -> None:
    """Make exactly `folder`, mode 0700, ours. Raises FileExistsError if anything has that name."""
    folder.mkdir(mode=PRIVATE)
    set_folder_mode(folder, PRIVATE)


def set_folder_mode(folder: Path, mode: int) -> None:
    """Give `folder`, made in a safe folder, exactly `mode`: the umask may have taken even the owner's bits.

    Raises MachineError (`work-folder-open`) if it is not ours.
    """
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise _open(folder, f"it is of user {status.st_uid}")
    folder.chmod(mode)


def write_private(path: Path, data: bytes) -> None:
    """Write a new file with mode 0600 into a private folder. Raises FileExistsError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(data)


def ensure_folder(folder: Path, *, mode: int = PRIVATE) -> None:
    """Make `folder` and what is missing above it, each with `mode`, and check what was there already.

    Raises MachineError (`work-folder-open`).
    """
    for path in reversed(require_safe_place(folder)):
        try:
            path.mkdir(mode=mode)
        except FileExistsError:
            # Another run of ours was faster, or it is someone else's: the check below decides.
            continue
        set_folder_mode(path, mode)
    require_safe_folder(folder)


def require_safe_place(folder: Path) -> list[Path]:
    """Refuse a place whose nearest existing folder is not safe; gives back what is missing, deepest first.

    Raises MachineError (`work-folder-open`).
    """
    missing = []
    at = Path(os.path.abspath(folder))  # noqa: PTH100 - links stay: they are checked where they lead
    while not at.exists():
        missing.append(at)
        at = at.parent
    require_safe_folder(at)
    return missing


def share_tree(folder: Path) -> None:
    """Let everybody read and enter a finished folder, and only its owner write: whatever the umask was.

    A file system that keeps no modes (FAT) is left as it is. The folder must be ours alone meanwhile.
    """
    _set_mode(folder, SHARED)
    for parent, names, files in os.walk(folder):
        # Folders first: one whose mode the umask took can only be entered once it has one again.
        for name in (*names, *files):
            path = Path(parent, name)
            mode = path.lstat().st_mode
            if stat.S_ISDIR(mode) or stat.S_ISREG(mode):
                _set_mode(path, SHARED if stat.S_ISDIR(mode) or mode & stat.S_IXUSR else 0o644)


def _set_mode(path: Path, mode: int) -> None:
    if stat.S_IMODE(path.lstat().st_mode) != mode:
        with contextlib.suppress(PermissionError):
            path.chmod(mode)


def require_own_folder(folder: Path) -> None:
    """Refuse a folder that is a link, or belongs to another user than us or root. Modes do not count.

    Raises MachineError (`work-folder-open`); FileNotFoundError when there is none.
    """
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in _trusted_owners(itself=True):
        raise _open(folder, f"it is of user {status.st_uid}")


def require_safe_tree(folder: Path) -> None:
    """Refuse a folder of programs unless all of it is ours or root's and only its owner may write there.

    The folders above count too; uv's own lock file, which everybody may write to, does not: nothing reads
    it. Raises MachineError (`work-folder-open`).
    """
    require_safe_folder(folder)
    for parent, names, files in os.walk(folder):
        for name in (*names, *files):
            path = Path(parent, name)
            if path == folder / ".lock":
                continue
            status = path.lstat()
            fault = "" if stat.S_ISLNK(status.st_mode) else folder_fault(status)
            if fault or status.st_uid not in _trusted_owners(itself=True):
                raise _open(path, fault or f"it is of user {status.st_uid}")


def require_safe_folder(folder: Path) -> None:
    """Refuse a folder in which others could exchange what we make: its own mode, and all above it.

    Raises MachineError (`work-folder-open`); MachineError (`not-a-directory`) if it is no folder.
    """
    real = Path(os.path.realpath(folder))
    for at in (real, *real.parents):
        fault = folder_fault(at.stat(), itself=at == real)
        if fault:
            raise _open(at, fault)
    if not real.is_dir():
        raise MachineError(
            "not-a-directory",
            "a path is not a folder",
            where=str(folder),
            expected="a folder",
            found="a file",
        )


def folder_fault(status: os.stat_result, *, itself: bool = True) -> str:
    """Why others could change a folder or file, from its `stat`; empty when they cannot.

    The sticky bit keeps others from renaming what is not theirs, but not the folder's own owner.
    `itself` is False for folders above the one that is meant.
    """
    if status.st_uid not in _trusted_owners(itself):
        return f"it is of user {status.st_uid}"
    if stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX:
        return ""
    shown = f"{stat.filemode(status.st_mode)} ({stat.S_IMODE(status.st_mode):04o})"
    if status.st_mode & stat.S_IWOTH:
        return f"{shown}: everybody may write there"
    if status.st_mode & stat.S_IWGRP and not _is_private_group(status.st_gid):
        return f"{shown}: group {status.st_gid} may write there"
    return ""


def _trusted_owners(itself: bool) -> set[int]:
    owners = {0, os.geteuid()}
    # In a user namespace root of the machine has no number of its own: folders above ours show as nobody's.
    return owners if itself else owners | _unmapped_owner()


def _unmapped_owner() -> set[int]:
    try:
        first, _, count = Path("/proc/self/uid_map").read_text().split()[:3]
        if first == "0" and int(count) == (1 << 32) - 1:
            return set()
        return {int(Path("/proc/sys/kernel/overflowuid").read_text())}
    except (OSError, ValueError):
        return set()


def _is_private_group(gid: int) -> bool:
    """Whether a group is the user's own (Debian gives each user one): nobody else is in it."""
    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    return gid == user.pw_gid and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


def _open(folder: Path, found: str) -> MachineError:
    foreign = "of user" in found
    hint = "name a folder of your own" if foreign else f"chmod go-w {shlex.quote(str(folder))}"
    return MachineError(
        "work-folder-open",
        "others could exchange what is in a folder that is worked in",
        where=str(folder),
        expected="a folder of this user or root that no other user may write to, or one with the sticky bit",
        found=found,
        hint=hint,
    )
