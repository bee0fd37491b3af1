"""`sealift keys`: make and show signing keys."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bundler.cli.output import Output, json_option
from bundler.cli.passphrase import read_passphrase
from bundler.cli.signing_keys import default_module, pin_reader, public_key_of, secret_options
from bundler.core.names.people import owner_fault
from bundler.core.report import Report
from bundler.errors import UsageError
from bundler.storage.named_output import require_outputs, write_output

if TYPE_CHECKING:
    from bundler.trust.keys import PublicKey

ALGORITHMS = {
    "p256": "ecdsa-p256-sha256",
    "p384": "ecdsa-p384-sha384",
    "ed25519": "ed25519",
    "ml-dsa-65": "ml-dsa-65",
}
_OWNER_HELP = "Person who holds the key; written above the public key."
_NEVER = "a key is never overwritten: choose another name with -o"


def _checked_owner(_ctx: click.Context, _parameter: click.Parameter, owner: str) -> str:
    """The name as typed. Raises UsageError (`bad-owner`) for one that prints as somebody else."""
    fault = owner_fault(owner) if owner else ""
    if fault:
        raise UsageError(
            "bad-owner",
            "the name cannot be that of a key's owner",
            where="--owner",
            expected="letters of one alphabet in each word, nothing invisible",
            found=fault,
            hint='type the name again by hand: --owner "Ann Abel"',
        )
    return owner


_owner_option = click.option("--owner", default="", callback=_checked_owner, help=_OWNER_HELP)


@click.group()
def command() -> None:
    """Make and show signing keys."""


@command.command()
@click.option(
    "-k",
    "--key",
    "token",
    default="",
    metavar="PKCS11-URI",
    help="Make the key inside a token, where it stays: 'pkcs11:token=T;object=NAME'.",
)
@click.option(
    "-o",
    "--output",
    "out",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Private key file to write; the public key goes beside it, with the suffix .pub. "
    "With --key: the public key file.",
)
@click.option(
    "--algorithm",
    type=click.Choice(tuple(ALGORITHMS)),
    default="p256",
    show_default=True,
    help="p256 is the only one that every third-party tool accepts.",
)
@_owner_option
@click.option(
    "--insecure-no-passphrase", is_flag=True, help="Write the private key unencrypted (tests, rehearsals)."
)
@secret_options
@json_option
def generate(
    token: str,
    out: Path,
    algorithm: str,
    owner: str,
    insecure_no_passphrase: bool,
    passphrase_file: Path | None,
    pin_file: Path | None,
    as_json: bool,
) -> int:
    """Make a key pair: an encrypted private key (mode 0600) and a public one.

    Where an interrupted run left the private key alone, the same command keeps it, opens it with the
    passphrase, and writes its public half.

    Example: sealift keys generate -o release.key
    """
    output = Output(as_json)
    if token:
        require_outputs(out, hint=_NEVER)
        public = _generate_in_token(token, ALGORITHMS[algorithm], pin_file)
        _write_public(out, public, owner)
        return _tell(output, public, {"publicKey": str(out)})
    from bundler.trust import keys

    public_file = out.with_suffix(".pub")
    if _lacks_public_half(out, public_file):
        require_outputs(public_file, inputs=[passphrase_file, out], hint=_NEVER)
        public = _opened_again(out, public_file, ALGORITHMS[algorithm], passphrase_file)
        output.say("the private key was there without its public half: it is kept, no new one was made")
    else:
        require_outputs(out, public_file, inputs=[passphrase_file], hint=_NEVER)
        passphrase = None
        if not insecure_no_passphrase:
            passphrase = read_passphrase(passphrase_file, what=str(out), confirm=True)
        key = keys.generate(ALGORITHMS[algorithm])
        write_output(out, key.to_pem(passphrase), mode=0o600)
        public = key.public
    _write_public(public_file, public, owner)
    output.say(f"private key  {out}")
    return _tell(output, public, {"privateKey": str(out), "publicKey": str(public_file)})


@command.command()
@click.argument("key")
@click.option(
    "-o",
    "--output",
    "out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the public key to this file, for a policy.",
)
@_owner_option
@secret_options
@json_option
def show(
    key: str, out: Path | None, owner: str, passphrase_file: Path | None, pin_file: Path | None, as_json: bool
) -> int:
    """Print the public part of KEY: algorithm, fingerprint in groups of four, PEM.

    KEY is a key file or a key on a token: 'pkcs11:token=T;object=NAME'.
    """
    output = Output(as_json)
    if out is not None:
        require_outputs(out, inputs=[Path(key)], hint=_NEVER)
    public = public_key_of(key, passphrase_file, pin_file)
    data = {"pem": public.pem}
    output.lines(public.pem.rstrip("\n"))
    if out is not None:
        _write_public(out, public, owner)
        data["publicKey"] = str(out)
    return _tell(output, public, data)


@command.command()
@click.argument("key")
@secret_options
@json_option
def fingerprint(key: str, passphrase_file: Path | None, pin_file: Path | None, as_json: bool) -> int:
    """Print the fingerprint of KEY, a file or a key on a token: SHA-256 of its SubjectPublicKeyInfo."""
    output = Output(as_json)
    public = public_key_of(key, passphrase_file, pin_file)
    output.data(public.fingerprint)
    return output.emit(Report(verb="keys", data=_facts(public)))


def _lacks_public_half(private: Path, public_file: Path) -> bool:
    """Whether a run that was interrupted left a private key alone."""
    from bundler.storage.bounded_read import read_at_most
    from bundler.trust import keys

    if (
        public_file == private
        or os.path.lexists(public_file)
        or private.is_symlink()
        or not private.is_file()
    ):
        return False
    return keys.is_private_pem(read_at_most(private, keys.KEY_FILE_LIMIT))


def _opened_again(
    private: Path, public_file: Path, algorithm: str, passphrase_file: Path | None
) -> PublicKey:
    """The public half of a key file that the person can open with a passphrase, of the algorithm asked for.

    A key without a passphrase may be anybody's: a person has to say that it is theirs.
    Raises UsageError (`output-exists`) and as `keys.read_private_key`.
    """
    from bundler.trust import keys

    opened: list[bytes] = []

    def passphrase() -> bytes:
        opened.append(read_passphrase(passphrase_file, what=str(private)))
        return opened[0]

    public = keys.read_private_key(private, passphrase).public
    if opened and public.algorithm == algorithm:
        return public
    raise UsageError(
        "output-exists",
        "a private key is there without its public half",
        where=str(private),
        expected=f"a key of {algorithm}, encrypted with your passphrase",
        found=f"a key of {public.algorithm}, {'encrypted' if opened else 'not encrypted'}",
        hint=f"if it is yours: `sealift keys show {shlex.quote(str(private))} -o "
        f"{shlex.quote(str(public_file))}`; else choose another name with -o",
    )


def _generate_in_token(text: str, algorithm: str, pin_file: Path | None) -> PublicKey:
    from bundler.signing import pkcs11
    from bundler.signing.pkcs11_uri import Pkcs11Uri

    uri = Pkcs11Uri.parse(text)
    if algorithm not in pkcs11.ALGORITHMS:
        raise UsageError(
            "algorithm-unsupported",
            "keys of this algorithm are not made inside tokens",
            expected="--algorithm p256 or p384",
            found=algorithm,
        )
    pin = pin_reader(uri.pin_source, pin_file)
    return pkcs11.generate(uri, pin, algorithm=algorithm, module=default_module())


def _write_public(path: Path, public: PublicKey, owner: str) -> None:
    from bundler.trust import keys

    write_output(path, (keys.owner_line(owner) + public.pem).encode())


def _tell(output: Output, public: PublicKey, data: dict[str, str]) -> int:
    """The key for people and for `--json`, after it was made or shown."""
    from bundler.trust.spki import grouped

    if "publicKey" in data:
        output.say(f"public key   {data['publicKey']}")
    output.say(f"algorithm    {public.algorithm}")
    output.say(f"fingerprint  {grouped(public.fingerprint)}")
    return output.emit(Report(verb="keys", data={**data, **_facts(public)}))


def _facts(public: PublicKey) -> dict[str, str]:
    return {"algorithm": public.algorithm, "fingerprint": public.fingerprint}
