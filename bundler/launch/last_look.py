"""The last look before a server starts: the bundle is still the one that was verified.

Between the last byte read and this look someone may have exchanged a file, or may hold one in a writable
mapping, which leaves no stamp. Both are refused here. Between this look and the engine's own reading someone
still may, if the bundle is stored where it can be written; `writable_note` says so.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from bundler.errors import Finding, IntegrityError
from bundler.storage.leases import Leases
from bundler.storage.tree import Tree, changed_findings, opened_root, walk_tree

if TYPE_CHECKING:
    from bundler.verification.verify import VerifiedBundle


def refuse_changes(verified: VerifiedBundle, leases: Leases | None = None) -> None:
    """Refuse a bundle that changed since it was verified, or that somebody may be changing. Reads no bytes.

    `leases` are those taken when it was verified; without them it is only known who writes now. Raises
    IntegrityError (`changed-while-verifying`, `open-for-writing`, or what a tree must not hold) with every
    file that has another identity, size or time than when it was verified, is new, gone or being written.
    """
    with opened_root(verified.root) as root:
        now = walk_tree(root)
        findings = changed_findings(
            Tree(files=verified.stamps, directories=now.directories, findings=()), now
        )
        findings += _written(root, verified, leases)
    if findings:
        hint = "mount the bundle read-only, then launch again"
        raise IntegrityError.of([replace(finding, hint=hint) for finding in findings])


def _written(root: int, verified: VerifiedBundle, leases: Leases | None) -> list[Finding]:
    if leases is not None:
        return leases.findings(root)
    with Leases() as momentary:
        return momentary.take(root, verified.stamps)


def writable_note(verified: VerifiedBundle) -> str:
    """A warning when the bundle's file system is mounted writable; empty when it is read-only."""
    if os.statvfs(verified.root).f_flag & os.ST_RDONLY:
        return ""
    return (
        "the bundle is on a file system that can be written: whoever may write there can exchange files "
        "after this verification; mount it read-only (mount -o remount,ro)"
    )
