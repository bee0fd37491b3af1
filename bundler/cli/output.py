"""Everything the command line prints: data on stdout, talk on stderr, `NO_COLOR` honoured.

The one door to the terminal: no other module of `cli` prints, and whatever passes here is made printable
first. A test holds that.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import traceback
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from bundler.core.printable import COLUMNS, for_people, printable
from bundler.core.report import Report
from bundler.errors import Finding, SealiftError
from bundler.references import rows

__all__ = ["COLUMNS", "Output", "coloured", "json_option", "print_error", "print_findings", "printable"]

SHOWN_PER_KIND = 10
"""Findings of one kind printed in full; the rest is counted (all are in `--json`)."""
_COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}
Command = TypeVar("Command", bound=Callable[..., Any])


_SIGNING = frozenset({"sign", "attest", "trust", "keys"})
"""Verbs whose talk is never left out: people must see what they sign, and to whom they give trust."""
_quiet: ContextVar[bool] = ContextVar("quiet", default=False)
_verbose: ContextVar[bool] = ContextVar("verbose", default=False)
_program: ContextVar[str] = ContextVar("program", default="sealift")
"""How a person can call sealift here; a path where its name alone finds nothing."""


def json_option(command: Command) -> Command:
    """The options every verb has: `--json`, whose value arrives as the parameter `as_json`, and how much to
    say: `-q` and `-v`, which this module remembers.
    """
    options = (
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout."),
        click.option(
            "-q",
            "--quiet",
            is_flag=True,
            expose_value=False,
            callback=_set_quiet,
            help="Print the result and problems only: no progress, no next command.",
        ),
        click.option(
            "-v",
            "--verbose",
            is_flag=True,
            expose_value=False,
            callback=_set_verbose,
            help="Print every finding in full, not the first ten of a kind.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _set_quiet(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    verbs = ctx.command_path.split()[1:2]
    _quiet.set(value and not _SIGNING.intersection(verbs))


def _set_verbose(_ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    _verbose.set(value)


def is_quiet() -> bool:
    """Whether `-q` was given to the verb that runs."""
    return _quiet.get()


def remember_program(called: str) -> None:
    """Make the commands in messages work where `sealift` is not on PATH; `called` is `sys.argv[0]`."""
    if shutil.which("sealift") is None:
        places = (Path(called).absolute(), Path(sys.executable).with_name("sealift"))
        scripts = [str(place) for place in places if place.name == "sealift" and place.exists()]
        _program.set(shlex.quote(scripts[0]) if scripts else f"{shlex.quote(sys.executable)} -m bundler")


def _advised(finding: Finding) -> Finding:
    """A finding that says what to do: with its own hint, else with the advice of the table of references."""
    if finding.hint:
        return finding
    row = rows().get(finding.reference)
    return finding.with_hint(row.do if row else "`sealift explain` lists every reference")


def _callable(text: str) -> str:
    """A hint whose commands begin with what this machine can call."""
    return text.replace("`sealift ", f"`{_program.get()} ")


def wants_json(arguments: list[str]) -> bool:
    """Whether `--json` is among the arguments, known before they are parsed."""
    return "--json" in arguments


def coloured(stream: Any = None) -> bool:
    """Whether to colour: a terminal, and neither `NO_COLOR` nor a dumb one."""
    stream = stream or sys.stderr
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def verdict_style(verdict: str) -> dict[str, Any]:
    """How the line of a verdict looks in every verb: green passed, yellow incomplete, red anything else."""
    return {"fg": {"passed": "green", "incomplete": "yellow"}.get(verdict, "red"), "bold": True}


@dataclass(frozen=True)
class Output:
    """Where a verb's outcome goes: one JSON object, or lines for people."""

    as_json: bool

    def say(self, text: str = "", *, mark: str = "", **style: Any) -> None:
        """One line for a person, on stderr; nothing with `--json`.

        `style` is that of `click.style`; with `mark` only this text before the line has it.
        """
        if not self.as_json and not is_quiet():
            talk(text, mark=mark, **style)

    def data(self, text: str = "", **style: Any) -> None:
        """A line of the verb's own result, on stdout; nothing with `--json`."""
        if not self.as_json:
            _write(_styled(for_people(text), style, sys.stdout), sys.stdout)

    def verdict(self, text: str, verdict: str) -> None:
        """The last line of a verb, coloured by `verdict` (`passed`, `incomplete` or `failed`)."""
        self.data(text, **verdict_style(verdict))

    def lines(self, text: str) -> None:
        """Text of several lines that must stay as it is (scripts, keys, templates), on stdout."""
        if not self.as_json:
            _write("\n".join(map(printable, text.split("\n"))), sys.stdout)

    def command(self, words: list[str], *, err: bool = True) -> None:
        """The next command to paste: its digests stay in one piece."""
        if not self.as_json and not is_quiet():
            program, rest = words[:1], words[1:]
            shown = shlex.join(words) if program != ["sealift"] else f"{_program.get()} {shlex.join(rest)}"
            _write(f"next: {printable(shown)}", sys.stderr if err else sys.stdout)

    def emit(self, report: Report) -> int:
        """Print the report (findings for people, everything as JSON) and give back its exit code."""
        if self.as_json:
            # ASCII alone: readable in every locale, and for names that are not even UTF-8.
            value = report.to_json()
            value["findings"] = [_advised(finding).to_json() for finding in report.findings]
            _write(json.dumps(value, indent=1, sort_keys=True), sys.stdout)
        else:
            print_findings(report.findings)
        return int(report.exit_code)


