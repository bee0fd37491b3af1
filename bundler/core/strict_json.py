"""Strict JSON (format.md section 2): one reading for every reader, refused otherwise.

UTF-8 without a byte order mark, size checked before parsing, nesting checked before a recursive parser
sees the bytes, no duplicate keys, floats, NaN, integers beyond 2^53-1 or lone surrogates.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NoReturn

from bundler.errors import MalformedError

MAX_INTEGER = 2**53 - 1
MAX_NESTING = 32
MANIFEST_LIMIT = 1 << 30
ATTESTATION_LIMIT = 32 << 20
POLICY_LIMIT = 4 << 20
_STRINGS_AND_BRACKETS = re.compile(rb'"[^"]*"?|[\[\]{}]')
_SURROGATE = re.compile("[\ud800-\udfff]")


def loads(
    data: bytes, *, limit: int, where: str, allow_floats: bool = False, largest: int = MAX_INTEGER
) -> Any:
    """The value that `data` says, or MalformedError.

    `limit` is in bytes and checked first. `where` names the document in errors. `allow_floats` and a
    `largest` integer beyond 2^53-1 are for documents of third parties only (format.md section 2).
    References: `too-large`, `bad-json`, `too-deep`, `duplicate-key`.
    """
    if len(data) > limit:
        raise MalformedError(
            "too-large",
            "a document is larger than its limit",
            where=where,
            expected=f"at most {limit} bytes",
            found=f"{len(data)} bytes",
        )
    if data.startswith(b"\xef\xbb\xbf"):
        _refuse(where, "it starts with a byte order mark")
    check_nesting(data, where, MAX_NESTING)
    try:
        text = data.decode("utf-8", "strict")
    except UnicodeDecodeError as error:
        _refuse(where, f"it is not UTF-8 at byte {error.start}")
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object_without_duplicates(where),
            parse_int=_integer(where, largest),
            parse_float=float if allow_floats else _no_float(where),
            parse_constant=_no_constant(where),
        )
    except json.JSONDecodeError as error:
        _refuse(where, f"line {error.lineno}, column {error.colno}: {error.msg}")
    except RecursionError:
        _too_deep(where, MAX_NESTING)
    # A surrogate can only come from a \ud800 escape; the search is skipped when there is none.
    if b"\\u" in data:
        _refuse_surrogates(value, where)
    return value


def dumps(value: object) -> bytes:
    """The bytes our writers emit: sorted keys, no insignificant space, UTF-8, no NaN."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode("utf-8")


def _refuse(where: str, found: str) -> NoReturn:
    raise MalformedError(
        "bad-json",
        "a document is not strict JSON",
        where=where,
        expected="strict JSON (format.md section 2)",
        found=found,
    )


def _too_deep(where: str, limit: int) -> NoReturn:
    raise MalformedError(
        "too-deep",
        "a document is nested too deeply",
        where=where,
        expected=f"at most {limit} levels",
        found="more",
    )


def check_nesting(data: bytes, where: str, limit: int) -> None:
    """Refuse a document with more than `limit` levels (`too-deep`) before a recursive parser sees it."""
    if data.count(b"{") + data.count(b"[") <= limit:
        return
    depth = 0
    # Escaped backslashes and quotes go first, so that one simple repetition matches a string, closed or
    # not: time and memory stay linear for hostile documents (32 KB of escapes once took five seconds).
    plain = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    for match in _STRINGS_AND_BRACKETS.finditer(plain):
        mark = match.group()[0]
        if mark in b"[{":
            depth += 1
            if depth > limit:
                _too_deep(where, limit)
        elif mark in b"]}":
            depth -= 1


def _object_without_duplicates(where: str) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) != len(pairs):
            seen: set[str] = set()
            for key, _ in pairs:
                if key in seen:
                    raise MalformedError(
                        "duplicate-key",
                        "an object has the same key twice",
                        where=where,
                        expected="every key once",
                        found=repr(key)[:200],
                    )
                seen.add(key)
        return value

    return build


def _integer(where: str, largest: int) -> Callable[[str], int]:
    longest = len(str(largest)) + 1

    def parse(text: str) -> int:
        # Length first: Python takes quadratic time for long integers, and refuses very long ones.
        if len(text) > longest or abs(int(text)) > largest:
            bound = "2^53-1" if largest == MAX_INTEGER else "what is read"
            _refuse(where, f"the integer {text[:40]} is beyond {bound}")
        return int(text)

    return parse


def _no_float(where: str) -> Callable[[str], NoReturn]:
    def parse(text: str) -> NoReturn:
        _refuse(where, f"the number {text[:40]} is not an integer")

    return parse


def _no_constant(where: str) -> Callable[[str], NoReturn]:
    def parse(text: str) -> NoReturn:
        _refuse(where, f"{text} is not JSON")

    return parse


def _refuse_surrogates(value: object, where: str) -> None:
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            if _SURROGATE.search(item):
                _refuse(where, "a lone surrogate")
        elif isinstance(item, dict):
            waiting.extend(item.keys())
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
