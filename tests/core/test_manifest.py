"""The manifest: its shape, refused with every fault that could be found."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundler.core.chunks import FileChunks, chunk_count, split_chunk_list
from bundler.core.manifest import MAX_FAULTS, ChunkList, FileEntry, Manifest, compose
from bundler.core.paths import parse_bundle_path, path_fault, path_set_findings
from bundler.errors import IntegrityError, MalformedError

HEX = "0" * 64
NAMES = st.text("abcdefgh./-é", min_size=1, max_size=12).filter(lambda text: not path_fault(text))


def value(**changes: Any) -> dict[str, Any]:
    """A small good manifest, changed; None removes a member."""
    good = {
        "type": "urn:sealift:manifest:v1",
        "channel": "c",
        "serial": 0,
        "files": [{"path": "a", "size": 1, "sha256": HEX}, {"path": "b", "size": 0, "sha256": HEX}],
    }
    return {name: item for name, item in {**good, **changes}.items() if item is not None}


def parse(**changes: Any) -> Manifest:
    """The manifest of `value`."""
    return Manifest.parse(json.dumps(value(**changes)).encode())


def entry(**changes: Any) -> dict[str, Any]:
    """A file entry."""
    return {"path": "a", "size": 1, "sha256": HEX, **changes}


def test_a_good_manifest_is_read_with_its_total() -> None:
    manifest = parse()
    assert (manifest.channel, manifest.serial, manifest.total_bytes) == ("c", 0, 1)
    assert [file.path for file in manifest.files] == ["a", "b"]
    assert manifest.chunks is None


def test_unknown_members_are_kept_and_shown() -> None:
    manifest = parse(future={"a": 1}, name="n")
    assert manifest.unknown_members == ("future",)
    assert manifest.members["future"] == {"a": 1}


@pytest.mark.parametrize(
    ("changes", "reference"),
    [
        ({"type": "urn:sealift:manifest:v2"}, "bad-manifest"),
        ({"type": None}, "bad-manifest"),
        ({"channel": ""}, "bad-manifest"),
        ({"channel": 3}, "bad-manifest"),
        ({"serial": None}, "bad-manifest"),
        ({"serial": -1}, "bad-manifest"),
        ({"serial": True}, "bad-manifest"),
        ({"serial": "1"}, "bad-manifest"),
        ({"serial": 1.0}, "bad-json"),
        ({"files": {}}, "bad-manifest"),
        ({"files": ["a"]}, "bad-manifest"),
        ({"files": [entry(size=-1)]}, "bad-manifest"),
        ({"files": [entry(size=True)]}, "bad-manifest"),
        ({"files": [entry(sha256="A" * 64)]}, "bad-manifest"),
        ({"files": [entry(sha256="0" * 63)]}, "bad-manifest"),
        ({"files": [entry(artifact=3)]}, "bad-manifest"),
        ({"files": [entry(path="../a")]}, "bad-path"),
        ({"files": [entry(path=3)]}, "bad-path"),
        ({"files": [entry(), entry()]}, "duplicate-path"),
        ({"files": [entry(path="A"), entry()]}, "path-collision"),
        ({"files": [entry(path="b"), entry()]}, "unsorted-files"),
        ({"files": [entry(path="manifest.json")]}, "duplicate-path"),
        ({"files": [entry(path="manifest.json/x")]}, "path-collision"),
        ({"critical": ["future"]}, "unknown-critical-member"),
        ({"critical": "future"}, "bad-manifest"),
        ({"critical": ["lock"]}, "bad-manifest"),
        ({"chunks": {"path": "a", "size": 0}}, "bad-manifest"),
        ({"chunks": {"path": "a", "size": True}}, "bad-manifest"),
        ({"chunks": {"path": "a", "size": (1 << 30) + 1}}, "bad-manifest"),
        ({"chunks": {"path": "other", "size": 1}}, "bad-manifest"),
        ({"chunks": []}, "bad-manifest"),
    ],
)
def test_another_shape_is_refused(changes: dict[str, Any], reference: str) -> None:
    with pytest.raises(MalformedError) as caught:
        parse(**changes)
    assert {finding.reference for finding in caught.value.findings} == {reference}
    assert caught.value.findings[0].where.startswith("manifest.json")


@pytest.mark.parametrize("data", [b"[]", b"3", b"null", b'"x"'])
def test_a_manifest_is_an_object(data: bytes) -> None:
    with pytest.raises(MalformedError):
        Manifest.parse(data)


def test_a_critical_member_that_is_understood_and_there_is_fine() -> None:
    assert parse(critical=["lock"], lock=HEX).serial == 0


def test_a_manifest_full_of_faults_is_not_read_to_its_end() -> None:
    with pytest.raises(MalformedError) as caught:
        parse(files=[{}] * (3 * MAX_FAULTS))
    assert len(caught.value.findings) == MAX_FAULTS


def test_all_bad_files_are_told_at_once() -> None:
    with pytest.raises(MalformedError) as caught:
        parse(files=[entry(path="../a"), entry(size=-1), entry(sha256="x"), entry()])
    assert [finding.where for finding in caught.value.findings] == [
        "manifest.json: files[0].path",
        "manifest.json: files[1].size",
        "manifest.json: files[2].sha256",
    ]


@given(st.binary(max_size=80))
def test_no_bytes_make_the_parser_fail_otherwise(data: bytes) -> None:
    with pytest.raises(MalformedError):
        Manifest.parse(data)


@given(
    st.dictionaries(NAMES, st.tuples(st.integers(0, 2**53 - 1), st.sampled_from(["", "model"])), max_size=8),
    st.integers(0, 2**53 - 1),
)
@settings(max_examples=60)
def test_what_a_builder_composes_a_verifier_reads(files: dict[str, tuple[int, str]], serial: int) -> None:
    if path_set_findings(["manifest.json", *files]):
        return
    entries = [
        FileEntry(path=parse_bundle_path(path), size=size, sha256=HEX, artifact=artifact)
        for path, (size, artifact) in files.items()
    ]
    data = compose(channel="c", serial=serial, files=entries, chunks=None, name="n", lock=None)
    manifest = Manifest.parse(data)
    assert manifest.serial == serial
    assert list(manifest.files) == sorted(entries, key=lambda item: item.path)
    assert "lock" not in manifest.members
    assert compose(channel="c", serial=serial, files=manifest.files, chunks=None, name="n") == data


def test_a_builder_cannot_compose_what_a_verifier_refuses() -> None:
    entries = [FileEntry(path=parse_bundle_path(path), size=0, sha256=HEX) for path in ("a", "A")]
    with pytest.raises(MalformedError):
        compose(channel="c", serial=1, files=entries, chunks=None)


@given(st.lists(st.integers(0, 50), max_size=6), st.integers(1, 20))
def test_the_chunk_list_is_cut_up_by_file(sizes: list[int], chunk: int) -> None:
    chunks_path = parse_bundle_path("payload/chunks.sha256")
    entries = [
        FileEntry(path=parse_bundle_path(f"f{n}"), size=size, sha256=HEX) for n, size in enumerate(sizes)
    ]
    total = sum(chunk_count(size, chunk) for size in sizes)
    listed = [*entries, FileEntry(path=chunks_path, size=32 * total, sha256=HEX)]
    listed.append(FileEntry(path=parse_bundle_path("SHA256SUMS"), size=9, sha256=HEX))
    manifest = Manifest.parse(
        compose(channel="c", serial=1, files=listed, chunks=ChunkList(path=chunks_path, size=chunk))
    )
    data = b"".join(number.to_bytes(32, "big") for number in range(total))
    parts = split_chunk_list(manifest, data)
    assert [part.entry.path for part in parts] == [item.path for item in entries]
    assert b"".join(part.digests for part in parts) == data
    assert all(_spans_cover(part) for part in parts)
    with pytest.raises(IntegrityError) as caught:
        split_chunk_list(manifest, data + b"x")
    assert caught.value.reference == "chunk-list-length"


def _spans_cover(part: FileChunks) -> bool:
    spans = [part.span(number) for number in range(len(part))]
    joined = [position for start, stop in spans for position in range(start, stop)]
    return joined == list(range(part.entry.size))
