"""The gate in front of an installation: verify, and only then unpack or load. The order is written here.

1. What the command line, the machine and the signed manifest decide without the payload.
2. Every byte. Leases on all files hold off writers from here until everything is installed.
3. The engine and the images, from the verified bundle alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bundler.core import layout
from bundler.core.report import Report
from bundler.errors import IntegrityError, UsageError
from bundler.install.engine import Installation, check_ground, choose_folder, install_engine
from bundler.storage.leases import Leases
from bundler.storage.tree import opened_root
from bundler.verification.verify import verify_bundle

if TYPE_CHECKING:
    from bundler.core.progress import Progress
    from bundler.install.images import LoadedImage
    from bundler.verification.verify import Perimeter, VerifiedBundle


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallRequest:
    """What to install where. `engine` is an id or folder name, `images` a target such as `podman`."""

    to: Path | None = None
    engine: str | None = None
    python: str | None = None
    images: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """A bundle that was verified to the last byte for this request. Made by `admit` alone."""

    verified: VerifiedBundle
    request: InstallRequest
    report: Report
    leases: Leases

    def install_engine(self, progress: Progress) -> Installation | None:
        """The engine at its place; None when none was asked for. Raises what `install_engine` raises."""
        if self.request.to is None:
            return None
        self.refuse_writers()
        return install_engine(
            self.verified.root,
            choose_folder(self.verified.manifest, self.request.engine),
            self.request.to,
            manifest=self.verified.manifest,
            python=self.request.python,
            progress=progress,
        )

    def load_images(self, progress: Progress) -> tuple[LoadedImage, ...]:
        """The images at their target; none when none were asked for. Raises what `load_images` raises."""
        if self.request.images is None:
            return ()
        from bundler.install.images import load_images

        self.refuse_writers()
        loaded = load_images(self.verified.root / layout.IMAGES, self.request.images, progress=progress)
        self.refuse_writers()
        return loaded

    def refuse_writers(self) -> None:
        """Refuse when someone opened a file for writing since. Raises IntegrityError (`open-for-writing`)."""
        with opened_root(self.verified.root) as root:
            findings = self.leases.findings(root)
        if findings:
            raise IntegrityError.of(findings)


def admit(
    bundle: Path,
    perimeter: Perimeter,
    request: InstallRequest,
    *,
    leases: Leases,
    workers: int | None = None,
    progress: Progress | None = None,
    resume: bool = False,
) -> Admitted | Report:
    """Verify the bundle for this request: what may be installed, or the report that refuses it.

    `leases` must stay open until everything is installed. Raises UsageError (`usage`), and what
    `check_ground` and `check_target` raise.
    """
    _refuse_contradictions(request)
    if request.images is not None:
        from bundler.install.images import check_target

        check_target(request.images)
    # A bundle that nobody signed is left to the whole verification.
    signed = verify_bundle(bundle, perimeter, level="signatures").verified
    if signed is not None and request.to is not None:
        check_ground(signed.root, signed.manifest, request.engine, request.to, python=request.python)
    result = verify_bundle(
        bundle,
        perimeter,
        workers=workers,
        progress=progress,
        resume=resume,
        read_next=True,
        leases=leases,
    )
    report = replace(result.report, verb="install")
    if result.verified is None:
        return report
    return Admitted(verified=result.verified, request=request, report=report, leases=leases)


def _refuse_contradictions(request: InstallRequest) -> None:
    if request.to is None and (request.engine or request.python or request.images is None):
        raise UsageError(
            "usage",
            "what to install is not said" if request.images is None else "an engine needs a place",
            expected="--to DIR for the engine, --images TARGET for the images, or both",
            found="no --to",
            hint="`sealift install BUNDLE --policy POLICY --to /srv/sealift/engine`",
        )
