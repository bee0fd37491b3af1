"""`sealift init`, run as a person runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bundler.assembly.templates import PROFILES, template
from bundler.cli.app import run
from bundler.core.specs.spec_text import parse_spec


@pytest.mark.parametrize("profile", PROFILES)
def test_init_writes_a_spec_that_can_be_read(profile: str, tmp_path: Path) -> None:
    target = tmp_path / "mine.yaml"
    assert run(["init", "--profile", profile, "-o", str(target)]) == 0
    assert (
        parse_spec(target.read_bytes(), "mine.yaml").name == parse_spec(template(profile).encode(), "t").name
    )


def test_init_never_overwrites_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "spec.yaml"
    target.write_text("mine\n")
    assert run(["init", "-p", "demo", "-o", str(target)]) == 2
    assert "output-exists" in capsys.readouterr().err
    assert target.read_text() == "mine\n"


def test_init_writes_nothing_through_a_dangling_link(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").symlink_to(tmp_path / "elsewhere")
    assert run(["init", "-p", "demo", "-o", str(tmp_path / "spec.yaml")]) == 2
    assert not (tmp_path / "elsewhere").exists()


def test_init_overwrites_when_told(tmp_path: Path) -> None:
    target = tmp_path / "spec.yaml"
    target.write_text("mine\n")
    assert run(["init", "-p", "demo", "-o", str(target), "--force"]) == 0
    assert target.read_text() == template("demo")
    assert list(tmp_path.iterdir()) == [target]


def test_init_to_stdout_prints_the_spec_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["init", "-p", "kimi-k2-vllm", "-o", "-"]) == 0
    assert capsys.readouterr().out == template("kimi-k2-vllm")


def test_init_answers_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "spec.yaml"
    assert run(["init", "-p", "demo", "-o", str(target), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["verb"], answer["verdict"], answer["path"]) == ("init", "passed", str(target))


def test_init_with_an_unknown_profile_names_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["init", "-p", "kimi"]) == 2
    assert "kimi-k2-vllm" in capsys.readouterr().err
