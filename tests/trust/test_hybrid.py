"""Hybrid signatures: P-256 for every tool and ML-DSA-65 for later, each in its own file, both required."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bundler.cli.app import run
from bundler.trust import spki
from bundler.trust.keys import PublicKey, generate, parse_public_key
from tests.newer_tools import openssl_with_ml_dsa
from tests.verification.bundles import TestBundle, make_bundle, snapshot

RELEASE = "urn:sealift:release:v1"


class Site:
    """A bundle signed by a classical and a post-quantum key, and a policy that asks for both."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys
        self.bundle: TestBundle = make_bundle(folder, {"payload/a": b"a"})
        shutil.rmtree(self.bundle.root / "attestations")
        for name, algorithm in (("classical", "p256"), ("quantum", "ml-dsa-65")):
            options = ("--algorithm", algorithm, "--owner", "Rita", "-o", f"{name}.key")
            self.passed("keys", "generate", *options)
        keys = ("--root", "classical.pub", "--release", "classical.pub", "--role", "release-pq=quantum.pub")
        self.bundle.policy.unlink()
        self.passed("trust", "init", *keys, "-o", "policy.json")
        policy = json.loads(Path("policy.json").read_bytes())
        both = (("release", "release"), ("pq", "release-pq"))
        policy["require"] = [{"id": name, "role": role, "predicateType": RELEASE} for name, role in both]
        Path("policy.json").write_text(json.dumps(policy))

    def report(self, *arguments: str) -> dict[str, Any]:
        """The JSON report of a command."""
        code = run([*arguments, "--json"])
        value: dict[str, Any] = json.loads(self.capsys.readouterr().out)
        assert value["exitCode"] == code
        return value

    def passed(self, *arguments: str) -> dict[str, Any]:
        report = self.report(*arguments)
        assert report["verdict"] == "passed", report
        return report

    def verify(self) -> dict[str, Any]:
        return self.report(*self.bundle.arguments())

    def sign_both(self) -> list[Path]:
        """Sign with both keys; the two files."""
        written = []
        for name in ("classical", "quantum"):
            report = self.passed("sign", "bundle", "--key", f"{name}.key", "--statement", "release")
            written += [self.bundle.root / path for path in report["written"]]
        return written


