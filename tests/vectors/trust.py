"""Good and hostile bundles with policies and states: the known attacks on trust.

Each vector is built by changing one thing of a good world with real keys. `vectors()` gives them all;
`Vector.write` lays one out as `sealift verify` reads it. Rotation has its own list, `rotations()`.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bundler.core.manifest import FileEntry
from bundler.core.paths import parse_bundle_path
from bundler.errors import ExitCode
from bundler.trust import spki
from bundler.trust.dsse import encode_bundle, pre_authentication_encoding
from bundler.trust.keys import PrivateKey, generate
from bundler.trust.model_signing_format import OMS_TYPE, oms_statement
from bundler.trust.statements import APPROVAL_TYPE, PROVENANCE_TYPE, RELEASE_TYPE

BOM_TYPE = "https://cyclonedx.org/bom"
LEGAL_TYPE = "urn:sealift:legal-opinion:v1"
RISK_TYPE = "urn:sealift:risk-acceptance:v1"
CHANNEL = "kimi-k2/prod"
SERIAL = 17
MALFORMED, AUTHENTICITY = ExitCode.MALFORMED, ExitCode.AUTHENTICITY
PEOPLE = {
    "root-1": ("alice", spki.ECDSA_P256),
    "root-2": ("bob", spki.ECDSA_P384),
    "root-3": ("carol", spki.ED25519),
    "release": ("rita", spki.ECDSA_P256),
    "release-pq": ("rita", spki.ML_DSA_65),
    "legal": ("lena", spki.ED25519),
    "security-1": ("sam", spki.ECDSA_P256),
    "security-1b": ("sam", spki.ED25519),
    "security-2": ("sue", spki.ECDSA_P256),
    "old": ("otto", spki.ECDSA_P256),
    "stranger": ("mallory", spki.ECDSA_P256),
}
CONTENT = {
    "payload/models/config.json": b"{}",
    "payload/models/model-1.safetensors": b"weights",
    "payload/models/tokenizer.json": b"tokens",
}


@functools.cache
def private_key(name: str) -> PrivateKey:
    """The key of a role in `PEOPLE`, the same for the whole run."""
    return generate(PEOPLE[name][1])


def fingerprint(name: str) -> str:
    """The fingerprint of a key in `PEOPLE`."""
    return private_key(name).public.fingerprint


def sha256(data: bytes) -> str:
    """Hex SHA-256."""
    return hashlib.sha256(data).hexdigest()


def dump(value: object) -> bytes:
    """JSON bytes without any of the product's checks."""
    return json.dumps(value, sort_keys=True).encode()


def signed(name: str, payload: bytes, **changes: Any) -> bytes:
    """A Sigstore bundle by the key `name`; `changes` replace members of the envelope after signing."""
    key = private_key(name)
    data = encode_bundle(payload, key.sign(pre_authentication_encoding(payload)), hint=key.public.fingerprint)
    if not changes:
        return data
    value = json.loads(data)
    value["dsseEnvelope"].update(changes)
    return dump(value)


def statement(
    subject: dict[str, str] | list[Any], predicate_type: str, predicate: Any, **changes: Any
) -> bytes:
    """The bytes of a statement; a mapping of names to digests, or the raw subject list."""
    items = subject
    if isinstance(subject, dict):
        items = [{"name": name, "digest": {"sha256": digest}} for name, digest in subject.items()]
    value = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": items,
        "predicateType": predicate_type,
        "predicate": predicate,
    }
    return dump({**value, **changes})


def policy_key(name: str) -> dict[str, str]:
    """The policy's entry for a key."""
    public = private_key(name).public
    return {
        "alg": public.algorithm,
        "spki": base64.b64encode(public.spki).decode(),
        "owner": PEOPLE[name][0],
    }


def good_policy() -> dict[str, Any]:
    """Version 3: two of three for root, hybrid release, legal apart from release, security by two."""
    known = [name for name in PEOPLE if name != "stranger"]

    def role(*names: str, threshold: int = 1, **more: Any) -> dict[str, Any]:
        return {"keys": [fingerprint(name) for name in names], "threshold": threshold, **more}

    return {
        "type": "urn:sealift:trust-policy:v1",
        "version": 3,
        "previous": {"sha256": "3" * 64},
        "keys": {fingerprint(name): policy_key(name) for name in known},
        "roles": {
            "root": role("root-1", "root-2", "root-3", threshold=2),
            "release": role("release", "old"),
            "release-pq": role("release-pq"),
            "legal": role("legal", "release", distinctFrom=["release"]),
            "security": role("security-1", "security-1b", "security-2", threshold=2),
        },
        "require": [
            {"id": "release", "role": "release", "predicateType": RELEASE_TYPE},
            {"id": "pq", "role": "release-pq", "predicateType": RELEASE_TYPE},
            {"id": "oms", "role": "release", "predicateType": OMS_TYPE, "subject": "oms"},
            {"id": "slsa", "role": "release", "predicateType": PROVENANCE_TYPE},
            {
                "id": "legal",
                "role": "legal",
                "predicateType": LEGAL_TYPE,
                "where": {"verdict": "approved", "conditions": 0, "final": True},
            },
            {
                "id": "security",
                "role": "security",
                "predicateType": RISK_TYPE,
                "where": {"decision": "accept"},
            },
        ],
        "revoked": {
            "keys": {fingerprint("old"): {"reason": "lost token"}},
            "manifests": {"a" * 64: {"reason": "wrong weights"}},
            "files": {"b" * 64: {"reason": "backdoor"}},
        },
        "minSerial": {CHANNEL: 10},
        "sigstore": {"trusted_root": {"sha256": "6" * 64}},
        "expires": "2030-01-01T00:00:00Z",
        "note": "for tests",
    }


