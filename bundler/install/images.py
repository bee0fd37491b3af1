"""Hand verified images to what runs them: podman, docker, containerd, or a registry of the perimeter.

Every way keeps one copy on the media: podman and skopeo read the layout in place, docker and containerd get a
tar that is made while they read it. What was loaded is compared with the manifest's digests afterwards.
Only call this for a bundle that has been verified; blobs are hashed once more on their way into a tar.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform as host
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from bundler.content.oci import (
    CONTAINERD_NAME,
    MANIFEST_LIMIT,
    OCI_INDEX,
    REF_NAME,
    ROLE,
    ROOT_DIGEST,
    Descriptor,
    ImageIndex,
    ImageManifest,
    parse_manifest,
    read_small,
)
from bundler.core import strict_json
from bundler.core.progress import Progress, SilentProgress
from bundler.core.specs.image_reference import ImageReference
from bundler.errors import Finding, IntegrityError, MachineError, SealiftError, UsageError
from bundler.storage.child_environment import CONTAINERS, child_environment
from bundler.storage.private_folder import private_folder

PIECE = 1 << 20
INSTALL = {
    "podman": "podman",
    "docker": "docker.io",
    "ctr": "containerd",
    "skopeo": "skopeo",
}
"""Debian's packages of the programs."""
ZSTD_DOCKER = 23
"""First docker engine that reads zstd layers."""
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64", "amd64": "amd64"}
_NAME_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME_PATH = re.compile(rf"(?:/{_NAME_PART})+")
"""A folder whose path is part of an image name as it is (distribution/reference): podman makes one of it."""
_HOST = r"localhost|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|[A-Za-z0-9-]+(?=:)|\[[0-9A-Fa-f:]+\]"
_REGISTRY_TARGET = re.compile(
    rf"(?:https?://)?(?P<host>(?:{_HOST})(?::[0-9]+)?)/?(?P<prefix>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleImage:
    """One image of a bundle for one platform."""

    name: str
    """Full reference it is known by, with a tag (see `local_name`)."""
    platform: str
    root: Descriptor
    """The entry of index.json: the index when it is carried whole, else the same as `descriptor`."""
    locked_digest: str
    """What the image was pinned by."""
    descriptor: Descriptor
    """Of the platform's manifest."""
    manifest: ImageManifest

    @property
    def image_id(self) -> str:
        """The config's digest: what podman and docker call the image ID."""
        return self.manifest.config.digest

    @property
    def size(self) -> int:
        """Bytes of all its blobs."""
        return sum(blob.size for blob in self.manifest.blobs) + self.descriptor.size


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedImage:
    """An image at its place, found there again under the expected digest."""

    name: str
    """What to run: reference at the place it was loaded to."""
    platform: str
    """Empty for an index pushed whole and for what is no image."""
    digest: str
    target: str
    warnings: tuple[Finding, ...] = ()


def load_images(
    layout: Path, target: str, *, platform: str | None = None, progress: Progress | None = None
) -> tuple[LoadedImage, ...]:
    """Bring the images of an OCI layout (`BUNDLE/payload/images`) to `target`.

    `target` is `podman`, `docker`, `containerd`, `containerd:NAMESPACE` (`k8s.io` for Kubernetes) or a
    registry: `https://HOST[:PORT][/PREFIX]`, without scheme the same, `http://` for one without TLS.
    Loading takes the images of `platform` (this machine's when left out); a registry gets all platforms,
    signatures and attestations.

    Raises UsageError (`unknown-image-target`), MachineError (`tool-missing`, `no-image-for-platform`,
    `image-tool-failed`) and IntegrityError (`image-digest-changed`, `oci-blob-digest`).
    """
    place = check_target(target)
    meter = progress or SilentProgress()
    if isinstance(place, Registry):
        return place.push_all(layout, meter)
    images = images_for(layout, platform or host_platform())
    meter.start(f"loading images into {target}", sum(image.size for image in images))
    try:
        return tuple(place.load(layout, image, meter) for image in images)
    finally:
        meter.finish()


def check_target(target: str) -> Engine | Registry:
    """The place that `target` names, its program at hand.

    Raises UsageError (`unknown-image-target`) and MachineError (`tool-missing`).
    """
    place = parse_target(target)
    require(place.program)
    return place


class Engine(Protocol):
    """Something on this machine that keeps images."""

    @property
    def program(self) -> str:
        """The program to call."""

    def load(self, layout: Path, image: BundleImage, progress: Progress) -> LoadedImage:
        """Bring one image there and compare what it has become."""


def parse_target(target: str) -> Engine | Registry:
    """The place that `target` names. Raises UsageError (`unknown-image-target`)."""
    if target == "podman":
        return Podman()
    if target == "docker":
        return Docker()
    if target == "containerd" or target.startswith("containerd:"):
        return Containerd(namespace=target.partition(":")[2] or "default")
    match = _REGISTRY_TARGET.fullmatch(target.rstrip("/"))
    if match is None:
        raise UsageError(
            "unknown-image-target",
            "there is no such place for images",
            expected="podman, docker, containerd[:NAMESPACE] or a registry (https://registry.example:5000/team)",
            found=repr(target)[:200],
        )
    return Registry(host=match["host"], prefix=match["prefix"] or "", plain_http=target.startswith("http://"))


def require(program: str) -> None:
    """Raises MachineError (`tool-missing`) with the command that installs `program`, when it is not there."""
    if shutil.which(program) is None:
        raise MachineError(
            "tool-missing",
            f"the program {program} is not installed",
            where=program,
            expected=f"{program} on PATH",
            found="no such program",
            hint=f"install the package {INSTALL[program]} from this site's own mirror, then run this again",
        )


def host_platform() -> str:
    """`linux/amd64` or `linux/arm64`: what this machine runs."""
    machine = host.machine().lower()
    return f"linux/{_ARCHITECTURES.get(machine, machine)}"


# --- what the layout holds ----------------------------------------------------------------------------


def images_for(layout: Path, platform: str) -> tuple[BundleImage, ...]:
    """The images of the layout for one platform, in the order of index.json.

    Raises MachineError (`no-image-for-platform`) when an image is not carried for it.
    """
    found: list[BundleImage] = []
    others: dict[str, set[str]] = {}
    for root in layout_roots(layout):
        if root.annotations.get(ROLE, "image") != "image":
            continue
        choices = _platform_manifests(layout, root)
        locked = root.annotations.get(ROOT_DIGEST, root.digest)
        others.setdefault(locked, set()).update(name for name, _ in choices)
        found += [_bundle_image(layout, root, *one) for one in choices if one[0] == platform]
    missing = others.keys() - {image.locked_digest for image in found}
    if missing:
        names = sorted({name for digest in missing for name in others[digest]})
        raise MachineError(
            "no-image-for-platform",
            "the bundle carries an image, but not for this platform",
            where=str(layout),
            expected=platform,
            found=", ".join(names),
            hint="ask for a bundle with this platform, or push to a registry, which takes all platforms",
        )
    return tuple(found)


def layout_roots(layout: Path) -> tuple[Descriptor, ...]:
    """The entries of the layout's index.json."""
    data = read_small(layout / "index.json", MANIFEST_LIMIT)
    index = parse_manifest(data, OCI_INDEX, where="index.json")
    assert isinstance(index, ImageIndex)
    return index.manifests


def _platform_manifests(layout: Path, root: Descriptor) -> list[tuple[str, Descriptor]]:
    """Platform and manifest for each that an entry of index.json leads to."""
    parsed = _parse_blob(layout, root)
    if isinstance(parsed, ImageManifest):
        return [(root.platform, root)]
    return [
        ("/".join(one.platform.split("/")[:2]), one)
        for one in parsed.manifests
        if one.platform and not one.platform.startswith("unknown")
    ]


def _bundle_image(layout: Path, root: Descriptor, platform: str, descriptor: Descriptor) -> BundleImage:
    manifest = _parse_blob(layout, descriptor)
    assert isinstance(manifest, ImageManifest)
    return BundleImage(
        name=local_name(root.annotations.get(REF_NAME, ""), root.digest),
        platform=platform,
        root=root,
        locked_digest=root.annotations.get(ROOT_DIGEST, root.digest),
        descriptor=descriptor,
        manifest=manifest,
    )


def local_name(name: str, digest: str) -> str:
    """`name` with a tag: engines want one, so an image locked by digest only gets its first 12 digits."""
    if not name:
        return f"localhost/image:{digest.partition(':')[2][:12]}"
    reference = ImageReference.parse(name)
    return f"{reference.name}:{reference.tag or (reference.digest or digest).partition(':')[2][:12]}"


def _parse_blob(layout: Path, descriptor: Descriptor) -> ImageIndex | ImageManifest:
    data = read_small(layout / "blobs" / "sha256" / descriptor.hex, MANIFEST_LIMIT)
    _compare_digest(descriptor, "sha256:" + hashlib.sha256(data).hexdigest())
    return parse_manifest(data, descriptor.media_type, where=descriptor.digest)


def _compare_digest(descriptor: Descriptor, found: str) -> None:
    if found != descriptor.digest:
        raise IntegrityError(
            "oci-blob-digest",
            "a blob of an image is not what its digest says",
            where=f"blobs/sha256/{descriptor.hex}",
            expected=descriptor.digest,
            found=found,
            hint="`sealift verify BUNDLE --policy POLICY` names everything that differs",
        )


# --- the tar that docker, containerd and podman all read -----------------------------------------------


def stream_layout_tar(
    layout: Path, image: BundleImage, out: BinaryIO, *, progress: Progress | None = None
) -> None:
    """Write one image as a tar to `out`: OCI layout and docker's manifest.json over the same blobs.

    docker before 25 reads manifest.json, containerd and podman index.json. The bytes depend on nothing but
    the image. Raises IntegrityError (`oci-blob-digest`) for a blob that has changed; `out` then holds a
    tar without end, which readers refuse.
    """
    meter = progress or SilentProgress()
    for name, data in _tar_documents(image).items():
        out.write(_header(name, len(data)) + data + _padding(len(data)))
    for folder in ("blobs", "blobs/sha256"):
        out.write(_header(folder, None))
    for blob in sorted((image.descriptor, *image.manifest.blobs), key=lambda one: one.digest):
        out.write(_header(f"blobs/sha256/{blob.hex}", blob.size))
        _write_blob(layout, blob, out, meter)
    out.write(bytes(2 * tarfile.BLOCKSIZE))


def _tar_documents(image: BundleImage) -> dict[str, bytes]:
    reference = ImageReference.parse(image.name)
    by_digest = f"{reference.name}@{image.descriptor.digest}"
    # Two entries for one manifest: Kubernetes asks containerd by tag or by digest.
    entries = [_index_entry(image, image.name), _index_entry(image, by_digest)]
    docker = {
        "Config": f"blobs/sha256/{image.manifest.config.hex}",
        "RepoTags": [image.name],
        "Layers": [f"blobs/sha256/{layer.hex}" for layer in image.manifest.layers],
    }
    return {
        "oci-layout": strict_json.dumps({"imageLayoutVersion": "1.0.0"}),
        "index.json": strict_json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}),
        "manifest.json": strict_json.dumps([docker]),
    }


