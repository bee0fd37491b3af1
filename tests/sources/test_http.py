"""Bytes over HTTP: what is retried, what is final, and where credentials go."""

from __future__ import annotations

import gzip
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundler.errors import NetworkError
from bundler.sources.http import (
    MAX_REDIRECTS,
    ChangedUpstreamError,
    Hop,
    HttpByteSource,
    ResponseCheck,
    Timeouts,
    TransientError,
    accept_all,
    bearer,
    no_headers,
    pinned,
    same_origin,
    session,
    shown_url,
)
from tests.servers.http import Fault, FileServer

DATA = os.urandom(300_000)
PATH = "/org/model/resolve/main/file.bin"
SECRET = "hf_" + "secret" * 4
QUICK = Timeouts(connect=0.5, stall=0.3)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer({PATH: DATA}) as running:
        yield running


@pytest.fixture
def other() -> Iterator[FileServer]:
    with FileServer({PATH: DATA}) as running:
        yield running


def _source(
    server: FileServer,
    *,
    path: str = PATH,
    size: int | None = len(DATA),
    token: str | None = None,
    check: ResponseCheck = accept_all,
    timeouts: Timeouts = QUICK,
) -> HttpByteSource:
    url = server.url + path
    headers = bearer(lambda: token, url) if token else no_headers
    return HttpByteSource(
        url=url, size=size, session=session(), headers=headers, check=check, timeouts=timeouts
    )


def _read(source: HttpByteSource, offset: int = 0) -> bytes:
    with source.open(offset) as body:
        return b"".join(body)


def _refusal(source: HttpByteSource, offset: int = 0) -> NetworkError:
    with pytest.raises(NetworkError) as caught:
        _read(source, offset)
    text = " ".join(map(str, caught.value.findings)) + repr(caught.value) + repr(source)
    assert SECRET not in text
    return caught.value


def _read_until_refused(source: HttpByteSource) -> tuple[bytes, TransientError]:
    got = bytearray()

    def read() -> None:
        with source.open(0) as body:
            for piece in body:
                got.extend(piece)

    with pytest.raises(TransientError) as caught:
        read()
    return bytes(got), caught.value


def test_the_bytes_come_from_the_start(server: FileServer) -> None:
    assert _read(_source(server)) == DATA
    (seen,) = server.gets(PATH)
    assert "range" not in seen.headers
    assert seen.headers["accept-encoding"] == "identity"
    assert seen.headers["user-agent"].startswith("sealift/")


@pytest.mark.parametrize("offset", [1, 123_456, len(DATA) - 1])
def test_the_bytes_come_from_any_offset(server: FileServer, offset: int) -> None:
    assert _read(_source(server), offset) == DATA[offset:]
    (seen,) = server.gets(PATH)
    assert seen.headers["range"] == f"bytes={offset}-"
    assert seen.sent == len(DATA) - offset


@pytest.mark.parametrize("offset", [1, 70_000, 299_999])
def test_a_server_without_ranges_is_read_from_the_start(server: FileServer, offset: int) -> None:
    server.always[PATH] = Fault(no_range=True)
    assert _read(_source(server), offset) == DATA[offset:]


def test_a_chunked_body_is_read(server: FileServer) -> None:
    server.always[PATH] = Fault(extra=b"more")
    assert _read(_source(server)) == DATA + b"more"


def test_another_range_than_the_asked_one_is_refused(server: FileServer) -> None:
    server.always[PATH] = Fault(shift_range=5)
    error = _refusal(_source(server), 1000)
    assert error.reference == "bad-range"
    assert error.findings[0].expected == "Content-Range: bytes 1000-"
    assert error.findings[0].found == "Content-Range: bytes 1005-299999/300000"


