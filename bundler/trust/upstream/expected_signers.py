"""The one signer that a spec pins for an artifact: a key, or an identity of a Sigstore instance.

Everything is checked without a network. An identity stands on the trusted root that the lock pins: never
TUF, never the user's cache, which the library trusts unchecked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from bundler.errors import AuthenticityError, MalformedError
from bundler.trust import spki
from bundler.trust.keyless import open_verifier
from bundler.trust.upstream.envelope import read_envelope
from bundler.trust.upstream.log_promise import CERTIFICATE_FAULTS, check_promise

if TYPE_CHECKING:
    from sigstore.verify import Verifier
    from sigstore.verify.policy import VerificationPolicy

MIN_RSA_BITS = 2048
_ISSUER_V2 = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
_SOURCE_DIGEST = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.13")
_SOURCE_REF = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.14")
_BUILD_CONFIG = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.18")
"""https://github.com/sigstore/fulcio/blob/main/docs/oid-info.md"""


class Signer(Protocol):
    """Who must have signed."""

    @property
    def description(self) -> Mapping[str, str]:
        """Who it is, for the manifest: `key` with a fingerprint, or the members of an identity."""

    def payload(self, bundle: bytes, *, where: str) -> bytes:
        """The in-toto payload of a Sigstore bundle that this signer signed.

        Raises MalformedError (`bad-envelope`, and those of strict JSON) or AuthenticityError
        (`not-this-signer`).
        """

    def check_message(
        self, message: bytes, signature: bytes, annotations: Mapping[str, str], *, where: str
    ) -> None:
        """Refuse a bare signature over `message` that this signer did not make.

        `annotations` are what cosign's older form keeps beside it. Raises MalformedError and
        AuthenticityError (`not-this-signer`).
        """


def _refuse(where: str, found: str) -> NoReturn:
    raise AuthenticityError(
        "not-this-signer",
        "a signature is not one of the pinned signer",
        where=where,
        found=found,
    )


# --- keys ---


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySigner:
    """The holder of a key: ECDSA, Ed25519 or RSA (PKCS#1 v1.5 with SHA-256, as cosign makes it)."""

    fingerprint: str
    """SHA-256 of the SubjectPublicKeyInfo DER, lower-case hex."""
    _key: Any = field(repr=False)

    @classmethod
    def parse(cls, pem: bytes, *, where: str) -> KeySigner:
        """The holder of the public key in PEM text. Raises MalformedError (`bad-key`)."""
        try:
            key = serialization.load_pem_public_key(pem)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise _bad_key(where, str(error)[:200]) from error
        usable = isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey) or (
            isinstance(key, rsa.RSAPublicKey) and key.key_size >= MIN_RSA_BITS
        )
        if not usable:
            raise _bad_key(where, type(key).__name__)
        der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        return cls(fingerprint=spki.fingerprint(der), _key=key)

    @property
    def description(self) -> Mapping[str, str]:
        """`key`: the fingerprint."""
        return {"key": f"sha256:{self.fingerprint}"}

    def payload(self, bundle: bytes, *, where: str) -> bytes:
        """See `Signer.payload`. Whatever the bundle says about its signer plays no part."""
        envelope = read_envelope(bundle, where=where)
        self.check_message(envelope.signed_bytes, envelope.signature, {}, where=where)
        return envelope.payload

    def check_message(
        self, message: bytes, signature: bytes, annotations: Mapping[str, str], *, where: str
    ) -> None:
        """See `Signer.check_message`."""
        if not self._verifies(message, signature):
            _refuse(where, f"not signed with the key sha256:{self.fingerprint}")

    def _verifies(self, message: bytes, signature: bytes) -> bool:
        if isinstance(self._key, ec.EllipticCurvePublicKey):
            # cosign takes SHA-256 with every curve, model_signing the curve's own.
            ways: list[tuple[Any, ...]] = [(ec.ECDSA(kind),) for kind in _ecdsa_hashes(self._key.key_size)]
        elif isinstance(self._key, rsa.RSAPublicKey):
            ways = [(padding.PKCS1v15(), hashes.SHA256())]
        else:
            ways = [()]
        return any(_is_good(self._key, signature, message, way) for way in ways)


def _ecdsa_hashes(bits: int) -> list[hashes.HashAlgorithm]:
    own = {384: hashes.SHA384(), 521: hashes.SHA512()}.get(bits)
    return [hashes.SHA256(), own] if own is not None else [hashes.SHA256()]


def _is_good(key: Any, signature: bytes, message: bytes, way: tuple[Any, ...]) -> bool:
    try:
        key.verify(signature, message, *way)
    except InvalidSignature:
        return False
    return True


def _bad_key(where: str, found: str) -> MalformedError:
    return MalformedError(
        "bad-key",
        "a file is not a public key that upstream signatures can be checked with",
        where=where,
        expected=f"PEM text of an ECDSA or Ed25519 key, or of an RSA key of {MIN_RSA_BITS} bits or more",
        found=found,
    )


# --- identities ---


@dataclass(frozen=True, slots=True, kw_only=True)
class SigstoreRoot:
    """The trusted root of a Sigstore instance: its bytes, and the library's verifier over them."""

    data: bytes
    verifier: Verifier

    @classmethod
    def open(cls, data: bytes, *, where: str) -> SigstoreRoot:
        """Raises MalformedError (`bad-trusted-root`) and MachineError (`clock`)."""
        return cls(data=data, verifier=open_verifier(data, where))