def _index_entry(image: BundleImage, name: str) -> dict[str, Any]:
    system, architecture = image.platform.split("/")
    return {
        "mediaType": image.descriptor.media_type,
        "digest": image.descriptor.digest,
        "size": image.descriptor.size,
        "platform": {"os": system, "architecture": architecture},
        "annotations": {REF_NAME: name, CONTAINERD_NAME: name},
    }


def _header(name: str, size: int | None) -> bytes:
    """A member's header with nothing of this machine in it; that of a folder when `size` is None."""
    member = tarfile.TarInfo(name)
    member.mode = 0o755 if size is None else 0o644
    member.type = tarfile.DIRTYPE if size is None else tarfile.REGTYPE
    member.size = size or 0
    # GNU's form, because a layer may have more than the 8 GiB that ustar can say.
    return member.tobuf(tarfile.GNU_FORMAT)


def _padding(size: int) -> bytes:
    return bytes(-size % tarfile.BLOCKSIZE)


def _write_blob(layout: Path, blob: Descriptor, out: BinaryIO, progress: Progress) -> None:
    """A blob's bytes and padding, hashed on the way: never more than its size."""
    path, seen, left = layout / "blobs" / "sha256" / blob.hex, hashlib.sha256(), blob.size
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        while left and (piece := file.read(min(PIECE, left))):
            seen.update(piece)
            out.write(piece)
            progress.advance(len(piece))
            left -= len(piece)
    # A file that is too short has another digest, too.
    _compare_digest(blob, f"sha256:{seen.hexdigest()}")
    out.write(_padding(blob.size))


