"""Seal: the closed world, the chunk list, and the manifest as the last file written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bundler.core import layout
from bundler.core.chunks import chunked_entries
from bundler.core.manifest import (
    MANIFEST_NAME,
    SHA256SUMS_PATH,
    ChunkList,
    FileEntry,
    Manifest,
    compose,
)
from bundler.core.paths import parse_bundle_path
from bundler.errors import ExitCode, Finding, IntegrityError
from bundler.storage.payload import PayloadStore, StoredFile
from bundler.storage.tree import opened_root, tree_findings, walk_tree

HINT = "put it right or remove it, then run the same `sealift build` again"


def seal(
    store: PayloadStore,
    *,
    planned: Iterable[str],
    channel: str,
    serial: int,
    owners: Mapping[str, str],
    members: Mapping[str, Any],
) -> bytes:
    """Write the chunk list, `SHA256SUMS` and, last, `manifest.json`; gives back the manifest's bytes.

    `planned` names every file that the lock asks for. Raises IntegrityError with all findings when one of
    them is gone or changed since it was stored, or when the tree holds anything else.
    """
    for path in (MANIFEST_NAME, SHA256SUMS_PATH, layout.CHUNKS):
        store.discard(path)
    stored = store.stored()
    _refuse([_gone(path) for path in sorted(set(planned) - stored.keys())])
    files = [_entry(item, owners) for item in _by_path(stored.values())]
    covered = chunked_entries(files, layout.CHUNKS)
    chunk_list = b"".join(stored[entry.path].chunk_digests for entry in covered)
    files.append(_entry(store.put_bytes(layout.CHUNKS, chunk_list), owners))
    files.sort(key=lambda entry: entry.path)
    sums = "".join(f"{entry.sha256}  {entry.path}\n" for entry in files)
    files.append(_entry(store.put_bytes(SHA256SUMS_PATH, sums.encode()), owners))
    chunks = ChunkList(path=parse_bundle_path(layout.CHUNKS), size=store.chunk_size)
    manifest = compose(channel=channel, serial=serial, files=files, chunks=chunks, **members)
    _refuse(closed_world_findings(store, manifest))
    store.put_bytes(MANIFEST_NAME, manifest)
    return manifest


def closed_world_findings(store: PayloadStore, manifest: bytes) -> list[Finding]:
    """How the tree differs from what the manifest, not yet written, will say of it."""
    with opened_root(store.root) as root:
        found = tree_findings(walk_tree(root), Manifest.parse(manifest), len(manifest))
    return [finding for finding in found if finding.where != MANIFEST_NAME]


def _gone(path: str) -> Finding:
    return Finding(
        "missing-file",
        "a file of the lock is not in the tree, or changed after it was fetched",
        where=path,
        hint=HINT,
        exit_code=ExitCode.INTEGRITY,
    )


def _refuse(findings: list[Finding]) -> None:
    if findings:
        raise IntegrityError.of(findings)


def _by_path(items: Iterable[StoredFile]) -> list[StoredFile]:
    return sorted(items, key=lambda item: item.path)


def _entry(item: StoredFile, owners: Mapping[str, str]) -> FileEntry:
    return FileEntry(
        path=parse_bundle_path(item.path),
        size=item.size,
        sha256=item.sha256,
        artifact=owners.get(item.path, ""),
    )
