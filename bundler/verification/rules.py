"""Step 9: what the policy's `rules` and `expires` say about facts that the signed manifest states.

Licences are compared as the manifest names them; their texts, the documents in payload/records and the
obligations in them are not read here, and that is said.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from packaging.version import InvalidVersion, Version

from bundler.core.manifest import Manifest
from bundler.core.timestamps import format_instant, parse_instant
from bundler.errors import ExitCode, Finding
from bundler.trust.policy import TrustPolicy, TrustResult
from bundler.trust.policy_document import Rules
from bundler.verification.contents import artifacts, texts
from bundler.verification.steps import Checked

LICENSED_KINDS = ("model", "wheels")
_LICENSE_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+:-]*")
_OPERATORS = {"AND", "OR", "WITH"}
_PURL = re.compile(r"pkg:pypi/([A-Za-z0-9._-]+)@([^?#]+)")


def check_rules(policy: TrustPolicy, trust: TrustResult, manifest: Manifest, now: int) -> Checked:
    """Licences, formats, engine floors, expiry. `now` is the effective time (seconds since 1970 UTC)."""
    rules = policy.rules
    findings = [
        *_license_findings(rules, manifest),
        *_content_findings(rules, manifest),
        *_engine_findings(rules, manifest),
        *_expiry_findings(policy, trust, now),
    ]
    return Checked(
        findings=tuple(findings), detail=_detail(rules), not_checked=tuple(_not_checked(rules, manifest))
    )


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
                yield _refused(
                    "license", fault, str(artifact.get("id")), _wanted(rules), expression or "none stated"
                )


def _wanted(rules: Rules) -> str:
    allowed = f"one of {', '.join(rules.licenses_allow)}" if rules.licenses_allow else "any"
    return allowed + (f", none of {', '.join(rules.licenses_deny)}" if rules.licenses_deny else "")


def _license(artifact: Mapping[str, Any]) -> str:
    said = artifact.get("license")
    said = said if isinstance(said, dict) else {}
    text = said.get("concluded") or said.get("declared") or ""
    return text if isinstance(text, str) else ""


def license_fault(expression: str, allow: Iterable[str], deny: Iterable[str]) -> str:
    """Why an SPDX expression is not acceptable, empty when it is. Case does not matter.

    Where all parts are alternatives (`A OR B`) one acceptable part suffices; in every other expression all
    parts must be acceptable, which is stricter than SPDX asks for mixed ones. What a person gave no licence
    is refused only by an allow list.
    """
    allowed, denied = {name.lower() for name in allow}, {name.lower() for name in deny}
    words = _LICENSE_WORD.findall(expression)
    parts = [word.lower() for word in words if word.upper() not in _OPERATORS]
    if not parts:
        return "no licence is stated, and only listed ones are allowed" if allowed else ""
    good = [part for part in parts if part not in denied and (not allowed or part in allowed)]
    alternatives = "AND" not in words and "WITH" not in words
    if good if alternatives else len(good) == len(parts):
        return ""
    return f"the licence {expression} is not one the policy accepts"


def _content_findings(rules: Rules, manifest: Manifest) -> Iterator[Finding]:
    for artifact in (item for item in artifacts(manifest) if item.get("kind") == "model"):
        name, kind = str(artifact.get("id")), str(artifact.get("format"))
        if rules.formats and kind not in rules.formats:
            what = "a model has a format that the policy does not accept"
            yield _refused("content-format", what, name, ", ".join(rules.formats), kind)
        waived = texts(artifact, "allowPickle")
        if not rules.pickle and waived:
            what = "a model carries pickle files, which can run code when loaded"
            yield _refused("pickle", what, name, "none, not even waived ones", ", ".join(waived))


def engine_versions(manifest: Manifest) -> list[tuple[str, str]]:
    """Engine and version pairs that the manifest names: of its launch entries and of its wheels."""
    launch = manifest.members.get("launch", [])
    engines = (
        [item.get("engine") for item in launch if isinstance(item, dict)] if isinstance(launch, list) else []
    )
    found = {(str(e.get("name")), str(e.get("version"))) for e in engines if isinstance(e, dict)}
    purls = (_PURL.fullmatch(str(item.get("purl"))) for item in artifacts(manifest))
    return sorted(found | {(match[1], match[2]) for match in purls if match})


def _engine_findings(rules: Rules, manifest: Manifest) -> Iterator[Finding]:
    for engine, version in engine_versions(manifest):
        floor = rules.engines.get(engine)
        if floor is not None and not _at_least(version, floor):
            what = "an engine is older than the policy's floor"
            yield _refused("engine-floor", what, engine, f"{floor} or later", version)


def _at_least(version: str, floor: str) -> bool:
    try:
        return Version(version) >= Version(floor)
    except InvalidVersion:
        return version == floor


def _expiry_findings(policy: TrustPolicy, trust: TrustResult, now: int) -> Iterator[Finding]:
    ends = [("policy", policy.expires)]
    ends += [
        (f"attestations/{item.name}: validUntil", parse_instant(item.statement.predicate.get("validUntil")))
        for item in trust.attestations
    ]
    for where, end in ends:
        if end is not None and end <= now:
            yield Finding(
                "expired",
                "something the decision rests on has expired",
                where=where,
                expected=f"after {format_instant(now)}, the clock or the newest authenticated time",
                found=format_instant(end),
                hint="ask whoever signed it for a new one",
                severity="error" if policy.rules.expiry == "enforce" else "warning",
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
