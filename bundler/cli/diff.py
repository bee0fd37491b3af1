"""`sealift diff`: what changed between two bundles, manifests or locks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bundler.cli.arguments import LOCK_KIND, MANIFEST_KIND, BundleFolder, what_it_is
from bundler.cli.bundle_files import read_manifest, read_small
from bundler.cli.output import Output, json_option, printable
from bundler.core import strict_json
from bundler.core.differences import Change, manifest_difference, value_difference
from bundler.core.manifest import MANIFEST_TYPE, Manifest
from bundler.core.report import Report
from bundler.core.units import format_bytes
from bundler.errors import UsageError

LOCK_TYPE = "urn:sealift:lock:v1"
MARKS = {"added": "+", "removed": "-", "changed": "~"}


@click.command()
@click.argument("before", type=BundleFolder(manifests=True, exists=True))
@click.argument("after", type=BundleFolder(manifests=True, exists=True))
@json_option
def command(before: Path, after: Path, as_json: bool) -> int:
    """Compare BEFORE with AFTER: two bundles, two manifests or two locks.

    Shows what records say; it reads no payload. Exit 0 also when they differ; `--json` tells which.
    """
    output = Output(as_json)
    first, second = read_document(before), read_document(after)
    if isinstance(first, Manifest) and isinstance(second, Manifest):
        data = show_manifests(first, second, output)
    elif isinstance(first, dict) and isinstance(second, dict):
        data = {"changes": show(value_difference(first, second), output)}
    else:
        raise UsageError(
            "unlike-documents",
            "one is a lock and the other a bundle",
            where=f"{before}, {after}",
            hint="compare two of a kind",
        )
    if not any(data[name] for name in data if name != "newBytes"):
        output.data("no difference")
    return output.emit(Report(verb="diff", data=data))


def read_document(path: Path) -> Manifest | dict[str, Any]:
    """The manifest of a bundle folder, or the manifest or lock a file holds."""
    if path.is_dir():
        return read_manifest(path)[0]
    found = what_it_is(path)
    if found not in (None, MANIFEST_KIND, LOCK_KIND):
        raise _unknown(path, str(found))
    data = read_small(path, strict_json.MANIFEST_LIMIT)
    value = strict_json.loads(data, limit=strict_json.MANIFEST_LIMIT, where=str(path))
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == MANIFEST_TYPE:
        return Manifest.parse(data)
    if kind == LOCK_TYPE:
        assert isinstance(value, dict)
        return value
    raise _unknown(path, f"type {kind!r}")


def _unknown(path: Path, found: str) -> UsageError:
    return UsageError(
        "unknown-document",
        "this is neither a manifest nor a lock",
        where=str(path),
        expected="the folder of a bundle, its manifest.json, or a lock",
        found=found,
    )


def show_manifests(before: Manifest, after: Manifest, output: Output) -> dict[str, Any]:
    """Members, artifacts and files that differ, and the bytes a medium would carry."""
    difference = manifest_difference(before, after)
    data: dict[str, Any] = {
        "members": show(difference.members, output),
        "artifacts": show(difference.artifacts, output),
        "files": show(difference.files, output),
        "newBytes": difference.new_bytes,
    }
    output.data(f"{format_bytes(difference.new_bytes)} that the first bundle does not hold")
    return data


def show(changes: tuple[Change, ...], output: Output) -> list[dict[str, str]]:
    """One line a change: `+`, `-` or `~`, where, before and after."""
    for change in changes:
        arrow = " -> ".join(text for text in (change.before, change.after) if text)
        output.data(printable(f"{MARKS[change.kind]} {change.where}: {arrow}"))
    return [change.to_json() for change in changes]
