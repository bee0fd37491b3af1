"""Package indexes: which files a project has there, and where their bytes are.

The simple repository API as JSON (PEP 691, 700) and HTML (PEP 503, 592, 658), flat pages of links and flat
folders (`--find-links` in pip), over HTTP or in a folder of this machine. Everything an index says is
untrusted: names are checked, digests are compared with the lock before and while bytes arrive.
"""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit
from urllib.request import pathname2url, url2pathname

import requests
from packaging.utils import canonicalize_name

from bundler.content.wheels.name import parse_wheel_name
from bundler.core.digest import is_sha256_hex
from bundler.errors import MachineError, MalformedError, NetworkError, UsageError
from bundler.sources.answers import json_answer
from bundler.sources.http import (
    ChangedUpstreamError,
    Headers,
    Hop,
    HttpByteSource,
    same_origin,
    shown_url,
)
from bundler.sources.jobs import ByteSource
from bundler.sources.links import next_page
from bundler.sources.retry import RetryPolicy, persistently

REMEMBERED_PAGES = 16
"""A page may list thousands of files: all pages of an engine would take more memory than its download."""
PAGE_LIMIT = 256 << 20
"""Bytes of one page; the longest project pages of the public index have about 30 MB."""
MAX_PAGES = 1000
"""Pages that one project may be spread over."""
JSON_TYPE = "application/vnd.pypi.simple.v1+json"
PROVENANCE_ACCEPT = "application/vnd.pypi.integrity.v1+json, application/json;q=0.5, */*;q=0.1"
ACCEPT = f"{JSON_TYPE}, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_PIECE = 1 << 20
RETRIES = RetryPolicy(tries=4, longest=30.0)
"""How often a page is asked for at lock time; a build retries as the downloader does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexFile:
    """One file an index offers."""

    filename: str
    url: str
    """`http`, `https` or `file`; without fragment."""
    sha256: str | None = None
    size: int | None = None
    upload_time: str | None = None
    yanked: bool = False
    provenance: str | None = None
    """Where its publish attestations are (PEP 740)."""

    @property
    def is_wheel(self) -> bool:
        """Whether its name ends like a wheel's."""
        return self.filename.endswith(".whl")


def expand_url(url: str, environ: Mapping[str, str], *, where: str) -> str:
    """`url` with each `${VARIABLE}` replaced, and a local path as a `file://` URL.

    Raises UsageError (`variable-unset`) naming the variable.
    """

    def value(match: re.Match[str]) -> str:
        if not environ.get(match[1]):
            raise UsageError(
                "variable-unset",
                "an index needs an environment variable that is not set",
                where=where,
                expected=f"{match[1]} in the environment",
                found="nothing",
                hint=f"export {match[1]}=… and run the same command again",
            )
        return environ[match[1]]

    text = _VARIABLE.sub(value, url)
    if "://" in text:
        return text
    return "file://" + pathname2url(str(Path(text).expanduser().absolute()))


