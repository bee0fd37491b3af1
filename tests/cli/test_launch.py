"""`sealift launch` as a command: what starts, what is printed, and that a refused bundle starts nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import bundler
from tests.launch.profiles import MODEL, install, launch_member
from tests.launch.test_launch import free_port
from tests.verification.bundles import TestBundle, make_bundle

FILES = {
    f"{MODEL}/config.json": b'{"model_type": "kimi_k2"}',
    f"{MODEL}/notes.md": b"notes " * 4000,
}
# Stands where the installed Python stands, and says how it was started.
INTERPRETER = '#!/bin/sh\necho started >> "$0.ran"\npwd\necho "$@"\nenv\n'


@pytest.fixture
def bundle(tmp_path: Path) -> TestBundle:
    member = launch_member("vllm", port=free_port())
    made = make_bundle(tmp_path, FILES, members={"launch": [member]})
    sha256 = hashlib.sha256((made.root / "manifest.json").read_bytes()).hexdigest()
    install(tmp_path / "env", sha256)
    (tmp_path / "env/bin/python").write_text(INTERPRETER)
    return made


@pytest.fixture
def work() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sl") as folder:
        yield Path(folder)


def launch(bundle: TestBundle, work: Path, *more: str) -> subprocess.CompletedProcess[str]:
    environment = bundle.root.parent / "env"
    command = [
        *(sys.executable, "-m", "bundler", "launch", str(bundle.root), "--profile", "default"),
        *("--env", str(environment), "--policy", str(bundle.policy), "--state", str(bundle.state)),
        *("--work", str(work), "--no-progress", *more),
    ]
    hostile = {**os.environ, "HF_TOKEN": "secret", "LD_LIBRARY_PATH": "/nowhere", "VLLM_PLUGINS": "evil"}
    return subprocess.run(command, capture_output=True, text=True, env=hostile, timeout=120)


def ran(bundle: TestBundle) -> bool:
    return (bundle.root.parent / "env/bin/python.ran").exists()


def report(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def test_a_verified_bundle_becomes_its_engine(bundle: TestBundle, work: Path) -> None:
    done = launch(bundle, work)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    (folder,) = work.iterdir()
    assert lines[0] == f"{folder}/home"
    assert lines[1].startswith(f"-I -m vllm.entrypoints.openai.api_server --model {bundle.root / MODEL} ")
    assert "--tool-call-parser kimi_k2 --reasoning-parser kimi_k2 --enable-auto-tool-choice" in lines[1]
    variables = dict(line.split("=", 1) for line in lines[2:] if "=" in line)
    assert variables["HF_MODULES_CACHE"] == f"{folder}/hf/modules"
    assert variables["VLLM_PLUGINS"] == ""
    assert not {"HF_TOKEN", "LD_LIBRARY_PATH"} & variables.keys()
    assert "not offered by this engine: routing entropy" in done.stderr


def test_a_dry_run_prints_command_and_environment_and_starts_nothing(bundle: TestBundle, work: Path) -> None:
    done = launch(bundle, work, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "HF_HUB_OFFLINE=1" in done.stdout.splitlines()
    assert "-I -m vllm.entrypoints.openai.api_server" in done.stdout.splitlines()[-1]
    assert not ran(bundle)
    assert list(work.iterdir()) == []


def test_the_plan_as_json_names_what_can_be_watched(bundle: TestBundle, work: Path) -> None:
    told = report(launch(bundle, work, "--dry-run", "--json"))
    assert told["verdict"] == "passed"
    assert told["command"][1:3] == ["-I", "-m"]
    assert told["environment"]["DO_NOT_TRACK"] == "1"
    assert "routing entropy" in told["observability"]["notOffered"]


def test_one_changed_byte_starts_nothing_and_gives_the_verifiers_code(bundle: TestBundle, work: Path) -> None:
    path = bundle.path(f"{MODEL}/notes.md")
    data = bytearray(path.read_bytes())
    data[5000] ^= 1
    path.write_bytes(data)
    done = launch(bundle, work, "--json")
    assert done.returncode == 10
    told = report(done)
    assert (told["verb"], told["verdict"]) == ("launch", "failed")
    assert any(finding["where"].startswith(f"{MODEL}/notes.md") for finding in told["findings"])
    assert not ran(bundle)
    assert list(work.iterdir()) == []


def test_a_bundle_nobody_signed_starts_nothing(bundle: TestBundle, work: Path) -> None:
    for path in (bundle.root / "attestations").iterdir():
        path.unlink()
    done = launch(bundle, work)
    assert done.returncode == 11
    assert not ran(bundle)
    assert list(work.iterdir()) == []


def test_an_environment_of_another_bundle_starts_nothing(bundle: TestBundle, work: Path) -> None:
    marker = bundle.root.parent / "env/sealift-install.json"
    value = json.loads(marker.read_text())
    marker.write_text(json.dumps({**value, "manifest": "0" * 64}))
    done = launch(bundle, work)
    assert done.returncode == 10
    assert "installed-from-another-bundle" in done.stderr
    assert "hint:     `sealift install BUNDLE --to NEW_DIR`" in done.stderr
    assert not ran(bundle)


def test_an_engine_changed_since_it_was_installed_starts_nothing(bundle: TestBundle, work: Path) -> None:
    site = bundle.root.parent / "env/lib/python3.11/site-packages"
    record = next(site.glob("*.dist-info/RECORD"))
    digest = base64.urlsafe_b64encode(hashlib.sha256(b"print(1)\n").digest()).rstrip(b"=").decode()
    record.write_text(f"{record.read_text()}vllm.py,sha256={digest},9\n")
    (site / "vllm.py").write_bytes(b"print(1)\n")
    assert launch(bundle, work, "--dry-run").returncode == 0

    (site / "vllm.py").write_bytes(b"print(2)\n")
    done = launch(bundle, work, "--json")

    assert done.returncode == 10
    (finding,) = report(done)["findings"]
    assert (finding["reference"], finding["found"]) == ("installed-damaged", "vllm.py")
    assert "sealift install" in finding["hint"]
    assert not ran(bundle)
    assert list(work.iterdir()) == []


def test_a_mistyped_name_is_told_before_the_bytes_are_read(bundle: TestBundle, work: Path) -> None:
    path = bundle.path(f"{MODEL}/notes.md")
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    state = bundle.state.read_bytes()

    for words, code, reference in (
        (("--profile", "other"), 2, "unknown-profile"),
        (("--env", str(work / "nothing")), 4, "no-environment"),
    ):
        done = launch(bundle, work, *words, "--json")
        assert done.returncode == code
        assert [finding["reference"] for finding in report(done)["findings"]] == [reference]

    assert bundle.state.read_bytes() == state
    assert not ran(bundle)


def test_an_unknown_profile_is_a_matter_of_usage(bundle: TestBundle, work: Path) -> None:
    done = launch(bundle, work, "--profile", "other", "--json")
    assert done.returncode == 2
    assert report(done)["findings"][0]["expected"] == "one of: default"
    assert not ran(bundle)


def test_every_refusal_ends_in_one_verdict_line(bundle: TestBundle, work: Path) -> None:
    path = bundle.path(f"{MODEL}/notes.md")
    for words in ((), ("--profile", "other"), ("--env", str(work / "nothing"))):
        if not words:
            with path.open("r+b"):
                done = launch(bundle, work, *words)
            assert "open-for-writing" in done.stderr
        else:
            done = launch(bundle, work, *words)
        assert done.returncode != 0
        assert done.stdout.splitlines()[-1] == "REFUSED: nothing was started."
        assert done.stdout.count("REFUSED") == 1
    assert list(work.iterdir()) == []


# Maps a file of the bundle between the first look and the start.
MEANWHILE = """
import mmap, os, sys
from pathlib import Path
from bundler.launch import launch
from bundler.launch.environment import make_work_folder
def opened(work):
    make_work_folder(work)
    descriptor = os.open(sys.argv[1], os.O_RDWR)
    launch.held = mmap.mmap(descriptor, 0)
    os.close(descriptor)
