"""The offline side stays offline: what verification loads, and that it runs where there is no network."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bundler.verification.pyz import build_verify_pyz
from tests.verification.bundles import TestBundle, make_bundle

FORBIDDEN = (
    "bundler.sources",
    "bundler.core.specs.spec",
    "bundler.core.specs.lock",
    "huggingface_hub",
    "requests",
    "urllib3",
    "httpx",
    "pydantic",
    "sigstore",
    "http.client",
    "urllib.request",
    "asyncio",
)
WATCHED = """
import json, sys
events = []
sys.addaudithook(lambda event, arguments: events.append(event) if event.startswith("socket.") else None)
from bundler.cli.app import run
code = run(sys.argv[1:])
print(json.dumps({"code": code, "modules": sorted(sys.modules), "events": events}), file=sys.stderr)
"""


@pytest.fixture
def bundle(tmp_path: Path) -> TestBundle:
    return make_bundle(tmp_path)


def test_verify_loads_nothing_of_the_connected_side_and_uses_no_socket(bundle: TestBundle) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, *bundle.arguments("--json")],
        capture_output=True,
        text=True,
        check=True,
    )

    seen = json.loads(done.stderr.splitlines()[-1])
    loaded = [name for name in seen["modules"] if name.startswith(FORBIDDEN)]
    assert (seen["code"], loaded, seen["events"]) == (0, [], [])


def test_verification_runs_in_an_empty_network_namespace(bundle: TestBundle, tmp_path: Path) -> None:
    unshare = ["unshare", "-rn"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs network namespaces: `unshare -rn true` must work")
    pyz = tmp_path / "verify.pyz"
    pyz.write_bytes(build_verify_pyz())

    ours = subprocess.run([*unshare, sys.executable, "-m", "bundler", *bundle.arguments()], check=False)
    portable = [*unshare, sys.executable, "-I", str(pyz), str(bundle.root), "--policy", str(bundle.policy)]
    theirs = subprocess.run(portable, check=False)

    assert (ours.returncode, theirs.returncode) == (0, 0)


def test_the_portable_verifier_opens_no_socket(bundle: TestBundle, tmp_path: Path) -> None:
    pyz = tmp_path / "verify.pyz"
    pyz.write_bytes(build_verify_pyz())
    script = """
import runpy, sys
def refuse(event, arguments):
    if event.startswith("socket."):
        raise RuntimeError(event)
sys.addaudithook(refuse)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    command = [sys.executable, "-I", "-c", script, str(pyz), str(bundle.root), "--policy", str(bundle.policy)]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
