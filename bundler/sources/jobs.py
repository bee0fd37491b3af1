"""What a fetch job is: the one shape in which every source hands its files to the downloader."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol


class ByteSource(Protocol):
    """Opens the locked bytes of one file, in order, from any offset."""

    def open(self, offset: int) -> AbstractContextManager[Iterator[bytes]]:
        """The bytes from `offset` to the end, in pieces of any size.

        Raises `TransientError` when trying again may help (dropped, stalled, 429, 5xx), carrying the
        seconds to wait when the server said so; any other `NetworkError` ends the job (changed commit or
        ETag, 401, 403, 404).

        What is opened may also have a method `abort()`: it is called from another thread when the run is
        over, to end a read that waits. The bytes of a read that ends so are not used.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchJob:
    """One file to fetch: where it goes, what it must be, and who has it."""

    path: str
    """Destination, a bundle path from the root of the tree (`payload/...`)."""
    size: int
    """Bytes; one more than this is refused while streaming."""
    sha256: str | None = None
    """Expected SHA-256 in lower-case hex, when upstream offers one."""
    git_blob_sha1: str | None = None
    """Expected git blob id, when upstream offers nothing better (small files of a model repository)."""
    source: ByteSource
