"""A server that means harm: answers that never end, unpack to gigabytes, or come a byte at a time."""

from __future__ import annotations

import gzip
import io
import json
import socket
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

Script = Callable[[str, threading.Event], Iterator[bytes]]
"""From a request's target to what is sent, piece by piece, until the connection is closed."""
OK = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/json\r\n"


class HostileServer:
    """Runs one script for every connection inside its `with` block."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._closing = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        """The origin."""
        return f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._listening.settimeout(0.05)
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        for thread in self._threads:
            thread.join()
        self._listening.close()

    def _start(self, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._listening.accept()
            except TimeoutError:
                continue
            self._start(lambda connection=connection: self._serve(connection))  # type: ignore[misc]

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(0.5)
            try:
                target = _target(connection)
                self.asked.append(target)
                for piece in self._script(target, self._closing):
                    if self._closing.is_set():
                        return
                    _send(connection, piece, self._closing)
            except OSError:
                return  # the client went away, which is what these servers are for


def _target(connection: socket.socket) -> str:
    data = b""
    while b"\r\n\r\n" not in data:
        received = connection.recv(4096)
        if not received:
            raise ConnectionError
        data += received
    return data.split(b" ", 2)[1].decode()


def _send(connection: socket.socket, piece: bytes, closing: threading.Event) -> None:
    view = memoryview(piece)
    while view and not closing.is_set():
        try:
            view = view[connection.send(view) :]
        except TimeoutError:
            continue


def dripping_head(_target: str, closing: threading.Event) -> Iterator[bytes]:
    """A header byte every twentieth of a second, for ever."""
    yield OK + b"X-Slow: "
    while not closing.wait(0.05):
        yield b"a"


def endless_continue(_target: str, closing: threading.Event) -> Iterator[bytes]:
    """Interim answers without end."""
    while not closing.wait(0.01):
        yield b"HTTP/1.1 100 Continue\r\n\r\n"


def dripping_body(_target: str, closing: threading.Event) -> Iterator[bytes]:
    """A space every twentieth of a second: the JSON never begins."""
    yield OK + b"\r\n"
    while not closing.wait(0.05):
        yield b" "


def endless_body(_target: str, closing: threading.Event) -> Iterator[bytes]:
    """A list of numbers that does not end, as fast as it is read."""
    yield OK + b"\r\n["
    while not closing.is_set():
        yield b"1," * 50_000


def _bomb() -> bytes:
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1) as stream:
        for _ in range(64):
            stream.write(bytes(1 << 20))
    return packed.getvalue() * 64


_BOMB = _bomb()
"""Unpacks to 4 GiB."""


def gzip_bomb(_target: str, _closing: threading.Event) -> Iterator[bytes]:
    """Kilobytes that unpack to 4 GiB."""
    yield OK + b"Content-Encoding: gzip\r\n\r\n"
    yield _BOMB


def empty_members(_target: str, closing: threading.Event) -> Iterator[bytes]:
    """Compressed nothings without end: bytes come, none comes out."""
    yield OK + b"Content-Encoding: gzip\r\n\r\n"
    while not closing.is_set():
        yield gzip.compress(b"") * 1000


def deep_json(_target: str, _closing: threading.Event) -> Iterator[bytes]:
    """Lists in lists, 100,000 deep."""
    yield OK + b"\r\n" + b"[" * 100_000 + b"]" * 100_000


def many_values(_target: str, _closing: threading.Event) -> Iterator[bytes]:
    """Ten million empty lists: small to send, a gigabyte to hold."""
    yield OK + b"\r\n["
    for _ in range(100):
        yield b"[]," * 100_000
    yield b"[]]"


def huge_length(_target: str, _closing: threading.Event) -> Iterator[bytes]:
    """Announces a terabyte."""
    yield OK + b"Content-Length: 1000000000000\r\n\r\n["


def endless_pages(target: str, _closing: threading.Event) -> Iterator[bytes]:
    """A tree of which every page names another one."""
    if "/tree/" not in target:
        yield from _json({"id": "acme/model", "sha": "a" * 40, "siblings": []})
        return
    number = int(target.rpartition("cursor=")[2] or 0) if "cursor=" in target else 0
    link = f'Link: <{target.partition("?")[0]}?cursor={number + 1}>; rel="next"\r\n'
    entries = [{"type": "file", "path": f"{number}-{one}", "size": 1, "oid": "b" * 40} for one in range(100)]
    yield from _json(entries, link.encode())


def one_page_for_ever(target: str, _closing: threading.Event) -> Iterator[bytes]:
    """A tree of empty pages, each naming the next."""
    if "/tree/" not in target:
        yield from _json({"id": "acme/model", "sha": "a" * 40, "siblings": []})
        return
    yield from _json([], f'Link: <{target}&more=1>; rel="next"\r\n'.encode())


def _json(value: object, headers: bytes = b"") -> Iterator[bytes]:
    body = json.dumps(value).encode()
    yield OK + headers + b"Content-Length: %d\r\n\r\n" % len(body) + body
