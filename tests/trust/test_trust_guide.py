"""`docs/trust.md` is true: its commands run in order, its options, references and exit codes exist."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from bundler.cli.app import sealift
from bundler.core.chunks import DEFAULT_CHUNK_SIZE
from bundler.core.manifest import ChunkList, compose
from bundler.core.paths import parse_bundle_path
from bundler.trust.predicates import KINDS
from tests.servers.programs import both_ends
from tests.signing.test_release import FILES
from tests.verification.bundles import chunk_list, entry, sha256sums, write_files

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "trust.md").read_text("utf-8")
REFERENCE = re.compile(r"`([a-z]+(?:-[a-z]+)+)`")
NOT_REFERENCES = {"with-legal", "kimi-k2"}


def blocks(kind: str) -> list[str]:
    """The fenced blocks of a kind, in order."""
    return [block.split("\n```")[0] for block in TEXT.split(f"```{kind}\n")[1:]]


def write_sealed(root: Path) -> None:
    """A bundle as `sealift build` leaves it, for signing: with lock, chunk list and SHA256SUMS."""
    files = dict(FILES)
    files["payload/chunks.sha256"] = chunk_list(files)
    files["SHA256SUMS"] = sha256sums(files)
    manifest = compose(
        channel="kimi-k2/prod",
        serial=17,
        files=[entry(path, data) for path, data in files.items()],
        chunks=ChunkList(path=parse_bundle_path("payload/chunks.sha256"), size=DEFAULT_CHUNK_SIZE),
        lock=hashlib.sha256(files["payload/records/lock.json"]).hexdigest(),
        createdAt="2026-05-01T00:00:00Z",
    )
    write_files(root, {**files, "manifest.json": manifest})


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("jq") and shutil.which("openssl")), reason="apt-get install jq openssl")
def test_the_commands_of_the_guide_run_in_order(tmp_path: Path) -> None:
    write_sealed(tmp_path / "kimi-k2-17")
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "sealift").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m bundler "$@"\n')
    (programs / "sealift").chmod(0o755)
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
        "SEALIFT_PASSPHRASE": "only for this test",
    }
    script = "\n".join(blocks("sh"))
    done = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, both_ends(done.stdout) + both_ends(done.stderr)
    digest = hashlib.sha256((tmp_path / "kimi-k2-17/manifest.json").read_bytes()).hexdigest()
    assert done.stdout.count("VERIFIED. Every byte") == 3
    assert done.stdout.count("Verified OK") == 1  # by Rita's new key, not by her old one
    assert done.stdout.count(digest) >= 3
    assert "Cy Celan says that this policy was in force" in done.stdout


def _command_lines() -> list[list[str]]:
    inline = re.findall(r"`(sealift [^`]*)`", TEXT)
    plain = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("sealift ")]
    return [re.sub(r"'[^']*'|\"[^\"]*\"", "X", line).split() for line in inline + plain]


def test_every_verb_and_option_of_the_guide_exists() -> None:
    lines = _command_lines()
    assert len(lines) > 20
    for line in lines:
        command: click.Command = sealift
        words = line[1:]
        while isinstance(command, click.Group):
            found = command.get_command(click.Context(command), words[0])
            assert found is not None, line
            command, words = found, words[1:]
        known = {name for item in command.params for name in item.opts}
        assert {word for word in words if word.startswith("--")} <= known, line


def test_every_reference_and_predicate_of_the_guide_exists() -> None:
    sources = "\n".join(path.read_text("utf-8") for path in (ROOT / "bundler").rglob("*.py"))
    named = set(REFERENCE.findall(TEXT)) - NOT_REFERENCES
    assert {"state-missing", "unknown-signer", "policy-withheld", "revoked-file"} <= named
    assert {name for name in named if f'"{name}"' not in sources} == set()
    for predicate in re.findall(r"urn:sealift:[a-z-]+:v1", TEXT):
        assert predicate in KINDS.values()


def test_the_guide_has_two_pages() -> None:
    assert len(TEXT.split()) < 2000
