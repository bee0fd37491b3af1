"""The trust policy as a document: what the perimeter says about keys, roles and requirements.

Its form and the rules that one policy must fulfil by itself (format.md section 6). What it says about a
bundle is `trust.policy.evaluate`. Nothing is defaulted that would make a policy weaker.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Union

from bundler.core import strict_json
from bundler.core.digest import is_sha256_hex
from bundler.core.names.people import fold_name, look_alikes, name_fault, text_fault
from bundler.core.purl import normal_name
from bundler.core.timestamps import parse_instant
from bundler.errors import ExitCode, Finding, MalformedError
from bundler.trust.dsse import check_shape, decode_base64
from bundler.trust.spki import fingerprint, spki_fault

POLICY_TYPE = "urn:sealift:trust-policy:v1"
ROOT = "root"
MANIFEST_SUBJECT = "manifest"
OMS_SUBJECT = "oms"
Scalar = Union[str, int, bool, None]  # noqa: UP007 - also runs on Python 3.9
NoneType = type(None)

_REASONS = {"keys?": dict, "manifests?": dict, "files?": dict}
_SHAPE = {
    "type": str,
    "version": int,
    "previous?": (dict, NoneType),
    "keys": dict,
    "roles": dict,
    "require": list,
    "revoked?": _REASONS,
    "minSerial?": dict,
    "sigstore?": {"trusted_root": {"sha256": str}},
    "rules?": {
        "licenses?": {"allow?": [str], "deny?": [str]},
        "content?": {"formats?": [str], "pickle?": bool},
        "engines?": dict,
        "expiry?": str,
    },
    "expires?": (str, NoneType),
    "note?": (str, NoneType),
}
_KEY_SHAPE = {"alg": str, "spki": str, "owner": str}
_ROLE_SHAPE = {
    "keys?": [str],
    "identities?": [{"issuer": str, "san": str}],
    "threshold": int,
    "distinctFrom?": [str],
}
_REQUIREMENT_SHAPE = {"id": str, "role": str, "predicateType": str, "subject?": str, "where?": dict}
_ENGINE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?", re.ASCII)
_VERSION = re.compile(
    r"v?(?:\d+!)?\d+(?:\.\d+)*(?:[-_.]?(?:a|b|c|rc|alpha|beta|pre|preview)[-_.]?\d*)?"
    r"(?:-\d+|[-_.]?(?:post|rev|r)[-_.]?\d*)?(?:[-_.]?dev[-_.]?\d*)?(?:\+[a-z0-9]+(?:[-_.][a-z0-9]+)*)?",
    re.ASCII | re.IGNORECASE,
)
"""PEP 440, appendix B. This module travels without `packaging`; a test holds the two together."""
EXPIRY_BEHAVIOURS = ("warn", "enforce")


@dataclass(frozen=True)
class PolicyKey:
    """A public key with the person who holds it. `fingerprint` is computed, never declared."""

    fingerprint: str
    algorithm: str
    spki: bytes
    owner: str


@dataclass(frozen=True)
class Identity:
    """A keyless signer: who vouches for it (`issuer`) and what it is called (`san`), compared exactly."""

    issuer: str
    san: str

    @property
    def owner(self) -> str:
        """Each identity counts as one owner."""
        return f"{self.san} ({self.issuer})"


@dataclass(frozen=True)
class Role:
    """Who may speak for it, how many distinct owners are needed, and whose owners do not count."""

    name: str
    keys: tuple[str, ...]
    identities: tuple[Identity, ...]
    threshold: int
    distinct_from: tuple[str, ...]


@dataclass(frozen=True)
class Requirement:
    """A statement that must be there: of this type, by this role, about this subject, saying this."""

    id: str
    role: str
    predicate_type: str
    subject: str
    where: Mapping[str, Scalar]


@dataclass(frozen=True)
class Revocations:
    """Digest to reason: keys that no longer count, manifests and files that are never accepted."""

    keys: Mapping[str, str] = field(default_factory=dict)
    manifests: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Rules:
    """What step 9 of a full verification compares. Empty members ask for nothing.

    `licenses_allow` and `licenses_deny` are SPDX identifiers; `formats` weight formats; `pickle` is False
    when pickle-based weights are refused even if waived; `engines` maps an engine to its lowest version;
    `expiry` is `warn` or `enforce`.
    """

    licenses_allow: tuple[str, ...] = ()
    licenses_deny: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    pickle: bool = True
    engines: Mapping[str, str] = field(default_factory=dict)
    expiry: str = "warn"


@dataclass(frozen=True)
class TrustPolicy:
    """A policy that fulfils section 6 by itself. Says nothing about who approved it.

    `sha256` is of the very bytes it was parsed from, in hexadecimal.
    `expires` is in seconds since 1970 UTC; `trusted_root_sha256` pins the Sigstore trusted root.
    """

    version: int
    previous: str | None
    keys: Mapping[str, PolicyKey]
    roles: Mapping[str, Role]
    require: tuple[Requirement, ...]
    sha256: str
    revoked: Revocations = field(default_factory=Revocations)
    min_serial: Mapping[str, int] = field(default_factory=dict)
    trusted_root_sha256: str | None = None
    rules: Rules = field(default_factory=Rules)
    expires: int | None = None
    note: str = ""

    @classmethod
    def parse(cls, data: bytes, *, where: str = "policy") -> TrustPolicy:
        """The policy that `data` says.

        Raises MalformedError (`bad-policy`, `bad-key`, or those of strict JSON) with every fault found
        among keys, roles and requirements.
        """
        value = strict_json.loads(data, limit=strict_json.POLICY_LIMIT, where=where)
        _check_document(value, where)
        keys, faults = _parse_keys(value["keys"], where)
        roles, role_faults = _parse_roles(value["roles"], where)
        require, requirement_faults = _parse_requirements(value["require"], where)
        faults += role_faults + requirement_faults
        _refuse_if(faults)
        policy = cls(
            version=value["version"],
            previous=(value.get("previous") or {}).get("sha256"),
            keys=keys,
            roles=roles,
            require=require,
            sha256=hashlib.sha256(data).hexdigest(),
            revoked=_parse_revocations(value.get("revoked", {}), where),
            min_serial=_parse_floors(value.get("minSerial", {}), where),
            trusted_root_sha256=value.get("sigstore", {}).get("trusted_root", {}).get("sha256"),
            rules=_parse_rules(value.get("rules", {}), where),
            expires=parse_instant(value.get("expires")),
            note=value.get("note") or "",
        )
        _refuse_if(_coherence_faults(policy, where))
        return policy

    def owners(self, role: Role, *, live: bool = True) -> dict[str, str]:
        """The role's distinct owners, as folded name to name; with `live`, only those who can still count."""
        names = [self.keys[name].owner for name in role.keys if not live or name not in self.revoked.keys]
        if not live or self.trusted_root_sha256 is not None:
            names += [identity.owner for identity in role.identities]
        return {fold_owner(name): name for name in names}


