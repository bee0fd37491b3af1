"""What the trust policy says about one bundle (format.md section 6). Pure: bytes and values in, result out.

The result explains itself: per requirement the role, who signed, who counted, who did not and why, and
how many are missing. Signatures are checked by functions that the caller passes in, so that the same
rules run with `cryptography` here and with the `openssl` program in `verify.pyz`.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bundler.core.manifest import MANIFEST_NAME, Manifest
from bundler.core.predicate_types import BY_URI
from bundler.core.timestamps import parse_instant
from bundler.errors import ExitCode, Finding, gravest_code
from bundler.trust.authentication import (
    Attestation,
    Authentication,
    Authenticator,
    VerifyKeyless,
    VerifySignature,
)
from bundler.trust.dsse import OUR_TYPES
from bundler.trust.model_signing_format import oms_fault
from bundler.trust.objections import (
    Objection,
    Voice,
    standing_objections,
    supersedes_fault,
    withdrawn_approvals,
)
from bundler.trust.policy_document import (
    OMS_SUBJECT,
    Identity,
    PolicyKey,
    Requirement,
    Role,
    TrustPolicy,
    fold_owner,
)
from bundler.trust.statements import RELEASE_TYPE

__all__ = ["PolicyKey", "RequirementOutcome", "TrustPolicy", "TrustResult", "authenticate", "evaluate"]


@dataclass(frozen=True)
class NotCounted:
    """An attestation of the required type that does not count, and why, in words."""

    attestation: str
    owner: str
    reason: str


@dataclass(frozen=True)
class RequirementOutcome:
    """How one requirement fared. `counted` are distinct owners; `missing` is how many more are needed.

    `not_checked` names files of unknown content that might have helped but that this program cannot check.
    `objections` are what owners of the role said against it and did not withdraw. `signed_another` names the
    statements of the required type whose signature is good and whose subject is another manifest.
    `superseded` names what an owner replaced by a later statement that fulfils it.
    """

    requirement: Requirement
    threshold: int
    signed_by: tuple[str, ...]
    counted: tuple[str, ...]
    not_counted: tuple[NotCounted, ...]
    not_checked: tuple[str, ...] = ()
    objections: tuple[Objection, ...] = ()
    counted_attestations: tuple[str, ...] = ()
    signed_another: tuple[str, ...] = ()
    superseded: tuple[str, ...] = ()

    @property
    def missing(self) -> int:
        """Distinct owners still needed; 0 when the requirement is met."""
        return max(0, self.threshold - len(self.counted))

    @property
    def met(self) -> bool:
        """Whether enough distinct owners counted, and none of the role's owners blocks it."""
        return self.missing == 0 and not any(item.blocks for item in self.objections)

    def to_json(self) -> dict[str, Any]:
        """The outcome for `--json`."""
        return {
            "id": self.requirement.id,
            "role": self.requirement.role,
            "predicateType": self.requirement.predicate_type,
            "subject": self.requirement.subject,
            "where": dict(self.requirement.where),
            "threshold": self.threshold,
            "met": self.met,
            "missing": self.missing,
            "signedBy": list(self.signed_by),
            "counted": list(self.counted),
            "notCounted": [
                {"attestation": item.attestation, "owner": item.owner, "reason": item.reason}
                for item in self.not_counted
            ],
            "notChecked": list(self.not_checked),
            "objections": [
                {
                    "attestation": item.attestation,
                    "owner": item.owner,
                    "said": item.said,
                    "blocks": item.blocks,
                }
                for item in self.objections
            ],
        }