class PackageIndex:
    """One index: what it has of a project, asked once and remembered. May be shared by threads.

    `name` is shown in errors, never the address. `username` and `password` in the URL, or given, are sent to
    the origin of the index only.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        session: requests.Session,
        flat: bool = False,
        credentials: tuple[str, str] | None = None,
    ) -> None:
        self.name = name
        self.flat = flat
        self._url, inline = _split_credentials(url)
        self._session = session
        self._authorization = _basic(inline or credentials)
        self._guard = threading.Lock()
        self._parsing = threading.Lock()
        self._pages: dict[str, _Remembered] = {}

    @property
    def is_local(self) -> bool:
        """Whether it is a folder or page of this machine."""
        return self._url.startswith("file:")

    def files(self, project: str, *, patient: bool = True) -> tuple[IndexFile, ...]:
        """All files of `project`, in the order of the index; none when it does not know the project.

        Raises MalformedError (`bad-index-page`, `ambiguous-index`) or NetworkError. When `patient`, what may
        pass by itself is tried again; otherwise the caller does.
        """
        normal = canonicalize_name(project)
        with self._guard:
            page = self._pages.setdefault("" if self.flat else normal, _Remembered())
            while len(self._pages) > REMEMBERED_PAGES:
                del self._pages[next(iter(self._pages))]
        with page.guard:
            if page.files is None:
                page.files = self._tried(normal) if patient else self._read(normal)
        return tuple(item for item in page.files if _project_of(item.filename) == normal)

    def source(self, file: IndexFile, *, size: int | None = None) -> HttpByteSource | LocalByteSource:
        """The bytes of `file`."""
        if file.url.startswith("file:"):
            return LocalByteSource(path=_local_path(file.url))
        return HttpByteSource(url=file.url, session=self._session, size=size, headers=self._headers())

    def provenance_source(
        self, file: IndexFile, *, size: int | None = None
    ) -> HttpByteSource | LocalByteSource | None:
        """The publish attestations of `file`; None when the index offers none."""
        if file.provenance is None:
            return None
        if file.provenance.startswith("file:"):
            return LocalByteSource(path=_local_path(file.provenance))
        headers = self._headers(Accept=PROVENANCE_ACCEPT)
        return HttpByteSource(url=file.provenance, session=self._session, size=size, headers=headers)

    def _headers(self, **more: str) -> Headers:
        def headers(url: str) -> Mapping[str, str]:
            own = self._authorization if same_origin(url, self._url) else None
            return {**more, "Authorization": own} if own else more

        return headers

    def _tried(self, project: str) -> tuple[IndexFile, ...]:
        return persistently(lambda: self._read(project), policy=RETRIES)

    def _read(self, project: str) -> tuple[IndexFile, ...]:
        if self._url.startswith("file:"):
            return _checked(self._read_local(project), self.name)
        url = self._url if self.flat else f"{self._url.rstrip('/')}/{project}/"
        found: list[IndexFile] = []
        for data, final in self._pages_from(url, self._where(project)):
            # One page at a time: parsing a long one takes several times its bytes.
            with self._parsing:
                found += parse_page(data, final, where=self._where(project))
        return _checked(found, self.name)

    def _pages_from(self, first: str, where: str) -> Iterator[tuple[bytes, str]]:
        """The page at `first` and those its `Link` headers lead to: a part of a list is never the whole.

        None when the index does not know the project. A later page that is missing is an error.
        """
        url: str | None = first
        seen: set[str] = set()
        while url is not None:
            if url in seen or len(seen) >= MAX_PAGES:
                raise _endless(where, url, len(seen))
            seen.add(url)
            try:
                data, last = self._get(url)
            except NetworkError as error:
                if error.reference == "not-found" and not self.flat and url == first:
                    return
                raise
            yield data, last.url
            url = next_page(last.headers.get("link"), page=last.url, where=where)

    def _where(self, project: str) -> str:
        return f"index {self.name}, project {project}"

    def _get(self, url: str) -> tuple[bytes, Hop]:
        hops: list[Hop] = []
        source = HttpByteSource(
            url=url, session=self._session, headers=self._headers(Accept=ACCEPT), check=hops.extend
        )
        pieces, size = [], 0
        with source.open(0) as body:
            for piece in body:
                size += len(piece)
                if size > PAGE_LIMIT:
                    raise NetworkError(
                        "too-large", "an index page is too long", where=shown_url(url), found=f"{size} bytes"
                    )
                pieces.append(piece)
        return b"".join(pieces), hops[-1]

    def _read_local(self, project: str) -> list[IndexFile]:
        folder = _local_path(self._url)
        if self.flat and folder.is_dir():
            return [
                IndexFile(filename=path.name, url=_file_url(path), size=path.stat().st_size)
                for path in sorted(folder.iterdir())
                if path.is_file()
            ]
        page = folder if self.flat else folder / project / "index.html"
        if not page.is_file():
            if self.flat or not folder.is_dir():
                raise MachineError(
                    "no-such-index",
                    "an index on this machine is not there",
                    where=f"index {self.name}",
                    expected="a folder" if not self.flat else "a folder of wheels or a page of links",
                    found="nothing",
                )
            return []
        return parse_page(page.read_bytes(), _file_url(page), where=self._where(project))


@dataclass(slots=True)
class _Remembered:
    guard: threading.Lock = field(default_factory=threading.Lock)
    files: tuple[IndexFile, ...] | None = None


def _split_credentials(url: str) -> tuple[str, tuple[str, str] | None]:
    """The URL without user name and password, and these two."""
    parts = urlsplit(url)
    userinfo, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, None
    user, _, password = userinfo.partition(":")
    return urlunsplit(parts._replace(netloc=host)), (unquote(user), unquote(password))


def _basic(credentials: tuple[str, str] | None) -> str | None:
    if credentials is None:
        return None
    return "Basic " + base64.b64encode(":".join(credentials).encode()).decode()


def _local_path(url: str) -> Path:
    return Path(url2pathname(urlsplit(url).path))


def _file_url(path: Path) -> str:
    return "file://" + pathname2url(str(path.absolute()))


def _project_of(filename: str) -> str | None:
    """The project a file belongs to, as its name says; None when the name is no wheel's or sdist's."""
    if filename.endswith(".whl"):
        return canonicalize_name(filename.split("-")[0])
    stem = re.sub(r"\.(tar\.gz|zip|tar\.bz2|tgz)$", "", filename)
    return canonicalize_name(stem.rpartition("-")[0]) if stem != filename else None


def parse_page(data: bytes, url: str, *, where: str) -> list[IndexFile]:
    """The files a page of an index lists, JSON or HTML; `url` is where it came from, for relative links.

    Links to other schemes than http, https and (from a page on this machine) file are left out, as are
    files with a digest or size that is none. Raises MalformedError (`bad-index-page`).
    """
    text = data.removeprefix(b"\xef\xbb\xbf").lstrip()
    try:
        found = _parse_json(text, url, where) if text.startswith(b"{") else _parse_html(text, url, where)
    except (ValueError, AssertionError) as error:
        # What the standard library raises for an address like `//[` and for markup like `<![x`.
        raise _bad_page(where, "addresses and markup that can be read") from error
    allowed = ("https", "http", "file") if url.startswith("file:") else ("https", "http")
    return [
        item
        if item.provenance is None or urlsplit(item.provenance).scheme in allowed
        else replace(item, provenance=None)
        for item in found
        if urlsplit(item.url).scheme in allowed
    ]


def _joined(base: str, link: object) -> str | None:
    """The address of something that need not be there; None also when the link is none."""
    try:
        return urljoin(base, link) if isinstance(link, str) and link else None
    except ValueError:
        return None


def _parse_json(data: bytes, url: str, where: str) -> list[IndexFile]:
    value = json_answer(data, where=where)
    files = value.get("files") if isinstance(value, dict) else None
    if files is None and isinstance(value, dict) and "files" in value:
        return []  # an empty list, as Go writes it
    if not isinstance(files, list) or not all(isinstance(item, dict) for item in files):
        raise _bad_page(where, "a list `files` of objects")
    return [_json_file(item, url, where) for item in files]


def _json_file(item: Mapping[str, Any], url: str, where: str) -> IndexFile:
    hashes = item.get("hashes", {})
    sha256 = hashes.get("sha256") if isinstance(hashes, dict) else None
    size, filename, link = item.get("size"), item.get("filename"), item.get("url")
    if not isinstance(filename, str) or not isinstance(link, str):
        raise _bad_page(where, "a file name and a URL for each file")
    uploaded = item.get("upload-time")
    return IndexFile(
        filename=filename,
        url=urljoin(url, link).partition("#")[0],
        sha256=sha256 if is_sha256_hex(sha256) else None,
        size=size if type(size) is int and size >= 0 else None,
        upload_time=uploaded if isinstance(uploaded, str) else None,
        yanked=bool(item.get("yanked")),
        provenance=_joined(url, item.get("provenance")),
    )


class _Links(HTMLParser):
    """Collects the anchors of a page, and its `<base>`."""

    def __init__(self) -> None:
        super().__init__()
        self.base = ""
        self.links: list[dict[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """One anchor or base element."""
        found = {name: value or "" for name, value in attrs}
        if tag == "base" and not self.base:
            self.base = found.get("href", "")
        if tag == "a" and found.get("href"):
            self.links.append(found)


def _parse_html(data: bytes, url: str, where: str) -> list[IndexFile]:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise _bad_page(where, "UTF-8") from None
    page = _Links()
    page.feed(text)
    base = urljoin(url, page.base)
    return [_html_file(link, base) for link in page.links]


def _html_file(link: Mapping[str, str], base: str) -> IndexFile:
    target, _, fragment = urljoin(base, link["href"]).partition("#")
    algorithm, _, value = fragment.partition("=")
    value = value.partition("&")[0]
    return IndexFile(
        # PEP 503: the file name is the last part of the URL's path.
        filename=unquote(urlsplit(target).path.rpartition("/")[2]),
        url=target,
        sha256=value if algorithm == "sha256" and is_sha256_hex(value) else None,
        yanked="data-yanked" in link,
        provenance=_joined(base, link.get("data-provenance")),
    )


def _checked(files: Sequence[IndexFile], name: str) -> tuple[IndexFile, ...]:
    """`files`, each name once. Raises MalformedError (`ambiguous-index`) for one name with two digests."""
    known: dict[str, IndexFile] = {}
    for item in files:
        first = known.setdefault(item.filename, item)
        # A page may list a file twice and give the digest once: the entry with the digest counts.
        if first.sha256 is None and item.sha256 is not None:
            known[item.filename] = item
        elif item.sha256 is not None and first.sha256 != item.sha256:
            raise MalformedError(
                "ambiguous-index",
                "an index offers two different files of one name",
                where=f"index {name}: {item.filename}"[:300],
                expected=f"sha256:{first.sha256}",
                found=f"sha256:{item.sha256}",
                hint="tell whoever runs the index; a file name must never get other bytes",
            )
    return tuple(known.values())


def _endless(where: str, url: str, pages: int) -> NetworkError:
    return NetworkError(
        "bad-link",
        "a Link header cannot be followed, so the rest of a list is unknown",
        where=where,
        expected=f"at most {MAX_PAGES} pages, each once",
        found=f"{shown_url(url)} after {pages} pages",
        hint="run the same command again; if it stays so, tell whoever runs the index",
    )


def _bad_page(where: str, expected: str) -> MalformedError:
    return MalformedError(
        "bad-index-page", "an index answered with something else", where=where, expected=expected
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalByteSource:
    """The bytes of a file on this machine."""

    path: Path

    @contextmanager
    def open(self, offset: int) -> Iterator[Iterator[bytes]]:
        """The bytes from `offset` on, in pieces of 1 MiB."""
        with self.path.open("rb") as stream:
            stream.seek(offset)
            yield iter(lambda: stream.read(_PIECE), b"")


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedByteSource:
    """A locked file whose address is looked up when its bytes are wanted, and not before.

    So a build that has everything asks nobody, and addresses that expire are always fresh.
    """

    index: PackageIndex
    project: str
    filename: str
    size: int
    sha256: str

    @contextmanager
    def open(self, offset: int) -> Iterator[Iterator[bytes]]:
        """The bytes from `offset` on. Raises as `HttpByteSource.open` does, and what `locate` raises."""
        with self.locate().open(offset) as body:
            yield body

    def locate(self) -> ByteSource:
        """Where the index has the file now.

        Raises ChangedUpstreamError: `not-in-index` when it is gone, `upstream-changed` for another digest.
        """
        files = self.index.files(self.project, patient=False)
        found = next((item for item in files if item.filename == self.filename), None)
        if found is None:
            raise self._changed("not-in-index", "the index no longer has a locked file", "no such file")
        if found.sha256 not in (None, self.sha256):
            raise self._changed(
                "upstream-changed", "the index has other bytes under a locked name", f"sha256:{found.sha256}"
            )
        return self.index.source(found, size=self.size)

    def _changed(self, reference: str, what: str, found: str) -> ChangedUpstreamError:
        return ChangedUpstreamError(
            reference,
            what,
            where=f"index {self.index.name}: {self.filename}",
            expected=f"sha256:{self.sha256}",
            found=found,
            hint="`sealift lock --check SPEC` tells what moved; lock again to take it",
        )


def sizes_of(sources: Mapping[str, HttpByteSource | LocalByteSource], workers: int = 8) -> dict[str, int]:
    """Bytes of each source: asked with HEAD, for indexes that offer no sizes, or read from this machine.

    Raises NetworkError (`no-size`) when a server does not say.
    """
    with ThreadPoolExecutor(max_workers=workers) as pool:
        return dict(zip(sources, pool.map(_size_of, sources.values()), strict=True))


def _size_of(source: HttpByteSource | LocalByteSource) -> int:
    if isinstance(source, LocalByteSource):
        return source.path.stat().st_size
    length = source.head().headers.get("content-length", "")
    if not length.isdigit():
        raise NetworkError(
            "no-size",
            "a server does not say how long a file is",
            where=shown_url(source.url),
            expected="Content-Length",
            found=length or "nothing",
        )
    return int(length)


def wheels_among(files: Sequence[IndexFile], keep: Callable[[IndexFile], bool]) -> list[IndexFile]:
    """The wheels of `files` with a name that can be read and that `keep` wants, yanked ones left out."""
    return [item for item in files if item.is_wheel and not item.yanked and _readable(item) and keep(item)]


def _readable(item: IndexFile) -> bool:
    try:
        parse_wheel_name(item.filename)
    except MalformedError:
        return False
    return True
