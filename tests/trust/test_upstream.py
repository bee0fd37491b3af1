"""Upstream signatures: good ones count for exactly what they say; every other one is refused, and why."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, padding, rsa
from cryptography.x509 import load_pem_x509_certificate
from hypothesis import given, settings
from hypothesis import strategies as st

from bundler.errors import AuthenticityError, MalformedError, SealiftError
from bundler.trust.dsse import STATEMENT_TYPE, pre_authentication_encoding
from bundler.trust.keys import PrivateKey, generate
from bundler.trust.upstream.envelope import LIMIT, read_envelope, read_statement
from bundler.trust.upstream.expected_signers import (
    KeySigner,
    Signer,
    SigstoreRoot,
    github_signer,
    gitlab_signer,
    identity_signer,
)
from bundler.trust.upstream.image_signatures import check_image_bundle, check_simple_signing
from bundler.trust.upstream.model_signatures import check_model_signature
from bundler.trust.upstream.provenance import check_provenance, claimed_publishers
from tests.servers.signatures import (
    GITHUB,
    Sign,
    attestation,
    image_statement,
    model_statement,
    promised,
    provenance,
    publish_statement,
    simple_payload,
    statement,
    with_identity,
    with_key,
    with_workflow,
)
from tests.servers.sigstore import Sigstore

NAME, DATA = "app-1.0-py3-none-any.whl", b"wheel"
SHA256 = hashlib.sha256(DATA).hexdigest()
IMAGE = "sha256:" + "a" * 64
FILES = {"config.json": b"{}", "w/model.safetensors": b"weights"}
DIGESTS: dict[str, str | None] = {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()}
SIMPLE = "dev.cosignproject.cosign/signature"


@pytest.fixture(scope="module")
def sigstore() -> Sigstore:
    return Sigstore()


@pytest.fixture(scope="module")
def root(sigstore: Sigstore) -> SigstoreRoot:
    return SigstoreRoot.open(sigstore.trusted_root(), where="trusted_root.json")


@pytest.fixture(scope="module")
def publisher(root: SigstoreRoot) -> Signer:
    return github_signer(root, repository="org/app", workflow="release.yml")


@pytest.fixture(scope="module")
def key() -> PrivateKey:
    return generate()


@pytest.fixture(scope="module")
def holder(key: PrivateKey) -> KeySigner:
    return KeySigner.parse(key.public.pem.encode(), where="upstream.pub")


def refusal(check: Callable[[], object]) -> str:
    """What a refused check says it found."""
    with pytest.raises((AuthenticityError, MalformedError)) as caught:
        check()
    return caught.value.findings[0].found


# --- wheels (PEP 740) ---


def attested(data: bytes, signer: Signer, filename: str = NAME, sha256: str = SHA256) -> tuple[str, ...]:
    return check_provenance(
        data, filename=filename, sha256=sha256, signer=signer, where="provenance"
    ).predicate_types


def published(sign: Sign, filename: str = NAME, data: bytes = DATA, **how: Any) -> bytes:
    return provenance(sign(publish_statement(filename, data, **how)))


def test_an_attestation_by_the_publisher_about_this_wheel_counts(
    sigstore: Sigstore, publisher: Signer
) -> None:
    assert attested(published(with_workflow(sigstore)), publisher) == (
        "https://docs.pypi.org/attestations/publish/v1",
    )


def test_a_builders_provenance_counts_too(sigstore: Sigstore, publisher: Signer) -> None:
    data = published(with_workflow(sigstore), predicate_type="https://slsa.dev/provenance/v1")
    assert attested(data, publisher) == ("https://slsa.dev/provenance/v1",)


def test_a_gitlab_pipeline_and_a_plain_identity_can_be_publishers(
    sigstore: Sigstore, root: SigstoreRoot
) -> None:
    gitlab = with_workflow(
        sigstore, "group/app", "ci/release.yml", host="https://gitlab.com", issuer="https://gitlab.com"
    )
    signer = gitlab_signer(root, repository="group/app", workflow="ci/release.yml")
    assert attested(published(gitlab), signer)
    person = with_identity(sigstore, "https://accounts.google.com", "bot@project.example")
    robot = identity_signer(root, issuer="https://accounts.google.com", san="bot@project.example")
    assert attested(published(person), robot)


def test_the_commit_may_stand_in_for_the_ref(sigstore: Sigstore, publisher: Signer) -> None:
    config = f"https://github.com/org/app/.github/workflows/release.yml@{'c' * 40}"
    assert attested(published(with_workflow(sigstore, config=config)), publisher)


def test_file_names_are_compared_as_the_index_normalises_them(sigstore: Sigstore, publisher: Signer) -> None:
    assert attested(published(with_workflow(sigstore), "App-1.0.0-py3-none-any.whl"), publisher)


def test_one_good_attestation_is_enough_beside_others(sigstore: Sigstore, publisher: Signer) -> None:
    subject = publish_statement(NAME, DATA)
    other, own = with_workflow(sigstore, "mirror/app")(subject), with_workflow(sigstore)(subject)
    assert attested(provenance(other, own), publisher)


@pytest.mark.parametrize(
    ("sign", "says"),
    [
        pytest.param(
            lambda it: with_workflow(it, "evil/app"), "github.com/evil/app", id="another repository"
        ),
        pytest.param(
            lambda it: with_workflow(it, workflow="ci.yml"), "workflows/ci.yml", id="another workflow"
        ),
        pytest.param(
            lambda it: with_workflow(it, issuer="https://idp.evil"), "idp.evil", id="another issuer"
        ),
        pytest.param(
            lambda it: with_workflow(
                it, config="https://github.com/org/app/.github/workflows/release.yml@refs/pull/7/merge"
            ),
            "refs/pull/7",
            id="the right workflow as a fork's pull request configured it",
        ),
        pytest.param(
            lambda it: with_workflow(
                it, config="https://github.com/evil/app/.github/workflows/release.yml@refs/tags/v1"
            ),
            "evil/app",
            id="a called workflow of another repository",
        ),
        pytest.param(
            lambda it: with_workflow(it, source="https://github.com/org/app2"),
            "github.com/org/app",
            id="a source repository that only begins alike",
        ),
        pytest.param(
            lambda it: with_identity(it, GITHUB, "https://github.com/org/app"),
            "github.com/org/app",
            id="a certificate without the workflow's claims",
        ),
        pytest.param(
            lambda _: with_workflow(Sigstore()), "CertValidationError", id="another Sigstore instance"
        ),
    ],
)
def test_an_attestation_by_somebody_else_does_not_count(
    sigstore: Sigstore, publisher: Signer, sign: Callable[[Sigstore], Sign], says: str
) -> None:
    assert says in refusal(lambda: attested(published(sign(sigstore)), publisher))


def test_an_attestation_of_another_file_name_does_not_count(sigstore: Sigstore, publisher: Signer) -> None:
    data = published(with_workflow(sigstore), "app-0.9-py3-none-any.whl")
    assert "app-0.9" in refusal(lambda: attested(data, publisher))


def test_an_attestation_of_another_digest_does_not_count(sigstore: Sigstore, publisher: Signer) -> None:
    data = published(with_workflow(sigstore), data=b"older")
    assert hashlib.sha256(b"older").hexdigest() in refusal(lambda: attested(data, publisher))


def test_an_attestation_of_another_kind_does_not_count(sigstore: Sigstore, publisher: Signer) -> None:
    data = published(with_workflow(sigstore), predicate_type="https://in-toto.io/attestation/vulns/v0.2")
    assert refusal(lambda: attested(data, publisher)) == "https://in-toto.io/attestation/vulns/v0.2"


def test_a_statement_about_two_files_does_not_count(sigstore: Sigstore, publisher: Signer) -> None:
    both = statement([(NAME, SHA256), ("b.whl", "b" * 64)], "https://slsa.dev/provenance/v1")
    assert refusal(lambda: attested(provenance(with_workflow(sigstore)(both)), publisher)) == "2 subjects"


def test_a_statement_put_under_another_signature_does_not_count(
    sigstore: Sigstore, publisher: Signer
) -> None:
    value = json.loads(published(with_workflow(sigstore), data=b"older"))
    envelope = value["attestation_bundles"][0]["attestations"][0]["envelope"]
    envelope["statement"] = base64.b64encode(publish_statement(NAME, DATA)).decode()
    assert "VerificationError" in refusal(lambda: attested(json.dumps(value).encode(), publisher))


def test_a_log_entry_of_another_signature_does_not_count(sigstore: Sigstore, publisher: Signer) -> None:
    """CVE-2022-36056: a good signature with the proof that something else is in the log."""
    value = json.loads(published(with_workflow(sigstore)))
    other = attestation(with_workflow(sigstore)(publish_statement("b-1-py3-none-any.whl", b"b")))
    mine = value["attestation_bundles"][0]["attestations"][0]
    mine["verification_material"]["transparency_entries"] = other["verification_material"][
        "transparency_entries"
    ]
    assert "log entry" in refusal(lambda: attested(json.dumps(value).encode(), publisher))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param({"version": 2}, "'version': 2", id="another version"),
        pytest.param({"attestation_bundles": {}}, "{}", id="no list"),
        pytest.param({"attestation_bundles": []}, "no attestation", id="an empty list"),
        pytest.param({"attestation_bundles": [3]}, "[3]", id="a number for a bundle"),
        pytest.param({"attestation_bundles": [{}]}, "None", id="a bundle without attestations"),
        pytest.param({"attestation_bundles": [{"attestations": ["x"]}]}, "x", id="text for an attestation"),
        pytest.param(
            {"attestation_bundles": [{"attestations": [{"verification_material": {}, "envelope": {}}]}]},
            "None",
            id="an attestation without a version",
        ),
        pytest.param(
            {
                "attestation_bundles": [
                    {"attestations": [{"version": 1, "verification_material": {}, "envelope": {}}]}
                ]
            },
            "None",
            id="an empty attestation",
        ),
        pytest.param({"attestation_bundles": [{"attestations": []}] * 65}, "", id="too many bundles"),
        pytest.param({"attestation_bundles": [{"attestations": [0] * 65}]}, "0, 0", id="too many of them"),
    ],
)
def test_a_malformed_provenance_is_refused(
    publisher: Signer, sigstore: Sigstore, change: dict[str, Any], says: str
) -> None:
    value = {**json.loads(published(with_workflow(sigstore))), **change}
    assert says in refusal(lambda: attested(json.dumps(value).encode(), publisher))


@pytest.mark.parametrize(
    "data",
    [b"", b"<html>", b"[1]", b'{"version":1,"version":1}', b"\xff", b"[" * 100_000, b'{"version": NaN}'],
)
def test_what_is_no_json_object_is_refused(publisher: Signer, data: bytes) -> None:
    refusal(lambda: attested(data, publisher))
    assert claimed_publishers(data, where="x") == ""


def test_a_huge_provenance_is_refused_before_it_is_parsed(publisher: Signer) -> None:
    started = time.monotonic()
    with pytest.raises(MalformedError) as caught:
        attested(b"{" * (64 << 20), publisher)
    assert caught.value.reference == "too-large"
    assert time.monotonic() - started < 2


def test_whom_an_index_claims_is_told_in_one_plain_line() -> None:
    bundle = {"publisher": {"kind": "GitHub", "repository": "org/\x1b[31mapp\n", "workflow": 7}}
    data = json.dumps({"version": 1, "attestation_bundles": [bundle, {"publisher": None}]}).encode()
    assert claimed_publishers(data, where="x") == "GitHub org/[31mapp"


# --- images (cosign) ---


def signed_simple(key: PrivateKey, payload: bytes) -> dict[str, str]:
    return {SIMPLE: base64.b64encode(key.sign(payload)).decode()}


def test_a_simple_signing_payload_counts_for_the_image_it_names(key: PrivateKey, holder: KeySigner) -> None:
    payload = simple_payload(IMAGE)
    checked = check_simple_signing(
        payload, signed_simple(key, payload), digest=IMAGE, signer=holder, where="sig"
    )
    assert checked == "cosign container image signature (simple signing)"


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        pytest.param(simple_payload("sha256:" + "b" * 64), "b" * 64, id="the payload of another image"),
        pytest.param(simple_payload(IMAGE, "atomic container signature"), "atomic", id="another kind"),
        pytest.param(b'{"critical": null}', "None", id="nothing critical"),
        pytest.param(b'{"critical": {"type": "cosign container image signature"}}', "None", id="no image"),
        pytest.param(b"not json", "line 1", id="no JSON"),
        pytest.param(
            simple_payload(IMAGE).replace(b'"optional"', b'"critical": {}, "optional"'),
            "critical",
            id="a member twice",
        ),
    ],
)
def test_a_signed_payload_about_something_else_does_not_count(
    key: PrivateKey, holder: KeySigner, payload: bytes, says: str
) -> None:
    found = refusal(
        lambda: check_simple_signing(
            payload, signed_simple(key, payload), digest=IMAGE, signer=holder, where="sig"
        )
    )
    assert says in found


def test_a_payload_signed_with_another_key_does_not_count(holder: KeySigner) -> None:
    payload = simple_payload(IMAGE)
    found = refusal(
        lambda: check_simple_signing(
            payload, signed_simple(generate(), payload), digest=IMAGE, signer=holder, where="sig"
        )
    )
    assert found == f"not signed with the key sha256:{holder.fingerprint}"


@pytest.mark.parametrize("annotations", [{}, {SIMPLE: "no base64"}, {SIMPLE: ""}, {SIMPLE: "QUJD\n"}])
def test_a_payload_without_a_readable_signature_does_not_count(
    holder: KeySigner, annotations: dict[str, str]
) -> None:
    with pytest.raises(MalformedError):
        check_simple_signing(simple_payload(IMAGE), annotations, digest=IMAGE, signer=holder, where="sig")


def test_a_bare_signature_proves_no_identity(key: PrivateKey, root: SigstoreRoot) -> None:
    signer = identity_signer(root, issuer="https://idp.example", san="a@b.example")
    payload = simple_payload(IMAGE)
    found = refusal(
        lambda: check_simple_signing(
            payload, signed_simple(key, payload), digest=IMAGE, signer=signer, where="sig"
        )
    )
    assert found == "a bare signature, without a certificate"


# --- images: keyless, with the log's promise beside the signature ---

ISSUER, SAN = "https://idp.example", "release@vendor.example"


@pytest.fixture(scope="module")
def vendor(root: SigstoreRoot) -> Signer:
    return identity_signer(root, issuer=ISSUER, san=SAN)


@pytest.fixture(scope="module")
def good_promise(sigstore: Sigstore) -> tuple[bytes, dict[str, str]]:
    return by_vendor(sigstore, simple_payload(IMAGE))


def by_vendor(
    sigstore: Sigstore, payload: bytes, *, san: str = SAN, **changes: Any
) -> tuple[bytes, dict[str, str]]:
    return promised(sigstore, payload, issuer=ISSUER, san=san, **changes)


def simply_signed(made: tuple[bytes, dict[str, str]], signer: Signer, payload: bytes = b"") -> str:
    signature, annotations = made
    kept = {**annotations, SIMPLE: base64.b64encode(signature).decode()}
    return check_simple_signing(
        payload or simple_payload(IMAGE), kept, digest=IMAGE, signer=signer, where="sig"
    )


def test_a_certificate_with_the_logs_promise_counts(sigstore: Sigstore, vendor: Signer) -> None:
    assert simply_signed(by_vendor(sigstore, simple_payload(IMAGE)), vendor)


def test_the_promise_of_somebody_else_names_him(sigstore: Sigstore, vendor: Signer) -> None:
    made = by_vendor(sigstore, simple_payload(IMAGE), san="x@evil.example")
    assert refusal(lambda: simply_signed(made, vendor)) == (
        "signed by x@evil.example (issuer https://idp.example)"
    )


OTHER = {"data": {"hash": {"algorithm": "sha256", "value": "0" * 64}}}
PROMISES: dict[str, tuple[Callable[[Sigstore], tuple[bytes, dict[str, str]]], str]] = {
    "of another Sigstore": (
        lambda _: by_vendor(Sigstore(), simple_payload(IMAGE)),
        "one of log",
    ),
    "by a log that is no log of it": (
        lambda it: by_vendor(it, simple_payload(IMAGE), log_key=ec.generate_private_key(ec.SECP256R1())),
        "one of log",
    ),
    "from before the certificate": (
        lambda it: by_vendor(it, simple_payload(IMAGE), seconds=-60),
        "one by another authority",
    ),
    "from after the certificate ran out": (
        lambda it: by_vendor(it, simple_payload(IMAGE), seconds=601),
        "one by another authority",
    ),
    "from before there was this Sigstore": (
        lambda it: by_vendor(it, simple_payload(IMAGE), seconds=-86400),
        "one of log",
    ),
    "for the end of time": (
        lambda it: by_vendor(it, simple_payload(IMAGE), seconds=1 << 50),
        "one by another authority",
    ),
    "about another payload": (lambda it: by_vendor(it, b"other"), "another one"),
    "about another kind of entry": (
        lambda it: by_vendor(it, simple_payload(IMAGE), body={"kind": "rekord"}),
        "another one (rekord)",
    ),
    "about nothing": (
        lambda it: by_vendor(it, simple_payload(IMAGE), body={"spec": OTHER}),
        "hashedrekord",
    ),
    "about another certificate": (
        lambda it: by_vendor(
            it,
            simple_payload(IMAGE),
            logged=by_vendor(it, b"x")[1]["dev.sigstore.cosign/certificate"].encode(),
        ),
        "another one (hashedrekord)",
    ),
}


@pytest.mark.parametrize(("make", "says"), PROMISES.values(), ids=PROMISES)
def test_a_promise_does_not_count(
    sigstore: Sigstore,
    vendor: Signer,
    make: Callable[[Sigstore], tuple[bytes, dict[str, str]]],
    says: str,
) -> None:
    made = make(sigstore)
    assert says in refusal(lambda: simply_signed(made, vendor))


def test_a_promise_about_another_signature_does_not_count(sigstore: Sigstore, vendor: Signer) -> None:
    """CVE-2022-36056: signature, certificate and promise are good, each for itself."""
    payload = simple_payload(IMAGE)
    (_, mine), (signature, other) = (by_vendor(sigstore, payload) for _ in range(2))
    mixed = {**other, "dev.sigstore.cosign/bundle": mine["dev.sigstore.cosign/bundle"]}
    assert "a log entry of another one" in refusal(lambda: simply_signed((signature, mixed), vendor))


def test_a_certificate_from_the_right_authority_that_no_log_saw_does_not_count(
    sigstore: Sigstore, vendor: Signer
) -> None:
    """An authority that issues in secret: the certificate has the timestamp of a log nobody trusts."""
    own, sigstore.ct_key = sigstore.ct_key, ec.generate_private_key(ec.SECP256R1())
    try:
        made = by_vendor(sigstore, simple_payload(IMAGE))
    finally:
        sigstore.ct_key = own
    assert refusal(lambda: simply_signed(made, vendor)) == "one of another log"


@pytest.mark.parametrize("name", ["dev.sigstore.cosign/certificate", "dev.sigstore.cosign/bundle"])
@pytest.mark.parametrize("text", [None, "", "x", "{}", '{"Payload": {}}', "-----BEGIN CERTIFICATE-----"])
def test_a_part_beside_a_signature_that_is_none_is_refused(
    sigstore: Sigstore, vendor: Signer, name: str, text: str | None
) -> None:
    signature, annotations = by_vendor(sigstore, simple_payload(IMAGE))
    kept = {key: value for key, value in annotations.items() if key != name}
    made = (signature, kept if text is None else {**kept, name: text})
    assert refusal(lambda: simply_signed(made, vendor))


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(["dev.sigstore.cosign/bundle", "dev.sigstore.cosign/certificate"]),
    place=st.integers(0, 1 << 20),
    letter=st.characters(min_codepoint=32, max_codepoint=126),
)
def test_a_damaged_promise_is_refused_in_our_words(
    name: str, place: int, letter: str, good_promise: tuple[bytes, dict[str, str]], vendor: Signer
) -> None:
    """One changed letter anywhere in certificate, promise or entry."""
    signature, annotations = good_promise
    text = annotations[name]
    at = place % len(text)
    changed = text[:at] + letter + text[at + 1 :]
    try:
        simply_signed((signature, {**annotations, name: changed}), vendor)
    except SealiftError:
        return
    assert same_promise(changed, text), "a change that means something was accepted"


def same_promise(one: str, other: str) -> bool:
    """Whether two annotations say the same: text around the PEM block and the case of digits are nothing."""
    if not one.startswith("{"):
        return load_pem_x509_certificate(one.encode()) == load_pem_x509_certificate(other.encode())
    first, second = json.loads(one), json.loads(other)
    for value in (first, second):
        value["Payload"]["logID"] = value["Payload"]["logID"].lower()
    return bool(first == second)


def test_a_bundle_counts_for_the_image_it_is_about(
    key: PrivateKey, holder: KeySigner, sigstore: Sigstore, root: SigstoreRoot
) -> None:
    def checked(bundle: bytes, signer: Signer) -> str:
        return check_image_bundle(bundle, digest=IMAGE, signer=signer, where="bundle")

    keyed = with_key(key)(image_statement(IMAGE))
    assert checked(keyed, holder) == "statement https://sigstore.dev/cosign/sign/v1"
    keyless = with_identity(sigstore, "https://idp.example", "release@vendor.example")(image_statement(IMAGE))
    vendor = identity_signer(root, issuer="https://idp.example", san="release@vendor.example")
    assert checked(keyless, vendor)
    assert "idp.example" in refusal(
        lambda: checked(keyless, identity_signer(root, issuer="https://idp.example", san="x@vendor.example"))
    )
    assert "not signed with the key" in refusal(lambda: checked(keyless, holder))
    assert "expected certificate" in refusal(lambda: checked(keyed, vendor))


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        pytest.param(image_statement("sha256:" + "b" * 64), "b" * 64, id="another image"),
        pytest.param(image_statement(IMAGE, "https://spdx.dev/Document"), "spdx", id="an SBOM"),
        pytest.param(statement([], "https://sigstore.dev/cosign/sign/v1"), "0 subjects", id="no subject"),
        pytest.param(
            statement([(None, "a" * 64), (None, "b" * 64)], "https://sigstore.dev/cosign/sign/v1"),
            "2 subjects",
            id="two subjects",
        ),
        pytest.param(
            image_statement(IMAGE).replace(b"Statement/v1", b"Statement/v2"), "v2", id="another statement"
        ),
        pytest.param(image_statement("sha256:" + "A" * 64), "'sha256:'", id="a digest in capitals"),
        pytest.param(b"[]", "[]", id="a list"),
    ],
)
def test_a_signed_statement_about_something_else_does_not_count(
    key: PrivateKey, holder: KeySigner, payload: bytes, says: str
) -> None:
    bundle = with_key(key)(payload)
    found = refusal(lambda: check_image_bundle(bundle, digest=IMAGE, signer=holder, where="bundle"))
    assert says in found


# --- models (OpenSSF Model Signing) ---


def signed_model(key: PrivateKey, payload: bytes, holder: KeySigner) -> Any:
    return check_model_signature(with_key(key)(payload), signer=holder, where="model.sig")


def faults(model: Any, files: dict[str, str | None] = DIGESTS, *signatures: str) -> list[str]:
    found: list[str] = model.faults(files, signatures=frozenset(signatures))
    return found


def test_a_model_signature_covers_the_files_it_lists(key: PrivateKey, holder: KeySigner) -> None:
    model = signed_model(key, model_statement(FILES), holder)
    assert faults(model) == []
    assert faults(model, {**DIGESTS, "model.sig": "f" * 64, ".gitattributes": "f" * 64}, "model.sig") == []
    assert faults(model, {"config.json": DIGESTS["config.json"]}) == [], "a bundle may carry a part"
    assert faults(model, dict.fromkeys(DIGESTS)) == [], "not known yet"


def test_a_changed_an_added_and_a_renamed_file_are_told(key: PrivateKey, holder: KeySigner) -> None:
    model = signed_model(key, model_statement(FILES), holder)
    (changed,) = faults(model, {**DIGESTS, "config.json": "f" * 64})
    assert changed.startswith(f"config.json was signed as sha256:{DIGESTS['config.json']}")
    assert faults(model, {**DIGESTS, "modeling.py": "f" * 64}) == ["modeling.py is not signed"]
    # The signed root digest binds no names: the same bytes under other names have the same one.
    swapped = {"config.json": DIGESTS["w/model.safetensors"], "w/model.safetensors": DIGESTS["config.json"]}
    assert len(faults(model, swapped)) == 2


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        pytest.param(
            model_statement(FILES, serialization={"method": "files", "hash_type": "blake2b"}),
            "blake2b",
            id="another digest",
        ),
        pytest.param(model_statement(FILES, serialization=None), "None", id="no serialization"),
        pytest.param(
            model_statement(FILES, resources=[]), "('model', ", id="no resources under the old root"
        ),
        pytest.param(model_statement(FILES, resources=["x"]), "'x'", id="text for a resource"),
        pytest.param(
            model_statement(
                FILES,
                resources=[{"name": "a", "algorithm": "sha256", "digest": "a" * 64}] * 2,
            ),
            "twice",
            id="a name twice",
        ),
        pytest.param(
            model_statement(FILES, resources=[{"name": "a", "algorithm": "sha256", "digest": "A" * 64}]),
            "AAAA",
            id="a digest in capitals",
        ),
        pytest.param(
            model_statement(FILES).replace(b"signature/v1.0", b"Digests/v0.1"), "v0.1", id="the older form"
        ),
    ],
)
def test_a_model_statement_of_another_form_does_not_count(
    key: PrivateKey, holder: KeySigner, payload: bytes, says: str
) -> None:
    assert says in refusal(lambda: signed_model(key, payload, holder))


def test_a_keyless_model_signature_counts(sigstore: Sigstore, root: SigstoreRoot) -> None:
    sign = with_identity(sigstore, "https://idp.example", "models@vendor.example")
    vendor = identity_signer(root, issuer="https://idp.example", san="models@vendor.example")
    model = check_model_signature(sign(model_statement(FILES)), signer=vendor, where="model.sig")
    assert faults(model) == []


# --- keys ---


def pem(key: Any) -> bytes:
    data = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert isinstance(data, bytes)
    return data


@pytest.mark.parametrize(
    ("curve", "digest"),
    [
        (ec.SECP384R1(), hashes.SHA256()),
        (ec.SECP384R1(), hashes.SHA384()),
        (ec.SECP521R1(), hashes.SHA512()),
    ],
    ids=["P-384 as cosign signs", "P-384 as model_signing signs", "P-521 as model_signing signs"],
)
def test_larger_curves_are_read_as_their_tools_write_them(
    curve: ec.EllipticCurve, digest: hashes.HashAlgorithm
) -> None:
    key = ec.generate_private_key(curve)
    signer = KeySigner.parse(pem(key), where="k")
    signer.check_message(b"m", key.sign(b"m", ec.ECDSA(digest)), {}, where="s")
    assert refusal(lambda: signer.check_message(b"n", key.sign(b"m", ec.ECDSA(digest)), {}, where="s"))


def test_an_rsa_key_signs_as_cosign_makes_it() -> None:
    key = rsa.generate_private_key(65537, 2048)
    signer = KeySigner.parse(pem(key), where="k")
    signer.check_message(b"m", key.sign(b"m", padding.PKCS1v15(), hashes.SHA256()), {}, where="s")
    assert refusal(
        lambda: signer.check_message(b"m", key.sign(b"m", padding.PKCS1v15(), hashes.SHA1()), {}, where="s")
    )


def test_an_ed25519_key_signs() -> None:
    key = generate("ed25519")
    signer = KeySigner.parse(key.public.pem.encode(), where="k")
    signer.check_message(b"m", key.sign(b"m"), {}, where="s")
    assert signer.description == {"key": f"sha256:{key.public.fingerprint}"}
    assert refusal(lambda: signer.check_message(b"m", b"short", {}, where="s"))


@pytest.mark.parametrize("data", [b"", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_what_is_no_key_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        KeySigner.parse(data, where="upstream.pub")
    assert caught.value.reference == "bad-key"
    assert caught.value.findings[0].where == "upstream.pub"


@pytest.mark.parametrize(
    "key",
    [rsa.generate_private_key(65537, 1024), dsa.generate_private_key(1024)],
    ids=["a short RSA key", "a DSA key"],
)
def test_a_weak_key_is_refused(key: Any) -> None:
    with pytest.raises(MalformedError) as caught:
        KeySigner.parse(pem(key), where="k")
    assert caught.value.reference == "bad-key"


# --- any bytes ---


def test_two_signatures_in_one_envelope_are_refused(key: PrivateKey, holder: KeySigner) -> None:
    value = json.loads(with_key(key)(image_statement(IMAGE)))
    value["dsseEnvelope"]["signatures"] *= 2
    assert refusal(lambda: holder.payload(json.dumps(value).encode(), where="b"))


def test_a_signature_over_another_payload_type_is_refused(key: PrivateKey, holder: KeySigner) -> None:
    payload = image_statement(IMAGE)
    value = json.loads(with_key(key)(payload))
    signature = key.sign(pre_authentication_encoding(payload, "text/plain"))
    value["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(signature).decode()
    assert refusal(lambda: holder.payload(json.dumps(value).encode(), where="b"))
    value["dsseEnvelope"]["payloadType"] = "text/plain"
    assert refusal(lambda: holder.payload(json.dumps(value).encode(), where="b")) == "text/plain"


def test_a_huge_bundle_is_refused_before_it_is_parsed(holder: KeySigner) -> None:
    with pytest.raises(MalformedError) as caught:
        holder.payload(b" " * (LIMIT + 1), where="b")
    assert caught.value.reference == "too-large"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_bundle_is_refused_in_our_words(
    data: st.DataObject, sigstore: Sigstore, publisher: Signer
) -> None:
    """Anything in place of any member: never the library's traceback, never another statement."""
    value = json.loads(with_workflow(sigstore)(publish_statement(NAME, DATA)))
    place = value
    while True:
        name = data.draw(st.sampled_from(sorted(place)))
        inner = place[name]
        inner = inner[0] if isinstance(inner, list) and inner else inner
        if not isinstance(inner, dict) or data.draw(st.booleans()):
            break
        place = inner
    place[name] = data.draw(JSON)
    assert outcome(publisher, json.dumps(value).encode()) in {
        publish_statement(NAME, DATA),
        b"bad-envelope",
        b"bad-base64",
        b"not-this-signer",
    }


