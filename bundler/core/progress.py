"""What long work tells its caller while it runs. The command line draws it; the core only has the shape."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """A meter for bytes. Methods may be called from several threads."""

    def start(self, what: str, total: int) -> None:
        """Begin a phase named `what` of `total` bytes."""

    def advance(self, count: int) -> None:
        """`count` more bytes are done; negative when work has to be redone."""

    def item(self, name: str) -> None:
        """The file that is being worked on now."""

    def note(self, text: str) -> None:
        """One line worth reading (a retry, a resume)."""

    def finish(self) -> None:
        """The phase has ended."""


def credit(progress: Progress, count: int) -> None:
    """Count bytes that were here before: part of the total, but of no rate.

    Meters that tell the two apart have a method `already`; for others it is progress like any.
    """
    already = getattr(progress, "already", None)
    (already or progress.advance)(count)


class SilentProgress:
    """Says nothing: for tests, for `--json` and for callers that do not care."""

    def start(self, what: str, total: int) -> None:
        """Nothing is drawn."""

    def advance(self, count: int) -> None:
        """Nothing is drawn."""

    def item(self, name: str) -> None:
        """Nothing is drawn."""

    def note(self, text: str) -> None:
        """Nothing is drawn."""

    def finish(self) -> None:
        """Nothing is drawn."""
