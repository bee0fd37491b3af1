"""OCI layouts: whole ones pass, and each way of not being whole is told."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundler.content.oci import (
    INDEX_TYPES,
    MANIFEST_LIMIT,
    MANIFEST_TYPES,
    OCI_INDEX,
    OCI_MANIFEST,
    check_layout,
    parse_config,
    parse_manifest,
)
from bundler.core import strict_json
from bundler.demo.registry import make_demo_image
from bundler.errors import MalformedError, SealiftError

FILES = {name: {"bin/hello": name.encode()} for name in ("linux/amd64", "linux/arm64")}


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    make_demo_image(folder, "demo/app:v1", FILES, ["/bin/hello"])
    return folder


def blobs(layout: Path) -> Path:
    return layout / "blobs/sha256"


def root_of(layout: Path) -> dict[str, Any]:
    root: dict[str, Any] = json.loads((layout / "index.json").read_bytes())["manifests"][0]
    return root


def read(layout: Path, digest: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((blobs(layout) / digest[7:]).read_bytes())
    return value


def put(layout: Path, value: dict[str, Any]) -> dict[str, Any]:
    data = strict_json.dumps(value)
    digest = hashlib.sha256(data).hexdigest()
    (blobs(layout) / digest).write_bytes(data)
    return {"mediaType": value.get("mediaType", ""), "digest": f"sha256:{digest}", "size": len(data)}


def set_root(layout: Path, root: dict[str, Any]) -> None:
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [root]}
    (layout / "index.json").write_bytes(strict_json.dumps(index))


def first_manifest(layout: Path) -> dict[str, Any]:
    return read(layout, read(layout, root_of(layout)["digest"])["manifests"][0]["digest"])


def found(layout: Path) -> list[tuple[str, str]]:
    return [(one.reference, one.where) for one in check_layout(layout)]


def test_a_whole_layout_has_no_findings(layout: Path) -> None:
    assert check_layout(layout) == []


@pytest.mark.parametrize("linked", [False, True], ids=["absent", "a link to a whole one"])
def test_a_layout_that_is_no_folder_is_told(layout: Path, tmp_path: Path, linked: bool) -> None:
    if linked:
        (tmp_path / "link").symlink_to(layout)
    assert found(tmp_path / "link") == [("missing-file", str(tmp_path / "link"))]


def test_a_missing_layer_is_told_with_who_wants_it(layout: Path) -> None:
    layer = first_manifest(layout)["layers"][0]["digest"][7:]
    (blobs(layout) / layer).unlink()
    (finding,) = check_layout(layout)
    assert (finding.reference, finding.where) == ("oci-blob-missing", f"blobs/sha256/{layer}")
    assert finding.expected.startswith("listed by sha256:")
    assert finding.found == "nothing"


@pytest.mark.parametrize("change", [b"", b"longer"], ids=["truncated", "grown"])
def test_a_layer_of_another_size_is_told_with_both_sizes(layout: Path, change: bytes) -> None:
    layer = first_manifest(layout)["layers"][0]
    path = blobs(layout) / layer["digest"][7:]
    path.write_bytes(path.read_bytes() + change if change else path.read_bytes()[:-1])
    (finding,) = check_layout(layout)
    assert finding.reference == "oci-blob-size"
    assert finding.expected.startswith(f"{layer['size']} bytes")
    assert finding.found == f"{path.stat().st_size} bytes"


@pytest.mark.parametrize("part", ["index", "manifest", "config"])
def test_a_changed_document_of_the_same_size_is_told_by_its_digest(layout: Path, part: str) -> None:
    root = root_of(layout)["digest"]
    manifest = read(layout, root)["manifests"][0]["digest"]
    digest = {"index": root, "manifest": manifest, "config": first_manifest(layout)["config"]["digest"]}[part]
    path = blobs(layout) / digest[7:]
    path.write_bytes(path.read_bytes().replace(b"linux", b"Linux").replace(b"gzip", b"gzIp"))
    finding = check_layout(layout)[0]
    assert finding.reference == "oci-blob-digest"
    assert finding.expected == digest
    assert finding.found == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def test_an_unreferenced_blob_is_told(layout: Path) -> None:
    (blobs(layout) / ("0" * 64)).write_bytes(b"smuggled")
    assert found(layout) == [("oci-blob-unreferenced", "blobs/sha256/" + "0" * 64)]


def test_a_file_that_does_not_belong_there_is_told(layout: Path) -> None:
    (layout / ".hidden").write_bytes(b"")
    assert found(layout) == [("oci-extra-file", ".hidden")]


@pytest.mark.parametrize("kind", ["symlink to a blob", "symlinked folder", "fifo"])
def test_links_and_special_files_are_refused_before_anything_is_read(layout: Path, kind: str) -> None:
    layer = blobs(layout) / first_manifest(layout)["layers"][0]["digest"][7:]
    if kind == "symlink to a blob":
        layer.rename(layout.parent / "elsewhere")
        layer.symlink_to(layout.parent / "elsewhere")
        where = f"blobs/sha256/{layer.name}"
    elif kind == "symlinked folder":
        blobs(layout).rename(layout.parent / "elsewhere")
        blobs(layout).symlink_to(layout.parent / "elsewhere")
        where = "blobs/sha256"
    else:
        os.mkfifo(layout / "pipe")
        where = "pipe"
    assert found(layout) == [("special-file", where)]


@pytest.mark.parametrize(
    ("content", "reference"),
    [
        pytest.param(b'{"imageLayoutVersion":"2.0.0"}', "oci-layout-version", id="another version"),
        pytest.param(b"[]", "oci-layout-version", id="no object"),
        pytest.param(b"{", "bad-json", id="no JSON"),
        pytest.param(b" " * 5000, "too-large", id="too large"),
        pytest.param(None, "missing-file", id="missing"),
    ],
)
def test_a_faulty_version_file_is_told(layout: Path, content: bytes | None, reference: str) -> None:
    (layout / "oci-layout").unlink()
    if content is not None:
        (layout / "oci-layout").write_bytes(content)
    assert [one.reference for one in check_layout(layout)] == [reference]


@pytest.mark.parametrize(
    ("content", "reference"),
    [
        pytest.param(b'{"schemaVersion":2,"manifests":{}}', "bad-manifest-blob", id="manifests is no list"),
        pytest.param(b'{"schemaVersion":1,"manifests":[]}', "unsupported-manifest", id="schema 1"),
        pytest.param(
            b'{"schemaVersion":2,"manifests":[],"manifests":[{}]}', "duplicate-key", id="a key twice"
        ),
        pytest.param(
            b'{"schemaVersion":2,"manifests":[],"layers":[]}', "ambiguous-manifest", id="two in one"
        ),
    ],
)
def test_a_faulty_index_is_told_and_leaves_every_blob_unreferenced(
    layout: Path, content: bytes, reference: str
) -> None:
    (layout / "index.json").write_bytes(content)
    references = [one.reference for one in check_layout(layout)]
    assert references[0] == reference
    assert set(references[1:]) == {"oci-blob-unreferenced"}


def _hostile_digest(manifest: dict[str, Any]) -> None:
    manifest["layers"][0]["digest"] = "sha256:../../../../etc/shadow"


def _foreign(manifest: dict[str, Any]) -> None:
    manifest["layers"][0]["mediaType"] = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"


def _unknown_layer(manifest: dict[str, Any]) -> None:
    manifest["layers"][0]["mediaType"] = "application/x-shockwave-flash"


def _more_layers(manifest: dict[str, Any]) -> None:
    manifest["layers"].append(manifest["layers"][0])


def _both(manifest: dict[str, Any]) -> None:
    manifest["manifests"] = []


def _negative(manifest: dict[str, Any]) -> None:
    manifest["layers"][0]["size"] = -1


@pytest.mark.parametrize(
    ("change", "reference"),
    [
        (_hostile_digest, "bad-manifest-blob"),
        (_foreign, "foreign-layer"),
        (_unknown_layer, "oci-media-type"),
        (_more_layers, "oci-config-layers"),
        (_both, "ambiguous-manifest"),
        (_negative, "bad-manifest-blob"),
    ],
)
def test_a_manifest_that_hashes_right_but_says_wrong_things_is_told(
    layout: Path, change: Callable[[dict[str, Any]], None], reference: str
) -> None:
    manifest = first_manifest(layout)
    change(manifest)
    set_root(layout, put(layout, manifest))
    findings = [one for one in check_layout(layout) if one.reference != "oci-blob-unreferenced"]
    assert [one.reference for one in findings] == [reference]
    assert findings[0].expected
    assert findings[0].found


def test_an_index_with_a_platform_that_is_not_there_is_told(layout: Path) -> None:
    index = read(layout, root_of(layout)["digest"])
    absent = {**index["manifests"][0], "digest": "sha256:" + "0" * 64}
    set_root(layout, put(layout, {**index, "manifests": [*index["manifests"], absent]}))
    assert ("oci-blob-missing", "blobs/sha256/" + "0" * 64) in found(layout)


def test_a_layer_listed_as_a_root_is_told(layout: Path) -> None:
    layer = first_manifest(layout)["layers"][0]
    set_root(layout, layer)
    assert ("oci-media-type", layer["digest"]) in found(layout)


def test_all_faults_of_a_layout_are_told_together(layout: Path) -> None:
    (layout / "oci-layout").write_bytes(b"{}")
    (layout / "extra").write_bytes(b"")
    (blobs(layout) / first_manifest(layout)["layers"][0]["digest"][7:]).unlink()
    assert {one.reference for one in check_layout(layout)} == {
        "oci-layout-version", "oci-extra-file", "oci-blob-missing",
    }  # fmt: skip


def test_an_index_that_contains_itself_by_name_ends(layout: Path) -> None:
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [root_of(layout)] * 1000}
    set_root(layout, put(layout, index))
    assert check_layout(layout) == []


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(b'{"os":"linux","architecture":"amd64"}', "diff_ids", id="no rootfs"),
        pytest.param(b'{"rootfs":{"diff_ids":["x"]}}', "diff_ids", id="diff_ids that are no digests"),
        pytest.param(b'{"rootfs":{"diff_ids":[]},"os":1}', "os and architecture", id="no platform"),
        pytest.param(b"[]", "diff_ids", id="no object"),
    ],
)
def test_a_config_without_what_engines_need_is_refused(data: bytes, expected: str) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_config(data, where="config")
    assert caught.value.reference == "bad-image-config"
    assert expected in caught.value.findings[0].expected


def test_a_manifest_beyond_the_limit_is_refused() -> None:
    with pytest.raises(MalformedError, match="too-large"):
        parse_manifest(b" " * (MANIFEST_LIMIT + 1), OCI_MANIFEST, where="x")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**53) | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["mediaType", "digest", "size", "platform", "annotations", "os", "x"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


_MEMBERS = ("mediaType", "config", "layers", "manifests", "subject", "artifactType")


@given(
    st.fixed_dictionaries({"schemaVersion": st.just(2)}, optional=dict.fromkeys(_MEMBERS, _JSON)),
    st.sampled_from(sorted(INDEX_TYPES | MANIFEST_TYPES)),
)
def test_any_document_is_parsed_or_refused_but_never_crashes(value: dict[str, Any], media_type: str) -> None:
    try:
        parsed = parse_manifest(json.dumps(value).encode(), media_type, where="x")
    except SealiftError:
        return
    assert parsed.media_type == media_type
