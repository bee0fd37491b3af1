"""Running the steps of format.md section 8 in order, and what came out of each.

All findings of a step are reported; a later step does not run when an earlier one failed, and says so.
Also runs in `verify.pyz`: standard library only, Python 3.9.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bundler.errors import ExitCode, Finding, MachineError, SealiftError, gravest_code
from bundler.storage.machine_errors import machine_error

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
    ended_early: bool = False
    """An error stopped it: what later steps need of it is not there."""

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
    """Every step's outcome, in order.

    Deliberate errors inside a step, and what the operating system refuses, become its findings. Any other
    exception is a fault of ours: it passes through, and there is no verdict.
    """
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
        if past.ended_early:
            return f"step {past.number} ended early"
        if past.status == INCOMPLETE and step.number == REMEMBERING:
            return f"step {past.number} is incomplete"
    return ""


def _run(step: Step) -> StepOutcome:
    if step.run is None:
        return StepOutcome(step.number, NOT_CHECKED, detail=step.reason, not_checked=(step.reason,))
    began, ended_early = time.monotonic(), True
    try:
        checked = step.run()
        ended_early = False
    except SealiftError as error:
        checked = Checked(findings=error.findings)
    except (OSError, MemoryError) as error:
        checked = Checked(findings=machine_trouble(error).findings)
    return StepOutcome(
        number=step.number,
        status=_status(checked.findings),
        findings=checked.findings,
        detail=checked.detail,
        not_checked=checked.not_checked,
        seconds=time.monotonic() - began,
        ended_early=ended_early,
    )


def machine_trouble(error: BaseException) -> MachineError:
    """What this machine could not do, as an error that accuses the machine and not the bundle."""
    if isinstance(error, MemoryError):
        error = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    if not isinstance(error, OSError):
        error = OSError(str(error) or type(error).__name__)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        # Which file system is full is not known here: it may be that of standard output.
        error = OSError(None, error.strerror, error.filename)
    return machine_error(error, str(error.filename or ""))


def _status(findings: Iterable[Finding]) -> str:
    code = gravest_code(findings)
    # Incomplete lets later steps run; a failure stops them.
    return {ExitCode.PASSED: PASSED, ExitCode.INCOMPLETE: INCOMPLETE}.get(code, FAILED)


def proven(outcomes: Iterable[StepOutcome], level: str) -> bool:
    """Whether every step of `level` ran and passed: the only ground for a `VerifiedBundle`."""
    passed = [outcome.number for outcome in outcomes if outcome.status == PASSED]
    return passed == list(range(1, LEVELS[level] + 1))


def verdict(outcomes: Iterable[StepOutcome], level: str) -> str:
    """`passed`, `incomplete` or `failed`, from the statuses of the steps of `level`.

    Passed means that each of them passed or is one that this program names as not checked. Step 10 does not
    run after an incomplete step; any other status, or a missing step, is a failure.
    """
    outcomes = tuple(outcomes)
    needed = [outcome for outcome in outcomes if outcome.number <= LEVELS[level]]
    statuses = {outcome.status for outcome in needed}
    if [outcome.number for outcome in needed] != list(range(1, LEVELS[level] + 1)):
        return "failed"
    if statuses <= {PASSED, NOT_CHECKED}:
        return "passed" if PASSED in statuses else "failed"
    if INCOMPLETE in statuses and statuses <= {PASSED, NOT_CHECKED, INCOMPLETE, NOT_RUN}:
        return "incomplete"
    return "failed"


def exit_code(outcomes: Iterable[StepOutcome], level: str) -> ExitCode:
    """The exit code that belongs to the verdict: the gravest error of all steps, or PASSED.

    A verdict that no finding explains is a fault of ours (UNEXPECTED), never a pass.
    """
    outcomes = tuple(outcomes)
    code = gravest_code(all_findings(outcomes))
    if (code == ExitCode.PASSED) == (verdict(outcomes, level) == "passed"):
        return code
    return ExitCode.UNEXPECTED


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