@dataclass(frozen=True)
class TrustResult:
    """Steps 4 and 5 of a verification.

    `requirements` is empty when step 4 failed: a later step does not run. `newest_time` is the newest
    time (seconds since 1970 UTC) in any authenticated record, None when there is none. `counted_time` is the
    newest one in the manifest and in statements that counted: the only one that may be remembered.
    """

    authentication: Authentication
    requirements: tuple[RequirementOutcome, ...] = ()
    decision_findings: tuple[Finding, ...] = ()
    newest_time: int | None = None
    counted_time: int | None = None

    @property
    def attestations(self) -> tuple[Attestation, ...]:
        """The authenticated statements."""
        return self.authentication.attestations

    @property
    def authentication_findings(self) -> tuple[Finding, ...]:
        """What step 4 found."""
        return self.authentication.findings

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What steps 4 and 5 found."""
        return self.authentication.findings + self.decision_findings

    @property
    def not_checked(self) -> tuple[str, ...]:
        """Attestations whose algorithm this program cannot check; never called verified."""
        return tuple(item.name for item in self.authentication.unchecked)

    @property
    def superseded(self) -> frozenset[str]:
        """Attestations on which no decision rests any more: replaced by their owner, and counted nowhere."""
        replaced = {name for outcome in self.requirements for name in outcome.superseded}
        return frozenset(replaced).difference(*(item.counted_attestations for item in self.requirements))

    @property
    def passed(self) -> bool:
        """Whether nothing was found and nothing was left unchecked."""
        return not self.findings and not self.not_checked

    @property
    def exit_code(self) -> ExitCode:
        """The code of the gravest finding; INCOMPLETE when something could not be checked."""
        code = gravest_code(self.findings)
        unfinished = code == ExitCode.PASSED and bool(self.not_checked)
        return ExitCode.INCOMPLETE if unfinished else code

    def to_json(self) -> dict[str, Any]:
        """The result for `--json`, without the findings."""
        return {
            "attestations": [
                {
                    "name": item.name,
                    "predicateType": item.statement.predicate_type,
                    "key": item.key or None,
                    "identity": item.identity.owner if item.identity else None,
                }
                for item in self.attestations
            ],
            "requirements": [outcome.to_json() for outcome in self.requirements],
            "notChecked": list(self.not_checked),
        }


def evaluate(
    policy: TrustPolicy,
    manifest: Manifest,
    authentication: Authentication,
) -> TrustResult:
    """Step 5 after step 4, whose outcome by this policy is `authentication` (see `authenticate`).

    Statements are compared with `manifest.sha256`. Raises nothing of its own. The state
    (rollback) is the other part of step 5.
    """
    if authentication.findings:
        return TrustResult(authentication)
    bundle = _Bundle(policy, manifest, authentication)
    requirements = bundle.requirements()
    counted = {name for outcome in requirements for name in outcome.counted_attestations}
    return TrustResult(
        authentication,
        requirements,
        (*_revocation_findings(policy, manifest), *_unmet(requirements, bundle.changed_after_signing())),
        bundle.newest_time(lambda item: item.key not in policy.revoked.keys),
        bundle.newest_time(lambda item: item.name in counted),
    )


def authenticate(
    policy: TrustPolicy,
    attestations: Mapping[str, bytes],
    *,
    verify_signature: VerifySignature,
    verify_keyless: VerifyKeyless | None = None,
) -> Authentication:
    """Step 4: who signed each file (name to bytes), by the keys and identities of the policy."""
    identities = dict.fromkeys(identity for role in policy.roles.values() for identity in role.identities)
    return Authenticator(
        keys=tuple(policy.keys.values()),
        identities=tuple(identities) if policy.trusted_root_sha256 else (),
        verify_signature=verify_signature,
        verify_keyless=verify_keyless,
    ).authenticate(attestations)


def owner_of(policy: TrustPolicy, attestation: Attestation) -> str:
    """Who the policy says signed it."""
    if attestation.identity is not None:
        return attestation.identity.owner
    key = policy.keys.get(attestation.key)
    return key.owner if key else ""


def signer_fault(policy: TrustPolicy, role: Role, attestation: Attestation) -> str:
    """Why the signer cannot count for `role`; empty when it can. A revoked key verifies but never counts."""
    identity: Identity | None = attestation.identity
    member = identity in role.identities if identity is not None else attestation.key in role.keys
    if not member:
        return f"the signer is not in the role {role.name}"
    if attestation.key in policy.revoked.keys:
        return f"the key is revoked: {policy.revoked.keys[attestation.key]}"
    return ""


@dataclass(frozen=True)
class _Judged:
    """The statements of one requirement's type, each with why it does not count, and every standing no."""

    faults: tuple[tuple[Attestation, str], ...]
    objections: tuple[Objection, ...]
    superseded: tuple[str, ...]


