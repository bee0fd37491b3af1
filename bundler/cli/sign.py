"""`sealift sign`: the release, OMS and provenance attestations of a sealed bundle."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bundler.cli.arguments import BundleFolder
from bundler.cli.output import Output, json_option, printable, verdict_style
from bundler.cli.sealed_bundle import bundle_facts, show_bundle
from bundler.cli.signing_keys import KEY_HELP, opened_signer, secret_options
from bundler.core.printable import groups
from bundler.core.report import Report
from bundler.errors import Finding, UsageError

if TYPE_CHECKING:
    from bundler.signing.attestations import Attestor
    from bundler.signing.release import Signed

KINDS = ("release", "oms", "provenance")
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command(epilog="Example: sealift sign kimi-k2-17 --key release.key")
@click.argument("bundle", type=BundleFolder())
@click.option("-k", "--key", metavar="FILE|PKCS11-URI", help=KEY_HELP)
@click.option(
    "--keyless",
    is_flag=True,
    help="Sign as a person or CI job through Sigstore, without a key. Your identity and the statements' "
    "digests go into its transparency log.",
)
@click.option(
    "--trust-config",
    type=_FILE,
    help="For --keyless: a private Sigstore instance.  [default: the public one]",
)
@click.option(
    "--identity-token-file",
    type=_FILE,
    help="For --keyless: an OIDC token (mode 0600). Else that of the CI job, else a browser.",
)
@click.option(
    "--save-trusted-root",
    type=click.Path(path_type=Path, dir_okay=False),
    help="For --keyless: write the Sigstore root that the policy must pin, to be stored beside it.",
)
@click.option(
    "--statement",
    "kinds",
    multiple=True,
    type=click.Choice(KINDS),
    help="Sign only this statement; may be given several times. All three when left out.",
)
@secret_options
@json_option
def command(
    bundle: Path,
    key: str | None,
    keyless: bool,
    trust_config: Path | None,
    identity_token_file: Path | None,
    save_trusted_root: Path | None,
    kinds: tuple[str, ...],
    passphrase_file: Path | None,
    pin_file: Path | None,
    as_json: bool,
) -> int:
    """Sign a sealed bundle with a key (a file or a token), or keyless through Sigstore.

    Writes attestations/{release,oms,provenance}.sigstore.json into BUNDLE, one signature per file. Signing
    again with the same key or identity changes nothing; another one adds its own files.
    """
    from bundler.signing.release import open_sealed, sign_bundle

    if (key is None) is not keyless:
        raise UsageError("usage", "give either --key or --keyless", hint="`sealift sign --help`")
    output = Output(as_json)
    sealed = open_sealed(bundle)
    show_bundle(output, sealed)
    opened = (
        _keyless(output, trust_config, identity_token_file, save_trusted_root)
        if key is None
        else _with_key(output, key, passphrase_file, pin_file)
    )
    with opened as (attestor, facts):
        signed = sign_bundle(sealed, attestor, kinds or KINDS)
    for path in signed.written:
        output.data(path)
    told = {**facts, "key": groups(facts["key"])} if "key" in facts else facts
    output.say(
        "signed " + " ".join(f"{name} {value}" for name, value in told.items()), **verdict_style("passed")
    )
    output.say("next: carry the bundle in; there, with the perimeter's own policy:")
    output.say(f"  sealift verify {shlex.quote(str(bundle))} --policy POLICY")
    return output.emit(_report(signed, facts))


@contextmanager
def _with_key(
    output: Output, key: str, passphrase_file: Path | None, pin_file: Path | None
) -> Iterator[tuple[Attestor, dict[str, str]]]:
    from bundler.signing.attestations import KeyAttestor

    with opened_signer(key, passphrase_file, pin_file) as signer:
        public = signer.public
        yield KeyAttestor(signer), {"key": public.fingerprint, "algorithm": public.algorithm}


@contextmanager
def _keyless(
    output: Output, trust_config: Path | None, token_file: Path | None, save_trusted_root: Path | None
) -> Iterator[tuple[Attestor, dict[str, str]]]:
    from bundler.cli.bundle_files import read_small
    from bundler.signing import keyless
    from bundler.storage.named_output import require_outputs, write_output
    from bundler.storage.secret_memory import hide_memory
    from bundler.trust.keys import refuse_readable_by_others

    hide_memory()
    require_outputs(save_trusted_root, inputs=[trust_config, token_file], replace=True)
    text = None
    if token_file is not None:
        refuse_readable_by_others(token_file)
        text = read_small(token_file, keyless.TOKEN_LIMIT).decode("ascii", "replace").strip()
    if trust_config is None:
        instance = keyless.SigstoreInstance.public()
    else:
        data = read_small(trust_config, keyless.TRUST_CONFIG_LIMIT)
        instance = keyless.SigstoreInstance.of_file(data, where=str(trust_config))
    token = keyless.identity_token(instance, text, may_ask=sys.stdin.isatty())
    with keyless.keyless_attestor(instance, token) as attestor:
        identity = attestor.identity
        output.say(f"identity  {printable(identity.san)}, as {printable(identity.issuer)} says")
        output.say(f"root      sha256:{instance.trusted_root_sha256}  (sigstore.trusted_root of the policy)")
        facts = {"identity": identity.san, "issuer": identity.issuer}
        yield attestor, {**facts, "trustedRoot": instance.trusted_root_sha256}
    if save_trusted_root is not None:
        write_output(save_trusted_root, instance.trusted_root, replace=True)


def _report(signed: Signed, facts: dict[str, str]) -> Report:
    findings = tuple(
        Finding(
            "no-lock",
            f"no {kind} statement was written: the manifest names no lock",
            where="manifest.json: lock",
            severity="warning",
        )
        for kind in signed.left_out
    )
    return Report(
        verb="sign",
        findings=findings,
        data={
            **bundle_facts(signed.bundle),
            **facts,
            "written": list(signed.written),
            "kept": list(signed.kept),
        },
    )
