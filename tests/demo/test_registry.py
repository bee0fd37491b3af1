"""The demo's registry and its tiny image, used by our own client and by real ones."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from bundler.content.oci import check_layout
from bundler.core.specs.spec import ImageSpec
from bundler.demo.registry import LoopbackRegistry, make_demo_image, push_layout
from bundler.errors import NetworkError
from bundler.sources.images.images import resolve_image
from bundler.sources.images.registry import RegistryClient
from bundler.sources.images.registry_auth import DockerConfig
from tests.servers.programs import docker_registry, need

FILES = {
    "linux/amd64": {"bin/hello": b"amd64", "etc/greeting": b"good day"},
    "linux/arm64": {"bin/hello": b"arm64", "etc/greeting": b"good day"},
}


def test_the_same_files_give_the_same_image_anywhere(tmp_path: Path) -> None:
    digests = {make_demo_image(tmp_path / name, "demo/app:v1", FILES, ["/bin/hello"]) for name in ("a", "b")}
    assert len(digests) == 1
    assert check_layout(tmp_path / "a") == []
    assert (tmp_path / "a/index.json").read_bytes() == (tmp_path / "b/index.json").read_bytes()


def test_a_second_image_is_added_and_the_same_name_replaced(tmp_path: Path) -> None:
    make_demo_image(tmp_path, "demo/app:v1", FILES, ["/bin/hello"])
    make_demo_image(tmp_path, "demo/other:v1", FILES, ["/bin/hello", "-v"])
    make_demo_image(tmp_path, "demo/other:v1", FILES, ["/bin/hello"])
    names = [
        one["annotations"]["org.opencontainers.image.ref.name"]
        for one in json.loads((tmp_path / "index.json").read_bytes())["manifests"]
    ]
    assert names == ["docker.io/demo/app:v1", "docker.io/demo/other:v1"]


def test_a_pushed_image_is_resolved_under_the_same_digest(tmp_path: Path) -> None:
    digest = make_demo_image(tmp_path / "layout", "demo/app:v1", FILES, ["/bin/hello"])
    with LoopbackRegistry(tmp_path / "registry") as registry:
        (reference,) = push_layout(tmp_path / "layout", registry.url)
        client = RegistryClient(registry.host, plain_http=True, config=DockerConfig())
        spec = ImageSpec(reference=reference, platforms=("linux/amd64", "linux/arm64"), plain_http=True)
        image = resolve_image(spec, client=client)
    assert reference == f"{registry.host}/demo/app:v1"
    assert image.digest == digest
    assert [one.platform for one in image.platforms] == ["linux/amd64", "linux/arm64"]


def test_it_lists_tags_and_answers_ranges(tmp_path: Path) -> None:
    make_demo_image(tmp_path / "layout", "demo/app:v1", FILES, ["/bin/hello"])
    with LoopbackRegistry(tmp_path / "registry") as registry:
        push_layout(tmp_path / "layout", registry.url)
        with urllib.request.urlopen(f"{registry.url}/v2/demo/app/tags/list") as answer:
            assert json.load(answer) == {"name": "demo/app", "tags": ["v1"]}
        blob = next((tmp_path / "layout/blobs/sha256").iterdir())
        url = f"{registry.url}/v2/demo/app/blobs/sha256:{blob.name}"
        with urllib.request.urlopen(urllib.request.Request(url, headers={"Range": "bytes=5-9"})) as answer:
            assert answer.status == 206
            assert answer.headers["Content-Range"] == f"bytes 5-9/{blob.stat().st_size}"
            assert answer.read() == blob.read_bytes()[5:10]
        with pytest.raises(urllib.error.HTTPError, match="416") as caught:
            urllib.request.urlopen(urllib.request.Request(url, headers={"Range": "bytes=99999999-"}))
        caught.value.close()


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        pytest.param(
            "manifests/v2", b'{"layers": [{"digest": "sha256:00"}]}', "400", id="a layer that is not there"
        ),
        pytest.param("manifests/sha256:" + "0" * 64, b"{}", "400", id="bytes of another digest"),
    ],
)
def test_a_manifest_that_cannot_be_right_is_not_taken(
    tmp_path: Path, path: str, body: bytes, status: str
) -> None:
    with LoopbackRegistry(tmp_path / "registry") as registry:
        request = urllib.request.Request(f"{registry.url}/v2/demo/app/{path}", data=body, method="PUT")
        with pytest.raises(urllib.error.HTTPError, match=status) as caught:
            urllib.request.urlopen(request)
        caught.value.close()
        assert registry.repository("demo/app").manifests == {}


def test_a_blob_that_is_not_its_digest_is_not_taken(tmp_path: Path) -> None:
    make_demo_image(tmp_path / "layout", "demo/app:v1", FILES, ["/bin/hello"])
    for blob in (tmp_path / "layout/blobs/sha256").iterdir():
        if blob.read_bytes()[:2] == b"\x1f\x8b":
            blob.write_bytes(blob.read_bytes()[:-1] + b"!")
    with LoopbackRegistry(tmp_path / "registry") as registry:
        with pytest.raises(NetworkError) as caught:
            push_layout(tmp_path / "layout", registry.url)
        assert registry.repository("demo/app").tags == {}
    assert caught.value.reference == "push-refused"
    assert "DIGEST_INVALID" in caught.value.findings[0].found
    assert caught.value.findings[0].expected == "status 201"


def test_skopeo_pushes_to_it_and_pulls_from_it_unchanged(tmp_path: Path) -> None:
    need("skopeo")
    digest = make_demo_image(tmp_path / "layout", "demo/app:v1", FILES, ["/bin/hello"])
    with LoopbackRegistry(tmp_path / "registry") as registry:
        copy = ["skopeo", "copy", "--quiet", "--all", "--preserve-digests"]
        there = f"docker://{registry.host}/demo/app:v1"
        subprocess.run(
            [*copy, "--dest-tls-verify=false", f"oci:{tmp_path}/layout:docker.io/demo/app:v1", there],
            check=True,
        )
        subprocess.run([*copy, "--src-tls-verify=false", there, f"oci:{tmp_path}/back:v1"], check=True)
    (entry,) = json.loads((tmp_path / "back/index.json").read_bytes())["manifests"]
    assert entry["digest"] == digest
    assert check_layout(tmp_path / "back") == []


def test_the_push_works_with_debians_registry_too(tmp_path: Path) -> None:
    digest = make_demo_image(tmp_path / "layout", "demo/app:v1", FILES, ["/bin/hello"])
    with docker_registry(tmp_path / "real") as host:
        (reference,) = push_layout(tmp_path / "layout", f"http://{host}")
        spec = ImageSpec(reference=reference, platforms=("linux/arm64",), plain_http=True)
        client = RegistryClient(host, plain_http=True, config=DockerConfig())
        assert resolve_image(spec, client=client).digest == digest
