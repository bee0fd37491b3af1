"""What surrounds a verification changes nothing: home, working directory, environment, clock, file system."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bundler.verification.pyz import build_verify_pyz
from tests.servers.sigstore import Sigstore
from tests.trust.test_keyless import case_signed_by
from tests.vectors.trust import dump
from tests.verification.bundles import TestBundle, make_bundle, snapshot
from tests.verification.damages import TWO, WEIGHTS, flip

WATCHED = """
import json, os, sys
hostile, opened = os.path.realpath(sys.argv[1]), []
def watch(event, arguments):
    if event in ("open", "os.listdir", "os.scandir") and isinstance(arguments[0], (str, bytes)):
        path = os.path.realpath(os.fsdecode(arguments[0]))
        # The verifier opens names below a descriptor, which an audit hook cannot see: such a name only looks
        # as if it stood in the working directory, where there is nothing of that name.
        if (path == hostile or path.startswith(hostile + "/")) and os.path.lexists(path):
            opened.append(path)
sys.addaudithook(watch)
from bundler.cli.app import run
code = run(sys.argv[2:])
print(json.dumps({"code": code, "opened": opened}), file=sys.stderr)
"""
VARIABLES = (
    *("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"),
    *("SIGSTORE_ROOT_FILE", "TUF_ROOT", "SSL_CERT_FILE", "SSL_CERT_DIR", "OPENSSL_CONF", "GIT_CONFIG_GLOBAL"),
    *("SEALIFT_POLICY", "SEALIFT_STATE", "SEALIFT_TRUSTED_ROOT", "HF_HOME", "REQUESTS_CA_BUNDLE"),
)
OPTIONS = ("--level", "full", "--json", "--no-progress")
needs_faketime = pytest.mark.skipif(shutil.which("faketime") is None, reason="apt-get install faketime")


@pytest.fixture
def bundle(tmp_path: Path) -> TestBundle:
    return make_bundle(tmp_path)


@pytest.fixture
def hostile(tmp_path: Path, bundle: TestBundle) -> Path:
    """A home that is also the working directory, full of what a program might be tempted to read."""
    home = tmp_path / "hostile"
    policy = json.loads(bundle.policy.read_bytes())
    policy["require"] = policy["require"][:1]
    trap = json.dumps({**policy, "note": "a trap"}).encode()
    for name in (
        "policy.json",
        "state.json",
        "trusted_root.json",
        "sealift.json",
        ".sealift.json",
        "config.json",
    ):
        for folder in (home, home / "sealift", home / ".config/sealift", home / ".sealift"):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(trap)
    for cache in (".cache/sigstore-python", ".local/share/sigstore-python", ".sigstore/root"):
        (home / cache).mkdir(parents=True)
        (home / cache / "trusted_root.json").write_bytes(Sigstore().trusted_root())
    for module in ("json", "cryptography", "bundler", "sigstore", "sitecustomize", "usercustomize"):
        (home / f"{module}.py").write_text("raise SystemExit(0)\n")
    (home / "openssl.cnf").write_text("openssl_conf = x\n")
    return home


def surroundings(hostile: Path) -> dict[str, str]:
    """An environment in which every variable leads into the trap."""
    kept = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2])}
    return {**kept, **{name: str(hostile) for name in VARIABLES}, "SEALIFT_LEVEL": "signatures"}


def watched(hostile: Path, *arguments: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The report of sealift run in the trap, and what of the trap it touched."""
    # -P: a script's folder and the working directory are not searched, as for the installed command.
    done = subprocess.run(
        [sys.executable, "-P", "-c", WATCHED, str(hostile), *arguments],
        cwd=hostile,
        env=surroundings(hostile),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), json.loads(done.stderr.splitlines()[-1])


def test_a_hostile_home_and_working_directory_make_no_difference_to_a_good_bundle(
    bundle: TestBundle, hostile: Path
) -> None:
    before = snapshot(hostile)
    report, seen = watched(hostile, *bundle.arguments(*OPTIONS))
    assert (report["verdict"], seen) == ("passed", {"code": 0, "opened": []})
    assert snapshot(hostile) == before


def test_a_hostile_home_and_working_directory_do_not_save_a_bad_bundle(
    bundle: TestBundle, hostile: Path
) -> None:
    bundle.path("attestations/oms.sigstore.json").unlink()  # the trap's policy would do without it
    state = bundle.state.read_bytes()
    report, seen = watched(hostile, *bundle.arguments(*OPTIONS))
    assert [item["reference"] for item in report["findings"]] == ["threshold"]
    assert seen == {"code": 11, "opened": []}
    assert bundle.state.read_bytes() == state


def test_a_poisoned_sigstore_cache_is_not_read(tmp_path: Path, hostile: Path) -> None:
    instance = Sigstore()
    case = case_signed_by(instance, root=instance.trusted_root())
    folder = tmp_path / "perimeter"
    (folder / "bundle/attestations").mkdir(parents=True)
    (folder / "bundle/manifest.json").write_bytes(case.manifest)
    for name, data in case.attestations.items():
        (folder / "bundle/attestations" / name).write_bytes(data)
    (folder / "policy.json").write_bytes(dump(case.policy))
    (folder / "trusted_root.json").write_bytes(instance.trusted_root())
    (folder / "state.json").write_bytes(b"{}")
    arguments = ["verify", str(folder / "bundle"), "--policy", str(folder / "policy.json")]
    arguments += ["--state", str(folder / "state.json"), "--level", "signatures", "--json"]
    report, seen = watched(hostile, *arguments)
    assert (report["verdict"], seen) == ("passed", {"code": 0, "opened": []})


