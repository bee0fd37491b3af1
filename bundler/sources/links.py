"""`Link` headers (RFC 8288): what they say, and where the next page of a listing is.

One reader for registries, package indexes and Hubs. A list is complete only when its page names no next one,
so a header that cannot be read is an error, never "there is no more". Several headers of one answer are
joined by commas before they come here (RFC 9110 section 5.3), as `requests` does it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn
from urllib.parse import urldefrag, urljoin, urlsplit

from bundler.errors import NetworkError
from bundler.sources.http import same_origin, shown_url

HEADER_LIMIT = 64 << 10
"""Characters of one header that are read; honest ones have a few hundred."""
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_QUOTED = re.compile(r'"((?:[^"\\\x00-\x08\x0a-\x1f\x7f]|\\[\t\x20-\x7e])*)"')
_BARE = re.compile(r"[^\s;,\"]+")
_SPACE = re.compile(r"[ \t]*")
_TARGET = re.compile(r"<([\x21-\x3b\x3d\x3f-\x5b\x5d\x5f\x61-\x7a\x7e]*)>")
"""A URI reference between angle brackets: no space, no control character, none of `"<>\\^`{|}`."""
_RELATION = re.compile(r"[a-z][a-z0-9.-]*|[a-z][a-z0-9+.-]*:\S+")
"""A registered relation type, or a URI (section 3.3), in lower case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One link of a header. `target` is as written: often relative to the page."""

    target: str
    relations: tuple[str, ...]
    """In lower case; only the first `rel` of a link counts (section 3.3)."""
    anchor: str | None = None


def parse_links(header: str, *, where: str) -> tuple[Link, ...]:
    """Every link of a header, in order. Raises NetworkError (`bad-link`) when any of it cannot be read."""
    if len(header) > HEADER_LIMIT:
        _refuse(where, f"more than {HEADER_LIMIT} characters")
    reader = _Reader(header, where)
    return tuple(reader.links())


def next_page(header: str | None, *, page: str, where: str, origin: str | None = None) -> str | None:
    """The absolute URL of the page that follows `page`; None when the header names none.

    `page` is the URL the header came with: relative targets are resolved against it. The next page must have
    the same origin as `origin` (that of `page` when left out), so that nobody is sent elsewhere with our
    credentials. Raises NetworkError (`bad-link`).
    """
    found: set[str] = set()
    for link in parse_links(header or "", where=where):
        if "next" in link.relations:
            found.add(_followed(link, page, origin or page, where))
    if len(found) > 1:
        _refuse(where, "two different next pages")
    return found.pop() if found else None


def _followed(link: Link, page: str, origin: str, where: str) -> str:
    """The checked absolute target of a `next` link."""
    # An anchor makes it the next page of something else, and then we do not know ours (section 3.2).
    if link.anchor is not None and _resolved(page, link.anchor, where) != urldefrag(page).url:
        _refuse(where, "a next page of another document (anchor)")
    # A URL parser that joins text would read `@host/x` as another host.
    if link.target.startswith("@"):
        _refuse(where, "a target that begins with @")
    target = _resolved(page, link.target, where)
    parts = urlsplit(target)
    if parts.scheme not in ("http", "https"):
        _refuse(where, f"a target that is no web address: {parts.scheme[:20]}")
    if "@" in parts.netloc:
        _refuse(where, "a target with a user name in it")
    if not same_origin(target, origin):
        _refuse(where, f"a next page on another host: {shown_url(target)}", expected=shown_url(origin))
    if target == urldefrag(page).url:
        _refuse(where, "a page that names itself as the next one")
    return target


def _resolved(page: str, reference: str, where: str) -> str:
    """`reference` against `page`, without fragment."""
    try:
        target = urldefrag(urljoin(page, reference)).url
        _ = urlsplit(target).port  # raises for a port that is no number
    except ValueError:
        _refuse(where, "a target that is no address")
    return target


class _Reader:
    """Reads a header from left to right (RFC 8288 section 3, lists by RFC 9110 section 5.6.1)."""

    def __init__(self, text: str, where: str) -> None:
        self._text = text
        self._where = where
        self._at = 0

    def links(self) -> Iterator[Link]:
        """Each link; empty elements of the list are legal and skipped."""
        while True:
            self._take(_SPACE)
            if self._ended():
                return
            if not self._skip(","):
                yield self._link()
                self._take(_SPACE)
                if not self._ended() and not self._skip(","):
                    self._refuse("a comma or the end")

    def _link(self) -> Link:
        target = self._take(_TARGET)
        if target is None:
            self._refuse("<target>")
        parameters: dict[str, str] = {}
        for name, value in self._parameters():
            parameters.setdefault(name, value)
        relations = parameters.get("rel", "").lower().split()
        # Without a relation nobody can say that this is not the next page.
        if not relations or not all(_RELATION.fullmatch(one) for one in relations):
            self._refuse('a relation: rel=next or rel="next last"')
        return Link(target=target[1], relations=tuple(relations), anchor=parameters.get("anchor"))

    def _parameters(self) -> Iterator[tuple[str, str]]:
        while True:
            self._take(_SPACE)
            if not self._skip(";"):
                return
            self._take(_SPACE)
            name = self._take(_TOKEN)
            if name is None:
                # `; ;` and a `;` at the end: appendix B.3 reads past them.
                if not self._ended() and self._text[self._at] not in ";,":
                    self._refuse("the name of a parameter")
                continue
            yield name[0].lower(), self._value()

    def _value(self) -> str:
        """A parameter's value: quoted, bare, or empty when there is no `=`."""
        self._take(_SPACE)
        if not self._skip("="):
            return ""
        self._take(_SPACE)
        quoted = self._take(_QUOTED)
        if quoted is not None:
            return re.sub(r"\\(.)", r"\1", quoted[1])
        bare = self._take(_BARE)
        return bare[0] if bare else self._refuse("a value")

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        match = pattern.match(self._text, self._at)
        if match is not None:
            self._at = match.end()
        return match

    def _skip(self, letter: str) -> bool:
        found = self._text.startswith(letter, self._at)
        self._at += found
        return found

    def _ended(self) -> bool:
        return self._at >= len(self._text)

    def _refuse(self, expected: str) -> NoReturn:
        _refuse(self._where, repr(self._text[self._at : self._at + 40]), expected=f"{expected} at {self._at}")


def _refuse(where: str, found: str, *, expected: str = "one next page on the same host, or none") -> NoReturn:
    raise NetworkError(
        "bad-link",
        "a Link header cannot be followed, so the rest of a list is unknown",
        where=where,
        expected=expected,
        found=found[:200],
        hint="run the same command again; if it stays so, tell whoever runs the server or the proxy between",
    )
