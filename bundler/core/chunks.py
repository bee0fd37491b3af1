"""Chunks: the smallest verified ranges, and where their digests stand (format.md section 4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bundler.core.manifest import SHA256SUMS_PATH, FileEntry, Manifest
from bundler.errors import IntegrityError

DIGEST_BYTES = 32
DEFAULT_CHUNK_SIZE = 4 << 20


def is_chunked(path: str, chunks_path: str) -> bool:
    """Whether the chunk list covers `path`: all files but the list itself and `SHA256SUMS`."""
    return path not in (chunks_path, SHA256SUMS_PATH)


def chunk_count(size: int, chunk_size: int) -> int:
    """How many chunks a file of `size` bytes has; none when it is empty."""
    return -(-size // chunk_size)


@dataclass(frozen=True)
class FileChunks:
    """The expected digests of one file, as one slice of the chunk list.

    `digests` has 32 bytes per chunk; chunk n covers bytes [n * chunk_size, (n + 1) * chunk_size).
    """

    entry: FileEntry
    chunk_size: int
    digests: bytes

    def __len__(self) -> int:
        return len(self.digests) // DIGEST_BYTES

    def digest(self, number: int) -> bytes:
        """The SHA-256 of chunk `number`."""
        return self.digests[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES]

    def span(self, number: int) -> tuple[int, int]:
        """The half-open byte range of chunk `number`."""
        start = number * self.chunk_size
        return start, min(start + self.chunk_size, self.entry.size)


def chunked_entries(files: Sequence[FileEntry], chunks_path: str) -> Iterator[FileEntry]:
    """The files the chunk list covers, in its order (code point order of path)."""
    return (entry for entry in files if is_chunked(entry.path, chunks_path))


def split_chunk_list(manifest: Manifest, data: bytes) -> tuple[FileChunks, ...]:
    """The chunk list `data` cut up by file. `data` must already equal its entry in the manifest.

    Raises IntegrityError (`chunk-list-length`) when it has not 32 bytes for every chunk of every file.
    """
    assert manifest.chunks is not None
    size = manifest.chunks.size
    covered = tuple(chunked_entries(manifest.files, manifest.chunks.path))
    expected = sum(chunk_count(entry.size, size) for entry in covered) * DIGEST_BYTES
    if len(data) != expected:
        raise IntegrityError(
            "chunk-list-length",
            "the chunk list does not fit the manifest's files",
            where=manifest.chunks.path,
            expected=f"{expected} bytes",
            found=f"{len(data)} bytes",
        )
    parts: list[FileChunks] = []
    offset = 0
    for entry in covered:
        length = chunk_count(entry.size, size) * DIGEST_BYTES
        parts.append(FileChunks(entry=entry, chunk_size=size, digests=data[offset : offset + length]))
        offset += length
    return tuple(parts)
