"""What people say about a bundle: which statements are written, and which files of others are taken in."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundler.core.manifest import Manifest, compose
from bundler.errors import AuthenticityError, MalformedError, SealiftError, UsageError
from bundler.signing.attest import Written, attest, list_attestations, new_statement, read_predicate, take_in
from bundler.signing.attestation_import import Trusted, from_raw_signature, raw_signature, strict_form
from bundler.signing.attestations import KeyAttestor
from bundler.signing.release import SealedBundle, open_sealed
from bundler.signing.signer import FileSigner
from bundler.trust import spki
from bundler.trust.dsse import parse_bundle, parse_statement, pre_authentication_encoding
from bundler.trust.keys import PrivateKey
from bundler.trust.predicates import KINDS, SPOKEN, kind_of, predicate_findings
from tests.vectors.trust import private_key
from tests.verification.bundles import make_bundle, snapshot

LENA, SAM = private_key("legal"), private_key("security-1")
MANIFEST = Manifest.parse(compose(channel="c", serial=7, files=[], chunks=None))
OPINION = {"verdict": "approved", "validUntil": "2027-03-31T00:00:00Z"}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed bundle without attestations, to be copied."""
    bundle = make_bundle(tmp_path_factory.mktemp("pristine"), {"payload/a": b"a"})
    shutil.rmtree(bundle.root / "attestations")
    return bundle.root


@pytest.fixture
def bundle(pristine: Path, tmp_path: Path) -> SealedBundle:
    shutil.copytree(pristine, tmp_path / "bundle")
    return open_sealed(tmp_path / "bundle")


def attestor(key: PrivateKey) -> KeyAttestor:
    return KeyAttestor(FileSigner(key))


def foreign(key: PrivateKey, payload: bytes) -> dict[str, Any]:
    """What cosign writes for a key: a hint of its own, no log entries, no key id."""
    signature = key.sign(pre_authentication_encoding(payload))
    return {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": "b3RoZXI="}},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": "application/vnd.in-toto+json",
            "signatures": [{"sig": base64.b64encode(signature).decode()}],
        },
    }


def taken_in(bundle: SealedBundle, value: Any, key: PrivateKey = LENA) -> Written:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return take_in(bundle, data, Trusted.one(key.public), where="file")[0]


def refused(bundle: SealedBundle, value: Any, key: PrivateKey = LENA) -> SealiftError:
    """The refusal of a file, which must leave no trace."""
    before = snapshot(bundle.root), sorted(bundle.root.rglob("*"))
    with pytest.raises(SealiftError) as caught:
        taken_in(bundle, value, key)
    assert (snapshot(bundle.root), sorted(bundle.root.rglob("*"))) == before
    return caught.value


def opinion(bundle: SealedBundle, **changes: Any) -> bytes:
    return new_statement(bundle, "legal-opinion", {**OPINION, **changes})


# ---- what is written


@pytest.mark.parametrize("kind", ["release", "oms"])
def test_a_statement_that_follows_from_the_bundle_needs_no_words(bundle: SealedBundle, kind: str) -> None:
    statement = parse_statement(new_statement(bundle, kind, None), where="x")
    assert statement.predicate_type == KINDS[kind]
    with pytest.raises(UsageError) as caught:
        new_statement(bundle, kind, {"verdict": "approved"})
    assert caught.value.reference == "predicate-not-needed"


def test_a_bundle_without_a_lock_has_no_provenance_to_sign(bundle: SealedBundle) -> None:
    with pytest.raises(UsageError) as caught:
        new_statement(bundle, "provenance", None)
    assert caught.value.reference == "no-lock"


@pytest.mark.parametrize("kind", SPOKEN)
def test_what_a_person_says_is_never_invented(bundle: SealedBundle, kind: str) -> None:
    with pytest.raises(UsageError) as caught:
        new_statement(bundle, kind, None)
    assert caught.value.reference == "predicate-needed"


def test_the_statement_is_about_this_manifest_serial_and_channel(bundle: SealedBundle) -> None:
    statement = parse_statement(opinion(bundle), where="x")
    digest = hashlib.sha256((bundle.root / "manifest.json").read_bytes()).hexdigest()
    assert statement.subjects == {"manifest.json": digest}
    assert statement.predicate_type == "urn:sealift:legal-opinion:v1"
    assert statement.predicate == {**OPINION, "serial": 7, "channel": "test/stable"}
    assert opinion(bundle) == opinion(bundle)


