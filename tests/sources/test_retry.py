"""Trying again: which answers are worth it, how long to wait, when to stop, and that it is shown."""

from __future__ import annotations

import ast
import email.utils
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bundler.sources
from bundler.errors import NetworkError
from bundler.sources.retry import (
    RetryPolicy,
    TransientError,
    asked_wait,
    is_busy,
    persistently,
    retry_after,
    standing,
)

NOW = 1_800_000_000.0
QUICK = RetryPolicy(tries=3, first=0.01, longest=0.02)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("0", 0.0),
        (" 12 ", 12.0),
        ("86400", 300.0),
        ("9" * 400, 300.0),
        (email.utils.formatdate(NOW + 90, usegmt=True), 90.0),
        (email.utils.formatdate(NOW - 90, usegmt=True), 0.0),
        (email.utils.formatdate(NOW + 9000, usegmt=True), 300.0),
        ("Fri, 99 Foo 2026 00:00:00 GMT", None),
    ],
)
def test_retry_after_is_read_in_both_forms_and_capped(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, now=NOW) == seconds


@given(st.text())
def test_no_retry_after_breaks_the_reader(value: str) -> None:
    seconds = retry_after(value, now=NOW)
    assert seconds is None or 0 <= seconds <= 300


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True), st.none() | st.floats(0, 300))
def test_waiting_times_stay_within_their_bounds(failed: int, jitter: float, asked: float | None) -> None:
    policy = RetryPolicy(jitter=lambda: jitter)
    seconds = policy.delay(failed, asked)
    if asked is None:
        assert 0.5 <= seconds <= policy.longest
    else:
        assert asked <= seconds <= asked + policy.first


def test_waiting_times_double() -> None:
    policy = RetryPolicy(jitter=lambda: 1.0)
    assert [policy.delay(failed) for failed in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"ratelimit": '"api";r=0;t=5'}, 5.0),
        ({"ratelimit": '"api"; t=7; r=0'}, 7.0),
        ({"ratelimit": '"api";r=12;t=5'}, None),
        ({"ratelimit": '"api";r=0;t=5, "resolvers";r=0;t=9'}, 9.0),
        ({"ratelimit": '"api";r=0;t=99999'}, 300.0),
        ({"ratelimit": '"api";r=0'}, None),
        ({"ratelimit": "free text"}, None),
        ({"ratelimit": '"api";r=0;t=5', "retry-after": "2"}, 2.0),
        ({"ratelimit-remaining": "0", "ratelimit-reset": "4"}, 4.0),
        ({"ratelimit-remaining": "0", "ratelimit-reset": str(int(NOW) + 6)}, 6.0),
        ({"ratelimit-remaining": "3", "ratelimit-reset": "4"}, None),
        ({}, None),
    ],
)
def test_a_used_up_rate_limit_says_how_long_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert asked_wait(headers, now=NOW) == seconds


@given(st.text(max_size=200), st.text(max_size=30))
def test_no_rate_limit_header_breaks_the_reader(limit: str, reset: str) -> None:
    headers = {"ratelimit": limit, "ratelimit-remaining": "0", "ratelimit-reset": reset}
    seconds = asked_wait(headers, now=NOW)
    assert seconds is None or 0 <= seconds <= 300


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 520, 529, 599])
def test_statuses_that_may_pass_are_tried_again(status: int) -> None:
    assert is_busy(status)


@pytest.mark.parametrize("status", [200, 206, 301, 400, 401, 403, 404, 405, 410, 416, 451, 501, 505, 511])
def test_statuses_that_will_not_pass_end_it(status: int) -> None:
    assert not is_busy(status)


def _busy(wait: float | None = None) -> TransientError:
    error = TransientError("server-busy", "the server cannot answer now", where="http://hub/x", found="503")
    error.retry_after = wait
    return error


def test_every_wait_is_told_with_its_place_and_reason() -> None:
    told: list[str] = []
    errors = [_busy(), _busy(2.0)]

    def ask() -> str:
        if errors:
            raise errors.pop(0)
        return "answer"

    waits: list[float] = []
    with standing(note=told.append):
        assert persistently(ask, policy=QUICK, pause=waits.append) == "answer"
    assert [line.partition(", trying again in ")[0] for line in told] == [
        "http://hub/x: the server cannot answer now (503)"
    ] * 2
    assert 2.0 <= waits[1] < 2.1


def test_the_last_failure_is_raised_when_tries_are_used_up() -> None:
    asked: list[int] = []

    def ask() -> None:
        asked.append(1)
        raise _busy()

    with pytest.raises(TransientError):
        persistently(ask, policy=QUICK, pause=lambda _seconds: None)
    assert len(asked) == 3


def test_what_will_not_pass_is_asked_once() -> None:
    asked: list[int] = []

    def ask() -> None:
        asked.append(1)
        raise NetworkError("not-found", "the server does not have this file")

    with pytest.raises(NetworkError):
        persistently(ask, policy=QUICK, pause=lambda _seconds: None)
    assert len(asked) == 1


def _at(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bundler.sources.retry.time.monotonic", lambda: clock[0])


def test_slow_failures_use_up_patience_before_the_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, asked = [0.0], list[int]()
    _at(clock, monkeypatch)

    def ask() -> None:
        asked.append(1)
        clock[0] += 50.0
        raise _busy()

    with pytest.raises(TransientError):
        persistently(ask, policy=RetryPolicy(tries=6), pause=lambda _seconds: None)
    assert len(asked) == 2


def test_a_run_that_may_last_tries_until_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, asked = [0.0], list[int]()
    _at(clock, monkeypatch)

    def ask() -> None:
        asked.append(1)
        clock[0] += 1.0
        raise _busy()

    def pause(seconds: float) -> None:
        clock[0] += seconds

    with standing(note=lambda _text: None, lasting=7200.0), pytest.raises(TransientError):
        persistently(ask, policy=QUICK, pause=pause)
    assert 7200.0 <= clock[0] < 7300.0
    assert len(asked) > 100


def test_progress_begins_the_time_of_a_lasting_run_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, progress = [0.0], [True, True, False, False]
    _at(clock, monkeypatch)

    def ask() -> None:
        clock[0] += 60.0
        raise _busy()

    policy = RetryPolicy(lasting=100.0, first=0.001)
    with pytest.raises(TransientError):
        persistently(ask, policy=policy, pause=lambda _seconds: None, progressed=lambda: progress.pop(0))
    assert clock[0] == 240.0


def test_the_standing_choice_ends_with_its_block() -> None:
    told: list[str] = []
    with standing(note=told.append, lasting=5.0):
        pass
    with pytest.raises(TransientError):
        persistently(lambda: (_ for _ in ()).throw(_busy()), policy=QUICK, pause=lambda _seconds: None)
    assert told == []


def _decides_by_itself(node: ast.AST) -> bool:
    constant = isinstance(node, ast.Constant) and node.value in (408, 425, 429, "retry-after", "ratelimit")
    return constant or (isinstance(node, ast.Attribute) and node.attr == "sleep")


def test_no_source_waits_or_counts_statuses_by_itself() -> None:
    folder = Path(bundler.sources.__path__[0])
    found = {
        path.name
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if _decides_by_itself(node)
    }
    assert found == {"retry.py"}
