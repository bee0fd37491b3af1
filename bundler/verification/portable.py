"""The command line of `verify.pyz`: the same steps as `sealift verify`, with nothing installed.

`python3 -I verify.pyz BUNDLE --policy policy.json`. Steps 1-6 and 8 of format.md section 8; signatures by the
host's `openssl`. Keyless and post-quantum signatures, the perimeter's state, content headers and rules are
named as *not checked*. Standard library only, Python 3.9, no socket.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bundler import __version__
from bundler.core import strict_json
from bundler.core.printable import for_people
from bundler.core.report import Report
from bundler.core.units import format_bytes
from bundler.errors import ExitCode, Finding, InterruptedByUser, MalformedError, SealiftError
from bundler.storage.bounded_read import read_at_most
from bundler.storage.tree import opened_root
from bundler.trust.policy_document import POLICY_TYPE
from bundler.trust.spki import algorithm_of, fingerprint
from bundler.trust.statements import RELEASE_TYPE
from bundler.verification import steps
from bundler.verification.checks import Checks
from bundler.verification.openssl import OpensslVerifier, from_pem
from bundler.verification.report_data import facts
from bundler.verification.standard_streams import forgive, refusal
from bundler.verification.steps import Checked, Step, StepOutcome

VERB = "verify.pyz"
_NOT_HERE = "verify.pyz does not do this; `sealift verify` does"
_MARKS = {"passed": "ok  ", "failed": "FAIL", "incomplete": "part"}


def run() -> int:
    """The program `verify.pyz`: as `main`, and what a full disk or a reader that left does to its output."""
    forgive()
    code = main()
    # A verdict keeps its code when nobody can read it; a success that was not told is none.
    return code or (int(ExitCode.MACHINE) if refusal(sys.stdout) else code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Verify, print, and give back the exit code of format.md section 8."""
    options = _parser().parse_args(arguments)
    try:
        report, outcomes = verify(options)
    except SealiftError as error:
        report, outcomes = Report.of_error(VERB, error), ()
    except KeyboardInterrupt:
        report, outcomes = Report.of_error(VERB, InterruptedByUser("interrupted", "stopped by the user")), ()
    except (OSError, MemoryError) as error:
        report, outcomes = Report.of_error(VERB, steps.machine_trouble(error)), ()
    except Exception as error:
        traceback.print_exc()
        what = f"unexpected {type(error).__name__}: this is a fault in {VERB}, not a verdict"
        report, outcomes = Report.of_error(VERB, SealiftError("unexpected-error", what)), ()
    if options.json:
        value = report.to_json()
        value["findings"] = [_advised(finding).to_json() for finding in report.findings]
        sys.stdout.write(json.dumps(value, indent=1, sort_keys=True) + "\n")
    else:
        _tell(report, outcomes)
    return int(report.exit_code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=VERB, description="Verify a sealift bundle, offline.")
    parser.add_argument("bundle", type=Path, help="the bundle's folder")
    trust = parser.add_mutually_exclusive_group(required=True)
    trust.add_argument(
        "--policy", type=Path, help="the trust policy of your perimeter (never one from the bundle)"
    )
    trust.add_argument(
        "--key", type=Path, help="a public key (PEM): its release statement is required, no more"
    )
    parser.add_argument("--level", choices=tuple(steps.LEVELS), default="full", help="default: full")
    parser.add_argument("-j", "--jobs", type=int, default=0, help="parallel readers (default: all cores)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--version", action="version", version=f"{VERB} {__version__}")
    return parser


def verify(options: argparse.Namespace) -> tuple[Report, tuple[StepOutcome, ...]]:
    """The report and the steps. Raises SealiftError when there is nothing to examine."""
    policy = policy_of_key(_read(options.key)) if options.key else _read(options.policy)
    with opened_root(options.bundle) as root:
        checks = Checks(root=root, policy_bytes=policy, verify_signature=OpensslVerifier())
        if options.jobs > 0:
            checks.workers = options.jobs
        with checks.leases:
            outcomes = steps.run_steps(_steps(checks, one_key=bool(options.key)), options.level)
    report = Report(
        verb=VERB,
        verdict=steps.verdict(outcomes, options.level),
        exit_code=steps.exit_code(outcomes, options.level),
        findings=steps.all_findings(outcomes),
        data={**facts(checks, outcomes, options.level), "bundle": str(options.bundle)},
    )
    return report, outcomes


