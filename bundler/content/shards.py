"""Shards of safetensors weights and their index: each says what the other says.

Source: https://huggingface.co/docs/transformers/big_models (sharded checkpoints): `weight_map` maps tensor
names to file names beside the index, `metadata.total_size` is the bytes of all tensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from bundler.content.findings import COMPARE, malformed
from bundler.content.safetensors import SafetensorsHeader
from bundler.core.paths import path_fault
from bundler.errors import Finding

SHARD_SUFFIX = ".safetensors"
INDEX_SUFFIX = ".safetensors.index.json"
READ_INDEXES = frozenset(
    {"model.safetensors.index.json", "consolidated.safetensors.index.json"}
    | {"diffusion_pytorch_model.safetensors.index.json"}
)
"""The names that engines open; an index of any other name is left over and read by nobody."""
WHOLE_MODELS = ("consolidated.safetensors", "model.safetensors")
"""Names of files that hold a whole model."""
SHOWN = 8
"""Names shown of a list that differs; the rest is counted."""
# Shard numbers are not always zero-padded, and the total may have another width: 00001-of-000064.
_NUMBERED = re.compile(r"(?P<stem>.+)-(?P<number>[0-9]{1,6})-of-(?P<count>[0-9]{1,6})\.safetensors")
_TIED = re.compile(r"(?:.*\.)?(?:lm_head|output|head|embed_out)\.weight")
"""Output layers that may share the embedding's tensor: then an index may name them and no shard has them."""
_UNUSED = re.compile(
    r"(?:.*\.)?(?:mtp\..*|rotary_emb\.(?:inv_freq|cos_cached|sin_cached)|position_ids|masked_bias)"
)
"""Tensors that engines skip, or load only for speculative decoding."""


def shard_findings(
    headers: Mapping[str, SafetensorsHeader],
    indexes: Mapping[str, Any],
    *,
    tied: bool = False,
) -> list[Finding]:
    """Findings about all shards of a model, folder by folder.

    `headers` maps paths of shards, `indexes` those of `*.safetensors.index.json` documents (what they say).
    `tied`: whether the output layer may share the embedding's tensor. The judge is vLLM: it takes from an
    index only *which files* to open, and loads every tensor in them; what it would ignore is a warning.
    References: `shard-index`, `shard-missing`, `shard-unlisted`, `shard-numbering`, `tensor-twice`,
    `tensor-missing`, `tensor-unlisted`, `total-size`, `index-missing`, `index-unused`.
    """
    findings: list[Finding] = []
    folders = sorted({_folder(path) for path in (*headers, *indexes)})
    for folder in folders:
        here = {_name(path): header for path, header in headers.items() if _folder(path) == folder}
        found = {path: value for path, value in indexes.items() if _folder(path) == folder}
        findings += _folder_findings(folder, here, found, tied)
    return findings


def _folder_findings(
    folder: str, headers: Mapping[str, SafetensorsHeader], indexes: Mapping[str, Any], tied: bool
) -> list[Finding]:
    read = {path: value for path, value in indexes.items() if _name(path) in READ_INDEXES}
    findings = [_index_unused(path) for path in sorted(indexes.keys() - read.keys())]
    maps: dict[str, Mapping[str, str]] = {}
    for path in sorted(read):
        maps[path], faults = _weight_map(read[path], path)
        findings += faults
        findings += _against_shards(path, maps[path], headers, tied)
        findings += [] if faults else _total_size(path, read[path], maps[path], headers)
    named = {name for weight_map in maps.values() for name in weight_map.values()}
    if maps:
        findings += [
            as_warning(
                _finding(
                    "shard-unlisted",
                    _beside(folder, name),
                    "a shard that an index names",
                    "no index names it",
                )
            )
            for name in sorted(headers.keys() - named)
        ]
    elif len(headers) > 1:
        expected = "an index (model.safetensors.index.json) for more than one shard"
        findings.append(
            as_warning(_finding("index-missing", folder, expected, f"{len(headers)} shards and none"))
        )
    findings += _numbering(folder, headers.keys(), named if maps else None)
    # A model and its `consolidated` duplicate are never loaded together, so each index is looked at alone.
    groups = [set(weight_map.values()) for weight_map in maps.values()] or [set(headers)]
    for names in groups:
        findings += _tensors_twice(folder, {name: headers[name] for name in names & headers.keys()})
    return findings


