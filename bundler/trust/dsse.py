"""Sigstore bundles v0.3 with a DSSE envelope and an in-toto Statement v1, read strictly.

The rules are those of format.md section 5. Nothing here says who signed: `trust.policy` does. Sources:
DSSE https://github.com/secure-systems-lab/dsse/blob/master/protocol.md,
in-toto Statement v1 https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md,
Sigstore bundle v0.3 https://github.com/sigstore/protobuf-specs/blob/main/protos/sigstore_bundle.proto.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, Union

from bundler.core import strict_json
from bundler.core.digest import is_sha256_hex
from bundler.errors import MalformedError

BUNDLE_MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
OUR_TYPES = "urn:sealift:"
"""What the predicate types of our own statements begin with."""
FILE_SUFFIX = ".sigstore.json"
MAX_SIGNATURE_BYTES = 8192
"""The largest signature allowed, ML-DSA-65, has 3309 bytes."""
MAX_SUBJECTS = 64
_LOOKED_AT = 64 << 10
"""Bytes of an envelope with too many marks that are searched for the reason."""
MAX_MARKS = 10_000
"""Marks of structure in an envelope: one with log entries has some 200, and its payload is base64."""

Shape = Union[type, tuple, list, dict]  # type: ignore[type-arg]  # noqa: UP007 - also runs on Python 3.9
_OPTIONAL = "?"
_TEXT = str
# protojson writes 64-bit integers as text; both forms are read by the keyless verifier.
_INTEGER = (str, int)
_LOG_ENTRY: Shape = {
    "logIndex": _INTEGER,
    "logId": {"keyId": _TEXT},
    "kindVersion": {"kind": _TEXT, "version": _TEXT},
    "integratedTime?": _INTEGER,
    "inclusionPromise?": {"signedEntryTimestamp": _TEXT},
    "inclusionProof?": {
        "logIndex?": _INTEGER,
        "rootHash": _TEXT,
        "treeSize": _INTEGER,
        "hashes?": [_TEXT],
        "checkpoint?": {"envelope": _TEXT},
    },
    "canonicalizedBody": _TEXT,
}
_TIMESTAMPS: Shape = {"rfc3161Timestamps?": [{"signedTimestamp": _TEXT}]}
_KEY_MATERIAL: Shape = {
    "publicKey": {"hint?": _TEXT},
    "tlogEntries?": [_LOG_ENTRY],
    "timestampVerificationData?": _TIMESTAMPS,
}
KEYLESS_MATERIAL: Shape = {
    "certificate": {"rawBytes": _TEXT},
    "tlogEntries": [_LOG_ENTRY],
    "timestampVerificationData?": _TIMESTAMPS,
}
_BUNDLE: Shape = {
    "mediaType": _TEXT,
    "verificationMaterial": dict,
    "dsseEnvelope": {
        "payload": _TEXT,
        "payloadType": _TEXT,
        "signatures": [{"sig": _TEXT, "keyid?": _TEXT}],
    },
}
_STATEMENT: Shape = {"_type": _TEXT, "subject": list, "predicateType": _TEXT, "predicate?": dict}
_SUBJECT: Shape = {
    "name": _TEXT,
    "digest": dict,
    "uri?": _TEXT,
    "content?": _TEXT,
    "downloadLocation?": _TEXT,
    "mediaType?": _TEXT,
    "annotations?": dict,
}


@dataclass(frozen=True)
class Envelope:
    """One signature over one payload, as a Sigstore bundle carries it. Nothing of it is trusted yet.

    `untrusted_hint` is what the bundle says about its key: good for the order of tries, for nothing else.
    `keyless` is True when a certificate and a log entry take the place of a key. `data` are the bytes read,
    `where` is what they are called in errors.
    """

    payload: bytes
    signature: bytes
    untrusted_hint: str
    keyless: bool
    data: bytes
    where: str

    @property
    def signed_bytes(self) -> bytes:
        """What the signature covers: the DSSE pre-authentication encoding of type and payload."""
        return pre_authentication_encoding(self.payload)


@dataclass(frozen=True)
class Statement:
    """An in-toto Statement v1. `subjects` maps each name to its lower-case hex SHA-256.

    `sha256` is the digest of the payload's bytes, by which a later statement can supersede this one.
    """

    subjects: Mapping[str, str]
    predicate_type: str
    predicate: Mapping[str, Any]
    sha256: str

    def names(self, sha256: str) -> bool:
        """Whether this digest is that of a subject, or of one of the resources of an OMS statement."""
        resources = self.predicate.get("resources")
        listed = resources if isinstance(resources, list) else []
        digests = (item.get("digest") for item in listed if isinstance(item, dict))
        return sha256 in self.subjects.values() or sha256 in digests


def pre_authentication_encoding(payload: bytes, payload_type: str = PAYLOAD_TYPE) -> bytes:
    """`DSSEv1 SP LEN(type) SP type SP LEN(payload) SP payload`: PAE of the DSSE protocol."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def parse_bundle(data: bytes, *, where: str) -> Envelope:
    """The envelope in the bytes of one `*.sigstore.json`.

    Raises MalformedError: `too-large`, `bad-json`, `too-deep`, `duplicate-key`, `bad-envelope` (members),
    `payload-type`, `signature-count`, `keyid`, `bad-base64`.
    """
    # Nobody has signed the envelope itself: 32 MB of nested nothing must not cost a gigabyte to parse.
    marks = sum(map(data.count, (b"[", b"{", b",")))
    if marks > MAX_MARKS:
        # The better name for it where the beginning shows it; the whole could take seconds to look through.
        strict_json.check_nesting(data[:_LOOKED_AT], where, strict_json.MAX_NESTING)
        _refuse("bad-envelope", where, f"at most {MAX_MARKS} brackets, braces and commas", marks)
    value = strict_json.loads(data, limit=strict_json.ATTESTATION_LIMIT, where=where)
    check_shape(value, _BUNDLE, where=where, reference="bad-envelope")
    if value["mediaType"] != BUNDLE_MEDIA_TYPE:
        _refuse("bad-envelope", where, "mediaType " + BUNDLE_MEDIA_TYPE, value["mediaType"])
    envelope = value["dsseEnvelope"]
    if envelope["payloadType"] != PAYLOAD_TYPE:
        _refuse("payload-type", where, PAYLOAD_TYPE, envelope["payloadType"])
    # Exactly one: readers differ in which of several they look at.
    if len(envelope["signatures"]) != 1:
        _refuse("signature-count", where, "exactly one signature", len(envelope["signatures"]))
    signature = envelope["signatures"][0]
    if signature.get("keyid", "") != "":
        _refuse("keyid", where, "an empty or absent keyid: keys are known by the policy", signature["keyid"])
    keyless, hint = _material(value["verificationMaterial"], where)
    return Envelope(
        payload=decode_base64(envelope["payload"], where=f"{where}: payload"),
        signature=decode_base64(signature["sig"], where=f"{where}: sig", limit=MAX_SIGNATURE_BYTES),
        untrusted_hint=hint,
        keyless=keyless,
        data=data,
        where=where,
    )


