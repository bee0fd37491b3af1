"""The whole mission, once, for real: from one YAML to a chat completion where there is no network."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from bundler.demo import tiny_kimi
from bundler.demo.registry import LoopbackRegistry
from bundler.demo.rehearsal import demo_spec, make_repository, push_image
from tests.end_to_end.commands import SEALIFT, Workplace, files_below
from tests.servers.hub import FaultyHub, Slow

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PORT = "8077"
"""Inside a network namespace of its own."""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyHub]:
    root = tmp_path_factory.mktemp("hub")
    make_repository(root / "demo" / "kimi-tiny")
    with FaultyHub(root) as server:
        yield server


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackRegistry]:
    with LoopbackRegistry(tmp_path_factory.mktemp("registry")) as server:
        push_image(tmp_path_factory.mktemp("image"), server.url)
        yield server


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, hub: FaultyHub, registry: LoopbackRegistry) -> Workplace:
    """Locked, built with a `kill -9` in the middle, signed; policy at hand."""
    folder = tmp_path_factory.mktemp("mission")
    workplace = Workplace(
        folder=folder, environment={"HF_ENDPOINT": hub.url, "SOURCE_DATE_EPOCH": "1700000000"}
    )
    (folder / "demo.yaml").write_text(demo_spec(registry.host))
    (folder / "state.json").write_text("{}")
    workplace.must("lock", "demo.yaml")
    workplace.must("plan", "demo.yaml", "--to", "bundle")
    build_with_a_kill(workplace, hub)
    workplace.make_trust()
    workplace.must("sign", "bundle", "--key", "release.key")
    return workplace


@pytest.fixture(scope="module")
def installed(place: Workplace) -> Workplace:
    """The same place with the engine installed from the bundle, without any network."""
    place.must("install", "bundle", *place.trust(), "--engine", "llama.cpp", "--to", "engine", offline=True)
    return place


def build_with_a_kill(workplace: Workplace, hub: FaultyHub) -> None:
    partial = workplace.folder / "bundle.building" / "partial"

    def half_way() -> bool:
        return any(path.stat().st_size > 1 << 20 for path in partial.glob("*.part"))

    hub.inject("/resolve/", Slow(rate=2 << 20))
    workplace.kill_when(half_way, "build", "demo.yaml", "-o", "bundle", "--no-progress")
    hub.heal()
    assert not (workplace.folder / "bundle").exists()
    before = len(hub.seen)
    workplace.must("build", "demo.yaml", "-o", "bundle", "--no-progress")
    ranges = [
        seen.range for seen in hub.seen[before:] if seen.method == "GET" and seen.path.endswith(".gguf")
    ]
    assert ranges, "the rest was fetched"
    assert all(start.startswith("bytes=") and start != "bytes=0-" for start in ranges), ranges


def test_a_rebuild_from_the_same_lock_gives_the_same_manifest(place: Workplace) -> None:
    place.must("build", "demo.yaml", "-o", "again", "--no-progress")
    first, second = ((place.folder / name / "manifest.json").read_bytes() for name in ("bundle", "again"))
    assert first == second


def test_building_again_says_that_it_is_done(place: Workplace) -> None:
    assert place.must("build", "demo.yaml", "-o", "bundle", "--json").report["alreadySealed"] is True


def test_the_lock_names_no_host_and_locks_the_same_again(place: Workplace) -> None:
    first = (place.folder / "demo.lock.json").read_bytes()
    assert b"://" not in first
    place.must("lock", "demo.yaml")
    assert (place.folder / "demo.lock.json").read_bytes() == first


def test_it_verifies_installs_and_answers_without_any_network(installed: Workplace) -> None:
    verified = installed.must("verify", "bundle", *installed.trust(), "--json", offline=True)
    assert verified.report["verdict"] == "passed"
    answer = ask(installed)
    assert answer["interfaces"] == ["lo"]
    assert answer["reasoning"].strip() == tiny_kimi.REASONING_TEXT
    assert answer["toolCalls"] == [f"{tiny_kimi.TOOL_NAME}({tiny_kimi.TOOL_ARGUMENTS})"]


def test_a_first_use_needs_the_digest_of_the_policy_typed(place: Workplace) -> None:
    trust = ("--policy", "policy.json", "--state", "first-state.json")
    refused = place.run("verify", "bundle", *trust, "--json", offline=True)
    assert refused.code == 11
    assert "state-missing" in refused.references
    assert not (place.folder / "first-state.json").exists()
    digest = hashlib.sha256((place.folder / "policy.json").read_bytes()).hexdigest()
    wrong = place.run("verify", "bundle", *trust, "--trust-on-first-use", f"sha256:{'0' * 64}", "--json")
    assert wrong.code == 11
    place.must("verify", "bundle", *trust, "--trust-on-first-use", f"sha256:{digest}", offline=True)
    place.must("verify", "bundle", *trust, offline=True)


def ask(place: Workplace) -> dict[str, Any]:
    launch = ["launch", "bundle", *place.trust(), "--profile", "default", "--env", "engine"]
    launch += ["--host", "127.0.0.1", "--port", PORT]
    perimeter = [sys.executable, "-m", "bundler.demo.perimeter", "127.0.0.1", PORT, "kimi-tiny", "--"]
    done = subprocess.run(
        ["unshare", "-n", "--", *perimeter, *SEALIFT, *launch],
        cwd=place.folder,
        env=place.settings(),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.strip().splitlines()[-1])
    assert isinstance(said, dict)
    return said


def test_the_chain_of_a_weight_file_holds_from_the_hub_to_the_signature(place: Workplace) -> None:
    chain = place.must("inspect", "bundle", "--chain", "tiny-kimi.gguf", "--json").report["chain"]
    agreed = {link["step"] for link in chain if link["agrees"]}
    assert {"upstream LFS sha256", "lock", "attestation"} <= agreed
    assert not [link for link in chain if link["agrees"] is False]


def test_one_flipped_bit_starts_nothing_and_names_the_range(installed: Workplace) -> None:
    shard = next((installed.folder / "bundle").rglob("*.gguf"))
    whole = shard.read_bytes()
    broken = bytearray(whole)
    broken[5_000_000] ^= 1
    state = (installed.folder / "state.json").read_bytes()
    shard.write_bytes(broken)
    try:
        outcome = installed.run(
            "launch", "bundle", *installed.trust(), "--profile", "default", "--env", "engine", "--json"
        )
    finally:
        shard.write_bytes(whole)
    assert outcome.code == 10
    (finding,) = [item for item in outcome.report["findings"] if item["reference"] == "digest-mismatch"]
    assert "bytes 4194304-8388607" in finding["where"]
    assert (installed.folder / "state.json").read_bytes() == state


def test_another_release_key_is_refused(place: Workplace) -> None:
    place.must("keys", "generate", "--owner", "stranger", "-o", "stranger.key")
    before = files_below(place.folder / "bundle")
    attestation = place.folder / "bundle" / "attestations" / "release.sigstore.json"
    place.must("build", "demo.yaml", "-o", "other", "--no-progress")
    place.must("sign", "other", "--key", "stranger.key")
    stranger = (place.folder / "other" / "attestations" / "release.sigstore.json").read_bytes()
    ours = attestation.read_bytes()
    attestation.write_bytes(stranger)
    try:
        outcome = place.run(
            "verify", "bundle", *place.trust(), "--level", "signatures", "--json", offline=True
        )
    finally:
        attestation.write_bytes(ours)
    assert outcome.code == 11
    assert "unknown-signer" in outcome.references
    assert files_below(place.folder / "bundle") == before


def test_the_tools_in_the_bundle_install_sealift_itself_offline(place: Workplace) -> None:
    requirements = "bundle/payload/tools/requirements.txt"
    environment = place.folder / "tool"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    pip = ("-m", "pip", "install", "--quiet", "--no-index", "--find-links", "bundle/payload/tools")
    python = str(environment / "bin" / "python")
    subprocess.run(
        ["unshare", "-n", "--", python, *pip, "--require-hashes", "-r", requirements],
        cwd=place.folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(place.folder)},
        check=True,
        timeout=300,
    )
    installed = environment / "bin" / "sealift"
    done = subprocess.run(
        ["unshare", "-n", "--", str(installed), "verify", "bundle", *place.trust(), "--json"],
        cwd=place.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_readme_of_the_bundle_works_as_printed(place: Workplace) -> None:
    text = (place.folder / "bundle" / "README.md").read_text()
    blocks = [block.split("```")[0] for block in text.split("```sh\n")[1:]]
    checks = [block for block in blocks if "sha256sum" in block or "openssl" in block]
    assert len(checks) >= 4
    key = place.folder / "release.pub"
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-in", str(key), "-outform", "DER"], capture_output=True, check=True
    ).stdout
    home = place.folder / "home-of-a-reader"
    home.mkdir(exist_ok=True)
    surroundings = {**os.environ, "HOME": str(home), "RELEASE_KEY": str(key)}
    said = []
    for block in checks:
        lines = "\n".join(line for line in block.splitlines() if "verify.pyz . " not in line)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", lines],
            cwd=place.folder / "bundle",
            capture_output=True,
            text=True,
            check=False,
            env=surroundings,
        )
        assert done.returncode == 0, f"{lines}\n{done.stdout}\n{done.stderr}"
        said += done.stdout.splitlines()
    assert f"{hashlib.sha256(der).hexdigest()}  -" in said
    assert said[said.index("Verified OK") + 1] == "same manifest"
    assert "all files fit" in said


def test_this_machine_is_one_the_demo_can_serve() -> None:
    assert platform.libc_ver()[0] == "glibc"
