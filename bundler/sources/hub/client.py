"""Questions to a Hugging Face Hub, with time limits and retries, and its refusals in words for people.

Asked directly, not through `huggingface_hub`: that library neither retries nor bounds what it reads, waits
for ever, and asks the public Hub about other things on the way (its registry of agents, version 2.4).
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import requests

from bundler.errors import MalformedError, NetworkError
from bundler.sources.answers import json_answer
from bundler.sources.http import (
    Hop,
    HttpByteSource,
    ResponseCheck,
    Timeouts,
    pinned,
    session,
    shown_url,
)
from bundler.sources.hub.access import TRUE, HubAccess
from bundler.sources.hub.files import HubModel, hub_model
from bundler.sources.links import next_page
from bundler.sources.retry import RetryPolicy, is_busy, persistently, rest, tell

PAGE_LIMIT = 32 << 20
"""Bytes of one answer: a page of a thousand files has 0.3 MB, but some mirrors do not page."""
MAX_PAGES = 10_000
MAX_ENTRIES = 500_000
"""Entries of one commit; the Hub itself advises against more than 100,000 files."""
LISTING_SECONDS = 600.0
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_REPOSITORY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)?")
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

    def model_info(self, repo: str, revision: str) -> HubModel:
        """What the Hub says about a model at `revision`, file digests included.

        Raises NetworkError: `gated-model`, `no-such-model`, `no-such-revision`, `model-renamed`,
        `token-refused`, `hub-refused`, `hub-answer`, `offline-mode`, `tls-refused`, or a TransientError
        when the retries are used up; MalformedError (`bad-repo`).
        """
        return self._model_info(repo, revision)

    def tree(self, repo: str, commit: str) -> list[Mapping[str, Any]]:
        """All entries of a commit, folders too, as the Hub sends them. Raises as `model_info`."""
        listing = _Listing(self.access.endpoint)
        url: str | None = self.access.endpoint + _tree_target(repo, commit)
        while url is not None:
            page, url = self._page(repo, commit, url)
            listing.add(page, url)
        return listing.entries

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
            check=self._first_refusals(repo, revision, check, api=True),
            timeouts=self.patience.timeouts,
        )

    def read(self, source: HttpByteSource, *, limit: int) -> bytes:
        """At most the first `limit` bytes of `source`, retried."""
        return self.persistently(lambda: _first_bytes(source, limit))

    def persistently(self, ask: Callable[[], Result]) -> Result:
        """What `ask` gives back, asked again after a TransientError as often as the policy says."""
        return persistently(ask, policy=self.patience.retries, pause=self.patience.pause)

    def _page(self, repo: str, commit: str, url: str) -> tuple[list[Mapping[str, Any]], str | None]:
        where = f"{self.access.endpoint}{urlsplit(url).path}"
        value, last = self._ask(repo, commit, url, where)
        # Some mirrors are written in languages whose empty list is null.
        value = [] if value is None else value
        if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            raise _odd_answer(where, "something else than a list of files")
        link = last.headers.get("link")
        return value, next_page(link, page=last.url, where=where) if link else None

    def _ask(self, repo: str, revision: str, url: str, where: str) -> tuple[Any, Hop]:
        """The JSON at `url`, and the answer that brought it."""
        hops: list[Hop] = []
        target = url.removeprefix(self.access.endpoint)

        def ask() -> bytes:
            hops.clear()
            return self.api_source(repo, revision, target, hops.extend).read(PAGE_LIMIT)

        data = self.persistently(ask)
        _tell_warnings(hops[-1])
        try:
            return json_answer(data, where=where), hops[-1]
        except MalformedError as error:
            raise _odd_answer(where, error.findings[0].found) from None

    def _first_refusals(
        self, repo: str, revision: str, check: ResponseCheck, *, api: bool = False
    ) -> ResponseCheck:
        """`check`, after what the Hub itself says is wrong."""

        def checked(hops: Sequence[Hop]) -> None:
            last = hops[-1]
            if last.status >= 400 and not is_busy(last.status):
                refused = self._refused(last, repo, revision, api)
                if refused is not None:
                    raise refused
            check(hops)

        return checked

    def _refused(self, last: Hop, repo: str, revision: str, api: bool) -> NetworkError | None:
        code = last.headers.get("x-error-code", "")
        refused = self.refusal(last.status, code, repo, revision) if api or code else None
        if refused is not None or not api:
            return refused
        words = self.access.without_secret(str(last.headers.get("x-error-message", "")))[:200]
        return NetworkError(
            "hub-refused",
            "the Hub refuses to answer",
            where=shown_url(last.url),
            expected="200",
            found=f"HTTP status {last.status}{': ' if words else ''}{words}",
            hint=f"open {self.access.endpoint}/{repo} to see whether the model is still there",
        )

    def _model_info(self, repo: str, revision: str) -> HubModel:
        if any(os.environ.get(name, "").upper() in TRUE for name in _OFFLINE):
            raise _offline(self.access.endpoint)
        if not _REPOSITORY.fullmatch(repo) or ".." in repo:
            raise MalformedError(
                "bad-repo", "this cannot be a repository", expected="owner/name", found=repo[:300]
            )
        target = f"/api/models/{repo}/revision/{quote(revision, safe='')}?blobs=true"
        where = self.access.endpoint
        value, _ = self._ask(repo, revision, where + target, where)
        info = hub_model(value, where=where)
        if info.id != repo:
            raise _renamed(where, repo, info.id)
        return info

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


def _tree_target(repo: str, commit: str) -> str:
    return f"/api/models/{repo}/tree/{quote(commit, safe='')}?recursive=true&expand=false"


def _tell_warnings(hop: Hop) -> None:
    """Pass on what the Hub warns of, for example of a client or a token that will soon be refused."""
    text = hop.headers.get("x-hf-warning", "")
    if text:
        tell("the Hub warns: " + "".join(filter(str.isprintable, text))[:300])


class _Listing:
    """The entries of a commit, page by page, with an end to pages, entries and time."""

    def __init__(self, endpoint: str) -> None:
        self.entries: list[Mapping[str, Any]] = []
        self._endpoint = endpoint
        self._pages: set[str] = set()
        self._until = time.monotonic() + LISTING_SECONDS

    def add(self, page: list[Mapping[str, Any]], following: str | None) -> None:
        """One page, and where the next one is. Raises NetworkError (`hub-answer`)."""
        self.entries += page
        fault = ""
        if len(self.entries) > MAX_ENTRIES:
            fault = f"more than {MAX_ENTRIES} files"
        elif following is not None and not page:
            fault = "an empty page that is not the last one"
        elif following is not None and (following in self._pages or len(self._pages) >= MAX_PAGES):
            fault = f"pages without end, or more than {MAX_PAGES}"
        elif time.monotonic() > self._until:
            fault = f"a list that takes more than {LISTING_SECONDS:.0f} s"
        if fault:
            raise _odd_answer(self._endpoint, fault)
        self._pages.add(following or "")


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