def fold_owner(name: str) -> str:
    """Two spellings with the same fold are one person: a threshold must not be met by `Alice` and `alice`."""
    return fold_name(name)


def _check_document(value: Any, where: str) -> None:
    check_shape(value, _SHAPE, where=where, reference="bad-policy")
    if value["type"] != POLICY_TYPE:
        _refuse(where, "type", POLICY_TYPE, value["type"])
    if value["version"] < 1:
        _refuse(where, "version", "an integer >= 1", value["version"])
    if value.get("previous") is not None:
        check_shape(value["previous"], {"sha256": str}, where=f"{where}: previous", reference="bad-policy")
        _check_digest(value["previous"]["sha256"], where, "previous")
    if "sigstore" in value:
        _check_digest(value["sigstore"]["trusted_root"]["sha256"], where, "sigstore.trusted_root")
    if value.get("expires") is not None and parse_instant(value["expires"]) is None:
        _refuse(where, "expires", "an RFC 3339 time", value["expires"])


def _parse_keys(value: Mapping[str, Any], where: str) -> tuple[dict[str, PolicyKey], list[Finding]]:
    keys: dict[str, PolicyKey] = {}
    faults: list[Finding] = []
    for name, item in value.items():
        try:
            keys[name] = _parse_key(name, item, f"{where}: keys.{name[:64]}")
        except MalformedError as error:
            faults.extend(error.findings)
    return keys, faults


