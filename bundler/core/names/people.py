"""Which names are allowed, and which two names a reader may take for one (format.md section 6).

Pure, standard library only, Python 3.9: travels in `verify.pyz`. Source: UTS 39 "Unicode Security Mechanisms"
section 4 (skeleton), with the table of `core.names.confusables`.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterable, Iterator

from bundler.core.names.confusables import DEFAULT_IGNORABLE, PROTOTYPES

# Zl and Zp break lines as control characters do; Cs cannot be written as UTF-8.
_REFUSED = {
    "Cc": "control character",
    "Cf": "format character",
    "Cs": "surrogate",
    "Zl": "line separator",
    "Zp": "paragraph separator",
}
_LOOK_ALIKE_ALPHABETS = frozenset({"LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "COPTIC", "LISU"})
MAX_NAME = 500
"""Characters of a name: long enough for any person, short enough to be compared aloud."""
_ROUNDS = 4
"""Case folding and mapping feed each other (U+039C is M, which folds to m, which looks like rn)."""


def text_fault(text: str) -> str:
    """Why `text` may not be shown as a name or note; empty when it may.

    Control and format characters let a text print as another one, or hide a part of it.
    """
    for character in text:
        kind = _REFUSED.get(unicodedata.category(character))
        if kind:
            return f"it holds the {kind} U+{ord(character):04X}"
    return ""


def name_fault(name: str) -> str:
    """Why `name` cannot name a person or a role; empty when it can."""
    if len(name) > MAX_NAME:
        return f"it has {len(name)} characters, at most {MAX_NAME} are allowed"
    return text_fault(name) or ("" if fold_name(name) else "it is empty")


def owner_fault(name: str) -> str:
    """Why `name` is not taken as the name of a new key's owner; empty when it is.

    Stricter than `name_fault`: also letters that nobody sees, letters in disguise (full-width, mathematical)
    and words that mix alphabets with letters that look alike.
    """
    fault = name_fault(name)
    if fault:
        return fault
    plain = unicodedata.normalize("NFC", name)
    for character in plain:
        if not character.isprintable() or _within(ord(character), _tables()[1]):
            return f"it holds the invisible character U+{ord(character):04X}"
        if character != unicodedata.normalize("NFKC", character):
            return f"it holds U+{ord(character):04X}, which prints as another character"
    if plain != " ".join(plain.split()):
        return "it has spaces around it, or several together"
    mixed = next((word for word in plain.split() if len(_alphabets(word)) > 1), "")
    return f"{mixed!a} mixes the alphabets {' and '.join(sorted(_alphabets(mixed)))}" if mixed else ""


def _alphabets(word: str) -> frozenset[str]:
    """The alphabets of a word among those whose letters look alike."""
    names = (unicodedata.name(letter, "").partition(" ")[0] for letter in word if letter.isalpha())
    return frozenset(names) & _LOOK_ALIKE_ALPHABETS


@functools.lru_cache(maxsize=4096)
def fold_name(name: str) -> str:
    """The form in which two spellings of one name are equal: NFKC, case, spaces and look-alikes folded."""
    return _closed(unicodedata.normalize("NFKC", name).casefold())


@functools.lru_cache(maxsize=4096)
def look_alike_keys(name: str) -> frozenset[str]:
    """Two names that share a key may be taken for one.

    One key maps look-alikes after case folding, the other before it: a capital I looks like l, and a Greek
    capital letter looks like a Latin one although the small letters differ.
    """
    compatible = unicodedata.normalize("NFKC", name)
    return frozenset({fold_name(name), _closed(skeleton(compatible))})


def look_alikes(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Pairs of different names that may be taken for one, each later name once."""
    seen: dict[str, str] = {}
    for name in dict.fromkeys(names):
        keys = sorted(look_alike_keys(name))
        earlier = next((seen[key] for key in keys if key in seen), None)
        if earlier is not None:
            yield earlier, name
        for key in keys:
            seen.setdefault(key, name)


def skeleton(text: str) -> str:
    """The skeleton of UTS 39: decomposed, invisible characters left out, look-alikes mapped."""
    prototypes, ignorable = _tables()
    decomposed = unicodedata.normalize("NFD", text)
    mapped = "".join(prototypes.get(c, c) for c in decomposed if not _within(ord(c), ignorable))
    # A dot above i or j changes nothing that is seen (soft-dotted letters).
    return unicodedata.normalize("NFD", mapped).replace("i\u0307", "i").replace("j\u0307", "j")


def _closed(text: str) -> str:
    for _ in range(_ROUNDS):
        folded = unicodedata.normalize("NFKC", skeleton(text.casefold())).casefold()
        folded = " ".join(folded.split())
        if folded == text:
            break
        text = folded
    return text


def _within(point: int, ranges: tuple[tuple[int, int], ...]) -> bool:
    return point >= ranges[0][0] and any(first <= point <= last for first, last in ranges)


@functools.lru_cache(maxsize=1)
def _tables() -> tuple[dict[str, str], tuple[tuple[int, int], ...]]:
    """The prototypes by character, and the ranges of characters that are not shown."""
    prototypes = {}
    for entry in PROTOTYPES.split():
        source, _, target = entry.partition(":")
        prototypes[chr(int(source, 16))] = "".join(chr(int(point, 16)) for point in target.split(","))
    ranges = (entry.partition("-")[::2] for entry in DEFAULT_IGNORABLE.split())
    return prototypes, tuple((int(first, 16), int(last, 16)) for first, last in ranges)
