"""What the value of a flag may be, as strictly as the engine's own parser and no wider.

A value that the engine refuses ends it after minutes of loading, behind the gap. Texts are judged before
anything starts; the kinds were read from each engine's argument parser (see the tables).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_WITH_UNIT = re.compile(r"[0-9]{1,12}[kKmMgGtT]|[0-9]{1,12}\.[0-9]{1,6}[kmgt]")
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,18}(?:\.[0-9]{0,18})?|\.[0-9]{1,18})(?:[eE][+-]?[0-9]{1,3})?")


class ValueKind(Protocol):
    """One kind of value: whether a text is one, and in words what is."""

    @property
    def expected(self) -> str:
        """What is accepted, in words."""

    def accepts(self, text: str) -> bool:
        """Whether the engine takes `text` as the value of the flag."""


@dataclass(frozen=True, slots=True)
class Text:
    """Printable text that fits `pattern`."""

    expected: str = "text"
    pattern: str = r"[^\s].*"

    def accepts(self, text: str) -> bool:
        """Whether `text` fits the pattern."""
        return text.isprintable() and re.fullmatch(self.pattern, text) is not None


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number from `least` to `most`; with `units` also 8k or 1M; `also` are further words."""

    least: int
    most: int | None = None
    units: bool = False
    also: tuple[str, ...] = ()

    @property
    def expected(self) -> str:
        """The range in words."""
        text = f"a whole number from {self.least}" + (f" to {self.most}" if self.most is not None else "")
        text += ", or with k, M or G behind it" if self.units else ""
        return text + (f", or {' or '.join(self.also)}" if self.also else "")

    def accepts(self, text: str) -> bool:
        """Whether `text` is such a number."""
        if text in self.also or (self.units and _WITH_UNIT.fullmatch(text)):
            return True
        return _WHOLE.fullmatch(text) is not None and self.holds(int(text))

    def holds(self, value: object) -> bool:
        """Whether a JSON value is such a number."""
        if not isinstance(value, int) or isinstance(value, bool):
            return False
        return value >= self.least and (self.most is None or value <= self.most)


@dataclass(frozen=True, slots=True)
class Number:
    """A finite number above `above`, at most `most`."""

    above: float
    most: float = math.inf

    @property
    def expected(self) -> str:
        """The range in words."""
        return f"a number above {self.above:g}" + (
            "" if math.isinf(self.most) else f", at most {self.most:g}"
        )

    def accepts(self, text: str) -> bool:
        """Whether `text` is such a number."""
        return _NUMBER.fullmatch(text) is not None and self.above < float(text) <= self.most


def truth(value: object) -> bool:
    """Whether a JSON value is true or false."""
    return isinstance(value, bool)


def count_or_options(value: object) -> bool:
    """Whether a JSON value is a number of items, or an object of numbers (`{"count": 1, "width": 512}`)."""
    at_least_none = Whole(0)
    if isinstance(value, dict):
        return all(at_least_none.holds(item) for item in value.values())
    return at_least_none.holds(value)


@dataclass(frozen=True, slots=True)
class JsonObject:
    """A JSON object. `members` are the names it may have, each with its test; `every` tests all others."""

    members: tuple[tuple[str, Callable[[object], bool]], ...] = ()
    every: Callable[[object], bool] | None = None
    example: str = field(default="{}", compare=False)

    @property
    def expected(self) -> str:
        """The object in words."""
        names = ", ".join(name for name, _ in self.members)
        return f"a JSON object such as '{self.example}'" + (f" with some of: {names}" if names else "")

    def accepts(self, text: str) -> bool:
        """Whether `text` is such an object, with every name once."""
        try:
            value = json.loads(text, object_pairs_hook=_every_name_once)
        except (ValueError, RecursionError):
            return False
        tests = dict(self.members)
        return isinstance(value, dict) and all(
            test is not None and test(item)
            for name, item in value.items()
            for test in [tests.get(name, self.every)]
        )


def _every_name_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name stands twice")
    return value


TEXT = Text()
FILE = Text("the path of a file", r"[^\s-].*")
COUNT = Whole(1)
TOKENS = Whole(1, units=True)
PORT = Whole(1, 65535)
SEED = Whole(-(1 << 63), (1 << 64) - 1)
"""What PyTorch takes (`torch.manual_seed`); the engines' parsers take any whole number."""
SHARE = Number(0, 1)
SECONDS = Number(0)
VERSION = Text("a version such as 0.18", r"[0-9]+(\.[0-9]+){1,2}")