def _parse_key(name: str, item: Any, where: str) -> PolicyKey:
    check_shape(item, _KEY_SHAPE, where=where, reference="bad-key")
    spki = decode_base64(item["spki"], where=f"{where}: spki", limit=4096)
    fault = spki_fault(item["alg"], spki)
    # One key under two ids would count twice (CVE-2020-6174): the id is what we compute.
    if not fault and fingerprint(spki) != name:
        fault = f"it is listed as {name[:64]!r} but its fingerprint is {fingerprint(spki)}"
    if not fault and name_fault(item["owner"]):
        fault = f"its owner cannot be used: {name_fault(item['owner'])}"
    if fault:
        raise MalformedError(
            "bad-key",
            "a key of the policy cannot be used",
            where=where,
            expected="the canonical key of its algorithm, under its own SHA-256, with an owner",
            found=fault,
            hint="`sealift keys fingerprint KEY.pub` computes it",
        )
    return PolicyKey(fingerprint=name, algorithm=item["alg"], spki=spki, owner=item["owner"])


def _parse_roles(value: Mapping[str, Any], where: str) -> tuple[dict[str, Role], list[Finding]]:
    roles: dict[str, Role] = {}
    faults: list[Finding] = []
    for name, item in value.items():
        try:
            check_shape(item, _ROLE_SHAPE, where=f"{where}: roles.{name[:60]}", reference="bad-policy")
        except MalformedError as error:
            faults.extend(error.findings)
            continue
        roles[name] = Role(
            name=name,
            keys=tuple(item.get("keys", ())),
            identities=tuple(Identity(**identity) for identity in item.get("identities", ())),
            threshold=item["threshold"],
            distinct_from=tuple(item.get("distinctFrom", ())),
        )
    return roles, faults


def _parse_requirements(value: list[Any], where: str) -> tuple[tuple[Requirement, ...], list[Finding]]:
    found: list[Requirement] = []
    faults: list[Finding] = []
    for number, item in enumerate(value):
        place = f"{where}: require[{number}]"
        try:
            check_shape(item, _REQUIREMENT_SHAPE, where=place, reference="bad-policy")
            _check_scalars(item.get("where", {}), place)
        except MalformedError as error:
            faults.extend(error.findings)
            continue
        found.append(
            Requirement(
                id=item["id"],
                role=item["role"],
                predicate_type=item["predicateType"],
                subject=item.get("subject", MANIFEST_SUBJECT),
                where=item.get("where", {}),
            )
        )
    return tuple(found), faults


def _check_scalars(value: Mapping[str, Any], where: str) -> None:
    for name, item in value.items():
        check_shape(item, (str, int, bool, NoneType), where=f"{where}.where.{name}", reference="bad-policy")


def _parse_revocations(value: Mapping[str, Any], where: str) -> Revocations:
    return Revocations(
        **{kind: _parse_reasons(items, f"{where}: revoked.{kind}") for kind, items in value.items()}
    )


def _parse_reasons(items: Mapping[str, Any], where: str) -> dict[str, str]:
    """Digest to reason; the reason is text, or an object that holds it as `reason`."""
    reasons: dict[str, str] = {}
    for digest, item in items.items():
        _check_digest(digest, where, "")
        if isinstance(item, dict):
            check_shape(item, {"reason": str}, where=f"{where}.{digest}", reference="bad-policy")
            item = item["reason"]
        check_shape(item, str, where=f"{where}.{digest}", reference="bad-policy")
        if not item.strip():
            _refuse(where, digest, "a reason", item)
        reasons[digest] = item
    return reasons


def _parse_floors(value: Mapping[str, Any], where: str) -> dict[str, int]:
    for channel, serial in value.items():
        if type(serial) is not int or serial < 0 or not channel:
            _refuse(where, f"minSerial.{channel}", "an integer >= 0 for a channel", serial)
    return dict(value)


