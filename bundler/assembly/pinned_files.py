"""Every file a lock pins: where it will lie, how large it is, what kind of thing it belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from bundler.core import layout
from bundler.core.chunks import DEFAULT_CHUNK_SIZE
from bundler.core.evidence import evidence_files
from bundler.core.specs.lock import Lock, LockedEngine, LockedModelFile

KINDS = ("weights", "model files", "engine wheels", "tools", "images", "files", "evidence")
WEIGHT_SUFFIXES = (".safetensors", ".gguf", ".bin", ".pt", ".pth")
GENERATED_PER_FILE = 1024
"""Bytes of manifest, SHA256SUMS, index pages and records for each file, rounded up (measured: about 600)."""
GENERATED_AT_LEAST = 4 << 20
"""verify.pyz, README, records and sealift's own wheel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedFile:
    """One file to fetch: a path from the bundle's root, bytes, and one of `KINDS`."""

    path: str
    size: int
    kind: str


def pinned_files(lock: Lock) -> tuple[PinnedFile, ...]:
    """All files of `lock`, each path once unless two items disagree about its size; in order of path."""
    found = {*_model_files(lock), *_image_files(lock)}
    found |= {
        *_wheels(lock.engines, layout.WHEELS, "engine wheels"),
        *_wheels(lock.tools, layout.TOOLS, "tools"),
    }
    found |= {PinnedFile(path=item.path, size=item.size, kind="files") for item in lock.files}
    found |= {PinnedFile(path=item.path, size=item.size, kind="evidence") for item in evidence_files(lock)}
    return tuple(sorted(found, key=lambda file: (file.path, file.size)))


def generated_bytes(files: Iterable[PinnedFile]) -> int:
    """Bytes that a build writes beside `files` (manifest, chunk digests, indexes, records), rounded up."""
    sizes = [file.size for file in files]
    chunks = sum(-(-size // DEFAULT_CHUNK_SIZE) for size in sizes)
    return GENERATED_AT_LEAST + 32 * chunks + GENERATED_PER_FILE * len(sizes)


def is_weight(file: LockedModelFile) -> bool:
    """Whether a file of a model holds weights."""
    return file.path.endswith(WEIGHT_SUFFIXES)


def _model_files(lock: Lock) -> Iterator[PinnedFile]:
    for model in lock.models:
        for file in model.files:
            kind = "weights" if is_weight(file) else "model files"
            yield PinnedFile(path=f"{model.snapshot}/{file.path}", size=file.size, kind=kind)


def _wheels(engines: Iterable[LockedEngine], folder: str, kind: str) -> Iterator[PinnedFile]:
    for engine in engines:
        for wheel in engine.wheels:
            yield PinnedFile(path=f"{folder}/{wheel.filename}", size=wheel.size, kind=kind)


def _image_files(lock: Lock) -> Iterator[PinnedFile]:
    if lock.images:
        from bundler.sources.images.images import image_jobs

        for job in image_jobs(lock.images):
            yield PinnedFile(path=job.path, size=job.size, kind="images")