@dataclass
class Case:
    """A bundle, a policy and a state while a vector changes them; bytes only when they are asked for."""

    serial: int = SERIAL
    channel: str = CHANNEL
    files: dict[str, bytes] = field(default_factory=lambda: dict(CONTENT))
    manifest_changes: dict[str, Any] = field(default_factory=dict)
    raw_manifest: bytes | None = None
    policy: dict[str, Any] = field(default_factory=good_policy)
    raw_policy: bytes | None = None
    state: dict[str, Any] = field(default_factory=dict)
    raw_state: bytes | None = None
    attestations: dict[str, bytes] = field(default_factory=dict)

    def entries(self) -> list[dict[str, Any]]:
        """The manifest's file list."""
        return [
            {"path": path, "size": len(data), "sha256": sha256(data)}
            for path, data in sorted(self.files.items())
        ]

    @property
    def manifest(self) -> bytes:
        """The manifest's bytes."""
        if self.raw_manifest is not None:
            return self.raw_manifest
        head = {"type": "urn:sealift:manifest:v1", "channel": self.channel, "serial": self.serial}
        return dump({**head, "files": self.entries(), **self.manifest_changes})

    def about(self, predicate_type: str, predicate: Any, **changes: Any) -> bytes:
        """A statement about this manifest."""
        return statement({"manifest.json": sha256(self.manifest)}, predicate_type, predicate, **changes)

    def release(self, **changes: Any) -> bytes:
        """The release statement, with changes to its predicate."""
        size = sum(len(data) for data in self.files.values())
        facts = {"serial": self.serial, "channel": self.channel, "files": len(self.files), "bytes": size}
        return self.about(RELEASE_TYPE, {**facts, **changes})

    def legal(self, **changes: Any) -> bytes:
        """The legal opinion, with changes to its predicate."""
        said = {"verdict": "approved", "conditions": 0, "final": True}
        return self.about(LEGAL_TYPE, {**said, **changes})

    def risk(self, **changes: Any) -> bytes:
        """The risk acceptance."""
        return self.about(RISK_TYPE, {"decision": "accept", **changes})

    def oms(self) -> dict[str, Any]:
        """The OMS statement as a value, to be changed."""
        entries = [
            FileEntry(path=parse_bundle_path(path), size=len(data), sha256=sha256(data))
            for path, data in self.files.items()
        ]
        value: dict[str, Any] = json.loads(oms_statement(entries, sha256(self.manifest), name="bundle"))
        return value

    def sign_all(self) -> None:
        """All good attestations."""
        self.attestations = {
            "release.sigstore.json": signed("release", self.release()),
            "release-pq.sigstore.json": signed("release-pq", self.release()),
            "oms.sigstore.json": signed("release", dump(self.oms())),
            "provenance.sigstore.json": signed(
                "release", self.about(PROVENANCE_TYPE, {"buildDefinition": {}})
            ),
            "legal.sigstore.json": signed("legal", self.legal()),
            "risk-1.sigstore.json": signed("security-1", self.risk()),
            "risk-2.sigstore.json": signed("security-2", self.risk()),
        }

    def put(self, name: str, data: bytes) -> None:
        """Add or replace `<name>.sigstore.json`."""
        self.attestations[f"{name}.sigstore.json"] = data

    def drop(self, name: str) -> None:
        """Remove `<name>.sigstore.json`."""
        del self.attestations[f"{name}.sigstore.json"]

    def rewrite(self, name: str, change: Callable[[dict[str, Any]], object]) -> None:
        """Change the JSON of an attestation after it was signed."""
        value = json.loads(self.attestations[f"{name}.sigstore.json"])
        change(value)
        self.put(name, dump(value))

    def put_oms(self, change: Callable[[dict[str, Any]], object]) -> None:
        """A changed OMS statement by the release key, with the root digest that fits its resources."""
        value = self.oms()
        change(value)
        digests = b"".join(bytes.fromhex(item["digest"]) for item in value["predicate"]["resources"])
        value["subject"][0]["digest"]["sha256"] = sha256(digests)
        self.put("oms", signed("release", dump(value)))


@dataclass(frozen=True, kw_only=True)
class Vector:
    """One bundle with policy and state, and what must come of it; no `reference` when it is accepted."""

    name: str
    reference: str
    exit_code: ExitCode
    manifest: bytes
    attestations: dict[str, bytes]
    policy: bytes
    state: bytes

    def write(self, folder: Path) -> None:
        """`folder/bundle`, `folder/policy.json` and `folder/state.json`."""
        attestations = folder / "bundle" / "attestations"
        attestations.mkdir(parents=True)
        (folder / "bundle" / "manifest.json").write_bytes(self.manifest)
        for name, data in self.attestations.items():
            (attestations / name).write_bytes(data)
        (folder / "policy.json").write_bytes(self.policy)
        (folder / "state.json").write_bytes(self.state)


Change = Callable[[Case], object]
Row = tuple[str, str, ExitCode, bool, Change]
"""Name, reference, exit code, whether the change comes after signing, the change."""
_BEFORE: list[Row] = []


def _row(
    name: str, reference: str = "", exit_code: ExitCode = AUTHENTICITY, *, sign_first: bool = False
) -> Callable[[Change], Change]:
    """Register a vector. The change happens before signing, or after it with `sign_first`."""

    def register(change: Change) -> Change:
        code = exit_code if reference else ExitCode.PASSED
        _BEFORE.append((name, reference, code, sign_first, change))
        return change

    return register


def _after(name: str, reference: str = "", exit_code: ExitCode = AUTHENTICITY) -> Callable[[Change], Change]:
    return _row(name, reference, exit_code, sign_first=True)


def vectors() -> Iterator[Vector]:
    """Every vector of this module, built anew."""
    return built(_BEFORE)


def built(rows: Iterable[Row]) -> Iterator[Vector]:
    """The vectors that rows describe."""
    for name, reference, exit_code, sign_first, change in rows:
        case = Case()
        if sign_first:
            case.sign_all()
            change(case)
        else:
            change(case)
            case.sign_all()
        yield Vector(
            name=name,
            reference=reference,
            exit_code=exit_code,
            manifest=case.manifest,
            attestations=case.attestations,
            policy=case.raw_policy if case.raw_policy is not None else dump(case.policy),
            state=case.raw_state if case.raw_state is not None else dump(case.state),
        )


