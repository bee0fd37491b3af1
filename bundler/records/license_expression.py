"""SPDX licence expressions, judged against lists of accepted and refused identifiers.

Source: SPDX specification 2.3, annex D. Values only: nothing is read here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_TOKEN = re.compile(r"\s*(?:([()])|([A-Za-z0-9][A-Za-z0-9.:-]*\+?))")
_OPERATORS = ("AND", "OR", "WITH")
NOTHING_STATED = frozenset({"none", "noassertion", "unknown", "other"})
"""Words that say that no licence is known (SPDX `NONE`, `NOASSERTION`; `unknown`, `other` on the Hub)."""
_GNU = re.compile(r"((?:a?gpl|lgpl|gfdl)-\d\.\d)(\+?)")
Texts = Sequence[str]


def license_fault(stated: object, allow: Iterable[str], deny: Iterable[str]) -> str:
    """Why a stated licence is not acceptable; empty when it is. Letter case does not matter.

    `stated` is a text or a list of texts; a list means all of them. A missing licence, and a text that is no
    SPDX expression, cannot be judged and are refused; a text that the allow list names as a whole is
    accepted. Where all parts are alternatives (`A OR B`) one acceptable part suffices; in every other
    expression all parts must be acceptable, which is stricter than SPDX asks for mixed ones.
    """
    texts = _texts(stated)
    if texts is None:
        return "the licence is not a text or a list of texts"
    if not texts:
        return "no licence is stated"
    lists = {_normal(name) for name in allow}, {_normal(name) for name in deny}
    return next((fault for text in texts if (fault := _text_fault(text, *lists))), "")


def _texts(stated: object) -> Texts | None:
    """The licences that are stated, separated by `;` or `,` too; None when it is another kind of value."""
    values = stated if isinstance(stated, list) else [] if stated is None else [stated]
    texts = [value for value in values if isinstance(value, str)]
    if len(texts) != len(values) or (isinstance(stated, list) and not all(map(str.strip, texts))):
        return None
    return [part.strip() for text in texts for part in re.split("[;,]", text) if part.strip()]


def _text_fault(text: str, allowed: set[str], denied: set[str]) -> str:
    whole = _normal(text)
    if whole in NOTHING_STATED:
        return "no licence is stated"
    if whole in denied:
        return f"the licence {text} is one the policy refuses"
    if whole in allowed:
        return ""
    parts, alternatives = _parts(text)
    if not parts:
        return f"the licence {text} cannot be read as an SPDX expression"
    good = [part for part in parts if part not in denied and (not allowed or part in allowed)]
    good = [part for part in good if part not in NOTHING_STATED]
    if good if alternatives else len(good) == len(parts):
        return ""
    return f"the licence {text} is not one the policy accepts"


def _parts(text: str) -> tuple[list[str], bool]:
    """The identifiers of an expression and whether all are alternatives; none when it is no expression."""
    tokens = _tokens(text)
    operators = {token for token in tokens if token in _OPERATORS}
    if not tokens or not _is_expression(tokens):
        return [], False
    parts = [_normal(token) for token in tokens if token not in (*_OPERATORS, "(", ")")]
    return parts, operators <= {"OR"}


def _tokens(text: str) -> list[str]:
    tokens, at, text = [], 0, text.strip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            return []
        word = match[1] or match[2]
        tokens.append(word.upper() if word.upper() in _OPERATORS else word)
        at = match.end()
    return tokens


def _is_expression(tokens: Sequence[str]) -> bool:
    """Whether operands and operators take turns and parentheses are balanced."""
    depth, operand_next = 0, True
    for token in tokens:
        if token == "(" and operand_next:  # noqa: S105 - a parenthesis
            depth += 1
        elif token == ")" and not operand_next and depth:  # noqa: S105 - a parenthesis
            depth -= 1
        elif token in ("(", ")") or operand_next == (token in _OPERATORS):
            return False
        else:
            operand_next = not operand_next
    return depth == 0 and not operand_next


def _normal(name: str) -> str:
    """One spelling per licence: `GPL-2.0` is `GPL-2.0-only`, `GPL-2.0+` is `GPL-2.0-or-later`."""
    name = " ".join(name.lower().split())
    gnu = _GNU.fullmatch(name)
    return f"{gnu[1]}-{'or-later' if gnu[2] else 'only'}" if gnu else name
