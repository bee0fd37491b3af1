"""Specs as people write them, rightly and wrongly."""

from __future__ import annotations

import datetime
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundler.assembly.templates import PROFILES, template
from bundler.core.specs import yaml_text
from bundler.core.specs.spec_text import SPEC_LIMIT, json_schema, parse_spec, schema_bytes
from bundler.errors import ExitCode, Finding, MalformedError

ROOT = Path(__file__).resolve().parents[3]
HEAD = b"apiVersion: sealift/v1\nname: x\nchannel: c\nserial: 1\n"
MODEL = HEAD + b"models:\n  - repo: a/b\n"
LAUNCH = (
    MODEL + b"engines:\n  - {name: vllm, requirement: vllm==0.19.1}\n"
    b"launch:\n  - profile: p\n    engine: vllm\n    model: b\n    servedName: s\n"
)


def findings(data: bytes) -> tuple[Finding, ...]:
    with pytest.raises(MalformedError) as caught:
        parse_spec(data, "spec.yaml")
    assert caught.value.exit_code is ExitCode.MALFORMED
    return caught.value.findings


def only(data: bytes) -> Finding:
    found = findings(data)
    assert len(found) == 1, found
    return found[0]


def test_a_small_spec_is_read_with_its_defaults() -> None:
    spec = parse_spec(LAUNCH, "spec.yaml")
    assert spec.models[0].identifier == "b"
    assert spec.models[0].revision == "main"
    assert spec.engines[0].glibc == "2.31"
    assert spec.launch[0].gpu_memory_utilization == "0.90"
    assert spec.node is None


def test_a_date_needs_no_quotes_and_may_have_them() -> None:
    for written in (b"2026-04-25", b'"2026-04-25"'):
        data = HEAD + b"engines: [{name: vllm, requirement: vllm, excludeNewer: " + written + b"}]"
        assert parse_spec(data, "spec.yaml").engines[0].exclude_newer == datetime.date(2026, 4, 25)


def test_a_byte_order_mark_of_an_editor_is_passed_over() -> None:
    assert parse_spec(b"\xef\xbb\xbf" + MODEL, "spec.yaml").name == "x"


def test_an_unknown_name_is_told_with_line_path_and_the_nearest_valid_one() -> None:
    found = only(MODEL + b"    formt: int4\n")
    assert found.reference == "unknown-name"
    assert found.where == "spec.yaml, line 7: models[0].formt"
    assert found.found == "formt"
    assert "format" in found.expected.split(", ")
    assert found.hint == "did you mean `format`?"


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        (b"    served_name: t\n", "did you mean `servedName`?"),
        (b"    contextlength: 5\n", "did you mean `contextLength`?"),
        (b"    tensorParalel: 8\n", "did you mean `tensorParallel`?"),
        (b"    qqq: 8\n", ""),
    ],
)
def test_the_hint_names_something_near_or_nothing(line: bytes, hint: str) -> None:
    assert only(LAUNCH + line).hint == hint


def test_python_code_names_are_not_a_second_spelling() -> None:
    assert (
        only(MODEL.replace(b"apiVersion", b"api_version") + b"apiVersion: sealift/v1\n").found
        == "api_version"
    )


def test_an_unquoted_python_version_is_refused_with_the_quoted_line() -> None:
    found = only(HEAD + b"engines:\n  - name: vllm\n    requirement: vllm\n    python: 3.10\n")
    assert found.reference == "bad-value"
    assert found.where == "spec.yaml, line 8: engines[0].python"
    assert found.found == "3.10, which YAML reads as 3.1"
    assert found.hint == 'quote it: python: "3.10"'


def test_an_unquoted_share_is_refused_with_the_quoted_line() -> None:
    assert only(LAUNCH + b"    gpuMemoryUtilization: 0.90\n").hint == 'quote it: gpuMemoryUtilization: "0.90"'


def test_a_number_where_text_belongs_is_refused() -> None:
    found = only(MODEL.replace(b"channel: c", b"channel: 2026"))
    assert (found.found, found.hint) == ("the number 2026", 'quote it: channel: "2026"')


@pytest.mark.parametrize(
    "text", [b"no", b"yes", b"on", b"Off", b"True", b"0x10", b"010", b"1_000", b"1:30", b".inf"]
)
def test_what_yaml_readers_disagree_about_is_refused(text: bytes) -> None:
    found = only(LAUNCH + b"    trustRemoteCode: " + text + b"\n")
    assert found.reference == "ambiguous-value"
    assert found.where == "spec.yaml, line 14: launch[0].trustRemoteCode"
    assert found.found == text.decode()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'    port: "8000"\n', "valid integer"),
        (b"    port: true\n", "valid integer"),
        (b"    port: 80.5\n", "valid integer"),
        (b"    port: 0\n", "greater than or equal to 1"),
        (b"    trustRemoteCode: 1\n", "valid boolean"),
        (b"    arguments: --x\n", "valid"),
        (b'    gpuMemoryUtilization: "0.00"\n', "pattern"),
        (b"    environment: {a b: c}\n", "pattern"),
    ],
)
def test_a_value_of_another_kind_is_refused(line: bytes, expected: str) -> None:
    found = only(LAUNCH + line)
    assert found.reference == "bad-value"
    assert expected in found.expected
    assert found.where.startswith("spec.yaml, line 14: launch[0].")


