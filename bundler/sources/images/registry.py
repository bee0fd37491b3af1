"""A client for container registries: manifests, referrers and blobs.

https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md (pull, referrers). Transport,
redirects and faults are those of `sources.http`; who we are is answered by `authorization`.

What an answer to the referrers path means (a signature must not get lost because a registry is old or tired):

| answer | meaning |
| --- | --- |
| 200 with an index (OCI's type, or the members of one) | the list, page by page; `null` is an empty list |
| 200 with anything else (a web page, `{}`) | not offered: the fallback tag is read |
| 404, 400, 405, 406, 410 501 and 4xx not named below | not offered: the fallback tag is read |
| 401, 402, 403, 407, 423, 451 | refused: an error, since nobody knows what is there |
| 408, 425, 429, other 5xx | failed: tried again, then an error |
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from bundler.content.oci import (
    INDEX_TYPES,
    MANIFEST_LIMIT,
    MANIFEST_TYPES,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
)
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
from bundler.sources.images.authorization import ANSWERS, Authorizations, unauthorized
from bundler.sources.images.registry_auth import DockerConfig
from bundler.sources.links import next_page
from bundler.sources.retry import RetryPolicy, is_busy, persistently

ACCEPT = ", ".join(sorted(INDEX_TYPES | MANIFEST_TYPES))
MAX_REFERRER_PAGES = 50
_REFUSES = frozenset({401, 402, 403, 407, 423, 451})
_UNTYPED = frozenset({"", "application/json", "text/json", "text/plain", "application/octet-stream"})
"""What static registries and proxies call every file; the document then says itself what it is."""
Value = TypeVar("Value")


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


class _NotOffered(Exception):
    """The registry does not have the thing that was asked for at all."""


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
        self._authorizations = Authorizations(
            host, self.url, config=self._config, session=self._session, timeouts=self._timeouts
        )
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
        """Raw descriptors of what refers to `digest`; None when the registry has no referrers API.

        Raises NetworkError (`bad-link` for a next page that cannot be found, `registry-forbidden`, ...) and
        MalformedError (`bad-referrers`, `too-many-referrers`): a list of which a part is missing is none.
        """
        if self._lacks_referrers:
            return None
        url = f"{self.url}/v2/{repository}/referrers/{digest}"
        found: list[Mapping[str, Any]] = []
        for _ in range(MAX_REFERRER_PAGES):
            page = self._retrying(lambda url=url: self._referrers_page(url, repository, digest))  # type: ignore[misc]
            if page is None and found:
                raise _bad_referrers(_where(self.host, repository, digest), "the next page", "no such page")
            if page is None:
                self._lacks_referrers = True
                return None
            listed, following = page
            found += listed
            if following is None:
                return tuple(found)
            url = following
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
        url = f"{self.url}/v2/{repository}/blobs/{digest}"
        with self._open(url, repository, offset=offset, size=size) as (_, body):
            yield body

    @contextmanager
    def open_manifest(self, repository: str, digest: str, offset: int, size: int) -> Iterator[Body]:
        """As `open_blob`, for the bytes of a manifest that is known by digest and size."""
        assert is_oci_digest(digest)
        url = f"{self.url}/v2/{repository}/manifests/{digest}"
        with self._open(url, repository, accept=ACCEPT, offset=offset, size=size) as (_, body):
            yield body

    # --- single attempts ---

    def _manifest(self, repository: str, target: str) -> FetchedManifest:
        where = _where(self.host, repository, target)
        url = f"{self.url}/v2/{repository}/manifests/{target}"
        with self._open(url, repository, accept=ACCEPT) as (last, body):
            announced = _media_type(last)
            if announced not in INDEX_TYPES | MANIFEST_TYPES | _UNTYPED:
                raise _wrong_type(where, announced)
            data = _read_capped(body, MANIFEST_LIMIT, "manifest-too-large", where, last)
        media_type = announced if announced not in _UNTYPED else _own_type(data, announced, where)
        expected = target if is_oci_digest(target) else last.headers.get("docker-content-digest", "")
        # The header is optional, and some registries give another algorithm than ours there.
        if is_oci_digest(expected):
            _check_digest(data, expected, where, "manifest-digest-mismatch")
        return FetchedManifest(data=data, media_type=media_type, digest=_digest(data))

    def _referrers_page(
        self, url: str, repository: str, digest: str
    ) -> tuple[list[Mapping[str, Any]], str | None] | None:
        """One page and the address of the next; None when there is no such API (table at the top)."""
        where = _where(self.host, repository, digest)
        try:
            with self._open(url, repository, accept=OCI_INDEX, lacking=_lacks_api) as (last, body):
                if _media_type(last) not in _UNTYPED | {OCI_INDEX}:
                    return None
                data = _read_capped(body, MANIFEST_LIMIT, "manifest-too-large", where, last)
        except _NotOffered:
            return None
        if _media_type(last) != OCI_INDEX and not _is_listing(data):
            return None
        # We asked for no filter: a filtered list lacks some (distribution-spec, "Listing Referrers").
        if filtered := last.headers.get("oci-filters-applied", "").strip():
            raise _bad_referrers(where, "every referrer", f"only some of them: filtered by {filtered}")
        following = next_page(last.headers.get("link"), page=url, where=f"referrers of {where}")
        return _read_referrers(data, where), following

    # --- one request ---

    @contextmanager
    def _open(
        self,
        url: str,
        repository: str,
        *,
        accept: str = "*/*",
        offset: int = 0,
        size: int | None = None,
        lacking: Callable[[int], bool] = lambda _status: False,
    ) -> Iterator[tuple[Hop, Body]]:
        """The last answer and its body; a challenge is answered, then the request made again.

        Statuses for which `lacking` holds raise `_NotOffered`.
        """
        tried: Counter[str] = Counter()
        with ExitStack() as opened:
            # One more than all answers together: other threads may have renewed the token meanwhile.
            for _ in range(2 + sum(ANSWERS.values())):
                exchange = _Exchange(
                    self.url, accept, self._authorizations.of(repository), repository, lacking
                )
                source = HttpByteSource(
                    url=url,
                    session=self._session,
                    size=size,
                    headers=exchange.headers,
                    check=exchange.check,
                    timeouts=self._timeouts,
                )
                try:
                    body = opened.enter_context(source.open(offset))
                except _Challenged as challenged:
                    used = challenged.used
                    self._authorizations.renew(repository, challenged.header, used=used, tried=tried)
                else:
                    yield exchange.last, body
                    return
            raise unauthorized(self.host, repository, given=True)

    def _retrying(self, attempt: Callable[[], Value]) -> Value:
        return persistently(attempt, policy=self._retries)


class _Exchange:
    """Headers for one request to a registry and the first look at its answers."""

    def __init__(
        self,
        registry_url: str,
        accept: str,
        authorization: str,
        repository: str,
        lacking: Callable[[int], bool],
    ) -> None:
        self._registry_url = registry_url
        self._accept = accept
        self._authorization = authorization
        self._repository = repository
        self._lacking = lacking
        self.last = Hop(url="", status=0, headers={})

    def headers(self, url: str) -> Mapping[str, str]:
        """What to send to `url`: the Authorization only to the registry's own origin."""
        own = self._authorization and same_origin(url, self._registry_url)
        return {"Accept": self._accept, **({"Authorization": self._authorization} if own else {})}

    def check(self, hops: Sequence[Hop]) -> None:
        """Turn what the registry says about us and the image into words of our own."""
        self.last = last = hops[-1]
        at_home = same_origin(last.url, self._registry_url)
        if self._lacking(last.status):
            raise _NotOffered
        if last.status == 401 and at_home:
            raise _Challenged(last.headers.get("www-authenticate", ""), self._authorization)
        if last.status == 403 and at_home:
            raise _forbidden(self._registry_url, self._repository)
        if last.status in (401, 403):
            raise _storage_refused(last)
        if last.status == 404:
            raise _not_found(hops[0].url)


