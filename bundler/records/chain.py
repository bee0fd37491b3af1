"""The chain of one file: upstream and its signature -> lock -> manifest -> chunks -> attestations.

What is compared here are records with records. Whether the bytes on disk agree is `sealift verify`'s to say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bundler.core import layout
from bundler.core.artifacts import artifacts_of
from bundler.core.chunks import FileChunks
from bundler.core.manifest import FileEntry, Manifest
from bundler.errors import UsageError


@dataclass(frozen=True)
class Link:
    """One step of the chain. `agrees` is None where this step has nothing to compare."""

    step: str
    says: str
    agrees: bool | None = None


def find_entry(manifest: Manifest, name: str) -> FileEntry:
    """The listed file called `name`: its whole path, or the end of exactly one. Raises UsageError."""
    exact = [entry for entry in manifest.files if entry.path == name]
    ending = exact or [entry for entry in manifest.files if entry.path.endswith("/" + name.lstrip("/"))]
    if len(ending) == 1:
        return ending[0]
    raise UsageError(
        "no-such-file" if not ending else "ambiguous-file",
        "the manifest lists no such file" if not ending else "several listed files end like this",
        where=name,
        found=", ".join(entry.path for entry in ending[:5]),
        hint="`sealift inspect BUNDLE --files` lists all paths",
    )


def chain(
    manifest: Manifest,
    entry: FileEntry,
    *,
    lock: Mapping[str, Any],
    lock_sha256: str,
    chunks: FileChunks | None,
    subjects: Mapping[str, Sequence[str]],
) -> list[Link]:
    """All links from upstream to the attestations.

    `subjects` maps an attestation's file name to the SHA-256 digests its statement is about.
    """
    links = [*_upstream(lock, entry), *_signature(manifest, lock, entry)]
    links.append(Link("lock", f"sha256:{lock_sha256}", agrees=manifest.members.get("lock") == lock_sha256))
    links.append(Link("manifest entry", f"sha256:{entry.sha256}, {entry.size} bytes"))
    if chunks is not None:
        links.append(Link("chunk digests", f"{len(chunks)} of {chunks.chunk_size} bytes each"))
    links.append(Link("manifest", f"sha256:{manifest.sha256}"))
    for name, digests in sorted(subjects.items()):
        links.append(Link("attestation", name, agrees=manifest.sha256 in digests or None))
    return links


def _upstream(lock: Mapping[str, Any], entry: FileEntry) -> list[Link]:
    for model in lock.get("models", []):
        root = layout.snapshot_folder(model["repo"], model["commit"])
        if layout.is_below(entry.path, root):
            return _model_links(model, entry, entry.path[len(root) + 1 :])
    for engine in [*lock.get("engines", []), *lock.get("tools", [])]:
        for wheel in engine["wheels"]:
            if entry.path.rsplit("/", 1)[-1] == wheel["filename"]:
                what = f"{wheel['name']} {wheel['version']} from index {wheel.get('index', 'default')}"
                return [Link("upstream", what), _digest("upstream sha256", wheel["sha256"], entry)]
    for item in lock.get("files", []):
        if item["path"] == entry.path:
            return [
                Link("upstream", item.get("url") or item.get("source", "")),
                _digest("pinned sha256", item["sha256"], entry),
            ]
    if layout.is_below(entry.path, layout.IMAGE_BLOBS):
        return [_digest("OCI digest", entry.path.rsplit("/", 1)[-1], entry)]
    if layout.is_below(entry.path, layout.EVIDENCE):
        return _evidence_links(lock, entry)
    return [Link("upstream", "none: made by the builder")]


def _model_links(model: Mapping[str, Any], entry: FileEntry, path: str) -> list[Link]:
    links = [Link("upstream", f"{model['repo']} at {model['revision']}, commit {model['commit']}")]
    for item in model["files"]:
        if item["path"] == path and "lfsSha256" in item:
            links.append(_digest("upstream LFS sha256", item["lfsSha256"], entry))
        elif item["path"] == path:
            links.append(
                Link("upstream git blob", f"sha1:{item['gitBlobSha1']}, compared when it was fetched")
            )
    return links


def _evidence_links(lock: Mapping[str, Any], entry: FileEntry) -> list[Link]:
    """Evidence is what upstream signed, or the key or Sigstore root that the spec checks it with."""
    about = f"evidence about {entry.artifact}" if entry.artifact else "what signatures are checked with"
    named = re.search(r"([0-9a-f]{64})[^/]*$", entry.path)
    for engine in [*lock.get("engines", []), *lock.get("tools", [])]:
        for wheel in engine["wheels"]:
            if "provenance" in wheel and entry.path.endswith(f"/{wheel['filename']}.provenance.json"):
                return [
                    Link("upstream", about),
                    _digest("pinned sha256", wheel["provenance"]["sha256"], entry),
                ]
    links = [Link("upstream", about)]
    return [*links, _digest("pinned sha256", named[1], entry)] if named else links


def _signature(manifest: Manifest, lock: Mapping[str, Any], entry: FileEntry) -> list[Link]:
    """What the builder found about the upstream signature of the artifact that the file belongs to."""
    wanted = entry.artifact or _image_of(lock, entry)
    for artifact in artifacts_of(manifest) if wanted else ():
        if artifact.id == wanted and artifact.upstream_signature:
            return [Link("upstream signature", _standing_text(artifact.upstream_signature))]
    return []


def _image_of(lock: Mapping[str, Any], entry: FileEntry) -> str:
    """The artifact of the first image that holds a blob; several may share it."""
    digest = f"sha256:{entry.path.rsplit('/', 1)[-1]}"
    for image in lock.get("images", []) if layout.is_below(entry.path, layout.IMAGE_BLOBS) else []:
        holders = [*image["platforms"], *image.get("referrers", [])]
        blobs = {blob[0] for holder in holders for blob in holder["blobs"]}
        if digest in {image["digest"], *(holder["digest"] for holder in holders), *blobs}:
            return f"image:{image['reference'].split('@')[0]}"
    return ""


def _standing_text(standing: Mapping[str, Any]) -> str:
    said = standing.get("signer")
    signer = ", ".join(f"{name} {said[name]}" for name in sorted(said)) if isinstance(said, dict) else ""
    text = f"{standing.get('state')} when it was built"
    text += f", by {signer}" if signer else ""
    text += f": {standing.get('checked', '')}"
    claim = standing.get("untrustedClaim")
    return f"{text}; it claims to be by {claim}" if claim else text


def _digest(step: str, sha256: str, entry: FileEntry) -> Link:
    return Link(step, f"sha256:{sha256}", agrees=sha256 == entry.sha256)
