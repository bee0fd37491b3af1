"""`sealift launch`: verify a bundle to the last byte, then become its inference server."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bundler.cli.arguments import BundleFolder
from bundler.cli.options import ReadingOptions, TrustOptions, reading_options, trust_options
from bundler.cli.output import Output, printable, verdict_style
from bundler.core.report import Report

if TYPE_CHECKING:
    from bundler.launch.launch import LaunchPlan


@click.command(
    epilog="Exit codes: those of `sealift verify` when the bundle is refused, and then nothing starts; "
    "afterwards the engine's own."
)
@click.argument("bundle", type=BundleFolder())
@click.option("--profile", required=True, help="Which launch profile; `sealift inspect BUNDLE` lists them.")
@click.option(
    "--env",
    "environment",
    type=click.Path(path_type=Path),
    required=True,
    help="The environment that `sealift install BUNDLE --to DIR` made.",
)
@trust_options
@click.option("--host", default=None, help="Address to bind instead of the profile's.")
@click.option(
    "--port", type=click.IntRange(1, 65535), default=None, help="Port to bind instead of the profile's."
)
@click.option(
    "--accept-code",
    is_flag=True,
    help="Let the model's own Python files run (they are listed in the signed manifest).",
)
@click.option(
    "--work",
    type=click.Path(path_type=Path),
    default=None,
    help="Folder for this launch's private caches.  [default: the machine's temporary folder]",
)
@click.option("--dry-run", is_flag=True, help="Verify, print the command and its environment, start nothing.")
@reading_options
def command(
    bundle: Path,
    profile: str,
    environment: Path,
    trust: TrustOptions,
    host: str | None,
    port: int | None,
    accept_code: bool,
    work: Path | None,
    dry_run: bool,
    reading: ReadingOptions,
) -> int:
    """Verify BUNDLE (every byte), then start the server of one of its launch profiles.

    The engine runs from the environment given with --env, offline, with private empty caches and an
    environment built from a short list. A bundle that fails verification starts nothing.
    """
    from bundler.launch.gate import Admitted, admit
    from bundler.launch.launch import LaunchRequest
    from bundler.storage.leases import Leases

    output = reading.output
    request = LaunchRequest(
        profile=profile,
        environment=environment,
        work=work or Path(tempfile.gettempdir()),
        caller=os.environ,
        host=host,
        port=port,
        accept_code=accept_code,
    )
    with Leases() as leases:
        admitted = admit(
            bundle,
            trust.perimeter(),
            request,
            leases=leases,
            workers=reading.workers,
            progress=reading.progress,
        )
        if not isinstance(admitted, Admitted):
            code = output.emit(admitted)
            output.verdict("REFUSED: nothing was started.", admitted.verdict)
            return code
        _tell(output, admitted.plan)
        if dry_run:
            _show(output, admitted.plan)
            return output.emit(admitted.report)
        return admitted.start(lambda: _announce(output, admitted.report))


def _announce(output: Output, report: Report) -> None:
    """Everything that was printed must be out before this process becomes another program."""
    output.emit(report)
    sys.stdout.flush()
    sys.stderr.flush()


def _tell(output: Output, plan: LaunchPlan) -> None:
    """What will start, where it answers, and what to know about it."""
    entry = plan.entry
    text = f"verified; starting {entry.engine} {entry.engine_version} as {printable(entry.served_name)}"
    output.say(text, **verdict_style("passed"))
    output.say(f"clients: base URL {plan.url}, model {printable(entry.served_name)}")
    for note in plan.notes:
        output.say(f"  {printable(note)}")


def _show(output: Output, plan: LaunchPlan) -> None:
    """The environment and the command, as a shell reads them."""
    import shlex

    for name, value in plan.environment.items():
        output.data(f"{name}={shlex.quote(value)}")
    output.data(plan.shell)
