"""Reading files whose size somebody else chose: bounded, in memory of the file's own size, never waiting.

Every function asks for the size that the file has and one byte more, not for its whole bound: a bound of
1 GiB must not cost 1 GiB. Also runs in `verify.pyz`: standard library only, Python 3.9.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bundler.errors import IntegrityError, MalformedError, UsageError
from bundler.storage.no_follow import open_fault

PIECE_BYTES = 16 << 20
# Without O_NONBLOCK a FIFO in the place of a file would hang the reader for ever.
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK


def read_up_to(descriptor: int, count: int) -> bytes:
    """The next bytes of an open file, at most `count` of them."""
    pieces, total, wanted = [], 0, min(count, os.fstat(descriptor).st_size + 1)
    while total < count:
        piece = os.read(descriptor, min(wanted - total, PIECE_BYTES))
        if not piece:
            break
        pieces.append(piece)
        total += len(piece)
        if total == wanted:  # it has grown, or it is a file of /proc, which says 0
            wanted = min(count, 2 * wanted + 4096)
    return b"".join(pieces)


def read_bounded(descriptor: int, limit: int, *, where: str) -> bytes:
    """All bytes of an open file that may have at most `limit`. Raises MalformedError (`too-large`)."""
    size = os.fstat(descriptor).st_size
    # A model's weights named by mistake: their size alone is enough to refuse them.
    data = read_up_to(descriptor, limit + 1) if size <= limit else b""
    if max(size, len(data)) > limit:
        raise MalformedError(
            "too-large",
            "a document is larger than its limit",
            where=where,
            expected=f"at most {limit} bytes",
            found=f"{max(size, len(data))} bytes",
            hint="was another file meant?",
        )
    return data


def read_exactly(fd: int, count: int, offset: int) -> bytes:
    """`count` bytes from `offset`; fewer only where the file ends."""
    pieces: list[bytes] = []
    while count > 0:
        piece = os.pread(fd, min(count, PIECE_BYTES), offset)
        if not piece:
            break
        pieces.append(piece)
        offset += len(piece)
        count -= len(piece)
    return b"".join(pieces)


# --- files of a payload


@contextmanager
def open_regular(path: Path, *, where: str) -> Iterator[int]:
    """A read-only descriptor of the regular file at `path`.

    Only the last component is protected against links here: the tree itself is walked before
    (format.md section 8, step 6). Raises IntegrityError (`missing-file`, `not-openable`,
    `not-a-regular-file`), and MachineError when the machine, not the tree, is the cause.
    """
    try:
        fd = os.open(path, _READ | os.O_NOFOLLOW)
    except OSError as error:
        raise open_fault(where, error) from error
    try:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            raise IntegrityError(
                "not-a-regular-file",
                "a listed file is not a regular file",
                where=where,
                expected="a regular file",
                found=stat.filemode(mode),
            )
        yield fd
    finally:
        os.close(fd)


def read_small(path: Path, *, limit: int, where: str) -> bytes:
    """All bytes of a payload's file, at most `limit`.

    Raises MalformedError (`too-large`) before anything is read, and what `open_regular` raises.
    """
    with open_regular(path, where=where) as fd:
        return read_bounded(fd, limit, where=where)


# --- files that a person named


def read_named(path: Path, limit: int) -> bytes:
    """All bytes of a file that may have at most `limit` of them, through links too.

    Raises MalformedError (`too-large`), UsageError (`not-a-file`), and OSError when it cannot be opened.
    """
    with _opened_named(path) as descriptor:
        return read_bounded(descriptor, limit, where=str(path))


def read_at_most(path: Path, count: int) -> bytes:
    """The first `count` bytes of the regular file at `path`, through links too: whoever typed it meant it.

    Raises UsageError (`not-a-file`), and OSError when it cannot be opened.
    """
    with _opened_named(path) as descriptor:
        return read_up_to(descriptor, count)


@contextmanager
def _opened_named(path: Path) -> Iterator[int]:
    descriptor = os.open(path, _READ)
    try:
        refuse_other_kinds(path, os.fstat(descriptor).st_mode)
        yield descriptor
    finally:
        os.close(descriptor)


def refuse_other_kinds(path: Path, mode: int) -> None:
    """Raises UsageError (`not-a-file`) unless `mode`, as `stat` gives it, is that of a regular file."""
    if not stat.S_ISREG(mode):
        raise UsageError(
            "not-a-file",
            "this is not an ordinary file",
            where=str(path),
            expected="a regular file",
            found=stat.filemode(mode),
        )
