"""`sealift attest`: attestations about a bundle: create, sign, import and list them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bundler.cli.arguments import BundleFolder
from bundler.cli.options import DEFAULT_POLICY, TRUSTED_ROOT
from bundler.cli.output import Output, json_option, printable
from bundler.cli.sealed_bundle import bundle_facts, show_bundle
from bundler.cli.signing_keys import KEY_HELP, opened_signer, secret_options
from bundler.core.predicate_types import BY_KIND, BY_URI, PREDICATE_TYPES
from bundler.core.printable import groups
from bundler.core.report import Report
from bundler.errors import ExitCode, Finding, UsageError

if TYPE_CHECKING:
    from bundler.signing.attest import Listed, Written
    from bundler.signing.attestation_import import Trusted
    from bundler.signing.release import SealedBundle

KINDS = tuple(item.kind for item in PREDICATE_TYPES if item.author != "others")
COSIGN_CONFIG = (
    '{"mediaType":"application/vnd.dev.sigstore.signingconfig.v0.2+json","rekorTlogConfig":{},"tsaConfig":{}}'
)
"""What `cosign attest-blob --signing-config` reads when it is to sign with a key and call nobody."""
_BUNDLE = BundleFolder()
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_NEW_FILE = click.Path(path_type=Path, dir_okay=False)
Command = TypeVar("Command", bound=Callable[..., Any])


@click.group()
def command() -> None:
    """Statements of people about a bundle: legal opinion, risk acceptance, approval and others.

    `new` writes the exact statement, `sign` signs it with a key of yours, `import` imports what another
    program signed (cosign with any KMS, openssl), `list` shows what a bundle has.
    """


def _kind_option(*, required: bool) -> Callable[[Command], Command]:
    return click.option(
        "--type", "kind", type=click.Choice(KINDS), required=required, help="What kind of statement it is."
    )


_predicate_option = click.option(
    "--predicate",
    "predicate_file",
    type=_FILE,
    help="What is said: a JSON or YAML file. Needed for every kind that a person speaks; "
    "release, oms and provenance follow from the bundle.",
)
_supersedes_option = click.option(
    "--supersedes",
    type=_FILE,
    multiple=True,
    help="Attestation of the same signer and type about this bundle that is withdrawn; may be repeated.",
)


@command.command()
@click.argument("kind", metavar="TYPE", type=click.Choice(KINDS))
@json_option
def template(kind: str, as_json: bool) -> int:
    """Print a JSON predicate of TYPE to fill in.

    Example: sealift attest template legal-opinion > opinion.json
    """
    output = Output(as_json)
    known = BY_KIND[kind]
    if known.author == "bundle":
        raise UsageError(
            "predicate-not-needed",
            f"a {kind} statement follows from the bundle alone",
            where=known.uri,
            hint=f"`sealift attest new BUNDLE --type {kind} -o statement.json`",
        )
    required = [member.name for member in known.required]
    output.lines(json.dumps(known.template(), indent=2))
    output.say(f"needed: {', '.join(required) or 'nothing'}; leave out of the rest what does not apply")
    output.say(f"then: sealift attest new BUNDLE --type {kind} --predicate FILE -o statement.json")
    data = {"predicateType": known.uri, "required": required, "template": known.template()}
    return output.emit(Report(verb="attest", data=data))


@command.command()
@click.argument("bundle", type=_BUNDLE)
@_kind_option(required=True)
@_predicate_option
@_supersedes_option
@click.option("-o", "--output", "out", required=True, type=_NEW_FILE, help="Statement file to write.")
@click.option(
    "--signed-bytes",
    type=_NEW_FILE,
    help="Also write the bytes a signature must cover (DSSE type and payload), for openssl and the like.",
)
@json_option
def new(
    bundle: Path,
    kind: str,
    predicate_file: Path | None,
    supersedes: tuple[Path, ...],
    out: Path,
    signed_bytes: Path | None,
    as_json: bool,
) -> int:
    """Write the exact statement about BUNDLE that someone is to sign.

    Example: sealift attest new kimi-k2-17 --type legal-opinion --predicate opinion.yaml -o statement.json
    """
    from bundler.signing.release import open_sealed
    from bundler.storage.named_output import require_outputs, write_output
    from bundler.trust.dsse import pre_authentication_encoding

    output = Output(as_json)
    require_outputs(out, signed_bytes, inputs=[predicate_file, *supersedes])
    sealed = open_sealed(bundle)
    payload = _statement(sealed, kind, predicate_file, supersedes)
    show_bundle(output, sealed)
    _show_statement(output, payload, follows=predicate_file is None)
    write_output(out, payload)
    if signed_bytes is not None:
        write_output(signed_bytes, pre_authentication_encoding(payload))
    output.data(str(out))
    _say_how_to_sign(output, bundle, out, signed_bytes)
    data = {**bundle_facts(sealed), "statement": str(out), "says": json.loads(payload)["predicate"]}
    return output.emit(Report(verb="attest", data=data))


@command.command()
@click.argument("target", metavar="BUNDLE|STATEMENT", type=click.Path(path_type=Path, exists=True))
@_kind_option(required=False)
@_predicate_option
@_supersedes_option
@click.option("-k", "--key", required=True, metavar="FILE|PKCS11-URI", help=KEY_HELP)
@click.option(
    "-o", "--output", "out", type=_NEW_FILE, help="For a STATEMENT: the file to write.  [default: beside it]"
)
@secret_options
@json_option
def sign(
    target: Path,
    kind: str | None,
    predicate_file: Path | None,
    supersedes: tuple[Path, ...],
    key: str,
    out: Path | None,
    passphrase_file: Path | None,
    pin_file: Path | None,
    as_json: bool,
) -> int:
    """Sign a statement with a key: straight into a BUNDLE, or a STATEMENT file that was sent to you.

    Example: sealift attest sign kimi-k2-17 --type approval --predicate approval.yaml --key alice.key
    """
    output = Output(as_json)
    if target.is_dir():
        if kind is None or out is not None:
            raise UsageError("usage", "to sign into a bundle, give --type and no -o", where=str(target))
        payload = _spoken(output, target, kind, predicate_file, supersedes)
        return _sign_into(output, *payload, kind, (key, passphrase_file, pin_file))
    if kind is not None or predicate_file is not None or supersedes:
        raise UsageError(
            "usage", "a statement file says all by itself: no --type, no --predicate, no --supersedes"
        )
    return _sign_file(output, target, out, (key, passphrase_file, pin_file))


Secrets = tuple[str, Path | None, Path | None]


def _spoken(
    output: Output, bundle: Path, kind: str, predicate_file: Path | None, supersedes: tuple[Path, ...]
) -> tuple[SealedBundle, bytes]:
    """The bundle and the statement about it, both shown."""
    from bundler.signing.release import open_sealed

    sealed = open_sealed(bundle)
    payload = _statement(sealed, kind, predicate_file, supersedes)
    show_bundle(output, sealed)
    _show_statement(output, payload, follows=predicate_file is None)
    return sealed, payload


def _sign_into(output: Output, sealed: SealedBundle, payload: bytes, kind: str, secrets: Secrets) -> int:
    from bundler.signing.attest import attest
    from bundler.signing.attestations import KeyAttestor

    with opened_signer(*secrets) as signer:
        written = attest(sealed, KeyAttestor(signer), kind, payload)
        output.say(f"signed with {signer.public.algorithm} key {groups(signer.public.fingerprint)}")
    return _tell_written(output, sealed, written, signer.public.fingerprint)


def _sign_file(output: Output, statement: Path, out: Path | None, secrets: Secrets) -> int:
    from bundler.cli.bundle_files import read_small
    from bundler.core.strict_json import ATTESTATION_LIMIT
    from bundler.signing.attest import attestation_file
    from bundler.signing.attestations import KeyAttestor
    from bundler.storage.named_output import require_outputs, write_output
    from bundler.trust.dsse import parse_statement

    payload = read_small(statement, ATTESTATION_LIMIT)
    parsed = parse_statement(payload, where=str(statement))
    place = out or attestation_file(statement)
    require_outputs(place, inputs=[statement])
    for name, digest in parsed.subjects.items():
        output.say(f"about     {printable(name)} sha256:{digest}")
    _show_statement(output, payload)
    with opened_signer(*secrets) as signer:
        write_output(place, KeyAttestor(signer).attest(payload))
        output.say(f"signed with {signer.public.algorithm} key {groups(signer.public.fingerprint)}")
    output.data(str(place))
    output.command(["sealift", "attest", "import", "BUNDLE", str(place), "--public-key", "KEY.pub"])
    data = {"written": [str(place)], "key": signer.public.fingerprint, "subjects": dict(parsed.subjects)}
    return output.emit(Report(verb="attest", data=data))


def _trusted_options(command: Command) -> Command:
    """Who may have signed: one key, or everyone a policy names."""
    options = (
        click.option("--public-key", type=_FILE, help="The signer's public key (PEM)."),
        click.option("--policy", type=_FILE, help="Trust policy that names the signer's key or identity."),
        click.option(
            "--trusted-root",
            type=_FILE,
            help="Sigstore root for keyless signatures.  [default: trusted_root.json beside the policy]",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@command.command("import")
@click.argument("bundle", type=_BUNDLE)
@click.argument("file", type=_FILE)
@click.option(
    "--signature",
    type=_FILE,
    help="FILE is a statement and this its bare signature (raw or base64), made by openssl or any tool "
    "over the bytes of `attest new --signed-bytes`.",
)
@_trusted_options
@json_option
def import_(
    bundle: Path,
    file: Path,
    signature: Path | None,
    public_key: Path | None,
    policy: Path | None,
    trusted_root: Path | None,
    as_json: bool,
) -> int:
    """Check what another program signed about BUNDLE, and take it in.

    FILE must hold exactly one signature over an in-toto statement v1 about this manifest, by the given key
    or by someone the policy names. Unsigned members are set to the strict form; a refusal writes nothing.
    With a key and a policy: warns when the policy does not know the key. Its perimeters then refuse all.

    Example: sealift attest import kimi-k2-17 legal.sigstore.json --public-key legal.pub
    """
    from bundler.cli.bundle_files import read_small
    from bundler.core.strict_json import ATTESTATION_LIMIT
    from bundler.signing.attest import take_in
    from bundler.signing.release import open_sealed

    output = Output(as_json)
    trusted = _trusted(public_key, None if public_key else policy, trusted_root)
    if trusted is None:
        raise UsageError(
            "whose-signature",
            "it is not said whose signature this should be",
            where=str(file),
            expected="--public-key KEY.pub or --policy POLICY",
            hint="the key comes from the signer, never from the file that is to be checked",
        )
    known = _known_keys(policy)
    sealed = open_sealed(bundle)
    data = read_small(file, ATTESTATION_LIMIT)
    _refuse_other_tools(data, file)
    if signature is not None:
        data = _wrapped(data, signature)
    written, accepted = take_in(sealed, data, trusted, where=str(file))
    show_bundle(output, sealed)
    said = written.statement
    kind = BY_URI.get(said.predicate_type)
    # What follows from the bundle was compared with it; a bill of materials has thousands of lines.
    _show_says(
        output, said.predicate_type, said.predicate, short=kind is not None and kind.author != "person"
    )
    if accepted.rewritten:
        output.say("unsigned members of the file were set to the strict form; what is signed is unchanged")
    identity = accepted.attestation.identity
    signer = identity.owner if identity else accepted.attestation.key
    warnings = _unknown_to_policy(signer, *known, where=written.path) if public_key else ()
    return _tell_written(output, sealed, written, signer, warnings)


@command.command("list")
@click.argument("bundle", type=_BUNDLE)
@_trusted_options
@json_option
def list_(
    bundle: Path, public_key: Path | None, policy: Path | None, trusted_root: Path | None, as_json: bool
) -> int:
    """Show the attestations of BUNDLE. Signatures are checked only with --policy or --public-key."""
    from bundler.signing.attest import list_attestations
    from bundler.signing.release import open_sealed

    output = Output(as_json)
    sealed = open_sealed(bundle)
    trusted = _trusted(public_key, policy, trusted_root)
    show_bundle(output, sealed)
    listed = list_attestations(sealed, trusted)
    for item in listed:
        output.data(_line(item, checked=trusted is not None))
    if trusted is None and listed:
        output.say("signatures were not checked: name a --policy or a --public-key")
    data = {**bundle_facts(sealed), "attestations": [_listed_json(item, trusted) for item in listed]}
    return output.emit(Report(verb="attest", data=data))


def _line(item: Listed, *, checked: bool) -> str:
    by = f"signed by {item.signer}" if item.signer else "NOT AUTHENTIC" if checked else "not checked"
    says = " ".join(f"{name}={json.dumps(value)}" for name, value in sorted(item.says.items()))
    fault = f"  FAULT: {item.fault}" if item.fault else ""
    return printable(f"{item.name}  {item.predicate_type or '?'}  {by}  {says}{fault}")


def _listed_json(item: Listed, trusted: Trusted | None) -> dict[str, Any]:
    return {
        "name": item.name,
        "kind": item.kind,
        "predicateType": item.predicate_type,
        "signer": item.signer or None,
        "checked": trusted is not None,
        "fault": item.fault,
        "says": dict(item.says),
    }


def _statement(
    bundle: SealedBundle, kind: str, predicate_file: Path | None, supersedes: tuple[Path, ...]
) -> bytes:
    from bundler.cli.bundle_files import read_small
    from bundler.core.strict_json import ATTESTATION_LIMIT
    from bundler.signing.attest import PREDICATE_LIMIT, new_statement, read_predicate

    withdrawn = [(str(path), read_small(path, ATTESTATION_LIMIT)) for path in supersedes]
    if predicate_file is None:
        return new_statement(bundle, kind, None, supersedes=withdrawn)
    where = str(predicate_file)
    predicate = read_predicate(read_small(predicate_file, PREDICATE_LIMIT), where=where)
    return new_statement(bundle, kind, predicate, where=where, supersedes=withdrawn)


def _trusted(public_key: Path | None, policy: Path | None, trusted_root: Path | None) -> Trusted | None:
    """Whose signatures are known, or None. Raises UsageError when two sources are given."""
    from bundler.core.strict_json import POLICY_LIMIT
    from bundler.signing.attestation_import import Trusted
    from bundler.trust.keys import read_public_key
    from bundler.trust.policy_document import TrustPolicy

    if public_key is not None and policy is not None:
        raise UsageError("usage", "give either --public-key or --policy")
    if public_key is not None:
        return Trusted.one(read_public_key(public_key))
    if policy is None:
        return None
    with policy.open("rb") as file:
        parsed = TrustPolicy.parse(file.read(POLICY_LIMIT + 1), where=str(policy))
    return Trusted.of_policy(parsed, _keyless(parsed, trusted_root or policy.parent / TRUSTED_ROOT))


def _keyless(policy: Any, trusted_root: Path) -> Any:
    if policy.trusted_root_sha256 is None or not trusted_root.is_file():
        return None
    from bundler.cli.bundle_files import read_small
    from bundler.trust.keyless import TRUSTED_ROOT_LIMIT, OfflineKeylessVerifier

    data = read_small(trusted_root, TRUSTED_ROOT_LIMIT)
    return OfflineKeylessVerifier(data, policy.trusted_root_sha256, where=str(trusted_root))


def _wrapped(statement: bytes, signature: Path) -> bytes:
    """A statement with its bare signature as a bundle."""
    from bundler.cli.bundle_files import read_small
    from bundler.signing.attestation_import import from_raw_signature, raw_signature
    from bundler.trust.dsse import MAX_SIGNATURE_BYTES

    raw = raw_signature(read_small(signature, 2 * MAX_SIGNATURE_BYTES), where=str(signature))
    return from_raw_signature(statement, raw)


def _refuse_other_tools(data: bytes, file: Path) -> None:
    """SSH and PGP signatures cover other bytes than a DSSE envelope: docs/decisions/0004."""
    from bundler.signing.attestation_import import refuse_foreign_signature

    refuse_foreign_signature(data, where=str(file))


def _show_statement(output: Output, payload: bytes, *, follows: bool = False) -> None:
    """Show all of a statement; of one that `follows` from the bundle, how long its lists are."""
    value = json.loads(payload)
    _show_says(output, value["predicateType"], value.get("predicate", {}), short=follows)


def _show_says(
    output: Output, predicate_type: str, predicate: Mapping[str, Any], *, short: bool = False
) -> None:
    """Every member of a predicate on a line of its own; with `short`, lists and objects by their length."""
    from bundler.signing.attest import members

    output.say(f"type      {printable(predicate_type)}")
    for name, value in sorted(predicate.items()) if short else members(predicate):
        is_long = short and isinstance(value, (dict, list))
        shown = f"{len(value)} members" if is_long else json.dumps(value, ensure_ascii=False)
        output.say(f"says      {printable(name)}: {printable(shown)}")


def _say_how_to_sign(output: Output, bundle: Path, out: Path, signed_bytes: Path | None) -> None:
    statement = shlex.quote(str(out))
    output.say("sign exactly this file, for example:")
    output.say(f"  sealift attest sign {statement} --key KEY")
    output.say(
        f"  cosign attest-blob --key KEY --statement {statement} --signing-config CONFIG --bundle FILE"
    )
    output.say(f"    (CONFIG, for a signature without services: {COSIGN_CONFIG})")
    if signed_bytes is not None:
        output.say(f"  openssl dgst -sha256 -sign KEY -out FILE.sig {shlex.quote(str(signed_bytes))}")
    output.say(f"then: sealift attest import {shlex.quote(str(bundle))} FILE --public-key KEY.pub")


def _known_keys(policy: Path | None) -> tuple[Path | None, frozenset[str]]:
    """The policy, that of this host by default, and the fingerprints in it."""
    from bundler.cli.bundle_files import read_small
    from bundler.core.strict_json import POLICY_LIMIT
    from bundler.trust.policy_document import TrustPolicy

    path = policy or (DEFAULT_POLICY if DEFAULT_POLICY.is_file() else None)
    if path is None:
        return None, frozenset()
    return path, frozenset(TrustPolicy.parse(read_small(path, POLICY_LIMIT), where=str(path)).keys)


def _unknown_to_policy(
    key: str, path: Path | None, keys: frozenset[str], *, where: str
) -> tuple[Finding, ...]:
    """A warning unless the policy at `path` lists the key with this fingerprint."""
    if key in keys:
        return ()
    what = "the policy does not know this signer" if path else "no policy says whether it knows this signer"
    return (
        Finding(
            "unknown-signer",
            f"{what}: perimeters whose policy does not name the key refuse the whole bundle",
            where=where,
            expected=f"a key listed in {path or 'the policy of the perimeter'}",
            found=f"key {key}",
            hint="propose a policy with this key (`sealift trust propose`), or remove the file again"
            if path
            else "run the same command with --policy POLICY",
            severity="warning",
            exit_code=ExitCode.AUTHENTICITY,
        ),
    )


def _tell_written(
    output: Output, bundle: SealedBundle, written: Written, signer: str, warnings: tuple[Finding, ...] = ()
) -> int:
    if written.kept:
        output.say("the same signer already said the same: nothing was changed")
    output.data(written.path)
    data = {
        **bundle_facts(bundle),
        "written": [] if written.kept else [written.path],
        "kept": [written.path] if written.kept else [],
        "predicateType": written.statement.predicate_type,
        "signer": signer,
    }
    return output.emit(Report(verb="attest", data=data, findings=warnings))
