"""Digests: if one exists, algorithm and value fit each other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundler.core.digest import HEX_LENGTHS, Digest, is_git_commit, is_sha256_hex
from bundler.errors import MalformedError


@given(st.sampled_from(sorted(HEX_LENGTHS)), st.data())
def test_the_text_form_round_trips(algorithm: str, data: st.DataObject) -> None:
    length = HEX_LENGTHS[algorithm]
    value = data.draw(st.text("0123456789abcdef", min_size=length, max_size=length))
    digest = Digest(algorithm, value)
    assert Digest.parse(str(digest)) == digest


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256",
        "sha256:",
        "sha256:" + "0" * 63,
        "sha256:" + "A" * 64,
        "sha256:" + "g" * 64,
        "sha256:" + "0" * 64 + "\n",
        "sha256:" + "٠" * 64,
        "md5:" + "0" * 32,
        "SHA256:" + "0" * 64,
        "sha512:" + "0" * 64,
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(MalformedError) as caught:
        Digest.parse(text)
    assert caught.value.reference == "bad-digest"


@pytest.mark.parametrize(
    ("value", "sha256", "commit"),
    [
        ("0" * 64, True, False),
        ("0" * 40, False, True),
        ("0" * 7, False, False),
        ("F" * 64, False, False),
        ("f" * 39 + "G", False, False),
        (None, False, False),
        (0, False, False),
        (b"0" * 64, False, False),
    ],
)
def test_bare_hex_is_told_apart_by_length_and_case(value: object, sha256: bool, commit: bool) -> None:
    assert is_sha256_hex(value) is sha256
    assert is_git_commit(value) is commit
