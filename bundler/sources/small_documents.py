"""Small documents read into memory: capped while they arrive, tried again, compared with their pin."""

from __future__ import annotations

import hashlib

from bundler.errors import IntegrityError, MalformedError
from bundler.sources.hub.files import git_blob_sha1
from bundler.sources.jobs import ByteSource, FetchJob
from bundler.sources.retry import RetryPolicy, persistently


def read_small(source: ByteSource, *, limit: int, where: str, retries: RetryPolicy | None = None) -> bytes:
    """All bytes of `source`, at most `limit`. Raises MalformedError (`too-large`), NetworkError."""
    return persistently(lambda: _capped(source, limit, where), policy=retries)


def _capped(source: ByteSource, limit: int, where: str) -> bytes:
    data = bytearray()
    with source.open(0) as body:
        for piece in body:
            data += piece
            if len(data) > limit:
                raise MalformedError(
                    "too-large",
                    "a document of upstream is larger than any honest one",
                    where=where,
                    expected=f"at most {limit} bytes",
                    found="more",
                )
    return bytes(data)


def read_job(job: FetchJob, *, retries: RetryPolicy | None = None) -> bytes:
    """The bytes a job fetches, equal to its pin. Raises IntegrityError (`digest-mismatch`), NetworkError."""
    data = read_small(job.source, limit=job.size, where=job.path, retries=retries)
    pairs = [
        ("sha256", job.sha256, hashlib.sha256(data).hexdigest()),
        ("git blob", job.git_blob_sha1, git_blob_sha1(data)),
    ]
    for kind, expected, found in pairs:
        if expected not in (None, found) or len(data) != job.size:
            raise IntegrityError(
                "digest-mismatch",
                "evidence is not what was pinned",
                where=job.path,
                expected=f"{job.size} bytes, {kind}:{expected}",
                found=f"{len(data)} bytes, {kind}:{found}",
                hint="run the same command again; if it stays so, upstream changes while it is asked",
            )
    return data
