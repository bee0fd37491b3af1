"""Progress is seen wherever it is looked for: drawn on a terminal, told in lines elsewhere."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import pytest

from bundler.cli.progress import BarProgress, LineProgress, can_draw, make_progress
from bundler.core.progress import credit


@contextmanager
def terminal(lines: int, columns: int) -> Iterator[TextIO]:
    """A real terminal of that size, to write to."""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    with open(slave, "w") as stream:
        yield stream
    os.close(master)


@pytest.mark.parametrize(
    ("lines", "columns", "term", "drawn"),
    [
        (24, 80, "xterm", True),
        (24, 20, "xterm", True),
        (0, 0, "vt220", False),
        (0, 100, "vt220", False),
        (24, 80, "dumb", False),
    ],
    ids=["usual", "narrow", "a serial console", "a console without lines", "one that cannot go back"],
)
def test_a_bar_is_drawn_only_where_it_can_be_seen(
    lines: int, columns: int, term: str, drawn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", term)
    with terminal(lines, columns) as stream:
        monkeypatch.setattr("sys.stderr", stream)
        assert can_draw(stream) is drawn
        assert isinstance(make_progress(), BarProgress if drawn else LineProgress)


def test_off_a_terminal_the_end_of_a_phase_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    progress = make_progress()
    progress.start("fetching", 2_000_000)
    progress.item("model.gguf")
    progress.advance(2_000_000)
    progress.finish()
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("fetching: 2.00 MB in ")
    assert told.err.count("\n") == 1


def test_unwanted_progress_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    progress = make_progress(wanted=False)
    progress.start("fetching", 10)
    progress.advance(10)
    progress.finish()
    assert capsys.readouterr() == ("", "")


def test_what_was_here_before_counts_for_no_rate(capsys: pytest.CaptureFixture[str]) -> None:
    meter = LineProgress()
    meter.start("fetching", 3_000_000_000)
    credit(meter, 3_000_000_000)
    meter.finish()
    assert capsys.readouterr().err == "fetching: nothing to do, 3.00 GB were already here\n"


def test_the_mean_rate_is_of_what_was_fetched(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [50.0]
    monkeypatch.setattr("bundler.cli.progress.time.monotonic", lambda: clock[0])
    meter = LineProgress()
    meter.start("fetching", 3_000_000_000)
    credit(meter, 2_000_000_000)
    clock[0] += 4.0
    meter.advance(1_000_000_000)
    meter.finish()
    assert "fetching: 1.00 GB in 4.0 s (250 MB/s); 2.00 GB were already here" in capsys.readouterr().err


def test_a_bar_leaves_what_was_here_out_of_its_rate() -> None:
    meter = BarProgress()
    meter.start("fetching", 1_000_000)
    credit(meter, 1_000_000)
    assert meter._bar is not None
    assert (meter._bar.n, meter._bar.initial) == (1_000_000, 1_000_000)
    meter.finish()
