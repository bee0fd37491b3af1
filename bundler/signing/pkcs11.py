"""Keys that stay on a token (HSM, smart card, SoftHSM), reached through PKCS#11 v2.40.

The statement is hashed here and only the digest goes to the token (CKM_ECDSA, which every token has);
the token answers r || s, which becomes the DER of X9.62 that DSSE readers expect. Every signature is
verified before it is handed out. `python-pkcs11` is an optional extra and loads only here.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from bundler.errors import AuthenticityError, MachineError, MalformedError, UsageError
from bundler.signing.pkcs11_uri import Pkcs11Uri
from bundler.signing.signer import verified
from bundler.trust import spki
from bundler.trust.keys import PublicKey, public_from_spki

EXTRA = "pkcs11"
Pin = Callable[[str], str]
"""What the PIN is for, in words, to the PIN."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Curve:
    """A named curve: its OID as DER (CKA_EC_PARAMS), the digest it signs, the bytes of a coordinate."""

    algorithm: str
    parameters: bytes
    digest: str
    size: int
    spki_prefix: bytes


# RFC 5480 section 2.1.1.1: secp256r1 and secp384r1; the SPKI up to the raw point 04 || X || Y.
_CURVES = (
    _Curve(
        algorithm=spki.ECDSA_P256,
        parameters=bytes.fromhex("06082a8648ce3d030107"),
        digest="sha256",
        size=32,
        spki_prefix=bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200"),
    ),
    _Curve(
        algorithm=spki.ECDSA_P384,
        parameters=bytes.fromhex("06052b81040022"),
        digest="sha384",
        size=48,
        spki_prefix=bytes.fromhex("3076301006072a8648ce3d020106052b81040022036200"),
    ),
)
ALGORITHMS = tuple(curve.algorithm for curve in _CURVES)


class Pkcs11Signer:
    """Signs with a key on a token. A context manager: the session is closed, and logged out, at its end."""

    def __init__(self, session: Any, key: Any, public: PublicKey, curve: _Curve) -> None:
        self._session, self._key, self._public, self._curve = session, key, public, curve

    @classmethod
    def open(cls, uri: Pkcs11Uri, pin: Pin, *, module: str = "") -> Self:
        """The signer of the one key that `uri` selects; `module` is used when it names none.

        Raises MachineError (`extra-missing`, `pkcs11-module`, `token-fault`, `pin-locked`), UsageError
        (`no-pkcs11-module`, `no-such-token`, `ambiguous-token`, `no-such-object`, `ambiguous-object`),
        AuthenticityError (`wrong-pin`), MalformedError (`bad-key`: neither P-256 nor P-384).
        """
        session = _login(uri, pin, module)
        try:
            with _token_faults(str(uri)):
                key = _the_one(_keys(session, uri, private=True), uri, "private key")
                public, curve = _public_of(session, key, uri)
        except BaseException:
            session.close()
            raise
        return cls(session, key, public, curve)

    @property
    def public(self) -> PublicKey:
        """The public key, with its algorithm and fingerprint."""
        return self._public

    def sign(self, message: bytes) -> bytes:
        """The signature over `message` as DER. Raises AuthenticityError (`signing-fault`)."""
        from pkcs11 import Mechanism

        digest = hashlib.new(self._curve.digest, message).digest()
        with _token_faults(f"key {self._public.fingerprint}"):
            raw: bytes = self._key.sign(digest, mechanism=Mechanism.ECDSA)
        return verified(self._public, message, der_signature(raw, self._curve.size))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.close()


def der_signature(raw: bytes, size: int) -> bytes:
    """r || s of a token, each of `size` bytes, as DER. Raises AuthenticityError (`signing-fault`)."""
    if len(raw) != 2 * size:
        raise AuthenticityError(
            "signing-fault",
            "the token's answer is not an ECDSA signature",
            expected=f"{2 * size} bytes",
            found=f"{len(raw)} bytes",
            hint="do not use this token until the cause is known",
        )
    return encode_dss_signature(int.from_bytes(raw[:size], "big"), int.from_bytes(raw[size:], "big"))


def read_public_key(uri: Pkcs11Uri, pin: Pin, *, module: str = "") -> PublicKey:
    """The public key that `uri` selects. The PIN is asked only when the token does not show it without.

    Errors as in `Pkcs11Signer.open`.
    """
    session = _session(uri, module)
    with session, _token_faults(str(uri)):
        keys = _keys(session, uri, private=False)
        if keys:
            return _read_point(_the_one(keys, uri, "public key"), uri)[0]
    with Pkcs11Signer.open(uri, pin, module=module) as signer:
        return signer.public


