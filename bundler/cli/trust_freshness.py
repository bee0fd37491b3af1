"""`sealift trust challenge|answer|respond`: is our policy still the one in force outside?"""

from __future__ import annotations

import secrets
from pathlib import Path

import click

from bundler.cli.output import Output, json_option, printable
from bundler.cli.passphrase import passphrase_option, read_passphrase
from bundler.cli.trust_policy import facts, read_policy, say_policy
from bundler.core.report import Report

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_NEW_FILE = click.Path(path_type=Path, dir_okay=False)
_POLICY = click.option("--policy", required=True, type=_FILE, help="The policy in force on this side.")


@click.command(short_help="Inside: ask whether the policy is still in force.")
@_POLICY
@click.option("-o", "--output", "out", required=True, type=_NEW_FILE, help="Challenge file to write.")
@json_option
def challenge(policy: Path, out: Path, as_json: bool) -> int:
    """Inside: print a fresh nonce for someone of the root role to sign outside.

    Example: sealift trust challenge --policy policy.json -o challenge.json
    """
    from bundler.storage.named_output import require_outputs, write_output
    from bundler.trust.perimeter.freshness import NONCE_BYTES, Challenge
    from bundler.trust.spki import grouped

    require_outputs(out, inputs=[policy])
    parsed = read_policy(policy)
    made = Challenge(
        nonce=secrets.token_hex(NONCE_BYTES), version=parsed.version, policy_sha256=parsed.sha256
    )
    write_output(out, made.to_bytes())
    output = Output(as_json)
    output.data(grouped(made.nonce))
    return output.emit(Report(verb="trust", data={**facts(parsed), "nonce": made.nonce}))


@click.command(short_help="Outside: sign which policy is in force.")
@click.argument("challenge_file", type=_FILE)
@_POLICY
@click.option("-k", "--key", required=True, type=_FILE, help="Private key of an owner of the root role.")
@click.option("-o", "--output", "out", required=True, type=_NEW_FILE, help="Answer file to write.")
@passphrase_option
@json_option
def answer(
    challenge_file: Path, policy: Path, key: Path, out: Path, passphrase_file: Path | None, as_json: bool
) -> int:
    """Outside: sign which policy is in force, together with the nonce of CHALLENGE_FILE.

    Example: sealift trust answer challenge.json --policy policy.json --key alice.key -o answer.sigstore.json
    """
    from bundler.signing.signer import FileSigner
    from bundler.storage.bounded_read import read_named
    from bundler.storage.named_output import require_outputs, write_output
    from bundler.trust.dsse import encode_bundle, pre_authentication_encoding
    from bundler.trust.perimeter.freshness import CHALLENGE_LIMIT, Challenge, freshness_statement

    require_outputs(out, inputs=[challenge_file, policy, key])
    output = Output(as_json)
    parsed = read_policy(policy)
    asked = Challenge.parse(read_named(challenge_file, CHALLENGE_LIMIT), where=str(challenge_file))
    say_policy(output, parsed)
    signer = FileSigner.open(key, lambda: read_passphrase(passphrase_file, what=str(key)))
    payload = freshness_statement(asked, parsed)
    signature = signer.sign(pre_authentication_encoding(payload))
    write_output(out, encode_bundle(payload, signature, hint=signer.public.fingerprint))
    output.data(str(out))
    return output.emit(Report(verb="trust", data={**facts(parsed), "nonce": asked.nonce}))


@click.command(short_help="Inside: check the answer to a challenge.")
@click.argument("challenge_file", type=_FILE)
@click.argument("answer_file", type=_FILE)
@_POLICY
@json_option
def respond(challenge_file: Path, answer_file: Path, policy: Path, as_json: bool) -> int:
    """Inside: check the answer to a challenge. Says when a newer policy was withheld.

    Example: sealift trust respond challenge.json answer.sigstore.json --policy policy.json
    """
    from bundler.core.strict_json import ATTESTATION_LIMIT
    from bundler.storage.bounded_read import read_named
    from bundler.trust.dsse import FILE_SUFFIX
    from bundler.trust.keys import verify_signature
    from bundler.trust.perimeter.freshness import CHALLENGE_LIMIT, Challenge, check_answer

    parsed = read_policy(policy)
    asked = Challenge.parse(read_named(challenge_file, CHALLENGE_LIMIT), where=str(challenge_file))
    answered = read_named(answer_file, ATTESTATION_LIMIT)
    # The name of a file that a person gave says nothing: only its bytes do.
    name = answer_file.name.removesuffix(FILE_SUFFIX) + FILE_SUFFIX
    owner = check_answer(asked, parsed, {name: answered}, verify_signature=verify_signature)
    output = Output(as_json)
    output.data(
        f"{printable(owner)} says that this policy was in force outside after the challenge was made."
    )
    return output.emit(Report(verb="trust", data={**facts(parsed), "owner": owner}))
