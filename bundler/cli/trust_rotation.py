"""`sealift trust propose|approve|apply`: from one policy to the next."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bundler.cli.options import TRUSTED_ROOT
from bundler.cli.output import Output, json_option
from bundler.cli.passphrase import passphrase_option, read_passphrase
from bundler.cli.trust_policy import facts, read_policy, read_policy_file, say_policy
from bundler.core.report import Report
from bundler.errors import AuthenticityError, ExitCode, gravest_code

if TYPE_CHECKING:
    from bundler.trust.perimeter.rotation import RotationResult
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
    from bundler.storage.named_file import read_named
    from bundler.storage.named_output import require_outputs, write_output
    from bundler.trust.perimeter.rotation import chain_findings
    from bundler.trust.policy_document import TrustPolicy

    require_outputs(out, inputs=[draft, current])
    old = read_policy(current)
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
    return output.emit(Report(verb="trust", data=facts(new)))


@click.command(short_help="Sign the approval of a proposed policy.")
@click.argument("new_policy", type=_FILE)
@click.option("-k", "--key", required=True, type=_FILE, help="Private key of an owner of the root role.")
@click.option("-o", "--output", "folder", required=True, type=_FOLDER, help="Folder for the approval.")
@passphrase_option
@json_option
def approve(new_policy: Path, key: Path, folder: Path, passphrase_file: Path | None, as_json: bool) -> int:
    """Sign the approval of a proposed policy, after reading what it says.

    Prints the policy in sentences with its digest; compare the digest with the other owners, by voice,
    before you type the passphrase.

    Example: sealift trust approve 4.policy.json --key alice.key -o approvals
    """
    from bundler.signing.signer import FileSigner
    from bundler.storage.named_output import require_outputs, write_output
    from bundler.trust.dsse import FILE_SUFFIX, encode_bundle, pre_authentication_encoding
    from bundler.trust.statements import approval_statement

    output = Output(as_json)
    policy = read_policy(new_policy)
    say_policy(output, policy)
    signer = FileSigner.open(key, lambda: read_passphrase(passphrase_file, what=str(key)))
    fingerprint = signer.public.fingerprint
    path = folder / f"{policy.version}.approval.{fingerprint[:8]}{FILE_SUFFIX}"
    require_outputs(path)
    payload = approval_statement(new_policy.name, policy)
    signature = signer.sign(pre_authentication_encoding(payload))
    write_output(path, encode_bundle(payload, signature, hint=fingerprint))
    output.data(str(path))
    return output.emit(
        Report(verb="trust", data={**facts(policy), "approval": str(path), "key": fingerprint})
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
    from bundler.trust.perimeter.rotation import check_rotation
    from bundler.trust.perimeter.state_files import StateFiles

    old_data, old = read_policy_file(current)
    new_data, new = read_policy_file(new_policy)
    files = StateFiles.of(state) if state is not None else None
    opened = files.open(old.sha256) if files is not None else None
    stale = opened.state.policy_findings(old) if opened is not None else ()
    result = check_rotation(
        old,
        new,
        _read_approvals(approvals),
        verify_signature=verify_signature,
        verify_keyless=_keyless(old, current.parent / TRUSTED_ROOT),
    )
    passed = result.passed and not stale
    if passed and not dry_run:
        _replace(current, old_data, new_data)
        if files is not None and opened is not None:
            files.write(opened, opened.state.advanced(new))
    return _tell(Output(as_json), result, stale, new, passed and not dry_run)


def _tell(
    output: Output,
    result: RotationResult,
    stale: tuple[Any, ...],
    new: TrustPolicy,
    applied: bool,
) -> int:
    findings = (*stale, *result.findings)
    for outcome in result.approvals:
        counted = ", ".join(outcome.counted) or "nobody"
        output.say(f"root of the {outcome.policy} policy: {counted} ({outcome.threshold} needed)")
    if applied:
        say_policy(output, new)
    return output.emit(
        Report(
            verb="trust",
            verdict="passed" if gravest_code(findings) == ExitCode.PASSED else "failed",
            exit_code=gravest_code(findings),
            findings=findings,
            data={
                **facts(new),
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
    """The approvals in a folder by name; other files may be beside them, and are not read."""
    from bundler.core.strict_json import ATTESTATION_LIMIT
    from bundler.trust.dsse import FILE_SUFFIX

    found: dict[str, bytes] = {}
    for path in sorted(folder.iterdir()):
        if path.name.endswith(FILE_SUFFIX) and path.is_file():
            with path.open("rb") as file:
                found[path.name] = file.read(ATTESTATION_LIMIT + 1)
    return found