def test_a_wrong_choice_lists_the_choices_and_the_nearest() -> None:
    found = only(MODEL + b"    format: block-fp\n")
    assert found.expected.startswith(
        "one of bf16, f16, f32, block-fp8, fp8, mxfp8, int8, int4, int3, int2, mxfp4, "
    )
    assert found.hint == "did you mean `block-fp8`?"


def test_a_missing_name_is_told_where_it_belongs() -> None:
    found = only(HEAD + b"engines:\n  - name: vllm\n")
    assert found.reference == "missing-name"
    assert found.where == "spec.yaml, line 6: engines[0].requirement"
    assert found.expected == "requirement: Requirement such as `vllm==0.19.1`"


def test_all_faults_are_told_at_once_in_the_order_of_their_lines() -> None:
    data = LAUNCH.replace(b"serial: 1", b"serial: -1") + b"    port: x\n    tensorParalel: 8\n"
    found = findings(data)
    assert [one.where for one in found] == [
        "spec.yaml, line 4: serial",
        "spec.yaml, line 14: launch[0].port",
        "spec.yaml, line 15: launch[0].tensorParalel",
    ]


STRUCTURE = [
    (b"name: y\n", "duplicate-key", "line 7: name"),
    (b"node: &n {gpu: H200, count: 8}\n", "yaml-anchor", "line 7: node"),
    (b"node: !!map {gpu: H200, count: 8}\n", "yaml-tag", "line 7: node"),
    (b"node: !!python/object/apply:os.system [ls]\n", "yaml-tag", "line 7: node"),
    (b"<<: {name: y}\n", "merge-key", "line 7"),
    (b"? [a]\n: b\n", "bad-key", "line 7"),
    (b"no: 1\n", "ambiguous-value", "line 7"),
    (b"---\na: 1\n", "several-documents", "line 7"),
    (b'node: "\\ud800"\n', "bad-text", "line 7: node"),
    (b'node: "\\0"\n', "bad-text", "line 7: node"),
    (b"\tnode: x\n", "bad-yaml", "line 7"),
    (b"node: [\n", "bad-yaml", "line 8"),
    (b"node: \xff\n", "bad-yaml", "line 7"),
    (b"node: \x07\n", "bad-yaml", "line 7"),
]


@pytest.mark.parametrize(
    ("line", "reference", "where"), STRUCTURE, ids=[row[1] + " " + repr(row[0]) for row in STRUCTURE]
)
def test_yaml_beyond_the_plain_subset_is_refused_with_its_line(
    line: bytes, reference: str, where: str
) -> None:
    found = findings(MODEL + line)
    assert reference in {one.reference for one in found}
    assert next(one.where for one in found if one.reference == reference) == f"spec.yaml, {where}"


def test_an_alias_is_refused_and_nothing_is_expanded() -> None:
    bomb = b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"
    assert {one.reference for one in findings(bomb)} == {"yaml-anchor", "yaml-alias"}


def test_deep_nesting_is_refused_before_it_hurts() -> None:
    for data in (b"[" * 100_000, b"a: " + b"{a: " * 5000, b"- " * 5000 + b"x"):
        assert only(data).reference == "too-deep"


def test_a_file_over_the_limit_is_refused_unread() -> None:
    assert only(b"#" * (SPEC_LIMIT + 1)).reference == "too-large"


@pytest.mark.parametrize("data", [b"", b"# nothing\n", b"text", b"- a\n", b"3"])
def test_what_is_no_mapping_is_no_spec(data: bytes) -> None:
    found = only(data)
    assert found.reference == "bad-spec"
    assert "sealift init" in found.hint


def test_names_that_point_nowhere_are_told_together() -> None:
    found = only(LAUNCH.replace(b"engine: vllm", b"engine: sglang").replace(b"model: b", b"model: c"))
    assert "unknown model c" in found.what
    assert "unknown engine sglang" in found.what


def test_two_models_of_one_name_need_their_own_ids() -> None:
    assert "models: b is used twice" in only(MODEL + b"  - repo: c/b\n").what


