"""Replace the policy in force and advance the state with it: both, or neither.

One lock covers both. The policy is replaced first. When the state cannot be written, the old policy is put
back. After a kill between the two, the state is one version behind: the next `trust apply` of the same policy
(or the next verification) advances it. A policy that was put back later is older than the state and refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bundler.core import strict_json
from bundler.errors import AuthenticityError, Finding, UsageError
from bundler.storage.atomic import write_atomic
from bundler.storage.bounded_read import read_named
from bundler.trust.authentication import VerifyKeyless, VerifySignature
from bundler.trust.perimeter.rotation import Approvals, check_rotation
from bundler.trust.perimeter.state_files import (
    OpenedState,
    StateFiles,
    compare_with_paper,
    locked_folders,
)
from bundler.trust.policy_document import TrustPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyUpdate:
    """How an update went. `already` is True when the new policy was in force before.

    `state` is the file that was advanced, None when this perimeter has no state yet.
    """

    findings: tuple[Finding, ...]
    approvals: tuple[Approvals, ...] = ()
    applied: bool = False
    already: bool = False
    state: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Updater:
    """Where policy and state of a perimeter are stored, and how signatures are checked.

    `first_use` is what was typed after `--trust-on-first-use`: the digest of the policy in force.
    """

    policy: Path
    state: StateFiles
    verify_signature: VerifySignature
    verify_keyless: Callable[[TrustPolicy], VerifyKeyless | None]
    first_use: str | None = None

    def apply(
        self, new: TrustPolicy, data: bytes, approvals: Mapping[str, bytes], *, dry_run: bool = False
    ) -> PolicyUpdate:
        """Check the policy `new`, whose bytes are `data`, and put it into force unless something is found.

        Raises AuthenticityError and MalformedError as `StateFiles.open`, UsageError (`no-policy`), and
        OSError or MachineError when a file cannot be written; nothing is changed then.
        """
        with self._locked() as has_state:
            old_data = _read_policy(self.policy)
            old = TrustPolicy.parse(old_data, where=str(self.policy))
            opened = self.state.open_locked(old.sha256, self.first_use) if has_state else None
            stale = opened.state.policy_findings(old) if opened is not None else ()
            if old.sha256 == new.sha256:
                return self._already(old, opened, stale, dry_run=dry_run)
            rotation = check_rotation(
                old,
                new,
                approvals,
                verify_signature=self.verify_signature,
                verify_keyless=self.verify_keyless(old),
            )
            findings = (*stale, *rotation.findings)
            refused = any(finding.is_error for finding in findings)
            if not refused and not dry_run:
                self._replace(old_data, data, lambda: self._advance(opened, new))
            return PolicyUpdate(
                findings=findings,
                approvals=rotation.approvals,
                applied=not refused and not dry_run,
                state=self.state.paths[0] if has_state else None,
            )

    @contextmanager
    def _locked(self) -> Iterator[bool]:
        """Hold the lock of policy and state; whether there is a state to compare with."""
        folder = self.policy.resolve().parent
        if self._has_state():
            with self.state.locked(folder):
                yield True
        else:
            with locked_folders((folder,)):
                yield False

    def _has_state(self) -> bool:
        """A state that was named must be there; the host's own may not have begun yet."""
        named = not self.state.asks_for_paper
        return named or self.first_use is not None or any(path.exists() for path in self.state.paths)

    def _already(
        self, policy: TrustPolicy, opened: OpenedState | None, findings: tuple[Finding, ...], *, dry_run: bool
    ) -> PolicyUpdate:
        refused = any(finding.is_error for finding in findings)
        if not refused and not dry_run:
            self._advance(opened, policy)
        return PolicyUpdate(
            findings=findings,
            already=not refused,
            state=self.state.paths[0] if opened is not None else None,
        )

    def _advance(self, opened: OpenedState | None, policy: TrustPolicy) -> None:
        if opened is not None:
            self.state.advance_locked(opened, lambda state: state.advanced(policy))

    def _replace(self, old: bytes, new: bytes, then: Callable[[], None]) -> None:
        """Replace the policy with its mode and do `then`; when that fails, put the old policy back."""
        target = self.policy.resolve()
        mode = target.stat().st_mode & 0o777
        try:
            write_atomic(target, new, mode=mode)
            then()
        except BaseException:
            write_atomic(target, old, mode=mode)
            raise


def _read_policy(path: Path) -> bytes:
    if not path.is_file():
        raise UsageError(
            "no-policy",
            "there is no policy in force here",
            where=str(path),
            expected="the policy of this perimeter",
            found="nothing",
            hint="name it with --policy FILE; the first policy comes from your security officer",
        )
    return read_named(path, strict_json.POLICY_LIMIT)


def forget_time(state: StateFiles, policy: TrustPolicy, typed: str) -> int | None:
    """Remove the remembered time from the state and return it, in seconds since 1970 UTC; None without one.

    `typed` is the digest of the policy in force, from paper: the same proof with which a state begins. What
    was accepted stays: policy, serials and manifests. Raises AuthenticityError (`first-use-digest`,
    `policy-rollback`, `policy-equivocation`, and as `StateFiles.open`), UsageError (`bad-first-use`).
    """
    compare_with_paper(typed, policy.sha256)
    with state.locked():
        opened = state.open_locked(policy.sha256)
        findings = opened.state.policy_findings(policy)
        if findings:
            raise AuthenticityError.of(findings)
        state.advance_locked(opened, lambda before: replace(before, newest_time=None))
    return opened.state.newest_time
