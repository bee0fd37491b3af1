"""What a finding may say, whoever chose the words in it."""

from __future__ import annotations

from dataclasses import replace
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