@dataclass(frozen=True)
class _Bundle:
    """One bundle in front of one policy."""

    policy: TrustPolicy
    manifest: Manifest
    authentication: Authentication

    def requirements(self) -> tuple[RequirementOutcome, ...]:
        """Every requirement's outcome, in the policy's order."""
        judged = [(requirement, self._judged(requirement)) for requirement in self.policy.require]
        spoken = self._owners_who_spoke(judged)
        return tuple(self._outcome(requirement, answer, spoken) for requirement, answer in judged)

    def newest_time(self, heard: Callable[[Attestation], bool]) -> int | None:
        """The newest time that the manifest or a statement which is `heard` states."""
        stated = [parse_instant(self.manifest.members.get("createdAt"))]
        for item in self.authentication.attestations:
            if heard(item):
                stated += [item.signed_at, *stated_times(item.statement.predicate)]
        return max((time for time in stated if time is not None), default=None)

    def _owners_who_spoke(self, judged: Iterable[tuple[Requirement, _Judged]]) -> dict[str, set[str]]:
        """Role to folded owners that fulfil one of its requirements: who is no longer distinct from it."""
        spoken: dict[str, set[str]] = {name: set() for name in self.policy.roles}
        for requirement, answer in judged:
            for item, fault in answer.faults:
                if not fault:
                    spoken[requirement.role].add(fold_owner(owner_of(self.policy, item)))
        return spoken

    def _judged(self, requirement: Requirement) -> _Judged:
        """Each statement of the required type with why it does not count, after every no was heard."""
        items = self._of_type(requirement)
        own = {item.name: self._fault(requirement, item) for item in items}
        voices = self._voices(requirement, items, own)
        objections = standing_objections(requirement.predicate_type, requirement.where, voices)
        against = {fold_owner(item.owner): item for item in objections}
        replaced = withdrawn_approvals(voices)
        faults = []
        for item in items:
            fault = own[item.name]
            objection = against.get(fold_owner(owner_of(self.policy, item)))
            if not fault and objection is not None:
                fault = f"{objection.owner} objects in {objection.attestation}: {objection.said}"
            elif not fault and item.name in replaced:
                fault = "a later statement of the same owner supersedes it"
            faults.append((item, fault))
        return _Judged(tuple(faults), objections, tuple(sorted(replaced)))

    def _voices(
        self, requirement: Requirement, items: Iterable[Attestation], faults: Mapping[str, str]
    ) -> tuple[Voice, ...]:
        """What live keys of the role's owners said; a person's no counts by whichever key they said it."""
        people = self.policy.owners(self.policy.roles[requirement.role], live=False)
        return tuple(
            Voice(
                attestation=item.name,
                owner=fold_owner(owner_of(self.policy, item)),
                shown_owner=owner_of(self.policy, item),
                payload_sha256=item.statement.sha256,
                predicate=item.statement.predicate,
                about=item.statement.names(self.manifest.sha256),
                counts=not faults[item.name],
            )
            for item in items
            if item.key not in self.policy.revoked.keys and fold_owner(owner_of(self.policy, item)) in people
        )

    def _of_type(self, requirement: Requirement) -> list[Attestation]:
        wanted = requirement.predicate_type
        return [i for i in self.authentication.attestations if i.statement.predicate_type == wanted]

    def _outcome(
        self, requirement: Requirement, answer: _Judged, spoken: Mapping[str, set[str]]
    ) -> RequirementOutcome:
        role = self.policy.roles[requirement.role]
        counted: dict[str, str] = {}
        names: list[str] = []
        rejected: list[NotCounted] = []
        for item, own_fault in answer.faults:
            owner = owner_of(self.policy, item)
            fault = own_fault or _distinction_fault(role, owner, spoken, counted)
            if fault:
                rejected.append(NotCounted(item.name, owner, fault))
            else:
                counted[fold_owner(owner)] = owner
                names.append(item.name)
        return RequirementOutcome(
            requirement=requirement,
            threshold=role.threshold,
            signed_by=tuple(dict.fromkeys(owner_of(self.policy, item) for item, _ in answer.faults)),
            counted=tuple(counted.values()),
            not_counted=tuple(rejected),
            not_checked=self._might_help(role),
            objections=answer.objections,
            counted_attestations=tuple(names),
            signed_another=tuple(item.name for item, _ in answer.faults if self._signs_another(item)),
            superseded=answer.superseded,
        )

    def _signs_another(self, item: Attestation) -> bool:
        """Whether `item` names a manifest, and not this one: nobody may sign this one to make up for it."""
        named = _manifests_named(item)
        return bool(named) and self.manifest.sha256 not in named

    def changed_after_signing(self) -> bool:
        """Whether all that was signed is about another manifest, and nothing about this one."""
        signed = [item for item in self.authentication.attestations if _manifests_named(item)]
        return bool(signed) and all(map(self._signs_another, signed))

    def _might_help(self, role: Role) -> tuple[str, ...]:
        """Unchecked files that a member of `role` may have signed."""
        return tuple(
            item.name
            for item in self.authentication.unchecked
            if item.keys.intersection(role.keys) or (item.keyless and role.identities)
        )

    def _fault(self, requirement: Requirement, item: Attestation) -> str:
        """Why `item` does not fulfil `requirement`, apart from whose owner counts twice."""
        return (
            signer_fault(self.policy, self.policy.roles[requirement.role], item)
            or self._subject_fault(requirement, item)
            or self._serial_fault(item)
            or _where_fault(requirement.where, item.statement.predicate)
            or _supersedes_fault(item)
        )

    def _subject_fault(self, requirement: Requirement, item: Attestation) -> str:
        if requirement.subject == OMS_SUBJECT:
            return oms_fault(item.statement, self.manifest.files, self.manifest.sha256)
        # By name and digest: the digest alone would let a statement about another file replace it.
        digest = item.statement.subjects.get(MANIFEST_NAME)
        if digest is None:
            return f"no subject is named {MANIFEST_NAME}"
        if digest != self.manifest.sha256:
            return f"it is about another manifest, sha256:{digest}"
        return ""

    def _serial_fault(self, item: Attestation) -> str:
        predicate = item.statement.predicate
        serial = predicate.get("serial", self.manifest.serial)
        if type(serial) is not int or serial != self.manifest.serial:
            return f"it is about serial {serial!r}, the manifest has {self.manifest.serial}"[:200]
        channel = predicate.get("channel", self.manifest.channel)
        if item.statement.predicate_type == RELEASE_TYPE and channel != self.manifest.channel:
            return f"it is about channel {channel!r}, the manifest has {self.manifest.channel!r}"[:200]
        return ""