GOOD: dict[str, dict[str, Any]] = {
    "legal-opinion": {"verdict": "approved-with-conditions", "conditions": ["show the name"]},
    "ai-act": {"class": "gpai", "roles": ["deployer"]},
    "data-flow": {"leavesPerimeter": False, "zones": []},
    "risk-acceptance": {"decision": "accept", "validUntil": "2027-03-31T00:00:00+02:00"},
    "approval": {"decision": "approve", "read": [{"name": "report", "digest": {"sha256": "a" * 64}}]},
    "governance": {"documents": []},
}


@pytest.mark.parametrize("kind", SPOKEN)
def test_what_a_kind_must_say_is_enough(kind: str) -> None:
    assert predicate_findings(SPOKEN[kind], GOOD[kind], MANIFEST, where="p") == ()


@pytest.mark.parametrize(
    ("kind", "change", "where", "found"),
    [
        ("legal-opinion", {"verdict": "Approved"}, "p: verdict", "'Approved'"),
        ("legal-opinion", {"verdict": True}, "p: verdict", "True"),
        ("legal-opinion", {"verdict": None}, "p: verdict", "None"),
        ("legal-opinion", {"conditions": []}, "p: conditions", "[]"),
        ("legal-opinion", {"conditions": ...}, "p: conditions", "it is missing"),
        ("ai-act", {"class": "small"}, "p: class", "'small'"),
        ("ai-act", {"class": ...}, "p: class", "it is missing"),
        ("data-flow", {"leavesPerimeter": "false"}, "p: leavesPerimeter", "'false'"),
        ("data-flow", {"leavesPerimeter": 0}, "p: leavesPerimeter", "0"),
        ("risk-acceptance", {"validUntil": ...}, "p: validUntil", "it is missing"),
        ("risk-acceptance", {"validUntil": "2027-03-31"}, "p: validUntil", "'2027-03-31'"),
        ("risk-acceptance", {"validUntil": None}, "p: validUntil", "None"),
        ("risk-acceptance", {"decision": "approve"}, "p: decision", "'approve'"),
        ("approval", {"decision": "accept"}, "p: decision", "'accept'"),
        ("approval", {"decision": "approve-with-conditions"}, "p: conditions", "it is missing"),
        (
            "approval",
            {"read": [{"digest": {"sha256": "A" * 64}}]},
            "p.read[0].digest: sha256",
            "'" + "A" * 64,
        ),
        ("governance", {"approvedAt": "yesterday"}, "p: approvedAt", "'yesterday'"),
        ("governance", {"documents": [{"reviewedAt": 5}]}, "p.documents[0]: reviewedAt", "5"),
    ],
)
def test_a_word_that_a_policy_would_not_find_is_noticed_before_anyone_signs(
    kind: str, change: dict[str, Any], where: str, found: str
) -> None:
    value = {name: item for name, item in {**GOOD[kind], **change}.items() if item is not ...}
    findings = predicate_findings(SPOKEN[kind], value, MANIFEST, where="p")
    assert [finding.reference for finding in findings][:1] == ["predicate"]
    assert findings[0].where == where
    assert findings[0].found.startswith(found)
    assert findings[0].expected


def test_a_statement_about_another_release_is_refused() -> None:
    value = {**GOOD["data-flow"], "serial": 8, "channel": "d"}
    findings = predicate_findings(SPOKEN["data-flow"], value, MANIFEST, where="p")
    assert [(item.reference, item.where) for item in findings] == [
        ("other-release", "p: serial"),
        ("other-release", "p: channel"),
    ]
    assert findings[0].expected == "7"
    assert predicate_findings(SPOKEN["data-flow"], {**value, "serial": "7"}, MANIFEST, where="p")


