"""Files and folders that are there whole or not at all, also after a power cut."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from bundler.errors import UsageError
from bundler.storage.machine_errors import machine_faults

_RENAME_NOREPLACE = 1  # <linux/fs.h>
_AT_FDCWD = -100  # <fcntl.h>
_LEFTOVER = re.compile(r"\.sealift-[0-9a-f]{16}\.tmp")
_NO_UNNAMED_FILES = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)
"""What open(2) says to O_TMPFILE where the kernel or the file system does not know it."""

_NO_LINK = (errno.ENOENT, errno.EPERM, errno.EOPNOTSUPP, errno.EXDEV)
"""What linkat(2) says without /proc, and on file systems without hard links."""


def fsync_directory(folder: Path | str) -> None:
    """Makes the names in `folder` durable (fsync(2): syncing a file does not sync its entry)."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Writes every byte: write(2) may take fewer than it was given."""
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def write_atomic(path: Path, data: bytes, mode: int = 0o644, *, replace: bool = True) -> None:
    """Writes `path` so that a reader sees the old bytes or the new ones, never a part; durable on return.

    `mode` is set exactly, whatever the umask; the new file is never readable to more people than that.
    A link at `path` is replaced, not followed. Without `replace` whatever has the name stays, and
    FileExistsError is raised. Raises MachineError (`disk-full`, `read-only`, `no-permission`,
    `device-error`) and leaves neither a part nor a temporary file. Where the file system can, a new file has
    no name before it is whole: a killed `keys generate` leaves no second copy of a private key.
    """
    with machine_faults(path, needed=len(data)):
        if not replace and _link_unnamed(path, data, mode):
            return
    temporary = path.parent / f".sealift-{secrets.token_hex(8)}.tmp"
    with machine_faults(path, needed=len(data)):
        try:
            _write_new(temporary, data, mode)
            if replace:
                temporary.replace(path)
            else:
                _rename_noreplace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        fsync_directory(path.parent)


def write_into_closed(
    path: Path, data: bytes, *, beside: Path, mode: int = 0o644, replace: bool = False
) -> None:
    """Like `write_atomic`, for a folder in which every name counts: a kill leaves nothing with a name there.

    A new file has no name until it is whole (O_TMPFILE, linkat). Where the file system cannot do that, and to
    replace a file, the temporary one is made in a private folder in `beside`, which must be a folder of the
    same file system outside the closed one. If that is not possible either, it is made in the folder itself
    and locked, so that `remove_leftovers` can tell it from one that a killed process left.
    Raises as `write_atomic`.
    """
    with machine_faults(path, needed=len(data)):
        if not replace and _link_unnamed(path, data, mode):
            return
        if _move_from(beside, path, data, mode, replace=replace):
            return
    write_atomic(path, data, mode, replace=replace)


def _link_unnamed(path: Path, data: bytes, mode: int) -> bool:
    """Write a file without a name and give it the name `path`; False where the file system cannot."""
    try:
        descriptor = os.open(path.parent, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno in _NO_UNNAMED_FILES:
            return False
        raise
    try:
        _fill(descriptor, data, mode)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # linkat(2): the way to name a file made with O_TMPFILE without a capability; never replaces.
            os.link(f"/proc/self/fd/{descriptor}", path.name, dst_dir_fd=folder, follow_symlinks=True)
            os.fsync(folder)
        except OSError as error:
            if error.errno in _NO_LINK:
                return False
            raise
        finally:
            os.close(folder)
    finally:
        os.close(descriptor)
    return True


def _move_from(beside: Path, path: Path, data: bytes, mode: int, *, replace: bool) -> bool:
    """Write in a private folder in `beside` and move the file to `path`; False when that is not possible."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=".sealift-", dir=beside))
    except OSError:
        return False
    temporary = folder / path.name
    try:
        if folder.stat().st_dev != path.parent.stat().st_dev:
            return False
        _write_new(temporary, data, mode)
        if replace:
            temporary.replace(path)
        else:
            _rename_noreplace(temporary, path)
    except OSError as error:
        if error.errno == errno.EXDEV:
            return False
        raise
    finally:
        temporary.unlink(missing_ok=True)
        folder.rmdir()
    fsync_directory(path.parent)
    return True


def is_leftover(name: str) -> bool:
    """Whether this is the name of a temporary file as `write_atomic` makes it."""
    return _LEFTOVER.fullmatch(name) is not None


def remove_leftovers(folder: Path) -> list[str]:
    """Remove temporary files that a killed process left in `folder`; the names of those removed.

    Only regular files with the name of one, that no living process has locked.
    """
    removed = []
    for path in sorted(folder.iterdir()):
        if is_leftover(path.name) and not path.is_symlink() and path.is_file() and _is_unlocked(path):
            path.unlink(missing_ok=True)
            removed.append(path.name)
    return removed


def _is_unlocked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _write_new(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        _fill(descriptor, data, mode)
    finally:
        os.close(descriptor)


def _fill(descriptor: int, data: bytes, mode: int) -> None:
    with suppress(OSError):  # not every file system has locks; it only marks the file as one in the making
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    write_all(descriptor, data)
    os.fchmod(descriptor, mode)
    os.fsync(descriptor)


def rename_directory(source: Path, target: Path) -> None:
    """Gives the folder `source` the name `target`, which must be free; durable on return.

    Both must be on one file system. Raises UsageError (`already-there`) when anything has that name, also
    an empty folder or a dangling link; nothing is changed then. MachineError as `write_atomic`.
    """
    with machine_faults(target):
        try:
            _rename_noreplace(source, target)
        except FileExistsError as error:
            raise UsageError(
                "already-there",
                "a folder is not replaced",
                where=str(target),
                expected="a name that is free",
                found="something is there already",
                hint="choose another output, or move the old one away",
            ) from error
        fsync_directory(target.parent)
        fsync_directory(source.parent)


def _rename_noreplace(source: Path, target: Path) -> None:
    """rename(2) that refuses an existing target, even an empty folder (renameat2, Linux 3.15)."""
    library = ctypes.CDLL(None, use_errno=True)
    result = library.renameat2(
        _AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE
    )
    if result == 0:
        return
    number = ctypes.get_errno()
    # Network and FUSE file systems may not know the flag: then look first, which leaves a short window.
    if number not in (errno.EINVAL, errno.ENOSYS):
        raise OSError(number, os.strerror(number), str(source), None, str(target))
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    source.rename(target)
