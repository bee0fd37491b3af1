"""`sealift init`: write a commented spec to start from."""

from __future__ import annotations

import os
from pathlib import Path

import click

from bundler.assembly.templates import PROFILES, SCHEMA_FILE, template, template_for_editors
from bundler.cli.output import Output, json_option
from bundler.core.report import Report
from bundler.core.specs.spec_text import schema_bytes
from bundler.storage.named_output import require_outputs, write_output

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
    The JSON Schema is written beside it, unless one is there: editors check and explain every field offline.
    """
    output = Output(as_json)
    data = {"profile": profile, "path": target}
    if target == STDOUT:
        text = template(profile)
        if as_json:
            return output.emit(Report(verb="init", data={**data, "text": text}))
        output.lines(text.rstrip("\n"))
        return 0
    path = Path(target)
    schema = path.with_name(SCHEMA_FILE)
    missing = None if os.path.lexists(schema) and schema.name != path.name else schema
    require_outputs(
        path, missing, replace=force, hint="choose another name with -o, or overwrite it with --force"
    )
    write_output(path, template_for_editors(profile).encode(), replace=force)
    output.say(f"wrote {target}: {PROFILES[profile]}")
    if missing:
        write_output(schema, schema_bytes())
        output.say(f"wrote {schema}: editors check the spec with it, offline")
    output.say(f"next: read it, then `sealift lock {target}`")
    return output.emit(Report(verb="init", data=data))
