"""Container images: from a reference to locked digests, and from those to fetch jobs.

Raw bytes are never converted: OCI index, docker manifest list, OCI manifest and docker v2 schema 2 are kept
as they are, because every digest in the chain is a digest of those bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from bundler.content.oci import (
    CONFIG_LIMIT,
    CONFIG_TYPES,
    MANIFEST_TYPES,
    REFERENCE_DIGEST,
    REFERENCE_TYPE,
    Descriptor,
    ImageConfig,
    ImageIndex,
    ImageManifest,
    image_findings,
    parse_config,
    parse_descriptor,
    parse_manifest,
)
from bundler.core import layout
from bundler.core.evidence import image_evidence, image_signatures
from bundler.core.specs.image_reference import ImageReference
from bundler.core.specs.lock import LockedImage, LockedPlatform, LockedReferrer
from bundler.core.specs.spec import ImageSpec
from bundler.errors import IntegrityError, MalformedError
from bundler.sources.http import Body
from bundler.sources.images.registry import FetchedManifest, RegistryClient
from bundler.sources.images.registry_auth import DockerConfig
from bundler.sources.jobs import FetchJob

"""Where an index goes that lists more platforms than the bundle carries (see `index_path`)."""
SIGNATURE_SUFFIXES = (".sig", ".att", ".sbom")
"""Tags that cosign derives from a digest (cosign SIGNATURE_SPEC.md, "Tag-based discovery")."""
ATTESTATION = "attestation-manifest"
"""How BuildKit calls them (moby/buildkit docs/attestations/attestation-storage.md)."""
MAX_REFERRERS = 1000
_PLAIN_VARIANTS = {"linux/amd64": ("", "v1"), "linux/arm64": ("", "v8")}


def resolve_image(spec: ImageSpec, *, client: RegistryClient | None = None) -> LockedImage:
    """The image pinned: digest and size of its index, of each wanted platform with config and layers, and of
    every signature, attestation and SBOM found beside it.

    Raises MalformedError (`bad-image-reference`, `platform-missing`, and those of `parse_manifest` and
    `image_findings`),
    PolicyError (`foreign-layer`), IntegrityError and NetworkError (see `RegistryClient.manifest`).
    """
    reference = ImageReference.parse(spec.reference)
    client = client or client_for(reference, plain_http=spec.plain_http)
    return _Resolution(client, reference, spec).run()


def client_for(
    reference: ImageReference, *, plain_http: bool = False, config: DockerConfig | None = None
) -> RegistryClient:
    """A client for the registry of `reference`, with this user's docker configuration."""
    return RegistryClient(reference.api_host, plain_http=plain_http, config=config)


def index_path(image: LockedImage) -> str:
    """The bundle path of the image's own manifest or index.

    An index of which only some platforms are carried is *evidence*, not part of the layout: tools that follow
    it (`skopeo copy --all`, `podman`) would stop at the first platform that is not there.
    """
    value = image.digest.partition(":")[2]
    return (
        layout.image_blob(image.digest) if image.complete else f"{layout.EVIDENCE}/images/sha256-{value}.json"
    )


