"""JSON that a server answered with: read as published documents are, with tighter bounds.

Servers are not us: what is needed of an answer is checked by whoever needs it.
"""

from __future__ import annotations

from typing import Any

from bundler.content.published_json import ANSWER_KEYS, parse_published_json

MAX_VALUES = 2_000_000
"""Values in one answer, roughly: each costs about 100 bytes of memory, a tree entry has ten."""
_HINT = "a proxy may be answering instead; otherwise tell whoever runs the server"


def json_answer(data: bytes, *, where: str) -> Any:
    """The value in `data`. Raises MalformedError as `parse_published_json` does, and for a key that stands
    twice (`duplicate-key`) where that decides what is fetched.
    """
    return parse_published_json(
        data, where=where, values=MAX_VALUES, bom=True, decisive=ANSWER_KEYS, hint=_HINT
    ).require()
