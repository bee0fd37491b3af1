"""`sealift inspect`: what a bundle says of itself. Shows, never vouches."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import click

from bundler.cli.arguments import BundleFolder
from bundler.cli.bundle_files import read_manifest, read_small
from bundler.cli.output import Output, json_option, printable
from bundler.core import layout, strict_json
from bundler.core.artifacts import Artifact, artifacts_of, launch_members_of, object_of
from bundler.core.chunks import FileChunks, split_chunk_list
from bundler.core.manifest import ATTESTATIONS, Manifest
from bundler.core.report import Report
from bundler.core.units import format_bytes
from bundler.errors import MalformedError, SealiftError, UsageError
from bundler.records import license_table

LOCK_LIMIT = 256 << 20


@click.command()
@click.argument("bundle", type=BundleFolder(manifests=True, exists=True))
@click.option("--files", is_flag=True, help="List every file with size and digest.")
@click.option("--chain", "chained", metavar="FILE", help="Show one file's chain from upstream to signature.")
@click.option("--licenses", is_flag=True, help="Show each artifact's licence and the licence texts.")
@json_option
def command(bundle: Path, files: bool, chained: str | None, licenses: bool, as_json: bool) -> int:
    """Show what BUNDLE holds, where it came from and who says so.

    Nothing is verified here; `sealift verify` does that.
    """
    if chained and licenses:
        raise click.UsageError("--chain and --licenses show different things: give one of them")
    output = Output(as_json)
    if bundle.name == layout.MANIFEST and (bundle.parent / layout.PAYLOAD).is_dir():
        bundle = bundle.parent  # the manifest was named, and the bundle is meant
    manifest, _ = read_manifest(bundle)
    if licenses:
        return output.emit(Report(verb="inspect", data=show_licenses(manifest, output)))
    statements = read_statements(bundle) if bundle.is_dir() else {}
    if chained:
        return output.emit(
            Report(verb="inspect", data=show_chain(bundle, manifest, chained, statements, output))
        )
    show_head(manifest, output)
    show_artifacts(manifest, output)
    if bundle.is_dir():
        show_statements(statements, output)
    else:
        output.data(f"{'attestation':<12} not known: this is a manifest without its bundle")
    if files:
        for entry in manifest.files:
            output.data(f"{entry.sha256}  {entry.size:>15}  {printable(entry.path)}")
    output.say("nothing was verified; `sealift verify BUNDLE --policy POLICY` does that")
    return output.emit(Report(verb="inspect", data=to_json(manifest, statements, files)))


def to_json(manifest: Manifest, statements: dict[str, Any], files: bool) -> dict[str, Any]:
    """The inspection for machines; files only when asked for, they can be many."""
    members = {name: value for name, value in manifest.members.items() if name != "files"}
    listed = [entry.to_json() for entry in manifest.files] if files else len(manifest.files)
    return {
        "verified": False,
        "manifest": {**members, "sha256": manifest.sha256, "files": listed, "bytes": manifest.total_bytes},
        "unknownMembers": list(manifest.unknown_members),
        "attestations": statements,
    }


def show_head(manifest: Manifest, output: Output) -> None:
    """Name, serial, digest, size, builder."""
    members = manifest.members
    tool = object_of(members, "tool")
    rows = [
        ("name", members.get("name", "-")),
        ("channel", f"{manifest.channel}, serial {manifest.serial}"),
        ("manifest", f"sha256:{manifest.sha256}"),
        ("lock", f"sha256:{members['lock']}" if "lock" in members else "-"),
        ("made", f"{members.get('createdAt', '-')} by {tool.get('name', '?')} {tool.get('version', '')}"),
        ("holds", f"{len(manifest.files)} files, {format_bytes(manifest.total_bytes)}"),
    ]
    for name, text in rows:
        output.data(f"{name:<12} {printable(str(text))}")
    for name in manifest.unknown_members:
        output.data(f"{'unknown':<12} member {printable(name)}, kept and not understood")


def show_artifacts(manifest: Manifest, output: Output) -> None:
    """Each artifact with what it resolved to, licence and signature; wheels are counted by target."""
    wheels: dict[str, list[str]] = {}
    for artifact in artifacts_of(manifest):
        if artifact.kind in ("wheels", "tool"):
            for target in artifact.targets:
                wheels.setdefault(target, []).append(_signature_state(artifact))
            continue
        asked = artifact.source.get("asked", artifact.id)
        facts = [_license_text(artifact), f"upstream signature {_signature_state(artifact)}"]
        if not artifact.upstream_signature:
            facts.pop()
        text = f"{asked} = {artifact.source.get('resolved', '?')} ({'; '.join(facts)})"
        output.data(printable(f"{artifact.kind or '?':<12} {text}"))
    for target, states in sorted(wheels.items()):
        offered = [f"{states.count(state)} {state}" for state in sorted({*states} - {"none-offered"})]
        attested = f", attestations: {', '.join(offered)}" if offered else ""
        output.data(f"{'wheels':<12} {printable(f'{target}: {len(states)}{attested}')}")
    for entry in launch_members_of(manifest):
        engine = object_of(entry, "engine")
        runs_on = f"{engine.get('name')} {engine.get('version')}"
        text = f"{entry.get('profile')}: {entry.get('servedName')} on {runs_on}"
        output.data(f"{'profile':<12} {printable(text)}")


def _signature_state(artifact: Artifact) -> str:
    """What the builder found about the artifact's upstream signature; without a word, that there is none."""
    return str(artifact.upstream_signature.get("state", "none-offered"))


