"""YAML as a person may write it here: one reading for every reader, each fault with its line.

A plain subset: mappings with distinct text keys, lists, text, whole numbers, `true`/`false`, empty. No
anchors, aliases, tags, merge keys or second documents: they make two readers disagree, or a small file
enormous. What YAML 1.1 and 1.2 read differently (`no`, `010`, `1_000`) is refused; decimals stay decimals,
so that `3.10` where text is needed can be told from `"3.10"`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from bundler.errors import ExitCode, Finding, MalformedError

MAX_NESTING = 16
"""A spec needs 5 levels; the reader recurses once a level."""
Path = tuple[str | int, ...]
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,18})")
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a value stands and how it was written."""

    line: int
    """Counted from 1; of the key when the value has one."""
    raw: str = ""
    """The scalar's own text, unquoted."""
    plain: bool = False
    """Whether the scalar stands without quotes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """What a YAML text says, and where it says it."""

    value: Any
    places: Mapping[Path, Place]

    def place(self, path: Path) -> Place:
        """The place of `path`, or of the nearest thing around it."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, Place(line=1))


def loads(data: bytes, *, limit: int, where: str) -> Document:
    """The one document in `data`.

    Raises MalformedError with every fault that could be found: `too-large`, `bad-yaml`, `too-deep`,
    `duplicate-key`, `bad-key`, `yaml-alias`, `yaml-anchor`, `yaml-tag`, `merge-key`, `ambiguous-value`,
    `bad-text`, `several-documents`.
    """
    if len(data) > limit:
        raise MalformedError(
            "too-large",
            "a document is larger than its limit",
            where=where,
            expected=f"at most {limit} bytes",
            found=f"{len(data)} bytes",
        )
    reader = _Reader(_decode(data, where), where)
    value = reader.document()
    if reader.findings:
        raise MalformedError.of(reader.findings)
    return Document(value=value, places=reader.places)


