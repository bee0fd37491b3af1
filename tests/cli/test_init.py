"""`sealift init`, run as a person runs it."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from bundler.assembly.templates import PROFILES, template, template_for_editors
from bundler.cli.app import run
from bundler.core.specs.spec_text import parse_spec, schema_bytes

ROOT = Path(__file__).parents[2]


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
    assert target.read_text() == template_for_editors("demo")
    assert sorted(tmp_path.iterdir()) == [tmp_path / "spec.schema.json", target]


def schema_named_by(spec: Path) -> Path:
    """The file an editor opens for this spec: the path of its first line, relative to the spec."""
    line = spec.read_text().splitlines()[0]
    assert line.startswith("# yaml-language-server: $schema=")
    return spec.parent / line.partition("=")[2]


def test_the_schema_an_editor_is_told_of_lies_beside_the_spec(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    target = tmp_path / "deep" / "mine.yaml"
    assert run(["init", "-p", "demo", "-o", str(target)]) == 0
    assert schema_named_by(target).read_bytes() == schema_bytes()
    jsonschema.validate(yaml.safe_load(target.read_text()), json.loads(schema_named_by(target).read_bytes()))


def test_a_schema_that_is_there_is_left_alone_even_with_force(tmp_path: Path) -> None:
    (tmp_path / "spec.schema.json").write_text("mine\n")
    assert run(["init", "-p", "demo", "-o", str(tmp_path / "spec.yaml"), "--force"]) == 0
    assert (tmp_path / "spec.schema.json").read_text() == "mine\n"


def test_the_spec_cannot_take_the_name_of_its_schema(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["init", "-p", "demo", "-o", str(tmp_path / "spec.schema.json"), "--force"]) == 2
    assert "same-output" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("profile", PROFILES)
def test_the_example_specs_are_what_init_writes_with_the_published_schema(profile: str) -> None:
    spec = ROOT / "manifests" / profile / "spec.yaml"
    assert spec.read_text() == template_for_editors(profile, "../../docs/spec.schema.json")
    assert schema_named_by(spec).read_bytes() == schema_bytes()


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