def _license_text(artifact: Artifact) -> str:
    facts = artifact.license
    return str(facts.get("concluded") or facts.get("declared") or "licence not declared")


def show_licenses(manifest: Manifest, output: Output) -> dict[str, Any]:
    """Print the licence table and give it back for machines."""
    artifacts = artifacts_of(manifest)
    rows = license_table.license_rows(artifacts, {entry.path for entry in manifest.files})
    texts = license_table.added_texts(artifacts)
    for line in license_table.table_lines(rows):
        output.data(line)
    for text in texts:
        output.data(f"licence text {text}")
    undeclared = sum(not row.is_declared for row in rows)
    output.say(f"{undeclared} of {len(rows)} artifacts declare no licence")
    output.say(f"note: {license_table.WARNING}; nothing was verified")
    return {
        "verified": False,
        "note": license_table.WARNING,
        "licenses": [row.to_json() for row in rows],
        "licenseTexts": [text.to_json() for text in texts],
    }


def show_statements(statements: dict[str, Any], output: Output) -> None:
    """The attestations by what they claim to say."""
    for name, statement in statements.items():
        output.data(
            printable(f"{'attestation':<12} {name}: {statement.get('predicateType', statement.get('error'))}")
        )
    if not statements:
        output.data(f"{'attestation':<12} none: the bundle is not signed")


def read_statements(bundle: Path) -> dict[str, Any]:
    """File name to predicate type and subjects, as claimed; a file that cannot be read says why."""
    found: dict[str, Any] = {}
    folder = bundle / ATTESTATIONS
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        try:
            found[path.name] = _statement(path)
        except (SealiftError, OSError, ValueError, KeyError, TypeError) as error:
            found[path.name] = {"error": f"cannot be read: {error}"}
    return found


def _statement(path: Path) -> dict[str, Any]:
    envelope = strict_json.loads(
        read_small(path, strict_json.ATTESTATION_LIMIT), limit=strict_json.ATTESTATION_LIMIT, where=path.name
    )
    statement = json.loads(base64.b64decode(envelope["dsseEnvelope"]["payload"], validate=True))
    return {
        "predicateType": str(statement["predicateType"]),
        "subjects": [str(subject["digest"]["sha256"]) for subject in statement["subject"]],
    }


def show_chain(
    bundle: Path, manifest: Manifest, name: str, statements: dict[str, Any], output: Output
) -> dict[str, Any]:
    """Print the chain of one file and give it back for machines."""
    from bundler.records.chain import chain, find_entry

    entry = find_entry(manifest, name)
    if not bundle.is_dir():
        raise UsageError(
            "not-a-bundle",
            "a chain needs the whole bundle: its lock and its attestations",
            where=str(bundle),
            expected="a folder with manifest.json",
            found="a manifest alone",
        )
    lock_bytes = read_small(bundle / layout.LOCK_RECORD, LOCK_LIMIT)
    lock = strict_json.loads(lock_bytes, limit=LOCK_LIMIT, where=layout.LOCK_RECORD)
    chunks = _chunks(bundle, manifest, entry.path)
    try:
        links = chain(
            manifest,
            entry,
            lock=lock,
            lock_sha256=hashlib.sha256(lock_bytes).hexdigest(),
            chunks=chunks,
            subjects={file: item.get("subjects", []) for file, item in statements.items()},
        )
    except (AttributeError, KeyError, TypeError) as error:
        # The record is whatever the bundle brought: only `sealift verify` says whose it is.
        raise MalformedError(
            "bad-lock",
            "the lock in the bundle is not valid",
            where=layout.LOCK_RECORD,
            found=repr(error),
        ) from error
    output.data(printable(entry.path))
    for link in links:
        mark = {True: "agrees", False: "DIFFERS", None: ""}[link.agrees]
        output.data(f"  {link.step:<20} {printable(link.says)} {mark}".rstrip())
    output.say("records compared with records; `sealift verify` compares them with the bytes")
    return {
        "path": entry.path,
        "chain": [{"step": link.step, "says": link.says, "agrees": link.agrees} for link in links],
    }


def _chunks(bundle: Path, manifest: Manifest, path: str) -> FileChunks | None:
    if manifest.chunks is None:
        return None
    data = read_small(bundle / manifest.chunks.path, strict_json.MANIFEST_LIMIT)
    return next((part for part in split_chunk_list(manifest, data) if part.entry.path == path), None)
