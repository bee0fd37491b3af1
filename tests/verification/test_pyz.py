"""`verify.pyz`: the same verdict as `sealift verify` with nothing installed, and always the same bytes."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from bundler.errors import MalformedError
from bundler.trust.keys import generate
from bundler.verification import portable
from bundler.verification.openssl import OpensslVerifier, from_pem, to_pem
from bundler.verification.pyz import build_verify_pyz, portable_modules
from tests.verification import damages
from tests.verification.bundles import TestBundle, make_bundle, sign_bundle
from tests.verification.damages import Damage

NEEDS_OPENSSL = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="needs the openssl program: apt-get install openssl"
)


@functools.cache
def oldest_python() -> str | None:
    """A Python 3.9, when there is one."""
    installed = sorted(Path.home().glob(".pyenv/versions/3.9.*/bin/python3.9"))
    for python in ["python3.9", *map(str, installed)]:
        # A name on PATH may be a stand-in of a version manager that only says what is missing.
        with contextlib.suppress(OSError):
            if subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0:
                return python
    return None


@pytest.fixture(scope="module")
def pyz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pyz") / "verify.pyz"
    path.write_bytes(build_verify_pyz())
    return path


@pytest.fixture
def bundle(tmp_path: Path) -> TestBundle:
    return make_bundle(tmp_path)


def run(pyz: Path, *arguments: str, python: str = sys.executable, **environment: str) -> Any:
    done = subprocess.run(
        [python, "-I", str(pyz), *arguments, "--json"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], **environment},
    )
    assert done.stderr == ""
    report = json.loads(done.stdout)
    assert report["exitCode"] == done.returncode
    return report


def told(findings: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{name: value for name, value in finding.items() if name != "hint"} for finding in findings]


def test_it_is_made_of_portable_modules_only() -> None:
    modules = portable_modules()

    assert "bundler.verification.portable" in modules
    assert not [
        name for name in modules if name.startswith(("bundler.cli", "bundler.sources", "bundler.content"))
    ]
    assert not {"bundler.trust.keys", "bundler.trust.keyless", "bundler.core.specs.spec"} & set(modules)


def test_its_bytes_are_always_the_same() -> None:
    script = (
        "import sys; from bundler.verification.pyz import build_verify_pyz as b; sys.stdout.buffer.write(b())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "LC_ALL": "C"}

    other = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, env=environment)

    assert other.stdout == build_verify_pyz()
    with zipfile.ZipFile(io.BytesIO(other.stdout)) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert archive.namelist() == sorted(archive.namelist())


@NEEDS_OPENSSL
@pytest.mark.parametrize("algorithm", ["ecdsa-p256-sha256", "ecdsa-p384-sha384", "ed25519"])
def test_a_good_bundle_passes_and_what_is_not_checked_is_named(
    tmp_path: Path, pyz: Path, algorithm: str
) -> None:
    if not OpensslVerifier().can_check(algorithm):
        pytest.skip("Ed25519 needs OpenSSL 3: apt-get install openssl")
    bundle = make_bundle(tmp_path, algorithm=algorithm)

    report = run(pyz, str(bundle.root), "--policy", str(bundle.policy))

    assert (report["verdict"], report["findings"]) == ("passed", [])
    assert report["bytesRead"] == sum(map(len, bundle.files.values()))
    assert [text.split(":")[0] for text in report["notChecked"]] == [
        "step 7 (content headers)",
        "step 9 (records and rules)",
        "step 10 (verdict and state)",
    ]


@NEEDS_OPENSSL
@pytest.mark.parametrize("damage", damages.ALL, ids=lambda damage: damage.sentence)
def test_it_says_what_sealift_verify_says(
    bundle: TestBundle, damage: Damage, capsys: pytest.CaptureFixture[str]
) -> None:
    damage.do(bundle)

    code = portable.main([str(bundle.root), "--policy", str(bundle.policy), "--json"])

    theirs = json.loads(capsys.readouterr().out)
    assert_parity(bundle, code, theirs)
    assert [one["reference"] for one in theirs["findings"] if not one["hint"]] == []


def assert_parity(bundle: TestBundle, code: int, theirs: Any) -> None:
    ours = bundle.verify().report.to_json()
    assert (theirs["verdict"], theirs["exitCode"], code) == (
        ours["verdict"],
        ours["exitCode"],
        ours["exitCode"],
    )
    assert told(theirs["findings"]) == told(ours["findings"])


@NEEDS_OPENSSL
@pytest.mark.slow
@pytest.mark.parametrize("damage", damages.ALL, ids=lambda damage: damage.sentence)
def test_the_zip_application_says_the_same_under_the_oldest_python(
    bundle: TestBundle, pyz: Path, damage: Damage
) -> None:
    damage.do(bundle)

    theirs = run(
        pyz, str(bundle.root), "--policy", str(bundle.policy), python=oldest_python() or sys.executable
    )

    assert_parity(bundle, theirs["exitCode"], theirs)


@NEEDS_OPENSSL
@pytest.mark.parametrize("level", ["signatures", "quick", "full"])
def test_it_runs_under_the_oldest_python_we_promise(bundle: TestBundle, pyz: Path, level: str) -> None:
    python = oldest_python()
    if python is None:
        pytest.skip("needs Python 3.9: pyenv install 3.9, or uv python install 3.9")
    good = run(pyz, str(bundle.root), "--policy", str(bundle.policy), "--level", level, python=python)
    damages.flip(bundle.path(damages.WEIGHTS), 4096)
    bad = run(pyz, str(bundle.root), "--policy", str(bundle.policy), "--level", level, python=python)

    assert good["verdict"] == "passed"
    assert bad["exitCode"] == (10 if level == "full" else 0)


@NEEDS_OPENSSL
def test_one_key_is_enough_to_check_one_signer(bundle: TestBundle, pyz: Path, tmp_path: Path) -> None:
    (tmp_path / "release.pem").write_text(bundle.key.public.pem)
    sign_bundle(bundle.root, generate(), prefix="legal-")

    report = run(pyz, str(bundle.root), "--key", str(tmp_path / "release.pem"))

    assert report["verdict"] == "passed"
    assert (
        "step 4 (signatures): attestations/legal-release.sigstore.json, which is not signed by this key"
        in report["notChecked"]
    )


@NEEDS_OPENSSL
def test_another_key_passes_nothing(bundle: TestBundle, pyz: Path, tmp_path: Path) -> None:
    (tmp_path / "other.pem").write_text(generate().public.pem)

    report = run(pyz, str(bundle.root), "--key", str(tmp_path / "other.pem"))

    assert (report["verdict"], report["exitCode"]) == ("failed", 11)


def test_a_signature_it_cannot_check_is_incomplete_and_never_good(tmp_path: Path, pyz: Path) -> None:
    bundle = make_bundle(tmp_path, algorithm="ml-dsa-65")

    report = run(pyz, str(bundle.root), "--policy", str(bundle.policy))

    assert (report["verdict"], report["exitCode"]) == ("incomplete", 13)
    assert any("release.sigstore.json" in text for text in report["notChecked"])
    assert report["bytesRead"] > 0, "the bytes are compared all the same"


def test_without_openssl_nothing_counts_as_signed(bundle: TestBundle, pyz: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    report = run(pyz, str(bundle.root), "--policy", str(bundle.policy), PATH=str(tmp_path / "empty"))

    assert (report["verdict"], report["exitCode"]) == ("incomplete", 13)


@NEEDS_OPENSSL
def test_a_hostile_openssl_configuration_changes_nothing(
    bundle: TestBundle, pyz: Path, tmp_path: Path
) -> None:
    (tmp_path / "openssl.cnf").write_text("openssl_conf = x\n[x]\nproviders = y\n[y]\nnone = z\n")
    damages._wrong_key(bundle)

    report = run(
        pyz,
        str(bundle.root),
        "--policy",
        str(bundle.policy),
        OPENSSL_CONF=str(tmp_path / "openssl.cnf"),
        PYTHONPATH=str(tmp_path),
    )

    assert report["exitCode"] == 11


def test_a_missing_policy_is_told_without_a_traceback(bundle: TestBundle, pyz: Path) -> None:
    report = run(pyz, str(bundle.root), "--policy", "/nowhere/policy.json")

    assert (report["exitCode"], report["findings"][0]["where"]) == (4, "/nowhere/policy.json")


def test_a_pipe_in_the_place_of_the_policy_is_refused_instead_of_waited_for(
    bundle: TestBundle, pyz: Path, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")

    report = run(pyz, str(bundle.root), "--policy", str(tmp_path / "pipe"))

    assert (report["exitCode"], report["findings"][0]["reference"]) == (2, "not-a-file")


def test_people_read_a_verdict_and_hostile_names_do_not_reach_the_terminal(
    bundle: TestBundle, pyz: Path
) -> None:
    bundle.path("payload/\x1b[2Jx").write_bytes(b"")

    done = subprocess.run(
        [sys.executable, "-I", str(pyz), str(bundle.root), "--policy", str(bundle.policy)],
        capture_output=True,
        check=False,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
    )

    assert done.returncode in (10, 13)
    assert b"\x1b" not in done.stdout
    assert done.stdout.endswith(b"do not install or launch this bundle.\n")


def test_pem_and_der_of_a_key_fit_each_other() -> None:
    key = generate().public

    assert to_pem(key.spki).decode() == key.pem
    assert from_pem(key.pem.encode()) == key.spki
    assert from_pem(b"no key") == b""


def test_a_finding_without_a_hint_names_sealift_explain(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise MalformedError("bad-manifest", "the manifest is not valid")

    monkeypatch.setattr(portable, "verify", refuse)
    assert portable.main([str(tmp_path), "--key", "a.pub"]) == 3
    assert "  hint:     `sealift explain bad-manifest`" in capsys.readouterr().out
