"""The unmodified cosign as upstream's release engineer: what it signs is verified here, and the reverse."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bundler.errors import AuthenticityError
from bundler.trust.keys import generate
from tests.assembly.upstream import Upstream, serving, standings
from tests.newer_tools import cosign
from tests.servers.loopback_sigstore import LoopbackSigstore
from tests.servers.signatures import (
    add_bundle_referrer,
    add_signature_tag,
    image_statement,
    simple_payload,
    with_key,
)

pytestmark = pytest.mark.slow
OLD_FORM = ("--new-bundle-format=false", "--use-signing-config=false", "--tlog-upload=false")
NO_LOG = {
    "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
    "rekorTlogConfig": {},
    "tsaConfig": {},
}
PLAIN_HTTP = ("--allow-insecure-registry", "--allow-http-registry")
PERSON = "release@vendor.example"


@pytest.fixture
def upstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Upstream]:
    with serving(tmp_path, monkeypatch) as servers:
        servers.write("no-log.json", json.dumps(NO_LOG))
        run(servers, "generate-key-pair")
        yield servers


def run(upstream: Upstream, *arguments: str, passes: bool = True) -> None:
    """Run cosign in the folder of the spec; it must pass, or must not."""
    # A proxy that refuses, so that a question to the public instance fails at once.
    nowhere = {"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1"}
    environment = {**os.environ, **nowhere, "COSIGN_PASSWORD": "", "HOME": str(upstream.folder)}
    done = subprocess.run(
        [cosign(), *arguments],
        cwd=upstream.folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode == 0) is passes, done.stderr


def image(upstream: Upstream) -> str:
    return f"{upstream.registry.host}/demo/app@{upstream.image['digest']}"


def state(upstream: Upstream, rule: dict[str, object]) -> dict[str, object]:
    """What a bundle with this rule says about its image."""
    spec = upstream.spec(image={"require": True, **rule})
    (standing,) = standings(upstream.build(spec, upstream.lock(spec))).values()
    return standing


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(OLD_FORM, id="signature tag"),
        pytest.param(("--signing-config", "no-log.json"), id="bundle"),
    ],
)
def test_what_cosign_signs_with_a_key_is_verified(upstream: Upstream, form: tuple[str, ...]) -> None:
    run(upstream, "sign", "-y", "--key", "cosign.key", *form, *PLAIN_HTTP, image(upstream))
    assert state(upstream, {"key": "cosign.pub"})["state"] == "verified"
    upstream.write("other.pub", generate().public.pem)
    with pytest.raises(AuthenticityError) as caught:
        upstream.lock(upstream.spec(image={"key": "other.pub"}))
    assert caught.value.reference == "upstream-signature"


def keyless_form(sigstore: LoopbackSigstore, *, old: bool) -> tuple[str, ...]:
    """Where cosign finds the services, for the form it writes now and for the one before version 3."""
    if not old:
        return ("--signing-config", "services.json")
    services = ("--fulcio-url", sigstore.url, "--rekor-url", sigstore.url)
    return ("--new-bundle-format=false", "--use-signing-config=false", *services)


@pytest.mark.parametrize(
    ("rekor", "timestamps", "old"),
    [(1, False, False), (1, True, False), (2, True, False), (1, False, True)],
    ids=["log", "log and time", "log version 2", "signature tag with the log's promise"],
)
def test_what_cosign_signs_keyless_is_verified(
    upstream: Upstream, rekor: int, timestamps: bool, old: bool
) -> None:
    with LoopbackSigstore(rekor=rekor, timestamps=timestamps) as sigstore:
        upstream.write("root.json", sigstore.trusted_root())
        upstream.write("services.json", json.dumps(sigstore.signing_config()))
        token = ("--identity-token", upstream.write("token", sigstore.token(PERSON)))
        services = (*keyless_form(sigstore, old=old), "--trusted-root", "root.json")
        run(upstream, "sign", "-y", *token, *services, *PLAIN_HTTP, image(upstream))
    identity = {"issuer": sigstore.url, "san": PERSON}
    standing = state(upstream, {"identity": identity, "trustedRoot": "root.json"})
    assert (standing["state"], standing["signer"]) == ("verified", identity)
    assert ("simple signing" in str(standing["checked"])) is old
    somebody = {"identity": {**identity, "san": "x@vendor.example"}, "trustedRoot": "root.json"}
    with pytest.raises(AuthenticityError) as caught:
        upstream.lock(upstream.spec(image=somebody))
    assert caught.value.findings[0].found == f"signed by {PERSON} (issuer {sigstore.url})"


def test_cosign_verifies_what_these_tests_write_as_its_own(upstream: Upstream) -> None:
    key = generate()
    upstream.write("ours.pub", key.public.pem)
    digest = upstream.image["digest"]
    payload = simple_payload(digest)
    verify = ("verify", "--insecure-ignore-tlog", *PLAIN_HTTP)
    run(upstream, *verify, "--key", "ours.pub", image(upstream), passes=False)
    add_signature_tag(upstream.registry, "demo/app", digest, [(payload, key.sign(payload))])
    run(upstream, *verify, "--new-bundle-format=false", "--key", "ours.pub", image(upstream))
    run(upstream, *verify, "--new-bundle-format=false", "--key", "cosign.pub", image(upstream), passes=False)
    add_bundle_referrer(upstream.registry, "demo/app", upstream.image, with_key(key)(image_statement(digest)))
    run(upstream, *verify, "--key", "ours.pub", image(upstream))
    run(upstream, *verify, "--key", "cosign.pub", image(upstream), passes=False)


def test_an_attestation_of_provenance_counts_and_one_of_a_bill_of_materials_does_not(
    upstream: Upstream,
) -> None:
    upstream.write("predicate.json", json.dumps({"buildDefinition": {}, "runDetails": {}}))
    attest = ("attest", "-y", "--key", "cosign.key", "--signing-config", "no-log.json")
    sbom = ("--type", "https://spdx.dev/Document", "--predicate", "predicate.json")
    run(upstream, *attest, *sbom, *PLAIN_HTTP, image(upstream))
    with pytest.raises(AuthenticityError):
        upstream.lock(upstream.spec(image={"key": "cosign.pub"}))
    provenance = ("--type", "slsaprovenance1", "--predicate", "predicate.json")
    run(upstream, *attest, *provenance, *PLAIN_HTTP, image(upstream))
    standing = state(upstream, {"key": "cosign.pub"})
    assert str(standing["checked"]).startswith("statement https://slsa.dev/provenance/v1 over sha256:")