def _replaced(data: bytes, old: bytes, new: bytes) -> bytes:
    assert data.count(old) >= 1, f"{old!r} is not there to be replaced"
    return data.replace(old, new, 1)


# --- good ones


@_row("good")
def _(case: Case) -> None:
    pass


@_after("good-with-an-unused-statement-by-a-known-key")
def _(case: Case) -> None:
    case.put("note", signed("root-1", case.about("https://example.org/note/v1", {"x": [1.5, None]})))


@_after("good-with-keyid-absent")
def _(case: Case) -> None:
    case.rewrite("release", lambda v: v["dsseEnvelope"]["signatures"][0].pop("keyid"))


@_after("good-with-tlog-entries-absent")
def _(case: Case) -> None:
    case.rewrite("release", lambda v: v["verificationMaterial"].pop("tlogEntries"))


@_after("good-hint-claims-another-key-and-is-ignored")
def _(case: Case) -> None:
    hint = {"hint": fingerprint("stranger")}
    case.rewrite("release", lambda v: v["verificationMaterial"].update(publicKey=hint))


@_after("good-among-several-subjects")
def _(case: Case) -> None:
    subject = {"other": "c" * 64, "manifest.json": sha256(case.manifest)}
    said = {"verdict": "approved", "conditions": 0, "final": True}
    case.put("legal", signed("legal", statement(subject, LEGAL_TYPE, said)))


@_row("good-unknown-manifest-member")
def _(case: Case) -> None:
    case.manifest_changes["future"] = {"a": 1}


@_row("good-serial-at-the-floor")
def _(case: Case) -> None:
    case.serial = 10


@_row("good-again-the-same-release")
def _(case: Case) -> None:
    last = {"serial": SERIAL, "manifest": sha256(case.manifest)}
    case.state = {"serials": {CHANNEL: SERIAL}, "last": {CHANNEL: last}}


@_row("good-newer-than-the-state")
def _(case: Case) -> None:
    case.state = {
        "policy": {"version": 2, "sha256": "d" * 64},
        "serials": {CHANNEL: 16, "other": 99},
        "last": {CHANNEL: {"serial": 16, "manifest": "e" * 64}},
    }


@_after("good-floats-in-a-third-partys-predicate")
def _(case: Case) -> None:
    case.put("bom", signed("release", case.about(BOM_TYPE, {"score": 9.8, "odds": 1.5e-7})))


@_after("good-oms-that-also-ignores-git")
def _(case: Case) -> None:
    ignored = [".git", ".gitattributes", "attestations"]
    case.put_oms(lambda v: v["predicate"]["serialization"].update(ignore_paths=ignored))


@_after("good-revoked-key-signs-beside-a-live-one")
def _(case: Case) -> None:
    case.put("release-old", signed("old", case.release()))


# --- envelopes


@_after("payloadtype-changed-after-signing", "payload-type", MALFORMED)
def _(case: Case) -> None:
    case.rewrite("release", lambda v: v["dsseEnvelope"].update(payloadType="application/json"))


@_after("pae-confusion-signed-as-other-type", "unknown-signer")
def _(case: Case) -> None:
    payload = case.release()
    message = pre_authentication_encoding(payload, "application/json")
    case.put("release", encode_bundle(payload, private_key("release").sign(message), hint=""))


@_after("raw-signature-without-pae", "unknown-signer")
def _(case: Case) -> None:
    payload = case.release()
    case.put("release", encode_bundle(payload, private_key("release").sign(payload), hint=""))


@_after("payload-changed-after-signing", "unknown-signer")
def _(case: Case) -> None:
    other = base64.b64encode(case.release(serial=18)).decode()
    case.rewrite("release", lambda v: v["dsseEnvelope"].update(payload=other))


@_after("no-signature", "signature-count", MALFORMED)
def _(case: Case) -> None:
    case.rewrite("release", lambda v: v["dsseEnvelope"].update(signatures=[]))


@_after("two-signatures-in-one-envelope", "signature-count", MALFORMED)
def _(case: Case) -> None:
    case.rewrite("release", lambda v: v["dsseEnvelope"]["signatures"].append({"sig": "AAAA", "keyid": ""}))


@_after("keyid-claims-other-key", "keyid", MALFORMED)
def _(case: Case) -> None:
    case.rewrite("release", lambda v: v["dsseEnvelope"]["signatures"][0].update(keyid=fingerprint("legal")))


@_after("hint-claims-release-but-a-stranger-signed", "unknown-signer")
def _(case: Case) -> None:
    case.put("release", signed("stranger", case.release()))
    hint = {"hint": fingerprint("release")}
    case.rewrite("release", lambda v: v["verificationMaterial"].update(publicKey=hint))


@_after("embedded-public-key-in-the-bundle", "bad-envelope", MALFORMED)
def _(case: Case) -> None:
    case.put("release", signed("stranger", case.release()))
    raw = base64.b64encode(private_key("stranger").public.spki).decode()
    case.rewrite("release", lambda v: v["verificationMaterial"]["publicKey"].update(rawBytes=raw))


@_after("unknown-member-in-the-bundle", "bad-envelope", MALFORMED)
def _(case: Case) -> None:
    case.rewrite("release", lambda v: v.update(note="x"))


@_after("log-entry-beside-a-key", "bad-envelope", MALFORMED)
def _(case: Case) -> None:
    entry = {
        "logIndex": "1",
        "logId": {"keyId": "AA=="},
        "kindVersion": {"kind": "dsse", "version": "0.0.1"},
        "canonicalizedBody": "AA==",
    }
    case.rewrite("release", lambda v: v["verificationMaterial"].update(tlogEntries=[entry]))


