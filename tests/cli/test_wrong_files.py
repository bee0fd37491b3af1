"""Files of the wrong kind where a document is named: told at once, never waited for, never read whole."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bundler.cli.app import run
from tests.verification.bundles import make_bundle

SPEC_TEMPLATE = ("init", "--profile", "demo", "--output")


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "demo.yaml"
    assert run([*SPEC_TEMPLATE, str(path)]) == 0
    return path


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """A named pipe that nobody writes to: opened the plain way, it is waited for without end."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


@pytest.fixture
def huge(tmp_path: Path) -> Path:
    """A file larger than this machine's memory; a hole on the disk."""
    path = tmp_path / "model-00001-of-00061.safetensors"
    with path.open("wb") as file:
        file.truncate(4 << 40)
    return path


VERBS = {
    "lock": ["lock", "FILE"],
    "plan": ["plan", "FILE"],
    "build": ["build", "FILE"],
    "plan --config": ["plan", "SPEC", "--config", "FILE"],
    "diff, before": ["diff", "FILE", "SPEC"],
    "trust show": ["trust", "show", "FILE"],
}


@pytest.mark.parametrize("words", VERBS.values(), ids=VERBS)
@pytest.mark.timeout(20)
def test_a_pipe_is_no_document(
    words: list[str], spec: Path, pipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {"FILE": str(pipe), "SPEC": str(spec)}
    capsys.readouterr()

    assert run([*(known.get(word, word) for word in words), "--json"]) == 2

    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert (finding["reference"], finding["where"]) == ("not-a-file", str(pipe))
    assert finding["found"].startswith("p")


@pytest.mark.parametrize("words", [VERBS[name] for name in VERBS if "diff" not in name])
@pytest.mark.timeout(20)
def test_a_file_of_terabytes_is_refused_without_reading_it(
    words: list[str], spec: Path, huge: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {"FILE": str(huge), "SPEC": str(spec)}
    capsys.readouterr()

    assert run([*(known.get(word, word) for word in words), "--json"]) == 3

    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert (finding["reference"], finding["where"]) == ("too-large", str(huge))


@pytest.mark.timeout(20)
def test_a_pipe_is_no_state(tmp_path: Path, pipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = make_bundle(tmp_path, {"payload/a": b"a"})

    code = run(["verify", str(bundle.root), "--policy", str(bundle.policy), "--state", str(pipe), "--json"])

    assert code == 2
    assert json.loads(capsys.readouterr().out)["findings"][0]["reference"] == "not-a-file"
