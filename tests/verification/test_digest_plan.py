"""Which digests are compared: the manifest's own are the authority, chunks alone only after both agreed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from bundler.core.chunks import FileChunks
from bundler.core.manifest import FileEntry
from bundler.core.paths import BundlePath
from bundler.storage.hashing import HashOutcome, Unit, hash_units
from bundler.storage.tree import Stamp
from bundler.verification import digest_plan
from bundler.verification.digest_plan import plan_digests
from tests.verification.bundles import CHUNK_SIZE, TestBundle, make_bundle, references, some_bytes
from tests.verification.damages import TWO, WEIGHTS, flip, lie_about, lie_in_chunks

MEBIBYTE = 1 << 20


@pytest.fixture
def bundle(tmp_path: Path) -> TestBundle:
    return make_bundle(tmp_path)


def compared(bundle: TestBundle) -> list[Unit]:
    """The units that a verification reads, in order."""
    seen: list[Unit] = []

    def noting(root: int, units: Sequence[Unit], **options: Any) -> HashOutcome:
        seen.extend(units)
        return hash_units(root, units, **options)

    assert bundle.verify(hash_units=noting).report.verdict == "passed"
    return seen


@pytest.mark.parametrize("level", ["quick", "full"])
def test_a_contradiction_is_refused_before_a_byte_is_read(bundle: TestBundle, level: str) -> None:
    lie_about("README.md", "1" * 64)(bundle)

    report = bundle.verify(level).report

    assert references(report) == {"chunk-list-contradicts"}
    assert report.data["bytesRead"] == 0


def test_bytes_that_only_the_chunk_list_approves_are_refused(tmp_path: Path) -> None:
    good = some_bytes(3 * CHUNK_SIZE, "good")
    bundle = make_bundle(tmp_path, {"payload/f": some_bytes(3 * CHUNK_SIZE, "bad")})
    lie_about("payload/f", hashlib.sha256(good).hexdigest())(bundle)
    state = bundle.state.read_bytes()

    report = bundle.verify().report

    assert (references(report), int(report.exit_code)) == ({"digest-mismatch"}, 10)
    assert report.findings[0].expected == f"sha256:{hashlib.sha256(good).hexdigest()}"
    assert bundle.state.read_bytes() == state


def test_a_revoked_file_cannot_hide_behind_another_digest(tmp_path: Path) -> None:
    data = some_bytes(3 * CHUNK_SIZE, "revoked")
    revoked = {"revoked": {"files": {hashlib.sha256(data).hexdigest(): "it is bad"}}}
    bundle = make_bundle(tmp_path, {"payload/f": data}, policy_members=revoked)
    assert references(bundle.verify().report) == {"revoked-file"}

    lie_about("payload/f", "1" * 64)(bundle)

    assert references(bundle.verify().report) == {"digest-mismatch"}


def test_the_state_notes_that_both_digests_agree(bundle: TestBundle) -> None:
    first = compared(bundle)
    noted = json.loads(bundle.state.read_text())["chunkLists"]
    second = compared(bundle)

    assert noted == [bundle.manifest.sha256]
    assert {unit.is_whole_file for unit in first if unit.path == WEIGHTS} == {True, False}
    assert {unit.is_whole_file for unit in second if unit.path == WEIGHTS} == {False}
    assert bundle.verify().report.data["bytesRead"] == sum(map(len, bundle.files.values()))


def test_damage_is_found_by_chunks_alone(bundle: TestBundle) -> None:
    assert bundle.verify().report.verdict == "passed"
    flip(bundle.path(WEIGHTS), 5 * CHUNK_SIZE)

    (finding,) = bundle.verify().report.findings

    assert finding.where == f"{WEIGHTS}, bytes 20480-24575 (chunk 5)"


@pytest.fixture
def many_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes as if every file were large and there were more of them than cores."""
    monkeypatch.setattr(digest_plan, "BOTH_UP_TO_BYTES", 0)
    monkeypatch.setattr(digest_plan, "IDLE_CORES", 100)


@pytest.mark.usefixtures("many_large")
def test_large_files_are_read_once_and_nothing_is_noted(bundle: TestBundle) -> None:
    units = compared(bundle)

    assert all(unit.is_whole_file for unit in units)
    assert len({unit.path for unit in units}) == len(units)
    assert "chunkLists" not in json.loads(bundle.state.read_text())


@pytest.mark.usefixtures("many_large")
def test_damage_of_a_large_file_is_named_by_its_range(bundle: TestBundle) -> None:
    flip(bundle.path(WEIGHTS), 5 * CHUNK_SIZE)
    flip(bundle.path(TWO), 0)

    findings = bundle.verify().report.findings

    assert [finding.where for finding in findings] == [
        f"{TWO}, bytes 0-4095 (chunk 0)",
        f"{WEIGHTS}, bytes 20480-24575 (chunk 5)",
    ]


@pytest.mark.usefixtures("many_large")
def test_a_lie_about_a_large_file_is_refused(bundle: TestBundle) -> None:
    lie_about(WEIGHTS, "1" * 64)(bundle)

    (finding,) = bundle.verify().report.findings

    assert (finding.reference, finding.where) == ("digest-mismatch", f"{WEIGHTS}, bytes 0-40976")


def test_a_false_chunk_list_is_never_noted(bundle: TestBundle) -> None:
    lie_in_chunks(WEIGHTS)(bundle)

    assert references(bundle.verify().report) == {"chunk-list-contradicts"}
    assert bundle.state.read_text() == "{}"


def large_files(sizes: Mapping[str, int]) -> list[FileChunks]:
    return [
        FileChunks(
            entry=FileEntry(path=BundlePath(path), size=size, sha256="0" * 64),
            chunk_size=512 * MEBIBYTE,
            digests=bytes(32 * -(-size // (512 * MEBIBYTE))),
        )
        for path, size in sizes.items()
    ]


@pytest.mark.parametrize(
    ("count", "workers", "both"),
    [
        (1, 1, False),
        (1, 2, True),
        (2, 2, False),
        (6, 2, False),
        (6, 16, True),
        (16, 16, False),
        (61, 16, False),
    ],
)
def test_chunks_are_compared_too_where_cores_would_be_idle(count: int, workers: int, both: bool) -> None:
    files = large_files({f"f{number:02}": 4096 * MEBIBYTE for number in range(count)})
    stamps = {str(part.entry.path): Stamp(1, 1, part.entry.size, 1, 1) for part in files}

    plan = plan_digests(files, stamps, agreed=False, workers=workers)

    assert plan.both is both
    assert sum(unit.size for unit in plan.units if not unit.again) == 4096 * MEBIBYTE * count
    assert any(unit.again for unit in plan.units) is both


def test_the_largest_files_are_read_first() -> None:
    files = large_files({"a": 1024 * MEBIBYTE, "b": 8192 * MEBIBYTE, "c": 2048 * MEBIBYTE})
    stamps = {str(part.entry.path): Stamp(1, 1, part.entry.size, 1, 1) for part in files}

    units = plan_digests(files, stamps, agreed=False, workers=1).units

    assert [unit.path for unit in units] == ["b", "c", "a"]
