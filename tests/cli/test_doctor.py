"""`sealift doctor`: what this machine can do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bundler.cli import app
from bundler.cli.doctor import has_sha_instructions


def test_a_working_machine_passes_and_every_check_says_something(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = app.run(["doctor", "--at", str(tmp_path), "--json"])
    report = json.loads(capsys.readouterr().out)
    assert code == report["exitCode"] == 0
    assert {"python", "sha-256", "space", "uv", "openssl"} <= {check["name"] for check in report["checks"]}
    assert all(check["says"] for check in report["checks"])


def test_a_missing_uv_is_said_with_the_next_step_and_exits_4(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nowhere() -> str:
        raise FileNotFoundError

    monkeypatch.setattr("uv.find_uv_bin", nowhere)
    assert app.run(["doctor", "--side", "connected", "--at", str(tmp_path), "--json"]) == 4
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert finding["reference"] == "machine-lacks"
    assert "pip install uv" in finding["hint"]


@pytest.mark.parametrize(
    ("flags", "has"),
    [("fpu sse2 sha_ni", True), ("Features : fp asimd sha1 sha2", True), ("fpu sse2 avx2", False)],
    ids=["x86-64 with", "Arm with", "without"],
)
def test_sha_instructions_are_read_from_what_the_kernel_lists(tmp_path: Path, flags: str, has: bool) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor: 0\nflags : {flags}\n")
    assert has_sha_instructions(tmp_path / "cpuinfo") is has
