"""Images from a bundle's layout into podman, containerd, a registry and docker, and running in runc."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bundler.assembly.image_layout import layout_documents
from bundler.content.oci import check_layout
from bundler.core.progress import SilentProgress
from bundler.core.specs.image_reference import ImageReference
from bundler.core.specs.lock import LockedImage
from bundler.core.specs.spec import ImageSpec
from bundler.demo.registry import make_demo_image, push_layout
from bundler.errors import ExitCode, IntegrityError, MachineError, UsageError
from bundler.install.images import (
    BundleImage,
    Containerd,
    Docker,
    Podman,
    Registry,
    images_for,
    layout_view,
    load_images,
    local_name,
    parse_target,
    stream_layout_tar,
)
from bundler.sources.fetch import fetch_all
from bundler.sources.images.images import image_jobs, resolve_image
from bundler.sources.images.registry import RegistryClient
from bundler.sources.images.registry_auth import DockerConfig
from bundler.storage.payload import PayloadStore
from tests.servers.programs import both_ends, containerd, docker_registry, need
from tests.servers.registry import FaultyRegistry

BOTH = ("linux/amd64", "linux/arm64")
LINE = "sealift image runs"
FILES = {name: {"bin/hello": b"#!/bin/sh\n", "etc/arch": name.encode()} for name in BOTH}


class Collected(SilentProgress):
    """Counts what it is told."""

    def __init__(self) -> None:
        self.total = 0

    def advance(self, count: int) -> None:
        self.total += count


def lock(registry: FaultyRegistry, target: str, platforms: tuple[str, ...]) -> LockedImage:
    spec = ImageSpec(reference=f"{registry.host}/demo/app{target}", platforms=platforms, plain_http=True)
    client = RegistryClient(registry.host, plain_http=True, config=DockerConfig())
    return resolve_image(spec, client=client)


def bundle(folder: Path, *images: LockedImage) -> Path:
    with PayloadStore(folder / "tree", folder / "work") as store:
        fetch_all(image_jobs(images, config=DockerConfig()), store)
        for path, data in layout_documents(images).items():
            store.put_bytes(path, data)
    layout = folder / "tree/payload/images"
    assert check_layout(layout) == []
    return layout


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[FaultyRegistry]:
    with FaultyRegistry(tmp_path / "registry") as serving:
        yield serving


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A layout with both platforms of one image."""
    make_demo_image(tmp_path / "whole", "demo/app:v1", FILES, ["/bin/hello"])
    return tmp_path / "whole"


@pytest.fixture
def sparse(tmp_path: Path, registry: FaultyRegistry) -> Path:
    """The layout of a bundle with one platform of an image that has two."""
    make_demo_image(tmp_path / "source", "demo/app:v1", FILES, ["/bin/hello"])
    push_layout(tmp_path / "source", registry.url)
    return bundle(tmp_path, lock(registry, ":v1", BOTH[:1]))


def tar_of(layout: Path, image: BundleImage) -> bytes:
    out = io.BytesIO()
    stream_layout_tar(layout, image, out)
    return out.getvalue()


def program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


# --- what the layout holds ---


def test_the_image_for_each_platform_is_found_in_its_index(whole: Path) -> None:
    for platform in BOTH:
        (image,) = images_for(whole, platform)
        config = json.loads((whole / "blobs/sha256" / image.image_id[7:]).read_bytes())
        assert config["architecture"] == platform.split("/")[1]
        assert image.root.digest == image.locked_digest
        assert image.name.endswith("/demo/app:v1")


def test_a_platform_that_is_not_carried_is_refused_with_those_that_are(sparse: Path) -> None:
    with pytest.raises(MachineError) as caught:
        images_for(sparse, "linux/arm64")
    finding = caught.value.findings[0]
    assert finding.reference == "no-image-for-platform"
    assert (finding.expected, finding.found) == ("linux/arm64", "linux/amd64")


def test_a_manifest_changed_since_verification_is_not_followed(whole: Path) -> None:
    (image,) = images_for(whole, BOTH[0])
    path = whole / "blobs/sha256" / image.root.hex
    path.write_bytes(path.read_bytes().replace(b"amd64", b"arm64"))
    with pytest.raises(IntegrityError) as caught:
        images_for(whole, BOTH[0])
    assert caught.value.reference == "oci-blob-digest"
    assert caught.value.findings[0].expected == image.root.digest


