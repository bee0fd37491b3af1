"""Launch profiles of a lock, judged as `launch` will judge them: before anything large is fetched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from packaging.requirements import Requirement

from bundler.assembly.artifact_entries import launch_entries
from bundler.core.launch_profile import parse_entry
from bundler.core.specs.lock import Lock
from bundler.engines.flags import normalised, profile_findings
from bundler.errors import ExitCode, Finding, PolicyError


def refuse_profiles(lock: Lock) -> None:
    """Refuse a lock with a profile that its engine cannot be started with.

    Raises PolicyError with every finding of `profile_findings`, where the engine's version has a flag table.
    """
    findings = [finding for finding in _findings(lock) if finding.is_error]
    if findings:
        raise PolicyError.of(findings)


def profile_warnings(lock: Lock) -> tuple[Finding, ...]:
    """Profiles that cannot be judged yet, since their engine's version has no flag table."""
    return tuple(finding for finding in _findings(lock) if not finding.is_error)


def _findings(lock: Lock) -> Iterator[Finding]:
    for value in launch_entries(lock):
        where = f"launch: {value['profile']}"
        entry = parse_entry(value, where)
        try:
            found = profile_findings(entry, normalised(Requirement(entry.requirement).name))
        except PolicyError as error:
            # Another sealift in the perimeter may have the table; this one would refuse to start it.
            found = [
                replace(finding, severity="warning", exit_code=ExitCode.PASSED) for finding in error.findings
            ]
        yield from (replace(finding, where=f"{where}: {finding.where}") for finding in found)
