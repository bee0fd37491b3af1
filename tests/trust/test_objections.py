"""A no counts, until its owner withdraws it (format.md section 6)."""

from __future__ import annotations

from typing import Any

import pytest

from bundler.core.manifest import Manifest
from bundler.errors import ExitCode
from bundler.trust.authentication import KeylessSigner
from bundler.trust.dsse import parse_bundle
from bundler.trust.keys import verify_signature
from bundler.trust.policy import TrustPolicy, TrustResult, authenticate, evaluate
from bundler.trust.policy_document import Identity, Rules
from bundler.verification.rules import expiry_findings
from tests.vectors.trust import Case, dump, fingerprint, policy_key, sha256, signed, statement

Opinion = dict[str, Any]
NOW = 1_800_000_000
"""Seconds since 1970: in January 2027."""
LEGAL = "urn:sealift:legal-opinion:v1"


def judged(case: Case, **more: Any) -> TrustResult:
    """Steps 4 and 5 of a case."""
    policy = TrustPolicy.parse(dump(case.policy))
    known = authenticate(policy, case.attestations, verify_signature=verify_signature, **more)
    assert not known.findings
    return evaluate(policy, Manifest.parse(case.manifest), known)


def payload_of(case: Case, name: str) -> str:
    """The digest that `supersedes` names."""
    return sha256(parse_bundle(case.attestations[f"{name}.sigstore.json"], where=name).payload)


def opinions(*said: Opinion, keys: tuple[str, ...] = ()) -> Case:
    """A good bundle in which the lawyer signed these opinions, `legal-0`, `legal-1` and so on.

    A number in `supersedes` stands for the digest of that opinion.
    """
    case = Case()
    case.sign_all()
    case.drop("legal")
    for number, opinion in enumerate(said):
        named = opinion.get("supersedes")
        if isinstance(named, list):
            named = [payload_of(case, f"legal-{i}") if isinstance(i, int) else i for i in named]
        changes = {**opinion, "round": number, **({"supersedes": named} if "supersedes" in opinion else {})}
        key = keys[number] if keys else "legal"
        case.put(f"legal-{number}", signed(key, case.legal(**changes)))
    return case


def references(result: TrustResult) -> list[str]:
    """The references of the errors and warnings of step 5."""
    return [finding.reference for finding in result.decision_findings]


YES: Opinion = {"verdict": "approved"}
NO: Opinion = {"verdict": "rejected"}
PERHAPS: Opinion = {"verdict": "approved-with-conditions"}


def withdrawing(*numbers: int) -> Opinion:
    """An approval that supersedes these opinions."""
    return {**YES, "supersedes": list(numbers)}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        pytest.param((YES,), [], id="an approval counts"),
        pytest.param((YES, NO), ["threshold"], id="a rejection beside an approval blocks"),
        pytest.param((NO, YES), ["threshold"], id="whatever its order"),
        pytest.param((NO,), ["threshold"], id="a rejection alone"),
        pytest.param((YES, PERHAPS), ["threshold"], id="conditions are no approval"),
        pytest.param((NO, withdrawing(0)), [], id="a withdrawn rejection"),
        pytest.param((PERHAPS, withdrawing(0)), [], id="withdrawn conditions"),
        pytest.param((NO, NO, withdrawing(0)), ["threshold"], id="one of two withdrawn"),
        pytest.param((NO, NO, withdrawing(0, 1)), [], id="both withdrawn"),
        pytest.param((NO, withdrawing(0), withdrawing(1)), [], id="a chain of approvals"),
        pytest.param((NO, withdrawing(0), {**NO, "supersedes": [1]}), ["threshold"], id="no, yes, no"),
        pytest.param((NO, {**PERHAPS, "supersedes": [0]}), ["threshold"], id="by a weak yes"),
        pytest.param((YES, {**NO, "supersedes": [0]}), ["threshold"], id="yes withdrawn by no"),
        pytest.param(({"verdict": True}, YES), ["threshold"], id="a verdict of another type"),
    ],
)
def test_what_one_lawyer_says_is_judged_together(said: tuple[Opinion, ...], expected: list[str]) -> None:
    result = judged(opinions(*said))
    assert references(result) == expected
    assert all(item.met for item in result.requirements) is (not expected)
    for finding in result.decision_findings:
        assert "lena" in finding.what + finding.found


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("TEXT", id="text"),
        pytest.param(None, id="null"),
        pytest.param({"sha256": "TEXT"}, id="an object"),
        pytest.param(["TEXT", 7], id="a list that holds a number"),
        pytest.param(["sha256:TEXT"], id="a digest with a prefix"),
        pytest.param(["UPPER"], id="upper case"),
    ],
)
def test_a_malformed_supersedes_withdraws_nothing_and_does_not_count(value: Any) -> None:
    case = opinions(NO)
    digest = payload_of(case, "legal-0")

    def filled(item: Any) -> Any:
        if isinstance(item, list):
            return [filled(one) for one in item]
        if isinstance(item, dict):
            return {name: filled(one) for name, one in item.items()}
        if not isinstance(item, str):
            return item
        return item.replace("TEXT", digest).replace("UPPER", digest.upper())

    case.put("legal-1", signed("legal", case.legal(supersedes=filled(value))))
    result = judged(case)
    assert references(result) == ["threshold"]
    assert "supersedes is" in result.decision_findings[0].found


