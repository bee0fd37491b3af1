"""`sealift trust init|show`: write a first policy, read one aloud; what the other trust verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bundler.cli.output import Output, json_option, printable
from bundler.core.report import Report
from bundler.errors import MalformedError, UsageError

if TYPE_CHECKING:
    from bundler.trust.perimeter.first_policy import Holder
    from bundler.trust.policy_document import TrustPolicy

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_NEW_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(short_help="Write a first policy from public keys.")
@click.option(
    "--root",
    "roots",
    multiple=True,
    required=True,
    metavar="KEY.pub[:OWNER]",
    help="Public key of someone who may change the policy; several times for several people.",
)
@click.option(
    "--release",
    "releases",
    multiple=True,
    required=True,
    metavar="KEY.pub[:OWNER]",
    help="Public key of someone who may release bundles.",
)
@click.option(
    "--role", "others", multiple=True, metavar="NAME=KEY.pub[:OWNER]", help="Public key for another role."
)
@click.option(
    "--threshold",
    "thresholds",
    multiple=True,
    metavar="ROLE=N",
    help="Distinct people needed: a majority for root and one for others when left out.",
)
@click.option("--note", default="", help="A remark for readers of the policy.")
@click.option("-o", "--output", "out", required=True, type=_NEW_FILE, help="Policy file to write.")
@json_option
def init(
    roots: tuple[str, ...],
    releases: tuple[str, ...],
    others: tuple[str, ...],
    thresholds: tuple[str, ...],
    note: str,
    out: Path,
    as_json: bool,
) -> int:
    """Write a first policy from public keys.

    A bundle then needs the release, OMS and provenance statements of the release role. OWNER is the person
    who holds the key: what the key file says, or else the file's name. Keep the printed digest on paper.

    Example: sealift trust init --root alice.pub --root bob.pub --release release.pub:carol -o policy.json
    """
    from bundler.storage.named_output import require_outputs, write_output
    from bundler.trust.perimeter.first_policy import compose_policy, policy_warnings
    from bundler.trust.policy_document import TrustPolicy

    require_outputs(out, hint="choose another name with -o; to change a policy: `sealift trust apply`")
    named = [("root", item) for item in roots] + [("release", item) for item in releases]
    named += [_pair(item, "NAME=KEY.pub") for item in others]
    data = compose_policy(
        [_holder(role, item) for role, item in named], thresholds=_thresholds(thresholds), note=note
    )
    policy = TrustPolicy.parse(data, where=str(out))
    write_output(out, data)
    output = Output(as_json)
    say_policy(output, policy)
    return output.emit(Report(verb="trust", findings=policy_warnings(policy), data=facts(policy)))


@click.command(short_help="Print who may say what, in sentences.")
@click.argument("policy", type=_FILE)
@json_option
def show(policy: Path, as_json: bool) -> int:
    """Print who may say what, in sentences, with fingerprints in groups of four for reading aloud."""
    from bundler.trust.perimeter.first_policy import sentences

    parsed = read_policy(policy)
    output = Output(as_json)
    say_policy(output, parsed)
    return output.emit(Report(verb="trust", data={**facts(parsed), "sentences": [*sentences(parsed)]}))


def read_policy(path: Path) -> TrustPolicy:
    """The policy in a file that a person named."""
    return read_policy_file(path)[1]


def read_policy_file(path: Path) -> tuple[bytes, TrustPolicy]:
    """A policy file's bytes and what they say. Raises MalformedError."""
    from bundler.core.strict_json import POLICY_LIMIT
    from bundler.storage.bounded_read import read_named
    from bundler.trust.policy_document import TrustPolicy

    data = read_named(path, POLICY_LIMIT)
    return data, TrustPolicy.parse(data, where=str(path))


def _holder(role: str, text: str) -> Holder:
    """A key file with, after the last colon, its owner."""
    from bundler.storage.bounded_read import read_named
    from bundler.trust.keys import KEY_FILE_LIMIT, declared_owner, is_private_pem, parse_public_key
    from bundler.trust.perimeter.first_policy import Holder

    name, _, owner = text.rpartition(":") if not Path(text).exists() and ":" in text else (text, "", "")
    path = Path(name)
    if not path.is_file():
        raise UsageError(
            "no-such-key",
            "there is no such key file",
            where=text,
            expected="KEY.pub or KEY.pub:OWNER",
            hint="`sealift keys generate -o release.key` writes release.key and release.pub",
        )
    data = read_named(path, KEY_FILE_LIMIT)
    if is_private_pem(data):
        raise MalformedError(
            "bad-key",
            "a policy is made from public keys",
            where=str(path),
            expected="a public key",
            found="a private key",
            hint=f"`sealift keys show {path}` prints the public part",
        )
    key = parse_public_key(data, where=str(path))
    return Holder(role=role, key=key, owner=owner or declared_owner(data) or path.stem)


def _pair(text: str, form: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise UsageError("usage", "an option cannot be read", expected=form, found=text)
    return name, value


def _thresholds(texts: tuple[str, ...]) -> dict[str, int]:
    found: dict[str, int] = {}
    for text in texts:
        role, number = _pair(text, "ROLE=N")
        if role in found:
            raise UsageError("usage", "a role has two thresholds", where=role, expected="one", found=text)
        found[role] = _count(role, number)
    return found


def _count(role: str, text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise UsageError(
            "usage", "a threshold is a number of people", where=role, expected="1 or more", found=text
        )
    return int(text)


def say_policy(output: Output, policy: TrustPolicy) -> None:
    """The policy's sentences and its digest, on stdout."""
    from bundler.trust.perimeter.first_policy import sentences
    from bundler.trust.spki import grouped

    for sentence in sentences(policy):
        output.data(printable(sentence))
    output.data(f"Digest of this policy: {grouped(policy.sha256)}")


def facts(policy: TrustPolicy) -> dict[str, Any]:
    """Version and digest of a policy, for `--json`."""
    return {"policy": {"version": policy.version, "sha256": policy.sha256}}
