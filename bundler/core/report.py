"""Reports: what one command found out, for people and for machines (format.md section 8)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bundler.errors import ExitCode, Finding, SealiftError

SCHEMA = "urn:sealift:report:v1"


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