def _where(host: str, repository: str, target: str) -> str:
    return f"{host}/{repository}{'@' if is_oci_digest(target) else ':'}{target}"


def _media_type(hop: Hop) -> str:
    return hop.headers.get("content-type", "").partition(";")[0].strip().lower()


def _lacks_api(status: int) -> bool:
    """Whether a status says that there is no such API: not that we may not, or not now."""
    return status == 501 or (400 <= status < 500 and status not in _REFUSES and not is_busy(status))


def _own_type(data: bytes, announced: str, where: str) -> str:
    """The media type a document says of itself, or its members show (image-spec: `mediaType` is optional)."""
    value = _object(data)
    declared = value.get("mediaType")
    if declared is None and value.get("schemaVersion") == 2:
        shapes = {OCI_INDEX: "manifests" in value, OCI_MANIFEST: "config" in value}
        declared = next((kind for kind, fits in shapes.items() if fits), None)
    if declared not in INDEX_TYPES | MANIFEST_TYPES:
        raise _wrong_type(where, announced)
    return str(declared)


def _object(data: bytes) -> Mapping[str, Any]:
    """The JSON object in `data`; an empty one for anything else."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _is_listing(data: bytes) -> bool:
    value = _object(data)
    return value.get("schemaVersion") == 2 and "manifests" in value


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
    """The descriptors of one page. Go writes an empty list as `null`."""
    value = _object(data)
    listed = value.get("manifests")
    if listed is None and "manifests" in value:
        return []
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise _bad_referrers(where, "an OCI index", "something else")
    return listed


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
    old = media_type.startswith("application/vnd.docker.distribution.manifest.v1")
    return MalformedError(
        "unsupported-manifest",
        "a registry sends something that is no image manifest",
        where=where,
        expected=ACCEPT,
        found=f"Content-Type {media_type!r}"[:200],
        hint="the image exists in docker's schema 1 only: push it again with a current tool"
        if old
        else "check the reference; a web page in its place means that no registry is there",
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


def _storage_refused(last: Hop) -> NetworkError:
    """The storage a registry sends us to does not take the address that the registry has signed."""
    return NetworkError(
        "storage-refused",
        "the storage behind the registry refuses the address that the registry gave",
        where=shown_url(last.url),
        expected="status 200 or 206",
        found=f"status {last.status}",
        hint="check this machine's clock and any proxy in between, then run the same command again",
    )
