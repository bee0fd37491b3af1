"""All digests of a file in one pass over its bytes: whole SHA-256, chunk SHA-256, git blob id.

Two SHA-256 over the same bytes cost twice the processor time, so each runs in a lane of its own while the
caller already writes these bytes and receives the next (hashlib lets go of the interpreter lock). Measured
on 2 cores with nothing but hashing: 0.7 GB/s in one lane after the other, 1.2 GB/s side by side.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from bundler.core.chunks import DEFAULT_CHUNK_SIZE, DIGEST_BYTES

# Smaller pieces are hashed at once: waking another thread takes some 30 us, SHA-256 of 128 KiB about 90 us.
HAND_OVER_BYTES = 128 << 10


def hashing_pool() -> ThreadPoolExecutor:
    """Threads for `FileDigester`, as many as can compute at once and at least its two lanes."""
    return ThreadPoolExecutor(max(2, os.cpu_count() or 2), thread_name_prefix="sealift-hash")


class FileDigester:
    """Digests of a stream of bytes, given in order and in pieces of any size.

    `git_blob_size` is the size of the whole file when its git blob id is wanted as well: git hashes
    `blob <size>` and a NUL before the bytes (gitformat-objects). Pieces must not change after `update`.
    """

    def __init__(
        self,
        *,
        chunk_size: int = DEFAULT_CHUNK_SIZE,
        git_blob_size: int | None = None,
        pool: ThreadPoolExecutor | None = None,
    ) -> None:
        self._pool = pool
        self._pending: list[Future[None]] = []
        self._whole = hashlib.sha256()
        self._chunks = _ChunkDigests(chunk_size)
        self._git = None
        if git_blob_size is not None:
            self._git = hashlib.sha1(b"blob %d\0" % git_blob_size, usedforsecurity=False)
        self._lanes: tuple[Callable[[bytes], None], ...] = (self._update_whole, self._chunks.update)

    def update(self, data: bytes) -> None:
        """Adds `data`; hashing may go on after this returns, until the next call."""
        self._settle()
        if self._pool is None or len(data) < HAND_OVER_BYTES:
            for lane in self._lanes:
                lane(data)
        else:
            self._pending = [self._pool.submit(lane, data) for lane in self._lanes]

    def _settle(self) -> None:
        pending, self._pending = self._pending, []
        wait(pending)
        for future in pending:
            future.result()

    def _update_whole(self, data: bytes) -> None:
        self._whole.update(data)
        if self._git is not None:
            self._git.update(data)

    def sha256(self) -> str:
        """SHA-256 of all bytes so far, in lower-case hex."""
        self._settle()
        return self._whole.hexdigest()

    def git_blob_sha1(self) -> str | None:
        """The git blob id in lower-case hex, None when it was not asked for."""
        self._settle()
        return self._git.hexdigest() if self._git is not None else None

    def chunk_digests(self) -> bytes:
        """32 bytes for each chunk, the last one possibly shorter than the others; none for no bytes."""
        self._settle()
        return self._chunks.digests()


class _ChunkDigests:
    """SHA-256 of each consecutive chunk."""

    def __init__(self, chunk_size: int) -> None:
        self._size = chunk_size
        self._room = chunk_size
        self._current = hashlib.sha256()
        self._done = bytearray()

    def update(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            part, left = left[: self._room], left[self._room :]
            self._current.update(part)
            self._room -= len(part)
            if self._room == 0:
                self._done += self._current.digest()
                self._current, self._room = hashlib.sha256(), self._size

    def digests(self) -> bytes:
        """The digests of all whole chunks and of the one begun."""
        begun = self._current.digest() if self._room < self._size else b""
        assert len(self._done) % DIGEST_BYTES == 0
        return bytes(self._done) + begun
