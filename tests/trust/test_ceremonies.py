"""Rotation and freshness as people do them, command by command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bundler.cli.app import run
from bundler.trust.policy_document import TrustPolicy


class Office:
    """A folder with keys of people and a first policy: two of ann, ben and cy are the root."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys
        for name in ("ann", "ben", "cy", "rita"):
            self.must("keys", "generate", "-o", f"{name}.key", "--owner", name, "--insecure-no-passphrase")
        roots = [word for name in ("ann", "ben", "cy") for word in ("--root", f"{name}.pub")]
        self.must("trust", "init", *roots, "--release", "rita.pub", "-o", "policy.json")
        Path("approvals").mkdir()

    def report(self, *arguments: str) -> dict[str, Any]:
        """The JSON object of a command."""
        code = run([*arguments, "--json"])
        value: dict[str, Any] = json.loads(self.capsys.readouterr().out)
        assert value["exitCode"] == code
        return value

    def must(self, *arguments: str) -> dict[str, Any]:
        """The same, and it passed."""
        report = self.report(*arguments)
        assert report["verdict"] == "passed", report
        return report

    def draft(self, version: int, **changes: Any) -> Path:
        """A proposal made from an edited copy of the policy in force."""
        value = {**json.loads(Path("policy.json").read_bytes()), **changes}
        Path("draft.json").write_text(json.dumps(value))
        name = f"{version}.policy.json"
        self.must("trust", "propose", "draft.json", "--policy", "policy.json", "-o", name)
        return Path(name)


