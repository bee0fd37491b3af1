"""A file server on loopback that does, when told to, everything a file server should not."""

from __future__ import annotations

import re
import socket
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

_RANGE = re.compile(r"bytes=(\d+)-")
_PIECE = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What one GET gets instead of a proper answer. Byte numbers count from the start of its body."""

    status: int | None = None
    """Answer with this status and an empty body."""
    headers: dict[str, str] = field(default_factory=dict)
    """Send these as well, in place of our own of the same name."""
    ok_status: int | None = None
    """Say this status, but send the file as if it were a success."""
    head_headers: dict[str, str] = field(default_factory=dict)
    """Send these to HEAD, in place of our own of the same name."""
    redirect: str | None = None
    """Answer 302 to this URL."""
    drop_after: int | None = None
    """Cut the connection behind this many bytes."""
    stall_after: int | None = None
    """Send nothing more behind this many bytes, but keep the connection."""
    drip: float | None = None
    """Send one byte, then wait so many seconds, and so on."""
    flip_at: int | None = None
    """Invert the byte of this number in the file."""
    extra: bytes = b""
    """Append this to the body, without saying so: chunked."""
    short: int = 0
    """Leave out so many bytes at the end, without saying so: chunked."""
    no_range: bool = False
    """Answer 200 with the whole file to a range."""
    shift_range: int = 0
    """Send a range that begins so many bytes later than asked, and say so."""
    silent: bool = False
    """Take the request and answer nothing at all."""


@dataclass(slots=True)
class Seen:
    """One request, and how many body bytes were sent for it."""

    method: str
    path: str
    headers: dict[str, str]
    sent: int = 0

    @property
    def first_byte(self) -> int:
        """Where the asked range begins, 0 without one."""
        match = _RANGE.fullmatch(self.headers.get("range", ""))
        return int(match[1]) if match else 0


class FileServer:
    """Serves `files` (path with a leading slash to bytes) inside its `with` block.

    `faults[path]` are used up one a GET, then comes `always[path]`. `rate` limits all bodies, in
    bytes a second. `extra_headers` come with every answer.
    """

    def __init__(self, files: dict[str, bytes] | None = None, *, rate: int | None = None) -> None:
        self.files = files or {}
        self.rate = rate
        self.faults: defaultdict[str, list[Fault]] = defaultdict(list)
        self.always: dict[str, Fault] = {}
        self.extra_headers: dict[str, str] = {}
        self.requests: list[Seen] = []
        self.closing = threading.Event()
        self.head_status: int | None = None

    @property
    def url(self) -> str:
        """The origin."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def gets(self, path: str) -> list[Seen]:
        """The GET requests for `path`, in order of arrival."""
        return [seen for seen in self.requests if seen.method == "GET" and seen.path == path]

    def sent(self, path: str) -> int:
        """Body bytes sent for `path` so far."""
        return sum(seen.sent for seen in self.gets(path))

    def next_fault(self, path: str) -> Fault:
        """The fault for the next GET of `path`."""
        return self.faults[path].pop(0) if self.faults[path] else self.always.get(path, Fault())

    def __enter__(self) -> Self:
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.cut()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True
    request_queue_size = 64

    def __init__(self, owner: FileServer) -> None:
        self.owner = owner
        self.connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def cut(self) -> None:
        for connection in list(self.connections):
            _cut(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are the point of many tests."""


def _cut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._note()
        owner = self.server.owner
        data = owner.files.get(self.path)
        status = owner.head_status or (404 if data is None else 200)
        fault = owner.always.get(self.path, Fault())
        length = {} if fault.extra or fault.short else {"Content-Length": str(len(data or b""))}
        self._head(status, {**length, **owner.extra_headers, "Connection": "close", **fault.head_headers})
        self.close_connection = True

    def do_GET(self) -> None:
        seen = self._note()
        owner = self.server.owner
        data, fault = owner.files.get(self.path), owner.next_fault(self.path)
        if fault.silent:
            self._wait()
        elif fault.redirect is not None:
            self._empty(302, {"Location": fault.redirect, **owner.extra_headers, **fault.headers})
        elif fault.status is not None or data is None:
            self._empty(fault.status or 404, fault.headers)
        else:
            self._file(seen, data, fault)

    def _note(self) -> Seen:
        headers = {name.lower(): value for name, value in self.headers.items()}
        seen = Seen(self.command, self.path, headers)
        self.server.owner.requests.append(seen)
        return seen

    def _file(self, seen: Seen, data: bytes, fault: Fault) -> None:
        start, ranged = seen.first_byte, "range" in seen.headers and not fault.no_range
        if ranged and start >= len(data):
            self._empty(416, {"Content-Range": f"bytes */{len(data)}"})
            return
        start = start + fault.shift_range if ranged else 0
        headers = {"Content-Length": str(len(data) - start), "Accept-Ranges": "bytes"}
        if ranged:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        chunked = bool(fault.extra or fault.short)
        if chunked:
            del headers["Content-Length"]
            headers["Transfer-Encoding"] = "chunked"
        self._head(
            fault.ok_status or (206 if ranged else 200),
            {**headers, **self.server.owner.extra_headers, **fault.headers},
        )
        body = _flipped(data, fault.flip_at)[start : len(data) - fault.short] + fault.extra
        self._body(seen, body, fault, chunked)

    def _body(self, seen: Seen, body: bytes, fault: Fault, chunked: bool) -> None:
        end = min(
            len(body), *(stop for stop in (fault.drop_after, fault.stall_after) if stop is not None), 1 << 60
        )
        step = 1 if fault.drip else _PIECE
        for at in range(0, end, step):
            piece = body[at : min(at + step, end)]
            # Counted before they leave: the client may look as soon as it has them.
            seen.sent += len(piece)
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
            self._pace(len(piece), fault.drip)
        if fault.stall_after is not None:
            self._wait()
        elif fault.drop_after is not None:
            self.close_connection = True
            _cut(self.connection)
        elif chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _pace(self, count: int, drip: float | None) -> None:
        rate = self.server.owner.rate
        if drip:
            self.server.owner.closing.wait(drip)
        elif rate:
            self.server.owner.closing.wait(count / rate)

    def _wait(self) -> None:
        """Holds the connection open until the test is over or the client gives up."""
        owner = self.server.owner
        self.connection.settimeout(0.05)
        while not owner.closing.is_set():
            try:
                if not self.connection.recv(1):
                    break
            except TimeoutError:
                continue
        self.close_connection = True

    def _empty(self, status: int, headers: dict[str, str]) -> None:
        self._head(status, {"Content-Length": "0", **headers})

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def _flipped(data: bytes, at: int | None) -> bytes:
    if at is None:
        return data
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]
