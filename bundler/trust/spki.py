"""Public keys as SubjectPublicKeyInfo DER, in the one encoding that each key has (standard library only).

A key with two encodings would have two fingerprints, and one person could sign as two (CVE-2020-6174,
GMS-2022-4197). So each algorithm has a fixed DER prefix and length, and the key must be a proper point.
Sources: RFC 5480 (EC), RFC 8410 and RFC 8032 (Ed25519), FIPS 186-5 and SP 800-186, RFC 9881 (ML-DSA).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from bundler.errors import MalformedError

ECDSA_P256 = "ecdsa-p256-sha256"
ECDSA_P384 = "ecdsa-p384-sha384"
ED25519 = "ed25519"
ML_DSA_65 = "ml-dsa-65"


@dataclass(frozen=True)
class _Curve:
    """y^2 = x^3 - 3x + b over the integers modulo p; coordinates have `size` bytes."""

    p: int
    b: int
    size: int

    def point_fault(self, raw: bytes) -> str:
        """Why X || Y is not a point of the curve; empty when it is one."""
        x, y = int.from_bytes(raw[: self.size], "big"), int.from_bytes(raw[self.size :], "big")
        if x >= self.p or y >= self.p:
            return "a coordinate is not below the field's prime"
        if (y * y - (x * x * x - 3 * x + self.b)) % self.p:
            return "the point is not on the curve"
        return ""


_P256 = _Curve(
    p=2**256 - 2**224 + 2**192 + 2**96 - 1,
    b=0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B,
    size=32,
)
_P384 = _Curve(
    p=2**384 - 2**128 - 2**96 + 2**32 - 1,
    b=0xB3312FA7E23EE7E4988E056BE3F82D19181D9C6EFE8141120314088F5013875AC656398D8A2ED19D2A85C8EDD3EC2AEF,
    size=48,
)
_ED_P = 2**255 - 19
_ED_D = -121665 * pow(121666, _ED_P - 2, _ED_P) % _ED_P
_ED_ROOT_OF_MINUS_ONE = pow(2, (_ED_P - 1) // 4, _ED_P)


def _ed25519_fault(raw: bytes) -> str:
    """Why `raw` is not a proper Ed25519 key: not canonical, not on the curve, or of small order."""
    number = int.from_bytes(raw, "little")
    y, sign = number & (2**255 - 1), number >> 255
    if y >= _ED_P:
        return "the coordinate is not below the field's prime"
    x = _ed25519_x(y)
    if x is None or (x == 0 and sign):
        return "the point is not on the curve"
    # For a key of small order a signature can be made that fits many messages.
    point = (x, y)
    for _ in range(3):
        point = _ed25519_double(*point)
    return "the point has a small order" if point == (0, 1) else ""


def _ed25519_x(y: int) -> int | None:
    """A square root of (y^2 - 1) / (d y^2 + 1), as in RFC 8032 section 5.1.3."""
    square = (y * y - 1) * pow(_ED_D * y * y + 1, _ED_P - 2, _ED_P) % _ED_P
    x = pow(square, (_ED_P + 3) // 8, _ED_P)
    if (x * x - square) % _ED_P:
        x = x * _ED_ROOT_OF_MINUS_ONE % _ED_P
    return None if (x * x - square) % _ED_P else x


def _ed25519_double(x: int, y: int) -> tuple[int, int]:
    product = _ED_D * x * x * y * y
    doubled_x = 2 * x * y * pow(1 + product, _ED_P - 2, _ED_P) % _ED_P
    doubled_y = (y * y + x * x) * pow(1 - product, _ED_P - 2, _ED_P) % _ED_P
    return doubled_x, doubled_y


def _any_bytes(_raw: bytes) -> str:
    """Every string of the right length is an ML-DSA public key (FIPS 204, algorithm 23)."""
    return ""


@dataclass(frozen=True)
class _Encoding:
    """The bytes before the raw key, the raw key's length, what the raw key must fulfil, and the lengths
    that a signature can have (ECDSA as DER, so up to a maximum).
    """

    prefix: bytes
    raw_length: int
    fault: Callable[[bytes], str]
    signature_lengths: range


_ENCODINGS = {
    ECDSA_P256: _Encoding(
        bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004"),
        64,
        _P256.point_fault,
        range(8, 73),
    ),
    ECDSA_P384: _Encoding(
        bytes.fromhex("3076301006072a8648ce3d020106052b8104002203620004"),
        96,
        _P384.point_fault,
        range(8, 105),
    ),
    ED25519: _Encoding(bytes.fromhex("302a300506032b6570032100"), 32, _ed25519_fault, range(64, 65)),
    ML_DSA_65: _Encoding(
        bytes.fromhex("308207b2300b0609608648016503040312038207a100"), 1952, _any_bytes, range(3309, 3310)
    ),
}
ALGORITHMS = tuple(_ENCODINGS)


def fingerprint(spki: bytes) -> str:
    """SHA-256 of the DER, in lower-case hex: the only name a key has."""
    return hashlib.sha256(spki).hexdigest()


def grouped(fingerprint_hex: str) -> str:
    """The fingerprint in groups of four, for reading aloud."""
    return " ".join(fingerprint_hex[start : start + 4] for start in range(0, len(fingerprint_hex), 4))


def can_be_signature(algorithm: str, signature: bytes) -> bool:
    """Whether `signature` has a length that `algorithm` makes; all others need not be tried."""
    return len(signature) in _ENCODINGS[algorithm].signature_lengths


def spki_fault(algorithm: str, spki: bytes) -> str:
    """Why `spki` is not a key of `algorithm` in its canonical encoding; empty when it is one."""
    encoding = _ENCODINGS.get(algorithm)
    if encoding is None:
        return f"the algorithm {algorithm[:60]!r} is not known"
    length = len(encoding.prefix) + encoding.raw_length
    if len(spki) != length or not spki.startswith(encoding.prefix):
        return f"it is not the canonical {length}-byte SubjectPublicKeyInfo of {algorithm}"
    return encoding.fault(spki[len(encoding.prefix) :])


def algorithm_of(spki: bytes, *, where: str) -> str:
    """The algorithm whose canonical encoding `spki` is. Raises MalformedError (`bad-key`)."""
    for name, encoding in _ENCODINGS.items():
        if spki.startswith(encoding.prefix) and len(spki) == len(encoding.prefix) + encoding.raw_length:
            fault = spki_fault(name, spki)
            break
    else:
        name, fault = "", "it is of another kind"
    if fault:
        raise MalformedError(
            "bad-key",
            "a public key cannot be used",
            where=where,
            expected="a key of one of " + ", ".join(ALGORITHMS),
            found=fault,
            hint="`sealift keys generate` makes one that every verifier accepts",
        )
    return name
