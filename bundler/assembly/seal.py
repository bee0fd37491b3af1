"""Seal: the closed world, the chunk list, and the manifest as the last file written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bundler.core.chunks import chunked_entries
from bundler.core.manifest import CHUNKS_PATH, MANIFEST_NAME, SHA256SUMS_PATH, ChunkList, FileEntry, compose
from bundler.core.paths import parse_bundle_path
from bundler.errors import ExitCode, Finding, IntegrityError
from bundler.storage.payload import PayloadStore, StoredFile
from bundler.storage.tree import walk_tree


def closed_world_findings(store: PayloadStore, planned: set[str]) -> list[Finding]:
    """What is in the tree and not planned, or planned and not there. Nothing of either may be sealed."""
    tree = walk_tree(store.root)
    present = set(tree.files)
    stored = set(store.stored())
    found = list(tree.findings)
    found += [
        _finding("unlisted-file", "a file is in the tree that no lock asked for", p)
        for p in sorted(present - planned)
    ]
    found += [
        _finding("missing-file", "a file of the lock is not in the tree", p)
        for p in sorted(planned - present)
    ]
    changed = sorted((planned & present) - stored)
    found += [_finding("changed-file", "a file changed after it was fetched and checked", p) for p in changed]
    wanted = {path.rsplit("/", depth)[0] for path in planned for depth in range(1, path.count("/") + 1)}
    empty = sorted(set(tree.directories) - wanted)
    return found + [_finding("unlisted-directory", "a directory holds nothing of the lock", p) for p in empty]


def _finding(reference: str, what: str, path: str) -> Finding:
    return Finding(
        reference=reference,
        what=what,
        where=path,
        hint="remove it or put it back, then run the same `sealift build` again",
        exit_code=ExitCode.INTEGRITY,
    )


def seal(
    store: PayloadStore, *, channel: str, serial: int, owners: Mapping[str, str], members: Mapping[str, Any]
) -> bytes:
    """Write the chunk list, `SHA256SUMS` and, last, `manifest.json`; gives back the manifest's bytes.

    Every file must be stored already. Raises IntegrityError with all findings when the tree is not
    exactly what the store holds.
    """
    for path in (MANIFEST_NAME, SHA256SUMS_PATH, CHUNKS_PATH):
        store.discard(path)
    _refuse(closed_world_findings(store, set(store.stored())))
    stored = sorted(store.stored().values(), key=lambda item: item.path)
    covered = {
        entry.path for entry in chunked_entries([_entry(item, owners) for item in stored], CHUNKS_PATH)
    }
    chunk_list = b"".join(item.chunk_digests for item in stored if item.path in covered)
    stored.append(store.put_bytes(CHUNKS_PATH, chunk_list))
    stored.sort(key=lambda item: item.path)
    sums = "".join(f"{item.sha256}  {item.path}\n" for item in stored)
    stored.append(store.put_bytes(SHA256SUMS_PATH, sums.encode()))
    manifest = compose(
        channel=channel,
        serial=serial,
        files=[_entry(item, owners) for item in stored],
        chunks=ChunkList(path=parse_bundle_path(CHUNKS_PATH), size=store.chunk_size),
        **members,
    )
    _refuse(closed_world_findings(store, {item.path for item in stored}))
    store.put_bytes(MANIFEST_NAME, manifest)
    return manifest


def _refuse(findings: list[Finding]) -> None:
    if findings:
        raise IntegrityError.of(findings)


def _entry(item: StoredFile, owners: Mapping[str, str]) -> FileEntry:
    return FileEntry(
        path=parse_bundle_path(item.path),
        size=item.size,
        sha256=item.sha256,
        artifact=owners.get(item.path, ""),
    )
