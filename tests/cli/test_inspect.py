"""`sealift inspect` shows bundles that nobody vouches for: whatever they hold, it stays a display."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bundler.cli.app import run
from bundler.core import layout
from tests.verification.bundles import TestBundle, make_bundle

ODD_MEMBERS: list[dict[str, Any]] = [
    {"artifacts": "abc"},
    {"artifacts": [1, None, []]},
    {"artifacts": {"a": 1}},
    {"artifacts": [{"kind": "wheels", "targets": 5}]},
    {"artifacts": [{"kind": ["\x1b[31m"], "source": "x", "license": 7}]},
    {"launch": 5},
    {"launch": [[]]},
    {"launch": [{"engine": 3}]},
    {"tool": "x"},
    {"artifacts": [{"id": 7, "license": {"declared": {"a": 1}, "texts": 5}, "path": []}]},
    {"artifacts": [{"id": "\x1b[31m", "license": {"declared": ["MIT", 3], "texts": ["\u202e"]}}]},
]


@pytest.fixture
def bundle(tmp_path: Path) -> TestBundle:
    return make_bundle(tmp_path, {"payload/models/a": b"a", layout.LOCK_RECORD: b'{"models": [{"repo": 1}]}'})


@pytest.mark.parametrize("members", ODD_MEMBERS, ids=json.dumps)
def test_members_of_another_form_are_not_shown_and_stop_nothing(
    members: dict[str, Any], bundle: TestBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = json.loads((bundle.root / "manifest.json").read_bytes())
    (tmp_path / "odd.json").write_text(json.dumps({**manifest, **members}))

    assert run(["inspect", str(tmp_path / "odd.json"), "--licenses"]) == 0
    table = capsys.readouterr()
    assert run(["inspect", str(tmp_path / "odd.json")]) == 0

    told = capsys.readouterr()
    assert "channel" in told.out
    assert "\x1b" not in table.out + table.err
    assert "\u202e" not in table.out + table.err
    assert "not legal advice" in table.err
    assert "\x1b" not in told.out + told.err
    assert "nothing was verified" in told.err


def test_a_lock_of_another_form_is_said_to_be_one(
    bundle: TestBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["inspect", str(bundle.root), "--chain", "payload/models/a", "--json"]) == 3

    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert (finding["reference"], finding["where"]) == ("bad-lock", layout.LOCK_RECORD)


def test_a_chain_needs_more_than_the_manifest(bundle: TestBundle, capsys: pytest.CaptureFixture[str]) -> None:
    alone = bundle.root.parent / "manifest.json"
    alone.write_bytes((bundle.root / "manifest.json").read_bytes())
    assert run(["inspect", str(alone), "--chain", "payload/models/a"]) == 2
    assert "a chain needs the whole bundle" in capsys.readouterr().err


MODEL = "payload/models/models--org--m/snapshots/c"
LICENSED: list[dict[str, Any]] = [
    {
        "id": "model:m",
        "kind": "model",
        "path": MODEL,
        "license": {"declared": "mit", "concluded": "MIT", "texts": [f"{MODEL}/LICENSE", f"{MODEL}/NOTICE"]},
    },
    {"id": "wheels:a@1", "kind": "wheels", "license": {"declared": "Apache-2.0", "texts": []}},
    {"id": "wheels:b@2", "kind": "wheels", "license": {"declared": "UNKNOWN"}},
    {"id": "image:reg/c:1", "kind": "image", "license": {"declared": None}},
    {"id": "license:EULA", "kind": "document", "path": "payload/licenses/EULA", "appliesTo": ["m", "e"]},
]


def licensed_bundle(folder: Path) -> TestBundle:
    files = {f"{MODEL}/LICENSE": b"MIT", "payload/licenses/EULA": b"EULA"}
    return make_bundle(folder, files, members={"artifacts": LICENSED})


def test_licences_are_a_table_that_shows_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = licensed_bundle(tmp_path)

    assert run(["inspect", str(bundle.root), "--licenses"]) == 0

    told = capsys.readouterr()
    texts = f"{MODEL}/LICENSE, payload/licenses/EULA, {MODEL}/NOTICE (not in the bundle)"
    assert [line.split("  ", 1)[0] for line in told.out.splitlines()[:-1]] == [
        *("artifact", "model:m", "wheels:a@1", "wheels:b@2", "image:reg/c:1")
    ]
    assert [[cell.strip() for cell in line.split("  ") if cell] for line in told.out.splitlines()] == [
        ["artifact", "declared", "concluded", "licence texts"],
        ["model:m", "mit", "MIT", texts],
        ["wheels:a@1", "Apache-2.0", "-", "-"],
        ["wheels:b@2", 'not declared ("UNKNOWN")', "-", "-"],
        ["image:reg/c:1", "not declared", "-", "-"],
        ["licence text payload/licenses/EULA (for m, e)"],
    ]
    assert "2 of 4 artifacts declare no licence" in told.err
    assert "this is what was declared, not legal advice" in told.err


def test_licences_as_data_say_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = licensed_bundle(tmp_path)

    assert run(["inspect", str(bundle.root), "--licenses", "--json"]) == 0

    told = json.loads(capsys.readouterr().out)
    data = told.get("data", told)
    assert (data["verified"], data["note"]) == (False, "this is what was declared, not legal advice")
    assert [(row["artifact"], row["declared"], row["isDeclared"]) for row in data["licenses"]] == [
        *(("model:m", "mit", True), ("wheels:a@1", "Apache-2.0", True)),
        *(("wheels:b@2", "UNKNOWN", False), ("image:reg/c:1", None, False)),
    ]
    assert data["licenses"][0]["texts"] == [f"{MODEL}/LICENSE", "payload/licenses/EULA"]
    assert data["licenses"][0]["missingTexts"] == [f"{MODEL}/NOTICE"]
    assert data["licenseTexts"] == [{"path": "payload/licenses/EULA", "appliesTo": ["m", "e"]}]


def test_a_chain_and_licences_are_not_shown_at_once(bundle: TestBundle) -> None:
    assert run(["inspect", str(bundle.root), "--chain", "payload/models/a", "--licenses"]) == 2
