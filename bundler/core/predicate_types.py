"""The predicate types of format.md section 5: one entry per type, read by policy, attest and report.

Standard library only, Python 3.9: travels in `verify.pyz`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PredicateType:
    """One predicate type.

    `kind` is its short name, fit for a file's name. `decides` names the members in which a signer says yes
    or no (the `where` fields of section 5). `author` says where its content comes from: `bundle` (it follows
    from the bundle), `person` (only a person can know it) or `others` (a third party's format).
    """

    kind: str
    uri: str
    author: str
    decides: tuple[str, ...] = ()


def _ours(kind: str, *decides: str, author: str = "person") -> PredicateType:
    return PredicateType(kind, f"urn:sealift:{kind}:v1", author, decides)


RELEASE = _ours("release", author="bundle")
OMS = PredicateType("oms", "https://model_signing/signature/v1.0", "bundle")
PROVENANCE = PredicateType("provenance", "https://slsa.dev/provenance/v1", "bundle")
PREDICATE_TYPES = (
    RELEASE,
    OMS,
    PROVENANCE,
    _ours("legal-opinion", "verdict"),
    _ours("ai-act", "class"),
    _ours("data-flow", "leavesPerimeter"),
    _ours("risk-acceptance", "decision"),
    _ours("approval", "decision"),
    _ours("governance"),
    PredicateType("cyclonedx", "https://cyclonedx.org/bom", "others"),
    PredicateType("spdx", "https://spdx.dev/Document", "others"),
    PredicateType("verification-summary", "https://slsa.dev/verification_summary/v1", "others"),
)
BY_URI = {item.uri: item for item in PREDICATE_TYPES}
REFUSALS = {"verdict": "rejected", "decision": "reject"}
"""Members and the value with which an owner of a role blocks a requirement (format.md section 6)."""


def deciding_members(uri: str) -> tuple[str, ...]:
    """The members in which a statement of this type says yes or no; none for a type that is not known."""
    known = BY_URI.get(uri)
    return known.decides if known else ()
