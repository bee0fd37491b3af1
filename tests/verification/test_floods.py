"""What a stranger may put on a medium costs little time, memory and report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bundler.core.report import SHOWN, Report, capped
from bundler.errors import ExitCode, Finding
from bundler.storage import tree
from tests.verification.bundles import TestBundle, make_bundle, references


@pytest.fixture
def bundle(tmp_path: Path) -> TestBundle:
    return make_bundle(tmp_path)


NOTHING = {
    "lists": b"[" + b"[]," * 1_000_000 + b"[]]",
    "objects": b"[" + b"{}," * 1_000_000 + b"{}]",
    "deep lists": b"[" * 3_000_000,
    "members": b"{" + b",".join(b'"%d":0' % number for number in range(300_000)) + b"}",
}


@pytest.mark.parametrize(
    ("data", "reference"),
    [(data, "too-deep" if name == "deep lists" else "bad-envelope") for name, data in NOTHING.items()],
    ids=NOTHING.keys(),
)
def test_unsigned_structure_is_refused_before_it_is_parsed(
    bundle: TestBundle, data: bytes, reference: str
) -> None:
    for number in range(8):
        (bundle.root / "attestations" / f"{number}.sigstore.json").write_bytes(data)
    began = time.process_time()

    report = bundle.verify().report

    assert (references(report), int(report.exit_code)) == ({reference}, 3)
    assert time.process_time() - began < 2


def test_findings_of_one_kind_are_capped_and_counted() -> None:
    many = [Finding("extra-file", "an extra file", where=str(number)) for number in range(SHOWN + 50)]
    other = Finding("missing-file", "a missing file", exit_code=ExitCode.INTEGRITY)

    shown = capped([*many, other])

    assert len(shown) == SHOWN + 2
    assert other in shown
    assert "50 more like this" in shown[-1].what
    assert capped(many[:SHOWN]) == tuple(many[:SHOWN])
    assert Report(verb="x", findings=tuple(many)).findings == capped(many)


def test_a_walk_stops_at_its_bound_and_calls_nothing_missing(
    bundle: TestBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, "SPARE_ENTRIES", 100)
    flood = bundle.root / "payload" / "flood"
    flood.mkdir()
    for number in range(500):
        (flood / str(number)).touch()

    report = bundle.verify().report

    assert "too-many-entries" in references(report)
    assert "missing-file" not in references(report)
    assert (len(report.findings) < 200, int(report.exit_code)) == (True, 10)


@pytest.mark.slow
def test_hundreds_of_thousands_of_entries_cost_little(bundle: TestBundle) -> None:
    folder = bundle.root / "payload" / "flood"
    folder.mkdir()
    for number in range(200_000):
        os.close(os.open(folder / f"{number}-{'x' * 200}", os.O_CREAT | os.O_WRONLY))
    script = (
        "import sys; from bundler.cli.app import run; from tests.peak_memory import peak_kibibytes;"
        "code = run(sys.argv[1:]); print(peak_kibibytes(), file=sys.stderr); sys.exit(code)"
    )
    command = [sys.executable, "-c", script, *bundle.arguments("--json")]

    done = subprocess.run(command, capture_output=True, check=False)

    assert done.returncode == 10
    assert len(done.stdout) < 2 << 20
    assert json.loads(done.stdout)["verdict"] == "failed"
    assert int(done.stderr.split()[-1]) < 500 << 10
