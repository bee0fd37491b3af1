"""`sealift sign`: the release, OMS and provenance attestations of a sealed bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bundler.cli.output import Output, json_option
from bundler.cli.passphrase import passphrase_option, read_passphrase
from bundler.core.report import Report
from bundler.core.units import format_bytes
from bundler.errors import Finding

if TYPE_CHECKING:
    from bundler.assembly.sign import SealedBundle, Signed

KINDS = ("release", "oms", "provenance")


@click.command(epilog="Example: sealift sign kimi-k2-17 --key release.key")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "-k",
    "--key",
    required=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Private key file, as `sealift keys generate` writes it.",
)
@click.option(
    "--statement",
    "kinds",
    multiple=True,
    type=click.Choice(KINDS),
    help="Sign only this statement; may be given several times. All three when left out.",
)
@passphrase_option
@json_option
def command(
    bundle: Path, key: Path, kinds: tuple[str, ...], passphrase_file: Path | None, as_json: bool
) -> int:
    """Sign a sealed bundle with a key.

    Writes attestations/{release,oms,provenance}.sigstore.json into BUNDLE, one signature per file. Signing
    again with the same key changes nothing; another key adds its own files.
    """
    from bundler.assembly.sign import open_sealed, sign_bundle
    from bundler.trust.signers import FileSigner

    output = Output(as_json)
    sealed = open_sealed(bundle)
    _show(output, sealed)
    signer = FileSigner.open(key, lambda: read_passphrase(passphrase_file, what=str(key)))
    signed = sign_bundle(sealed, signer, kinds or KINDS)
    for path in signed.written:
        output.data(path)
    output.say(f"signed with {signer.public.algorithm} key {signer.public.fingerprint}")
    return output.emit(_report(signed, signer.public.fingerprint))


def _show(output: Output, bundle: SealedBundle) -> None:
    """What is about to be signed, in plain text, before the key is touched."""
    manifest = bundle.manifest
    output.say(f"channel   {manifest.channel}")
    output.say(f"serial    {manifest.serial}")
    output.say(f"files     {len(manifest.files)}, {format_bytes(manifest.total_bytes)}")
    output.say(f"manifest  sha256:{bundle.manifest_sha256}")


def _report(signed: Signed, fingerprint: str) -> Report:
    findings = tuple(
        Finding(
            "no-lock",
            f"no {kind} statement was written: the manifest names no lock",
            where="manifest.json: lock",
            severity="warning",
        )
        for kind in signed.left_out
    )
    bundle = signed.bundle
    return Report(
        verb="sign",
        findings=findings,
        data={
            "manifest": {"sha256": bundle.manifest_sha256, "serial": bundle.manifest.serial},
            "channel": bundle.manifest.channel,
            "key": fingerprint,
            "written": list(signed.written),
            "kept": list(signed.kept),
        },
    )
