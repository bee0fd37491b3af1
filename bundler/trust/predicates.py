"""What each kind of attestation must say: the table of format.md section 5, checked before anyone signs.

A policy compares `where` members exactly and with type, so a misspelt verdict would be noticed only at the
next launch, behind the gap. Third-party predicates (SBOMs, SLSA summaries) are left to their own schemas.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from bundler.core.digest import is_sha256_hex
from bundler.core.manifest import Manifest
from bundler.core.predicate_types import BOOLEAN, BY_URI, CONDITIONAL, FILL_IN, PREDICATE_TYPES, TIME, Member
from bundler.core.timestamps import parse_instant
from bundler.errors import ExitCode, Finding
from bundler.trust.dsse import OUR_TYPES
from bundler.trust.objections import SUPERSEDES, supersedes_fault

COMPUTED = {item.kind: item.uri for item in PREDICATE_TYPES if item.author == "bundle"}
"""Kinds whose statement follows from the bundle alone."""
SPOKEN = {item.kind: item.uri for item in PREDICATE_TYPES if item.author == "person"}
"""Kinds in which a person says something that only a person can know."""
KINDS = {**COMPUTED, **SPOKEN}
_TIME_NAME = re.compile(r"validUntil|[A-Za-z]+At")


def kind_of(predicate_type: str) -> str:
    """The short name of a predicate type, fit for a file's name."""
    if predicate_type in BY_URI:
        return BY_URI[predicate_type].kind
    words = re.sub(r"[^a-z0-9]+", "-", predicate_type.lower().removeprefix("https://")).strip("-")
    return words[:60].rstrip("-") or "statement"


def _is_valid(member: Member, value: Any) -> bool:
    if member.form == BOOLEAN:
        return isinstance(value, bool)
    if member.form == TIME:
        return parse_instant(value) is not None
    return isinstance(value, str) and value in member.choices


def predicate_findings(
    predicate_type: str, predicate: Mapping[str, Any], manifest: Manifest, *, where: str
) -> tuple[Finding, ...]:
    """Everything that makes `predicate` useless or false as a statement about `manifest`.

    References `predicate` (a member is missing or has another value than its type allows) and
    `other-release` (it names another serial or channel).
    """
    if not predicate_type.startswith(OUR_TYPES):
        return ()
    return (
        *_required_faults(predicate_type, predicate, where),
        *_nested_faults(predicate, where),
        *_release_faults(predicate, manifest, where),
    )


def _is_template(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(FILL_IN)


def _required_faults(uri: str, predicate: Mapping[str, Any], where: str) -> Iterator[Finding]:
    known = BY_URI.get(uri)
    for member in known.required if known else ():
        if member.name not in predicate:
            yield _finding(where, member.name, member.expected, "it is missing")
        elif not (_is_valid(member, predicate[member.name]) or _is_template(predicate[member.name])):
            yield _finding(where, member.name, member.expected, predicate[member.name])
    conditions = predicate.get("conditions", "it is missing")
    if any(predicate.get(name) in CONDITIONAL for name in ("verdict", "decision")) and (
        not isinstance(conditions, list) or not conditions
    ):
        yield _finding(where, "conditions", "a list with at least one item", conditions)
    if supersedes_fault(predicate):
        yield _finding(where, SUPERSEDES, "a list of SHA-256 of payloads", predicate[SUPERSEDES])


def _nested_faults(value: Any, where: str) -> Iterator[Finding]:
    """Times, digests (`validUntil`, `reviewedAt` and the like, `sha256`) and template texts at any depth."""
    if _is_template(value):
        yield _finding(where, "template", "what you say, or the member left out", value)
    if isinstance(value, list):
        for number, item in enumerate(value):
            yield from _nested_faults(item, f"{where}[{number}]")
    if not isinstance(value, dict):
        return
    for name, item in value.items():
        if _TIME_NAME.fullmatch(name) and parse_instant(item) is None:
            yield _finding(where, name, TIME, item)
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
