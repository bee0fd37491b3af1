"""Text for people: nothing that drives a terminal, and digests in groups that an eye can compare.

Also runs in `verify.pyz`: standard library only, Python 3.9.
"""

from __future__ import annotations

import re

GROUP = 4
"""Hexadecimal digits in one group of a digest."""
COLUMNS = 100
"""Width that a line with a digest must fit, so that no terminal breaks the digest."""
# Letters that Unicode calls printable and that nobody sees: variation selectors, fillers, joiners, blanks.
_INVISIBLE = frozenset(
    {0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180B, 0x180C, 0x180D, 0x180F, 0x2800, 0x3164, 0xFFA0}
    | {*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)}
)
_DIGEST = re.compile(r"(?<![\w/@=])sha256:([0-9a-f]{64})(?![\w/])")
# What people copy into a shell must stay in one piece.
_COMMAND = re.compile(r"`[^`]*`|^\s*(?:next:|\$|sealift ).*$")
_GROUPED = re.compile(r"sha256:[0-9a-f]{4}(?: [0-9a-f]{4}){15}")


def printable(text: str) -> str:
    """`text` with every character escaped that could drive a terminal or hide.

    These are controls, escapes, line breaks, bidirectional and zero-width characters. Applying it twice
    changes nothing.
    """
    return "".join(letter if _is_visible(letter) else _escaped(letter) for letter in text)


def _is_visible(letter: str) -> bool:
    return letter.isprintable() and ord(letter) not in _INVISIBLE


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")


def grouped(text: str) -> str:
    """`text` with each `sha256:` digest in groups of four; commands keep theirs in one piece."""
    pieces, end = [], 0
    for command in _COMMAND.finditer(text):
        pieces += [_group(text[end : command.start()]), command[0]]
        end = command.end()
    return "".join([*pieces, _group(text[end:])])


def _group(text: str) -> str:
    return _DIGEST.sub(lambda found: f"sha256:{groups(found[1])}", text)


def groups(digest: str) -> str:
    """Hexadecimal digits in groups of four, separated by spaces."""
    return " ".join(digest[start : start + GROUP] for start in range(0, len(digest), GROUP))


def for_people(line: str, *, indent: int = 2) -> str:
    """One line for a terminal: printable, digests grouped, and none of them across the end of a line.

    A digest that would cross `COLUMNS` begins a new line, `indent` columns in.
    """
    text = grouped(printable(line))
    pieces, begin, column = [], 0, 0
    for digest in _GROUPED.finditer(text):
        before = text[begin : digest.start()]
        if column + len(before) + len(digest[0]) > COLUMNS and before.strip():
            pieces += [before.rstrip(), "\n" + " " * indent, digest[0]]
            column = indent + len(digest[0])
        else:
            pieces += [before, digest[0]]
            column += len(before) + len(digest[0])
        begin = digest.end()
    return "".join([*pieces, text[begin:]])
