"""Pages of package indexes as the field writes them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bundler.errors import MalformedError
from bundler.sources.wheels.package_index import _checked, parse_page

URL = "https://i.example/simple/a/"
NAME = "a-1-py3-none-any.whl"


def page(files: Any, before: bytes = b"") -> bytes:
    return before + json.dumps({"meta": {"api-version": "1.0"}, "name": "a", "files": files}).encode()


@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", b"\n  "])
def test_null_members_and_a_byte_order_mark_are_read(before: bytes) -> None:
    item = {"filename": NAME, "url": "../f", "hashes": None, "size": None, "yanked": None, "provenance": None}
    (found,) = parse_page(page([item], before), URL, where="x")
    assert (found.url, found.sha256, found.yanked) == ("https://i.example/simple/f", None, False)
    assert parse_page(page(None, before), URL, where="x") == []


def test_of_two_entries_the_one_with_a_digest_counts() -> None:
    both = [{"filename": NAME, "url": "f", "hashes": hashes} for hashes in ({}, {"sha256": "a" * 64})]
    for files in (both, both[::-1]):
        (found,) = _checked(parse_page(page(files), URL, where="x"), "i")
        assert found.sha256 == "a" * 64


def test_two_digests_for_one_name_are_refused() -> None:
    files = [{"filename": NAME, "url": "f", "hashes": {"sha256": digit * 64}} for digit in "ab"]
    with pytest.raises(MalformedError, match="ambiguous-index"):
        _checked(parse_page(page(files), URL, where="x"), "i")
