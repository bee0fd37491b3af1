"""Member names of a ZIP archive somewhere else, read from its end: megabytes instead of the whole wheel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bundler.content import zip_archive
from bundler.errors import MalformedError, NetworkError
from bundler.sources.http import Hop, HttpByteSource, shown_url
from bundler.sources.wheels.package_index import LocalByteSource


def member_names(source: HttpByteSource | LocalByteSource, size: int, where: str) -> list[str]:
    """Names in the archive of `size` bytes behind `source`, from its central directory.

    Raises MalformedError (`bad-zip`) and NetworkError (`no-ranges` when the server only sends whole files).
    """
    ranged = source if isinstance(source, LocalByteSource) else replace(source, check=_partial)
    tail = _read(ranged, max(0, size - zip_archive.TAIL), size, where)
    directory = zip_archive.locate_directory(tail, size, where)
    data = _read(ranged, directory.offset, directory.offset + directory.size, where)
    return [member.name for member in zip_archive.parse_directory(data, directory, where)]


def _partial(hops: Sequence[Hop]) -> None:
    """Refuses a server that answers a Range request with the whole file: a torch wheel has 900 MB."""
    if hops[-1].status == 200:
        raise NetworkError(
            "no-ranges",
            "a server does not send parts of a file",
            where=shown_url(hops[0].url),
            expected="206 for a Range request",
            found="200",
            hint="use a mirror that knows ranges",
        )


def _read(source: HttpByteSource | LocalByteSource, start: int, end: int, where: str) -> bytes:
    wanted, data = end - start, bytearray()
    with source.open(start) as body:
        for piece in body:
            data += piece
            if len(data) >= wanted:
                break
    if len(data) < wanted:
        raise MalformedError(
            "bad-zip",
            "an archive ends early",
            where=where,
            expected=f"{wanted} bytes from byte {start}",
            found=f"{len(data)} bytes",
        )
    return bytes(data[:wanted])