def as_warning(finding: Finding) -> Finding:
    """The same fact as a warning: engines read the model all the same."""
    return replace(finding, severity="warning")


def _index_unused(path: str) -> Finding:
    expected = " or ".join(sorted(READ_INDEXES)[1:])
    return as_warning(_finding("index-unused", path, expected, _name(path)))


def _weight_map(index: object, where: str) -> tuple[dict[str, str], list[Finding]]:
    """The usable part of an index's `weight_map` (tensor to file name), and what is wrong with the rest."""
    value = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(value, dict) or not value:
        return {}, [_finding("shard-index", where, "an object weight_map", repr(value)[:120])]
    # A K2-size index names 61 shards 140,000 times: each distinct name is looked at once.
    good = {name for name in {*filter(_is_text, value.values())} if _is_shard_name(name)}
    usable = {tensor: name for tensor, name in value.items() if _is_text(name) and name in good}
    bad = {str(name) for name in value.values() if not _is_text(name) or name not in good}
    findings = [
        _finding("shard-index", f"{where}: weight_map", "names of shards beside it", repr(name))
        for name in sorted(bad)[:SHOWN]
    ]
    return usable, findings


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_shard_name(name: str) -> bool:
    return name.endswith(SHARD_SUFFIX) and "/" not in name and not path_fault(name)


def _against_shards(
    where: str, weight_map: Mapping[str, str], headers: Mapping[str, SafetensorsHeader], tied: bool
) -> list[Finding]:
    """Every shard that the index names is there, and every tensor is in some shard."""
    promised: dict[str, set[str]] = {}
    for tensor, name in weight_map.items():
        promised.setdefault(name, set()).add(tensor)
    anywhere = {tensor for name in promised if name in headers for tensor in headers[name].tensors}
    findings: list[Finding] = []
    for name in sorted(promised):
        if name not in headers:
            found = "no such shard, or one that cannot be read"
            findings.append(_finding("shard-missing", where, f"the shard {name}", found))
            continue
        inside = headers[name].tensors.keys()
        shard = _beside(_folder(where), name)
        absent = promised[name] - inside
        lost = {tensor for tensor in absent - anywhere if not _may_be_absent(tensor, tied)}
        findings += _difference("tensor-missing", shard, lost, "which the index promises")
        findings += map(
            as_warning, _difference("tensor-missing", shard, absent - lost, "which the index promises")
        )
        extra = inside - promised[name]
        findings += map(as_warning, _difference("tensor-unlisted", shard, extra, "not in the index"))
    return findings


def _may_be_absent(tensor: str, tied: bool) -> bool:
    return bool(_UNUSED.fullmatch(tensor)) or (tied and bool(_TIED.fullmatch(tensor)))


def _difference(reference: str, where: str, names: set[str], how: str) -> list[Finding]:
    if not names:
        return []
    shown = ", ".join(repr(name[:120]) for name in sorted(names)[:SHOWN])
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return [_finding(reference, where, "the same tensors in index and shard", f"{shown}{more}, {how}")]


def _total_size(
    where: str,
    index: Mapping[str, Any],
    weight_map: Mapping[str, str],
    headers: Mapping[str, SafetensorsHeader],
) -> list[Finding]:
    metadata = index.get("metadata")
    promised = metadata.get("total_size") if isinstance(metadata, dict) else None
    names = set(weight_map.values())
    if promised is None or not names <= headers.keys():
        return []
    total = sum(headers[name].data_bytes for name in names)
    if type(promised) is int and promised == total:
        return []
    # Advisory: no engine reads it, and publishers write the size before quantising or stripping.
    place = f"{where}: metadata.total_size"
    return [as_warning(_finding("total-size", place, f"{total} bytes of tensors", repr(promised)[:60]))]


def _tensors_twice(folder: str, headers: Mapping[str, SafetensorsHeader]) -> list[Finding]:
    owner: dict[str, str] = {}
    findings: list[Finding] = []
    for name in sorted(headers):
        # Set intersection first: it is fast for the usual case of 140,000 distinct names.
        for tensor in sorted(headers[name].tensors.keys() & owner.keys())[:SHOWN]:
            found = f"{tensor[:120]!r} also in {owner[tensor]}"
            findings.append(
                _finding("tensor-twice", _beside(folder, name), "every tensor in one shard", found)
            )
        owner.update(dict.fromkeys(headers[name].tensors, name))
    return findings


