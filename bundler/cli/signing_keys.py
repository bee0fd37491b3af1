"""The key a verb signs with: a file or one on a token. Its secret never comes from the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bundler.cli.passphrase import passphrase_option, read_passphrase
from bundler.errors import UsageError
from bundler.storage.secret_memory import hide_memory

if TYPE_CHECKING:
    from bundler.signing.signer import Signer
    from bundler.trust.keys import PublicKey

PIN_VARIABLE = "SEALIFT_PIN"
MODULE_VARIABLE = "SEALIFT_PKCS11_MODULE"
KEY_HELP = (
    "Private key file, or a key on a token: 'pkcs11:token=T;object=NAME?module-path=/path/to/module.so'."
)
Command = TypeVar("Command", bound=Callable[..., Any])


def secret_options(command: Command) -> Command:
    """The options of every verb that opens a private key: `passphrase_file` and `pin_file`."""
    option = click.option(
        "--pin-file",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help=f"Read the token's PIN from this file (mode 0600). Else pin-source of the URI, else "
        f"{PIN_VARIABLE}, else a prompt.",
    )
    return passphrase_option(option(command))


@contextmanager
def opened_signer(key: str, passphrase_file: Path | None, pin_file: Path | None) -> Iterator[Signer]:
    """The signer of `--key KEY`; a token's session is closed at the end."""
    from bundler.signing.pkcs11_uri import Pkcs11Uri, is_pkcs11_uri

    if is_pkcs11_uri(key):
        from bundler.signing.pkcs11 import Pkcs11Signer

        uri = Pkcs11Uri.parse(key)
        with Pkcs11Signer.open(uri, pin_reader(uri.pin_source, pin_file), module=default_module()) as signer:
            yield signer
        return
    from bundler.signing.signer import FileSigner

    path = existing(key)
    yield FileSigner.open(path, lambda: read_passphrase(passphrase_file, what=key))


def public_key_of(key: str, passphrase_file: Path | None, pin_file: Path | None) -> PublicKey:
    """The public key of a public or private key file, or of a key on a token."""
    from bundler.signing.pkcs11_uri import Pkcs11Uri, is_pkcs11_uri
    from bundler.trust import keys

    if is_pkcs11_uri(key):
        from bundler.signing.pkcs11 import read_public_key

        uri = Pkcs11Uri.parse(key)
        return read_public_key(uri, pin_reader(uri.pin_source, pin_file), module=default_module())
    path = existing(key)
    with path.open("rb") as opened:
        head = opened.read(keys.KEY_FILE_LIMIT)
    if not keys.is_private_pem(head):
        return keys.read_public_key(path)
    return keys.read_private_key(path, lambda: read_passphrase(passphrase_file, what=key)).public


def existing(key: str) -> Path:
    """The key file of that name. Raises UsageError (`no-such-key`)."""
    path = Path(key)
    if not path.is_file():
        raise UsageError(
            "no-such-key",
            "there is no such key file",
            where=key,
            expected="a key file, or pkcs11:token=...;object=... for a key on a token",
            hint="`sealift keys generate -o release.key` makes one",
        )
    return path


def default_module() -> str:
    """The PKCS#11 module for URIs that name none; empty without one."""
    return os.environ.get(MODULE_VARIABLE, "")


def pin_reader(pin_source: str, pin_file: Path | None) -> Callable[[str], str]:
    """How a PIN is found when it is needed: `--pin-file`, `pin-source` of the URI, environment, prompt."""
    file = pin_file or (Path(pin_source) if pin_source else None)

    def read(what: str) -> str:
        hide_memory()
        if file is not None:
            return _from_file(file)
        if PIN_VARIABLE in os.environ:
            return _not_empty(os.environ[PIN_VARIABLE], PIN_VARIABLE)
        if not sys.stdin.isatty():
            raise UsageError(
                "no-pin",
                "a PIN is needed and there is no terminal to ask on",
                where=what,
                hint=f"name a file with --pin-file, or set {PIN_VARIABLE}",
            )
        typed: str = click.prompt(f"PIN for {what}", hide_input=True, err=True)
        return _not_empty(typed, "prompt")

    return read


def _from_file(file: Path) -> str:
    from bundler.trust.keys import refuse_readable_by_others

    refuse_readable_by_others(file)
    return _not_empty(file.read_text("utf-8").rstrip("\r\n"), str(file))


def _not_empty(pin: str, where: str) -> str:
    if not pin:
        raise UsageError("no-pin", "the PIN is empty", where=where, hint="the token's user PIN is meant")
    return pin
