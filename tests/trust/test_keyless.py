"""Keyless signatures verified from a pinned trusted root alone, by the real `sigstore` library."""

from __future__ import annotations

import base64
import datetime as dt
import json
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bundler.cli.app import run
from bundler.core.manifest import Manifest
from bundler.errors import AuthenticityError, ExitCode
from bundler.trust.keyless import OfflineKeylessVerifier
from bundler.trust.keys import verify_signature
from bundler.trust.policy import TrustPolicy, TrustResult, authenticate, evaluate
from bundler.trust.statements import release_statement
from bundler.verification.checks import PARSED_UNSIGNED
from bundler.verification.verify import verify_bundle
from tests.servers.sigstore import Sigstore
from tests.vectors.trust import Case, dump, sha256
from tests.verification.bundles import make_bundle, references

ISSUER = "https://token.example"
SAN = "https://example.org/repo/.github/workflows/release.yml@refs/tags/v1"
INSTANCE, OTHER = Sigstore(), Sigstore()


@pytest.fixture(autouse=True)
def _no_network_and_no_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whoever opens a socket or reads a cache of the user fails."""

    def refuse(*_arguments: Any, **_options: Any) -> Any:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "nobody"))


def case_signed_by(instance: Sigstore, *, issuer: str = ISSUER, san: str = SAN, root: bytes = b"") -> Case:
    """A case whose one requirement is a release by the keyless identity."""
    case = Case()
    identity = {"issuer": ISSUER, "san": SAN}
    case.policy["roles"]["release"] = {"identities": [identity], "threshold": 1}
    case.policy["roles"]["legal"].pop("distinctFrom")
    case.policy["require"] = case.policy["require"][:1]
    case.policy["sigstore"] = {"trusted_root": {"sha256": sha256(root or INSTANCE.trusted_root())}}
    case.put("release", instance.sign(case.release(), issuer=issuer, san=san))
    return case


def judged(case: Case, trusted_root: bytes) -> TrustResult:
    """Steps 4 and 5 with a trusted root."""
    policy = TrustPolicy.parse(dump(case.policy))
    assert policy.trusted_root_sha256
    signed = authenticate(
        policy,
        case.attestations,
        verify_signature=verify_signature,
        verify_keyless=OfflineKeylessVerifier(trusted_root, policy.trusted_root_sha256),
    )
    return evaluate(policy, Manifest.parse(case.manifest), signed)


def test_a_release_by_the_policys_identity_is_accepted_without_a_network(tmp_path: Path) -> None:
    result = judged(case_signed_by(INSTANCE), INSTANCE.trusted_root())
    assert result.passed, result.findings
    assert result.requirements[0].counted == (f"{SAN} ({ISSUER})",)
    assert result.newest_time == int(INSTANCE.now.timestamp())
    assert not (tmp_path / "nobody").exists()


def test_a_huge_manifest_is_not_parsed_for_a_signature_that_cannot_be_checked_here(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, members={"remarks": "x" * (PARSED_UNSIGNED + 1)})
    case = case_signed_by(INSTANCE)
    bundle.policy.write_bytes(dump(case.policy))
    for path in (bundle.root / "attestations").iterdir():
        path.unlink()
    signed = INSTANCE.sign(release_statement(bundle.manifest), issuer=ISSUER, san=SAN)
    (bundle.root / "attestations/release.sigstore.json").write_bytes(signed)
    report = bundle.verify().report
    assert (report.exit_code, references(report)) == (4, {"not-checked"})
    rooted = replace(bundle.perimeter(), trusted_root=INSTANCE.trusted_root())
    assert verify_bundle(bundle.root, rooted).report.verdict == "passed"


@pytest.mark.parametrize(
    "case",
    [
        case_signed_by(INSTANCE, san=SAN + "x"),
        case_signed_by(INSTANCE, issuer="https://token.example.evil"),
        case_signed_by(OTHER),
    ],
    ids=["another identity", "another issuer", "another sigstore"],
)
def test_a_keyless_signature_by_somebody_else_is_an_unknown_signer(case: Case) -> None:
    result = judged(case, INSTANCE.trusted_root())
    assert [finding.reference for finding in result.findings] == ["unknown-signer"]


def _other_payload(value: dict[str, Any]) -> None:
    payload = base64.b64decode(value["dsseEnvelope"]["payload"]).replace(b"17", b"18")
    value["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()


def _no_promise(value: dict[str, Any]) -> None:
    value["verificationMaterial"]["tlogEntries"][0]["inclusionPromise"]["signedEntryTimestamp"] = "AAAA"


def _entry_of_another_artifact(value: dict[str, Any]) -> None:
    other = json.loads(INSTANCE.sign(b"{}", issuer=ISSUER, san=SAN))
    value["verificationMaterial"]["tlogEntries"] = other["verificationMaterial"]["tlogEntries"]


def _certificate_of_another(value: dict[str, Any]) -> None:
    other = json.loads(INSTANCE.sign(b"{}", issuer=ISSUER, san=SAN))
    value["verificationMaterial"]["certificate"] = other["verificationMaterial"]["certificate"]


def _wrong_root(value: dict[str, Any]) -> None:
    value["verificationMaterial"]["tlogEntries"][0]["inclusionProof"]["rootHash"] = "A" * 43 + "="


@pytest.mark.parametrize(
    "change",
    [_other_payload, _no_promise, _entry_of_another_artifact, _certificate_of_another, _wrong_root],
)
def test_a_changed_keyless_bundle_is_refused(change: Callable[[dict[str, Any]], None]) -> None:
    case = case_signed_by(INSTANCE)
    case.rewrite("release", change)
    result = judged(case, INSTANCE.trusted_root())
    assert [finding.reference for finding in result.findings] == ["unknown-signer"]


def test_nonsense_in_the_place_of_a_certificate_is_refused() -> None:
    case = case_signed_by(INSTANCE)
    case.rewrite("release", lambda v: v["verificationMaterial"]["certificate"].update(rawBytes="AAAA"))
    result = judged(case, INSTANCE.trusted_root())
    assert [(finding.reference, finding.where) for finding in result.findings] == [
        ("bad-envelope", "attestations/release.sigstore.json")
    ]


def test_another_trusted_root_than_the_pinned_one_is_refused() -> None:
    with pytest.raises(AuthenticityError) as caught:
        judged(case_signed_by(OTHER), OTHER.trusted_root())
    assert caught.value.reference == "trusted-root"
    assert caught.value.findings[0].found == f"sha256:{sha256(OTHER.trusted_root())}"


def test_a_pinned_root_that_is_no_root_is_malformed() -> None:
    case = case_signed_by(INSTANCE, root=b"{}")
    result = judged(case, b"{}")
    assert [finding.reference for finding in result.findings] == ["bad-trusted-root"]


def test_a_clock_far_in_the_past_is_named_and_refused() -> None:
    future = Sigstore(dt.datetime.now(dt.UTC) + dt.timedelta(days=365))
    result = judged(case_signed_by(future, root=future.trusted_root()), future.trusted_root())
    assert [finding.reference for finding in result.findings] == ["clock"]
    assert result.exit_code == ExitCode.MACHINE
    assert not result.passed


def test_a_signature_of_years_ago_still_verifies() -> None:
    past = Sigstore(dt.datetime.now(dt.UTC) - dt.timedelta(days=3000))
    assert judged(case_signed_by(past, root=past.trusted_root()), past.trusted_root()).passed


def test_the_command_line_takes_the_root_that_lies_beside_the_policy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = case_signed_by(INSTANCE)
    folder = tmp_path / "bundle" / "attestations"
    folder.mkdir(parents=True)
    (tmp_path / "bundle" / "manifest.json").write_bytes(case.manifest)
    (folder / "release.sigstore.json").write_bytes(case.attestations["release.sigstore.json"])
    (tmp_path / "policy.json").write_bytes(dump(case.policy))
    (tmp_path / "state.json").write_bytes(b"{}")
    arguments = ["verify", str(tmp_path / "bundle"), "--policy", str(tmp_path / "policy.json")]
    arguments += ["--state", str(tmp_path / "state.json"), "--level", "signatures", "--json"]
    assert run(arguments) == 13
    assert "not-checked" in capsys.readouterr().out
    (tmp_path / "trusted_root.json").write_bytes(INSTANCE.trusted_root())
    assert run(arguments) == 0, capsys.readouterr().out
