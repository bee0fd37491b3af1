"""Real programs that tests start for themselves, docker-registry and containerd, in folders of their own."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PACKAGES = {
    "docker-registry": "docker-registry",
    "skopeo": "skopeo",
    "podman": "podman",
    "runc": "runc",
    "containerd": "containerd",
    "ctr": "containerd",
    "busybox": "busybox-static",
}


def both_ends(text: str, limit: int = 6000) -> str:
    """`text` with its middle cut out where it is long: the cause of a failure is at either end."""
    half = limit // 2
    return text if len(text) <= limit else f"{text[:half]}\n[...]\n{text[-half:]}"


def need(*programs: str) -> None:
    """Skip the test when a program is absent, with the command that installs it."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: apt-get install {PACKAGES[program]}")


def free_port() -> int:
    """A port nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def docker_registry(folder: Path) -> Iterator[str]:
    """Debian's registry on loopback, empty; its `host:port`."""
    need("docker-registry")
    folder.mkdir()
    host = f"127.0.0.1:{free_port()}"
    config = folder / "config.yml"
    config.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {folder}/data}}}}\n"
        f"http: {{addr: '{host}'}}\nlog: {{level: error, accesslog: {{disabled: true}}}}\n"
    )
    with _running(["docker-registry", "serve", str(config)], folder / "log", lambda: _answers(host)):
        yield host


def _answers(host: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{host}/v2/", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@contextmanager
def containerd() -> Iterator[Path]:
    """A containerd of the test's own; the path of its socket. Skips where one cannot run."""
    need("containerd", "ctr")
    # Not below tmp_path: the path of a socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="sealift-containerd-") as folder:
        yield from _containerd(Path(folder))


def _containerd(folder: Path) -> Iterator[Path]:
    address = folder / "c.sock"
    config = folder / "config.toml"
    config.write_text(
        f'version = 2\nroot = "{folder}/root"\nstate = "{folder}/state"\n'
        f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\n  address = "{address}"\n'
    )
    with _running(["containerd", "-c", str(config)], folder / "log", lambda: _serves(address)):
        yield address


def _serves(address: Path) -> bool:
    done = subprocess.run(["ctr", "--address", str(address), "version"], capture_output=True, check=False)
    return done.returncode == 0


@contextmanager
def _running(command: list[str], log: Path, ready: Callable[[], bool]) -> Iterator[None]:
    with log.open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
    try:
        for _ in range(200):
            if ready():
                break
            if process.poll() is not None:
                pytest.skip(f"{command[0]} cannot run here: {both_ends(log.read_text(), 300)}")
            time.sleep(0.05)
        else:
            pytest.fail(f"{command[0]} does not answer: {both_ends(log.read_text(), 300)}")
        yield
    finally:
        process.terminate()
        process.wait(30)
