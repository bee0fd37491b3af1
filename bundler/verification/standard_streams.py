"""Standard output and error that never end a program: a full disk or a reader that left is noted, not raised.

A verdict must keep its exit code when nobody can hear it. Also runs in `verify.pyz`: Python 3.9.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import Any


class ForgivingFile(io.RawIOBase):
    """Writes to the descriptor `number`; after the first refusal everything else is dropped.

    `refused` is the errno of that refusal, 0 while all was written.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number, self.refused = number, 0

    def writable(self) -> bool:
        """Always."""
        return True

    def fileno(self) -> int:
        """The descriptor, for programs that are started and inherit it."""
        return self.number

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(self.number)

    def write(self, data: Any) -> int:
        """Write what can be written; the length given back is always that of `data`."""
        left = memoryview(data).cast("B")
        length = len(left)
        while left and not self.refused:
            try:
                left = left[os.write(self.number, left) :]
            except BlockingIOError:
                # Someone made the terminal non-blocking: wait until it takes more.
                select.select([], [self.number], [])
            except OSError as error:
                self.refused = error.errno or errno.EIO
        return length


def open_missing_streams() -> None:
    """Give a stream that was closed for us (`2>&-`) to /dev/null.

    Otherwise the next file opened takes its number, and what a program prints there is written to that file.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            # Open to the end: the number must not be given to another file when this object goes.
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def forgive() -> None:
    """Put forgiving streams in the place of stdout and stderr, and escape letters that the locale lacks."""
    open_missing_streams()
    sys.stdout = _forgiving(sys.stdout, 1)
    sys.stderr = _forgiving(sys.stderr, 2)


def _forgiving(stream: Any, number: int) -> io.TextIOWrapper:
    # Line by line as a terminal gets it: the two streams then do not overtake each other in one pipe.
    return io.TextIOWrapper(
        io.BufferedWriter(ForgivingFile(number)),
        encoding=getattr(stream, "encoding", None) or "utf-8",
        errors="backslashreplace",
        line_buffering=True,
    )


def refusal(stream: Any) -> int:
    """The errno with which `stream` refused output; 0 when it took all, or its reader left (EPIPE)."""
    stream.flush()
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    refused = raw.refused if isinstance(raw, ForgivingFile) else 0
    return 0 if refused == errno.EPIPE else refused
