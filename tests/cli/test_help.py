"""Help of every verb: examples that parse, and the options that every verb has."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import click
import pytest

from bundler.cli.app import run, sealift


def commands(
    group: click.Group, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        if isinstance(found, click.Group):
            yield from commands(found, (*path, name))
        else:
            yield (*path, name), found


ALL = dict(commands(sealift))


def help_of(path: tuple[str, ...]) -> str:
    with click.Context(ALL[path], info_name=" ".join(path), terminal_width=110) as context:
        return ALL[path].get_help(context)


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help_ends_in_one_or_two_examples_of_this_verb(path: tuple[str, ...]) -> None:
    last = help_of(path).rstrip().split("Examples:")[-1]
    lines = [line.strip() for line in last.strip().splitlines()]
    assert 1 <= len(lines) <= 2
    assert all(line.split()[1 : 1 + len(path)] == list(path) for line in lines), lines


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_example_parses(path: tuple[str, ...]) -> None:
    for line in help_of(path).rstrip().split("Examples:")[-1].strip().splitlines():
        words = shlex.split(line.partition(" > ")[0])
        assert words[0] == "sealift"
        command = ALL[path]
        context = click.Context(command, info_name="sealift")
        given, left, _ = command.make_parser(context).parse_args(words[1 + len(path) :])
        assert left == []
        for parameter in command.params:
            value = given.get(str(parameter.name))
            assert value is not None or not parameter.required, f"{line}: {parameter.name} is missing"
            if isinstance(parameter.type, click.Choice) and isinstance(value, str):
                parameter.type.convert(value, parameter, context)


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_verb_is_quiet_verbose_or_json_on_demand(path: tuple[str, ...]) -> None:
    options = {option for parameter in ALL[path].params for option in parameter.opts}
    assert {"-q", "--quiet", "-v", "--verbose", "--json"} <= options


def test_quiet_leaves_the_result_and_nothing_else(tmp_path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["init", "-p", "demo", "-o", f"{tmp_path}/one.yaml"]) == 0
    assert "next: " in capsys.readouterr().err
    assert run(["init", "-q", "-p", "demo", "-o", f"{tmp_path}/two.yaml"]) == 0
    assert capsys.readouterr().err == ""
    assert run(["init", "-q", "-p", "demo", "-o", f"{tmp_path}/two.yaml"]) == 2
    assert "output-exists" in capsys.readouterr().err


def test_verbose_prints_every_finding(tmp_path: str, capsys: pytest.CaptureFixture[str]) -> None:
    spec = f"{tmp_path}/bad.yaml"
    with open(spec, "w") as file:
        file.write("apiVersion: sealift/v1\n" + "".join(f"odd{number}: 1\n" for number in range(30)))
    assert run(["lock", spec]) == 3
    assert "more of unknown-name" in capsys.readouterr().err
    assert run(["lock", "-v", spec]) == 3
    said = capsys.readouterr().err
    assert said.count("error: unknown-name") == 30
    assert "more of" not in said
