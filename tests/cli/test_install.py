"""`sealift install` as a person uses it: only what was verified to the last byte is installed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from bundler.assembly.wheel_index import wheel_documents
from bundler.cli.app import run
from bundler.content import system_libraries
from bundler.core.progress import SilentProgress
from bundler.core.specs.target import Target
from bundler.errors import IntegrityError
from bundler.install.gate import Admitted, InstallRequest, admit
from bundler.install.marker import read_marker
from bundler.storage.leases import Leases
from tests.assembly.test_wheel_index import locked
from tests.verification import damages
from tests.verification.bundles import TestBundle, make_bundle

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def bundle(tmp_path: Path) -> TestBundle:
    """A signed bundle with the engine `llama.cpp` as wheels for this machine."""
    made = tmp_path / "made"
    made.mkdir()
    machine = next(
        platform
        for platform in ("linux/amd64", "linux/arm64")
        if Target(python=PYTHON, platform=platform, glibc="2.17").arch == _machine()
    )
    facts: dict[str, Any] = {
        "id": "llama.cpp",
        "name": "llama.cpp",
        "python": PYTHON,
        "platform": machine,
        "glibc": "2.17",
    }
    engine = locked(made, ("xllamacpp", "1.0"), ("helper", "2.0"), **facts)
    files = {f"payload/wheels/{path.name}": path.read_bytes() for path in made.iterdir()}
    profile = {"profile": "night shift", "engine": {"folder": engine.folder}}
    members = {"launch": [profile, {"profile": "other", "engine": {"folder": "vllm-cp312-x86_64"}}]}
    return make_bundle(tmp_path, {**files, **wheel_documents([engine])}, members=members)


def _machine() -> str:
    import platform

    return platform.machine()


def arguments(bundle: TestBundle, *more: str) -> list[str]:
    trust = ["--policy", str(bundle.policy), "--state", str(bundle.state), "--no-progress"]
    return ["install", str(bundle.root), *trust, "--python", sys.executable, *more]


def test_a_verified_bundle_is_installed_and_the_next_command_named(
    bundle: TestBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments(bundle, "--to", str(tmp_path / "engine"))) == 0

    told = capsys.readouterr()
    assert told.out.startswith("llama.cpp 1.0: installed from 2 wheels, CPython 3.")
    trust = f"--policy {bundle.policy} --state {bundle.state}"
    rest = f"--profile 'night shift' --env {tmp_path / 'engine'}"
    assert f"next: sealift launch {bundle.root} {trust} {rest}\n" in told.err
    assert told.err.count("next:") == 1
    assert read_marker(tmp_path / "engine") is not None


def test_json_says_what_was_installed_from_which_manifest(
    bundle: TestBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments(bundle, "--engine", "llama.cpp", "--to", str(tmp_path / "engine"), "--json")) == 0

    report = json.loads(capsys.readouterr().out)
    marker = read_marker(tmp_path / "engine")
    assert marker is not None
    assert (report["verb"], report["verdict"], report["exitCode"]) == ("install", "passed", 0)
    assert report["manifest"] == marker["manifest"]
    assert report["engine"]["wheels"] == 2
    assert report["engine"]["reused"] is False


def test_a_library_that_the_engine_will_miss_refuses_before_the_bytes_are_read(
    bundle: TestBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(system_libraries, "KNOWN", {"xllamacpp": ("libnothing.so.9", "libgomp.so.1")})

    assert run(arguments(bundle, "--to", str(tmp_path / "engine"))) == 4

    told = capsys.readouterr()
    assert "no-system-library" in told.err
    assert "libnothing.so.9" in told.err
    assert "apt" not in told.err
    assert "this site's own mirror" in told.err
    assert told.out.splitlines()[-1].startswith("REFUSED: ")
    assert not (tmp_path / "engine").exists()


def test_a_damaged_bundle_installs_nothing(
    bundle: TestBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damages.flip(next(bundle.root.glob("payload/wheels/helper*.whl")), 60)

    assert run(arguments(bundle, "--to", str(tmp_path / "engine"))) != 0

    told = capsys.readouterr()
    assert "REFUSED: nothing was installed." in told.out
    assert "next:" not in told.err
    assert not (tmp_path / "engine").exists()


def test_a_bundle_nobody_signed_installs_nothing(
    bundle: TestBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (bundle.root / "attestations").iterdir():
        path.unlink()

    assert run(arguments(bundle, "--to", str(tmp_path / "engine"), "--json")) == 11

    report = json.loads(capsys.readouterr().out)
    assert (report["verb"], report["verdict"]) == ("install", "failed")
    assert not (tmp_path / "engine").exists()


@pytest.mark.parametrize(
    ("more", "code", "reference"),
    [
        (("--to", "TAKEN"), 2, "not-an-installation"),
        (("--to", "free", "--engine", "vllm"), 2, "no-such-engine"),
        (("--to", "free", "--images", "podmann://"), 2, "unknown-image-target"),
        (("--to", "free", "--python", "/bin/false"), 4, "wrong-python"),
    ],
    ids=["a taken place", "an engine it does not carry", "no such place for images", "a Python that is none"],
)
def test_what_manifest_and_machine_decide_is_told_before_the_bytes_are_read(
    bundle: TestBundle,
    tmp_path: Path,
    more: tuple[str, ...],
    code: int,
    reference: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # A damaged byte shows what was read: a verification that reaches it ends with 10.
    damages.flip(next(bundle.root.glob("payload/wheels/helper*.whl")), 60)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/letter.txt").write_text("mine")
    before = bundle.state.read_bytes()

    words = [str(tmp_path / word.lower()) if word in ("TAKEN", "free") else word for word in more]
    assert run(arguments(bundle, *words, "--json")) == code

    assert json.loads(capsys.readouterr().out)["findings"][0]["reference"] == reference
    assert bundle.state.read_bytes() == before
    assert (tmp_path / "taken/letter.txt").read_text() == "mine"
    assert not (tmp_path / "free").exists()


@pytest.mark.parametrize(
    "more",
    [(), ("--engine", "llama.cpp"), ("--images", "podman", "--engine", "llama.cpp")],
    ids=["nothing to install", "an engine without a place", "images, and an engine without a place"],
)
def test_contradicting_options_are_refused_before_verifying(
    bundle: TestBundle, more: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    before = bundle.state.read_bytes()

    assert run(arguments(bundle, *more)) == 2

    assert "--to DIR" in capsys.readouterr().err
    assert bundle.state.read_bytes() == before


def test_an_unknown_engine_is_refused_with_those_there_are(
    bundle: TestBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments(bundle, "--engine", "vllm", "--to", str(tmp_path / "engine"))) == 2

    assert "llama.cpp-cp3" in capsys.readouterr().err
    assert not (tmp_path / "engine").exists()


def test_a_wheel_that_is_open_for_writing_installs_nothing(
    bundle: TestBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with next(bundle.root.glob("payload/wheels/helper*.whl")).open("r+b"):
        assert run(arguments(bundle, "--to", str(tmp_path / "engine"))) == 10

    told = capsys.readouterr()
    assert "open-for-writing" in told.err
    assert told.out.splitlines()[-1] == "REFUSED: nothing was installed."
    assert not (tmp_path / "engine").exists()


def test_a_writer_that_comes_after_the_verification_installs_nothing(
    bundle: TestBundle, tmp_path: Path
) -> None:
    with Leases() as leases:
        admitted = admit(
            bundle.root, bundle.perimeter(), InstallRequest(to=tmp_path / "engine"), leases=leases
        )
        assert isinstance(admitted, Admitted)
        with (
            next(bundle.root.glob("payload/wheels/helper*.whl")).open("r+b"),
            pytest.raises(IntegrityError) as caught,
        ):
            admitted.install_engine(SilentProgress())
    assert caught.value.reference == "open-for-writing"
    assert not (tmp_path / "engine").exists()
