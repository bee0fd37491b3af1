"""The tour that `sealift demo --serve` prints, typed as printed while it serves."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[2]
SERVE = (sys.executable, "-m", "bundler", "demo", "--serve")


def environment(home: Path) -> dict[str, str]:
    """The caller's, with a home of its own and without what leads a client elsewhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "SEALIFT_"))}
    return {**kept, "HOME": str(home), "PYTHONPATH": str(ROOT)}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """The serving command and the lines of the tour it printed."""
    folder = tmp_path / "my tour"
    with subprocess.Popen(
        [*SERVE, str(folder)],
        env=environment(tmp_path),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            tour: list[str] = []
            for line in server.stdout:
                tour += [line.strip()] if line.startswith("  ") else []
                if "sealift launch " in line:
                    break
            yield server, tour
        finally:
            if server.poll() is None:
                server.kill()


@pytest.mark.slow
def test_the_printed_tour_runs_line_by_line_up_to_verify(
    served: tuple[subprocess.Popen[str], list[str]], tmp_path: Path
) -> None:
    server, tour = served
    verbs = [line.split()[1] for line in tour if line.startswith("sealift ")]
    assert verbs == [
        *("lock", "plan", "build", "keys", "sign", "inspect"),
        *("keys", "trust", "verify", "install", "launch"),
    ]
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "sealift").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m bundler "$@"\n')
    (programs / "sealift").chmod(0o755)
    # In one shell, as typed; only `sealift` is that of this checkout.
    end = next(at for at, line in enumerate(tour) if line.startswith("sealift verify ")) + 1
    script = "\n".join([*tour[:2], f"PATH='{programs}':$PATH", *tour[2:end]])
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run(
        [bash, "-eu"],
        input=script,
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert (tmp_path / "my tour" / "state.json").exists()
    assert server.poll() is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_serving_with_success(
    served: tuple[subprocess.Popen[str], list[str]], number: signal.Signals
) -> None:
    server, tour = served
    hub = urlsplit(tour[1].rpartition("HF_ENDPOINT=")[2])
    assert hub.hostname is not None
    assert hub.port is not None
    with socket.create_connection((hub.hostname, hub.port), timeout=10):
        pass
    server.send_signal(number)
    assert server.wait(timeout=30) == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((hub.hostname, hub.port), timeout=10)


def test_a_folder_that_no_demo_made_is_never_emptied(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine\n")
    done = subprocess.run(
        [*SERVE, str(tmp_path)],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert "output-exists" in done.stderr
    assert (tmp_path / "mine").read_text() == "mine\n"
