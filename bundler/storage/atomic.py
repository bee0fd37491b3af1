"""Files and folders that are there whole or not at all, also after a power cut."""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
from pathlib import Path

from bundler.errors import UsageError
from bundler.storage.machine_errors import machine_faults

_RENAME_NOREPLACE = 1  # <linux/fs.h>
_AT_FDCWD = -100  # <fcntl.h>


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
    `device-error`) and leaves neither a part nor a temporary file.
    """
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


def _write_new(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        write_all(descriptor, data)
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
