"""Bytes of a model file through Xet, the Hub's chunk store, as one ordered stream from any offset.

Faster than one HTTP stream where the network is, at the price of memory (about 0.5 GB a file with the
buffers below, measured with hf_xet 1.8 on 1 GB; its own defaults take three times that). Xet does not
compare what it delivers with anything, and a missing object or an unreachable store is an empty stream
without an error: the length is watched here, the SHA-256 by whoever writes the bytes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, TypeGuard
from urllib.parse import urlsplit

from bundler.content.published_json import ANSWER_KEYS, parse_published_json
from bundler.core.strict_json import MAX_INTEGER
from bundler.errors import MachineError, NetworkError
from bundler.sources.http import TransientError, accept_all
from bundler.sources.hub.access import is_loopback
from bundler.sources.hub.client import HubClient

if TYPE_CHECKING:
    import hf_xet

PIECE_BYTES = 1 << 20
TOKEN_ANSWER_LIMIT = 64 << 10
BOUNDED: Mapping[str, object] = {
    "telemetry.enabled": False,
    "reconstruction.download_buffer_size": 128_000_000,
    "reconstruction.download_buffer_perfile_size": 64_000_000,
    "reconstruction.download_buffer_limit": 256_000_000,
    "reconstruction.min_reconstruction_fetch_size": 64_000_000,
    "reconstruction.min_prefetch_buffer": 64_000_000,
    # Our own retries resume from the last byte; its defaults keep a dead store alive for 100 seconds.
    "client.retry_max_attempts": 2,
    "client.retry_base_delay": "1s",
    "client.connect_timeout": "15s",
    "client.read_timeout": "60s",
}
"""Settings of hf_xet by its own names: bounded memory and time, and no reports about what it does."""


@dataclass(slots=True)
class XetTransport:
    """What the files of one commit share: the Hub that hands out access, and one Xet session."""

    client: HubClient
    repo: str
    commit: str
    _session: Any = field(default=None, repr=False)
    _guard: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def session(self) -> hf_xet.XetSession:
        """The session, made on first use. Raises MachineError (`no-hf-xet`)."""
        with self._guard:
            if self._session is None:
                self._session = _new_session()
            return self._session

    def group(self) -> hf_xet.XetDownloadStreamGroup:
        """Streams with a fresh access token of the Hub. Raises NetworkError as the Hub refuses."""
        route = f"/api/models/{self.repo}/xet-read-token/{self.commit}"
        access = self._access(route)
        return self.session().new_download_stream_group(
            endpoint=access.store,
            token=access.token,
            token_expiry_unix_secs=access.expires,
            token_refresh_url=self.client.access.endpoint + route,
            token_refresh_headers=dict(self.client.access.headers()(self.client.access.endpoint)),
        )

    def _access(self, route: str) -> _Access:
        source = self.client.api_source(self.repo, self.commit, route, accept_all)
        with source.open(0) as body:
            data = b"".join(body)
        where = self.client.access.endpoint + route
        answer = parse_published_json(
            data, limit=TOKEN_ANSWER_LIMIT, where=where, bom=True, decisive=ANSWER_KEYS
        )
        return _read_access(answer.require(), where)


@dataclass(frozen=True, slots=True, kw_only=True)
class XetByteSource:
    """One file as a ByteSource."""

    transport: XetTransport
    path: str
    xet_hash: str
    size: int

    @contextmanager
    def open(self, offset: int) -> Iterator[XetBody]:
        """The bytes from `offset` on. Raises TransientError or NetworkError, as http.HttpByteSource does."""
        import hf_xet

        with _told(self.path):
            group = self.transport.group()
            stream = group.download_stream(hf_xet.XetFileInfo(self.xet_hash, self.size), start=offset)
        body = XetBody(group, stream, self.path, self.size - offset)
        try:
            yield body
        finally:
            body.abort()


class XetBody:
    """The pieces of one stream, at most 1 MiB each."""

    def __init__(
        self,
        group: hf_xet.XetDownloadStreamGroup,
        stream: hf_xet.XetDownloadStream,
        where: str,
        length: int,
    ) -> None:
        self._group = group
        self._stream = stream
        self._where = where
        self._missing = length
        self._pieces: Iterator[bytes] = iter(())
        self._aborted = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        piece = next(self._pieces, b"")
        if not piece:
            self._pieces = _slices(self._receive())
            piece = next(self._pieces)
        return piece

    def abort(self) -> None:
        """Ends the stream, also one that waits in another thread."""
        self._aborted = True
        # Not the stream's own `cancel`: it refuses ("Already borrowed") while another thread reads.
        self._group.abort()

    def _receive(self) -> bytes:
        with _told(self._where):
            data: bytes = next(self._stream, b"")
        self._missing -= len(data)
        if not data and self._missing > 0 and not self._aborted:
            raise TransientError(
                "ended-early",
                "Xet ended the stream before the end of the file",
                where=self._where,
                expected=f"{self._missing} more bytes",
                hint="without `--transport xet` the same bytes come over HTTP",
            )
        return data


@dataclass(frozen=True, slots=True, kw_only=True)
class _Access:
    store: str
    token: str = field(repr=False)
    expires: int


def _new_session() -> hf_xet.XetSession:
    try:
        import hf_xet
    except ImportError as error:
        raise MachineError(
            "no-hf-xet",
            "hf_xet cannot be loaded on this machine",
            found=str(error)[:200],
            hint="leave out `--transport xet`: the same bytes come over HTTP",
        ) from error
    return hf_xet.XetSession(hf_xet.XetConfig().with_config(dict(BOUNDED)))


def _read_access(value: object, where: str) -> _Access:
    answer = value if isinstance(value, dict) else {}
    store, token, expires = (answer.get(name) for name in ("casUrl", "accessToken", "exp"))
    if not isinstance(store, str) or not isinstance(token, str) or not _is_time(expires):
        raise NetworkError(
            "hub-answer",
            "the Hub's answer gives no access to Xet",
            where=where,
            expected="casUrl, accessToken, exp",
        )
    _refuse_store(store, where)
    return _Access(store=store, token=token, expires=expires)


def _is_time(value: object) -> TypeGuard[int]:
    """Whether `value` is a time in seconds that hf_xet can hold."""
    return type(value) is int and 0 <= value <= MAX_INTEGER


def _refuse_store(store: str, where: str) -> None:
    """Only a Hub on this machine may name a folder of this machine, or a store without TLS.

    hf_xet opens `local://` folders, and makes them when they are missing: not for a stranger to choose.
    """
    try:
        here = is_loopback(urlsplit(where).hostname or "")
        scheme = urlsplit(store).scheme
    except ValueError:
        here, scheme = False, ""
    if scheme == "https" or (here and scheme in ("http", "local")):
        return
    raise NetworkError(
        "hub-answer",
        "the Hub names a Xet store that is not used",
        where=where,
        expected="an https URL",
        found=store[:200],
        hint="without `--transport xet` the same bytes come over HTTP",
    )


@contextmanager
def _told(where: str) -> Iterator[None]:
    """Errors of hf_xet as ours. Its texts are left out: they hold whole URLs, signatures included."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        kind = type(error).__name__
        if kind in ("XetAuthenticationError", "PermissionError"):
            raise NetworkError(
                "forbidden", "Xet does not let you have this", where=where, found=kind
            ) from None
        raise TransientError("dropped", "the Xet stream broke off", where=where, found=kind) from None


def _slices(data: bytes) -> Iterator[bytes]:
    """`data` in pieces a meter can show and a stop can interrupt; Xet gives up to 64 MiB at once."""
    view = memoryview(data)
    return (bytes(view[start : start + PIECE_BYTES]) for start in range(0, len(data), PIECE_BYTES))