def path_text(path: Path) -> str:
    """`models[0].format`: a path as people write it."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise MalformedError(
            "bad-yaml",
            "a document is not UTF-8 text",
            where=f"{where}, line {line}",
            expected="UTF-8",
            found=f"byte 0x{data[error.start]:02x} at offset {error.start}",
        ) from error


@dataclass(slots=True)
class _Reader:
    """Builds values from parser events; the events never expand anything."""

    text: str
    where: str
    findings: list[Finding] = field(default_factory=list)
    places: dict[Path, Place] = field(default_factory=dict)
    _events: Iterator[yaml.Event] = field(init=False)
    _resolver: yaml.SafeLoader = field(init=False)

    def __post_init__(self) -> None:
        self._resolver = yaml.SafeLoader("")
        self._events = self._parse()

    def _parse(self) -> Iterator[yaml.Event]:
        try:
            yield from yaml.parse(self.text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            found = ", ".join(part for part in (error.context, error.problem) if part)
            raise self._broken(mark.line + 1 if mark else 1, found) from error
        except yaml.reader.ReaderError as error:
            line = self.text.count("\n", 0, error.position) + 1
            raise self._broken(line, f"the character U+{error.character:04X}") from error
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            # ValueError: escapes beyond U+10FFFF, endless %YAML numbers; the parser does not say where.
            raise self._broken(1, str(error).partition("\n")[0]) from error

    def _broken(self, line: int, found: str) -> MalformedError:
        return MalformedError(
            "bad-yaml",
            "a document is not YAML",
            where=f"{self.where}, line {line}",
            expected="YAML: `name: value` lines, indented with spaces",
            found=found[:300],
        )

    def document(self) -> Any:
        """The first document's value; a second one is a finding."""
        next(self._events)  # the stream's start
        start = next(self._events)
        if isinstance(start, yaml.StreamEndEvent):
            return None
        value = self._node(next(self._events), (), 0)
        next(self._events)  # the document's end
        after = next(self._events)
        if not isinstance(after, yaml.StreamEndEvent):
            self._refuse("several-documents", "a second document begins", after, (), "one document")
        return value

    def _node(self, event: yaml.Event, path: Path, depth: int) -> Any:
        if depth > MAX_NESTING:
            self._too_deep(event, path)
        if isinstance(event, yaml.AliasEvent):
            self._refuse(
                "yaml-alias", "an alias is not allowed", event, path, "the value itself", str(event.anchor)
            )
            return None
        self._refuse_decoration(event, path)
        self.places.setdefault(path, Place(line=_line(event)))
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(path, depth)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(path, depth)
        assert isinstance(event, yaml.ScalarEvent)
        return self._scalar(event, path)

    def _refuse_decoration(self, event: Any, path: Path) -> None:
        if event.anchor is not None:
            self._refuse("yaml-anchor", "an anchor is not allowed", event, path, "no `&`", event.anchor)
        if event.tag is not None:
            self._refuse("yaml-tag", "a tag is not allowed", event, path, "no `!`", event.tag)

    def _sequence(self, path: Path, depth: int) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._node(event, (*path, len(items)), depth + 1))
        return items

    def _mapping(self, path: Path, depth: int) -> dict[str, Any]:
        value: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._key(event, path, depth)
            below = (*path, key)
            if key in value:
                first = self.places[below].line
                self._refuse(
                    "duplicate-key",
                    "a name is given twice",
                    event,
                    below,
                    "every name once",
                    f"first in line {first}",
                )
                self._node(next(self._events), (*below, "again"), depth + 1)
                continue
            self.places[below] = Place(line=_line(event))
            value[key] = self._node(next(self._events), below, depth + 1)
        return value

    def _key(self, event: yaml.Event, path: Path, depth: int) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            self._refuse("bad-key", "a name is not text", event, path, "text")
            self._node(event, (*path, "?"), depth + 1)
            return "?"
        self._refuse_decoration(event, path)
        kind = self._kind(event)
        if kind == "merge":
            self._refuse("merge-key", "a merge key is not allowed", event, path, "the names themselves", "<<")
        elif kind != "str":
            self._ambiguous(event, path, "text")
        self._refuse_unprintable(event, path)
        return str(event.value)

    def _kind(self, event: yaml.ScalarEvent) -> str:
        """What YAML 1.1 takes the scalar for: str, null, bool, int, float, timestamp, merge, value."""
        if event.style is not None:
            return "str"
        tag = self._resolver.resolve(yaml.ScalarNode, event.value, (True, False))  # type: ignore[no-untyped-call]
        return str(tag).removeprefix(_TAG)

    def _scalar(self, event: yaml.ScalarEvent, path: Path) -> Any:
        raw, kind = str(event.value), self._kind(event)
        line = self.places[path].line
        self.places[path] = Place(line=line, raw=raw, plain=event.style is None)
        self._refuse_unprintable(event, path)
        if kind == "null":
            return None
        if kind == "bool" and raw in ("true", "false"):
            return raw == "true"
        if kind == "int" and _INTEGER.fullmatch(raw):
            return int(raw)
        if kind == "float" and (number := _decimal(raw)) is not None:
            return number
        if kind not in ("str", "timestamp"):
            self._ambiguous(event, path, {"bool": "true or false", "int": "a whole number"}.get(kind, "text"))
        return raw

    def _ambiguous(self, event: yaml.ScalarEvent, path: Path, expected: str) -> None:
        self._refuse(
            "ambiguous-value",
            "YAML readers disagree about a value without quotes",
            event,
            path,
            expected,
            str(event.value)[:100],
            hint=f"write {expected}" if expected != "text" else f'quote it: "{event.value[:60]}"',
        )

    def _refuse_unprintable(self, event: yaml.ScalarEvent, path: Path) -> None:
        match = _UNPRINTABLE.search(event.value)
        if match:
            what, found = "text holds a control character or half a character", f"U+{ord(match.group()):04X}"
            self._refuse("bad-text", what, event, path, "readable text", found)

    def _too_deep(self, event: yaml.Event, path: Path) -> None:
        raise MalformedError(
            "too-deep",
            "a document is nested too deeply",
            where=self._at(event, path[:4]),
            expected=f"at most {MAX_NESTING} levels",
            found="more",
        )

    def _at(self, event: yaml.Event, path: Path) -> str:
        at = f"{self.where}, line {_line(event)}"
        return f"{at}: {path_text(path)[:200]}" if path else at

    def _refuse(
        self,
        reference: str,
        what: str,
        event: yaml.Event,
        path: Path,
        expected: str,
        found: str = "",
        hint: str = "",
    ) -> None:
        self.findings.append(
            Finding(
                reference=reference,
                what=what,
                where=self._at(event, path),
                expected=expected,
                found=found,
                hint=hint,
                exit_code=ExitCode.MALFORMED,
            )
        )


def _line(event: yaml.Event) -> int:
    """The line an event begins in, counted from 1."""
    assert event.start_mark is not None
    return event.start_mark.line + 1


def _decimal(raw: str) -> float | None:
    """The number in `raw`; None when it is no plain decimal (`.inf`, `1_0.5`, `1:30.5`)."""
    try:
        number = float(raw) if "_" not in raw else math.inf
    except ValueError:
        return None
    return number if math.isfinite(number) else None
