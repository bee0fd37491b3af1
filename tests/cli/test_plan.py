"""`sealift plan`: tables, disks, GPUs, exit codes."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bundler.assembly.locking import make_lock
from bundler.assembly.templates import template
from bundler.cli.app import run
from bundler.core.specs.lock import Lock, LockedEngine, LockedModel, LockedModelFile
from bundler.core.specs.spec import LaunchSpec, NodeSpec
from bundler.core.specs.spec_text import parse_spec
from bundler.demo.hub import LoopbackHub
from bundler.demo.tiny_gguf import write_gguf
from bundler.demo.tiny_kimi import KV_RANK, LAYERS, ROPE, write_model
from bundler.sizing.weights import KIMI_K2_CONFIG

SPEC = """\
apiVersion: sealift/v1
name: tiny
channel: tests
serial: 1
models:
  - {repo: demo/tiny-bf16, format: bf16}
  - {repo: demo/tiny-gguf, format: gguf}
node: {gpu: H200, count: 1, ram: 64GiB}
"""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """A Hub with the tiny model in both forms."""
    write_model(tmp_path / "hub/demo/tiny-bf16")
    write_gguf(tmp_path / "hub/demo/tiny-gguf", parts=2)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with LoopbackHub(tmp_path / "hub") as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Hub address where nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def locked(work: Path, text: str = SPEC) -> Lock:
    """The spec and its lock, written."""
    (work / "spec.yaml").write_text(text)
    lock = make_lock(parse_spec(text.encode(), "spec.yaml"), text.encode(), work)
    (work / "spec.lock.json").write_bytes(lock.to_bytes())
    return lock


def planned(capsys: pytest.CaptureFixture[str], *arguments: str, code: int | None = 0) -> dict[str, Any]:
    """The plan as data. `code` is None where it depends on the room this machine happens to have."""
    capsys.readouterr()
    found = run(["plan", *arguments, "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert isinstance(answer, dict)
    assert answer["exitCode"] == found
    assert code in (None, found)
    refuse_floats(answer)
    return answer


def refuse_floats(value: object) -> None:
    assert not isinstance(value, float)
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        refuse_floats(item)


def kimi(node: NodeSpec | None, **launch: Any) -> Lock:
    """Kimi K2.7 Code as a lock that needs no network: one weight file of the published size."""
    weights = LockedModelFile(path="model.safetensors", size=595_177_988_208, git_blob_sha1="a" * 40)
    model = LockedModel(
        id="kimi",
        repo="moonshotai/Kimi-K2.7-Code",
        revision="main",
        commit="7" * 40,
        format="int4",
        files=(weights,),
    )
    engine = LockedEngine(
        id="vllm",
        name="vllm",
        requirement="vllm==0.19.1",
        version="0.19.1",
        python="3.12",
        platform="linux/amd64",
        glibc="2.31",
        accelerator=launch.pop("accelerator", "cuda"),
        wheels=(),
    )
    members = {"tensor_parallel": 8, "context_length": 262144, **launch}
    profile = LaunchSpec(profile="default", engine="vllm", model="kimi", served_name="k", **members)
    return Lock(
        spec_sha256="b" * 64,
        name="kimi",
        channel="c",
        serial=1,
        models=(model,),
        engines=(engine,),
        launch=(profile,),
        node=node,
    )


def write_kimi(work: Path, node: NodeSpec | None, **launch: Any) -> str:
    path = work / "kimi.lock.json"
    path.write_bytes(kimi(node, **launch).to_bytes())
    return str(path)


H200 = NodeSpec(gpu="H200", count=8)
LATENT = KV_RANK + ROPE


def test_a_plan_counts_what_the_lock_pins(
    hub: LoopbackHub, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = locked(work)
    answer = planned(capsys, "spec.lock.json", "--to", "out")
    sizes = [file.size for model in lock.models for file in model.files]
    assert answer["fetch"]["bytes"] == sum(sizes)
    assert sum(kind["files"] for kind in answer["fetch"]["kinds"]) == len(sizes)
    assert answer["fetch"]["mounts"][0]["needed"] >= sum(sizes)
    assert not (work / "out").exists()


def test_a_plan_of_a_spec_pins_in_memory_and_writes_nothing(
    hub: LoopbackHub, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (work / "spec.yaml").write_text(SPEC)
    assert run(["plan", "spec.yaml"]) == 0
    told = capsys.readouterr()
    assert "nothing is written" in told.err
    assert "weights" in told.out
    assert [path.name for path in work.iterdir()] == ["spec.yaml"]


def test_a_plan_of_a_spec_uses_its_lock_but_never_a_stale_one(
    hub: LoopbackHub, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    locked(work)
    assert run(["plan", "spec.yaml"]) == 0
    assert "pinning" not in capsys.readouterr().err
    (work / "spec.yaml").write_text(SPEC.replace("serial: 1", "serial: 2"))
    assert run(["plan", "spec.yaml"]) == 0
    assert "older spec" in capsys.readouterr().err


def test_what_is_already_here_is_not_counted_again(
    hub: LoopbackHub, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = locked(work)
    whole = planned(capsys, "spec.lock.json", "--to", "out")["fetch"]["bytes"]
    model, file = lock.models[0], lock.models[0].files[0]
    here = work / "out.building/bundle" / model.snapshot / file.path
    here.parent.mkdir(parents=True)
    here.write_bytes(b"x" * file.size)
    (work / "out.building/partial").mkdir()
    (work / "out.building/partial/k.part").write_bytes(b"y" * 100)
    fetch = planned(capsys, "spec.lock.json", "--to", "out")["fetch"]
    assert fetch["bytes"] == whole - file.size - 100
    assert fetch["begunBytes"] == 100
    assert sum(kind["presentFiles"] for kind in fetch["kinds"]) == 1


def test_both_forms_of_the_model_are_sized_by_their_own_configuration(
    hub: LoopbackHub, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    locked(work)
    fits = [launch["fit"] for launch in planned(capsys, "spec.lock.json")["launches"]]
    # llama.cpp keeps key and value of the latent vector, the others the vector itself; two bytes a number.
    assert [fit["kvBytesPerToken"] for fit in fits] == [LATENT * LAYERS * 2, (LATENT + KV_RANK) * LAYERS * 2]
    assert [fit["verdict"] for fit in fits] == ["fits", "fits"]


def test_without_a_network_the_plan_says_what_is_not_known(
    work: Path, capsys: pytest.CaptureFixture[str], nobody: None
) -> None:
    data = json.loads(kimi(H200).to_bytes())
    data["models"][0]["files"].append({"path": "config.json", "size": 5420, "gitBlobSha1": "c" * 40})
    (work / "kimi.lock.json").write_text(json.dumps(data))
    answer = planned(capsys, "kimi.lock.json", code=None)
    assert "context-not-known" in {finding["reference"] for finding in answer["findings"]}
    assert answer["launches"][0]["fit"]["verdict"] == "context-unknown"
    assert answer["launches"][0]["fit"]["weights"] == 74_397_248_526


def test_the_configuration_of_a_built_bundle_needs_no_network(
    hub: LoopbackHub, work: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    lock = locked(work)
    for model in lock.models:
        for file in model.files:
            target = work / "out" / model.snapshot / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            source = hub.root / model.repo / file.path
            target.write_bytes(source.read_bytes())
    request.getfixturevalue("nobody")
    answer = planned(capsys, "spec.lock.json", "--to", "out")
    assert answer["findings"] == []
    assert answer["fetch"]["bytes"] == 0
    assert all(launch["fit"]["kvTokens"] for launch in answer["launches"])


def test_a_configuration_that_is_not_the_locked_one_is_not_believed(
    hub: LoopbackHub, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = locked(work)
    model = lock.models[0]
    config = next(file for file in model.files if file.path == "config.json")
    target = work / "out" / model.snapshot / "config.json"
    target.parent.mkdir(parents=True)
    target.write_bytes(b"{" + b" " * (config.size - 2) + b"}")
    answer = planned(capsys, "spec.lock.json", "--to", "out")
    assert answer["launches"][0]["fit"]["kvBytesPerToken"] == LATENT * LAYERS * 2


def test_a_disk_that_cannot_take_it_is_refused_with_4(
    hub: LoopbackHub, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    locked(work)
    answer = planned(capsys, "spec.lock.json", "--to", "/proc/no-room-here", code=4)
    assert answer["verdict"] == "failed"
    assert "no-space" in {finding["reference"] for finding in answer["findings"]}


def test_a_node_that_cannot_hold_the_weights_is_refused_with_12(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_kimi(work, NodeSpec(gpu="H100-80G", count=8))
    answer = planned(capsys, path, "--to", "out", code=12)
    finding = next(one for one in answer["findings"] if one["reference"] == "does-not-fit")
    assert finding["where"] == "launch profile default"
    assert finding["expected"] == "77.0 GB for weights, overhead and KV cache on each GPU"
    assert finding["found"] == "85.6 GB for weights and overhead alone"
    assert not (work / "out").exists()


def test_the_overhead_can_be_overridden(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_kimi(work, NodeSpec(gpu="H100-80G", count=8))
    answer = planned(capsys, path, "--overhead", "1GB", "--to", "out", code=None)
    assert answer["launches"][0]["fit"]["overhead"] == 10**9
    assert answer["launches"][0]["fit"]["verdict"] == "context-unknown"


@pytest.mark.parametrize(
    ("node", "launch", "reference"),
    [
        (NodeSpec(gpu="H200", count=4), {}, "too-few-gpus"),
        (NodeSpec(gpu="H200", count=8), {"arguments": ("-pp", "2")}, "too-few-gpus"),
        (None, {}, "fit-not-judged"),
        (NodeSpec(ram="1TiB"), {}, "fit-not-judged"),
        (H200, {"accelerator": "cpu"}, "fit-not-judged"),
        (NodeSpec(ram="512GiB"), {"accelerator": "cpu"}, "does-not-fit"),
    ],
)
def test_what_stands_against_a_launch_is_named(
    work: Path,
    capsys: pytest.CaptureFixture[str],
    node: NodeSpec | None,
    launch: dict[str, Any],
    reference: str,
) -> None:
    path = write_kimi(work, node, **launch)
    capsys.readouterr()
    run(["plan", path, "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert reference in {finding["reference"] for finding in answer["findings"]}


def test_an_unknown_gpu_is_refused_with_the_nearest(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", write_kimi(work, NodeSpec(gpu="H210", count=8))]) == 3
    assert "did you mean `H" in capsys.readouterr().err


# Before anything is pinned.


@pytest.fixture
def config(work: Path) -> str:
    path = work / "config.json"
    path.write_text(json.dumps({"text_config": {**KIMI_K2_CONFIG, "rope_theta": 50000.0}}))
    return str(path)


@pytest.mark.parametrize("profile", ["kimi-k2-vllm", "kimi-k2-sglang", "kimi-k2-fp8"])
def test_the_kimi_profiles_are_sized_for_nodes_where_they_fit(
    profile: str, work: Path, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (work / "spec.yaml").write_text(template(profile))
    answer = planned(capsys, "spec.yaml", "--config", config)
    assert answer["fetch"] is None
    assert answer["launches"][0]["byFormula"]
    assert answer["launches"][0]["fit"]["verdict"] == "fits"
    assert answer["launches"][0]["fit"]["longestContext"] == 262_144


def test_the_fp8_release_is_refused_for_8_h200(
    work: Path, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (work / "spec.yaml").write_text(template("kimi-k2-fp8").replace("B200-180G", "H200-141G"))
    answer = planned(capsys, "spec.yaml", "--config", config, code=12)
    assert answer["launches"][0]["fit"]["left"] < 0
    nodes = {node["device"]: node["gpus"] for node in answer["launches"][0]["nodesThatWouldDo"]}
    assert nodes["H200-141G"] == 16
    assert nodes["B200-180G"] == 8


def test_less_context_than_wanted_is_refused_with_what_would_fit(
    work: Path, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = template("kimi-k2-vllm").replace("H200-141G\n  count: 8", "B200-180G\n  count: 4")
    (work / "spec.yaml").write_text(text.replace("tensorParallel: 8", "tensorParallel: 4"))
    answer = planned(capsys, "spec.yaml", "--config", config, code=12)
    finding = answer["findings"][0]
    assert finding["what"] == "the context that is wanted does not fit"
    assert finding["hint"].startswith("contextLength: 188416;")


def test_more_context_than_the_model_has_is_refused(
    work: Path, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (work / "spec.yaml").write_text(template("kimi-k2-vllm").replace("262144", "524288"))
    answer = planned(capsys, "spec.yaml", "--config", config, code=12)
    assert [one["reference"] for one in answer["findings"]] == ["context-too-long"]


def test_a_model_without_a_formula_is_refused(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "config.json").write_text('{"num_hidden_layers": 2}')
    (work / "spec.yaml").write_text(template("kimi-k2-vllm"))
    assert (
        planned(capsys, "spec.yaml", "--config", "config.json", code=3)["findings"][0]["reference"]
        == "no-formula"
    )


# Tables.


def test_the_reference_table_is_printed_as_published(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--reference"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "block-fp8 8x H200-141G 128.6 135.7 -4.2 0 no (0.97: 90,868 tokens) fits, 128 GB headroom" in lines
    assert "int4 4x B200-180G 148.6 173.0 13.3 189,090 max-model-len 188,416 -" in lines
    assert "any 2x H100-80G 297+ 77.0 no serves a real workload" in lines


def test_the_simple_table_warns_about_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--simple"]) == 0
    printed = capsys.readouterr().out
    assert "do not decide by it" in printed
    assert "128 GB" in printed


def test_the_gpus_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert {"kind": "H200-141G", "memory": 143771 << 20, "aliases": ["H200"]} in planned(capsys, "--gpus")[
        "gpus"
    ]


def test_a_plan_of_nothing_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan"]) == 2
    assert "name a spec or a lock" in capsys.readouterr().err


def test_the_plan_for_people_has_bytes_disks_and_the_fit(
    hub: LoopbackHub, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    locked(work)
    assert run(["plan", "spec.lock.json", "--to", "out"]) == 0
    printed = capsys.readouterr().out
    for words in ("to fetch:", "already here", "free", "1x H200-141G (tensor parallel", "verdict:    fits"):
        assert words in printed


# Another machine, and a picture.


@pytest.mark.parametrize(
    ("node", "gpus", "verdict", "references"),
    [
        ("8xH200", "8x H200-141G", "fits", set()),
        ("16xH100", "8x H100-80G", "no", {"gpus-idle", "does-not-fit"}),
        ("16 x h200", "8x H200-141G", "fits", {"gpus-idle"}),
        ("4xH200", "8x H200-141G", "no", {"too-few-gpus"}),
        ("8xWafer:200GB", "8x Wafer", "fits", set()),
    ],
)
def test_another_node_is_judged_without_touching_the_lock(
    node: str, gpus: str, verdict: str, references: set[str], work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_kimi(work, NodeSpec(gpu="A100", count=1))
    (work / "model-shape").mkdir()
    before = Path(path).read_bytes()
    (work / "spec.yaml").write_text(template("kimi-k2-vllm"))
    (work / "config.json").write_text(json.dumps({"text_config": {**KIMI_K2_CONFIG}}))
    answer = planned(capsys, "spec.yaml", "--config", "config.json", "--node", node, code=None)
    launch = answer["launches"][0]
    assert f"{launch['fit']['gpus']}x {launch['fit']['device']}" == gpus
    assert launch["verdict"] == verdict
    assert {finding["reference"] for finding in answer["findings"]} == references
    assert launch["idleGpus"] == (8 if node.startswith("16") else 0)
    planned(capsys, path, "--node", node, code=None)
    assert Path(path).read_bytes() == before


@pytest.mark.parametrize("count", [2, 4, 12, 16, 24, 7])
def test_the_advice_for_idle_or_missing_gpus_is_taken_by_the_spec(
    count: int, work: Path, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (work / "spec.yaml").write_text(template("kimi-k2-vllm"))
    first = planned(capsys, "spec.yaml", "--config", config, "--node", f"{count}xB300", code=None)
    hints = [f["hint"] for f in first["findings"] if f["reference"] in ("gpus-idle", "too-few-gpus")]
    assert len(hints) == 1
    advice = hints[0].partition(";")[0]
    tensor = int(advice.partition("tensorParallel: ")[2].partition(",")[0])
    more = json.loads(advice.partition("arguments: ")[2] or "[]")
    text = template("kimi-k2-vllm").replace("tensorParallel: 8", f"tensorParallel: {tensor}")
    words = json.dumps(["--mm-encoder-tp-mode", "data", *more])
    assert '["--mm-encoder-tp-mode", "data"]' in text
    (work / "spec.yaml").write_text(text.replace('["--mm-encoder-tp-mode", "data"]', words))
    again = planned(capsys, "spec.yaml", "--config", config, "--node", f"{count}xB300", code=None)
    assert again["launches"][0]["idleGpus"] == 0
    assert again["launches"][0]["fit"]["gpus"] == count
    assert not {"gpus-idle", "too-few-gpus", "tensor-parallel"} & {f["reference"] for f in again["findings"]}


@pytest.mark.parametrize("node", ["nonsense", "0xH100", "-1xH100", "H100", "5000xH100", "8x", "x8", ""])
def test_what_names_no_machine_is_refused(node: str, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_kimi(work, H200)
    answer = planned(capsys, path, "--node", node, code=2)
    assert answer["findings"][0]["reference"] == "bad-node"


def test_no_good_verdict_is_printed_beside_an_error(
    work: Path, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (work / "spec.yaml").write_text(template("kimi-k2-vllm").replace("262144", "524288"))
    assert run(["plan", "spec.yaml", "--config", config, "--node", "8xMI300X"]) == 12
    printed, said = capsys.readouterr()
    assert "error: context-too-long" in said
    assert "  verdict:    no\n" in printed
    assert printed.rstrip().endswith("verdict: failed")


def test_a_plan_that_passes_names_the_next_command(
    hub: LoopbackHub, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    locked(work)
    assert run(["plan", "spec.lock.json", "--to", "out"]) == 0
    assert "next: sealift build spec.yaml -o out" in capsys.readouterr().err


def matplotlib_is_here() -> None:
    if importlib.util.find_spec("matplotlib") is None:
        pytest.skip("matplotlib is not installed: scripts/environment dev")


def drawn(work: Path, name: str, *more: str) -> subprocess.CompletedProcess[str]:
    """`sealift plan --plot` as a process: the library warns about what is not ours."""
    words = [sys.executable, "-m", "bundler", "plan", *more, "--plot", name]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(words, cwd=work, env=environment, capture_output=True, text=True, check=False)


def test_a_picture_shows_memory_disks_and_the_cost_of_context(work: Path, config: str) -> None:
    matplotlib_is_here()
    (work / "spec.yaml").write_text(template("kimi-k2-vllm"))
    done = drawn(work, "plan.svg", "spec.yaml", "--config", config)
    assert done.returncode == 0, done.stderr
    text = (work / "plan.svg").read_text()
    for words in ("weights 74.3 GB", "overhead 11.2 GB", "KV cache 18.4 GB", "wanted: 262,144", "tokens"):
        assert words in text
    assert drawn(work, "again.svg", "spec.yaml", "--config", config).returncode == 0
    assert (work / "again.svg").read_text() == text
    path = write_kimi(work, H200)
    assert drawn(work, "plan.png", path).returncode in (0, 4)
    assert (work / "plan.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_a_picture_of_another_form_is_refused_before_anything_is_planned(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_kimi(work, H200)
    answer = planned(capsys, path, "--plot", "plan.pdf", code=2)
    assert answer["findings"][0]["reference"] == "picture-format"


def test_without_the_library_the_command_that_installs_it_is_named(
    work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    answer = planned(capsys, write_kimi(work, H200), "--plot", "plan.svg", code=4)
    finding = answer["findings"][0]
    assert (finding["reference"], finding["hint"]) == (
        "no-matplotlib",
        "`python3 -m pip install 'sealift[plot]'`",
    )
