"""One door to the terminal: hostile text, digests in groups, colours."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import os
import pty
import re
import select
import subprocess
import sys
from pathlib import Path

import pytest

from bundler.cli.app import run
from bundler.cli.output import Output, print_findings, render
from bundler.core.printable import COLUMNS, for_people, grouped, printable
from bundler.core.report import Report
from bundler.errors import Finding
from bundler.references import rows
from tests.verification.bundles import TestBundle, make_bundle

CLI = Path(__file__).parents[2] / "bundler" / "cli"
DIGEST = hashlib.sha256(b"x").hexdigest()
GROUPS = " ".join(re.findall("....", DIGEST))
HOSTILE = "\x1b[2J\x1b]0;x\x07\x9b31m\u202e\u200b\u2066\ufe0f\u3164\r\nVERIFIED. Every byte\u2028"
RAW = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufe0f\u3164]")


def printing_calls(path: Path) -> list[str]:
    """Every call in a module that writes to a stream of the process."""
    names = {
        "print",
        "click.echo",
        "click.secho",
        "click.style",
        "click.echo_via_pager",
        "traceback.print_exc",
    }
    found = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in names or re.fullmatch(r"sys\.(__)?std(out|err)(__)?(\.buffer)?\.write(lines)?", name):
                found.append(f"{path.name}:{node.lineno}: {name}")
    return found


@pytest.mark.parametrize("path", sorted(CLI.glob("*.py")), ids=lambda path: path.name)
def test_only_output_prints(path: Path) -> None:
    assert path.name == "output.py" or printing_calls(path) == []


def test_the_search_for_prints_finds_them(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("import sys, click\nprint(1)\nclick.echo(2)\nsys.stderr.write('3')\n")
    assert len(printing_calls(tmp_path / "x.py")) == 3


def test_nothing_hostile_passes_the_door(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(as_json=False)
    for write in (output.say, output.data):
        write(HOSTILE)
        write("x", mark=HOSTILE) if write == output.say else None
    output.verdict(HOSTILE, "passed")
    output.command(["sealift", "verify", HOSTILE])
    h = HOSTILE
    print_findings((Finding(h, h, h, h, h, h, h),))
    told = capsys.readouterr()
    assert not RAW.search(told.out + told.err)
    assert not re.search(r"^VERIFIED", told.out + told.err, re.M)
    assert "\\x1b[2J" in told.out
    assert "\\u202e" in told.err


def test_printable_is_idempotent() -> None:
    once = printable(HOSTILE)
    assert printable(once) == once
    assert printable("Stra\u00dfe \u65e5\u672c") == "Stra\u00dfe \u65e5\u672c"


def test_digests_are_grouped_for_people_only() -> None:
    assert grouped(f"manifest sha256:{DIGEST}") == f"manifest sha256:{GROUPS}"
    untouched = (
        f"`sealift verify B --trust-on-first-use sha256:{DIGEST}`",
        f"next: sealift verify B --trust-on-first-use sha256:{DIGEST}",
        f"registry.example/x@sha256:{DIGEST}",
        f"blobs/sha256:{DIGEST}/x",
    )
    for text in untouched:
        assert grouped(text) == text


@pytest.mark.parametrize("before", range(0, 120, 3))
def test_no_digest_crosses_the_end_of_a_line(before: int) -> None:
    shown = for_people("x" * before + f" sha256:{DIGEST}, sha256:{DIGEST} end")
    assert shown.count(GROUPS) == 2
    for line in shown.splitlines():
        for digest in re.finditer(GROUPS, line):
            assert digest.end() <= COLUMNS


def test_json_keeps_digests_whole(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    assert run(bundle.arguments("--json")) == 0
    report = json.loads(capsys.readouterr().out)
    assert re.fullmatch("[0-9a-f]{64}", report["manifest"]["sha256"])
    assert run(bundle.arguments()) == 0
    told = capsys.readouterr()
    assert " ".join(re.findall("....", report["manifest"]["sha256"])) in told.err


def on_terminal(*arguments: str, **environment: str) -> str:
    """What a person sees: the command with a terminal of 100 columns."""
    parent, child = pty.openpty()
    started = subprocess.Popen(
        [sys.executable, "-m", "bundler", *arguments],
        stdin=child,
        stdout=child,
        stderr=child,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100", **environment},
    )
    os.close(child)
    seen = io.BytesIO()
    while select.select([parent], [], [], 60)[0]:
        try:
            seen.write(os.read(parent, 65536))
        except OSError:
            break
    started.wait(60)
    os.close(parent)
    return seen.getvalue().decode()


def test_verdicts_are_coloured_unless_no_color_says_so(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    arguments = [*bundle.arguments("--no-progress")]
    assert "\x1b[32m\x1b[1mVERIFIED" in on_terminal(*arguments)
    assert "\x1b" not in on_terminal(*arguments, NO_COLOR="1")
    bundle.path("README.md").write_bytes(b"# A bundle\n")
    assert "\x1b[31m\x1b[1mREFUSED" in on_terminal(*arguments)


HOSTILE_NAME = "n\x1b[31m\u202e\u200b\x9bame"


@pytest.fixture
def hostile(tmp_path: Path) -> TestBundle:
    """A signed bundle whose every free text is hostile."""
    member = {
        "name": HOSTILE_NAME,
        "createdAt": HOSTILE_NAME,
        "artifacts": [
            {"id": HOSTILE_NAME, "kind": HOSTILE_NAME, "path": "payload/models/m", "purl": HOSTILE_NAME}
        ],
        "launch": [{"profile": HOSTILE_NAME, "engine": {"name": HOSTILE_NAME, "folder": HOSTILE_NAME}}],
        HOSTILE_NAME: 1,
    }
    return make_bundle(tmp_path, members=member)


def test_no_verb_shows_raw_escapes(
    hostile: TestBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, policy, state = str(hostile.root), str(hostile.policy), str(hostile.state)
    trust = ["--policy", policy, "--state", state]
    other = tmp_path / HOSTILE_NAME
    other.mkdir()
    (other / "a\x1b[2J").write_text("{")
    spec = tmp_path / "spec.yaml"
    spec.write_text(json.dumps({"apiVersion": "sealift/v1", "name": HOSTILE_NAME, HOSTILE_NAME: 1}))
    lines = [
        ["inspect", root],
        ["inspect", root, "--files"],
        ["verify", root, *trust],
        ["verify", root, *trust, "--level", "quick"],
        ["install", root, *trust, "--to", str(other / "x")],
        ["install", root, *trust, "--images", HOSTILE_NAME],
        ["launch", root, *trust, "--profile", HOSTILE_NAME, "--env", str(other)],
        ["diff", root, root],
        ["diff", root, str(other)],
        ["attest", "list", root],
        ["sign", str(other), "--key", str(other / "a\x1b[2J")],
        ["lock", str(spec)],
        ["plan", str(spec)],
        ["build", str(spec)],
        ["trust", "show", str(other / "a\x1b[2J")],
        ["keys", "show", str(other / "a\x1b[2J")],
        ["doctor", "--at", str(other)],
        ["init", "-o", str(other / "a\x1b[2J")],
        [HOSTILE_NAME],
        ["verify", root, f"--{HOSTILE_NAME}"],
    ]
    for arguments in lines:
        run(arguments)
        told = capsys.readouterr()
        raw = RAW.search(told.out + told.err)
        assert raw is None, (arguments, told.out + told.err)


@pytest.mark.parametrize("command", [[str(Path(sys.executable).with_name("sealift"))], ["-m", "bundler"]])
def test_hints_can_be_typed_where_sealift_is_not_on_the_path(command: list[str], tmp_path: Path) -> None:
    command = command if len(command) == 1 else [sys.executable, *command]
    done = subprocess.run(
        [*command, "verfy"],
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    (hint,) = re.findall("`(.*) verify`", done.stderr)
    told = subprocess.run([*hint.split(), "--version"], capture_output=True, timeout=60, check=True)
    assert b"sealift" in told.stdout


@pytest.mark.parametrize("severity", ["error", "warning", "note"])
def test_every_reference_without_a_hint_shows_what_the_table_says(severity: str) -> None:
    for reference, row in rows().items():
        told = render(Finding(reference, "something is wrong", severity=severity))
        assert "hint:" in told, reference
        assert " ".join(row.do.split())[:30] in " ".join(told.split()), reference


def test_a_findings_own_hint_is_kept() -> None:
    told = render(Finding("missing-file", "it is gone", hint="look in the other bag"))
    assert told.endswith("look in the other bag")


def test_data_have_a_hint_in_every_finding(capsys: pytest.CaptureFixture[str]) -> None:
    findings = (Finding("missing-file", "it is gone"), Finding("never-heard-of", "it is odd"))
    Output(as_json=True).emit(Report(verb="verify", findings=findings))
    told = json.loads(capsys.readouterr().out)["findings"]
    assert [one["hint"] for one in told] == [
        rows()["missing-file"].do,
        "`sealift explain` lists every reference",
    ]


@pytest.mark.parametrize("verb", ["build", "lock", "plan", "sign", "verify", "doctor", "launch", "install"])
def test_every_verb_that_judges_colours_its_verdict(verb: str) -> None:
    tree = ast.parse((CLI / f"{verb}.py").read_bytes())
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert called & {"output.verdict", "verdict_style"}


@pytest.mark.parametrize(("quiet", "green"), [("", True), ("1", False)])
def test_a_verdict_is_green_unless_colours_are_unwanted(
    quiet: str, green: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", quiet)
    monkeypatch.setenv("TERM", "xterm")
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", screen)
    Output(as_json=False).verdict("bundle    kimi-17", "passed")
    assert ("\x1b[32m" in screen.getvalue()) == green
