"""What a report of verification says for machines. Also runs in `verify.pyz`: Python 3.9."""

from __future__ import annotations

from typing import Any

from bundler.verification import steps
from bundler.verification.checks import Checks
from bundler.verification.steps import StepOutcome


def facts(checks: Checks, outcomes: tuple[StepOutcome, ...], level: str) -> dict[str, Any]:
    """The report's members about one checks; the manifest's facts only as far as they were read."""
    read, spent = checks.bytes_read, checks.hashing_seconds
    return {
        "level": level,
        "steps": [outcome.to_json() for outcome in outcomes],
        "manifest": _manifest_facts(checks),
        "policy": _policy_facts(checks),
        "trust": checks.trust.to_json() if checks.trust is not None else None,
        "bytesRead": read,
        "bytesTrustedFromEarlierRun": checks.bytes_trusted,
        "bytesPerSecond": int(read / spent) if spent else 0,
        "notChecked": steps.all_not_checked(outcomes),
    }


def _manifest_facts(checks: Checks) -> dict[str, Any] | None:
    manifest = checks.manifest
    if manifest is None:
        return None
    return {
        "sha256": checks.manifest_sha256,
        "channel": manifest.channel,
        "serial": manifest.serial,
        "name": manifest.members.get("name"),
        "files": len(manifest.files),
        "bytes": manifest.total_bytes,
        "unknownMembers": list(manifest.unknown_members),
    }


def _policy_facts(checks: Checks) -> dict[str, Any]:
    policy = checks.policy
    return {
        "sha256": checks.policy_sha256,
        "version": policy.version if policy is not None else None,
    }