def _material(value: Mapping[str, Any], where: str) -> tuple[bool, str]:
    """Whether the bundle is keyless, and its hint. A key-signed one carries nothing that goes unchecked."""
    place = f"{where}: verificationMaterial"
    if "certificate" in value:
        check_shape(value, KEYLESS_MATERIAL, where=place, reference="bad-envelope")
        if not value["tlogEntries"]:
            _refuse("bad-envelope", place, "a transparency log entry beside the certificate", "none")
        return True, ""
    check_shape(value, _KEY_MATERIAL, where=place, reference="bad-envelope")
    stamps = value.get("timestampVerificationData", {}).get("rfc3161Timestamps", [])
    if value.get("tlogEntries") or stamps:
        _refuse("bad-envelope", place, "no log entry or timestamp beside a key: nobody checks them", "some")
    return False, value["publicKey"].get("hint", "")


def decode_base64(text: str, *, where: str, limit: int = strict_json.ATTESTATION_LIMIT) -> bytes:
    """The bytes of canonical standard base64 (RFC 4648 section 4), not empty, at most `limit`.

    One value has one text: junk characters, the URL-safe alphabet, missing or extra padding, line breaks
    and non-zero spare bits are refused. Raises MalformedError (`bad-base64`).
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if not data or len(data) > limit or base64.b64encode(data).decode("ascii") != text:
        _refuse("bad-base64", where, f"canonical standard base64 of 1 to {limit} bytes", text[:60])
    return data


def encode_bundle(payload: bytes, signature: bytes, *, hint: str) -> bytes:
    """The bytes of a key-signed Sigstore bundle; what `parse_bundle` reads back."""
    return strict_json.dumps(
        {
            "mediaType": BUNDLE_MEDIA_TYPE,
            "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []},
            "dsseEnvelope": {
                "payload": base64.b64encode(payload).decode("ascii"),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{"sig": base64.b64encode(signature).decode("ascii"), "keyid": ""}],
            },
        }
    )


def parse_statement(payload: bytes, *, where: str) -> Statement:
    """The statement in an authenticated payload. Third-party predicates may hold floats, ours may not.

    Raises MalformedError: `too-large`, `bad-json`, `too-deep`, `duplicate-key`, `statement-type`,
    `bad-statement`, `bad-subject`.
    """
    value = strict_json.loads(payload, limit=strict_json.ATTESTATION_LIMIT, where=where, allow_floats=True)
    kind = value.get("_type") if isinstance(value, dict) else None
    # Statement v0.1 has another subject rule; `cosign --predicate` still writes it.
    if kind != STATEMENT_TYPE:
        _refuse("statement-type", where, STATEMENT_TYPE, kind)
    check_shape(value, _STATEMENT, where=where, reference="bad-statement")
    if value["predicateType"].startswith(OUR_TYPES):
        # Which rule holds is known only now: a statement of ours is read once more without floats.
        strict_json.loads(payload, limit=strict_json.ATTESTATION_LIMIT, where=where)
    if not value["predicateType"]:
        _refuse("bad-statement", where, "a predicateType", value["predicateType"])
    return Statement(
        subjects=_subjects(value["subject"], where),
        predicate_type=value["predicateType"],
        predicate=value.get("predicate", {}),
        sha256=hashlib.sha256(payload).hexdigest(),
    )


def _subjects(items: list[Any], where: str) -> dict[str, str]:
    if not 1 <= len(items) <= MAX_SUBJECTS:
        _refuse("bad-subject", where, f"1 to {MAX_SUBJECTS} subjects", len(items))
    found: dict[str, str] = {}
    for number, item in enumerate(items):
        place = f"{where}: subject[{number}]"
        check_shape(item, _SUBJECT, where=place, reference="bad-subject")
        digest = item["digest"].get("sha256")
        if not all(isinstance(value, str) for value in item["digest"].values()) or not is_sha256_hex(digest):
            _refuse("bad-subject", place, "a digest with 64 lower-case hex of sha256", item["digest"])
        if not item["name"] or item["name"] in found:
            _refuse("bad-subject", place, "a name that no other subject has", item["name"])
        found[item["name"]] = digest
    return found


def check_shape(value: object, shape: Shape, *, where: str, reference: str) -> None:
    """Refuse `value` unless it has exactly the members and types of `shape`.

    A shape is a type, a tuple of types, `[shape]` for a list of any length, or a mapping of member names
    to shapes, where a name that ends in `?` may be absent. A boolean is never an integer.
    Raises MalformedError (`reference`) that names the member.
    """
    if isinstance(shape, dict):
        _check_object(value, shape, where, reference)
    elif isinstance(shape, list):
        if not isinstance(value, list):
            _refuse(reference, where, "a list", value)
        for number, item in enumerate(value):
            check_shape(item, shape[0], where=f"{where}[{number}]", reference=reference)
    else:
        types = shape if isinstance(shape, tuple) else (shape,)
        if type(value) not in types:
            _refuse(reference, where, " or ".join(_TYPE_NAMES[kind] for kind in types), value)


_TYPE_NAMES = {
    str: "text",
    int: "an integer",
    bool: "true or false",
    dict: "an object",
    list: "a list",
    type(None): "null",
}


def _check_object(value: object, shape: Mapping[str, Any], where: str, reference: str) -> None:
    if not isinstance(value, dict):
        _refuse(reference, where, "an object", value)
    required = {name for name in shape if not name.endswith(_OPTIONAL)}
    known = {name.rstrip(_OPTIONAL): part for name, part in shape.items()}
    unknown = sorted(value.keys() - known.keys())
    if unknown:
        _refuse(reference, where, "only the members " + ", ".join(sorted(known)), ", ".join(unknown))
    missing = sorted(required - value.keys())
    if missing:
        _refuse(reference, where, "the members " + ", ".join(sorted(required)), "no " + ", ".join(missing))
    for name, part in value.items():
        check_shape(part, known[name], where=f"{where}: {name}", reference=reference)


_WHAT = {
    "bad-policy": "the trust policy is not valid",
    "bad-key": "a key of the policy is not valid",
    "bad-state": "the state is not valid",
    "bad-envelope": "an attestation is not a Sigstore bundle v0.3 with a DSSE envelope",
    "payload-type": "an attestation carries another payload type than in-toto",
    "signature-count": "an attestation does not have exactly one signature",
    "keyid": "an attestation names its own key",
    "bad-base64": "base64 is not in its canonical form",
    "statement-type": "a statement is not an in-toto Statement v1",
    "bad-statement": "a statement is not valid",
    "bad-subject": "a statement's subject is not valid",
}
_HINTS = {
    "statement-type": "sign the exact statement: `cosign attest-blob --statement`, never `--predicate`",
    "signature-count": "put each signature in a file of its own",
}


def _refuse(reference: str, where: str, expected: str, found: object) -> NoReturn:
    raise MalformedError(
        reference,
        _WHAT.get(reference, "a document is not valid"),
        where=where,
        expected=expected,
        found=found[:200] if isinstance(found, str) else repr(found)[:200],
        hint=_HINTS.get(reference, ""),
    )
