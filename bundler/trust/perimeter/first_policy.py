"""Writing policies: the first one from public keys, and the sentences that say what a policy means."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bundler.core.timestamps import format_instant
from bundler.errors import ExitCode, Finding, UsageError
from bundler.trust.keys import PublicKey
from bundler.trust.model_signing_format import OMS_TYPE
from bundler.trust.policy_document import (
    OMS_SUBJECT,
    POLICY_TYPE,
    ROOT,
    Requirement,
    Role,
    Rules,
    TrustPolicy,
)
from bundler.trust.spki import grouped
from bundler.trust.statements import PROVENANCE_TYPE, RELEASE_TYPE

RELEASE = "release"
DEFAULT_REQUIREMENTS = (
    {"id": "release", "role": RELEASE, "predicateType": RELEASE_TYPE},
    {"id": "oms", "role": RELEASE, "predicateType": OMS_TYPE, "subject": OMS_SUBJECT},
    {"id": "provenance", "role": RELEASE, "predicateType": PROVENANCE_TYPE},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A public key, the person who holds it and the role it is for."""

    role: str
    key: PublicKey
    owner: str


def default_threshold(role: str, owners: int) -> int:
    """A majority of the root owners; one for any other role."""
    return owners // 2 + 1 if role == ROOT else 1


def compose_policy(
    holders: Sequence[Holder],
    *,
    thresholds: Mapping[str, int],
    require: Sequence[Mapping[str, Any]] = DEFAULT_REQUIREMENTS,
    note: str = "",
) -> bytes:
    """The bytes of a version 1 policy, one member a line so that people can read and compare it.

    The bytes are parsed once more: raises MalformedError (`bad-policy`) for what a verifier would refuse.
    """
    _refuse_two_owners(holders)
    _refuse_unknown_roles(holders, thresholds)
    roles: dict[str, dict[str, Any]] = {}
    for holder in holders:
        roles.setdefault(holder.role, {"keys": []})["keys"].append(holder.key.fingerprint)
    for name, role in roles.items():
        owners = len({holder.owner for holder in holders if holder.role == name})
        role["threshold"] = thresholds.get(name, default_threshold(name, owners))
    value: dict[str, Any] = {
        "type": POLICY_TYPE,
        "version": 1,
        "keys": {holder.key.fingerprint: _key(holder) for holder in holders},
        "roles": roles,
        "require": [dict(requirement) for requirement in require],
        "revoked": {"keys": {}, "manifests": {}, "files": {}},
        "minSerial": {},
    }
    if note:
        value["note"] = note
    data = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"
    TrustPolicy.parse(data)
    return data


def _refuse_two_owners(holders: Sequence[Holder]) -> None:
    owners: dict[str, str] = {}
    for holder in holders:
        owner = owners.setdefault(holder.key.fingerprint, holder.owner)
        if owner != holder.owner:
            raise UsageError(
                "two-owners",
                "one key is given to two people",
                where=f"key {holder.key.fingerprint}",
                expected="one owner",
                found=f"{owner} and {holder.owner}",
            )


def _refuse_unknown_roles(holders: Sequence[Holder], thresholds: Mapping[str, int]) -> None:
    roles = list(dict.fromkeys(holder.role for holder in holders))
    for name in thresholds:
        if name not in roles:
            raise UsageError(
                "unknown-role",
                "a threshold is given for a role that nobody has",
                where=f"--threshold {name}={thresholds[name]}",
                expected="one of " + ", ".join(roles),
                found=name,
                hint="correct the name, or give the role a key: --role NAME=KEY.pub",
            )


def policy_warnings(policy: TrustPolicy) -> tuple[Finding, ...]:
    """What a policy may say but rarely means: a role that nothing requires, one key in root and elsewhere."""
    return tuple(
        Finding(
            reference,
            what,
            where=f"policy: {where}",
            hint=hint,
            severity="warning",
            exit_code=ExitCode.POLICY,
        )
        for reference, what, where, hint in _unusual(policy)
    )


