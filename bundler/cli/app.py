"""The command `sealift`: finds the verb, prints errors, chooses the exit code. Nothing else does.

Verbs load only when they are called: `sealift --help` must stay fast.
"""

from __future__ import annotations

import difflib
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

import click

from bundler import __version__
from bundler.cli.examples import with_examples
from bundler.cli.output import Output, print_error, print_traceback, remember_program, talk, wants_json
from bundler.core.report import Report
from bundler.errors import ExitCode, InterruptedByUser, SealiftError, UsageError
from bundler.verification.standard_streams import forgive, refusal
from bundler.verification.steps import machine_trouble

VERBS = {
    "init": "Write a commented spec to start from",
    "lock": "Pin everything a spec asks for: commits, sizes, digests",
    "plan": "Say what would be fetched, whether it fits disks and GPUs",
    "build": "Fetch what the lock pins and seal it as a bundle",
    "sign": "Sign a sealed bundle with a key",
    "attest": "Create, sign, import and list attestations",
    "inspect": "Show what a bundle holds and where it came from",
    "diff": "Compare two bundles, locks or manifests",
    "verify": "Check a bundle against the trust policy, offline",
    "install": "Install engine and images from a verified bundle",
    "launch": "Verify a bundle, then start its server",
    "trust": "Make and read trust policies",
    "keys": "Make and show signing keys",
    "explain": "Say what a reference in a message means and what to do",
    "doctor": "Check what this machine can do",
    "demo": "Do the whole job once, small, on this machine",
    "completion": "Print shell completion for bash, zsh or fish",
}


EXPECTED = (SealiftError, click.ClickException, click.Abort, KeyboardInterrupt, OSError, MemoryError)
"""What ends a verb without being a fault of ours."""
_AFTER_A_STOP = {
    "build": "run the same `sealift build` again: it continues where it stopped",
    "verify": "run the same `sealift verify` again with --resume: it continues where it stopped",
    "install": "run the same `sealift install` again with --resume: it continues where it stopped",
}
"""What to type after Ctrl-C, for the verbs that keep what they did."""
_REFUSED = {
    "install": "the installation did not finish; nothing half-made is left.",
    "launch": "nothing was started.",
}
"""How a refusal ends for the verbs that act on a bundle: after the errors, one verdict."""


class Verbs(click.Group):
    """Loads `bundler.cli.<verb>` when the verb is used, not before."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All verbs, in the order of the job."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb's command, from its own module."""
        if cmd_name not in VERBS:
            return None
        command = importlib.import_module(f"bundler.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return with_examples(cmd_name, command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, but an unknown verb names the nearest one."""
        if args and not args[0].startswith("-") and args[0] not in VERBS:
            near = difflib.get_close_matches(args[0], VERBS, n=1)
            hint = f"did you mean `sealift {near[0]}`?" if near else "`sealift --help` lists the verbs"
            raise UsageError("unknown-verb", f"there is no verb {args[0]!r}", hint=hint)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """As click does it. A broken pipe is never that of our output (`standard_streams`): click would leave
        with 1 and without a word.
        """
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise machine_trouble(error) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The verbs with one line each, without loading them."""
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="sealift")
def sealift() -> None:
    """Build, sign, carry, verify and launch air-gapped bundles of very large language models."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with the exit code of format.md section 8."""
    forgive()
    remember_program(sys.argv[0])
    given = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(written(run(given)))


def written(code: int) -> int:
    """The exit code once all of stdout is out. A failed verb keeps its own code; a good one whose result a
    full disk did not take ends with 4. A reader that left (`| head`) is no fault.
    """
    refused = refusal(sys.stdout)
    if refused:
        print_error(machine_trouble(OSError(refused, os.strerror(refused), "standard output")))
        return code or int(ExitCode.MACHINE)
    return code


def run(arguments: list[str]) -> int:
    """Run one verb; every error is printed here and nowhere else."""
    as_json = wants_json(arguments)
    verb = next((word for word in arguments if word in VERBS), "")
    # A service manager stops with SIGTERM: leave as resumable as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        outcome = sealift.main(arguments, prog_name="sealift", standalone_mode=False)
        return outcome if isinstance(outcome, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        for line in error.format_message().split("\n"):
            talk(line)
        return int(ExitCode.USAGE)
    except EXPECTED as error:
        return _tell(deliberate(error, verb), verb, as_json)
    except Exception as error:
        print_traceback()
        return _tell_unexpected(error, verb, as_json)


def deliberate(error: BaseException, verb: str) -> SealiftError:
    """`error` as one of ours; what the operating system refuses is the machine's fault."""
    if isinstance(error, SealiftError):
        return error
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        hint = _AFTER_A_STOP.get(verb, "nothing is half-made; run the same command again")
        return InterruptedByUser("interrupted", "stopped by the user", hint=hint)
    if isinstance(error, click.ClickException):
        said = " ".join(error.format_message().split())
        return UsageError("usage", said, hint=f"`sealift {verb} --help`".replace("  ", " "))
    return machine_trouble(error)


def _tell_unexpected(error: Exception, verb: str, as_json: bool) -> int:
    """A fault of ours keeps its traceback and exit 1; it never looks like a verdict on a bundle."""
    if as_json:
        what = f"unexpected {type(error).__name__}: this is a fault in sealift, not a verdict"
        report = Report.of_error(verb, SealiftError("unexpected-error", what, found=str(error)[:400]))
        Output(as_json=True).emit(report)
    return int(ExitCode.UNEXPECTED)


def _tell(error: SealiftError, verb: str, as_json: bool) -> int:
    if as_json:
        return Output(as_json=True).emit(Report.of_error(verb, error))
    print_error(error)
    if verb in _REFUSED and not isinstance(error, InterruptedByUser):
        Output(as_json=False).verdict(f"REFUSED: {_REFUSED[verb]}", "failed")
    return int(error.exit_code)