@dataclass(slots=True)
class _Resolution:
    """One image on its way into the lock."""

    client: RegistryClient
    reference: ImageReference
    spec: ImageSpec
    referrers: dict[tuple[str, str | None], LockedReferrer] = field(default_factory=dict)
    own: set[str] = field(default_factory=set)
    """Digests of the image itself: its index and what that lists, companions left out."""
    configs: dict[str, ImageConfig] = field(default_factory=dict)

    def run(self) -> LockedImage:
        """The image, pinned."""
        root = self.client.manifest(self.reference.repository, self.reference.target)
        parsed = self._parse(root)
        self.own.add(root.digest)
        if isinstance(parsed, ImageIndex):
            self.own |= {entry.digest for entry in parsed.manifests if not entry.is_companion}
            platforms = tuple(self._from_index(parsed, wanted) for wanted in self.spec.platforms)
            self._add_buildkit_attestations(parsed, {one.digest for one in platforms})
        else:
            platforms = (self._only_platform(root, parsed),)
        for subject in dict.fromkeys((root.digest, *(one.digest for one in platforms))):
            self._add_referrers(subject)
            self._add_signature_tags(subject)
        return LockedImage(
            reference=self.spec.reference,
            digest=root.digest,
            size=len(root.data),
            media_type=root.media_type,
            plain_http=self.spec.plain_http,
            complete=self._is_complete(parsed, platforms),
            platforms=platforms,
            referrers=tuple(sorted(self.referrers.values(), key=lambda one: (one.digest, one.tag or ""))),
        )

    def _is_complete(self, parsed: ImageIndex | ImageManifest, platforms: Iterable[LockedPlatform]) -> bool:
        if isinstance(parsed, ImageManifest):
            return True
        carried = {one.digest for one in platforms} | {digest for digest, _ in self.referrers}
        # Not every tool reads the config of an entry without a platform, so it is listed with its own.
        return all(
            entry.digest in carried and (entry.platform or entry.is_companion) for entry in parsed.manifests
        )

    def _parse(self, fetched: FetchedManifest) -> ImageIndex | ImageManifest:
        where = f"{self.reference.name}@{fetched.digest}"
        return parse_manifest(fetched.data, fetched.media_type, where=where)

    # --- platforms ---

    def _from_index(self, index: ImageIndex, wanted: str) -> LockedPlatform:
        """The image of an index for a wanted platform: the first entry that is one.

        An entry need not say its platform (image-spec, "Image Index Property Descriptions"): then the image's
        own config does. Other artifacts may be listed beside the images, and are no images.
        """
        entries = [one for one in index.manifests if one.media_type in MANIFEST_TYPES and _may_be_image(one)]
        fitting = [one for one in entries if _fits(one.platform, wanted)]
        silent = [one for one in entries if not one.platform]
        told = [one.platform for one in index.manifests]
        for entry in (*fitting, *silent):
            fetched = self._described(entry)
            manifest = self._parse(fetched)
            assert isinstance(manifest, ImageManifest)
            if not manifest.is_image:
                continue
            found = self._configured_platform(manifest, entry.digest)
            if found == wanted:
                return self._locked_platform(wanted, fetched, manifest)
            if entry.platform:
                raise self._mismatch(entry, wanted, found)
            told.append(found)
        raise self._missing(wanted, told)

    def _mismatch(self, entry: Descriptor, wanted: str, found: str) -> MalformedError:
        return MalformedError(
            "platform-mismatch",
            "an index and the image it names disagree about the platform",
            where=f"{self.reference.name}@{entry.digest}",
            expected=wanted,
            found=found,
            hint="distrust this image: it would not start on the machine it is listed for",
        )

    def _only_platform(self, root: FetchedManifest, manifest: ImageManifest) -> LockedPlatform:
        found = self._configured_platform(manifest, root.digest)
        for wanted in self.spec.platforms:
            if wanted != found:
                raise self._missing(wanted, [found])
        return self._locked_platform(found, root, manifest)

    def _locked_platform(
        self, platform: str, fetched: FetchedManifest, manifest: ImageManifest
    ) -> LockedPlatform:
        """The image with its config and layers, once it is known that something can load it.

        Raises MalformedError as `image_findings` says, before the first layer is fetched.
        """
        where = f"{self.reference.name}@{fetched.digest}"
        findings = image_findings(manifest, self._config(manifest, where), where=where)
        if findings:
            raise MalformedError.of(findings)
        return LockedPlatform(
            platform=platform,
            digest=fetched.digest,
            size=len(fetched.data),
            media_type=fetched.media_type,
            blobs=tuple((blob.digest, blob.size) for blob in manifest.blobs),
        )

    def _configured_platform(self, manifest: ImageManifest, digest: str) -> str:
        where = f"{self.reference.name}@{digest}"
        if manifest.config.media_type not in CONFIG_TYPES:
            raise MalformedError(
                "not-an-image",
                "the reference leads to something that is no container image",
                where=where,
                expected=" or ".join(sorted(CONFIG_TYPES)),
                found=manifest.config.media_type[:200],
            )
        return self._config(manifest, where).platform

    def _config(self, manifest: ImageManifest, where: str) -> ImageConfig:
        """The image's config, fetched once."""
        digest = manifest.config.digest
        if digest not in self.configs:
            data = self.client.small_blob(self.reference.repository, manifest.config, CONFIG_LIMIT)
            self.configs[digest] = parse_config(data, where=f"{where}: config")
        return self.configs[digest]

    def _described(self, descriptor: Descriptor) -> FetchedManifest:
        """The manifest a descriptor names, as big and of the type it says."""
        fetched = self.client.manifest(self.reference.repository, descriptor.digest)
        said = (descriptor.media_type, descriptor.size)
        if (fetched.media_type, len(fetched.data)) != said:
            raise IntegrityError(
                "descriptor-mismatch",
                "a manifest is not what the index says about it",
                where=f"{self.reference.name}@{descriptor.digest}",
                expected=f"{said[0]}, {said[1]} bytes",
                found=f"{fetched.media_type}, {len(fetched.data)} bytes",
                hint="distrust this image, or ask whoever runs the registry",
            )
        return fetched

    def _missing(self, wanted: str, existing: Iterable[str]) -> MalformedError:
        names = sorted({name for name in existing if name and not name.startswith("unknown/")})
        return MalformedError(
            "platform-missing",
            "the image does not exist for a wanted platform",
            where=str(self.reference),
            expected=wanted,
            found=", ".join(names) or "no platform at all",
            hint="change `platforms` of this image in the spec, or choose another tag",
        )

    # --- signatures, attestations, SBOMs ---

    def _add_buildkit_attestations(self, index: ImageIndex, carried: set[str]) -> None:
        """Attestation manifests that BuildKit keeps in the index itself, for the carried platforms."""
        for entry in index.manifests:
            subject = entry.annotations.get(REFERENCE_DIGEST, "")
            if entry.annotations.get(REFERENCE_TYPE) == ATTESTATION and subject in carried:
                self._add_referrer(self._described(entry), subject, artifact_type=ATTESTATION)

    def _add_referrers(self, subject: str) -> None:
        """What the registry lists for `subject`, and what refers to that in turn."""
        waiting = [subject]
        while waiting:
            current = waiting.pop()
            for entry in self._listed(current):
                if (entry.digest, None) in self.referrers:
                    continue
                fetched = self._described(entry)
                if not self._is_own(fetched, current):
                    waiting.append(entry.digest)
                    self._add_referrer(fetched, current, artifact_type=entry.artifact_type)

    def _is_own(self, fetched: FetchedManifest, subject: str) -> bool:
        """Whether something listed as a referrer is a part of the image that does not refer to `subject`."""
        if fetched.digest not in self.own:
            return False
        stated = self._parse(fetched).subject
        return stated is None or stated.digest != subject

    def _listed(self, subject: str) -> tuple[Descriptor, ...]:
        """Descriptors from the referrers API, or from the tag that replaces it."""
        where = f"referrers of {self.reference.name}@{subject}"
        listed = self.client.referrers(self.reference.repository, subject)
        if listed is not None:
            return tuple(parse_descriptor(one, where=where, member="manifests") for one in listed)
        # Referrers tag schema (distribution-spec 1.1): an index under the tag `sha256-<hex>`.
        tag = subject.replace(":", "-")
        fallback = self._tagged(tag, subject)
        if fallback is None:
            return ()
        index = self._parse(fallback)
        if not isinstance(index, ImageIndex):
            return ()
        self._add_referrer(fallback, subject, tag=tag)
        return index.manifests

    def _add_signature_tags(self, subject: str) -> None:
        """What cosign keeps under `sha256-<hex>.sig`, `.att` and `.sbom`."""
        for suffix in SIGNATURE_SUFFIXES:
            tag = subject.replace(":", "-") + suffix
            found = self._tagged(tag, subject)
            if found is not None:
                self._add_referrer(found, subject, tag=tag)

    def _tagged(self, tag: str, subject: str) -> FetchedManifest | None:
        """What is filed under a tag that is made from the digest `subject`; None for nothing.

        Some registries read the tag `sha256-<hex>` as the digest itself (GitLab does) and answer with the
        subject: that says nothing about signatures, and the image is not its own companion.
        """
        found = self.client.optional_manifest(self.reference.repository, tag)
        if found is None or found.digest == subject or found.digest in self.own:
            return None
        return found

    def _add_referrer(
        self, fetched: FetchedManifest, subject: str, *, artifact_type: str = "", tag: str | None = None
    ) -> None:
        parsed = self._parse(fetched)
        blobs = parsed.blobs if isinstance(parsed, ImageManifest) else ()
        declared = parsed.artifact_type if isinstance(parsed, ImageManifest) else ""
        self.referrers[fetched.digest, tag] = LockedReferrer(
            digest=fetched.digest,
            size=len(fetched.data),
            media_type=fetched.media_type,
            artifact_type=artifact_type or declared or None,
            tag=tag,
            subject=subject,
            blobs=tuple((blob.digest, blob.size) for blob in blobs),
        )
        if len(self.referrers) > MAX_REFERRERS:
            raise MalformedError(
                "too-many-referrers",
                "an image has more signatures and attestations than are read",
                where=str(self.reference),
                expected=f"at most {MAX_REFERRERS}",
                found="more",
            )


