"""Unusual bundles that format.md allows, and hostile ones that differ from a good one by a hair.

A second reading of format.md, sentence by sentence, beside the attack table of `tests.vectors.trust`: what
is allowed must be accepted as surely as what is refused is refused.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from bundler.errors import ExitCode
from bundler.trust.dsse import PAYLOAD_TYPE, pre_authentication_encoding
from bundler.trust.statements import RELEASE_TYPE
from tests.vectors.trust import (
    AUTHENTICITY,
    BOM_TYPE,
    CHANNEL,
    MALFORMED,
    SERIAL,
    Case,
    Change,
    Row,
    Vector,
    built,
    dump,
    fingerprint,
    policy_key,
    private_key,
    sha256,
    signed,
    statement,
)

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
OTHER_TYPE = "https://example.org/review/v9"
MAX_INTEGER = 2**53 - 1
_ROWS: list[Row] = []


def conformance_vectors() -> Iterator[Vector]:
    """Every vector of this module, built anew."""
    return built(_ROWS)


def _good(name: str, change: Change, *, signed_before: bool = False) -> None:
    _ROWS.append((f"allowed-{name}", "", ExitCode.PASSED, signed_before, change))


def _bad(
    name: str, reference: str, change: Change, code: ExitCode = MALFORMED, *, signed_before: bool = True
) -> None:
    _ROWS.append((f"refused-{name}", reference, code, signed_before, change))


def _with(change: Callable[..., object], *values: object) -> Change:
    """`change` with the values of one row."""
    return lambda case: change(case, *values)


# --- manifests and paths

_GOOD_MANIFESTS: dict[str, dict[str, Any]] = {
    "unknown-members": {"x-extra": {"deep": [1, None, True]}, "future": "y"},
    "critical-names-known-members": {"critical": ["files", "serial"]},
    "brackets-inside-texts": {"note": '[{"' * 50 + '\\"[[\\\\'},
    "nesting-of-32": {"x": json.loads("[" * 31 + "]" * 31)},
    "negative-zero": {"x": -0},
}
for _name, _members in _GOOD_MANIFESTS.items():
    _good(f"manifest-{_name}", _with(lambda case, members: case.manifest_changes.update(members), _members))

_BAD_MANIFESTS: dict[str, dict[str, Any]] = {
    "serial-negative": {"serial": -1},
    "serial-text": {"serial": "17"},
    "channel-number": {"channel": 1},
    "files-object": {"files": {}},
    "files-of-text": {"files": ["README.md"]},
    "type-of-a-policy": {"type": "urn:sealift:trust-policy:v1"},
    "critical-text": {"critical": "files"},
    "chunk-size-zero": {"chunks": {"path": "payload/chunks.sha256", "size": 0}},
    "chunk-size-true": {"chunks": {"path": "payload/chunks.sha256", "size": True}},
    "chunks-not-listed": {"chunks": {"path": "payload/chunks.sha256", "size": 4096}},
}
for _name, _members in _BAD_MANIFESTS.items():
    _bad(
        f"manifest-{_name}",
        "bad-manifest",
        _with(lambda case, members: case.manifest_changes.update(members), _members),
        signed_before=False,
    )

_BAD_ENTRIES: dict[str, dict[str, Any]] = {
    "size-negative": {"size": -1},
    "size-false": {"size": False},
    "size-text": {"size": "2"},
    "digest-upper-case": {"sha256": "AB" * 32},
    "digest-of-63": {"sha256": "a" * 63},
    "digest-with-line-break": {"sha256": "a" * 64 + "\n"},
    "digest-in-arabic-digits": {"sha256": "\u0661" * 64},
}
for _name, _members in _BAD_ENTRIES.items():

    def _spoil(case: Case, members: dict[str, Any] = _members) -> None:
        entries = case.entries()
        entries[0].update(members)
        case.manifest_changes["files"] = entries

    _bad(f"entry-{_name}", "bad-manifest", _spoil, signed_before=False)


def _replace_manifest(change: Callable[[bytes], bytes]) -> Change:
    def spoil(case: Case) -> None:
        case.raw_manifest = change(case.manifest)

    return spoil


def _list_also(case: Case, *paths: str) -> None:
    """Paths in the manifest alone: our own OMS writer would refuse them before the verifier could."""
    more = [{"path": path, "size": 1, "sha256": sha256(b"1")} for path in paths]
    case.manifest_changes["files"] = sorted([*case.entries(), *more], key=lambda entry: str(entry["path"]))


_LONG_PATH = "/".join(["d" * 200] * 5) + "/" + "f" * 19
_GOOD_PATHS = {
    "not-ascii": ["payload/\u00e9/\u00df.txt", "payload/\u65e5\u672c/\U0001f600.bin"],
    "of-200-bytes-in-a-component": ["payload/" + "x" * 200, "payload/" + "\u00e9" * 100],
    "of-1024-bytes": [_LONG_PATH],
    "with-shell-characters": ["a b/c d", "-rf", "--help", "$(x)", "a'b\"c", "x/*?<>|", "~", " lead"],
    "hidden-and-git-below-the-top": [".hidden", "payload/.git/config", "git/.x", "payload/attestations/x"],
    "that-only-resemble-reserved-ones": ["nul0", "CONS", "x/com10", "x/y:z", "x/...a", "x/manifest.json"],
}
for _name, _paths in _GOOD_PATHS.items():
    _good(f"paths-{_name}", _with(lambda case, paths: case.files.update(dict.fromkeys(paths, b"1")), _paths))
_good("no-files-at-all", lambda case: case.files.clear())
_good("empty-file", lambda case: case.files.update(empty=b""))
_good("manifest-with-white-space", _replace_manifest(lambda data: b"\n\t " + data + b" \n"))

for _name, _path in {
    "of-1025-bytes": _LONG_PATH + "f",
    "with-a-soft-hyphen": "a\u00adb",
    "with-a-tag-character": "a\U000e0041",
    "with-a-c1-control": "a\u0085b",
    "with-a-space-at-a-folder's-end": "a /b",
    "with-a-full-width-git": "\uff0egit/x",
    "with-a-kelvin-sign": "\u212a",
}.items():
    _bad(
        f"path-{_name}",
        "bad-path",
        _with(_list_also, _path),
        signed_before=False,
    )
for _name, _twins in {
    "of-full-width-letters": ("A1", "\uff21\uff11"),
    "of-final-sigma": ("\u03c2", "\u03c3"),
    "of-sharp-s": ("stra\u00dfe", "strasse"),
    "of-the-manifest": ("MANIFEST.JSON", "x"),
    "of-file-and-folder-by-case": ("Kk", "kK/z"),
}.items():
    _bad(
        f"paths-{_name}",
        "path-collision",
        _with(_list_also, *_twins),
        signed_before=False,
    )

_NOT_STRICT: dict[str, tuple[str, bytes]] = {
    "escaped-duplicate": ("duplicate-key", rb'"zz":1,"\u007az":1'),
    "exponent": ("bad-json", b'"zz":1e3'),
    "leading-zero": ("bad-json", b'"zz":01'),
    "minus-infinity": ("bad-json", b'"zz":-Infinity'),
    "below-minus-2-53": ("bad-json", b'"zz":-9007199254740992'),
    "five-thousand-digits": ("bad-json", b'"zz":' + b"9" * 5000),
    "half-character-as-name": ("bad-json", rb'"\udc00":1'),
    "halves-in-the-wrong-order": ("bad-json", rb'"zz":"\udc00\ud800"'),
    "nesting-of-33": ("too-deep", b'"zz":' + b"[" * 32 + b"]" * 32),
    "latin-1": ("bad-json", b'"zz":"\xe9"'),
    "overlong-utf-8": ("bad-json", b'"zz":"\xc0\xaf"'),
    "surrogate-in-utf-8": ("bad-json", b'"zz":"\xed\xa0\x80"'),
    "control-character": ("bad-json", b'"zz":"a\x01b"'),
}


def _insert(data: bytes, member: bytes) -> bytes:
    return data[:1] + member + b"," + data[1:]


for _name, (_reference, _member) in _NOT_STRICT.items():

    def _spoil_manifest(case: Case, member: bytes = _member) -> None:
        case.raw_manifest = _insert(case.manifest, member)

    def _spoil_policy(case: Case, member: bytes = _member) -> None:
        case.raw_policy = _insert(dump(case.policy), member)

    def _spoil_state(case: Case, member: bytes = _member) -> None:
        case.raw_state = _insert(dump({"serials": {}}), member)

    def _spoil_envelope(case: Case, member: bytes = _member) -> None:
        case.put("release", _insert(case.attestations["release.sigstore.json"], member))

    def _spoil_statement(case: Case, member: bytes = _member) -> None:
        case.put("release", signed("release", _insert(case.release(), member)))

    _bad(f"manifest-with-{_name}", _reference, _spoil_manifest, signed_before=False)
    _bad(f"policy-with-{_name}", _reference, _spoil_policy)
    _bad(f"state-with-{_name}", _reference, _spoil_state)
    _bad(f"envelope-with-{_name}", _reference, _spoil_envelope)
    if _name != "exponent":  # a statement may hold floats in its predicate, and has no member zz
        _bad(f"statement-with-{_name}", _reference, _spoil_statement)


# --- channels, serials, states


def _as(**members: Any) -> Change:
    def change(case: Case) -> None:
        for name, value in members.items():
            setattr(case, name, value)

    return change


_good("channel-in-unicode", _as(channel="prod/\u65e5\u672c \u00e9"))
_good("serial-of-2-53-minus-1", _as(serial=MAX_INTEGER))


def _serial_zero(case: Case) -> None:
    case.serial = 0
    case.policy["minSerial"] = {CHANNEL: 0}
    case.state = {"serials": {CHANNEL: 0}}


_good("serial-zero-at-floor-zero", _serial_zero)
_good("state-of-spaces-and-braces", _as(raw_state=b" {\n}\n"))
_good("state-with-serials-alone", _as(state={"serials": {CHANNEL: SERIAL}}))
_good("state-with-unknown-members", _as(state={"custom": {"a": [1]}, "serials": {"\u00f6ther": 99}}))
_good("state-of-a-much-older-policy", _as(state={"policy": {"version": 1, "sha256": "7" * 64}}))

_OLDER: dict[str, tuple[str, dict[str, Any]]] = {
    "equivocation-known-from-last-alone": (
        "equivocation",
        {"last": {CHANNEL: {"serial": SERIAL, "manifest": "1" * 64}}},
    ),
    "serials-below-last": (
        "serial-rollback",
        {"serials": {CHANNEL: 5}, "last": {CHANNEL: {"serial": 18, "manifest": "1" * 64}}},
    ),
    "serial-of-2-53-minus-1-was-seen": ("serial-rollback", {"serials": {CHANNEL: MAX_INTEGER}}),
}
for _name, (_reference, _state) in _OLDER.items():
    _bad(_name, _reference, _as(state=_state), AUTHENTICITY)

_BAD_STATES: dict[str, dict[str, Any]] = {
    "policy-without-digest": {"policy": {"version": 1}},
    "policy-version-true": {"policy": {"version": True, "sha256": "1" * 64}},
    "policy-version-zero": {"policy": {"version": 0, "sha256": "1" * 64}},
    "serials-list": {"serials": []},
    "serial-of-another-channel-text": {"serials": {"elsewhere": "3"}},
    "last-without-manifest": {"last": {CHANNEL: {"serial": 1}}},
    "last-null": {"last": None},
}
for _name, _state in _BAD_STATES.items():
    _bad(f"state-{_name}", "bad-state", _as(state=_state))


# --- envelopes and signatures


def _verification(case: Case, change: Callable[[dict[str, Any]], object]) -> None:
    case.rewrite("release", lambda value: change(value["verificationMaterial"]))


for _name, _hint in {"empty": "", "unicode": "schl\u00fcssel \u9375", "long": "h" * 5000}.items():
    _good(
        f"hint-{_name}",
        _with(lambda case, hint: _verification(case, lambda v: v["publicKey"].update(hint=hint)), _hint),
        signed_before=True,
    )
_good(
    "same-attestation-twice",
    lambda case: case.put("again", case.attestations["release.sigstore.json"]),
    signed_before=True,
)


def _resign(change: Callable[[bytes], bytes], case: Case) -> None:
    """The release envelope with its signature bytes changed."""

    def rewrite(value: dict[str, Any]) -> None:
        entry = value["dsseEnvelope"]["signatures"][0]
        entry["sig"] = base64.b64encode(change(base64.b64decode(entry["sig"]))).decode()

    case.rewrite("release", rewrite)


def _other_half(signature: bytes) -> bytes:
    r, s = decode_dss_signature(signature)
    return encode_dss_signature(r, P256_ORDER - s)


def _padded_integer(signature: bytes) -> bytes:
    inner = b"\x02" + bytes([signature[3] + 1]) + b"\x00" + signature[4:]
    return b"\x30" + bytes([len(inner)]) + inner


_good("signature-with-the-other-s", lambda case: _resign(_other_half, case), signed_before=True)
for _name, _change in {
    "with-a-byte-more": lambda signature: signature + b"\0",
    "with-a-padded-integer": _padded_integer,
    "with-a-long-length": lambda signature: b"\x30\x81" + signature[1:],
    "of-zeros": lambda signature: bytes.fromhex("3006020100020100"),
    "as-two-raw-numbers": lambda signature: b"".join(
        number.to_bytes(32, "big") for number in decode_dss_signature(signature)
    ),
}.items():
    _bad(
        f"signature-{_name}",
        "unknown-signer",
        _with(lambda case, change: _resign(change, case), _change),
        AUTHENTICITY,
    )

_KIND = PAYLOAD_TYPE.encode()
for _name, _encode in {
    "of-dsse-0.2": lambda body: b"DSSEV1 %d %s %d %s" % (len(_KIND), _KIND, len(body), body),
    "with-a-leading-zero": lambda body: b"DSSEv1 0%d %s %d %s" % (len(_KIND), _KIND, len(body), body),
    "of-the-base64": lambda body: pre_authentication_encoding(base64.b64encode(body)),
    "without-lengths": lambda body: b"DSSEv1 " + _KIND + b" " + body,
}.items():

    def _sign_other(case: Case, encode: Callable[[bytes], bytes] = _encode) -> None:
        signature = private_key("release").sign(encode(case.release()))
        _resign(lambda _: signature, case)

    _bad(f"encoding-{_name}", "unknown-signer", _sign_other, AUTHENTICITY)

_BAD_ENVELOPES: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    "keyid-null": ("bad-envelope", lambda v: v["dsseEnvelope"]["signatures"][0].update(keyid=None)),
    "certificate-in-a-signature": (
        "bad-envelope",
        lambda v: v["dsseEnvelope"]["signatures"][0].update(cert="x"),
    ),
    "payload-type-with-a-parameter": (
        "payload-type",
        lambda v: v["dsseEnvelope"].update(payloadType=PAYLOAD_TYPE + "; charset=utf-8"),
    ),
    "media-type-0.2": (
        "bad-envelope",
        lambda v: v.update(mediaType="application/vnd.dev.sigstore.bundle+json;version=0.2"),
    ),
    "message-signature-beside": ("bad-envelope", lambda v: v.update(messageSignature={})),
    "certificate-chain": (
        "bad-envelope",
        lambda v: v.update(verificationMaterial={"x509CertificateChain": {"certificates": []}}),
    ),
    "key-and-certificate": (
        "bad-envelope",
        lambda v: v["verificationMaterial"].update(certificate={"rawBytes": "eA=="}),
    ),
    "hint-number": ("bad-envelope", lambda v: v["verificationMaterial"]["publicKey"].update(hint=1)),
    "snake-case": ("bad-envelope", lambda v: v.update(media_type=v.pop("mediaType"))),
    "empty-signature": ("bad-base64", lambda v: v["dsseEnvelope"]["signatures"][0].update(sig="")),
}
for _name, (_reference, _rewrite) in _BAD_ENVELOPES.items():
    _bad(
        f"envelope-{_name}",
        _reference,
        _with(lambda case, rewrite: case.rewrite("release", rewrite), _rewrite),
    )


# --- statements


def _subjects(case: Case) -> list[dict[str, Any]]:
    return [{"name": "manifest.json", "digest": {"sha256": sha256(case.manifest)}}]


def _others(count: int) -> list[dict[str, Any]]:
    return [{"name": f"other-{number}", "digest": {"sha256": "0" * 64}} for number in range(count)]


def _release_about(change: Callable[[Case], list[Any]]) -> Change:
    def put(case: Case) -> None:
        case.put("release", signed("release", statement(change(case), RELEASE_TYPE, {"serial": SERIAL})))

    return put


_good(
    "manifest-as-last-of-64-subjects",
    _release_about(lambda case: _others(63) + _subjects(case)),
    signed_before=True,
)
_good(
    "statement-of-an-unknown-type-about-something-else",
    lambda case: case.put("review", signed("legal", statement({"x": "0" * 64}, OTHER_TYPE, {"a": [1]}))),
    signed_before=True,
)


def _release_named(case: Case, name: str) -> None:
    subject = [{"name": name, "digest": {"sha256": sha256(case.manifest)}}]
    case.put("release", signed("release", statement(subject, RELEASE_TYPE, {"serial": SERIAL})))


def _subject_with(**digest: str) -> Change:
    return _release_about(lambda case: [{"name": "manifest.json", "digest": digest}])


_bad("subject-digest-named-in-capitals", "bad-subject", _subject_with(SHA256="0" * 64))
_bad("subject-with-sha512-alone", "bad-subject", _subject_with(sha512="0" * 128))
_bad(
    "one-weak-subject-beside-the-good-one",
    "bad-subject",
    _release_about(lambda case: [*_subjects(case), {"name": "x", "digest": {"md5": "0" * 32}}]),
)
_bad(
    "subject-without-name",
    "bad-subject",
    _release_about(lambda case: [{"digest": {"sha256": sha256(case.manifest)}}]),
)
for _name, _subject in {
    "dot-slash": "./manifest.json",
    "capitals": "MANIFEST.JSON",
    "space-at-the-end": "manifest.json ",
}.items():
    _bad(
        f"subject-named-with-{_name}",
        "threshold",
        _with(_release_named, _subject),
        AUTHENTICITY,
    )
for _value in (True, str(SERIAL), None, [SERIAL]):
    _bad(
        f"release-serial-{type(_value).__name__}",
        "threshold",
        _with(lambda case, value: case.put("release", signed("release", case.release(serial=value))), _value),
        AUTHENTICITY,
    )
for _value in ([], "x", None):
    _bad(
        f"predicate-{type(_value).__name__}",
        "bad-statement",
        _with(
            lambda case, value: case.put("release", signed("release", case.about(RELEASE_TYPE, value))),
            _value,
        ),
    )


# --- what a requirement asks for


def _ask(where: dict[str, Any], *predicates: dict[str, Any], kind: str = OTHER_TYPE) -> Change:
    """One more requirement, and statements that are to meet it."""

    def change(case: Case) -> None:
        wanted = {"id": "asked", "role": "release", "predicateType": kind, "where": where}
        case.policy["require"].append(wanted)
        for number, predicate in enumerate(predicates):
            case.put(f"asked-{number}", signed("release", case.about(kind, predicate)))

    return change


_SCALARS: list[Any] = [False, True, 0, 1, -1, None, "", "1", "h\u00e9", MAX_INTEGER]
for _number, _value in enumerate(_SCALARS):
    _good(f"where-scalar-{_number}", _ask({"n": _value}, {"n": _value, "x": 2}), signed_before=True)
_good("where-empty", _ask({}, {"n": 1}), signed_before=True)
_good(
    "where-integer-beside-floats",
    _ask({"version": 1}, {"version": 1, "score": 9.8}, kind=BOM_TYPE),
    signed_before=True,
)

_CONFUSED: dict[str, tuple[dict[str, Any], tuple[dict[str, Any], ...]]] = {
    "null-for-absent": ({"n": None}, ({},)),
    "text-for-null": ({"n": None}, ({"n": "null"},)),
    "text-for-integer": ({"n": 1}, ({"n": "1"},)),
    "true-for-one": ({"n": 1}, ({"n": True},)),
    "zero-for-false": ({"n": False}, ({"n": 0},)),
    "other-case": ({"n": "a"}, ({"n": "A"},)),
    "other-unicode-form": ({"n": "\u00e9"}, ({"n": "e\u0301"},)),
    "path-into-an-object": ({"x.n": 1}, ({"x": {"n": 1}},)),
    "halves-in-two-statements": ({"a": 1, "b": 2}, ({"a": 1}, {"b": 2})),
    "another-serial": ({}, ({"serial": SERIAL - 1},)),
}
for _name, (_where, _predicates) in _CONFUSED.items():
    _bad(f"where-{_name}", "threshold", _ask(_where, *_predicates), AUTHENTICITY)


def _second_key_of_rita_for_legal(case: Case) -> None:
    case.policy["roles"]["legal"]["keys"].append(fingerprint("release-pq"))
    case.put("legal", signed("release-pq", case.legal()))


_bad("separation-second-key-of-the-same-person", "threshold", _second_key_of_rita_for_legal, AUTHENTICITY)


# --- OMS


_BAD_OMS: dict[str, Callable[[dict[str, Any]], object]] = {
    "pattern-ignored": lambda v: v["predicate"]["serialization"].update(ignore_paths=["*"]),
    "empty-name-ignored": lambda v: v["predicate"]["serialization"].update(ignore_paths=[""]),
    "links-neither-allowed-nor-refused": lambda v: v["predicate"]["serialization"].pop("allow_symlinks"),
    "links-zero": lambda v: v["predicate"]["serialization"].update(allow_symlinks=0),
    "other-hash": lambda v: v["predicate"]["serialization"].update(hash_type="blake2b"),
    "unknown-serialization-member": lambda v: v["predicate"]["serialization"].update(shard_size=1),
    "unknown-predicate-member": lambda v: v["predicate"].update(extra=1),
    "resource-without-algorithm": lambda v: v["predicate"]["resources"][0].pop("algorithm"),
    "resource-in-capitals": lambda v: v["predicate"]["resources"][0].update(digest="AB" * 32),
    "resource-too-many": lambda v: v["predicate"]["resources"].append(
        {"name": "zz", "algorithm": "sha256", "digest": "0" * 64}
    ),
}
for _name, _oms in _BAD_OMS.items():
    _bad(f"oms-{_name}", "threshold", _with(lambda case, oms: case.put_oms(oms), _oms), AUTHENTICITY)


def _oms_root_over_hex(case: Case) -> None:
    value = case.oms()
    text = "".join(item["digest"] for item in value["predicate"]["resources"])
    value["subject"][0]["digest"]["sha256"] = sha256(text.encode())
    case.put("oms", signed("release", dump(value)))


def _oms_about_the_manifest(case: Case) -> None:
    case.put("oms", signed("release", dump({**case.oms(), "subject": _subjects(case)})))


_bad("oms-root-over-hex-digits", "threshold", _oms_root_over_hex, AUTHENTICITY)
_bad("oms-about-the-manifest-alone", "threshold", _oms_about_the_manifest, AUTHENTICITY)
_good(
    "oms-in-code-point-order-beyond-16-bits",
    lambda case: case.files.update({"x/\uffee": b"1", "x/\U00010000": b"2", "x/a-b/x": b"3", "x/a/x": b"4"}),
)


# --- policies


def _small_policy(case: Case) -> None:
    """Only the members that must be there."""
    names = ("root-1", "release")
    case.policy = {
        "type": "urn:sealift:trust-policy:v1",
        "version": 1,
        "keys": {fingerprint(name): policy_key(name) for name in (*names, "release-pq", "legal")}
        | {fingerprint(name): policy_key(name) for name in ("security-1", "security-2")},
        "roles": {
            "root": {"keys": [fingerprint("root-1")], "threshold": 1},
            "release": {"keys": [fingerprint("release")], "threshold": 1},
        },
        "require": [{"id": "r", "role": "release", "predicateType": RELEASE_TYPE}],
    }


_good("policy-with-required-members-alone", _small_policy)
_good(
    "policy-with-white-space", lambda case: _as(raw_policy=json.dumps(case.policy, indent=3).encode())(case)
)
_good("policy-version-of-2-53-minus-1", lambda case: case.policy.update(version=MAX_INTEGER))
_good("policy-with-empty-rules", lambda case: case.policy.update(rules={}))


def _der(*parts: bytes) -> bytes:
    body = b"".join(parts)
    return b"\x30" + bytes([len(body)]) + body


def _bits(data: bytes, unused: int = 0) -> bytes:
    return b"\x03" + bytes([len(data) + 1, unused]) + data


def _foreign(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, form: serialization.PublicFormat) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.DER, form)


_EC = bytes.fromhex("06072a8648ce3d0201")
_P256 = bytes.fromhex("06082a8648ce3d030107")
_ED25519 = bytes.fromhex("06032b6570")
_SPKI, _PKCS1 = serialization.PublicFormat.SubjectPublicKeyInfo, serialization.PublicFormat.PKCS1


def _encodings() -> dict[str, tuple[str, bytes]]:
    """Keys that must not be used: other encodings of the release key, and keys of other kinds."""
    der = private_key("release").public.spki
    point = der[-65:]
    off_the_curve = point[:-1] + bytes([point[-1] ^ 1])
    legal = private_key("legal").public.spki
    rsa_key = rsa.generate_private_key(65537, 2048)
    return {
        "trailing-byte": ("ecdsa-p256-sha256", der + b"\0"),
        "trailing-member": ("ecdsa-p256-sha256", _der(_der(_EC, _P256), _bits(point), b"\x05\0")),
        "long-length": ("ecdsa-p256-sha256", b"\x30\x81" + der[1:]),
        "unused-bit": ("ecdsa-p256-sha256", _der(_der(_EC, _P256), _bits(point[:-1] + b"\0", 1))),
        "hybrid-point": (
            "ecdsa-p256-sha256",
            _der(_der(_EC, _P256), _bits(bytes([6 + (point[-1] & 1)]) + point[1:])),
        ),
        "point-off-the-curve": ("ecdsa-p256-sha256", _der(_der(_EC, _P256), _bits(off_the_curve))),
        "point-at-infinity": ("ecdsa-p256-sha256", _der(_der(_EC, _P256), _bits(b"\0"))),
        "point-alone": ("ecdsa-p256-sha256", point),
        "curve-left-out": ("ecdsa-p256-sha256", _der(_der(_EC), _bits(point))),
        "null-for-the-curve": ("ecdsa-p256-sha256", _der(_der(_EC, b"\x05\0"), _bits(point))),
        "ed25519-with-null": ("ed25519", _der(_der(_ED25519, b"\x05\0"), _bits(legal[-32:]))),
        "ed25519-of-31-bytes": ("ed25519", _der(_der(_ED25519), _bits(legal[-31:]))),
        "x25519": ("ed25519", _der(_der(bytes.fromhex("06032b656e")), _bits(legal[-32:]))),
        "rsa": ("ecdsa-p256-sha256", _foreign(rsa_key, _SPKI)),
        "pkcs1": ("ecdsa-p256-sha256", _foreign(rsa_key, _PKCS1)),
        "secp256k1": ("ecdsa-p256-sha256", _foreign(ec.generate_private_key(ec.SECP256K1()), _SPKI)),
        "p521-as-p384": ("ecdsa-p384-sha384", _foreign(ec.generate_private_key(ec.SECP521R1()), _SPKI)),
        "p256-as-p384": ("ecdsa-p384-sha384", der),
        "ed25519-as-ml-dsa": ("ml-dsa-65", legal),
        "algorithm-in-capitals": ("ECDSA-P256-SHA256", der),
    }


def _with_key(algorithm: str, spki: bytes) -> Change:
    def change(case: Case) -> None:
        item = {"alg": algorithm, "spki": base64.b64encode(spki).decode(), "owner": "somebody"}
        case.policy["keys"][sha256(spki)] = item

    return change


for _name, (_algorithm, _spki) in _encodings().items():
    _bad(f"key-{_name}", "bad-key", _with_key(_algorithm, _spki))


def _fingerprint_as(spelling: Callable[[str], str]) -> Change:
    def change(case: Case) -> None:
        case.policy["keys"][spelling(fingerprint("legal"))] = policy_key("legal")

    return change


_bad("key-twice-in-two-spellings", "bad-key", _fingerprint_as(str.upper))
_bad("key-twice-with-a-prefix", "bad-key", _fingerprint_as(lambda name: f"sha256:{name}"))

_BAD_POLICIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "threshold-huge": lambda p: p["roles"]["security"].update(threshold=MAX_INTEGER),
    "threshold-null": lambda p: p["roles"]["security"].update(threshold=None),
    "unused-role-unreachable": lambda p: p["roles"].update(
        idle={"keys": [fingerprint("legal")], "threshold": 2}
    ),
    "unreachable-but-for-spelling-of-owners": lambda p: (
        p["keys"][fingerprint("legal")].update(owner=" RITA"),
        p["roles"].update(two={"keys": [fingerprint("legal"), fingerprint("release")], "threshold": 2}),
    ),
    "keys-list": lambda p: p.update(keys=[]),
    "roles-empty": lambda p: p.update(roles={}),
    "unknown-member-null": lambda p: p.update(extra=None),
    "previous-text": lambda p: p.update(previous="1" * 64),
    "previous-with-more": lambda p: p.update(previous={"sha256": "1" * 64, "version": 2}),
    "where-null": lambda p: p["require"][0].update(where=None),
    "distinct-from-text": lambda p: p["roles"]["legal"].update(distinctFrom="release"),
    "revoked-list": lambda p: p.update(revoked=[]),
    "revoked-unknown-kind": lambda p: p["revoked"].update(roles={}),
    "floor-negative": lambda p: p.update(minSerial={CHANNEL: -1}),
    "identity-by-pattern": lambda p: p["roles"]["legal"].update(
        identities=[{"issuer": "a", "san": "b", "sanRegex": ".*"}]
    ),
}
for _name, _change_policy in _BAD_POLICIES.items():
    _bad(
        f"policy-{_name}",
        "bad-policy",
        _with(lambda case, change: change(case.policy), _change_policy),
    )
