"""Many verifications of one perimeter at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from bundler.trust.perimeter.state import State
from tests.verification.bundles import make_bundle

AT_ONCE = 6


def verified(arguments: list[list[str]]) -> list[dict[str, object]]:
    """The reports of these commands, run at the same time."""
    commands = [[sys.executable, "-m", "bundler", *words, "--json"] for words in arguments]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE) for command in commands]
    return [json.loads(process.communicate(timeout=100)[0]) for process in running]


def test_verifications_at_once_all_pass_and_leave_one_state(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    answers = verified([bundle.arguments()] * AT_ONCE)
    assert [answer["exitCode"] for answer in answers] == [0] * AT_ONCE, answers
    state = State.parse(bundle.state.read_bytes())
    assert state.last["test/stable"].manifest == bundle.manifest.sha256
    before = bundle.state.stat().st_mtime_ns
    assert [answer["exitCode"] for answer in verified([bundle.arguments()] * 2)] == [0, 0]
    assert bundle.state.stat().st_mtime_ns == before, "nothing was new"


def test_bundles_of_several_channels_at_once_are_all_remembered(tmp_path: Path) -> None:
    first = make_bundle(tmp_path / "0", channel="c0")
    bundles = [first]
    for number in range(1, 4):
        bundles.append(make_bundle(tmp_path / str(number), channel=f"c{number}", key=first.key))
    common = ["--policy", str(first.policy), "--state", str(first.state)]
    answers = verified([["verify", str(bundle.root), *common] for bundle in bundles])
    assert [answer["exitCode"] for answer in answers] == [0] * 4, answers
    assert set(State.parse(first.state.read_bytes()).serials) == {"c0", "c1", "c2", "c3"}