def test_the_portable_verifier_takes_no_module_from_its_surroundings(
    bundle: TestBundle, hostile: Path, tmp_path: Path
) -> None:
    pyz = tmp_path / "verify.pyz"
    pyz.write_bytes(build_verify_pyz())
    flip(bundle.path(WEIGHTS), 0)
    done = subprocess.run(
        [sys.executable, "-I", str(pyz), str(bundle.root), "--policy", str(bundle.policy)],
        cwd=hostile,
        env={**surroundings(hostile), "PYTHONPATH": str(hostile), "PYTHONSTARTUP": str(hostile / "json.py")},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 10, done.stdout + done.stderr


def at(time: str, bundle: TestBundle) -> dict[str, Any]:
    """The report of a verification while the clock stands at `time`."""
    done = subprocess.run(
        ["faketime", time, sys.executable, "-m", "bundler", *bundle.arguments(*OPTIONS)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    report = json.loads(done.stdout)
    assert isinstance(report, dict)
    assert report["exitCode"] == done.returncode
    return report


@needs_faketime
@pytest.mark.parametrize("time", ["1980-01-02 00:00:00", "2099-01-01 00:00:00"])
def test_a_wrong_clock_does_not_stop_a_good_bundle(bundle: TestBundle, time: str) -> None:
    assert at(time, bundle)["verdict"] == "passed"


@needs_faketime
@pytest.mark.parametrize("time", ["1980-01-02 00:00:00", "2025-12-31 00:00:00", "2099-01-01 00:00:00"])
def test_a_wrong_clock_never_makes_an_expired_policy_valid(tmp_path: Path, time: str) -> None:
    members = {"expires": "2026-01-01T00:00:00Z", "rules": {"expiry": "enforce"}}
    expired = make_bundle(
        tmp_path, {"payload/files/notes.txt": b"notes"}, policy_members=members
    )  # its signed manifest is of November 2026
    state = expired.state.read_bytes()
    report = at(time, expired)
    assert (report["exitCode"], report["findings"][0]["reference"]) == (12, "expired")
    assert expired.state.read_bytes() == state


@needs_faketime
def test_validity_ends_by_the_clock_or_by_what_is_signed_whichever_is_later(tmp_path: Path) -> None:
    members = {"expires": "2027-06-01T00:00:00Z", "rules": {"expiry": "enforce"}}
    bundle = make_bundle(tmp_path, {"payload/files/notes.txt": b"notes"}, policy_members=members)
    assert at("2026-12-01 00:00:00", bundle)["verdict"] == "passed"
    assert at("2027-07-01 00:00:00", bundle)["findings"][0]["reference"] == "expired"
    assert (
        at("2026-12-02 00:00:00", bundle)["verdict"] == "passed"
    )  # no authenticated record says it is later


def test_a_file_that_was_never_written_is_refused(bundle: TestBundle) -> None:
    path, size = bundle.path(WEIGHTS), bundle.path(WEIGHTS).stat().st_size
    path.unlink()
    with path.open("wb") as file:
        file.truncate(size)  # a hole: the right size, and no byte of it on the disk

    report = bundle.verify().report

    assert int(report.exit_code) == 10
    assert {finding.reference for finding in report.findings} == {"digest-mismatch"}
    assert any(finding.where.startswith(WEIGHTS) for finding in report.findings)


def test_a_name_in_another_case_is_another_file(bundle: TestBundle) -> None:
    path = bundle.path(TWO)
    path.rename(path.with_name("TWO.bin"))

    report = bundle.verify("quick").report

    assert int(report.exit_code) == 10
    assert {"missing-file", "renamed-file"} & {finding.reference for finding in report.findings}


@contextmanager
def case_insensitive(folder: Path) -> Iterator[Path]:
    """A mounted file system in which `A` and `a` are one file; skips where none can be mounted."""
    image, point = folder / "disk.img", folder / "disk"
    point.mkdir()
    made = [["mkfs.vfat"], ["mkfs.ext4", "-q", "-O", "casefold", "-E", "encoding=utf8,root_owner=0:0"]]
    options = ["loop,utf8,shortname=mixed", "loop"]
    for make, option in zip(made, options, strict=True):
        if shutil.which(make[0]) is None:
            continue
        with image.open("wb") as file:
            file.truncate(32 << 20)
        subprocess.run([*make, str(image)], check=True, capture_output=True)
        mount = subprocess.run(
            ["mount", "-o", option, str(image), str(point)], check=False, capture_output=True
        )
        if mount.returncode:
            continue
        try:
            place = point / "place"
            place.mkdir()
            if make[0] == "mkfs.ext4":
                subprocess.run(["chattr", "+F", str(place)], check=True)
            yield place
        finally:
            subprocess.run(["umount", str(point)], check=True)
        return
    pytest.skip("no case-insensitive file system can be mounted: root, loop devices, vfat or ext4 casefold")


@pytest.mark.slow
def test_a_disk_that_ignores_case_neither_hides_a_renamed_file_nor_refuses_a_good_one(
    bundle: TestBundle, tmp_path: Path
) -> None:
    with case_insensitive(tmp_path) as disk:
        shutil.copytree(bundle.root, disk / "bundle")
        arguments = ["verify", str(disk / "bundle"), *bundle.arguments(*OPTIONS)[2:]]
        command = [sys.executable, "-m", "bundler", *arguments]
        good = subprocess.run(command, capture_output=True, text=True, check=False)
        assert good.returncode == 0, good.stdout
        (disk / "bundle/payload/models/m/two.bin").rename(disk / "bundle/payload/models/m/other")
        (disk / "bundle/payload/models/m/other").rename(disk / "bundle/payload/models/m/TWO.bin")
        assert (disk / "bundle" / TWO).exists()  # opening alone would find it
        bad = subprocess.run(command, capture_output=True, text=True, check=False)
        assert bad.returncode == 10
