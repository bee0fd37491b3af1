"""The tiny Kimi-shaped model and its GGUF: the same bytes everywhere, in a form that readers accept."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

import pytest
from safetensors import deserialize

from bundler.content.model import check_model
from bundler.demo import tiny_gguf, tiny_kimi
from bundler.demo.tiny_kimi import Variant, model_files, write_model

VARIANTS: tuple[Variant, ...] = get_args(Variant)
DIGESTS = {
    "bf16": "373bac2fbc65848ed1ccd386919ae5276a7aefca831c55f7ec1ab3501647451d",
    "fp8": "5a3823f03a7bc9efff6755d29aa8afd8819999eb4b0fb6f011ffeef512bb5038",
    "int4": "3d952aa221c267cff3beb7810533cf6605198062de6b409e8cca2c4f3cd1990f",
    "gguf": "7f8005bea03e6092b92111284c0ef1e051e4592f909a988e2ffa68ed45633508",
}


def digest(files: dict[str, bytes]) -> str:
    """One digest over names and bytes."""
    total = hashlib.sha256()
    for name in sorted(files):
        total.update(f"{name}\0{len(files[name])}\0".encode() + files[name])
    return total.hexdigest()


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_model_is_the_same_bytes_as_ever(variant: Variant) -> None:
    assert digest(model_files(variant)) == DIGESTS[variant]


def test_the_gguf_is_the_same_bytes_as_ever() -> None:
    assert digest(tiny_gguf.gguf_files()) == DIGESTS["gguf"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_safetensors_library_reads_every_shard(variant: Variant) -> None:
    names: list[str] = []
    for name, data in model_files(variant).items():
        if name.endswith(".safetensors"):
            names += [tensor for tensor, _ in deserialize(data)]  # type: ignore[no-untyped-call]
    assert sorted(names) == sorted(tiny_kimi.weights(variant))
    assert len(names) == {"bf16": 91, "fp8": 163, "int4": 187}[variant]


@pytest.mark.parametrize("shards", [1, 2, 5])
def test_any_number_of_shards_is_complete(tmp_path: Path, shards: int) -> None:
    files = write_model(tmp_path, shards=shards)
    content = check_model(tmp_path, files, format="bf16")
    assert content.findings == ()
    assert content.facts["weightFiles"] == shards


def test_the_remote_code_variant_names_its_files_in_auto_map(tmp_path: Path) -> None:
    files = write_model(tmp_path, remote_code=True)
    config = json.loads((tmp_path / "config.json").read_text())
    assert {target.split(".")[0] + ".py" for target in config["auto_map"].values()} <= set(files)
    for name in tiny_kimi.REMOTE_CODE:
        compile((tmp_path / name).read_text(), name, "exec")
    assert check_model(tmp_path, files, format="bf16").findings == ()


def test_every_token_of_an_answer_follows_from_the_one_before() -> None:
    text, token = "", tiny_kimi.token_id("A")
    while True:
        token = tiny_kimi.successors().get(token, tiny_kimi.token_id(tiny_kimi.SENTENCE[0]))
        if tiny_kimi.vocabulary()[token] == tiny_kimi.END:
            break
        text += tiny_kimi.vocabulary()[token]
    assert text == tiny_kimi.COMPLETION_TEXT == "Weights verified offline and served here."
    assert json.loads(tiny_kimi.TOOL_ARGUMENTS) == {"city": "Paris"}


def test_the_gguf_holds_the_same_weights() -> None:
    source, stored = tiny_kimi.weights("bf16"), tiny_gguf.tiny_tensors()
    assert stored["token_embd.weight"].data == source["model.embed_tokens.weight"].data
    norm = struct.unpack(f"<{tiny_kimi.HIDDEN}f", stored["output_norm.weight"].data)
    assert norm == (1.0,) * tiny_kimi.HIDDEN
    experts = stored["blk.1.ffn_up_exps.weight"]
    second = source["model.layers.1.mlp.experts.1.up_proj.weight"].data
    assert experts.data[len(second) : 2 * len(second)] == second
    assert experts.shape == (tiny_kimi.HIDDEN, tiny_kimi.EXPERT_WIDTH, tiny_kimi.EXPERTS)


def test_the_keys_are_the_transposed_first_rows_of_each_head() -> None:
    source = tiny_kimi.weights("bf16")["model.layers.0.self_attn.kv_b_proj.weight"]
    keys = tiny_gguf.tiny_tensors()["blk.0.attn_k_b.weight"]
    head, row, column = 2, 17, 301
    there = 2 * ((head * (tiny_kimi.NOPE + tiny_kimi.VALUE) + row) * tiny_kimi.KV_RANK + column)
    here = 2 * ((head * tiny_kimi.KV_RANK + column) * tiny_kimi.NOPE + row)
    assert keys.data[here : here + 2] == source.data[there : there + 2]


def test_making_a_model_takes_under_a_second_and_only_the_standard_library(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from bundler.demo import tiny_gguf, tiny_kimi\n"
        "tiny_kimi.write_model(Path(sys.argv[1])); tiny_gguf.write_gguf(Path(sys.argv[1]) / 'gguf')\n"
        "foreign = {'numpy', 'gguf', 'safetensors', 'torch'}\n"
        "print([name for name in sys.modules if name.split('.')[0] in foreign])"
    )
    told = subprocess.run(
        [sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True
    )
    assert told.stdout == "[]\n"
    began = time.process_time()
    model_files("bf16")
    assert time.process_time() - began < 1