def test_predicates_of_others_are_left_to_their_schemas() -> None:
    assert predicate_findings("https://cyclonedx.org/bom", {"validUntil": 5}, MANIFEST, where="p") == ()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b'{"verdict":"approved"}', {"verdict": "approved"}),
        (b"verdict: approved\nconditions:\n  - one\n", {"verdict": "approved", "conditions": ["one"]}),
        (b"validUntil: 2027-03-31T00:00:00Z\n", {"validUntil": "2027-03-31T00:00:00Z"}),
        (b"leavesPerimeter: false\nzones: []\n", {"leavesPerimeter": False, "zones": []}),
    ],
)
def test_a_predicate_is_read_from_json_and_yaml_alike(text: bytes, value: Any) -> None:
    assert read_predicate(text, where="x") == value


@pytest.mark.parametrize(
    "text",
    [
        b"- a\n",
        b"just text\n",
        b"",
        b'{"a":1,"a":2}',
        b"a: 1\na: 2\n",
        b'{"a":1.5}',
        b"a: 1.5\n",
        b"a: &x 1\nb: *x\n",
        b"a: no\n",
        b"\xff\xfe",
    ],
)
def test_a_predicate_that_two_readers_could_read_differently_is_refused(text: bytes) -> None:
    with pytest.raises(MalformedError):
        read_predicate(text, where="x")


@given(st.text(max_size=120))
def test_every_predicate_type_has_a_short_name_fit_for_a_file(predicate_type: str) -> None:
    kind = kind_of(predicate_type)
    assert kind.encode("ascii").replace(b"-", b"").isalnum()
    assert len(kind) <= 60


# ---- what is signed here


def test_each_signer_has_files_of_their_own_and_nothing_is_said_twice(bundle: SealedBundle) -> None:
    first = attest(bundle, attestor(LENA), "legal-opinion", opinion(bundle))
    again = attest(bundle, attestor(LENA), "legal-opinion", opinion(bundle))
    other = attest(bundle, attestor(SAM), "legal-opinion", opinion(bundle))
    changed = attest(bundle, attestor(LENA), "legal-opinion", opinion(bundle, verdict="rejected"))
    label = LENA.public.fingerprint[:8]
    assert [first.path, other.path, changed.path] == [
        "attestations/legal-opinion.sigstore.json",
        f"attestations/legal-opinion-{SAM.public.fingerprint[:8]}.sigstore.json",
        f"attestations/legal-opinion-{label}.sigstore.json",
    ]
    assert (again.kept, again.path) == (True, first.path)
    third = attest(bundle, attestor(LENA), "legal-opinion", opinion(bundle, note="more"))
    assert third.path == f"attestations/legal-opinion-{label}-2.sigstore.json"
    assert len(list_attestations(bundle, Trusted.one(LENA.public))) == 4


def test_a_statement_about_the_manifest_before_this_one_gives_way(bundle: SealedBundle) -> None:
    attest(bundle, attestor(LENA), "legal-opinion", opinion(bundle))
    path = bundle.root / "manifest.json"
    value = json.loads(path.read_bytes())
    path.write_text(json.dumps({**value, "name": "sealed again"}))
    resealed = open_sealed(bundle.root)
    written = attest(resealed, attestor(LENA), "legal-opinion", opinion(resealed))
    assert (written.path, written.kept) == ("attestations/legal-opinion.sigstore.json", False)
    (listed,) = list_attestations(resealed, Trusted.one(LENA.public))
    assert (listed.fault, listed.signer) == ("", f"key {LENA.public.fingerprint}")


# ---- what is taken in


@pytest.mark.parametrize(
    "name",
    ["legal", "security-1", "root-2", "release-pq"],
    ids=[spki.ED25519, spki.ECDSA_P256, spki.ECDSA_P384, spki.ML_DSA_65],
)
def test_an_attestation_of_another_program_is_taken_in_and_authentic(bundle: SealedBundle, name: str) -> None:
    key = private_key(name)
    written = taken_in(bundle, foreign(key, opinion(bundle)), key)
    assert written.path == "attestations/legal-opinion.sigstore.json"
    data = (bundle.root / written.path).read_bytes()
    envelope = parse_bundle(data, where="x")
    assert envelope.untrusted_hint == key.public.fingerprint
    assert envelope.payload == opinion(bundle)
    assert json.loads(data)["dsseEnvelope"]["signatures"][0]["keyid"] == ""
    assert taken_in(bundle, foreign(key, opinion(bundle)), key).kept


