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

    assert run(["inspect", str(tmp_path / "odd.json")]) == 0

    told = capsys.readouterr()
    assert "channel" in told.out
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
