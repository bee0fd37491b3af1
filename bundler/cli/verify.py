"""`sealift verify`: is this bundle what it says, by the people the policy names, byte for byte?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bundler.cli.arguments import BundleFolder
from bundler.cli.options import ReadingOptions, TrustOptions, reading_options, trust_options
from bundler.cli.output import Output, printable
from bundler.core.units import format_bytes, format_seconds
from bundler.errors import ExitCode

if TYPE_CHECKING:
    from bundler.trust.policy import RequirementOutcome, TrustResult
    from bundler.verification.verify import VerificationResult

SHOWN_NOT_CHECKED = 12
_MARKS = {
    "passed": ("✔", "green"),
    "failed": ("✘", "red"),
    "incomplete": ("…", "yellow"),
    "not-run": ("·", "yellow"),
    "not-checked": ("·", "yellow"),
    "beyond-level": ("·", None),
}
_VERDICTS = {
    "signatures": "SIGNATURES GOOD. The manifest is signed as the policy requires; no file was looked at.",
    "quick": "SIGNATURES AND FILE LIST GOOD. Names, sizes and headers fit; the contents were not read.",
    "full": "VERIFIED. Every byte of the bundle is what was signed, by the people the policy requires.",
}

_NOT_REMEMBERED = (
    "VERIFIED, NOT REMEMBERED. Every byte is what was signed, but the state could not be written: "
    "an older bundle would still be accepted. Run it again as a user who may write the state."
)


@click.command(
    epilog="Exit codes: 0 verified, 10 bytes differ, 11 signatures or roles, 12 policy rules, 13 incomplete."
)
@click.argument("bundle", type=BundleFolder())
@trust_options
@click.option(
    "--level",
    type=click.Choice(("signatures", "quick", "full")),
    default="full",
    show_default=True,
    help="signatures: who signed; quick: also names, sizes and headers; full: every byte.",
)
@click.option(
    "--resume", is_flag=True, help="Continue an interrupted full verification instead of beginning again."
)
@reading_options
def command(
    bundle: Path,
    trust: TrustOptions,
    level: str,
    resume: bool,
    reading: ReadingOptions,
) -> int:
    """Check BUNDLE (a folder) against the trust policy, offline.

    Nothing is changed in the bundle and no network is used. Only a full verification that passes is
    remembered, so that an older bundle or policy is refused from then on.
    """
    from bundler.verification.verify import verify_bundle

    result = verify_bundle(
        bundle,
        trust.perimeter(),
        level=level,
        workers=reading.workers,
        progress=reading.progress,
        resume=resume,
    )
    _tell(reading.output, result)
    code = reading.output.emit(result.report)
    _conclude(reading.output, result, bundle, level, trust.words(first_use=True))
    return code


def _tell(output: Output, result: VerificationResult) -> None:
    """What was looked at, step by step, and who signed what."""
    data = result.report.data
    if data["manifest"] is not None:
        manifest = data["manifest"]
        title = f"{manifest['name'] or 'bundle'}, channel {manifest['channel']}, serial {manifest['serial']}"
        output.say(title, bold=True)
        output.say(f"manifest sha256:{manifest['sha256']}")
    output.say(f"policy   sha256:{data['policy']['sha256']}")
    output.say()
    for outcome in result.outcomes:
        mark, colour = _MARKS[outcome.status]
        text = f"{outcome.number:>2} {outcome.name}"
        output.say(f"{text}: {outcome.detail or outcome.status}", mark=mark, fg=colour)
    output.say()


def _conclude(output: Output, result: VerificationResult, bundle: Path, level: str, trust: list[str]) -> None:
    """Who vouches, what was read, the verdict in plain words, and the next command."""
    from bundler.verification.steps import REMEMBERING

    report = result.report
    if result.verified is not None:
        _tell_signers(output, result.verified.trust)
    _tell_read(output, result)
    if report.verdict == "passed":
        output.verdict(_VERDICTS[level], "passed")
        if level != "full":
            words = ["sealift", "verify", str(bundle), *trust, "--level", "full"]
            output.command(words, err=False)
        return
    failed = [outcome for outcome in result.outcomes if outcome.status in ("failed", "incomplete")]
    if [outcome.number for outcome in failed] == [REMEMBERING] and report.exit_code == ExitCode.MACHINE:
        output.verdict(_NOT_REMEMBERED, report.verdict)
        return
    where = ", ".join(f"step {outcome.number} ({outcome.name})" for outcome in failed)
    word = "INCOMPLETE" if report.verdict == "incomplete" else "REFUSED"
    output.verdict(f"{word}: {where}. Do not install or launch this bundle.", report.verdict)


def _tell_signers(output: Output, trust: TrustResult) -> None:
    for outcome in trust.requirements:
        output.say(_requirement(outcome), mark="✔", fg="green")
    output.say()


def _requirement(outcome: RequirementOutcome) -> str:
    people = ", ".join(outcome.counted)
    wanted = outcome.requirement
    said = (
        f" saying {', '.join(f'{name}={value}' for name, value in wanted.where.items())}"
        if wanted.where
        else ""
    )
    role = f"{people} for the role {wanted.role} ({outcome.threshold} needed)"
    return printable(f"{wanted.id}: {role}, {wanted.predicate_type}{said}")


def _tell_read(output: Output, result: VerificationResult) -> None:
    from bundler.verification.steps import NOT_RUN, all_not_checked

    data = result.report.data
    read = f"read {format_bytes(data['bytesRead'])} in {format_seconds(data['seconds'])}"
    if data["bytesTrustedFromEarlierRun"]:
        trusted = format_bytes(data["bytesTrustedFromEarlierRun"])
        read += f"; {trusted} not read again, trusted from the interrupted run"
    output.say(read)
    # Steps that did not run are in the list above already.
    ran = (outcome for outcome in result.outcomes if outcome.status != NOT_RUN)
    for text in all_not_checked(ran)[:SHOWN_NOT_CHECKED]:
        output.say(f"not checked: {printable(text)}")