def _distinction_fault(
    role: Role, owner: str, spoken: Mapping[str, set[str]], counted: Mapping[str, str]
) -> str:
    for other in role.distinct_from:
        if fold_owner(owner) in spoken[other]:
            return f"{owner} already counts for the role {other}, from which {role.name} is distinct"
    # A threshold counts people: one person's second key or second signature adds nothing.
    return f"{owner} already counts once" if fold_owner(owner) in counted else ""


def _where_fault(where: Mapping[str, Any], predicate: Mapping[str, Any]) -> str:
    """Scalars compared exactly, with type: `true`, `1`, `1.0` and `"1"` are four values."""
    for name, wanted in where.items():
        if name not in predicate:
            return f"it does not say {name}"
        if type(predicate[name]) is not type(wanted) or predicate[name] != wanted:
            return f"{name} is {predicate[name]!r}, not {wanted!r}"[:200]
    return ""


def _supersedes_fault(item: Attestation) -> str:
    """A statement of ours that withdraws something nobody can name does not count."""
    ours = item.statement.predicate_type.startswith(OUR_TYPES)
    return supersedes_fault(item.statement.predicate) if ours else ""


_TIME_MEMBERS = ("reviewedAt", "approvedAt", "decidedAt", "timeVerified")


def stated_times(predicate: Mapping[str, Any]) -> list[int | None]:
    """The times a predicate gives for its own making; `validUntil` and the like lie ahead."""
    run = predicate.get("runDetails")
    metadata = run.get("metadata") if isinstance(run, dict) else None
    members = [predicate.get(name) for name in _TIME_MEMBERS]
    if isinstance(metadata, dict):
        members += [metadata.get("startedOn"), metadata.get("finishedOn")]
    return [parse_instant(member) for member in members]


def _revocation_findings(policy: TrustPolicy, manifest: Manifest) -> Iterable[Finding]:
    if manifest.sha256 in policy.revoked.manifests:
        reason = policy.revoked.manifests[manifest.sha256]
        yield _finding("revoked-manifest", "this very bundle is revoked", MANIFEST_NAME, found=reason)
    for entry in manifest.files:
        if entry.sha256 in policy.revoked.files:
            reason = policy.revoked.files[entry.sha256]
            yield _finding("revoked-file", "the bundle holds a revoked file", entry.path, found=reason)
    floor = policy.min_serial.get(manifest.channel, 0)
    if manifest.serial < floor:
        yield _finding(
            "serial-below-floor",
            "the bundle is older than the policy allows",
            f"{MANIFEST_NAME}: serial, channel {manifest.channel}",
            expected=f"{floor} or later",
            found=str(manifest.serial),
        )


def _unmet(requirements: Iterable[RequirementOutcome], changed: bool) -> Iterable[Finding]:
    for outcome in requirements:
        if outcome.missing:
            # It names everybody who said no: one fact, one finding.
            yield _unmet_finding(outcome, changed)
            continue
        for objection in outcome.objections:
            yield _objection_finding(outcome, objection)