@_after("wrong-media-type", "bad-envelope", MALFORMED)
def _(case: Case) -> None:
    case.rewrite("release", lambda v: v.update(mediaType="application/vnd.dev.sigstore.bundle.v0.2+json"))


@_after("duplicate-json-key-in-the-envelope", "duplicate-key", MALFORMED)
def _(case: Case) -> None:
    data = case.attestations["release.sigstore.json"]
    case.put("release", _replaced(data, b'"payloadType"', b'"payloadType":"x","payloadType"'))


@_after("duplicate-json-key-in-the-statement", "duplicate-key", MALFORMED)
def _(case: Case) -> None:
    payload = _replaced(case.release(), b'"serial"', b'"serial": 99, "serial"')
    case.put("release", signed("release", payload))


@_after("base64-with-junk-characters", "bad-base64", MALFORMED)
def _(case: Case) -> None:
    case.rewrite("release", lambda v: v["dsseEnvelope"].update(payload="!" + v["dsseEnvelope"]["payload"]))


@_after("base64-with-line-break", "bad-base64", MALFORMED)
def _(case: Case) -> None:
    case.rewrite("release", lambda v: v["dsseEnvelope"].update(payload=v["dsseEnvelope"]["payload"] + "\n"))


@_after("base64-without-padding", "bad-base64", MALFORMED)
def _(case: Case) -> None:
    payload = base64.b64encode(case.release() + b" " * (1 - len(case.release()) % 3)).decode()
    payload = base64.b64encode(b"{} ").decode() + "QQ" if not payload.endswith("=") else payload.rstrip("=")
    case.rewrite("release", lambda v: v["dsseEnvelope"].update(payload=payload))


@_after("base64-with-spare-bits", "bad-base64", MALFORMED)
def _(case: Case) -> None:
    case.rewrite("release", lambda v: v["dsseEnvelope"]["signatures"][0].update(sig="QR=="))


@_after("base64-url-safe", "bad-base64", MALFORMED)
def _(case: Case) -> None:
    case.rewrite("release", lambda v: v["dsseEnvelope"]["signatures"][0].update(sig="-_8="))


@_after("huge-json", "too-large", MALFORMED)
def _(case: Case) -> None:
    case.put("release", case.attestations["release.sigstore.json"] + b" " * (32 << 20))


@_after("deep-nesting", "too-deep", MALFORMED)
def _(case: Case) -> None:
    case.put("release", b"[" * 4_000 + b"]" * 4_000)


@_after("too-many-attestations", "too-many", MALFORMED)
def _(case: Case) -> None:
    for number in range(100):
        case.put(f"copy-{number}", case.attestations["release.sigstore.json"])


@_after("lone-surrogate-in-a-statement", "bad-json", MALFORMED)
def _(case: Case) -> None:
    payload = _replaced(case.release(), b'"kimi-k2/prod"', b'"\\ud800"')
    case.put("release", signed("release", payload))


@_after("byte-order-mark", "bad-json", MALFORMED)
def _(case: Case) -> None:
    case.put("release", b"\xef\xbb\xbf" + case.attestations["release.sigstore.json"])


@_after("nan-in-a-third-partys-predicate", "bad-json", MALFORMED)
def _(case: Case) -> None:
    case.put("bom", signed("release", case.about(BOM_TYPE, {"score": math.nan})))


@_after("float-in-a-statement-of-ours", "bad-json", MALFORMED)
def _(case: Case) -> None:
    case.put("legal", signed("legal", case.legal(confidence=0.9)))


@_after("garbage-file-in-attestations", "bad-json", MALFORMED)
def _(case: Case) -> None:
    case.put("notes", b"remember the milk")


@_after("unknown-signer-extra-file", "unknown-signer")
def _(case: Case) -> None:
    case.put("extra", signed("stranger", case.release()))


@_after("signature-of-another-algorithm-in-the-place", "unknown-signer")
def _(case: Case) -> None:
    payload = case.release()
    good = private_key("release-pq").sign(payload)
    case.put("release-pq", encode_bundle(payload, good, hint=fingerprint("release-pq")))


# --- statements


@_after("statement-v0.1", "statement-type", MALFORMED)
def _(case: Case) -> None:
    payload = case.about(RELEASE_TYPE, {}, _type="https://in-toto.io/Statement/v0.1")
    case.put("release", signed("release", payload))


@_after("statement-is-not-an-object", "statement-type", MALFORMED)
def _(case: Case) -> None:
    case.put("release", signed("release", b"[]"))


@_after("wrong-predicate-type", "threshold")
def _(case: Case) -> None:
    case.put("legal", signed("legal", case.about(RISK_TYPE, {"verdict": "approved", "decision": "accept"})))


@_after("empty-subject-list", "bad-subject", MALFORMED)
def _(case: Case) -> None:
    case.put("release", signed("release", statement([], RELEASE_TYPE, {})))


@_after("too-many-subjects", "bad-subject", MALFORMED)
def _(case: Case) -> None:
    subject = {f"file-{number}": "c" * 64 for number in range(65)}
    case.put("release", signed("release", statement(subject, RELEASE_TYPE, {})))


@_after("same-subject-name-twice", "bad-subject", MALFORMED)
def _(case: Case) -> None:
    items = [
        {"name": "manifest.json", "digest": {"sha256": digest}}
        for digest in (sha256(case.manifest), "c" * 64)
    ]
    case.put("release", signed("release", statement(items, RELEASE_TYPE, {})))


@_after("truncated-digest", "bad-subject", MALFORMED)
def _(case: Case) -> None:
    subject = {"manifest.json": sha256(case.manifest)[:40]}
    case.put("release", signed("release", statement(subject, RELEASE_TYPE, {})))


@_after("upper-case-digest", "bad-subject", MALFORMED)
def _(case: Case) -> None:
    subject = {"manifest.json": sha256(case.manifest).upper()}
    case.put("release", signed("release", statement(subject, RELEASE_TYPE, {})))


