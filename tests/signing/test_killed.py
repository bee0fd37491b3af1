"""`sign` and `attest sign`, killed at any moment: afterwards signing and verifying work as if nothing was."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bundler.cli.app import run
from bundler.signing.release import open_sealed
from bundler.trust.dsse import parse_bundle
from bundler.trust.perimeter.first_policy import Holder, compose_policy
from tests.verification.bundles import REQUIRE, TestBundle, make_bundle

KILLS = 8
AFTER_EACH_SYSTEM_CALL = """
import os, signal, sys
from bundler.cli import app
from bundler.storage import atomic
left = int(sys.argv[1])
if sys.argv[2] == "named":
    atomic._link_unnamed = lambda *_: False
calls = {"open", "os.link", "os.rename", "os.remove", "os.mkdir", "tempfile.mkdtemp", "os.rmdir"}
marks = ("attestations", ".sealift-", "sigstore.json", "/proc/self/fd/")
def count(event, arguments):
    global left
    names = [str(item) for item in arguments[:2] if not str(item).endswith(".py")]
    if event in calls and any(mark in name for mark in marks for name in names):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
sys.exit(app.run(sys.argv[3:]))
"""
"""Kills itself before the n-th time that it touches the folder of attestations or a temporary file."""


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TestBundle:
    monkeypatch.chdir(tmp_path)
    made = make_bundle(tmp_path, {"payload/a": b"a"})
    for path in (made.root / "attestations").iterdir():
        path.unlink()
    Path("release.key").write_bytes(made.key.to_pem(None))
    Path("release.key").chmod(0o600)
    holders = [Holder(role=role, key=made.key.public, owner="alice") for role in ("root", "release")]
    made.policy.write_bytes(compose_policy(holders, thresholds={}, require=REQUIRE))
    Path("approval.json").write_text('{"decision": "approve"}')
    return made


SIGN = ["sign", "bundle", "--key", "release.key"]
ATTEST = ["attest", *SIGN, "--type", "approval", "--predicate", "approval.json"]


def is_whole(bundle: TestBundle) -> bool:
    """Whether the tree is closed, every attestation can be read, and nothing is left beside the bundle."""
    open_sealed(bundle.root)
    names = [path.name for path in (bundle.root / "attestations").iterdir()]
    for name in names:
        parse_bundle((bundle.root / "attestations" / name).read_bytes(), where=name)
    return not [name for name in names if not name.endswith(".sigstore.json")]


@pytest.mark.parametrize("files", ["unnamed", "named"])
@pytest.mark.parametrize("verb", [SIGN, ATTEST], ids=["sign", "attest"])
def test_a_kill_before_any_step_leaves_a_bundle_that_can_be_signed(
    verb: list[str], files: str, bundle: TestBundle
) -> None:
    """Also on a file system that knows no files without a name (exFAT, NFS)."""
    killed = 0
    for step in range(60):
        command = [sys.executable, "-c", AFTER_EACH_SYSTEM_CALL, str(step), files, *verb]
        done = subprocess.run(command, capture_output=True, timeout=60)
        assert is_whole(bundle), step
        if done.returncode == 0:
            break
        assert done.returncode == -9, done.stderr
        killed += 1
        for path in (bundle.root / "attestations").iterdir():
            path.unlink()
    assert killed >= 4
    assert run(SIGN) == 0
    assert run(bundle.arguments()) == 0


@pytest.mark.parametrize("verb", [SIGN, ATTEST], ids=["sign", "attest"])
def test_a_kill_from_outside_at_some_time_does_not_harm(verb: list[str], bundle: TestBundle) -> None:
    chance = random.Random(7)
    for _ in range(KILLS):
        command = [sys.executable, "-m", "bundler", *verb]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(chance.uniform(0.05, 0.8))
        process.kill()
        process.wait(60)
        assert is_whole(bundle)
    assert run(SIGN) == 0
    assert run(bundle.arguments()) == 0
