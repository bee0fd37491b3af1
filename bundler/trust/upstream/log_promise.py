"""Keyless signatures in cosign's older form: a certificate and the log's promise, beside the signature.

Before version 3 cosign kept no inclusion proof with an image's signature, only the Signed Entry Timestamp
by which the log promises to include it; the `sigstore` library takes nothing without a proof. The steps are
those of the client specification, all against one pinned trusted root and without a network:
https://github.com/sigstore/architecture-docs/blob/main/client-spec.md section 4 and
https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md ("bundle", "certificate").
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from bundler.core import strict_json
from bundler.trust.upstream.envelope import base64_member, read_object, refuse

CERTIFICATE = "dev.sigstore.cosign/certificate"
LOG_BUNDLE = "dev.sigstore.cosign/bundle"
ANNOTATION_LIMIT = 64 << 10
ROOT_LIMIT = 16 << 20
CERTIFICATE_FAULTS = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What reading a hostile certificate raises; they have no common class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Promised:
    """What a log promised to include, its promise verified."""

    body: bytes
    time: dt.datetime


def check_promise(
    message: bytes, signature: bytes, annotations: Mapping[str, str], *, root: bytes, where: str
) -> x509.Certificate:
    """The certificate whose holder signed `message`, by an authority, a CT log and a log of `root`.

    Whom it names is not compared here. Raises MalformedError (`bad-envelope`, strict JSON).
    """
    trusted = read_object(root, limit=ROOT_LIMIT, where=where)
    certificate = _certificate(annotations, where)
    promised = _promised(annotations, trusted, where)
    issuer = _issuer(certificate, trusted, promised.time, where)
    _check_certificate_log(certificate, issuer, trusted, promised.time, where)
    _check_usage(certificate, where)
    if not _is_good(certificate.public_key(), signature, message):
        refuse(where, "a signature by the certificate's key", "another one")
    _check_body(promised.body, message, signature, certificate, where)
    return certificate


def _certificate(annotations: Mapping[str, str], where: str) -> x509.Certificate:
    text = annotations.get(CERTIFICATE)
    if text is None:
        refuse(where, "a signature with proof of who made it", "a bare signature, without a certificate")
    try:
        return x509.load_pem_x509_certificate(text[:ANNOTATION_LIMIT].encode())
    except CERTIFICATE_FAULTS:
        refuse(where, "a certificate in PEM", text or "nothing")


def _promised(annotations: Mapping[str, str], trusted: Mapping[str, Any], where: str) -> Promised:
    """The entry of cosign's `bundle`, when its promise is by a log that was trusted at that time."""
    text = annotations.get(LOG_BUNDLE, "")
    value = read_object(text.encode(), limit=4 * ANNOTATION_LIMIT, where=f"{where}: {LOG_BUNDLE}")
    entry = value.get("Payload")
    members = {"body": str, "integratedTime": int, "logID": str, "logIndex": int}
    if not isinstance(entry, dict) or {name: type(member) for name, member in entry.items()} != members:
        refuse(where, "a log entry with body, time, log and index", entry)
    # RFC 8785: text and integers only, so that sorted keys without space are the canonical form.
    signed = strict_json.dumps(entry)
    time = dt.datetime.fromtimestamp(min(max(entry["integratedTime"], 0), 1 << 35), dt.UTC)
    promise = base64_member(value, "SignedEntryTimestamp", where=where)
    keys = _log_keys(trusted, "tlogs", time, entry["logID"].lower())
    if not any(_is_good(key, promise, signed) for key in keys):
        refuse(where, "a promise of a log of the pinned Sigstore root", f"one of log {entry['logID'][:80]}")
    return Promised(body=base64_member(entry, "body", where=where), time=time)


def _issuer(
    certificate: x509.Certificate, trusted: Mapping[str, Any], time: dt.datetime, where: str
) -> x509.Certificate:
    """The authority that issued `certificate`, all of its chain valid at `time`."""
    issuer = next(
        (chain[0] for chain in _authorities(trusted, time) if _is_chain([certificate, *chain], time)), None
    )
    if issuer is None:
        refuse(where, "a certificate by an authority of the pinned Sigstore root", "one by another authority")
    return issuer


def _is_chain(chain: list[x509.Certificate], time: dt.datetime) -> bool:
    """Whether each is issued by the next, the last by itself, and all were valid at `time`."""
    links = zip(chain, [*chain[1:], chain[-1]], strict=True)
    return all(_covers(one, time) for one in chain) and all(_is_issued(one, by) for one, by in links)


