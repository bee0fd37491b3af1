"""A no counts (format.md section 6): who objects, what was withdrawn, and what stands.

Pure. A person who signed a no does not count for a requirement, whatever else they signed, until another
statement of theirs that counts names the no in `supersedes`. Standard library only, Python 3.9.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bundler.core.digest import is_sha256_hex
from bundler.core.predicate_types import REFUSALS, deciding_members

SUPERSEDES = "supersedes"


@dataclass(frozen=True)
class Objection:
    """A statement in which an owner of a role says no, and has not withdrawn it.

    `blocks` is True when it blocks the whole requirement, False when only its owner does not count.
    """

    attestation: str
    owner: str
    said: str
    blocks: bool


@dataclass(frozen=True)
class Voice:
    """One authenticated statement of the required type as this module looks at it.

    `owner` is the folded name of the person. `about` says whether it speaks of this manifest. `counts` says
    whether it fulfils the requirement.
    """

    attestation: str
    owner: str
    shown_owner: str
    payload_sha256: str
    predicate: Mapping[str, Any]
    about: bool
    counts: bool


def standing_objections(
    predicate_type: str, where: Mapping[str, Any], voices: Iterable[Voice]
) -> tuple[Objection, ...]:
    """Every no among `voices` that was not withdrawn.

    `voices` are the statements of the required type by live keys of owners of the role.
    """
    voices = tuple(voices)
    withdrawn = _withdrawn(voices)
    found = []
    for voice in voices:
        said, blocks = _no(predicate_type, where, voice.predicate)
        if voice.about and said and (voice.owner, voice.payload_sha256) not in withdrawn:
            found.append(Objection(voice.attestation, voice.shown_owner, said, blocks))
    return tuple(found)


def withdrawn_approvals(voices: Iterable[Voice]) -> frozenset[str]:
    """The names of those that fulfil the requirement but that their owner replaced by a later statement."""
    voices = tuple(voices)
    withdrawn = _withdrawn(voices)
    return frozenset(item.attestation for item in voices if (item.owner, item.payload_sha256) in withdrawn)


def supersedes_fault(predicate: Mapping[str, Any]) -> str:
    """Why `supersedes` cannot be read; empty when it is absent or a list of SHA-256."""
    value = predicate.get(SUPERSEDES, [])
    if isinstance(value, list) and all(is_sha256_hex(item) for item in value):
        return ""
    return f"{SUPERSEDES} is {value!r}, not a list of SHA-256"[:200]


def _withdrawn(voices: Iterable[Voice]) -> frozenset[tuple[str, str]]:
    """Owner and payload of every statement that another counted one of the same owner names.

    A chain holds: what was withdrawn once stays withdrawn when the withdrawing statement is replaced by
    another one that counts. In a circle nobody counts.
    """
    return frozenset(
        (voice.owner, digest)
        for voice in voices
        if voice.counts
        for digest in _named(voice)
        if digest != voice.payload_sha256
    )


def _named(voice: Voice) -> list[str]:
    value = voice.predicate.get(SUPERSEDES, [])
    return [] if supersedes_fault(voice.predicate) else list(value)


def _no(predicate_type: str, where: Mapping[str, Any], predicate: Mapping[str, Any]) -> tuple[str, bool]:
    """What a statement says against the requirement (empty: nothing), and whether that blocks it."""
    decides = deciding_members(predicate_type)
    for name, wanted in where.items():
        # The other members select. One that is absent selects nothing: a general no is a no here, too.
        if name not in (*decides, *REFUSALS) and name in predicate and not _same(predicate[name], wanted):
            return "", False
    for name, refusal in REFUSALS.items():
        if predicate.get(name) == refusal:
            return f"{name} is {refusal!r}", True
    for name in decides:
        if name in where and not _same(predicate.get(name), where[name]):
            said = f"{name} is {predicate[name]!r}" if name in predicate else f"it does not say {name}"
            return said[:200], False
    return "", False


def _same(value: Any, wanted: Any) -> bool:
    return type(value) is type(wanted) and bool(value == wanted)
