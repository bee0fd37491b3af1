"""`sealift trust`: make, read and replace trust policies."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bundler.cli.output import Output, json_option
from bundler.cli.trust_options import TRUSTED_ROOT
from bundler.core.report import Report
from bundler.errors import MalformedError, UsageError

if TYPE_CHECKING:
    from bundler.trust.first_policy import Holder
    from bundler.trust.policy_document import TrustPolicy
    from bundler.trust.rotation import RotationResult

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_NEW_FILE = click.Path(path_type=Path, dir_okay=False)
_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.group()
def command() -> None:
    """Make and read trust policies: who may say what about a bundle."""


@command.command()
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
    from bundler.storage.atomic import write_atomic
    from bundler.trust.first_policy import compose_policy
    from bundler.trust.policy_document import TrustPolicy

    if out.exists():
        raise UsageError(
            "output-exists",
            "a policy is never overwritten",
            where=str(out),
            hint="choose another name with -o; to change a policy: `sealift trust apply`",
        )
    named = [("root", item) for item in roots] + [("release", item) for item in releases]
    named += [_pair(item, "NAME=KEY.pub") for item in others]
    pairs = [_pair(item, "ROLE=N") for item in thresholds]
    data = compose_policy(
        [_holder(role, item) for role, item in named],
        thresholds={role: _count(role, text) for role, text in pairs},
        note=note,
    )
    policy = TrustPolicy.parse(data, where=str(out))
    write_atomic(out, data)
    output = Output(as_json)
    _say_policy(output, policy, _digest(data))
    return output.emit(Report(verb="trust", data=_facts(policy, data)))


@command.command()
@click.argument("policy", type=_FILE)
@json_option
def show(policy: Path, as_json: bool) -> int:
    """Print who may say what, in sentences, with fingerprints in groups of four for reading aloud."""
    from bundler.trust.first_policy import sentences

    data, parsed = _read_policy(policy)
    output = Output(as_json)
    _say_policy(output, parsed, _digest(data))
    return output.emit(Report(verb="trust", data={**_facts(parsed, data), "sentences": [*sentences(parsed)]}))


@command.command()
@click.argument("new_policy", type=_FILE)
@click.option(
    "--approvals",
    required=True,
    type=_FOLDER,
    help="Folder with the approvals (*.sigstore.json) of the policy.",
)
@click.option(
    "--policy", "current", required=True, type=_FILE, help="The policy in force; replaced when all is well."
)
@click.option("--state", type=_FILE, help="State file to check against and to advance.")
@click.option("--dry-run", is_flag=True, help="Only say whether the new policy may follow.")
@json_option
def apply(
    new_policy: Path,
    approvals: Path,
    current: Path,
    state: Path | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Replace the policy in force by its successor.

    The new policy must be the next version, name the digest of the current one, be approved by the root
    threshold of the current and of the new policy, and keep all revocations and floors. Otherwise nothing
    is changed.

    Example: sealift trust apply 4.policy.json --approvals approvals --policy /etc/sealift/trust/policy.json
    """
    from bundler.trust.keys import verify_signature
    from bundler.trust.rotation import check_rotation
    from bundler.trust.state_files import StateFiles

    old_data, old = _read_policy(current)
    new_data, new = _read_policy(new_policy)
    files = StateFiles.of(state) if state is not None else None
    opened = files.open(_digest(old_data)) if files is not None else None
    stale = opened.state.policy_findings(old, _digest(old_data)) if opened is not None else ()
    result = check_rotation(
        old,
        _digest(old_data),
        new,
        _digest(new_data),
        _read_approvals(approvals),
        verify_signature=verify_signature,
        verify_keyless=_keyless(old, current.parent / TRUSTED_ROOT),
    )
    passed = result.passed and not stale
    if passed and not dry_run:
        _replace(current, old_data, new_data)
        if files is not None and opened is not None:
            files.write(opened, opened.state.advanced(new, _digest(new_data)))
    return _tell(Output(as_json), result, stale, new, new_data, passed and not dry_run)


def _tell(
    output: Output,
    result: RotationResult,
    stale: tuple[Any, ...],
    new: TrustPolicy,
    data: bytes,
    applied: bool,
) -> int:
    findings = (*stale, *result.findings)
    for outcome in result.approvals:
        counted = ", ".join(outcome.counted) or "nobody"
        output.say(f"root of the {outcome.policy} policy: {counted} ({outcome.threshold} needed)")
    if applied:
        _say_policy(output, new, _digest(data))
    return output.emit(
        Report(
            verb="trust",
            verdict="passed" if result.passed and not stale else "failed",
            exit_code=stale[0].exit_code if stale else result.exit_code,
            findings=findings,
            data={
                **_facts(new, data),
                "approvals": [outcome.to_json() for outcome in result.approvals],
                "applied": applied,
            },
        )
    )


def _replace(path: Path, expected: bytes, data: bytes) -> None:
    """Put `data` in the place of the policy that was checked, with its mode, unless it changed meanwhile."""
    from bundler.errors import MachineError
    from bundler.storage.atomic import write_atomic

    target = path.resolve()
    if target.read_bytes() != expected:
        raise MachineError(
            "policy-changed",
            "the policy in force changed meanwhile",
            where=str(path),
            hint="run the same command again",
        )
    write_atomic(target, data, mode=target.stat().st_mode & 0o777)


def _keyless(policy: TrustPolicy, trusted_root: Path) -> Any:
    if policy.trusted_root_sha256 is None or not trusted_root.is_file():
        return None
    from bundler.trust.keyless import OfflineKeylessVerifier

    return OfflineKeylessVerifier(
        trusted_root.read_bytes(), policy.trusted_root_sha256, where=str(trusted_root)
    )


def _read_approvals(folder: Path) -> dict[str, bytes]:
    """The approvals in a folder by name; other files may lie beside them, and are not read."""
    from bundler.core.strict_json import ATTESTATION_LIMIT
    from bundler.trust.dsse import FILE_SUFFIX

    found: dict[str, bytes] = {}
    for path in sorted(folder.iterdir()):
        if path.name.endswith(FILE_SUFFIX) and path.is_file():
            with path.open("rb") as file:
                found[path.name] = file.read(ATTESTATION_LIMIT + 1)
    return found


def _read_policy(path: Path) -> tuple[bytes, TrustPolicy]:
    from bundler.core.strict_json import POLICY_LIMIT
    from bundler.trust.policy_document import TrustPolicy

    with path.open("rb") as file:
        data = file.read(POLICY_LIMIT + 1)
    return data, TrustPolicy.parse(data, where=str(path))


def _holder(role: str, text: str) -> Holder:
    """A key file with, after the last colon, its owner."""
    from bundler.trust.first_policy import Holder
    from bundler.trust.keys import declared_owner, is_private_pem, parse_public_key

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
    data = path.read_bytes()
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


def _count(role: str, text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise UsageError(
            "usage", "a threshold is a number of people", where=role, expected="1 or more", found=text
        )
    return int(text)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _say_policy(output: Output, policy: TrustPolicy, digest: str) -> None:
    from bundler.trust.first_policy import sentences
    from bundler.trust.spki import grouped

    for sentence in sentences(policy):
        output.data(sentence)
    output.data(f"Digest of this policy: {grouped(digest)}")


def _facts(policy: TrustPolicy, data: bytes) -> dict[str, Any]:
    return {"policy": {"version": policy.version, "sha256": _digest(data)}}
