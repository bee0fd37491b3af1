"""Verification of a bundle: the ten steps of format.md section 8 at the level asked for.

`VerifiedBundle` is made here and nowhere else: whoever holds one knows what was verified, how deeply and
against which policy.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bundler.core.manifest import Manifest
from bundler.core.progress import Progress, SilentProgress
from bundler.core.report import Report
from bundler.errors import ExitCode, Finding, MachineError
from bundler.storage.disk_space import may_write_below
from bundler.storage.hashing import HashUnits, available_cores, hash_units
from bundler.storage.leases import Leases
from bundler.storage.tree import Stamp, opened_root
from bundler.trust.perimeter.state import State, ahead_findings, effective_time, rememberable
from bundler.trust.perimeter.state_files import OpenedState, StateFiles
from bundler.trust.policy import TrustPolicy, TrustResult
from bundler.verification import steps
from bundler.verification.checks import Checks, Journal
from bundler.verification.contents import check_contents
from bundler.verification.described_payload import payload_findings
from bundler.verification.report_data import facts
from bundler.verification.resume import ResumeJournal, journal_path, open_journal
from bundler.verification.rules import check_rules, has_rules, rule_findings
from bundler.verification.steps import Checked, Step, StepOutcome

_SEAL = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedBundle:
    """A bundle that passed at `level`. `stamps` (path to stamp) are those the files had when they were read;
    empty below level quick, which does not look at them.
    """

    root: Path
    level: str
    manifest: Manifest
    policy: TrustPolicy
    trust: TrustResult
    stamps: Mapping[str, Stamp]
    seal: object = field(repr=False)

    def __post_init__(self) -> None:
        if self.seal is not _SEAL:
            raise TypeError("only verify_bundle makes a VerifiedBundle")


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationResult:
    """The verdict and how it came about. `verified` is None unless the verdict is `passed`."""

    report: Report
    outcomes: tuple[StepOutcome, ...]
    verified: VerifiedBundle | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Perimeter:
    """What this side of the gap brings: its policy, its memory, its clock.

    `first_use` is what was typed after `--trust-on-first-use`. `trusted_root` holds the Sigstore root for
    keyless signatures, None when there is none here. `clock` gives seconds since 1970 UTC.
    """

    policy: bytes
    state: StateFiles
    first_use: str | None = None
    trusted_root: bytes | None = None
    clock: Callable[[], float] = time.time

    @property
    def journals(self) -> Path:
        """The folder in which verification journals may lie."""
        return self.state.paths[0].parent


def verify_bundle(
    root: Path,
    perimeter: Perimeter,
    *,
    level: str = "full",
    workers: int | None = None,
    progress: Progress | None = None,
    resume: bool = False,
    read_next: bool = False,
    hash_units: HashUnits = hash_units,
    leases: Leases | None = None,
) -> VerificationResult:
    """Verify the bundle in the folder `root` and, at level full, remember that it was accepted.

    With `read_next` the bytes are left in memory, if it holds them, for the engine that reads them next.
    `hash_units` reads and hashes the files: in this process, or a function that spreads the units.
    `leases` are filled in step 8 and stay with the caller, who holds off writers with them until he has used
    the bytes; without them writers are held off until this returns.
    Trouble with the bundle is in the result's findings. Raises IntegrityError (`root-is-link`) or
    MachineError (`no-such-bundle`, `not-a-directory`) when there is nothing to examine.
    """
    began = time.monotonic()
    with opened_root(root) as descriptor:
        verification = _Verification(
            root,
            descriptor,
            perimeter,
            resume=resume,
            workers=workers or available_cores(),
            progress=progress or SilentProgress(),
            read_next=read_next,
            hash_units=hash_units,
            leases=leases,
            level=level,
        )
        try:
            outcomes = steps.run_steps(verification.steps(), level)
        finally:
            verification.close()
    return VerificationResult(
        report=verification.report(outcomes, level, time.monotonic() - began),
        outcomes=outcomes,
        verified=verification.verified(level) if steps.proven(outcomes, level) else None,
    )


class _Verification:
    """One run: the shared checks, and the steps that need what only the installed tool has."""

    def __init__(
        self,
        root: Path,
        descriptor: int,
        perimeter: Perimeter,
        *,
        resume: bool,
        workers: int,
        progress: Progress,
        read_next: bool,
        hash_units: HashUnits,
        leases: Leases | None,
        level: str,
    ) -> None:
        from bundler.trust.keys import verify_signature

        self.root, self.descriptor, self.perimeter = root, descriptor, perimeter
        self.resume, self.workers, self.level = resume, workers, level
        self.checks = Checks(
            root=descriptor,
            policy_bytes=perimeter.policy,
            verify_signature=verify_signature,
            open_journal=self._open_journal,
            list_agrees=self._list_agrees,
            workers=workers,
            progress=progress,
            read_next=read_next,
            hash_units=hash_units,
            leases=leases or Leases(),
        )
        self.keeps_leases = leases is not None
        self.opened: OpenedState | None = None
        self.journal: ResumeJournal | None = None
        self.journal_file: Path | None = None
        self.formats: Mapping[str, frozenset[str]] = {}

    def steps(self) -> tuple[Step, ...]:
        """The ten steps, in order."""
        shared = self.checks
        return (
            Step(1, self.check_policy_and_state),
            Step(2, shared.check_small_files),
            Step(3, shared.check_manifest),
            Step(4, shared.check_signatures),
            Step(5, self.check_requirements),
            Step(6, shared.check_tree),
            Step(7, self.check_contents),
            Step(8, self.check_bytes),
            Step(9, self.check_rules),
            Step(10, self.remember),
        )

    def check_policy_and_state(self) -> Checked:
        """Step 1: the policy, and that this perimeter did not already use a newer or another one."""
        checked = self.checks.check_policy()
        policy = self.checks.policy
        assert policy is not None
        if policy.trusted_root_sha256 and self.perimeter.trusted_root is not None:
            from bundler.trust.keyless import OfflineKeylessVerifier

            self.checks.verify_keyless = OfflineKeylessVerifier(
                self.perimeter.trusted_root, policy.trusted_root_sha256
            )
        self.opened = self.perimeter.state.open(policy.sha256, self.perimeter.first_use)
        ahead = ahead_findings(self.opened.state, int(self.perimeter.clock()))
        return Checked(findings=(*self.opened.state.policy_findings(policy), *ahead), detail=checked.detail)

    def check_requirements(self) -> Checked:
        """Step 5: the policy's requirements, and that nothing goes back behind the state."""
        checked = self.checks.check_requirements()
        assert self.opened is not None
        assert self.checks.manifest is not None
        rollback = self.opened.state.release_findings(self.checks.manifest)
        findings = (*checked.findings, *rollback)
        return replace(checked, findings=findings or self._state_findings())

    def check_contents(self) -> Checked:
        """Step 7: headers, read below the very folder that was opened, whatever its path names by now.

        A policy with rules also wants every file described, before a terabyte is read. When this step fails,
        step 9 will not run: what its rules say is then reported here, together.
        """
        manifest, policy = self.checks.manifest, self.checks.policy
        assert manifest is not None
        assert policy is not None
        pinned = Path(f"/proc/self/fd/{self.descriptor}")
        contents = check_contents(pinned if pinned.exists() else self.root, manifest)
        self.formats, findings = contents.formats, list(contents.checked.findings)
        findings = [*self.checks.damage(_suspects(manifest, findings)), *findings]
        if has_rules(policy.rules):
            findings += payload_findings(manifest)
        if any(finding.is_error for finding in findings):
            findings += rule_findings(policy.rules, manifest, self.formats)
        return replace(contents.checked, findings=tuple(findings))

    def check_bytes(self) -> Checked:
        """Step 8, and a note when this run cannot be resumed because its journal could not be written."""
        checked = self.checks.check_bytes()
        if self.journal is None or not self.journal.dropped:
            return checked
        return replace(checked, findings=(*checked.findings, _journal_dropped(self.journal)))

    def check_rules(self) -> Checked:
        """Step 9: licence, format, engine floor and expiry."""
        checks = self.checks
        assert self.opened is not None
        assert checks.policy is not None
        assert checks.trust is not None
        assert checks.manifest is not None
        now = effective_time(
            int(self.perimeter.clock()), self.opened.state.newest_time, checks.trust.newest_time
        )
        return check_rules(checks.policy, checks.trust, checks.manifest, now, self.formats)

    def remember(self) -> Checked:
        """Step 10: nothing was found, so this release and policy are what the next one is compared with."""
        checks = self.checks
        assert self.opened is not None
        assert checks.policy is not None
        assert checks.trust is not None
        assert checks.manifest is not None
        policy, manifest, agreed = checks.policy, checks.manifest, checks.list_agreed

        def accepted(state: State) -> State:
            after = self._accepted(state)
            return after.noting_chunk_list(manifest.sha256) if agreed else after

        try:
            written = self.perimeter.state.advance(
                self.opened,
                accepted,
                lambda state: state.findings(policy, manifest),
            )
        except (OSError, MachineError) as trouble:
            error = trouble if isinstance(trouble, OSError) else OSError(0, trouble.findings[0].what)
            if self._accepted(self.opened.state) != self.opened.state:
                raise _not_remembered(self.perimeter.state.paths[0], error) from trouble
            written = False  # only the note about the chunk list was new: the next run compares files again
        if self.journal_file is not None:
            self.journal_file.unlink(missing_ok=True)
        place = self.perimeter.state.paths[0]
        return Checked(
            detail=f"state written to {place}" if written else f"nothing new for the state {place}"
        )

    def _accepted(self, state: State) -> State:
        """The state after accepting this policy and release."""
        checks = self.checks
        assert checks.policy is not None
        assert checks.trust is not None
        assert checks.manifest is not None
        newest = rememberable(checks.trust.counted_time, int(self.perimeter.clock()))
        return state.advanced(checks.policy, checks.manifest, newest)

    def _state_findings(self) -> tuple[Finding, ...]:
        """`state-not-writable`, before a terabyte is read, when something new could not be remembered."""
        assert self.opened is not None
        paths = self.perimeter.state.paths
        if self.level != "full" or self._accepted(self.opened.state) == self.opened.state:
            return ()
        closed = next((path for path in paths if not may_write_below(path.parent)), None)
        return () if closed is None else (_not_writable(closed),)

    def _list_agrees(self, manifest: str) -> bool:
        return self.opened is not None and manifest in self.opened.state.chunk_lists

    def _open_journal(self, manifest: str, chunks: str) -> Journal | None:
        path = journal_path(self.perimeter.journals, manifest)
        try:
            self.journal = open_journal(path, self.root, manifest=manifest, chunks=chunks, resume=self.resume)
        except (MachineError, OSError):
            # Without a journal the verification is as good, only not resumable.
            if self.resume:
                raise
            return None
        self.journal_file = path
        return self.journal

    def close(self) -> None:
        """Close the journal, which stays on disk unless the bundle was accepted, and give leases back."""
        if self.journal is not None:
            self.journal.close()
        if not self.keeps_leases:
            self.checks.leases.close()

    def verified(self, level: str) -> VerifiedBundle:
        """The bundle as verified; only called when every step passed."""
        checks = self.checks
        assert checks.policy is not None
        assert checks.trust is not None
        assert checks.manifest is not None
        return VerifiedBundle(
            root=self.root,
            level=level,
            manifest=checks.manifest,
            policy=checks.policy,
            trust=checks.trust,
            stamps=checks.tree.files if checks.tree is not None else {},
            seal=_SEAL,
        )

    def report(self, outcomes: tuple[StepOutcome, ...], level: str, seconds: float) -> Report:
        """Everything a machine may want to know about this run."""
        return Report(
            verb="verify",
            verdict=steps.verdict(outcomes, level),
            exit_code=steps.exit_code(outcomes, level),
            findings=steps.all_findings(outcomes),
            data={
                **facts(self.checks, outcomes, level),
                "bundle": str(self.root),
                "workers": self.workers,
                "seconds": round(seconds, 3),
            },
        )


