"""Hostile variants of good documents: small edits of bytes and, for JSON, of values.

An edit is plain data, so that Hypothesis can draw and shrink it and a random generator can make it alike.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_BYTES = 1 << 20
"""A variant never grows beyond this: the limits of the parsers themselves have tests of their own."""
TOKENS: tuple[bytes, ...] = (
    *(b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"\n", b"\r\n", b"\0", b"\x1b", b"\xff", b"-", b"="),
    *(b"null", b"true", b"1.5", b"1e999", b"-1", b"9007199254740992", b"NaN", b"\\ud800", b"\\u0000"),
    *(
        b"\xef\xbb\xbf",
        b"\xed\xa0\x80",
        "\u202e".encode(),
        "cafe\u0301".encode(),
        b"../",
        b"/",
        b"PK\x03\x04",
    ),
    *(b"PK\x01\x02", b"PK\x05\x06", b"\xff" * 4, b"\xff" * 8, b"\0" * 8, b"\x7f" + b"\xff" * 7, b"&a", b"*a"),
    *(
        b"9" * 5000,
        b"[" * 5000,
        b'{"a":' * 5000,
        b"a" * 5000,
        b"1970-01-01T00:00:00Z",
        b"0x",
        b"'",
        b"\t",
        b"//[",
        b"<![",
    ),
)
"""What parsers stumble over: quotes, brackets, limits of integers, zip marks, encodings, depth, length."""
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**53 - 1, 2**53, 2**64, -(2**63), 1.5, 1e308, "", "a", "\0", "\ud800"),
    *([], {}, [[]], [None], {"": None}, "\u202e", "e\u0301", "A" * 5000, ["a", "a"], "..", "/etc/passwd"),
    *("0" * 64, "F" * 64, "sha256:" + "0" * 64, "2026-13-45T99:99:99Z", "C:\\x", "x" * 300, {"sha256": 1}),
)
"""What may stand in a place where a parser expects something else."""
KINDS = ("flip", "cut", "repeat", "insert", "replace", "splice", "value", "drop", "twice", "truncate")


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """One change: what is done, where (a share of the document in 2^-16), how long, and with which bytes."""

    kind: str
    place: int
    length: int
    token: bytes = b""
    value: int = 0
    """Index into `VALUES`."""


def variant(seed: bytes, edits: Sequence[Edit], other: bytes = b"") -> bytes:
    """`seed` after all edits; `other` is what `splice` takes pieces from."""
    data = seed
    for edit in edits:
        data = _ACTIONS[edit.kind](data, edit, other)[:MAX_BYTES]
    return data


def random_edits(source: random.Random) -> list[Edit]:
    """One to five edits."""
    return [
        Edit(
            kind=source.choice(KINDS),
            place=source.randrange(1 << 16),
            length=source.choice((1, 1, 2, 4, 8, 64)),
            token=source.choice(TOKENS) if source.random() < 0.7 else source.randbytes(source.randrange(9)),
            value=source.randrange(len(VALUES)),
        )
        for _ in range(source.randrange(1, 6))
    ]


def _span(data: bytes, edit: Edit) -> tuple[int, int]:
    start = edit.place * (len(data) + 1) >> 16
    return start, min(len(data), start + edit.length)


def _flip(data: bytes, edit: Edit, _: bytes) -> bytes:
    start, _end = _span(data, edit)
    if start == len(data):
        return data
    return data[:start] + bytes([data[start] ^ (1 << edit.length % 8)]) + data[start + 1 :]


def _cut(data: bytes, edit: Edit, _: bytes) -> bytes:
    start, end = _span(data, edit)
    return data[:start] + data[end:]


def _repeat(data: bytes, edit: Edit, _: bytes) -> bytes:
    start, end = _span(data, edit)
    return data[:end] + data[start:end] * 3 + data[end:]


def _insert(data: bytes, edit: Edit, _: bytes) -> bytes:
    start, _end = _span(data, edit)
    return data[:start] + edit.token + data[start:]


def _replace(data: bytes, edit: Edit, _: bytes) -> bytes:
    start, end = _span(data, edit)
    return data[:start] + edit.token + data[end:]


def _splice(data: bytes, edit: Edit, other: bytes) -> bytes:
    start, end = _span(data, edit)
    there, _end = _span(other, edit)
    return data[:start] + other[there : there + 8 * edit.length] + data[end:]


def _truncate(data: bytes, edit: Edit, _: bytes) -> bytes:
    return data[: _span(data, edit)[0]]


def _in_json(change: Callable[[Any, Any, Edit], None]) -> Callable[[bytes, Edit, bytes], bytes]:
    """An action on one place of a JSON document; other documents stay as they are."""

    def action(data: bytes, edit: Edit, _: bytes) -> bytes:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            return data
        places = list(_places(value))
        if places:
            change(*places[edit.place * len(places) >> 16], edit)
        return json.dumps(value, ensure_ascii=edit.length == 1).encode("utf-8", "surrogatepass")

    return action


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container with each of its keys."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        keys = list(item) if isinstance(item, dict) else range(len(item)) if isinstance(item, list) else ()
        for key in keys:
            yield item, key
            waiting.append(item[key])


def _set_value(container: Any, key: Any, edit: Edit) -> None:
    container[key] = VALUES[edit.value]


def _drop(container: Any, key: Any, _: Edit) -> None:
    del container[key]


def _twice(container: Any, key: Any, edit: Edit) -> None:
    if isinstance(container, list):
        container.append(container[key])
    else:
        container[f"{key}{edit.length}"] = container[key]


_ACTIONS: Mapping[str, Callable[[bytes, Edit, bytes], bytes]] = {
    "flip": _flip,
    "cut": _cut,
    "repeat": _repeat,
    "insert": _insert,
    "replace": _replace,
    "splice": _splice,
    "truncate": _truncate,
    "value": _in_json(_set_value),
    "drop": _in_json(_drop),
    "twice": _in_json(_twice),
}
