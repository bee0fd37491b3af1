"""What package indexes in the field really answer: one row a habit, driven over `PackageIndex`.

Each row has a page with the wheel `demo-1.0`, and says which files must be seen, or which error ends it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

WHEEL = "demo-1.0-py3-none-any.whl"
SECOND = "demo-2.0-py3-none-any.whl"
SHA256 = "a" * 64
JSON = "application/vnd.pypi.simple.v1+json"


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexHabit:
    """One way of an index: its answers by path, `{url}` standing for its origin."""

    name: str
    pages: Mapping[str, str]
    headers: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    statuses: Mapping[str, int] = field(default_factory=dict)
    redirects: Mapping[str, str] = field(default_factory=dict)
    files: Sequence[tuple[str, str, str | None]] = ((WHEEL, "/files/" + WHEEL, SHA256),)
    """File name, address (path below the origin), SHA-256 of each file that must be seen."""
    yanked: Sequence[str] = ()
    error: str = ""


PAGE = "/simple/demo/"


def html(*links: str, head: str = "") -> str:
    """A page of links."""
    return f"<!DOCTYPE html><html><head>{head}</head><body>{''.join(links)}</body></html>"


def link(name: str = WHEEL, *, href: str = "", attributes: str = "") -> str:
    """One anchor."""
    address = href or f"../../files/{name}#sha256={SHA256}"
    return f'<a href="{address}" {attributes}>{name}</a>'


def listing(*names: str, **extra: object) -> str:
    """A page of JSON."""
    files = [
        {"filename": name, "url": f"../../files/{name}", "hashes": {"sha256": SHA256}, **extra}
        for name in names
    ]
    return json.dumps({"meta": {"api-version": "1.0"}, "name": "demo", "files": files})


BOTH = tuple((name, f"/files/{name}", SHA256) for name in (WHEEL, SECOND))
NEXT = "/simple/demo/?page=2"


def paged(name: str, header: str, *, whole: bool = False, error: str = "") -> IndexHabit:
    """Two pages, the first with this `Link` header; `whole` when both must be read."""
    return IndexHabit(
        name=name,
        pages={PAGE: listing(WHEEL), NEXT: listing(SECOND)},
        headers={PAGE: {"Link": header}},
        files=BOTH if whole else BOTH[:1],
        error=error,
    )


HABITS = (
    IndexHabit(name="relative links", pages={PAGE: html(link())}),
    IndexHabit(
        name="base element",
        pages={PAGE: html(link(href=f"{WHEEL}#sha256={SHA256}"), head='<base href="/files/">')},
    ),
    IndexHabit(name="upper case tags", pages={PAGE: html(link()).replace("<a href", "<A HREF")}),
    IndexHabit(
        name="only md5",
        pages={PAGE: html(link(href=f"/files/{WHEEL}#md5={'b' * 32}"))},
        files=((WHEEL, "/files/" + WHEEL, None),),
    ),
    IndexHabit(
        name="data attributes",
        pages={PAGE: html(link(attributes='data-requires-python="&gt;=3.9" data-core-metadata="true"'))},
    ),
    IndexHabit(name="yanked in html", pages={PAGE: html(link(attributes="data-yanked"))}, yanked=[WHEEL]),
    IndexHabit(name="yanked in json", pages={PAGE: listing(WHEEL, yanked="broken")}, yanked=[WHEEL]),
    IndexHabit(name="json", pages={PAGE: listing(WHEEL)}),
    IndexHabit(name="large integers", pages={PAGE: listing(WHEEL, serial=2**70, rank=1.5)}),
    IndexHabit(
        name="harmless key twice", pages={PAGE: listing(WHEEL).replace('{"meta"', '{"x": 1, "x": 2, "meta"')}
    ),
    IndexHabit(
        name="deciding key twice",
        pages={PAGE: listing(WHEEL).replace('"url"', '"url": "/elsewhere", "url"')},
        error="duplicate-key",
    ),
    IndexHabit(name="unknown project", pages={}, files=()),
    IndexHabit(name="forbidden", pages={PAGE: ""}, statuses={PAGE: 403}, error="forbidden"),
    IndexHabit(name="login wanted", pages={PAGE: ""}, statuses={PAGE: 401}, error="not-authorised"),
    IndexHabit(
        name="redirect",
        pages={PAGE: "", "/mirror/simple/demo/": html(link(href=f"../../../files/{WHEEL}#sha256={SHA256}"))},
        redirects={PAGE: "/mirror/simple/demo/"},
    ),
    paged("two pages", '<?page=2>; rel="next"', whole=True),
    paged("next page in odd case", "<?page=2>; REL=Next", whole=True),
    paged("other relations", '</simple/>; rel="index"'),
    paged("next page elsewhere", '<https://other.example/>; rel="next"', error="bad-link"),
    paged("unreadable link", "?page=2; rel=next", error="bad-link"),
    IndexHabit(
        name="missing next page",
        pages={PAGE: listing(WHEEL)},
        headers={PAGE: {"Link": "<?page=2>; rel=next"}},
        error="not-found",
    ),
    IndexHabit(
        name="pages in a circle",
        pages={PAGE: listing(WHEEL), NEXT: listing(SECOND)},
        headers={PAGE: {"Link": "<?page=2>; rel=next"}, NEXT: {"Link": f"<{PAGE}>; rel=next"}},
        error="bad-link",
    ),
)
