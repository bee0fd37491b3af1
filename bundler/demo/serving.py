"""A small HTTP/1.1 server on the loopback interface: what the demo's hub and registry are made of.

A server is one function from a request to an answer; how an answer travels (threads, keep-alive,
`sendfile`) is settled here once.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

MAX_REQUEST_BODY = 16 << 20
IDLE_SECONDS = 60
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a client asked. `path` is still percent-encoded; `headers` looks names up without case."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Message
    body: bytes = b""

    def header(self, name: str) -> str:
        """The header's value, empty when it was not sent."""
        return str(self.headers.get(name, ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRange:
    """Bytes [start, stop) of a file on this disk, sent without passing through Python."""

    path: Path
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A status, headers and a body; `Content-Length` is added when it is sent."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | FileRange = b""

    @property
    def length(self) -> int:
        """Bytes of the body."""
        return len(self.body) if isinstance(self.body, bytes) else self.body.stop - self.body.start

    def with_headers(self, **headers: str) -> Answer:
        """The same answer with more headers; `_` in a name stands for `-`."""
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        return replace(self, headers={**self.headers, **more})


def file_answer(request: Request, path: Path, size: int, headers: Mapping[str, str]) -> Answer:
    """The file or the range of it that was asked for: 200, 206 or 416 (RFC 9110 section 14).

    `headers` holds the `ETag`; an `If-Range` that does not equal it gets the whole file.
    """
    headers = {**headers, "Accept-Ranges": "bytes"}
    match = _RANGE.fullmatch(request.header("range"))
    condition = request.header("if-range")
    if match is None or match[0] == "bytes=-" or (condition and condition != headers.get("ETag")):
        return Answer(headers=headers, body=FileRange(path=path, start=0, stop=size))
    if match[1]:
        start, stop = int(match[1]), min(int(match[2] or size), size - 1) + 1
    else:
        start, stop = max(size - int(match[2]), 0), size
    if start >= stop:
        return Answer(status=416, headers={**headers, "Content-Range": f"bytes */{size}"})
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    return Answer(status=206, headers=headers, body=FileRange(path=path, start=start, stop=stop))


class LoopbackServer:
    """Answers requests on 127.0.0.1 while its `with` block lasts. Subclasses define `answer`.

    Leaving the block cuts open connections and waits for every thread: nothing outlives it.
    """

    def __init__(self, *, port: int = 0) -> None:
        self._port = port
        self._server: _Server | None = None
        self.closing = threading.Event()
        """Set when the block is being left, for answers that wait."""

    def answer(self, request: Request) -> Answer:
        """What to say to `request`. Runs in the thread of the connection."""
        raise NotImplementedError

    def send_body(self, handler: Handler, request: Request, answer: Answer) -> None:
        """Write the body of `answer` to the connection."""
        if isinstance(answer.body, bytes):
            handler.wfile.write(answer.body)
        elif answer.length:
            with answer.body.path.open("rb") as file:
                handler.connection.sendfile(file, answer.body.start, answer.length)

    @property
    def url(self) -> str:
        """The origin, such as `http://127.0.0.1:40123`."""
        assert self._server is not None, "the server runs inside its `with` block only"
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self.closing.clear()
        self._server = _Server(self, self._port)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="loopback")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.cut_connections()
        self._server.server_close()
        self._server = None


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True
    request_queue_size = 128

    def __init__(self, owner: LoopbackServer, port: int) -> None:
        self.owner = owner
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()
        super().__init__(("127.0.0.1", port), Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember the connection, so that leaving can cut it."""
        with self._guard:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget the connection and close it."""
        with self._guard:
            self._open.discard(request)
        super().shutdown_request(request)

    def cut_connections(self) -> None:
        """Make every thread that waits for a client notice that it is over."""
        with self._guard:
            for connection in self._open:
                cut(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error of the server; anything else shows its traceback."""
        import sys

        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


def cut(connection: socket.socket) -> None:
    """End the connection in both directions at once; already ended is fine."""
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


class Handler(BaseHTTPRequestHandler):
    """Carries one connection: reads requests, asks the server for answers, writes them."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = IDLE_SECONDS
    server: _Server

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing is logged: the owner knows what it was asked."""

    def _answer(self) -> None:
        owner = self.server.owner
        length = int(self.headers.get("Content-Length") or 0)
        if length > MAX_REQUEST_BODY:
            self.send_error(413)
            return
        target = urlsplit(self.path)
        request = Request(
            method=self.command,
            path=target.path,
            query=parse_qs(target.query),
            headers=self.headers,
            body=self.rfile.read(length),
        )
        answer = owner.answer(request)
        self.send_response(answer.status)
        for name, value in {**answer.headers, "Content-Length": str(answer.length)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            owner.send_body(self, request, answer)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815 - names of the base class
