"""`Link` headers: every legal form gives the next page, everything else is an error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from bundler.errors import NetworkError
from bundler.sources.links import HEADER_LIMIT, next_page, parse_links

PAGE = "https://r.example/v2/a/tags/list?n=2"
NEXT = "https://r.example/v2/a/tags/list?n=2&last=x"


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(f'<{NEXT}>; rel="next"', id="absolute and quoted"),
        pytest.param(f"<{NEXT}>;rel=next", id="unquoted and without spaces"),
        pytest.param(f'<{NEXT}>; REL="NEXT"', id="upper case"),
        pytest.param(f'<{NEXT}> ; rel = "next" ', id="spaces around the signs"),
        pytest.param(f'<{NEXT}>;\trel="next"', id="a tab"),
        pytest.param(f'<{NEXT}>; title="more"; rel="next"', id="a parameter before rel"),
        pytest.param(f'<{NEXT}>; title="a, b; c <d>"; rel=next', id="commas, semicolons, brackets in quotes"),
        pytest.param(f'<{NEXT}>; title="a \\"b\\" c"; rel=next', id="escaped quotes"),
        pytest.param(f"<{NEXT}>; title*=UTF-8''m%C3%A9; rel=next", id="an extended value"),
        pytest.param(f"<{NEXT}>; crossorigin; rel=next", id="a parameter without value"),
        pytest.param(f"<{NEXT}>;; rel=next;", id="empty parameters"),
        pytest.param(f'<{NEXT}>; rel="last next"', id="several relations in one value"),
        pytest.param(f'<{NEXT}>; rel="next https://x.example/rel"', id="a relation that is an address"),
        pytest.param(f"<{NEXT}>; rel=next; rel=prev", id="only the first rel counts"),
        pytest.param(f"<{NEXT}>; type=text/html; rel=next", id="a bare value with a slash"),
        pytest.param(f"</v2/a/tags/list>; rel=first, <{NEXT}>; rel=next", id="the second of two links"),
        pytest.param(f"<{NEXT}>; rel=next, <{NEXT}>; rel=next", id="the same twice"),
        pytest.param(f", ,<{NEXT}>; rel=next, ,", id="empty list elements"),
        pytest.param("</v2/a/tags/list?n=2&last=x>; rel=next", id="an absolute path"),
        pytest.param("<list?n=2&last=x>; rel=next", id="a relative path"),
        pytest.param("<?n=2&last=x>; rel=next", id="only a query"),
        pytest.param("<../tags/list?n=2&last=x>; rel=next", id="a parent folder"),
        pytest.param("<//r.example/v2/a/tags/list?n=2&last=x>; rel=next", id="without scheme"),
        pytest.param("<HTTPS://r.example:443/v2/a/tags/list?n=2&last=x>; rel=next", id="scheme and port"),
        pytest.param(f'<{NEXT}#top>; rel=next; anchor=""', id="a fragment and an empty anchor"),
    ],
)
def test_every_legal_form_gives_the_next_page(header: str) -> None:
    found = next_page(header, page=PAGE, where="tags")
    assert found is not None
    assert found.lower().replace(":443", "") == NEXT


def test_commas_and_semicolons_in_the_target_stay_in_it() -> None:
    found = next_page("</v2/a?x=1,2;y=3>; rel=next", page=PAGE, where="tags")
    assert found == "https://r.example/v2/a?x=1,2;y=3"


@pytest.mark.parametrize("header", [None, "", " , ", f"<{NEXT}>; rel=prev", f"<{NEXT}>; rel=prev; rel=next"])
def test_no_next_link_means_the_last_page(header: str | None) -> None:
    assert next_page(header, page=PAGE, where="tags") is None


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(f"{NEXT}; rel=next", id="no brackets"),
        pytest.param("@evil.example/x", id="no brackets and an at sign"),
        pytest.param("<@evil.example/x>; rel=next", id="a target that begins with an at sign"),
        pytest.param(f"<{NEXT}; rel=next", id="bracket not closed"),
        pytest.param(f'<{NEXT}>; rel="next', id="quote not closed"),
        pytest.param(f"<{NEXT}>; rel='next'", id="single quotes"),
        pytest.param(f"<{NEXT}>; rel=", id="no value"),
        pytest.param(f"<{NEXT}>", id="no relation"),
        pytest.param(f"<{NEXT}> rel=next", id="no semicolon"),
        pytest.param(f"<{NEXT}>; rel=next <{NEXT}>; rel=next", id="no comma"),
        pytest.param("<a b>; rel=next", id="a space in the target"),
        pytest.param("<http://[::1>; rel=next", id="an address without end"),
        pytest.param("<https://r.example:x/>; rel=next", id="a port that is no number"),
        pytest.param("<https://evil.example/>; rel=next", id="another host"),
        pytest.param("<//evil.example/>; rel=next", id="another host without scheme"),
        pytest.param("<\\\\evil.example/>; rel=next", id="backslashes"),
        pytest.param("<http://r.example/>; rel=next", id="another scheme"),
        pytest.param("<https://r.example:8443/>; rel=next", id="another port"),
        pytest.param("<https://me@r.example/>; rel=next", id="a user name"),
        pytest.param("<file:///etc/passwd>; rel=next", id="a file"),
        pytest.param(f"<{PAGE}>; rel=next", id="the page itself"),
        pytest.param(f"<{NEXT}>; rel=next, <{NEXT}2>; rel=next", id="two next pages"),
        pytest.param(f'<{NEXT}>; rel=next; anchor="/other"', id="the next page of another document"),
        pytest.param("<é>; rel=next", id="other than ASCII"),
        pytest.param("<a>; rel=next," * HEADER_LIMIT, id="too long"),
    ],
)
def test_a_link_that_cannot_be_followed_is_an_error(header: str) -> None:
    with pytest.raises(NetworkError) as caught:
        next_page(header, page=PAGE, where="tags of a")
    assert caught.value.reference == "bad-link"
    assert caught.value.findings[0].where == "tags of a"


@given(some.text(max_size=60), some.sampled_from([PAGE, "http://127.0.0.1:1/"]))
def test_any_text_gives_links_or_the_one_error(header: str, page: str) -> None:
    refused = ""
    try:
        next_page(header, page=page, where="x")
    except NetworkError as error:
        refused = error.reference
    assert refused in ("", "bad-link")


@given(
    target=some.from_regex(r"[a-z0-9/?=&,;:%._~-]{0,20}", fullmatch=True),
    title=some.text(some.characters(min_codepoint=32, max_codepoint=126), max_size=20),
    relations=some.lists(some.sampled_from(["next", "prev", "last", "x.y-z"]), min_size=1),
)
def test_a_written_link_is_read_back(target: str, title: str, relations: list[str]) -> None:
    quoted = title.replace("\\", "\\\\").replace('"', '\\"')
    (link,) = parse_links(f'<{target}>; title="{quoted}"; rel="{" ".join(relations)}"', where="x")
    assert (link.target, list(link.relations)) == (target, relations)
