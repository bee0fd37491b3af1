"""Keyless signing through Sigstore: a certificate for ten minutes in place of a key. Connected side only.

The trust config (trusted root and service addresses of one Sigstore instance) is given as a file, or is
that of the public instance. What comes back is brought into the strict form and verified as the perimeter
will do it, from the trusted root alone, before anything is written. `sigstore` loads only here, in use.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bundler.errors import AuthenticityError, MalformedError, NetworkError, UsageError
from bundler.signing.attestation_import import strict_form
from bundler.trust.dsse import Envelope, parse_bundle
from bundler.trust.keyless import OfflineKeylessVerifier
from bundler.trust.policy_document import Identity

if TYPE_CHECKING:
    from cryptography.x509 import Certificate
    from sigstore.models import ClientTrustConfig
    from sigstore.oidc import IdentityToken
    from sigstore.sign import Signer

TRUST_CONFIG_LIMIT = 16 << 20
TOKEN_LIMIT = 64 << 10
# https://github.com/sigstore/fulcio/blob/main/docs/oid-info.md: the issuer, as plain text and as UTF8String
_ISSUER_V1, _ISSUER_V2 = "1.3.6.1.4.1.57264.1.1", "1.3.6.1.4.1.57264.1.8"


@dataclass(frozen=True, slots=True, kw_only=True)
class SigstoreInstance:
    """One Sigstore instance: where it is reached, and the trusted root its signatures are checked against."""

    config: ClientTrustConfig
    trusted_root: bytes

    @classmethod
    def of_file(cls, data: bytes, *, where: str) -> SigstoreInstance:
        """The instance that a client trust config describes. Raises MalformedError (`bad-trust-config`)."""
        from sigstore.errors import Error
        from sigstore.models import ClientTrustConfig

        try:
            return cls.of(ClientTrustConfig.from_json(data.decode("utf-8")))
        except (Error, ValueError) as error:
            raise MalformedError(
                "bad-trust-config",
                "a Sigstore trust config cannot be read",
                where=where,
                expected="application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
                found=str(error)[:200],
                hint="ask the operator of your Sigstore instance for it",
            ) from error

    @classmethod
    def public(cls) -> SigstoreInstance:
        """The public instance, its trusted root refreshed over TUF. Raises NetworkError (`sigstore`)."""
        from sigstore.models import ClientTrustConfig

        with _network_faults("the public Sigstore instance"):
            return cls.of(ClientTrustConfig.production())

    @classmethod
    def of(cls, config: ClientTrustConfig) -> SigstoreInstance:
        """The instance with the bytes of its trusted root, which a policy pins by digest."""
        root = config._inner.trusted_root.to_json()
        return cls(config=config, trusted_root=root.encode("utf-8"))

    @property
    def trusted_root_sha256(self) -> str:
        """The digest for `sigstore.trusted_root` of a policy."""
        return hashlib.sha256(self.trusted_root).hexdigest()


def identity_token(instance: SigstoreInstance, text: str | None, *, may_ask: bool) -> IdentityToken:
    """Who signs: the given token, else the ambient one of a CI job, else a person in a browser.

    Raises UsageError (`no-identity-token`, `bad-identity-token`), NetworkError (`sigstore`).
    """
    from sigstore.oidc import IdentityError, IdentityToken, Issuer, detect_credential

    try:
        with _network_faults("the identity provider"):
            text = text or detect_credential()
            if text:
                return IdentityToken(text)
            if may_ask:
                return Issuer(instance.config.signing_config.get_oidc_url()).identity_token()
    except IdentityError as error:
        raise UsageError(
            "bad-identity-token",
            "the identity token cannot be used",
            expected="an OIDC token for the audience sigstore that is valid now",
            found=str(error)[:200],
            hint="tokens live for minutes: fetch a new one",
        ) from error
    raise UsageError(
        "no-identity-token",
        "it is not known who signs",
        expected="an OIDC token from a file or a CI job, or a terminal to log in from",
        found="none of them",
        hint="name a file with --identity-token-file",
    )


class KeylessAttestor:
    """Attests as the identity in a fresh certificate. `identity` is what a policy must name."""

    def __init__(self, signer: Signer, instance: SigstoreInstance) -> None:
        self._signer = signer
        self.identity = certificate_identity(signer._signing_cert())
        self._verifier = OfflineKeylessVerifier(instance.trusted_root, instance.trusted_root_sha256)

    @property
    def label(self) -> str:
        """The beginning of a digest of the identity."""
        return hashlib.sha256(self.identity.owner.encode()).hexdigest()[:8]

    def made(self, envelope: Envelope) -> bool:
        """Whether this identity signed that envelope."""
        return envelope.keyless and self._verifier(envelope, (self.identity,)) is not None

    def attest(self, payload: bytes) -> bytes:
        """A Sigstore bundle with certificate, log entry and timestamps, verified as the perimeter will do it.

        Raises NetworkError (`sigstore`), AuthenticityError (`signing-fault`).
        """
        from sigstore.dsse import Statement

        with _network_faults("Sigstore"):
            bundle = self._signer.sign_dsse(Statement(payload))
        data = strict_form(bundle.to_json().encode("utf-8"), where="Sigstore's answer")
        envelope = parse_bundle(data, where="Sigstore's answer")
        if envelope.payload != payload or not self.made(envelope):
            raise AuthenticityError(
                "signing-fault",
                "what Sigstore gave back does not verify against its own trusted root",
                where=self.identity.owner,
                hint="does the trust config belong to this instance, and does it name a timestamp authority?",
            )
        return data


@contextmanager
def keyless_attestor(instance: SigstoreInstance, token: IdentityToken) -> Iterator[KeylessAttestor]:
    """An attestor for as long as its certificate lives (ten minutes). Raises NetworkError (`sigstore`)."""
    from sigstore.sign import SigningContext

    with _network_faults("Sigstore"):
        context = SigningContext.from_trust_config(instance.config)
        signer = context.signer(token)
        opened = signer.__enter__()
        attestor = KeylessAttestor(opened, instance)
    try:
        yield attestor
    finally:
        signer.__exit__(None, None, None)


def certificate_identity(certificate: Certificate) -> Identity:
    """Issuer and name in a signing certificate. Raises AuthenticityError (`signing-fault`)."""
    from cryptography import x509

    extensions = certificate.extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    sans = [
        *names.get_values_for_type(x509.RFC822Name),
        *names.get_values_for_type(x509.UniformResourceIdentifier),
    ]
    issuer = _issuer(extensions)
    if len(sans) != 1 or not issuer:
        raise AuthenticityError(
            "signing-fault",
            "the certificate does not name one identity that a policy could name",
            expected="one e-mail address or URI, and an issuer",
            found=f"{len(sans)} names, issuer {issuer!r}",
        )
    return Identity(issuer=issuer, san=sans[0])


def _issuer(extensions: Any) -> str:
    values = {item.oid.dotted_string: item.value for item in extensions}
    if _ISSUER_V1 in values:
        text: bytes = values[_ISSUER_V1].value
        return text.decode("utf-8")
    if _ISSUER_V2 in values:
        # A DER UTF8String of less than 128 bytes: tag, length, text.
        text = values[_ISSUER_V2].value[2:]
        return text.decode("utf-8")
    return ""


@contextmanager
def _network_faults(what: str) -> Iterator[None]:
    """Turns what the library and its services refuse into an error of ours, with the service's words."""
    from sigstore._internal.fulcio import ExpiredCertificate
    from sigstore._internal.fulcio.client import FulcioClientError
    from sigstore._internal.rekor import RekorClientError
    from sigstore.errors import Error
    from sigstore.oidc import ExpiredIdentity, IdentityError, IssuerError

    try:
        yield
    except IdentityError:
        raise
    except (
        Error,
        FulcioClientError,
        RekorClientError,
        IssuerError,
        ExpiredIdentity,
        ExpiredCertificate,
        OSError,
    ) as error:
        raise NetworkError(
            "sigstore",
            f"{what} did not give what signing needs",
            found=f"{type(error).__name__}: {error} {error.__cause__ or ''}".strip()[:400],
            hint="is it reachable, and does the trust config name the right addresses?",
        ) from error
