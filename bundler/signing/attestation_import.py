"""Attestations that another program signed, imported: read loosely in the wrapper, strictly in all it wraps.

Tools dress the same envelope differently (key ids, hints, empty members). Whatever is unsigned is written
anew in the form of format.md section 5; payload and signature stay the bytes they are. Nothing is taken
in that no known key or identity signed, or that is about something else than this manifest.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from bundler.core import strict_json
from bundler.core.manifest import MANIFEST_NAME, Manifest
from bundler.errors import ExitCode, Finding, MachineError, MalformedError, SealiftError
from bundler.trust.authentication import Attestation, Authentication, Authenticator, VerifyKeyless
from bundler.trust.dsse import (
    BUNDLE_MEDIA_TYPE,
    KEYLESS_MATERIAL,
    MAX_SIGNATURE_BYTES,
    Envelope,
    Shape,
    Statement,
    decode_base64,
    encode_bundle,
    parse_bundle,
)
from bundler.trust.keys import PublicKey, public_from_spki, verify_signature
from bundler.trust.model_signing_format import OMS_TYPE, oms_fault
from bundler.trust.policy_document import Identity, PolicyKey, TrustPolicy
from bundler.trust.predicates import predicate_findings

_MEDIA_TYPES = (BUNDLE_MEDIA_TYPE, "application/vnd.dev.sigstore.bundle+json;version=0.3")
_FOREIGN_MARKS = {"SSH": b"-----BEGIN SSH SIGNATURE-----", "PGP": b"-----BEGIN PGP "}
_COSIGN = "cosign attest-blob --statement STATEMENT --bundle FILE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """An attestation in its final form, by whom it is, and whether the wrapper was written anew."""

    data: bytes
    attestation: Attestation
    rewritten: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Trusted:
    """Whose signatures are imported."""

    keys: Sequence[PolicyKey]
    identities: Sequence[Identity] = ()
    verify_keyless: VerifyKeyless | None = None

    @classmethod
    def one(cls, public: PublicKey) -> Trusted:
        """Only this key."""
        key = PolicyKey(
            fingerprint=public.fingerprint, algorithm=public.algorithm, spki=public.spki, owner=""
        )
        return cls(keys=(key,))

    @classmethod
    def of_policy(cls, policy: TrustPolicy, verify_keyless: VerifyKeyless | None) -> Trusted:
        """Every key and identity that a policy names, whatever its role; what counts is for `verify`."""
        identities = dict.fromkeys(item for role in policy.roles.values() for item in role.identities)
        return cls(
            keys=tuple(policy.keys.values()),
            identities=tuple(identities) if policy.trusted_root_sha256 else (),
            verify_keyless=verify_keyless,
        )

    def signer_of(self, envelope: Envelope) -> str:
        """The owner and key, or the identity, that signed `envelope`; empty when none of these did."""
        name = "envelope.sigstore.json"
        for item in self.authenticate({name: envelope.data}).attestations:
            if item.identity is not None:
                return item.identity.owner
            owners = [key.owner for key in self.keys if key.fingerprint == item.key]
            return f"{owners[0]} (key {item.key})" if owners[0] else f"key {item.key}"
        return ""

    def authenticate(self, files: Mapping[str, bytes]) -> Authentication:
        """Who of these signed each file."""
        authenticator = Authenticator(
            keys=self.keys,
            identities=self.identities,
            verify_signature=verify_signature,
            verify_keyless=self.verify_keyless,
        )
        return authenticator.authenticate(files)


def accept(data: bytes, trusted: Trusted, manifest: Manifest, *, where: str) -> Accepted:
    """The attestation in a file of another program, authenticated and about this manifest.

    Raises MalformedError as `dsse.parse_bundle` and `dsse.parse_statement` do, `not-a-statement`,
    `predicate` and `other-release`; AuthenticityError `unknown-signer` and `other-subject`; MachineError
    when its algorithm cannot be checked here.
    """
    strict = strict_form(data, where=where)
    attestation = _authenticated(strict, trusted, where)
    faults = statement_findings(attestation.statement, manifest, where=where)
    _raise_if(faults)
    if not parse_bundle(strict, where=where).keyless:
        strict = _with_hint(strict, attestation, trusted, where)
    return Accepted(data=strict, attestation=attestation, rewritten=strict != data)


def from_raw_signature(payload: bytes, signature: bytes) -> bytes:
    """A bundle around a statement and a bare signature over its pre-authentication encoding."""
    return encode_bundle(payload, signature, hint="")


def raw_signature(data: bytes, *, where: str) -> bytes:
    """The signature in a file: raw bytes, or base64 with white space around it.

    An SSH or PGP signature is refused as in `refuse_foreign_signature`.
    """
    refuse_foreign_signature(data, where=where)
    text = data.strip()
    if re.fullmatch(rb"[A-Za-z0-9+/\r\n]+={0,2}", text):
        return decode_base64(b"".join(text.split()).decode("ascii"), where=where, limit=MAX_SIGNATURE_BYTES)
    return data


def refuse_foreign_signature(data: bytes, *, where: str) -> None:
    """Raises MalformedError (`ssh-signature`, `pgp-signature`): they do not cover a DSSE envelope.

    SSHSIG signs its own framing of namespace and digest (PROTOCOL.sshsig), so no key of the policy could
    verify it as section 5 wants: docs/decisions/0004.
    """
    for kind, mark in _FOREIGN_MARKS.items():
        if data.lstrip().startswith(mark):
            raise MalformedError(
                f"{kind.lower()}-signature",
                f"{kind} signatures cannot be imported",
                where=where,
                expected="a signature over the DSSE envelope (ECDSA, Ed25519 or ML-DSA)",
                found=mark.decode("ascii"),
                hint="sign with `sealift attest sign` (a key file or a token, pkcs11:...), cosign or openssl",
            )


def pem_hint(public: PublicKey) -> str:
    """What `model_signing verify key` compares: the hex SHA-256 of the PEM text."""
    return hashlib.sha256(public.pem.encode("ascii")).hexdigest()


def hint_for(predicate_type: str, public: PublicKey) -> str:
    """The hint a bundle of ours carries; it is unsigned and never trusted."""
    return pem_hint(public) if predicate_type == OMS_TYPE else public.fingerprint


def statement_findings(statement: Statement, manifest: Manifest, *, where: str) -> tuple[Finding, ...]:
    """Why a statement says nothing useful about this manifest; empty when it does."""
    kind = statement.predicate_type
    faults = predicate_findings(kind, statement.predicate, manifest, where=f"{where}: predicate")
    fault = _subject_fault(statement, manifest)
    if not fault:
        return faults
    other = Finding(
        "other-subject",
        "the statement is not about this bundle",
        where=where,
        expected=f"{MANIFEST_NAME} with sha256:{manifest.sha256}",
        found=fault,
        hint="`sealift attest new BUNDLE --type KIND -o statement.json` writes the statement to sign",
        exit_code=ExitCode.AUTHENTICITY,
    )
    return (other, *faults)


def _subject_fault(statement: Statement, manifest: Manifest) -> str:
    if statement.predicate_type == OMS_TYPE:
        return oms_fault(statement, manifest.files, manifest.sha256)
    digest = statement.subjects.get(MANIFEST_NAME)
    if digest is None:
        return "subjects named " + ", ".join(sorted(statement.subjects))[:200]
    return "" if digest == manifest.sha256 else f"sha256:{digest}"


def strict_form(data: bytes, *, where: str) -> bytes:
    """The same payload and signature in the form of section 5: unsigned members are set or left out.

    A bare DSSE envelope is taken as well. Raises MalformedError as `dsse.parse_bundle`, and
    `not-a-statement` for bundles that sign a file instead of a statement.
    """
    value = strict_json.loads(data, limit=strict_json.ATTESTATION_LIMIT, where=where)
    if not isinstance(value, dict):
        _refuse_envelope(where, "a JSON object", value)
    if "messageSignature" in value:
        raise MalformedError(
            "not-a-statement",
            "a file was signed, not a statement about it",
            where=where,
            expected="a DSSE envelope with an in-toto statement",
            found="messageSignature",
            hint=f"sign with `{_COSIGN}`, not with `cosign sign-blob`",
        )
    bundle = value if "dsseEnvelope" in value else {"dsseEnvelope": value}
    if bundle.get("mediaType", BUNDLE_MEDIA_TYPE) not in _MEDIA_TYPES:
        _refuse_envelope(where, " or ".join(_MEDIA_TYPES), bundle["mediaType"])
    rebuilt = strict_json.dumps(
        {
            "mediaType": BUNDLE_MEDIA_TYPE,
            "verificationMaterial": _material(bundle.get("verificationMaterial"), where),
            "dsseEnvelope": _envelope(bundle["dsseEnvelope"]),
        }
    )
    parse_bundle(rebuilt, where=where)
    return rebuilt


def _envelope(value: Any) -> Any:
    """The envelope with only the members of section 5; anything odd is left for `parse_bundle` to refuse."""
    if not isinstance(value, dict) or not isinstance(value.get("signatures"), list):
        return value
    # The key id is unsigned: a claim about a key that nobody checks (cosign refuses one).
    signatures = [
        {"sig": item["sig"], "keyid": ""} if isinstance(item, dict) and "sig" in item else item
        for item in value["signatures"]
    ]
    known = {name: value[name] for name in ("payload", "payloadType") if name in value}
    return {**known, "signatures": signatures}


def _material(value: Any, where: str) -> Any:
    """Key-signed: nothing of it is signed, so nothing is kept. Keyless: the proofs, without other members."""
    if not isinstance(value, dict) or not value.keys() & {"certificate", "x509CertificateChain"}:
        return {"publicKey": {"hint": ""}, "tlogEntries": []}
    if "certificate" not in value:
        _refuse_envelope(where, "one certificate of a keyless signature", "x509CertificateChain")
    return _only_known(value, KEYLESS_MATERIAL)


def _only_known(value: Any, shape: Shape) -> Any:
    if isinstance(shape, dict) and isinstance(value, dict):
        known = {name.rstrip("?"): part for name, part in shape.items()}
        kept = {name: item for name, item in value.items() if name in known and item is not None}
        return {name: _only_known(item, known[name]) for name, item in kept.items()}
    if isinstance(shape, list) and isinstance(value, list):
        return [_only_known(item, shape[0]) for item in value]
    return value


def _authenticated(data: bytes, trusted: Trusted, where: str) -> Attestation:
    result = trusted.authenticate({"incoming.sigstore.json": data})
    _raise_if(tuple(_at(finding, where) for finding in result.findings))
    if not result.attestations:
        raise MachineError(
            "not-checked",
            "a keyless signature cannot be checked without the Sigstore root",
            where=where,
            expected="trusted_root.json beside the policy",
            hint="name it with --trusted-root FILE",
        )
    return result.attestations[0]


def _at(finding: Finding, where: str) -> Finding:
    """The finding with the place a person knows, and what helps someone who imports."""
    place = finding.where.replace("attestations/incoming.sigstore.json", where)
    hint = finding.hint
    if finding.reference == "unknown-signer":
        hint = "was exactly the statement of `sealift attest new` signed, by this key, over type and payload?"
    return replace(finding, where=place, hint=hint)


def _with_hint(data: bytes, attestation: Attestation, trusted: Trusted, where: str) -> bytes:
    """The bundle with the hint that third-party verifiers compare, computed from the key that signed."""
    envelope: Envelope = parse_bundle(data, where=where)
    key = next(key for key in trusted.keys if key.fingerprint == attestation.key)
    hint = hint_for(attestation.statement.predicate_type, public_from_spki(key.spki, where=where))
    return encode_bundle(envelope.payload, envelope.signature, hint=hint)


def _raise_if(findings: Sequence[Finding]) -> None:
    if findings:
        raise SealiftError.of(tuple(findings))


def _refuse_envelope(where: str, expected: str, found: object) -> NoReturn:
    raise MalformedError(
        "bad-envelope",
        "an attestation is not a Sigstore bundle v0.3 with a DSSE envelope",
        where=where,
        expected=expected,
        found=repr(found)[:200],
        hint=f"sign with `{_COSIGN}`",
    )