@pytest.mark.parametrize(
    ("name", "local"),
    [
        ("docker.io/a/b:v1", "docker.io/a/b:v1"),
        (f"docker.io/a/b@sha256:{'ab' * 32}", "docker.io/a/b:abababababab"),
        ("", "localhost/image:cdcdcdcdcdcd"),
    ],
)
def test_every_image_gets_a_tag_to_be_run_by(name: str, local: str) -> None:
    assert local_name(name, "sha256:" + "cd" * 32) == local


# --- the tar ---


def test_the_tar_is_the_same_every_time_and_holds_both_forms(whole: Path) -> None:
    (image,) = images_for(whole, BOTH[0])
    data = tar_of(whole, image)
    assert data == tar_of(whole, image)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = tar.getmembers()
        assert {(one.mtime, one.uid, one.gid, one.uname) for one in members} == {(0, 0, 0, "")}
        for one in members:
            if one.isfile() and one.name.startswith("blobs/"):
                found = hashlib.sha256(tar.extractfile(one).read()).hexdigest()  # type: ignore[union-attr]
                assert one.name == f"blobs/sha256/{found}"
        docker = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
        index = json.load(tar.extractfile("index.json"))  # type: ignore[arg-type]
    assert docker[0]["RepoTags"] == [image.name]
    assert docker[0]["Config"] == f"blobs/sha256/{image.image_id[7:]}"
    assert {one["digest"] for one in index["manifests"]} == {image.descriptor.digest}


def test_the_tar_extracts_to_a_whole_layout(whole: Path, tmp_path: Path) -> None:
    (image,) = images_for(whole, BOTH[1])
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-x", "-C", str(tmp_path / "out")], input=tar_of(whole, image), check=True)
    (tmp_path / "out/manifest.json").unlink()
    assert check_layout(tmp_path / "out") == []


def test_the_tar_tells_its_progress_in_bytes(whole: Path) -> None:
    (image,) = images_for(whole, BOTH[0])
    meter = Collected()
    stream_layout_tar(whole, image, io.BytesIO(), progress=meter)
    assert meter.total == image.size


@pytest.mark.parametrize("change", ["flipped", "truncated", "grown"])
def test_a_layer_changed_since_verification_leaves_the_tar_without_end(whole: Path, change: str) -> None:
    (image,) = images_for(whole, BOTH[0])
    layer = image.manifest.layers[0]
    path = whole / "blobs/sha256" / layer.hex
    data = path.read_bytes()
    path.write_bytes({"flipped": data[:-1] + b"!", "truncated": data[:-1], "grown": b"!" + data}[change])
    out = io.BytesIO()
    with pytest.raises(IntegrityError) as caught:
        stream_layout_tar(whole, image, out)
    assert caught.value.reference == "oci-blob-digest"
    assert caught.value.findings[0].where == f"blobs/sha256/{layer.hex}"
    assert caught.value.findings[0].expected == layer.digest
    assert not out.getvalue().endswith(bytes(1024))


def test_a_layer_replaced_by_a_link_is_not_followed(whole: Path, tmp_path: Path) -> None:
    (image,) = images_for(whole, BOTH[0])
    path = whole / "blobs/sha256" / image.manifest.layers[0].hex
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        stream_layout_tar(whole, image, io.BytesIO())


# --- where to ---


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("podman", Podman()),
        ("docker", Docker()),
        ("containerd", Containerd()),
        ("containerd:k8s.io", Containerd(namespace="k8s.io")),
        ("registry.example:5000", Registry(host="registry.example:5000")),
        ("https://registry.example/team/a/", Registry(host="registry.example", prefix="team/a")),
        ("http://127.0.0.1:5000/t", Registry(host="127.0.0.1:5000", prefix="t", plain_http=True)),
        ("localhost/t", Registry(host="localhost", prefix="t")),
    ],
)
def test_targets_are_read(text: str, place: object) -> None:
    assert parse_target(text) == place


