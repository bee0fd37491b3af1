"""What a policy is, and how its result explains itself."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.version import InvalidVersion, Version

from bundler.core.manifest import Manifest
from bundler.errors import ExitCode, MalformedError
from bundler.trust import spki
from bundler.trust.authentication import KeylessSigner
from bundler.trust.dsse import Envelope
from bundler.trust.keys import verify_signature
from bundler.trust.policy import TrustPolicy, TrustResult, authenticate, evaluate
from bundler.trust.policy_document import Identity, PolicyKey, fold_owner
from tests.vectors.trust import (
    LEGAL_TYPE,
    PEOPLE,
    Case,
    dump,
    fingerprint,
    good_policy,
    policy_key,
    private_key,
    signed,
)


def judged(case: Case, **verifiers: Any) -> TrustResult:
    """Steps 4 and 5 of a case."""
    policy = TrustPolicy.parse(dump(case.policy))
    signed = authenticate(policy, case.attestations, **{"verify_signature": verify_signature, **verifiers})
    return evaluate(policy, Manifest.parse(case.manifest), signed)


def outcome(result: TrustResult, name: str) -> dict[str, Any]:
    """The outcome of one requirement, as `--json` shows it."""
    return next(item.to_json() for item in result.requirements if item.requirement.id == name)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every member below `value`."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [inner for name, item in items for inner in [(*path, name), *places(item, (*path, name))]]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2**53 - 1) | st.text("aé", max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("a", max_size=2), inner, max_size=2),
    max_leaves=4,
)
PLACES = places(good_policy())


@given(st.sampled_from(PLACES), JSON)
@settings(max_examples=150)
def test_any_other_value_in_any_place_is_refused_or_still_a_coherent_policy(
    path: tuple[Any, ...], new: Any
) -> None:
    value = good_policy()
    at: Any = value
    for name in path[:-1]:
        at = at[name]
    at[path[-1]] = new
    try:
        policy = TrustPolicy.parse(dump(value))
    except MalformedError:
        return
    assert policy.require
    assert "root" in policy.roles
    for role in policy.roles.values():
        assert 1 <= role.threshold <= len(policy.owners(role))


@given(st.sampled_from([path for path in PLACES if isinstance(path[-1], str)]))
def test_a_member_that_vanishes_never_makes_a_policy_without_requirements(path: tuple[Any, ...]) -> None:
    value = good_policy()
    at: Any = value
    for name in path[:-1]:
        at = at[name]
    del at[path[-1]]
    try:
        policy = TrustPolicy.parse(dump(value))
    except MalformedError:
        return
    assert len(policy.require) == 6


def test_every_fault_of_a_policy_is_told_at_once() -> None:
    value = good_policy()
    value["roles"]["security"]["threshold"] = 0
    value["require"][0]["role"] = "nobody"
    value["require"][1]["subject"] = "all"
    with pytest.raises(MalformedError) as caught:
        TrustPolicy.parse(dump(value))
    assert [finding.where for finding in caught.value.findings] == [
        "policy: roles.security.threshold",
        "policy: require.release.role",
        "policy: require.pq.subject",
    ]
    assert caught.value.findings[0].expected == "an integer >= 1"
    assert caught.value.findings[0].found == "0"


def test_a_requirement_says_who_counted_and_who_did_not_and_why() -> None:
    case = Case()
    case.sign_all()
    case.put("risk-2", signed("security-1b", case.risk()))
    case.put("risk-3", signed("security-2", case.risk(decision="reject")))
    result = judged(case)
    assert outcome(result, "security") == {
        "id": "security",
        "role": "security",
        "predicateType": "urn:sealift:risk-acceptance:v1",
        "subject": "manifest",
        "where": {"decision": "accept"},
        "threshold": 2,
        "met": False,
        "missing": 1,
        "signedBy": ["sam", "sue"],
        "counted": ["sam"],
        "notCounted": [
            {"attestation": "risk-2.sigstore.json", "owner": "sam", "reason": "sam already counts once"},
            {
                "attestation": "risk-3.sigstore.json",
                "owner": "sue",
                "reason": "decision is 'reject', not 'accept'",
            },
        ],
        "notChecked": [],
        "objections": [
            {
                "attestation": "risk-3.sigstore.json",
                "owner": "sue",
                "said": "decision is 'reject'",
                "blocks": True,
            }
        ],
    }
    (finding,) = result.findings
    assert finding.reference == "threshold"
    assert finding.where == "policy: require.security, role security"
    assert finding.expected == (
        "2 distinct owners of security for urn:sealift:risk-acceptance:v1, saying {'decision': 'accept'}"
    )
    assert finding.found.startswith(
        "1 counted (sam); sue says no in risk-3.sigstore.json: decision is 'reject'; "
        "risk-2.sigstore.json by sam not counted"
    )


def test_nobody_is_asked_to_sign_a_manifest_that_was_changed_after_signing() -> None:
    case = Case()
    case.sign_all()
    case.manifest_changes = {"createdAt": "2026-01-01T00:00:00Z"}
    findings = judged(case).findings
    assert {finding.reference for finding in findings} == {"threshold"}
    for finding in findings:
        assert finding.hint.startswith("nobody may sign this manifest")
        assert "changed after signing" in finding.hint
        assert "from its builder" in finding.hint
        assert "ask the role's people" not in finding.hint


def test_a_requirement_that_nobody_signed_keeps_its_own_hint() -> None:
    case = Case()
    case.put("release", signed("release", case.release()))
    hints = {finding.where: finding.hint for finding in judged(case).findings}
    assert hints
    assert all("ask the role's people" in hint for hint in hints.values())


def test_a_revoked_keys_signature_verifies_and_says_why_it_does_not_count() -> None:
    case = Case()
    case.sign_all()
    case.put("release", signed("old", case.release()))
    result = judged(case)
    assert not result.authentication_findings
    reasons = {item["attestation"]: item["reason"] for item in outcome(result, "release")["notCounted"]}
    assert reasons["release.sigstore.json"] == "the key is revoked: lost token"


def test_separation_of_duty_names_the_other_role() -> None:
    case = Case()
    case.sign_all()
    case.put("legal", signed("release", case.legal()))
    reasons = outcome(judged(case), "legal")["notCounted"]
    assert reasons[0]["reason"] == ("rita already counts for the role release, from which legal is distinct")


def test_separation_of_duty_does_not_depend_on_the_order_of_requirements() -> None:
    case = Case()
    case.policy["require"].reverse()
    case.sign_all()
    case.put("legal", signed("release", case.legal()))
    assert not outcome(judged(case), "legal")["met"]


def test_a_later_step_does_not_run_when_a_file_does_not_authenticate() -> None:
    case = Case()
    case.sign_all()
    case.put("extra", signed("stranger", case.release()))
    case.put("junk", b"{}")
    result = judged(case)
    assert [finding.reference for finding in result.findings] == ["unknown-signer", "bad-envelope"]
    assert result.requirements == ()
    assert result.exit_code == ExitCode.AUTHENTICITY
    assert result.findings[0].where == "attestations/extra.sigstore.json"
    assert result.findings[0].expected == (
        "a signature over exactly this payload and type by a key or identity of the policy"
    )


@pytest.mark.parametrize("name", ["Alice", "ALICE", " alice ", "ａlice", "alice"])
def test_spellings_of_one_name_are_one_person(name: str) -> None:
    assert fold_owner(name) == "alice"


@pytest.mark.parametrize(
    "other",
    ["SUE", " sue", "s\u200bue", "ѕue", "su\u0435", "ｓue", "su\u0435\u034f", "sue\ufe0f"],
    ids=ascii,
)
def test_two_owners_that_print_alike_are_refused_in_one_policy(other: str) -> None:
    value = good_policy()
    value["keys"][fingerprint("legal")]["owner"] = other
    with pytest.raises(MalformedError) as caught:
        TrustPolicy.parse(dump(value))
    assert {finding.reference for finding in caught.value.findings} <= {"bad-policy", "bad-key"}


HIDDEN = ["\x1b[31m", "\u202e", "\u200b", "\n", "\x7f", "\u2028", "\u00ad", "\ufeff", "\x9b"]


@pytest.mark.parametrize("hidden", HIDDEN, ids=ascii)
@pytest.mark.parametrize("place", ["owner", "role", "id", "note", "reason", "issuer", "distinctFrom"])
def test_control_and_format_characters_are_refused_in_every_name(place: str, hidden: str) -> None:
    value = good_policy()
    if place == "owner":
        value["keys"][fingerprint("legal")]["owner"] = f"le{hidden}na"
    elif place == "role":
        value["roles"][f"leg{hidden}al"] = value["roles"]["legal"]
    elif place == "id":
        value["require"][0]["id"] = f"x{hidden}"
    elif place == "note":
        value["note"] = f"by{hidden}e"
    elif place == "reason":
        value["revoked"]["files"] = {"ab" * 32: {"reason": f"x{hidden}y"}}
    elif place == "issuer":
        value["roles"]["legal"]["identities"] = [{"issuer": f"a{hidden}", "san": "b"}]
    else:
        value["roles"]["legal"]["distinctFrom"] = [f"release{hidden}"]
    with pytest.raises(MalformedError):
        TrustPolicy.parse(dump(value))


def test_two_roles_that_print_alike_are_refused() -> None:
    value = good_policy()
    value["roles"]["re1ease"] = value["roles"]["release"]
    with pytest.raises(MalformedError) as caught:
        TrustPolicy.parse(dump(value))
    assert "re1ease" in caught.value.findings[0].found


def test_two_spellings_of_one_person_do_not_reach_a_threshold() -> None:
    value = good_policy()
    value["keys"][fingerprint("security-2")]["owner"] = "SAM"
    with pytest.raises(MalformedError) as caught:
        TrustPolicy.parse(dump(value))
    spelled, live = caught.value.findings
    assert sorted(spelled.found.split(" and ")) == ["'SAM'", "'sam'"]
    assert live.found == "1 owners with a key that is not revoked"


def test_what_cannot_be_checked_here_is_named_and_never_counts() -> None:
    case = Case()
    case.sign_all()

    def without_ml_dsa(key: PolicyKey, message: bytes, signature: bytes) -> bool | None:
        return None if key.algorithm == spki.ML_DSA_65 else verify_signature(key, message, signature)

    result = judged(case, verify_signature=without_ml_dsa)
    assert result.not_checked == ("release-pq.sigstore.json",)
    assert [finding.reference for finding in result.findings] == ["not-checked"]
    assert result.exit_code == ExitCode.INCOMPLETE
    assert not result.passed
    assert outcome(result, "pq")["notChecked"] == ["release-pq.sigstore.json"]
    assert outcome(result, "release")["met"]


def test_the_hint_never_decides_who_signed() -> None:
    asked: list[str] = []
    case = Case()
    case.sign_all()
    hint = {"hint": fingerprint("legal")}
    case.rewrite("release", lambda value: value["verificationMaterial"].update(publicKey=hint))

    def noting(key: PolicyKey, message: bytes, signature: bytes) -> bool:
        asked.append(key.owner)
        return verify_signature(key, message, signature)

    assert judged(case, verify_signature=noting).passed
    assert set(asked) > {"rita"}


def test_the_newest_time_of_authenticated_records_is_found() -> None:
    case = Case()
    case.manifest_changes["createdAt"] = "2026-01-01T00:00:00Z"
    case.sign_all()
    case.put("legal", signed("legal", case.legal(reviewedAt="2026-05-01T12:00:00+02:00")))
    assert judged(case).newest_time == 1777629600
    assert judged(case).counted_time == 1777629600
    case.put("release-old", signed("old", case.about(LEGAL_TYPE, {"reviewedAt": "2099-01-01T00:00:00Z"})))
    assert judged(case).newest_time == 1777629600


@pytest.mark.parametrize("signer", ["root-1", "legal"], ids=["a key that nothing asks for", "a second word"])
def test_a_statement_that_does_not_count_moves_no_remembered_time(signer: str) -> None:
    case = Case()
    case.manifest_changes["createdAt"] = "2026-01-01T00:00:00Z"
    case.sign_all()
    far = "2099-01-01T00:00:00Z"
    case.put("far", signed(signer, case.about("urn:sealift:governance:v1", {"approvedAt": far})))
    case.put("risk-far", signed("security-1b", case.risk(decidedAt=far)))
    result = judged(case)
    assert not result.decision_findings
    assert result.newest_time == 4070908800
    assert result.counted_time == 1767225600


CI = Identity(issuer="https://token.example", san="https://example.org/ci@v1")


def keyless_case() -> Case:
    """A case whose release role is a keyless identity."""
    case = Case()
    case.policy["roles"]["release"] = {
        "identities": [{"issuer": CI.issuer, "san": CI.san}],
        "threshold": 1,
    }
    case.policy["roles"]["legal"].pop("distinctFrom")
    case.policy["require"] = case.policy["require"][:1]
    entry = {
        "logIndex": "7",
        "logId": {"keyId": "AA=="},
        "kindVersion": {"kind": "dsse", "version": "0.0.1"},
        "canonicalizedBody": "AA==",
    }
    case.put("release", signed("stranger", case.release()))
    material = {"certificate": {"rawBytes": "AA=="}, "tlogEntries": [entry]}
    case.rewrite("release", lambda value: value.update(verificationMaterial=material))
    return case


def test_a_keyless_identity_counts_as_one_owner() -> None:
    def says_ci(envelope: Envelope, identities: Any) -> KeylessSigner:
        assert envelope.keyless
        assert list(identities) == [CI]
        return KeylessSigner(identity=CI, signed_at=1_800_000_000)

    result = judged(keyless_case(), verify_keyless=says_ci)
    assert result.passed
    assert outcome(result, "release")["counted"] == ["https://example.org/ci@v1 (https://token.example)"]
    assert result.newest_time == 1_800_000_000


def test_a_keyless_signature_by_nobody_of_the_policy_is_an_unknown_signer() -> None:
    result = judged(keyless_case(), verify_keyless=lambda envelope, identities: None)
    assert [finding.reference for finding in result.findings] == ["unknown-signer"]


def test_a_keyless_signature_without_a_trusted_root_is_not_checked() -> None:
    result = judged(keyless_case())
    assert result.exit_code == ExitCode.INCOMPLETE
    assert result.not_checked == ("release.sigstore.json",)


def test_identities_without_a_pinned_root_cannot_reach_a_threshold() -> None:
    case = keyless_case()
    del case.policy["sigstore"]
    with pytest.raises(MalformedError) as caught:
        TrustPolicy.parse(dump(case.policy))
    assert caught.value.findings[0].where == "policy: roles.release.threshold"


def test_rules_expiry_and_pins_are_read() -> None:
    value = good_policy()
    value["rules"] = {
        "licenses": {"allow": ["MIT"], "deny": ["AGPL-3.0-only"]},
        "content": {"formats": ["block-fp8"], "pickle": False},
        "engines": {"vllm": "0.19.1"},
        "expiry": "enforce",
    }
    policy = TrustPolicy.parse(dump(value))
    assert policy.rules.licenses_allow == ("MIT",)
    assert policy.rules.engines == {"vllm": "0.19.1"}
    assert (policy.rules.pickle, policy.rules.expiry) == (False, "enforce")
    assert policy.expires == 1893456000
    assert policy.trusted_root_sha256 == "6" * 64


@pytest.mark.parametrize("algorithm", spki.ALGORITHMS)
def test_every_algorithm_signs_verifies_and_refuses_another_message(algorithm: str) -> None:
    name = next(name for name, (_, kind) in PEOPLE.items() if kind == algorithm)
    item = json.loads(dump(policy_key(name)))
    key = PolicyKey(fingerprint(name), item["alg"], private_key(name).public.spki, item["owner"])
    signature = private_key(name).sign(b"message")
    assert verify_signature(key, b"message", signature)
    assert not verify_signature(key, b"massage", signature)
    assert not verify_signature(key, b"message", signature[:-1])
    assert spki.can_be_signature(algorithm, signature)


FAIL_OPEN_RULES: list[tuple[Any, str]] = [
    ({"engines": {"vllm": version}}, "rules.engines.vllm")
    for version in ("", "latest", ">=0.19", "0.19.x", "0.19.1 ", "0.19,0.20", "b6000", "1!", "٠.١")
]
FAIL_OPEN_RULES += [
    ({"engines": {"vllm": "1", "VLLM": "2"}}, "rules.engines.vllm"),
    ({"engines": {"": "1"}}, "rules.engines."),
    ({"engines": {"vllm ": "1"}}, "rules.engines.vllm"),
    ({"engines": {"vllm": 1}}, "rules.engines"),
    ({"engines": {"vllm": None}}, "rules.engines"),
    ({"engines": ["vllm"]}, "rules.engines"),
    ({"licenses": {"allow": []}}, "rules.licenses.allow"),
    ({"licenses": {"deny": []}}, "rules.licenses.deny"),
    ({"licenses": {"deny": [""]}}, "rules.licenses.deny"),
    ({"licenses": {"deny": [" MIT"]}}, "rules.licenses.deny"),
    ({"licenses": {"deny": ["MI\u200bT"]}}, "rules.licenses.deny"),
    ({"licenses": {"deny": "MIT"}}, "rules.licenses.deny"),
    ({"licenses": {"deny": [None]}}, "rules.licenses.deny"),
    ({"licenses": ["MIT"]}, "rules.licenses"),
    ({"licenses": None}, "rules.licenses"),
    ({"content": {"formats": []}}, "rules.content.formats"),
    ({"content": {"formats": "bf16"}}, "rules.content.formats"),
    ({"content": {"pickle": "false"}}, "rules.content.pickle"),
    ({"content": {"pickle": 0}}, "rules.content.pickle"),
    ({"content": {"pickle": None}}, "rules.content.pickle"),
    ({"expiry": None}, "rules.expiry"),
    ({"expiry": "Enforce"}, "rules.expiry"),
    ({"expiry": True}, "rules.expiry"),
    (None, "rules"),
    ([], "rules"),
]


@pytest.mark.parametrize(("rules", "place"), FAIL_OPEN_RULES)
def test_a_rule_that_would_check_nothing_is_refused(rules: Any, place: str) -> None:
    value = good_policy()
    value["rules"] = rules
    with pytest.raises(MalformedError) as caught:
        TrustPolicy.parse(dump(value))
    assert caught.value.exit_code == ExitCode.MALFORMED
    places = [finding.where.replace(": ", ".") for finding in caught.value.findings]
    assert any(found.startswith(f"policy.{place}") for found in places)


def test_an_empty_list_of_refused_licences_beside_allowed_ones_is_read() -> None:
    value = good_policy()
    value["rules"] = {"licenses": {"allow": ["MIT"], "deny": []}}
    rules = TrustPolicy.parse(dump(value)).rules
    assert (rules.licenses_allow, rules.licenses_deny) == (("MIT",), ())


VERSIONS = st.sampled_from(["1.0-1", "1rc1.post2.dev3", "1!2", "V1", "1.0+a.1", "1.0.rc_1", "1..2", "1-r4"])


@given(st.from_regex(r"[v0-9!.+a-z_-]{1,14}", fullmatch=True) | VERSIONS)
def test_a_floor_is_read_exactly_as_packaging_reads_versions(text: str) -> None:
    value = good_policy()
    value["rules"] = {"engines": {"vllm": text}}
    try:
        Version(text)
    except InvalidVersion:
        with pytest.raises(MalformedError):
            TrustPolicy.parse(dump(value))
    else:
        assert TrustPolicy.parse(dump(value)).rules.engines == {"vllm": text}
