"""The real vLLM, from the index through a bundle to a place without network: parsers, one flipped bit."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bundler.demo import tiny_kimi
from bundler.demo.hub import LoopbackHub
from tests.end_to_end.commands import NO_NETWORK, SEALIFT, Workplace
from tests.servers.programs import both_ends

TORCH = "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl"
SPEC = Path(__file__).with_name("vllm.yaml")
FLIPPED = Path(__file__).with_name("flipped_bit.py")
EXPERT = "model.layers.1.mlp.experts.0.down_proj.weight"


def torch_folder() -> Path | None:
    """The folder of wheels that holds torch's CPU build: where pip is told to look, too."""
    named = f"{os.environ.get('SEALIFT_TEST_WHEELS', '')} {os.environ.get('PIP_FIND_LINKS', '')}".split()
    return next((Path(name) for name in named if (Path(name) / TORCH).is_file()), None)


pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        sys.version_info[:2] != (3, 11), reason="the torch build used here is for Python 3.11"
    ),
    pytest.mark.skipif(
        torch_folder() is None, reason=f"needs {TORCH}: set SEALIFT_TEST_WHEELS to its folder"
    ),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    """Locked, built, signed, verified and installed; the engine has not been started yet."""
    folder = tmp_path_factory.mktemp("vllm")
    model = folder / "hub" / "demo" / "kimi-tiny"
    model.mkdir(parents=True)
    tiny_kimi.write_model(model)
    shutil.copy(SPEC, folder / "vllm.yaml")
    (folder / "state.json").write_text("{}")
    with LoopbackHub(folder / "hub") as hub:
        settings = {"HF_ENDPOINT": hub.url, "SEALIFT_TEST_WHEELS": str(torch_folder())}
        connected = Workplace(folder=folder, environment=settings)
        connected.must("lock", "vllm.yaml")
        connected.must("build", "vllm.yaml", "-o", "bundle", "--no-progress")
        connected.make_trust()
        connected.must("sign", "bundle", "--key", "release.key")
    workplace = Workplace(folder=folder)
    workplace.must(
        "install", "bundle", *workplace.trust(), "--engine", "vllm", "--to", "engine", offline=True
    )
    yield workplace
    shutil.rmtree(folder)


def launch(place: Workplace, *more: str) -> tuple[str, ...]:
    return ("launch", "bundle", *place.trust(), "--profile", "default", "--env", "engine", *more)


def in_perimeter(place: Workplace, *command: str) -> str:
    """The last line a command prints inside a network namespace of its own."""
    done = subprocess.run(
        [*NO_NETWORK, *command],
        cwd=place.folder,
        env={**place.settings(), "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, both_ends(done.stderr)
    return done.stdout.strip().splitlines()[-1]


def test_it_splits_reasoning_and_forms_the_tool_call(place: Workplace) -> None:
    ask = (sys.executable, "-m", "bundler.demo.perimeter", "127.0.0.1", "8012", "kimi-tiny", "--")
    answer = json.loads(in_perimeter(place, *ask, *SEALIFT, *launch(place)))
    assert answer["interfaces"] == ["lo"]
    assert answer["reasoning"] == tiny_kimi.REASONING_TEXT
    assert answer["toolCalls"] == [f"{tiny_kimi.TOOL_NAME}({tiny_kimi.TOOL_ARGUMENTS})"]
    assert answer["content"] == ""


def test_with_one_flipped_bit_the_engine_starts_silently_and_answers_differently_and_sealift_refuses(
    place: Workplace,
) -> None:
    plan = place.must(*launch(place, "--dry-run", "--json"))
    (place.folder / "plan.json").write_text(plan.stdout)
    snapshot = next((place.folder / "bundle" / "payload" / "models").glob("*/snapshots/*"))
    copy = place.folder / "flipped"
    shutil.copytree(snapshot, copy)
    shard, offset = flip(copy)
    said = json.loads(in_perimeter(place, sys.executable, str(FLIPPED), "plan.json", str(copy)))
    assert said
    assert said != tiny_kimi.COMPLETION_TEXT, "vLLM served the damaged expert without a word"

    whole = (snapshot / shard).read_bytes()
    shutil.copy(copy / shard, snapshot / shard)
    try:
        refused = place.run(*launch(place, "--json"))
    finally:
        (snapshot / shard).write_bytes(whole)
    assert refused.code == 10
    (finding,) = [item for item in refused.report["findings"] if item["reference"] == "digest-mismatch"]
    assert shard in finding["where"]
    assert f"bytes {offset // (4 << 20) * (4 << 20)}-" in finding["where"]


def flip(model: Path) -> tuple[str, int]:
    """Flip one exponent bit of one weight of one expert; gives back the shard's name and the byte."""
    for shard in sorted(model.glob("*.safetensors")):
        data = bytearray(shard.read_bytes())
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        if EXPERT in header:
            offset = 8 + length + header[EXPERT]["data_offsets"][0] + 1
            data[offset] ^= 0x40
            shard.write_bytes(data)
            return shard.name, offset
    raise AssertionError(f"no shard holds {EXPERT}")
