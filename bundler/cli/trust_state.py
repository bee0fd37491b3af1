"""`sealift trust reset-time`: the way back when the state remembers a time that was never true."""

from __future__ import annotations

from pathlib import Path

import click

from bundler.cli.options import DEFAULT_POLICY
from bundler.cli.output import Output, json_option
from bundler.cli.trust_policy import facts, read_policy
from bundler.core.report import Report

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command("reset-time", short_help="Inside: forget a remembered time that is false.")
@click.option(
    "--policy", type=_FILE, default=DEFAULT_POLICY, show_default=True, help="The policy in force here."
)
@click.option(
    "--state",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The state to change.  [default: /var/lib/sealift/state.json]",
)
@click.option(
    "--trust-on-first-use",
    "typed",
    required=True,
    metavar="sha256:DIGEST",
    help="The digest of the policy in force, typed from paper.",
)
@json_option
def reset_time(policy: Path, state: Path | None, typed: str, as_json: bool) -> int:
    """Inside: remove the remembered time (lastSignedTime) from the state.

    For a state that a wrong clock moved into the future, so that everything counts as expired. The digest of
    the policy in force, from paper, is the proof, as at a first use. What was accepted stays: the policy,
    the serials and the manifests. Expiry counts from the clock again, so set the clock first.

    Example: sealift trust reset-time --trust-on-first-use "3f2a 91c4 ..."
    """
    from bundler.core.timestamps import format_instant
    from bundler.trust.perimeter.policy_update import forget_time
    from bundler.trust.perimeter.state_files import StateFiles

    parsed = read_policy(policy)
    files = StateFiles.of(state)
    forgotten = forget_time(files, parsed, typed)
    output = Output(as_json)
    text = format_instant(forgotten) if forgotten is not None else None
    output.data(f"Forgot the remembered time {text}." if text else "No time was remembered.")
    data = {**facts(parsed), "state": str(files.paths[0]), "forgotten": text}
    return output.emit(Report(verb="trust", data=data))