def test_an_approval_with_a_malformed_supersedes_alone_is_not_enough() -> None:
    assert references(judged(opinions({**YES, "supersedes": "x"}))) == ["threshold"]


def two_lawyers(*, threshold: int = 1) -> Case:
    """Lena and Lou may give opinions; Lena has two keys."""
    case = opinions(YES)
    for name, owner in (("security-1b", "lena"), ("stranger", "lou")):
        case.policy["keys"][fingerprint(name)] = {**policy_key(name), "owner": owner}
        case.policy["roles"]["legal"]["keys"].append(fingerprint(name))
    for role in ("security", "root"):
        names = case.policy["roles"][role]["keys"]
        case.policy["roles"][role]["keys"] = [one for one in names if one != fingerprint("security-1b")]
    case.policy["roles"]["legal"]["threshold"] = threshold
    return case


def test_another_lawyers_rejection_blocks_although_one_approved() -> None:
    case = two_lawyers()
    case.put("legal-lou", signed("stranger", case.legal(verdict="rejected")))
    result = judged(case)
    assert references(result) == ["rejected"]
    assert result.decision_findings[0].exit_code == ExitCode.AUTHENTICITY
    assert "lou" in result.decision_findings[0].what
    assert result.decision_findings[0].where == "attestations/legal-lou.sigstore.json"


def test_another_lawyers_conditions_are_reported_and_do_not_block() -> None:
    case = two_lawyers()
    case.put("legal-lou", signed("stranger", case.legal(verdict="approved-with-conditions")))
    result = judged(case)
    (finding,) = result.decision_findings
    assert (finding.reference, finding.severity) == ("objection", "warning")
    assert "lou" in finding.what
    assert all(item.met for item in result.requirements)


def test_nobody_withdraws_the_no_of_another_person() -> None:
    case = two_lawyers()
    case.put("legal-lou", signed("stranger", case.legal(verdict="rejected")))
    names = [payload_of(case, "legal-lou")]
    case.put("legal-0", signed("legal", case.legal(supersedes=names)))
    assert references(judged(case)) == ["rejected"]


def test_a_person_says_no_with_either_key_and_withdraws_it_with_either() -> None:
    case = two_lawyers()
    case.put("legal-b", signed("security-1b", case.legal(verdict="rejected")))
    assert references(judged(case)) == ["threshold"]
    case.put("legal-0", signed("legal", case.legal(supersedes=[payload_of(case, "legal-b")])))
    assert references(judged(case)) == []


def test_a_no_counts_by_a_key_of_the_owner_outside_the_role() -> None:
    case = two_lawyers()
    case.policy["roles"]["legal"]["keys"].remove(fingerprint("security-1b"))
    case.put("legal-b", signed("security-1b", case.legal(verdict="rejected")))
    assert references(judged(case)) == ["threshold"]


def test_a_no_of_somebody_outside_the_role_does_not_count() -> None:
    case = opinions(YES)
    case.put("legal-sue", signed("security-2", case.legal(verdict="rejected")))
    assert references(judged(case)) == []


def test_a_revoked_key_neither_says_no_nor_withdraws_one() -> None:
    case = two_lawyers()
    case.put("legal-b", signed("security-1b", case.legal(verdict="rejected")))
    case.policy["revoked"]["keys"][fingerprint("security-1b")] = {"reason": "lost"}
    assert references(judged(case)) == []
    case.put("legal-0", signed("legal", case.legal(verdict="rejected")))
    again = case.legal(supersedes=[payload_of(case, "legal-0")])
    case.put("legal-b", signed("security-1b", again))
    assert references(judged(case)) == ["threshold"]


@pytest.mark.parametrize("kind", ["urn:sealift:approval:v1", "urn:sealift:governance:v1"])
def test_a_statement_of_another_type_withdraws_nothing(kind: str) -> None:
    case = opinions(NO, YES)
    names = [payload_of(case, "legal-0")]
    case.put("other", signed("legal", case.about(kind, {"verdict": "approved", "supersedes": names})))
    assert references(judged(case)) == ["threshold"]


def test_a_statement_about_another_manifest_withdraws_nothing_and_objects_to_nothing() -> None:
    case = opinions(NO, YES)
    named = [payload_of(case, "legal-0")]
    said = {"verdict": "approved", "conditions": 0, "final": True, "supersedes": named}
    case.put("elsewhere", signed("legal", statement({"manifest.json": "ab" * 32}, LEGAL, said)))
    assert references(judged(case)) == ["threshold"]
    case = opinions(YES)
    no = statement({"manifest.json": "ab" * 32}, LEGAL, {"verdict": "rejected"})
    case.put("elsewhere", signed("legal", no))
    assert references(judged(case)) == []


