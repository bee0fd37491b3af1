"""Images from a registry into the lock, from the lock onto the disk, and what is refused on the way."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bundler.assembly.image_layout import layout_documents
from bundler.content.oci import REF_NAME, check_layout
from bundler.core.specs.lock import LockedImage, LockedPlatform
from bundler.core.specs.spec import ImageSpec
from bundler.demo.registry import make_demo_image, push_layout
from bundler.errors import IntegrityError, MalformedError, NetworkError, PolicyError
from bundler.sources.fetch import fetch_all
from bundler.sources.images.images import image_jobs, index_path, resolve_image
from bundler.sources.images.registry import RegistryClient
from bundler.sources.images.registry_auth import DockerConfig
from bundler.sources.retry import RetryPolicy
from bundler.storage.payload import PayloadStore
from tests.servers.programs import docker_registry, need
from tests.servers.registry import Fault, FaultyRegistry, manifest_of

QUICK = RetryPolicy(tries=4, first=0.01, jitter=lambda: 0.0)
BOTH = ("linux/amd64", "linux/arm64")


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyRegistry]:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "no-docker-config"))
    with FaultyRegistry(tmp_path / "registry") as serving:
        yield serving


def lock(registry: FaultyRegistry, target: str = ":v1", platforms: tuple[str, ...] = BOTH[:1]) -> LockedImage:
    reference = f"{registry.host}/demo/app{target}"
    client = RegistryClient(registry.host, plain_http=True, config=DockerConfig(), retries=QUICK)
    spec = ImageSpec(reference=reference, platforms=platforms, plain_http=True)
    return resolve_image(spec, client=client)


def fetch(folder: Path, *images: LockedImage) -> Path:
    """The layout of the fetched images."""
    with PayloadStore(folder / "tree", folder / "work") as store:
        fetch_all(image_jobs(images), store, workers=4, retries=QUICK)
        for path, data in layout_documents(images).items():
            store.put_bytes(path, data)
    return folder / "tree/payload/images"


def two_platforms(registry: FaultyRegistry, **how: Any) -> dict[str, Any]:
    manifests = [registry.add_image("demo/app", platform=one, text=one.encode(), **how) for one in BOTH]
    return registry.add_index("demo/app", "v1", manifests, **how)


# --- the lock ---


def test_an_index_is_pinned_with_every_platform_config_and_layer(registry: FaultyRegistry) -> None:
    index = two_platforms(registry)
    image = lock(registry, platforms=BOTH)
    assert (image.digest, image.size, image.media_type) == (
        index["digest"],
        index["size"],
        index["mediaType"],
    )
    assert image.complete
    for platform, entry in zip(
        image.platforms, manifest_of(registry, index["digest"])["manifests"], strict=True
    ):
        assert (platform.digest, platform.size) == (entry["digest"], entry["size"])
        parts = manifest_of(registry, entry["digest"])
        described = [parts["config"], *parts["layers"]]
        assert platform.blobs == tuple((one["digest"], one["size"]) for one in described)


def test_the_lock_holds_neither_host_of_storage_nor_secret(registry: FaultyRegistry, tmp_path: Path) -> None:
    two_platforms(registry)
    registry.auth, registry.users = "basic", {"ann": "pa55"}
    config = DockerConfig(auths={registry.host: {"username": "ann", "password": "pa55"}})
    client = RegistryClient(registry.host, plain_http=True, config=config, retries=QUICK)
    spec = ImageSpec(reference=f"{registry.host}/demo/app:v1", plain_http=True)
    text = resolve_image(spec, client=client).model_dump_json()
    assert "pa55" not in text
    assert "YW5uOnBhNTU" not in text


def test_docker_forms_are_pinned_and_fetched_unchanged(registry: FaultyRegistry, tmp_path: Path) -> None:
    index = two_platforms(registry, docker=True)
    image = lock(registry, platforms=BOTH)
    assert image.media_type == "application/vnd.docker.distribution.manifest.list.v2+json"
    layout = fetch(tmp_path, image)
    assert check_layout(layout) == []
    for digest in (index["digest"], *(one.digest for one in image.platforms)):
        kept = (layout / "blobs/sha256" / digest[7:]).read_bytes()
        assert kept == registry.blob_path(digest).read_bytes()


def test_an_image_without_an_index_has_the_platform_of_its_config(registry: FaultyRegistry) -> None:
    only = registry.add_image("demo/app", "v1", "linux/arm64")
    image = lock(registry, platforms=("linux/arm64",))
    assert image.digest == only["digest"]
    assert [one.platform for one in image.platforms] == ["linux/arm64"]
    assert image.complete


def test_a_digest_wins_over_the_tag_beside_it(registry: FaultyRegistry) -> None:
    first = registry.add_image("demo/app", "v1")
    registry.add_image("demo/app", "v1", text=b"moved")
    assert lock(registry, f":v1@{first['digest']}").digest == first["digest"]


@pytest.mark.parametrize("index", [True, False], ids=["an index", "a single manifest"])
def test_a_platform_that_does_not_exist_is_refused_with_those_that_do(
    registry: FaultyRegistry, index: bool
) -> None:
    one = registry.add_image("demo/app", "v1")
    attestation = {**one, "platform": {"os": "unknown", "architecture": "unknown"}}
    if index:
        registry.add_index("demo/app", "v1", [one, attestation])
    with pytest.raises(MalformedError) as caught:
        lock(registry, platforms=("linux/arm64",))
    finding = caught.value.findings[0]
    assert finding.reference == "platform-missing"
    assert (finding.expected, finding.found) == ("linux/arm64", "linux/amd64")
    assert finding.where == f"{registry.host}/demo/app:v1"
    assert "`platforms`" in finding.hint


def test_the_plain_variant_of_an_architecture_is_chosen(registry: FaultyRegistry) -> None:
    images = [registry.add_image("demo/app", platform="linux/arm64", text=text) for text in (b"v9", b"v8")]
    for image, variant in zip(images, ("v9", "v8"), strict=True):
        image["platform"]["variant"] = variant
    registry.add_index("demo/app", "v1", images)
    assert lock(registry, platforms=("linux/arm64",)).platforms[0].digest == images[1]["digest"]


def test_an_index_that_lies_about_the_platform_is_refused(registry: FaultyRegistry) -> None:
    image = registry.add_image("demo/app", platform="linux/arm64")
    image["platform"]["architecture"] = "amd64"
    registry.add_index("demo/app", "v1", [image])
    with pytest.raises(MalformedError) as caught:
        lock(registry)
    finding = caught.value.findings[0]
    assert finding.reference == "platform-mismatch"
    assert (finding.expected, finding.found) == ("linux/amd64", "linux/arm64")


def test_an_index_that_lies_about_a_manifests_size_is_refused(registry: FaultyRegistry) -> None:
    image = registry.add_image("demo/app")
    registry.add_index("demo/app", "v1", [{**image, "size": image["size"] + 1}])
    with pytest.raises(IntegrityError) as caught:
        lock(registry)
    assert caught.value.reference == "descriptor-mismatch"
    assert f"{image['size'] + 1} bytes" in caught.value.findings[0].expected
    assert f"{image['size']} bytes" in caught.value.findings[0].found


@pytest.mark.parametrize(
    "media_type",
    [
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    ],
)
def test_a_layer_nobody_may_carry_is_refused_with_the_reason(
    registry: FaultyRegistry, media_type: str
) -> None:
    manifest = registry.image_manifest()
    manifest["layers"].append(
        {**manifest["layers"][0], "mediaType": media_type, "urls": ["https://x.example"]}
    )
    registry.add_manifest("demo/app", manifest, "v1")
    with pytest.raises(PolicyError) as caught:
        lock(registry)
    finding = caught.value.findings[0]
    assert finding.reference == "foreign-layer"
    assert finding.found == media_type
    assert "does not allow it to be carried" in finding.what


@pytest.mark.parametrize(
    "digest",
    [
        "sha256:../../../../etc/passwd",
        "sha256:" + "A" * 64,
        "sha256:",
        "md5:" + "0" * 32,
        "sha256:" + "0" * 63,
    ],
)
@pytest.mark.parametrize("member", ["layers", "config", "manifests"])
def test_a_hostile_digest_is_refused_before_anything_is_asked_for_or_written(
    registry: FaultyRegistry, tmp_path: Path, digest: str, member: str
) -> None:
    manifest = registry.image_manifest()
    if member == "manifests":
        image = registry.add_manifest("demo/app", manifest)
        registry.add_index("demo/app", "v1", [{**image, "digest": digest}])
    elif member == "layers":
        manifest["layers"][0]["digest"] = digest
        registry.add_manifest("demo/app", manifest, "v1")
    else:
        manifest["config"]["digest"] = digest
        registry.add_manifest("demo/app", manifest, "v1")
    with pytest.raises(MalformedError) as caught:
        lock(registry)
    finding = caught.value.findings[0]
    assert finding.reference == "bad-manifest-blob"
    assert finding.expected == "sha256:<64 lower-case hex>"
    assert finding.where.endswith((f"{member}[0].digest", "config.digest"))
    assert len(registry.requests) == 1


def test_a_manifest_that_is_also_an_index_is_refused(registry: FaultyRegistry) -> None:
    manifest = {**registry.image_manifest(), "manifests": []}
    registry.add_manifest("demo/app", manifest, "v1")
    with pytest.raises(MalformedError) as caught:
        lock(registry)
    assert caught.value.reference == "ambiguous-manifest"
    assert caught.value.findings[0].found == "both manifests and layers"


def test_a_manifest_served_as_another_type_than_it_says_is_refused(registry: FaultyRegistry) -> None:
    registry.add_image("demo/app", "v1")
    other = "application/vnd.docker.distribution.manifest.v2+json"
    registry.always["/manifests/"] = Fault(content_type=other)
    with pytest.raises(MalformedError) as caught:
        lock(registry)
    assert caught.value.reference == "ambiguous-manifest"
    assert caught.value.findings[0].expected == other


def test_schema_1_is_refused_because_it_cannot_be_pinned(registry: FaultyRegistry) -> None:
    value = {"schemaVersion": 1, "mediaType": "application/vnd.docker.distribution.manifest.v1+prettyjws"}
    registry.add_manifest("demo/app", value, "v1")
    with pytest.raises(MalformedError) as caught:
        lock(registry)
    assert caught.value.reference == "unsupported-manifest"
    assert "prettyjws" in caught.value.findings[0].found


def test_an_artifact_in_place_of_an_image_is_refused(registry: FaultyRegistry) -> None:
    image = registry.add_image("demo/app")
    registry.add_artifact("demo/app", image, "v1")
    with pytest.raises(MalformedError) as caught:
        lock(registry)
    assert caught.value.reference == "not-an-image"
    assert caught.value.findings[0].found == "application/vnd.oci.empty.v1+json"


# --- signatures and attestations ---


@pytest.mark.parametrize("api", [True, False], ids=["by the API", "by the fallback tag"])
def test_referrers_are_found_locked_and_fetched(registry: FaultyRegistry, tmp_path: Path, api: bool) -> None:
    index = two_platforms(registry)
    sbom = registry.add_artifact("demo/app", index, text=b"sbom")
    nested = registry.add_artifact("demo/app", sbom, text=b"signature of the sbom")
    if not api:
        registry.no_referrers_api = True
        for subject, referrer in ((index, sbom), (sbom, nested)):
            registry.add_index("demo/app", subject["digest"].replace(":", "-"), [referrer])
    image = lock(registry, platforms=BOTH)
    found = {one.digest: one for one in image.referrers if one.tag is None}
    assert found[sbom["digest"]].subject == index["digest"]
    assert found[sbom["digest"]].artifact_type == "application/vnd.example.sbom.v1+json"
    assert found[nested["digest"]].subject == sbom["digest"]
    assert len([one for one in image.referrers if one.tag]) == (0 if api else 2)
    assert check_layout(fetch(tmp_path, image)) == []


@pytest.mark.parametrize("suffix", [".sig", ".att", ".sbom"])
def test_cosigns_tags_are_found_locked_and_kept_under_their_names(
    registry: FaultyRegistry, tmp_path: Path, suffix: str
) -> None:
    image = registry.add_image("demo/app", "v1")
    tag = image["digest"].replace(":", "-") + suffix
    signature = registry.add_artifact("demo/app", image, tag)
    locked = lock(registry)
    assert (tag, signature["digest"]) in [(one.tag, one.digest) for one in locked.referrers]
    layout = fetch(tmp_path, locked)
    assert check_layout(layout) == []
    names = [
        one["annotations"][REF_NAME] for one in json.loads((layout / "index.json").read_bytes())["manifests"]
    ]
    assert f"{registry.host}/demo/app:{tag}" in names


def test_buildkit_attestations_of_carried_platforms_make_an_index_whole(
    registry: FaultyRegistry, tmp_path: Path
) -> None:
    image = registry.add_image("demo/app")
    statement = registry.add_blob(b'{"predicateType": "x"}', "application/vnd.in-toto+json")
    manifest = {**registry.image_manifest("unknown/unknown", text=b"x"), "layers": [statement]}
    attestation = registry.add_manifest("demo/app", manifest)
    attestation |= {
        "platform": {"os": "unknown", "architecture": "unknown"},
        "annotations": {
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": image["digest"],
        },
    }
    registry.add_index("demo/app", "v1", [image, attestation])
    locked = lock(registry)
    assert locked.complete
    assert [(one.digest, one.subject, one.artifact_type) for one in locked.referrers] == [
        (attestation["digest"], image["digest"], "attestation-manifest")
    ]
    assert check_layout(fetch(tmp_path, locked)) == []


def test_a_boundless_artifact_type_is_refused(registry: FaultyRegistry) -> None:
    image = registry.add_image("demo/app", "v1")
    registry.add_artifact("demo/app", image)
    registry.repository("demo/app").referrers[image["digest"]][0]["artifactType"] = "a/" + "b" * 10_000
    with pytest.raises(MalformedError) as caught:
        lock(registry)
    assert caught.value.reference == "bad-manifest-blob"
    assert caught.value.findings[0].where.endswith("manifests.artifactType")


# --- fetching ---


def test_shared_blobs_are_fetched_once_for_all_images(registry: FaultyRegistry, tmp_path: Path) -> None:
    images = []
    for number in (1, 2):
        manifest = registry.image_manifest(text=b"shared")
        manifest["annotations"] = {"number": str(number)}
        registry.add_manifest("demo/app", manifest, f"v{number}")
        images.append(lock(registry, f":v{number}"))
    registry.requests.clear()
    layout = fetch(tmp_path, *images)
    assert check_layout(layout) == []
    for digest, _ in images[0].platforms[0].blobs:
        assert len(registry.seen(digest)) == 1
    assert len(image_jobs(images)) == 2 + 2


def test_a_wanted_platform_of_a_larger_index_keeps_the_index_as_evidence(
    registry: FaultyRegistry, tmp_path: Path
) -> None:
    index = two_platforms(registry)
    image = lock(registry, platforms=("linux/arm64",))
    assert not image.complete
    layout = fetch(tmp_path, image)
    assert check_layout(layout) == []
    assert not (layout / "blobs/sha256" / index["digest"][7:]).exists()
    evidence = tmp_path / "tree" / index_path(image)
    assert index_path(image) == f"payload/evidence/images/sha256-{index['digest'][7:]}.json"
    assert f"sha256:{hashlib.sha256(evidence.read_bytes()).hexdigest()}" == index["digest"]
    (entry,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    assert entry["digest"] == image.platforms[0].digest
    assert entry["platform"] == {"os": "linux", "architecture": "arm64"}
    assert entry["annotations"]["urn:sealift:image:digest"] == index["digest"]
    assert entry["annotations"]["io.containerd.image.name"] == f"{registry.host}/demo/app:v1"


def test_a_corrupt_layer_is_refused_and_kept_aside(registry: FaultyRegistry, tmp_path: Path) -> None:
    registry.add_image("demo/app", "v1")
    image = lock(registry)
    layer = image.platforms[0].blobs[1][0]
    registry.always[layer] = Fault(flip=True)
    with pytest.raises(IntegrityError) as caught:
        fetch(tmp_path, image)
    assert caught.value.reference == "digest-mismatch"
    assert layer[7:] in caught.value.findings[0].expected
    assert not (tmp_path / "tree/payload/images/blobs/sha256" / layer[7:]).exists()
    assert list((tmp_path / "work").rglob("*.bad"))


def test_dropped_and_busy_blobs_continue_where_they_stopped(registry: FaultyRegistry, tmp_path: Path) -> None:
    text = random.Random(1).randbytes(300_000)
    registry.add_image("demo/app", "v1", text=text)
    image = lock(registry)
    layer, size = image.platforms[0].blobs[1]
    registry.faults[layer] = [
        Fault(drop_after=100_000),
        Fault(status=429, headers={"Retry-After": "0"}),
        Fault(status=503),
    ]
    registry.requests.clear()
    assert check_layout(fetch(tmp_path, image)) == []
    assert registry.sent(layer) == size
    assert [one.headers.get("range") for one in registry.seen(layer)] == [None, *["bytes=100000-"] * 3]


def test_a_token_that_runs_out_between_blobs_is_renewed(registry: FaultyRegistry, tmp_path: Path) -> None:
    registry.auth, registry.token_seconds = "bearer", 0.15
    text = random.Random(2).randbytes(200_000)
    registry.add_image("demo/app", "v1", text=text)
    image = lock(registry)
    layer = image.platforms[0].blobs[1][0]
    registry.rate = 800_000
    registry.faults[layer] = [Fault(), Fault(drop_after=150_000)]
    assert check_layout(fetch(tmp_path, image)) == []
    assert len(registry.seen("/token")) >= 2


def test_no_token_reaches_the_storage_blobs_are_redirected_to(
    tmp_path: Path, registry: FaultyRegistry
) -> None:
    with FaultyRegistry(registry.root) as storage:
        registry.auth, registry.blobs_elsewhere = "bearer", storage.url
        two_platforms(registry)
        image = lock(registry, platforms=BOTH)
        assert check_layout(fetch(tmp_path, image)) == []
        assert len(storage.requests) >= 4
        assert not [one for one in storage.requests if "authorization" in one.headers]


def test_a_blob_of_another_size_than_locked_stops_the_build(registry: FaultyRegistry, tmp_path: Path) -> None:
    registry.add_image("demo/app", "v1")
    image = lock(registry)
    layer = image.platforms[0].blobs[1][0]
    registry.blob_path(layer).write_bytes(
        b"a longer blob than was locked, much longer, even without compression"
    )
    with pytest.raises(NetworkError) as caught:
        fetch(tmp_path, image)
    assert caught.value.reference == "size-changed"


def test_two_sizes_for_one_digest_are_refused_before_fetching(registry: FaultyRegistry) -> None:
    registry.add_image("demo/app", "v1")
    image = lock(registry)
    one = image.platforms[0]
    other = image.model_copy(
        update={"platforms": (one.model_copy(update={"blobs": ((one.blobs[1][0], one.blobs[1][1] + 1),)}),)}
    )
    with pytest.raises(MalformedError) as caught:
        image_jobs([image, other])
    assert caught.value.reference == "blob-size-conflict"
    assert caught.value.findings[0].expected == f"{one.blobs[1][1]} bytes"


@pytest.mark.slow
def test_a_killed_pull_fetches_only_the_rest(registry: FaultyRegistry, tmp_path: Path) -> None:
    total = 24_000_000
    registry.add_image("demo/app", "v1", text=random.Random(3).randbytes(total))
    image = lock(registry)
    layer, size = image.platforms[0].blobs[1]
    (tmp_path / "image.json").write_text(image.model_dump_json(by_alias=True))
    command = [sys.executable, "-m", "tests.sources.pulling", str(tmp_path), str(tmp_path / "image.json")]
    registry.rate = 12_000_000
    running = subprocess.Popen(command)
    while registry.sent(layer) < total // 2:
        assert running.poll() is None
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.wait()
    (partial,) = (tmp_path / "work/partial").glob("*.part")
    kept = partial.stat().st_size
    assert kept > total // 4
    registry.requests.clear()
    registry.rate = None
    subprocess.run(command, check=True, env={**os.environ})
    assert registry.sent(layer) == size - kept
    assert registry.seen(layer)[0].headers["range"] == f"bytes={kept}-"
    blob = tmp_path / "tree/payload/images/blobs/sha256" / layer[7:]
    assert hashlib.sha256(blob.read_bytes()).hexdigest() == layer[7:]


@pytest.mark.slow
@pytest.mark.parametrize("platforms", [BOTH, BOTH[1:]], ids=["every platform", "one of two"])
def test_debians_registry_is_pulled_from_and_skopeo_reads_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platforms: tuple[str, ...]
) -> None:
    need("skopeo")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    content = {
        name: {"etc/arch": name.encode(), "shared": random.Random(4).randbytes(2_000_000)} for name in BOTH
    }
    digest = make_demo_image(tmp_path / "source", "demo/app:v1", content, ["/bin/hello"])
    with docker_registry(tmp_path / "real") as host:
        (reference,) = push_layout(tmp_path / "source", f"http://{host}")
        image = resolve_image(ImageSpec(reference=reference, platforms=platforms, plain_http=True))
        layout = fetch(tmp_path, image)
    assert image.digest == digest
    assert check_layout(layout) == []
    copy = ["skopeo", "copy", "--quiet", "--all", "--preserve-digests"]
    subprocess.run([*copy, f"oci:{layout}:{reference}", f"oci:{tmp_path}/out:v1"], check=True)
    (entry,) = json.loads((tmp_path / "out/index.json").read_bytes())["manifests"]
    assert entry["digest"] == (digest if image.complete else image.platforms[0].digest)


# --- what changed upstream ---


def test_locking_again_gives_the_same_bytes_while_nothing_moves(registry: FaultyRegistry) -> None:
    index = two_platforms(registry)
    for text in (b"one", b"two"):
        registry.add_artifact("demo/app", index, text=text)
    first = lock(registry, platforms=BOTH)
    registry.repository("demo/app").referrers[index["digest"]].reverse()
    assert lock(registry, platforms=BOTH).model_dump_json() == first.model_dump_json()


def test_a_moved_tag_gives_another_digest(registry: FaultyRegistry) -> None:
    first = registry.add_image("demo/app", "v1")
    assert lock(registry).digest == first["digest"]
    second = registry.add_image("demo/app", "v1", text=b"new")
    assert lock(registry).digest == second["digest"]


# --- the layout's documents ---


def locked_image(reference: str, number: int, **more: Any) -> LockedImage:
    digest = f"sha256:{number:064x}"
    media_type = "application/vnd.oci.image.manifest.v1+json"
    platforms = tuple(
        LockedPlatform(
            platform=name, digest=f"sha256:{number + at:064x}", size=5, media_type=media_type, blobs=()
        )
        for at, name in enumerate(more.pop("platforms", ("linux/amd64",)))
    )
    return LockedImage(
        reference=reference, digest=digest, size=5, media_type=media_type, platforms=platforms, **more
    )


def names_in(documents: dict[str, bytes]) -> list[str]:
    index = json.loads(documents["payload/images/index.json"])
    return [one["annotations"][REF_NAME] for one in index["manifests"]]


def test_the_layout_documents_depend_on_the_images_not_on_their_order() -> None:
    images = [locked_image("a/one:1", 1), locked_image("a/two:2", 20), locked_image("a/three:3", 30)]
    assert layout_documents(images) == layout_documents(images[::-1])


def test_several_platforms_of_a_larger_index_get_a_name_each() -> None:
    documents = layout_documents([locked_image("a/one:1", 1, platforms=BOTH, complete=False)])
    assert names_in(documents) == ["docker.io/a/one:1-amd64", "docker.io/a/one:1-arm64"]


def test_an_image_asked_for_by_digest_is_named_by_digest() -> None:
    digest = f"sha256:{1:064x}"
    assert names_in(layout_documents([locked_image(f"a/one@{digest}", 1)])) == [f"docker.io/a/one@{digest}"]


def test_one_name_for_two_images_is_refused() -> None:
    with pytest.raises(MalformedError) as caught:
        layout_documents([locked_image("a/one:1", 1), locked_image("docker.io/a/one:1", 2)])
    assert caught.value.reference == "image-name-conflict"
    assert caught.value.findings[0].where == "docker.io/a/one:1"
