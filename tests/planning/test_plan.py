"""What a plan decides, with the model's shape given."""

from __future__ import annotations

from pathlib import Path

import pytest

from bundler.core.specs.lock import Lock, LockedEngine, LockedModel, LockedModelFile
from bundler.core.specs.spec import EngineName, LaunchSpec, NodeSpec
from bundler.errors import ExitCode, NetworkError
from bundler.planning.model_shape import weight_files
from bundler.planning.plan import plan_lock
from bundler.sizing.memory import Layout, ModelShape

SHAPE = ModelShape(layers=60, heads=12, kv_heads=4, elements_per_head=256, latent=False, context=32768)
GB = 10**9


def model(*paths: str, size: int = GB) -> LockedModel:
    files = tuple(LockedModelFile(path=path, size=size, git_blob_sha1="a" * 40) for path in paths)
    return LockedModel(id="m", repo="o/m", revision="main", commit="b" * 40, format="any", files=files)


def lock(one: LockedModel, node: NodeSpec | None, engine: EngineName = "vllm", tensor: int = 4) -> Lock:
    locked = LockedEngine(
        id="e",
        name=engine,
        requirement="e==1",
        version="1",
        python="3.12",
        platform="linux/amd64",
        glibc="2.31",
        accelerator="cuda",
        wheels=(),
    )
    profile = LaunchSpec(profile="p", engine="e", model="m", served_name="s", tensor_parallel=tensor)
    return Lock(
        spec_sha256="c" * 64,
        name="n",
        channel="c",
        serial=1,
        models=(one,),
        engines=(locked,),
        launch=(profile,),
        node=node,
    )


def shape(_model: LockedModel, _file: str | None, _places: object) -> ModelShape:
    return SHAPE


def no_network(_model: LockedModel, _file: str | None, _places: object) -> ModelShape:
    raise NetworkError("unreachable", "the server cannot be reached")


H100 = NodeSpec(gpu="H100", count=8)


def test_llama_cpp_spreads_whole_layers_over_all_gpus(tmp_path: Path) -> None:
    plan = plan_lock(lock(model("m.gguf"), H100, "llama.cpp", 1), tmp_path / "out", shape_of=shape)
    fit = plan.launches[0].fit
    assert fit is not None
    assert fit.layout == Layout(pipeline=8)
    assert fit.weights == -(-GB * 8 // 60)  # the fullest GPU has 8 of 60 layers; rounded up


def test_tensor_parallelism_that_does_not_divide_the_heads_is_refused(tmp_path: Path) -> None:
    plan = plan_lock(lock(model("m.safetensors"), H100, tensor=8), tmp_path / "out", shape_of=shape)
    assert [finding.reference for finding in plan.findings] == ["tensor-parallel"]
    assert plan.findings[0].expected == "a divisor of 12"
    assert plan.exit_code is ExitCode.POLICY


def test_a_plan_without_network_passes_with_a_warning_when_the_weights_fit(tmp_path: Path) -> None:
    plan = plan_lock(lock(model("m.safetensors"), H100), tmp_path / "out", shape_of=no_network)
    assert [(one.reference, one.severity) for one in plan.findings] == [
        ("context-not-known", "warning"),
        ("gpus-idle", "warning"),
    ]
    assert plan.findings[0].found == "unreachable: the server cannot be reached"
    assert plan.exit_code is ExitCode.PASSED


def test_a_gpu_of_unknown_kind_is_judged_by_its_stated_memory(tmp_path: Path) -> None:
    node = NodeSpec(gpu="L40S", count=4, memory="48GB")
    plan = plan_lock(lock(model("m.safetensors"), node), tmp_path / "out", shape_of=shape)
    fit = plan.launches[0].fit
    assert fit is not None
    assert (fit.device, fit.budget) == ("L40S", 48 * GB * 9 // 10)


def test_the_fit_decides_when_neither_disk_nor_node_will_do(tmp_path: Path) -> None:
    huge = lock(model("m.safetensors", size=10**15), H100)
    plan = plan_lock(huge, tmp_path / "out", shape_of=shape)
    assert {finding.reference for finding in plan.findings} == {"no-space", "does-not-fit", "gpus-idle"}
    assert plan.exit_code is ExitCode.POLICY
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("paths", "model_file", "loaded"),
    [
        (("a-00001-of-00002.gguf", "a-00002-of-00002.gguf", "b.gguf"), "a-00001-of-00002.gguf", 2),
        (("a-00001-of-00002.gguf", "a-00001-of-00003.gguf"), "a-00001-of-00002.gguf", 1),
        (("q2/a.gguf", "q4/a.gguf"), "q2/a.gguf", 1),
        (("q2/a.gguf", "q4/a.gguf"), None, 2),
        (("m.safetensors", "original/m.safetensors", "m.bin"), None, 1),
        (("nested/m.safetensors",), None, 1),
        (("config.json",), None, 0),
    ],
)
def test_only_what_an_engine_loads_counts_as_weights(
    paths: tuple[str, ...], model_file: str | None, loaded: int
) -> None:
    assert len(weight_files(model(*paths), model_file)) == loaded
