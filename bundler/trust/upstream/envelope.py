"""Signed statements as upstream writes them: Sigstore bundles and in-toto statements of many tools.

Strict where a reading decides about trust, lenient where only our own format is strict: unknown members are
passed over, any verification material is taken, a predicate may be null (PEP 740 has such).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from bundler.core import strict_json
from bundler.core.digest import is_sha256_hex
from bundler.errors import MalformedError
from bundler.trust.dsse import PAYLOAD_TYPE, STATEMENT_TYPE, decode_base64, pre_authentication_encoding

LIMIT = 32 << 20
MAX_SIGNATURE_BYTES = 8192
MAX_SUBJECTS = 1024
LARGEST = 10**300
"""The largest integer in what others signed: predicates hold times in nanoseconds, which are beyond 2^53."""
_BUNDLE = "application/vnd.dev.sigstore.bundle"


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamEnvelope:
    """One DSSE envelope. Nothing of it is trusted yet."""

    payload: bytes
    payload_type: str
    signature: bytes

    @property
    def signed_bytes(self) -> bytes:
        """What the signature covers."""
        return pre_authentication_encoding(self.payload, self.payload_type)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamStatement:
    """An in-toto statement: `subjects` are pairs of name (may be empty) and hex SHA-256 (may be empty)."""

    predicate_type: str
    subjects: tuple[tuple[str, str], ...]
    predicate: Any


def read_envelope(data: bytes, *, where: str) -> UpstreamEnvelope:
    """The DSSE envelope of a Sigstore bundle of any version.

    Raises MalformedError: `bad-envelope`, `bad-base64`, and those of strict JSON.
    """
    value = read_object(data, limit=LIMIT, where=where, largest=LARGEST)
    if not str(value.get("mediaType")).startswith(_BUNDLE):
        refuse(where, "a Sigstore bundle", value.get("mediaType"))
    envelope = value.get("dsseEnvelope")
    if not isinstance(envelope, dict):
        refuse(where, "a DSSE envelope in the Sigstore bundle", sorted(value))
    if envelope.get("payloadType") != PAYLOAD_TYPE:
        refuse(where, f"payloadType {PAYLOAD_TYPE}", envelope.get("payloadType"))
    signatures = envelope.get("signatures")
    # Exactly one: readers differ in which of several they look at.
    if not isinstance(signatures, list) or len(signatures) != 1 or not isinstance(signatures[0], dict):
        refuse(where, "exactly one signature", signatures)
    return UpstreamEnvelope(
        payload=base64_member(envelope, "payload", where=where),
        payload_type=PAYLOAD_TYPE,
        signature=base64_member(signatures[0], "sig", where=where, limit=MAX_SIGNATURE_BYTES),
    )


def read_statement(
    payload: bytes, *, where: str, types: tuple[str, ...] = (STATEMENT_TYPE,)
) -> UpstreamStatement:
    """The statement in an authenticated payload; `types` are the versions of in-toto that may be there.

    Raises MalformedError: `bad-envelope`, and those of strict JSON.
    """
    value = read_object(payload, limit=LIMIT, where=where, largest=LARGEST)
    if value.get("_type") not in types:
        refuse(where, " or ".join(types), value.get("_type"))
    kind, subjects = value.get("predicateType"), value.get("subject")
    if not isinstance(kind, str) or not isinstance(subjects, list) or len(subjects) > MAX_SUBJECTS:
        refuse(where, f"a predicateType and at most {MAX_SUBJECTS} subjects", kind)
    return UpstreamStatement(
        predicate_type=kind,
        subjects=tuple(_subject(item, where) for item in subjects),
        predicate=value.get("predicate"),
    )


def _subject(item: object, where: str) -> tuple[str, str]:
    digests = item.get("digest") if isinstance(item, dict) else None
    name = item.get("name", "") if isinstance(item, dict) else None
    if not isinstance(digests, dict) or not isinstance(name, str):
        refuse(where, "a subject with a name and digests", item)
    sha256 = digests.get("sha256", "")
    return name, sha256 if is_sha256_hex(sha256) else ""


def read_object(
    data: bytes, *, limit: int, where: str, largest: int = strict_json.MAX_INTEGER
) -> Mapping[str, Any]:
    """The JSON object in `data`, with floats and integers up to `largest`. Raises MalformedError.

    A key that stands twice is always refused: readers differ on which value was signed.
    """
    value = strict_json.loads(data, limit=limit, where=where, allow_floats=True, largest=largest)
    if not isinstance(value, dict):
        refuse(where, "an object", value)
    return value


def base64_member(value: Mapping[str, Any], name: str, *, where: str, limit: int = LIMIT) -> bytes:
    """The bytes in a member that holds base64. Raises MalformedError."""
    text = value.get(name)
    if not isinstance(text, str):
        refuse(where, f"base64 in `{name}`", text)
    return decode_base64(text, where=f"{where}: {name}", limit=limit)


def refuse(where: str, expected: str, found: object) -> NoReturn:
    """Raises MalformedError (`bad-envelope`)."""
    raise MalformedError(
        "bad-envelope",
        "a signed document of upstream is not valid",
        where=where,
        expected=expected,
        found=found[:200] if isinstance(found, str) else repr(found)[:200],
    )
