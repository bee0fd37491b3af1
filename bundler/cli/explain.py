"""`sealift explain`: what a reference means, why it happens and what to do, offline."""

from __future__ import annotations

import difflib

import click

from bundler.cli.output import Output, json_option
from bundler.core.report import Report
from bundler.errors import UsageError
from bundler.references import ROOMS, Row, rows


@click.command(
    epilog="Examples: `sealift explain digest-mismatch`; `sealift explain --json` for all rows as data."
)
@click.argument("reference", required=False)
@json_option
def command(reference: str | None, as_json: bool) -> int:
    """Explain a REFERENCE such as digest-mismatch, the word after `error:`. Without one, list all."""
    output = Output(as_json)
    table = rows()
    if reference is None:
        show_all(output, table)
        data = {"references": [row.to_json() for row in table.values()]}
        return output.emit(Report(verb="explain", data=data))
    row = table.get(reference)
    if row is None:
        raise _unknown(reference, list(table))
    show(output, row)
    return output.emit(Report(verb="explain", data=row.to_json()))


def show(output: Output, row: Row) -> None:
    """One row in full."""
    output.data(row.reference, bold=True)
    output.data(row.meaning)
    output.data("Likely causes:")
    for cause in row.causes:
        output.data(f"  - {cause}")
    output.data(f"What to do: {row.do}")


def show_all(output: Output, table: dict[str, Row]) -> None:
    """Every reference with its meaning, by room."""
    for room, title in ROOMS.items():
        output.data(title, bold=True)
        for row in table.values():
            if row.room == room:
                output.data(f"  {row.reference:<30} {row.meaning}")


def _unknown(reference: str, known: list[str]) -> UsageError:
    near = difflib.get_close_matches(reference, known, n=3, cutoff=0.5)
    near += [name for name in known if reference in name and name not in near][:3]
    return UsageError(
        "unknown-reference",
        "there is no such reference",
        expected=", ".join(near) or "the word after `error:` in a message",
        found=reference[:100],
        hint=f"`sealift explain {near[0]}`" if near else "`sealift explain` lists all",
    )
