"""Progress: tqdm on a terminal, a line every ten seconds elsewhere, nothing with `--no-progress`."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, TextIO

from bundler.cli.output import is_quiet, printable, talk
from bundler.core.progress import Progress, SilentProgress
from bundler.core.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from tqdm import tqdm

LINE_EVERY_SECONDS = 10.0


def make_progress(*, wanted: bool = True) -> Progress:
    """The progress that fits stderr."""
    if not wanted or is_quiet():
        return SilentProgress()
    return BarProgress() if can_draw(sys.stderr) else LineProgress()


def can_draw(stream: TextIO) -> bool:
    """Whether a bar can be drawn: a terminal that knows its size and can go back to the line's start.

    Serial consoles often say they have 0 columns; a bar drawn there is not seen at all.
    """
    if not stream.isatty() or os.environ.get("TERM") == "dumb":
        return False
    columns, lines = os.get_terminal_size(stream.fileno())
    return columns > 0 and lines > 0


class BarProgress:
    """One tqdm bar with bytes, rate, ETA and the current file."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None

    def start(self, what: str, total: int) -> None:
        """Open the bar."""
        from tqdm import tqdm

        self.finish()
        self._bar = tqdm(
            desc=printable(what),
            total=total,
            unit="B",
            unit_scale=True,
            smoothing=0.05,
            mininterval=0.2,
            dynamic_ncols=True,
        )

    def advance(self, count: int) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(count)

    def already(self, count: int) -> None:
        """Move the bar without any effect on the rate."""
        if self._bar is not None:
            self._bar.n += count
            self._bar.initial += count
            self._bar.last_print_n += count
            self._bar.refresh()

    def item(self, name: str) -> None:
        """Show the file's own name behind the bar."""
        if self._bar is not None:
            self._bar.set_postfix_str(printable(name.rsplit("/", 1)[-1])[-40:], refresh=False)

    def note(self, text: str) -> None:
        """A line above the bar."""
        from tqdm import tqdm

        tqdm.write(printable(text), file=sys.stderr)

    def finish(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class LineProgress:
    """A line every ten seconds: for logs and pipes."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._what, self._total, self._done, self._item = "", 0, 0, ""
        self._before = 0
        self._began = self._told = 0.0

    def start(self, what: str, total: int) -> None:
        """Note when the phase began."""
        with self._guard:
            self._what, self._total, self._done, self._before = what, total, 0, 0
            self._began = self._told = time.monotonic()

    def advance(self, count: int) -> None:
        """Count, and tell when ten seconds have passed."""
        with self._guard:
            self._done += count
            now = time.monotonic()
            if now - self._told >= LINE_EVERY_SECONDS:
                self._told = now
                self._tell(now - self._began)

    def already(self, count: int) -> None:
        """Count what was here before."""
        with self._guard:
            self._done += count
            self._before += count

    def _tell(self, seconds: float) -> None:
        rate = (self._done - self._before) / seconds if seconds else 0.0
        left = format_seconds((self._total - self._done) / rate) if rate else "?"
        share = 100 * self._done // self._total if self._total else 100
        line = f"{self._what}: {share} % of {format_bytes(self._total)}"
        line += f", {format_bytes(int(rate))}/s, {left} left"
        talk(f"{line}, at {self._item}" if self._item else line)

    def item(self, name: str) -> None:
        """Remember the file for the next line."""
        self._item = name

    def note(self, text: str) -> None:
        """A line at once."""
        talk(text)

    def finish(self) -> None:
        """One last line: what was done in which time at which mean rate, and what was here before."""
        with self._guard:
            seconds = max(time.monotonic() - self._began, 1e-9)
            if self._what and self._done:
                talk(self._summary(seconds))
            self._what = ""

    def _summary(self, seconds: float) -> str:
        count = self._done - self._before
        here = f"{format_bytes(self._before)} were already here"
        if count <= 0:
            return f"{self._what}: nothing to do, {here}"
        rate = format_bytes(int(count / seconds))
        text = f"{self._what}: {format_bytes(count)} in {format_seconds(seconds)} ({rate}/s)"
        return f"{text}; {here}" if self._before else text
