"""SHA-256 of ranges of a file straight from the page cache, without copying; refused where that is not safe.

Measured on 2 cores with SHA extensions (docs/performance.md): copying with `preadv` costs 10-17 % of the
hashing rate at every buffer size from 64 KiB to 4 MiB; mapping costs 1-6 % where the page cache holds large
folios, and no more than copying where it does not. A mapped page whose file shrinks, or whose medium
fails, raises SIGBUS, which Python cannot catch. Two things keep that away:

- a read lease (fcntl(2), F_SETLEASE): the kernel gives it only while nobody has the file open for writing,
  and makes whoever would truncate it or open it for writing wait until the lease is given back;
- MADV_POPULATE_READ (Linux 5.14): the pages are read in before they are touched, and an input/output error
  is then an error code.

Where either is refused (another owner's file, a network file system, an older kernel), the caller reads
plainly. Should a page vanish all the same, the process dies: it never passes. Also runs in `verify.pyz`.
"""

from __future__ import annotations

import ctypes
import mmap
import time
from typing import TYPE_CHECKING, Any

from bundler.storage.leases import HELD, lease

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

MADV_POPULATE_READ = 22
WINDOW_BYTES = 16 << 20


def take_lease(descriptor: int) -> bool:
    """Whether the kernel now holds off writers of this file; given back when the descriptor is closed."""
    return lease(descriptor) == HELD


class MappedFile:
    """A leased file, mapped window by window as its bytes are asked for in order. For one thread."""

    def __init__(self, descriptor: int, limit: int) -> None:
        """`limit` is the byte at which the caller will stop asking."""
        self._descriptor, self._limit = descriptor, limit
        self._address, self._start, self._end = 0, 0, 0
        self.waited = 0.0
        """Seconds spent until pages were there."""

    def update(self, digest: Hash, start: int, end: int) -> bool:
        """Feed bytes [start, end) to `digest`; False when they cannot be mapped: then it is of no use."""
        while start < end:
            if not (self._start <= start < self._end or self._map(start)):
                return False
            stop = min(end, self._end)
            digest.update((ctypes.c_char * (stop - start)).from_address(self._address + start - self._start))
            start = stop
        return True

    def _map(self, wanted: int) -> bool:
        self.close()
        start = wanted - wanted % mmap.ALLOCATIONGRANULARITY
        length = min(start + WINDOW_BYTES, self._limit) - start
        address = _libc().mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, self._descriptor, start)
        if address in (None, _FAILED):
            return False
        self._address, self._start, self._end = address, start, start + length
        # Through ctypes, not `mmap.madvise`: that one holds all other threads while the disk works.
        began = time.monotonic()
        populated = _libc().madvise(address, length, MADV_POPULATE_READ) == 0
        self.waited += time.monotonic() - began
        if populated:
            return True
        self.close()
        return False

    def close(self) -> None:
        """Unmap; may be called twice."""
        if self._address:
            _libc().munmap(self._address, self._end - self._start)
        self._address = self._start = self._end = 0


_FAILED = ctypes.c_void_p(-1).value
_loaded: list[Any] = []


def _libc() -> Any:
    if not _loaded:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
        libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        _loaded.append(libc)
    return _loaded[0]
