"""Upstream signatures from the spec to the manifest: required, verified, carried, or refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bundler.cli.app import run
from bundler.core.evidence import evidence_files
from bundler.core.specs.lock import Lock
from bundler.errors import (
    AuthenticityError,
    Finding,
    IntegrityError,
    MalformedError,
    PolicyError,
    SealiftError,
)
from bundler.trust.keys import PrivateKey, generate
from tests.assembly.upstream import MODEL_FILES, WHEEL, WHEEL_DATA, Upstream, serving, sha256, standings
from tests.end_to_end.commands import Workplace
from tests.servers.registry import Fault
from tests.servers.signatures import (
    add_bundle_referrer,
    add_signature_tag,
    image_statement,
    model_statement,
    provenance,
    publish_statement,
    simple_payload,
    with_identity,
    with_key,
    with_workflow,
)
from tests.servers.sigstore import Sigstore

ISSUER, SAN = "https://idp.example", "release@vendor.example"
IDENTITY = {"identity": {"issuer": ISSUER, "san": SAN}, "trustedRoot": "root.json"}
KEY = {"key": "upstream.pub"}
XLLAMACPP = {"project": "xllamacpp", "github": "org/app", "workflow": "release.yml"}
PUBLISHER = {"publishers": [XLLAMACPP], "trustedRoot": "root.json"}
MODEL, ENGINE = "model:tiny", "wheels:xllamacpp@1.0"


@pytest.fixture(scope="module")
def sigstore() -> Sigstore:
    return Sigstore()


@pytest.fixture(scope="module")
def key() -> PrivateKey:
    return generate()


@pytest.fixture
def upstream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sigstore: Sigstore, key: PrivateKey
) -> Iterator[Upstream]:
    with serving(tmp_path, monkeypatch) as servers:
        servers.write("upstream.pub", key.public.pem)
        servers.write("root.json", sigstore.trusted_root())
        yield servers


def image_of(upstream: Upstream) -> str:
    return f"image:{upstream.registry.host}/demo/app:v1"


def sign_model(upstream: Upstream, bundle: bytes, name: str = "model.sig") -> None:
    (upstream.repository / name).write_bytes(bundle)


def sign_wheel(upstream: Upstream, sigstore: Sigstore, **how: Any) -> None:
    bundle = with_workflow(sigstore, **how)(publish_statement(WHEEL, WHEEL_DATA))
    upstream.index.attest(upstream.offer, provenance(bundle))


def sign_image_by_tag(upstream: Upstream, key: PrivateKey, subject: str, named: str = "") -> None:
    payload = simple_payload(named or subject)
    add_signature_tag(upstream.registry, "demo/app", subject, [(payload, key.sign(payload))])


def sign_all(upstream: Upstream, sigstore: Sigstore, key: PrivateKey) -> None:
    sign_model(upstream, with_identity(sigstore, ISSUER, SAN)(model_statement(MODEL_FILES)))
    sign_wheel(upstream, sigstore)
    sign_image_by_tag(upstream, key, upstream.image["digest"])


def pinned_spec(upstream: Upstream) -> bytes:
    """Everything must be signed, and by whom."""
    return upstream.spec(
        model={"require": True, **IDENTITY},
        engine={"require": ["xllamacpp"], **PUBLISHER},
        image={"require": True, **KEY},
    )


def refused(upstream: Upstream, kind: type[SealiftError], spec: bytes) -> tuple[Finding, ...]:
    """The findings of a lock that is refused."""
    with pytest.raises(SealiftError) as caught:
        upstream.lock(spec)
    assert type(caught.value) is kind
    return caught.value.findings


# --- states ---


def test_without_signatures_each_artifact_says_that_none_is_offered(upstream: Upstream) -> None:
    spec = upstream.spec(model={}, engine={}, image={})
    lock = upstream.lock(spec)
    assert evidence_files(lock) == ()
    bundle = upstream.build(spec, lock)
    none = {"state": "none-offered", "checked": "nothing: upstream offers no signature"}
    assert standings(bundle) == {MODEL: none, ENGINE: none, image_of(upstream): none}
    assert not (bundle / "payload/evidence").exists()


def test_signatures_that_nobody_pinned_are_carried_unverified(
    upstream: Upstream, sigstore: Sigstore, key: PrivateKey
) -> None:
    sign_all(upstream, sigstore, key)
    spec = upstream.spec(model={}, engine={}, image={})
    found = standings(upstream.build(spec, upstream.lock(spec)))
    assert {standing["state"] for standing in found.values()} == {"unverified-present"}
    assert all("signer" not in standing for standing in found.values())
    assert found[ENGINE]["untrustedClaim"] == "GitHub org/app release.yml"
    assert found[ENGINE]["evidence"] == [f"payload/evidence/wheels/{WHEEL}.provenance.json"]


def test_pinned_signatures_are_verified_and_carried_with_what_they_were_checked_with(
    upstream: Upstream, sigstore: Sigstore, key: PrivateKey
) -> None:
    sign_all(upstream, sigstore, key)
    spec = pinned_spec(upstream)
    lock = upstream.lock(spec)
    bundle = upstream.build(spec, lock)
    found = standings(bundle)
    root = f"payload/evidence/sigstore/{sha256(sigstore.trusted_root())}.trusted_root.json"
    public = f"payload/evidence/keys/{sha256(key.public.pem.encode())}.pub"
    commit = lock.models[0].commit
    signature = f"payload/evidence/models--org--tiny/{commit}/model.sig"
    assert found[MODEL] == {
        "state": "verified",
        "checked": "OpenSSF Model Signing v1.0, model.sig: 2 of 3 carried files signed",
        "signer": {"issuer": ISSUER, "san": SAN},
        "evidence": [signature, root],
    }
    assert found[ENGINE] == {
        "state": "verified",
        "checked": f"PEP 740 attestation of {WHEEL}: https://docs.pypi.org/attestations/publish/v1",
        "signer": {"github": "org/app", "workflow": "release.yml"},
        "evidence": [root, f"payload/evidence/wheels/{WHEEL}.provenance.json"],
    }
    image = found[image_of(upstream)]
    assert image["signer"] == {"key": f"sha256:{key.public.fingerprint}"}
    digest = upstream.image["digest"]
    assert image["checked"] == f"cosign container image signature (simple signing) over {digest}"
    assert len(image["evidence"]) == 4, "manifest, config, payload, key"
    assert public in image["evidence"]
    assert_listed_and_pinned(
        bundle, lock, {path for standing in found.values() for path in standing["evidence"]}
    )


def assert_listed_and_pinned(bundle: Path, lock: Lock, paths: set[str]) -> None:
    """Evidence is in the manifest with the digest that the lock pins, and belongs to its artifact."""
    listed = {item["path"]: item for item in json.loads((bundle / "manifest.json").read_bytes())["files"]}
    pins = {file.path: file for file in evidence_files(lock)}
    assert pins.keys() == paths
    for path, pin in pins.items():
        assert pin.size == listed[path]["size"]
        assert pin.sha256 in (None, listed[path]["sha256"])
        shared = path.startswith(("payload/evidence/keys/", "payload/evidence/sigstore/"))
        assert ("artifact" in listed[path]) is not shared


def test_a_rebuild_gives_the_same_manifest_with_all_evidence(
    upstream: Upstream, sigstore: Sigstore, key: PrivateKey
) -> None:
    sign_all(upstream, sigstore, key)
    spec = pinned_spec(upstream)
    lock = upstream.lock(spec)
    assert upstream.lock(spec).to_bytes() == lock.to_bytes()
    assert Lock.parse(lock.to_bytes(), where="lock") == lock
    one, two = (upstream.build(spec, lock, name) for name in ("one", "two"))
    assert (one / "manifest.json").read_bytes() == (two / "manifest.json").read_bytes()


def test_inspect_tells_the_state_and_the_chain_names_the_signer(
    upstream: Upstream, sigstore: Sigstore, key: PrivateKey, capsys: pytest.CaptureFixture[str]
) -> None:
    sign_all(upstream, sigstore, key)
    spec = upstream.spec(model=IDENTITY, engine={}, image=KEY)
    bundle = upstream.build(spec, upstream.lock(spec))
    assert run(["inspect", str(bundle)]) == 0
    said = capsys.readouterr().out
    assert said.count("upstream signature verified") == 2
    assert "llama.cpp-cp312-x86_64: 1, attestations: 1 unverified-present" in said
    layer = sorted((bundle / "payload/images/blobs/sha256").iterdir())[0].name
    for name, expected in {
        "model.safetensors": f"verified when it was built, by issuer {ISSUER}, san {SAN}: OpenSSF Model",
        WHEEL: "unverified-present when it was built: nothing: the spec names nobody",
        f"{WHEEL}.provenance.json": "claims to be by GitHub org/app release.yml",
        layer: f"verified when it was built, by key sha256:{key.public.fingerprint}: cosign",
    }.items():
        assert run(["inspect", str(bundle), "--chain", name, "--json"]) == 0
        chain = json.loads(capsys.readouterr().out)["chain"]
        (says,) = [link["says"] for link in chain if link["step"] == "upstream signature"]
        assert expected in says
        assert not [link for link in chain if link["agrees"] is False]


# --- what a spec requires ---


def test_everything_required_and_absent_is_told_at_once(upstream: Upstream) -> None:
    found = refused(upstream, PolicyError, pinned_spec(upstream))
    assert {(item.reference, item.where) for item in found} == {
        ("upstream-signature-missing", MODEL),
        ("upstream-signature-missing", ENGINE),
        ("upstream-signature-missing", image_of(upstream)),
    }
    by_artifact = {item.where: item for item in found}
    assert by_artifact[MODEL].expected == f"a signature by issuer {ISSUER}, san {SAN}"
    assert by_artifact[ENGINE].expected == "a signature by github org/app, workflow release.yml"
    assert {item.found for item in found} == {"none"}


def test_a_pinned_signer_that_is_not_required_may_be_absent(upstream: Upstream) -> None:
    spec = upstream.spec(model=IDENTITY, engine=PUBLISHER, image=KEY)
    found = standings(upstream.build(spec, upstream.lock(spec)))
    assert {standing["state"] for standing in found.values()} == {"none-offered"}


def test_signatures_by_others_refuse_the_lock_required_or_not(
    upstream: Upstream, sigstore: Sigstore, key: PrivateKey
) -> None:
    sign_model(upstream, with_identity(sigstore, ISSUER, "x@evil.example")(model_statement(MODEL_FILES)))
    sign_wheel(upstream, sigstore, repository="evil/app")
    stranger = generate()
    sign_image_by_tag(upstream, stranger, upstream.image["digest"])
    found = refused(upstream, AuthenticityError, upstream.spec(model=IDENTITY, engine=PUBLISHER, image=KEY))
    by_artifact = {item.where: item for item in found}
    assert {item.reference for item in found} == {"upstream-signature"}
    assert by_artifact[MODEL].found == f"signed by x@evil.example (issuer {ISSUER})"
    assert by_artifact[MODEL].expected == (
        f"a signature over this very artifact by issuer {ISSUER}, san {SAN}"
    )
    assert "github.com/evil/app" in by_artifact[ENGINE].found
    fingerprint = f"sha256:{key.public.fingerprint}"
    assert by_artifact[image_of(upstream)].found == f"not signed with the key {fingerprint}"
    assert not list(upstream.folder.glob("*.building"))


def test_wrong_and_absent_together_are_told_as_the_graver(upstream: Upstream, sigstore: Sigstore) -> None:
    sign_wheel(upstream, sigstore, repository="evil/app")
    found = refused(upstream, AuthenticityError, pinned_spec(upstream))
    assert [item.reference for item in found].count("upstream-signature-missing") == 2
    assert [item.reference for item in found].count("upstream-signature") == 1


def test_the_command_says_it_with_exit_code_11_and_writes_no_lock(
    upstream: Upstream, sigstore: Sigstore, capsys: pytest.CaptureFixture[str]
) -> None:
    sign_model(upstream, with_identity(sigstore, ISSUER, "x@evil.example")(model_statement(MODEL_FILES)))
    spec = upstream.write("spec.yaml", upstream.spec(model=IDENTITY))
    assert run(["lock", str(upstream.folder / spec), "--json"]) == 11
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert finding["reference"] == "upstream-signature"
    assert not (upstream.folder / "spec.lock.json").exists()


# --- models ---


def test_a_small_file_that_was_not_signed_so_refuses_the_build(upstream: Upstream, key: PrivateKey) -> None:
    """The Hub tells no SHA-256 of small files: they are compared when they are here."""
    sign_model(upstream, with_key(key)(model_statement({**MODEL_FILES, "config.json": b"{}"})))
    spec = upstream.spec(model=KEY)
    lock = upstream.lock(spec)
    with pytest.raises(AuthenticityError) as caught:
        upstream.build(spec, lock)
    (finding,) = caught.value.findings
    assert finding.where == MODEL
    assert finding.found.startswith(f"config.json was signed as sha256:{sha256(b'{}')}")
    assert not (upstream.folder / "bundle").exists()


def test_other_weights_than_those_signed_refuse_the_lock(upstream: Upstream, key: PrivateKey) -> None:
    sign_model(upstream, with_key(key)(model_statement({**MODEL_FILES, "model.safetensors": b"x"})))
    (finding,) = refused(upstream, AuthenticityError, upstream.spec(model=KEY))
    assert finding.found.startswith("model.safetensors was signed as")


def test_a_file_that_nobody_signed_refuses_the_lock(upstream: Upstream, key: PrivateKey) -> None:
    sign_model(upstream, with_key(key)(model_statement(MODEL_FILES)))
    (upstream.repository / "modeling_tiny.py").write_text("import os\n")
    (finding,) = refused(upstream, AuthenticityError, upstream.spec(model=KEY))
    assert finding.found == "modeling_tiny.py is not signed"


def test_the_signature_of_another_model_refuses_the_lock(upstream: Upstream, key: PrivateKey) -> None:
    sign_model(upstream, with_key(key)(model_statement({"other.safetensors": b"x"})))
    (finding,) = refused(upstream, AuthenticityError, upstream.spec(model=KEY))
    assert "config.json is not signed" in finding.found


def test_a_signature_is_evidence_also_when_it_is_not_selected(upstream: Upstream, key: PrivateKey) -> None:
    sign_model(upstream, with_key(key)(model_statement(MODEL_FILES)))
    value = json.loads(upstream.spec(model={"require": True, **KEY}))
    value["models"][0]["exclude"] = ["*.sig", "config.json"]
    value["models"][0]["include"] = ["*"]
    spec = json.dumps(value).encode()
    lock = upstream.lock(spec)
    bundle = upstream.build(spec, lock)
    assert standings(bundle)[MODEL]["checked"].endswith("1 of 1 carried files signed")
    assert not list((bundle / lock.models[0].snapshot).glob("*.sig"))


def test_of_several_signatures_one_good_one_is_enough_unless_the_spec_names_another(
    upstream: Upstream, key: PrivateKey
) -> None:
    sign_model(upstream, with_key(key)(model_statement(MODEL_FILES)), "vendor.sigstore.json")
    sign_model(upstream, b"-----BEGIN PGP SIGNATURE-----", "config.json.sig")
    lock = upstream.lock(upstream.spec(model={"require": True, **KEY}))
    assert [file.path for file in lock.models[0].signature_files] == [
        "config.json.sig",
        "vendor.sigstore.json",
    ]
    named = {"require": True, **KEY, "file": "config.json.sig"}
    (finding,) = refused(upstream, AuthenticityError, upstream.spec(model=named))
    assert finding.found == "line 1, column 1: Expecting value"
    absent = {"require": True, **KEY, "file": "nothing.sig"}
    (finding,) = refused(upstream, PolicyError, upstream.spec(model=absent))
    assert finding.reference == "upstream-signature-missing"


# --- wheels ---


def test_all_wheels_can_be_required_and_each_needs_a_publisher(
    upstream: Upstream, sigstore: Sigstore
) -> None:
    sign_wheel(upstream, sigstore)
    other = [{"project": "other", "github": "org/app", "workflow": "release.yml"}]
    found = refused(
        upstream,
        PolicyError,
        upstream.spec(engine={**PUBLISHER, "publishers": other, "require": ["*"]}),
    )
    assert [(item.reference, item.where) for item in found] == [
        ("publisher-not-pinned", "engine llama.cpp: xllamacpp")
    ]
    everybody = [{"project": "*", "github": "org/app", "workflow": "release.yml"}]
    upstream.lock(upstream.spec(engine={**PUBLISHER, "publishers": everybody, "require": ["*"]}))


def test_a_required_project_that_is_no_wheel_of_the_engine_is_a_slip(
    upstream: Upstream, sigstore: Sigstore
) -> None:
    sign_wheel(upstream, sigstore)
    publishers = [XLLAMACPP, {"project": "vlm", "github": "a/b", "workflow": "c.yml"}]
    rule = {**PUBLISHER, "publishers": publishers, "require": ["vlm"]}
    (finding,) = refused(upstream, PolicyError, upstream.spec(engine=rule))
    assert (finding.where, finding.found) == ("engine llama.cpp: attestations: require", "vlm")


def test_project_names_are_compared_normalised(upstream: Upstream, sigstore: Sigstore) -> None:
    sign_wheel(upstream, sigstore)
    publishers = [{**XLLAMACPP, "project": "XLlamaCpp"}]
    upstream.lock(upstream.spec(engine={**PUBLISHER, "publishers": publishers, "require": ["xllamacpp"]}))


def test_the_attestation_of_another_file_refuses_the_lock(upstream: Upstream, sigstore: Sigstore) -> None:
    statement = publish_statement("xllamacpp-0.9-py3-none-any.whl", WHEEL_DATA)
    upstream.index.attest(upstream.offer, provenance(with_workflow(sigstore)(statement)))
    (finding,) = refused(upstream, AuthenticityError, upstream.spec(engine=PUBLISHER))
    assert "xllamacpp-0.9" in finding.found


@pytest.mark.parametrize("document", [b"<html>", b"[" * 1000, b'{"version":1,"version":1}'])
def test_a_malformed_provenance_is_evidence_at_most(upstream: Upstream, document: bytes) -> None:
    upstream.index.attest(upstream.offer, document)
    spec = upstream.spec(engine={})
    standing = standings(upstream.build(spec, upstream.lock(spec)))[ENGINE]
    assert standing["state"] == "unverified-present"
    assert "untrustedClaim" not in standing
    assert refused(upstream, AuthenticityError, upstream.spec(engine=PUBLISHER))


def test_attestations_that_changed_since_they_were_locked_refuse_the_build(
    upstream: Upstream, sigstore: Sigstore
) -> None:
    sign_wheel(upstream, sigstore)
    spec = upstream.spec(engine=PUBLISHER)
    lock = upstream.lock(spec)
    sign_wheel(upstream, sigstore)
    with pytest.raises(SealiftError) as caught:
        upstream.build(spec, lock)
    assert caught.value.reference in {"digest-mismatch", "size-changed"}
    assert not (upstream.folder / "bundle").exists()


# --- images ---


def test_a_sigstore_bundle_that_refers_to_the_image_counts(
    upstream: Upstream, sigstore: Sigstore, key: PrivateKey
) -> None:
    statement = image_statement(upstream.image["digest"])
    bundle = with_identity(sigstore, ISSUER, SAN)(statement)
    add_bundle_referrer(upstream.registry, "demo/app", upstream.image, bundle)
    spec = upstream.spec(image={"require": True, **IDENTITY})
    standing = standings(upstream.build(spec, upstream.lock(spec)))[image_of(upstream)]
    assert standing["state"] == "verified"
    assert standing["signer"] == {"issuer": ISSUER, "san": SAN}
    (finding,) = refused(upstream, AuthenticityError, upstream.spec(image=KEY))
    assert finding.found == f"not signed with the key sha256:{key.public.fingerprint}"


def test_a_registry_without_the_referrers_api_serves_the_same(upstream: Upstream, key: PrivateKey) -> None:
    referrer = add_bundle_referrer(
        upstream.registry,
        "demo/app",
        upstream.image,
        with_key(key)(image_statement(upstream.image["digest"])),
    )
    upstream.registry.no_referrers_api = True
    tag = upstream.image["digest"].replace(":", "-")
    listed = {**referrer, "artifactType": "application/vnd.dev.sigstore.bundle.v0.3+json"}
    upstream.registry.add_index("demo/app", tag, [listed])
    upstream.lock(upstream.spec(image={"require": True, **KEY}))


def test_signatures_of_every_carried_platform_stand_for_the_image(
    upstream: Upstream, key: PrivateKey
) -> None:
    amd64, arm64 = (part["digest"] for part in upstream.parts)
    sign_image_by_tag(upstream, key, amd64)
    rule = {"require": True, **KEY}
    upstream.lock(upstream.spec(image=rule, platforms=("linux/amd64",)))
    (finding,) = refused(upstream, AuthenticityError, upstream.spec(image=rule))
    assert finding.where == image_of(upstream)
    sign_image_by_tag(upstream, key, arm64)
    spec = upstream.spec(image=rule)
    standing = standings(upstream.build(spec, upstream.lock(spec)))[image_of(upstream)]
    assert standing["state"] == "verified"
    assert len(standing["evidence"]) == 7, "two manifests, configs and payloads, and the key"


def test_the_signature_of_another_image_under_this_ones_tag_does_not_count(
    upstream: Upstream, key: PrivateKey
) -> None:
    other = upstream.registry.add_image("demo/other", "v1", text=b"other")
    sign_image_by_tag(upstream, key, upstream.image["digest"], named=other["digest"])
    (finding,) = refused(upstream, AuthenticityError, upstream.spec(image=KEY))
    assert finding.found == f"a signature of the image {other['digest']!r}"


def test_an_sbom_that_the_signer_attested_is_no_signature_of_the_image(
    upstream: Upstream, key: PrivateKey
) -> None:
    statement = image_statement(upstream.image["digest"], "https://spdx.dev/Document")
    add_bundle_referrer(upstream.registry, "demo/app", upstream.image, with_key(key)(statement))
    (finding,) = refused(upstream, AuthenticityError, upstream.spec(image=KEY))
    assert finding.found == "https://spdx.dev/Document"


def test_the_signature_of_a_signature_says_nothing_about_the_image(
    upstream: Upstream, key: PrivateKey
) -> None:
    unsigned = add_bundle_referrer(upstream.registry, "demo/app", upstream.image, b"{}")
    statement = image_statement(upstream.image["digest"])
    add_bundle_referrer(upstream.registry, "demo/app", unsigned, with_key(key)(statement))
    (finding,) = refused(upstream, AuthenticityError, upstream.spec(image=KEY))
    assert finding.found == "None", "only what refers to the image itself is looked at"


def test_of_many_signatures_under_one_tag_the_good_one_is_found(upstream: Upstream, key: PrivateKey) -> None:
    payload = simple_payload(upstream.image["digest"])
    layers = [(payload + b" " * n, generate().sign(payload)) for n in range(1, 4)]
    add_signature_tag(
        upstream.registry, "demo/app", upstream.image["digest"], [*layers, (payload, key.sign(payload))]
    )
    upstream.lock(upstream.spec(image={"require": True, **KEY}))


def test_a_registry_that_hands_out_another_signature_is_refused(upstream: Upstream, key: PrivateKey) -> None:
    sign_image_by_tag(upstream, key, upstream.image["digest"])
    spec = upstream.spec(image=KEY)
    lock = upstream.lock(spec)
    (referrer,) = lock.images[0].referrers
    payload = referrer.blobs[1][0]
    upstream.registry.always[payload] = Fault(flip=True)
    with pytest.raises(IntegrityError) as caught:
        upstream.build(spec, lock)
    assert caught.value.reference == "digest-mismatch"


# --- what signatures are checked with ---


def test_a_key_that_changed_since_it_was_locked_refuses_the_build(
    upstream: Upstream, sigstore: Sigstore, key: PrivateKey
) -> None:
    sign_all(upstream, sigstore, key)
    spec = pinned_spec(upstream)
    lock = upstream.lock(spec)
    upstream.write("upstream.pub", generate().public.pem)
    with pytest.raises(SealiftError) as caught:
        upstream.build(spec, lock)
    assert caught.value.reference == "digest-mismatch"


@pytest.mark.parametrize(
    ("name", "data", "reference"),
    [
        ("upstream.pub", b"no key", "bad-key"),
        ("upstream.pub", None, "no-source"),
        ("root.json", b"{}", "bad-trusted-root"),
        ("root.json", None, "no-source"),
    ],
    ids=["no key", "no key file", "no trusted root", "no trusted root file"],
)
def test_what_cannot_check_a_signature_is_refused(
    upstream: Upstream, sigstore: Sigstore, key: PrivateKey, name: str, data: bytes | None, reference: str
) -> None:
    sign_all(upstream, sigstore, key)
    if data is None:
        (upstream.folder / name).unlink()
    else:
        upstream.write(name, data)
    with pytest.raises(MalformedError) as caught:
        upstream.lock(pinned_spec(upstream))
    assert caught.value.reference == reference
    assert caught.value.findings[0].where.endswith(name)


def test_the_root_of_another_sigstore_verifies_nothing(
    upstream: Upstream, sigstore: Sigstore, key: PrivateKey
) -> None:
    sign_all(upstream, sigstore, key)
    upstream.write("root.json", Sigstore().trusted_root())
    found = refused(upstream, AuthenticityError, pinned_spec(upstream))
    assert {item.where for item in found} == {MODEL, ENGINE}


def test_no_cache_and_no_network_of_the_user_is_asked_for_trust(
    upstream: Upstream, sigstore: Sigstore, key: PrivateKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library would trust what lies in its cache unchecked: nothing of it may be read or written."""
    home = tmp_path / "hostile"
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(home))
    sign_all(upstream, sigstore, key)
    upstream.lock(pinned_spec(upstream))
    assert not home.exists() or not [path for path in home.rglob("*") if "sigstore" in str(path)]