def test_a_bundle_of_nothing_is_refused() -> None:
    assert "nothing to carry" in only(HEAD).what


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"files: [{path: ../x, source: y}]", "a component '..'"),
        (b"files: [{path: x, source: y, url: 'https://h/x'}]", "either url or source"),
        (b"files: [{path: x, url: 'https://h/x'}]", "needs its sha256"),
        (b"documents: [{source: x, name: a/b}]", "holds `/`"),
        (b"documents: [{source: x, appliesTo: [zz]}]", "unknown zz"),
        (b"engines: [{name: vllm, requirement: 'vllm @ https://h/x.whl'}]", "never an address"),
        (b"engines: [{name: vllm, requirement: 'vllm=1'}]", "not a requirement"),
        (b"engines: [{name: vllm, requirement: vllm, sources: {torch: p}}]", "not listed: p"),
        (b"images: [{reference: 'reg.example/UPPER'}]", "image reference"),
        (b"models: [{repo: a/b, include: ['/etc/*']}]", "relative paths"),
        (b"models: [{repo: a/b, exclude: ['a/../*']}]", "relative paths"),
        (b"models: [{repo: a/b}]\nnode: {gpu: H200}", "gpu and count together"),
        (b"models: [{repo: a/b}]\nnode: {}", "give gpu and count, or ram"),
        (b"models: [{repo: a/b}]\nnode: {gpu: H200, count: 8, memory: 1 GB GB}", ""),
    ],
)
def test_what_cannot_be_meant_is_refused_in_words(text: bytes, words: str) -> None:
    assert words in only(HEAD + text).what


def test_a_secret_in_an_address_is_neither_accepted_nor_repeated() -> None:
    found = only(HEAD + b"files: [{path: x, url: 'https://user:hunter2@h/x', sha256: " + b"a" * 64 + b"}]")
    assert "hunter2" not in json.dumps(found.to_json())


@settings(max_examples=300)
@given(st.binary(max_size=300))
def test_no_bytes_give_a_traceback(data: bytes) -> None:
    with suppress(MalformedError):
        parse_spec(data, "spec.yaml")


YAML_WORDS = st.sampled_from(
    [
        *("a", "models", "repo", ":", ": ", "- ", "\n", "\n  ", "[", "]", "{", "}", ",", "&a", "*a", "!!str"),
        *("<<", "?", "|", ">", "'", '"', "\\", "%YAML 1.1", "---", "...", "3.10", "no", "~", "#", "=", "\t"),
        *("\x85", "\u2028", '"\\U00110000"'),
    ]
)


@settings(max_examples=500)
@given(st.lists(YAML_WORDS, max_size=25).map("".join), st.booleans())
def test_no_near_yaml_gives_a_traceback(text: str, behind_a_spec: bool) -> None:
    data = MODEL * behind_a_spec + text.encode()
    with suppress(MalformedError):
        parse_spec(data, "spec.yaml")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False)
    | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    ["apiVersion", "name", "serial", "models", "engines", "launch", "node", "files", "images", "zzz"]
)


@settings(max_examples=200)
@given(st.dictionaries(FIELDS, JSON, max_size=6))
def test_no_value_in_any_field_gives_a_traceback(value: dict[str, Any]) -> None:
    with suppress(MalformedError):
        parse_spec(json.dumps(value).encode(), "spec.yaml")


def test_the_published_schema_is_up_to_date() -> None:
    published = (ROOT / "docs/spec.schema.json").read_bytes()
    assert published == schema_bytes(), "run `python scripts/write_schema.py`"


def test_the_schema_is_a_schema_and_documents_every_field() -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    for where, model in [("Spec", schema), *schema["$defs"].items()]:
        for name, value in model["properties"].items():
            assert value.get("description"), f"{where}.{name} has no documentation"


@pytest.mark.parametrize("profile", PROFILES)
def test_the_examples_pass_parser_and_schema_and_are_what_init_writes(profile: str) -> None:
    data = (ROOT / "manifests" / profile / "spec.yaml").read_bytes()
    assert (
        data == b"# yaml-language-server: $schema=../../docs/spec.schema.json\n" + template(profile).encode()
    )
    assert parse_spec(data, profile).api_version == "sealift/v1"
    jsonschema.validate(yaml_text.loads(data, limit=SPEC_LIMIT, where=profile).value, json_schema())


def test_every_example_is_a_profile() -> None:
    assert {path.parent.name for path in (ROOT / "manifests").glob("*/spec.yaml")} == set(PROFILES)


@pytest.mark.parametrize("profile", [name for name in PROFILES if name.startswith("kimi-k2")])
def test_the_kimi_profiles_set_what_kimi_needs(profile: str) -> None:
    for launch in parse_spec(template(profile).encode(), profile).launch:
        assert (launch.tool_call_parser, launch.reasoning_parser) == ("kimi_k2", "kimi_k2")
        assert launch.trust_remote_code
        assert (launch.context_length, launch.tensor_parallel) == (262144, 8)
        assert launch.gpu_memory_utilization == "0.90"


@pytest.mark.parametrize(
    "text",
    [
        b"zzz: 1",
        b"serial: -1",
        b"models: [{repo: a}]",
        b"models: [{repo: a/b, formt: int4}]",
        b"engines: [{name: vllm}]",
    ],
)
def test_the_schema_refuses_what_the_parser_refuses(text: bytes) -> None:
    data = HEAD.replace(b"serial: 1\n", b"" if text.startswith(b"serial") else b"serial: 1\n") + text
    assert findings(data)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml_text.loads(data, limit=SPEC_LIMIT, where="x").value, json_schema())
