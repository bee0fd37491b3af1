"""OCI images: what manifests say, and whether a layout on disk is whole (image-spec 1.1).

Standard library only. https://github.com/opencontainers/image-spec/blob/v1.1.0/ (manifest, image-index,
image-layout, descriptor); docker's forms: distribution/spec/manifest-v2-2.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bundler.content.published_json import ANSWER_KEYS, parse_published_json
from bundler.core import strict_json
from bundler.core.specs.image_reference import is_oci_digest
from bundler.errors import ExitCode, Finding, IntegrityError, MalformedError, PolicyError, SealiftError
from bundler.storage import bounded_read

MANIFEST_LIMIT = 4 << 20
"""Bytes of a manifest or index: what registries must accept (distribution-spec 1.1, "Pushing Manifests")."""
CONFIG_LIMIT = 8 << 20
"""Bytes of an image config that are read; containers/image stops at 4 MiB."""

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
INDEX_TYPES = frozenset({OCI_INDEX, DOCKER_LIST})
MANIFEST_TYPES = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
CONFIG_TYPES = frozenset({OCI_CONFIG, DOCKER_CONFIG})
LAYER_TYPES = frozenset(
    {
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
    }
)
MEDIA_TYPE_LETTERS = 255
"""RFC 6838 section 4.2: 127 on either side of the slash."""
FOREIGN_MARKS = (".nondistributable.", ".foreign.")
REFERENCE_TYPE = "vnd.docker.reference.type"
REFERENCE_DIGEST = "vnd.docker.reference.digest"
"""How BuildKit marks an attestation manifest inside an index, and whose it is."""
REF_NAME = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"
ROLE = "urn:sealift:image:role"
"""`image` or `referrer`: what an entry of a bundle's index.json is."""
ROOT_DIGEST = "urn:sealift:image:digest"
"""The digest the image was locked by: that of its index, or of its only manifest."""
SUBJECT = "urn:sealift:image:subject"
"""The digest a referrer is about."""


@dataclass(frozen=True)
class Descriptor:
    """A reference to bytes: what they are, their digest, their size, and for which platform."""

    media_type: str
    digest: str
    size: int
    platform: str = ""
    """`linux/amd64`, with the variant as a third part when there is one; empty when not said."""
    artifact_type: str = ""
    annotations: dict[str, str] = field(default_factory=dict)

    @property
    def hex(self) -> str:
        """The digest's value: the file name below `blobs/sha256/`."""
        return self.digest.partition(":")[2]

    @property
    def is_companion(self) -> bool:
        """Whether it is said to be a signature, attestation or SBOM of an image."""
        return self.annotations.get(ROLE) == "referrer" or REFERENCE_TYPE in self.annotations

    @property
    def is_foreign(self) -> bool:
        """Whether it is a layer that its registry does not hand out (non-distributable)."""
        return any(mark in self.media_type for mark in FOREIGN_MARKS)


@dataclass(frozen=True)
class ImageIndex:
    """An OCI image index or docker manifest list."""

    media_type: str
    manifests: tuple[Descriptor, ...]
    subject: Descriptor | None = None


@dataclass(frozen=True)
class ImageManifest:
    """An OCI image manifest or docker v2 schema 2 manifest; also every artifact in that form."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    artifact_type: str = ""
    subject: Descriptor | None = None

    @property
    def is_image(self) -> bool:
        """Whether it is a container image, not another artifact in the same form."""
        return self.config.media_type in CONFIG_TYPES and not self.artifact_type

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Config and layers, each digest once, in the manifest's order."""
        return tuple({one.digest: one for one in (self.config, *self.layers)}.values())


@dataclass(frozen=True)
class ImageConfig:
    """What the image's config says that matters here."""

    platform: str
    diff_ids: tuple[str, ...]


