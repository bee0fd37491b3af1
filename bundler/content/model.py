"""Whether the files of a model are what they claim to be, and what can be said about them.

Headers and configuration only: the values of the weights are what the signed digests are for.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from bundler.content import gguf, remote_code, safetensors
from bundler.content.published_json import DOCUMENT_LIMIT, Published, parse_published_json
from bundler.content.shards import SHARD_SUFFIX
from bundler.content.stand_ins import HEAD_BYTES, stand_in_finding
from bundler.content.unsafe_files import unsafe_finding
from bundler.content.weights import GGUF_SUFFIXES, Weights, is_document, warning, weight_findings, with_suffix
from bundler.core.strict_json import MAX_INTEGER
from bundler.errors import Finding, SealiftError
from bundler.storage.bounded_read import open_regular, read_small

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
    findings += weight_findings(read, format)
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


def _read(folder: Path, files: Sequence[str], findings: list[Finding]) -> Weights:
    published = _read_all(folder, list(filter(is_document, files)), _read_document, findings)
    documents = {path: document.value for path, document in published.items()}
    findings += chain.from_iterable(document.findings for document in published.values())
    return Weights.of(
        _read_all(folder, with_suffix(files, SHARD_SUFFIX), _read_shard, findings),
        _read_all(folder, with_suffix(files, GGUF_SUFFIXES), _read_gguf, findings),
        documents,
    )


def _executable(files: Sequence[str], read: Weights) -> tuple[str, ...]:
    """Python files and templates, those inside GGUF metadata included; sorted."""
    templates = {path for path, header in read.ggufs.items() if header.text("tokenizer.chat_template")}
    return tuple(sorted({*remote_code.executable_files(files, read.documents), *templates}))


def _located(label: str, where: str) -> str:
    return f"{label.rstrip('/')}/{where}".rstrip("/") if label else where


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
            yield from () if is_document(path) else error.findings
            continue
        if finding is not None:
            used.add(path)
            yield finding
    for path in sorted(set(waived) - used):
        yield warning(
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
    for path in with_suffix(files, remote_code.PYTHON_SUFFIX):
        try:
            source = read_small(folder / path, limit=SOURCE_LIMIT, where=path)
        except SealiftError as error:
            # Missing and special files are reported by the search for unsafe files.
            yield from (finding for finding in error.findings if finding.reference == "too-large")
            continue
        yield from remote_code.import_findings(path, source, files)


def _facts(read: Weights, executable: Sequence[str]) -> dict[str, Any]:
    ggufs = [tensor for header in read.ggufs.values() for tensor in header.tensors.values()]
    tensors = read.main.tensors if read.main else {}
    dtypes = Counter(chain((t.dtype for t in tensors.values()), (t.type.name for t in ggufs)))
    facts: dict[str, Any] = {
        "format": read.format,
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


def _architecture(read: Weights) -> str | None:
    named = read.config.get("architectures")
    if isinstance(named, list) and named and isinstance(named[0], str):
        return named[0]
    texts = (header.text("general.architecture") for header in read.ggufs.values())
    return next((text for text in texts if text), None)


def _context_length(read: Weights) -> int | None:
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