def _fits(found: str, wanted: str) -> bool:
    """Whether an index entry's platform is the wanted one, in its plain variant."""
    system_and_architecture = "/".join(found.split("/")[:2])
    variant = "/".join(found.split("/")[2:])
    return system_and_architecture == wanted and variant in _PLAIN_VARIANTS.get(wanted, ("",))


def _may_be_image(entry: Descriptor) -> bool:
    """Whether nothing in an index entry says that it is something else: a signature, an SBOM, a model."""
    return not (entry.artifact_type or entry.is_companion or entry.platform.startswith("unknown"))


# --- fetch jobs ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobSource:
    """Opens a locked blob or manifest at its registry, from any offset."""

    client: RegistryClient
    repository: str
    digest: str
    size: int
    is_manifest: bool

    def open(self, offset: int) -> AbstractContextManager[Body]:
        """The bytes from `offset` on (see `ByteSource.open`)."""
        opener = self.client.open_manifest if self.is_manifest else self.client.open_blob
        return opener(self.repository, self.digest, offset, self.size)


def image_jobs(images: Sequence[LockedImage], *, config: DockerConfig | None = None) -> list[FetchJob]:
    """Fetch jobs for every manifest and blob of `images`, each path once, in order of path.

    Destinations are `payload/images/blobs/sha256/<hex>`, and `payload/evidence/images/` for an index of which
    only some platforms are carried. Raises MalformedError (`blob-size-conflict`).
    """
    jobs: dict[str, FetchJob] = {}
    clients: dict[tuple[str, bool], RegistryClient] = {}
    for image in images:
        reference = ImageReference.parse(image.reference)
        key = (reference.api_host, image.plain_http)
        if key not in clients:
            clients[key] = client_for(reference, plain_http=image.plain_http, config=config)
        for job in _jobs_of(image, clients[key], reference.repository):
            known = jobs.setdefault(job.path, job)
            if known.size != job.size:
                raise _size_conflict(job, known)
    return [jobs[path] for path in sorted(jobs)]


