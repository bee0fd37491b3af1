"""Everything a lock wants fetched, as one list of jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, cast

from bundler.assembly.artifacts import TOOLS_FOLDER, WHEELS_FOLDER
from bundler.core.lock import Lock
from bundler.core.spec import IndexSpec, Spec
from bundler.errors import MalformedError
from bundler.sources.files import file_jobs
from bundler.sources.huggingface import model_jobs
from bundler.sources.images import image_jobs
from bundler.sources.jobs import FetchJob
from bundler.sources.wheels import wheel_jobs


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
        jobs += wheel_jobs(engine, indexes.get(engine.id, ()), folder=WHEELS_FOLDER)
    for tools in lock.tools:
        jobs += wheel_jobs(tools, (), folder=TOOLS_FOLDER)
    jobs += image_jobs(lock.images)
    jobs += file_jobs(lock.files, base)
    return _once(jobs)


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