def _unusual(policy: TrustPolicy) -> Iterator[tuple[str, str, str, str]]:
    required = {item.role for item in policy.require}
    for name in policy.roles.keys() - required - {ROOT}:
        yield (
            "role-not-required",
            f"nothing requires a statement of the role {name}: what its people sign changes nothing",
            f"roles.{name}",
            "add a requirement for it to `require`, then `sealift trust show POLICY`",
        )
    for role in policy.roles.values():
        for key in () if role.name == ROOT else sorted({*role.keys} & {*policy.roles[ROOT].keys}):
            yield (
                "root-key-in-role",
                f"one key of {policy.keys[key].owner} is in the role root and in the role {role.name}",
                f"roles.{role.name}.keys: {key}",
                "make a second key: `sealift keys generate -o release.key`",
            )


def _key(holder: Holder) -> dict[str, str]:
    return {
        "alg": holder.key.algorithm,
        "spki": base64.b64encode(holder.key.spki).decode("ascii"),
        "owner": holder.owner,
    }


def sentences(policy: TrustPolicy) -> Iterator[str]:
    """What the policy says, one sentence a line, for reading aloud."""
    yield f"This is version {policy.version} of the trust policy."
    if policy.previous:
        yield f"It follows the policy {grouped(policy.previous)}."
    for role in policy.roles.values():
        yield from _role_sentences(policy, role)
    for requirement in policy.require:
        yield _requirement_sentence(policy, requirement)
    for channel, floor in sorted(policy.min_serial.items()):
        yield f"In the channel {channel} nothing before serial {floor} is accepted."
    for kind in ("keys", "manifests", "files"):
        for digest, reason in sorted(getattr(policy.revoked, kind).items()):
            yield f"The {kind[:-1]} {grouped(digest)} is revoked: {reason}."
    yield from _rule_sentences(policy.rules)
    used = {name for role in policy.roles.values() for name in role.keys}
    for name in sorted(policy.keys.keys() - used):
        yield f"The key of {policy.keys[name].owner}, {grouped(name)}, is in no role."
    if policy.expires is not None:
        yield f"This policy ends at {format_instant(policy.expires)}."
    if policy.trusted_root_sha256:
        yield f"Keyless signatures stand on the Sigstore root {grouped(policy.trusted_root_sha256)}."
    if policy.note:
        yield f"Note: {policy.note}"


def _rule_sentences(rules: Rules) -> Iterator[str]:
    if rules.licenses_allow:
        yield f"Only these licences are allowed: {', '.join(rules.licenses_allow)}."
    if rules.licenses_deny:
        yield f"These licences are refused: {', '.join(rules.licenses_deny)}."
    if rules.formats:
        yield f"Only these weight formats are allowed: {', '.join(rules.formats)}."
    if not rules.pickle:
        yield "Weights that contain pickle are refused."
    for engine, version in sorted(rules.engines.items()):
        yield f"The engine {engine} must have version {version} or later."
    if rules.expiry == "enforce":
        yield "What has expired is refused."


def _role_sentences(policy: TrustPolicy, role: Role) -> Iterator[str]:
    does = "may change this policy" if role.name == ROOT else f"may speak as {role.name}"
    count = f"{role.threshold} of {len(policy.owners(role))} people"
    apart = f", none of whom also counts for {' or '.join(role.distinct_from)}" if role.distinct_from else ""
    yield f"{role.name}: {count} {does}{apart}:"
    for name in role.keys:
        key = policy.keys[name]
        state = f" REVOKED ({policy.revoked.keys[name]})" if name in policy.revoked.keys else ""
        yield f"  {key.owner}, {key.algorithm}, {grouped(name)}{state}"
    for identity in role.identities:
        yield f"  {identity.san}, as {identity.issuer} says"


def _requirement_sentence(policy: TrustPolicy, requirement: Requirement) -> str:
    count = policy.roles[requirement.role].threshold
    said = " and ".join(f"{name} is {json.dumps(value)}" for name, value in requirement.where.items())
    about = "all its files" if requirement.subject == OMS_SUBJECT else "its manifest"
    return (
        f"A bundle needs a statement {requirement.predicate_type} about {about} by {count} of "
        f"{requirement.role}" + (f", saying {said}" if said else "") + f" ({requirement.id})."
    )
