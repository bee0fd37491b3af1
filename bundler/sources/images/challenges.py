"""What a 401 asks for: the challenges of `WWW-Authenticate` (RFC 9110 section 11.6.1).

A registry may offer several schemes, in one header or in several, in any order. Several headers of one answer
are joined by commas before they come here (RFC 9110 section 5.3), as `requests` does it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

HEADER_LIMIT = 64 << 10
"""Characters of a header that are read; honest ones have a few hundred."""
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - a grammar's name, not a secret
_QUOTED = r'"(?P<quoted>(?:[^"\\]|\\.)*)"'
# Wider than a token: realms without quotes are seen, and they hold `:` and `/`.
_BARE = r'(?P<bare>[^\s,"=][^\s,"]*)'
_PARAMETER = re.compile(rf"(?P<name>{_TOKEN})[ \t]*=[ \t]*(?:{_QUOTED}|{_BARE})[ \t]*(?=,|$)")
_SCHEME = re.compile(rf"(?P<scheme>{_TOKEN})(?:[ \t]+|(?=,|$))")
_TOKEN68 = re.compile(r"(?P<value>[A-Za-z0-9._~+/-]+=*)[ \t]*(?=,|$)")
_BETWEEN = re.compile(r"[ \t,]*")
_LOST = re.compile(r'(?:"(?:[^"\\]|\\.)*"?|[^",])*')


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """One scheme with its parameters; names of both in lower case."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)


def parse_challenges(header: str) -> tuple[Challenge, ...]:
    """Every challenge in `header`, in order. What cannot be read is skipped: it only offers one way less."""
    found: list[tuple[str, dict[str, str]]] = []
    text, at = header[:HEADER_LIMIT], 0
    while (at := _end(_BETWEEN, text, at)) < len(text):
        parameter = _PARAMETER.match(text, at)
        if parameter and found:
            found[-1][1].setdefault(parameter["name"].lower(), _value(parameter))
            at = parameter.end()
        elif (scheme := _SCHEME.match(text, at)) and not parameter:
            found.append((scheme["scheme"].lower(), {}))
            at = _after_token68(text, scheme.end())
        else:
            at = max(_end(_LOST, text, at), at + 1)
    return tuple(Challenge(scheme=scheme, parameters=parameters) for scheme, parameters in found)


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return match.end() if match else at


def _value(parameter: re.Match[str]) -> str:
    quoted = parameter["quoted"]
    return str(parameter["bare"]) if quoted is None else re.sub(r"\\(.)", r"\1", quoted)


def _after_token68(text: str, at: int) -> int:
    """Past the bare value that schemes such as Negotiate have in place of parameters."""
    return at if _PARAMETER.match(text, at) else _end(_TOKEN68, text, at)
