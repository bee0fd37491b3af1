"""Every skip of the tests is listed in `tests/README.md`, with its reason."""

from __future__ import annotations

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROW = re.compile(r"\| `([\w/.]+\.py)`\*? \| (\d+) \| (.+) \|")
SKIPS = {"pytest.skip", "pytest.mark.skip", "pytest.mark.skipif", "pytest.importorskip"}


@cache
def places() -> Counter[str]:
    """How many places of each file can skip a test."""
    found: Counter[str] = Counter()
    for path in sorted(TESTS.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in SKIPS:
                found[str(path.relative_to(TESTS))] += 1
    return found


def listed() -> dict[str, int]:
    """What the README counts."""
    return {name: int(count) for name, count, _ in ROW.findall((TESTS / "README.md").read_text("utf-8"))}


@pytest.mark.parametrize("name", sorted({*places(), *listed()}))
def test_every_place_that_skips_is_listed(name: str) -> None:
    assert places().get(name, 0) == listed().get(name, 0), "write it into tests/README.md, with the reason"


def test_every_reason_names_what_is_missing() -> None:
    reasons = [reason for _, _, reason in ROW.findall((TESTS / "README.md").read_text("utf-8"))]
    assert len(reasons) == len(listed())
    assert all(len(reason.split()) >= 3 for reason in reasons)
