"""Runs inside a network namespace that has nothing but loopback: starts a server from a plan, asks it, and
tells what it answered and which names anybody tried to look up. Called by test_real_engines.py, as
`unshare -n -m -- python -m tests.launch.perimeter_without_network REQUEST.json`.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

WEATHER_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
PROBE = "canary-check.example"
DRIVER = """
import json, os, sys
from pathlib import Path
from bundler.core.manifest import Manifest
from bundler.launch.launch import LaunchRequest, plan_launch, start
root, sha256, environment, work = sys.argv[1:]
manifest = Manifest.parse((Path(root) / "manifest.json").read_bytes())
request = LaunchRequest(profile="default", environment=Path(environment), work=Path(work), caller=os.environ)
start(plan_launch(Path(root), manifest, request))
"""


class Canary(threading.Thread):
    """A resolver on 127.0.0.1 that knows no name and remembers every one asked."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.names: list[str] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 53))

    def run(self) -> None:
        """Answer NXDOMAIN for ever."""
        while True:
            question, asker = self._socket.recvfrom(1500)
            labels, at = [], 12
            while question[at]:
                labels.append(question[at + 1 : at + 1 + question[at]].decode("latin-1"))
                at += question[at] + 1
            self.names.append(".".join(labels))
            answer = question[:2] + b"\x81\x83" + question[4:6] + bytes(6) + question[12 : at + 5]
            self._socket.sendto(answer, asker)


def ask(port: int, path: str, body: object | None = None) -> Any:
    """What the server answers to a POST of `body`, or to a GET."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", data, {"Content-Type": "application/json"}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as answer:
        text = answer.read().decode()
    return json.loads(text) if text.startswith("{") else text


def wait_until_ready(port: int, server: subprocess.Popen[bytes]) -> None:
    """Return when /health answers 200; stop when the server has ended or five minutes have passed."""
    until = time.monotonic() + 300
    while time.monotonic() < until:
        if server.poll() is not None:
            raise SystemExit(f"the server ended with {server.returncode}")
        try:
            ask(port, "/health")
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
        else:
            return
    raise SystemExit("the server did not become ready")


def private_resolver(folder: Path) -> Canary:
    """A canary, and this namespace's resolv.conf naming it."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    resolver = folder / "resolv.conf"
    resolver.write_text("nameserver 127.0.0.1\n")
    subprocess.run(["mount", "--bind", resolver, "/etc/resolv.conf"], check=True)
    canary = Canary()
    canary.start()
    return canary


def check_canary() -> None:
    """Ask for a name ourselves: a canary that hears nothing proves nothing."""
    try:
        socket.getaddrinfo(PROBE, 80)
    except socket.gaierror:
        return
    raise SystemExit("a name was resolved where there is no network")


def main() -> None:
    """Do it all, and print one JSON object."""
    given = json.loads(Path(sys.argv[1]).read_text())
    canary = private_resolver(Path(sys.argv[1]).parent)
    sha256 = hashlib.sha256((Path(given["root"]) / "manifest.json").read_bytes()).hexdigest()
    arguments = [given["root"], sha256, given["environment"], given["work"]]
    # Everything hostile that the allow-list must keep out, told by the server's own environment below.
    hostile = {"LLAMA_ARG_MODEL": "/nowhere.gguf", "HTTP_PROXY": "http://proxy.example", "HF_TOKEN": "secret"}
    began = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, *arguments], env={**os.environ, **hostile}
    ) as server:
        try:
            wait_until_ready(given["port"], server)
            ready = time.monotonic() - began
            said = {
                "ready": ready,
                "environ": Path(f"/proc/{server.pid}/environ").read_text().split("\0"),
                "models": ask(given["port"], "/v1/models"),
                "metrics": ask(given["port"], "/metrics"),
                "completion": ask(
                    given["port"],
                    "/v1/completions",
                    {"model": "kimi-tiny", "prompt": "hello", "max_tokens": 20},
                ),
                "chat": ask(
                    given["port"],
                    "/v1/chat/completions",
                    {
                        "model": "kimi-tiny",
                        "messages": [{"role": "user", "content": "weather in Paris?"}],
                        "tools": [WEATHER_TOOL],
                    },
                ),
            }
        finally:
            server.send_signal(signal.SIGTERM)
    check_canary()
    print(json.dumps({**said, "exit": server.returncode, "names": canary.names}))


if __name__ == "__main__":
    main()