def _authorities(trusted: Mapping[str, Any], time: dt.datetime) -> Iterator[list[x509.Certificate]]:
    """The chains of the root's certificate authorities that were trusted at `time`, issuers first."""
    for authority in trusted.get("certificateAuthorities", []):
        if _was_valid(authority.get("validFor", {}), time):
            listed = authority["certChain"]["certificates"]
            chain = [x509.load_der_x509_certificate(base64.b64decode(one["rawBytes"])) for one in listed]
            if chain:
                yield chain


def _is_issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _covers(certificate: x509.Certificate, time: dt.datetime) -> bool:
    return certificate.not_valid_before_utc <= time <= certificate.not_valid_after_utc


def _check_certificate_log(
    certificate: x509.Certificate,
    issuer: x509.Certificate,
    trusted: Mapping[str, Any],
    time: dt.datetime,
    where: str,
) -> None:
    """Refuse a certificate that no CT log of the root has seen (RFC 6962 section 3.2)."""
    try:
        stamps = certificate.extensions.get_extension_for_class(
            x509.PrecertificateSignedCertificateTimestamps
        ).value
        unsealed = certificate.tbs_precertificate_bytes
    except CERTIFICATE_FAULTS:
        refuse(where, "a certificate with the timestamp of a CT log", "none")
    der, spki = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    by = hashlib.sha256(issuer.public_key().public_bytes(der, spki)).digest()
    for stamp in stamps:
        moment = int(stamp.timestamp.replace(tzinfo=dt.UTC).timestamp() * 1000 + 0.5)
        head = struct.pack(">BBQH", 0, 0, moment, 1) + by + struct.pack(">I", len(unsealed))[1:]
        extensions = stamp.extension_bytes
        signed = head + unsealed + struct.pack(">H", len(extensions)) + extensions
        keys = _log_keys(trusted, "ctlogs", time, stamp.log_id.hex())
        if any(_is_good(key, stamp.signature, signed) for key in keys):
            return
    refuse(where, "the timestamp of a CT log of the pinned Sigstore root", "one of another log")


def _log_keys(trusted: Mapping[str, Any], kind: str, time: dt.datetime, log_id: str) -> Iterator[Any]:
    """The keys of the root's logs with this id (hex) that were trusted at `time`."""
    for log in trusted.get(kind, []):
        key = log["publicKey"]
        if base64.b64decode(log["logId"]["keyId"]).hex() == log_id and _was_valid(
            key.get("validFor", {}), time
        ):
            yield serialization.load_der_public_key(base64.b64decode(key["rawBytes"]))


def _was_valid(period: Mapping[str, str], time: dt.datetime) -> bool:
    start, end = period.get("start"), period.get("end")
    return (start is None or dt.datetime.fromisoformat(start) <= time) and (
        end is None or time <= dt.datetime.fromisoformat(end)
    )


def _check_usage(certificate: x509.Certificate, where: str) -> None:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except CERTIFICATE_FAULTS:
        refuse(where, "a certificate for signing code", "one without a usage")
    if not usage.digital_signature or ExtendedKeyUsageOID.CODE_SIGNING not in purposes:
        refuse(where, "a certificate for signing code", "one for something else")


def _check_body(
    body: bytes, message: bytes, signature: bytes, certificate: x509.Certificate, where: str
) -> None:
    """Refuse a promise about something else than this signature (CVE-2022-36056)."""
    value = read_object(body, limit=4 * ANNOTATION_LIMIT, where=f"{where}: log entry")
    try:
        spec = value["spec"]
        found = (
            (value["kind"], value["apiVersion"], spec["data"]["hash"]["algorithm"]),
            spec["data"]["hash"]["value"],
            base64.b64decode(spec["signature"]["content"]),
            x509.load_pem_x509_certificate(base64.b64decode(spec["signature"]["publicKey"]["content"])),
        )
    except (KeyError, *CERTIFICATE_FAULTS):
        refuse(where, "a hashedrekord entry of the log", value)
    kind = ("hashedrekord", "0.0.1", "sha256")
    if found != (kind, hashlib.sha256(message).hexdigest(), signature, certificate):
        refuse(where, "the log entry of this very signature", f"a log entry of another one ({found[0][0]})")


def _is_good(key: Any, signature: bytes, message: bytes) -> bool:
    """Whether an ECDSA signature with SHA-256 is good: what Fulcio, its logs and cosign make."""
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return False
    try:
        key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True
