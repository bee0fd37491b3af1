"""Trying again: what may pass by itself, how long to wait, when to give up, and saying so.

One loop for every question and every download. Which answers are worth another try, and how long a server
asks us to wait, is decided here and nowhere else.
"""

from __future__ import annotations

import email.utils
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from bundler.core.units import format_seconds
from bundler.errors import NetworkError

MAX_WAIT_SECONDS = 300.0
"""Longest wait that a server may ask for: the Hub's own rate limit windows have five minutes."""
_BUSY_STATUSES = frozenset({408, 425, 429})
_NEVER_BETTER = frozenset({501, 505, 510, 511})
"""Statuses of 500 and above that say what the server cannot do at all, or that a login page is in between."""
_LIMIT_MEMBER = re.compile(r';\s*([rt])\s*=\s*"?(\d+)"?', re.ASCII)
Result = TypeVar("Result")


class TransientError(NetworkError):
    """Trying again may help. `retry_after` is what the server asked for, in seconds, None when it did not."""

    retry_after: float | None = None


def is_busy(status: int) -> bool:
    """Whether another try may find the server in a better mood: 408, 425, 429 and most of 500-599."""
    return status in _BUSY_STATUSES or (500 <= status < 600 and status not in _NEVER_BETTER)


def asked_wait(headers: Mapping[str, str], *, now: float) -> float | None:
    """Seconds that an answer asks us to wait, 0 to 300; None when it does not.

    `Retry-After` leads (RFC 9110 section 10.2.3). Without it a used-up limit does: `RateLimit` with
    `r=0;t=5` (draft-ietf-httpapi-ratelimit-headers), or the older `RateLimit-Remaining: 0` with
    `RateLimit-Reset`. `now` is in seconds since the epoch; `headers` find names in lower case.
    """
    after = retry_after(headers.get("retry-after"), now=now)
    if after is not None:
        return after
    limits = [dict(_LIMIT_MEMBER.findall(one)) for one in headers.get("ratelimit", "")[:4096].split(",")]
    waits = [float(one["t"][:9]) for one in limits if "t" in one and int(one.get("r", "1")[:9]) == 0]
    if not waits and headers.get("ratelimit-remaining", "").strip() == "0":
        waits = _older_reset(headers.get("ratelimit-reset", ""), now)
    return _bounded(max(waits)) if waits else None


def _older_reset(text: str, now: float) -> list[float]:
    """Seconds, or a moment since the epoch: servers send both under this name."""
    if not (text.isascii() and text.isdigit()):
        return []
    value = float(text[:12])
    return [value - now if value > 1e9 else value]


def retry_after(value: str | None, *, now: float) -> float | None:
    """Seconds to wait by a `Retry-After` header, never more than five minutes.

    `value` is a number of seconds or an HTTP date (compared with `now`, seconds since the epoch); None when
    there is none or it cannot be read.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return _bounded(float(text[:9]))
    try:
        return _bounded(email.utils.parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def _bounded(seconds: float) -> float:
    return min(max(seconds, 0.0), MAX_WAIT_SECONDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and how long to wait: doubling, with jitter, so that many clients do not come back at once.

    `tries` are those in a row without progress; `progress_bytes` more bytes begin a new count. Times are in
    seconds. `fruitless` is how long tries in a row may take, pauses not counted: a server that answers a byte
    a second must not hold a question for `tries` time limits. `jitter` gives numbers in [0, 1). `lasting`
    keeps trying for so many seconds without progress, however many tries that takes; None leaves it to the
    standing choice of the run (`--retry-for`).
    """

    tries: int = 6
    first: float = 1.0
    longest: float = 60.0
    fruitless: float = 90.0
    progress_bytes: int = 1 << 18
    jitter: Callable[[], float] = random.random
    lasting: float | None = None

    def delay(self, failed: int, retry_after: float | None = None) -> float:
        """Seconds to wait after `failed` tries in a row: half to all of the doubled, or what was asked."""
        if retry_after is not None:
            return retry_after + self.first * self.jitter()
        # The exponent is bounded because a policy may allow thousands of tries.
        doubled = self.first * float(1 << min(failed - 1, 32))
        return min(self.longest, doubled) * (0.5 + self.jitter() / 2)


@dataclass(slots=True)
class _Standing:
    """What the whole run wants: set once by the command line, read by every source and thread."""

    lasting: float = 0.0
    note: Callable[[str], None] = field(default=lambda _text: None)


# The one piece of state here. A run has one answer to "how long, and where is it shown?", and questions are
# asked deep inside several libraries' worth of sources: passed by hand it would be forgotten somewhere.
_standing = _Standing()
_guard = threading.Lock()


@contextmanager
def standing(*, note: Callable[[str], None], lasting: float = 0.0) -> Iterator[None]:
    """Within this block `note` gets the waits, and tries go on for `lasting` seconds without progress."""
    with _guard:
        before = (_standing.lasting, _standing.note)
        _standing.lasting, _standing.note = lasting, note
    try:
        yield
    finally:
        with _guard:
            _standing.lasting, _standing.note = before


def tell(text: str) -> None:
    """Say one line to whoever runs this."""
    _standing.note(text)


def rest(seconds: float) -> None:
    """Wait in this thread."""
    time.sleep(seconds)


def persistently(
    ask: Callable[[], Result],
    *,
    policy: RetryPolicy | None = None,
    pause: Callable[[float], None] = rest,
    note: Callable[[str], None] | None = None,
    progressed: Callable[[], bool] = lambda: False,
) -> Result:
    """What `ask` gives back, asked again after a TransientError as often as the policy says.

    `progressed` says after a failure whether more bytes came than the policy asks for: then the count begins
    anew. `pause` waits for seconds; `note` is called before, by default as the run does. Raises the last
    TransientError, and at once everything else that `ask` raises.
    """
    attempts = _Attempts(policy or RetryPolicy())
    while True:
        attempts.begin()
        try:
            return ask()
        except TransientError as error:
            seconds = attempts.wait_after(error, progressed=progressed())
            (note or _standing.note)(_waiting(error, seconds))
            pause(seconds)


class _Attempts:
    """Tries in a row without progress, and what they cost."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._lasting = _standing.lasting if policy.lasting is None else policy.lasting
        self._failed = 0
        self._spent = 0.0
        self._since = self._began = time.monotonic()

    def begin(self) -> None:
        """A try begins now."""
        self._began = time.monotonic()

    def wait_after(self, error: TransientError, *, progressed: bool) -> float:
        """Seconds to wait before the next try. Raises `error` when there is none."""
        now = time.monotonic()
        if progressed:
            self._failed, self._spent, self._since = 0, 0.0, now
        self._failed += 1
        self._spent += 0.0 if progressed else now - self._began
        seconds = self._policy.delay(self._failed, error.retry_after)
        if self._lasting:
            left = self._since + self._lasting - now
            if left <= 0:
                raise error
            return min(seconds, max(left, 0.1))
        if self._failed >= self._policy.tries or self._spent >= self._policy.fruitless:
            raise error
        return seconds


def _waiting(error: TransientError, seconds: float) -> str:
    finding = error.findings[0]
    place = f"{finding.where}: " if finding.where else ""
    why = f"{finding.what} ({finding.found})" if finding.found else finding.what
    return f"{place}{why}, trying again in {format_seconds(seconds)}"
