"""`sealift completion`: the script a shell sources to complete verbs, options and paths."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from bundler.cli.output import Output, json_option
from bundler.core.report import Report

HOW = {
    "bash": "sealift completion bash > ~/.local/share/bash-completion/completions/sealift",
    "zsh": "sealift completion zsh > ~/.zfunc/_sealift   (with fpath+=~/.zfunc before compinit)",
    "fish": "sealift completion fish > ~/.config/fish/completions/sealift.fish",
}


@click.command()
@click.argument("shell", type=click.Choice(tuple(HOW)))
@json_option
def command(shell: str, as_json: bool) -> int:
    """Print shell completion for bash, zsh or fish."""
    from bundler.cli.app import sealift

    completion = get_completion_class(shell)
    assert completion is not None
    source = completion(sealift, {}, "sealift", "_SEALIFT_COMPLETE").source()
    output = Output(as_json)
    output.lines(source)
    return output.emit(Report(verb="completion", data={"shell": shell, "script": source}))
