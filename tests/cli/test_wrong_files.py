"""Files of the wrong kind where a document is named: told at once, never waited for, never read whole."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bundler.cli.app import run
from tests.verification.bundles import make_bundle

SPEC_TEMPLATE = ("init", "--profile", "demo", "--output")


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "demo.yaml"
    assert run([*SPEC_TEMPLATE, str(path)]) == 0
    return path


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """A named pipe that nobody writes to: opened the plain way, it is waited for without end."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


@pytest.fixture
def huge(tmp_path: Path) -> Path:
    """A file larger than this machine's memory; a hole on the disk."""
    path = tmp_path / "model-00001-of-00061.safetensors"
    with path.open("wb") as file:
        file.truncate(4 << 40)
    return path


VERBS = {
    "lock": ["lock", "FILE"],
    "plan": ["plan", "FILE"],
    "build": ["build", "FILE"],
    "plan --config": ["plan", "SPEC", "--config", "FILE"],
    "diff, before": ["diff", "FILE", "SPEC"],
    "trust show": ["trust", "show", "FILE"],
}


@pytest.mark.parametrize("words", VERBS.values(), ids=VERBS)
@pytest.mark.timeout(20)
def test_a_pipe_is_no_document(
    words: list[str], spec: Path, pipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {"FILE": str(pipe), "SPEC": str(spec)}
    capsys.readouterr()

    assert run([*(known.get(word, word) for word in words), "--json"]) == 2

    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert (finding["reference"], finding["where"]) == ("not-a-file", str(pipe))
    assert finding["found"].startswith("p")


@pytest.mark.parametrize("words", [VERBS[name] for name in VERBS if "diff" not in name])
@pytest.mark.timeout(20)
def test_a_file_of_terabytes_is_refused_without_reading_it(
    words: list[str], spec: Path, huge: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {"FILE": str(huge), "SPEC": str(spec)}
    capsys.readouterr()

    assert run([*(known.get(word, word) for word in words), "--json"]) == 3

    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert (finding["reference"], finding["where"]) == ("too-large", str(huge))


@pytest.mark.timeout(20)
def test_a_pipe_is_no_state(tmp_path: Path, pipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = make_bundle(tmp_path, {"payload/a": b"a"})

    code = run(["verify", str(bundle.root), "--policy", str(bundle.policy), "--state", str(pipe), "--json"])

    assert code == 2
    assert json.loads(capsys.readouterr().out)["findings"][0]["reference"] == "not-a-file"


PERIMETER = ("--policy", "policy.json", "--state", "state/state.json")
TAKES_A_BUNDLE = {
    "verify": ["verify", "BUNDLE", *PERIMETER],
    "install": ["install", "BUNDLE", *PERIMETER, "--engine", "vllm", "--to", "engine"],
    "launch": ["launch", "BUNDLE", *PERIMETER, "--profile", "default", "--env", "engine"],
    "sign": ["sign", "BUNDLE", "--key", "release.key"],
    "inspect": ["inspect", "BUNDLE"],
    "diff": ["diff", "BUNDLE", "bundle"],
    "attest list": ["attest", "list", "BUNDLE"],
    "attest new": ["attest", "new", "BUNDLE", "--type", "release", "-o", "statement.json"],
    "attest import": ["attest", "import", "BUNDLE", "policy.json", "--policy", "policy.json"],
}
NOT_THE_BUNDLE = {
    ".": "a folder with bundles in it",
    "bundle/payload/models": "a folder inside a bundle",
    "bundle/manifest.json": "a file of a bundle",
    "other.building": "an unfinished build",
    "policy.json": "a trust policy",
    "spec.yaml": "a spec",
}


@pytest.fixture
def medium(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a bundle, an unfinished one, a policy, a state, a spec and a lock."""
    make_bundle(tmp_path)
    (tmp_path / "other.building").mkdir()
    monkeypatch.chdir(tmp_path)
    assert run([*SPEC_TEMPLATE, "spec.yaml"]) == 0
    (tmp_path / "spec.lock.json").write_text('{"type": "urn:sealift:lock:v1"}')
    return tmp_path


def findings(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, str]]:
    """The exit code, and the first finding."""
    capsys.readouterr()
    code = run([*words, "--json"])
    return code, json.loads(capsys.readouterr().out)["findings"][0]


@pytest.mark.parametrize("named", NOT_THE_BUNDLE)
@pytest.mark.parametrize("verb", TAKES_A_BUNDLE)
def test_what_is_named_instead_of_a_bundle_is_told(
    verb: str, named: str, medium: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if verb in ("inspect", "diff") and named == "bundle/manifest.json":
        assert run([named if word == "BUNDLE" else word for word in TAKES_A_BUNDLE[verb]]) == 0
        return
    before = (medium / "policy.json").read_bytes()
    code, finding = findings([named if w == "BUNDLE" else w for w in TAKES_A_BUNDLE[verb]], capsys)
    assert code == 2
    assert finding["reference"] in ("not-a-bundle", "unknown-document")
    assert finding["found"] == NOT_THE_BUNDLE[named]
    if "bundle" in named or named == ".":
        assert finding["hint"].endswith("bundle?")
    assert (medium / "policy.json").read_bytes() == before


def test_a_damaged_bundle_is_left_to_the_verifier(medium: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (medium / "bundle/manifest.json").unlink()
    code, finding = findings(["verify", "bundle", *PERIMETER], capsys)
    assert (code, finding["reference"]) == (10, "missing-file")


@pytest.mark.parametrize("verb", ["lock", "build", "plan"])
@pytest.mark.parametrize(
    ("named", "found"),
    [
        ("spec.lock.json", "a lock"),
        ("bundle/manifest.json", "the manifest of a bundle"),
        ("bundle", "the folder of a bundle"),
        ("policy.json", "a trust policy"),
        ("bundle/attestations/release.sigstore.json", "a signed statement (an attestation)"),
    ],
)
def test_what_is_named_instead_of_a_spec_is_told(
    verb: str, named: str, found: str, medium: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, finding = findings([verb, named], capsys)
    if verb == "plan" and found == "a lock":
        assert finding["reference"] != "not-a-spec"
        return
    assert (code, finding["reference"], finding["found"]) == (2, "not-a-spec", found)
    if found == "a lock":
        assert finding["hint"] == "did you mean spec.yaml?"


@pytest.mark.parametrize("verb", ["verify", "install", "launch"])
@pytest.mark.parametrize(
    ("named", "found"),
    [("bundle/manifest.json", "the manifest of a bundle"), ("spec.yaml", "a spec")],
)
def test_what_is_named_instead_of_a_policy_is_told(
    verb: str, named: str, found: str, medium: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [named if word == "policy.json" else word for word in TAKES_A_BUNDLE[verb]]
    code, finding = findings(["bundle" if word == "BUNDLE" else word for word in words], capsys)
    assert (code, finding["reference"], finding["where"], finding["found"]) == (3, "bad-policy", named, found)


def test_the_policy_is_never_rewritten_as_a_state(medium: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (medium / "policy.json").read_bytes()
    words = ["verify", "bundle", "--policy", "policy.json", "--state", "./policy.json"]
    code, finding = findings(words, capsys)
    assert (code, finding["reference"]) == (2, "output-is-input")
    assert (medium / "policy.json").read_bytes() == before


def test_a_manifest_named_to_inspect_is_shown_with_its_signatures(
    medium: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["inspect", "bundle/manifest.json"]) == 0
    assert "release.sigstore.json" in capsys.readouterr().out
    (medium / "manifest.json").write_bytes((medium / "bundle/manifest.json").read_bytes())
    assert run(["inspect", "manifest.json"]) == 0
    assert "a manifest without its bundle" in capsys.readouterr().out