# --- the places ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Podman:
    """podman's own store, read straight from the layout: no copy of the image passes through /var/tmp."""

    program: str = "podman"
    options: tuple[str, ...] = ()
    """Global options such as `--root`."""

    def load(self, layout: Path, image: BundleImage, progress: Progress) -> LoadedImage:
        """Pull the image out of the layout and give it its name."""
        podman = [self.program, *self.options]
        with layout_view(layout, image.root) as view:
            _run([*podman, "pull", "--quiet", "--platform", image.platform, f"oci:{view}"])
            _run([*podman, "tag", image.image_id.partition(":")[2], image.name])
            self._drop_view_name(podman, image, view)
        progress.advance(image.size)
        facts = "{{.Id}} {{.Digest}} {{range .RepoDigests}}{{.}} {{end}}"
        image_id, *digests = _run([*podman, "image", "inspect", "--format", facts, image.name]).split()
        _same(image.name, image.image_id, f"sha256:{image_id}", "image ID")
        # One image ID may be there with several manifests, from an earlier load: ours must be among them.
        known = {digest.rpartition("@")[2] for digest in digests}
        if image.root.digest not in known:
            _same(image.name, image.root.digest, ", ".join(sorted(known)), "manifest digest")
        return LoadedImage(
            name=image.name, platform=image.platform, digest=image.root.digest, target="podman"
        )

    def _drop_view_name(self, podman: list[str], image: BundleImage, view: Path) -> None:
        """podman names what it pulls after the folder: `localhost/tmp/...:latest`."""
        names = _run(
            [*podman, "image", "inspect", "--format", "{{range .RepoTags}}{{.}} {{end}}", image.name]
        )
        for name in names.split():
            if view.name in name:
                _run([*podman, "untag", image.image_id.partition(":")[2], name])


