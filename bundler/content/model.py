"""Whether the files of a model are what they claim to be, and what can be said about them.

Headers and configuration only: the values of the weights are what the signed digests are for.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from bundler.content import gguf, remote_code, safetensors
from bundler.content.model_format import format_finding
from bundler.content.published_json import DOCUMENT_LIMIT, Published, parse_published_json
from bundler.content.quantization import Quantization
from bundler.content.quantization_layouts import Quantized, judge_layouts, quantization_findings
from bundler.content.shards import INDEX_SUFFIX, SHARD_SUFFIX, as_warning, shard_findings
from bundler.content.stand_ins import HEAD_BYTES, stand_in_finding
from bundler.content.unsafe_files import unsafe_finding
from bundler.core.strict_json import MAX_INTEGER
from bundler.errors import ExitCode, Finding, SealiftError
from bundler.storage.bounded_read import open_regular, read_small

GGUF_SUFFIXES = (".gguf", ".gguf_file")
"""`imatrix_unsloth.gguf_file` is a GGUF under a foreign extension."""
SOURCE_LIMIT = 16 << 20
_UNSAFE = frozenset({"compiled-code", "pickle-refused", "pickle-waived"})
THREADS = min(16, 4 * (os.cpu_count() or 1))
"""Headers wait for the device, not for the processor: several a core pay off on slow disks."""
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelContent:
    """What was found: `findings` of every severity, the files that can be executed (relative to the model's
    folder), and `facts` as JSON values for the manifest's artifact.
    """

    findings: tuple[Finding, ...]
    executable: tuple[str, ...]
    facts: Mapping[str, Any]

    @property
    def acceptable(self) -> bool:
        """Whether no finding is an error."""
        return not any(finding.is_error for finding in self.findings)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """Everything that was read, by path. `config` is the model's own configuration, or nothing; `folders`
    what the tensors of each folder with weights show.
    """

    shards: Mapping[str, safetensors.SafetensorsHeader]
    ggufs: Mapping[str, gguf.GgufHeader]
    documents: Mapping[str, Any]
    config: Mapping[str, Any]
    folders: Mapping[str, _Folder]

    @property
    def main(self) -> _Folder | None:
        """The folder whose weights an engine loads: the root, or else the first one with weights."""
        return self.folders.get("") or next(iter(self.folders.values()), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Folder:
    """The safetensors weights of one folder; `tensors` by name (a name in two shards is another finding)."""

    tensors: Mapping[str, safetensors.Tensor]
    quantization: Quantization
    quantized: Quantized


def check_model(
    folder: Path, files: Sequence[str], *, format: str, allow_pickle: Sequence[str] = (), label: str = ""
) -> ModelContent:
    """Everything that headers, names and configuration of a model tell.

    `files` are all its files, relative to `folder`. `format` is the declared one (`block-fp8`, `bf16`,
    `int4`, `gguf`, `any`). `allow_pickle` are paths of pickle-based files that are waived. `label` is put
    before every path in findings (the folder's path in the bundle). Never raises for what the files hold.
    """
    findings: list[Finding] = []
    read = _read(folder, files, findings)
    findings += _weight_findings(read, format)
    findings += _unsafe_findings(folder, files, allow_pickle)
    findings = _with_stand_ins(findings, list(_stand_in_findings(folder, files)))
    findings += _code_findings(folder, files, read.documents)
    executable = _executable(files, read)
    located = (replace(finding, where=_located(label, finding.where)) for finding in findings)
    return ModelContent(
        findings=tuple(sorted(located, key=lambda finding: (finding.reference, finding.where))),
        executable=executable,
        facts=_facts(read, executable),
    )


def _read(folder: Path, files: Sequence[str], findings: list[Finding]) -> _Read:
    shards = _read_all(folder, _ending(files, SHARD_SUFFIX), _read_shard, findings)
    published = _read_all(folder, list(filter(_is_document, files)), _read_document, findings)
    documents = {path: document.value for path, document in published.items()}
    findings += chain.from_iterable(document.findings for document in published.values())
    config = documents.get("config.json")
    return _Read(
        shards=shards,
        ggufs=_read_all(folder, _ending(files, GGUF_SUFFIXES), _read_gguf, findings),
        documents=documents,
        config=config if isinstance(config, dict) else {},
        folders={name: _folder(name, shards, documents) for name in sorted({*map(_parent, shards)})},
    )


def _folder(
    name: str, shards: Mapping[str, safetensors.SafetensorsHeader], documents: Mapping[str, Any]
) -> _Folder:
    here = [header for path, header in shards.items() if _parent(path) == name]
    tensors = {tensor: value for header in here for tensor, value in header.tensors.items()}
    prefix = f"{name}/" if name else ""
    quantization = Quantization.of_config(
        documents.get(f"{prefix}config.json"), documents.get(f"{prefix}hf_quant_config.json")
    )
    return _Folder(tensors=tensors, quantization=quantization, quantized=judge_layouts(tensors, quantization))


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _executable(files: Sequence[str], read: _Read) -> tuple[str, ...]:
    """Python files and templates, those inside GGUF metadata included; sorted."""
    templates = {path for path, header in read.ggufs.items() if header.text("tokenizer.chat_template")}
    return tuple(sorted({*remote_code.executable_files(files, read.documents), *templates}))


def _located(label: str, where: str) -> str:
    return f"{label.rstrip('/')}/{where}".rstrip("/") if label else where


def _ending(files: Iterable[str], suffix: str | tuple[str, ...]) -> list[str]:
    return [path for path in files if path.lower().endswith(suffix)]


def _is_document(path: str) -> bool:
    name = path.rsplit("/", 1)[-1]
    special = name in (*remote_code.TEMPLATE_DOCUMENTS, "tokenizer.json") or name.endswith(INDEX_SUFFIX)
    return special or remote_code.is_config(path)


def _read_all(
    folder: Path,
    paths: Sequence[str],
    read: Callable[[Path, str], Value],
    findings: list[Finding],
) -> dict[str, Value]:
    """What `read` gives back for each path that can be read, in parallel; faults go to `findings`."""

    def attempt(path: str) -> tuple[str, Value | SealiftError]:
        try:
            return path, read(folder / path, path)
        except SealiftError as error:
            return path, error

    values: dict[str, Value] = {}
    with ThreadPoolExecutor(THREADS) as pool:
        for path, value in pool.map(attempt, sorted(paths)):
            if isinstance(value, SealiftError):
                findings += value.findings
            else:
                values[path] = value
    return values


def _read_shard(path: Path, where: str) -> safetensors.SafetensorsHeader:
    with open_regular(path, where=where) as fd:
        return safetensors.read_header(fd, where=where)


def _read_gguf(path: Path, where: str) -> gguf.GgufHeader:
    with open_regular(path, where=where) as fd:
        return gguf.read_header(fd, where=where)


def _read_document(path: Path, where: str) -> Published:
    return parse_published_json(read_small(path, limit=DOCUMENT_LIMIT, where=where), where=where)


def _weight_findings(read: _Read, declared: str) -> Iterator[Finding]:
    """Findings across files: shards and index, scales, split parts, declared format, unwritten regions."""
    indexes = {path: value for path, value in read.documents.items() if path.endswith(INDEX_SUFFIX)}
    tied = _may_be_tied(read.config)
    for finding in shard_findings(read.shards, indexes, tied=tied):
        yield _of_its_folder(finding, read)
    for name, folder in read.folders.items():
        where = f"{name}/config.json" if name else "config.json"
        for finding in quantization_findings(
            folder.tensors, folder.quantization, folder.quantized, where=where
        ):
            yield _of_its_folder(finding, read)
    yield from gguf.split_findings(read.ggufs)
    for path, parts in read.ggufs.items():
        trailing = gguf.trailing_finding(path, parts)
        if trailing is not None:
            yield trailing
    mismatch = format_finding(declared, _format(read), where="")
    if mismatch is not None:
        yield mismatch
    for path, header in read.shards.items():
        if header.hole is not None:
            yield _hole_finding(path, header.hole)
    if read.shards and not isinstance(read.documents.get("config.json"), dict):
        yield _warning("config-missing", "the weights have no config.json", "config.json", "a configuration")
    if not read.shards and not read.ggufs:
        yield _warning("no-weights", "the model has no readable weights", "", "*.safetensors or *.gguf")


def _of_its_folder(finding: Finding, read: _Read) -> Finding:
    """Beside weights at the root, those in folders (`original/`, `metal/`) are copies that engines ignore."""
    beside = "" in read.folders and "/" in finding.where.partition(": ")[0]
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


def _warning(reference: str, what: str, where: str, expected: str) -> Finding:
    return Finding(
        reference,
        what,
        where=where,
        expected=expected,
        found="nothing",
        severity="warning",
        exit_code=ExitCode.POLICY,
    )


def _unsafe_findings(folder: Path, files: Sequence[str], waived: Sequence[str]) -> Iterator[Finding]:
    """Pickles and compiled code among all files that no header check reads, and waivers nobody needed."""
    used: set[str] = set()
    for path in sorted(files):
        if path.lower().endswith((SHARD_SUFFIX, *GGUF_SUFFIXES)):
            continue
        try:
            finding = unsafe_finding(folder, path, waived=path in waived)
        except SealiftError as error:
            # A document that could not be opened has been told already.
            yield from () if _is_document(path) else error.findings
            continue
        if finding is not None:
            used.add(path)
            yield finding
    for path in sorted(set(waived) - used):
        yield _warning(
            "waiver-unused", "a waiver names no pickle-based file of the model", path, "a pickle-based file"
        )


def _stand_in_findings(folder: Path, files: Sequence[str]) -> Iterator[Finding]:
    """Files in whose place something else stands, by their first bytes."""
    for path in sorted(files):
        try:
            with open_regular(folder / path, where=path) as fd:
                size, head = os.fstat(fd).st_size, os.pread(fd, HEAD_BYTES, 0)
        except SealiftError:
            # Missing and special files are told by the search for unsafe files.
            continue
        finding = stand_in_finding(path, head, size)
        if finding is not None:
            yield finding


def _with_stand_ins(findings: Sequence[Finding], stand_ins: Sequence[Finding]) -> list[Finding]:
    """Both, without what a parser says of a file that is not itself: a pointer has no header's length.

    What the name alone forbids (a pickle, compiled code) needs no second finding.
    """
    unsafe = {finding.where for finding in findings if finding.reference in _UNSAFE}
    stand_ins = [finding for finding in stand_ins if finding.where not in unsafe]
    places = {finding.where for finding in stand_ins if finding.is_error}
    rest = [finding for finding in findings if _file_of(finding.where) not in places]
    return [*rest, *stand_ins]


def _file_of(where: str) -> str:
    """The path before a place inside a file (`x.gguf, byte 4`, `x.json: member`)."""
    return where.partition(": ")[0].partition(", byte")[0]


def _code_findings(folder: Path, files: Sequence[str], documents: Mapping[str, Any]) -> Iterator[Finding]:
    configs = {path: value for path, value in documents.items() if remote_code.is_config(path)}
    yield from remote_code.code_findings(files, configs)
    yield from remote_code.special_token_findings(
        {path: value for path, value in documents.items() if "tokenizer" in path}
    )
    for path in _ending(files, remote_code.PYTHON_SUFFIX):
        try:
            source = read_small(folder / path, limit=SOURCE_LIMIT, where=path)
        except SealiftError as error:
            # Missing and special files are reported by the search for unsafe files.
            yield from (finding for finding in error.findings if finding.reference == "too-large")
            continue
        yield from remote_code.import_findings(path, source, files)


def _format(read: _Read) -> str:
    """The formats of all weights, usually one; `none` without readable weights."""
    formats = ["gguf"] if _ending(read.ggufs, ".gguf") else []
    if read.main or not formats:
        formats.append(read.main.quantized.format if read.main else "none")
    return "+".join(formats)


def _facts(read: _Read, executable: Sequence[str]) -> dict[str, Any]:
    ggufs = [tensor for header in read.ggufs.values() for tensor in header.tensors.values()]
    tensors = read.main.tensors if read.main else {}
    dtypes = Counter(chain((t.dtype for t in tensors.values()), (t.type.name for t in ggufs)))
    facts: dict[str, Any] = {
        "format": _format(read),
        "architecture": _architecture(read),
        "contextLength": _context_length(read),
        "parameters": (read.main.quantized.values if read.main else 0)
        + sum(tensor.count for tensor in ggufs),
        "tensors": len(tensors) + len(ggufs),
        "weightFiles": len(read.shards) + len(read.ggufs),
        "weightBytes": sum(t.size for t in tensors.values()) + sum(t.size for t in ggufs),
        "dtypes": dict(sorted(dtypes.items())),
        "executable": list(executable),
    }
    return {name: value for name, value in facts.items() if value is not None}


def _architecture(read: _Read) -> str | None:
    named = read.config.get("architectures")
    if isinstance(named, list) and named and isinstance(named[0], str):
        return named[0]
    texts = (header.text("general.architecture") for header in read.ggufs.values())
    return next((text for text in texts if text), None)


def _context_length(read: _Read) -> int | None:
    """Tokens: `max_position_embeddings`, at the top or in `text_config`; `<architecture>.context_length`."""
    inner = read.config.get("text_config")
    for config in (read.config, inner if isinstance(inner, dict) else {}):
        value = config.get("max_position_embeddings")
        # The manifest cannot hold larger integers (format.md section 2); a number like that says nothing.
        if type(value) is int and 0 <= value <= MAX_INTEGER:
            return value
    for header in read.ggufs.values():
        length = header.integer(f"{header.text('general.architecture')}.context_length")
        if length is not None and 0 <= length <= MAX_INTEGER:
            return length
    return None
