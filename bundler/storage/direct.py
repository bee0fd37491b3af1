"""Reading past the page cache: bytes that are not in memory come straight from the device into a buffer.

Measured on 2 cores (docs/performance.md): reading 6 GB through the page cache costs 2 to 13 seconds of
processor time beside the hashing, depending on how fragmented memory is; reading past it costs some tenths,
pushes nothing of others out of memory, and verifies what the medium holds. Requests are large, are in the
order of the files, and several are under way at once, or the device idles. Also runs in `verify.pyz`:
Python 3.9.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

ALIGNMENT = 4096
"""Offsets, ends and buffers of direct reads are multiples of the block size: 512 or 4096 (open(2))."""
REQUEST_BYTES = 2 << 20
"""Bytes of one request, and of a thread's buffer: a huge page of x86-64."""
PART_BYTES = 8 << 20
"""Bytes that a thread takes at a time. All threads read near each other: a rotating disk sees one stream."""
EXTRA_READERS = 6
"""Threads beside those that fill the cores: as many requests wait at the device while the others hash."""
_O_DIRECT = getattr(os, "O_DIRECT", 0)


def in_memory(descriptor: int, start: int, end: int) -> bool:
    """Whether the page cache holds the first, middle and last byte of [start, end).

    True as well where the system does not tell. The first of them that is not there may be read in by the
    look itself (one page; without POSIX_FADV_RANDOM it would be megabytes). Where the device is done before
    the look is over, bytes count as being in memory: then they are read through it, slower and as rightly.
    """
    if not (hasattr(os, "RWF_NOWAIT") and hasattr(os, "posix_fadvise")):
        return True
    byte = bytearray(1)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        try:
            for at in (start, (start + end) // 2, end - 1):
                os.preadv(descriptor, [byte], at, os.RWF_NOWAIT)
        finally:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_NORMAL)
    except OSError as error:
        return error.errno != errno.EAGAIN
    return True


def fits_in_memory(size: int, *, table: str = "/proc/meminfo") -> bool:
    """Whether half of the memory that is available now holds `size` bytes; False where nobody tells.

    What a container may use is not looked at: a page cache that is too small costs time, nothing else.
    """
    try:
        with open(table, encoding="ascii") as file:
            told = dict(line.split(":", 1) for line in file)
        return size <= int(told["MemAvailable"].split()[0]) * 1024 // 2
    except (OSError, KeyError, ValueError):
        return False


def thread_buffer() -> memoryview:
    """A buffer for the requests of one thread: one huge page where the kernel has one to give.

    A request into scattered small pages is cut into many (0.7 instead of 2 MiB here, and half the rate). It
    takes memory only as far as it is used.
    """
    private = getattr(mmap, "MAP_PRIVATE", 0) | getattr(mmap, "MAP_ANONYMOUS", 0)
    pages = mmap.mmap(-1, 2 * REQUEST_BYTES, flags=private) if private else mmap.mmap(-1, 2 * REQUEST_BYTES)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without huge pages
            pages.madvise(mmap.MADV_HUGEPAGE)
    start = -ctypes.addressof(ctypes.c_char.from_buffer(pages)) % REQUEST_BYTES
    return memoryview(pages)[start : start + REQUEST_BYTES]


class DirectFile:
    """A file whose ranges are read past the page cache, into a buffer of `thread_buffer`. For one thread.

    `turns` lets as many threads hash at a time as the caller may use cores; the others wait at the device.
    """

    def __init__(self, descriptor: int, buffer: memoryview, turns: AbstractContextManager[Any]) -> None:
        """Raises OSError where the file system has no such reading."""
        if not _O_DIRECT:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        self._descriptor, self._buffer, self._turns = descriptor, buffer, turns
        self._set(on=True)

    def _set(self, *, on: bool) -> None:
        flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
        fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags | _O_DIRECT if on else flags & ~_O_DIRECT)

    def update(self, digest: Hash, start: int, end: int) -> bool:
        """Feed bytes [start, end) to `digest`. False when they cannot be had this way: then `digest` is of no
        use, and the descriptor reads plainly from now on. Raises OSError for an input/output error.
        """
        # Pages that someone has in memory are dropped: whoever reads next gets what is verified here.
        os.posix_fadvise(self._descriptor, start, _aligned(end - start), os.POSIX_FADV_DONTNEED)
        while start < end:
            count = self._read(start, end)
            if count <= 0:
                self.close()
                return False
            with self._turns:
                digest.update(self._buffer[: min(count, end - start)])
            start += count
        return True

    def _read(self, start: int, end: int) -> int:
        """Bytes read at `start`; 0 at the end of the file, -1 when plain reading has to be tried."""
        if start % ALIGNMENT:
            return -1
        length = min(REQUEST_BYTES, _aligned(end - start))
        try:
            return os.preadv(self._descriptor, [self._buffer[:length]], start)
        except OSError as error:
            # Another alignment (EINVAL), no memory for it, not supported after all: plain reading may do.
            if error.errno == errno.EIO:
                raise
            return -1

    def close(self) -> None:
        """Let the descriptor, which is the caller's, read plainly again."""
        self._set(on=False)


def _aligned(length: int) -> int:
    return length + -length % ALIGNMENT
