"""`sealift trust propose|approve|apply`: from one policy to the next."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bundler.cli.options import DEFAULT_POLICY, TRUSTED_ROOT
from bundler.cli.output import Output, json_option, printable
from bundler.cli.passphrase import passphrase_option, read_passphrase
from bundler.cli.trust_policy import facts, read_policy_file, say_policy
from bundler.core.report import Report
from bundler.errors import AuthenticityError, ExitCode, Finding, UsageError, gravest_code

if TYPE_CHECKING:
    from bundler.trust.perimeter.policy_update import PolicyUpdate
    from bundler.trust.policy_document import TrustPolicy

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_NEW_FILE = click.Path(path_type=Path, dir_okay=False)
_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command(short_help="Make the next policy from an edited copy.")
@click.argument("draft", type=_FILE)
@click.option("--policy", "current", required=True, type=_FILE, help="The policy in force.")
@click.option("-o", "--output", "out", required=True, type=_NEW_FILE, help="File to write: N.policy.json.")
@json_option
def propose(draft: Path, current: Path, out: Path, as_json: bool) -> int:
    """Make the next policy from DRAFT, an edited copy of the one in force.

    Sets the version and the digest of the policy in force, and refuses a draft that takes back a
    revocation or lowers a floor. The result has to be approved before it counts.

    Example: sealift trust propose draft.json --policy policy.json -o 4.policy.json
    """
    from bundler.core import strict_json
    from bundler.storage.bounded_read import read_named
    from bundler.storage.named_output import require_outputs, write_output
    from bundler.trust.perimeter.first_policy import policy_warnings
    from bundler.trust.perimeter.rotation import chain_findings
    from bundler.trust.policy_document import TrustPolicy

    require_outputs(out, inputs=[draft, current])
    old_data, old = read_policy_file(current)
    draft_bytes = read_named(draft, strict_json.POLICY_LIMIT)
    value = strict_json.loads(draft_bytes, limit=strict_json.POLICY_LIMIT, where=str(draft))
    if isinstance(value, dict):
        value.update(version=old.version + 1, previous={"sha256": old.sha256})
    data = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"
    new = TrustPolicy.parse(data, where=str(draft))
    findings = tuple(chain_findings(old, new))
    if findings:
        raise AuthenticityError.of(findings)
    write_output(out, data)
    output = Output(as_json)
    say_policy(output, new)
    changed = say_changes(output, old_data, data)
    report = Report(verb="trust", findings=policy_warnings(new), data={**facts(new), "changes": changed})
    return output.emit(report)


def say_changes(output: Output, old: bytes, new: bytes) -> list[str]:
    """What changes against the version before, one line for each member, on stdout."""
    from bundler.trust.perimeter.policy_changes import changes

    lines = changes(old, new)
    output.data("Changes against the version before:" if lines else "Nothing changes but the version.")
    for line in lines:
        output.data(f"  {printable(line)}")
    return lines


@click.command(short_help="Sign the approval of a proposed policy.")
@click.argument("new_policy", type=_FILE)
@click.option("-k", "--key", required=True, type=_FILE, help="Private key of an owner of the root role.")
@click.option("-o", "--output", "folder", required=True, type=_FOLDER, help="Folder for the approval.")
@click.option(
    "--policy",
    "current",
    type=_FILE,
    help="The policy in force, to compare with.  [default: that of this host, if there is one]",
)
@passphrase_option
@json_option
def approve(
    new_policy: Path,
    key: Path,
    folder: Path,
    current: Path | None,
    passphrase_file: Path | None,
    as_json: bool,
) -> int:
    """Sign the approval of a proposed policy, after reading what it says.

    Prints the policy in sentences, what changes against the version before, and its digest. Compare the
    digest with the other owners, by voice, before you type the passphrase.

    Example: sealift trust approve 4.policy.json --policy policy.json --key alice.key -o approvals
    """
    from bundler.signing.signer import FileSigner
    from bundler.storage.named_output import require_outputs, write_output
    from bundler.trust.dsse import FILE_SUFFIX, encode_bundle, pre_authentication_encoding
    from bundler.trust.statements import approval_statement

    output = Output(as_json)
    data, policy = read_policy_file(new_policy)
    say_policy(output, policy)
    old, changed = _compared(output, policy, data, current)
    signer = FileSigner.open(key, lambda: read_passphrase(passphrase_file, what=str(key)))
    fingerprint = signer.public.fingerprint
    findings = _outside_root(fingerprint, policy, old, key)
    path = folder / f"{policy.version}.approval.{fingerprint[:8]}{FILE_SUFFIX}"
    require_outputs(path)
    payload = approval_statement(new_policy.name, policy)
    signature = signer.sign(pre_authentication_encoding(payload))
    write_output(path, encode_bundle(payload, signature, hint=fingerprint))
    output.data(str(path))
    facts_of_it = {**facts(policy), "approval": str(path), "key": fingerprint, "changes": changed}
    return output.emit(Report(verb="trust", findings=findings, data=facts_of_it))


def _compared(
    output: Output, new: TrustPolicy, data: bytes, current: Path | None
) -> tuple[TrustPolicy | None, list[str] | None]:
    """The policy before, and what changes; None for both when it is not here.

    Raises AuthenticityError when a policy that was named is not the one before.
    """
    from bundler.trust.perimeter.rotation import chain_findings

    place = current or DEFAULT_POLICY
    if current is None and not place.is_file():
        output.say("not compared with the version before: name it with --policy FILE")
        return None, None
    old_data, old = read_policy_file(place)
    if current is None and old.sha256 != new.previous:
        output.say(f"not compared: {place} is not the version before; name that with --policy FILE")
        return None, None
    findings = tuple(chain_findings(old, new))
    if findings:
        raise AuthenticityError.of(findings)
    return old, say_changes(output, old_data, data)


def _outside_root(
    fingerprint: str, new: TrustPolicy, old: TrustPolicy | None, key: Path
) -> tuple[Finding, ...]:
    """A warning when it cannot be said whether the key counts. Raises UsageError when it does not."""
    known = [policy for policy in (old, new) if policy is not None]
    for policy in known:
        if fingerprint in policy.roles["root"].keys and fingerprint not in policy.revoked.keys:
            return ()
    place = f"{key}: key {fingerprint}"
    expected = "a live key of the role root of the old or of the new policy"
    what = "the approval of this key does not count: it is not in the role root"
    hint = "use the key of a root owner; `sealift trust show POLICY` lists them"
    if old is not None:
        raise UsageError("key-outside-root", what, where=place, expected=expected, hint=hint)
    what = "the key is not in the role root of the new policy: it counts only if it is in that of the old one"
    return (
        Finding(
            "key-outside-root",
            what,
            where=place,
            expected=expected,
            hint="name the policy in force with --policy FILE to be sure",
            severity="warning",
            exit_code=ExitCode.USAGE,
        ),
    )


@click.command(short_help="Replace the policy in force by its successor.")
@click.argument("new_policy", type=_FILE)
@click.option(
    "--approvals",
    required=True,
    type=_FOLDER,
    help="Folder with the approvals (*.sigstore.json) of the policy.",
)
@click.option(
    "--policy",
    "current",
    type=click.Path(path_type=Path, dir_okay=False),
    default=DEFAULT_POLICY,
    show_default=True,
    help="The policy in force; replaced when all is well.",
)
@click.option(
    "--state",
    type=click.Path(path_type=Path, dir_okay=False),
    help="State file to check against and to advance.  [default: /var/lib/sealift/state.json]",
)
@click.option(
    "--trust-on-first-use",
    "first_use",
    metavar="sha256:DIGEST",
    help="Begin without a state: type the digest of the policy in force from paper.",
)
@click.option("--dry-run", is_flag=True, help="Only say whether the new policy may follow.")
@json_option
def apply(
    new_policy: Path,
    approvals: Path,
    current: Path,
    state: Path | None,
    first_use: str | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Replace the policy in force by its successor, and advance the state with it.

    The new policy must be the next version, name the digest of the current one, be approved by the root
    threshold of the current and of the new policy, and keep all revocations and floors. The current one must
    not be older than the state. Otherwise nothing is changed. Applying a policy again is no fault.

    Example: sealift trust apply 4.policy.json --approvals approvals
    """
    from bundler.trust.keys import verify_signature
    from bundler.trust.perimeter.policy_update import Updater
    from bundler.trust.perimeter.state_files import StateFiles

    data, new = read_policy_file(new_policy)
    updater = Updater(
        policy=current,
        state=StateFiles.of(state),
        verify_signature=verify_signature,
        verify_keyless=lambda old: _keyless(old, current.parent / TRUSTED_ROOT),
        first_use=first_use,
    )
    update = updater.apply(new, data, _read_approvals(approvals), dry_run=dry_run)
    return _tell(Output(as_json), update, new)