def parse_manifest(data: bytes, media_type: str, *, where: str) -> ImageIndex | ImageManifest:
    """The manifest or index that `data` says it is, given the media type it was announced with.

    Raises MalformedError (`unsupported-manifest`, `ambiguous-manifest`, `bad-manifest-blob`, or those of
    published JSON) and PolicyError (`foreign-layer`).
    """
    value = parse_published_json(data, limit=MANIFEST_LIMIT, where=where, decisive=ANSWER_KEYS).require()
    if not isinstance(value, dict) or value.get("schemaVersion") != 2 or not _is_known(media_type):
        raise _unsupported(media_type, value, where)
    # Go writes absent members as `null`: they are absent.
    value = {name: member for name, member in value.items() if member is not None or name in _LISTS}
    declared = value.get("mediaType", media_type)
    # One reading for every reader: a document that is index and manifest at once, or announced as one
    # and declared as the other, is refused (CVE-2021-41190, GHSA-77vh-xpmg-72qh).
    wrong_member = "layers" if media_type in INDEX_TYPES else "manifests"
    both = value.get(wrong_member) is not None
    if declared != media_type or both:
        raise _ambiguous(media_type, declared, both, where)
    if media_type in INDEX_TYPES:
        return _parse_index(value, media_type, where)
    return _parse_image(value, media_type, where)


_LISTS = ("manifests", "layers")
"""Members that must be there; `null` is an empty list."""


def _is_known(media_type: str) -> bool:
    return media_type in INDEX_TYPES or media_type in MANIFEST_TYPES


def _parse_index(value: dict[str, Any], media_type: str, where: str) -> ImageIndex:
    manifests = _descriptors(value, where, "manifests")
    return ImageIndex(media_type, manifests, _subject(value, where))


def _parse_image(value: dict[str, Any], media_type: str, where: str) -> ImageManifest:
    layers = _descriptors(value, where, "layers")
    for layer in layers:
        if layer.is_foreign:
            raise _foreign(layer, where)
    artifact_type = _artifact_type(value, where, "artifactType")
    config = parse_descriptor(value.get("config"), where=where, member="config")
    return ImageManifest(media_type, config, layers, artifact_type, _subject(value, where))


def _subject(value: dict[str, Any], where: str) -> Descriptor | None:
    if value.get("subject") is None:
        return None
    return parse_descriptor(value["subject"], where=where, member="subject")


def _descriptors(document: dict[str, Any], where: str, member: str) -> tuple[Descriptor, ...]:
    """The descriptors listed under `member`, which must be there."""
    listed = document.get(member)
    if listed is None and member in document:
        return ()
    if not isinstance(listed, list):
        raise _bad(where, member, "a list of descriptors", listed)
    return tuple(
        parse_descriptor(item, where=where, member=f"{member}[{position}]")
        for position, item in enumerate(listed)
    )


def parse_descriptor(value: object, *, where: str, member: str) -> Descriptor:
    """The descriptor that `value` says. Raises MalformedError (`bad-manifest-blob`)."""
    if not isinstance(value, dict):
        raise _bad(where, member, "a descriptor", value)
    media_type, digest, size = value.get("mediaType"), value.get("digest"), value.get("size")
    if not isinstance(media_type, str) or not 0 < len(media_type) <= MEDIA_TYPE_LETTERS:
        raise _bad(where, f"{member}.mediaType", "a media type", media_type)
    # A digest becomes a path and a URL: `sha256:../../x` must never get that far.
    if not is_oci_digest(digest):
        raise _bad(where, f"{member}.digest", "sha256:<64 lower-case hex>", digest)
    if type(size) is not int or size < 0:
        raise _bad(where, f"{member}.size", "bytes, an integer >= 0", size)
    annotations = value.get("annotations") or {}
    if isinstance(annotations, dict):
        annotations = {name: text for name, text in annotations.items() if text is not None}
    if not isinstance(annotations, dict) or not all(isinstance(item, str) for item in annotations.values()):
        raise _bad(where, f"{member}.annotations", "names with text values", annotations)
    return Descriptor(
        media_type=media_type,
        digest=str(digest),
        size=size,
        platform=_platform(value.get("platform"), where, f"{member}.platform"),
        artifact_type=_artifact_type(value, where, f"{member}.artifactType"),
        annotations=annotations,
    )