@dataclass(frozen=True, slots=True, kw_only=True)
class KeylessSigner:
    """An identity that a certificate and a log entry prove, under one trusted root."""

    description: Mapping[str, str]
    _root: SigstoreRoot = field(repr=False)
    _policy: VerificationPolicy = field(repr=False)

    def payload(self, bundle: bytes, *, where: str) -> bytes:
        """See `Signer.payload`."""
        from sigstore.models import Bundle

        envelope = read_envelope(bundle, where=where)
        noting = _Noting(self._policy)
        with _library_refusals(where, noting):
            kind, payload = self._root.verifier.verify_dsse(Bundle.from_json(bundle), noting)
        # The library parses the JSON once more by itself: both readings must be the same bytes.
        if payload != envelope.payload or kind != envelope.payload_type:
            _refuse(where, "two readers see different payloads in it")
        return payload

    def check_message(
        self, message: bytes, signature: bytes, annotations: Mapping[str, str], *, where: str
    ) -> None:
        """See `Signer.check_message`: with a certificate and the log's promise beside it."""
        certificate = check_promise(message, signature, annotations, root=self._root.data, where=where)
        noting = _Noting(self._policy)
        with _library_refusals(where, noting):
            noting.verify(certificate)


def identity_signer(root: SigstoreRoot, *, issuer: str, san: str) -> KeylessSigner:
    """The identity with exactly this issuer and subject alternative name."""
    from sigstore.verify import policy

    return KeylessSigner(
        description={"issuer": issuer, "san": san},
        _root=root,
        _policy=policy.Identity(identity=san, issuer=issuer),
    )


def github_signer(root: SigstoreRoot, *, repository: str, workflow: str) -> KeylessSigner:
    """The workflow file `workflow` of `owner/name` on GitHub, on any branch or tag of it."""
    source = f"https://github.com/{repository}"
    return KeylessSigner(
        description={"github": repository, "workflow": workflow},
        _root=root,
        _policy=_WorkflowPolicy(
            issuer="https://token.actions.githubusercontent.com",
            source=source,
            config=f"{source}/.github/workflows/{workflow}",
        ),
    )


def gitlab_signer(root: SigstoreRoot, *, repository: str, workflow: str) -> KeylessSigner:
    """The pipeline file `workflow` of `group/project` on GitLab.com, on any branch or tag of it."""
    source = f"https://gitlab.com/{repository}"
    return KeylessSigner(
        description={"gitlab": repository, "workflow": workflow},
        _root=root,
        _policy=_WorkflowPolicy(issuer="https://gitlab.com", source=source, config=f"{source}//{workflow}"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _WorkflowPolicy:
    """A trusted publisher as PEP 740 means it: it knows its repository and file, not the commit it ran on.

    The build configuration's address must be that file at the very commit or ref that the same certificate
    names as its source, so that a workflow of another repository cannot be called instead.
    """

    issuer: str
    source: str
    config: str

    def verify(self, cert: x509.Certificate) -> None:
        """Raises sigstore's VerificationError."""
        from sigstore.errors import VerificationError
        from sigstore.verify import policy

        policy.AllOf([policy.OIDCIssuerV2(self.issuer), policy.OIDCSourceRepositoryURI(self.source)]).verify(
            cert
        )
        places = [text for text in (_text(cert, _SOURCE_DIGEST), _text(cert, _SOURCE_REF)) if text]
        found = _text(cert, _BUILD_CONFIG)
        if found not in [f"{self.config}@{place}" for place in places]:
            raise VerificationError(f"the build was configured by {found}, not by {self.config}")


def _text(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> str:
    """The UTF8String in an extension; empty when it is absent or something else."""
    try:
        raw = certificate.extensions.get_extension_for_oid(oid).value.public_bytes()
    except x509.ExtensionNotFound:
        return ""
    try:
        return asn1.decode_der(str, raw)
    except ValueError:
        return ""


class _Noting:
    """A policy that notes whom the certificate names, once its chain has been verified."""

    def __init__(self, policy: VerificationPolicy) -> None:
        self._policy = policy
        self.other_signer = ""

    def verify(self, cert: x509.Certificate) -> None:
        """Raises what the policy raises."""
        self.other_signer = named_signer(cert)
        self._policy.verify(cert)
        self.other_signer = ""


def named_signer(certificate: x509.Certificate) -> str:
    """Whom a certificate names and who vouched for it, for people; not checked here."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except CERTIFICATE_FAULTS:
        return "nobody"
    shown = ", ".join(str(name.value) for name in names)[:300]
    issuer = _text(certificate, _ISSUER_V2)
    return _plain(f"{shown} (issuer {issuer})" if issuer else shown)


def _plain(text: str) -> str:
    return "".join(character for character in text if character.isprintable())


@contextmanager
def _library_refusals(where: str, noting: _Noting) -> Iterator[None]:
    """What the library says about a hostile bundle, in our words."""
    try:
        yield
    # Beside its own errors it lets through whatever the parsers below it raise on hostile bytes
    # (InvalidVersion, TypeError of a cast, ...): all of them mean that nobody is proven to have signed.
    except Exception as error:
        if noting.other_signer:
            _refuse(where, f"signed by {noting.other_signer}")
        _refuse(where, _plain(f"{type(error).__name__}: {error}")[:300])
