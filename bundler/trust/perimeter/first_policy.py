"""Writing policies: the first one from public keys, and the sentences that say what a policy means."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bundler.errors import UsageError
from bundler.trust.keys import PublicKey
from bundler.trust.model_signing_format import OMS_TYPE
from bundler.trust.policy_document import (
    OMS_SUBJECT,
    POLICY_TYPE,
    ROOT,
    Requirement,
    Role,
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
    if policy.trusted_root_sha256:
        yield f"Keyless signatures stand on the Sigstore root {grouped(policy.trusted_root_sha256)}."
    if policy.note:
        yield f"Note: {policy.note}"


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
