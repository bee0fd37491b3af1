"""Reports: what one command found out, for people and for machines (format.md section 8)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bundler.errors import ExitCode, Finding, SealiftError

SCHEMA = "urn:sealift:report:v1"
SHOWN = 1000
"""Findings of one kind in a report."""


@dataclass(frozen=True)
class Report:
    """The outcome of a verb: a verdict, all findings and what else a machine may want.

    `verdict` is `passed`, `failed` or `incomplete`. `data` holds JSON values only.
    """

    verb: str
    verdict: str = "passed"
    exit_code: ExitCode = ExitCode.PASSED
    findings: tuple[Finding, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "findings", capped(self.findings))

    def to_json(self) -> dict[str, Any]:
        """One object for stdout; members of `data` never hide the required ones."""
        return {
            **self.data,
            "schema": SCHEMA,
            "verb": self.verb,
            "verdict": self.verdict,
            "exitCode": int(self.exit_code),
            "findings": [finding.to_json() for finding in self.findings],
        }

    @classmethod
    def of_error(cls, verb: str, error: SealiftError) -> Report:
        """The report of a verb that ended with a deliberate error."""
        verdict = "incomplete" if error.exit_code in (ExitCode.INCOMPLETE, ExitCode.INTERRUPTED) else "failed"
        return cls(verb=verb, verdict=verdict, exit_code=error.exit_code, findings=error.findings)


def capped(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """The first `SHOWN` findings of each kind, and one that counts the rest of that kind.

    Whoever fills a medium chooses its names: a million of them must not become a report of gigabytes.
    """
    if len(findings) <= SHOWN:
        return tuple(findings)
    kinds: Counter[tuple[str, str, ExitCode]] = Counter()
    shown: list[Finding] = []
    last: dict[tuple[str, str, ExitCode], Finding] = {}
    for finding in findings:
        kind = (finding.reference, finding.severity, finding.exit_code)
        kinds[kind] += 1
        if kinds[kind] <= SHOWN:
            shown.append(finding)
        else:
            last[kind] = finding
    return (*shown, *(_counted(finding, kinds[kind] - SHOWN) for kind, finding in last.items()))


def _counted(finding: Finding, count: int) -> Finding:
    return replace(finding, what=f"{finding.what}: {count} more like this, of which this is the last")
