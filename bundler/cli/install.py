"""`sealift install`: verify a bundle to the last byte, then install its engine and load its images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bundler.cli.arguments import BundleFolder
from bundler.cli.options import ReadingOptions, TrustOptions, reading_options, trust_options
from bundler.cli.output import Output, printable
from bundler.core import layout
from bundler.core.report import Report
from bundler.errors import Finding, UsageError

if TYPE_CHECKING:
    from bundler.core.progress import Progress
    from bundler.install.engine import Installation
    from bundler.install.images import LoadedImage
    from bundler.verification.verify import VerifiedBundle


@click.command(
    epilog="Exit codes: those of `sealift verify` when the bundle is refused, and then nothing is installed; "
    "4 when this machine lacks something."
)
@click.argument("bundle", type=BundleFolder())
@click.option(
    "--to",
    type=click.Path(path_type=Path),
    default=None,
    help="Folder for the engine's Python environment; made whole or not at all.",
)
@click.option(
    "--engine",
    default=None,
    help="Which engine, by id or folder name.  [default: the only one the bundle carries as wheels]",
)
@click.option(
    "--python", default=None, metavar="PROGRAM", help="The CPython to use.  [default: looked for here]"
)
@click.option(
    "--images",
    "images_to",
    metavar="TARGET",
    default=None,
    help="Load the images too: podman, docker, containerd[:NAMESPACE] or a registry (https://HOST/PREFIX).",
)
@trust_options
@click.option("--resume", is_flag=True, help="Continue an interrupted verification instead of a new one.")
@reading_options
def command(
    bundle: Path,
    to: Path | None,
    engine: str | None,
    python: str | None,
    images_to: str | None,
    trust: TrustOptions,
    resume: bool,
    reading: ReadingOptions,
) -> int:
    """Verify BUNDLE (every byte), then install its engine and images from it alone, without network.

    The engine's environment is built beside its place and renamed when it is complete; running the same
    command again repairs a damaged one and leaves a whole one as it is.
    """
    from bundler.verification.verify import verify_bundle

    _refuse_contradictions(to, engine, python, images_to)
    output, progress, perimeter = reading.output, reading.progress, trust.perimeter()
    _refuse_early(
        verify_bundle(bundle, perimeter, level="signatures").verified, engine, to, python, images_to
    )
    result = verify_bundle(
        bundle, perimeter, workers=reading.workers, progress=progress, resume=resume, read_next=True
    )
    if result.verified is None:
        code = output.emit(replace(result.report, verb="install"))
        output.verdict("REFUSED: nothing was installed.", result.report.verdict)
        return code
    data: dict[str, Any] = {"manifest": result.verified.manifest.sha256}
    findings = list(result.report.findings)
    if to is not None:
        data["engine"] = _install(output, result.verified, engine, to, python, progress, findings)
        _tell_next(output, result.verified, data["engine"], trust.words())
    if images_to is not None:
        data["images"] = _load(output, result.verified, images_to, progress, findings)
    return output.emit(Report(verb="install", findings=tuple(findings), data=data))


def _refuse_contradictions(
    to: Path | None, engine: str | None, python: str | None, images_to: str | None
) -> None:
    if to is None and (engine or python or images_to is None):
        raise UsageError(
            "usage",
            "what to install is not said" if images_to is None else "an engine needs a place",
            expected="--to DIR for the engine, --images TARGET for the images, or both",
            found="no --to",
            hint="sealift install BUNDLE --policy POLICY --to /srv/sealift/engine",
        )


def _refuse_early(
    signed: VerifiedBundle | None,
    engine: str | None,
    to: Path | None,
    python: str | None,
    images_to: str | None,
) -> None:
    """What can be said before a terabyte is read. A bundle that nobody signed is left to the verifier."""
    if images_to is not None:
        from bundler.install.images import check_target

        check_target(images_to)
    if signed is not None and to is not None:
        from bundler.install.engine import check_ground

        check_ground(signed.root, signed.manifest, engine, to, python=python)


def _install(
    output: Output,
    verified: VerifiedBundle,
    engine: str | None,
    to: Path,
    python: str | None,
    progress: Progress,
    findings: list[Finding],
) -> dict[str, Any]:
    from bundler.install.engine import choose_folder, install_engine

    done = install_engine(
        verified.root,
        choose_folder(verified.manifest, engine),
        to,
        manifest=verified.manifest,
        python=python,
        progress=progress,
    )
    findings += done.warnings
    _tell_engine(output, done)
    return {
        "path": str(done.path),
        "folder": done.folder,
        "name": done.engine,
        "version": done.version,
        "python": done.python,
        "wheels": done.wheels,
        "reused": done.reused,
    }


def _tell_engine(output: Output, done: Installation) -> None:
    how = "already installed and whole" if done.reused else f"installed from {done.wheels} wheels"
    text = f"{done.engine} {done.version}: {how}, CPython {done.python}"
    output.verdict(text, "passed")
    output.data(f"environment: {done.path}")


def _tell_next(output: Output, verified: VerifiedBundle, installed: dict[str, Any], trust: list[str]) -> None:
    """The command that starts what was installed, for each profile the bundle has for it."""
    from bundler.core.launch_profile import profiles_for

    for profile in profiles_for(verified.manifest, installed["folder"]):
        words = ["sealift", "launch", str(verified.root), *trust]
        words += ["--profile", profile, "--env", installed["path"]]
        output.command(words)


def _load(
    output: Output, verified: VerifiedBundle, target: str, progress: Progress, findings: list[Finding]
) -> list[dict[str, str]]:
    from bundler.install.images import load_images

    loaded = load_images(verified.root / layout.IMAGES, target, progress=progress)
    for image in loaded:
        findings += image.warnings
        output.data(f"image: {printable(image.name)} {image.digest}")
    return [_image(image) for image in loaded]


def _image(image: LoadedImage) -> dict[str, str]:
    return {
        "name": image.name,
        "platform": image.platform,
        "digest": image.digest,
        "target": image.target,
    }