def _artifact_type(value: dict[str, Any], where: str, member: str) -> str:
    found = value.get("artifactType") or ""
    if not isinstance(found, str) or len(found) > MEDIA_TYPE_LETTERS:
        raise _bad(where, member, "a media type", found)
    return found


def _platform(value: object, where: str, member: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, dict):
        raise _bad(where, member, "an object with os and architecture", value)
    parts = [value.get("os"), value.get("architecture"), value.get("variant") or ""]
    if not all(isinstance(part, str) for part in parts):
        raise _bad(where, member, "an object with os and architecture", value)
    return "/".join(part for part in parts if part)


def parse_config(data: bytes, *, where: str) -> ImageConfig:
    """What an image config says. Raises MalformedError (`bad-image-config`)."""
    value = parse_published_json(data, limit=CONFIG_LIMIT, where=where, decisive=ANSWER_KEYS).require()
    rootfs = value.get("rootfs") if isinstance(value, dict) else None
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if isinstance(rootfs, dict) and diff_ids is None and "diff_ids" in rootfs:
        diff_ids = []  # an image without layers, as Go writes it
    if not isinstance(diff_ids, list) or not all(is_oci_digest(item) for item in diff_ids):
        raise _bad_config(where, "rootfs.diff_ids: a list of sha256 digests", diff_ids)
    system, architecture = value.get("os"), value.get("architecture")
    if not (isinstance(system, str) and system and isinstance(architecture, str) and architecture):
        raise _bad_config(where, "os and architecture", (system, architecture))
    return ImageConfig(f"{system}/{architecture}", tuple(diff_ids))


def image_findings(image: ImageManifest, config: ImageConfig, *, where: str) -> list[Finding]:
    """Why no loader would take this image, from its manifest and config alone; empty when one does.

    The references are `oci-media-type` for layers of a type that podman, docker and containerd do not read
    (encrypted, EROFS, unknown), and `oci-config-layers`.
    """
    findings = layer_findings(image, where=where)
    if len(config.diff_ids) != len(image.layers):
        findings.append(
            _finding(
                "oci-config-layers",
                "an image's config and manifest disagree about layers",
                where,
                f"{len(image.layers)} diff_ids",
                f"{len(config.diff_ids)} diff_ids",
                hint="distrust this image: ask whoever publishes it",
            )
        )
    return findings


def layer_findings(image: ImageManifest, *, where: str) -> list[Finding]:
    """A finding (`oci-media-type`) for each layer of a type that no loader reads."""
    return [
        _finding(
            "oci-media-type",
            "a layer has a media type that no container engine loads",
            f"{where}: {layer.digest}",
            "tar, tar+gzip or tar+zstd of OCI or docker",
            layer.media_type[:200],
            hint="choose another tag of this image, one with plain layers",
        )
        for layer in image.layers
        if layer.media_type not in LAYER_TYPES
    ]


def check_layout(folder: Path) -> list[Finding]:
    """Every fault of the OCI layout in `folder`; empty when it is whole.

    Whole means: `oci-layout` and `index.json` are valid, every descriptor reachable from the index has
    its blob with exactly that size, manifests and configs hash to their digests, media types are known,
    image configs fit their layers, nothing else is there, and nothing is a link. Layer bytes are *not*
    hashed here: the manifest of the bundle covers them.
    """
    if not _is_folder(folder):
        return [_finding("missing-file", "there is no image layout", str(folder), "a folder", "none")]
    tree, findings = _walk(folder)
    if findings:
        return findings
    return _LayoutCheck(folder, tree).run()


def _walk(folder: Path) -> tuple[dict[str, int], list[Finding]]:
    """The regular files below `folder` by relative path with their sizes; what is no file or directory."""
    files: dict[str, int] = {}
    findings: list[Finding] = []
    waiting = [""]
    while waiting:
        below = waiting.pop()
        for entry in sorted(_entries(folder / below), key=lambda one: one.name):
            path = f"{below}{entry.name}"
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                waiting.append(path + "/")
            elif stat.S_ISREG(mode):
                files[path] = entry.stat(follow_symlinks=False).st_size
            else:
                findings.append(_finding("special-file", "a link or special file is in the layout", path))
    return files, findings


