"""Whatever a Hub lists, it is read or refused, never half believed."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from bundler.core.digest import is_git_commit
from bundler.errors import ExitCode, NetworkError
from bundler.sources.hub.files import (
    ListedFile,
    git_blob_sha1,
    lfs_pointer_sha1,
    listed_files,
    pin_findings,
)

json_values = some.recursive(
    some.none() | some.booleans() | some.integers() | some.text(max_size=8),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
hexes = some.text(alphabet="0123456789abcdefg", min_size=39, max_size=65)
entries = some.fixed_dictionaries(
    {},
    optional={
        "type": some.sampled_from(["file", "directory"]) | json_values,
        "path": some.text(max_size=20) | json_values,
        "size": some.integers() | json_values,
        "oid": hexes | json_values,
        "xetHash": hexes | json_values,
        "lfs": some.fixed_dictionaries({}, optional={"oid": hexes | json_values, "size": json_values})
        | json_values,
    },
)


@given(some.lists(entries, max_size=5))
def test_any_listing_is_read_or_refused(listing: list[dict[str, Any]]) -> None:
    try:
        files = listed_files(listing, where="hub")
    except NetworkError:
        return
    assert [file.path for file in files] == sorted(file.path for file in files)
    unpinned = {finding.where for finding in pin_findings(files, where="hub")}
    for file in files:
        pinned = is_git_commit(file.oid) and (
            file.sha256 is None or lfs_pointer_sha1(file.sha256, file.size) == file.oid
        )
        assert pinned or f"hub: {file.path}" in unpinned


@given(some.binary(max_size=64))
def test_every_file_is_pinned_by_its_true_ids_and_by_no_others(data: bytes) -> None:
    sha256 = hashlib.sha256(data).hexdigest()
    plain = ListedFile(path="f", size=len(data), oid=git_blob_sha1(data))
    stored = ListedFile(path="f", size=len(data), oid=lfs_pointer_sha1(sha256, len(data)), sha256=sha256)
    grown = ListedFile(path="f", size=len(data) + 1, oid=stored.oid, sha256=sha256)
    swapped = ListedFile(path="f", size=len(data), oid=plain.oid, sha256=sha256)
    assert pin_findings([plain, stored], where="hub") == []
    for wrong in (grown, swapped):
        (finding,) = pin_findings([wrong], where="hub")
        assert (finding.reference, finding.exit_code) == ("lfs-pointer-mismatch", ExitCode.INTEGRITY)


@pytest.mark.parametrize("oid", ["", "A" * 40, "a" * 39, "a" * 41, "g" * 40])
def test_what_is_no_blob_id_pins_nothing(oid: str) -> None:
    (finding,) = pin_findings([ListedFile(path="f", size=1, oid=oid)], where="hub")
    assert (finding.reference, finding.exit_code) == ("cannot-be-pinned", ExitCode.NETWORK)


def test_ids_are_those_of_git() -> None:
    # The first is `git hash-object /dev/null`.
    assert git_blob_sha1(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    empty = hashlib.sha256(b"").hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{empty}\nsize 0\n".encode()
    assert lfs_pointer_sha1(empty, 0) == git_blob_sha1(pointer)
