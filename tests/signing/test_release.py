"""Sign: three statements about a sealed bundle, each in a file with one signature."""

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
from bundler.core.manifest import FileEntry, Manifest, compose
from bundler.core.paths import parse_bundle_path
from bundler.core.printable import groups
from bundler.errors import IntegrityError, MalformedError, UsageError
from bundler.signing.attestations import KeyAttestor
from bundler.signing.release import KINDS, open_sealed, sign_bundle
from bundler.signing.signer import FileSigner
from bundler.trust import spki
from bundler.trust.dsse import parse_bundle, parse_statement
from bundler.trust.keys import generate, verify_signature
from bundler.trust.model_signing_format import OMS_TYPE
from bundler.trust.perimeter.first_policy import Holder, compose_policy
from bundler.trust.policy import TrustPolicy, authenticate, evaluate
from bundler.trust.statements import PROVENANCE_TYPE, RELEASE_TYPE

LOCK = {
    "type": "urn:sealift:lock:v1",
    "models": [{"id": "kimi", "repo": "org/kimi", "commit": "c" * 40, "files": []}],
    "engines": [
        {"wheels": [{"name": "vllm", "version": "1.0", "filename": "vllm-1.0.whl", "sha256": "d" * 64}]}
    ],
    "tools": [
        {"wheels": [{"name": "vllm", "version": "1.0", "filename": "vllm-1.0.whl", "sha256": "d" * 64}]}
    ],
    "images": [{"reference": "r.example/vllm:1", "digest": "sha256:" + "e" * 64}],
    "files": [
        {"path": "payload/files/a", "sha256": "f" * 64, "url": "https://example.org/a"},
        {"path": "payload/files/b", "sha256": "0" * 64, "source": "secret/place/b"},
    ],
}
FILES = {
    "README.md": b"read me\n",
    "payload/models/a-b/weights.bin": bytes(range(256)) * 40,
    "payload/models/a/.gitattributes": b"* lfs\n",
    "payload/models/a/empty": b"",
    "payload/models/a.txt": b"a",
    "payload/records/lock.json": json.dumps(LOCK).encode(),
}
RITA, PAT = (KeyAttestor(FileSigner(generate(kind))) for kind in (spki.ECDSA_P256, spki.ML_DSA_65))


def sealed_tree(root: Path, **members: Any) -> Path:
    """A bundle-shaped tree with a manifest that fits."""
    for path, data in FILES.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    entries = [
        FileEntry(path=parse_bundle_path(path), size=len(data), sha256=hashlib.sha256(data).hexdigest())
        for path, data in FILES.items()
    ]
    lock = hashlib.sha256(FILES["payload/records/lock.json"]).hexdigest()
    given = {"lock": lock, "createdAt": "2026-05-01T00:00:00Z", **members}
    manifest = compose(channel="c", serial=3, files=entries, chunks=None, **given)
    (root / "manifest.json").write_bytes(manifest)
    return root


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return sealed_tree(tmp_path / "bundle-3")


