"""Running the steps of format.md section 8 in order, and what came out of each.

All findings of a step are reported; a later step does not run when an earlier one failed, and says so.
Also runs in `verify.pyz`: standard library only, Python 3.9.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bundler.errors import ExitCode, Finding, SealiftError

LEVELS = {"signatures": 5, "quick": 7, "full": 10}
"""Each level's name and its last step."""
NAMES = {
    1: "trust policy and state",
    2: "sizes of small files",
    3: "manifest",
    4: "signatures",
    5: "requirements, revocation, rollback",
    6: "tree: exact set of files, types, sizes",
    7: "content headers",
    8: "every byte",
    9: "records and rules",
    10: "verdict and state",
}
REMEMBERING = 10
"""The step that writes the state."""
PASSED, FAILED, INCOMPLETE, NOT_RUN, NOT_CHECKED, BEYOND = (
    "passed",
    "failed",
    "incomplete",
    "not-run",
    "not-checked",
    "beyond-level",
)
# What weighs more decides the exit code when findings of several families come together.
_GRAVITY = (
    ExitCode.UNEXPECTED,
    ExitCode.AUTHENTICITY,
    ExitCode.INTEGRITY,
    ExitCode.POLICY,
    ExitCode.MALFORMED,
    ExitCode.USAGE,
    ExitCode.MACHINE,
    ExitCode.INCOMPLETE,
)


@dataclass(frozen=True)
class Checked:
    """What one step has to say: findings, one line of detail, and what it could not check."""

    findings: tuple[Finding, ...] = ()
    detail: str = ""
    not_checked: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """A numbered step and the function that does it. Without one it is not checked, for the reason given."""

    number: int
    run: Callable[[], Checked] | None
    reason: str = ""


@dataclass(frozen=True)
class StepOutcome:
    """How a step went: `status` is one of the names above; seconds of wall-clock time."""

    number: int
    status: str
    findings: tuple[Finding, ...] = ()
    detail: str = ""
    not_checked: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """What the step looks at, in words."""
        return NAMES[self.number]

    def to_json(self) -> dict[str, Any]:
        """The step for `--json`; its findings are in the report's own list."""
        return {
            "step": self.number,
            "name": self.name,
            "status": self.status,
            "detail": self.detail,
            "findings": len(self.findings),
            "notChecked": list(self.not_checked),
            "seconds": round(self.seconds, 3),
        }


def run_steps(steps: Sequence[Step], level: str) -> tuple[StepOutcome, ...]:
    """Every step's outcome, in order. Deliberate errors inside a step become its findings."""
    outcomes: list[StepOutcome] = []
    for step in steps:
        obstacle = _obstacle(step, outcomes)
        if step.number > LEVELS[level]:
            outcomes.append(StepOutcome(step.number, BEYOND, detail=f"not part of level {level}"))
        elif obstacle:
            outcomes.append(StepOutcome(step.number, NOT_RUN, detail=obstacle))
        else:
            outcomes.append(_run(step))
    return tuple(outcomes)


def _obstacle(step: Step, earlier: Sequence[StepOutcome]) -> str:
    """Why `step` may not run; empty when it may. Only what is proven in full is ever remembered."""
    for past in earlier:
        if past.status == FAILED:
            return f"step {past.number} failed"
        if past.status == INCOMPLETE and step.number == REMEMBERING:
            return f"step {past.number} is incomplete"
    return ""


def _run(step: Step) -> StepOutcome:
    if step.run is None:
        return StepOutcome(step.number, NOT_CHECKED, detail=step.reason, not_checked=(step.reason,))
    began = time.monotonic()
    try:
        checked = step.run()
    except SealiftError as error:
        checked = Checked(findings=error.findings)
    return StepOutcome(
        number=step.number,
        status=_status(checked.findings),
        findings=checked.findings,
        detail=checked.detail,
        not_checked=checked.not_checked,
        seconds=time.monotonic() - began,
    )


def _status(findings: Iterable[Finding]) -> str:
    codes = {finding.exit_code for finding in findings if finding.severity == "error"}
    if not codes:
        return PASSED
    # Something still to come does not forbid looking further; something wrong does.
    return INCOMPLETE if codes == {ExitCode.INCOMPLETE} else FAILED


def exit_code(outcomes: Iterable[StepOutcome]) -> ExitCode:
    """The code of the gravest error of all steps; PASSED when there is none."""
    errors = [finding for outcome in outcomes for finding in outcome.findings if finding.severity == "error"]
    codes = {finding.exit_code for finding in errors}
    return next((code for code in _GRAVITY if code in codes), ExitCode.PASSED)


def verdict(code: ExitCode) -> str:
    """`passed`, `incomplete` or `failed`."""
    return {ExitCode.PASSED: "passed", ExitCode.INCOMPLETE: "incomplete"}.get(code, "failed")


def all_findings(outcomes: Iterable[StepOutcome]) -> tuple[Finding, ...]:
    """The findings of all steps, in order."""
    return tuple(finding for outcome in outcomes for finding in outcome.findings)


def all_not_checked(outcomes: Iterable[StepOutcome]) -> list[str]:
    """Everything that was not checked, in words: nothing that was not read is ever called verified."""
    told = []
    for outcome in outcomes:
        if outcome.status in (BEYOND, NOT_RUN):
            told.append(f"step {outcome.number} ({outcome.name}): {outcome.detail}")
        told += [f"step {outcome.number} ({outcome.name}): {text}" for text in outcome.not_checked]
    return told
