"""Signers: whatever can make a signature. A key file now; tokens and outside tools have the same shape."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from bundler.errors import AuthenticityError
from bundler.trust.keys import PrivateKey, PublicKey, read_private_key


class Signer(Protocol):
    """Signs bytes with one key that stays where it is."""

    @property
    def public(self) -> PublicKey:
        """The public key, with its algorithm and fingerprint."""

    def sign(self, message: bytes) -> bytes:
        """The signature over `message`, already checked against `public`."""


class FileSigner:
    """Signs with a private key in memory, read from an encrypted key file."""

    def __init__(self, key: PrivateKey) -> None:
        self._key = key

    @classmethod
    def open(cls, path: Path, passphrase: Callable[[], bytes]) -> FileSigner:
        """The signer of a key file; errors as in `keys.read_private_key`."""
        return cls(read_private_key(path, passphrase))

    @property
    def public(self) -> PublicKey:
        """The public key, with its algorithm and fingerprint."""
        return self._key.public

    def sign(self, message: bytes) -> bytes:
        """The signature over `message`."""
        return verified(self.public, message, self._key.sign(message))


def verified(public: PublicKey, message: bytes, signature: bytes) -> bytes:
    """`signature`, if it verifies: a fault while signing can give away an ECDSA key, and misleads readers.

    Raises AuthenticityError (`signing-fault`).
    """
    if not public.verifies(message, signature):
        raise AuthenticityError(
            "signing-fault",
            "a signature just made does not verify",
            where=f"key {public.fingerprint}",
            hint="do not use this key or machine until the cause is known",
        )
    return signature
