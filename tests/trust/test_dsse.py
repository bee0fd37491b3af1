"""Envelopes and statements: one reading, refused otherwise."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundler.core.strict_json import dumps
from bundler.errors import MalformedError
from bundler.trust.dsse import (
    check_shape,
    decode_base64,
    encode_bundle,
    parse_bundle,
    parse_statement,
    pre_authentication_encoding,
)
from bundler.trust.statements import compose

HEX = st.text("0123456789abcdef", min_size=64, max_size=64)
NAMES = st.text(min_size=1, max_size=30)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=20,
)


def test_the_pae_is_that_of_the_protocol() -> None:
    # The example of https://github.com/secure-systems-lab/dsse/blob/master/protocol.md
    assert (
        pre_authentication_encoding(b"hello world", "http://example.com/HelloWorld")
        == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    assert pre_authentication_encoding(b"").startswith(b"DSSEv1 28 application/vnd.in-toto+json 0 ")


@given(st.binary(min_size=1, max_size=300), st.binary(min_size=1, max_size=300), st.text(max_size=20))
def test_what_is_written_is_read_back(payload: bytes, signature: bytes, hint: str) -> None:
    hint = hint.encode("utf-8", "ignore").decode()
    envelope = parse_bundle(encode_bundle(payload, signature, hint=hint), where="x")
    assert (envelope.payload, envelope.signature, envelope.untrusted_hint) == (payload, signature, hint)
    assert not envelope.keyless


@given(st.binary(min_size=1, max_size=60))
def test_a_value_has_one_base64_text(data: bytes) -> None:
    text = base64.b64encode(data).decode()
    assert decode_base64(text, where="x") == data


@given(st.text(max_size=40) | st.text("ABCDabcd0123+/=-_\n ", max_size=40))
def test_base64_that_is_not_canonical_is_refused(text: str) -> None:
    with suppress(MalformedError):
        assert base64.b64encode(decode_base64(text, where="x")).decode() == text


@given(st.binary(max_size=200) | JSON.map(dumps))
@settings(max_examples=200)
def test_no_bytes_make_the_bundle_parser_fail_otherwise(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_bundle(data, where="x")


@given(JSON.map(dumps) | st.binary(max_size=60))
def test_no_bytes_make_the_statement_parser_fail_otherwise(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_statement(data, where="x")


GOOD = json.loads(encode_bundle(b"{}", b"signature", hint="h"))


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every member below `value`."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [inner for name, item in items for inner in [(*path, name), *places(item, (*path, name))]]


@given(st.sampled_from(places(GOOD)), JSON)
@settings(max_examples=200)
def test_any_other_value_in_any_place_is_refused_or_harmless(path: tuple[Any, ...], new: Any) -> None:
    changed = json.loads(json.dumps(GOOD))
    at = changed
    for name in path[:-1]:
        at = at[name]
    at[path[-1]] = new
    try:
        envelope = parse_bundle(dumps(changed), where="x")
    except MalformedError:
        return
    assert (envelope.payload, envelope.signature) == (b"{}", b"signature")


@given(st.sampled_from([(), ("verificationMaterial",), ("dsseEnvelope",), ("dsseEnvelope", "signatures", 0)]))
def test_an_unknown_member_is_refused_everywhere(path: tuple[Any, ...]) -> None:
    changed = json.loads(json.dumps(GOOD))
    at = changed
    for name in path:
        at = at[name]
    at["surplus"] = 1
    with pytest.raises(MalformedError) as caught:
        parse_bundle(dumps(changed), where="attestations/x")
    assert caught.value.reference == "bad-envelope"
    assert caught.value.findings[0].found == "surplus"
    assert caught.value.findings[0].where.startswith("attestations/x")


@given(
    st.dictionaries(NAMES, HEX, min_size=1, max_size=64), NAMES, st.dictionaries(st.text(max_size=5), JSON)
)
@settings(max_examples=50)
def test_a_statement_round_trips(subjects: dict[str, str], kind: str, predicate: dict[str, Any]) -> None:
    statement = parse_statement(compose(subjects, kind, predicate), where="x")
    assert statement.subjects == subjects
    assert statement.predicate_type == kind
    assert statement.predicate == predicate


def test_a_third_partys_predicate_may_hold_floats_and_a_statement_none() -> None:
    statement = (
        b'{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"a","digest":{"sha256":"%s"}}],'
        b'"predicateType":"https://cyclonedx.org/bom"}' % (b"a" * 64)
    )
    assert parse_statement(statement, where="x").predicate == {}
    with_float = statement[:-1] + b',"predicate":{"score":7.5}}'
    assert parse_statement(with_float, where="x").predicate == {"score": 7.5}


@pytest.mark.parametrize(
    ("value", "shape", "fits"),
    [
        (1, int, True),
        (True, int, False),
        (None, (str, type(None)), True),
        ([], [str], True),
        (["a", 1], [str], False),
        ({"a": 1}, {"a": int}, True),
        ({}, {"a?": int}, True),
        ({}, {"a": int}, False),
        ({"b": 1}, {"a?": int}, False),
        ([], {}, False),
        ({}, [str], False),
    ],
)
def test_shapes_say_exactly_what_fits(value: Any, shape: Any, fits: bool) -> None:
    if fits:
        check_shape(value, shape, where="x", reference="bad-x")
    else:
        with pytest.raises(MalformedError) as caught:
            check_shape(value, shape, where="x", reference="bad-x")
        assert caught.value.reference == "bad-x"


def keyless(**changes: Any) -> bytes:
    """A keyless bundle whose proofs are nonsense: only its form is of interest here."""
    entry = {
        "logIndex": "7",
        "logId": {"keyId": "AA=="},
        "kindVersion": {"kind": "dsse", "version": "0.0.1"},
        "integratedTime": "1700000000",
        "inclusionPromise": {"signedEntryTimestamp": "AA=="},
        "inclusionProof": {
            "logIndex": "7",
            "rootHash": "AA==",
            "treeSize": "9",
            "hashes": ["AA=="],
            "checkpoint": {"envelope": "x"},
        },
        "canonicalizedBody": "AA==",
    }
    material = {"certificate": {"rawBytes": "AA=="}, "tlogEntries": [entry], **changes}
    return dumps({**GOOD, "verificationMaterial": material})


def test_keyless_material_is_recognised() -> None:
    assert parse_bundle(keyless(), where="x").keyless


@pytest.mark.parametrize("changes", [{"tlogEntries": []}, {"publicKey": {"hint": ""}}, {"extra": 1}])
def test_keyless_material_of_another_form_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_bundle(keyless(**changes), where="x")
    assert caught.value.reference == "bad-envelope"
