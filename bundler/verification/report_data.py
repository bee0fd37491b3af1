"""What a report of verification says for machines. Also runs in `verify.pyz`: Python 3.9."""

from __future__ import annotations

from typing import Any

from bundler.verification import steps
from bundler.verification.checks import Examination
from bundler.verification.steps import StepOutcome


def facts(examination: Examination, outcomes: tuple[StepOutcome, ...], level: str) -> dict[str, Any]:
    """The report's members about one examination; the manifest's facts only as far as they were read."""
    read, spent = examination.bytes_read, examination.hashing_seconds
    return {
        "level": level,
        "steps": [outcome.to_json() for outcome in outcomes],
        "manifest": _manifest_facts(examination),
        "policy": _policy_facts(examination),
        "trust": examination.trust.to_json() if examination.trust is not None else None,
        "bytesRead": read,
        "bytesTrustedFromEarlierRun": examination.bytes_trusted,
        "bytesPerSecond": int(read / spent) if spent else 0,
        "notChecked": steps.all_not_checked(outcomes),
    }


def _manifest_facts(examination: Examination) -> dict[str, Any] | None:
    manifest = examination.manifest
    if manifest is None:
        return None
    return {
        "sha256": examination.manifest_sha256,
        "channel": manifest.channel,
        "serial": manifest.serial,
        "name": manifest.members.get("name"),
        "files": len(manifest.files),
        "bytes": manifest.total_bytes,
        "unknownMembers": list(manifest.unknown_members),
    }


def _policy_facts(examination: Examination) -> dict[str, Any]:
    policy = examination.policy
    return {
        "sha256": examination.policy_sha256,
        "version": policy.version if policy is not None else None,
    }
