"""The gate in front of a server: verify, plan, look once more, start. The order is written here alone.

1. Signatures only: nobody should wait for a terabyte to be read only to hear that a name was mistyped.
2. What manifest and machine decide without the payload (`check_ground`).
3. Every byte. Leases on all files hold off writers from here until the engine starts.
4. The plan, which reads configuration and the installed engine.
5. The work folder; then the last look; then this process becomes the engine.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from bundler.core.report import Report
from bundler.launch.last_look import refuse_changes, writable_note
from bundler.launch.launch import LaunchPlan, LaunchRequest, check_ground, prepare, start
from bundler.storage.leases import Leases
from bundler.verification.verify import verify_bundle

if TYPE_CHECKING:
    from bundler.core.progress import Progress
    from bundler.verification.verify import Perimeter, VerifiedBundle


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """A bundle that was verified to the last byte, and the plan for its server. Made by `admit` alone."""

    verified: VerifiedBundle
    plan: LaunchPlan
    report: Report
    leases: Leases

    def start(self, announce: Callable[[], None]) -> NoReturn:
        """Become the engine. `announce` is called before, when the bundle is known to be unchanged.

        Raises IntegrityError (those of `refuse_changes`), and then nothing was started or left behind.
        """
        self.refuse_changes()
        announce()
        # The engine gets the limit of open files that we were given.
        self.leases.restore_limit()
        start(self.plan, self.refuse_changes)

    def refuse_changes(self) -> None:
        """The last look. Raises what `bundler.launch.last_look.refuse_changes` raises."""
        refuse_changes(self.verified, self.leases)


def admit(
    bundle: Path,
    perimeter: Perimeter,
    request: LaunchRequest,
    *,
    leases: Leases,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Admitted | Report:
    """Verify the bundle for this launch: the plan to start it, or the report that refuses it.

    `leases` must stay open until the engine was started. Raises what `check_ground` and `prepare` raise.
    """
    signed = verify_bundle(bundle, perimeter, level="signatures").verified
    if signed is not None:
        check_ground(signed.manifest, request)
    result = verify_bundle(
        bundle, perimeter, workers=workers, progress=progress, read_next=True, leases=leases
    )
    if result.verified is None:
        return replace(result.report, verb="launch")
    # The last look happens in the engine's own folder, where a relative path means something else.
    verified = replace(result.verified, root=Path(os.path.abspath(bundle)))  # noqa: PTH100 - links stay
    plan = prepare(verified, request)
    notes = [writable_note(verified), *(f"not checked: {text}" for text in leases.not_checked())]
    plan = replace(plan, notes=(*plan.notes, *filter(None, notes)))
    report = Report(verb="launch", findings=result.report.findings, data=plan.to_json())
    return Admitted(verified=verified, plan=plan, report=report, leases=leases)
