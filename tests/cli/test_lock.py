"""`sealift lock` against a real Hub on loopback."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from bundler.cli.app import run
from bundler.core.specs.lock import Lock
from bundler.demo.hub import LoopbackHub
from bundler.demo.tiny_gguf import write_gguf

SPEC = """\
apiVersion: sealift/v1
name: tiny
channel: tests
serial: 1
models:
  - repo: demo/kimi-tiny
    format: gguf
documents:
  - source: opinion.txt
"""


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A spec whose model lies on a Hub that answers."""
    repository = tmp_path / "hub/demo/kimi-tiny"
    repository.mkdir(parents=True)
    write_gguf(repository)
    (repository / "README.md").write_text("---\nlicense: mit\n---\n")
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "opinion.txt").write_text("fine\n")
    (folder / "tiny.yaml").write_text(SPEC)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with LoopbackHub(tmp_path / "hub") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield folder / "tiny.yaml"


def test_lock_writes_the_lock_beside_the_spec_and_says_what_it_pins(
    spec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["lock", str(spec)]) == 0
    lock = Lock.parse((spec.parent / "tiny.lock.json").read_bytes(), where="lock")
    printed = capsys.readouterr().out
    assert f"demo/kimi-tiny at {lock.models[0].commit}: 2 files" in printed
    assert " ".join(re.findall("....", lock.sha256)) in printed
    assert lock.models[0].declared_license == "mit"
    assert [item.source for item in lock.files] == ["opinion.txt"]


def test_locking_twice_gives_the_same_bytes(spec: Path) -> None:
    target = spec.parent / "tiny.lock.json"
    assert run(["lock", str(spec)]) == 0
    first = target.read_bytes()
    assert run(["lock", str(spec)]) == 0
    assert target.read_bytes() == first


def test_a_lock_names_no_host(spec: Path) -> None:
    assert run(["lock", str(spec)]) == 0
    assert b"127.0.0.1" not in (spec.parent / "tiny.lock.json").read_bytes()


def test_the_lock_goes_where_it_is_told(spec: Path, tmp_path: Path) -> None:
    assert run(["lock", str(spec), "-o", str(tmp_path / "other.json")]) == 0
    assert (tmp_path / "other.json").is_file()
    assert not (spec.parent / "tiny.lock.json").exists()


def test_check_is_silent_about_a_hub_that_answers_as_locked(
    spec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["lock", str(spec)]) == 0
    capsys.readouterr()
    assert run(["lock", str(spec), "--check"]) == 0
    assert "answers as locked" in capsys.readouterr().out


def test_check_tells_what_moved_writes_nothing_and_exits_with_12(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["lock", str(spec)]) == 0
    target = spec.parent / "tiny.lock.json"
    before = target.read_bytes()
    (tmp_path / "hub/demo/kimi-tiny/README.md").write_text("---\nlicense: other\n---\nnew terms\n")
    with LoopbackHub(tmp_path / "hub") as moved:
        monkeypatch.setenv("HF_ENDPOINT", moved.url)
        capsys.readouterr()
        assert run(["lock", str(spec), "--check", "--json"]) == 12
    answer = json.loads(capsys.readouterr().out)
    assert answer["verdict"] == "failed"
    assert {finding["where"] for finding in answer["findings"]} == {
        "model kimi-tiny@main",
        "model kimi-tiny: README.md",
    }
    assert target.read_bytes() == before


def test_check_tells_when_the_spec_itself_changed(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["lock", str(spec)]) == 0
    spec.write_text(SPEC.replace("serial: 1", "serial: 2"))
    assert run(["lock", str(spec), "--check"]) == 12
    assert "the spec itself" in capsys.readouterr().err


def test_check_without_a_lock_names_the_command_that_writes_one(
    spec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["lock", str(spec), "--check"]) == 2
    assert f"`sealift lock {spec}` writes it" in capsys.readouterr().err


def test_a_spec_with_faults_is_refused_before_anything_is_asked(
    spec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec.write_text(SPEC + "serail: 3\n")
    assert run(["lock", str(spec)]) == 3
    assert "did you mean `serial`?" in capsys.readouterr().err
    assert not (spec.parent / "tiny.lock.json").exists()


def test_what_cannot_be_pinned_leaves_the_old_lock_alone(
    spec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = spec.parent / "tiny.lock.json"
    target.write_text("old\n")
    spec.write_text(SPEC.replace("repo: demo/kimi-tiny", "repo: demo/absent"))
    (spec.parent / "opinion.txt").unlink()
    assert run(["lock", str(spec), "--json"]) == 3
    answer = json.loads(capsys.readouterr().out)
    assert "no-source" in {finding["reference"] for finding in answer["findings"]}
    assert target.read_text() == "old\n"
    assert sorted(path.name for path in spec.parent.iterdir()) == ["tiny.lock.json", "tiny.yaml"]


def test_lock_answers_in_json(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["lock", str(spec), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    lock = Lock.parse((spec.parent / "tiny.lock.json").read_bytes(), where="lock")
    assert answer["lock"]["sha256"] == lock.sha256
    assert answer["models"][0]["commit"] == lock.models[0].commit
    assert answer["models"][0]["bytes"] == sum(file.size for file in lock.models[0].files)
