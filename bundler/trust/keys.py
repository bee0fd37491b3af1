"""Keys: made, kept encrypted, read back, and what they verify. Uses `cryptography`."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import __version__ as cryptography_version
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from bundler.errors import AuthenticityError, MachineError, MalformedError
from bundler.storage.secret_memory import hide_memory
from bundler.trust import spki
from bundler.trust.key_encryption import encrypt_private_key
from bundler.trust.policy_document import PolicyKey

KEY_FILE_LIMIT = 64 << 10
# In two parts: whoever searches the source for stray keys shall not find this line.
ENCRYPTED_MARK = b"-----BEGIN ENCRYPTED " + b"PRIVATE KEY-----"
PUBLIC_MARK = b"-----BEGIN PUBLIC KEY-----"
DEFAULT_ALGORITHM = spki.ECDSA_P256
"""The only algorithm that every third-party tool accepts (format.md section 5)."""
_DIGESTS = {spki.ECDSA_P256: hashes.SHA256, spki.ECDSA_P384: hashes.SHA384}


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKey:
    """A public key in its canonical encoding."""

    algorithm: str
    spki: bytes

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the SubjectPublicKeyInfo DER, lower-case hex."""
        return spki.fingerprint(self.spki)

    @property
    def pem(self) -> str:
        """The PEM text, with a final line break: what `openssl` and `cosign` read."""
        key = serialization.load_der_public_key(self.spki)
        return key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ).decode("ascii")

    def verifies(self, message: bytes, signature: bytes) -> bool:
        """Whether `signature` is this key's over `message`."""
        key = PolicyKey(fingerprint=self.fingerprint, algorithm=self.algorithm, spki=self.spki, owner="")
        return verify_signature(key, message, signature)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateKey:
    """A private key in memory. Signs; never shown."""

    public: PublicKey
    _key: Any

    def sign(self, message: bytes) -> bytes:
        """The signature over `message`, in the encoding of format.md section 5 (ECDSA as DER)."""
        digest = _DIGESTS.get(self.public.algorithm)
        signature = self._key.sign(message, ec.ECDSA(digest())) if digest else self._key.sign(message)
        assert isinstance(signature, bytes)
        return signature

    def to_pem(self, passphrase: bytes | None) -> bytes:
        """PKCS#8 PEM, encrypted with scrypt and AES-256-CBC; plain when `passphrase` is None."""
        der = self._key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return encrypt_private_key(der, passphrase)

    def __repr__(self) -> str:
        return f"PrivateKey({self.public.algorithm}, {self.public.fingerprint})"


def generate(algorithm: str = DEFAULT_ALGORITHM) -> PrivateKey:
    """A new key. Raises MachineError (`algorithm-unsupported`) when this `cryptography` cannot make it."""
    makers: dict[str, Callable[[], Any]] = {
        spki.ECDSA_P256: lambda: ec.generate_private_key(ec.SECP256R1()),
        spki.ECDSA_P384: lambda: ec.generate_private_key(ec.SECP384R1()),
        spki.ED25519: ed25519.Ed25519PrivateKey.generate,
        spki.ML_DSA_65: _generate_ml_dsa,
    }
    hide_memory()
    return _private(makers[algorithm](), where="new key")


def _generate_ml_dsa() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import mldsa

        return mldsa.MLDSA65PrivateKey.generate()
    except (ImportError, UnsupportedAlgorithm) as error:
        raise _unsupported(spki.ML_DSA_65) from error


def _unsupported(algorithm: str) -> MachineError:
    return MachineError(
        "algorithm-unsupported",
        f"this installation cannot use {algorithm}",
        expected="cryptography 48.0.1 or later with OpenSSL 3.5 or later inside",
        found=f"cryptography {cryptography_version}",
        hint="install a newer cryptography, or use a key of another algorithm",
    )


def _private(key: Any, *, where: str) -> PrivateKey:
    der = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return PrivateKey(public=public_from_spki(der, where=where), _key=key)


def public_from_spki(der: bytes, *, where: str) -> PublicKey:
    """The public key of a canonical SubjectPublicKeyInfo. Raises MalformedError (`bad-key`)."""
    return PublicKey(algorithm=spki.algorithm_of(der, where=where), spki=der)


def read_public_key(path: Path) -> PublicKey:
    """The key in a PEM file. Raises MalformedError (`bad-key`)."""
    return parse_public_key(_read(path), where=str(path))