def outcome(signer: Signer, bundle: bytes) -> bytes:
    """The payload, or the reference of the refusal."""
    try:
        return signer.payload(bundle, where="bundle")
    except SealiftError as error:
        return error.reference.encode()


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_readers_of_unsigned_bytes_raise_nothing_else(data: bytes) -> None:
    for read in (read_envelope, read_statement):
        with pytest.raises(MalformedError):
            read(data, where="x")
    assert claimed_publishers(data, where="x") == ""


def test_a_signed_predicate_may_hold_large_integers_and_floats() -> None:
    numbers = '{"ns": 1764350000123456789, "share": 0.5}'
    text = f'{{"_type": "{STATEMENT_TYPE}", "predicateType": "p", "subject": [], "predicate": {numbers}}}'

    statement = read_statement(text.encode(), where="x")

    assert statement.predicate == {"ns": 1764350000123456789, "share": 0.5}


@pytest.mark.parametrize(
    ("old", "new", "reference"),
    [
        ('"ns": 1', '"ns": 1, "ns": 2', "duplicate-key"),
        ('"ns": 1', '"ns": 1, "ns": 1', "duplicate-key"),
        ('"ns": 1', '"ns": NaN', "bad-json"),
        ('"ns": 1', f'"ns": {"9" * 5000}', "bad-json"),
    ],
)
def test_a_signed_statement_with_two_readings_is_refused(old: str, new: str, reference: str) -> None:
    text = f'{{"_type": "{STATEMENT_TYPE}", "predicateType": "p", "subject": [], "predicate": {{"ns": 1}}}}'

    with pytest.raises(MalformedError) as caught:
        read_statement(text.replace(old, new).encode(), where="x")

    assert caught.value.reference == reference