# --- locks of another hand ---


def test_a_lock_that_leaves_out_the_parts_of_a_signature_is_refused(
    upstream: Upstream, key: PrivateKey
) -> None:
    sign_image_by_tag(upstream, key, upstream.image["digest"])
    spec = upstream.spec(image=KEY)
    lock = upstream.lock(spec)
    (referrer,) = lock.images[0].referrers
    cut = referrer.model_copy(update={"blobs": ()})
    image = lock.images[0].model_copy(update={"referrers": (cut,)})
    with pytest.raises(SealiftError) as caught:
        upstream.build(spec, lock.model_copy(update={"images": (image,)}))
    assert "upstream-signature" in {item.reference for item in caught.value.findings}


def test_lock_check_tells_that_attestations_appeared(upstream: Upstream, sigstore: Sigstore) -> None:
    from bundler.assembly.locking import lock_changes

    before = upstream.lock(upstream.spec(engine={}))
    sign_wheel(upstream, sigstore)
    (change,) = lock_changes(before, upstream.lock(upstream.spec(engine={})))
    assert change.where == "engine llama.cpp: attestations of xllamacpp"
    assert change.locked == "nothing"


# --- the far side ---


@pytest.mark.slow
def test_the_perimeter_carries_evidence_and_decides_without_it(
    upstream: Upstream, sigstore: Sigstore, key: PrivateKey
) -> None:
    """The bundle verifies by the perimeter's own policy; evidence is bytes like all others."""
    sign_all(upstream, sigstore, key)
    spec = pinned_spec(upstream)
    bundle = upstream.build(spec, upstream.lock(spec))
    place = Workplace(folder=upstream.folder)
    place.make_trust()
    place.must("sign", "bundle", "--key", "release.key")
    place.must("verify", "bundle", *place.trust(), "--json")
    evidence = next(bundle.glob("payload/evidence/keys/*.pub"))
    evidence.write_text(generate().public.pem)
    outcome = place.run("verify", "bundle", *place.trust(), "--json")
    assert (outcome.code, outcome.references) == (10, {"digest-mismatch"})