@pytest.mark.parametrize("value", ["", "bytes 1000-2000", "bytes */300000", "items 1000-299999/300000"])
def test_a_range_that_cannot_be_read_is_refused(server: FileServer, value: str) -> None:
    server.always[PATH] = Fault(headers={"Content-Range": value})
    assert _refusal(_source(server), 1000).reference == "bad-range"


@pytest.mark.parametrize("offset", [0, 1000])
def test_a_file_of_another_size_is_a_changed_upstream(server: FileServer, offset: int) -> None:
    error = _refusal(_source(server, size=len(DATA) + 7), offset)
    assert isinstance(error, ChangedUpstreamError)
    assert error.reference == "size-changed"
    assert error.findings[0].expected == "300007 bytes"
    assert error.findings[0].found == "300000 bytes"


@pytest.mark.parametrize(
    ("coding", "found"),
    [("br", "Content-Encoding: br"), ("gzip", "incorrect header check")],
    ids=["a coding we cannot undo", "no gzip at all"],
)
def test_a_coded_body_is_refused(server: FileServer, coding: str, found: str) -> None:
    server.always[PATH] = Fault(headers={"Content-Encoding": coding})
    error = _refusal(_source(server))
    assert error.reference == "encoded-body"
    assert found in error.findings[0].found


def _gzipped(server: FileServer, **more: Any) -> None:
    server.files[PATH] = gzip.compress(DATA[:100_000]) + gzip.compress(DATA[100_000:])
    server.always[PATH] = Fault(headers={"Content-Encoding": "gzip"}, **more)


@pytest.mark.parametrize("offset", [0, 1, 99_999, 150_000])
def test_a_body_compressed_on_the_way_is_unpacked(server: FileServer, offset: int) -> None:
    _gzipped(server)
    assert _read(_source(server), offset) == DATA[offset:]


def test_a_compressed_body_that_ends_early_may_be_tried_again(server: FileServer) -> None:
    _gzipped(server, short=50)
    with pytest.raises(TransientError) as caught:
        _read(_source(server))
    assert caught.value.reference == "dropped"


@pytest.mark.parametrize(
    ("status", "reference"),
    [
        (401, "not-authorised"),
        (403, "forbidden"),
        (404, "not-found"),
        (410, "gone"),
        (416, "range-refused"),
        (405, "refused"),
        (451, "refused"),
        (304, "refused"),
        (204, "refused"),
    ],
)
def test_what_will_not_change_by_itself_is_final(server: FileServer, status: int, reference: str) -> None:
    server.always[PATH] = Fault(status=status)
    error = _refusal(_source(server, token=SECRET))
    assert not isinstance(error, TransientError)
    finding = error.findings[0]
    assert (finding.reference, finding.where) == (reference, server.url + PATH)
    assert finding.found == f"HTTP status {status}"


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_what_may_pass_is_transient(server: FileServer, status: int) -> None:
    server.always[PATH] = Fault(status=status, headers={"Retry-After": "7"})
    error = _refusal(_source(server))
    assert isinstance(error, TransientError)
    assert error.reference == "server-busy"
    assert error.retry_after == 7.0


def test_a_dropped_body_gives_what_had_arrived_and_is_transient(server: FileServer) -> None:
    server.always[PATH] = Fault(drop_after=100_000)
    got, error = _read_until_refused(_source(server))
    assert error.reference == "dropped"
    assert got == DATA[:100_000]


def test_a_stalled_body_gives_what_had_arrived_and_is_transient(server: FileServer) -> None:
    server.always[PATH] = Fault(stall_after=100_000)
    began = time.monotonic()
    got, error = _read_until_refused(_source(server))
    assert error.reference == "stalled"
    assert got == DATA[:100_000]
    assert time.monotonic() - began < 3


def test_a_server_that_drips_is_stalled_too(server: FileServer) -> None:
    server.always[PATH] = Fault(drip=0.05)
    error = _refusal(_source(server))
    assert isinstance(error, TransientError)
    assert error.reference == "stalled"
    assert error.findings[0].expected == "512 bytes a second"


