"""`--retry-for` and `--limit-rate`: a build outlives a dead network and says what it waits for."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from bundler.cli.build import command as build
from bundler.cli.lock import command as lock
from bundler.demo.hub import LoopbackHub
from bundler.errors import NetworkError, UsageError

SPEC = """\
apiVersion: sealift/v1
name: small
channel: test
serial: 1
models:
  - repo: acme/model
    id: model
    format: any
    endpoint: {url}
"""


def _folder(tmp_path: Path) -> Path:
    folder = tmp_path / "hub" / "acme" / "model"
    folder.mkdir(parents=True)
    (folder / "README.md").write_text("a model of nothing\n")
    return tmp_path / "hub"


@pytest.fixture
def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def _spec(tmp_path: Path, url: str) -> str:
    path = tmp_path / "small.yaml"
    path.write_text(SPEC.format(url=url))
    return str(path)


def test_a_lock_outlives_a_dead_network_and_says_so(tmp_path: Path, unused_port: int) -> None:
    hub = LoopbackHub(_folder(tmp_path), port=unused_port)
    spec, ended = _spec(tmp_path, f"http://127.0.0.1:{unused_port}"), threading.Event()

    def come_back() -> None:
        time.sleep(2.5)
        with hub:
            ended.wait(30)

    thread = threading.Thread(target=come_back)
    thread.start()
    try:
        done = CliRunner().invoke(lock, [spec, "--retry-for", "1m"], catch_exceptions=False)
    finally:
        ended.set()
        thread.join()
    assert done.exit_code == 0
    assert "the server cannot be reached" in done.stderr
    assert "trying again in" in done.stderr
    assert "trying again for up to 1 min 00 s" in done.stderr


def test_a_build_ends_when_its_time_is_over(tmp_path: Path) -> None:
    with LoopbackHub(_folder(tmp_path)) as hub:
        spec = _spec(tmp_path, hub.url)
        assert CliRunner().invoke(lock, [spec]).exit_code == 0
    began = time.monotonic()
    arguments = [spec, "-o", str(tmp_path / "out"), "--retry-for", "2s", "--no-progress"]
    with pytest.raises(NetworkError) as caught:
        CliRunner().invoke(build, arguments, catch_exceptions=False)
    assert caught.value.reference == "unreachable"
    assert 2.0 <= time.monotonic() - began < 15.0


@pytest.mark.parametrize(
    ("option", "value", "reference"),
    [
        ("--retry-for", "soon", "bad-duration"),
        ("--limit-rate", "fast", "bad-size"),
        ("--limit-rate", "5", "bad-rate"),
    ],
)
def test_what_cannot_be_read_is_refused_before_anything(
    tmp_path: Path, option: str, value: str, reference: str
) -> None:
    spec = _spec(tmp_path, "http://127.0.0.1:9")
    with pytest.raises(UsageError) as caught:
        CliRunner().invoke(lock, [spec, option, value], catch_exceptions=False)
    assert caught.value.reference == reference