def _objection_finding(outcome: RequirementOutcome, objection: Objection) -> Finding:
    """Name who says no. It is an error when it blocks; else a warning, and its owner did not count."""
    wanted = outcome.requirement
    return Finding(
        "rejected" if objection.blocks else "objection",
        f"{objection.owner} says no to the requirement {wanted.id}",
        where=f"attestations/{objection.attestation}",
        expected=f"no standing objection by an owner of the role {wanted.role}",
        found=objection.said,
        hint=_withdrawal(wanted.predicate_type, objection.attestation),
        severity="error" if objection.blocks else "warning",
        exit_code=ExitCode.AUTHENTICITY,
    )


def _withdrawal(predicate_type: str, attestation: str) -> str:
    """How the signer of a no withdraws it, as the command that does it where sealift writes that type."""
    known = BY_URI.get(predicate_type)
    file = shlex.quote(attestation)
    if known is None or known.author != "person":
        return (
            f"ask the signer: a no is withdrawn by a statement that names attestations/{file} in supersedes"
        )
    return (
        "ask the signer, who can withdraw it: "
        f"`sealift attest sign BUNDLE --type {known.kind} --predicate FILE --key KEY "
        f"--supersedes BUNDLE/attestations/{file}`"
    )


def _manifests_named(item: Attestation) -> frozenset[str]:
    """The SHA-256 of every `manifest.json` that a statement names, as a subject or as a resource (OMS)."""
    resources = item.statement.predicate.get("resources")
    listed = resources if isinstance(resources, list) else []
    members = [one for one in listed if isinstance(one, dict)]
    named = [one.get("digest") for one in members if one.get("name") == MANIFEST_NAME]
    named.append(item.statement.subjects.get(MANIFEST_NAME))
    return frozenset(digest for digest in named if isinstance(digest, str))


_CHANGED = (
    "nobody may sign this manifest: it is not the one that was signed, so it was changed after signing or "
    "mixed with another bundle. Get the whole bundle again from its builder"
)
_ASK_TO_SIGN = (
    "ask the role's people, who compare the bundle with its builder's before they sign: "
    "`sealift attest new BUNDLE --help`; `sealift verify BUNDLE --json` lists all requirements"
)
_CHECK_ELSEWHERE = (
    "check it before you ask anybody to sign: `sealift verify BUNDLE --policy POLICY`, for a keyless "
    "signature with `--trusted-root FILE`"
)


def _unmet_hint(outcome: RequirementOutcome, changed: bool) -> str:
    """What to do. A manifest that differs from the signed one must never be signed to make it pass."""
    if changed or outcome.signed_another:
        return _CHANGED
    if outcome.objections:
        return _withdrawal(outcome.requirement.predicate_type, outcome.objections[0].attestation)
    return _CHECK_ELSEWHERE if outcome.not_checked else _ASK_TO_SIGN


def _unmet_finding(outcome: RequirementOutcome, changed: bool) -> Finding:
    wanted = outcome.requirement
    said = f", saying {dict(wanted.where)}" if wanted.where else ""
    found = [
        f"{len(outcome.counted)} counted" + (f" ({', '.join(outcome.counted)})" if outcome.counted else "")
    ]
    found += [f"{item.owner} says no in {item.attestation}: {item.said}" for item in outcome.objections]
    told = {item.attestation for item in outcome.objections}
    found += [
        f"{item.attestation} by {item.owner} not counted: {item.reason}"
        for item in outcome.not_counted
        if item.attestation not in told
    ]
    if not outcome.not_counted and not outcome.counted:
        found.append("no statement of this type")
    unchecked = bool(outcome.not_checked)
    return Finding(
        "not-checked" if unchecked else "threshold",
        f"the requirement {wanted.id} "
        + ("may be met by a signature that cannot be checked here" if unchecked else "is not met"),
        where=f"policy: require.{wanted.id}, role {wanted.role}",
        expected=f"{outcome.threshold} distinct owners of {wanted.role} for {wanted.predicate_type}{said}",
        found="; ".join(found)[:1000],
        hint=_unmet_hint(outcome, changed),
        exit_code=ExitCode.INCOMPLETE if unchecked else ExitCode.AUTHENTICITY,
    )


def _finding(reference: str, what: str, where: str, *, expected: str = "", found: str = "") -> Finding:
    return Finding(
        reference,
        what,
        where=where,
        expected=expected,
        found=found,
        hint="ask the release engineer for a newer bundle",
        exit_code=ExitCode.AUTHENTICITY,
    )