def test_the_hint_of_an_oms_attestation_is_the_one_that_model_signing_compares(bundle: SealedBundle) -> None:
    written = taken_in(bundle, foreign(SAM, new_statement(bundle, "oms", None)), SAM)
    value = json.loads((bundle.root / written.path).read_bytes())
    expected = hashlib.sha256(SAM.public.pem.encode()).hexdigest()
    assert value["verificationMaterial"]["publicKey"]["hint"] == expected


def _set(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(value: Any) -> None:
        for name in path[:-1]:
            value = value[name]
        value[path[-1]] = to

    return change


@pytest.mark.parametrize(
    "change",
    [
        _set("dsseEnvelope", "signatures", 0, "keyid", to="SHA256:abc"),
        _set("dsseEnvelope", "signatures", 0, "cert", to=""),
        _set("dsseEnvelope", "remark", to="x"),
        _set("remark", to={"a": 1}),
        _set("verificationMaterial", to={"publicKey": {}}),
        _set("verificationMaterial", "tlogEntries", to=[]),
        _set("verificationMaterial", "timestampVerificationData", to={}),
        _set("verificationMaterial", "publicKey", to={"rawBytes": "AAAA"}),
        _set("mediaType", to="application/vnd.dev.sigstore.bundle+json;version=0.3"),
        lambda value: value.pop("mediaType"),
        lambda value: value.pop("verificationMaterial"),
    ],
)
def test_how_the_wrapper_is_dressed_does_not_matter(
    bundle: SealedBundle, change: Callable[[dict[str, Any]], None]
) -> None:
    value = foreign(LENA, opinion(bundle))
    change(value)
    written = taken_in(bundle, value)
    plain = foreign(LENA, opinion(bundle))["dsseEnvelope"]["payload"]
    assert json.loads((bundle.root / written.path).read_bytes())["dsseEnvelope"]["payload"] == plain


def test_a_bare_envelope_is_taken_in(bundle: SealedBundle) -> None:
    assert not taken_in(bundle, foreign(LENA, opinion(bundle))["dsseEnvelope"]).kept


def test_a_bare_signature_over_the_signed_bytes_is_taken_in(bundle: SealedBundle) -> None:
    payload = opinion(bundle)
    signature = SAM.sign(pre_authentication_encoding(payload))
    for data in (signature, base64.b64encode(signature), base64.encodebytes(signature)):
        raw = raw_signature(data, where="x")
        assert raw == signature
        assert taken_in(bundle, from_raw_signature(payload, raw), SAM).path


@pytest.mark.parametrize(
    ("change", "reference"),
    [
        (_set("dsseEnvelope", "payloadType", to="text/plain"), "payload-type"),
        (_set("dsseEnvelope", "signatures", to=[]), "signature-count"),
        (_set("dsseEnvelope", "signatures", to=[{"sig": "AAAA"}, {"sig": "AAAA"}]), "signature-count"),
        (_set("dsseEnvelope", "signatures", 0, "sig", to="A A A"), "bad-base64"),
        (_set("dsseEnvelope", "signatures", 0, "sig", to="AAAA"), "unknown-signer"),
        (_set("dsseEnvelope", "signatures", 0, to="AAAA"), "bad-envelope"),
        (_set("dsseEnvelope", "signatures", to="AAAA"), "bad-envelope"),
        (_set("dsseEnvelope", to=[]), "bad-envelope"),
        (_set("mediaType", to="application/vnd.dev.sigstore.bundle+json;version=0.1"), "bad-envelope"),
        (_set("verificationMaterial", to={"x509CertificateChain": {}}), "bad-envelope"),
        (_set("messageSignature", to={}), "not-a-statement"),
        (lambda value: value["dsseEnvelope"].pop("payload"), "bad-envelope"),
    ],
)
def test_a_file_that_is_no_attestation_is_refused_without_a_trace(
    bundle: SealedBundle, change: Callable[[dict[str, Any]], None], reference: str
) -> None:
    value = foreign(LENA, opinion(bundle))
    change(value)
    assert refused(bundle, value).reference == reference


@pytest.mark.parametrize("data", [b"", b"[]", b"5", b"{}", b"{", b'{"a":1,"a":1}', b"\xff", b"[" * 99])
def test_bytes_that_are_no_envelope_are_refused(bundle: SealedBundle, data: bytes) -> None:
    assert isinstance(refused(bundle, data), MalformedError)


def test_a_signature_of_somebody_else_is_refused(bundle: SealedBundle) -> None:
    error = refused(bundle, foreign(SAM, opinion(bundle)))
    assert isinstance(error, AuthenticityError)
    assert error.reference == "unknown-signer"
    assert error.findings[0].where == "file"


def test_a_signature_over_the_statement_alone_is_refused(bundle: SealedBundle) -> None:
    payload = opinion(bundle)
    assert refused(bundle, from_raw_signature(payload, LENA.sign(payload))).reference == "unknown-signer"


def test_a_statement_v01_is_refused_and_the_right_option_named(bundle: SealedBundle) -> None:
    payload = opinion(bundle).replace(b"in-toto.io/Statement/v1", b"in-toto.io/Statement/v0.1")
    error = refused(bundle, foreign(LENA, payload))
    assert error.reference == "statement-type"
    assert "`cosign attest-blob --statement`" in error.findings[0].hint


@pytest.mark.parametrize(
    ("old", "new", "reference"),
    [
        (b'"manifest.json"', b'"README.md"', "other-subject"),
        (b'"approved"', b'"aproved"', "predicate"),
        (b'"serial":7', b'"serial":6', "other-release"),
        (b"test/stable", b"test/prod", "other-release"),
    ],
)
def test_a_statement_that_says_nothing_about_this_bundle_is_refused(
    bundle: SealedBundle, old: bytes, new: bytes, reference: str
) -> None:
    payload = opinion(bundle)
    assert old in payload
    assert refused(bundle, foreign(LENA, payload.replace(old, new))).reference == reference


def test_a_statement_about_another_manifest_is_refused(bundle: SealedBundle) -> None:
    payload = opinion(bundle).replace(bundle.manifest.sha256.encode(), b"0" * 64)
    error = refused(bundle, foreign(LENA, payload))
    assert error.reference == "other-subject"
    assert error.findings[0].found == "sha256:" + "0" * 64
    assert error.findings[0].expected == f"manifest.json with sha256:{bundle.manifest.sha256}"


def test_an_oms_attestation_of_another_tree_is_refused(bundle: SealedBundle) -> None:
    value = json.loads(new_statement(bundle, "oms", None))
    value["predicate"]["serialization"]["ignore_paths"] = ["."]
    assert refused(bundle, foreign(LENA, json.dumps(value).encode())).reference == "other-subject"


@pytest.mark.parametrize(
    ("data", "reference"),
    [
        (b"-----BEGIN SSH SIGNATURE-----\nU1NIU0lH\n-----END SSH SIGNATURE-----\n", "ssh-signature"),
        (b"-----BEGIN PGP SIGNATURE-----\n", "pgp-signature"),
    ],
)
def test_signatures_of_other_schemes_are_refused_by_name(data: bytes, reference: str) -> None:
    with pytest.raises(MalformedError) as caught:
        raw_signature(data, where="x")
    assert caught.value.reference == reference
    assert "sealift attest sign" in caught.value.findings[0].hint


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_NAMES = st.sampled_from(
    ["mediaType", "verificationMaterial", "dsseEnvelope", "payload", "signatures", "certificate", "sig"]
)


@given(st.dictionaries(_NAMES, _VALUES | st.dictionaries(_NAMES, _VALUES, max_size=3), max_size=4))
def test_whatever_is_offered_becomes_the_strict_form_or_a_refusal(value: dict[str, Any]) -> None:
    try:
        strict = strict_form(json.dumps(value).encode(), where="x")
    except MalformedError:
        return
    assert strict_form(strict, where="x") == strict


def test_a_link_in_the_place_of_the_attestations_is_not_followed(
    bundle: SealedBundle, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (bundle.root / "attestations").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SealiftError) as caught:
        taken_in(bundle, foreign(LENA, opinion(bundle)))
    assert caught.value.reference == "symbolic-link"
    assert list((tmp_path / "elsewhere").iterdir()) == []
