"""From one trust policy to the next (format.md section 6, rotation). Pure, like `trust.policy`.

Version plus one, chained by digest, approved by the root threshold of the old and of the new policy;
revocations and floors only grow. The rule of two thresholds is that of TUF's root role (TUF 5.3; a
forgotten one is CVE-2020-15163).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from bundler.errors import ExitCode, Finding, gravest_code
from bundler.trust.authentication import (
    Attestation,
    Authentication,
    Authenticator,
    VerifyKeyless,
    VerifySignature,
)
from bundler.trust.policy import owner_of, signer_fault
from bundler.trust.policy_document import ROOT, TrustPolicy, fold_owner
from bundler.trust.statements import APPROVAL_TYPE


@dataclass(frozen=True)
class Approvals:
    """How one policy's root threshold fared. `counted` are distinct owners; `not_counted` says why."""

    policy: str
    threshold: int
    counted: tuple[str, ...]
    not_counted: tuple[str, ...]

    @property
    def met(self) -> bool:
        """Whether enough distinct owners approved."""
        return len(self.counted) >= self.threshold

    def to_json(self) -> dict[str, Any]:
        """The outcome for `--json`."""
        return {
            "policy": self.policy,
            "threshold": self.threshold,
            "met": self.met,
            "counted": list(self.counted),
            "notCounted": list(self.not_counted),
        }


@dataclass(frozen=True)
class RotationResult:
    """Whether the new policy may take the place of the current one, and why not."""

    approvals: tuple[Approvals, ...]
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing speaks against it; warnings do not."""
        return self.exit_code == ExitCode.PASSED

    @property
    def exit_code(self) -> ExitCode:
        """The code of the gravest finding."""
        return gravest_code(self.findings)


def check_rotation(
    current: TrustPolicy,
    new: TrustPolicy,
    approvals: Mapping[str, bytes],
    *,
    verify_signature: VerifySignature,
    verify_keyless: VerifyKeyless | None = None,
) -> RotationResult:
    """Whether `new` may follow `current`. Raises nothing of its own.

    `approvals` maps file names to the bytes of Sigstore bundles. One medium may carry the approvals of
    several updates: those of other policies, and those by keys that only a later policy knows, do not
    count and are named. A file that is no attestation is refused.
    """
    chain = tuple(chain_findings(current, new))
    authentication = _authenticate(current, new, approvals, verify_signature, verify_keyless)
    unknown = tuple(item for item in authentication.findings if item.reference == "unknown-signer")
    if len(unknown) < len(authentication.findings):
        return RotationResult((), chain + authentication.findings)
    outcomes = tuple(
        _approvals(name, policy, new, authentication) for name, policy in (("current", current), ("new", new))
    )
    unmet = tuple(_unmet(outcome) for outcome in outcomes if not outcome.met)
    if not unmet:
        unknown = tuple(replace(item, severity="warning") for item in unknown)
    return RotationResult(outcomes, chain + unmet + unknown)


def _authenticate(
    current: TrustPolicy,
    new: TrustPolicy,
    approvals: Mapping[str, bytes],
    verify_signature: VerifySignature,
    verify_keyless: VerifyKeyless | None,
) -> Authentication:
    keys = {**current.keys, **new.keys}
    # Identities of the new policy stand on its own trusted root; only the current one's is trusted yet.
    identities = current.roles[ROOT].identities if current.trusted_root_sha256 else ()
    return Authenticator(
        keys=tuple(keys.values()),
        identities=identities,
        verify_signature=verify_signature,
        verify_keyless=verify_keyless,
    ).authenticate(approvals, folder="approvals")


def _approvals(name: str, policy: TrustPolicy, new: TrustPolicy, authentication: Authentication) -> Approvals:
    root = policy.roles[ROOT]
    counted: dict[str, str] = {}
    rejected = [f"{item.name}: it cannot be checked here" for item in authentication.unchecked]
    for item in authentication.attestations:
        owner = owner_of(policy, item)
        fault = _approval_fault(item, new) or signer_fault(policy, root, item)
        if not fault and fold_owner(owner) in counted:
            fault = f"{owner} already counts once"
        if fault:
            rejected.append(f"{item.name}: {fault}")
        else:
            counted[fold_owner(owner)] = owner
    return Approvals(name, root.threshold, tuple(counted.values()), tuple(rejected))


def _approval_fault(item: Attestation, new: TrustPolicy) -> str:
    statement = item.statement
    if statement.predicate_type != APPROVAL_TYPE:
        return f"it is a statement of the type {statement.predicate_type}"[:200]
    if new.sha256 not in statement.subjects.values():
        return "it is about another policy file"
    said = statement.predicate.get("version")
    if type(said) is not int or said != new.version or set(statement.predicate) != {"version"}:
        return f"it approves {dict(statement.predicate)!r}, not version {new.version}"[:200]
    return ""


def _unmet(outcome: Approvals) -> Finding:
    found = [
        f"{len(outcome.counted)} counted" + (f" ({', '.join(outcome.counted)})" if outcome.counted else "")
    ]
    return _finding(
        "threshold",
        f"the new policy is not approved by the root of the {outcome.policy} one",
        f"{outcome.policy} policy: roles.{ROOT}",
        f"{outcome.threshold} distinct owners",
        "; ".join([*found, *outcome.not_counted])[:1000],
    )


def chain_findings(current: TrustPolicy, new: TrustPolicy) -> Iterable[Finding]:
    """What forbids `new` to follow `current`, whoever approves it: version, chain, revocations, floors."""
    if new.version != current.version + 1:
        yield _finding(
            "policy-version",
            "the new policy is not the next version",
            "new policy: version",
            str(current.version + 1),
            str(new.version),
        )
    if new.previous != current.sha256:
        yield _finding(
            "policy-chain",
            "the new policy does not follow the current one",
            "new policy: previous",
            f"sha256:{current.sha256}",
            f"sha256:{new.previous}" if new.previous else "nothing",
        )
    yield from _revocations_lost(current, new)
    for channel, floor in sorted(current.min_serial.items()):
        lowered = new.min_serial.get(channel, -1)
        if lowered < floor:
            found = str(lowered) if lowered >= 0 else "nothing"
            what = "the new policy lowers a floor"
            yield _finding(
                "floor-lowered", what, f"new policy: minSerial.{channel}", f"{floor} or more", found
            )


def _revocations_lost(current: TrustPolicy, new: TrustPolicy) -> Iterable[Finding]:
    for kind in ("keys", "manifests", "files"):
        kept = getattr(new.revoked, kind)
        for digest, reason in sorted(getattr(current.revoked, kind).items()):
            if digest not in kept:
                where = f"new policy: revoked.{kind}.{digest}"
                what = "the new policy takes a revocation back"
                yield _finding("un-revocation", what, where, f"revoked: {reason}"[:200], "not revoked")


def _finding(reference: str, what: str, where: str, expected: str, found: str) -> Finding:
    return Finding(
        reference,
        what,
        where=where,
        expected=expected,
        found=found,
        hint="apply the updates in sequence, each with its approvals: "
        "`sealift trust apply N.policy.json --approvals FOLDER`",
        exit_code=ExitCode.AUTHENTICITY,
    )
