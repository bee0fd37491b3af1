"""Keyless from end to end: signed through a Sigstore on loopback, verified where there is no network."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundler.errors import SealiftError
from bundler.trust.dsse import parse_bundle
from bundler.trust.keyless import OfflineKeylessVerifier
from bundler.trust.keys import generate
from bundler.trust.perimeter.first_policy import Holder, compose_policy
from bundler.trust.policy_document import Identity
from bundler.trust.statements import compose
from tests.servers.loopback_sigstore import LoopbackSigstore, inclusion_path, tree_root
from tests.servers.sigstore import Sigstore
from tests.verification.bundles import REQUIRE, make_bundle, snapshot

SAN = "https://example.org/repo/.github/workflows/release.yml@refs/tags/v1"
NO_NETWORK = ("unshare", "-rn", "--")
SEALIFT = Path(sys.executable).with_name("sealift")


def can_unshare() -> bool:
    """Whether this machine gives out empty network namespaces."""
    return subprocess.run([*NO_NETWORK, "true"], capture_output=True, check=False).returncode == 0


needs_unshare = pytest.mark.skipif(
    not can_unshare(), reason="unshare -rn is refused: apt-get install util-linux"
)
needs_faketime = pytest.mark.skipif(shutil.which("faketime") is None, reason="apt-get install faketime")


class Site:
    """The connected side and, below the same folder, the perimeter's files."""

    def __init__(self, folder: Path, sigstore: LoopbackSigstore) -> None:
        self.folder, self.sigstore = folder, sigstore
        self.bundle = make_bundle(folder, {"payload/a": b"a"})
        shutil.rmtree(self.bundle.root / "attestations")
        self.root = folder / "trusted_root.json"
        (folder / "trust_config.json").write_bytes(sigstore.trust_config())
        self.home = folder / "home"
        self.home.mkdir()

    def run(
        self,
        *arguments: str,
        before: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> dict[str, Any]:
        """The JSON report of a command, run as its own process."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SEALIFT_", "XDG_", "ACTIONS_", "GITHUB_", "CI", "SIGSTORE_"))
        }
        settings = {**kept, "HOME": str(self.home), **(environment or {})}
        done = subprocess.run(
            [*before, str(SEALIFT), *arguments, "--json"],
            cwd=cwd or self.folder,
            env=settings,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout, done.stderr
        value: dict[str, Any] = json.loads(done.stdout)
        assert value["exitCode"] == done.returncode
        return value

    def token(self, subject: str = SAN, **changes: Any) -> Path:
        path = self.folder / "token"
        path.write_text(self.sigstore.token(subject, **changes) + "\n")
        path.chmod(0o600)
        return path

    def sign(self, *options: str, **token: Any) -> dict[str, Any]:
        given = ["--trust-config", "trust_config.json", "--identity-token-file", str(self.token(**token))]
        return self.run("sign", "bundle", "--keyless", *given, *options)

    def pin(self, *, issuer: str = "", san: str = SAN, root: bytes = b"") -> None:
        """Write a policy in which the identity releases, and the root beside it."""
        data = root or self.sigstore.trusted_root()
        self.root.write_bytes(data)
        holders = [Holder(role=role, key=generate().public, owner="ann") for role in ("root", "release")]
        policy = json.loads(compose_policy(holders, thresholds={}, require=REQUIRE))
        identity = {"issuer": issuer or self.sigstore.url, "san": san}
        policy["roles"]["release"] = {"identities": [identity], "threshold": 1}
        policy["sigstore"] = {"trusted_root": {"sha256": hashlib.sha256(data).hexdigest()}}
        self.bundle.policy.write_text(json.dumps(policy))

    def verify(self, *options: str, **more: Any) -> dict[str, Any]:
        arguments = ["verify", str(self.bundle.root), "--policy", str(self.bundle.policy)]
        return self.run(*arguments, "--state", str(self.bundle.state), *options, **more)


@pytest.fixture(params=["rekor-1", "rekor-1-tsa", "rekor-2-tsa"])
def any_site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    version, stamped = int(request.param[6]), request.param.endswith("tsa")
    with LoopbackSigstore(rekor=version, timestamps=stamped) as sigstore:
        yield Site(tmp_path, sigstore)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with LoopbackSigstore(rekor=2) as sigstore:
        yield Site(tmp_path, sigstore)


def references(report: Mapping[str, Any]) -> list[str]:
    return [finding["reference"] for finding in report["findings"]]


@pytest.mark.slow
@needs_unshare
def test_what_is_signed_keyless_verifies_without_a_network(any_site: Site) -> None:
    signed = any_site.sign("--save-trusted-root", "saved_root.json")
    assert signed["verdict"] == "passed", signed
    assert (signed["identity"], signed["issuer"]) == (SAN, any_site.sigstore.url)
    saved = (any_site.folder / "saved_root.json").read_bytes()
    assert hashlib.sha256(saved).hexdigest() == signed["trustedRoot"]
    any_site.pin(root=saved)
    report = any_site.verify(before=NO_NETWORK)
    assert report["verdict"] == "passed", report
    (required, _) = report["trust"]["requirements"] if "trust" in report else report["requirements"]
    assert required["counted"] == [f"{SAN} ({any_site.sigstore.url})"]
    for path in (any_site.bundle.root / "attestations").iterdir():
        assert parse_bundle(path.read_bytes(), where=path.name).keyless
    before = snapshot(any_site.bundle.root)
    assert any_site.sign()["written"] == []
    assert snapshot(any_site.bundle.root) == before


@pytest.mark.slow
@needs_unshare
def test_nothing_of_a_hostile_home_or_working_directory_is_read(site: Site) -> None:
    site.sign()
    site.pin()
    with LoopbackSigstore(rekor=2) as other:
        poison = other.trusted_root()
    hostile = site.folder / "hostile"
    for place in (
        "",
        ".cache/sigstore-python/tuf/https%3A%2F%2Ftuf-repo-cdn.sigstore.dev",
        ".sigstore/root/targets",
    ):
        (hostile / place).mkdir(parents=True, exist_ok=True)
        (hostile / place / "trusted_root.json").write_bytes(poison)
        (hostile / place / "root.json").write_text("{}")
    for name in ("sigstore", "bundler", "cryptography", "json"):
        (hostile / f"{name}.py").write_text("raise SystemExit('read from the working directory')\n")
    (hostile / "policy.json").write_text("{}")
    names = ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "TUF_ROOT")
    environment = {name: str(hostile) for name in names} | {"SIGSTORE_ROOT_FILE": str(hostile / "root.json")}
    before = snapshot(hostile)
    genuine = site.bundle.policy.read_bytes(), site.root.read_bytes()
    site.pin(root=poison)
    refused = site.verify(cwd=hostile, environment=environment, before=NO_NETWORK)
    assert (refused["exitCode"], set(references(refused))) == (11, {"unknown-signer"})
    site.bundle.policy.write_bytes(genuine[0])
    site.root.write_bytes(genuine[1])
    report = site.verify(cwd=hostile, environment=environment, before=NO_NETWORK)
    assert report["verdict"] == "passed", report
    assert snapshot(hostile) == before


@pytest.mark.slow
def test_the_wrong_person_issuer_instance_or_root_is_refused(site: Site) -> None:
    site.sign("--statement", "release", "--statement", "oms")
    state = site.bundle.state.read_bytes()
    site.pin(san="https://example.org/other")
    assert references(site.verify()) == ["unknown-signer"] * 2
    site.pin(issuer="https://accounts.example")
    assert references(site.verify()) == ["unknown-signer"] * 2
    with LoopbackSigstore(rekor=2) as other:
        site.pin(root=other.trusted_root(), issuer=site.sigstore.url)
        assert references(site.verify()) == ["unknown-signer"] * 2
        site.pin()
        (site.folder / "elsewhere.json").write_bytes(other.trusted_root())
    mismatch = site.verify("--trusted-root", str(site.folder / "elsewhere.json"))
    assert (mismatch["exitCode"], references(mismatch)) == (11, ["trusted-root"])
    missing = site.verify("--trusted-root", str(site.folder / "nothing.json"))
    assert (missing["exitCode"], references(missing)) == (2, ["no-trusted-root"])
    assert site.bundle.state.read_bytes() == state
    site.root.rename(site.folder / "moved.json")
    assert site.verify()["verdict"] == "incomplete"
    assert site.verify("--trusted-root", str(site.folder / "moved.json"))["verdict"] == "passed"


@pytest.mark.slow
def test_what_could_not_be_checked_is_not_remembered_as_accepted(site: Site) -> None:
    site.sign("--statement", "release", "--statement", "oms")
    site.pin()
    site.root.unlink()
    state = site.bundle.state.read_bytes()
    assert site.verify()["verdict"] == "incomplete"
    assert site.bundle.state.read_bytes() == state


@pytest.mark.slow
def test_a_log_entry_of_another_artifact_is_refused(site: Site) -> None:
    site.sign("--statement", "release", "--statement", "oms")
    site.pin()
    folder = site.bundle.root / "attestations"
    release, oms = (
        json.loads((folder / f"{kind}.sigstore.json").read_bytes()) for kind in ("release", "oms")
    )
    release["verificationMaterial"]["tlogEntries"] = oms["verificationMaterial"]["tlogEntries"]
    (folder / "release.sigstore.json").write_text(json.dumps(release))
    report = site.verify()
    assert (report["exitCode"], references(report)) == (11, ["unknown-signer"])


@pytest.mark.slow
@needs_faketime
def test_only_a_clock_before_the_root_stops_verification_and_says_so(site: Site) -> None:
    site.sign()
    site.pin()
    state = site.bundle.state.read_bytes()
    early = site.verify(before=("faketime", "2001-01-01 00:00:00"))
    assert early["verdict"] != "passed"
    assert early["exitCode"] not in (0, 1)
    assert set(references(early)) == {"clock"}
    assert "in the past" in early["findings"][0]["what"]
    assert site.bundle.state.read_bytes() == state
    late = site.verify(before=("faketime", "2040-01-01 00:00:00"))
    assert late["verdict"] == "passed", late


@pytest.mark.slow
def test_an_opinion_signed_keyless_elsewhere_is_taken_in(site: Site) -> None:
    from sigstore.dsse import Statement
    from sigstore.models import ClientTrustConfig
    from sigstore.oidc import IdentityToken
    from sigstore.sign import SigningContext

    (site.folder / "opinion.json").write_text('{"verdict":"approved"}')
    site.run(
        "attest", "new", "bundle", "--type", "legal-opinion", "--predicate", "opinion.json", "-o", "st.json"
    )
    context = SigningContext.from_trust_config(
        ClientTrustConfig.from_json(site.sigstore.trust_config().decode())
    )
    with context.signer(IdentityToken(site.sigstore.token("lena@example.org"))) as signer:
        made = signer.sign_dsse(Statement((site.folder / "st.json").read_bytes()))
    (site.folder / "legal.sigstore.json").write_text(made.to_json())
    site.pin(san="lena@example.org")
    taken = site.run("attest", "import", "bundle", "legal.sigstore.json", "--policy", "policy.json")
    assert taken["verdict"] == "passed", taken
    assert taken["signer"] == f"lena@example.org ({site.sigstore.url})"
    assert parse_bundle((site.bundle.root / taken["written"][0]).read_bytes(), where="x").keyless
    site.root.rename(site.folder / "moved.json")
    before = snapshot(site.bundle.root)
    unchecked = site.run("attest", "import", "bundle", "legal.sigstore.json", "--policy", "policy.json")
    assert (unchecked["exitCode"], references(unchecked)) == (4, ["not-checked"])
    assert snapshot(site.bundle.root) == before
    site.pin(san="mallory@example.org")
    refused = site.run("attest", "import", "bundle", "legal.sigstore.json", "--policy", "policy.json")
    assert (refused["exitCode"], references(refused)) == (11, ["unknown-signer"])


@pytest.mark.slow
def test_a_job_of_a_build_service_signs_as_the_identity_it_is_given(site: Site) -> None:
    """Without token and terminal: the library asks GitHub's address of the job, which is ours here."""
    job = {
        "GITHUB_ACTIONS": "true",
        "ACTIONS_ID_TOKEN_REQUEST_URL": f"{site.sigstore.url}/job-token?api-version=2.0",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN": site.sigstore.job_secret,
    }
    command = ("sign", "bundle", "--keyless", "--trust-config", "trust_config.json")
    wrong = site.run(*command, environment={**job, "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "guessed"})
    assert (wrong["exitCode"], references(wrong)) == (2, ["bad-identity-token"])
    assert not (site.bundle.root / "attestations").exists()
    signed = site.run(*command, environment=job)
    assert signed["exitCode"] == 0, signed["findings"][0]
    assert signed["identity"] == site.sigstore.job
    site.pin(san=site.sigstore.job)
    assert site.verify()["verdict"] == "passed"


@pytest.mark.skipif(shutil.which("script") is None, reason="apt-get install bsdutils")
@pytest.mark.slow
def test_a_person_logs_in_with_a_browser(site: Site) -> None:
    """On a terminal without a token: the library's own browser flow against our identity provider."""
    browser = site.folder / "browser"
    fetch = "import sys, urllib.request as u; u.urlopen(sys.argv[1]).read()"
    browser.write_text(f"#!/bin/sh\n{sys.executable} -c '{fetch}' \"$1\" >/dev/null 2>&1 &\n")
    browser.chmod(0o755)
    command = [str(SEALIFT), "sign", "bundle", "--keyless", "--trust-config", "trust_config.json", "--json"]
    done = subprocess.run(
        ["script", "-qec", " ".join(command), "/dev/null"],
        cwd=site.folder,
        env={**os.environ, "HOME": str(site.home), "BROWSER": f"{browser} %s"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    assert '"identity": "lena@example.org"' in done.stdout
    assert (site.bundle.root / "attestations/release.sigstore.json").exists()


@pytest.mark.slow
def test_what_sigstore_refuses_is_told_and_nothing_is_written(site: Site) -> None:
    before = snapshot(site.bundle.root)

    def refused(report: Mapping[str, Any]) -> tuple[int, str]:
        assert snapshot(site.bundle.root) == before
        return report["exitCode"], references(report)[0]

    assert refused(site.sign(lives=-600)) == (2, "bad-identity-token")
    assert refused(site.sign(audience="elsewhere")) == (2, "bad-identity-token")
    nothing = site.run("sign", "bundle", "--keyless", "--trust-config", "trust_config.json")
    assert refused(nothing) == (2, "no-identity-token")
    assert refused(site.run("sign", "bundle", "--keyless", "--key", "x")) == (2, "usage")
    assert refused(site.run("sign", "bundle")) == (2, "usage")
    site.token().chmod(0o644)
    options = ("--trust-config", "trust_config.json", "--identity-token-file", "token")
    assert refused(site.run("sign", "bundle", "--keyless", *options)) == (4, "key-file-readable")
    (site.folder / "trust_config.json").write_text("{}")
    assert refused(site.sign()) == (3, "bad-trust-config")
    with LoopbackSigstore(rekor=2) as other:
        mixed = json.loads(site.sigstore.trust_config())
        mixed["trustedRoot"] = json.loads(other.trusted_root())
        (site.folder / "trust_config.json").write_text(json.dumps(mixed))
        assert refused(site.sign())[0] in (5, 11)
        gone = other.trust_config()
    (site.folder / "trust_config.json").write_bytes(gone)
    assert refused(site.sign()) == (5, "sigstore")


@pytest.mark.slow
def test_a_log_without_timestamps_that_prove_no_time_is_noticed_while_signing(tmp_path: Path) -> None:
    with LoopbackSigstore(rekor=2, timestamps=False) as sigstore:
        site = Site(tmp_path, sigstore)
        report = site.sign()
        assert sigstore.requests.count("/api/v1/timestamp") == 0
    assert (report["exitCode"], references(report)) == (5, ["sigstore"])
    assert "signed timestamp" in report["findings"][0]["found"]
    assert list((site.bundle.root / "attestations").glob("*")) == []


STATEMENT = compose({"manifest.json": "a" * 64}, "urn:sealift:release:v1", {})
SIGNED_ELSEWHERE = Sigstore()
GENUINE = SIGNED_ELSEWHERE.sign(STATEMENT, issuer="https://issuer.example", san=SAN)
_ENTRY = ("verificationMaterial", "tlogEntries", 0)
_PROVEN: tuple[tuple[Any, ...], ...] = (
    ("dsseEnvelope", "payload"),
    ("dsseEnvelope", "signatures", 0, "sig"),
    ("verificationMaterial", "certificate", "rawBytes"),
    (*_ENTRY, "logId", "keyId"),
    (*_ENTRY, "inclusionPromise", "signedEntryTimestamp"),
    (*_ENTRY, "inclusionProof", "rootHash"),
    (*_ENTRY, "inclusionProof", "hashes", 0),
    (*_ENTRY, "canonicalizedBody"),
)


@settings(deadline=None)
@given(st.sampled_from(_PROVEN), st.integers(0), st.integers(1, 255), st.booleans())
def test_a_keyless_bundle_with_any_changed_byte_is_refused_and_never_an_accident(
    path: tuple[Any, ...], place: int, change: int, cut: bool
) -> None:
    value = json.loads(GENUINE)
    holder = value
    for name in path[:-1]:
        holder = holder[name]
    data = bytearray(base64.b64decode(holder[path[-1]]))
    data[place % len(data)] ^= change
    holder[path[-1]] = base64.b64encode(data[: place % len(data)] if cut else data).decode()
    assert not accepted(json.dumps(value).encode())


@settings(deadline=None)
@given(st.text(max_size=40), st.integers(0))
def test_a_checkpoint_that_is_no_note_is_refused_and_never_an_accident(text: str, place: int) -> None:
    value = json.loads(GENUINE)
    checkpoint = value["verificationMaterial"]["tlogEntries"][0]["inclusionProof"]["checkpoint"]
    whole = checkpoint["envelope"]
    # Behind the last signature a note may have more lines; before it every character counts.
    cut = place % whole.rindex("\u2014")
    checkpoint["envelope"] = whole[:cut] + text
    assert not accepted(json.dumps(value).encode())


def accepted(data: bytes) -> bool:
    """Whether the verifier says that the identity signed; only our own errors count as a refusal."""
    root = SIGNED_ELSEWHERE.trusted_root()
    verifier = OfflineKeylessVerifier(root, hashlib.sha256(root).hexdigest())
    try:
        envelope = parse_bundle(data, where="x")
        return verifier(envelope, (Identity(issuer="https://issuer.example", san=SAN),)) is not None
    except SealiftError:
        return False


def test_the_unchanged_bundle_is_accepted() -> None:
    assert accepted(GENUINE)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 13])
def test_the_loopback_log_proves_every_leaf(size: int) -> None:
    leaves = [hashlib.sha256(bytes([number])).digest() for number in range(size)]
    for index, leaf in enumerate(leaves):
        assert _root_by_proof(leaf, index, size, inclusion_path(index, leaves)) == tree_root(leaves)


def _root_by_proof(digest: bytes, index: int, size: int, path: list[bytes]) -> bytes:
    """RFC 9162 section 2.1.3.2, the verifier's side."""
    last = size - 1
    for item in path:
        if index % 2 or index == last:
            digest = hashlib.sha256(b"\x01" + item + digest).digest()
            while not index % 2 and index:
                index, last = index >> 1, last >> 1
        else:
            digest = hashlib.sha256(b"\x01" + digest + item).digest()
        index, last = index >> 1, last >> 1
    return digest


def test_signing_and_verifying_load_sigstore_only_when_it_is_needed() -> None:
    modules = "bundler.cli.sign, bundler.cli.verify, bundler.cli.attest, bundler.signing.attest"
    code = f"import sys, {modules}; print('sigstore' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
