"""Publish attestations (PEP 740) that an index offers for wheels: pinned in the lock, fetched as evidence.

Whether they are good is `trust.upstream.provenance`'s to say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from bundler.core.evidence import provenance_path
from bundler.core.specs.lock import LockedEngine, LockedProvenance, LockedWheel
from bundler.core.specs.spec import IndexSpec
from bundler.errors import NetworkError
from bundler.sources.http import ChangedUpstreamError
from bundler.sources.jobs import FetchJob
from bundler.sources.small_documents import read_small
from bundler.sources.wheels.indexes import Indexes, engine_indexes
from bundler.sources.wheels.package_index import IndexFile, PackageIndex
from bundler.trust.upstream.provenance import PROVENANCE_LIMIT

WORKERS = 8
_GONE = ("not-found", "gone")


def with_provenance(wheels: Sequence[LockedWheel], indexes: Indexes) -> tuple[LockedWheel, ...]:
    """`wheels`, each with the pin of what its index offers for it; an index need not offer anything.

    A mirror may copy the link and not the document behind it: then nothing is offered. Raises NetworkError
    and MalformedError as `PackageIndex.files`, and MalformedError (`too-large`).
    """
    with ThreadPoolExecutor(max_workers=WORKERS) as pool:
        pins = pool.map(lambda wheel: _pin(wheel, indexes.named(wheel.index)), wheels)
        return tuple(
            wheel.model_copy(update={"provenance": pin}) for wheel, pin in zip(wheels, pins, strict=True)
        )


def _pin(wheel: LockedWheel, index: PackageIndex) -> LockedProvenance | None:
    file = _listed(index.files(wheel.name), wheel)
    source = index.provenance_source(file) if file is not None else None
    if source is None:
        return None
    try:
        data = read_small(source, limit=PROVENANCE_LIMIT, where=f"provenance of {wheel.filename}")
    except NetworkError as error:
        if error.reference in _GONE:
            return None
        raise
    return LockedProvenance(size=len(data), sha256=hashlib.sha256(data).hexdigest())


def _listed(files: Sequence[IndexFile], wheel: LockedWheel) -> IndexFile | None:
    """The very file as the index lists it: a provenance beside other bytes is not about this wheel."""
    return next(
        (item for item in files if item.filename == wheel.filename and item.sha256 in (None, wheel.sha256)),
        None,
    )


def provenance_jobs(
    engine: LockedEngine, indexes: Sequence[IndexSpec], *, environ: Mapping[str, str] | None = None
) -> list[FetchJob]:
    """A job for each pinned provenance of `engine`; addresses are asked of the index when it is opened.

    Raises UsageError (`variable-unset`) and MalformedError (`unknown-index`).
    """
    offered = [wheel for wheel in engine.wheels if wheel.provenance is not None]
    used = {wheel.index for wheel in offered}
    found = engine_indexes([item for item in indexes if item.name in used], {}, environ)
    return [_job(wheel, wheel.provenance, found.named(wheel.index)) for wheel in offered if wheel.provenance]


def _job(wheel: LockedWheel, pin: LockedProvenance, index: PackageIndex) -> FetchJob:
    source = _ProvenanceSource(index=index, wheel=wheel, size=pin.size)
    return FetchJob(path=provenance_path(wheel), size=pin.size, sha256=pin.sha256, source=source)


@dataclass(frozen=True, slots=True, kw_only=True)
class _ProvenanceSource:
    """The provenance of a wheel, wherever the index says it is now."""

    index: PackageIndex
    wheel: LockedWheel
    size: int

    @contextmanager
    def open(self, offset: int) -> Iterator[Iterator[bytes]]:
        """The bytes from `offset` on. Raises ChangedUpstreamError (`provenance-gone`) and NetworkError."""
        file = _listed(self.index.files(self.wheel.name, patient=False), self.wheel)
        source = self.index.provenance_source(file, size=self.size) if file is not None else None
        if source is None:
            raise ChangedUpstreamError(
                "provenance-gone",
                "the index no longer offers the attestations that were locked",
                where=f"index {self.index.name}: {self.wheel.filename}",
                expected=f"{self.size} bytes of provenance",
                found="none",
                hint="`sealift lock --check SPEC` tells what moved; lock again to take it",
            )
        with source.open(offset) as body:
            yield body