@pytest.mark.parametrize(
    "text", ["", "crio", "registry", "ftp://registry.example", "r.example/UPPER", "/tmp/x"]
)
def test_what_is_no_target_is_refused_with_the_choices(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_target(text)
    assert caught.value.reference == "unknown-image-target"
    assert "podman, docker, containerd[:NAMESPACE]" in caught.value.findings[0].expected


@pytest.mark.parametrize(
    ("target", "name", "package"),
    [
        ("podman", "podman", "podman"),
        ("docker", "docker", "docker.io"),
        ("containerd", "ctr", "containerd"),
        ("registry.example:5000", "skopeo", "skopeo"),
    ],
)
def test_an_absent_program_is_refused_with_the_package_that_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, name: str, package: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MachineError) as caught:
        load_images(tmp_path / "no-layout", target)
    assert caught.value.reference == "tool-missing"
    assert caught.value.exit_code == ExitCode.MACHINE
    assert caught.value.findings[0].expected == f"{name} on PATH"
    hint = caught.value.findings[0].hint
    assert hint.startswith(f"install the package {package} from this site's own mirror")


def test_the_view_of_one_image_copies_no_blob_and_is_gone_afterwards(whole: Path) -> None:
    (image,) = images_for(whole, BOTH[0])
    with layout_view(whole, image.root) as view:
        assert (view / "blobs").is_symlink()
        assert sum(one.stat().st_size for one in view.iterdir() if one.is_file()) < 1000
        assert json.loads((view / "index.json").read_bytes())["manifests"][0]["digest"] == image.root.digest
    assert not view.exists()
    assert check_layout(whole) == []


@pytest.mark.parametrize("name", ["Upper", "_a", "a_", "a___b", "a..b", "-a", "a b", "a:b"])
def test_a_temporary_folder_that_is_no_image_name_is_avoided(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / name))
    with layout_view(whole, images_for(whole, BOTH[0])[0].root) as view:
        ImageReference.parse(f"localhost{view}")


@pytest.mark.parametrize("drawn", ["________", "_a3k9x__", "a___b_00"])
def test_no_random_name_can_break_an_image_name(
    whole: Path, monkeypatch: pytest.MonkeyPatch, drawn: str
) -> None:
    """podman makes an image name of the folder it pulls from; Python's own temporary names have `_`."""
    monkeypatch.setattr(tempfile, "_get_candidate_names", lambda: iter([drawn] * 9))
    with layout_view(whole, images_for(whole, BOTH[0])[0].root) as view:
        ImageReference.parse(f"localhost{view}")


# --- podman, and a real container ---


