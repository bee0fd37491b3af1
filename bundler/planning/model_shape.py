"""What decides a pinned model's KV cache, read from the pinned files: here if they are, else from the Hub."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bundler.content.gguf import read_header
from bundler.content.published_json import parse_published_json
from bundler.core.specs.lock import LockedModel, LockedModelFile
from bundler.sizing.memory import ModelShape

if TYPE_CHECKING:
    from bundler.sources.hub.client import Patience

CONFIG = "config.json"
CONFIG_LIMIT = 16 << 20
_SHARD = re.compile(r"(.*)-[0-9]{5}-of-([0-9]{5})\.gguf")


def weight_files(model: LockedModel, model_file: str | None) -> tuple[LockedModelFile, ...]:
    """The files an engine loads: all shards of the GGUF `model_file`, or the safetensors at the root.

    Without `model_file` all GGUF files; without safetensors whatever pickles were waived. Empty when the
    model has no weights.
    """
    if model_file is not None and model_file.endswith(".gguf"):
        return tuple(file for file in model.files if _same_model(file.path, model_file))
    for suffix in (".safetensors", ".gguf", ".bin", ".pt", ".pth"):
        found = tuple(file for file in model.files if file.path.endswith(suffix))
        at_root = tuple(file for file in found if "/" not in file.path)
        if found:
            return at_root or found
    return ()


def _same_model(path: str, first: str) -> bool:
    """Whether two paths are shards of one GGUF model (llama.cpp's naming)."""
    one, other = _SHARD.fullmatch(path), _SHARD.fullmatch(first)
    return path == first or bool(one and other and one.groups() == other.groups())


def read_shape(model: LockedModel, model_file: str | None, places: Sequence[Path]) -> ModelShape | None:
    """The model's shape; None when the files do not tell it.

    `places` are bundle roots where the files may lie already. Raises NetworkError and what reading them
    raises (MalformedError, IntegrityError).
    """
    weights = weight_files(model, model_file)
    if weights and weights[0].path.endswith(".gguf"):
        return _gguf_shape(model, weights[0], places)
    config = next((file for file in model.files if file.path == CONFIG), None)
    if config is None:
        return None
    data = _local(model, config, places)
    if data is None:
        from bundler.sources.hub.repository import read_small

        data = read_small(model, CONFIG, CONFIG_LIMIT, patience=plan_patience())
    return parse_config(data, f"{model.repo}: {CONFIG}")


def parse_config(data: bytes, where: str) -> ModelShape | None:
    """The shape in the bytes of a `config.json`. Raises MalformedError."""
    value = parse_published_json(data, limit=CONFIG_LIMIT, where=where).value
    return ModelShape.parse(value) if isinstance(value, dict) else None


def _local(model: LockedModel, file: LockedModelFile, places: Sequence[Path]) -> bytes | None:
    """The file's bytes from a place that has exactly what is locked."""
    for place in places:
        path = place / model.snapshot / file.path
        if (
            path.is_file()
            and path.stat().st_size == file.size
            and _is_locked(data := path.read_bytes(), file)
        ):
            return data
    return None


def _is_locked(data: bytes, file: LockedModelFile) -> bool:
    if file.lfs_sha256 is not None:
        return hashlib.sha256(data).hexdigest() == file.lfs_sha256
    # git's object id is SHA-1 by definition; it is compared, not trusted beyond the lock.
    git = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False)
    return git.hexdigest() == file.git_blob_sha1


def plan_patience() -> Patience:
    """Asking twice is enough here: a plan without a network says so within seconds."""
    from bundler.sources.hub.client import Patience
    from bundler.sources.retry import RetryPolicy

    return Patience(retries=RetryPolicy(tries=2))


def _gguf_shape(model: LockedModel, file: LockedModelFile, places: Sequence[Path]) -> ModelShape | None:
    where = f"{model.repo}: {file.path}"
    for place in places:
        path = place / model.snapshot / file.path
        if path.is_file() and path.stat().st_size == file.size:
            with path.open("rb") as stream:
                return _shape_in(stream.fileno(), where)
    from bundler.sources.hub.repository import preview_header

    beginning = preview_header(model, file, patience=plan_patience())
    # The header's reader compares it with the file's size: a sparse file in memory has the one and the other.
    descriptor = os.memfd_create("gguf-header")
    try:
        os.write(descriptor, beginning)
        os.ftruncate(descriptor, file.size)
        return _shape_in(descriptor, where)
    finally:
        os.close(descriptor)


def _shape_in(descriptor: int, where: str) -> ModelShape | None:
    header = read_header(descriptor, where=where)
    architecture = header.text("general.architecture")
    return ModelShape.parse_gguf(architecture, header.integer) if architecture else None
