"""Who signed each attestation: every file must authenticate against a key or identity (section 5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Optional

from bundler.errors import AuthenticityError, ExitCode, Finding, MalformedError, SealiftError
from bundler.trust.dsse import FILE_SUFFIX, Envelope, Statement, parse_bundle, parse_statement
from bundler.trust.policy_document import Identity, PolicyKey
from bundler.trust.spki import can_be_signature

MAX_ATTESTATIONS = 64
"""Files in `attestations/`: some ten statements by some people each; bounds the work of a hostile bundle."""


@dataclass(frozen=True)
class KeylessSigner:
    """An identity that a certificate and a log entry prove, and when it signed (seconds since 1970 UTC)."""

    identity: Identity
    signed_at: int


VerifySignature = Callable[[PolicyKey, bytes, bytes], Optional[bool]]  # noqa: UP045 - also runs on Python 3.9
"""Key, message and signature to whether it is good; None when this program cannot check that algorithm."""
VerifyKeyless = Callable[[Envelope, Sequence[Identity]], Optional[KeylessSigner]]  # noqa: UP045 - as above
"""A keyless envelope and the identities in question to the one that signed it; None when none did."""


@dataclass(frozen=True)
class Attestation:
    """An authenticated statement. `key` is the signer's fingerprint, or `identity` who it is.

    Whether the signer may say so, or is revoked, is the policy's to decide. `signed_at` is known for
    keyless signatures only.
    """

    name: str
    statement: Statement
    key: str = ""
    identity: Identity | None = None
    signed_at: int | None = None


@dataclass(frozen=True)
class Unchecked:
    """A file that this program cannot check: it may be signed by one of `keys`, or keyless, or by nobody."""

    name: str
    keys: frozenset[str] = frozenset()
    keyless: bool = False


@dataclass(frozen=True)
class Authentication:
    """The outcome of step 4: who signed what, what is wrong, and what could not be checked here."""

    attestations: tuple[Attestation, ...]
    findings: tuple[Finding, ...]
    unchecked: tuple[Unchecked, ...] = ()


@dataclass(frozen=True)
class Authenticator:
    """The keys and identities that may sign, and the two ways to check them."""

    keys: Sequence[PolicyKey]
    identities: Sequence[Identity]
    verify_signature: VerifySignature
    verify_keyless: VerifyKeyless | None = None

    def authenticate(self, files: Mapping[str, bytes], *, folder: str = "attestations") -> Authentication:
        """Every file of `files` (name to bytes), in name order; all findings, not only the first."""
        if len(files) > MAX_ATTESTATIONS:
            return Authentication((), (_too_many(len(files), folder),))
        found: list[Attestation] = []
        findings: list[Finding] = []
        unchecked: list[Unchecked] = []
        for name in sorted(files):
            try:
                outcome = self._one(name, files[name], f"{folder}/{name}")
            except SealiftError as error:
                findings.extend(error.findings)
                continue
            if isinstance(outcome, Unchecked):
                unchecked.append(outcome)
            else:
                found.append(outcome)
        return Authentication(tuple(found), tuple(findings), tuple(unchecked))

    def _one(self, name: str, data: bytes, where: str) -> Attestation | Unchecked:
        """The authenticated statement, or that nobody here can check it. Raises SealiftError."""
        envelope = parse_bundle(data, where=where)
        if not name.endswith(FILE_SUFFIX):
            raise MalformedError(
                "attestation-name",
                "a file is not named as an attestation",
                where=where,
                expected=f"only files that end in {FILE_SUFFIX}",
                found=name,
            )
        return (
            self._keyless(name, envelope, where) if envelope.keyless else self._keyed(name, envelope, where)
        )

    def _keyed(self, name: str, envelope: Envelope, where: str) -> Attestation | Unchecked:
        message = envelope.signed_bytes
        unable: set[str] = set()
        # The hint only decides which key is tried first; every key is tried.
        for key in sorted(self.keys, key=lambda key: key.fingerprint != envelope.untrusted_hint):
            if not can_be_signature(key.algorithm, envelope.signature):
                continue
            good = self.verify_signature(key, message, envelope.signature)
            if good:
                statement = parse_statement(envelope.payload, where=where)
                return Attestation(name, statement, key=key.fingerprint)
            if good is None:
                unable.add(key.fingerprint)
        if unable:
            return Unchecked(name, keys=frozenset(unable))
        raise _unknown_signer(where, f"a signature by none of the {len(self.keys)} keys of the policy")

    def _keyless(self, name: str, envelope: Envelope, where: str) -> Attestation | Unchecked:
        if not self.identities:
            raise _unknown_signer(where, "a keyless signature, and the policy names no identity")
        if self.verify_keyless is None:
            return Unchecked(name, keyless=True)
        signer = self.verify_keyless(envelope, self.identities)
        if signer is None:
            raise _unknown_signer(where, "a keyless signature by none of the policy's identities")
        statement = parse_statement(envelope.payload, where=where)
        return Attestation(name, statement, identity=signer.identity, signed_at=signer.signed_at)


def _unknown_signer(where: str, found: str) -> AuthenticityError:
    return AuthenticityError(
        "unknown-signer",
        "an attestation is signed by nobody the policy knows",
        where=where,
        expected="a signature over exactly this payload and type by a key or identity of the policy",
        found=found,
        hint="ask who put it there; `sealift trust show POLICY` lists who may sign",
    )


def _too_many(count: int, folder: str) -> Finding:
    return Finding(
        "too-many",
        "there are more attestations than a verifier reads",
        where=folder,
        expected=f"at most {MAX_ATTESTATIONS} files",
        found=f"{count} files",
        exit_code=ExitCode.MALFORMED,
    )
