"""Questions to a Hugging Face Hub, with time limits and retries, and its refusals in words for people.

`HfApi.model_info` is not retried by the library and its client waits for ever (huggingface_hub 2.4); the
tree is asked for directly because the library gives its pages neither a time limit nor as they were sent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlsplit

import requests
from requests.utils import parse_header_links

from bundler import __version__
from bundler.core import strict_json
from bundler.errors import MalformedError, NetworkError
from bundler.sources.http import (
    TRY_AGAIN,
    Hop,
    HttpByteSource,
    ResponseCheck,
    Timeouts,
    pinned,
    session,
)
from bundler.sources.hub.access import HubAccess
from bundler.sources.retry import RetryPolicy, TransientError, asked_wait, is_busy, persistently, rest

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

PAGE_LIMIT = 64 << 20
MAX_PAGES = 10_000
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait for an answer and how often to ask again; `pause` waits for seconds."""

    retries: RetryPolicy = field(default_factory=RetryPolicy)
    timeouts: Timeouts = field(default_factory=Timeouts)
    pause: Callable[[float], None] = rest


@dataclass(frozen=True, slots=True, kw_only=True)
class HubClient:
    """One Hub, asked with one access."""

    access: HubAccess
    patience: Patience = field(default_factory=Patience)
    session: requests.Session = field(default_factory=session, repr=False)

    def model_info(self, repo: str, revision: str) -> ModelInfo:
        """What the Hub says about a model at `revision`, file digests included.

        Raises NetworkError: `gated-model`, `no-such-model`, `no-such-revision`, `model-renamed`,
        `token-refused`, `hub-refused`, `hub-answer`, `offline-mode`, `tls-refused`, or a TransientError
        when the retries are used up; MalformedError (`bad-repo`).
        """
        return self.persistently(lambda: self._model_info(repo, revision))

    def tree(self, repo: str, commit: str) -> list[Mapping[str, Any]]:
        """All entries of a commit, folders too, as the Hub sends them. Raises as `model_info`."""
        entries: list[Mapping[str, Any]] = []
        target = f"/api/models/{repo}/tree/{quote(commit, safe='')}?recursive=true&expand=false"
        for _ in range(MAX_PAGES):
            page, following = self._page(repo, commit, target)
            entries += page
            if following is None:
                return entries
            target = following
        raise _odd_answer(self.access.endpoint, f"more than {MAX_PAGES} pages of files")

    def file(
        self, repo: str, commit: str, path: str, *, size: int, etag: str, stop: int | None = None
    ) -> HttpByteSource:
        """A file of a commit, refused while fetching when commit or ETag are not these.

        `stop` asks the Hub for the bytes before it only; a storage behind it may send more.
        """
        own = self.access.headers()
        until = {} if stop is None else {"Range": f"bytes=0-{stop - 1}"}
        return HttpByteSource(
            url=f"{self.access.endpoint}/{repo}/resolve/{commit}/{quote(path)}",
            session=self.session,
            size=size,
            headers=lambda url: {**own(url), **until},
            check=self._first_refusals(repo, commit, pinned(etag=etag, x_repo_commit=commit)),
            timeouts=self.patience.timeouts,
        )

    def api_source(self, repo: str, revision: str, target: str, check: ResponseCheck) -> HttpByteSource:
        """The Hub's answer at the path `target`."""
        return HttpByteSource(
            url=self.access.endpoint + target,
            session=self.session,
            headers=self.access.headers(),
            check=self._first_refusals(repo, revision, check),
            timeouts=self.patience.timeouts,
        )

    def read(self, source: HttpByteSource, *, limit: int) -> bytes:
        """At most the first `limit` bytes of `source`, retried."""
        return self.persistently(lambda: _first_bytes(source, limit))

    def persistently(self, ask: Callable[[], Result]) -> Result:
        """What `ask` gives back, asked again after a TransientError as often as the policy says."""
        return persistently(ask, policy=self.patience.retries, pause=self.patience.pause)

    def _page(self, repo: str, commit: str, target: str) -> tuple[list[Mapping[str, Any]], str | None]:
        links: list[str | None] = []
        source = self.api_source(
            repo, commit, target, lambda hops: links.append(hops[-1].headers.get("link"))
        )
        data = self.read(source, limit=PAGE_LIMIT + 1)
        where = f"{self.access.endpoint}{urlsplit(target).path}"
        value = strict_json.loads(data, limit=PAGE_LIMIT, where=where, allow_floats=True)
        if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            raise _odd_answer(where, "something else than a list of files")
        return value, _next_target(links[-1])

    def _first_refusals(self, repo: str, revision: str, check: ResponseCheck) -> ResponseCheck:
        """`check`, after what the Hub itself says is wrong."""

        def checked(hops: Sequence[Hop]) -> None:
            code = hops[-1].headers.get("x-error-code", "")
            if hops[-1].status >= 400 and code:
                refused = self.refusal(hops[-1].status, code, repo, revision)
                if refused is not None:
                    raise refused
            check(hops)

        return checked

    def _model_info(self, repo: str, revision: str) -> ModelInfo:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

        # The base class of its HTTP library's errors; that library has changed twice, its name here has not.
        from huggingface_hub.errors import HTTPError as ClientError  # type: ignore[attr-defined]

        # An explicit False, so that the library does not look for a token by itself.
        api = HfApi(
            endpoint=self.access.endpoint,
            token=self.access.token or False,
            library_name="sealift",
            library_version=__version__,
        )
        try:
            info = api.model_info(
                repo, revision=revision, files_metadata=True, timeout=self.patience.timeouts.stall
            )
        except OfflineModeIsEnabled:
            raise _offline(self.access.endpoint) from None
        except HFValidationError as error:
            raise MalformedError("bad-repo", "this cannot be a repository", found=str(error)[:300]) from None
        except HfHubHTTPError as error:
            raise self._http_error(error, repo, revision) from None
        except ClientError as error:
            raise _connection_error(error, self.access.endpoint) from None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            # The library reads whatever came: an answer of another shape fails anywhere inside it.
            raise _odd_answer(self.access.endpoint, type(error).__name__) from error
        if info.id != repo:
            raise _renamed(self.access.endpoint, repo, str(info.id))
        return info

    def _http_error(self, error: Any, repo: str, revision: str) -> NetworkError:
        status = int(error.response.status_code)
        headers = error.response.headers
        refused = self.refusal(status, headers.get("x-error-code", ""), repo, revision)
        if refused is not None:
            return refused
        where = f"{self.access.endpoint}/{repo}"
        if is_busy(status):
            busy = TransientError(
                "server-busy",
                "the Hub cannot answer now",
                where=where,
                expected="200",
                found=f"HTTP status {status}",
                hint="run the same command again later",
            )
            busy.retry_after = asked_wait(headers, now=time.time())
            return busy
        words = self.access.without_secret(str(headers.get("x-error-message", "")))[:200]
        return NetworkError(
            "hub-refused",
            "the Hub refuses to answer",
            where=where,
            expected="200",
            found=f"HTTP status {status}{': ' if words else ''}{words}",
        )

    def refusal(self, status: int, code: str, repo: str, revision: str) -> NetworkError | None:
        """What the Hub's `X-Error-Code` means for a person; None for codes that say nothing more."""
        page = f"{self.access.endpoint}/{repo}"
        if code == "GatedRepo":
            return self._gated(page, repo)
        if code == "RevisionNotFound":
            return NetworkError(
                "no-such-revision",
                f"{repo} has no revision {revision}",
                where=page,
                hint=f"{page}/commits/main lists branches, tags and commits",
            )
        if code == "RepoNotFound":
            return NetworkError(
                "no-such-model",
                f"the Hub shows no model {repo}",
                where=page,
                found=f"HTTP status {status}",
                hint="check the spelling; " + self._how_to_sign_in("if it is private"),
            )
        if status == 401:
            return NetworkError(
                "token-refused",
                "the Hub does not accept the token" if self.access.token else "the Hub asks for a token",
                where=page,
                hint=self._how_to_sign_in(""),
            )
        return None

    def _gated(self, page: str, repo: str) -> NetworkError:
        if self.access.token:
            return NetworkError(
                "gated-model",
                f"{repo} is gated, and the account of your token has not been let in",
                where=page,
                hint=f"open {page} with that account, accept the terms, then run the same command again",
            )
        return NetworkError(
            "gated-model",
            f"{repo} is gated: its owner lets in only accounts that accepted the terms",
            where=page,
            hint=f"open {page} and accept the terms, then {self._how_to_sign_in('')}",
        )

    def _how_to_sign_in(self, when: str) -> str:
        if self.access.withheld:
            text = (
                f"set HF_ENDPOINT={self.access.endpoint}: a token goes only to a Hub that you name yourself"
            )
        else:
            text = "set HF_TOKEN to a token of yours with read access"
        return f"{when}, {text}" if when else text