def generate(uri: Pkcs11Uri, pin: Pin, *, algorithm: str = spki.ECDSA_P256, module: str = "") -> PublicKey:
    """Make a key pair inside the token, with the label (and id) of `uri`; gives back the public part.

    The private key is sensitive and cannot be extracted; the token is asked once more whether that is so.
    Raises UsageError (`object-exists`, `no-label`) and as `Pkcs11Signer.open`.
    """
    if not uri.label:
        raise UsageError(
            "no-label",
            "a new key needs a name on its token",
            where=str(uri),
            expected="object=NAME in the URI",
            hint="for example: pkcs11:token=airgap;object=release",
        )
    session = _login(uri, pin, module, writable=True)
    with session, _token_faults(str(uri)):
        if _keys(session, uri, private=True) or _keys(session, uri, private=False):
            raise UsageError(
                "object-exists",
                "a key is never overwritten",
                where=str(uri),
                expected="a name and id that are free on this token",
                hint="choose another object=NAME",
            )
        _generate_pair(session, uri, next(curve for curve in _CURVES if curve.algorithm == algorithm))
    with Pkcs11Signer.open(uri, pin, module=module) as signer:
        verified(signer.public, b"sealift", signer.sign(b"sealift"))
        return signer.public


def _generate_pair(session: Any, uri: Pkcs11Uri, curve: _Curve) -> None:
    from pkcs11 import Attribute, KeyType

    domain = session.create_domain_parameters(KeyType.EC, {Attribute.EC_PARAMS: curve.parameters}, local=True)
    public, private = domain.generate_keypair(
        id=uri.id or secrets.token_bytes(16),
        label=uri.label,
        store=True,
        private_template={
            Attribute.SENSITIVE: True,
            Attribute.EXTRACTABLE: False,
            Attribute.PRIVATE: True,
            Attribute.SIGN: True,
            Attribute.DERIVE: False,
        },
        public_template={Attribute.VERIFY: True, Attribute.PRIVATE: False, Attribute.DERIVE: False},
    )
    if private[Attribute.EXTRACTABLE] or not private[Attribute.SENSITIVE]:
        public.destroy()
        private.destroy()
        raise MachineError(
            "key-extractable",
            "the token would let the private key out",
            where=str(uri),
            expected="a sensitive key that cannot be extracted",
            hint="use another token; this key was destroyed again",
        )


def _python_pkcs11() -> Any:
    try:
        import pkcs11
    except ImportError as error:
        raise MachineError(
            "extra-missing",
            "keys on tokens need python-pkcs11, which is not installed",
            expected=f"the extra {EXTRA} of sealift",
            found=str(error),
            hint=f"`python3 -m pip install 'sealift[{EXTRA}]'`, without a network from a folder of wheels: "
            f"`python3 -m pip install --no-index --find-links WHEELS 'sealift[{EXTRA}]'`",
        ) from error
    return pkcs11


def _library(uri: Pkcs11Uri, module: str) -> Any:
    path = uri.module_path or module
    if not path:
        raise UsageError(
            "no-pkcs11-module",
            "it is not said which PKCS#11 module reaches the token",
            where=str(uri),
            expected="the vendor's library (.so)",
            hint="add ?module-path=/path/to/module.so to the URI, or set SEALIFT_PKCS11_MODULE",
        )
    pkcs11 = _python_pkcs11()
    # Loading a library runs it: only one whose whole path was given, never one found on a search path.
    if not Path(path).is_absolute() or not Path(path).is_file():
        raise MachineError(
            "pkcs11-module",
            "there is no PKCS#11 module at this path",
            where=path,
            expected="an absolute path to a library (.so)",
            hint="on Debian, `dpkg -L softhsm2` or the vendor's manual tells where it is",
        )
    try:
        return pkcs11.lib(path)
    except (pkcs11.PKCS11Error, RuntimeError, OSError) as error:
        raise MachineError(
            "pkcs11-module", "a PKCS#11 module cannot be used", where=path, found=_named(error)
        ) from error


def _token(uri: Pkcs11Uri, module: str) -> Any:
    library = _library(uri, module)
    pkcs11 = _python_pkcs11()
    with _token_faults(str(uri)):
        present = list(library.get_tokens(token_flags=pkcs11.TokenFlag.TOKEN_INITIALIZED))
    matching = [token for token in present if _fits(token, uri)]
    if len(matching) == 1:
        return matching[0]
    reference = "ambiguous-token" if matching else "no-such-token"
    raise UsageError(
        reference,
        "several tokens fit the URI" if matching else "no token fits the URI",
        where=str(uri),
        expected="exactly one token",
        found=_listed([_token_text(token) for token in matching or present]),
        hint="add token=LABEL or serial=NUMBER to the URI" if matching else "is the token plugged in?",
    )


def _fits(token: Any, uri: Pkcs11Uri) -> bool:
    wanted = (uri.token, uri.serial, uri.manufacturer, uri.model)
    found = (token.label, _text(token.serial), token.manufacturer_id, token.model)
    return all(not want or want == have.rstrip(" \0") for want, have in zip(wanted, found, strict=True))


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _token_text(token: Any) -> str:
    return f"token={token.label.rstrip()};serial={_text(token.serial).rstrip(' ' + chr(0))}"


