"""Documents that publishers wrote: read as Python's `json` reads them, within bounds, doubles told."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from bundler.content.model import ModelContent, check_model
from bundler.content.published_json import ANSWER_KEYS, MAX_NESTING, Published, parse_published_json
from bundler.demo.tiny_kimi import write_model
from bundler.errors import ExitCode, MalformedError


def parse(data: bytes | str, **options: Any) -> Published:
    raw = data if isinstance(data, bytes) else data.encode()
    return parse_published_json(raw, where="config.json", **options)


@pytest.mark.parametrize(
    "text",
    [
        "[1000000000000000019884624838656]",
        '{"seed": 18446744073709551615}',
        "[1e-06, 1.5, -0.0]",
        " [] \n",
        "1",
    ],
    ids=["10^30", "64 bits", "floats", "space around", "a bare number"],
)
def test_what_python_reads_is_read_the_same(text: str) -> None:
    assert parse(text) == Published(value=json.loads(text))


def test_infinity_and_nan_are_read() -> None:
    value = parse('{"time_step_limit": [0.0, Infinity, -Infinity, NaN]}').value["time_step_limit"]
    assert value[:3] == [0.0, math.inf, -math.inf]
    assert math.isnan(value[3])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": 1,}', "property name"),
        ('{"a": true.}', "delimiter"),
        ("", "Expecting value"),
        ('{"a": 1} x', "Extra data"),
        (b'{"a": "\xff"}', "not UTF-8 at byte 7"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b"\xff\xfe{\x00}\x00", "not UTF-8"),
        ("[" + "9" * 4301 + "]", "4301 digits"),
        ("[-" + "9" * 100_000 + "]", "100000 digits"),
    ],
    ids=["comma", "true.", "empty", "more behind", "UTF-8", "BOM", "UTF-16", "4301 digits", "100000 digits"],
)
def test_what_the_engines_parser_refuses_is_refused(text: bytes | str, found: str) -> None:
    with pytest.raises((ValueError, UnicodeDecodeError)):
        # As transformers reads a configuration: text from UTF-8, then Python's parser.
        json.loads((text if isinstance(text, bytes) else text.encode()).decode("utf-8"))
    with pytest.raises(MalformedError) as refused:
        parse(text)
    assert refused.value.reference == "bad-json"
    assert found in refused.value.findings[0].found


def test_an_integer_of_4300_digits_is_still_read() -> None:
    assert parse("[" + "9" * 4300 + "]").value == [10**4300 - 1]


def test_clients_of_servers_may_accept_a_byte_order_mark() -> None:
    assert parse(b"\xef\xbb\xbf{}", bom=True).value == {}


def test_size_and_depth_are_bounded_before_parsing() -> None:
    with pytest.raises(MalformedError) as large:
        parse("[1, 2]", limit=5)
    assert (large.value.reference, large.value.findings[0].found) == ("too-large", "6 bytes")
    with pytest.raises(MalformedError) as deep:
        parse("[" * 1_000_000)
    assert deep.value.reference == "too-deep"
    with pytest.raises(MalformedError) as many:
        parse("[" + "[]," * 4_000_000 + "[]]")
    assert many.value.reference == "too-many-values"
    assert parse("[" * MAX_NESTING + "]" * MAX_NESTING).findings == ()


@pytest.mark.parametrize(
    ("text", "severity", "where"),
    [
        ('{"a": 1, "a": 2}', "warning", "config.json: a"),
        ('{"architectures": ["A"], "architectures": ["B"]}', "error", "config.json: architectures"),
        ('{"architectures": ["A"], "architectures": ["A"]}', "warning", "config.json: architectures"),
        (
            '{"auto_map": {"AutoModel": "a.A", "AutoModel": "b.B"}}',
            "error",
            "config.json: auto_map.AutoModel",
        ),
        (
            '{"weight_map": {"t": "1.safetensors", "t": "2.safetensors"}}',
            "error",
            "config.json: weight_map.t",
        ),
        ('{"x": [{"quantization_config": {"bits": 4, "bits": 8}}]}', "error", "x.quantization_config.bits"),
        ('{"text_config": {"auto_map": {}}, "text_config": {}}', "error", "config.json: text_config"),
        ('{"text_config": {"n": 1}, "text_config": {}}', "warning", "config.json: text_config"),
        ('{"chat_template": "a", "chat_template": "b"}', "error", "config.json: chat_template"),
        ('{"x": {"n": 1, "n": 2}, "x": {"n": 3}}', "error", "config.json: n"),
    ],
)
def test_a_key_twice_is_told_with_its_path(text: str, severity: str, where: str) -> None:
    found = parse(text)
    assert found.value == json.loads(text)
    assert {finding.reference for finding in found.findings} == {"duplicate-key"}
    assert any(f.severity == severity and f.where.endswith(where) for f in found.findings)
    if severity == "error":
        with pytest.raises(MalformedError, match="duplicate-key"):
            found.require()


def test_which_keys_decide_is_the_readers_to_say() -> None:
    text = '{"digest": "a", "digest": "b"}'
    assert [finding.severity for finding in parse(text).findings] == ["warning"]
    assert [finding.severity for finding in parse(text, decisive=ANSWER_KEYS).findings] == ["error"]


def test_thousands_of_double_keys_are_counted_not_listed() -> None:
    text = "{" + ",".join(f'"k{n}": {m}' for n in range(5000) for m in (1, 2)) + "}"
    findings = parse(text).findings
    assert len(findings) == 9
    assert findings[-1].found == "4992 more keys that stand twice"


def test_half_a_character_is_a_warning_and_prints() -> None:
    found = parse(r'{"architectures": ["\ud800"], "\udfff": {"x": "\ud83d\ude00"}}')
    assert found.value == {"architectures": ["�"], "�": {"x": "😀"}}
    assert [(f.reference, f.severity) for f in found.findings] == [("lone-surrogate", "warning")]


# --- in a model -------------------------------------------------------------------------------------------


def check(folder: Path) -> ModelContent:
    files = sorted(path.name for path in folder.iterdir())
    return check_model(folder, files, format="any")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tokenizer_config.json", '{"model_max_length": 1000000000000000019884624838656}'),
        ("preprocessor_config.json", '{"time_step_limit": [0.0, Infinity], "seed": 18446744073709551615}'),
        ("generation_config.json", '{"temperature": NaN}'),
    ],
)
def test_a_model_with_such_a_document_is_acceptable(tmp_path: Path, name: str, text: str) -> None:
    write_model(tmp_path)
    (tmp_path / name).write_text(text)
    assert check(tmp_path).findings == ()


def test_a_context_length_beyond_the_manifest_is_left_out(tmp_path: Path) -> None:
    write_model(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 10**30}))
    content = check(tmp_path)
    assert content.acceptable
    assert "contextLength" not in content.facts


def test_two_values_for_the_code_to_run_are_refused(tmp_path: Path) -> None:
    write_model(tmp_path)
    text = (tmp_path / "config.json").read_text().rstrip().removesuffix("}")
    (tmp_path / "config.json").write_text(text + ', "architectures": ["Other"]}')
    errors = [finding for finding in check(tmp_path).findings if finding.is_error]
    assert [(f.reference, f.where, f.exit_code) for f in errors] == [
        ("duplicate-key", "config.json: architectures", ExitCode.MALFORMED)
    ]
