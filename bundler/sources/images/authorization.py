"""The `Authorization` that answers a registry's challenge: a bearer token, or a password.

https://distribution.github.io/distribution/spec/auth/token/ and spec/auth/oauth/. The password goes to the
registry (Basic) or to its token service (Bearer) only, and no error repeats a header or a query.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing
from typing import TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import requests

from bundler.errors import MalformedError, NetworkError
from bundler.sources.http import HttpByteSource, Timeouts, same_origin, shown_url
from bundler.sources.images.challenges import Challenge, parse_challenges
from bundler.sources.images.registry_auth import Credentials, DockerConfig, check_realm, is_loopback
from bundler.sources.retry import TransientError, asked_wait, is_busy

TOKEN_LIMIT = 1 << 20
"""Bytes of a token service's answer."""
Refused = TypeVar("Refused", bound=NetworkError)
ANSWERS = {"bearer": 2, "basic": 1}
"""How often one request may answer a scheme, the best scheme first: a token may have run out while it waited,
so it is replaced once; the same password twice would only lock the account."""


class Authorizations:
    """What was answered so far, by repository. Safe to use from several threads."""

    def __init__(
        self, host: str, url: str, *, config: DockerConfig, session: requests.Session, timeouts: Timeouts
    ) -> None:
        self._host = host
        self._url = url
        self._config = config
        self._session = session
        self._timeouts = timeouts
        self._guard = threading.Lock()
        self._known: dict[str, str] = {}
        self._credentials: tuple[Credentials | None] | None = None

    def of(self, repository: str) -> str:
        """The value of the `Authorization` header for `repository`; empty when none was asked for yet."""
        return self._known.get(repository, "")

    def renew(self, repository: str, header: str, *, used: str, tried: Counter[str]) -> None:
        """Answer the challenges of `header`: once, whichever thread comes first.

        `used` is the value that was refused, and `tried` counts what this request has answered before. A
        registry may offer several schemes and take only one: the next is tried when the better one fails.
        Raises NetworkError (`registry-unauthorized`, `registry-login-refused`, those of `check_realm`, ...).
        """
        with self._guard:
            if self.of(repository) == used:
                self._known[repository] = self._fresh(repository, header, used, tried)

    def _fresh(self, repository: str, header: str, used: str, tried: Counter[str]) -> str:
        refused: NetworkError | None = None
        for challenge in _best_first(parse_challenges(header)):
            if tried[challenge.scheme] >= ANSWERS[challenge.scheme]:
                continue
            tried[challenge.scheme] += 1
            try:
                answer = self._answer(challenge, repository)
            except TransientError:
                raise
            except NetworkError as error:
                refused = refused or error
                continue
            if answer not in ("", used):
                return answer
        raise refused or unauthorized(self._host, repository, given=bool(used))

    def _answer(self, challenge: Challenge, repository: str) -> str:
        if challenge.scheme == "bearer":
            return "Bearer " + self._token(challenge, repository)
        credentials = self._login()
        return credentials.basic if credentials else ""

    def _login(self) -> Credentials | None:
        """This registry's credentials, looked up once. Over plain HTTP they only go to loopback."""
        if self._credentials is None:
            self._credentials = (self._config.credentials(self._host),)
        found = self._credentials[0]
        parts = urlsplit(self._url)
        if found and parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            raise NetworkError(
                "credentials-over-plain-http",
                "a password would cross the network unprotected",
                where=self._url,
                expected="https, or a registry on this machine",
                found="plainHttp with credentials",
                hint=f"remove plainHttp from the image, or `docker logout {self._host}`",
            )
        return found

    def _token(self, challenge: Challenge, repository: str) -> str:
        """A bearer token for what the challenge asks, from the service it names."""
        realm = challenge.parameters.get("realm", "")
        check_realm(realm, registry_url=self._url)
        asked = _asked(challenge, realm, repository)
        credentials = self._login()
        if credentials and credentials.identity_token:
            data = self._exchange_identity(realm, asked, credentials)
        else:
            data = self._ask_token(realm, asked, credentials)
        return _read_token(data, shown_url(realm))

    def _ask_token(
        self, realm: str, asked: Iterable[tuple[str, str]], credentials: Credentials | None
    ) -> bytes:
        own = {"Authorization": credentials.basic} if credentials else {}
        parts = urlsplit(realm)
        query = "&".join(one for one in (parts.query, urlencode(list(asked))) if one)
        source = HttpByteSource(
            url=urlunsplit(parts._replace(query=query, fragment="")),
            session=self._session,
            headers=lambda url: own if same_origin(url, realm) else {},
            check=lambda hops: self._check_token_status(hops[-1].status, hops[-1].headers, realm),
            timeouts=self._timeouts,
        )
        with source.open(0) as body:
            return _capped(body, shown_url(realm))

    def _exchange_identity(
        self, realm: str, asked: Iterable[tuple[str, str]], credentials: Credentials
    ) -> bytes:
        """An identity token is exchanged by POST; several scopes are one value there."""
        pairs = list(asked)
        scopes = " ".join(value for name, value in pairs if name == "scope")
        form: dict[str, str] = {
            **dict(pairs),
            **({"scope": scopes} if scopes else {}),
            "grant_type": "refresh_token",
            "client_id": "sealift",
            "refresh_token": credentials.identity_token,
        }
        times = (self._timeouts.connect, self._timeouts.stall)
        try:
            response = self._session.post(realm, data=form, stream=True, allow_redirects=False, timeout=times)
            with closing(response):
                self._check_token_status(response.status_code, response.headers, realm)
                return _capped(response.iter_content(1 << 16), shown_url(realm))
        except (requests.RequestException, UnicodeError) as error:
            raise _token_refused(realm, type(error).__name__, TransientError) from None

    def _check_token_status(self, status: int, headers: Mapping[str, str], realm: str) -> None:
        if status in (400, 401, 403):
            raise NetworkError(
                "registry-login-refused",
                "the token service does not accept our credentials",
                where=shown_url(realm),
                expected=f"credentials that are valid for {self._host}",
                found=f"status {status}",
                hint=f"`docker login {self._host}` again; its answer is not shown here",
            )
        if is_busy(status):
            busy = _token_refused(realm, f"status {status}", TransientError)
            busy.retry_after = asked_wait(headers, now=time.time())
            raise busy
        if status != 200:
            raise _token_refused(realm, f"status {status}", NetworkError)