@pytest.fixture
def podman(tmp_path: Path) -> Iterator[Podman]:
    need("podman")
    folder = Path(tempfile.mkdtemp(prefix="sealift-podman-"))
    options = ("--root", f"{folder}/root", "--runroot", f"{folder}/run", "--storage-driver", "vfs")
    done = subprocess.run(["podman", *options, "info"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        shutil.rmtree(folder, ignore_errors=True)
        pytest.skip(f"podman cannot run here: {both_ends(done.stderr, 200)}")
    yield Podman(options=options)
    subprocess.run(["podman", *options, "system", "reset", "--force"], capture_output=True, check=False)
    shutil.rmtree(folder, ignore_errors=True)


def ask(engine: Podman, *arguments: str) -> str:
    done = subprocess.run(["podman", *engine.options, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["whole", "sparse"])
def test_podman_holds_the_image_under_its_name_and_digest(
    podman: Podman, kind: str, request: pytest.FixtureRequest
) -> None:
    layout: Path = request.getfixturevalue(kind)
    (image,) = images_for(layout, BOTH[0])
    loaded = podman.load(layout, image, SilentProgress())
    assert loaded.digest == image.root.digest
    assert ask(podman, "image", "inspect", "--format", "{{.Digest}}", image.name) == image.root.digest
    assert ask(podman, "images", "--format", "{{.Repository}}:{{.Tag}}") == image.name


@pytest.mark.slow
def test_podman_reads_docker_manifests_and_other_platforms(
    podman: Podman, registry: FaultyRegistry, tmp_path: Path
) -> None:
    entries = [registry.add_image("demo/app", platform=one, text=_layer(one), docker=True) for one in BOTH]
    registry.add_index("demo/app", "v1", entries, docker=True)
    layout = bundle(tmp_path, lock(registry, ":v1", BOTH))
    (image,) = images_for(layout, "linux/arm64")
    podman.load(layout, image, SilentProgress())
    assert ask(podman, "image", "inspect", "--format", "{{.Architecture}}", image.name) == "arm64"


@pytest.mark.slow
def test_the_tar_loads_into_podman_with_the_same_image_id(
    podman: Podman, whole: Path, tmp_path: Path
) -> None:
    (image,) = images_for(whole, BOTH[0])
    (tmp_path / "image.tar").write_bytes(tar_of(whole, image))
    ask(podman, "load", "--input", str(tmp_path / "image.tar"))
    assert "sha256:" + ask(podman, "image", "inspect", "--format", "{{.Id}}", image.name) == image.image_id


@pytest.mark.slow
def test_an_image_from_the_bundle_runs_without_network_rights_or_a_writable_root(
    podman: Podman, registry: FaultyRegistry, tmp_path: Path
) -> None:
    need("runc", "busybox")
    busybox = Path(shutil.which("busybox") or "").read_bytes()
    checks = f"echo {LINE}; touch /x 2>/dev/null || echo read-only; "
    checks += "grep CapEff /proc/self/status; ls /sys/class/net"
    files = {"linux/amd64": {"bin/sh": busybox, "bin/busybox": busybox, "etc/checks": checks.encode()}}
    for folder in ("proc", "sys", "dev"):
        files["linux/amd64"][f"{folder}/.keep"] = b""
    make_demo_image(tmp_path / "source", "demo/app:v1", files, ["/bin/sh", "-c", checks])
    push_layout(tmp_path / "source", registry.url)
    layout = bundle(tmp_path, lock(registry, ":v1", BOTH[:1]))
    (image,) = images_for(layout, BOTH[0])
    podman.load(layout, image, SilentProgress())
    rootfs = ask(podman, "image", "mount", image.name)
    entrypoint = json.loads(
        ask(podman, "image", "inspect", "--format", "{{json .Config.Entrypoint}}", image.name)
    )
    done = _runc(tmp_path / "container", rootfs, entrypoint)
    ask(podman, "image", "unmount", image.name)
    lines = done.stdout.split("\n")
    assert lines[0] == LINE, done.stderr
    assert lines[1] == "read-only"
    assert lines[2].split() == ["CapEff:", "0" * 16]
    assert lines[3:] in (["lo", ""], [""])


def _runc(folder: Path, rootfs: str, command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command in a container with nothing: no capability, no network, a root that cannot be written."""
    folder.mkdir()
    subprocess.run(["runc", "spec"], cwd=folder, check=True)
    config = json.loads((folder / "config.json").read_text())
    config["root"] = {"path": rootfs, "readonly": True}
    config["process"] |= {"args": command, "terminal": False, "capabilities": {}}
    config["process"].pop("rlimits", None)
    config["process"]["env"] = ["PATH=/bin"]
    (folder / "config.json").write_text(json.dumps(config))
    runc = ["runc", "--root", str(folder / "state"), "run", f"sealift-{folder.parent.name}"[:60]]
    done = subprocess.run(runc, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0 and "cgroup" in done.stderr:
        pytest.skip(f"runc cannot run here: {both_ends(done.stderr, 200)}")
    return done


def _layer(text: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo("hello")
        member.size = len(text)
        tar.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


# --- containerd ---


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["whole", "sparse"])
def test_containerd_holds_the_image_under_tag_and_digest(kind: str, request: pytest.FixtureRequest) -> None:
    layout: Path = request.getfixturevalue(kind)
    (image,) = images_for(layout, BOTH[0])
    with containerd() as address:
        engine = Containerd(namespace="k8s.io", options=("--address", str(address)))
        loaded = engine.load(layout, image, SilentProgress())
        listed = subprocess.run(
            ["ctr", "--address", str(address), "-n", "k8s.io", "images", "list", "-q"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    assert loaded.digest == image.descriptor.digest
    name = image.name.rpartition(":")[0]
    assert listed.stdout.split() == [image.name, f"{name}@{image.descriptor.digest}"]


@pytest.mark.slow
def test_a_changed_layer_does_not_get_into_containerd(whole: Path) -> None:
    (image,) = images_for(whole, BOTH[0])
    path = whole / "blobs/sha256" / image.manifest.layers[0].hex
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with containerd() as address:
        engine = Containerd(options=("--address", str(address)))
        with pytest.raises(IntegrityError, match="oci-blob-digest"):
            engine.load(whole, image, SilentProgress())
        command = ["ctr", "--address", str(address), "images", "list", "-q"]
        assert subprocess.run(command, capture_output=True, check=True).stdout == b""


# --- a registry of the perimeter ---


def remote(host: str, reference: str) -> str:
    data = subprocess.run(
        ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{host}/{reference}"],
        capture_output=True, check=True,
    ).stdout  # fmt: skip
    return "sha256:" + hashlib.sha256(data).hexdigest()


@pytest.mark.slow
def test_a_registry_gets_every_platform_and_signature_with_digests_kept(
    tmp_path: Path, registry: FaultyRegistry
) -> None:
    need("skopeo")
    entries = [registry.add_image("demo/app", platform=one, text=_layer(one)) for one in BOTH]
    index = registry.add_index("demo/app", "v1", entries)
    sbom = registry.add_artifact("demo/app", index)
    tag = index["digest"].replace(":", "-") + ".sig"
    signature = registry.add_artifact("demo/app", index, tag, text=b"signature")
    layout = bundle(tmp_path, lock(registry, ":v1", BOTH))
    with docker_registry(tmp_path / "real") as host:
        pushed = load_images(layout, f"http://{host}/team")
        assert remote(host, "team/demo/app:v1") == index["digest"]
        assert remote(host, f"team/demo/app:{tag}") == signature["digest"]
        assert remote(host, f"team/demo/app@{sbom['digest']}") == sbom["digest"]
        for entry in entries:
            assert remote(host, f"team/demo/app@{entry['digest']}") == entry["digest"]
    assert pushed[0].name == f"{host}/team/demo/app:v1"
    assert {one.digest for one in pushed} == {index["digest"], sbom["digest"], signature["digest"]}


@pytest.mark.slow
def test_some_platforms_of_a_docker_list_get_a_tag_each(tmp_path: Path, registry: FaultyRegistry) -> None:
    need("skopeo")
    entries = [registry.add_image("demo/app", platform=one, text=_layer(one), docker=True) for one in BOTH]
    other = registry.add_image("demo/app", platform="linux/s390x", text=b"other", docker=True)
    registry.add_index("demo/app", "v1", [*entries, other], docker=True)
    layout = bundle(tmp_path, lock(registry, ":v1", BOTH))
    with docker_registry(tmp_path / "real") as host:
        load_images(layout, f"http://{host}")
        assert remote(host, "demo/app:v1-amd64") == entries[0]["digest"]
        assert remote(host, "demo/app:v1-arm64") == entries[1]["digest"]


@pytest.mark.slow
def test_an_image_locked_by_digest_is_pushed_by_digest(tmp_path: Path, registry: FaultyRegistry) -> None:
    need("skopeo")
    only = registry.add_image("demo/app", "v1", text=_layer("x"))
    layout = bundle(tmp_path, lock(registry, f"@{only['digest']}", BOTH[:1]))
    with docker_registry(tmp_path / "real") as host:
        (pushed,) = load_images(layout, f"http://{host}")
        assert pushed.name == f"{host}/demo/app@{only['digest']}"
        assert remote(host, f"demo/app@{only['digest']}") == only["digest"]


def test_skopeo_copies_the_layout_by_name_on_its_own(sparse: Path, tmp_path: Path) -> None:
    need("skopeo")
    (image,) = images_for(sparse, BOTH[0])
    copy = ["skopeo", "copy", "--quiet", "--all", "--preserve-digests"]
    subprocess.run([*copy, f"oci:{sparse}:{image.name}", f"oci:{tmp_path}/out:v1"], check=True)
    (entry,) = json.loads((tmp_path / "out/index.json").read_bytes())["manifests"]
    assert entry["digest"] == image.descriptor.digest


def test_a_registry_that_is_not_there_is_told_with_the_login_command(whole: Path, tmp_path: Path) -> None:
    need("skopeo")
    with pytest.raises(MachineError) as caught:
        load_images(whole, "http://127.0.0.1:1")
    finding = caught.value.findings[0]
    assert finding.reference == "image-tool-failed"
    assert "connection refused" in finding.found
    assert finding.where.startswith("skopeo copy")
    assert "skopeo login 127.0.0.1:1" in finding.hint
    assert "run the same `sealift install` again" in finding.hint, (
        "the skopeo line names a folder that is gone"
    )


# --- docker: no engine runs where these tests run; a program that reads the tar by its rules stands in ---

DOCKER = """#!{python}
import hashlib, json, sys, tarfile
state = {state!r}
if sys.argv[1] == "version":
    print({version!r})
elif sys.argv[1] == "load":
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as tar:
        files = {{one.name: tar.extractfile(one).read() for one in tar if one.isfile()}}
    (image,) = json.loads(files["manifest.json"])
    assert all(name in files for name in image["Layers"])
    digest = "sha256:" + hashlib.sha256(files[image["Config"]]).hexdigest()
    json.dump({{name: digest for name in image["RepoTags"]}}, open(state, "w"))
else:
    print({answer} or json.load(open(state))[sys.argv[-1]])
"""


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def install(version: str = "20.10.24+dfsg1", answer: str = "") -> None:
        text = DOCKER.format(
            python=sys.executable, state=str(tmp_path / "docker.json"), version=version, answer=repr(answer)
        )
        program(tmp_path / "programs", "docker", text)
        monkeypatch.setenv("PATH", f"{tmp_path / 'programs'}:/usr/bin:/bin")

    return install


def test_docker_takes_the_tar_and_the_image_id_is_compared(docker: Callable[..., None], whole: Path) -> None:
    docker()
    (image,) = images_for(whole, BOTH[0])
    (loaded,) = load_images(whole, "docker", platform=BOTH[0])
    assert (loaded.digest, loaded.warnings) == (image.image_id, ())


def test_docker_with_containerds_store_names_images_by_manifest(
    docker: Callable[..., None], whole: Path
) -> None:
    (image,) = images_for(whole, BOTH[0])
    docker(version="29.0.1", answer=image.descriptor.digest)
    assert load_images(whole, "docker", platform=BOTH[0])[0].digest == image.descriptor.digest


def test_an_image_docker_knows_by_another_digest_is_refused(docker: Callable[..., None], whole: Path) -> None:
    (image,) = images_for(whole, BOTH[0])
    docker(answer="sha256:" + "0" * 64)
    with pytest.raises(IntegrityError) as caught:
        load_images(whole, "docker", platform=BOTH[0])
    finding = caught.value.findings[0]
    assert finding.reference == "image-digest-changed"
    assert (finding.expected, finding.found) == (image.image_id, "sha256:" + "0" * 64)
    assert finding.hint.startswith("do not run it")


@pytest.mark.parametrize(
    ("version", "warned"), [("20.10.24", True), ("22.0", True), ("23.0.1", False), ("dev", False)]
)
def test_an_old_docker_is_warned_about_zstd_layers(
    docker: Callable[..., None], registry: FaultyRegistry, tmp_path: Path, version: str, warned: bool
) -> None:
    manifest: dict[str, Any] = registry.image_manifest()
    manifest["layers"][0]["mediaType"] = "application/vnd.oci.image.layer.v1.tar+zstd"
    registry.add_manifest("demo/app", manifest, "v1")
    layout = bundle(tmp_path, lock(registry, ":v1", BOTH[:1]))
    docker(version=version)
    (loaded,) = load_images(layout, "docker", platform=BOTH[0])
    assert [one.reference for one in loaded.warnings] == (["docker-zstd"] if warned else [])
    assert all(one.severity == "warning" and "23 or later" in one.expected for one in loaded.warnings)


def test_a_docker_that_stops_reading_is_told_in_its_own_words(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = '#!/bin/sh\ncase $1 in version) echo 29;; *) echo "no space left" >&2; exit 7;; esac\n'
    program(tmp_path / "programs", "docker", script)
    monkeypatch.setenv("PATH", f"{tmp_path / 'programs'}:/usr/bin:/bin")
    with pytest.raises(MachineError) as caught:
        load_images(whole, "docker", platform=BOTH[0])
    assert caught.value.reference == "image-tool-failed"
    assert caught.value.findings[0].found == "exit code 7: no space left"


def test_a_layer_that_changed_ends_docker_before_it_has_the_image(
    docker: Callable[..., None], whole: Path, tmp_path: Path
) -> None:
    docker()
    (image,) = images_for(whole, BOTH[0])
    path = whole / "blobs/sha256" / image.manifest.layers[0].hex
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(IntegrityError, match="oci-blob-digest"):
        load_images(whole, "docker", platform=BOTH[0])
    assert not (tmp_path / "docker.json").exists()