def _parse_rules(value: Mapping[str, Any], where: str) -> Rules:
    engines = value.get("engines", {})
    check_shape(list(engines.values()), [str], where=f"{where}: rules.engines", reference="bad-policy")
    _refuse_if([*_rule_list_faults(value, where), *_engine_faults(engines, where)])
    expiry = value.get("expiry", EXPIRY_BEHAVIOURS[0])
    if expiry not in EXPIRY_BEHAVIOURS:
        _refuse(where, "rules.expiry", " or ".join(EXPIRY_BEHAVIOURS), expiry)
    licenses, content = value.get("licenses", {}), value.get("content", {})
    return Rules(
        licenses_allow=tuple(licenses.get("allow", ())),
        licenses_deny=tuple(licenses.get("deny", ())),
        formats=tuple(content.get("formats", ())),
        pickle=content.get("pickle", True),
        engines=dict(engines),
        expiry=expiry,
    )


def _rule_list_faults(rules: Mapping[str, Any], where: str) -> Iterator[Finding]:
    """Lists of rules that would ask for nothing: empty ones, and entries that no value can equal."""
    for rule, name in (("licenses", "allow"), ("licenses", "deny"), ("content", "formats")):
        items = rules.get(rule, {}).get(name)
        place = f"rules.{rule}.{name}"
        # An empty list of what is allowed reads as "nothing", and would allow all. Beside a list of what is
        # allowed, an empty one of what is refused says just what it does.
        harmless = name == "deny" and rules.get(rule, {}).get("allow")
        if items == [] and not harmless:
            yield _finding(where, place, "at least one entry, or no such member", "an empty list")
        for item in items or ():
            fault = text_fault(item) or ("" if item.strip() == item != "" else f"{item!r}")
            if fault:
                yield _finding(where, place, "names without control characters or spaces around them", fault)


def _engine_faults(engines: Mapping[str, str], where: str) -> Iterator[Finding]:
    """Floors that no version can be compared with, and one engine under two spellings."""
    seen: dict[str, str] = {}
    for name, floor in engines.items():
        place = f"rules.engines.{name[:60]}"
        if not _ENGINE.fullmatch(name):
            yield _finding(where, place, "the name of a distribution, like vllm", name)
        elif seen.setdefault(normal_name(name), name) != name:
            yield _finding(where, place, "every engine once", f"{seen[normal_name(name)]} is the same name")
        if not _VERSION.fullmatch(floor):
            yield _finding(where, place, "a version as PEP 440 has it, like 0.19.1", floor)


def _coherence_faults(policy: TrustPolicy, where: str) -> list[Finding]:
    """Faults between the parts: names that lead nowhere, thresholds that nobody can reach."""
    faults = [*_text_faults(policy, where), *_look_alike_faults(policy, where)]
    if ROOT not in policy.roles:
        faults.append(_finding(where, "roles", "the role root", "none: nobody could ever change the policy"))
    if not policy.require:
        faults.append(_finding(where, "require", "at least one requirement", "none: it would accept all"))
    for role in policy.roles.values():
        faults += _role_faults(policy, role, where)
    faults += _requirement_faults(policy, where)
    return faults or _separation_faults(policy, where)


def _text_faults(policy: TrustPolicy, where: str) -> list[Finding]:
    """Names, ids and notes that would print as something else (format.md section 6)."""
    named = [(f"roles.{name[:60]!r}", name_fault(name)) for name in policy.roles]
    texts = [("note", policy.note)]
    for role in policy.roles.values():
        for identity in role.identities:
            place = f"roles.{role.name[:60]!r}.identities"
            texts += [(place, identity.issuer), (place, identity.san)]
    texts += [(f"require.{item.id[:60]!r}.id", item.id) for item in policy.require]
    for kind in ("keys", "manifests", "files"):
        reasons: Mapping[str, str] = getattr(policy.revoked, kind)
        texts += [(f"revoked.{kind}.{digest}", reason) for digest, reason in reasons.items()]
    named += [(place, text_fault(text)) for place, text in texts]
    wanted = "text without control or format characters"
    return [_finding(where, place, wanted, fault) for place, fault in named if fault]


