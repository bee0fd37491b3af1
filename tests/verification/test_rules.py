"""The policy's rules over what a manifest states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bundler.verification.rules import license_fault
from tests.verification.bundles import make_bundle, references


def model(**members: Any) -> dict[str, Any]:
    good = {"id": "model:m", "kind": "model", "path": "payload/models/m", "format": "any"}
    return {**good, "license": {"declared": "Apache-2.0", "concluded": None}, **members}


def found(tmp_path: Path, rules: dict[str, Any], **members: Any) -> tuple[set[str], int]:
    files = {"payload/models/m/README.md": b"# a model without weights\n"}
    bundle = make_bundle(tmp_path, files, policy_members={"rules": rules}, members=members)
    report = bundle.verify().report
    assert (bundle.state.read_text() == "{}") == (report.verdict != "passed")
    return references(report), int(report.exit_code)


@pytest.mark.parametrize(
    ("expression", "allow", "deny", "accepted"),
    [
        ("Apache-2.0", ["Apache-2.0"], [], True),
        ("apache-2.0", ["Apache-2.0"], [], True),
        ("GPL-3.0-only", ["Apache-2.0"], [], False),
        ("", ["Apache-2.0"], [], False),
        ("", [], ["GPL-3.0-only"], True),
        ("MIT OR GPL-3.0-only", ["MIT"], [], True),
        ("MIT AND GPL-3.0-only", ["MIT"], [], False),
        ("MIT AND (BSD-3-Clause OR GPL-3.0-only)", ["MIT", "BSD-3-Clause"], [], False),
        ("GPL-2.0-only WITH Classpath-exception-2.0", ["GPL-2.0-only"], [], False),
        ("MIT", [], ["GPL-3.0-only"], True),
        ("MIT OR GPL-3.0-only", [], ["GPL-3.0-only"], True),
        ("MIT AND GPL-3.0-only", [], ["GPL-3.0-only"], False),
    ],
)
def test_licence_expressions(expression: str, allow: list[str], deny: list[str], accepted: bool) -> None:
    assert (license_fault(expression, allow, deny) == "") is accepted


def test_a_licence_that_is_not_allowed_is_refused(tmp_path: Path) -> None:
    rules = {"licenses": {"allow": ["MIT"]}}

    assert found(tmp_path, rules, artifacts=[model()]) == ({"license"}, 12)


def test_a_concluded_licence_counts_before_a_declared_one(tmp_path: Path) -> None:
    rules = {"licenses": {"allow": ["MIT"]}}
    artifact = model(license={"declared": "other", "concluded": "MIT"})

    assert found(tmp_path, rules, artifacts=[artifact]) == (set(), 0)


def test_a_format_that_is_not_accepted_is_refused(tmp_path: Path) -> None:
    rules = {"content": {"formats": ["block-fp8"]}}

    assert found(tmp_path, rules, artifacts=[model()]) == ({"content-format"}, 12)


def test_waived_pickle_is_refused_when_the_policy_says_so(tmp_path: Path) -> None:
    artifact = model(allowPickle=["weights.bin"])

    assert found(tmp_path, {"content": {"pickle": False}}, artifacts=[artifact]) == ({"pickle"}, 12)


@pytest.mark.parametrize(("version", "codes"), [("0.19.0", ({"engine-floor"}, 12)), ("0.19.1", (set(), 0))])
def test_an_engine_below_its_floor_is_refused(
    tmp_path: Path, version: str, codes: tuple[set[str], int]
) -> None:
    launch = [{"profile": "p", "engine": {"name": "vllm", "version": version}}]

    assert found(tmp_path, {"engines": {"vllm": "0.19.1"}}, launch=launch) == codes


def test_an_engine_among_the_wheels_counts_as_well(tmp_path: Path) -> None:
    wheels = {"id": "wheels:vllm@0.1", "kind": "wheels", "purl": "pkg:pypi/vllm@0.1"}

    assert found(tmp_path, {"engines": {"vllm": "0.19.1"}}, artifacts=[wheels]) == ({"engine-floor"}, 12)


@pytest.mark.parametrize("artifacts", ["text", [1, None, "x"], [{"kind": ["model"]}], {"a": 1}])
def test_members_of_an_unexpected_shape_are_no_crash(tmp_path: Path, artifacts: Any) -> None:
    rules = {"licenses": {"allow": ["MIT"]}, "engines": {"vllm": "1"}, "content": {"formats": ["bf16"]}}

    assert found(tmp_path, rules, artifacts=artifacts, launch=artifacts)[0] == set()
