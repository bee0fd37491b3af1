"""`sealift lock`: pin everything a spec asks for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bundler.cli.arguments import SpecFile
from bundler.cli.connection import Connection, connection_options
from bundler.cli.output import Output, json_option
from bundler.core.report import Report
from bundler.core.units import format_bytes
from bundler.errors import ExitCode, Finding, UsageError

if TYPE_CHECKING:
    from bundler.core.specs.lock import Lock
    from bundler.core.specs.spec import Spec


@click.command()
@click.argument("spec", type=SpecFile())
@click.option(
    "-o",
    "--output",
    "target",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The lock. [default: NAME.lock.json beside the spec]",
)
@click.option(
    "--check", is_flag=True, help="Write nothing; say whether locking again would pin something else."
)
@connection_options
@json_option
def command(spec: Path, target: Path | None, check: bool, connection: Connection, as_json: bool) -> int:
    """Pin every name in SPEC: a commit, a size and a digest for each file, wheel and image.

    The lock holds no address of an index and no secret; keep it under version control beside the spec. Tokens
    come from the environment (HF_TOKEN) or the Hub client's token file.

    With --check the exit code is 0 when upstream still answers as locked, and 12 when it does not: nothing is
    wrong with the lock then, but someone has to decide whether to take what is there now.
    """
    from bundler.assembly.launch_rules import profile_warnings
    from bundler.assembly.locking import make_lock, spec_warnings
    from bundler.core.specs.spec_text import SPEC_LIMIT, parse_spec
    from bundler.storage.bounded_read import read_named
    from bundler.storage.named_output import require_outputs, write_output

    output, target = Output(as_json), target or lock_path(spec)
    data = read_named(spec, SPEC_LIMIT)
    parsed = parse_spec(data, str(spec))
    if not check:
        require_outputs(target, inputs=[spec, *local_files(parsed, spec.parent)], replace=True)
    before = read_old(target, spec) if check else None
    odd: list[Finding] = []
    with connection.opened(output.say):
        lock = make_lock(parsed, data, spec.resolve().parent, say=output.say, warn=odd.append)
    if before is not None:
        return output.emit(compared(before, lock, target, output))
    write_output(target, lock.to_bytes(), replace=True)
    for line in summary(lock):
        output.data(line)
    output.verdict(f"lock      {target}, sha256:{lock.sha256}", "passed")
    output.command(["sealift", "plan", str(spec), "--to", "DIR"])
    warnings = (*spec_warnings(parsed, lock), *profile_warnings(lock), *odd)
    report = Report(verb="lock", findings=warnings, data=as_data(lock, target))
    return output.emit(report)


def lock_path(spec: Path) -> Path:
    """Where the lock of a spec lies when nothing else is said: `<stem>.lock.json` beside it."""
    return spec.with_name(f"{spec.stem}.lock.json")


def local_files(spec: Spec, base: Path) -> list[Path]:
    """The files of this machine that a spec names: an output must not replace one of them."""
    named = [item.source for item in spec.files]
    named += [item.source for item in (*spec.licenses, *spec.documents)]
    return [base / text for text in named if text is not None]


def read_old(path: Path, spec: Path) -> Lock:
    """The lock to compare with. Raises UsageError (`no-lock`)."""
    from bundler.core.specs.lock import LOCK_LIMIT, Lock
    from bundler.storage.bounded_read import read_named

    if not path.is_file():
        hint = f"`sealift lock {spec}` writes it"
        raise UsageError("no-lock", "there is no lock to compare with", where=str(path), hint=hint)
    return Lock.parse(read_named(path, LOCK_LIMIT), where=str(path))


def compared(before: Lock, now: Lock, path: Path, output: Output) -> Report:
    """What moved: passed when nothing did."""
    from bundler.assembly.locking import lock_changes

    changes = lock_changes(before, now)
    if not changes:
        output.verdict(f"{path}: upstream answers as locked", "passed")
    else:
        output.verdict(f"{path}: {len(changes)} changes upstream since it was locked", "failed")
    return Report(
        verb="lock",
        verdict="failed" if changes else "passed",
        exit_code=ExitCode.POLICY if changes else ExitCode.PASSED,
        findings=tuple(change.finding() for change in changes),
        data={"lock": str(path), "changed": bool(changes)},
    )


def summary(lock: Lock) -> Iterator[str]:
    """What the lock pins, a line for each item."""
    for model in lock.models:
        size = format_bytes(sum(file.size for file in model.files))
        yield f"model     {model.repo} at {model.commit}: {len(model.files)} files, {size}"
    for label, engines in (("engine", lock.engines), ("tools", lock.tools)):
        for engine in engines:
            size = format_bytes(sum(wheel.size for wheel in engine.wheels))
            yield f"{label:<9} {engine.folder}, version {engine.version}: {len(engine.wheels)} wheels, {size}"
    for image in lock.images:
        platforms = ", ".join(platform.platform for platform in image.platforms)
        yield f"image     {image.reference}: {image.digest}, {platforms}"
    if lock.files:
        yield f"files     {len(lock.files)}, {format_bytes(sum(file.size for file in lock.files))}"


def as_data(lock: Lock, path: Path) -> dict[str, Any]:
    """The summary for machines."""
    return {
        "lock": {"path": str(path), "sha256": lock.sha256},
        "models": [
            {
                "id": model.id,
                "repo": model.repo,
                "commit": model.commit,
                "files": len(model.files),
                "bytes": sum(file.size for file in model.files),
            }
            for model in lock.models
        ],
        "engines": [
            {
                "folder": engine.folder,
                "version": engine.version,
                "wheels": len(engine.wheels),
                "bytes": sum(wheel.size for wheel in engine.wheels),
            }
            for engine in (*lock.engines, *lock.tools)
        ],
        "images": [{"reference": image.reference, "digest": image.digest} for image in lock.images],
        "files": len(lock.files),
    }
