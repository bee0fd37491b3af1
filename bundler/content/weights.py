"""A model's weights as their headers and configuration show them, and whether all of it fits together.

Pure: the headers come from files here (`content.model`) or from their first bytes upstream (`content.early`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bundler.content import gguf, remote_code, safetensors
from bundler.content.model_format import format_finding
from bundler.content.quantization import Quantization
from bundler.content.quantization_layouts import Quantized, judge_layouts, quantization_findings
from bundler.content.shards import INDEX_SUFFIX, as_warning, shard_findings, whole_copy_findings
from bundler.errors import ExitCode, Finding

GGUF_SUFFIXES = (".gguf", ".gguf_file")
"""`imatrix_unsloth.gguf_file` is a GGUF under a foreign extension."""
_DOCUMENTS = ("tokenizer.json", "vocab.json", "special_tokens_map.json", "added_tokens.json", "params.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Headers and documents by path. `config` is the model's own configuration, or nothing; `folders` is what
    the tensors of each folder with weights show.
    """

    shards: Mapping[str, safetensors.SafetensorsHeader]
    ggufs: Mapping[str, gguf.GgufHeader]
    documents: Mapping[str, Any]
    config: Mapping[str, Any]
    folders: Mapping[str, WeightFolder]

    @classmethod
    def of(
        cls,
        shards: Mapping[str, safetensors.SafetensorsHeader],
        ggufs: Mapping[str, gguf.GgufHeader],
        documents: Mapping[str, Any],
    ) -> Weights:
        """From headers of safetensors and GGUF files and parsed JSON documents, all by path."""
        config = documents.get("config.json")
        return cls(
            shards=shards,
            ggufs=ggufs,
            documents=documents,
            config=config if isinstance(config, dict) else {},
            folders={name: _folder(name, shards, documents) for name in sorted({*map(_parent, shards)})},
        )

    @property
    def format(self) -> str:
        """The formats of all weights joined by `+`, usually one; `none` without readable weights."""
        formats = ["gguf"] if with_suffix(self.ggufs, ".gguf") else []
        if self.main or not formats:
            formats.append(self.main.quantized.format if self.main else "none")
        return "+".join(formats)

    @property
    def main(self) -> WeightFolder | None:
        """The folder whose weights an engine loads: the root, or else the first one with weights."""
        return self.folders.get("") or next(iter(self.folders.values()), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFolder:
    """The safetensors weights of one folder; `tensors` by name (a name in two shards is another finding)."""

    tensors: Mapping[str, safetensors.Tensor]
    quantization: Quantization
    quantized: Quantized


def _folder(
    name: str, shards: Mapping[str, safetensors.SafetensorsHeader], documents: Mapping[str, Any]
) -> WeightFolder:
    here = [header for path, header in shards.items() if _parent(path) == name]
    tensors = {tensor: value for header in here for tensor, value in header.tensors.items()}
    prefix = f"{name}/" if name else ""
    quantization = Quantization.of_config(
        documents.get(f"{prefix}config.json"), documents.get(f"{prefix}hf_quant_config.json")
    )
    return WeightFolder(
        tensors=tensors, quantization=quantization, quantized=judge_layouts(tensors, quantization)
    )


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def with_suffix(files: Iterable[str], suffix: str | tuple[str, ...]) -> list[str]:
    """The paths that end in `suffix`, in any letter case."""
    return [path for path in files if path.lower().endswith(suffix)]


def is_document(path: str) -> bool:
    """Whether an engine reads `path` as JSON."""
    name = path.rsplit("/", 1)[-1]
    named = name in (*remote_code.TEMPLATE_DOCUMENTS, *_DOCUMENTS) or name.endswith(INDEX_SUFFIX)
    return named or remote_code.is_config(path)


def weight_findings(weights: Weights, declared: str) -> Iterator[Finding]:
    """Findings across files: shards and index, scales, split parts, declared format, unwritten regions.

    `declared` is the format that the spec asked for.
    """
    indexes = {path: value for path, value in weights.documents.items() if path.endswith(INDEX_SUFFIX)}
    tied = _may_be_tied(weights.config)
    for finding in shard_findings(weights.shards, indexes, tied=tied):
        yield _of_its_folder(finding, weights)
    yield from whole_copy_findings((*weights.shards, *weights.documents), indexes)
    for name, folder in weights.folders.items():
        where = f"{name}/config.json" if name else "config.json"
        for finding in quantization_findings(
            folder.tensors, folder.quantization, folder.quantized, where=where
        ):
            yield _of_its_folder(finding, weights)
    yield from gguf.split_findings(weights.ggufs)
    for path, parts in weights.ggufs.items():
        trailing = gguf.trailing_finding(path, parts)
        if trailing is not None:
            yield trailing
    mismatch = format_finding(declared, weights.format, where="")
    if mismatch is not None:
        yield mismatch
    for path, header in weights.shards.items():
        if header.hole is not None:
            yield _hole_finding(path, header.hole)
    if weights.shards and not isinstance(weights.documents.get("config.json"), dict):
        yield warning("config-missing", "the weights have no config.json", "config.json", "a configuration")
    if not weights.shards and not weights.ggufs:
        yield warning("no-weights", "the model has no readable weights", "", "*.safetensors or *.gguf")


def _of_its_folder(finding: Finding, weights: Weights) -> Finding:
    """Beside weights at the root, those in folders (`original/`, `metal/`) are copies that engines ignore."""
    beside = "" in weights.folders and "/" in finding.where.partition(": ")[0]
    return as_warning(finding) if beside and finding.is_error else finding


def _may_be_tied(config: Mapping[str, Any]) -> bool:
    """Whether the output layer may share the embedding's tensor; transformers' default is that it does."""
    inner = config.get("text_config")
    values = [one.get("tie_word_embeddings") for one in (config, inner) if isinstance(one, dict)]
    return True in values or False not in values


def _hole_finding(path: str, hole: tuple[int, int]) -> Finding:
    return Finding(
        "never-written-region",
        "a part of the weights was never written: it reads as zeros",
        where=f"{path}, bytes {hole[0]}-{hole[1] - 1}",
        expected="data in every byte",
        found="a hole in the file",
        hint="expected only for files copied with holes for zeros; otherwise fetch the file again",
        severity="warning",
        exit_code=ExitCode.INTEGRITY,
    )


def warning(reference: str, what: str, where: str, expected: str) -> Finding:
    """A warning about something that is not there."""
    return Finding(
        reference,
        what,
        where=where,
        expected=expected,
        found="nothing",
        severity="warning",
        exit_code=ExitCode.POLICY,
    )
