"""Every answer of upstream ends: in bytes after decompression, entries, pages and seconds."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bundler.core.specs.spec import ModelSpec
from bundler.errors import SealiftError
from bundler.sources.http import HttpByteSource, Timeouts, session
from bundler.sources.hub import client as hub_client
from bundler.sources.hub.client import Patience
from bundler.sources.hub.repository import resolve_model
from bundler.sources.retry import RetryPolicy
from tests.servers import hostile
from tests.servers.hostile import HostileServer, Script

TIMES = Timeouts(connect=2.0, stall=1.0, answer=0.5)
PATIENCE = Patience(retries=RetryPolicy(tries=2, first=0.01), timeouts=TIMES)
MODEL = ModelSpec(repo="acme/model")


@contextmanager
def _bounded(seconds: float, mebibytes: int) -> Iterator[None]:
    """Fails when the block takes longer, or Python holds more memory in it."""
    tracemalloc.start()
    began = time.monotonic()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.monotonic() - began < seconds
    assert peak < mebibytes << 20


@pytest.mark.parametrize(
    ("script", "reference"),
    [
        (hostile.dripping_head, "stalled"),
        (hostile.endless_continue, "stalled"),
        (hostile.dripping_body, "stalled"),
        (hostile.endless_body, "too-large"),
        (hostile.gzip_bomb, "too-large"),
        (hostile.empty_members, "encoded-body"),
        (hostile.huge_length, "too-large"),
        (hostile.deep_json, "hub-answer"),
        (hostile.many_values, "hub-answer"),
        (hostile.endless_pages, "hub-answer"),
        (hostile.one_page_for_ever, "hub-answer"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_hub_can_neither_hold_nor_fill_a_lock(
    script: Script, reference: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_client, "MAX_ENTRIES", 2_000)
    with HostileServer(script) as server, _bounded(25.0, 120), pytest.raises(SealiftError) as caught:
        resolve_model(MODEL, endpoint=server.url, token=False, patience=PATIENCE)
    assert caught.value.reference == reference


@pytest.mark.parametrize(
    "script",
    [
        hostile.dripping_head,
        hostile.endless_continue,
        hostile.dripping_body,
        hostile.endless_body,
        hostile.gzip_bomb,
        hostile.empty_members,
        hostile.huge_length,
    ],
    ids=lambda script: script.__name__,
)
def test_a_small_answer_ends_whatever_is_sent(script: Script) -> None:
    with HostileServer(script) as server, session() as asking:
        source = HttpByteSource(url=f"{server.url}/x", session=asking, timeouts=TIMES)
        with _bounded(5.0, 16), pytest.raises(SealiftError):
            source.read(1 << 20)


def test_the_head_of_a_download_has_to_come_in_time() -> None:
    with HostileServer(hostile.dripping_head) as server, session() as asking:
        source = HttpByteSource(url=f"{server.url}/x", session=asking, timeouts=TIMES)
        began = time.monotonic()
        with pytest.raises(SealiftError) as caught, source.open(0):
            pass
    assert caught.value.reference == "stalled"
    assert time.monotonic() - began < 3.0
