"""Output that breaks: closed, full and left streams change no verdict and show no traceback."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bundler.cli.app import VERBS
from bundler.verification import resume, standard_streams
from bundler.verification.pyz import build_verify_pyz
from tests.verification import damages
from tests.verification.bundles import TestBundle, make_bundle

BROKEN = {
    "the reader of stdout leaves": "| true",
    "stdout is closed": ">&-",
    "stderr is closed": "2>&-",
    "both are closed": ">&- 2>&-",
    "stdout is on a full disk": ">/dev/full",
    "stderr is on a full disk": "2>/dev/full",
    "both are on a full disk": ">/dev/full 2>&1",
    "the reader of both leaves": "2>&1 | true",
}
SEALIFT = f"{shlex.quote(sys.executable)} -m bundler"


def shell(command: str, how: str) -> tuple[int, str]:
    """The command's own exit code, whatever stands after the pipe, and what could still be read."""
    inner, pipe, rest = how.partition("|")
    script = f"{{ {command} {inner}; echo $? >&3; }} {pipe}{rest} 3>&3"
    reader, writer = os.pipe()
    script = f"exec 3>&{writer}; {{ {command} {inner}; echo $? >&3; }} {pipe} {rest}"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, pass_fds=[writer], timeout=120, check=False
    )
    os.close(writer)
    with os.fdopen(reader) as code:
        return int(code.read()), done.stdout + done.stderr


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> TestBundle:
    return make_bundle(tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> TestBundle:
    made = make_bundle(tmp_path_factory.mktemp("bad"))
    damages.flip(made.path(damages.WEIGHTS), 9)
    return made


@pytest.mark.parametrize("how", BROKEN.values(), ids=BROKEN)
def test_a_refused_bundle_keeps_its_code(damaged: TestBundle, how: str) -> None:
    for more in ("", "--json"):
        command = f"{SEALIFT} verify {damaged.root} --policy {damaged.policy} --state {damaged.state} {more}"
        code, told = shell(command, how)
        assert (code, "Traceback" in told, "Exception ignored" in told) == (10, False, False), told


@pytest.mark.parametrize("how", BROKEN.values(), ids=BROKEN)
def test_a_good_bundle_passes_unless_its_verdict_is_lost(bundle: TestBundle, how: str) -> None:
    command = f"{SEALIFT} verify {bundle.root} --policy {bundle.policy} --state {bundle.state}"
    code, told = shell(command, how)
    assert code == (4 if how.startswith(">/dev/full") else 0), told
    assert "Traceback" not in told


@pytest.mark.parametrize("how", BROKEN.values(), ids=BROKEN)
def test_verify_pyz_keeps_its_code(damaged: TestBundle, tmp_path: Path, how: str) -> None:
    (tmp_path / "verify.pyz").write_bytes(build_verify_pyz())
    command = f"{sys.executable} -I {tmp_path}/verify.pyz {damaged.root} --policy {damaged.policy}"
    code, told = shell(command, how)
    assert (code, "Traceback" in told) == (10, False), told


@pytest.mark.parametrize("how", [">/dev/full 2>&1", "2>&1 | true"])
@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_ends_in_a_traceback(verb: str, how: str) -> None:
    code, told = shell(f"{SEALIFT} {verb} --no-such-option", how)
    assert code == 2, told
    assert "Traceback" not in told
    code, told = shell(f"{SEALIFT} {verb} --help", how)
    assert code == (4 if "full" in how else 0), told
    assert "Traceback" not in told


def test_head_is_no_fault(bundle: TestBundle) -> None:
    code, told = shell(f"{SEALIFT} inspect {bundle.root} --files", "| head -n 1")
    assert code == 0, told


def test_ctrl_c_while_modules_load_shows_no_traceback(tmp_path: Path) -> None:
    """A module that is imported early sends the signal itself: the moment is always the same."""
    (tmp_path / "click.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(5)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "bundler", "doctor"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "error: interrupted: stopped by the user\n"


def test_the_console_command_is_guarded_too() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert 'sealift = "bundler.__main__:main"' in text


def test_ctrl_c_with_a_broken_stderr_exits_130(tmp_path: Path) -> None:
    started = subprocess.Popen(
        [sys.executable, "-c", _SLEEPER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert started.stdout is not None
    assert started.stderr is not None
    started.stderr.close()
    assert started.stdout.readline() == "ready\n"
    time.sleep(0.1)
    started.send_signal(signal.SIGINT)
    assert started.wait(30) == 130
    started.stdout.close()


_SLEEPER = """
import time, click
from bundler.cli import app
from bundler.__main__ import main
import importlib, sys, types
@click.command()
def command():
    print("ready", flush=True)
    time.sleep(30)
sys.modules["bundler.cli.doctor"] = types.SimpleNamespace(command=command)
sys.argv = ["sealift", "doctor"]
main()
"""


def test_a_journal_on_a_full_disk_is_dropped_with_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_bundle(tmp_path)

    def full(path: Path, *_: object, **__: object) -> resume.ResumeJournal:
        return resume.ResumeJournal(os.open("/dev/full", os.O_WRONLY), {})

    monkeypatch.setattr("bundler.verification.verify.open_journal", full)
    result = made.verify()

    assert result.verified is not None
    notes = [finding for finding in result.report.findings if finding.reference == "journal-dropped"]
    assert [(note.severity, note.found) for note in notes] == [("note", "No space left on device")]


def test_a_pipe_that_cannot_take_more_is_waited_for() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    stream = standard_streams.ForgivingFile(writer)
    data = bytes(1 << 20)
    drain = subprocess.Popen(["wc", "-c"], stdin=reader, stdout=subprocess.PIPE, text=True)
    os.close(reader)
    assert stream.write(data) == len(data)
    os.close(writer)
    assert int(drain.communicate(timeout=30)[0]) == len(data)
    assert stream.refused == 0
