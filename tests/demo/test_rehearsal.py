"""The demo on a machine that cannot do it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bundler.demo.rehearsal import Rehearsal
from bundler.errors import MachineError


def test_a_missing_library_is_told_before_anything_is_made_or_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bundler.content.system_libraries.KNOWN", {"xllamacpp": ("libnothing.so.9",)})
    said: list[str] = []

    with pytest.raises(MachineError) as caught:
        Rehearsal(folder=tmp_path / "demo", say=said.append).run()

    (finding,) = caught.value.findings
    assert (finding.reference, finding.severity) == ("no-system-library", "error")
    assert finding.expected == "libnothing.so.9"
    assert "mirror" in finding.hint
    assert said == []
    assert not (tmp_path / "demo").exists()