def _look_alike_faults(policy: TrustPolicy, where: str) -> list[Finding]:
    """Two owners, or two roles, that a reader takes for one."""
    owners = [key.owner for key in policy.keys.values()]
    owners += [identity.owner for role in policy.roles.values() for identity in role.identities]
    pairs = [("keys: owner", pair) for pair in look_alikes(owners)]
    pairs += [("roles", pair) for pair in look_alikes(policy.roles)]
    wanted = "one spelling for one name, and names that nobody takes for another"
    return [_finding(where, place, wanted, f"{one!a} and {other!a}") for place, (one, other) in pairs]


def _role_faults(policy: TrustPolicy, role: Role, where: str) -> list[Finding]:
    place = f"roles.{role.name}"
    faults = [
        _finding(where, f"{place}.keys", "fingerprints listed under keys", name)
        for name in role.keys
        if name not in policy.keys
    ]
    if len(set(role.keys)) != len(role.keys) or len(set(role.identities)) != len(role.identities):
        faults.append(_finding(where, place, "each key and identity once", "one of them twice"))
    if not all(identity.issuer and identity.san for identity in role.identities):
        faults.append(_finding(where, f"{place}.identities", "an issuer and a san", "an empty one"))
    faults += [
        _finding(where, f"{place}.distinctFrom", "names of other roles", name)
        for name in role.distinct_from
        if name not in policy.roles or name == role.name
    ]
    if role.threshold < 1:
        # CVE-2026-23992: a threshold below one is met by nobody having signed.
        faults.append(_finding(where, f"{place}.threshold", "an integer >= 1", role.threshold))
    elif not faults and len(policy.owners(role)) < role.threshold:
        found = f"{len(policy.owners(role))} owners with a key that is not revoked"
        faults.append(_finding(where, f"{place}.threshold", f"{role.threshold} distinct live owners", found))
    return faults


def _requirement_faults(policy: TrustPolicy, where: str) -> list[Finding]:
    faults = []
    seen: set[str] = set()
    for requirement in policy.require:
        place = f"require.{requirement.id}"
        if not requirement.id or requirement.id in seen:
            faults.append(_finding(where, place, "an id of its own", requirement.id))
        seen.add(requirement.id)
        if requirement.role not in policy.roles:
            faults.append(_finding(where, f"{place}.role", "the name of a role", requirement.role))
        if not requirement.predicate_type:
            faults.append(_finding(where, f"{place}.predicateType", "a predicate type", "none"))
        if requirement.subject not in (MANIFEST_SUBJECT, OMS_SUBJECT):
            faults.append(_finding(where, f"{place}.subject", "manifest or oms", requirement.subject))
    return faults


def _separation_faults(policy: TrustPolicy, where: str) -> list[Finding]:
    """Pairs of required roles that must be distinct and do not have people enough for both."""
    required = {requirement.role for requirement in policy.require}
    faults = []
    for role in (policy.roles[name] for name in sorted(required)):
        for other in (policy.roles[name] for name in role.distinct_from if name in required):
            people = policy.owners(role).keys() | policy.owners(other).keys()
            needed = role.threshold + other.threshold
            if len(people) < needed:
                what = f"{needed} distinct live owners in {role.name} and {other.name} together"
                place = f"roles.{role.name}.distinctFrom"
                faults.append(_finding(where, place, what, f"{len(people)}"))
    return faults


def _check_digest(value: object, where: str, place: str) -> None:
    if not is_sha256_hex(value):
        _refuse(where, place, "a SHA-256 in 64 lower-case hex digits", value)


def _finding(where: str, place: str, expected: str, found: object) -> Finding:
    return Finding(
        "bad-policy",
        "the trust policy does not fulfil its rules",
        where=f"{where}: {place}".rstrip(": "),
        expected=expected,
        found=found[:200] if isinstance(found, str) else repr(found)[:200],
        hint="`sealift trust show POLICY` prints what a policy says",
        exit_code=ExitCode.MALFORMED,
    )


def _refuse(where: str, place: str, expected: str, found: object) -> None:
    raise MalformedError.of([_finding(where, place, expected, found)])


def _refuse_if(faults: Iterable[Finding]) -> None:
    faults = list(faults)
    if faults:
        raise MalformedError.of(faults)
