"""Evidence: the upstream signatures a bundle carries, each file with its place and its pin from the lock.

Paths follow from what is signed, so the same lock gives the same paths:

    payload/evidence/keys/<sha256>.pub                        keys that the spec pins
    payload/evidence/sigstore/<sha256>.trusted_root.json      Sigstore roots that the spec pins
    payload/evidence/models--<org>--<name>/<commit>/<path>    signatures that the repository holds
    payload/evidence/wheels/[<index>/]<wheel>.provenance.json publish attestations (PEP 740)
    payload/evidence/images/sha256-<subject>/<digest>.*       cosign signatures: manifests and blobs
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bundler.core import layout
from bundler.core.specs.lock import (
    Lock,
    LockedAttestationRule,
    LockedImage,
    LockedModel,
    LockedModelFile,
    LockedReferrer,
    LockedSignatureRule,
    LockedTrustFile,
    LockedWheel,
)

SIGNATURE_LIMIT = 4 << 20
"""Bytes of one signature document of an image or wheel; usual ones have 3 to 60 KiB."""
MODEL_SIGNATURE_LIMIT = 32 << 20
"""Bytes of a model's signature, which lists all files: 50,000 of them take 11 MB."""
COSIGN_TAG_SUFFIX = ".sig"
SIGSTORE_BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle"
"""How the artifact type of a Sigstore bundle begins; the version follows."""
COSIGN_ARTIFACT_TYPE = "application/vnd.dev.cosign.artifact.sig.v1+json"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceFile:
    """One file of evidence: bundle path, bytes, and the digest that pins it, of one kind or the other."""

    path: str
    size: int
    sha256: str | None = None
    git_blob_sha1: str | None = None


def evidence_files(lock: Lock) -> tuple[EvidenceFile, ...]:
    """All evidence of `lock`, each path once unless two items disagree about it; in order of path."""
    found = {*_trust_files(lock)}
    for model in lock.models:
        found |= {model_evidence(model, file) for file in model.signature_files}
    for wheel in (wheel for engine in (*lock.engines, *lock.tools) for wheel in engine.wheels):
        if wheel.provenance is not None:
            pin = wheel.provenance
            found.add(EvidenceFile(path=provenance_path(wheel), size=pin.size, sha256=pin.sha256))
    for image in lock.images:
        for referrer in image_signatures(image):
            found |= {*image_evidence(referrer)}
    return tuple(sorted(found, key=lambda file: (file.path, file.size)))


def rules_of(lock: Lock) -> tuple[LockedSignatureRule | LockedAttestationRule, ...]:
    """Every rule of `lock` about who must have signed; empty when the spec pins nobody."""
    found: list[LockedSignatureRule | LockedAttestationRule | None] = []
    found += [model.signature for model in lock.models]
    found += [image.signature for image in lock.images]
    found += [engine.attestations for engine in lock.engines]
    return tuple(rule for rule in found if rule is not None)


def trust_path(rule: LockedSignatureRule | LockedAttestationRule) -> str:
    """Where the key or Sigstore root of a rule is in the bundle."""
    if isinstance(rule, LockedSignatureRule) and rule.key is not None:
        return f"{layout.EVIDENCE}/keys/{rule.key.sha256}.pub"
    return f"{layout.EVIDENCE}/sigstore/{trust_file(rule).sha256}.trusted_root.json"


def trust_file(rule: LockedSignatureRule | LockedAttestationRule) -> LockedTrustFile:
    """What the signatures of a rule are checked with."""
    return rule.trusted_root if isinstance(rule, LockedAttestationRule) else rule.trust_file


def _trust_files(lock: Lock) -> Iterator[EvidenceFile]:
    for rule in rules_of(lock):
        file = trust_file(rule)
        yield EvidenceFile(path=trust_path(rule), size=file.size, sha256=file.sha256)


def model_evidence(model: LockedModel, file: LockedModelFile) -> EvidenceFile:
    """A signature of the repository as evidence."""
    return EvidenceFile(
        path=model_evidence_path(model, file.path),
        size=file.size,
        sha256=file.lfs_sha256,
        git_blob_sha1=None if file.lfs_sha256 else file.git_blob_sha1,
    )


def model_evidence_path(model: LockedModel, path: str) -> str:
    """Where the signature `path` of a repository lies."""
    return f"{layout.model_evidence_folder(model.repo)}/{model.commit}/{path}"


def provenance_path(wheel: LockedWheel) -> str:
    """Where the publish attestations of a wheel lie, whether or not there are any."""
    index = f"{wheel.index}/" if wheel.index else ""
    return f"{layout.EVIDENCE}/wheels/{index}{wheel.filename}.provenance.json"


def image_signatures(image: LockedImage) -> tuple[LockedReferrer, ...]:
    """The referrers of an image that are signatures or signed statements in a form that can be checked."""
    return tuple(referrer for referrer in image.referrers if _is_signature(referrer))


def _is_signature(referrer: LockedReferrer) -> bool:
    sizes = (referrer.size, *(size for _, size in referrer.blobs))
    kind = referrer.artifact_type or ""
    named = (referrer.tag or "").endswith(COSIGN_TAG_SUFFIX)
    typed = kind.startswith(SIGSTORE_BUNDLE_TYPE) or kind == COSIGN_ARTIFACT_TYPE
    return (named or typed) and max(sizes) <= SIGNATURE_LIMIT


def image_evidence(referrer: LockedReferrer) -> Iterator[EvidenceFile]:
    """Manifest and blobs of an image's signature, the manifest first."""
    yield _oci_evidence(referrer, referrer.digest, referrer.size, "manifest.json")
    for digest, size in referrer.blobs:
        yield _oci_evidence(referrer, digest, size, "blob")


def image_blob_path(referrer: LockedReferrer, digest: str) -> str:
    """Where the blob `digest` of an image's signature lies."""
    return _oci_evidence(referrer, digest, 0, "blob").path


def _oci_evidence(referrer: LockedReferrer, digest: str, size: int, kind: str) -> EvidenceFile:
    value = digest.partition(":")[2]
    folder = f"{layout.EVIDENCE}/images/{referrer.subject.replace(':', '-')}"
    return EvidenceFile(path=f"{folder}/{value}.{kind}", size=size, sha256=value)
