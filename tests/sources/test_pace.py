"""A limit on bytes a second holds for all files together."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import pytest

from bundler.sources.fetch import fetch_all
from bundler.sources.http import HttpByteSource, session
from bundler.sources.jobs import FetchJob
from bundler.sources.pace import Pace, limited, wait_after
from bundler.storage.payload import PayloadStore
from tests.servers.http import FileServer

SIZE = 300_000


def test_waits_keep_the_mean_at_the_rate() -> None:
    now = [100.0]
    pace = Pace(1000, clock=lambda: now[0])
    for _ in range(50):
        now[0] += pace.wait_after(500)
    assert now[0] - 100.0 == pytest.approx(25.0, abs=0.6)


def test_a_pause_is_not_made_up_for() -> None:
    now = [0.0]
    pace = Pace(1000, clock=lambda: now[0])
    now[0] = 3600.0
    assert pace.wait_after(2000) == pytest.approx(1.75)


def test_without_a_limit_nothing_waits() -> None:
    assert wait_after(1 << 30) == 0.0


def test_files_fetched_together_share_the_limit(tmp_path: Path) -> None:
    data = {f"/{name}": bytes([number]) * SIZE for number, name in enumerate("abc")}
    with FileServer(data) as server, PayloadStore(tmp_path / "tree", tmp_path / "work") as store:
        jobs = [
            FetchJob(
                path=f"payload{path}",
                size=SIZE,
                sha256=hashlib.sha256(body).hexdigest(),
                source=HttpByteSource(url=server.url + path, session=session(), size=SIZE),
            )
            for path, body in data.items()
        ]
        began = time.monotonic()
        with limited(1_000_000):
            fetch_all(jobs, store, workers=3)
        taken = time.monotonic() - began
    assert 0.5 < taken < 3.0