@dataclass(frozen=True, slots=True, kw_only=True)
class Docker:
    """A docker engine, classic or with containerd's image store."""

    program: str = "docker"

    def load(self, layout: Path, image: BundleImage, progress: Progress) -> LoadedImage:
        """Stream the image into `docker load`."""
        version = _run([self.program, "version", "--format", "{{.Server.Version}}"]).strip()
        warnings = zstd_warnings(image, version)
        _pipe([self.program, "load", "--quiet"], _writer(layout, image, progress))
        found = _run([self.program, "image", "inspect", "--format", "{{.Id}}", image.name]).strip()
        # The classic store calls an image by its config, containerd's store by its manifest.
        if found != image.descriptor.digest:
            _same(image.name, image.image_id, found, "image ID")
        return LoadedImage(
            name=image.name, platform=image.platform, digest=found, target="docker", warnings=warnings
        )


def zstd_warnings(image: BundleImage, version: str) -> tuple[Finding, ...]:
    """A warning when docker `version` (`20.10.24+dfsg1`) is too old for the image's zstd layers."""
    major = version.partition(".")[0]
    zstd = any(layer.media_type.endswith("zstd") for layer in image.manifest.layers)
    if not zstd or not major.isdigit() or int(major) >= ZSTD_DOCKER:
        return ()
    return (
        Finding(
            "docker-zstd",
            "this docker engine cannot read layers compressed with zstd",
            where=image.name,
            expected=f"docker {ZSTD_DOCKER} or later",
            found=f"docker {version}",
            hint="use podman or containerd, or update docker",
            severity="warning",
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Containerd:
    """containerd through its own `ctr`; `namespace` is `k8s.io` for what Kubernetes should see."""

    program: str = "ctr"
    namespace: str = "default"
    options: tuple[str, ...] = ()
    """Global options such as `--address`."""

    def load(self, layout: Path, image: BundleImage, progress: Progress) -> LoadedImage:
        """Stream the image into `ctr images import`."""
        ctr = [self.program, *self.options, "--namespace", self.namespace]
        _pipe([*ctr, "images", "import", "-"], _writer(layout, image, progress))
        rows = _run([*ctr, "images", "list", f"name=={image.name}"]).splitlines()[1:]
        # REF TYPE DIGEST SIZE PLATFORMS LABELS
        found = rows[0].split()[2] if rows else "no image of that name"
        _same(image.name, image.descriptor.digest, found, "manifest digest")
        return LoadedImage(name=image.name, platform=image.platform, digest=found, target="containerd")


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """A registry of the perimeter, filled by skopeo with the credentials of `skopeo login`."""

    host: str
    prefix: str = ""
    plain_http: bool = False
    program: str = "skopeo"

    def push_all(self, layout: Path, progress: Progress) -> tuple[LoadedImage, ...]:
        """Push every entry of the layout, all platforms and signatures, each with its digest kept."""
        roots = [root for root in layout_roots(layout) if REF_NAME in root.annotations]
        return tuple(self._push(layout, root, progress) for root in _images_first(roots))

    def _push(self, layout: Path, root: Descriptor, progress: Progress) -> LoadedImage:
        name = self.name_of(root)
        # skopeo does not tell how far it is: no bar, which would count images as bytes.
        progress.note(f"pushing {name}")
        verify = f"--dest-tls-verify={'false' if self.plain_http else 'true'}"
        copy = [self.program, "copy", "--quiet", "--all", "--preserve-digests", verify]
        with layout_view(layout, root) as view:
            _run([*copy, f"oci:{view}", f"docker://{name}"], login=self.host)
        _same(name, root.digest, self._remote_digest(name), "manifest digest")
        return LoadedImage(name=name, platform=root.platform, digest=root.digest, target=self.host)

    def name_of(self, root: Descriptor) -> str:
        """The reference at this registry: own host and prefix in place of the upstream registry."""
        reference = ImageReference.parse(root.annotations[REF_NAME])
        path = "/".join(part for part in (self.host, self.prefix, reference.repository) if part)
        return f"{path}:{reference.tag}" if reference.tag else f"{path}@{root.digest}"

    def _remote_digest(self, name: str) -> str:
        verify = f"--tls-verify={'false' if self.plain_http else 'true'}"
        data = _run_bytes([self.program, "inspect", "--raw", verify, f"docker://{name}"], login=self.host)
        return "sha256:" + hashlib.sha256(data).hexdigest()


def _images_first(roots: Sequence[Descriptor]) -> list[Descriptor]:
    """Images before what refers to them: a registry may want to know the subject."""
    return sorted(roots, key=lambda root: root.annotations.get(ROLE) == "referrer")


def _same(name: str, expected: str, found: str, what: str) -> None:
    if found != expected:
        raise IntegrityError(
            "image-digest-changed",
            f"an image does not have its {what} after loading",
            where=name,
            expected=expected,
            found=found[:200],
            hint="do not run it: remove it, and load it again with another tool or a newer version",
        )


# --- views and programs -------------------------------------------------------------------------------


@contextmanager
def layout_view(layout: Path, root: Descriptor) -> Iterator[Path]:
    """A folder that shows one image of the layout, as an OCI layout of its own: two small files and a link.

    Tools then need no image name: older ones find only OCI media types by name (docker's are skipped), and
    podman refuses folders with capital letters.
    """
    entry = {"mediaType": root.media_type, "digest": root.digest, "size": root.size}
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}
    with private_folder("sealift-", below=_lower_case_folder()) as view:
        (view / "oci-layout").write_bytes(strict_json.dumps({"imageLayoutVersion": "1.0.0"}))
        (view / "index.json").write_bytes(strict_json.dumps(index))
        (view / "blobs").symlink_to((layout / "blobs").resolve(), target_is_directory=True)
        yield view


def _lower_case_folder() -> Path | None:
    for folder in (tempfile.gettempdir(), "/tmp", "/var/tmp"):  # noqa: S108 - only private folders in it
        if _NAME_PATH.fullmatch(folder) and os.access(folder, os.W_OK):
            return Path(folder)
    return None


def _writer(layout: Path, image: BundleImage, progress: Progress) -> Callable[[BinaryIO], None]:
    def write(out: BinaryIO) -> None:
        progress.item(image.name)
        stream_layout_tar(layout, image, out, progress=progress)

    return write


def _run(command: Sequence[str], *, login: str = "") -> str:
    return _run_bytes(command, login=login).decode("utf-8", "replace")


def _run_bytes(command: Sequence[str], *, login: str = "") -> bytes:
    """Standard output of a program that succeeded. Raises MachineError (`image-tool-failed`)."""
    done = subprocess.run(
        command, capture_output=True, stdin=subprocess.DEVNULL, check=False, env=_environment()
    )
    if done.returncode != 0:
        raise _failed(command, done.returncode, done.stderr, login)
    return done.stdout


def _environment() -> dict[str, str]:
    """What podman, docker, ctr and skopeo see of our environment: no passphrase, no token."""
    return child_environment(os.environ, *CONTAINERS)


def _pipe(command: Sequence[str], write: Callable[[BinaryIO], None]) -> None:
    """Run a program that reads what `write` writes; it is ended when writing fails."""
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=said, stderr=said, env=_environment()
        ) as process,
    ):
        _feed(process, write)
        code = process.wait()
        said.seek(0)
        text = said.read()
    if code != 0:
        raise _failed(command, code, text, "")


def _feed(process: subprocess.Popen[bytes], write: Callable[[BinaryIO], None]) -> None:
    """Write and close; a program that no longer reads says why by its exit code."""
    stdin = process.stdin
    assert stdin is not None
    try:
        with contextlib.suppress(BrokenPipeError):
            write(cast(BinaryIO, stdin))
    except BaseException:
        process.kill()
        raise
    finally:
        with contextlib.suppress(BrokenPipeError):
            stdin.close()


def _failed(command: Sequence[str], code: int, said: bytes, login: str) -> SealiftError:
    text = " ".join(said.decode("utf-8", "replace").split())
    what = (
        f"is {login} up (`skopeo login {login}` if it wants a login)" if login else "is its service running"
    )
    return MachineError(
        "image-tool-failed",
        f"{command[0]} could not take an image",
        where=" ".join(command)[:300],
        expected="exit code 0",
        found=f"exit code {code}: {text[-400:]}",
        hint=f"{what}, and may this user use it? then run the same `sealift install` again",
    )
