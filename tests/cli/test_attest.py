"""`sealift attest`: what a lawyer, a CISO and an approver see, sign and send back."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bundler.cli.app import run
from bundler.core.printable import groups
from bundler.trust.dsse import parse_bundle, pre_authentication_encoding
from bundler.trust.keys import generate
from bundler.trust.perimeter.first_policy import Holder, compose_policy
from tests.verification.bundles import REQUIRE, TestBundle, make_bundle, snapshot

LEGAL = {
    "id": "legal",
    "role": "legal",
    "predicateType": "urn:sealift:legal-opinion:v1",
    "where": {"verdict": "approved"},
}


class Office:
    """A bundle, a lawyer's key, and a policy that wants the lawyer's word."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys
        self.bundle: TestBundle = make_bundle(folder, {"payload/a": b"a"})
        self.lena = generate()
        key = folder / "lena.key"
        key.write_bytes(self.lena.to_pem(None))
        key.chmod(0o600)
        (folder / "lena.pub").write_text(self.lena.public.pem)
        holders = [
            Holder(role=role, key=self.bundle.key.public, owner="alice") for role in ("root", "release")
        ]
        holders.append(Holder(role="legal", key=self.lena.public, owner="Lena"))
        self.bundle.policy.write_bytes(compose_policy(holders, thresholds={}, require=[*REQUIRE, LEGAL]))
        (folder / "opinion.yaml").write_text("verdict: approved\nvalidUntil: 2027-03-31T00:00:00Z\n")

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, stdout, stderr of `sealift attest ...`."""
        code = run(["attest", *arguments])
        out, err = self.capsys.readouterr()
        return code, out, err

    def report(self, *arguments: str) -> dict[str, Any]:
        code, out, _ = self.run(*arguments, "--json")
        value: dict[str, Any] = json.loads(out)
        assert (value["exitCode"], value["verb"]) == (code, "attest")
        return value

    def listed(self, *options: str) -> dict[str, dict[str, Any]]:
        """The attestations by name, as `list` shows them."""
        return {item["name"]: item for item in self.report("list", "bundle", *options)["attestations"]}

    def verdict(self) -> str:
        """What `sealift verify` says about the bundle."""
        run([*self.bundle.arguments(), "--json"])
        verdict: str = json.loads(self.capsys.readouterr().out)["verdict"]
        return verdict


@pytest.fixture
def office(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Office:
    monkeypatch.chdir(tmp_path)
    return Office(tmp_path, capsys)


BOTH = ("--public-key", "lena.pub", "--policy", "policy.json")
NEW = ("new", "bundle", "--type", "legal-opinion", "--predicate", "opinion.yaml", "-o", "statement.json")


def references(report: dict[str, Any]) -> list[str]:
    return [finding["reference"] for finding in report["findings"]]


def test_whoever_is_to_sign_reads_digest_serial_channel_and_what_is_said(office: Office) -> None:
    code, out, err = office.run(*NEW)
    digest = office.report("list", "bundle")["manifest"]["sha256"]
    assert (code, out) == (0, "statement.json\n")
    for line in (
        "channel   test/stable",
        "serial    7",
        f"manifest  sha256:{groups(digest)}",
        'says      verdict: "approved"',
        'says      validUntil: "2027-03-31T00:00:00Z"',
        "cosign attest-blob --key KEY --statement statement.json",
    ):
        assert line in err
    statement = json.loads(Path("statement.json").read_bytes())
    assert statement["subject"] == [{"digest": {"sha256": digest}, "name": "manifest.json"}]


def test_new_sign_import_and_then_the_bundle_verifies(office: Office) -> None:
    assert office.verdict() == "failed"
    assert office.report(*NEW)["says"]["verdict"] == "approved"
    signed = office.report("sign", "statement.json", "--key", "lena.key")
    assert signed["written"] == ["statement.sigstore.json"]
    taken = office.report("import", "bundle", "statement.sigstore.json", "--policy", "policy.json")
    assert taken["written"] == ["attestations/legal-opinion.sigstore.json"]
    assert taken["signer"] == office.lena.public.fingerprint
    assert office.verdict() == "passed"
    before = snapshot(office.bundle.root)
    again = office.report("import", "bundle", "statement.sigstore.json", "--public-key", "lena.pub")
    assert (again["written"], again["kept"]) == ([], taken["written"])
    assert snapshot(office.bundle.root) == before


def test_our_own_signers_sign_straight_into_the_bundle(office: Office) -> None:
    arguments = ("sign", "bundle", *NEW[2:6], "--key", "lena.key")
    assert office.report(*arguments)["written"] == ["attestations/legal-opinion.sigstore.json"]
    assert office.verdict() == "passed"
    assert office.report(*arguments)["kept"] == ["attestations/legal-opinion.sigstore.json"]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="apt-get install openssl")
def test_a_signature_made_with_openssl_alone_is_taken_in(office: Office) -> None:
    office.report(*NEW, "--signed-bytes", "statement.bytes")
    signed = pre_authentication_encoding(Path("statement.json").read_bytes())
    assert Path("statement.bytes").read_bytes() == signed
    command = ["openssl", "dgst", "-sha256", "-sign", "lena.key", "-out", "lena.sig", "statement.bytes"]
    subprocess.run(command, check=True)
    options = ("--signature", "lena.sig", "--public-key", "lena.pub")
    taken = office.report("import", "bundle", "statement.json", *options)
    assert taken["written"] == ["attestations/legal-opinion.sigstore.json"]
    assert office.verdict() == "passed"


def test_the_list_says_who_signed_what_only_when_it_was_checked(office: Office) -> None:
    office.report("sign", "bundle", *NEW[2:6], "--key", "lena.key")
    unchecked = office.report("list", "bundle")["attestations"]
    assert {(item["checked"], item["signer"]) for item in unchecked} == {(False, None)}
    checked = {
        item["name"]: item
        for item in office.report("list", "bundle", "--policy", "policy.json")["attestations"]
    }
    assert checked["legal-opinion.sigstore.json"]["signer"] == f"Lena (key {office.lena.public.fingerprint})"
    assert checked["legal-opinion.sigstore.json"]["says"]["verdict"] == "approved"
    assert checked["release.sigstore.json"]["signer"].startswith("alice (key ")
    by_one = {
        item["name"]: item
        for item in office.report("list", "bundle", "--public-key", "lena.pub")["attestations"]
    }
    assert by_one["release.sigstore.json"]["fault"] == "signed by nobody who is known"
    (office.bundle.root / "attestations/junk.sigstore.json").write_text("{}")
    code, out, _ = office.run("list", "bundle", "--policy", "policy.json")
    assert code == 0
    assert "junk.sigstore.json  ?  NOT AUTHENTIC  FAULT: bad-envelope" in " ".join(out.split("   "))


@pytest.mark.parametrize(
    ("arguments", "code", "reference"),
    [
        (("new", "bundle", "--type", "approval", "-o", "x.json"), 2, "predicate-needed"),
        (("new", "bundle", "--type", "release", *NEW[4:6], "-o", "x.json"), 2, "predicate-not-needed"),
        (("new", "bundle", "--type", "risk-acceptance", *NEW[4:6], "-o", "x.json"), 3, "predicate"),
        (("new", "bundle", "--type", "release", "-o", "policy.json"), 2, "output-exists"),
        (("new", "state", "--type", "release", "-o", "x.json"), 2, "not-sealed"),
        (("sign", "bundle", "--key", "lena.key"), 2, "usage"),
        (("sign", "opinion.yaml", "--key", "lena.key"), 3, "bad-json"),
        (("sign", "policy.json", "--key", "lena.key"), 3, "statement-type"),
        (("sign", "bundle", "--type", "release", "--key", "nobody.key"), 2, "no-such-key"),
        (("import", "bundle", "policy.json", "--public-key", "lena.pub"), 3, "bad-envelope"),
        (("import", "bundle", "policy.json"), 2, "whose-signature"),
        (("import", "bundle", "policy.json", *BOTH), 2, "usage"),
        (("import", "bundle", "policy.json", "--public-key", "lena.key"), 3, "bad-key"),
    ],
)  # fmt: skip
def test_a_refusal_names_its_reason_and_writes_nothing(
    office: Office, arguments: tuple[str, ...], code: int, reference: str
) -> None:
    before = snapshot(office.folder)
    report = office.report(*arguments)
    assert (report["exitCode"], references(report)[0]) == (code, reference)
    assert snapshot(office.folder) == before


def test_a_foreign_key_an_altered_statement_and_another_bundle_are_refused(office: Office) -> None:
    office.report(*NEW)
    office.report("sign", "statement.json", "--key", "lena.key")
    stranger = office.folder / "stranger.pub"
    stranger.write_text(generate().public.pem)
    before = snapshot(office.bundle.root)
    refused = office.report("import", "bundle", "statement.sigstore.json", "--public-key", "stranger.pub")
    assert (refused["exitCode"], references(refused)) == (11, ["unknown-signer"])
    text = Path("statement.sigstore.json").read_text()
    Path("changed.sigstore.json").write_text(text.replace('"payload":"ey', '"payload":"e3'))
    refused = office.report("import", "bundle", "changed.sigstore.json", "--public-key", "lena.pub")
    assert (refused["exitCode"], references(refused)) == (11, ["unknown-signer"])
    other = make_bundle(office.folder / "other", {"payload/b": b"b"})
    refused = office.report("import", str(other.root), "statement.sigstore.json", "--public-key", "lena.pub")
    assert (refused["exitCode"], references(refused)) == (11, ["other-subject"])
    assert snapshot(office.bundle.root) == before


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="apt-get install openssh-client")
def test_a_signature_made_with_ssh_keygen_is_refused_by_name(office: Office) -> None:
    office.report(*NEW, "--signed-bytes", "statement.bytes")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "id"], check=True)
    command = ["ssh-keygen", "-q", "-Y", "sign", "-f", "id", "-n", "file", "statement.bytes"]
    subprocess.run(command, check=True, capture_output=True)
    before = snapshot(office.bundle.root)
    for file, options in (
        ("statement.json", ("--signature", "statement.bytes.sig")),
        ("statement.bytes.sig", ()),
    ):
        report = office.report("import", "bundle", file, *options, "--public-key", "lena.pub")
        assert (report["exitCode"], references(report)) == (3, ["ssh-signature"])
    assert snapshot(office.bundle.root) == before


def test_a_hostile_predicate_cannot_drive_the_terminal(office: Office) -> None:
    Path("opinion.yaml").write_text('{"verdict":"approved","note":"\\u001b[2Jgone","\\u001b[1m":"x"}')
    code, _, err = office.run(*NEW)
    assert code == 0
    assert "\x1b" not in err


def test_what_is_signed_is_the_statement_byte_for_byte(office: Office) -> None:
    office.report(*NEW)
    office.report("sign", "statement.json", "--key", "lena.key", "-o", "out.sigstore.json")
    envelope = parse_bundle(Path("out.sigstore.json").read_bytes(), where="x")
    assert envelope.payload == Path("statement.json").read_bytes()
