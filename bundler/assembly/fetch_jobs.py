"""Everything a lock wants fetched, as one list of jobs; and evidence alone, for looking at while locking."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, cast

from bundler.assembly.upstream_findings import no_such_evidence
from bundler.core import layout
from bundler.core.evidence import rules_of, trust_file, trust_path
from bundler.core.specs.lock import Lock, LockedAttestationRule, LockedSignatureRule
from bundler.core.specs.spec import IndexSpec, Spec
from bundler.errors import MalformedError
from bundler.sources.files import LocalByteSource, file_jobs
from bundler.sources.hub.repository import model_jobs, signature_jobs
from bundler.sources.images.images import image_jobs
from bundler.sources.images.images import signature_jobs as image_signature_jobs
from bundler.sources.jobs import FetchJob
from bundler.sources.small_documents import read_job
from bundler.sources.wheels.provenance import provenance_jobs
from bundler.sources.wheels.wheels import wheel_jobs


def all_jobs(lock: Lock, *, spec: Spec, base: Path, transport: str) -> list[FetchJob]:
    """One job for each file, wheel and blob; a file that two engines share is fetched once.

    `base` is the folder local paths of the lock are relative to. Index addresses come from the spec,
    since the lock holds none.
    """
    indexes: dict[str, tuple[IndexSpec, ...]] = {item.identifier: item.indexes for item in spec.engines}
    jobs: list[FetchJob] = []
    for model in lock.models:
        jobs += model_jobs(model, endpoint=model.endpoint, transport=cast(Literal["http", "xet"], transport))
    for engine in lock.engines:
        jobs += wheel_jobs(engine, indexes.get(engine.id, ()), folder=layout.WHEELS)
    for tools in lock.tools:
        jobs += wheel_jobs(tools, (), folder=layout.TOOLS)
    jobs += image_jobs(lock.images)
    jobs += file_jobs(lock.files, base)
    jobs += evidence_jobs(lock, spec=spec, base=base)
    return _once(jobs)


def evidence_jobs(lock: Lock, *, spec: Spec, base: Path) -> list[FetchJob]:
    """One job for each file of evidence: what upstream signed, and what the spec checks it with."""
    indexes: dict[str, tuple[IndexSpec, ...]] = {item.identifier: item.indexes for item in spec.engines}
    jobs = [_trust_job(rule, base) for rule in rules_of(lock)]
    for model in lock.models:
        jobs += signature_jobs(model, endpoint=model.endpoint)
    for engine in lock.engines:
        jobs += provenance_jobs(engine, indexes.get(engine.id, ()))
    for tools in lock.tools:
        jobs += provenance_jobs(tools, ())
    jobs += image_signature_jobs(lock.images)
    return _once(jobs)


def _trust_job(rule: LockedSignatureRule | LockedAttestationRule, base: Path) -> FetchJob:
    file = trust_file(rule)
    source = LocalByteSource(path=base / file.source, size=file.size)
    return FetchJob(path=trust_path(rule), size=file.size, sha256=file.sha256, source=source)


def evidence_reader(lock: Lock, spec: Spec, base: Path) -> Callable[[str], bytes]:
    """A function from bundle path to the bytes of that evidence, fetched when asked for and equal to its pin.

    It raises IntegrityError (`digest-mismatch`), NetworkError, MalformedError (`no-such-evidence`).
    """
    jobs = {job.path: job for job in evidence_jobs(lock, spec=spec, base=base)}

    def read(path: str) -> bytes:
        if path not in jobs:
            raise no_such_evidence(path)
        return read_job(jobs[path])

    return read


def _once(jobs: list[FetchJob]) -> list[FetchJob]:
    """Each path once. Raises MalformedError when two jobs want different bytes in one place."""
    by_path: dict[str, FetchJob] = {}
    for job in jobs:
        first = by_path.setdefault(job.path, job)
        if (first.size, first.sha256) != (job.size, job.sha256):
            raise MalformedError(
                "conflicting-files",
                "two artifacts want different bytes under one path",
                where=job.path,
                expected=f"sha256:{first.sha256}, {first.size} bytes",
                found=f"sha256:{job.sha256}, {job.size} bytes",
                hint="an index serves two different files of one name; pin one of the engines elsewhere",
            )
    return list(by_path.values())
