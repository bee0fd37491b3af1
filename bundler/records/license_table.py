"""The licences of a bundle as a table: what each artifact declares, and which licence texts came along.

Shows what was declared. Does not judge it; `license_expression` does that for a policy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from bundler.core import layout
from bundler.core.artifacts import Artifact, texts_of
from bundler.core.printable import printable
from bundler.records.license_expression import NOTHING_STATED

NOT_DECLARED = "not declared"
WARNING = "this is what was declared, not legal advice"
MAX_COLUMN = 60
"""Letters that a column is padded to at most: one very long name must not push every row apart."""
HEADINGS = ("artifact", "declared", "concluded", "licence texts")


@dataclass(frozen=True)
class LicenseRow:
    """One artifact, and what is said about its licence."""

    artifact: str
    kind: str
    declared: str | None
    """What the publisher declares; None when nothing is declared."""
    concluded: str | None
    """What the author of the spec concluded; None without."""
    texts: tuple[str, ...]
    """Paths of licence texts in the bundle."""
    missing: tuple[str, ...]
    """Paths of licence texts that are named but are not in the bundle."""

    @property
    def is_declared(self) -> bool:
        """Whether the publisher names a licence: words such as `other` and `NOASSERTION` name none."""
        return self.declared is not None and self.declared.casefold() not in NOTHING_STATED

    def to_json(self) -> dict[str, Any]:
        """The row for machines: `declared` is the publisher's own text, also when it names no licence."""
        return {
            "artifact": self.artifact,
            "kind": self.kind,
            "declared": self.declared,
            "isDeclared": self.is_declared,
            "concluded": self.concluded,
            "texts": list(self.texts),
            "missingTexts": list(self.missing),
        }

    def cells(self) -> tuple[str, str, str, str]:
        """The row for people, in the order of `HEADINGS`."""
        texts = [*self.texts, *(f"{path} (not in the bundle)" for path in self.missing)]
        word = f' ("{self.declared}")' if self.declared else ""
        declared = self.declared if self.declared and self.is_declared else NOT_DECLARED + word
        return (self.artifact, declared, self.concluded or "-", ", ".join(texts) or "-")


@dataclass(frozen=True)
class LicenseText:
    """A licence text that the author of the spec added, and what it applies to."""

    path: str
    applies_to: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The text for machines."""
        return {"path": self.path, "appliesTo": list(self.applies_to)}

    def __str__(self) -> str:
        return f"{self.path} (for {', '.join(self.applies_to) or 'the whole bundle'})"


def license_rows(artifacts: Sequence[Artifact], listed: AbstractSet[str]) -> tuple[LicenseRow, ...]:
    """A row for each artifact that is no licence text itself; `listed` holds the bundle's paths."""
    added = added_texts(artifacts)
    return tuple(_row(item, added, listed) for item in artifacts if not _is_text(item))


def table_lines(rows: Sequence[LicenseRow]) -> Iterator[str]:
    """The table for a terminal: printable, columns as wide as their longest cell, the last one free."""
    cells = [HEADINGS, *(tuple(map(printable, row.cells())) for row in rows)]
    widths = [min(MAX_COLUMN, max(len(row[column]) for row in cells)) for column in range(len(HEADINGS) - 1)]
    for row in cells:
        padded = [text.ljust(width) for text, width in zip(row[:-1], widths, strict=True)]
        yield "  ".join([*padded, row[-1]]).rstrip()


def added_texts(artifacts: Sequence[Artifact]) -> tuple[LicenseText, ...]:
    """The licence texts in `payload/licenses`, in the order of the artifacts."""
    return tuple(
        LicenseText(item.path, texts_of(item.members, "appliesTo")) for item in artifacts if _is_text(item)
    )


def _row(item: Artifact, added: Sequence[LicenseText], listed: AbstractSet[str]) -> LicenseRow:
    named = [*texts_of(item.license, "texts"), *_applying(item, added)]
    return LicenseRow(
        artifact=item.id or "?",
        kind=item.kind,
        declared=_stated(item.license.get("declared")),
        concluded=_stated(item.license.get("concluded")),
        texts=tuple(path for path in named if path in listed),
        missing=tuple(path for path in named if path not in listed),
    )


def _is_text(item: Artifact) -> bool:
    return layout.is_below(item.path, layout.LICENSES)


def _applying(item: Artifact, added: Sequence[LicenseText]) -> Iterator[str]:
    """Texts for a model or an image by its name; texts for an engine apply to many wheels."""
    names = {item.id.partition(":")[2], str(item.source.get("asked"))} if item.id else set()
    if item.kind in ("model", "image"):
        yield from (text.path for text in added if names.intersection(text.applies_to))


def _stated(value: object) -> str | None:
    """A licence as it was stated, on one line; None for nothing."""
    parts = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    texts = [" ".join(part.split()) for part in parts if isinstance(part, str)]
    return ", ".join(filter(None, texts)) or None