def numbering_findings(paths: Iterable[str]) -> list[Finding]:
    """Gaps in the numbers of shards, folder by folder, for folders without an index that engines open."""
    by_folder: dict[str, list[str]] = {}
    for path in paths:
        by_folder.setdefault(_folder(path), []).append(_name(path))
    return [
        finding
        for folder, names in sorted(by_folder.items())
        if READ_INDEXES.isdisjoint(names)
        for finding in _numbering(folder, names, None)
    ]


def whole_copy_findings(paths: Iterable[str], indexes: Mapping[str, Any]) -> list[Finding]:
    """`second-copy`: a whole model beside the shards of an index that does not name it.

    Loaders disagree about which of the two they open: transformers takes `model.safetensors` first, vLLM what
    the index names; and the medium carries both. `params.json` explains `consolidated*`: Mistral's own
    format, which engines choose by name. `indexes` is what index documents say, by path.
    """
    there = set(paths)
    findings = []
    for index in sorted(path for path in indexes if _name(path) == "model.safetensors.index.json"):
        folder = _folder(index)
        named = set(_weight_map(indexes[index], index)[0].values())
        for name in WHOLE_MODELS:
            explained = name.startswith("consolidated") and _beside(folder, "params.json") in there
            if _beside(folder, name) in there and name not in named and not explained:
                expected = f"the shards that {_name(index)} names, or this file alone"
                findings.append(_finding("second-copy", _beside(folder, name), expected, "both"))
    return findings


def _numbering(folder: str, names: Iterable[str], named: set[str] | None) -> list[Finding]:
    """Shards named `X-n-of-m`: numbers without a gap or a double, from 0 or 1.

    `named` are the shards that an index names (None without one). With an index the last number may differ
    from m, which is a habit and read by nobody; without one only m tells that the last shards are there.
    """
    sets: dict[tuple[str, int], list[int]] = {}
    for name in sorted(names):
        match = _NUMBERED.fullmatch(name)
        # A shard that no index names is ignored, and was reported as that.
        if match and (named is None or name in named):
            sets.setdefault((match["stem"], int(match["count"])), []).append(int(match["number"]))
    findings: list[Finding] = []
    for (stem, count), numbers in sorted(sets.items()):
        numbers.sort()
        whole = numbers == list(range(numbers[0], numbers[0] + len(numbers))) and numbers[0] in (0, 1)
        complete = len(numbers) == count or (numbers[0] == 0 and numbers[-1] == count)
        if whole and complete:
            continue
        first = min(numbers[0], 1)
        expected = f"shards {first} to {count if first else count - 1}"
        finding = _finding("shard-numbering", _beside(folder, stem), expected, _numbers_found(numbers, count))
        findings.append(as_warning(finding) if whole and named is not None else finding)
    return findings


def _numbers_found(numbers: Sequence[int], count: int) -> str:
    first = min(numbers[0], 1)
    last = max(count if first else count - 1, numbers[-1])
    missing = sorted(set(range(first, last + 1)) - set(numbers))
    if missing:
        return f"{len(numbers)} shards; missing {', '.join(map(str, missing[:SHOWN]))}"
    return f"{len(numbers)} shards, with a number twice or beyond the total"


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _beside(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


_WHAT = {
    "index-missing": "several shards have no index",
    "index-unused": "an index has a name that no engine opens",
    "second-copy": "a second copy of the whole model is beside the shards",
    "shard-index": "a shard index is not in its form",
    "shard-missing": "the index names a shard that is not there",
    "shard-numbering": "the numbers in shard names are not complete",
    "shard-unlisted": "a shard is in no index: engines ignore it",
    "tensor-missing": "a shard lacks tensors",
    "tensor-twice": "a tensor is in two shards",
    "tensor-unlisted": "a shard holds tensors that the index does not name",
    "total-size": "the index and the shards disagree on the total size",
}
_HINTS = {
    "second-copy": "leave one of the two out with an `exclude` pattern in the spec",
    "shard-unlisted": "leave it out with an exclude pattern in the spec",
    "shard-missing": "take it in with an include pattern in the spec, or fetch it again",
}


def _finding(reference: str, where: str, expected: str, found: str) -> Finding:
    return malformed(reference, _WHAT[reference], where, expected, found, hint=_HINTS.get(reference, COMPARE))