def _first_bytes(source: HttpByteSource, limit: int) -> bytes:
    data = bytearray()
    with source.open(0) as body:
        for piece in body:
            data += piece
            if len(data) >= limit:
                break
    return bytes(data[:limit])


def _next_target(link: str | None) -> str | None:
    """Path and query of the next page: it is asked of the same Hub, whatever host the link names."""
    links = parse_header_links(link) if link else []
    url = next((one.get("url", "") for one in links if one.get("rel") == "next"), "")
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}" if url else None


def _connection_error(error: Exception, endpoint: str) -> NetworkError:
    name = type(error).__name__
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return NetworkError(
            "tls-refused",
            "the Hub's certificate is not trusted",
            where=endpoint,
            hint="if a proxy of your own replaces certificates, name its CA in SSL_CERT_FILE",
        )
    if name in ("ConnectError", "ConnectTimeout", "ProxyError"):
        hint = "check the network, or HF_ENDPOINT if it names a mirror; then run the same command again"
        return TransientError(
            "unreachable", "the Hub cannot be reached", where=endpoint, found=name, hint=hint
        )
    if name in ("ReadTimeout", "WriteTimeout", "PoolTimeout"):
        return TransientError(
            "stalled", "the Hub does not answer in time", where=endpoint, found=name, hint=TRY_AGAIN
        )
    return TransientError(
        "dropped", "the connection to the Hub was lost", where=endpoint, found=name, hint=TRY_AGAIN
    )


def _offline(endpoint: str) -> NetworkError:
    return NetworkError(
        "offline-mode",
        "the Hub may not be asked: HF_HUB_OFFLINE is set",
        where=endpoint,
        hint="unset HF_HUB_OFFLINE on the connected side",
    )


def _odd_answer(where: str, found: str) -> NetworkError:
    return NetworkError(
        "hub-answer",
        "the answer is not one of a Hugging Face Hub",
        where=where,
        expected="model metadata",
        found=found,
        hint="check HF_ENDPOINT and `endpoint` in the spec; a proxy may be answering instead",
    )


def _renamed(endpoint: str, repo: str, now: str) -> NetworkError:
    return NetworkError(
        "model-renamed",
        "the model has another name now, and the old one may become someone else's",
        where=f"{endpoint}/{repo}",
        expected=repo,
        found=now[:200],
        hint=f"write `repo: {now[:100]}` in the spec if that is the model you mean",
    )
