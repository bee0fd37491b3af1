"""Every row of the attack table about manifests, envelopes, policies and state: verdict and reason."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from bundler.cli.app import run
from bundler.core.manifest import Manifest
from bundler.errors import ExitCode, Finding, SealiftError
from bundler.trust.keys import verify_signature
from bundler.trust.perimeter.rotation import check_rotation
from bundler.trust.perimeter.state import State
from bundler.trust.policy import TrustPolicy, authenticate, evaluate
from tests.vectors.conformance import conformance_vectors
from tests.vectors.trust import Rotation, Vector, rotations, vectors

VECTORS = [*vectors(), *conformance_vectors()]
ROTATIONS = rotations()


def judge(vector: Vector) -> tuple[ExitCode, tuple[Finding, ...]]:
    """Steps 1 to 5 of format.md section 8 with the pure parts alone."""
    try:
        policy = TrustPolicy.parse(vector.policy)
        state = State.parse(vector.state)
        stale = state.policy_findings(policy)
        if stale:
            return ExitCode.AUTHENTICITY, stale
        manifest = Manifest.parse(vector.manifest)
    except SealiftError as error:
        return error.exit_code, error.findings
    signed = authenticate(policy, vector.attestations, verify_signature=verify_signature)
    result = evaluate(policy, manifest, signed)
    if result.findings:
        return result.exit_code, result.findings
    old = state.release_findings(manifest)
    return (ExitCode.AUTHENTICITY if old else ExitCode.PASSED), old


def test_names_are_unique_and_there_are_good_and_hostile_ones() -> None:
    names = Counter([*(item.name for item in VECTORS), *(item.name for item in ROTATIONS)])
    assert names.most_common(1)[0][1] == 1
    assert sum(1 for vector in VECTORS if not vector.reference) >= 10
    assert sum(1 for vector in VECTORS if vector.reference) >= 100


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
def test_a_bundle_is_accepted_or_refused_for_the_right_reason(vector: Vector) -> None:
    code, findings = judge(vector)
    references = {finding.reference for finding in findings}
    assert (references or {""}) == {vector.reference}, findings
    assert code == vector.exit_code
    assert all(finding.what and finding.where for finding in findings)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
def test_the_command_line_says_the_same_and_leaves_the_state_as_it_was(
    vector: Vector, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vector.write(tmp_path)
    state = tmp_path / "state.json"
    arguments = ["verify", str(tmp_path / "bundle"), "--policy", str(tmp_path / "policy.json")]
    code = run([*arguments, "--state", str(state), "--level", "signatures", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert code == report["exitCode"] == vector.exit_code, report["findings"]
    errors = {item["reference"] for item in report["findings"] if item["severity"] == "error"}
    assert (errors or {""}) == {vector.reference}
    assert report["verdict"] == ("failed" if vector.reference else "passed")
    assert state.read_bytes() == vector.state


@pytest.mark.parametrize("rotation", ROTATIONS, ids=lambda rotation: rotation.name)
def test_a_policy_is_replaced_only_by_both_roots(
    rotation: Rotation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rotation.write(tmp_path)
    current, state = tmp_path / "current.json", tmp_path / "state.json"
    state.write_bytes(b"{}")
    arguments = ["trust", "apply", str(tmp_path / "new.json"), "--approvals", str(tmp_path / "approvals")]
    code = run([*arguments, "--policy", str(current), "--state", str(state), "--json"])
    report = json.loads(capsys.readouterr().out)
    assert code == rotation.exit_code == report["exitCode"], report["findings"]
    if rotation.reference:
        assert {finding["reference"] for finding in report["findings"]} == {rotation.reference}
        assert current.read_bytes() == rotation.current
        assert state.read_bytes() == b"{}"
    else:
        assert report["verdict"] == "passed"
        assert current.read_bytes() == rotation.new
        assert State.parse(state.read_bytes()).policy_version == 4


def test_a_rotation_says_who_counted_and_who_did_not() -> None:
    rotation = next(item for item in ROTATIONS if item.name == "rotate-by-release")
    result = check_rotation(
        TrustPolicy.parse(rotation.current),
        TrustPolicy.parse(rotation.new),
        rotation.approvals,
        verify_signature=verify_signature,
    )
    assert [outcome.counted for outcome in result.approvals] == [("alice",), ("alice",)]
    assert result.findings[0].found == (
        "1 counted (alice); 1.sigstore.json: the signer is not in the role root"
    )
    assert result.findings[0].expected == "2 distinct owners"


def test_an_approval_by_a_stranger_explains_why_the_threshold_is_missed() -> None:
    rotation = next(item for item in ROTATIONS if item.name == "rotate-missing-old-threshold")
    strangers = next(item for item in ROTATIONS if item.name == "rotate-good-with-a-later-key-beside")
    approvals = {**rotation.approvals, "9.sigstore.json": strangers.approvals["2.sigstore.json"]}
    result = check_rotation(
        TrustPolicy.parse(rotation.current),
        TrustPolicy.parse(rotation.new),
        approvals,
        verify_signature=verify_signature,
    )
    assert [finding.reference for finding in result.findings] == ["threshold", "threshold", "unknown-signer"]
    assert result.exit_code == ExitCode.AUTHENTICITY
    assert not result.passed
