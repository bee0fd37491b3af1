"""`sealift install`: verify a bundle to the last byte, then install its engine and load its images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bundler.cli.arguments import BundleFolder
from bundler.cli.options import ReadingOptions, TrustOptions, reading_options, trust_options
from bundler.cli.output import Output, printable
from bundler.core.report import Report

if TYPE_CHECKING:
    from bundler.core.progress import Progress
    from bundler.install.engine import Installation
    from bundler.install.gate import Admitted
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
    from bundler.install.gate import Admitted, InstallRequest, admit
    from bundler.storage.leases import Leases

    output = reading.output
    with Leases() as leases:
        admitted = admit(
            bundle,
            trust.perimeter(),
            InstallRequest(to=to, engine=engine, python=python, images=images_to),
            leases=leases,
            workers=reading.workers,
            progress=reading.progress,
            resume=resume,
        )
        if not isinstance(admitted, Admitted):
            code = output.emit(admitted)
            output.verdict("REFUSED: nothing was installed.", admitted.verdict)
            return code
        return output.emit(_install(output, admitted, reading.progress, trust.words()))


def _install(output: Output, admitted: Admitted, progress: Progress, trust: list[str]) -> Report:
    """Install what was asked for, print it as it is done, and report it."""
    manifest = admitted.verified.manifest
    data: dict[str, Any] = {"manifest": manifest.sha256}
    findings = list(admitted.report.findings)
    installed = admitted.install_engine(progress)
    if installed is not None:
        findings += installed.warnings
        data["engine"] = _engine(installed)
        _tell_engine(output, installed)
        _tell_next(output, admitted.verified, data["engine"], trust)
    if admitted.request.images is not None:
        images = admitted.load_images(progress)
        for image in images:
            findings += image.warnings
            output.data(f"image: {printable(image.name)} {image.digest}")
        data["images"] = [_image(image) for image in images]
    return Report(verb="install", findings=tuple(findings), data=data)


def _engine(done: Installation) -> dict[str, Any]:
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


def _image(image: LoadedImage) -> dict[str, str]:
    return {
        "name": image.name,
        "platform": image.platform,
        "digest": image.digest,
        "target": image.target,
    }
