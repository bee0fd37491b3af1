"""The unmodified cosign, with keys and keyless: what it signs we take in, what we sign it verifies."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bundler.cli.app import run
from bundler.cli.attest import COSIGN_CONFIG
from bundler.trust.dsse import parse_bundle, parse_statement
from tests.newer_tools import cosign
from tests.servers.loopback_sigstore import LoopbackSigstore
from tests.verification.bundles import TestBundle, make_bundle, snapshot

LEGAL = "urn:sealift:legal-opinion:v1"
OMS = "https://model_signing/signature/v1.0"
pytestmark = pytest.mark.slow


class Desk:
    """A bundle, and somebody who has cosign and no network."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.program, self.capsys = cosign(), capsys
        self.bundle: TestBundle = make_bundle(folder, {"payload/a": b"a"})
        (folder / "alice.pub").write_text(self.bundle.key.public.pem)
        (folder / "config.json").write_text(COSIGN_CONFIG)
        (folder / "opinion.json").write_text('{"verdict":"approved"}')
        self.cosign("generate-key-pair", check=True)

    def cosign(self, *arguments: str, check: bool = False) -> subprocess.CompletedProcess[str]:
        # Proxies that refuse, so that a call for the public instance fails at once.
        nowhere = {"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1"}
        settings = {**os.environ, **nowhere, "COSIGN_PASSWORD": "x", "HOME": str(Path.cwd())}
        return subprocess.run(
            [self.program, *arguments], env=settings, capture_output=True, text=True, check=check
        )

    def report(self, *arguments: str) -> dict[str, Any]:
        run([*arguments, "--json"])
        value: dict[str, Any] = json.loads(self.capsys.readouterr().out)
        return value

    def new(self, kind: str, *options: str) -> None:
        """The statement a person is to sign."""
        options = (*options, "--predicate", "opinion.json") if kind == "legal-opinion" else options
        assert (
            self.report("attest", "new", "bundle", "--type", kind, "-o", "st.json", *options)["exitCode"] == 0
        )

    def attest_blob(self, *arguments: str) -> None:
        done = self.cosign("attest-blob", "-y", *arguments, "--bundle", "made.sigstore.json")
        assert done.returncode == 0, done.stderr

    def verifies(self, name: str, kind: str, *options: str) -> bool:
        """Whether cosign accepts an attestation of the bundle about its manifest."""
        path = self.bundle.root / "attestations" / f"{name}.sigstore.json"
        arguments = ("--bundle", str(path), "--insecure-ignore-tlog", "--type", kind, *options)
        return self.cosign("verify-blob-attestation", *arguments).returncode == 0


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.chdir(tmp_path)
    return Desk(tmp_path, capsys)


def test_cosign_verifies_each_key_attestation_of_ours(desk: Desk) -> None:
    manifest = str(desk.bundle.root / "manifest.json")
    key = ("--key", "alice.pub")
    assert desk.verifies("release", "urn:sealift:release:v1", *key, manifest)
    data = (desk.bundle.root / "attestations/oms.sigstore.json").read_bytes()
    (root,) = parse_statement(parse_bundle(data, where="x").payload, where="x").subjects.values()
    assert desk.verifies("oms", OMS, *key, "--digest", root, "--digestAlg", "sha256")
    assert not desk.verifies("release", LEGAL, *key, manifest)
    assert not desk.verifies("release", "urn:sealift:release:v1", "--key", "cosign.pub", manifest)
    assert not desk.verifies("release", "urn:sealift:release:v1", *key, "opinion.json")


@pytest.mark.parametrize("kind", ["legal-opinion", "release", "oms"])
def test_what_cosign_signs_is_taken_in_and_verifies_in_both(desk: Desk, kind: str) -> None:
    shutil.rmtree(desk.bundle.root / "attestations")
    desk.new(kind)
    statement = ("--statement", "st.json", "--signing-config", "config.json")
    desk.attest_blob("--key", "cosign.key", *statement)
    options = ("--public-key", "cosign.pub")
    taken = desk.report("attest", "import", "bundle", "made.sigstore.json", *options)
    assert taken["written"] == [f"attestations/{kind}.sigstore.json"], taken
    envelope = parse_bundle((desk.bundle.root / taken["written"][0]).read_bytes(), where="x")
    assert envelope.payload == Path("st.json").read_bytes()
    (listed,) = desk.report("attest", "list", "bundle", *options)["attestations"]
    assert listed["signer"] == f"key {taken['signer']}"
    if kind != "oms":
        manifest = str(desk.bundle.root / "manifest.json")
        assert desk.verifies(kind, taken["predicateType"], "--key", "cosign.pub", manifest)


