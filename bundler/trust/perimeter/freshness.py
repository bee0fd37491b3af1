"""Freshness without a clock: a nonce from the perimeter, signed outside together with the current policy.

A medium that withholds a newer policy cannot be seen from inside. So the perimeter makes a nonce, an owner
of the root role signs it with the digest of the policy in force outside, and the answer proves that this
policy was current after the nonce was made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bundler.core import strict_json
from bundler.core.digest import is_sha256_hex
from bundler.errors import AuthenticityError, ExitCode, Finding, MalformedError, SealiftError
from bundler.trust.authentication import Attestation, Authenticator, VerifySignature
from bundler.trust.dsse import check_shape
from bundler.trust.policy import owner_of, signer_fault
from bundler.trust.policy_document import ROOT, TrustPolicy
from bundler.trust.statements import FRESHNESS_TYPE, compose

CHALLENGE_TYPE = "urn:sealift:freshness-challenge:v1"
CHALLENGE_LIMIT = 64 << 10
NONCE_BYTES = 32
_CHALLENGE = {"type": str, "nonce": str, "policy": {"version": int, "sha256": str}}
_PREDICATE = {"nonce": str, "policy": {"version": int, "sha256": str}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """A nonce (64 hex digits) and the policy that the perimeter holds."""

    nonce: str
    version: int
    policy_sha256: str

    def to_bytes(self) -> bytes:
        """The challenge file."""
        return strict_json.dumps(
            {
                "type": CHALLENGE_TYPE,
                "nonce": self.nonce,
                "policy": {"version": self.version, "sha256": self.policy_sha256},
            }
        )

    @classmethod
    def parse(cls, data: bytes, *, where: str) -> Challenge:
        """The challenge that `data` says. Raises MalformedError (`bad-challenge`)."""
        value = strict_json.loads(data, limit=CHALLENGE_LIMIT, where=where)
        check_shape(value, _CHALLENGE, where=where, reference="bad-challenge")
        policy = value["policy"]
        if value["type"] != CHALLENGE_TYPE or not is_sha256_hex(value["nonce"]):
            raise MalformedError("bad-challenge", "this is no freshness challenge", where=where)
        return cls(nonce=value["nonce"], version=policy["version"], policy_sha256=policy["sha256"])


def freshness_statement(challenge: Challenge, policy: TrustPolicy) -> bytes:
    """The answer's statement: `policy` is in force outside, said after `challenge` was made."""
    predicate = {"nonce": challenge.nonce, "policy": {"version": policy.version, "sha256": policy.sha256}}
    return compose({"policy.json": policy.sha256}, FRESHNESS_TYPE, predicate)


def check_answer(
    challenge: Challenge,
    policy: TrustPolicy,
    answer: Mapping[str, bytes],
    *,
    verify_signature: VerifySignature,
) -> str:
    """The owner who says that `policy` is current; `answer` maps one file name to its bytes.

    Raises AuthenticityError: `unknown-signer`, `not-an-answer`, `policy-withheld` (a newer one exists).
    """
    authentication = Authenticator(
        keys=tuple(policy.keys.values()), identities=(), verify_signature=verify_signature
    ).authenticate(answer, folder="answer")
    if authentication.findings:
        raise SealiftError.of(authentication.findings)
    for item in authentication.attestations:
        fault = signer_fault(policy, policy.roles[ROOT], item) or _answer_fault(item, challenge)
        if fault:
            raise AuthenticityError(
                "not-an-answer", "this does not answer the challenge", where=item.name, found=fault
            )
        _refuse_withheld(item, policy)
        return owner_of(policy, item)
    raise AuthenticityError("not-an-answer", "nothing could be checked", where=", ".join(answer))


def _answer_fault(item: Attestation, challenge: Challenge) -> str:
    predicate = item.statement.predicate
    if item.statement.predicate_type != FRESHNESS_TYPE:
        return f"it is a statement of the type {item.statement.predicate_type}"[:200]
    try:
        check_shape(predicate, _PREDICATE, where=item.name, reference="not-an-answer")
    except MalformedError as error:
        return error.findings[0].what
    return "" if predicate["nonce"] == challenge.nonce else "it answers another challenge"


def _refuse_withheld(item: Attestation, policy: TrustPolicy) -> None:
    said: Mapping[str, Any] = item.statement.predicate["policy"]
    if said == {"version": policy.version, "sha256": policy.sha256}:
        return
    finding = Finding(
        "policy-withheld",
        "another policy than the one here is in force outside",
        where=item.name,
        expected=f"version {policy.version}, sha256:{policy.sha256}",
        found=f"version {said['version']}, sha256:{said['sha256']}",
        hint="ask for the missing updates (N.policy.json with approvals); who kept them back?",
        exit_code=ExitCode.AUTHENTICITY,
    )
    raise AuthenticityError.of([finding])
