"""Findings about model files that are not valid: one shape for all readers of this room."""

from __future__ import annotations

from bundler.errors import ExitCode, Finding

FETCH_AGAIN = "fetch the file again, or ask its publisher: no engine should read it"
COMPARE = "compare with the publisher's repository at this commit"


def malformed(reference: str, what: str, where: str, expected: str, found: str, *, hint: str) -> Finding:
    """A finding of the family "malformed" (exit 3)."""
    return Finding(
        reference,
        what,
        where=where,
        expected=expected,
        found=found,
        hint=hint,
        exit_code=ExitCode.MALFORMED,
    )
