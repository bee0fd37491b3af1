"""A client for container registries: manifests, referrers and blobs.

https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md (pull, referrers). Transport,
redirects and faults are those of `sources.http`; this module adds who we are. The password goes to the
registry (Basic) or to its token service (Bearer) only, and no error repeats a header or a query.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlencode, urljoin, urlsplit

import requests

from bundler.content.oci import INDEX_TYPES, MANIFEST_LIMIT, MANIFEST_TYPES, OCI_INDEX, Descriptor
from bundler.core.specs.image_reference import is_oci_digest
from bundler.errors import IntegrityError, MalformedError, NetworkError
from bundler.sources.http import (
    Body,
    Hop,
    HttpByteSource,
    Timeouts,
    same_origin,
    session,
    shown_url,
)
from bundler.sources.images.registry_auth import (
    Challenge,
    Credentials,
    DockerConfig,
    check_realm,
    is_loopback,
)
from bundler.sources.retry import RetryPolicy, TransientError, asked_wait, is_busy, persistently

ACCEPT = ", ".join(sorted(INDEX_TYPES | MANIFEST_TYPES))
TOKEN_LIMIT = 1 << 20
"""Bytes of a token service's answer."""
MAX_REFERRER_PAGES = 50
MAX_AUTHORIZATIONS = 2
"""Challenges answered for one request: a token that ran out while it waited, and the one that replaces it."""
_NEXT = re.compile(r'<([^>]+)>\s*;\s*rel="?next"?')
Value = TypeVar("Value")
Refused = TypeVar("Refused", bound=NetworkError)


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedManifest:
    """A manifest's bytes, hashed, with the media type it was served as."""

    data: bytes
    media_type: str
    digest: str


class _Challenged(Exception):
    """The registry wants to know who asks; `used` is the Authorization it did not take."""

    def __init__(self, header: str, used: str) -> None:
        super().__init__("challenged")
        self.header = header
        self.used = used


