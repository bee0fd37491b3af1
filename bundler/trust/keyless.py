"""Keyless signatures (a certificate and a log entry), verified without a network.

Everything stands on one `trusted_root.json` whose SHA-256 the policy pins: never TUF, whose metadata is
stale within a week in the gap, and never the user's cache, which the library trusts unchecked. The
`sigstore` library loads when the first such signature is met.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bundler.errors import AuthenticityError, MachineError, MalformedError
from bundler.storage.private_folder import private_folder
from bundler.trust.authentication import KeylessSigner
from bundler.trust.dsse import PAYLOAD_TYPE, Envelope
from bundler.trust.policy_document import Identity

if TYPE_CHECKING:
    from sigstore.models import Bundle
    from sigstore.verify import Verifier

TRUSTED_ROOT_LIMIT = 16 << 20


class OfflineKeylessVerifier:
    """Checks keyless envelopes against a pinned trusted root. An instance is a `VerifyKeyless`."""

    def __init__(self, trusted_root: bytes, pinned_sha256: str, *, where: str = "trusted_root.json") -> None:
        """Raises AuthenticityError (`trusted-root`) when the file is not the one the policy pins."""
        found = hashlib.sha256(trusted_root).hexdigest()
        if found != pinned_sha256:
            raise AuthenticityError(
                "trusted-root",
                "the Sigstore root is not the one the policy pins",
                where=where,
                expected=f"sha256:{pinned_sha256}",
                found=f"sha256:{found}",
                hint="take trusted_root.json from where the policy came from",
            )
        self._data = trusted_root
        self._where = where
        self._verifier: Verifier | None = None

    def __call__(self, envelope: Envelope, identities: Sequence[Identity]) -> KeylessSigner | None:
        """Which of `identities` signed, and the earliest time it can have been; None when none did."""
        from sigstore.models import Bundle

        verifier = self._opened()
        # On hostile bytes the library also raises what the parsers below it raise (InvalidVersion, ...).
        try:
            bundle = Bundle.from_json(envelope.data)
        except Exception as error:
            raise MalformedError(
                "bad-envelope",
                "a keyless Sigstore bundle cannot be read",
                where=envelope.where,
                found=str(error)[:200],
            ) from error
        for identity in identities:
            # The library parses the JSON once more by itself: both readings must be the same bytes.
            if _verified_payload(verifier, bundle, identity) == envelope.payload:
                issued = bundle.signing_certificate.not_valid_before_utc
                return KeylessSigner(identity=identity, signed_at=int(issued.timestamp()))
        return None

    def _opened(self) -> Verifier:
        if self._verifier is None:
            self._verifier = open_verifier(self._data, self._where)
        return self._verifier


def _verified_payload(verifier: Verifier, bundle: Bundle, identity: Identity) -> bytes | None:
    """The in-toto payload that `identity` signed; None when the library refuses, for whatever reason.

    It refuses hostile bytes with errors of its own and with those of the parsers below it (ValueError,
    ExtensionNotFound and others): all of them mean that nobody is proven to have signed.
    """
    from sigstore.verify import policy

    try:
        wanted = policy.Identity(identity=identity.san, issuer=identity.issuer)
        kind, payload = verifier.verify_dsse(bundle, wanted)
    except Exception:
        return None
    return payload if kind == PAYLOAD_TYPE else None


def open_verifier(data: bytes, where: str) -> Verifier:
    """The library's verifier over exactly these bytes. Raises MachineError (`clock`), MalformedError."""
    from sigstore.errors import Error, MetadataError
    from sigstore.models import TrustedRoot
    from sigstore.verify import Verifier

    with private_folder("sealift-") as folder:
        copy = folder / "trusted_root.json"
        copy.write_bytes(data)
        try:
            return Verifier(trusted_root=TrustedRoot.from_file(str(copy)))
        except MetadataError as error:
            raise MachineError(
                "clock",
                "no authority of the Sigstore root is valid yet: the clock of this machine is in the past",
                where=where,
                found=str(error)[:200],
                hint="set the clock; one that is ahead does no harm",
            ) from error
        except (Error, ValueError) as error:
            raise MalformedError(
                "bad-trusted-root", "the Sigstore root cannot be read", where=where, found=str(error)[:200]
            ) from error
