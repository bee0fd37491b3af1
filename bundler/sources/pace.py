"""A limit on bytes a second, shared by everything that one run fetches."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

BURST_SECONDS = 0.25
"""How much may come at once after a pause: enough for whole pieces at usual rates."""


class Pace:
    """Says how long to wait after bytes have come, so that the mean stays at `rate` bytes a second."""

    def __init__(self, rate: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        self._paid_until = 0.0
        self._guard = threading.Lock()

    def wait_after(self, count: int) -> float:
        """Seconds to wait before the next bytes are read."""
        with self._guard:
            now = self._clock()
            self._paid_until = max(self._paid_until, now - BURST_SECONDS) + count / self._rate
            return max(0.0, self._paid_until - now)


# One run has one line to the world: set by the command line, read by every download.
_standing: list[Pace] = []


@contextmanager
def limited(rate: int | None) -> Iterator[None]:
    """Within this block downloads together take at most `rate` bytes a second; None is no limit."""
    if rate is None:
        yield
        return
    _standing.append(Pace(rate))
    try:
        yield
    finally:
        _standing.pop()


def wait_after(count: int) -> float:
    """Seconds to wait after `count` bytes by the limit of the run; 0 without one."""
    return _standing[-1].wait_after(count) if _standing else 0.0
