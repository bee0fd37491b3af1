"""What happens to a bundle after its verification does not get into a server."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bundler.errors import IntegrityError
from bundler.launch.last_look import refuse_changes, writable_note
from bundler.verification.verify import VerifiedBundle
from tests.verification.bundles import TestBundle, make_bundle
from tests.verification.damages import TWO, WEIGHTS


@pytest.fixture
def bundle(tmp_path: Path) -> TestBundle:
    return make_bundle(tmp_path)


def verified(bundle: TestBundle) -> VerifiedBundle:
    found = bundle.verify().verified
    assert found is not None
    return found


def test_a_bundle_that_nobody_touched_may_start(bundle: TestBundle) -> None:
    refuse_changes(verified(bundle))


def _overwrite(bundle: TestBundle) -> None:
    path = bundle.path(WEIGHTS)
    status = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    # Times can be set back; the kernel's own record of the change (ctime) cannot.
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _exchange(bundle: TestBundle) -> None:
    other = bundle.root.parent / "other"
    other.write_bytes(bundle.path(WEIGHTS).read_bytes())
    other.replace(bundle.path(WEIGHTS))


def _link(bundle: TestBundle) -> None:
    away = bundle.path(TWO).rename(bundle.root.parent / "away")
    bundle.path(TWO).symlink_to(away)


def _rename_folder(bundle: TestBundle) -> None:
    old = bundle.path("payload/models").rename(bundle.root.parent / "models")
    bundle.path("payload/models").symlink_to(old)


@pytest.mark.parametrize(
    ("change", "reference", "where"),
    [
        (_overwrite, "changed-while-verifying", WEIGHTS),
        (_exchange, "changed-while-verifying", WEIGHTS),
        (lambda bundle: bundle.path(TWO).unlink(), "changed-while-verifying", TWO),
        (lambda bundle: bundle.path("payload/new.py").touch(), "changed-while-verifying", "payload/new.py"),
        (_link, "symbolic-link", TWO),
        (_rename_folder, "symbolic-link", "payload/models"),
    ],
    ids=["written over", "exchanged", "removed", "added", "replaced by a link", "folder replaced by a link"],
)
def test_a_file_changed_after_verification_starts_nothing(
    bundle: TestBundle, change: Callable[[TestBundle], object], reference: str, where: str
) -> None:
    result = verified(bundle)
    change(bundle)

    with pytest.raises(IntegrityError) as refused:
        refuse_changes(result)

    assert (reference, where) in {(item.reference, item.where) for item in refused.value.findings}
    assert refused.value.findings[0].hint == "mount the bundle read-only, then launch again"


def test_a_bundle_that_can_be_written_is_told(bundle: TestBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    result = verified(bundle)
    assert "mount it read-only" in writable_note(result)
    facts = os.statvfs(bundle.root)
    readonly = os.statvfs_result((*facts[:8], facts.f_flag | os.ST_RDONLY, facts[9]))
    monkeypatch.setattr(os, "statvfs", lambda _path: readonly)
    assert writable_note(result) == ""
