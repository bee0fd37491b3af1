"""`sealift build`: fetch what the lock pins and seal it."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bundler.cli.arguments import LOCK_KIND, SpecFile, what_it_is
from bundler.cli.connection import Connection, connection_options
from bundler.cli.output import Output, json_option
from bundler.cli.progress import make_progress
from bundler.core.report import Report
from bundler.core.units import format_bytes
from bundler.errors import UsageError

if TYPE_CHECKING:
    from bundler.assembly.build import BuildResult
    from bundler.core.specs.lock import Lock


@click.command()
@click.argument("spec", type=SpecFile())
@click.option(
    "-o",
    "--output",
    "out",
    type=click.Path(path_type=Path),
    help="The bundle's folder. [default: NAME-SERIAL]",
)
@click.option(
    "--lock",
    "lock_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The lock. [default: beside the spec]",
)
@click.option(
    "-j",
    "--jobs",
    "workers",
    type=click.IntRange(1, 64),
    default=4,
    show_default=True,
    help="Files fetched at once.",
)
@click.option(
    "--transport",
    type=click.Choice(["http", "xet"]),
    default="http",
    show_default=True,
    help="How model files are fetched.",
)
@click.option(
    "--reuse",
    multiple=True,
    metavar="BUNDLE_OR_FOLDER",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Take files that are here already: from an earlier bundle, a Hub cache or any folder; repeatable. "
    "Each is compared with its locked digest.",
)
@click.option("--no-progress", is_flag=True, help="No progress bar or lines.")
@connection_options
@json_option
def command(
    spec: Path,
    out: Path | None,
    lock_path: Path | None,
    workers: int,
    transport: str,
    reuse: tuple[Path, ...],
    no_progress: bool,
    connection: Connection,
    as_json: bool,
) -> int:
    """Fetch what the lock of SPEC pins, check it and seal it as a bundle.

    Stopped, killed or failed, the same command continues where it was. Tokens come from the environment
    (HF_TOKEN) or the Hub client's token file, never from the command line.
    """
    from bundler.assembly.build import BuildRequest, build
    from bundler.assembly.early_models import hub_reader
    from bundler.assembly.fetch_jobs import all_jobs
    from bundler.core.specs.spec_text import SPEC_LIMIT, parse_spec
    from bundler.sources.wheels.wheels import own_wheel
    from bundler.storage.bounded_read import read_named

    output = Output(as_json)
    spec_bytes = read_named(spec, SPEC_LIMIT)
    parsed = parse_spec(spec_bytes, str(spec))
    lock = read_lock(lock_path or spec.with_name(f"{spec.stem}.lock.json"), spec, spec_bytes)
    base = spec.resolve().parent
    request = BuildRequest(
        lock=lock,
        spec=spec_bytes,
        out=out or Path(f"{lock.name}-{lock.serial}"),
        created_at=created_at(),
        workers=workers,
        jobs=lambda locked: all_jobs(locked, spec=parsed, base=base, transport=transport),
        own_wheel=own_wheel(),
        reuse=reuse,
        early=hub_reader(),
    )
    progress = make_progress(wanted=not (no_progress or as_json))
    with connection.opened(output.say):
        result = build(request, progress)
    return output.emit(tell(result, output))


def tell(result: BuildResult, output: Output) -> Report:
    """What was sealed, for people, and the same as a report."""
    if result.already_sealed:
        output.say("already sealed from this very lock; nothing to do")
    output.verdict(f"bundle    {result.out}", "passed")
    output.data(f"manifest  sha256:{result.manifest.sha256}")
    fetched = f"{format_bytes(result.fetched)} fetched by this run"
    if result.reused:
        fetched += f", {format_bytes(result.reused)} reused"
    output.data(f"holds     {result.files} files, {format_bytes(result.bytes)}; {fetched}")
    output.command(["sealift", "sign", str(result.out), "--key", "KEY"])
    return Report(
        verb="build",
        findings=result.warnings,
        data={
            "bundle": str(result.out),
            "manifest": {"sha256": result.manifest.sha256},
            "files": result.files,
            "bytes": result.bytes,
            "fetchedBytes": result.fetched,
            "reusedBytes": result.reused,
            "alreadySealed": result.already_sealed,
        },
    )


def read_lock(path: Path, spec: Path, spec_bytes: bytes) -> Lock:
    """The lock at `path`, if it was made from this very spec. Raises UsageError."""
    import hashlib

    from bundler.core.specs.lock import LOCK_LIMIT, Lock
    from bundler.storage.bounded_read import read_named

    hint = f"`sealift lock {spec}` writes it"
    if not path.is_file():
        raise UsageError("no-lock", "there is no lock for this spec", where=str(path), hint=hint)
    found = what_it_is(path)
    if found not in (None, LOCK_KIND):
        raise UsageError(
            "not-a-lock",
            "this is not a lock",
            where=str(path),
            expected="the file that `sealift lock` wrote",
            found=found,
            hint=hint,
        )
    lock = Lock.parse(read_named(path, LOCK_LIMIT), where=str(path))
    digest = hashlib.sha256(spec_bytes).hexdigest()
    if lock.spec_sha256 != digest:
        raise UsageError(
            "stale-lock",
            "the spec changed after it was locked",
            where=str(path),
            expected=f"a lock of spec sha256:{digest}",
            found=f"a lock of spec sha256:{lock.spec_sha256}",
            hint=f"{hint} anew; `sealift diff` shows what moved",
        )
    return lock


def created_at() -> str:
    """Now, or SOURCE_DATE_EPOCH (reproducible-builds.org/specs/source-date-epoch), as RFC 3339 UTC."""
    text = os.environ.get("SOURCE_DATE_EPOCH")
    if text is not None and not text.isdigit():
        raise UsageError("bad-source-date-epoch", "SOURCE_DATE_EPOCH is not a number of seconds", found=text)
    moment = (
        datetime.datetime.fromtimestamp(int(text), datetime.UTC)
        if text
        else datetime.datetime.now(datetime.UTC)
    )
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
