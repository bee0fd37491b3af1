"""The lock: the spec resolved to exact revisions, sizes and digests. Free of index hosts and secrets."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, ValidationError

from bundler.core import layout, strict_json
from bundler.core.specs.spec import (
    Accelerator,
    EngineName,
    Identifier,
    IdentitySpec,
    LaunchSpec,
    NodeSpec,
    Platform,
    PublisherSpec,
    Sha256,
    Strict,
    Text,
    WeightFormat,
)
from bundler.errors import MalformedError

LOCK_LIMIT = 256 << 20
Commit = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
OciDigest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
Size = Annotated[int, Field(ge=0, le=2**53 - 1)]


class LockedTrustFile(Strict):
    """A public key or a Sigstore instance's trusted root: a file of this machine, pinned."""

    source: Text
    """Local path, relative to the lock's folder."""
    size: Size
    sha256: Sha256


class LockedSignatureRule(Strict):
    """Whose signature an artifact must bear upstream: a key, or an identity with its Sigstore's root."""

    require: bool = False
    key: LockedTrustFile | None = None
    identity: IdentitySpec | None = None
    trusted_root: LockedTrustFile | None = None

    @property
    def trust_file(self) -> LockedTrustFile:
        """What the signature is checked with."""
        found = self.key or self.trusted_root
        assert found is not None
        return found


class LockedAttestationRule(Strict):
    """Whose publish attestations the wheels of an engine must have."""

    publishers: tuple[PublisherSpec, ...]
    require: tuple[Text, ...] = ()
    trusted_root: LockedTrustFile


class LockedModelFile(Strict):
    """One file of a model repository at its commit."""

    path: Text
    """Path in the repository, relative POSIX."""
    size: Size
    git_blob_sha1: Commit
    """Git blob id of the file, or of its LFS pointer when `lfs_sha256` is set."""
    lfs_sha256: Sha256 | None = None
    """SHA-256 of the bytes, when the Hub offers it."""
    xet_hash: Sha256 | None = None
    """Xet hash, when the Hub offers it; only used to fetch, never to verify."""


class LockedModel(Strict):
    """A model repository at one commit."""

    id: Identifier
    repo: Text
    revision: Text
    """What was asked."""
    commit: Commit
    """What it resolved to."""
    format: WeightFormat
    endpoint: Text | None = None
    declared_license: Text | None = None
    concluded_license: Text | None = None
    gated: bool = False
    allow_pickle: tuple[Text, ...] = ()
    include: tuple[Text, ...] = ("*",)
    exclude: tuple[Text, ...] = ()
    files: tuple[LockedModelFile, ...]
    signature: LockedSignatureRule | None = None
    signature_files: tuple[LockedModelFile, ...] = ()
    """Signatures that the repository holds, carried as evidence whether or not they are selected."""

    @property
    def snapshot(self) -> str:
        """The folder of the snapshot below the bundle, in Hub-cache shape."""
        return layout.snapshot_folder(self.repo, self.commit)


class LockedProvenance(Strict):
    """The publish attestations that the index offers for a wheel (PEP 740), pinned as they were."""

    size: Size
    sha256: Sha256


class LockedWheel(Strict):
    """One wheel, named by file, size and digest; its URL is looked up in the index when building."""

    name: Text
    """Normalised project name."""
    version: Text
    filename: Text
    size: Size
    sha256: Sha256
    index: Identifier | None = None
    """Name of an explicit index of the engine; None is the default index."""
    provenance: LockedProvenance | None = None


class LockedEngine(Strict):
    """All wheels of one engine for one target."""

    id: Identifier
    name: EngineName | Literal["sealift"]
    requirement: Text
    version: Text
    """Version of the engine's own distribution."""
    python: Text
    platform: Platform
    glibc: Text
    accelerator: Accelerator
    exclude_newer: Text | None = None
    overrides: tuple[Text, ...] = ()
    with_: tuple[Text, ...] = Field(default=(), alias="with")
    wheels: tuple[LockedWheel, ...]
    attestations: LockedAttestationRule | None = None

    @property
    def folder(self) -> str:
        """`<engine>-cp<ver>-<arch>`: the name of the lock's folder (format.md section 1)."""
        arch = {"linux/amd64": "x86_64", "linux/arm64": "aarch64"}[self.platform]
        return f"{self.id}-cp{self.python.replace('.', '')}-{arch}"


class LockedPlatform(Strict):
    """One platform of an image: its manifest and everything below it."""

    platform: Platform
    digest: OciDigest
    size: Size
    """Bytes of the platform's OCI image manifest."""
    media_type: Text
    blobs: tuple[tuple[OciDigest, Size], ...]
    """Config and layers: digest and bytes."""


class LockedImage(Strict):
    """An image pinned by the digest of its index (or of its only manifest)."""

    reference: Text
    digest: OciDigest
    size: Size
    media_type: Text
    plain_http: bool = False
    complete: bool = True
    """Whether everything the index lists is carried; an index that lists more is kept as evidence only."""
    platforms: tuple[LockedPlatform, ...]
    referrers: tuple[LockedReferrer, ...] = ()
    signature: LockedSignatureRule | None = None


class LockedReferrer(Strict):
    """A signature, attestation or SBOM that belongs to the image."""

    digest: OciDigest
    size: Size
    media_type: Text
    artifact_type: Text | None = None
    tag: Text | None = None
    """Signature tag (`sha256-<hex>.sig`) when it was found by tag."""
    subject: OciDigest
    blobs: tuple[tuple[OciDigest, Size], ...] = ()


class LockedFile(Strict):
    """Any other file."""

    path: Text
    """Path in the bundle, from its root."""
    size: Size
    sha256: Sha256
    url: Text | None = None
    source: Text | None = None
    """Local path, relative to the lock's folder."""
    kind: Literal["file", "license", "document"] = "file"
    title: Text | None = None
    applies_to: tuple[Text, ...] = ()


class Lock(Strict):
    """Everything a build needs, and nothing that can move."""

    type: Literal["urn:sealift:lock:v1"] = "urn:sealift:lock:v1"
    spec_sha256: Sha256
    name: Identifier
    channel: Text
    serial: Annotated[int, Field(ge=0, le=2**53 - 1)]
    models: tuple[LockedModel, ...] = ()
    engines: tuple[LockedEngine, ...] = ()
    tools: tuple[LockedEngine, ...] = ()
    """sealift itself with uv, for the platforms of the engines."""
    images: tuple[LockedImage, ...] = ()
    files: tuple[LockedFile, ...] = ()
    launch: tuple[LaunchSpec, ...] = ()
    node: NodeSpec | None = None

    def to_bytes(self) -> bytes:
        """The lock as it is written: sorted keys, one member a line, so that a diff can be read."""
        value = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"

    @property
    def sha256(self) -> str:
        """SHA-256 of `to_bytes()`: what the manifest's `lock` member holds."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @classmethod
    def parse(cls, data: bytes, *, where: str) -> Lock:
        """The lock that `data` says. Raises MalformedError (`bad-lock`) with the path of each fault."""
        strict_json.loads(data, limit=LOCK_LIMIT, where=where)
        try:
            return cls.model_validate_json(data, strict=True, by_alias=True, by_name=False)
        except ValidationError as error:
            first = error.errors()[0]
            raise MalformedError(
                "bad-lock",
                "the lock is not valid",
                where=f"{where}: {'.'.join(map(str, first['loc']))[:300]}",
                expected=first["msg"],
                found=repr(first.get("input"))[:200],
                hint="write it anew with `sealift lock SPEC`; a lock is not edited by hand",
            ) from error