def signature_jobs(images: Sequence[LockedImage], *, config: DockerConfig | None = None) -> list[FetchJob]:
    """Fetch jobs for the signatures of `images` as evidence: the same bytes as in the layout, beside it."""
    jobs: dict[str, FetchJob] = {}
    for image in images:
        reference = ImageReference.parse(image.reference)
        client = client_for(reference, plain_http=image.plain_http, config=config)
        for referrer in image_signatures(image):
            for file in image_evidence(referrer):
                digest = f"sha256:{file.sha256}"
                source = BlobSource(
                    client=client,
                    repository=reference.repository,
                    digest=digest,
                    size=file.size,
                    is_manifest=digest == referrer.digest,
                )
                job = FetchJob(path=file.path, size=file.size, sha256=file.sha256, source=source)
                jobs.setdefault(file.path, job)
    return [jobs[path] for path in sorted(jobs)]


def _jobs_of(image: LockedImage, client: RegistryClient, repository: str) -> Iterator[FetchJob]:
    owners: tuple[LockedPlatform | LockedReferrer, ...] = (*image.platforms, *image.referrers)
    manifests = {(index_path(image), image.digest, image.size)}
    manifests |= {(_path(one.digest), one.digest, one.size) for one in owners}
    blobs = {(_path(digest), digest, size) for one in owners for digest, size in one.blobs}
    for is_manifest, files in ((True, manifests), (False, blobs - manifests)):
        for path, digest, size in sorted(files):
            source = BlobSource(
                client=client, repository=repository, digest=digest, size=size, is_manifest=is_manifest
            )
            yield FetchJob(path=path, size=size, sha256=digest.partition(":")[2], source=source)


def _path(digest: str) -> str:
    return layout.image_blob(digest)


def _size_conflict(job: FetchJob, known: FetchJob) -> MalformedError:
    return MalformedError(
        "blob-size-conflict",
        "two images say different sizes for the same digest",
        where=job.path,
        expected=f"{known.size} bytes",
        found=f"{job.size} bytes",
        hint="lock again: `sealift lock SPEC`",
    )
