"""`sealift demo`: the whole job once, small, on this machine."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bundler.cli.output import Output, json_option
from bundler.core.report import Report
from bundler.errors import UsageError

if TYPE_CHECKING:
    from bundler.demo.tour import Tour

WILL = """This makes a tiny Kimi-shaped model, serves it from a Hub and a registry of its own on the loopback
interface, takes a real engine (llama.cpp, about 35 MB) and sealift's own requirements (about 60 MB) from your
package index, builds and signs a bundle, and then, with the network cut, verifies it, shows what one flipped
bit does, installs the engine and asks the server a question. Everything is in {folder}."""
WAIT_SECONDS = 0.2


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
@click.option(
    "--serve",
    is_flag=False,
    flag_value="",
    metavar="[FOLDER]",
    help="Only start the Hub and the registry, print the tour to type, and keep serving until Ctrl-C.",
)
@click.option("-y", "--yes", is_flag=True, help="Do not ask before downloading.")
@json_option
def command(folder: Path, serve: str | None, yes: bool, as_json: bool) -> int:
    """Do the whole job once, for real, with a tiny model: lock, build, sign, verify, install, launch.

    Needs no account and no service; what is left behind is a bundle and the commands to play on with.
    """
    from bundler.demo.rehearsal import Rehearsal, commands_to_play_on

    output = Output(as_json)
    if serve is not None:
        return serve_tour(output, Path(serve or folder).resolve())
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


def serve_tour(output: Output, folder: Path) -> int:
    """Serve until interrupted, which is the usual end and no failure."""
    from bundler.demo.tour import open_tour

    output.say("making a tiny Kimi-shaped model and a tiny image")
    # Suppressed for the whole block: an interrupt may come as soon as the first line is read.
    with open_tour(folder) as tour, suppress(KeyboardInterrupt):
        show_tour(output, tour)
        while True:
            # In short waits: the system may hand the signal to a server's thread, which wakes nobody.
            time.sleep(WAIT_SECONDS)
    output.say("stopped")
    return 0


def show_tour(output: Output, tour: Tour) -> None:
    """The commands to type, at once even into a pipe."""
    output.lines("The tour, for another terminal:\n")
    for line in tour.commands():
        output.lines(f"  {line}")
    data = {"folder": str(tour.folder), "hub": tour.hub, "registry": tour.registry}
    output.emit(Report(verb="demo", data={**data, "tour": list(tour.commands())}))
    sys.stdout.flush()
    output.say(f"serving {tour.hub} and {tour.registry} until Ctrl-C")


def confirm() -> None:
    """Ask on a terminal; elsewhere `--yes` must have been said. Raises UsageError."""
    if not sys.stdin.isatty():
        raise UsageError("not-confirmed", "the demo downloads about 100 MB", hint="say `sealift demo --yes`")
    click.confirm("Go on?", default=True, abort=True, err=True)
