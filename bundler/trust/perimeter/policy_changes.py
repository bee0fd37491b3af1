"""What changes from one policy to the next, line by line and complete: every member of the document.

Computed from the documents themselves, so that a member which no sentence explains is shown, too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from bundler.core import strict_json

_NATURAL = frozenset({"version", "previous.sha256"})
"""Members that every update changes."""


def changes(old: bytes, new: bytes) -> list[str]:
    """Lines `+ place: value`, `- place: value` and `~ place: old -> new`, in the order of places.

    `old` and `new` are bytes of valid policies. Version and chain, which every update changes, are left out.
    """
    before, after = (
        dict(_members(strict_json.loads(data, limit=strict_json.POLICY_LIMIT, where="policy")))
        for data in (old, new)
    )
    return [
        line
        for place in sorted(before.keys() | after.keys())
        if place not in _NATURAL
        for line in _line(place, before.get(place), after.get(place))
    ]


def _line(place: str, old: str | None, new: str | None) -> Iterator[str]:
    if old is None:
        yield f"+ {place}: {new}"
    elif new is None:
        yield f"- {place}: {old}"
    elif old != new:
        yield f"~ {place}: {old} -> {new}"


def _members(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Each scalar with its place. Items of a list are named by their id or text, not by their position."""
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from _members(item, f"{place}.{name}" if place else name)
    elif isinstance(value, list) and value:
        for number, item in enumerate(value):
            if not isinstance(item, (dict, list)):
                yield f"{place}[{json.dumps(item, ensure_ascii=False)}]", "listed"
                continue
            name = item.get("id", number) if isinstance(item, dict) else number
            yield from _members(item, f"{place}[{name}]")
    else:
        yield place, json.dumps(value, ensure_ascii=False)
