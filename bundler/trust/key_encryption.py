"""PKCS#8 private keys encrypted with PBES2: scrypt and AES-256-CBC.

`cryptography` writes encrypted PKCS#8 with PBKDF2 at 2048 rounds, which a graphics card guesses by the
billion; it and OpenSSL both read scrypt. Sources: RFC 8018 (PBES2), RFC 7914 (scrypt), RFC 5958.
"""

from __future__ import annotations

import base64
import os
import textwrap

from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

SCRYPT_COST = 2**14
SCRYPT_BLOCK = 8
SCRYPT_PARALLEL = 8
"""16 MiB, some 0.3 s; OpenSSL 3.0 refuses a cost of 2^15 or more in key files, so time goes into this one."""
_PBES2 = bytes.fromhex("06092a864886f70d01050d")
_SCRYPT = bytes.fromhex("06092b06010401da47040b")
_AES_256_CBC = bytes.fromhex("060960864801650304012a")
_SEQUENCE, _INTEGER, _OCTETS = 0x30, 0x02, 0x04


def encrypt_private_key(pkcs8: bytes, passphrase: bytes | None) -> bytes:
    """PEM text of the PKCS#8 DER `pkcs8`, encrypted unless `passphrase` is None."""
    if passphrase is None:
        return _pem("PRIVATE KEY", pkcs8)
    salt, start = os.urandom(16), os.urandom(16)
    kdf = Scrypt(salt=salt, length=32, n=SCRYPT_COST, r=SCRYPT_BLOCK, p=SCRYPT_PARALLEL)
    encryptor = Cipher(algorithms.AES(kdf.derive(passphrase)), modes.CBC(start)).encryptor()
    padder = padding.PKCS7(128).padder()
    secret = encryptor.update(padder.update(pkcs8) + padder.finalize()) + encryptor.finalize()
    return _pem("ENCRYPTED PRIVATE KEY", _der(_SEQUENCE, _parameters(salt, start), _der(_OCTETS, secret)))


def _parameters(salt: bytes, start: bytes) -> bytes:
    costs = (_integer(number) for number in (SCRYPT_COST, SCRYPT_BLOCK, SCRYPT_PARALLEL))
    scrypt = _der(_SEQUENCE, _SCRYPT, _der(_SEQUENCE, _der(_OCTETS, salt), *costs))
    cipher = _der(_SEQUENCE, _AES_256_CBC, _der(_OCTETS, start))
    return _der(_SEQUENCE, _PBES2, _der(_SEQUENCE, scrypt, cipher))


def _integer(number: int) -> bytes:
    return _der(_INTEGER, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def _der(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    if len(body) < 0x80:
        return bytes([tag, len(body)]) + body
    length = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + body


def _pem(label: str, der: bytes) -> bytes:
    lines = textwrap.fill(base64.b64encode(der).decode("ascii"), 64)
    return f"-----BEGIN {label}-----\n{lines}\n-----END {label}-----\n".encode("ascii")
