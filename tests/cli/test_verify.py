"""`sealift verify` as people and machines use it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bundler.cli.app import run
from tests.verification import damages
from tests.verification.bundles import TestBundle, make_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> TestBundle:
    return make_bundle(tmp_path)


def test_success_is_told_in_plain_words(bundle: TestBundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(bundle.arguments("--no-progress")) == 0

    told = capsys.readouterr()
    assert (
        told.out
        == "VERIFIED. Every byte of the bundle is what was signed, by the people the policy requires.\n"
    )
    assert "test, channel test/stable, serial 7" in told.err
    assert "release: alice for the role release (1 needed), urn:sealift:release:v1" in told.err
    assert "not checked: step 7" in told.err


@pytest.mark.parametrize("level", ["signatures", "quick"])
def test_a_lesser_level_says_what_it_is_not_and_names_the_next_command(
    bundle: TestBundle, level: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(bundle.arguments("--level", level)) == 0

    told = capsys.readouterr()
    assert "VERIFIED" not in told.out
    trust = f"--policy {bundle.policy} --state {bundle.state}"
    assert f"next: sealift verify {bundle.root} {trust} --level full\n" in told.out
    assert f"step 8 (every byte): not part of level {level}" in told.err


def test_a_refusal_names_file_and_range_and_the_next_command(
    bundle: TestBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    damages.flip(bundle.path(damages.WEIGHTS), 4096)

    assert run(bundle.arguments("--no-progress")) == 10

    told = capsys.readouterr()
    assert told.out == "REFUSED: step 8 (every byte). Do not install or launch this bundle.\n"
    assert f"where:    {damages.WEIGHTS}, bytes 4096-8191 (chunk 1)" in told.err
    assert "hint:     fetch or receive this file again, then `sealift verify BUNDLE --resume`" in told.err


def test_json_has_everything_a_machine_asks_for(
    bundle: TestBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(bundle.arguments("--json", "-j", "3")) == 0

    told = capsys.readouterr()
    report = json.loads(told.out)
    assert told.err == ""
    assert (report["verdict"], report["exitCode"], report["level"], report["workers"]) == (
        "passed",
        0,
        "full",
        3,
    )
    assert [step["step"] for step in report["steps"]] == list(range(1, 11))
    assert report["manifest"]["serial"] == 7
    assert [item["met"] for item in report["trust"]["requirements"]] == [True, True]
    assert {"seconds", "bytesPerSecond", "bytesTrustedFromEarlierRun", "policy", "notChecked"} <= set(report)


def test_json_of_a_failure_is_one_object_too(bundle: TestBundle, capsys: pytest.CaptureFixture[str]) -> None:
    bundle.path("payload/more").write_bytes(b"")

    assert run(bundle.arguments("--json")) == 10

    report = json.loads(capsys.readouterr().out)
    assert [finding["reference"] for finding in report["findings"]] == ["extra-file"]
    assert [step["status"] for step in report["steps"]][5:] == ["failed", *["not-run"] * 4]


@pytest.mark.parametrize(
    ("change", "code", "reference"),
    [
        (lambda bundle: bundle.policy.unlink(), 2, "no-policy"),
        (lambda bundle: bundle.policy.write_text("{}"), 3, "bad-policy"),
        (lambda bundle: bundle.state.unlink(), 11, "state-missing"),
        (lambda bundle: bundle.state.write_text("[]"), 3, "bad-state"),
    ],
    ids=["no policy", "an empty policy", "no state", "a state that is none"],
)
def test_without_a_perimeter_nothing_passes(
    bundle: TestBundle, change: object, code: int, reference: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(change)
    change(bundle)

    assert run(bundle.arguments("--json")) == code

    report = json.loads(capsys.readouterr().out)
    assert (report["findings"][0]["reference"], report["verdict"]) == (reference, "failed")
    assert "trust init" not in report["findings"][0]["hint"], "nobody inside makes the policy"


def test_a_folder_that_is_not_there_is_told(bundle: TestBundle, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = bundle.arguments()
    arguments[1] += "-not"

    assert run(arguments) == 4

    assert "error: no-such-bundle: there is no such folder" in capsys.readouterr().err


def test_hostile_names_do_not_reach_the_terminal(
    bundle: TestBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle.path("payload/\x1b[2Jx").write_bytes(b"")

    run(bundle.arguments("--no-progress"))

    told = capsys.readouterr()
    assert "\x1b[2J" not in told.err + told.out
    assert "payload/\\x1b[2Jx" in told.err


def test_a_first_use_with_the_typed_digest_is_remembered(
    bundle: TestBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle.state.unlink()
    run(bundle.arguments("--json", "--level", "signatures"))
    digest = json.loads(capsys.readouterr().out)["policy"]["sha256"]

    assert run(bundle.arguments("--json", "--trust-on-first-use", f"sha256:{digest}")) == 0

    assert json.loads(bundle.state.read_text())["serials"] == {"test/stable": 7}


@pytest.mark.parametrize(("mode", "told"), [(0o644, False), (0o646, True)])
def test_a_policy_that_others_may_change_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: int, told: bool
) -> None:
    bundle = make_bundle(tmp_path)
    bundle.policy.chmod(mode)
    assert run(bundle.arguments()) == 0
    said = capsys.readouterr().err
    assert ("others can change the policy" in said) is told
    assert (f"chmod go-w {bundle.policy}" in said) is told
