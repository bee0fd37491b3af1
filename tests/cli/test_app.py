"""The frame of the command line: verbs, errors, exit codes, and what loads when."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from bundler.cli import app
from bundler.errors import AuthenticityError, ExitCode, InterruptedByUser, MachineError

HEAVY = ("sigstore", "huggingface_hub", "pydantic", "requests", "tqdm", "cryptography", "yaml", "hf_xet")


def sealift(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bundler", *arguments], capture_output=True, text=True, check=False
    )


def test_help_names_every_verb_and_loads_nothing_heavy() -> None:
    code = "import sys\nfrom bundler.cli import app\napp.run(['--help'])\nprint(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(eval(done.stdout.strip().splitlines()[-1]))
    assert all(verb in done.stdout for verb in app.VERBS)
    assert not loaded & set(HEAVY)


@pytest.mark.parametrize("verb", app.VERBS)
def test_every_verb_has_a_command_with_help_and_json(verb: str) -> None:
    command = importlib.import_module(f"bundler.cli.{verb}").command
    assert isinstance(command, click.Command)
    assert command.help
    commands = list(command.commands.values()) if isinstance(command, click.Group) else [command]
    for one in commands:
        assert one.help, f"{verb} {one.name} has no help"
        assert "as_json" in {parameter.name for parameter in one.params}, f"{verb} {one.name}"


def test_version_is_printed() -> None:
    done = sealift("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("sealift, version ")


def test_an_unknown_verb_names_the_nearest_and_exits_2() -> None:
    done = sealift("verfy")
    assert done.returncode == 2
    assert "unknown-verb" in done.stderr
    assert "did you mean `sealift verify`?" in done.stderr
    assert done.stdout == ""


def test_no_verb_prints_help_and_exits_2() -> None:
    done = sealift()
    assert done.returncode == 2
    assert "Verbs:" in done.stderr


def test_usage_errors_are_one_json_object_with_json() -> None:
    done = sealift("completion", "--json", "tcsh")
    report = json.loads(done.stdout)
    assert done.returncode == report["exitCode"] == 2
    assert report["verdict"] == "failed"
    assert report["verb"] == "completion"
    assert report["findings"][0]["reference"] == "usage"
    assert set(report["findings"][0]) == {
        "reference",
        "severity",
        "what",
        "where",
        "expected",
        "found",
        "hint",
    }


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_complete_verbs(shell: str) -> None:
    done = sealift("completion", shell)
    assert done.returncode == 0
    assert "_SEALIFT_COMPLETE" in done.stdout


def test_completion_answers_the_shell() -> None:
    words = {"_SEALIFT_COMPLETE": "bash_complete", "COMP_WORDS": "sealift ver", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "bundler"], env=words, capture_output=True, text=True, check=False
    )
    assert "verify" in done.stdout


def test_an_unexpected_exception_keeps_its_traceback_and_exits_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def explode(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(app.sealift, "main", explode)
    assert app.run(["inspect", "--json"]) == ExitCode.UNEXPECTED
    captured = capsys.readouterr()
    assert "Traceback" in captured.err
    report = json.loads(captured.out)
    assert report["exitCode"] == 1
    assert report["findings"][0]["reference"] == "unexpected-error"
    assert "not a verdict" in report["findings"][0]["what"]


def test_ctrl_c_is_resumable_and_exits_130() -> None:
    error = app.deliberate(KeyboardInterrupt(), "build")
    assert isinstance(error, InterruptedByUser)
    assert error.exit_code == 130
    assert "`sealift build` again" in error.findings[0].hint


def test_operating_system_errors_are_machine_errors_that_name_the_file() -> None:
    error = app.deliberate(PermissionError(13, "Permission denied", "/srv/x"), "verify")
    assert isinstance(error, MachineError)
    assert error.findings[0].where == "/srv/x"
    assert error.exit_code == 4


def test_hostile_names_cannot_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    from bundler.cli.output import print_error

    print_error(AuthenticityError("unknown-signer", "nobody vouches", where="a\x1b[2Jb\u202e.json"))
    print_error(AuthenticityError("unknown-signer", "\x1b[31mnobody"))
    text = capsys.readouterr().err
    assert "\x1b" not in text
    assert "\\x1b[2Jb\\u202e" in text


def test_many_findings_of_a_kind_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    from bundler.cli.output import print_findings
    from bundler.errors import Finding

    print_findings(tuple(Finding("missing-file", "gone", where=f"f{n}") for n in range(25)))
    text = capsys.readouterr().err
    assert text.count("missing-file: gone") == 10
    assert "15 more of missing-file" in text


def test_colours_follow_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    from bundler.cli.output import coloured

    class Terminal:
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert coloured(Terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not coloured(Terminal())


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_was_closed_is_no_fault_of_ours(closed: str, tmp_path: Path) -> None:
    verb = f"{sys.executable} -m bundler init --profile demo -o {tmp_path}/spec.yaml {closed}"
    done = subprocess.run(["sh", "-c", verb], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert "Traceback" not in done.stderr
    assert (tmp_path / "spec.yaml").read_text().startswith("#"), "no talk in a file that took the number"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full (Linux)")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_answer_that_cannot_be_written_is_told_where_it_can(unbuffered: str) -> None:
    command = [sys.executable, "-m", "bundler", "plan", "--gpus", "--json"]
    settings = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=settings
        )
    assert done.returncode == 4
    assert done.stderr.startswith("error: machine-error: the operating system refused: No space left")
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize(
    ("verb", "says"),
    [
        ("build", "`sealift build` again: it continues"),
        ("verify", "`sealift verify` again with --resume"),
        ("install", "`sealift install` again with --resume"),
        ("keys", "run the same command again"),
    ],
)
def test_after_a_stop_the_command_that_continues_is_named(verb: str, says: str) -> None:
    (finding,) = app.deliberate(KeyboardInterrupt(), verb).findings
    assert (finding.reference, finding.exit_code) == ("interrupted", ExitCode.INTERRUPTED)
    assert says in finding.hint


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_names_that_the_locale_cannot_spell_are_escaped(encoding: str, tmp_path: Path) -> None:
    folder = tmp_path / "b\u00fcndel-\u65e5-\udcff"
    folder.mkdir()
    command = [sys.executable, "-m", "bundler", "inspect", str(folder)]
    environment = {**os.environ, "PYTHONIOENCODING": f"{encoding}:strict"}
    done = subprocess.run([*command, "--json"], capture_output=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (2, b"")
    assert json.loads(done.stdout)["findings"][0]["where"] == str(folder)
    for_people = subprocess.run(command, capture_output=True, check=False, env=environment)
    assert for_people.returncode == 2
    assert b"Traceback" not in for_people.stderr
