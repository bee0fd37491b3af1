"""`sealift attest`: what a lawyer, a CISO and an approver see, sign and send back."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bundler.cli.app import run
from bundler.core.predicate_types import BY_KIND, FILL_IN
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
RELEASE = "bundle/attestations/release.sigstore.json"
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
        (("import", "bundle", "policy.json", *BOTH), 3, "bad-envelope"),
        (("list", "bundle", *BOTH), 2, "usage"),
        (("new", *NEW[1:4], "--predicate", "template.json", "-o", "x.json"), 3, "predicate"),
        (("template", "release"), 2, "predicate-not-needed"),
        (("new", *NEW[1:6], "--supersedes", "policy.json", "-o", "x.json"), 3, "bad-envelope"),
        (("new", *NEW[1:6], "--supersedes", RELEASE, "-o", "x.json"), 3, "other-type"),
        (("sign", *NEW[1:6], "--supersedes", RELEASE, "--key", "lena.key"), 3, "other-type"),
        (("new", "bundle", "--type", "release", "--supersedes", RELEASE, "-o", "x.json"), 2, "usage"),
        (("sign", "opinion.yaml", "--supersedes", RELEASE, "--key", "lena.key"), 2, "usage"),
        (("import", "bundle", "policy.json", "--public-key", "lena.key"), 3, "bad-key"),
    ],
)  # fmt: skip
def test_a_refusal_names_its_reason_and_writes_nothing(
    office: Office, arguments: tuple[str, ...], code: int, reference: str
) -> None:
    Path("template.json").write_text(json.dumps(BY_KIND["legal-opinion"].template()))
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


# ---- a no and its withdrawal


def test_a_rejection_blocks_until_its_signer_supersedes_it(office: Office) -> None:
    Path("no.json").write_text('{"verdict": "rejected"}')
    sign = ("sign", "bundle", "--type", "legal-opinion", "--key", "lena.key", "--predicate")
    no = office.report(*sign, "no.json")["written"][0]
    office.report(*sign, "opinion.yaml")
    assert office.verdict() == "failed"
    run([*office.bundle.arguments(), "--json"])
    findings = json.loads(office.capsys.readouterr().out)["findings"]
    assert [item["reference"] for item in findings] == ["threshold"]
    command = findings[0]["hint"].split("`")[1].replace("BUNDLE", "bundle").replace("FILE", "opinion.yaml")
    words = shlex.split(command.replace("KEY", "lena.key"))
    assert words[-2:] == ["--supersedes", f"bundle/{no}"]
    assert office.run(*words[2:])[0] == 0
    assert office.verdict() == "passed"


def test_a_statement_file_names_what_it_supersedes_before_it_is_signed(office: Office) -> None:
    Path("no.json").write_text('{"verdict": "rejected"}')
    arguments = ("--type", "legal-opinion", "--predicate", "no.json", "--key", "lena.key")
    no = Path("bundle", office.report("sign", "bundle", *arguments)["written"][0])
    digest = hashlib.sha256(parse_bundle(no.read_bytes(), where="no").payload).hexdigest()
    _, _, err = office.run(*NEW, "--supersedes", str(no), "--supersedes", str(no))
    assert f'says      supersedes[0]: "{digest}"' in err
    assert json.loads(Path("statement.json").read_bytes())["predicate"]["supersedes"] == [digest]


def test_a_no_about_another_bundle_cannot_be_superseded(office: Office) -> None:
    other = make_bundle(office.folder / "other", {"payload/b": b"b"})
    arguments = ("--type", "legal-opinion", "--predicate", "opinion.yaml", "--key", "lena.key")
    said = office.report("sign", str(other.root), *arguments)["written"][0]
    refused = office.report(*NEW, "--supersedes", str(other.root / said))
    assert (refused["exitCode"], references(refused)) == (11, ["other-subject"])


# ---- everything is shown, nothing has to be guessed


def test_conditions_and_nested_members_are_shown_before_signing(office: Office) -> None:
    said = {
        "verdict": "approved-with-conditions",
        "conditions": ["no medical use", {"until": ["x"], "none": []}],
        "document": {"sha256": "a" * 64},
    }
    Path("opinion.yaml").write_text(json.dumps(said))
    shown = [
        'conditions[0]: "no medical use"',
        'conditions[1].until[0]: "x"',
        "conditions[1].none: []",
        "document.sha256: ",
        "serial: 7",
    ]
    for arguments in (
        NEW,
        ("sign", "statement.json", "--key", "lena.key"),
        ("sign", *NEW[1:6], "--key", "lena.key"),
    ):
        code, _, err = office.run(*arguments)
        assert (code, [line for line in shown if f"says      {line}" not in err]) == (0, [])
    _, out, _ = office.run("list", "bundle")
    assert "no medical use" in out


@pytest.mark.parametrize("kind", ["release", "oms"])
def test_members_computed_from_the_bundle_are_shown_by_their_number(office: Office, kind: str) -> None:
    _, _, err = office.run("new", "bundle", "--type", kind, "-o", f"{kind}.json")
    said = json.loads(Path(f"{kind}.json").read_bytes())["predicate"]
    assert [name for name in said if f"says      {name}: " not in err] == []


@pytest.mark.parametrize("kind", [kind for kind, known in BY_KIND.items() if known.author == "person"])
def test_a_template_is_refused_until_it_is_filled_in(office: Office, kind: str) -> None:
    _, out, _ = office.run("template", kind)
    template = json.loads(out)
    needed = office.report("template", kind)["required"]
    assert set(needed) <= template.keys()
    Path("p.json").write_text(out)
    new = ("new", "bundle", "--type", kind, "--predicate", "p.json", "-o", "p.statement.json")
    refused = office.report(*new)
    assert (refused["exitCode"], set(references(refused))) == (3, {"predicate"})
    assert len(refused["findings"]) == out.count(FILL_IN)
    for name in needed:
        Path("p.json").write_text(json.dumps({key: True for key in needed if key != name}))
        assert any(name in item["where"] for item in office.report(*new)["findings"])


def test_import_warns_of_a_signer_whom_the_policy_does_not_know(office: Office) -> None:
    stranger = generate()
    Path("sam.key").write_bytes(stranger.to_pem(None))
    Path("sam.key").chmod(0o600)
    Path("sam.pub").write_text(stranger.public.pem)
    office.report(*NEW)
    office.report("sign", "statement.json", "--key", "sam.key")
    arguments = ("import", "bundle", "statement.sigstore.json", "--public-key", "sam.pub")
    warned = office.report(*arguments, "--policy", "policy.json")
    assert warned["exitCode"] == 0
    assert [(item["reference"], item["severity"]) for item in warned["findings"]] == [
        ("unknown-signer", "warning")
    ]
    assert "refuse the whole bundle" in office.run(*arguments, "--policy", "policy.json")[2]
    assert office.verdict() == "failed"


def test_import_of_a_known_signer_warns_of_nothing(office: Office) -> None:
    office.report(*NEW)
    office.report("sign", "statement.json", "--key", "lena.key")
    assert office.report("import", "bundle", "statement.sigstore.json", *BOTH)["findings"] == []