def _session(uri: Pkcs11Uri, module: str) -> Any:
    token = _token(uri, module)
    with _token_faults(str(uri)):
        return token.open()


def _login(uri: Pkcs11Uri, pin: Pin, module: str, *, writable: bool = False) -> Any:
    token = _token(uri, module)
    pkcs11 = _python_pkcs11()
    # A token with a PIN pad takes the PIN itself; it never passes through this machine.
    pad = bool(token.flags & pkcs11.TokenFlag.PROTECTED_AUTHENTICATION_PATH)
    typed: Any = pkcs11.PROTECTED_AUTH if pad else pin(f"token {token.label.rstrip()}")
    with _token_faults(str(uri)):
        return token.open(rw=writable, user_pin=typed)


def _keys(session: Any, uri: Pkcs11Uri, *, private: bool) -> list[Any]:
    """Every key object of this label and id, of any kind: another kind must not hide behind a filter."""
    from pkcs11 import Attribute, ObjectClass

    wanted: dict[Any, Any] = {Attribute.CLASS: ObjectClass.PRIVATE_KEY if private else ObjectClass.PUBLIC_KEY}
    if uri.label:
        wanted[Attribute.LABEL] = uri.label
    if uri.id:
        wanted[Attribute.ID] = uri.id
    return list(session.get_objects(wanted))


def _the_one(keys: Sequence[Any], uri: Pkcs11Uri, what: str) -> Any:
    if len(keys) == 1:
        return keys[0]
    raise UsageError(
        "ambiguous-object" if keys else "no-such-object",
        f"several objects fit the URI as {what}" if keys else f"no {what} on the token fits the URI",
        where=str(uri),
        expected=f"exactly one {what}",
        found=_listed([f"object={key.label};id={_percent(key.id)}" for key in keys]),
        hint="add id=%.. to the URI" if keys else "is the object's name right, and is it on this token?",
    )


def _public_of(session: Any, key: Any, uri: Pkcs11Uri) -> tuple[PublicKey, _Curve]:
    """The public key that belongs to a private one: the object with the same id (PKCS#11 2.40, 4.7)."""
    from pkcs11 import Attribute, ObjectClass

    wanted = {Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.ID: key.id}
    return _read_point(_the_one(list(session.get_objects(wanted)), uri, "public key"), uri)


def _read_point(key: Any, uri: Pkcs11Uri) -> tuple[PublicKey, _Curve]:
    from pkcs11 import Attribute, KeyType

    curves = []
    if key.key_type == KeyType.EC:
        curves = [curve for curve in _CURVES if curve.parameters == key[Attribute.EC_PARAMS]]
    if not curves:
        raise MalformedError(
            "bad-key",
            "a key on the token is of a kind that sealift does not sign with",
            where=str(uri),
            expected="an EC key on P-256 or P-384",
            found="EC on another curve" if key.key_type == KeyType.EC else KeyType(key.key_type).name,
            hint="`sealift keys generate --key pkcs11:... -o NAME.pub` makes one",
        )
    point = raw_point(key[Attribute.EC_POINT], curves[0].size)
    return public_from_spki(curves[0].spki_prefix + point, where=str(uri)), curves[0]


def raw_point(value: bytes, size: int) -> bytes:
    """`04 || X || Y` of CKA_EC_POINT, which is an OCTET STRING around it; some tokens leave that out."""
    length = 1 + 2 * size
    wrapped = b"\x04" + bytes([length])
    if len(value) == length + len(wrapped) and value.startswith(wrapped):
        value = value[len(wrapped) :]
    # The point itself is checked with the whole key: length, encoding, on the curve.
    return value


def _percent(value: bytes) -> str:
    return "".join(f"%{byte:02x}" for byte in value)


def _listed(texts: Sequence[str]) -> str:
    shown = ", ".join(texts[:8]) or "none"
    return f"{shown} and {len(texts) - 8} more" if len(texts) > 8 else shown


def _named(error: BaseException) -> str:
    return f"{type(error).__name__} {error}".strip()[:200]


@contextmanager
def _token_faults(where: str) -> Iterator[None]:
    """Turns what a token refuses into errors of ours; a wrong PIN is told apart from a broken token."""
    import pkcs11

    try:
        yield
    except (pkcs11.PinIncorrect, pkcs11.PinInvalid, pkcs11.PinLenRange) as error:
        raise AuthenticityError(
            "wrong-pin",
            "the token does not open with this PIN",
            where=where,
            found=_named(error),
            hint="try again with care: tokens lock themselves after a few wrong PINs",
        ) from error
    except (pkcs11.PinLocked, pkcs11.PinExpired, pkcs11.UserPinNotInitialized) as error:
        raise MachineError(
            "pin-locked",
            "the token's PIN cannot be used",
            where=where,
            found=_named(error),
            hint="the token's security officer can set a new PIN",
        ) from error
    except pkcs11.PKCS11Error as error:
        raise MachineError(
            "token-fault", "the token refused", where=where, found=_named(error), hint="is it plugged in?"
        ) from error