def _best_first(challenges: Iterable[Challenge]) -> list[Challenge]:
    """The challenges we can answer: tokens before passwords, which every request would carry."""
    order = list(ANSWERS)
    known = [one for one in challenges if one.scheme in ANSWERS]
    return sorted(known, key=lambda one: order.index(one.scheme))


def _asked(challenge: Challenge, realm: str, repository: str) -> list[tuple[str, str]]:
    """Service and scopes as the challenge has them; a realm that holds some already keeps them (nvcr.io)."""
    there = {name for name, _ in parse_qsl(urlsplit(realm).query, keep_blank_values=True)}
    scopes = challenge.parameters.get("scope", "").split() or [f"repository:{repository}:pull"]
    service = challenge.parameters.get("service")
    pairs = [("scope", scope) for scope in scopes] + ([("service", service)] if service else [])
    return [pair for pair in pairs if pair[0] not in there]


def _capped(pieces: Iterable[bytes], where: str) -> bytes:
    data = bytearray()
    for piece in pieces:
        data += piece
        if len(data) > TOKEN_LIMIT:
            raise MalformedError(
                "token-too-large",
                "a token service sends more than is read of its answer",
                where=where,
                expected=f"at most {TOKEN_LIMIT} bytes",
                found="more",
                hint="ask whoever runs the registry",
            )
    return bytes(data)


def _read_token(data: bytes, where: str) -> str:
    # The token becomes a header: no line break may come along with it.
    token = _stated_token(data)
    if not isinstance(token, str) or not token.isascii() or not token.isprintable():
        raise NetworkError(
            "bad-token-answer",
            "a token service gives no token",
            where=where,
            expected="JSON with token or access_token",
            found="something else (not shown)",
            hint="ask whoever runs the registry",
        )
    return token


def _stated_token(data: bytes) -> object:
    try:
        value = json.loads(data)
        return value.get("token") or value.get("access_token")
    except (ValueError, AttributeError, RecursionError):
        return None


def unauthorized(host: str, repository: str, *, given: bool) -> NetworkError:
    """The error of a registry that wants a login, or does not take the one there is."""
    return NetworkError(
        "registry-unauthorized",
        "the registry does not accept our credentials" if given else "the registry wants a login",
        where=f"{host}/{repository}",
        expected="credentials in docker's configuration that may pull",
        found="status 401 with the credentials there are" if given else "status 401, and no credentials",
        hint=f"`docker login {host}` (or `skopeo login`), or set DOCKER_CONFIG to the folder of config.json",
    )


def _token_refused(realm: str, found: str, kind: type[Refused]) -> Refused:
    return kind(
        "token-service-failed",
        "a registry's token service gives no answer that can be used",
        where=shown_url(realm),
        expected="status 200",
        found=found,
        hint="run the same command again later, or ask whoever runs the registry",
    )