def _tell(output: Output, update: PolicyUpdate, new: TrustPolicy) -> int:
    for outcome in update.approvals:
        counted = printable(", ".join(outcome.counted)) or "nobody"
        output.say(f"root of the {outcome.policy} policy: {counted} ({outcome.threshold} needed)")
    if update.applied:
        say_policy(output, new)
    if update.already:
        output.data(f"Already applied: version {new.version} is the policy in force. Nothing was changed.")
    if update.state is None:
        output.say("this perimeter has no state: nothing shows whether a newer policy was in force before")
    code = gravest_code(update.findings)
    return output.emit(
        Report(
            verb="trust",
            verdict="passed" if code == ExitCode.PASSED else "failed",
            exit_code=code,
            findings=update.findings,
            data={
                **facts(new),
                "approvals": [outcome.to_json() for outcome in update.approvals],
                "applied": update.applied,
                "alreadyApplied": update.already,
                "state": str(update.state) if update.state else None,
            },
        )
    )


def _keyless(policy: TrustPolicy, trusted_root: Path) -> Any:
    if policy.trusted_root_sha256 is None or not trusted_root.is_file():
        return None
    from bundler.trust.keyless import OfflineKeylessVerifier

    return OfflineKeylessVerifier(
        trusted_root.read_bytes(), policy.trusted_root_sha256, where=str(trusted_root)
    )


def _read_approvals(folder: Path) -> dict[str, bytes]:
    """The approvals in a folder by name; other files may be beside them, and are not read."""
    from bundler.core.strict_json import ATTESTATION_LIMIT
    from bundler.trust.dsse import FILE_SUFFIX

    found: dict[str, bytes] = {}
    for path in sorted(folder.iterdir()):
        if path.name.endswith(FILE_SUFFIX) and path.is_file():
            with path.open("rb") as file:
                found[path.name] = file.read(ATTESTATION_LIMIT + 1)
    return found
