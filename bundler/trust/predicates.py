"""What each kind of attestation must say: the table of format.md section 5, checked before anyone signs.

A policy compares `where` members exactly and with type, so a misspelt verdict would be noticed only at the
next launch, behind the gap. Third-party predicates (SBOMs, SLSA summaries) are left to their own schemas.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bundler.core.digest import is_sha256_hex
from bundler.core.manifest import Manifest
from bundler.core.timestamps import parse_instant
from bundler.errors import ExitCode, Finding
from bundler.trust.model_signing_format import OMS_TYPE
from bundler.trust.statements import PROVENANCE_TYPE, RELEASE_TYPE

OURS = "urn:sealift:"
COMPUTED = {"release": RELEASE_TYPE, "oms": OMS_TYPE, "provenance": PROVENANCE_TYPE}
"""Kinds whose statement follows from the bundle alone."""
SPOKEN = {
    kind: f"{OURS}{kind}:v1"
    for kind in (
        "legal-opinion",
        "ai-act",
        "data-flow",
        "risk-acceptance",
        "approval",
        "governance",
    )
}
"""Kinds in which a person says something that only a person can know."""
KINDS = {**COMPUTED, **SPOKEN}
_THIRD_PARTY = {
    "https://cyclonedx.org/bom": "cyclonedx",
    "https://spdx.dev/Document": "spdx",
    "https://slsa.dev/verification_summary/v1": "verification-summary",
}
_TIME_NAME = re.compile(r"validUntil|[A-Za-z]+At")
Fault = Callable[[Any], str]
"""A member's value to what it should have been; empty text when it is right."""


def kind_of(predicate_type: str) -> str:
    """The short name of a predicate type, fit for a file's name."""
    names = {name: kind for kind, name in KINDS.items()} | _THIRD_PARTY
    if predicate_type in names:
        return names[predicate_type]
    words = re.sub(r"[^a-z0-9]+", "-", predicate_type.lower().removeprefix("https://")).strip("-")
    return words[:60].rstrip("-") or "statement"


def _one_of(*values: str) -> Fault:
    return lambda value: "" if value in values and isinstance(value, str) else "one of " + ", ".join(values)


def _boolean(value: Any) -> str:
    return "" if isinstance(value, bool) else "true or false"


def _time(value: Any) -> str:
    return "" if parse_instant(value) is not None else "an RFC 3339 time, like 2027-03-31T00:00:00Z"


def _some(value: Any) -> str:
    return "" if isinstance(value, list) and value else "a list with at least one item"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Member:
    """A member that must be there, and what it must be."""

    name: str
    fault: Fault


_REQUIRED = {
    SPOKEN["legal-opinion"]: [
        _Member(name="verdict", fault=_one_of("approved", "approved-with-conditions", "rejected"))
    ],
    SPOKEN["ai-act"]: [
        _Member(
            name="class",
            fault=_one_of("gpai", "gpai-systemic", "prohibited", "high-risk", "limited", "minimal"),
        )
    ],
    SPOKEN["data-flow"]: [_Member(name="leavesPerimeter", fault=_boolean)],
    # An acceptance without an end would be a waiver: the one time that format.md makes mandatory.
    SPOKEN["risk-acceptance"]: [
        _Member(name="decision", fault=_one_of("accept", "reject")),
        _Member(name="validUntil", fault=_time),
    ],
    SPOKEN["approval"]: [
        _Member(name="decision", fault=_one_of("approve", "approve-with-conditions", "reject"))
    ],
}


def predicate_findings(
    predicate_type: str, predicate: Mapping[str, Any], manifest: Manifest, *, where: str
) -> tuple[Finding, ...]:
    """Everything that makes `predicate` useless or false as a statement about `manifest`.

    References `predicate` (a member is missing or has another value than its type allows) and
    `other-release` (it names another serial or channel).
    """
    if not predicate_type.startswith(OURS):
        return ()
    return (
        *_required_faults(predicate_type, predicate, where),
        *_nested_faults(predicate, where),
        *_release_faults(predicate, manifest, where),
    )


def _required_faults(kind: str, predicate: Mapping[str, Any], where: str) -> Iterator[Finding]:
    required = list(_REQUIRED.get(kind, ()))
    for name in ("verdict", "decision"):
        if predicate.get(name) in ("approved-with-conditions", "approve-with-conditions"):
            required.append(_Member(name="conditions", fault=_some))
    for member in required:
        if member.name not in predicate:
            yield _finding(where, member.name, member.fault(None), "it is missing")
        elif member.fault(predicate[member.name]):
            yield _finding(where, member.name, member.fault(predicate[member.name]), predicate[member.name])


def _nested_faults(value: Any, where: str) -> Iterator[Finding]:
    """Times and digests at any depth: `validUntil`, `reviewedAt` and the like, `sha256`."""
    if isinstance(value, list):
        for number, item in enumerate(value):
            yield from _nested_faults(item, f"{where}[{number}]")
    if not isinstance(value, dict):
        return
    for name, item in value.items():
        if _TIME_NAME.fullmatch(name) and _time(item):
            yield _finding(where, name, _time(item), item)
        elif name == "sha256" and not is_sha256_hex(item):
            yield _finding(where, name, "64 lower-case hex digits", item)
        else:
            yield from _nested_faults(item, f"{where}.{name}" if where else name)


def _release_faults(predicate: Mapping[str, Any], manifest: Manifest, where: str) -> Iterator[Finding]:
    for name, expected in (("serial", manifest.serial), ("channel", manifest.channel)):
        found = predicate.get(name, expected)
        if type(found) is not type(expected) or found != expected:
            yield Finding(
                "other-release",
                "the statement is about another release",
                where=f"{where}: {name}",
                expected=str(expected),
                found=repr(found)[:200],
                hint=f"leave {name} out: it is filled in from the manifest",
                exit_code=ExitCode.MALFORMED,
            )


def _finding(where: str, name: str, expected: str, found: Any) -> Finding:
    return Finding(
        "predicate",
        "a statement does not say what its kind must say",
        where=f"{where}: {name}",
        expected=expected,
        found=found if found == "it is missing" else repr(found)[:200],
        hint="correct the predicate file and run the same command again",
        exit_code=ExitCode.MALFORMED,
    )
