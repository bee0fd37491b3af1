"""What a finding may say, whoever chose the words in it."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bundler.errors import MAX_TEXT, Finding, MalformedError


@pytest.mark.parametrize("part", ["what", "where", "expected", "found", "hint"])
def test_a_part_that_nobody_would_read_is_cut_and_says_how_long_it_was(part: str) -> None:
    said: dict[str, Any] = {part: "a" * 50_000}
    finding = replace(Finding("bad-state", "the state is not valid"), **said)
    told = finding.to_json()[part]
    assert len(told) == MAX_TEXT
    assert told.endswith("a... (50000 letters)")


def test_what_a_person_can_read_stays_as_it_is() -> None:
    text = "a" * MAX_TEXT
    (finding,) = MalformedError("bad-state", "x", found=text).findings
    assert finding.found == text


def test_only_is_error_tells_an_error_from_a_warning() -> None:
    """A severity that nobody knows counts as an error; a comparison with a word would let it pass."""
    found = [
        f"{path.name}:{node.lineno}"
        for path in (Path(__file__).parents[1] / "bundler").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Compare)
        and any("severity" in ast.unparse(side) for side in (node.left, *node.comparators))
    ]
    assert [place.split(":")[0] for place in found] == ["errors.py"], found
