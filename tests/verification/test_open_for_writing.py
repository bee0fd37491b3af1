"""A file that somebody can change without a stamp is refused, by `verify`, `verify.pyz` and the last look."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bundler.errors import ExitCode, IntegrityError
from bundler.launch.last_look import refuse_changes
from bundler.storage.leases import Leases
from bundler.verification import portable
from tests.verification.bundles import TestBundle, make_bundle, references
from tests.verification.damages import WEIGHTS


@pytest.fixture
def bundle(tmp_path: Path) -> TestBundle:
    return make_bundle(tmp_path)


@contextmanager
def mapped(path: Path) -> Iterator[mmap.mmap]:
    """The file shared and writable in memory, every page written once, its descriptor closed."""
    descriptor = os.open(path, os.O_RDWR)
    memory = mmap.mmap(descriptor, path.stat().st_size)
    os.close(descriptor)
    memory[0] = memory[0]
    try:
        yield memory
    finally:
        memory.close()


def test_a_file_in_a_writable_mapping_is_refused_at_step_8(bundle: TestBundle) -> None:
    with mapped(bundle.path(WEIGHTS)):
        result = bundle.verify()
    assert result.verified is None
    assert references(result.report) == {"open-for-writing"}
    assert result.report.findings[0].where == WEIGHTS
    assert result.report.exit_code == ExitCode.INTEGRITY
    assert [outcome.number for outcome in result.outcomes if outcome.status == "failed"] == [8]
    assert bundle.verify().verified is not None


def test_verify_pyz_refuses_it_too(bundle: TestBundle, capsys: pytest.CaptureFixture[str]) -> None:
    with mapped(bundle.path(WEIGHTS)):
        assert portable.main([str(bundle.root), "--policy", str(bundle.policy)]) == ExitCode.INTEGRITY
    assert "open-for-writing" in capsys.readouterr().out


def test_a_mapping_changed_after_it_was_read_is_refused_by_the_last_look(bundle: TestBundle) -> None:
    with Leases() as leases:
        verified = bundle.verify(leases=leases).verified
        assert verified is not None
        refuse_changes(verified, leases)
        with mapped(bundle.path(WEIGHTS)) as memory:
            memory[7] ^= 1
            with pytest.raises(IntegrityError) as caught:
                refuse_changes(verified, leases)
    assert ("open-for-writing", WEIGHTS) in {(item.reference, item.where) for item in caught.value.findings}


def test_the_last_look_without_leases_still_sees_a_writer(bundle: TestBundle) -> None:
    verified = bundle.verify().verified
    assert verified is not None
    with bundle.path(WEIGHTS).open("r+b"), pytest.raises(IntegrityError) as caught:
        refuse_changes(verified)
    assert [item.reference for item in caught.value.findings] == ["open-for-writing"]


def test_a_verification_keeps_nothing_open(bundle: TestBundle) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    bundle.verify()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_what_leases_cannot_tell_is_in_the_report(
    bundle: TestBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "bundler.storage.leases.lease", lambda descriptor: "the file system keeps no leases on"
    )
    result = bundle.verify()
    assert result.verified is not None
    assert any("open for writing" in text for text in result.report.data["notChecked"])
