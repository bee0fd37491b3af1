"""`sealift demo`: the whole job once, small, on this machine."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from bundler.cli.output import Output, json_option
from bundler.core.report import Report
from bundler.errors import UsageError

WILL = """This makes a tiny Kimi-shaped model, serves it from a Hub and a registry of its own on the loopback
interface, takes a real engine (llama.cpp, about 35 MB) and sealift's own requirements (about 60 MB) from your
package index, builds and signs a bundle, and then, with the network cut, verifies it, shows what one flipped
bit does, installs the engine and asks the server a question. Everything is in {folder}."""


@click.command()
@click.option(
    "-o",
    "--output",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("sealift-demo"),
    show_default=True,
    help="Folder for everything the demo makes.",
)
@click.option("-y", "--yes", is_flag=True, help="Do not ask before downloading.")
@json_option
def command(folder: Path, yes: bool, as_json: bool) -> int:
    """Do the whole job once, for real, with a tiny model: lock, build, sign, verify, install, launch.

    Needs no account and no service; what is left behind is a bundle and the commands to play on with.
    """
    from bundler.demo.rehearsal import Rehearsal, commands_to_play_on

    output = Output(as_json)
    for line in WILL.format(folder=folder).split("\n"):
        output.say(line)
    if not (yes or as_json):
        confirm()
    folder = folder.resolve()
    proved = Rehearsal(folder=folder, say=output.lines).run()
    output.lines(f"\nThe whole job, done in {folder}. To play on:\n")
    for line in commands_to_play_on(folder):
        output.lines(f"  {line}")
    return output.emit(Report(verb="demo", data={"folder": str(folder), "proved": proved}))


def confirm() -> None:
    """Ask on a terminal; elsewhere `--yes` must have been said. Raises UsageError."""
    if not sys.stdin.isatty():
        raise UsageError("not-confirmed", "the demo downloads about 100 MB", hint="say `sealift demo --yes`")
    click.confirm("Go on?", default=True, abort=True, err=True)
