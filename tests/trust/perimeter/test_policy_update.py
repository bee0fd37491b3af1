"""`trust apply` replaces the policy and advances the state: both or neither, also many at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bundler.cli.app import run
from bundler.errors import MachineError
from bundler.trust.perimeter import state_files
from bundler.trust.perimeter.policy_changes import changes
from bundler.trust.perimeter.state import State
from bundler.trust.perimeter.state_files import StateFiles
from bundler.trust.policy_document import TrustPolicy
from tests.trust.test_ceremonies import Office, references

STATE = ("--state", "state.json")
APPLY = ("--approvals", "approvals", "--policy", "policy.json")


@pytest.fixture
def office(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Office:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(state_files, "DEFAULT_STATE", tmp_path / "lib" / "state.json")
    monkeypatch.setattr(state_files, "SECOND_COPY", tmp_path / "backups" / "state.json")
    made = Office(capsys)
    Path("state.json").write_text("{}")
    return made


def approved(office: Office, version: int = 2, **changed: Any) -> str:
    """A proposed policy that two root owners approved."""
    proposed = str(office.draft(version, **{"note": "next", **changed}))
    for name in ("ann", "ben"):
        office.must("trust", "approve", proposed, "--key", f"{name}.key", "-o", "approvals")
    return proposed


def remembered(path: str = "state.json") -> int:
    """The policy version in the state."""
    return State.parse(Path(path).read_bytes()).policy_version


def begin_host_state() -> None:
    """Let the host remember the policy in force."""
    policy = TrustPolicy.parse(Path("policy.json").read_bytes())
    files = StateFiles.of(None)
    files.advance(files.open(policy.sha256, policy.sha256), lambda state: state.advanced(policy))


def test_the_state_advances_with_the_policy(office: Office) -> None:
    proposed = approved(office)
    report = office.must("trust", "apply", proposed, *APPLY, *STATE)
    assert report["applied"]
    assert Path("policy.json").read_bytes() == Path(proposed).read_bytes()
    assert remembered() == 2


def test_without_an_option_the_state_of_the_host_is_checked_and_advanced(office: Office) -> None:
    begin_host_state()
    first = Path("policy.json").read_bytes()
    proposed = approved(office)
    assert office.must("trust", "apply", proposed, *APPLY)["state"] == str(state_files.DEFAULT_STATE)
    assert remembered("lib/state.json") == remembered("backups/state.json") == 2
    Path("policy.json").write_bytes(first)
    report = office.report("trust", "apply", proposed, *APPLY)
    assert (report["exitCode"], references(report)) == (11, ["policy-rollback"])
    assert Path("policy.json").read_bytes() == first


def test_a_host_without_a_state_applies_and_says_so(
    office: Office, capsys: pytest.CaptureFixture[str]
) -> None:
    proposed = approved(office)
    assert run(["trust", "apply", proposed, *APPLY]) == 0
    assert "this perimeter has no state" in capsys.readouterr().err
    assert not state_files.DEFAULT_STATE.exists()


def test_applying_again_says_so_and_is_no_fault(office: Office, capsys: pytest.CaptureFixture[str]) -> None:
    proposed = approved(office)
    office.must("trust", "apply", proposed, *APPLY, *STATE)
    before = Path("state.json").read_bytes()
    assert office.must("trust", "apply", proposed, *APPLY, *STATE)["alreadyApplied"]
    assert run(["trust", "apply", proposed, *APPLY, *STATE]) == 0
    assert "Already applied" in capsys.readouterr().out
    assert Path("state.json").read_bytes() == before


def test_a_kill_between_policy_and_state_is_repaired_by_the_same_command(office: Office) -> None:
    proposed = approved(office)
    Path("policy.json").write_bytes(Path(proposed).read_bytes())
    assert remembered() == 0
    office.must("trust", "apply", proposed, *APPLY, *STATE)
    assert remembered() == 2


def test_a_state_that_cannot_be_written_leaves_the_old_policy(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    proposed = approved(office)
    first = Path("policy.json").read_bytes()

    def full(*_: Any) -> None:
        raise MachineError("disk-full", "no space is left")

    monkeypatch.setattr(StateFiles, "advance_locked", full)
    assert office.report("trust", "apply", proposed, *APPLY, *STATE)["exitCode"] == 4
    assert Path("policy.json").read_bytes() == first
    assert Path("state.json").read_text() == "{}"


def test_a_dry_run_changes_nothing(office: Office) -> None:
    proposed = approved(office)
    first = Path("policy.json").read_bytes()
    assert not office.must("trust", "apply", proposed, *APPLY, *STATE, "--dry-run")["applied"]
    assert (Path("policy.json").read_bytes(), Path("state.json").read_text()) == (first, "{}")


def test_a_named_state_that_is_missing_is_refused(office: Office) -> None:
    proposed = approved(office)
    report = office.report("trust", "apply", proposed, *APPLY, "--state", "gone.json")
    assert (report["exitCode"], references(report)) == (11, ["state-missing"])


def test_many_applications_at_once_end_in_one_policy_and_its_state(office: Office) -> None:
    proposed = approved(office)
    command = [sys.executable, "-m", "bundler", "trust", "apply", proposed, *APPLY, *STATE, "--json"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(6)]
    answers = [json.loads(process.communicate(timeout=100)[0]) for process in running]
    assert [answer["exitCode"] for answer in answers] == [0] * 6
    assert sum(answer["applied"] for answer in answers) == 1
    assert sum(answer["alreadyApplied"] for answer in answers) == 5
    assert Path("policy.json").read_bytes() == Path(proposed).read_bytes()
    assert remembered() == 2
    assert not list(Path().glob(".sealift-*"))


def test_the_remembered_time_is_forgotten_only_with_the_paper(office: Office) -> None:
    policy = TrustPolicy.parse(Path("policy.json").read_bytes())
    poisoned = State(newest_time=4070908800, serials={"c": 3}).advanced(policy).to_bytes()
    Path("state.json").write_bytes(poisoned)
    reset = ("trust", "reset-time", "--policy", "policy.json", *STATE, "--trust-on-first-use")
    for typed, code in (("0" * 64, 11), ("what", 2)):
        assert office.report(*reset, typed)["exitCode"] == code
        assert Path("state.json").read_bytes() == poisoned
    assert office.must(*reset, f"SHA256: {policy.sha256}")["forgotten"] == "2099-01-01T00:00:00Z"
    state = State.parse(Path("state.json").read_bytes())
    assert (state.newest_time, state.policy_version, state.serials) == (None, 1, {"c": 3})


def test_a_remembered_time_is_not_forgotten_under_an_older_policy(office: Office) -> None:
    policy = TrustPolicy.parse(Path("policy.json").read_bytes())
    Path("state.json").write_bytes(State(policy_version=2, policy_sha256="ab" * 32, newest_time=9).to_bytes())
    reset = ("trust", "reset-time", "--policy", "policy.json", *STATE, "--trust-on-first-use")
    assert references(office.report(*reset, policy.sha256)) == ["policy-rollback"]


def test_a_proposal_lists_every_member_that_changes(office: Office) -> None:
    value = json.loads(Path("policy.json").read_bytes())
    value["roles"]["root"]["threshold"] = 3
    value["rules"] = {"engines": {"vllm": "0.19"}, "expiry": "enforce"}
    value["require"][0]["where"] = {"region": "EU"}
    moved = value["roles"]["release"]["keys"][0]
    value["roles"]["second"] = {"keys": [moved], "threshold": 1}
    Path("draft.json").write_text(json.dumps(value))
    propose = ("trust", "propose", "draft.json", "--policy", "policy.json", "-o", "2.policy.json")
    report = office.must(*propose)
    assert report["changes"] == [
        '+ require[release].where.region: "EU"',
        "~ roles.root.threshold: 2 -> 3",
        f'+ roles.second.keys["{moved}"]: listed',
        "+ roles.second.threshold: 1",
        '+ rules.engines.vllm: "0.19"',
        '+ rules.expiry: "enforce"',
    ]
    assert references(report) == ["role-not-required"]
    approve = ("trust", "approve", "2.policy.json", "--key", "ann.key", "-o", "approvals")
    assert office.must(*approve, "--policy", "policy.json")["changes"] == report["changes"]


def test_equal_policies_have_no_changes(office: Office) -> None:
    data = Path("policy.json").read_bytes()
    assert changes(data, data) == []


def test_an_approval_by_a_key_outside_the_root_is_refused_at_once(office: Office) -> None:
    proposed = str(office.draft(2, note="next"))
    approve = ("trust", "approve", proposed, "--key", "rita.key", "-o", "approvals")
    report = office.report(*approve, "--policy", "policy.json")
    assert (report["exitCode"], references(report)) == (2, ["key-outside-root"])
    assert not list(Path("approvals").iterdir())
    assert references(office.must(*approve)) == ["key-outside-root"]


def test_a_threshold_of_an_unknown_role_is_refused(office: Office) -> None:
    init = ("trust", "init", "--root", "ann.pub", "--release", "rita.pub", "-o", "x.json")
    report = office.report(*init, "--threshold", "relase=2")
    assert (report["exitCode"], references(report)) == (2, ["unknown-role"])
    assert "root, release" in report["findings"][0]["expected"]
    assert not Path("x.json").exists()


def test_unusual_policies_are_warned_about(office: Office) -> None:
    init = ("trust", "init", "--root", "ann.pub", "--release", "ann.pub", "--role", "legal=ben.pub")
    report = office.must(*init, "-o", "x.json")
    assert sorted(references(report)) == ["role-not-required", "root-key-in-role"]
    assert "ann" in str(report["findings"])


def test_an_answer_is_read_under_the_name_that_it_was_written(office: Office) -> None:
    office.must("trust", "challenge", "--policy", "policy.json", "-o", "challenge.json")
    answer = ("trust", "answer", "challenge.json", "--policy", "policy.json", "--key", "ann.key")
    office.must(*answer, "-o", "reply")
    assert (
        office.must("trust", "respond", "challenge.json", "reply", "--policy", "policy.json")["owner"]
        == "ann"
    )
