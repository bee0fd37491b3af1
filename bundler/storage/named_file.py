"""Reading a small file that a person named: bounded, and never waiting for a pipe."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from bundler.errors import MalformedError, UsageError


def read_named(path: Path, limit: int) -> bytes:
    """All bytes of a file that may have at most `limit` of them.

    Raises MalformedError (`too-large`) and what `read_at_most` raises.
    """
    size = path.stat().st_size
    # A model's weights named by mistake: their size alone is enough to refuse them.
    data = read_at_most(path, limit + 1) if size <= limit else b""
    if max(size, len(data)) > limit:
        raise MalformedError(
            "too-large",
            "a document is larger than its limit",
            where=str(path),
            expected=f"at most {limit} bytes",
            found=f"{max(size, len(data))} bytes",
            hint="was another file meant?",
        )
    return data


def read_at_most(path: Path, count: int) -> bytes:
    """The first `count` bytes of the regular file at `path`, through links too: whoever typed it meant it.

    Raises UsageError (`not-a-file`), and OSError when it cannot be opened.
    """
    # Without O_NONBLOCK a FIFO that nobody writes to would hang us for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        refuse_other_kinds(path, os.fstat(descriptor).st_mode)
        with open(descriptor, "rb", closefd=False) as stream:
            return stream.read(count)
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
