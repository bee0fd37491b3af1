"""Which digests a full verification compares, and what their disagreement means (format.md section 4).

The digest of a file in the manifest is the authority. It needs the file from its first byte to its last, in
one thread; chunk digests spread over all cores and name the damaged range. So the first verification of a
manifest compares the files, several at a time. Where that leaves cores idle, or costs little, it compares the
chunks too: once both agreed, chunks alone are enough. Also runs in `verify.pyz`: standard library only,
Python 3.9.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bundler.core.chunks import FileChunks
from bundler.errors import ExitCode, Finding
from bundler.storage.hashing import Damage, Unit, as_one_chunk, plan_units
from bundler.storage.tree import Stamp

BOTH_UP_TO_BYTES = 1 << 30
"""Files of several chunks with fewer bytes together are always compared both ways: less than a second."""
IDLE_CORES = 1.25
"""Chunks are compared too when the largest file alone takes so many times longer than an even share."""


@dataclass(frozen=True)
class DigestPlan:
    """The units to read. `both` says whether file and chunk digests of every file are among them."""

    units: tuple[Unit, ...]
    both: bool


def plan_digests(
    parts: Sequence[FileChunks], stamps: Mapping[str, Stamp], *, agreed: bool, workers: int
) -> DigestPlan:
    """The work for files with these chunk digests; with `agreed`, the chunk list is known to be right."""
    if agreed:
        return DigestPlan(units=plan_units(parts, stamps), both=False)
    # The largest first: whatever is left at the end is short.
    files = sorted((as_one_chunk(part.entry) for part in parts), key=lambda part: -part.entry.size)
    units = plan_units(files, stamps)
    several = [part for part in parts if len(part) > 1]
    both = _worth_both([part.entry.size for part in several], workers)
    return DigestPlan(units=(*units, *plan_units(several, stamps, again=True)) if both else units, both=both)


def _worth_both(sizes: Sequence[int], workers: int) -> bool:
    total = sum(sizes)
    return total <= BOTH_UP_TO_BYTES or max(sizes) * workers > total * IDLE_CORES


def contradictions(parts: Iterable[FileChunks]) -> list[Finding]:
    """`chunk-list-contradicts`: files of one chunk whose two digests differ. No byte is read."""
    return [
        chunk_list_finding(part.entry.path, f"sha256:{part.entry.sha256}", f"sha256:{part.digests.hex()}")
        for part in parts
        if len(part) == 1 and part.digests.hex() != part.entry.sha256
    ]


def not_localised(damage: Iterable[Damage], units: Iterable[Unit]) -> set[str]:
    """Paths of files that differ as a whole, and whose chunks were not compared."""
    compared = {unit.path for unit in units if not unit.is_whole_file}
    return {item.unit.path for item in _whole(damage)} - compared


def _whole(damage: Iterable[Damage]) -> list[Damage]:
    return [
        item for item in damage if item.unit.is_whole_file and item.reference != "changed-while-verifying"
    ]


def reconciled(damage: Sequence[Damage]) -> tuple[list[Damage], list[Finding]]:
    """Damage told once: by its chunks where they show it, else by the file.

    A file that is right as a whole while its chunks differ has a wrong chunk list: that is a finding of its
    own, and the file counts.
    """
    whole = {item.unit.path for item in damage if item.unit.is_whole_file}
    by_chunk = {item.unit.path for item in damage if not item.unit.is_whole_file}
    shown = {item.unit.path for item in _whole(damage)} & by_chunk
    wrong_list = {
        item.unit.path
        for item in damage
        if item.unit.again and item.reference == "digest-mismatch" and item.unit.path not in whole
    }
    kept = [
        item
        for item in damage
        if not (item.unit.is_whole_file and item.unit.path in shown)
        and not (item.reference == "digest-mismatch" and item.unit.path in wrong_list)
    ]
    expected, found = "chunk digests of the file that the manifest lists", "those of other bytes"
    return kept, [chunk_list_finding(path, expected, found) for path in sorted(wrong_list)]


def chunk_list_finding(where: str, expected: str, found: str) -> Finding:
    """The signed chunk list and the signed digest of a file are about different bytes."""
    return Finding(
        "chunk-list-contradicts",
        "the chunk list contradicts the digest that the manifest gives for the file",
        where=where,
        expected=expected,
        found=found,
        hint="do not use this bundle; ask the release engineer to build it again with `sealift build`",
        exit_code=ExitCode.INTEGRITY,
    )
