"""Start an engine on a model without sealift and ask for one completion: `flipped_bit.py PLAN MODEL`.

Run inside a network namespace of its own. PLAN is the JSON of `sealift launch --dry-run`; its model folder is
replaced by MODEL.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from bundler.demo.perimeter import bring_loopback_up, wait_until_ready

PORT = 8012


def main(plan_file: str, model: str) -> None:
    """Print the text of one completion."""
    plan = json.loads(Path(plan_file).read_text())
    environment = dict(plan["environment"])
    for folder in environment.values():
        if folder.startswith(plan["work"]):
            os.makedirs(folder, exist_ok=True)
    command = [model if "/snapshots/" in word else word for word in plan["command"]]
    bring_loopback_up()
    with subprocess.Popen(
        command, env=environment, cwd=environment["HOME"], stdout=sys.stderr, start_new_session=True
    ) as server:
        try:
            wait_until_ready("127.0.0.1", PORT, server)
            print(json.dumps(completion()))
        finally:
            os.killpg(server.pid, signal.SIGTERM)


def completion() -> str:
    """What the server says when it may say anything."""
    body = {"model": "kimi-tiny", "prompt": "anything", "max_tokens": 6, "temperature": 0}
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=120)
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    text = json.loads(connection.getresponse().read())["choices"][0]["text"]
    connection.close()
    return str(text)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
