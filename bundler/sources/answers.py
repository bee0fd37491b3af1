"""JSON that a server answered with: read as Python reads it, with bounds on size, depth and count.

Servers are not us: numbers of any size, `NaN`, a byte order mark and repeated members pass, and what is
needed of an answer is checked by whoever needs it.
"""

from __future__ import annotations

import json
from typing import Any

from bundler.errors import MalformedError

MAX_VALUES = 2_000_000
"""Values in one answer, roughly: each costs about 100 bytes of memory, a tree entry has ten."""
MAX_DEPTH = 100


def json_answer(data: bytes, *, where: str) -> Any:
    """The value in `data`. Raises MalformedError (`bad-json`, `too-deep`, `too-many-values`)."""
    # Counted before parsing: `[[],[],` makes objects of 30 times its size.
    if data.count(b",") + data.count(b"[") + data.count(b"{") > MAX_VALUES:
        raise _refused("too-many-values", where, f"at most {MAX_VALUES} values", "more")
    try:
        value = json.loads(data.decode("utf-8-sig"))
    except RecursionError:
        raise _refused("too-deep", where, f"at most {MAX_DEPTH} levels", "more") from None
    except ValueError as error:
        raise _refused("bad-json", where, "JSON", str(error)[:200]) from None
    if _depth_exceeds(value, MAX_DEPTH):
        raise _refused("too-deep", where, f"at most {MAX_DEPTH} levels", "more")
    return value


def _depth_exceeds(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [child for one in level for child in _children(one)]
        if not level:
            return False
    return True


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [child for child in value.values() if isinstance(child, (dict, list))]
    return [child for child in value if isinstance(child, (dict, list))] if isinstance(value, list) else []


def _refused(reference: str, where: str, expected: str, found: str) -> MalformedError:
    return MalformedError(
        reference,
        "an answer of upstream cannot be read",
        where=where,
        expected=expected,
        found=found,
        hint="a proxy may be answering instead; otherwise tell whoever runs the server",
    )