@_after("md5-only-digest", "bad-subject", MALFORMED)
def _(case: Case) -> None:
    items = [{"name": "manifest.json", "digest": {"md5": "c" * 32}}]
    case.put("release", signed("release", statement(items, RELEASE_TYPE, {})))


@_after("right-digest-under-another-name", "threshold")
def _(case: Case) -> None:
    subject = {"other.json": sha256(case.manifest)}
    said = {"verdict": "approved", "conditions": 0, "final": True}
    case.put("legal", signed("legal", statement(subject, LEGAL_TYPE, said)))


@_after("attestation-for-other-manifest-replayed", "threshold")
def _(case: Case) -> None:
    case.put("legal", signed("legal", Case(serial=16).legal()))


@_after("release-statement-serial-differs", "threshold")
def _(case: Case) -> None:
    case.put("release", signed("release", case.release(serial=SERIAL + 1)))


@_after("release-statement-serial-is-a-float", "bad-json", MALFORMED)
def _(case: Case) -> None:
    case.put("release", signed("release", case.release(serial=float(SERIAL))))


@_after("release-statement-channel-differs", "threshold")
def _(case: Case) -> None:
    case.put("release", signed("release", case.release(channel="test")))


@_after("legal-verdict-rejected", "threshold")
def _(case: Case) -> None:
    case.put("legal", signed("legal", case.legal(verdict="rejected")))


@_after("legal-verdict-rejected-beside-an-approval", "threshold")
def _(case: Case) -> None:
    case.put("legal-2", signed("legal", case.legal(verdict="rejected")))


@_after("legal-verdict-rejected-by-another-owner", "rejected")
def _(case: Case) -> None:
    case.policy["keys"][fingerprint("stranger")] = policy_key("stranger")
    case.policy["roles"]["legal"]["keys"].append(fingerprint("stranger"))
    case.put("legal-2", signed("stranger", case.legal(verdict="rejected")))


@_after("good-with-a-rejection-that-its-owner-withdrew")
def _(case: Case) -> None:
    no = case.legal(verdict="rejected")
    case.put("legal-2", signed("legal", no))
    case.put("legal", signed("legal", case.legal(supersedes=[sha256(no)])))


@_after("legal-verdict-missing", "threshold")
def _(case: Case) -> None:
    case.put("legal", signed("legal", case.about(LEGAL_TYPE, {"conditions": 0, "final": True})))


@_after("where-type-confusion-false-for-zero", "threshold")
def _(case: Case) -> None:
    case.put("legal", signed("legal", case.legal(conditions=False)))


@_after("where-type-confusion-one-for-true", "threshold")
def _(case: Case) -> None:
    case.put("legal", signed("legal", case.legal(final=1)))


@_after("where-type-confusion-float-for-integer", "threshold")
def _(case: Case) -> None:
    wanted = {"id": "bom", "role": "release", "predicateType": BOM_TYPE, "where": {"version": 1}}
    case.policy["require"].append(wanted)
    case.put("bom", signed("release", case.about(BOM_TYPE, {"version": 1.0})))


@_after("where-type-confusion-list-for-text", "threshold")
def _(case: Case) -> None:
    case.put("legal", signed("legal", case.legal(verdict=["approved"])))


# --- roles and thresholds


@_after("no-attestations-at-all", "threshold")
def _(case: Case) -> None:
    case.attestations = {}


@_after("missing-pq-signature-downgrade", "threshold")
def _(case: Case) -> None:
    case.drop("release-pq")


@_after("wrong-role-signs", "threshold")
def _(case: Case) -> None:
    case.put("legal", signed("security-1", case.legal()))


@_after("security-one-of-two", "threshold")
def _(case: Case) -> None:
    case.drop("risk-2")


@_after("security-same-key-twice", "threshold")
def _(case: Case) -> None:
    case.put("risk-2", signed("security-1", case.risk()))


@_after("security-same-person-two-keys", "threshold")
def _(case: Case) -> None:
    case.put("risk-2", signed("security-1b", case.risk()))


@_after("separation-of-duty-release-signs-legal", "threshold")
def _(case: Case) -> None:
    case.put("legal", signed("release", case.legal()))


@_after("revoked-key-is-the-only-release-signer", "threshold")
def _(case: Case) -> None:
    case.put("release", signed("old", case.release()))


# --- OMS


@_after("oms-ignores-everything", "threshold")
def _(case: Case) -> None:
    def change(value: dict[str, Any]) -> None:
        value["predicate"]["serialization"]["ignore_paths"] = ["."]
        value["predicate"]["resources"] = []

    case.put_oms(change)


@_after("oms-ignores-a-subtree", "threshold")
def _(case: Case) -> None:
    case.put_oms(lambda v: v["predicate"]["serialization"]["ignore_paths"].append("payload"))


@_after("oms-ignores-below-git", "threshold")
def _(case: Case) -> None:
    case.put_oms(lambda v: v["predicate"]["serialization"]["ignore_paths"].append(".git/../payload"))


@_after("oms-empty-resources", "threshold")
def _(case: Case) -> None:
    case.put_oms(lambda v: v["predicate"].update(resources=[]))


@_after("oms-without-the-manifest", "threshold")
def _(case: Case) -> None:
    case.put_oms(lambda v: v["predicate"]["resources"].pop(0))


@_after("oms-names-swapped", "threshold")
def _(case: Case) -> None:
    def change(value: dict[str, Any]) -> None:
        one, two = value["predicate"]["resources"][1:3]
        one["name"], two["name"] = two["name"], one["name"]

    case.put_oms(change)


@_after("oms-duplicate-resource", "threshold")
def _(case: Case) -> None:
    case.put_oms(lambda v: v["predicate"]["resources"].append(v["predicate"]["resources"][0]))


@_after("oms-resources-in-another-order", "threshold")
def _(case: Case) -> None:
    case.put_oms(lambda v: v["predicate"]["resources"].reverse())


