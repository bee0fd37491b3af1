"""The last look before a server starts: the bundle is still the one that was verified.

Between the last byte read and this look someone may have exchanged a file; between this look and the
engine's own reading someone still may, if the bundle lies where it can be written. The first is refused
here, the second is said.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from bundler.errors import IntegrityError
from bundler.storage.tree import Tree, changed_findings, opened_root, walk_tree

if TYPE_CHECKING:
    from bundler.verification.verify import VerifiedBundle


def refuse_changes(verified: VerifiedBundle) -> None:
    """Raises IntegrityError (`changed-while-verifying`, or what a tree must not hold) with every file that
    has another identity, size or time than when it was verified, is new or is gone. Reads no bytes.
    """
    with opened_root(verified.root) as root:
        now = walk_tree(root)
    findings = changed_findings(Tree(files=verified.stamps, directories=now.directories, findings=()), now)
    if findings:
        hint = "mount the bundle read-only, then launch again"
        raise IntegrityError.of([replace(finding, hint=hint) for finding in findings])


def writable_note(verified: VerifiedBundle) -> str:
    """A warning when the bundle's file system is mounted writable; empty when it is read-only."""
    if os.statvfs(verified.root).f_flag & os.ST_RDONLY:
        return ""
    return (
        "the bundle is on a file system that can be written: whoever may write there can exchange files "
        "after this verification; mount it read-only (mount -o remount,ro)"
    )