def _suspects(manifest: Manifest, findings: Sequence[Finding]) -> set[str]:
    """The listed files that errors of the content check are about."""
    places = [finding.where for finding in findings if finding.is_error]
    return {entry.path for entry in manifest.files if any(place.startswith(entry.path) for place in places)}


def _journal_dropped(journal: ResumeJournal) -> Finding:
    return Finding(
        "journal-dropped",
        "the journal could not be written: an interrupted run would begin again; the verdict is not affected",
        found=journal.dropped,
        hint="free space where the state is stored, or choose another folder with --state",
        severity="note",
    )


def _not_writable(path: Path) -> Finding:
    return Finding(
        "state-not-writable",
        "the state cannot be written, so a release that is verified could not be remembered",
        where=str(path),
        expected="a folder this user may write to",
        found=f"user {os.geteuid()} may not",
        hint="run as the user who owns the state, or only look: `sealift verify BUNDLE --level quick`",
        exit_code=ExitCode.MACHINE,
    )


def _not_remembered(path: Path, error: OSError) -> MachineError:
    return MachineError(
        "state-not-written",
        "the bundle is good, but that it was accepted cannot be remembered",
        where=str(error.filename or path),
        expected="a folder this user may write to",
        found=error.strerror or "",
        hint="run as the user who owns the state, or name another file with --state",
    )