def _steps(checks: Checks, *, one_key: bool) -> tuple[Step, ...]:
    signatures = (lambda: _check_signatures_of_key(checks)) if one_key else checks.check_signatures
    return (
        Step(1, checks.check_policy),
        Step(2, checks.check_small_files),
        Step(3, checks.check_manifest),
        Step(4, signatures),
        Step(5, checks.check_requirements),
        Step(6, checks.check_tree),
        Step(7, None, _NOT_HERE),
        Step(8, checks.check_bytes),
        Step(9, None, _NOT_HERE),
        Step(10, None, "the perimeter's state (rollback) is neither compared nor written; " + _NOT_HERE),
    )


def _check_signatures_of_key(checks: Checks) -> Checked:
    """Step 4 with `--key`: what other keys signed is not checked, and is said not to be."""
    checked = checks.check_signatures()
    foreign = {
        item.where.rpartition("/")[2] for item in checked.findings if item.reference == "unknown-signer"
    }
    if not foreign:
        return checked
    checks.attestations = dict.fromkeys(set(checks.attestations) - foreign, b"")
    checked = checks.check_signatures()
    told = tuple(f"attestations/{name}, which is not signed by this key" for name in sorted(foreign))
    return replace(checked, not_checked=checked.not_checked + told)


def policy_of_key(pem: bytes) -> bytes:
    """A policy that asks for one release statement by this key. Raises MalformedError (`bad-key`)."""
    spki = from_pem(pem)
    if not spki:
        raise MalformedError(
            "bad-key", "a public key cannot be read", where="--key", expected="a PEM public key"
        )
    name = fingerprint(spki)
    key = {
        "alg": algorithm_of(spki, where="--key"),
        "spki": base64.b64encode(spki).decode(),
        "owner": "--key",
    }
    role = {"keys": [name], "threshold": 1}
    value: dict[str, Any] = {
        "type": POLICY_TYPE,
        "version": 1,
        "keys": {name: key},
        "roles": {"root": role, "release": role},
        "require": [{"id": "release", "role": "release", "predicateType": RELEASE_TYPE}],
    }
    return strict_json.dumps(value)


def _read(path: Path) -> bytes:
    return read_at_most(path, strict_json.POLICY_LIMIT + 1)


def _tell(report: Report, outcomes: Sequence[StepOutcome]) -> None:
    lines = []
    for outcome in outcomes:
        mark = _MARKS.get(outcome.status, "--  ")
        lines.append(f"{mark} {outcome.number:>2} {outcome.name}: {outcome.detail or outcome.status}")
    lines += [line for finding in report.findings for line in _finding_lines(_advised(finding))]
    # Steps that did not run are in the list above already.
    ran = [outcome for outcome in outcomes if outcome.status != steps.NOT_RUN]
    lines += [f"not checked: {text}" for text in steps.all_not_checked(ran)]
    if "bytesRead" in report.data:
        lines.append(f"read {format_bytes(report.data['bytesRead'])}")
    lines.append(_verdict(report))
    sys.stdout.write("\n".join(map(for_people, lines)) + "\n")


def _verdict(report: Report) -> str:
    if report.exit_code == ExitCode.PASSED:
        return f"PASSED at level {report.data['level']}, apart from what is not checked above."
    return f"{report.verdict.upper()}: do not install or launch this bundle."


def _advised(finding: Finding) -> Finding:
    """This program does not carry the table of references; sealift does."""
    return finding.with_hint(f"`sealift explain {finding.reference}`, on a machine with sealift")


def _finding_lines(finding: Finding) -> list[str]:
    lines = [f"{finding.severity}: {finding.reference}: {finding.what}"]
    named = [(name, getattr(finding, name)) for name in ("where", "expected", "found", "hint")]
    return lines + [f"  {name + ':':<9} {text}" for name, text in named if text]