def talk(text: str = "", *, mark: str = "", **style: Any) -> None:
    """One line on stderr."""
    shown = for_people(text)
    if mark:
        shown = f"{_styled(printable(mark), style, sys.stderr)} {shown}"
    _write(shown if mark else _styled(shown, style, sys.stderr), sys.stderr)


def print_traceback() -> None:
    """The traceback of a fault of ours, on stderr; what it quotes is made printable too."""
    for line in traceback.format_exc().rstrip().split("\n"):
        _write(printable(line), sys.stderr)


def _styled(text: str, style: dict[str, Any], stream: Any) -> str:
    return click.style(text, **style) if style and coloured(stream) else text


def _write(text: str, stream: Any) -> None:
    """The only line of `cli` that writes to a terminal."""
    if stream is sys.stderr:
        # In one pipe the two streams must not overtake each other.
        sys.stdout.flush()
    click.echo(text, file=stream, color=True)


def print_error(error: SealiftError) -> None:
    """Each finding of a failed command, on stderr."""
    print_findings(error.findings)


def print_findings(findings: tuple[Finding, ...]) -> None:
    """Findings grouped by kind: the first ten of a kind in full, the others counted."""
    kinds: dict[str, list[Finding]] = {}
    for finding in findings:
        kinds.setdefault(finding.reference, []).append(finding)
    for same in kinds.values():
        shown = same if _verbose.get() else same[:SHOWN_PER_KIND]
        for finding in shown:
            _write(render(finding), sys.stderr)
        if len(same) > len(shown):
            rest = len(same) - len(shown)
            talk(f"  … and {rest} more of {same[0].reference}; `-v` or `--json` lists all")


def render(finding: Finding) -> str:
    """`error: reference: what`, then where, expected, found and hint, each on its line when present."""
    finding = _advised(finding)
    style = {"fg": _COLOURS.get(finding.severity, "red"), "bold": True}
    label = _styled(printable(f"{finding.severity}:"), style, sys.stderr)
    lines = [f"{label} {for_people(f'{finding.reference}: {finding.what}')}"]
    for name in ("where", "expected", "found", "hint"):
        text = getattr(finding, name)
        if name == "hint":
            text = _callable(text)
        if text:
            lines.append(for_people(f"  {name + ':':<9} {text}", indent=12))
    return "\n".join(lines)
