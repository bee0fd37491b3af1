"""Strict JSON: one reading for every reader, refused otherwise (format.md section 2)."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundler.core.strict_json import MAX_INTEGER, MAX_NESTING, dumps, loads
from bundler.errors import ExitCode, MalformedError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def read(data: bytes, **options: Any) -> Any:
    """The value, with a generous limit."""
    return loads(data, **{"limit": 1 << 20, "where": "x", **options})


def fault(data: bytes, **options: Any) -> str:
    """The reference with which `data` is refused."""
    with pytest.raises(MalformedError) as caught:
        read(data, **options)
    assert caught.value.exit_code == ExitCode.MALFORMED
    assert caught.value.findings[0].where == "x"
    return caught.value.reference


@given(JSON)
def test_what_is_written_is_read_back(value: Any) -> None:
    assert read(dumps(value)) == value


@given(JSON)
def test_written_bytes_have_sorted_keys_and_no_insignificant_space(value: Any) -> None:
    data = dumps(value)
    assert data == json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert dumps(read(data)) == data


@given(st.binary(max_size=60) | st.text('{}[]":,01e-.ntrufalse \\ud8', max_size=30).map(str.encode))
@settings(max_examples=300)
def test_no_bytes_make_the_parser_fail_otherwise_and_it_never_accepts_more_than_json(data: bytes) -> None:
    try:
        value = read(data)
    except MalformedError:
        return
    assert json.loads(data) == value


@pytest.mark.parametrize(
    ("data", "reference"),
    [
        (b"", "bad-json"),
        (b"{", "bad-json"),
        (b"1 2", "bad-json"),
        (b"[1,]", "bad-json"),
        (b"'a'", "bad-json"),
        (b"\xef\xbb\xbf{}", "bad-json"),
        (b'"\xff"', "bad-json"),
        (b'"\xc0\xaf"', "bad-json"),
        (b'"\xed\xa0\x80"', "bad-json"),
        (b'"\x07"', "bad-json"),
        (b"NaN", "bad-json"),
        (b"[Infinity]", "bad-json"),
        (b"[-Infinity]", "bad-json"),
        (b"1.0", "bad-json"),
        (b"1e3", "bad-json"),
        (b"1E400", "bad-json"),
        (b"9007199254740992", "bad-json"),
        (b"-9007199254740992", "bad-json"),
        (b"1" * 5000, "bad-json"),
        (rb'"\ud800"', "bad-json"),
        (rb'{"\udfff":1}', "bad-json"),
        (rb'[{"a":["\ud800x"]}]', "bad-json"),
        (b'{"a":1,"a":1}', "duplicate-key"),
        (b'{"a":{"b":1,"c":2,"b":3}}', "duplicate-key"),
        (rb'{"a":1,"\u0061":2}', "duplicate-key"),
        (b"[" * 33 + b"]" * 33, "too-deep"),
        (b"[" * 1_000_00, "too-deep"),
        (b'{"a":' * 33 + b"1" + b"}" * 33, "too-deep"),
    ],
)
def test_what_is_not_strict_is_refused(data: bytes, reference: str) -> None:
    assert fault(data) == reference


def test_the_limit_is_checked_before_anything_is_read() -> None:
    assert fault(b"\xff" * 11, limit=10) == "too-large"
    assert read(b" " * 8 + b"{}", limit=10) == {}


def test_nesting_up_to_the_limit_is_read_and_brackets_in_text_do_not_count() -> None:
    depth = b"[" * MAX_NESTING + b"]" * MAX_NESTING
    assert json.dumps(read(depth)).count("[") == MAX_NESTING
    text = "[" * 100 + '\\"{'
    assert read(json.dumps([text]).encode()) == [text]


@pytest.mark.parametrize("number", [0, -0, MAX_INTEGER, -MAX_INTEGER])
def test_integers_up_to_2_53_minus_1_are_read(number: int) -> None:
    assert read(str(number).encode()) == number


def test_surrogate_pairs_are_one_character() -> None:
    assert read(rb'"\ud83d\ude00"') == "\U0001f600"


def test_floats_are_for_third_parties_only_and_nan_for_nobody() -> None:
    assert read(b"[7.5,1e3]", allow_floats=True) == [7.5, 1000.0]
    assert fault(b"[NaN]", allow_floats=True) == "bad-json"
    assert fault(b"[9007199254740993]", allow_floats=True) == "bad-json"


def test_writers_refuse_nan() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        dumps(float("nan"))


def test_errors_name_the_key_or_place() -> None:
    with pytest.raises(MalformedError) as caught:
        read(b'{"serial":1,"serial":2}')
    assert caught.value.findings[0].found == "'serial'"
    with pytest.raises(MalformedError) as caught:
        read(b'{"a":\n oops}')
    assert caught.value.findings[0].found.startswith("line 2, column 2")


@given(JSON)
def test_nesting_is_counted_as_a_parser_counts_it(value: Any) -> None:
    data = json.dumps(value, ensure_ascii=True).encode()
    deep = b"[" * (MAX_NESTING - depth_of(value)) + data + b"]" * (MAX_NESTING - depth_of(value))
    read(deep)
    assert fault(b"[" + deep + b"]") == "too-deep"


def depth_of(value: Any) -> int:
    """Levels of lists and objects."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth_of, inner), default=0)


@pytest.mark.parametrize(
    "data",
    [b'"' + b'\\"' * 500_000, b'"' + b"\\\\" * 500_000, b'{"a":"' + b'\\"' * 500_000, b'["' + b"a" * 999_999],
    ids=["open quote, escapes", "open quote, backslashes", "open member", "open text"],
)
def test_a_hostile_document_costs_no_more_than_its_size(data: bytes) -> None:
    began = time.process_time()
    assert fault(data, limit=1 << 21) == "bad-json"
    assert time.process_time() - began < 2