def test_a_slow_reader_of_a_good_server_is_not_called_a_stall(server: FileServer) -> None:
    with _source(server, timeouts=Timeouts(stall=0.05, floor=10**9)).open(0) as body:
        got = bytearray()
        for piece in body:
            got += piece
            time.sleep(0.1)
    assert bytes(got) == DATA


def test_a_server_that_takes_the_request_and_says_nothing_is_stalled(server: FileServer) -> None:
    server.always[PATH] = Fault(silent=True)
    error = _refusal(_source(server))
    assert isinstance(error, TransientError)
    assert error.reference == "stalled"


def test_nobody_listening_is_transient_and_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    error = _refusal(HttpByteSource(url=f"http://127.0.0.1:{port}/x", session=session(), timeouts=QUICK))
    assert isinstance(error, TransientError)
    assert error.reference == "unreachable"
    assert error.findings[0].found == "Connection refused"


def test_no_tls_where_tls_was_asked_is_transient(server: FileServer) -> None:
    url = server.url.replace("http:", "https:") + PATH
    error = _refusal(HttpByteSource(url=url, session=session(), timeouts=QUICK))
    assert isinstance(error, TransientError)


@pytest.mark.parametrize(
    "url",
    ["ftp://127.0.0.1/x", "file:///etc/passwd", "http://", "http://[::1", "http://h:0/", "x", "http://a:b/"],
)
def test_other_urls_are_not_opened(url: str) -> None:
    error = _refusal(HttpByteSource(url=url, session=session()))
    assert error.reference == "bad-url"
    assert not isinstance(error, TransientError)


def test_a_read_that_waits_is_ended_from_another_thread(server: FileServer) -> None:
    server.always[PATH] = Fault(stall_after=1000)
    source = _source(server, timeouts=Timeouts(stall=30))
    with source.open(0) as body:
        assert next(body) == DATA[:1000]
        threading.Timer(0.1, body.abort).start()
        began = time.monotonic()
        with pytest.raises((TransientError, StopIteration)):
            next(body)
        assert time.monotonic() - began < 5
    body.abort()  # afterwards: nothing happens


def test_redirects_are_followed_and_every_attempt_begins_at_the_first_url(
    server: FileServer, other: FileServer
) -> None:
    server.always["/start"] = Fault(redirect=f"{other.url}{PATH}?signature={SECRET}")
    server.files["/start"] = b""
    other.files[f"{PATH}?signature={SECRET}"] = DATA
    source = _source(server, path="/start")
    assert _read(source) == DATA
    assert _read(source, 1000) == DATA[1000:]
    assert len(server.gets("/start")) == 2


def test_a_relative_redirect_stays_with_its_server_and_keeps_the_token(server: FileServer) -> None:
    server.files["/start"] = b""
    server.always["/start"] = Fault(redirect=PATH)
    assert _read(_source(server, path="/start", token=SECRET)) == DATA
    (seen,) = server.gets(PATH)
    assert seen.headers["authorization"] == f"Bearer {SECRET}"


def test_the_token_does_not_go_to_another_origin_nor_back_again(
    server: FileServer, other: FileServer
) -> None:
    server.files["/start"] = other.files["/middle"] = b""
    server.always["/start"] = Fault(redirect=f"{other.url}/middle", headers={"Set-Cookie": "session=1"})
    other.always["/middle"] = Fault(redirect=f"{server.url}{PATH}")
    assert _read(_source(server, path="/start", token=SECRET)) == DATA
    sent = [(seen.path, "authorization" in seen.headers) for seen in server.requests + other.requests]
    assert sent == [("/start", True), (PATH, False), ("/middle", False)]
    assert not any("cookie" in seen.headers for seen in server.requests + other.requests)


