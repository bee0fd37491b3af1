"""Passphrases: from a prompt, a private file or the environment, never from the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from bundler.errors import UsageError
from bundler.storage.secret_memory import hide_memory

PASSPHRASE_VARIABLE = "SEALIFT_PASSPHRASE"  # noqa: S105 - the name of a variable
Command = TypeVar("Command", bound=Callable[..., Any])


def passphrase_option(command: Command) -> Command:
    """The option of every verb that opens a private key; its value arrives as `passphrase_file`."""
    return click.option(
        "--passphrase-file",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help=f"Read the passphrase from this file (mode 0600). Else {PASSPHRASE_VARIABLE}, else a prompt.",
    )(command)


def read_passphrase(passphrase_file: Path | None, *, what: str, confirm: bool = False) -> bytes:
    """The passphrase for `what`, without its final line break. Raises UsageError (`no-passphrase`)."""
    hide_memory()
    if passphrase_file is not None:
        from bundler.storage.bounded_read import read_named
        from bundler.trust.keys import KEY_FILE_LIMIT, refuse_readable_by_others

        refuse_readable_by_others(passphrase_file)
        return _not_empty(read_named(passphrase_file, KEY_FILE_LIMIT).rstrip(b"\r\n"), str(passphrase_file))
    if PASSPHRASE_VARIABLE in os.environ:
        return _not_empty(os.environb[PASSPHRASE_VARIABLE.encode()], PASSPHRASE_VARIABLE)
    if not sys.stdin.isatty():
        raise UsageError(
            "no-passphrase",
            "a passphrase is needed and there is no terminal to ask on",
            where=what,
            hint=f"name a file with --passphrase-file, or set {PASSPHRASE_VARIABLE}",
        )
    typed: str = click.prompt(
        f"Passphrase for {what}", hide_input=True, confirmation_prompt=confirm, err=True
    )
    return _not_empty(typed.encode(), "prompt")


def _not_empty(passphrase: bytes, where: str) -> bytes:
    if not passphrase:
        raise UsageError("no-passphrase", "the passphrase is empty", where=where, hint="choose a long one")
    return passphrase