def parse_public_key(data: bytes, *, where: str) -> PublicKey:
    """The key in PEM text, re-encoded canonically. Raises MalformedError (`bad-key`)."""
    try:
        key = serialization.load_pem_public_key(data)
        der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MalformedError(
            "bad-key",
            "a file is not a public key",
            where=where,
            expected="PEM text that begins with -----BEGIN PUBLIC KEY-----",
            found=str(error)[:200],
            hint="`sealift keys show PRIVATE_KEY` prints the public part of a key",
        ) from error
    return public_from_spki(der, where=where)


def owner_line(owner: str) -> str:
    """The line before a public key's PEM that names its owner; PEM readers skip it (RFC 7468 section 2)."""
    return f"Owner: {owner}\n" if owner else ""


def declared_owner(data: bytes) -> str:
    """Who a public key file says its owner is; empty when it does not. A proposal, until a policy says so."""
    head = data.partition(b"-----BEGIN")[0].decode("utf-8", "replace")
    lines = [line.partition(":")[2].strip() for line in head.splitlines() if line.startswith("Owner:")]
    return lines[0] if lines else ""


def is_private_pem(data: bytes) -> bool:
    """Whether PEM text holds a private key."""
    return b"PRIVATE KEY-----" in data


def is_encrypted_pem(data: bytes) -> bool:
    """Whether a private key's PEM text needs a passphrase."""
    return ENCRYPTED_MARK in data


def read_private_key(path: Path, passphrase: Callable[[], bytes]) -> PrivateKey:
    """The key in an (encrypted) PKCS#8 PEM file; `passphrase` is asked only when it is needed.

    Raises MachineError (`key-file-readable`) when others may read the file, MalformedError (`bad-key`),
    AuthenticityError (`wrong-passphrase`).
    """
    hide_memory()
    data = _read(path)
    _refuse_public(path, data)
    refuse_readable_by_others(path)
    secret = passphrase() if is_encrypted_pem(data) else None
    try:
        key = serialization.load_pem_private_key(data, secret)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        if secret is not None:
            raise AuthenticityError(
                "wrong-passphrase",
                "the key file does not open with this passphrase",
                where=str(path),
                hint="type it again, or name the file that holds it with --passphrase-file",
            ) from error
        raise MalformedError(
            "bad-key",
            "a file is not a private key",
            where=str(path),
            expected="a PKCS#8 PEM file as `sealift keys generate` writes it",
            found=str(error)[:200],
        ) from error
    return _private(key, where=str(path))


def _refuse_public(path: Path, data: bytes) -> None:
    """Before the mode is judged: a public key may be read by everybody."""
    if not is_private_pem(data) and PUBLIC_MARK in data:
        raise MalformedError(
            "bad-key",
            "this is a public key, and the private one is needed",
            where=str(path),
            expected="a PKCS#8 PEM file as `sealift keys generate` writes it",
            found="a public key, which everybody may read",
            hint="name the file with the private key; `sealift keys generate -o NAME.key` writes NAME.key "
            "(private) and NAME.pub (public)",
        )


def refuse_readable_by_others(path: Path) -> None:
    """Raises MachineError (`key-file-readable`) when the group or others may read or write `path`."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise MachineError(
            "key-file-readable",
            "a secret file may be read by others than its owner",
            where=str(path),
            expected="mode 0600 or 0400",
            found=f"mode {mode:04o}",
            hint=f"chmod 600 {shlex.quote(str(path))}",
        )


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size > KEY_FILE_LIMIT:
            raise MalformedError("bad-key", "a file is too large for a key", where=str(path))
        return file.read(KEY_FILE_LIMIT)


def verify_signature(key: PolicyKey, message: bytes, signature: bytes) -> bool:
    """Whether `signature` is that of `key` over `message`, by the key's own algorithm and no other.

    Raises MachineError (`algorithm-unsupported`) when this `cryptography` cannot check it.
    """
    try:
        public: Any = serialization.load_der_public_key(key.spki)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _unsupported(key.algorithm) from error
    digest = _DIGESTS.get(key.algorithm)
    try:
        if digest:
            public.verify(signature, message, ec.ECDSA(digest()))
        else:
            public.verify(signature, message)
    except InvalidSignature:
        return False
    return True
