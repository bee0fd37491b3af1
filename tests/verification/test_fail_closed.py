"""Whatever goes wrong in whatever step: the verdict is never `passed`, and nothing counts as verified."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundler.assembly import build as assembly_build
from bundler.assembly.artifact_entries import Contents
from bundler.cli.app import run
from bundler.core.progress import SilentProgress
from bundler.errors import (
    ExitCode,
    Finding,
    IntegrityError,
    NetworkError,
    SealiftError,
    gravest_code,
    gravest_first,
    gravity,
)
from bundler.verification import portable, steps
from bundler.verification.checks import Checks
from bundler.verification.steps import Checked, StepOutcome
from bundler.verification.verify import _Verification
from tests.assembly.test_build import request
from tests.launch.profiles import MODEL, install, launch_member
from tests.launch.test_launch import free_port
from tests.verification.bundles import TestBundle, make_bundle

FAMILIES = SealiftError.__subclasses__()
OWNERS: dict[int, tuple[type, str]] = {
    1: (_Verification, "check_policy_and_state"),
    2: (Checks, "check_small_files"),
    3: (Checks, "check_manifest"),
    4: (Checks, "check_signatures"),
    5: (_Verification, "check_requirements"),
    6: (Checks, "check_tree"),
    7: (_Verification, "check_contents"),
    8: (Checks, "check_bytes"),
    9: (_Verification, "check_rules"),
    10: (_Verification, "remember"),
}
"""Where each step of `sealift verify` is done."""
PORTABLE = {
    **{number: OWNERS[number] for number in (2, 3, 4, 6, 8)},
    1: (Checks, "check_policy"),
    5: (Checks, "check_requirements"),
}
Plant = Callable[[tuple[type, str], Callable[[], Checked]], None]


class NobodyKnowsThisError(SealiftError):
    """A family that a later version may add and forget to list."""

    exit_code = 77  # type: ignore[assignment]


@pytest.fixture
def bundle(tmp_path: Path) -> TestBundle:
    """A bundle that could be launched."""
    files = {f"{MODEL}/config.json": b'{"model_type": "kimi_k2"}'}
    made = make_bundle(tmp_path, files, members={"launch": [launch_member("vllm", port=free_port())]})
    install(tmp_path / "env", hashlib.sha256((made.root / "manifest.json").read_bytes()).hexdigest())
    (tmp_path / "env/bin/python").write_text("#!/bin/sh\necho started >> $0.ran\n")
    return made


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Plant:
    """Replaces the work of one step."""

    def replace(owner: tuple[type, str], work: Callable[[], Checked]) -> None:
        monkeypatch.setattr(*owner, lambda self: work())

    return replace


def raising(error: BaseException) -> Callable[[], Checked]:
    def work() -> Checked:
        raise error

    return work


def arguments(bundle: TestBundle, verb: str, place: Path) -> list[str]:
    trust = ["--policy", str(bundle.policy), "--state", str(bundle.state), "--no-progress", "--json"]
    more = {
        "verify": [],
        "install": ["--images", "https://registry.invalid/x"],
        "launch": ["--profile", "default", "--env", str(place / "env"), "--work", "/tmp"],
    }
    return [verb, str(bundle.root), *trust, *more[verb]]


def test_every_family_has_a_rank_of_its_own() -> None:
    assert sorted(map(gravity, ExitCode)) == list(range(len(ExitCode)))
    assert {family.exit_code for family in FAMILIES} | {ExitCode.PASSED, ExitCode.UNEXPECTED} >= set(ExitCode)


@pytest.mark.parametrize("number", OWNERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_no_family_in_any_step_passes(
    bundle: TestBundle, plant: Plant, number: int, family: type[SealiftError]
) -> None:
    state = bundle.state.read_bytes()
    plant(OWNERS[number], raising(family("planted", "a planted fault")))

    result = bundle.verify()

    assert result.verified is None
    assert result.report.exit_code == family.exit_code
    expected = "incomplete" if family.exit_code == ExitCode.INCOMPLETE else "failed"
    assert result.report.verdict == expected
    assert bundle.state.read_bytes() == state


@pytest.mark.parametrize("number", OWNERS)
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NobodyKnowsThisError("planted", "x"), 1),
        (SealiftError("planted", "x"), 1),
        (OSError("no number"), 4),
        (OSError(5, "Input/output error"), 4),
        (MemoryError(), 4),
    ],
    ids=["unlisted family", "root of the tree", "OSError without number", "EIO", "MemoryError"],
)
def test_unlisted_families_and_machine_trouble_fail(
    bundle: TestBundle, plant: Plant, number: int, error: Exception, code: int
) -> None:
    plant(OWNERS[number], raising(error))

    result = bundle.verify()

    assert result.verified is None
    assert (result.report.verdict, int(result.report.exit_code)) == ("failed", code)


@pytest.mark.parametrize("number", OWNERS)
@pytest.mark.parametrize("error", [RecursionError(), ValueError("x"), AssertionError(), KeyboardInterrupt()])
def test_a_fault_of_ours_gives_no_verdict(
    bundle: TestBundle, plant: Plant, number: int, error: BaseException
) -> None:
    plant(OWNERS[number], raising(error))

    with pytest.raises(type(error)):
        bundle.verify()


@pytest.mark.parametrize("verb", ["verify", "install", "launch"])
@pytest.mark.parametrize("number", OWNERS)
def test_every_verb_refuses_every_family(
    bundle: TestBundle,
    plant: Plant,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    verb: str,
    number: int,
) -> None:
    for family in (*FAMILIES, NobodyKnowsThisError):
        plant(OWNERS[number], raising(family("planted", "a planted fault")))

        code = run(arguments(bundle, verb, tmp_path))

        report = json.loads(capsys.readouterr().out)
        expected = int(family.exit_code) if family in FAMILIES else 1
        assert (code, report["exitCode"]) == (expected, expected), family
        assert report["verdict"] != "passed"
        assert "planted" in {finding["reference"] for finding in report["findings"]}
        assert not (tmp_path / "env/bin/python.ran").exists()


@pytest.mark.parametrize("number", PORTABLE)
def test_verify_pyz_refuses_every_family(
    bundle: TestBundle, plant: Plant, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    for family in (*FAMILIES, NobodyKnowsThisError):
        plant(PORTABLE[number], raising(family("planted", "a planted fault")))

        code = portable.main([str(bundle.root), "--policy", str(bundle.policy), "--json"])

        report = json.loads(capsys.readouterr().out)
        expected = int(family.exit_code) if family in FAMILIES else 1
        assert (code, report["exitCode"]) == (expected, expected), family
        assert report["verdict"] != "passed"


@pytest.mark.parametrize("error", [OSError(5, "EIO"), MemoryError(), RecursionError(), ValueError("x")])
def test_verify_pyz_gives_a_report_for_what_nobody_expected(
    bundle: TestBundle, plant: Plant, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    plant(PORTABLE[8], raising(error))

    code = portable.main([str(bundle.root), "--policy", str(bundle.policy), "--json"])

    told = json.loads(capsys.readouterr().out)
    assert (code, told["verdict"]) == (4 if isinstance(error, (OSError, MemoryError)) else 1, "failed")


@pytest.mark.parametrize("family", [*FAMILIES, NobodyKnowsThisError])
@pytest.mark.parametrize("place", ["fetch_all", "assess", "documents", "check_contents", "_seal"])
def test_build_seals_nothing_whatever_family_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, family: type[SealiftError]
) -> None:
    (tmp_path / "notes.txt").write_text("remember the milk")
    (tmp_path / "LICENSE").write_text("do as you like")
    asked = request(tmp_path)

    def fail(*_args: Any, **_options: Any) -> Any:
        raise family("planted", "a planted fault")

    monkeypatch.setattr(assembly_build, place, fail)
    with pytest.raises(family):
        assembly_build.build(asked, SilentProgress())
    assert not asked.out.exists()


@pytest.mark.parametrize("code", [code for code in ExitCode if code != ExitCode.PASSED])
def test_build_gives_the_code_of_the_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: ExitCode
) -> None:
    (tmp_path / "notes.txt").write_text("remember the milk")
    (tmp_path / "LICENSE").write_text("do as you like")
    asked = request(tmp_path)
    finding = Finding("planted", "a planted fault", exit_code=code)
    contents = Contents(models={}, wheel_licenses={})
    monkeypatch.setattr(assembly_build, "check_contents", lambda *_a, **_o: (contents, [finding]))

    with pytest.raises(SealiftError) as caught:
        assembly_build.build(asked, SilentProgress())

    assert caught.value.exit_code == code
    assert not asked.out.exists()


PASSED_STEPS = tuple(StepOutcome(number, steps.PASSED) for number in range(1, 11))


@pytest.mark.parametrize("level", steps.LEVELS)
def test_a_level_is_proven_only_by_all_its_steps(level: str) -> None:
    last = steps.LEVELS[level]
    whole = PASSED_STEPS[:last]
    assert steps.proven(whole, level)
    assert not steps.proven(whole[:-1], level)
    assert not steps.proven((), level)
    assert steps.verdict((), level) == "failed"
    assert steps.exit_code((), level) == ExitCode.UNEXPECTED
    for status in (steps.FAILED, steps.INCOMPLETE, steps.NOT_RUN, steps.NOT_CHECKED, steps.BEYOND, "new"):
        damaged = (*whole[:-1], StepOutcome(last, status))
        assert not steps.proven(damaged, level), status
        assert status == steps.NOT_CHECKED or steps.verdict(damaged, level) != "passed", status
        assert status == steps.NOT_CHECKED or steps.exit_code(damaged, level) != ExitCode.PASSED, status


@pytest.mark.parametrize(
    "finding",
    [
        Finding("x", "y", exit_code=ExitCode.PASSED),
        Finding("x", "y", exit_code=77),  # type: ignore[arg-type]
        Finding("x", "y", severity="fatal", exit_code=ExitCode.PASSED),
    ],
    ids=["an error that says passed", "a code nobody knows", "a severity nobody knows"],
)
def test_a_finding_nobody_understands_is_unexpected(finding: Finding) -> None:
    assert gravest_code([finding]) == ExitCode.UNEXPECTED
    assert SealiftError.of([finding]).exit_code == ExitCode.UNEXPECTED


def test_an_error_of_several_families_is_of_the_gravest() -> None:
    findings = [Finding("x", "y", exit_code=code) for code in (ExitCode.NETWORK, ExitCode.INTEGRITY)]

    error = NetworkError.of(findings)

    assert isinstance(error, IntegrityError)
    assert error.findings == tuple(findings)
    assert gravest_first(findings) == findings[::-1]
