"""The table of references and the code agree, in both directions, and the page is the table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bundler.cli.app import run
from bundler.references import ROOMS, parse, rows
from scripts.write_errors import TARGET, text
from tests.reference_literals import references


def test_every_reference_has_a_row() -> None:
    missing = {name: places[0] for name, places in references().items() if name not in rows()}
    assert missing == {}, "add a row to a file of bundler/references/, then run scripts/write_errors.py"


def test_every_row_is_used() -> None:
    assert sorted(rows().keys() - references().keys()) == []


def test_the_search_finds_references_of_every_form() -> None:
    """By name, in a choice, in a table, composed, and through a helper with a parameter `reference`."""
    assert {"usage", "ambiguous-token", "disk-full", "pgp-signature", "gguf-magic"} <= references().keys()
    assert len(references()) > 350


@pytest.mark.parametrize("row", rows().values(), ids=lambda row: row.reference)
def test_a_row_is_made_of_sentences(row: object) -> None:
    from bundler.references import Row

    assert isinstance(row, Row)
    for sentence in (row.meaning, *row.causes):
        assert sentence[0].isupper() or sentence.startswith(("`", "sealift ")), sentence
        assert sentence.endswith("."), sentence
    assert len(row.do) > 10
    assert row.room in ROOMS


def test_one_fact_has_one_reference() -> None:
    merged = {"file-missing", "oci-file-missing", "planned-file-gone", "oci-link"}
    assert not merged & references().keys()


def test_an_incomplete_row_is_refused() -> None:
    for block in ("x\n  What.\n  > Do", "x\n  - Why.\n  > Do", "x\n  What.\n  - Why."):
        with pytest.raises(ValueError, match="not complete"):
            parse(block, "trust")


def test_the_page_is_written_from_the_table() -> None:
    assert TARGET.read_text(encoding="utf-8") == text(), "run scripts/write_errors.py"


def test_explain_prints_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", "missing-file"]) == 0
    told = capsys.readouterr().out
    row = rows()["missing-file"]
    assert all(part in told for part in (row.meaning, *row.causes, row.do))


def test_explain_gives_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", "missing-file", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["do"] == rows()["missing-file"].do
    assert run(["explain", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["references"]) == len(rows())


def test_explain_lists_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain"]) == 0
    told = capsys.readouterr().out
    assert all(f"  {name} " in told for name in rows())


def test_explain_names_near_matches(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", "misssing-file"]) == 2
    assert "`sealift explain missing-file`" in capsys.readouterr().err
    assert run(["explain", "zzzzz"]) == 2


def test_the_table_stays_out_of_the_portable_verifier() -> None:
    from bundler.verification.pyz import portable_modules

    assert not [name for name in portable_modules() if name.startswith("bundler.references")]
    assert Path("bundler/references").exists()
