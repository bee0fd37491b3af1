"""`sealift keys` and `sealift trust`: options, one call, one render."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path
from typing import Any

import pytest

from bundler.cli.app import run
from bundler.trust.policy_document import TrustPolicy


@pytest.fixture(autouse=True)
def _passphrase(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SEALIFT_PASSPHRASE", "only for this test")
    monkeypatch.chdir(tmp_path)


class Shell:
    """Runs sealift in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        code = run(list(arguments))
        out, err = self.capsys.readouterr()
        return code, out, err

    def report(self, *arguments: str) -> dict[str, Any]:
        """The JSON object of a command."""
        code, out, _ = self.run(*arguments, "--json")
        value: dict[str, Any] = json.loads(out)
        assert value["exitCode"] == code
        return value


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


def references(report: dict[str, Any]) -> list[str]:
    """The references of a report's findings."""
    return [finding["reference"] for finding in report["findings"]]


def test_a_key_pair_is_made_with_a_private_and_a_public_file(shell: Shell) -> None:
    report = shell.report("keys", "generate", "-o", "release.key", "--owner", "Rita")
    assert stat.S_IMODE(Path("release.key").stat().st_mode) == 0o600
    assert b"ENCRYPTED" in Path("release.key").read_bytes()
    assert Path("release.pub").read_text().startswith("Owner: Rita\n-----BEGIN PUBLIC KEY-----")
    for file in ("release.key", "release.pub"):
        code, out, _ = shell.run("keys", "fingerprint", file)
        assert (code, out.strip()) == (0, report["fingerprint"])
    code, out, err = shell.run("keys", "show", "release.key")
    assert out.startswith("-----BEGIN PUBLIC KEY-----")
    assert report["fingerprint"][:4] + " " + report["fingerprint"][4:8] in err


def test_a_key_is_never_overwritten(shell: Shell) -> None:
    shell.report("keys", "generate", "-o", "release.key")
    before = Path("release.key").read_bytes()
    report = shell.report("keys", "generate", "-o", "release.key")
    assert (report["exitCode"], references(report)) == (2, ["output-exists"])
    assert Path("release.key").read_bytes() == before


def test_the_passphrase_comes_from_a_private_file(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEALIFT_PASSPHRASE")
    secret = Path("secret")
    secret.write_text("from a file\n")
    secret.chmod(0o644)
    options = ["keys", "generate", "-o", "a.key", "--passphrase-file", "secret"]
    assert references(shell.report(*options)) == ["key-file-readable"]
    assert not Path("a.key").exists()
    secret.chmod(0o600)
    assert shell.report(*options)["exitCode"] == 0
    monkeypatch.setenv("SEALIFT_PASSPHRASE", "from a file")
    assert shell.report("keys", "show", "a.key")["exitCode"] == 0


def test_without_a_terminal_the_passphrase_must_be_given(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SEALIFT_PASSPHRASE")
    report = shell.report("keys", "generate", "-o", "a.key")
    assert (report["exitCode"], references(report)) == (2, ["no-passphrase"])
    assert list(Path.cwd().iterdir()) == []


def test_there_is_no_option_that_takes_a_passphrase(shell: Shell) -> None:
    for verb in (["keys", "generate"], ["sign"]):
        _, out, _ = shell.run(*verb, "--help")
        assert "--passphrase-file" in out
        assert "--passphrase " not in out


def make_keys(shell: Shell, *names: str) -> None:
    """Key pairs of people."""
    for name in names:
        options = ["-o", f"{name}.key", "--owner", name, "--insecure-no-passphrase"]
        assert shell.report("keys", "generate", *options)["exitCode"] == 0


def test_a_first_policy_is_made_from_public_keys(shell: Shell) -> None:
    make_keys(shell, "ann", "ben", "cy", "rita")
    options = ["--root", "ann.pub", "--root", "ben.pub", "--root", "cy.pub:Cyril"]
    report = shell.report("trust", "init", *options, "--release", "rita.pub", "-o", "policy.json")
    data = Path("policy.json").read_bytes()
    policy = TrustPolicy.parse(data)
    assert report["policy"] == {"version": 1, "sha256": hashlib.sha256(data).hexdigest()}
    assert policy.roles["root"].threshold == 2
    assert {key.owner for key in policy.keys.values()} == {"ann", "ben", "Cyril", "rita"}
    assert [item.id for item in policy.require] == ["release", "oms", "provenance"]
    assert {item.role for item in policy.require} == {"release"}


def test_a_policy_is_read_aloud_in_sentences(shell: Shell) -> None:
    make_keys(shell, "ann", "rita")
    shell.report("trust", "init", "--root", "ann.pub", "--release", "rita.pub", "-o", "policy.json")
    code, out, _ = shell.run("trust", "show", "policy.json")
    assert code == 0
    assert "This is version 1 of the trust policy." in out
    assert "root: 1 of 1 people may change this policy:" in out
    assert "A bundle needs a statement urn:sealift:release:v1 about its manifest by 1 of release" in out
    digest = hashlib.sha256(Path("policy.json").read_bytes()).hexdigest()
    assert f"Digest of this policy: {digest[:4]} {digest[4:8]} " in out


def test_roles_and_thresholds_can_be_chosen(shell: Shell) -> None:
    make_keys(shell, "ann", "rita", "sam", "sue")
    options = ["--root", "ann.pub", "--release", "rita.pub", "--role", "security=sam.pub"]
    options += ["--role", "security=sue.pub", "--threshold", "security=2", "-o", "policy.json"]
    assert shell.report("trust", "init", *options)["exitCode"] == 0
    assert TrustPolicy.parse(Path("policy.json").read_bytes()).roles["security"].threshold == 2


@pytest.mark.parametrize(
    ("options", "reference"),
    [
        (["--root", "ann.pub", "--release", "missing.pub"], "no-such-key"),
        (["--root", "ann.pub", "--release", "ann.key"], "bad-key"),
        (["--root", "ann.pub:Ann", "--release", "ann.pub:Bob"], "two-owners"),
        (["--root", "ann.pub", "--root", "ann.pub", "--release", "ann.pub"], "bad-policy"),
        (["--root", "ann.pub", "--release", "ann.pub", "--threshold", "root=2"], "bad-policy"),
        (["--root", "ann.pub", "--release", "ann.pub", "--threshold", "root=0"], "bad-policy"),
        (["--root", "ann.pub", "--release", "ann.pub", "--threshold", "root"], "usage"),
        (["--root", "ann.pub", "--release", "ann.pub", "--threshold", "root=²"], "usage"),
    ],
)
def test_a_first_policy_that_makes_no_sense_is_not_written(
    shell: Shell, options: list[str], reference: str
) -> None:
    make_keys(shell, "ann")
    report = shell.report("trust", "init", *options, "-o", "policy.json")
    assert references(report) == [reference]
    assert not Path("policy.json").exists()


def test_a_policy_is_never_overwritten_by_init(shell: Shell) -> None:
    make_keys(shell, "ann")
    Path("policy.json").write_text("mine")
    report = shell.report("trust", "init", "--root", "ann.pub", "--release", "ann.pub", "-o", "policy.json")
    assert references(report) == ["output-exists"]
    assert Path("policy.json").read_text() == "mine"
