"""Everything the command line prints: data on stdout, talk on stderr, `NO_COLOR` honoured."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from bundler.core.report import Report
from bundler.errors import Finding, SealiftError

SHOWN_PER_KIND = 10
"""Findings of one kind printed in full; the rest is counted (all are in `--json`)."""
_COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}
Command = TypeVar("Command", bound=Callable[..., Any])


def json_option(command: Command) -> Command:
    """The option every verb has; its value arrives as the parameter `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")(command)


def wants_json(arguments: list[str]) -> bool:
    """Whether `--json` stands among the arguments, known before they are parsed."""
    return "--json" in arguments


def coloured(stream: Any = None) -> bool:
    """Whether to colour: a terminal, and neither `NO_COLOR` nor a dumb one."""
    stream = stream or sys.stderr
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


@dataclass(frozen=True)
class Output:
    """Where a verb's outcome goes: one JSON object, or lines for people."""

    as_json: bool

    def say(self, text: str = "") -> None:
        """One line for a person, on stderr; nothing with `--json`."""
        if not self.as_json:
            # In one pipe the two streams must not overtake each other.
            sys.stdout.flush()
            click.echo(text, err=True, color=coloured())

    def data(self, text: str) -> None:
        """A line of the verb's own result, on stdout; nothing with `--json`."""
        if not self.as_json:
            click.echo(text, color=coloured(sys.stdout))

    def emit(self, report: Report) -> int:
        """Print the report (findings for people, everything as JSON) and give back its exit code."""
        if self.as_json:
            # ASCII alone: readable in every locale, and for names that are not even UTF-8.
            click.echo(json.dumps(report.to_json(), indent=1, sort_keys=True))
        else:
            print_findings(report.findings)
        return int(report.exit_code)


def print_error(error: SealiftError) -> None:
    """Each finding of a failed command, on stderr."""
    print_findings(error.findings)


def print_findings(findings: tuple[Finding, ...]) -> None:
    """Findings grouped by kind: the first ten of a kind in full, the others counted."""
    kinds: dict[str, list[Finding]] = {}
    for finding in findings:
        kinds.setdefault(finding.reference, []).append(finding)
    for same in kinds.values():
        for finding in same[:SHOWN_PER_KIND]:
            click.echo(render(finding), err=True, color=coloured())
        if len(same) > SHOWN_PER_KIND:
            rest = len(same) - SHOWN_PER_KIND
            click.echo(f"  … and {rest} more of {same[0].reference}; `--json` lists all", err=True)


def render(finding: Finding) -> str:
    """`error: reference: what`, then where, expected, found and hint, each on its line when present."""
    label = click.style(f"{finding.severity}:", fg=_COLOURS.get(finding.severity), bold=True)
    lines = [f"{label} {finding.reference}: {printable(finding.what)}"]
    for name in ("where", "expected", "found", "hint"):
        text = printable(getattr(finding, name))
        if text:
            lines.append(f"  {name + ':':<9} {text}")
    return "\n".join(lines)


def printable(text: str) -> str:
    """`text` without characters that could drive a terminal: hostile names are shown escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
