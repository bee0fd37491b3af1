"""The README of a bundle: its commands run as printed on a read-only medium; its table is the manifest's."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from bundler.assembly.bundle_readme import Licences, render
from bundler.core.specs.lock import Lock
from bundler.records.license_table import LicenseRow
from tests.assembly.test_build import request, run
from tests.end_to_end.bundle_readme import Reader, block_with, blocks
from tests.end_to_end.commands import Workplace, files_below


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A small bundle that is signed, and a policy beside it."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "notes.txt").write_text("remember the milk\n")
    (folder / "LICENSE").write_text("do as you like\n")
    run(request(folder))
    workplace = Workplace(folder=folder)
    workplace.make_trust()
    workplace.must("sign", "bundle", "--key", "release.key")
    workplace.must("verify", "bundle", *workplace.trust())
    return workplace


@pytest.fixture
def reader(place: Workplace, tmp_path: Path) -> Reader:
    """Somebody with a copy of the bundle, the policy, a state and the release key."""
    shutil.copytree(place.folder / "bundle", tmp_path / "medium")
    home = tmp_path / "home"
    home.mkdir()
    for name in ("policy.json", "state.json", "release.pub"):
        shutil.copyfile(place.folder / name, home / name)
    names = {"POLICY": str(home / "policy.json"), "STATE": str(home / "state.json")}
    return Reader.of(tmp_path / "medium", home, **names)


def test_every_command_runs_as_printed_on_a_read_only_medium(reader: Reader) -> None:
    before = files_below(reader.bundle)
    assert reader.run("touch new").returncode != 0
    assert reader.run("command -v jq").returncode != 0

    done = reader.run("".join(blocks(reader.bundle)))

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Verified OK\nsame manifest\nall files fit\n" in done.stdout
    assert "release.sigstore.json 'urn:sealift:release:v1'" in done.stdout
    digest = hashlib.sha256((reader.bundle / "verify.pyz").read_bytes()).hexdigest()
    assert f"{digest}  verify.pyz" in done.stdout
    assert files_below(reader.bundle) == before
    assert not list(reader.home.glob("sealift-check*"))


def test_the_fingerprint_is_the_one_that_sealift_shows(reader: Reader, place: Workplace) -> None:
    shown = place.must("keys", "fingerprint", "release.pub").stdout.split()[0]
    done = reader.run(block_with(reader.bundle, "openssl pkey"))
    assert done.stdout.split()[0] == shown.removeprefix("sha256:")


def test_another_manifest_is_not_called_the_same(reader: Reader) -> None:
    (reader.bundle / "manifest.json").write_bytes((reader.bundle / "manifest.json").read_bytes() + b"\n")
    done = reader.run(block_with(reader.bundle, "openssl dgst"))
    assert "DIFFERENT manifest" in done.stdout
    assert "same manifest" not in done.stdout


def test_a_signature_by_another_key_prints_no_success(reader: Reader, place: Workplace) -> None:
    shutil.copyfile(place.folder / "root.pub", reader.home / "release.pub")
    done = reader.run(block_with(reader.bundle, "openssl dgst"))
    assert "Verified OK" not in done.stdout
    assert "same manifest" not in done.stdout


def test_another_statement_of_the_release_key_is_not_the_release(reader: Reader) -> None:
    folder = reader.bundle / "attestations"
    shutil.copyfile(folder / "provenance.sigstore.json", folder / "release.sigstore.json")
    assert "same manifest" not in reader.run(block_with(reader.bundle, "openssl dgst")).stdout


@pytest.mark.parametrize("name", ["payload/files/notes.txt", "SHA256SUMS"])
def test_a_changed_file_or_list_is_reported(name: str, reader: Reader) -> None:
    with (reader.bundle / name).open("ab") as stream:
        stream.write(b"x")
    done = reader.run(block_with(reader.bundle, "all files fit"))
    assert done.returncode != 0
    assert "all files fit" not in done.stdout


def test_no_command_imports_a_module_of_the_medium(reader: Reader) -> None:
    for name in ("base64", "json", "hashlib", "pathlib", "venv", "pip"):
        (reader.bundle / f"{name}.py").write_text("raise SystemExit('HOSTILE')\n")
    for words in ("ascii(", "openssl dgst", "all files fit", "verify.pyz . "):
        done = reader.run(block_with(reader.bundle, words))
        assert "HOSTILE" not in done.stdout + done.stderr
    for block in blocks(reader.bundle):
        assert block.count("python3 ") == block.count("python3 -I ")


def test_the_licences_are_those_of_inspect(place: Workplace) -> None:
    text = (place.folder / "bundle/README.md").read_text("utf-8")
    report = place.must("inspect", "bundle", "--licenses", "--json").report
    data = report.get("data", report)
    assert [row["artifact"] for row in data["licenses"]] == ["file:notes.txt"]
    assert "| file:notes.txt | not declared | - | - |" in text
    assert "- payload/licenses/LICENSE (for the whole bundle)" in text
    assert data["note"] in text


def test_a_licence_cannot_break_the_table(place: Workplace) -> None:
    lock = Lock.parse((place.folder / "bundle/payload/records/lock.json").read_bytes(), where="lock")
    row = LicenseRow("a|b", "model", "MIT\n| x | \x1b[31m`<b>[here](http://x)", None, (), ())
    text = render(lock, Licences((row,), ())).decode()
    (line,) = (line for line in text.splitlines() if line.startswith("| a\\"))
    assert line == r"| a\|b | MIT\\n\| x \| \\x1b\[31m\`\<b>\[here](http://x) | - | - |"