def test_a_password_file_of_the_user_is_not_sent(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text(f"machine 127.0.0.1 login me password {SECRET}\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    assert _read(_source(server)) == DATA
    assert "authorization" not in server.gets(PATH)[0].headers


def test_a_ring_of_redirects_ends(server: FileServer) -> None:
    server.always[PATH] = Fault(redirect=PATH)
    error = _refusal(_source(server, token=SECRET))
    assert error.reference == "redirect"
    assert error.findings[0].found == f"more than {MAX_REDIRECTS} redirects"
    assert len(server.gets(PATH)) == MAX_REDIRECTS + 1


@pytest.mark.parametrize(
    ("target", "reference"),
    [
        ("file:///etc/passwd", "bad-url"),
        ("ftp://127.0.0.1/x", "bad-url"),
        (f"http://me:{SECRET}@127.0.0.1/x", "redirect"),
        ("http://[::1", "bad-url"),
    ],
)
def test_redirects_to_anything_but_a_plain_url_are_not_followed(
    server: FileServer, target: str, reference: str
) -> None:
    server.always[PATH] = Fault(redirect=target)
    assert _refusal(_source(server)).reference == reference


def test_a_redirect_from_https_to_http_is_not_followed() -> None:
    from bundler.sources.http import _redirected

    with pytest.raises(NetworkError) as caught:
        _redirected(f"https://hub.example/x?key={SECRET}", "http://hub.example/y", 1)
    assert caught.value.reference == "redirect"
    assert caught.value.findings[0].found == "from https to http, where anyone can change the bytes"
    assert SECRET not in str(caught.value.findings)
    assert _redirected("http://hub.example/x", "https://hub.example/y", 1) == "https://hub.example/y"


COMMIT = "0123456789abcdef" * 2 + "01234567"


def test_a_hub_that_serves_the_locked_revision_is_accepted(server: FileServer, other: FileServer) -> None:
    headers = {"X-Repo-Commit": COMMIT, "ETag": '"other"', "X-Linked-Etag": 'W/"tag"'}
    server.always[PATH] = Fault(redirect=other.url + PATH, headers=headers)
    other.extra_headers = {"ETag": '"of the storage"'}
    assert _read(_source(server, check=pinned(etag="tag", x_repo_commit=COMMIT))) == DATA


@pytest.mark.parametrize(
    ("headers", "expected", "found"),
    [
        (
            {"X-Repo-Commit": "f" * 40, "ETag": '"tag"'},
            f"x-repo-commit: {COMMIT}",
            f"x-repo-commit: {'f' * 40}",
        ),
        ({"X-Repo-Commit": COMMIT, "ETag": '"moved"'}, "etag: tag", "etag: moved"),
        ({"X-Repo-Commit": COMMIT, "ETag": '"tag"', "X-Linked-Etag": "moved"}, "etag: tag", "etag: moved"),
    ],
    ids=["another commit", "another etag", "another linked etag"],
)
def test_a_hub_that_moved_on_is_a_changed_upstream(
    server: FileServer, headers: dict[str, str], expected: str, found: str
) -> None:
    server.extra_headers = headers
    error = _refusal(_source(server, check=pinned(etag="tag", x_repo_commit=COMMIT)))
    assert isinstance(error, ChangedUpstreamError)
    finding = error.findings[0]
    assert (finding.reference, finding.expected, finding.found) == ("upstream-changed", expected, found)
    assert "sealift lock --check" in finding.hint


def test_a_missing_file_is_missing_and_not_a_changed_upstream(server: FileServer) -> None:
    server.always[PATH] = Fault(status=404)
    assert _refusal(_source(server, check=pinned(x_repo_commit=COMMIT))).reference == "not-found"


def test_a_check_of_the_source_sees_failures_first(server: FileServer) -> None:
    def gated(hops: object) -> None:
        assert isinstance(hops, list)
        assert [hop.status for hop in hops] == [403]
        raise NetworkError("gated", "accept the terms first")

    server.always[PATH] = Fault(status=403)
    assert _refusal(_source(server, check=gated)).reference == "gated"


def test_an_etag_that_changes_between_two_parts_is_a_changed_upstream(server: FileServer) -> None:
    server.extra_headers = {"ETag": '"one"'}
    source = _source(server)
    assert _read(source) == DATA
    assert _read(source, 1000) == DATA[1000:]
    assert server.gets(PATH)[-1].headers["if-range"] == '"one"'
    server.extra_headers = {"ETag": '"two"'}
    error = _refusal(source, 1000)
    assert isinstance(error, ChangedUpstreamError)
    assert error.findings[0].expected == 'etag: "one"'
    assert error.findings[0].found == 'etag: "two"'


def test_head_tells_size_and_sends_no_body(server: FileServer) -> None:
    hop = _source(server).head()
    assert (hop.status, hop.headers["content-length"]) == (200, "300000")
    assert [seen.method for seen in server.requests] == ["HEAD"]


def test_the_secret_is_in_no_repr(server: FileServer) -> None:
    url = f"{server.url}{PATH}?token={SECRET}".replace("http://", f"http://me:{SECRET}@")
    source = HttpByteSource(url=url, session=session(), headers=bearer(lambda: SECRET, url))
    assert repr(source) == f"HttpByteSource({server.url}{PATH})"
    assert SECRET not in repr(source.headers)


def test_a_traceback_of_a_lost_connection_holds_no_secret(server: FileServer) -> None:
    import traceback

    server.always[PATH] = Fault(redirect=f"http://127.0.0.1:1/x?signature={SECRET}")
    try:
        _read(_source(server, token=SECRET))
    except NetworkError as error:
        text = "".join(traceback.format_exception(error))
    assert "unreachable" in text
    assert SECRET not in text


@pytest.mark.parametrize("token", [f"{SECRET}\n", f"{SECRET}\r\nX-Evil: 1", f"{SECRET}\u2028"])
def test_a_token_that_is_no_header_value_is_neither_sent_nor_shown(server: FileServer, token: str) -> None:
    error = _refusal(_source(server, token=token))
    assert error.reference == "bad-header"
    assert error.findings[0].where == f"Authorization for {server.url}{PATH}"
    assert server.requests == []


def test_the_body_of_a_redirect_is_not_read(server: FileServer) -> None:
    server.files["/start"] = b"x" * 50_000_000
    server.always["/start"] = Fault(headers={"Location": PATH}, ok_status=302)
    assert _read(_source(server, path="/start")) == DATA
    assert server.sent("/start") < 20_000_000


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        ("http://hub.example/a", "http://hub.example:80/b", True),
        ("https://hub.example/a", "https://HUB.example:443/b", True),
        ("http://hub.example", "https://hub.example", False),
        ("https://hub.example", "https://hub.example:8443", False),
        ("https://hub.example", "https://hub.example.evil", False),
        ("https://hub.example", "https://hub.example@evil", False),
    ],
)
def test_an_origin_is_scheme_host_and_port(one: str, two: str, same: bool) -> None:
    assert same_origin(one, two) is same


@given(st.text(min_size=1), st.text())
def test_no_url_shows_what_stands_before_the_host_or_behind_the_path(secret: str, rest: str) -> None:
    quoted = secret.encode().hex()
    assert quoted + "x" not in shown_url(f"https://u:{quoted}x@h.example/p?{quoted}x#{quoted}x{rest}")


NOW = 1_800_000_000.0


def test_pinned_compares_header_names_in_any_case() -> None:
    class Upper(dict[str, str]):
        def __contains__(self, name: object) -> bool:
            return super().__contains__(str(name).title())

        def __getitem__(self, name: str) -> str:
            return super().__getitem__(name.title())

    headers: Mapping[str, str] = Upper({"X-Repo-Commit": COMMIT})
    pinned(x_repo_commit=COMMIT)([Hop(url="http://h/", status=200, headers=headers)])