@_after("oms-symlinks-allowed", "threshold")
def _(case: Case) -> None:
    case.put_oms(lambda v: v["predicate"]["serialization"].update(allow_symlinks=True))


@_after("oms-shards", "threshold")
def _(case: Case) -> None:
    case.put_oms(lambda v: v["predicate"]["serialization"].update(method="shards", shard_size=1))


@_after("oms-root-digest-differs", "threshold")
def _(case: Case) -> None:
    value = case.oms()
    value["subject"][0]["digest"]["sha256"] = "c" * 64
    case.put("oms", signed("release", dump(value)))


@_after("oms-of-another-manifest", "threshold")
def _(case: Case) -> None:
    case.put("oms", signed("release", dump(Case(serial=16).oms())))


@_after("oms-second-subject", "threshold")
def _(case: Case) -> None:
    case.put_oms(lambda v: v["subject"].append({"name": "other", "digest": {"sha256": "c" * 64}}))


@_after("oms-legacy-predicate", "threshold")
def _(case: Case) -> None:
    case.put_oms(lambda v: v.update(predicateType="https://model_signing/Digests/v0.1"))


# --- manifests


@_after("manifest-changed-after-signing", "threshold")
def _(case: Case) -> None:
    case.manifest_changes["name"] = "other"


@_row("manifest-duplicate-key", "duplicate-key", MALFORMED)
def _(case: Case) -> None:
    case.raw_manifest = _replaced(case.manifest, b'"serial"', b'"serial": 99, "serial"')


@_row("manifest-float-serial", "bad-json", MALFORMED)
def _(case: Case) -> None:
    case.raw_manifest = _replaced(case.manifest, b'"serial": 17', b'"serial": 17.0')


@_row("manifest-bool-serial", "bad-manifest", MALFORMED)
def _(case: Case) -> None:
    case.raw_manifest = _replaced(case.manifest, b'"serial": 17', b'"serial": true')


@_row("manifest-serial-beyond-2-53", "bad-json", MALFORMED)
def _(case: Case) -> None:
    case.raw_manifest = _replaced(case.manifest, b'"serial": 17', b'"serial": 9007199254740992')


@_row("manifest-unknown-critical-member", "unknown-critical-member", MALFORMED)
def _(case: Case) -> None:
    case.manifest_changes = {"future": 1, "critical": ["future"]}


def _bad_path(name: str, path: str, reference: str = "bad-path") -> None:
    @_row(f"path-{name}", reference, MALFORMED)
    def _(case: Case) -> None:
        entry = {"path": path, "size": 7, "sha256": sha256(b"weights")}
        listed = sorted([*case.entries(), entry], key=lambda item: item["path"])
        # OMS cannot be made by our own writer for such a path: only the manifest matters here.
        case.manifest_changes = {"files": listed}


for _name, _path in {
    "parent": "payload/../../etc/passwd",
    "absolute": "/etc/passwd",
    "backslash": "payload\\x",
    "drive": "C:/x",
    "control": "payload/a\x07b",
    "format-character": "payload/a\u202eb",
    "not-nfc": "payload/cafe\u0301",
    "git": ".gitattributes",
    "attestations": "attestations/x",
    "windows-reserved": "payload/NUL.txt",
    "trailing-dot": "payload/x.",
    "too-long-a-component": "payload/" + "x" * 201,
}.items():
    _bad_path(_name, _path)
for _name, _path in {
    "case-collision": "payload/models/CONFIG.json",
    "nfkc-collision": "payload/models/con\ufb01g.json",
    "file-is-directory": "payload/models",
    "manifest-itself": "Manifest.JSON",
}.items():
    _bad_path(_name, _path, "path-collision")
_bad_path("listed-twice", "payload/models/config.json", "duplicate-path")


# --- revocation, rollback, state


@_row("revoked-manifest", "revoked-manifest")
def _(case: Case) -> None:
    case.policy["revoked"]["manifests"][sha256(case.manifest)] = {"reason": "wrong weights"}


@_row("revoked-file", "revoked-file")
def _(case: Case) -> None:
    case.policy["revoked"]["files"][sha256(b"weights")] = {"reason": "backdoor"}


@_row("serial-below-the-policy-floor", "serial-below-floor")
def _(case: Case) -> None:
    case.serial = 9


@_row("serial-older-than-state", "serial-rollback")
def _(case: Case) -> None:
    case.state = {"serials": {CHANNEL: SERIAL + 1}}


@_row("serial-older-than-the-last-release", "serial-rollback")
def _(case: Case) -> None:
    case.state = {"last": {CHANNEL: {"serial": SERIAL + 1, "manifest": "e" * 64}}}


@_row("equivocation-same-serial-other-manifest", "equivocation")
def _(case: Case) -> None:
    last = {"serial": SERIAL, "manifest": "e" * 64}
    case.state = {"serials": {CHANNEL: SERIAL}, "last": {CHANNEL: last}}


@_row("policy-version-rollback", "policy-rollback")
def _(case: Case) -> None:
    case.state = {"policy": {"version": 4, "sha256": "e" * 64}}


@_row("equivocation-same-version-other-policy", "policy-equivocation")
def _(case: Case) -> None:
    case.state = {"policy": {"version": 3, "sha256": "e" * 64}}


@_row("state-is-not-json", "bad-json", MALFORMED)
def _(case: Case) -> None:
    case.raw_state = b""


@_row("state-with-a-bool-serial", "bad-state", MALFORMED)
def _(case: Case) -> None:
    case.state = {"serials": {CHANNEL: True}}


@_row("state-with-a-short-digest", "bad-state", MALFORMED)
def _(case: Case) -> None:
    case.state = {"policy": {"version": 3, "sha256": "e" * 40}}


# --- policies


def _policy(name: str, change: Callable[[dict[str, Any]], object], reference: str = "bad-policy") -> None:
    @_row(f"policy-{name}", reference, MALFORMED)
    def _(case: Case) -> None:
        change(case.policy)


