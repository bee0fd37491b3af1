"""Sizing against the published figures, and the rules that keep it honest."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundler.errors import MalformedError
from bundler.sizing.examples import reference_table, weights_only_table
from bundler.sizing.gpus import GPU_KINDS, gpu_kind
from bundler.sizing.memory import (
    Demand,
    Layout,
    ModelShape,
    element_bytes,
    fit,
    fit_ram,
    nodes_that_would_do,
    weights_per_gpu,
)
from bundler.sizing.weights import KIMI_K2_CONFIG, formula_weights

KIMI = ModelShape.parse(KIMI_K2_CONFIG)
INT4_BYTES = 595_177_988_208
"""The weight files of Kimi-K2.7-Code, as published."""
H200 = gpu_kind("H200")
QWEN = ModelShape.parse(
    {
        "num_hidden_layers": 64,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "hidden_size": 5120,
    }
)
"""Grouped-query attention with 8 KV heads."""

REFERENCE = [
    # weights, GPUs, kind, GB of weights, of budget and left on each GPU, KV tokens, verdict, said
    (
        "block-fp8",
        8,
        "H200-141G",
        "128.6",
        "135.7",
        "-4.2",
        0,
        "no (0.97: 90,868 tokens)",
        "fits, 128 GB headroom",
    ),
    ("block-fp8", 16, "H200-141G", "64.3", "135.7", "60.2", 856_045, "3.3 x 256K", ""),
    ("block-fp8", 8, "H100-80G", "128.6", "77.0", "-62.9", 0, "no", "no"),
    ("block-fp8", 8, "B200-180G", "128.6", "173.0", "33.2", 472_344, "1.8 x 256K", ""),
    ("int4", 8, "H200-141G", "74.3", "135.7", "50.2", 714_418, "2.7 x 256K", ""),
    ("int4", 8, "H100-80G", "74.3", "77.0", "-8.5", 0, "no (0.97: -2.5)", "fits, 140 GB headroom"),
    ("int4", 16, "H100-80G", "37.1", "77.0", "28.6", 407_429, "1.6 x 256K", ""),
    ("int4", 4, "B200-180G", "148.6", "173.0", "13.3", 189_090, "max-model-len 188,416", ""),
    ("any", 2, "H100-80G", "297.1", "77.0", "-231.3", 0, "no", "serves a real workload"),
    ("bf16", 24, "H200-141G", "85.5", "135.7", "38.9", 554_208, "2.1 x 256K", "~2,000 GB"),
]


@pytest.mark.parametrize("row", range(len(REFERENCE)), ids=[f"{r[0]} on {r[1]}x {r[2]}" for r in REFERENCE])
def test_the_reference_table_has_the_published_row(row: int) -> None:
    found = reference_table()[row]

    def gigabytes(count: int) -> str:
        return f"{count / 10**9:.1f}"

    assert REFERENCE[row] == (
        found.weights,
        found.gpus,
        found.gpu,
        gigabytes(found.fit.weights),
        gigabytes(found.fit.budget),
        gigabytes(found.fit.left),
        found.fit.kv_tokens,
        found.verdict,
        found.said,
    )


def test_the_reference_table_has_no_other_rows() -> None:
    assert len(reference_table()) == len(REFERENCE)


@pytest.mark.parametrize(
    ("weight_format", "size"),
    [("bf16", 2_052_816_510_976), ("block-fp8", 1_029_173_249_888), ("int4", 594_205_904_896)],
)
def test_the_formula_gives_the_published_weights(weight_format: str, size: int) -> None:
    assert formula_weights({"text_config": KIMI_K2_CONFIG}, weight_format) == size


@pytest.mark.parametrize("weight_format", ["gguf", "any"])
def test_the_formula_does_not_guess_other_formats(weight_format: str) -> None:
    assert formula_weights(KIMI_K2_CONFIG, weight_format) is None


def test_the_formula_does_not_guess_a_missing_member() -> None:
    config = {name: value for name, value in KIMI_K2_CONFIG.items() if name != "n_routed_experts"}
    assert formula_weights(config, "int4") is None


def test_a_token_of_kimi_takes_70272_bytes_on_every_tensor_parallel_rank() -> None:
    assert KIMI is not None
    assert {KIMI.kv_bytes(Layout(tensor=size)) for size in (1, 2, 4, 8)} == {70_272}
    assert KIMI.kv_bytes(Layout(tensor=8), 1) == 35_136


def test_decode_context_parallelism_multiplies_the_tokens() -> None:
    demand = Demand(weights=594_205_904_896, shape=KIMI)
    assert fit(demand, H200, Layout(tensor=8, decode_context=8)).kv_tokens == 5_715_346


def test_grouped_query_attention_shares_its_heads_but_not_below_one() -> None:
    assert QWEN is not None
    per_token = [QWEN.kv_bytes(Layout(tensor=size)) for size in (1, 2, 4, 8, 16)]
    assert per_token == [262_144, 131_072, 65_536, 32_768, 32_768]


def test_a_pipeline_stage_keeps_only_its_own_layers_and_the_fullest_one_counts() -> None:
    assert KIMI is not None
    layout = Layout(tensor=8, pipeline=2)
    assert KIMI.kv_bytes(layout) == 576 * 31 * 2
    assert weights_per_gpu(610, KIMI, layout) == Fraction(610 * 31, 61 * 8)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({}, "nothing known"),
        ({"num_hidden_layers": 3}, "no heads"),
        (
            {"num_hidden_layers": "61", "num_attention_heads": 64, "head_dim": 64},
            "text where a number belongs",
        ),
        ({"num_hidden_layers": True, "num_attention_heads": 64, "head_dim": 64}, "true is no number"),
        ({"num_hidden_layers": -1, "num_attention_heads": 64, "head_dim": 64}, "negative"),
        ({"num_hidden_layers": 2, "num_attention_heads": 64}, "neither head size nor hidden size"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_shape_is_unknown_rather_than_guessed(config: dict[str, object], reason: str) -> None:
    assert ModelShape.parse(config) is None


def test_without_a_shape_the_weights_alone_are_judged() -> None:
    found = fit(Demand(weights=10**11, shape=None), H200, Layout(tensor=1))
    assert (found.kv_tokens, found.longest_context, found.verdict) == (None, None, "context-unknown")
    assert fit(Demand(weights=10**13, shape=None), H200, Layout(tensor=8)).verdict == "no"


def test_the_longest_context_is_rounded_down_to_1024() -> None:
    found = fit(Demand(weights=594_205_904_896, shape=KIMI), gpu_kind("b200"), Layout(tensor=4))
    assert (found.kv_tokens, found.longest_context, found.verdict) == (189_090, 188_416, "shorter")


def test_the_longest_context_is_never_more_than_the_model_was_made_for() -> None:
    found = fit(Demand(weights=INT4_BYTES, shape=KIMI), H200, Layout(tensor=8))
    assert (found.kv_tokens, found.longest_context) == (712_689, 262_144)


def test_fewer_than_1024_tokens_count_as_not_fitting() -> None:
    roomy = fit(Demand(weights=0, shape=KIMI, overhead=0), H200, Layout())
    tight = Demand(weights=0, shape=KIMI, overhead=roomy.left - 70_272 * 500)
    assert fit(tight, H200, Layout()).verdict == "no"


def test_without_a_shape_no_nodes_are_recommended() -> None:
    assert nodes_that_would_do(Demand(weights=1, shape=None)) == ()


def test_main_memory_is_used_whole() -> None:
    found = fit_ram(Demand(weights=600, shape=None, overhead=300), 1000)
    assert (found.device, found.budget, found.left) == ("RAM", 1000, 100)
    assert found.verdict == "context-unknown"
    assert fit_ram(Demand(weights=800, shape=None, overhead=300), 1000).verdict == "no"


def test_the_nodes_that_would_do_are_the_smallest_that_fit() -> None:
    demand = Demand(weights=INT4_BYTES, shape=KIMI)
    nodes = {node.device: node for node in nodes_that_would_do(demand)}
    assert {name: node.gpus for name, node in nodes.items()} == {
        "A100-80G": 16,
        "H100-80G": 16,
        "H20-141G": 8,
        "H200-141G": 8,
        "B200-180G": 8,
        "B300-268G": 4,
        "MI300X-192G": 4,
    }
    for node in nodes.values():
        assert node.verdict == "fits"
        assert node.layout.tensor in (1, 2, 4, 8)
        smaller = Layout(tensor=node.layout.tensor // 2) if node.gpus <= 8 else Layout(tensor=8)
        assert fit(demand, gpu_kind(node.device), smaller).verdict != "fits"


def test_tensor_parallel_divides_the_attention_heads() -> None:
    shape = ModelShape.parse({"num_hidden_layers": 4, "num_attention_heads": 12, "head_dim": 64})
    nodes = nodes_that_would_do(Demand(weights=2 * 10**12, shape=shape, context=1024))
    assert {node.layout.tensor for node in nodes} == {4}
    assert Layout.of_node(8, shape) == Layout(tensor=4, pipeline=2)


@pytest.mark.parametrize(
    ("arguments", "layout"),
    [
        ((), Layout(tensor=8)),
        (("--pipeline-parallel-size", "2"), Layout(tensor=8, pipeline=2)),
        (("--pp-size=2", "-dcp", "8"), Layout(tensor=8, pipeline=2, decode_context=8)),
        (("--pipeline-parallel-size", "two"), Layout(tensor=8)),
        (("--pipeline-parallel-size",), Layout(tensor=8)),
    ],
)
def test_the_layout_of_a_launch_reads_its_parallel_flags(arguments: tuple[str, ...], layout: Layout) -> None:
    assert Layout.of_launch(8, arguments) == layout


def test_the_simple_table_is_the_one_the_guides_print() -> None:
    rows = {(row.weights_format, row.node): row.headroom // 10**9 for row in weights_only_table()}
    assert rows["FP8", "8x H200"] == 128
    assert rows["4-bit", "8x H100"] == 140
    assert rows["FP8", "8x H100"] == -360
    assert {row.node: row.memory // 10**9 for row in weights_only_table()} == {
        "8x H100": 640,
        "8x H200": 1128,
        "8x B200": 1536,
    }


@pytest.mark.parametrize(
    ("name", "kind"), [("H200", "H200-141G"), ("h100", "H100-80G"), ("B200-192G", "B200-180G")]
)
def test_a_gpu_is_found_by_its_everyday_name(name: str, kind: str) -> None:
    assert gpu_kind(name).name == kind


def test_an_unknown_gpu_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(MalformedError) as caught:
        gpu_kind("H200-140G", where="node.gpu")
    finding = caught.value.findings[0]
    assert finding.reference == "unknown-gpu"
    assert finding.hint.startswith("did you mean `H200-141G`?")


def test_an_unknown_gpu_with_its_memory_is_accepted() -> None:
    assert gpu_kind("L40S", memory=48 * 10**9).memory == 48 * 10**9


def test_names_of_gpus_are_distinct() -> None:
    names = [name for kind in GPU_KINDS for name in (kind.name, *kind.aliases)]
    assert len(names) == len(set(names))


def test_only_known_cache_types_have_a_size() -> None:
    assert [element_bytes(name) for name in (None, "auto", "fp8", "int3")] == [2, 2, 1, None]


@given(
    st.integers(0, 3 * 10**12),
    st.sampled_from([1, 2, 4, 8]),
    st.integers(1, 8),
    st.sampled_from(GPU_KINDS),
    st.sampled_from([KIMI, QWEN, None]),
)
def test_what_is_said_to_fit_does_fit(
    weights: int, tensor: int, stages: int, kind: object, shape: ModelShape | None
) -> None:
    gpu = next(one for one in GPU_KINDS if one is kind)
    found = fit(
        Demand(weights=weights, shape=shape, context=4096), gpu, Layout(tensor=tensor, pipeline=stages)
    )
    tokens = (found.longest_context or 0) * (found.kv_bytes_per_token or 0)
    if found.verdict != "no":
        assert found.weights + found.overhead + tokens <= found.budget + 2
    json.dumps(found.to_json())
    assert all(not isinstance(value, float) for value in found.to_json().values())
