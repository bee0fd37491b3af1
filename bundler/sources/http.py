"""Bytes over HTTP, from any offset, with every way it can go wrong told apart.

What may pass by itself (dropped, stalled, 408, 429, 5xx) is a TransientError; what will not (401, 403, 404,
410, 416, another file than the locked one) ends the job. Nothing here trusts what it receives: digests
are compared by whoever writes the bytes.

Credentials go to the origin they belong to and nowhere else: headers are asked for by URL, for the first
hops only, and never again once a redirect has left the origin (CVE-2018-18074 is what happens otherwise).
No header, user name or query (signed URLs are credentials too) ever appears in an error or a repr.
"""

from __future__ import annotations

import itertools
import os
import re
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Self
from urllib.parse import SplitResult, urljoin, urlsplit

import requests
import urllib3

from bundler.errors import NetworkError
from bundler.sources.retry import TransientError as TransientError
from bundler.sources.retry import asked_wait, is_busy
from bundler.sources.surroundings import certificate_store
from bundler.sources.transport import session as session

PIECE_BYTES = 1 << 20
MAX_REDIRECTS = 8
MAX_GZIP_MEMBERS = 256
ANSWER_FLOOR = 16 << 10
"""Bytes a second that a small answer must come with in the long run."""
_DEFAULT_PORTS = {"http": 80, "https": 443}
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")

TRY_AGAIN = "check the network, then run the same command again: it continues where it stopped"


class ChangedUpstreamError(NetworkError):
    """Upstream serves something else than what was locked: other files of it will differ as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Seconds to wait for a connection, and for the head or the next byte of an answer (a stall).

    A body slower than `floor` bytes a second, over as long as a stall may take, counts as stalled too:
    otherwise a server that drips a byte a minute holds a build for ever.
    """

    connect: float = 15.0
    stall: float = 60.0
    floor: int = 512
    answer: float = 30.0
    """For a small answer read whole: the wait for it, and what reading may take beyond 16 KiB a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """One answer on the way to the bytes: the redirects, then the last one. Header names in any case."""

    url: str
    status: int
    headers: Mapping[str, str]


Headers = Callable[[str], Mapping[str, str]]
"""Headers for a request to this URL; called anew for each attempt, so that a token can be renewed."""
ResponseCheck = Callable[[Sequence[Hop]], None]
"""Refuses answers that do not belong to what was locked, by raising a NetworkError; also sees failures."""


def no_headers(_url: str) -> Mapping[str, str]:
    """Headers of a public source."""
    return {}


def accept_all(_hops: Sequence[Hop]) -> None:
    """The check of a source that offers nothing to compare but the bytes."""


def bearer(token: Callable[[], str | None], origin: str) -> Headers:
    """`Authorization: Bearer` for URLs of the same origin as the URL `origin`, nothing for others."""

    def headers(url: str) -> Mapping[str, str]:
        secret = token() if same_origin(url, origin) else None
        return {"Authorization": f"Bearer {secret}"} if secret else {}

    return headers


def pinned(*, etag: str | None = None, **exact: str) -> ResponseCheck:
    """A check that a Hub still serves what was locked.

    `etag` is compared with the first X-Linked-Etag of any hop, else with the last ETag of the Hub's own
    origin (not of its storage), without quotes, weakness mark and `-gzip`. Each further keyword is a header,
    `_` for `-`, that no hop may carry with another value: `pinned(x_repo_commit=commit)`. A mirror may leave
    them out or send an ETag of its own kind; the digest of the bytes decides then. Answers of 400 and above
    are left to the status. Raises ChangedUpstreamError (`upstream-changed`).
    """
    wanted = {name.replace("_", "-"): value for name, value in exact.items()}

    def check(hops: Sequence[Hop]) -> None:
        if hops[-1].status >= 400:
            return
        for name, value in wanted.items():
            _compare(hops, name, value, _first_header(hops, name))
        if etag is not None:
            told = _told_etag(hops)
            _compare(hops, "etag", etag, told if told and _is_alike(told, etag) else None)

    return check


def _first_header(hops: Sequence[Hop], name: str) -> str | None:
    return next((hop.headers[name] for hop in hops if name in hop.headers), None)


def _told_etag(hops: Sequence[Hop]) -> str | None:
    linked = _first_header(hops, "x-linked-etag")
    at_home = itertools.takewhile(lambda hop: same_origin(hop.url, hops[0].url), hops)
    own = [hop.headers["etag"] for hop in at_home if "etag" in hop.headers]
    told = linked or (own[-1] if own else None)
    return told.removeprefix("W/").strip('"').removesuffix("-gzip") if told else None


def _is_alike(told: str, etag: str) -> bool:
    """Whether both are digests of one kind; a file server's own ETag says nothing about the locked one."""
    hexadecimal = re.fullmatch(r"[0-9a-f]+", etag) is not None
    return not hexadecimal or re.fullmatch(f"[0-9a-f]{{{len(etag)}}}", told) is not None


