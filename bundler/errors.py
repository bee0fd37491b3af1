"""Every deliberate error of sealift as one tree, by what the person must do about it.

This module, `core`, `storage.hashing`, `storage.tree`, `trust.dsse` and `trust.policy` also run from
`verify.pyz` on Python 3.9 with nothing installed: standard library only, no `slots`, no `match`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """The exit codes of format.md section 8."""

    PASSED = 0
    UNEXPECTED = 1
    USAGE = 2
    MALFORMED = 3
    MACHINE = 4
    NETWORK = 5
    INTEGRITY = 10
    AUTHENTICITY = 11
    POLICY = 12
    INCOMPLETE = 13
    INTERRUPTED = 130


_GRAVEST_FIRST = (
    ExitCode.UNEXPECTED,
    ExitCode.AUTHENTICITY,
    ExitCode.INTEGRITY,
    ExitCode.POLICY,
    ExitCode.MALFORMED,
    ExitCode.USAGE,
    ExitCode.MACHINE,
    ExitCode.NETWORK,
    ExitCode.INTERRUPTED,
    ExitCode.INCOMPLETE,
    ExitCode.PASSED,
)
"""The one order of precedence: what speaks against the bundle outweighs what speaks against this machine, and
both outweigh what is only unfinished. A test holds that every family is listed.
"""
MAX_TEXT = 4096
"""Letters that one part of a finding may have: a path twice as long as format.md allows, still readable."""


@dataclass(frozen=True)
class Finding:
    """One fact worth telling, in the shape every output uses (format.md section 8, `--json`).

    `reference` is kebab-case and stable; `severity` is `error`, `warning` or `note`.
    `exit_code` is the family the finding belongs to; it is not printed with the finding.
    A part with more than `MAX_TEXT` letters is cut and says how long it was: names come from whoever made
    the input, and a message stays a message.
    """

    reference: str
    what: str
    where: str = ""
    expected: str = ""
    found: str = ""
    hint: str = ""
    severity: str = "error"
    exit_code: ExitCode = ExitCode.UNEXPECTED

    @property
    def is_error(self) -> bool:
        """Whether it speaks against going on. A severity that nobody knows counts as an error."""
        return self.severity not in ("warning", "note")

    def with_hint(self, fallback: str) -> Finding:
        """The finding itself when it says what to do, else the same with `fallback`."""
        return self if self.hint or not fallback else replace(self, hint=fallback)

    def __post_init__(self) -> None:
        for part, text in self.to_json().items():
            if len(text) > MAX_TEXT:
                object.__setattr__(self, part, _cut(text))

    def to_json(self) -> dict[str, str]:
        """The members format.md section 8 names, all present, absent values as empty text."""
        return {
            "reference": self.reference,
            "severity": self.severity,
            "what": self.what,
            "where": self.where,
            "expected": self.expected,
            "found": self.found,
            "hint": self.hint,
        }


def _cut(text: str) -> str:
    """The beginning of `text` and its length, together `MAX_TEXT` letters at most."""
    told = f"... ({len(text)} letters)"
    return text[: MAX_TEXT - len(told)] + told


def gravity(code: int) -> int:
    """The rank of a family: 0 is the gravest. A code that no family has ranks as UNEXPECTED."""
    return _GRAVEST_FIRST.index(ExitCode(code)) if code in _GRAVEST_FIRST else 0


def gravest_code(findings: Iterable[Finding]) -> ExitCode:
    """The exit code for `findings` found together; PASSED only when none of them is an error.

    Fails closed: an error whose family is unknown, or says "passed", counts as UNEXPECTED. Nothing else in
    sealift may decide which exit code wins.
    """
    codes = [_code_of_error(finding) for finding in findings if finding.is_error]
    return min(codes, key=gravity, default=ExitCode.PASSED)


def _code_of_error(finding: Finding) -> ExitCode:
    known = finding.exit_code in _GRAVEST_FIRST and finding.exit_code != ExitCode.PASSED
    return ExitCode(finding.exit_code) if known else ExitCode.UNEXPECTED


def gravest_first(findings: Iterable[Finding]) -> list[Finding]:
    """`findings` with those of the gravest family first, otherwise in the order given."""
    return sorted(findings, key=lambda finding: (not finding.is_error, gravity(finding.exit_code)))


class SealiftError(Exception):
    """The root: one finding, or several found together. Use the class that says what the person must do."""

    exit_code: ClassVar[ExitCode] = ExitCode.UNEXPECTED

    def __init__(
        self,
        reference: str,
        what: str,
        *,
        where: str = "",
        expected: str = "",
        found: str = "",
        hint: str = "",
    ) -> None:
        super().__init__(f"{reference}: {what}")
        self.findings: tuple[Finding, ...] = (
            Finding(
                reference=reference,
                what=what,
                where=where,
                expected=expected,
                found=found,
                hint=hint,
                exit_code=self.exit_code,
            ),
        )

    @property
    def reference(self) -> str:
        """The kebab-case reference of the first finding."""
        return self.findings[0].reference

    @classmethod
    def of(cls, findings: tuple[Finding, ...] | list[Finding]) -> SealiftError:
        """One error that carries `findings` (at least one), of the family that `gravest_code` decides.

        It is of this class only when that family is its own, or when no finding is an error.
        """
        code = gravest_code(findings)
        family = cls if code in (cls.exit_code, ExitCode.PASSED) else _family(code)
        first = findings[0]
        error = family(first.reference, first.what)
        error.findings = tuple(findings)
        return error


class UsageError(SealiftError):
    """The command line asks for something that cannot be done: say it differently."""

    exit_code = ExitCode.USAGE


class MalformedError(SealiftError):
    """An input does not have the form it must have: fix the input."""

    exit_code = ExitCode.MALFORMED


class MachineError(SealiftError):
    """This machine lacks space, permission or a tool: fix the machine."""

    exit_code = ExitCode.MACHINE


class NetworkError(SealiftError):
    """The connected side could not be reached or answered wrongly: retry, or ask upstream."""

    exit_code = ExitCode.NETWORK


class IntegrityError(SealiftError):
    """Bytes differ, are missing or are too many: fetch or repair them."""

    exit_code = ExitCode.INTEGRITY


class AuthenticityError(SealiftError):
    """A signature, key, role, threshold or rollback check failed: distrust the bundle."""

    exit_code = ExitCode.AUTHENTICITY


class PolicyError(SealiftError):
    """A rule says no (licence, expiry, content format, engine floor, sizing): ask someone who may decide."""

    exit_code = ExitCode.POLICY


class IncompleteError(SealiftError):
    """Something is still to come: continue when it has arrived."""

    exit_code = ExitCode.INCOMPLETE


class InterruptedByUser(SealiftError):
    """The person pressed Ctrl-C: the same command continues where it stopped."""

    exit_code = ExitCode.INTERRUPTED


def _family(code: ExitCode) -> type[SealiftError]:
    """The class of errors with the exit code `code`."""
    families = {family.exit_code: family for family in SealiftError.__subclasses__()}
    return families.get(code, SealiftError)