def tree(folder: Path) -> dict[str, bytes]:
    """Every file with its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def statement_of(bundle: Path, name: str) -> Any:
    """The statement in an attestation."""
    data = (bundle / "attestations" / f"{name}.sigstore.json").read_bytes()
    return parse_statement(parse_bundle(data, where=name).payload, where=name)


def judged(bundle: Path, *holders: Holder) -> bool:
    """Whether the first policy accepts the bundle."""
    policy = TrustPolicy.parse(compose_policy([*holders], thresholds={}))
    manifest = (bundle / "manifest.json").read_bytes()
    attestations = {path.name: path.read_bytes() for path in (bundle / "attestations").iterdir()}
    signed = authenticate(policy, attestations, verify_signature=verify_signature)
    return evaluate(policy, Manifest.parse(manifest), signed).passed


def test_what_is_signed_is_what_the_first_policy_asks_for(bundle: Path) -> None:
    signed = sign_bundle(open_sealed(bundle), RITA)
    assert signed.written == tuple(f"attestations/{kind}.sigstore.json" for kind in KINDS)
    root = Holder(role="root", key=generate().public, owner="ann")
    assert judged(bundle, root, Holder(role="release", key=RITA.signer.public, owner="rita"))
    assert not judged(bundle, root, Holder(role="release", key=generate().public, owner="rita"))


def test_the_release_statement_says_serial_channel_files_and_bytes(bundle: Path) -> None:
    sign_bundle(open_sealed(bundle), RITA)
    statement = statement_of(bundle, "release")
    digest = hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()
    assert statement.predicate_type == RELEASE_TYPE
    assert statement.subjects == {"manifest.json": digest}
    total = sum(map(len, FILES.values()))
    assert statement.predicate == {"serial": 3, "channel": "c", "files": len(FILES), "bytes": total}


def test_provenance_holds_the_lock_and_every_upstream_once(bundle: Path) -> None:
    sign_bundle(open_sealed(bundle), RITA)
    statement = statement_of(bundle, "provenance")
    assert statement.predicate_type == PROVENANCE_TYPE
    definition = statement.predicate["buildDefinition"]
    assert definition["externalParameters"]["lock"] == LOCK
    assert [(item["uri"], *item["digest"].items()) for item in definition["resolvedDependencies"]] == [
        ("hf://org/kimi@" + "c" * 40, ("gitCommit", "c" * 40)),
        ("pkg:pypi/vllm@1.0", ("sha256", "d" * 64)),
        ("oci://r.example/vllm:1", ("sha256", "e" * 64)),
        ("https://example.org/a", ("sha256", "f" * 64)),
        ("urn:sealift:file:payload/files/b", ("sha256", "0" * 64)),
    ]
    assert statement.predicate["runDetails"]["metadata"] == {"finishedOn": "2026-05-01T00:00:00Z"}


def test_the_oms_statement_lists_the_whole_tree_in_code_point_order(bundle: Path) -> None:
    sign_bundle(open_sealed(bundle), RITA)
    statement = statement_of(bundle, "oms")
    assert statement.predicate_type == OMS_TYPE
    names = [item["name"] for item in statement.predicate["resources"]]
    assert names == sorted([*FILES, "manifest.json"])
    assert list(statement.subjects) == ["bundle-3"]


def test_signing_again_changes_nothing(bundle: Path) -> None:
    sign_bundle(open_sealed(bundle), RITA)
    before = tree(bundle)
    signed = sign_bundle(open_sealed(bundle), RITA)
    assert signed.written == ()
    assert len(signed.kept) == 3
    assert tree(bundle) == before


def test_signing_again_after_the_folder_was_renamed_changes_nothing(bundle: Path) -> None:
    sign_bundle(open_sealed(bundle), RITA)
    moved = bundle.rename(bundle.with_name("elsewhere"))
    assert sign_bundle(open_sealed(moved), RITA).written == ()


def test_a_second_signer_adds_files_of_its_own(bundle: Path) -> None:
    sign_bundle(open_sealed(bundle), RITA)
    before = tree(bundle)
    signed = sign_bundle(open_sealed(bundle), PAT, ("release",))
    name = f"attestations/release-{PAT.signer.public.fingerprint[:8]}.sigstore.json"
    assert signed.written == (name,)
    assert tree(bundle).keys() - before.keys() == {name}
    assert sign_bundle(open_sealed(bundle), PAT, ("release",)).kept == (name,)


def test_hints_are_those_that_third_party_tools_compare(bundle: Path) -> None:
    sign_bundle(open_sealed(bundle), RITA)
    hints = {}
    for kind in KINDS:
        value = json.loads((bundle / f"attestations/{kind}.sigstore.json").read_bytes())
        hints[kind] = value["verificationMaterial"]["publicKey"]["hint"]
    assert hints["oms"] == hashlib.sha256(RITA.signer.public.pem.encode()).hexdigest()
    assert hints["release"] == hints["provenance"] == RITA.signer.public.fingerprint


def test_a_bundle_without_a_lock_gets_no_provenance(tmp_path: Path) -> None:
    signed = sign_bundle(open_sealed(sealed_tree(tmp_path / "b", lock=None)), RITA)
    assert signed.left_out == ("provenance",)
    assert len(signed.written) == 2


def test_an_unsealed_folder_is_not_signed(tmp_path: Path) -> None:
    (tmp_path / "payload").mkdir()
    with pytest.raises(UsageError) as caught:
        open_sealed(tmp_path)
    assert caught.value.reference == "not-sealed"


@pytest.mark.parametrize(
    ("change", "reference"),
    [
        (lambda root: (root / "extra").write_bytes(b""), "extra-file"),
        (lambda root: (root / "README.md").unlink(), "missing-file"),
        (lambda root: (root / "README.md").write_bytes(b"longer than it was"), "wrong-size"),
        (lambda root: (root / "empty").mkdir(), "unlisted-directory"),
        (lambda root: (root / "link").symlink_to("README.md"), "symbolic-link"),
        (lambda root: (root / "payload/records/lock.json").write_bytes(b"x" * 1000), "wrong-size"),
    ],
)
def test_a_changed_tree_is_not_signed(bundle: Path, change: Any, reference: str) -> None:
    change(bundle)
    with pytest.raises(IntegrityError) as caught:
        open_sealed(bundle)
    assert {finding.reference for finding in caught.value.findings} == {reference}
    assert not (bundle / "attestations").exists()


def test_a_lock_that_was_swapped_for_one_of_the_same_size_is_noticed(bundle: Path) -> None:
    path = bundle / "payload/records/lock.json"
    path.write_bytes(path.read_bytes().replace(b"kimi", b"kiwi"))
    with pytest.raises(IntegrityError) as caught:
        open_sealed(bundle)
    assert caught.value.reference == "lock-record"


def test_an_unreadable_attestation_that_is_there_is_not_silently_replaced(bundle: Path) -> None:
    (bundle / "attestations").mkdir()
    (bundle / "attestations/release.sigstore.json").write_bytes(b"{}")
    with pytest.raises(MalformedError):
        sign_bundle(open_sealed(bundle), RITA)
    assert (bundle / "attestations/release.sigstore.json").read_bytes() == b"{}"


def test_the_command_shows_what_is_signed_before_the_key_is_asked_for(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SEALIFT_PASSPHRASE", raising=False)
    key = tmp_path / "release.key"
    key.write_bytes(generate().to_pem(b"secret"))
    key.chmod(0o600)
    assert run(["sign", str(bundle), "--key", str(key)]) == 2
    _, err = capsys.readouterr()
    digest = hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()
    assert err.index(f"manifest  sha256:{groups(digest)}") < err.index("no-passphrase")
    assert not (bundle / "attestations").exists()
    monkeypatch.setenv("SEALIFT_PASSPHRASE", "secret")
    assert run(["sign", str(bundle), "--key", str(key), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["manifest"] == {"sha256": digest, "serial": 3}
    assert len(report["written"]) == 3


OPENSSL_LINES = """
f=attestations/release.sigstore.json
jq -r .dsseEnvelope.payload $f | base64 -d > "$W/b"
jq -r .dsseEnvelope.signatures[0].sig $f | base64 -d > "$W/s"
{ printf 'DSSEv1 28 application/vnd.in-toto+json %s ' $(stat -c %s "$W/b"); cat "$W/b"; } > "$W/p"
openssl dgst -sha256 -verify "$W/release.pub" -signature "$W/s" "$W/p"
[ "$(jq -r '.subject[0].digest.sha256' "$W/b")" = "$(sha256sum manifest.json | cut -d' ' -f1)" ]
"""
"""What an auditor types who has no sealift."""


@pytest.mark.skipif(not (shutil.which("jq") and shutil.which("openssl")), reason="apt-get install jq openssl")
def test_an_auditor_checks_a_signature_with_jq_and_openssl_alone(bundle: Path, tmp_path: Path) -> None:
    sign_bundle(open_sealed(bundle), RITA)
    (tmp_path / "release.pub").write_text("Owner: Rita\n" + RITA.signer.public.pem)
    script = f"set -eu; W={shlex.quote(str(tmp_path))}\n{OPENSSL_LINES}"
    done = subprocess.run(["bash", "-c", script], cwd=bundle, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Verified OK" in done.stdout
    (bundle / "manifest.json").write_bytes(b"{}")
    assert subprocess.run(["bash", "-c", script], cwd=bundle, capture_output=True, check=False).returncode


@pytest.fixture(scope="module")
def model_signing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unmodified `model_signing` in an environment of its own; pyOpenSSL is missing in its metadata."""
    folder = tmp_path_factory.mktemp("model-signing")
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(__import__("sys").executable).parent))
    if uv is None:
        pytest.skip("uv is needed: pip install uv")
    subprocess.run([uv, "venv", "-q", str(folder)], check=True)
    python = str(folder / "bin" / "python")
    wanted = ["model-signing==1.1.1", "pyOpenSSL"]
    done = subprocess.run(
        [uv, "pip", "install", "-q", "--python", python, *wanted], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"model-signing could not be installed: {done.stderr[:200]}")
    return folder / "bin" / "model_signing"


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", [spki.ECDSA_P256, spki.ECDSA_P384])
def test_the_unmodified_model_signing_verifies_the_whole_bundle(
    bundle: Path, tmp_path: Path, model_signing: Path, algorithm: str
) -> None:
    signer = FileSigner(generate(algorithm))
    sign_bundle(open_sealed(bundle), KeyAttestor(signer))
    (tmp_path / "release.pub").write_text("Owner: Rita\n" + signer.public.pem)

    def verify() -> subprocess.CompletedProcess[str]:
        options = ["--signature", "bundle-3/attestations/oms.sigstore.json", "--public_key", "release.pub"]
        return subprocess.run(
            [
                str(model_signing),
                "verify",
                "key",
                *options,
                "--ignore-paths",
                "bundle-3/attestations",
                "bundle-3",
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    done = verify()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout.lower()
    (bundle / "payload/models/a.txt").write_bytes(b"b")
    assert verify().returncode != 0