def _is_folder(path: Path) -> bool:
    """Whether it is a folder itself, not a link to one."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return list(entries)


@dataclass
class _LayoutCheck:
    """One walk through the graph of a layout; collects findings as it goes."""

    folder: Path
    tree: dict[str, int]
    findings: list[Finding] = field(default_factory=list)
    seen: dict[tuple[str, str], int] = field(default_factory=dict)

    def run(self) -> list[Finding]:
        """All findings."""
        self._check_version()
        waiting = [(one, "index.json") for one in self._roots()]
        while waiting:
            descriptor, parent = waiting.pop()
            if self._is_new(descriptor, parent):
                waiting.extend((child, descriptor.digest) for child in self._children(descriptor, parent))
        self._check_extra()
        return self.findings

    def _check_version(self) -> None:
        expected = '{"imageLayoutVersion":"1.0.0"}'
        try:
            value = strict_json.loads(self._read("oci-layout", 4096), limit=4096, where="oci-layout")
        except SealiftError as error:
            self.findings.extend(error.findings)
            return
        if not isinstance(value, dict) or value.get("imageLayoutVersion") != "1.0.0":
            self._add("oci-layout-version", "the layout's version is unknown", "oci-layout", expected, value)

    def _roots(self) -> tuple[Descriptor, ...]:
        try:
            data = self._read("index.json", MANIFEST_LIMIT)
            index = parse_manifest(data, OCI_INDEX, where="index.json")
        except SealiftError as error:
            self.findings.extend(error.findings)
            return ()
        assert isinstance(index, ImageIndex)
        for root in index.manifests:
            if not _is_known(root.media_type):
                self._add(
                    "oci-media-type",
                    "index.json lists something that is no manifest",
                    root.digest,
                    "an image manifest or index",
                    root.media_type,
                )
        return tuple(root for root in index.manifests if _is_known(root.media_type))

    def _is_new(self, descriptor: Descriptor, parent: str) -> bool:
        """Whether it must be looked at: seen before under the same type means no, once its size agrees."""
        path = _blob_path(descriptor)
        size = self.tree.get(path)
        if size is None:
            self._add("oci-blob-missing", "a blob is missing", path, f"listed by {parent}", "nothing")
        elif size != descriptor.size:
            self._add(
                "oci-blob-size",
                "a blob has the wrong size",
                path,
                f"{descriptor.size} bytes, as {parent} says",
                f"{size} bytes",
            )
        key = (descriptor.digest, descriptor.media_type)
        first_time = key not in self.seen
        self.seen[key] = descriptor.size
        return first_time and size == descriptor.size

    def _children(self, descriptor: Descriptor, parent: str) -> list[Descriptor]:
        """What the blob refers to; nothing for a blob that is no manifest, or is a faulty one."""
        if not _is_known(descriptor.media_type):
            return []
        try:
            parsed = parse_manifest(
                self._verified(descriptor, MANIFEST_LIMIT), descriptor.media_type, where=descriptor.digest
            )
            if isinstance(parsed, ImageIndex):
                return list(parsed.manifests)
            # cosign and BuildKit give signatures and attestations an image's config, but no layers of one.
            if parsed.is_image and not descriptor.is_companion:
                self._check_image(parsed, descriptor.digest)
            return list(parsed.blobs)
        except SealiftError as error:
            self.findings.extend(error.findings)
            return []

    def _check_image(self, image: ImageManifest, where: str) -> None:
        if self.tree.get(_blob_path(image.config)) != image.config.size:
            self.findings.extend(layer_findings(image, where=where))
            return  # told by _is_new when the config's turn comes
        config = parse_config(self._verified(image.config, CONFIG_LIMIT), where=image.config.digest)
        self.findings.extend(image_findings(image, config, where=where))

    def _check_extra(self) -> None:
        wanted = {"oci-layout", "index.json"} | {f"blobs/sha256/{d.partition(':')[2]}" for d, _ in self.seen}
        for path in sorted(self.tree.keys() - wanted):
            reference, what = "oci-extra-file", "a file is in the layout that does not belong there"
            if path.startswith("blobs/"):
                reference, what = "oci-blob-unreferenced", "a blob belongs to no image of the layout"
            self._add(reference, what, path, "only what index.json leads to", f"{self.tree[path]} bytes")

    def _verified(self, descriptor: Descriptor, limit: int) -> bytes:
        data = self._read(_blob_path(descriptor), limit)
        found = "sha256:" + hashlib.sha256(data).hexdigest()
        if found != descriptor.digest:
            raise IntegrityError(
                "oci-blob-digest",
                "a manifest or config does not hash to its digest",
                where=_blob_path(descriptor),
                expected=descriptor.digest,
                found=found,
            )
        return data

    def _read(self, path: str, limit: int) -> bytes:
        if path not in self.tree:
            raise IntegrityError(
                "missing-file",
                "a file of the layout is missing",
                where=path,
                expected="a regular file",
                found="nothing",
            )
        return read_small(self.folder / path, limit)

    def _add(self, reference: str, what: str, where: str, expected: str, found: object) -> None:
        self.findings.append(_finding(reference, what, where, expected, str(found)[:200]))


def _blob_path(descriptor: Descriptor) -> str:
    return f"blobs/sha256/{descriptor.hex}"


def read_small(path: Path, limit: int) -> bytes:
    """All bytes of a small file, opened without following a link at its end.

    Raises MalformedError (`too-large`) when it has more than `limit` bytes.
    """
    return bounded_read.read_small(path, limit=limit, where=str(path))


_EXIT_CODES = {
    "oci-media-type": ExitCode.MALFORMED,
    "oci-layout-version": ExitCode.MALFORMED,
    "oci-config-layers": ExitCode.MALFORMED,
}


def _finding(
    reference: str,
    what: str,
    where: str,
    expected: str = "a regular file or a directory",
    found: str = "a link or special file",
    hint: str = "build the images again: `sealift build` fetches what is missing",
) -> Finding:
    code = _EXIT_CODES.get(reference, ExitCode.INTEGRITY)
    return Finding(reference, what, where, expected, found, hint, exit_code=code)


def _unsupported(media_type: str, value: object, where: str) -> MalformedError:
    version = value.get("schemaVersion") if isinstance(value, dict) else type(value).__name__
    return MalformedError(
        "unsupported-manifest",
        "this is no image manifest or index that can be carried",
        where=where,
        expected="schemaVersion 2 as one of " + ", ".join(sorted(INDEX_TYPES | MANIFEST_TYPES)),
        found=f"{media_type!r}, schemaVersion {version!r}"[:200],
        hint="push the image again with a current tool: schema 1 and unknown types cannot be pinned",
    )


def _ambiguous(media_type: str, declared: object, wrong_member: bool, where: str) -> MalformedError:
    found = "both manifests and layers" if wrong_member else f"mediaType {declared!r}"
    return MalformedError(
        "ambiguous-manifest",
        "a manifest can be read as two different things",
        where=where,
        expected=media_type,
        found=found[:200],
        hint="distrust this image: tools would disagree about what it holds",
    )


def _foreign(layer: Descriptor, where: str) -> PolicyError:
    return PolicyError(
        "foreign-layer",
        "a layer is non-distributable: its publisher does not allow it to be carried",
        where=f"{where}: {layer.digest}",
        expected="layers the registry hands out",
        found=layer.media_type,
        hint="use an image without non-distributable (usually Windows or vendor base) layers",
    )


def _bad(where: str, member: str, expected: str, found: object) -> MalformedError:
    return MalformedError(
        "bad-manifest-blob",
        "an image manifest is not valid",
        where=f"{where}: {member}",
        expected=expected,
        found=repr(found)[:200],
    )


def _bad_config(where: str, expected: str, found: object) -> MalformedError:
    return MalformedError(
        "bad-image-config",
        "an image config is not valid",
        where=where,
        expected=expected,
        found=repr(found)[:200],
    )