@pytest.fixture
def office(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Office:
    monkeypatch.chdir(tmp_path)
    return Office(capsys)


def references(report: dict[str, Any]) -> list[str]:
    """The references of a report's findings."""
    return [finding["reference"] for finding in report["findings"]]


APPLY = ("--approvals", "approvals", "--policy", "policy.json")


def test_a_policy_is_proposed_approved_by_two_and_applied(office: Office) -> None:
    proposed = office.draft(2, minSerial={"prod": 7})
    before = Path("policy.json").read_bytes()
    office.must("trust", "approve", str(proposed), "--key", "ann.key", "-o", "approvals")
    report = office.report("trust", "apply", str(proposed), *APPLY)
    assert references(report) == ["threshold", "threshold"]
    assert report["exitCode"] == 11
    assert Path("policy.json").read_bytes() == before
    office.must("trust", "approve", str(proposed), "--key", "cy.key", "-o", "approvals")
    office.must("trust", "apply", str(proposed), *APPLY, "--dry-run")
    assert Path("policy.json").read_bytes() == before
    report = office.must("trust", "apply", str(proposed), *APPLY)
    assert [sorted(item["counted"]) for item in report["approvals"]] == [["ann", "cy"], ["ann", "cy"]]
    assert Path("policy.json").read_bytes() == proposed.read_bytes()
    policy = TrustPolicy.parse(Path("policy.json").read_bytes())
    assert (policy.version, policy.min_serial) == (2, {"prod": 7})


def test_updates_from_one_medium_are_applied_in_sequence(office: Office) -> None:
    first = Path("policy.json").read_bytes()
    proposals = []
    for version in (2, 3):
        proposals.append(office.draft(version, note=f"update {version}"))
        for name in ("ann", "ben"):
            office.must("trust", "approve", str(proposals[-1]), "--key", f"{name}.key", "-o", "approvals")
        Path("policy.json").write_bytes(proposals[-1].read_bytes())
    Path("policy.json").write_bytes(first)
    assert references(office.report("trust", "apply", str(proposals[1]), *APPLY)) == [
        "policy-version",
        "policy-chain",
    ]
    for proposal in proposals:
        office.must("trust", "apply", str(proposal), *APPLY)
    assert TrustPolicy.parse(Path("policy.json").read_bytes()).version == 3


def test_a_proposal_that_lowers_a_floor_is_not_written(office: Office) -> None:
    proposed = office.draft(2, minSerial={"prod": 7})
    for name in ("ann", "ben"):
        office.must("trust", "approve", str(proposed), "--key", f"{name}.key", "-o", "approvals")
    office.must("trust", "apply", str(proposed), *APPLY)
    value = {**json.loads(Path("policy.json").read_bytes()), "minSerial": {}}
    Path("draft.json").write_text(json.dumps(value))
    report = office.report("trust", "propose", "draft.json", "--policy", "policy.json", "-o", "3.policy.json")
    assert references(report) == ["floor-lowered"]
    assert not Path("3.policy.json").exists()


def test_a_policy_older_than_the_state_is_not_rotated(office: Office) -> None:
    proposed = office.draft(2)
    for name in ("ann", "ben"):
        office.must("trust", "approve", str(proposed), "--key", f"{name}.key", "-o", "approvals")
    state = Path("state.json")
    state.write_text(json.dumps({"policy": {"version": 5, "sha256": "e" * 64}}))
    before = Path("policy.json").read_bytes(), state.read_bytes()
    report = office.report("trust", "apply", str(proposed), *APPLY, "--state", "state.json")
    assert references(report) == ["policy-rollback"]
    assert report["verdict"] == "failed"
    assert (Path("policy.json").read_bytes(), state.read_bytes()) == before


def ask(office: Office, key: str = "ann.key", policy: str = "policy.json") -> None:
    """A challenge inside and its answer outside."""
    office.must("trust", "challenge", "--policy", "policy.json", "-o", "challenge.json")
    options = ["--policy", policy, "--key", key, "-o", "answer.sigstore.json"]
    office.must("trust", "answer", "challenge.json", *options)


def respond(office: Office) -> dict[str, Any]:
    """What the inside makes of the answer."""
    return office.report(
        "trust", "respond", "challenge.json", "answer.sigstore.json", "--policy", "policy.json"
    )


def test_an_owner_of_the_root_says_that_the_policy_is_current(office: Office) -> None:
    ask(office)
    report = respond(office)
    assert (report["verdict"], report["owner"]) == ("passed", "ann")


def test_a_withheld_policy_is_noticed(office: Office) -> None:
    newer = office.draft(2)
    ask(office, policy=str(newer))
    report = respond(office)
    assert references(report) == ["policy-withheld"]
    assert report["findings"][0]["expected"].startswith("version 1, sha256:")
    assert report["findings"][0]["found"].startswith("version 2, sha256:")


def test_only_the_root_answers(office: Office) -> None:
    ask(office, key="rita.key")
    assert references(respond(office)) == ["not-an-answer"]


def test_an_answer_to_another_challenge_proves_nothing(office: Office) -> None:
    ask(office)
    Path("challenge.json").unlink()
    office.must("trust", "challenge", "--policy", "policy.json", "-o", "challenge.json")
    report = respond(office)
    assert references(report) == ["not-an-answer"]
    assert report["findings"][0]["found"] == "it answers another challenge"


def test_nonces_are_never_the_same(office: Office) -> None:
    nonces = {
        office.must("trust", "challenge", "--policy", "policy.json", "-o", f"{number}.json")["nonce"]
        for number in range(5)
    }
    assert len(nonces) == 5
    assert all(len(nonce) == 64 for nonce in nonces)


def test_an_approval_is_no_answer_and_garbage_is_malformed(office: Office) -> None:
    proposed = office.draft(2)
    approval = office.must("trust", "approve", str(proposed), "--key", "ann.key", "-o", "approvals")[
        "approval"
    ]
    office.must("trust", "challenge", "--policy", "policy.json", "-o", "challenge.json")
    report = office.report("trust", "respond", "challenge.json", approval, "--policy", "policy.json")
    assert references(report) == ["not-an-answer"]
    Path("junk.sigstore.json").write_text("{}")
    report = office.report(
        "trust", "respond", "challenge.json", "junk.sigstore.json", "--policy", "policy.json"
    )
    assert (references(report), report["exitCode"]) == (["bad-envelope"], 3)
    Path("challenge.json").write_text("{}")
    report = office.report("trust", "respond", "challenge.json", approval, "--policy", "policy.json")
    assert (references(report), report["exitCode"]) == (["bad-challenge"], 3)
