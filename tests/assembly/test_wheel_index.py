"""The files beside the wheels: deterministic, readable by packaging, pip and uv, and complete."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.pylock import Pylock

from bundler.assembly.wheel_index import (
    completeness_findings,
    distinct_wheels,
    tool_documents,
    wheel_documents,
)
from bundler.content.wheels.lock_file import parse_requirements, parse_wheel_lock
from bundler.content.wheels.wheel import check_wheels
from bundler.core.specs.lock import LockedEngine
from bundler.errors import MalformedError
from bundler.sources.wheels.package_index import parse_page
from bundler.sources.wheels.uv import find_uv
from tests.wheel_files import write_wheel


def locked(
    folder: Path, *wheels: tuple[str, str], requires: dict[str, list[str]] | None = None, **facts: Any
) -> LockedEngine:
    """An engine whose wheels are made in `folder`."""
    entries = []
    for project, version in wheels:
        path = write_wheel(folder, project, version, requires=(requires or {}).get(project, []))
        data = path.read_bytes()
        entries.append(
            {
                "name": project,
                "version": version,
                "filename": path.name,
                "size": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
            }
        )
    first, version = wheels[0]
    value = {"id": "vllm", "name": "vllm", "requirement": f"{first}=={version}", "version": version}
    value |= {"python": "3.12", "platform": "linux/amd64", "glibc": "2.31", "accelerator": "cpu"}
    return LockedEngine.model_validate({**value, "wheels": entries, **facts})


def written(documents: dict[str, bytes], root: Path) -> None:
    for path, data in documents.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    folder = tmp_path / "payload/wheels"
    folder.mkdir(parents=True)
    return folder


def test_the_documents_are_the_same_whatever_the_order(wheels: Path) -> None:
    engine = locked(wheels, ("vllm", "0.19.1"), ("torch", "2.10.0+cu129"), ("a-b", "1"))
    turned = engine.model_copy(update={"wheels": tuple(reversed(engine.wheels))})

    assert wheel_documents([engine]) == wheel_documents([turned])


def test_every_lock_is_valid_and_says_what_the_lock_says(wheels: Path, tmp_path: Path) -> None:
    engine = locked(wheels, ("vllm", "0.19.1"), ("torch", "2.10.0+cu129"), overrides=("torch==2.10.0",))
    documents = wheel_documents([engine])
    written(documents, tmp_path)
    folder = "payload/wheels/locks/vllm-cp312-x86_64"

    text = documents[f"{folder}/pylock.toml"]
    Pylock.from_dict(tomllib.loads(text.decode())).validate()
    lock = parse_wheel_lock(text, where="x")
    pins = parse_requirements(documents[f"{folder}/requirements.txt"], where="x")

    assert {item.filename: (item.size, item.sha256) for item in lock.files} == {
        item.filename: (item.size, item.sha256) for item in engine.wheels
    }
    assert pins == {item.name: (item.version, item.sha256) for item in engine.wheels}
    assert (lock.engine, lock.version, str(lock.target)) == (
        "vllm",
        "0.19.1",
        "CPython 3.12 on linux/amd64 with glibc 2.31",
    )
    for package in tomllib.loads(text.decode())["packages"]:
        assert (tmp_path / folder / package["wheels"][0]["path"]).resolve().is_file()
    assert check_wheels(wheels) == []


def test_the_index_leads_to_every_file_with_its_digest(wheels: Path, tmp_path: Path) -> None:
    engine = locked(wheels, ("vllm", "0.19.1"), ("torch", "2.10.0+cu129"))
    written(wheel_documents([engine]), tmp_path)

    for item in engine.wheels:
        page = wheels / "simple" / item.name / "index.html"
        (found,) = parse_page(page.read_bytes(), page.as_uri(), where="x")
        assert (found.filename, found.sha256) == (item.filename, item.sha256)
        assert Path(found.url.removeprefix("file://").replace("%2B", "+")).resolve() == wheels / item.filename
    root = (wheels / "simple/index.html").read_text()
    assert '<a href="torch/">torch</a>' in root
    assert "127.0.0.1" not in root


def test_engines_share_wheels_and_two_digests_for_one_name_are_refused(wheels: Path) -> None:
    one = locked(wheels, ("vllm", "1"), ("shared", "1"))
    two = locked(wheels, ("sglang", "1"), ("shared", "1"), id="sglang")
    assert len(distinct_wheels([one, two])) == 3
    changed = two.wheels[1].model_copy(update={"sha256": "0" * 64})

    with pytest.raises(MalformedError) as caught:
        wheel_documents([one, two.model_copy(update={"wheels": (two.wheels[0], changed)})])

    assert caught.value.reference == "conflicting-wheels"
    assert caught.value.findings[0].where == "shared-1-py3-none-any.whl"


def test_tools_have_a_lock_for_each_target_and_one_file_for_all(wheels: Path) -> None:
    amd = locked(wheels, ("uv", "1"), ("click", "8"), id="sealift", name="sealift")
    arm = locked(wheels, ("uv", "1"), ("click", "9"), id="sealift", name="sealift", platform="linux/arm64")
    documents = tool_documents([amd, arm], ("sealift-0.1.0-py3-none-any.whl", b"bytes"))

    own = hashlib.sha256(b"bytes").hexdigest()
    joint = documents["payload/tools/requirements.txt"].decode()
    assert f"sealift==0.1.0 \\\n    --hash=sha256:{own}\n" in joint
    assert "click==9 ; (python_version == '3.12' and platform_machine == 'aarch64')" in joint
    assert "uv==1 \\\n" in joint
    lock = parse_wheel_lock(documents["payload/tools/sealift-cp312-aarch64/pylock.toml"], where="x")
    assert lock.pins == {"click": "9", "sealift": "0.1.0", "uv": "1"}
    assert set(documents) == {
        "payload/tools/requirements.txt",
        *(
            f"payload/tools/sealift-cp312-{arch}/{name}"
            for arch in ("x86_64", "aarch64")
            for name in ("pylock.toml", "requirements.txt")
        ),
    }


def test_a_whole_set_passes_the_rehearsal(wheels: Path) -> None:
    engine = locked(wheels, ("vllm", "1"), ("needed", "1"), requires={"vllm": ["needed"]})
    write_wheel(wheels, "needed", "2")

    assert completeness_findings(engine, wheels) == []


def test_the_rehearsal_names_what_is_missing(wheels: Path) -> None:
    engine = locked(wheels, ("vllm", "1"), requires={"vllm": ["needed"]})

    (finding,) = completeness_findings(engine, wheels)

    assert finding.reference == "wheels-incomplete"
    assert "needed" in finding.found


def test_the_rehearsal_names_what_nobody_needs(wheels: Path) -> None:
    engine = locked(wheels, ("vllm", "1"), ("useless", "1"))

    (finding,) = completeness_findings(engine, wheels)

    assert finding.found == "useless==1"


def test_the_rehearsal_is_for_the_target_not_for_this_machine(wheels: Path) -> None:
    engine = locked(
        wheels,
        ("vllm", "1"),
        ("for-arm", "1"),
        requires={"vllm": ["for-arm; platform_machine == 'aarch64'", "never; platform_machine == 'x86_64'"]},
        platform="linux/arm64",
    )

    assert completeness_findings(engine, wheels) == []


@pytest.mark.parametrize("program", ["pip", "uv"])
def test_installers_take_the_index_as_it_is(wheels: Path, tmp_path: Path, program: str) -> None:
    engine = locked(wheels, ("vllm", "1"), ("torch", "2.10.0+cu129"), requires={"vllm": ["torch"]})
    written(wheel_documents([engine]), tmp_path)
    address = f"{(wheels / 'simple').as_uri()}/"
    pins = str(wheels / "locks/vllm-cp312-x86_64/requirements.txt")
    wanted = ["install", "--index-url", address, "--require-hashes", "-r", pins]
    wanted += ["--target", str(tmp_path / "into")]
    command = {
        "pip": [sys.executable, "-m", "pip", "--isolated", *wanted, "--quiet"],
        "uv": [find_uv(), "pip", *wanted, "--no-config", "--no-cache", "--python", sys.executable],
    }[program]

    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": "/usr/bin"})

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "into/torch/__init__.py").is_file()
