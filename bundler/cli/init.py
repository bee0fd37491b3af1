"""`sealift init`: write a commented spec to start from."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from bundler.assembly.templates import PROFILES, template
from bundler.cli.output import Output, json_option
from bundler.core.report import Report
from bundler.errors import UsageError

STDOUT = "-"


_EPILOG = "\b\nProfiles:\n" + "\n".join(f"  {name:<15} {about}" for name, about in PROFILES.items())


@click.command(epilog=_EPILOG)
@click.option(
    "-p", "--profile", type=click.Choice(list(PROFILES)), required=True, help="What to start from; see below."
)
@click.option(
    "-o", "--output", "target", default="spec.yaml", show_default=True, help="File, or - for stdout."
)
@click.option("--force", is_flag=True, help="Overwrite a file that is there.")
@json_option
def command(profile: str, target: str, force: bool, as_json: bool) -> int:
    """Write a commented spec that can be locked as it stands.

    A spec says what to carry: models, engines, images, documents, how to launch them and on which machine.
    """
    output, text = Output(as_json), template(profile)
    data = {"profile": profile, "path": target}
    if target == STDOUT:
        if as_json:
            return output.emit(Report(verb="init", data={**data, "text": text}))
        sys.stdout.write(text)
        return 0
    write_new(Path(target), text.encode(), force=force)
    output.say(f"wrote {target}: {PROFILES[profile]}")
    output.say(f"next: read it, then `sealift lock {target}`")
    return output.emit(Report(verb="init", data=data))


def write_new(path: Path, data: bytes, *, force: bool) -> None:
    """Write a file that was not there. Raises UsageError (`output-exists`) unless `force`."""
    from bundler.storage.atomic import write_atomic

    if force:
        write_atomic(path, data)
        return
    try:
        # O_EXCL also refuses a dangling link: nothing is written through it.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError as error:
        raise UsageError(
            "output-exists",
            "a file is already there",
            where=str(path),
            hint="choose another name with -o, or overwrite it with --force",
        ) from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