launch.variables.make_work_folder = opened
from bundler.cli.app import run
sys.exit(run(sys.argv[2:]))
"""


def test_a_file_mapped_just_before_the_start_starts_nothing(bundle: TestBundle, work: Path) -> None:
    command = [
        *(sys.executable, "-c", MEANWHILE, str(bundle.path(f"{MODEL}/notes.md"))),
        *("launch", str(bundle.root), "--profile", "default", "--env", str(bundle.root.parent / "env")),
        *("--policy", str(bundle.policy), "--state", str(bundle.state), "--work", str(work)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 10
    assert "open-for-writing" in done.stderr
    assert done.stdout.splitlines()[-1] == "REFUSED: nothing was started."
    assert not ran(bundle)
    assert list(work.iterdir()) == []


def test_launches_at_the_same_time_all_start(bundle: TestBundle, work: Path) -> None:
    assert launch(bundle, work, "--dry-run").returncode == 0
    for _ in range(2):
        command = [
            *(sys.executable, "-m", "bundler", "launch", str(bundle.root), "--profile", "default"),
            *("--env", str(bundle.root.parent / "env"), "--policy", str(bundle.policy)),
            *("--state", str(bundle.state), "--work", str(work), "--no-progress"),
        ]
        begun = [
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(6)
        ]
        said = [process.communicate(timeout=120)[1] for process in begun]
        assert [process.returncode for process in begun] == [0] * 6, said


def test_a_relative_path_of_the_bundle_starts_its_engine(bundle: TestBundle, work: Path) -> None:
    command = [
        *(sys.executable, "-m", "bundler", "launch", "bundle", "--profile", "default", "--env", "env"),
        *("--policy", "policy.json", "--state", "state/state.json", "--work", str(work)),
    ]
    search = {**os.environ, "PYTHONPATH": str(Path(bundler.__file__).parents[1])}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=bundle.root.parent, env=search, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert ran(bundle)