def test_a_statement_that_cosign_composed_is_refused_with_the_right_option(desk: Desk) -> None:
    manifest = str(desk.bundle.root / "manifest.json")
    predicate = ("--predicate", "opinion.json", "--type", LEGAL, "--signing-config", "config.json", manifest)
    desk.attest_blob("--key", "cosign.key", *predicate)
    before = snapshot(desk.bundle.root)
    report = desk.report("attest", "import", "bundle", "made.sigstore.json", "--public-key", "cosign.pub")
    finding = report["findings"][0]
    assert (report["exitCode"], finding["reference"]) == (3, "statement-type")
    assert "--statement" in finding["hint"]
    assert snapshot(desk.bundle.root) == before


def test_a_file_that_cosign_signed_is_no_statement(desk: Desk) -> None:
    manifest = str(desk.bundle.root / "manifest.json")
    options = ("--signing-config", "config.json", "--bundle", "made.sigstore.json", manifest)
    assert desk.cosign("sign-blob", "-y", "--key", "cosign.key", *options).returncode == 0
    report = desk.report("attest", "import", "bundle", "made.sigstore.json", "--public-key", "cosign.pub")
    assert (report["exitCode"], report["findings"][0]["reference"]) == (3, "not-a-statement")


@pytest.mark.parametrize("rekor", [1, 2])
def test_cosign_verifies_our_keyless_signature_from_the_same_root(desk: Desk, rekor: int) -> None:
    shutil.rmtree(desk.bundle.root / "attestations")
    with LoopbackSigstore(rekor=rekor) as sigstore:
        Path("trust_config.json").write_bytes(sigstore.trust_config())
        Path("token").write_text(sigstore.token("ci@example.org"))
        Path("token").chmod(0o600)
        options = ("--trust-config", "trust_config.json", "--identity-token-file", "token")
        report = desk.report("sign", "bundle", "--keyless", *options, "--save-trusted-root", "root.json")
        assert report["verdict"] == "passed", report
        issuer = sigstore.url
    arguments = ["--bundle", str(desk.bundle.root / "attestations/release.sigstore.json")]
    arguments += ["--trusted-root", "root.json", "--type", "urn:sealift:release:v1"]
    arguments += ["--certificate-oidc-issuer", issuer, "--use-signed-timestamps"]
    manifest = str(desk.bundle.root / "manifest.json")
    for person, code in (("ci@example.org", 0), ("mallory@example.org", 1)):
        identity = ("--certificate-identity", person)
        done = desk.cosign("verify-blob-attestation", *arguments, *identity, manifest)
        assert min(done.returncode, 1) == code, done.stderr


@pytest.mark.parametrize("rekor", [1, 2])
def test_what_cosign_signs_keyless_is_taken_in_by_a_policy_that_names_the_person(
    desk: Desk, rekor: int
) -> None:
    desk.new("legal-opinion")
    with LoopbackSigstore(rekor=rekor) as sigstore:
        root = sigstore.trusted_root()
        Path("trusted_root.json").write_bytes(root)
        Path("services.json").write_text(json.dumps(sigstore.signing_config()))
        Path("token").write_text(sigstore.token("lena@example.org"))
        token = ("--identity-token", "token")
        services = ("--signing-config", "services.json", "--trusted-root", "trusted_root.json")
        desk.attest_blob("--statement", "st.json", *token, *services)
        identity = {"issuer": sigstore.url, "san": "lena@example.org"}
    policy = json.loads(desk.bundle.policy.read_bytes())
    policy["roles"]["legal"] = {"identities": [identity], "threshold": 1}
    policy["sigstore"] = {"trusted_root": {"sha256": hashlib.sha256(root).hexdigest()}}
    legal = {"id": "legal", "role": "legal", "predicateType": LEGAL, "where": {"verdict": "approved"}}
    desk.bundle.policy.write_text(json.dumps({**policy, "require": [*policy["require"], legal]}))
    assert desk.report(*desk.bundle.arguments())["verdict"] == "failed"
    taken = desk.report("attest", "import", "bundle", "made.sigstore.json", "--policy", "policy.json")
    assert taken["written"] == ["attestations/legal-opinion.sigstore.json"], taken
    assert desk.report(*desk.bundle.arguments())["verdict"] == "passed"
