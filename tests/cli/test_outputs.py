"""Every option that names an output, in every verb: a pipe, a device or a link there stays what it is."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from bundler.cli.app import VERBS, run, sealift
from tests.verification.bundles import make_bundle

OUTPUTS = {
    ("lock", "target"): "lock spec.yaml -o {out}",
    ("plan", "plot"): "plan spec.yaml --config c.json --plot {out}.svg",
    ("init", "target"): "init -p demo --force -o {out}",
    ("attest new", "out"): "attest new bundle --type release -o {out}",
    ("attest new", "signed_bytes"): "attest new bundle --type release -o s.json --signed-bytes {out}",
    ("attest sign", "out"): "attest sign statement.json --key root.key -o {out}",
    ("sign", "save_trusted_root"): "sign bundle --keyless --save-trusted-root {out}",
    ("keys generate", "out"): "keys generate --insecure-no-passphrase -o {out}",
    ("keys show", "out"): "keys show root.key -o {out}",
    ("trust init", "out"): "trust init --root root.pub --release root.pub -o {out}",
    ("trust propose", "out"): "trust propose policy.json --policy policy.json -o {out}",
    ("trust challenge", "out"): "trust challenge --policy policy.json -o {out}",
    ("trust answer", "out"): "trust answer c.json --policy policy.json --key root.key -o {out}",
}
FOLDERS = {
    ("build", "out"),
    ("demo", "folder"),
    ("plan", "out"),
    ("trust approve", "folder"),
    ("install", "to"),
}


def commands(group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        if isinstance(found, click.Group):
            yield from commands(found, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", found


def test_every_option_that_names_an_output_is_tried_here() -> None:
    assert {name.split()[0] for name, _ in commands(sealift)} == set(VERBS)
    named = {
        (verb, str(parameter.name))
        for verb, command in commands(sealift)
        for parameter in command.params
        if {"-o", "--output", "--signed-bytes", "--save-trusted-root", "--plot"} & set(parameter.opts)
    }
    assert named - FOLDERS == set(OUTPUTS)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a key pair, a policy, a spec, a bundle and a statement about it."""
    monkeypatch.chdir(tmp_path)
    made = make_bundle(tmp_path / "made", {"payload/a": b"a"})
    made.root.rename("bundle")
    for line in (
        "keys generate --insecure-no-passphrase -o root.key",
        "trust init --root root.pub --release root.pub -o policy.json",
        "trust challenge --policy policy.json -o c.json",
        "init -p demo -o spec.yaml",
        "attest new bundle --type release -o statement.json",
    ):
        assert run(line.split()) == 0, line
    return tmp_path


@pytest.mark.parametrize("kind", ["fifo", "link"])
@pytest.mark.parametrize("option", OUTPUTS, ids=" ".join)
def test_no_verb_replaces_what_is_no_file(
    option: tuple[str, str], kind: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = place / ("out.svg" if option[1] == "plot" else "out")
    os.mkfifo(out) if kind == "fifo" else out.symlink_to("elsewhere")
    capsys.readouterr()
    line = OUTPUTS[option].format(out=out.with_suffix(""))
    code = run([*line.split(), "--json"])
    report = json.loads(capsys.readouterr().out)
    assert (code, report["findings"][0]["reference"]) == (2, "output-not-regular"), report
    assert not (place / "elsewhere").exists()
    assert out.is_fifo() if kind == "fifo" else out.is_symlink()


@pytest.mark.parametrize(
    ("line", "reference"),
    [
        ("lock spec.yaml -o spec.yaml", "output-is-input"),
        ("keys generate --insecure-no-passphrase -o new.pub", "same-output"),
        ("attest new bundle --type release -o s.json --signed-bytes s.json", "same-output"),
        ("keys show root.key -o root.key", "output-is-input"),
    ],
)
def test_no_output_is_an_input_or_another_output(
    line: str, reference: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.read_bytes() for path in place.iterdir() if path.is_file()}
    capsys.readouterr()
    code = run([*line.split(), "--json"])
    report = json.loads(capsys.readouterr().out)
    assert code == 2
    assert reference in [finding["reference"] for finding in report["findings"]]
    assert {path.name: path.read_bytes() for path in place.iterdir() if path.is_file()} == before
