"""Sign: the three statements of a release, each in a file with exactly one signature (format.md section 5).

Signing again with the same key changes nothing; another key adds its own files beside the first one's.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bundler.core import layout, strict_json
from bundler.core.manifest import ATTESTATIONS, MANIFEST_NAME, Manifest
from bundler.errors import IntegrityError, UsageError
from bundler.signing.attestations import Attestations, Attestor
from bundler.storage.atomic import is_leftover
from bundler.storage.tree import Tree, opened_root, read_small, tree_findings, walk_tree
from bundler.trust.model_signing_format import oms_statement
from bundler.trust.statements import provenance_statement, release_statement

KINDS = ("release", "oms", "provenance")
LOCK_LIMIT = 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedBundle:
    """A bundle whose tree fits its manifest by names, types and sizes. Digests were not read again."""

    root: Path
    manifest: Manifest
    lock: Mapping[str, Any] | None
    lock_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """What was signed: files written and files that already said the same, below the bundle's root."""

    bundle: SealedBundle
    written: tuple[str, ...]
    kept: tuple[str, ...]
    left_out: tuple[str, ...]
    """Kinds that this bundle cannot have: no provenance without a lock."""


def open_sealed(root: Path) -> SealedBundle:
    """The sealed bundle at `root`, ready to be shown to whoever signs it.

    Raises UsageError (`not-sealed`), MalformedError, IntegrityError with every difference between tree and
    manifest, and (`lock-record`) when the lock it names is not among its records.
    """
    with opened_root(root) as descriptor:
        data = _manifest_bytes(root, descriptor)
        manifest = Manifest.parse(data)
        findings = tree_findings(_without_leftovers(walk_tree(descriptor)), manifest, len(data))
        if findings:
            raise IntegrityError.of(findings)
        lock = _read_lock(descriptor, manifest)
    return SealedBundle(
        root=root,
        manifest=manifest,
        lock=strict_json.loads(lock, limit=LOCK_LIMIT, where="lock") if lock else None,
        lock_sha256=hashlib.sha256(lock).hexdigest() if lock else "",
    )


def _without_leftovers(tree: Tree) -> Tree:
    """The tree without temporary files of a killed `sign`, which the next one removes."""
    files = {
        path: stamp
        for path, stamp in tree.files.items()
        if not (path.startswith(f"{ATTESTATIONS}/") and is_leftover(path.removeprefix(f"{ATTESTATIONS}/")))
    }
    return replace(tree, files=files)


def _manifest_bytes(root: Path, descriptor: int) -> bytes:
    try:
        return read_small(descriptor, MANIFEST_NAME, strict_json.MANIFEST_LIMIT)[0]
    except IntegrityError as error:
        if error.reference != "missing-file":
            raise
        raise UsageError(
            "not-sealed",
            "only a sealed bundle can be signed",
            where=str(root),
            expected=MANIFEST_NAME,
            found="none",
            hint="let `sealift build` finish first: it writes the manifest last",
        ) from error


def _read_lock(descriptor: int, manifest: Manifest) -> bytes:
    """The lock's bytes from the bundle's records; empty when the manifest names none."""
    wanted = manifest.members.get("lock")
    if wanted is None:
        return b""
    for entry in manifest.files:
        if entry.sha256 == wanted and layout.is_below(entry.path, layout.RECORDS):
            data, _ = read_small(descriptor, entry.path, LOCK_LIMIT)
            if hashlib.sha256(data).hexdigest() == wanted:
                return data
    raise IntegrityError(
        "lock-record",
        "the lock that the manifest names is not among the records",
        where=layout.RECORDS,
        expected=f"a file with sha256:{wanted}",
        hint="build the bundle again",
    )


def sign_bundle(bundle: SealedBundle, attestor: Attestor, kinds: Sequence[str] = KINDS) -> Signed:
    """Sign the statements `kinds` about `bundle` and write those that are not there yet, each atomically.

    Raises MalformedError when an attestation that is already there cannot be read.
    """
    written: list[str] = []
    kept: list[str] = []
    folder = Attestations.of(bundle.root)
    possible = [kind for kind in kinds if kind != "provenance" or bundle.lock is not None]
    for kind in possible:
        payload = computed_statement(bundle, kind)
        place = folder.put(
            kind, payload, attestor.label, attestor.made, functools.partial(attestor.attest, payload)
        )
        (kept if place.kept else written).append(f"{ATTESTATIONS}/{place.path.name}")
    left_out = tuple(kind for kind in kinds if kind not in possible)
    return Signed(bundle=bundle, written=tuple(written), kept=tuple(kept), left_out=left_out)


def computed_statement(bundle: SealedBundle, kind: str) -> bytes:
    """The statement of a kind in `KINDS`, which follows from the bundle alone.

    Raises UsageError (`no-lock`) for a provenance statement of a bundle without a lock.
    """
    if kind == "provenance" and bundle.lock is None:
        raise UsageError(
            "no-lock",
            "a provenance statement needs the lock, and the manifest names none",
            where=f"{MANIFEST_NAME}: lock",
            hint="build the bundle with `sealift build`, which records its lock",
        )
    return _STATEMENTS[kind](bundle)


def _provenance(bundle: SealedBundle) -> bytes:
    assert bundle.lock is not None
    return provenance_statement(bundle.manifest, bundle.lock, bundle.lock_sha256)


_STATEMENTS: dict[str, Callable[[SealedBundle], bytes]] = {
    "release": lambda bundle: release_statement(bundle.manifest),
    "oms": lambda bundle: oms_statement(
        bundle.manifest.files, bundle.manifest.sha256, name=bundle.root.resolve().name or "bundle"
    ),
    "provenance": _provenance,
}
