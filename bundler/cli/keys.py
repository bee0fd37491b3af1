"""`sealift keys`: make and show signing keys."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bundler.cli.output import Output, json_option, printable
from bundler.cli.passphrase import passphrase_option, read_passphrase
from bundler.core.report import Report
from bundler.errors import UsageError

if TYPE_CHECKING:
    from bundler.trust.keys import PublicKey

ALGORITHMS = {
    "p256": "ecdsa-p256-sha256",
    "p384": "ecdsa-p384-sha384",
    "ed25519": "ed25519",
    "ml-dsa-65": "ml-dsa-65",
}
_KEY_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.group()
def command() -> None:
    """Make and show signing keys."""


@command.command()
@click.option(
    "-o",
    "--output",
    "out",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Private key file to write; the public key goes beside it, with the suffix .pub.",
)
@click.option(
    "--algorithm",
    type=click.Choice(tuple(ALGORITHMS)),
    default="p256",
    show_default=True,
    help="p256 is the only one that every third-party tool accepts.",
)
@click.option("--owner", default="", help="Person who holds the key; written above the public key.")
@click.option(
    "--insecure-no-passphrase", is_flag=True, help="Write the private key unencrypted (tests, rehearsals)."
)
@passphrase_option
@json_option
def generate(
    out: Path,
    algorithm: str,
    owner: str,
    insecure_no_passphrase: bool,
    passphrase_file: Path | None,
    as_json: bool,
) -> int:
    """Make a key pair: an encrypted private key (mode 0600) and a public one.

    Example: sealift keys generate -o release.key
    """
    from bundler.storage.atomic import write_atomic
    from bundler.trust import keys

    output = Output(as_json)
    public_file = out.with_suffix(".pub")
    _refuse_existing(out, public_file)
    passphrase = None
    if not insecure_no_passphrase:
        passphrase = read_passphrase(passphrase_file, what=str(out), confirm=True)
    key = keys.generate(ALGORITHMS[algorithm])
    write_atomic(out, key.to_pem(passphrase), mode=0o600)
    write_atomic(public_file, (keys.owner_line(printable(owner)) + key.public.pem).encode())
    output.say(f"private key  {out}")
    output.say(f"public key   {public_file}")
    _say_key(output, key.public)
    data = {"privateKey": str(out), "publicKey": str(public_file), **_facts(key.public)}
    return output.emit(Report(verb="keys", data=data))


@command.command()
@click.argument("file", type=_KEY_FILE)
@passphrase_option
@json_option
def show(file: Path, passphrase_file: Path | None, as_json: bool) -> int:
    """Print the public part of a key file: algorithm, fingerprint in groups of four, PEM."""
    output = Output(as_json)
    public = _read(file, passphrase_file)
    _say_key(output, public)
    output.data(public.pem.rstrip("\n"))
    return output.emit(Report(verb="keys", data={**_facts(public), "pem": public.pem}))


@command.command()
@click.argument("file", type=_KEY_FILE)
@passphrase_option
@json_option
def fingerprint(file: Path, passphrase_file: Path | None, as_json: bool) -> int:
    """Print the fingerprint of a key file: SHA-256 of its SubjectPublicKeyInfo."""
    output = Output(as_json)
    public = _read(file, passphrase_file)
    output.data(public.fingerprint)
    return output.emit(Report(verb="keys", data=_facts(public)))


def _read(file: Path, passphrase_file: Path | None) -> PublicKey:
    """The public key in a public or private key file."""
    from bundler.trust import keys

    with file.open("rb") as opened:
        head = opened.read(keys.KEY_FILE_LIMIT)
    if not keys.is_private_pem(head):
        return keys.read_public_key(file)
    return keys.read_private_key(file, lambda: read_passphrase(passphrase_file, what=str(file))).public


def _refuse_existing(*paths: Path) -> None:
    for path in paths:
        if path.exists() or path.is_symlink():
            raise UsageError(
                "output-exists",
                "a key is never overwritten",
                where=str(path),
                expected="a name that is free",
                hint="choose another name with -o",
            )


def _say_key(output: Output, public: PublicKey) -> None:
    from bundler.trust.spki import grouped

    output.say(f"algorithm    {public.algorithm}")
    output.say(f"fingerprint  {grouped(public.fingerprint)}")


def _facts(public: PublicKey) -> dict[str, str]:
    return {"algorithm": public.algorithm, "fingerprint": public.fingerprint}
