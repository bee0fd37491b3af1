"""Files of a payload as descriptors: opened without following a link, regular files only."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bundler.errors import IntegrityError, MalformedError


@contextmanager
def open_regular(path: Path, *, where: str) -> Iterator[int]:
    """A read-only descriptor of the regular file at `path`.

    Only the last component is protected against links here: the tree itself is walked before
    (format.md section 8, step 6). Raises IntegrityError (`file-missing`, `not-a-regular-file`).
    """
    try:
        # Without O_NONBLOCK a FIFO in the place of a file would hang the reader for ever.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise IntegrityError(
            "file-missing", "a listed file is missing", where=where, expected="the file", found="nothing"
        ) from None
    except OSError as error:
        raise IntegrityError(
            "not-a-regular-file",
            "a listed file cannot be opened as a regular file",
            where=where,
            expected="a regular file",
            found=error.strerror or str(error),
        ) from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise IntegrityError(
                "not-a-regular-file",
                "a listed file is not a regular file",
                where=where,
                expected="a regular file",
                found=stat.filemode(os.fstat(fd).st_mode),
            )
        yield fd
    finally:
        os.close(fd)


def read_small(path: Path, *, limit: int, where: str) -> bytes:
    """All bytes of a file that must have at most `limit` of them.

    Raises MalformedError (`too-large`) before anything is read, and what `open_regular` raises.
    """
    with open_regular(path, where=where) as fd:
        size = os.fstat(fd).st_size
        if size > limit:
            raise MalformedError(
                "too-large",
                "a document is larger than its limit",
                where=where,
                expected=f"at most {limit} bytes",
                found=f"{size} bytes",
            )
        return read_exactly(fd, size, 0)


def read_exactly(fd: int, count: int, offset: int) -> bytes:
    """`count` bytes from `offset`; fewer only where the file ends."""
    pieces: list[bytes] = []
    while count > 0:
        piece = os.pread(fd, min(count, 16 << 20), offset)
        if not piece:
            break
        pieces.append(piece)
        offset += len(piece)
        count -= len(piece)
    return b"".join(pieces)
