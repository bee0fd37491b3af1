"""Every reference that an error can carry: what it means, why it happens, what to do.

The rows are text files beside this module, one per room. They load only for `sealift explain` and for
hints that are missing; `verify.pyz` does not carry them. `tests/test_references.py` holds code and rows
together.

A row is a reference alone on its line, then its meaning, its causes (`-`) and what to do (`>`), each
indented.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

ROOMS = {
    "trust": "Trust: policies, keys, signatures, statements, the perimeter's state",
    "bundle": "The bundle: its tree, manifest and bytes",
    "content": "Content: models, wheels and container images",
    "upstream": "Upstream: the Hub, indexes, registries, the network",
    "asking": "Asking: specs, locks, plans, builds and the command line",
    "machine": "This machine: disks, tools, installing and launching",
}
"""File name and title of each room, in the order of `docs/errors.md`."""


@dataclass(frozen=True)
class Row:
    """What is known about one reference."""

    reference: str
    room: str
    meaning: str
    causes: tuple[str, ...]
    do: str

    def to_json(self) -> dict[str, object]:
        """The row for `--json`."""
        return {
            "reference": self.reference,
            "room": self.room,
            "meaning": self.meaning,
            "causes": list(self.causes),
            "do": self.do,
        }


@cache
def rows() -> dict[str, Row]:
    """All rows by reference, sorted. Raises ValueError when a row is incomplete or there twice."""
    found: dict[str, Row] = {}
    for room in ROOMS:
        text = files(__name__).joinpath(f"{room}.txt").read_text(encoding="utf-8")
        for row in parse(text, room):
            if row.reference in found:
                raise ValueError(f"two rows for {row.reference}")
            found[row.reference] = row
    return dict(sorted(found.items()))


def parse(text: str, room: str) -> list[Row]:
    """The rows of one file. Raises ValueError when one lacks its meaning, causes or what to do."""
    found = []
    for block in text.split("\n\n"):
        reference, *lines = block.strip().splitlines()
        stripped = [line.strip() for line in lines]
        causes = tuple(line[2:] for line in stripped if line.startswith("- "))
        steps = [line[2:] for line in stripped if line.startswith("> ")]
        if len(stripped) != 2 + len(causes) or len(steps) != 1 or not causes or stripped[0][:1] in "->":
            raise ValueError(f"the row of {reference!r} in {room}.txt is not complete")
        found.append(Row(reference=reference, room=room, meaning=stripped[0], causes=causes, do=steps[0]))
    return found