def _alias_one_key(policy: dict[str, Any]) -> None:
    """One key under two ids, both counted."""
    alias = "f" * 64
    policy["keys"][alias] = {**policy_key("security-1"), "owner": "somebody else"}
    policy["roles"]["security"]["keys"].append(alias)


def _reencode_one_key(policy: dict[str, Any]) -> None:
    """The same point, compressed: another DER of the same key with another fingerprint."""
    der = private_key("security-1").public.spki
    x, y = der[-64:-32], der[-32:]
    point = bytes([2 + (y[-1] & 1)]) + x
    compressed = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200") + point
    item = {**policy_key("security-1"), "spki": base64.b64encode(compressed).decode(), "owner": "other"}
    policy["keys"][sha256(compressed)] = item
    policy["roles"]["security"]["keys"].append(sha256(compressed))


def _drop_keys(policy: dict[str, Any]) -> None:
    policy["roles"]["root"]["keys"] = []


_policy("one-key-under-two-ids", _alias_one_key, "bad-key")
_policy("one-key-in-two-encodings", _reencode_one_key, "bad-key")
_policy(
    "algorithm-confusion", lambda p: p["keys"][fingerprint("legal")].update(alg=spki.ECDSA_P256), "bad-key"
)
_policy("unknown-algorithm", lambda p: p["keys"][fingerprint("legal")].update(alg="rsa-2048"), "bad-key")
_policy("key-without-owner", lambda p: p["keys"][fingerprint("legal")].update(owner=" "), "bad-key")
_policy("unknown-key-member", lambda p: p["keys"][fingerprint("legal")].update(usage="x"), "bad-key")
_policy("key-with-junk-base64", lambda p: p["keys"][fingerprint("legal")].update(spki="!!"), "bad-base64")
_policy("threshold-zero", lambda p: p["roles"]["security"].update(threshold=0))
_policy("threshold-negative", lambda p: p["roles"]["security"].update(threshold=-1))
_policy("threshold-bool", lambda p: p["roles"]["security"].update(threshold=True))
_policy("threshold-text", lambda p: p["roles"]["security"].update(threshold="2"))
_policy("threshold-missing", lambda p: p["roles"]["security"].pop("threshold"))
_policy("threshold-above-the-owners", lambda p: p["roles"]["security"].update(threshold=3))
_policy(
    "revocation-makes-threshold-unreachable",
    lambda p: p["revoked"]["keys"].update({fingerprint("security-2"): {"reason": "stolen"}}),
)
_policy("separation-unreachable", lambda p: p["roles"]["legal"].update(keys=[fingerprint("release")]))
_policy("without-root", lambda p: p["roles"].pop("root"))
_policy("root-without-keys", _drop_keys)
_policy("require-empty", lambda p: p.update(require=[]))
_policy("require-missing", lambda p: p.pop("require"))
_policy("require-unknown-role", lambda p: p["require"][0].update(role="nobody"))
_policy("require-same-id-twice", lambda p: p["require"][0].update(id="oms"))
_policy("require-unknown-subject", lambda p: p["require"][0].update(subject="anything"))
_policy("require-unknown-member", lambda p: p["require"][0].update(optional=True))
_policy("where-holds-a-list", lambda p: p["require"][0].update(where={"verdict": ["approved"]}))
_policy("role-lists-an-unknown-key", lambda p: p["roles"]["legal"]["keys"].append("c" * 64))
_policy("role-lists-a-key-twice", lambda p: p["roles"]["legal"]["keys"].append(fingerprint("legal")))
_policy("role-unknown-member", lambda p: p["roles"]["legal"].update(optional=True))
_policy("distinct-from-unknown-role", lambda p: p["roles"]["legal"].update(distinctFrom=["nobody"]))
_policy("distinct-from-itself", lambda p: p["roles"]["legal"].update(distinctFrom=["legal"]))
_policy("unknown-member", lambda p: p.update(allowUnsigned=True))
_policy("unknown-rule", lambda p: p.update(rules={"skip": True}))
_policy("wrong-type", lambda p: p.update(type="urn:sealift:trust-policy:v2"))
_policy("version-zero", lambda p: p.update(version=0))
_policy("version-bool", lambda p: p.update(version=True))
_policy("floor-bool", lambda p: p.update(minSerial={CHANNEL: True}))
_policy("expires-in-words", lambda p: p.update(expires="next year"))
_policy("revocation-without-reason", lambda p: p["revoked"]["keys"].update({"c" * 64: {}}))
_policy("revocation-of-a-short-digest", lambda p: p["revoked"]["files"].update({"c" * 8: {"reason": "x"}}))


@_row("policy-empty-object", "bad-policy", MALFORMED)
def _(case: Case) -> None:
    case.raw_policy = b"{}"


@_row("policy-duplicate-key", "duplicate-key", MALFORMED)
def _(case: Case) -> None:
    case.raw_policy = _replaced(dump(case.policy), b'"version"', b'"version": 9, "version"')


@_row("policy-float-threshold", "bad-json", MALFORMED)
def _(case: Case) -> None:
    case.raw_policy = _replaced(dump(case.policy), b'"threshold": 2', b'"threshold": 2.0')


# --- rotation


@dataclass(frozen=True, kw_only=True)
class Rotation:
    """A current and a new policy with approvals, and what must come of it."""

    name: str
    reference: str
    exit_code: ExitCode
    current: bytes
    new: bytes
    approvals: dict[str, bytes]

    def write(self, folder: Path) -> None:
        """`folder/current.json`, `folder/new.json` and `folder/approvals/`."""
        (folder / "approvals").mkdir(parents=True)
        (folder / "current.json").write_bytes(self.current)
        (folder / "new.json").write_bytes(self.new)
        for name, data in self.approvals.items():
            (folder / "approvals" / name).write_bytes(data)


def approval(policy: bytes, version: Any, name: str = "policy.json") -> bytes:
    """The statement that approves a policy file."""
    return statement({name: sha256(policy)}, APPROVAL_TYPE, {"version": version})


