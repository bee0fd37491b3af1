"""Programs that we start see an allow-list of our environment, and no place starts one without it."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bundler.install import images
from bundler.sources.images.registry_auth import Credentials, ask_helper
from bundler.storage.child_environment import CONTAINERS, child_environment, helper_environment

BUNDLER = Path(__file__).resolve().parent.parent.parent / "bundler"
OWN = ("demo/rehearsal.py", "demo/perimeter.py")
"""These start sealift itself, which is given what a person's shell has."""
STARTERS = ("subprocess.run", "subprocess.Popen", "subprocess.check", "os.system", "os.popen")
SECRETS = {
    "SEALIFT_PASSPHRASE": "p",
    "SEALIFT_PIN": "p",
    "HF_TOKEN": "t",
    "GITHUB_TOKEN": "t",
    "AWS_SECRET_ACCESS_KEY": "k",
    "UV_INDEX_X_PASSWORD": "p",
    "LD_PRELOAD": "/evil.so",
    "PYTHONPATH": "/evil",
}


def starts(tree: ast.AST) -> Iterator[ast.Call]:
    """Calls that start a program."""
    for node in ast.walk(tree):
        name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        if name.startswith(
            ("subprocess.run", "subprocess.Popen", "subprocess.check", "os.system", "os.popen")
        ):
            assert isinstance(node, ast.Call)
            yield node


def test_every_program_is_started_with_an_environment_of_its_own() -> None:
    calls = [
        (f"{path.relative_to(BUNDLER)}:{call.lineno}", {keyword.arg for keyword in call.keywords})
        for path in sorted(BUNDLER.rglob("*.py"))
        for call in starts(ast.parse(path.read_text("utf-8")))
    ]
    assert len(calls) > 8
    inheriting = [place for place, given in calls if "env" not in given and not place.startswith(OWN)]
    assert inheriting == []


def test_secrets_and_loader_variables_reach_no_program() -> None:
    kept = {"PATH": "/bin", "HOME": "/h", "DOCKER_HOST": "unix:///x", "NO_PROXY": "*"}
    assert child_environment(SECRETS | kept, *CONTAINERS) == kept
    assert child_environment(SECRETS | kept) == {"PATH": "/bin", "HOME": "/h"}


def test_only_a_clouds_own_helper_sees_its_variables() -> None:
    assert helper_environment(SECRETS, "ecr-login") == {"AWS_SECRET_ACCESS_KEY": "k"}
    assert helper_environment(SECRETS, "secretservice") == {}


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on PATH; programs put there write their environment to the file `seen` in it."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for name, value in SECRETS.items():
        if not name.startswith(("LD_", "PYTHON")):
            monkeypatch.setenv(name, value)
    return tmp_path


def program(folder: Path, name: str, then: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\nenv > {folder}/seen\n{then}\n")
    path.chmod(0o755)


def told(folder: Path) -> set[str]:
    return {line.partition("=")[0] for line in (folder / "seen").read_text().splitlines()} & SECRETS.keys()


def test_a_credential_helper_sees_no_passphrase(seen: Path) -> None:
    program(seen, "docker-credential-x", """echo '{"Username": "u", "Secret": "s"}'""")
    assert ask_helper("x", "r.example") == Credentials(username="u", password="s")
    assert told(seen) == set()
    assert "SEALIFT_PASSPHRASE" in os.environ


@pytest.mark.parametrize("name", ["podman", "docker", "ctr", "skopeo"])
def test_a_container_engine_sees_no_passphrase(seen: Path, name: str) -> None:
    program(seen, name, "cat > /dev/null")
    images._run([name, "x"])
    assert told(seen) == set()
    (seen / "seen").unlink()
    images._pipe([name, "load"], lambda out: None)
    assert told(seen) == set()
