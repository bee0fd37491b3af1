"""The predicate types of format.md section 5: one entry per type, read by policy, attest and report.

Standard library only, Python 3.9: travels in `verify.pyz`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FILL_IN = "FILL IN: "
"""What every text of a template begins with: nobody can sign it by accident."""
BOOLEAN = "true or false"
TIME = "an RFC 3339 time, like 2027-03-31T00:00:00Z"


@dataclass(frozen=True)
class Member:
    """A member that a statement must have: its value is one of `choices`, or of the form `form` names."""

    name: str
    choices: tuple[str, ...] = ()
    form: str = ""

    @property
    def expected(self) -> str:
        """What its value must be, for people."""
        return self.form or "one of " + ", ".join(self.choices)


@dataclass(frozen=True)
class PredicateType:
    """One predicate type.

    `kind` is its short name, fit for a file's name. `decides` names the members in which a signer says yes
    or no (the `where` fields of section 5). `author` says where its content comes from: `bundle` (it follows
    from the bundle), `person` (only a person can know it) or `others` (a third party's format). `required`
    members must be there; `more` is what a statement of this type usually says besides, as a template.
    """

    kind: str
    uri: str
    author: str
    decides: tuple[str, ...] = ()
    required: tuple[Member, ...] = ()
    more: Mapping[str, Any] = field(default_factory=dict)

    def template(self) -> dict[str, Any]:
        """A predicate to fill in: required members first. Not valid before every text is replaced."""
        return {item.name: FILL_IN + item.expected for item in self.required} | dict(self.more)


def _fill(text: str) -> str:
    return FILL_IN + text


_DOCUMENT = {"name": _fill("file name of the signed document"), "sha256": _fill("its SHA-256")}


def _ours(kind: str, *required: Member, author: str = "person", more: Any = None) -> PredicateType:
    """A type of ours; its first required member is the one that decides."""
    decides = tuple(item.name for item in required[:1])
    return PredicateType(kind, f"urn:sealift:{kind}:v1", author, decides, required, more or {})


RELEASE = _ours("release", author="bundle")
OMS = PredicateType("oms", "https://model_signing/signature/v1.0", "bundle")
PROVENANCE = PredicateType("provenance", "https://slsa.dev/provenance/v1", "bundle")
PREDICATE_TYPES = (
    RELEASE,
    OMS,
    PROVENANCE,
    _ours(
        "legal-opinion",
        Member("verdict", choices=("approved", "approved-with-conditions", "rejected")),
        more={
            "conditions": [_fill("one condition each; needed for approved-with-conditions")],
            "questions": [{"question": _fill("what was asked"), "answer": _fill("what you answer")}],
            "assumptions": [_fill("what this opinion takes for granted")],
            "document": _DOCUMENT,
            "validUntil": _fill(TIME),
        },
    ),
    _ours(
        "ai-act",
        Member("class", choices=("gpai", "gpai-systemic", "prohibited", "high-risk", "limited", "minimal")),
        more={
            "roles": [_fill("provider, deployer, importer or distributor")],
            "rationale": _fill("why this class"),
            "modification": _fill("what was changed in the model, or none"),
            "obligations": [_fill("one obligation each, and who fulfils it")],
        },
    ),
    _ours(
        "data-flow",
        Member("leavesPerimeter", form=BOOLEAN),
        more={
            "zones": [_fill("one zone each")],
            "flows": [{"from": _fill("zone"), "to": _fill("zone"), "data": _fill("what flows")}],
            "egressControls": [_fill("what keeps data inside")],
            "telemetry": [_fill("one switch each, and its position")],
        },
    ),
    # An acceptance without an end would be a waiver: the one time that format.md makes mandatory.
    _ours(
        "risk-acceptance",
        Member("decision", choices=("accept", "reject")),
        Member("validUntil", form=TIME),
        more={"risks": [_fill("one risk each")], "scope": _fill("where and for what it is accepted")},
    ),
    _ours(
        "approval",
        Member("decision", choices=("approve", "approve-with-conditions", "reject")),
        more={
            "conditions": [_fill("one condition each; needed for approve-with-conditions")],
            "role": _fill("in which role you approve"),
            "read": [_DOCUMENT],
        },
    ),
    _ours(
        "governance",
        more={
            "toolAllowList": _DOCUMENT,
            "sandbox": _DOCUMENT,
            "approvalGates": _DOCUMENT,
            "auditTrail": _DOCUMENT,
        },
    ),
    PredicateType("cyclonedx", "https://cyclonedx.org/bom", "others"),
    PredicateType("spdx", "https://spdx.dev/Document", "others"),
    PredicateType("verification-summary", "https://slsa.dev/verification_summary/v1", "others"),
)
BY_URI = {item.uri: item for item in PREDICATE_TYPES}
BY_KIND = {item.kind: item for item in PREDICATE_TYPES}
CONDITIONAL = ("approved-with-conditions", "approve-with-conditions")
"""Values that need a list of `conditions`."""
REFUSALS = {"verdict": "rejected", "decision": "reject"}
"""Members and the value with which an owner of a role blocks a requirement (format.md section 6)."""


def deciding_members(uri: str) -> tuple[str, ...]:
    """The members in which a statement of this type says yes or no; none for a type that is not known."""
    known = BY_URI.get(uri)
    return known.decides if known else ()