def _compare(hops: Sequence[Hop], name: str, expected: str, found: str | None) -> None:
    if found is not None and found != expected:
        raise ChangedUpstreamError(
            "upstream-changed",
            "upstream no longer serves what was locked",
            where=shown_url(hops[0].url),
            expected=f"{name}: {expected}",
            found=f"{name}: {found[:200]}",
            hint="`sealift lock --check` tells what moved; lock again to take it",
        )


def origin_of(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port of `url` (RFC 6454), the port made explicit."""
    parts = _split(url)
    return parts.scheme, parts.hostname or "", parts.port or _DEFAULT_PORTS.get(parts.scheme)


def same_origin(one: str, other: str) -> bool:
    """Whether both URLs have the same scheme, host and port."""
    return origin_of(one) == origin_of(other)


def shown_url(url: str) -> str:
    """`url` without user name, password, query and fragment: what may appear in an error."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return "a URL that cannot be read"
    return f"{parts.scheme}://{host}{parts.path}"


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        if parts.scheme in _DEFAULT_PORTS and parts.hostname and parts.port != 0:
            return parts
    except ValueError:
        pass
    raise _bad_url(url)


def _bad_url(url: str) -> NetworkError:
    return NetworkError(
        "bad-url", "a URL cannot be used", where=shown_url(url), expected="http or https with a host"
    )


def _check_header_values(headers: Mapping[str, str], url: str) -> None:
    """Raises NetworkError (`bad-header`) before a library quotes the value, perhaps a token, in its error."""
    for name, value in headers.items():
        if not (value.isascii() and value.isprintable() and value == value.strip()):
            raise NetworkError(
                "bad-header",
                "a header cannot be sent: it holds line ends, spaces around it or other than ASCII",
                where=f"{name} for {shown_url(url)}",
                hint="a token read from a file or variable may have a line end too many",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpByteSource:
    """The file at `url`, as a ByteSource. `size` is compared with what the server announces.

    Each `open` starts at `url` again, so that a signed address behind a redirect is always a fresh one.
    """

    url: str
    session: requests.Session = field(repr=False)
    size: int | None = None
    headers: Headers = field(default=no_headers, repr=False)
    check: ResponseCheck = field(default=accept_all, repr=False)
    timeouts: Timeouts = Timeouts()
    # The strong ETag of the first answer: what a later Range must still belong to (RFC 9110 section 13.1.5).
    _seen: list[str] = field(default_factory=list, repr=False, init=False)

    def __repr__(self) -> str:
        return f"HttpByteSource({shown_url(self.url)})"

    @contextmanager
    def open(self, offset: int) -> Iterator[Body]:
        """The bytes from `offset` on; `abort` of what is given back ends a waiting read in another thread.

        A server that does not know ranges is read from the start and the first `offset` bytes dropped.
        Raises TransientError (`dropped`, `stalled`, `unreachable`, `server-busy`), ChangedUpstreamError, or
        NetworkError (`not-authorised`, `forbidden`, `not-found`, `refused`, `bad-range`, `redirect`, ...).
        """
        response = self._request("GET", offset)
        if offset and response.status_code == 206 and _coding(response):
            # A part of coded bytes means nothing to us: from the start then.
            response.close()
            response = self._request("GET", 0)
        try:
            self._check_etag(response)
            decoder = self._decoder(response)
            size = None if decoder else self.size
            skip = offset - _first_byte(response, offset, size)
            body = Body(response, self.timeouts, shown_url(self.url), decoder)
            body.skip(skip)
            yield body
        finally:
            response.close()

    def read(self, limit: int) -> bytes:
        """The whole answer, at most `limit` bytes after decompression, in a time that fits a small answer.

        Raises NetworkError (`too-large`), TransientError (`stalled`, ...) and as `open`.
        """
        times = self.timeouts
        hurried = replace(self, timeouts=replace(times, stall=min(times.stall, times.answer)))
        with hurried.open(0) as body:
            if (body.announced or 0) > limit:
                raise _too_large(shown_url(self.url), limit, f"{body.announced} bytes announced")
            return read_bounded(body, limit, where=shown_url(self.url), seconds=times.answer)

    def head(self) -> Hop:
        """The last answer to a HEAD request, checked like a download. Raises as `open`."""
        response = self._request("HEAD", 0)
        response.close()
        return _hop(response)

    def _request(self, method: str, offset: int) -> requests.Response:
        asked = {"Accept-Encoding": "identity"}
        if offset:
            asked["Range"] = f"bytes={offset}-"
            if self._seen:
                asked["If-Range"] = self._seen[0]
        response, hops = self._follow(method, asked)
        try:
            self.check(hops)
            _check_status(response, shown_url(self.url))
        except BaseException:
            response.close()
            raise
        return response

    def _follow(self, method: str, asked: Mapping[str, str]) -> tuple[requests.Response, list[Hop]]:
        url, hops, at_home = self.url, list[Hop](), True
        while True:
            own = self.headers(url) if at_home else {}
            response = self._send(method, url, {**asked, **own})
            hops.append(_hop(response))
            location = self.session.get_redirect_target(response)
            if location is None:
                return response, hops
            response.close()
            following = _redirected(url, location, len(hops))
            at_home = at_home and same_origin(url, following)
            url = following

    def _send(self, method: str, url: str, headers: Mapping[str, str]) -> requests.Response:
        _split(url)
        _check_header_values(headers, url)
        certificate_store(os.environ)  # a variable that names nothing is said before a library stumbles
        times = (self.timeouts.connect, self.timeouts.stall)
        try:
            return self.session.request(
                method, url, headers=headers, stream=True, allow_redirects=False, timeout=times
            )
        except (requests.exceptions.InvalidURL, UnicodeError):
            raise _bad_url(url) from None
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise _connection_error(error, url) from None

    def _check_etag(self, response: requests.Response) -> None:
        tag = response.headers.get("etag", "")
        if not tag or tag.startswith("W/"):
            return
        if not self._seen:
            self._seen.append(tag)
        elif self._seen[0] != tag:
            _compare([_hop(response)], "etag", self._seen[0], tag)

    def _decoder(self, response: requests.Response) -> _Decoder | None:
        """What undoes a compression that nobody asked for; Hubs and proxies apply it to text all the same."""
        coding = _coding(response)
        if not coding:
            return None
        if coding in ("gzip", "x-gzip", "deflate") and response.status_code == 200:
            return _Decoder(coding, shown_url(self.url))
        raise NetworkError(
            "encoded-body",
            "the server changes the bytes on the way",
            where=shown_url(self.url),
            expected="Content-Encoding: identity or gzip",
            found=f"Content-Encoding: {coding[:40]}",
            hint="a proxy may be doing this: fetch past it",
        )


def read_bounded(pieces: Iterable[bytes], limit: int, *, where: str, seconds: float = 30.0) -> bytes:
    """All of `pieces`, at most `limit` bytes, at no less than 16 KiB a second once `seconds` are over.

    Raises NetworkError (`too-large`), TransientError (`stalled`).
    """
    began, data = time.monotonic(), bytearray()
    for piece in pieces:
        data += piece
        if len(data) > limit:
            raise _too_large(where, limit, "more")
        taken = time.monotonic() - began
        if taken > seconds + min(len(data) / ANSWER_FLOOR, 10 * seconds):
            raise TransientError(
                "stalled",
                "the server sends hardly anything",
                where=where,
                expected=f"an answer within {seconds:.0f} s, or {ANSWER_FLOOR} bytes a second",
                found=f"{len(data)} bytes in {taken:.0f} s",
                hint=TRY_AGAIN,
            )
    return bytes(data)


def _too_large(where: str, limit: int, found: str) -> NetworkError:
    return NetworkError(
        "too-large",
        "an answer is larger than any honest one",
        where=where,
        expected=f"at most {limit} bytes",
        found=found,
        hint="a proxy may be answering instead; otherwise tell whoever runs the server",
    )


def _coding(response: requests.Response) -> str:
    """The Content-Encoding in lower case; empty for none."""
    coding = str(response.headers.get("content-encoding", "")).strip().lower()
    return "" if coding == "identity" else coding


class _Decoder:
    """Undoes gzip or deflate in pieces of at most 1 MiB, whatever they unpack to."""

    def __init__(self, coding: str, where: str) -> None:
        self._bits = 15 if coding == "deflate" else 31
        self._where = where
        self._unpacking = zlib.decompressobj(self._bits)
        self._begun = False
        self._members = 1

    @property
    def waiting(self) -> bool:
        """Whether bytes that have arrived are not unpacked yet."""
        return bool(self._unpacking.unconsumed_tail or self._unpacking.unused_data)

    def feed(self, data: bytes) -> bytes:
        """The next piece of `data` and what was left before; empty when more has to arrive."""
        self._begun = self._begun or bool(data)
        if self._unpacking.eof:
            # gzip members may follow each other (RFC 1952 section 2.2).
            data = self._unpacking.unused_data + data
            self._unpacking = zlib.decompressobj(self._bits)
            self._members += 1
        else:
            data = self._unpacking.unconsumed_tail + data
        # Empty members could go on for ever without giving a byte.
        if self._members > MAX_GZIP_MEMBERS:
            raise self._unreadable(f"more than {MAX_GZIP_MEMBERS} gzip members")
        try:
            return self._unpacking.decompress(data, PIECE_BYTES)
        except zlib.error as error:
            raise self._unreadable(str(error)[:100]) from None

    def _unreadable(self, found: str) -> NetworkError:
        return NetworkError(
            "encoded-body",
            "a compressed answer cannot be unpacked",
            where=self._where,
            expected="gzip or deflate, as Content-Encoding says",
            found=found,
            hint="a proxy may be doing this: fetch past it",
        )

    def finish(self) -> None:
        """Raises TransientError (`dropped`) when the compressed bytes ended too early."""
        if self._begun and not self._unpacking.eof:
            raise TransientError(
                "dropped", "a compressed answer ended too early", where=self._where, hint=TRY_AGAIN
            )


class Body:
    """The pieces of one answer, as they arrive; at most 1 MiB each."""

    def __init__(
        self, response: requests.Response, timeouts: Timeouts, where: str, decoder: _Decoder | None = None
    ) -> None:
        length = "" if decoder else response.headers.get("content-length", "")
        self.announced = int(length) if length.isascii() and length.isdigit() else None
        """Bytes that the server says will come; None when it does not."""
        self._decoder = decoder
        self._raw: urllib3.HTTPResponse = response.raw
        self._timeouts = timeouts
        self._where = where
        self._rest = b""
        self._waited, self._received = 0.0, 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        piece, self._rest = self._rest or self._read(), b""
        if not piece:
            raise StopIteration
        return piece

    def skip(self, count: int) -> None:
        """Drops the next `count` bytes; fewer when the body ends before."""
        while count > 0 and (piece := self._read()):
            self._rest, count = piece[count:], count - len(piece)

    def abort(self) -> None:
        """Ends a read that waits in another thread; that read raises, or the body just ends.

        Bytes given out afterwards are worthless (Python lets go of TLS before it shuts the socket down), so
        set a stop sign first, and look at it before using any.
        """
        try:
            self._raw.shutdown()
        except (ValueError, OSError, RuntimeError):
            return  # already closed, or nothing to shut down: it has ended

    def _read(self) -> bytes:
        if self._decoder is None:
            return self._receive()
        while True:
            arrived = b"" if self._decoder.waiting else self._receive()
            if not arrived and not self._decoder.waiting:
                self._decoder.finish()
                return b""
            if piece := self._decoder.feed(arrived):
                return piece

    def _receive(self) -> bytes:
        began = time.monotonic()
        try:
            # read1 gives what one receive brings: a stall loses nothing that had arrived, and the time limit
            # is for each receive. It does not copy, and a consumer slower than the net gets whole pieces.
            piece: bytes = self._raw.read1(PIECE_BYTES, decode_content=False)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise _connection_error(error, self._where) from None
        self._watch_rate(time.monotonic() - began, len(piece))
        return piece

    def _watch_rate(self, waited: float, received: int) -> None:
        """Only waiting counts: a slow disk of our own is no fault of the server."""
        self._waited += waited
        self._received += received
        if self._waited < self._timeouts.stall:
            return
        if self._received < self._waited * self._timeouts.floor:
            raise TransientError(
                "stalled",
                "the server sends hardly anything",
                where=self._where,
                expected=f"{self._timeouts.floor} bytes a second",
                found=f"{self._received} bytes in {self._waited:.0f} s",
            )
        self._waited, self._received = 0.0, 0


def _hop(response: requests.Response) -> Hop:
    return Hop(url=response.url or "", status=response.status_code, headers=response.headers)


def _redirected(url: str, location: str, hops: int) -> str:
    """The absolute target of a redirect. Raises NetworkError (`redirect`) when it must not be followed."""
    try:
        target = urljoin(url, location)
    except ValueError:
        raise _bad_url(location) from None
    parts = _split(target)
    reason = ""
    if hops > MAX_REDIRECTS:
        reason = f"more than {MAX_REDIRECTS} redirects"
    elif urlsplit(url).scheme == "https" and parts.scheme == "http":
        reason = "from https to http, where anyone can change the bytes"
    elif parts.username is not None or parts.password is not None:
        reason = "to a URL with a user name in it"
    if reason:
        raise NetworkError(
            "redirect",
            "a redirect is not followed",
            where=shown_url(url),
            found=reason,
            expected="a plain one",
        )
    return target


def _connection_error(error: BaseException, url: str) -> NetworkError:
    """What a failed connection means. Texts of the libraries are not shown: they hold whole URLs."""
    where, causes = shown_url(url), list(_causes(error))
    if any("CERTIFICATE_VERIFY_FAILED" in str(cause) for cause in causes):
        return NetworkError(
            "tls-refused",
            "the server's certificate is not trusted",
            where=where,
            hint="if a proxy of your own replaces certificates, add its CA to the system's store, "
            "or name its PEM file in SSL_CERT_FILE",
        )
    names = {type(cause).__name__ for cause in causes}
    if names & {"ConnectTimeout", "ConnectTimeoutError"}:
        return TransientError(
            "unreachable", "no connection in time", where=where, found="timeout", hint=TRY_AGAIN
        )
    if names & {"ReadTimeout", "ReadTimeoutError", "TimeoutError", "timeout"}:
        return TransientError(
            "stalled", "the server sends nothing more", where=where, found="timeout", hint=TRY_AGAIN
        )
    found = _innermost(causes)
    if names & {"NewConnectionError", "NameResolutionError", "ProxyError"}:
        return TransientError(
            "unreachable", "the server cannot be reached", where=where, found=found, hint=TRY_AGAIN
        )
    return TransientError("dropped", "the connection was lost", where=where, found=found, hint=TRY_AGAIN)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what it wraps, and what it was raised from."""
    seen = list[BaseException]()
    todo = [error]
    while todo:
        one = todo.pop()
        if not isinstance(one, BaseException) or one in seen:
            continue
        seen.append(one)
        yield one
        todo += [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]


def _innermost(causes: Sequence[BaseException]) -> str:
    """The system's own words for what happened, else the name of the kind of error."""
    words = [cause.strerror for cause in causes if isinstance(cause, OSError) and cause.strerror]
    return words[-1] if words else type(causes[-1]).__name__


# What a person needs to hear: reference, sentence, hint. All other answers of 400 and above are `refused`.
_FINAL = {
    401: ("not-authorised", "the server asks who you are", "give a token for it (for a Hub: HF_TOKEN)"),
    403: (
        "forbidden",
        "the server does not let you have this",
        "ask for access, or check the token's rights",
    ),
    404: ("not-found", "the server does not have this file", "`sealift lock --check` tells whether it moved"),
    410: ("gone", "the file was taken away for good", "lock another revision or mirror"),
    416: (
        "range-refused",
        "the file upstream ends before the locked size",
        "`sealift lock --check` tells whether it changed",
    ),
}


def _check_status(response: requests.Response, where: str) -> None:
    """Raises what an answer that is no success means."""
    status = response.status_code
    if status in (200, 206):
        return
    if is_busy(status):
        raise _busy(response, where)
    reference, what, hint = _FINAL.get(status, ("refused", "the server refuses this request", ""))
    raise NetworkError(
        reference, what, where=where, expected="200 or 206", found=f"HTTP status {status}", hint=hint
    )


def _busy(response: requests.Response, where: str) -> TransientError:
    error = TransientError(
        "server-busy",
        "the server cannot answer now",
        where=where,
        expected="200 or 206",
        found=f"HTTP status {response.status_code}",
        hint="run the same command again later: it continues where it stopped",
    )
    error.retry_after = asked_wait(response.headers, now=time.time())
    return error


def _first_byte(response: requests.Response, offset: int, size: int | None) -> int:
    """The number of the first byte of the body: `offset`, or 0 when the server sends everything.

    Raises NetworkError (`bad-range`) for another range than the asked one, ChangedUpstreamError
    (`size-changed`) when the announced size is not `size`.
    """
    where = shown_url(response.url or "")
    if response.status_code == 200:
        _check_size(response.headers.get("content-length"), size, where)
        return 0
    text = response.headers.get("content-range", "")
    match = _CONTENT_RANGE.fullmatch(text)
    if match is None or int(match[1]) != offset or int(match[2]) < offset:
        raise NetworkError(
            "bad-range",
            "the server sends other bytes than it was asked for",
            where=where,
            expected=f"Content-Range: bytes {offset}-",
            found=f"Content-Range: {text[:80]}" if text else "no Content-Range",
        )
    _check_size(None if match[3] == "*" else match[3], size, where)
    return offset


def _check_size(announced: str | None, size: int | None, where: str) -> None:
    if announced is None or size is None or announced == str(size):
        return
    raise ChangedUpstreamError(
        "size-changed",
        "upstream has a file of another size than the locked one",
        where=where,
        expected=f"{size} bytes",
        found=f"{announced[:20]} bytes",
        hint="`sealift lock --check` tells what moved; lock again to take it",
    )
