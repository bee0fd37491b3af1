"""What listings, small documents and headers tell of a model before its weights are fetched.

Pure: names, sizes and bytes in, findings out. The same rules judge the files themselves in `content.model`,
so what passes here fails there only for what is in the bytes behind the headers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bundler.content import gguf, safetensors
from bundler.content.model_format import format_finding
from bundler.content.published_json import parse_published_json
from bundler.content.shards import SHARD_SUFFIX, numbering_findings
from bundler.content.stand_ins import HEAD_BYTES, stand_in_finding
from bundler.content.unsafe_files import unsafe_name_finding
from bundler.content.weights import GGUF_SUFFIXES, Weights, is_document, weight_findings
from bundler.errors import Finding, SealiftError


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """The first bytes of a weight file, at least its whole header, and the file's size in bytes."""

    data: bytes
    size: int


def listing_findings(
    sizes: Mapping[str, int], format: str, *, allow_pickle: Collection[str] = ()
) -> list[Finding]:
    """Findings from paths and sizes alone: pickles, compiled code, empty files, gaps in the numbers of shards
    where there is no index, and a declared format of which no file has the suffix.

    References: `pickle-refused`, `pickle-waived`, `compiled-code`, `stand-in-file`, `shard-numbering`,
    `weight-format`.
    """
    findings: list[Finding] = []
    for path in sorted(sizes):
        found = unsafe_name_finding(path, waived=path in allow_pickle)
        if found is None and sizes[path] == 0:
            found = stand_in_finding(path, b"", 0)
        findings += [] if found is None else [found]
    findings += numbering_findings(sizes)
    mismatch = _suffix_mismatch(sizes, format)
    return findings + ([] if mismatch is None else [mismatch])


def _suffix_mismatch(sizes: Mapping[str, int], format: str) -> Finding | None:
    ggufs = any(path.lower().endswith(".gguf") for path in sizes)
    shards = any(path.lower().endswith(SHARD_SUFFIX) for path in sizes)
    if format == "gguf" and not ggufs:
        return format_finding(format, "mixed" if shards else "none", where="")
    if format not in ("gguf", "any") and not shards:
        return format_finding(format, "gguf" if ggufs else "none", where="")
    return None


def small_document_findings(path: str, data: bytes) -> list[Finding]:
    """Findings from the whole bytes of one small file: something else in its place, JSON that an engine
    refuses, keys that stand twice. References: `stand-in-file` and those of `parse_published_json`.
    """
    stand_in = stand_in_finding(path, data[:HEAD_BYTES], len(data))
    if stand_in is not None:
        return [stand_in]
    if not is_document(path):
        return []
    try:
        return list(parse_published_json(data, where=path).findings)
    except SealiftError as error:
        return list(error.findings)


def header_findings(
    beginnings: Mapping[str, Beginning], documents: Mapping[str, bytes], format: str
) -> list[Finding]:
    """Findings from the headers of *all* weight files and the small JSON documents beside them.

    As `check_model` finds them: shards and index, weights and scales, declared format, parts of a GGUF.
    Documents that cannot be parsed are skipped here: `small_document_findings` reports them.
    """
    findings: list[Finding] = []
    shards: dict[str, safetensors.SafetensorsHeader] = {}
    ggufs: dict[str, gguf.GgufHeader] = {}
    for path, beginning in sorted(beginnings.items()):
        stand_in = stand_in_finding(path, beginning.data[:HEAD_BYTES], beginning.size)
        if stand_in is not None:
            findings.append(stand_in)
            continue
        try:
            if path.lower().endswith(SHARD_SUFFIX):
                shards[path] = safetensors.parse_header(beginning.data, beginning.size, where=path)
            elif path.lower().endswith(GGUF_SUFFIXES):
                ggufs[path] = gguf.parse_header(beginning.data, beginning.size, where=path)
        except SealiftError as error:
            findings += error.findings
    weights = Weights.of(shards, ggufs, dict(parsed_documents(documents)))
    return findings + list(weight_findings(weights, format))


def parsed_documents(documents: Mapping[str, bytes]) -> Iterator[tuple[str, Any]]:
    """Path and value of each JSON document that can be parsed."""
    for path, data in documents.items():
        if is_document(path):
            try:
                yield path, parse_published_json(data, where=path).value
            except SealiftError:
                continue
