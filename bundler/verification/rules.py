"""Step 9: what the policy's `rules` and `expires` say about the files and facts of the signed manifest.

Formats are those that the files' own headers show, engines those that are stored. Licences are compared as
the manifest names them; their texts, the documents in payload/records and the obligations in them are not
read here, and the report says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bundler.core.manifest import Manifest
from bundler.core.timestamps import format_instant, parse_instant
from bundler.errors import ExitCode, Finding
from bundler.records.license_expression import license_fault
from bundler.trust.policy import TrustPolicy, TrustResult
from bundler.trust.policy_document import Rules
from bundler.verification.contents import NO_WEIGHTS, artifacts
from bundler.verification.engine_floors import engine_findings
from bundler.verification.steps import Checked

LICENSED_KINDS = ("model", "wheels")
_ANY = "any"
_MUST_END = frozenset({"urn:sealift:risk-acceptance:v1"})
"""Predicates of which `validUntil` is a mandatory member (format.md section 5)."""
_CONTAINER = "safetensors"
"""In a policy's list of formats: every number format, as long as the files are safetensors."""


def check_rules(
    policy: TrustPolicy,
    trust: TrustResult,
    manifest: Manifest,
    now: int,
    formats: Mapping[str, frozenset[str]],
) -> Checked:
    """Licences, formats, engine floors, expiry.

    `now` is the effective time (seconds since 1970 UTC), `formats` what step 7 found, by artifact id.
    """
    rules = policy.rules
    findings = [
        *rule_findings(rules, manifest, formats),
        *expiry_findings(rules, policy.expires, trust, now=now),
    ]
    return Checked(
        findings=tuple(findings), detail=_detail(rules), not_checked=tuple(_not_checked(rules, manifest))
    )


def rule_findings(rules: Rules, manifest: Manifest, formats: Mapping[str, frozenset[str]]) -> list[Finding]:
    """What the rules say without a clock: licences, formats, engine floors."""
    return [
        *_license_findings(rules, manifest),
        *_content_findings(rules, manifest, formats),
        *engine_findings(rules.engines, manifest),
    ]


def has_rules(rules: Rules) -> bool:
    """Whether the policy asks for anything that needs to know what every file is."""
    asked = (rules.licenses_allow, rules.licenses_deny, rules.formats, not rules.pickle, rules.engines)
    return any(asked) or rules.expiry == "enforce"


def _detail(rules: Rules) -> str:
    asked = [
        name
        for name, wanted in (
            ("licences", rules.licenses_allow or rules.licenses_deny),
            ("formats", rules.formats),
            ("pickle", not rules.pickle),
            ("engine floors", rules.engines),
        )
        if wanted
    ]
    return f"rules: {', '.join(asked) or 'none'}; expiry: {rules.expiry}"


def _not_checked(rules: Rules, manifest: Manifest) -> Iterator[str]:
    yield "the documents in payload/records, payload/licenses and payload/sbom, beyond their digests"
    others = sorted({str(item.get("kind")) for item in artifacts(manifest)} - set(LICENSED_KINDS))
    if (rules.licenses_allow or rules.licenses_deny) and others:
        yield f"licences of artifacts of kind {', '.join(others)}"


def _license_findings(rules: Rules, manifest: Manifest) -> Iterator[Finding]:
    if not (rules.licenses_allow or rules.licenses_deny):
        return
    for artifact in artifacts(manifest):
        if artifact.get("kind") in LICENSED_KINDS:
            expression = _license(artifact)
            fault = license_fault(expression, rules.licenses_allow, rules.licenses_deny)
            if fault:
                found = "none stated" if expression is None else str(expression)
                yield _refused("license", fault, str(artifact.get("id")), _wanted(rules), found)


def _wanted(rules: Rules) -> str:
    allowed = f"one of {', '.join(rules.licenses_allow)}" if rules.licenses_allow else "any"
    return allowed + (f", none of {', '.join(rules.licenses_deny)}" if rules.licenses_deny else "")


def _license(artifact: Mapping[str, Any]) -> object:
    """What the artifact states, of any type: what a person concluded goes before what upstream declared."""
    said = artifact.get("license")
    if not isinstance(said, dict):
        return None if said is None else {}
    concluded = said.get("concluded")
    return said.get("declared") if concluded is None else concluded


def _content_findings(
    rules: Rules, manifest: Manifest, formats: Mapping[str, frozenset[str]]
) -> Iterator[Finding]:
    for artifact in (item for item in artifacts(manifest) if item.get("kind") == "model"):
        name, waived = str(artifact.get("id")), artifact.get("allowPickle", [])
        fault = _format_fault(rules.formats, artifact.get("format"), formats.get(name, frozenset()))
        if fault:
            what = "a model has a format that the policy does not accept"
            yield _refused("content-format", what, name, ", ".join(rules.formats), fault)
        if not rules.pickle and waived != []:
            what = "a model carries pickle files, which can run code when loaded"
            yield _refused("pickle", what, name, "none, not even waived ones", _words(waived))


def _words(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else repr(value)


def _format_fault(accepted: tuple[str, ...], declared: object, found: frozenset[str]) -> str:
    """The format that is not accepted: the declared one, or one that the files have; empty when none."""
    if not accepted:
        return ""
    names = {*accepted} | ({declared} if _CONTAINER in accepted and isinstance(declared, str) else set())
    weights = found - {NO_WEIGHTS}
    if not isinstance(declared, str) or (declared not in names and not (declared == _ANY and weights)):
        return f"declared: {declared}"
    in_container = _CONTAINER in accepted
    others = [name for name in sorted(weights) if not _accepts(name, accepted, in_container=in_container)]
    return f"the files hold {', '.join(others)}" if others else ""


def _accepts(found: str, accepted: tuple[str, ...], *, in_container: bool) -> bool:
    return found in accepted or (in_container and found not in ("gguf", "pickle", "unknown"))


def expiry_findings(
    rules: Rules, policy_expires: int | None, trust: TrustResult, *, now: int
) -> Iterator[Finding]:
    """`expired`: the policy or a statement, by the rule an error or a warning. Times in seconds since 1970.

    A date that cannot be read counts as past. What its owner replaced by a statement that counts is left out:
    that is how an opinion is renewed.
    """
    if policy_expires is not None and policy_expires <= now:
        yield _expired(rules, "policy", now, format_instant(policy_expires))
    for item in trust.attestations:
        if item.name in trust.superseded:
            continue
        where, predicate = f"attestations/{item.name}: validUntil", item.statement.predicate
        said = predicate.get("validUntil")
        end = parse_instant(said)
        if end is None and ("validUntil" in predicate or item.statement.predicate_type in _MUST_END):
            yield _expired(rules, where, now, f"{said!r:.200}, which is no RFC 3339 time")
        elif end is not None and end <= now:
            yield _expired(rules, where, now, format_instant(end))


def _expired(rules: Rules, where: str, now: int, found: str) -> Finding:
    return Finding(
        "expired",
        "something the decision rests on has expired, or does not say until when it is valid",
        where=where,
        expected=f"after {format_instant(now)}, the clock or the newest authenticated time",
        found=found,
        hint="ask whoever signed it for a new one",
        severity="error" if rules.expiry == "enforce" else "warning",
        exit_code=ExitCode.POLICY,
    )


def _refused(reference: str, what: str, where: str, expected: str, found: str) -> Finding:
    return Finding(
        reference,
        what,
        where=where,
        expected=expected,
        found=found[:300],
        hint="the policy's `rules` decide this; ask whoever may change them",
        exit_code=ExitCode.POLICY,
    )
