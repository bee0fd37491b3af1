"""Signatures of container images as cosign writes them.

Two forms: a Sigstore bundle whose statement has the image as subject (cosign 3, GitHub attestations), and
the older "simple signing" payload with a bare signature beside it.
https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md and BUNDLE_SPEC.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bundler.errors import MalformedError
from bundler.trust.dsse import STATEMENT_TYPE, decode_base64
from bundler.trust.upstream.envelope import LARGEST, MAX_SIGNATURE_BYTES, read_object, read_statement, refuse
from bundler.trust.upstream.expected_signers import Signer

SIMPLE_SIGNING_TYPE = "application/vnd.dev.cosign.simplesigning.v1+json"
SIGNATURE_ANNOTATION = "dev.cosignproject.cosign/signature"
PAYLOAD_LIMIT = 1 << 20
SIGNATURE_KIND = "cosign container image signature"
PREDICATE_TYPES = ("https://sigstore.dev/cosign/sign/v1", "https://slsa.dev/provenance/v1")
"""`cosign sign`, and a builder's provenance: the signer made or released the image. Any other statement
(an SBOM, a list of vulnerabilities) says something about the image, not that it is the signer's."""

STATEMENT_TYPES = (STATEMENT_TYPE, "https://in-toto.io/Statement/v0.1")
"""`cosign attest` still writes version 0.1, whose subject means the same."""


def check_simple_signing(
    payload: bytes, annotations: Mapping[str, str], *, digest: str, signer: Signer, where: str
) -> str:
    """What was checked, when `signer` signed `payload` and that names the image `digest` (`sha256:…`).

    Which repository the payload names is not compared: an image may be mirrored. Raises MalformedError or
    AuthenticityError.
    """
    text = annotations.get(SIGNATURE_ANNOTATION)
    if text is None:
        refuse(where, f"the annotation {SIGNATURE_ANNOTATION}", sorted(annotations))
    signature = decode_base64(text, where=where, limit=MAX_SIGNATURE_BYTES)
    signer.check_message(payload, signature, annotations, where=where)
    value = read_object(payload, limit=PAYLOAD_LIMIT, where=where, largest=LARGEST)
    critical = _object(value.get("critical"), where)
    if critical.get("type") != SIGNATURE_KIND:
        refuse(where, SIGNATURE_KIND, critical.get("type"))
    _same_image(_object(critical.get("image"), where).get("docker-manifest-digest"), digest, where)
    return f"{SIGNATURE_KIND} (simple signing)"


def check_image_bundle(bundle: bytes, *, digest: str, signer: Signer, where: str) -> str:
    """What was checked, when `signer` signed a statement about the image `digest` (`sha256:…`).

    Raises MalformedError or AuthenticityError.
    """
    payload = signer.payload(bundle, where=where)
    statement = read_statement(payload, where=where, types=STATEMENT_TYPES)
    if statement.predicate_type not in PREDICATE_TYPES:
        refuse(where, " or ".join(PREDICATE_TYPES), statement.predicate_type)
    if len(statement.subjects) != 1:
        refuse(where, "exactly one subject", f"{len(statement.subjects)} subjects")
    _same_image(f"sha256:{statement.subjects[0][1]}", digest, where)
    return f"statement {statement.predicate_type}"


def _same_image(found: object, digest: str, where: str) -> None:
    if found != digest:
        raise MalformedError(
            "other-image",
            "a signature is about another image",
            where=where,
            expected=digest,
            found=f"a signature of the image {found!r}"[:200],
        )


def _object(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        refuse(where, "the members of a simple signing payload", value)
    return value