class RegistryClient:
    """One registry, asked with pull rights. Safe to use from several threads."""

    def __init__(
        self,
        host: str,
        *,
        plain_http: bool = False,
        config: DockerConfig | None = None,
        retries: RetryPolicy | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        self.host = host
        self.url = f"{'http' if plain_http else 'https'}://{host}"
        self._config = DockerConfig.read() if config is None else config
        self._retries = retries or RetryPolicy()
        self._timeouts = timeouts or Timeouts()
        self._session = session()
        self._guard = threading.Lock()
        self._authorizations: dict[str, str] = {}
        self._credentials: tuple[Credentials | None] | None = None
        self._lacks_referrers = False

    def manifest(self, repository: str, target: str) -> FetchedManifest:
        """The manifest or index under a tag or digest, its bytes checked against the digest.

        Raises NetworkError (`image-not-found`, `registry-unauthorized`, `registry-forbidden`, those of
        `sources.http`), MalformedError (`unsupported-manifest`, `manifest-too-large`) and IntegrityError
        (`manifest-digest-mismatch`).
        """
        return self._retrying(lambda: self._manifest(repository, target))

    def optional_manifest(self, repository: str, target: str) -> FetchedManifest | None:
        """As `manifest`, but None when the registry has nothing under that name."""
        try:
            return self.manifest(repository, target)
        except NetworkError as error:
            if error.reference == "image-not-found":
                return None
            raise

    def referrers(self, repository: str, digest: str) -> tuple[Mapping[str, Any], ...] | None:
        """Raw descriptors of what refers to `digest`; None when the registry has no referrers API."""
        if self._lacks_referrers:
            return None
        path = f"/v2/{repository}/referrers/{digest}"
        found: list[Mapping[str, Any]] = []
        for _ in range(MAX_REFERRER_PAGES):
            page = self._retrying(lambda path=path: self._referrers_page(path, repository, digest))  # type: ignore[misc]
            if page is None:
                self._lacks_referrers = True
                return None
            listed, path = page
            found += listed
            if not path:
                return tuple(found)
        raise _too_large(
            "too-many-referrers", _where(self.host, repository, digest), f"{MAX_REFERRER_PAGES} pages", "more"
        )

    def small_blob(self, repository: str, descriptor: Descriptor, limit: int) -> bytes:
        """A whole blob of at most `limit` bytes, its size and digest checked.

        Raises MalformedError (`blob-too-large`), IntegrityError (`blob-digest-mismatch`), NetworkError.
        """
        where = _where(self.host, repository, descriptor.digest)
        if descriptor.size > limit:
            raise _too_large("blob-too-large", where, f"{limit} bytes", f"{descriptor.size} bytes")

        def fetch() -> bytes:
            with self.open_blob(repository, descriptor.digest, 0) as pieces:
                return _read_capped(pieces, descriptor.size, "blob-too-large", where)

        data = self._retrying(fetch)
        _check_digest(data, descriptor.digest, where, "blob-digest-mismatch")
        return data

    @contextmanager
    def open_blob(self, repository: str, digest: str, offset: int, size: int | None = None) -> Iterator[Body]:
        """The bytes of a blob from `offset`, as they come: *not* hashed here, and not retried."""
        assert is_oci_digest(digest)
        path = f"/v2/{repository}/blobs/{digest}"
        with self._open(path, repository, offset=offset, size=size) as (_, body):
            yield body

    @contextmanager
    def open_manifest(self, repository: str, digest: str, offset: int, size: int) -> Iterator[Body]:
        """As `open_blob`, for the bytes of a manifest that is known by digest and size."""
        assert is_oci_digest(digest)
        path = f"/v2/{repository}/manifests/{digest}"
        with self._open(path, repository, accept=ACCEPT, offset=offset, size=size) as (_, body):
            yield body

    # --- single attempts ---

    def _manifest(self, repository: str, target: str) -> FetchedManifest:
        where = _where(self.host, repository, target)
        with self._open(f"/v2/{repository}/manifests/{target}", repository, accept=ACCEPT) as (last, body):
            media_type = _media_type(last)
            if media_type not in INDEX_TYPES | MANIFEST_TYPES:
                raise _wrong_type(where, media_type)
            data = _read_capped(body, MANIFEST_LIMIT, "manifest-too-large", where, last)
        expected = target if is_oci_digest(target) else last.headers.get("docker-content-digest", "")
        if expected:
            _check_digest(data, expected, where, "manifest-digest-mismatch")
        return FetchedManifest(data=data, media_type=media_type, digest=_digest(data))

    def _referrers_page(
        self, path: str, repository: str, digest: str
    ) -> tuple[list[Mapping[str, Any]], str] | None:
        """One page and the path of the next; None when there is no such API.

        A registry without it answers 404 (distribution-spec 1.1, "Unavailable Referrers API"), or any
        path with a page of its own.
        """
        where = _where(self.host, repository, digest)
        try:
            with self._open(path, repository, accept=OCI_INDEX) as (last, body):
                if _media_type(last) != OCI_INDEX:
                    return None
                data = _read_capped(body, MANIFEST_LIMIT, "manifest-too-large", where, last)
        except NetworkError as error:
            if error.reference == "image-not-found":
                return None
            raise
        following = _NEXT.search(last.headers.get("link", ""))
        return _read_referrers(data, where), self._own_path(following[1], where) if following else ""

    def _own_path(self, link: str, where: str) -> str:
        """Path and query of a `Link`, which must stay on this registry."""
        target = urljoin(self.url, link)
        if not same_origin(target, self.url):
            raise _bad_referrers(where, self.url, shown_url(target))
        parts = urlsplit(target)
        return f"{parts.path}?{parts.query}"

    # --- one request ---

    @contextmanager
    def _open(
        self, path: str, repository: str, *, accept: str = "*/*", offset: int = 0, size: int | None = None
    ) -> Iterator[tuple[Hop, Body]]:
        """The last answer and its body; a challenge is answered, then the request made again."""
        with ExitStack() as opened:
            for left in range(MAX_AUTHORIZATIONS, -1, -1):
                exchange = _Exchange(self.url, accept, self._authorizations.get(repository, ""), repository)
                source = HttpByteSource(
                    url=self.url + path,
                    session=self._session,
                    size=size,
                    headers=exchange.headers,
                    check=exchange.check,
                    timeouts=self._timeouts,
                )
                try:
                    body = opened.enter_context(source.open(offset))
                except _Challenged as challenged:
                    if not left:
                        raise _unauthorized(self.host, repository, bool(challenged.used)) from None
                    self._authorize(repository, challenged)
                else:
                    break
            yield exchange.last, body

    def _authorize(self, repository: str, challenged: _Challenged) -> None:
        """Fetch the `Authorization` that answers a challenge: once, whichever thread comes first."""
        with self._guard:
            if self._authorizations.get(repository, "") != challenged.used:
                return
            challenge = Challenge.parse(challenged.header)
            if challenge.scheme == "bearer":
                fresh = "Bearer " + self._token(challenge, repository)
            elif challenge.scheme == "basic" and (credentials := self._login()):
                fresh = credentials.basic
            else:
                raise _unauthorized(self.host, repository, given=False)
            # Basic has nothing to renew: the same password again would only lock the account.
            if fresh == challenged.used:
                raise _unauthorized(self.host, repository, given=True)
            self._authorizations[repository] = fresh

    def _login(self) -> Credentials | None:
        """This registry's credentials, looked up once. Over plain HTTP they only go to loopback."""
        if self._credentials is None:
            self._credentials = (self._config.credentials(self.host),)
        found = self._credentials[0]
        parts = urlsplit(self.url)
        if found and parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            raise NetworkError(
                "credentials-over-plain-http",
                "a password would cross the network unprotected",
                where=self.url,
                expected="https, or a registry on this machine",
                found="plainHttp with credentials",
                hint=f"remove plainHttp from the image, or `docker logout {self.host}`",
            )
        return found

    def _token(self, challenge: Challenge, repository: str) -> str:
        """A bearer token with pull rights on `repository`, from the service the challenge names."""
        realm = challenge.parameters.get("realm", "")
        check_realm(realm, registry_url=self.url)
        asked = {"scope": f"repository:{repository}:pull"}
        if "service" in challenge.parameters:
            asked["service"] = challenge.parameters["service"]
        credentials = self._login()
        if credentials and credentials.identity_token:
            data = self._exchange_identity(realm, asked, credentials)
        else:
            data = self._ask_token(realm, asked, credentials)
        return _read_token(data, shown_url(realm))

    def _ask_token(self, realm: str, asked: Mapping[str, str], credentials: Credentials | None) -> bytes:
        joint = "&" if urlsplit(realm).query else "?"
        own = {"Authorization": credentials.basic} if credentials else {}
        source = HttpByteSource(
            url=f"{realm}{joint}{urlencode(asked)}",
            session=self._session,
            headers=lambda url: own if same_origin(url, realm) else {},
            check=lambda hops: self._check_token_status(hops[-1].status, hops[-1].headers, realm),
            timeouts=self._timeouts,
        )
        with source.open(0) as body:
            return _read_capped(body, TOKEN_LIMIT, "token-too-large", shown_url(realm))

    def _exchange_identity(self, realm: str, asked: Mapping[str, str], credentials: Credentials) -> bytes:
        """An identity token is exchanged by POST (distribution spec/auth/oauth)."""
        form = {
            **asked,
            "grant_type": "refresh_token",
            "client_id": "sealift",
            "refresh_token": credentials.identity_token,
        }
        times = (self._timeouts.connect, self._timeouts.stall)
        try:
            response = self._session.post(realm, data=form, stream=True, allow_redirects=False, timeout=times)
            with closing(response):
                self._check_token_status(response.status_code, response.headers, realm)
                pieces = response.iter_content(1 << 16)
                return _read_capped(pieces, TOKEN_LIMIT, "token-too-large", shown_url(realm))
        except requests.RequestException as error:
            raise _token_refused(realm, type(error).__name__, TransientError) from None

    def _check_token_status(self, status: int, headers: Mapping[str, str], realm: str) -> None:
        if status in (400, 401, 403):
            raise NetworkError(
                "registry-login-refused",
                "the token service does not accept our credentials",
                where=shown_url(realm),
                expected=f"credentials that are valid for {self.host}",
                found=f"status {status}",
                hint=f"`docker login {self.host}` again; its answer is not shown here",
            )
        if is_busy(status):
            busy = _token_refused(realm, f"status {status}", TransientError)
            busy.retry_after = asked_wait(headers, now=time.time())
            raise busy
        if status != 200:
            raise _token_refused(realm, f"status {status}", NetworkError)

    def _retrying(self, attempt: Callable[[], Value]) -> Value:
        return persistently(attempt, policy=self._retries)


class _Exchange:
    """Headers for one request to a registry and the first look at its answers."""

    def __init__(self, registry_url: str, accept: str, authorization: str, repository: str) -> None:
        self._registry_url = registry_url
        self._accept = accept
        self._authorization = authorization
        self._repository = repository
        self.last = Hop(url="", status=0, headers={})

    def headers(self, url: str) -> Mapping[str, str]:
        """What to send to `url`: the Authorization only to the registry's own origin."""
        own = self._authorization and same_origin(url, self._registry_url)
        return {"Accept": self._accept, **({"Authorization": self._authorization} if own else {})}

    def check(self, hops: Sequence[Hop]) -> None:
        """Turn what the registry says about us and the image into words of our own."""
        self.last = last = hops[-1]
        at_home = same_origin(last.url, self._registry_url)
        if last.status == 401 and at_home:
            raise _Challenged(last.headers.get("www-authenticate", ""), self._authorization)
        if last.status == 403 and at_home:
            raise _forbidden(self._registry_url, self._repository)
        if last.status == 404:
            raise _not_found(hops[0].url)


def _where(host: str, repository: str, target: str) -> str:
    return f"{host}/{repository}{'@' if is_oci_digest(target) else ':'}{target}"


def _media_type(hop: Hop) -> str:
    return hop.headers.get("content-type", "").partition(";")[0].strip()


def _read_capped(
    pieces: Iterable[bytes], limit: int, reference: str, where: str, head: Hop | None = None
) -> bytes:
    """All bytes, at most `limit`; an announced length beyond it is refused before anything is read."""
    announced = head.headers.get("content-length", "") if head else ""
    if announced.isdigit() and int(announced) > limit:
        raise _too_large(reference, where, f"{limit} bytes", f"{announced[:20]} bytes announced")
    data = bytearray()
    for piece in pieces:
        data += piece
        if len(data) > limit:
            raise _too_large(reference, where, f"{limit} bytes", "more")
    return bytes(data)


def _read_referrers(data: bytes, where: str) -> list[Mapping[str, Any]]:
    try:
        listed = json.loads(data)["manifests"]
    except (ValueError, KeyError, TypeError, RecursionError):
        listed = None
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise _bad_referrers(where, "an OCI index", "something else")
    return listed


def _read_token(data: bytes, where: str) -> str:
    try:
        value = json.loads(data)
        token = value.get("token") or value.get("access_token")
    except (ValueError, AttributeError, RecursionError):
        token = None
    # The token becomes a header: no line break may come along with it.
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


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _check_digest(data: bytes, expected: str, where: str, reference: str) -> None:
    found = _digest(data)
    if found != expected:
        raise IntegrityError(
            reference,
            "a registry hands out bytes that are not what their digest says",
            where=where,
            expected=expected[:80],
            found=found,
            hint="try again; if it stays so, ask whoever runs the registry or the proxy in between",
        )


def _too_large(reference: str, where: str, limit: str, found: str) -> MalformedError:
    return MalformedError(
        reference,
        "a registry sends more than is read of such a document",
        where=where,
        expected=f"at most {limit}",
        found=found,
        hint="distrust this image: documents of that size have no honest use",
    )


def _wrong_type(where: str, media_type: str) -> MalformedError:
    return MalformedError(
        "unsupported-manifest",
        "a registry sends something that is no image manifest",
        where=where,
        expected=ACCEPT,
        found=f"Content-Type {media_type!r}"[:200],
        hint="check the reference; a web page in its place means that no registry is there",
    )


def _bad_referrers(where: str, expected: str, found: str) -> MalformedError:
    return MalformedError(
        "bad-referrers",
        "the list of an image's signatures and attestations cannot be read",
        where=where,
        expected=expected,
        found=found[:200],
        hint="ask whoever runs the registry",
    )


def _unauthorized(host: str, repository: str, given: bool) -> NetworkError:
    return NetworkError(
        "registry-unauthorized",
        "the registry does not accept our credentials" if given else "the registry wants a login",
        where=f"{host}/{repository}",
        expected="credentials in docker's configuration that may pull",
        found="status 401 with the credentials there are" if given else "status 401, and no credentials",
        hint=f"`docker login {host}` (or `skopeo login`), or set DOCKER_CONFIG to the folder of config.json",
    )


def _forbidden(registry_url: str, repository: str) -> NetworkError:
    host = urlsplit(registry_url).netloc
    return NetworkError(
        "registry-forbidden",
        "the registry does not let this account read the image",
        where=f"{host}/{repository}",
        expected="permission to pull",
        found="status 403",
        hint=f"ask for access, then `docker login {host}`",
    )


def _not_found(url: str) -> NetworkError:
    return NetworkError(
        "image-not-found",
        "the registry does not have this image, or not this part of it",
        where=shown_url(url),
        expected="status 200",
        found="status 404",
        hint="check the reference; some registries answer 404 also when a login is needed",
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