def _next(current: bytes, **changes: Any) -> dict[str, Any]:
    return {**json.loads(current), "version": 4, "previous": {"sha256": sha256(current)}, **changes}


def _rotation(
    name: str,
    reference: str = "",
    exit_code: ExitCode = AUTHENTICITY,
    *,
    change: Callable[[dict[str, Any]], object] = lambda policy: None,
    signers: tuple[str, ...] = ("root-1", "root-2"),
    approve: Callable[[bytes], bytes] = lambda policy: approval(policy, 4),
) -> Rotation:
    current = dump(good_policy())
    value = _next(current)
    change(value)
    new = dump(value)
    payload = approve(new)
    return Rotation(
        name=name,
        reference=reference,
        exit_code=exit_code if reference else ExitCode.PASSED,
        current=current,
        new=new,
        approvals={f"{n}.sigstore.json": signed(signer, payload) for n, signer in enumerate(signers)},
    )


def _strangers_root(policy: dict[str, Any]) -> None:
    policy["keys"][fingerprint("stranger")] = policy_key("stranger")
    policy["roles"]["root"] = {"keys": [fingerprint("stranger")], "threshold": 1}


def _swap_carol_for_lena(policy: dict[str, Any]) -> None:
    policy["roles"]["root"]["keys"] = [fingerprint("root-1"), fingerprint("legal")]


def _revoke_alice(policy: dict[str, Any]) -> None:
    policy["revoked"]["keys"][fingerprint("root-1")] = {"reason": "lost"}


def rotations() -> list[Rotation]:
    """Every way to replace a policy, good and hostile."""
    return [
        _rotation("rotate-good"),
        _rotation("rotate-good-by-all-three", signers=("root-1", "root-2", "root-3")),
        _rotation(
            "rotate-good-both-thresholds-by-different-people",
            change=_swap_carol_for_lena,
            signers=("root-1", "root-2", "legal"),
        ),
        _rotation(
            "rotate-good-more-revocations",
            change=lambda p: p["revoked"]["files"].update({"c" * 64: {"reason": "x"}}),
        ),
        _rotation("rotate-good-floor-raised", change=lambda p: p["minSerial"].update({CHANNEL: 11})),
        _rotation(
            "rotate-good-that-revokes-a-lost-root-key", change=_revoke_alice, signers=("root-2", "root-3")
        ),
        _rotation(
            "rotate-good-approval-among-several-subjects",
            approve=lambda policy: statement(
                {"other": "0" * 64, "4.policy.json": sha256(policy)}, APPROVAL_TYPE, {"version": 4}
            ),
        ),
        _rotation(
            "rotate-approved-by-a-key-that-the-new-policy-revokes",
            "threshold",
            change=_revoke_alice,
            signers=("root-1", "root-2"),
        ),
        _rotation("rotate-missing-old-threshold", "threshold", signers=("root-1",)),
        _rotation("rotate-nobody-approves", "threshold", signers=()),
        _rotation(
            "rotate-missing-new-threshold",
            "threshold",
            change=_swap_carol_for_lena,
            signers=("root-1", "root-2"),
        ),
        _rotation("rotate-same-key-twice", "threshold", signers=("root-1", "root-1")),
        _rotation("rotate-self-appointed-root", "threshold", change=_strangers_root, signers=("stranger",)),
        _rotation("rotate-by-release", "threshold", signers=("root-1", "release")),
        _rotation("rotate-good-with-a-later-key-beside", signers=("root-1", "root-2", "stranger")),
        _rotation(
            "rotate-skipped-version",
            "policy-version",
            change=lambda p: p.update(version=5),
            approve=lambda policy: approval(policy, 5),
        ),
        _rotation(
            "rotate-same-version",
            "policy-version",
            change=lambda p: p.update(version=3),
            approve=lambda policy: approval(policy, 3),
        ),
        _rotation(
            "rotate-broken-chain", "policy-chain", change=lambda p: p.update(previous={"sha256": "e" * 64})
        ),
        _rotation("rotate-chain-missing", "policy-chain", change=lambda p: p.pop("previous")),
        _rotation("rotate-un-revocation", "un-revocation", change=lambda p: p["revoked"].update(files={})),
        _rotation("rotate-revocations-dropped", "un-revocation", change=lambda p: p.pop("revoked")),
        _rotation(
            "rotate-floor-lowered", "floor-lowered", change=lambda p: p["minSerial"].update({CHANNEL: 9})
        ),
        _rotation("rotate-floor-dropped", "floor-lowered", change=lambda p: p.update(minSerial={})),
        _rotation(
            "rotate-approval-of-another-file", "threshold", approve=lambda policy: approval(b"other", 4)
        ),
        _rotation(
            "rotate-approval-of-another-version", "threshold", approve=lambda policy: approval(policy, 5)
        ),
        _rotation(
            "rotate-approval-version-is-true",
            "threshold",
            approve=lambda policy: approval(policy, True),
        ),
        _rotation(
            "rotate-approval-version-is-text", "threshold", approve=lambda policy: approval(policy, "4")
        ),
        _rotation(
            "rotate-approval-with-a-float",
            "bad-json",
            MALFORMED,
            approve=lambda policy: approval(policy, 4.0),
        ),
        _rotation(
            "rotate-approval-of-another-type",
            "threshold",
            approve=lambda policy: statement({"policy.json": sha256(policy)}, RELEASE_TYPE, {"version": 4}),
        ),
        _rotation(
            "rotate-new-policy-is-malformed",
            "bad-policy",
            MALFORMED,
            change=lambda p: p["roles"]["root"].update(threshold=0),
        ),
        _rotation(
            "rotate-to-an-unreachable-root",
            "bad-policy",
            MALFORMED,
            change=lambda p: p["revoked"]["keys"].update(
                {fingerprint("root-1"): {"reason": "x"}, fingerprint("root-2"): {"reason": "x"}}
            ),
        ),
    ]