@pytest.fixture
def site(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEALIFT_PASSPHRASE", "only for this test")
    return Site(tmp_path, capsys)


def test_both_files_together_are_accepted(site: Site) -> None:
    files = site.sign_both()
    assert len(files) == 2
    assert site.verify()["verdict"] == "passed"


@pytest.mark.parametrize("stripped", [0, 1], ids=["the classical file", "the post-quantum file"])
def test_stripping_one_of_the_two_files_is_refused(site: Site, stripped: int) -> None:
    site.sign_both()[stripped].unlink()
    before = snapshot(site.bundle.state.parent)
    report = site.verify()
    (finding,) = report["findings"]
    assert (report["exitCode"], finding["reference"]) == (11, "threshold")
    assert (
        finding["where"]
        == f"policy: require.{('release', 'pq')[stripped]}, role " + (("release", "release-pq")[stripped])
    )
    assert snapshot(site.bundle.state.parent) == before


def test_a_second_classical_signature_does_not_stand_in_for_the_post_quantum_one(site: Site) -> None:
    site.sign_both()[1].unlink()
    first = site.bundle.root / "attestations/release.sigstore.json"
    shutil.copy(first, first.with_name("release-pq.sigstore.json"))
    report = site.verify()
    assert (report["exitCode"], report["findings"][0]["reference"]) == (11, "threshold")


def test_a_post_quantum_signature_with_one_changed_bit_is_refused(site: Site) -> None:
    path = site.sign_both()[1]
    value = json.loads(path.read_bytes())
    signature = value["dsseEnvelope"]["signatures"][0]["sig"]
    value["dsseEnvelope"]["signatures"][0]["sig"] = ("B" if signature[0] == "A" else "A") + signature[1:]
    path.write_text(json.dumps(value))
    report = site.verify()
    assert (report["exitCode"], report["findings"][0]["reference"]) == (11, "unknown-signer")


WITHOUT = """
import sys
import cryptography.hazmat.primitives.serialization as serialization
from cryptography.exceptions import UnsupportedAlgorithm

sys.modules["cryptography.hazmat.primitives.asymmetric.mldsa"] = None
load = serialization.load_der_public_key
def load_without(data, *rest, **more):
    if len(data) == 1974:
        raise UnsupportedAlgorithm("ML-DSA is not supported by this backend")
    return load(data, *rest, **more)
serialization.load_der_public_key = load_without
from bundler.cli.app import run
sys.exit(run(sys.argv[1:]))
"""
"""A `cryptography` from before version 48, as far as it matters: no module, and keys that do not load."""


def test_where_this_cryptography_cannot_do_it_the_error_names_the_version(site: Site) -> None:
    site.sign_both()
    before = snapshot(site.bundle.state.parent)
    commands = (
        ["keys", "generate", "--algorithm", "ml-dsa-65", "-o", "x.key", "--insecure-no-passphrase"],
        site.bundle.arguments(),
    )
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT, *command, "--json"], capture_output=True, text=True, check=False
        )
        report = json.loads(done.stdout)
        finding = report["findings"][0]
        assert (report["exitCode"], finding["reference"]) == (4, "algorithm-unsupported"), done.stderr
        assert finding["expected"].startswith("cryptography 48.0.1 or later")
        assert finding["found"].startswith("cryptography ")
    assert not Path("x.key").exists()
    assert snapshot(site.bundle.state.parent) == before


def test_openssl_verifies_our_post_quantum_signature_over_the_signed_bytes(site: Site) -> None:
    openssl = openssl_with_ml_dsa()
    from bundler.trust.dsse import parse_bundle

    path = site.sign_both()[1]
    envelope = parse_bundle(path.read_bytes(), where="x")
    Path("signed").write_bytes(envelope.signed_bytes)
    Path("signature").write_bytes(envelope.signature)
    command = [openssl, "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", "quantum.pub"]
    command += ["-in", "signed", "-sigfile", "signature"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    Path("signed").write_bytes(envelope.signed_bytes + b" ")
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


def test_a_post_quantum_signature_made_with_openssl_is_taken_in(site: Site) -> None:
    openssl = openssl_with_ml_dsa()
    # By default OpenSSL writes seed and expanded key together, which not every reader knows.
    form = ("-provparam", "ml-dsa.output_formats=seed-only")
    for command in (
        ["genpkey", "-algorithm", "ML-DSA-65", *form, "-out", "pq.key"],
        ["pkey", "-in", "pq.key", "-pubout", "-out", "pq.pub"],
    ):
        subprocess.run([openssl, *command], check=True, capture_output=True)
    public: PublicKey = parse_public_key(Path("pq.pub").read_bytes(), where="pq.pub")
    assert public.algorithm == spki.ML_DSA_65
    assert public.spki[:22] == generate(spki.ML_DSA_65).public.spki[:22]
    site.passed("attest", "new", "bundle", "--type", "release", "-o", "st.json", "--signed-bytes", "st.bytes")
    sign = [openssl, "pkeyutl", "-sign", "-rawin", "-inkey", "pq.key", "-in", "st.bytes", "-out", "st.sig"]
    subprocess.run(sign, check=True, capture_output=True)
    options = ("--signature", "st.sig", "--public-key", "pq.pub")
    assert site.passed("attest", "import", "bundle", "st.json", *options)["signer"] == public.fingerprint
    Path("pq.key").chmod(0o600)
    again = site.passed("sign", "bundle", "--key", "pq.key", "--statement", "release")
    assert again["kept"] == ["attestations/release.sigstore.json"]