def test_a_rejection_of_this_manifest_counts_under_another_name_or_serial() -> None:
    case = opinions(YES)
    digest = sha256(case.manifest)
    case.put("named", signed("legal", statement({"bundle": digest}, LEGAL, {"verdict": "rejected"})))
    assert references(judged(case)) == ["threshold"]
    case = opinions(YES)
    case.put("other", signed("legal", case.legal(verdict="rejected", serial=case.serial + 1)))
    assert references(judged(case)) == ["threshold"]


@pytest.mark.parametrize(
    ("region", "expected"),
    [({"region": "US"}, []), ({"region": "EU"}, ["threshold"]), ({}, ["threshold"])],
    ids=["about another region", "about this region", "about no region in particular"],
)
def test_the_other_members_of_where_select(region: dict[str, str], expected: list[str]) -> None:
    case = opinions({**YES, "region": "EU"})
    wanted = next(item for item in case.policy["require"] if item["id"] == "legal")
    wanted["where"]["region"] = "EU"
    case.put("legal-no", signed("legal", case.legal(verdict="rejected", **region)))
    assert references(judged(case)) == expected


@pytest.mark.parametrize(
    ("kind", "where", "yes", "no"),
    [
        ("ai-act", {"class": "gpai"}, {"class": "gpai"}, {"class": "high-risk"}),
        (
            "data-flow",
            {"leavesPerimeter": False},
            {"leavesPerimeter": False},
            {"leavesPerimeter": True},
        ),
        ("approval", {"decision": "approve"}, {"decision": "approve"}, {"decision": "reject"}),
        ("approval", {}, {"decision": "approve"}, {"decision": "reject"}),
        ("risk-acceptance", {"decision": "accept"}, {"decision": "accept"}, {"decision": "reject"}),
    ],
)
def test_every_type_with_a_deciding_member_hears_a_no(
    kind: str, where: Opinion, yes: Opinion, no: Opinion
) -> None:
    case = Case()
    case.sign_all()
    uri = f"urn:sealift:{kind}:v1"
    case.policy["require"] = [
        item for item in case.policy["require"] if item["predicateType"] not in (uri, LEGAL)
    ]
    case.policy["require"].append({"id": "asked", "role": "legal", "predicateType": uri, "where": where})
    case.drop("legal")
    for name in [name for name in case.attestations if name.startswith("risk")]:
        del case.attestations[name]
    if kind != "risk-acceptance":
        case.policy["require"] = [item for item in case.policy["require"] if item["id"] != "security"]
    case.put("yes", signed("legal", case.about(uri, yes)))
    assert references(judged(case)) == []
    case.put("no", signed("legal", case.about(uri, no)))
    assert references(judged(case)) == ["threshold"]


CI = Identity(issuer="https://token.example", san="https://example.org/counsel@v1")


def test_a_keyless_identity_that_says_no_is_heard() -> None:
    case = opinions(YES)
    case.policy["sigstore"] = {"trusted_root": {"sha256": "ab" * 32}}
    case.policy["roles"]["legal"]["identities"] = [{"issuer": CI.issuer, "san": CI.san}]
    entry = {
        "logIndex": "7",
        "logId": {"keyId": "AA=="},
        "kindVersion": {"kind": "dsse", "version": "0.0.1"},
        "canonicalizedBody": "AA==",
    }
    case.put("legal-ci", signed("stranger", case.legal(verdict="rejected")))
    material = {"certificate": {"rawBytes": "AA=="}, "tlogEntries": [entry]}
    case.rewrite("legal-ci", lambda value: value.update(verificationMaterial=material))
    signer = KeylessSigner(identity=CI, signed_at=1)
    result = judged(case, verify_keyless=lambda envelope, identities: signer)
    assert references(result) == ["rejected"]
    assert CI.san in result.decision_findings[0].what


def test_what_was_renewed_does_not_expire_any_more() -> None:
    past, future = {**YES, "validUntil": "2020-01-01T00:00:00Z"}, "2030-01-01T00:00:00Z"

    def expired(*said: Opinion) -> list[str]:
        found = expiry_findings(Rules(expiry="enforce"), None, judged(opinions(*said)), now=NOW)
        return [finding.where.partition(".")[0] for finding in found if "legal" in finding.where]

    assert expired(past) == ["attestations/legal-0"]
    assert expired(past, {**YES, "validUntil": future}) == ["attestations/legal-0"]
    assert expired(past, {**withdrawing(0), "validUntil": future}) == []
    assert expired(past, {**NO, "supersedes": [0]}) == ["attestations/legal-0"]
    assert expired(past, {**past, "supersedes": [0]}) == ["attestations/legal-1"]
