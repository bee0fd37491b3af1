"""The far side of the demo, run where there is no network: `python -m bundler.demo.perimeter COMMAND…`.

Brings the loopback interface of its own network namespace up, shows that nothing else can be reached,
starts the server it is told to start, asks it for one completion and stops it. Standard library only.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1
"""linux/sockios.h and linux/if.h."""
READY_SECONDS = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the server said, and how long it took to be ready."""

    content: str
    reasoning: str
    tool_calls: tuple[str, ...]
    ready_seconds: float


def bring_loopback_up() -> None:
    """`ip link set lo up`, without needing the program. OSError when this is not our namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


def interfaces() -> list[str]:
    """Names of the network interfaces that exist here."""
    return [name for _, name in socket.if_nameindex()]


def ask(host: str, port: int, body: dict[str, Any]) -> dict[str, Any]:
    """The answer of the OpenAI-compatible endpoint to a chat request."""
    connection = http.client.HTTPConnection(host, port, timeout=120)
    try:
        connection.request(
            "POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"}
        )
        response = connection.getresponse()
        text = response.read()
        if response.status != 200:
            raise RuntimeError(f"the server answered {response.status}: {text[:300]!r}")
        answer = json.loads(text)
        assert isinstance(answer, dict)
        return answer
    finally:
        connection.close()


def wait_until_ready(host: str, port: int, server: subprocess.Popen[bytes]) -> float:
    """Seconds until `/health` answers 200. RuntimeError when the server ends or takes too long."""
    began = time.monotonic()
    while time.monotonic() - began < READY_SECONDS:
        if server.poll() is not None:
            raise RuntimeError(f"the server ended with {server.returncode} before it was ready")
        if _healthy(host, port):
            return time.monotonic() - began
        time.sleep(0.2)
    raise RuntimeError(f"the server was not ready after {READY_SECONDS:.0f} s")


def _healthy(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def serve_and_ask(command: Sequence[str], host: str, port: int, body: dict[str, Any]) -> Answer:
    """Start `command`, ask once, stop it."""
    with subprocess.Popen(command, stdout=sys.stderr, start_new_session=True) as server:
        try:
            ready = wait_until_ready(host, port, server)
            message = ask(host, port, body)["choices"][0]["message"]
        finally:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGTERM)
    calls = message.get("tool_calls") or []
    return Answer(
        content=message.get("content") or "",
        reasoning=message.get("reasoning_content") or message.get("reasoning") or "",
        tool_calls=tuple(f"{c['function']['name']}({c['function']['arguments']})" for c in calls),
        ready_seconds=ready,
    )


def main(arguments: Sequence[str]) -> int:
    """`HOST PORT MODEL -- COMMAND…`: prints one JSON object with the answer and the interfaces seen."""
    split = list(arguments).index("--")
    host, port, model = arguments[:split]
    bring_loopback_up()
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
        "temperature": 0,
        "max_tokens": 64,
        "tools": [WEATHER_TOOL],
    }
    answer = serve_and_ask(arguments[split + 1 :], host, int(port), body)
    said = {
        "interfaces": interfaces(),
        "content": answer.content,
        "reasoning": answer.reasoning,
        "toolCalls": answer.tool_calls,
        "readySeconds": round(answer.ready_seconds, 1),
    }
    sys.stdout.write(json.dumps(said) + "\n")
    return 0


WEATHER_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
