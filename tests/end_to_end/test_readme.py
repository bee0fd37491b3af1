"""The tour in README.md is true: every command runs in its order, with the demo's model in Kimi's place."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from bundler.demo.hub import LoopbackHub
from bundler.demo.registry import LoopbackRegistry
from bundler.demo.rehearsal import demo_spec, make_repository, push_image
from tests.end_to_end.bundle_readme import Reader, blocks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
STATE = ("sealift verify ", "sealift install ", "sealift launch ")


def tour() -> list[str]:
    """The lines of the tour's shell blocks, without their comments."""
    text = (ROOT / "README.md").read_text("utf-8").split("## The five-minute tour")[1].split("\n## ")[0]
    blocks = [block.split("```")[0] for block in text.split("```sh\n")[1:]]
    return [line.split("  #")[0].rstrip() for block in blocks for line in block.splitlines() if line.strip()]


def adapted(line: str, folder: Path) -> str:
    """A line for the demo's model and a folder of our own; the server is only shown, not started."""
    changes = {
        "kimi-k2-vllm": "demo",
        "--engine vllm": "--engine llama.cpp",
        "/media/transfer": str(folder / "medium"),
        "/srv/vllm": str(folder / "engine"),
        "config.json": "tiny-kimi.gguf",
    }
    for before, after in changes.items():
        line = line.replace(before, after)
    line += " --state state.json" if line.startswith(STATE) else ""
    return f"{line} --dry-run" if line.startswith("sealift launch ") else line


def test_the_tour_runs_as_printed(tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "sealift").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m bundler "$@"\n')
    (programs / "sealift").chmod(0o755)
    (tmp_path / "medium").mkdir()
    make_repository(tmp_path / "hub" / "demo" / "kimi-tiny")
    lines = [adapted(line, tmp_path) for line in tour()]
    assert [line.split()[1] for line in lines if line.startswith("sealift ")] == [
        *("init", "lock", "plan", "build", "keys", "sign", "inspect"),
        *("keys", "trust", "verify", "install", "launch"),
    ]
    with LoopbackHub(tmp_path / "hub") as hub, LoopbackRegistry(tmp_path / "registry") as registry:
        push_image(tmp_path / "image", registry.url)
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("HF_", "SEALIFT_"))},
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HOME": str(tmp_path),
            "HF_ENDPOINT": hub.url,
            "SEALIFT_PASSPHRASE": "only for this test",
        }
        for line in lines:
            done = subprocess.run(
                ["bash", "-euc", line],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
            if " init " in line:
                # This machine's Python and C library, and the address of the registry of this test.
                (tmp_path / "kimi.yaml").write_text(demo_spec(registry.host))
            if " inspect " in line:
                assert "attestation" in done.stdout
            if " launch " in line:
                assert "llama_server.py" in done.stdout
    read_the_bundle_s_readme(tmp_path)


def read_the_bundle_s_readme(folder: Path) -> None:
    """The README inside the bundle that the tour built: engine, launch and tools, on a read-only medium."""
    (bundle,) = (path.parent for path in (folder / "medium").glob("*/manifest.json"))
    names = {
        "POLICY": folder / "policy.json",
        "STATE": folder / "state.json",
        "RELEASE_KEY": folder / "release.pub",
    }
    reader = Reader.of(bundle, folder / "home", **{name: str(path) for name, path in names.items()})
    done = reader.run("".join(blocks(bundle)))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "Verified OK\nsame manifest\nall files fit\n" in done.stdout
    assert "llama_server.py" in done.stdout
    assert (reader.home / "sealift/tool/bin/sealift").exists()


def test_the_exit_codes_of_the_readme_are_those_of_the_program() -> None:
    from bundler.errors import ExitCode

    text = (ROOT / "README.md").read_text("utf-8")
    rows = [row.split("|") for row in text.splitlines() if row.startswith("| ") and row.count("|") == 5]
    codes = {int(cell) for row in rows for cell in (row[1], row[3]) if cell.strip().isdigit()}
    assert codes == {int(code) for code in ExitCode}


def test_every_library_of_the_package_has_its_line_in_the_readme() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(item for extra in extras.values() for item in extra)]
    text = (ROOT / "README.md").read_text("utf-8").split("| library | why |")[1].split("\n\n")[0]
    told = [row.split("|")[1].strip() for row in text.splitlines()[2:]]
    assert sorted(told) == sorted(Requirement(item).name for item in wanted)
    for extra in extras:
        assert f"`sealift[{extra}]`" in text
