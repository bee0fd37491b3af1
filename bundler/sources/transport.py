"""Connections: how long a head may take, which proxy is used, and which certificates are believed.

`requests` has a time limit for each receive, so a server that sends a header's byte a second holds it for
days. Here everything before the body (TLS, a proxy's tunnel, status line and headers) has one limit by the
clock.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.poolmanager import PoolManager

from bundler import __version__
from bundler.sources.surroundings import certificate_store


def session(*, connections: int = 32) -> requests.Session:
    """A session for downloads: no cookies, no ~/.netrc, no retries of its own.

    Proxies are those of the environment, never for this machine itself. It may be shared by threads;
    `connections` to one host stay open.
    """
    made = _Session()
    adapter = _Adapter(pool_maxsize=connections, max_retries=0)
    made.mount("http://", adapter)
    made.mount("https://", adapter)
    made.headers["User-Agent"] = f"sealift/{__version__}"
    # An auth of its own keeps requests from adding the host's ~/.netrc password to whatever URL comes by.
    made.auth = _leave_as_is
    made.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    return made


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine."""
    name = host.strip("[]").rstrip(".").lower()
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        # RFC 6761 section 6.3: the name and everything below it.
        return name == "localhost" or name.endswith(".localhost")


class _Session(requests.Session):
    def resolve_redirects(self, *_given: Any, **_named: Any) -> Iterator[Any]:
        """Nothing: redirects are followed by `sources.http`, and requests would read their bodies whole."""
        return iter(())

    def merge_environment_settings(self, url: Any, proxies: Any, *rest: Any) -> Any:
        """The environment's proxies, but none for this machine: a proxy would see a token meant for it."""
        settings: Any = super().merge_environment_settings(url, proxies, *rest)
        if is_loopback(urlsplit(str(url)).hostname or ""):
            settings["proxies"] = {}
        if settings["verify"] is True:
            settings["verify"] = certificate_store(os.environ) or True
        return settings


def _leave_as_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


@contextmanager
def _in_time(connection: Any, seconds: Any) -> Iterator[None]:
    """Within this block the socket's peer has so many seconds. Raises TimeoutError when they are over."""
    if not isinstance(seconds, (int, float)):
        yield
        return
    over = threading.Event()
    # A second descriptor: the connection may wrap its own in TLS meanwhile, or close it.
    twin = socket.socket(fileno=os.dup(connection.fileno()))

    def end() -> None:
        over.set()
        try:
            twin.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # the other side, or we, ended it already

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except Exception as error:
        if over.is_set():
            raise TimeoutError("the answer did not begin in time") from error
        raise
    finally:
        timer.cancel()
        twin.close()
    # Cut off in the middle, headers look complete to http.client.
    if over.is_set():
        raise TimeoutError("the answer did not begin in time")


class _Hurried:
    """Mixed into a connection: connecting as a whole, and the head of an answer as a whole, have a limit."""

    _connecting: ExitStack | None = None

    def connect(self) -> None:
        """Connect, with proxy tunnel and TLS inside one time limit."""
        with ExitStack() as self._connecting:
            super().connect()  # type: ignore[misc]
        self._connecting = None

    def _new_conn(self) -> Any:
        made = super()._new_conn()  # type: ignore[misc]
        if self._connecting is not None:
            self._connecting.enter_context(_in_time(made, getattr(self, "timeout", None)))
        return made

    def getresponse(self) -> Any:
        """The answer's status and headers, all of them in time."""
        with _in_time(getattr(self, "sock"), getattr(self, "timeout", None)):  # noqa: B009 - a mixin
            return super().getresponse()  # type: ignore[misc]


class _Connection(_Hurried, HTTPConnection):
    pass


class _TlsConnection(_Hurried, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


_POOLS: Mapping[str, type[HTTPConnectionPool]] = {"http": _Pool, "https": _TlsPool}


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *given: Any, **named: Any) -> None:
        """Pools with our connections."""
        super().init_poolmanager(*given, **named)
        self.poolmanager.pool_classes_by_scheme = dict(_POOLS)

    def proxy_manager_for(self, proxy: Any, **named: Any) -> Any:
        """The same behind a proxy; a SOCKS proxy brings connections of its own."""
        manager: PoolManager = super().proxy_manager_for(proxy, **named)
        if not str(proxy).lower().startswith("socks"):
            manager.pool_classes_by_scheme = dict(_POOLS)
        return manager
