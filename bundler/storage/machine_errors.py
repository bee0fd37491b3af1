"""What the operating system refuses, as errors that say which machine to fix and how.

Also runs in `verify.pyz`: standard library only, Python 3.9.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bundler.core.units import format_bytes
from bundler.errors import MachineError

_CONTINUES = "then run the same command again: it continues where it stopped"
_FAULTS = {
    errno.ENOSPC: ("disk-full", "no space is left on the file system", f"free some space, {_CONTINUES}"),
    errno.EDQUOT: ("disk-full", "the disk quota is used up", f"raise the quota or free space, {_CONTINUES}"),
    errno.EFBIG: (
        "file-too-large",
        "the file system cannot hold a file of this size",
        "use ext4, XFS or exFAT (FAT32 ends at 4 GB)",
    ),
    errno.EROFS: (
        "read-only",
        "the file system is mounted read-only",
        f"remount it writable or choose another folder, {_CONTINUES}",
    ),
    errno.EIO: (
        "device-error",
        "the device reports an input/output error",
        f"see `dmesg`, change the disk or its cable, {_CONTINUES}",
    ),
    errno.EMFILE: (
        "too-many-open-files",
        "this process has too many files open",
        "raise the limit (`ulimit -n 4096`), then run the same command again",
    ),
    errno.ENFILE: (
        "too-many-open-files",
        "this machine has too many files open",
        "stop other programs, or raise `fs.file-max` with sysctl, then run the same command again",
    ),
    errno.ENOMEM: (
        "out-of-memory",
        "this machine has too little free memory for this",
        "free memory, or raise the limit that `ulimit -v` shows",
    ),
    errno.ESTALE: (
        "stale-mount",
        "the network file system has lost the file",
        f"mount it again (`mount -o remount` or `umount -l` and `mount`), {_CONTINUES}",
    ),
    errno.ETIMEDOUT: (
        "device-error",
        "the device or network file system does not answer",
        f"see `dmesg`, {_CONTINUES}",
    ),
    errno.EACCES: ("no-permission", "permission is denied", f"see `ls -ld` of the folder, {_CONTINUES}"),
    errno.EPERM: ("no-permission", "the operation is not permitted", f"see `lsattr -d` of it, {_CONTINUES}"),
}


@contextmanager
def machine_faults(where: str | Path, *, needed: int = 0) -> Iterator[None]:
    """Turns the refusals of a full, read-only, broken or forbidden disk into MachineError.

    `where` names the file for people; `needed` is how many more bytes it still has to take (0: unknown).
    Any other OSError passes through unchanged.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FAULTS:
            raise
        raise machine_error(error, where, needed) from error


def machine_error(error: OSError, where: str | Path, needed: int = 0) -> MachineError:
    """Any refusal of the operating system as an error of this machine: the one table of them."""
    said = error.strerror or str(error) or type(error).__name__
    reference, what, hint = _FAULTS.get(
        error.errno or 0,
        (
            "machine-error",
            f"the operating system refused: {said}",
            "`sealift doctor` checks space, permissions and tools",
        ),
    )
    full = reference == "disk-full"
    number = f"{said} (errno {error.errno})" if error.errno else ""
    return MachineError(
        reference,
        what,
        where=str(where),
        expected=f"{format_bytes(needed)} ({needed} bytes) more" if full and needed else "",
        found=_free(Path(where)) if full else number,
        hint=hint,
    )


def _free(where: Path) -> str:
    """Free bytes of the file system that holds `where`, in words; empty when even that cannot be read."""
    for folder in (where, *where.parents):
        try:
            facts = os.statvfs(folder)
        except OSError:
            continue
        free = facts.f_bavail * facts.f_frsize
        return f"{format_bytes(free)} ({free} bytes) free"
    return ""
