"""The two small documents that make the image blobs of a bundle one OCI layout.

https://github.com/opencontainers/image-spec/blob/v1.1.0/image-layout.md
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from bundler.content.oci import (
    CONTAINERD_NAME,
    OCI_INDEX,
    REF_NAME,
    ROLE,
    ROOT_DIGEST,
    SUBJECT,
)
from bundler.core import layout, strict_json
from bundler.core.specs.image_reference import ImageReference
from bundler.core.specs.lock import LockedImage, LockedPlatform, LockedReferrer
from bundler.errors import MalformedError


def layout_documents(images: Sequence[LockedImage]) -> dict[str, bytes]:
    """`payload/images/oci-layout` and `payload/images/index.json` for the locked images, by bundle path.

    An image carried whole is one entry under its own name, its index untouched. Of an index that lists
    more, each carried platform is an entry of its own, because `skopeo --all` and `podman` would stumble
    over what is missing; its name is the image's when it is the only one, else the tag gets `-amd64` or
    `-arm64`. Signatures and attestations follow. Order is that of names and digests, so the bytes depend
    on nothing but the lock. Raises MalformedError (`image-name-conflict`).
    """
    entries: dict[tuple[str, str], dict[str, Any]] = {}
    for image in images:
        for entry in (*_image_entries(image), *_referrer_entries(image)):
            entries[entry["annotations"].get(REF_NAME, ""), entry["digest"]] = entry
    _refuse_conflicts(name for name, _ in entries)
    index = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [entries[key] for key in sorted(entries)],
    }
    return {
        f"{layout.IMAGES}/oci-layout": strict_json.dumps({"imageLayoutVersion": "1.0.0"}),
        f"{layout.IMAGES}/index.json": strict_json.dumps(index),
    }


def _image_entries(image: LockedImage) -> Iterator[dict[str, Any]]:
    reference = ImageReference.parse(image.reference)
    annotations = {ROLE: "image", ROOT_DIGEST: image.digest}
    if image.complete:
        only = image.platforms[0] if image.platforms[0].digest == image.digest else None
        name = _name(reference, image.digest)
        yield _entry(image, {**annotations, **_names(name)}, platform=only.platform if only else None)
        return
    for platform in image.platforms:
        name = _platform_name(reference, platform, alone=len(image.platforms) == 1)
        yield _entry(platform, {**annotations, **_names(name)}, platform=platform.platform)


def _name(reference: ImageReference, digest: str) -> str:
    """Registry, repository and tag; the digest in place of a tag that was not asked for."""
    return f"{reference.name}:{reference.tag}" if reference.tag else f"{reference.name}@{digest}"


def _platform_name(reference: ImageReference, platform: LockedPlatform, *, alone: bool) -> str:
    name = _name(reference, platform.digest)
    return name if alone or not reference.tag else f"{name}-{platform.platform.split('/')[1]}"


def _names(name: str) -> dict[str, str]:
    return {REF_NAME: name, CONTAINERD_NAME: name}


def _referrer_entries(image: LockedImage) -> Iterator[dict[str, Any]]:
    """Signatures, attestations, SBOMs: under their tag's name when they have a tag, else without a name."""
    repository = ImageReference.parse(image.reference).name
    for referrer in image.referrers:
        annotations = {ROLE: "referrer", ROOT_DIGEST: image.digest, SUBJECT: referrer.subject}
        # Without a tag the name is the digest itself: the far side can be told where it belongs.
        name = f"{repository}:{referrer.tag}" if referrer.tag else f"{repository}@{referrer.digest}"
        entry = _entry(referrer, {**annotations, REF_NAME: name})
        if referrer.artifact_type:
            entry["artifactType"] = referrer.artifact_type
        yield entry


def _entry(
    one: LockedImage | LockedPlatform | LockedReferrer,
    annotations: dict[str, str],
    *,
    platform: str | None = None,
) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "mediaType": one.media_type,
        "digest": one.digest,
        "size": one.size,
        "annotations": annotations,
    }
    if platform:
        system, architecture = platform.split("/")
        entry["platform"] = {"os": system, "architecture": architecture}
    return entry


def _refuse_conflicts(names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise MalformedError(
                "image-name-conflict",
                "one image name would stand for two different images",
                where=name,
                expected="every reference once",
                found="two digests under this name",
                hint="list the image once in the spec, with all platforms wanted of it",
            )
        seen.add(name)
