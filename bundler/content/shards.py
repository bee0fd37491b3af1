"""Shards of safetensors weights and their index: each says what the other says.

Source: https://huggingface.co/docs/transformers/big_models (sharded checkpoints): `weight_map` maps tensor
names to file names beside the index, `metadata.total_size` is the bytes of all tensors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from bundler.content.findings import COMPARE, malformed
from bundler.content.safetensors import SafetensorsHeader
from bundler.core.paths import path_fault
from bundler.errors import Finding

SHARD_SUFFIX = ".safetensors"
INDEX_SUFFIX = ".safetensors.index.json"
SHOWN = 8
"""Names shown of a list that differs; the rest is counted."""
# Shard numbers are not always zero-padded, and the total may have another width: 00001-of-000064.
_NUMBERED = re.compile(r"(?P<stem>.+)-(?P<number>[0-9]{1,6})-of-(?P<count>[0-9]{1,6})\.safetensors")


def shard_findings(headers: Mapping[str, SafetensorsHeader], indexes: Mapping[str, Any]) -> list[Finding]:
    """Findings about all shards of a model, folder by folder.

    `headers` maps paths of shards, `indexes` those of `*.safetensors.index.json` documents (what they say).
    References: `shard-index`, `shard-missing`, `shard-unlisted`, `shard-numbering`, `tensor-twice`,
    `tensor-missing`, `tensor-unlisted`, `total-size`, `index-missing`.
    """
    findings: list[Finding] = []
    folders = sorted({_folder(path) for path in (*headers, *indexes)})
    for folder in folders:
        here = {_name(path): header for path, header in headers.items() if _folder(path) == folder}
        found = {path: value for path, value in indexes.items() if _folder(path) == folder}
        findings += _numbering(folder, list(here))
        findings += _tensors_twice(folder, here)
        findings += _index_set(folder, here, found)
    return findings


def _index_set(
    folder: str, headers: Mapping[str, SafetensorsHeader], indexes: Mapping[str, Any]
) -> list[Finding]:
    if not indexes:
        if len(headers) < 2:
            return []
        expected = "an index (model.safetensors.index.json) for more than one shard"
        return [_finding("index-missing", folder, expected, f"{len(headers)} shards and none")]
    findings: list[Finding] = []
    named: set[str] = set()
    for path in sorted(indexes):
        weight_map, faults = _weight_map(indexes[path], path)
        findings += faults
        findings += _against_shards(path, weight_map, headers)
        if not faults:
            findings += _total_size(path, indexes[path], weight_map, headers)
        named |= set(weight_map.values())
    findings += [
        _finding("shard-unlisted", _beside(folder, name), "a shard that an index names", "no index names it")
        for name in sorted(headers.keys() - named)
    ]
    return findings


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
    where: str, weight_map: Mapping[str, str], headers: Mapping[str, SafetensorsHeader]
) -> list[Finding]:
    """The index and the shards it names hold the same tensors, both ways."""
    promised: dict[str, set[str]] = {}
    for tensor, name in weight_map.items():
        promised.setdefault(name, set()).add(tensor)
    findings: list[Finding] = []
    for name in sorted(promised):
        if name not in headers:
            found = "no such shard, or one that cannot be read"
            findings.append(_finding("shard-missing", where, f"the shard {name}", found))
            continue
        inside = headers[name].tensors.keys()
        shard = _beside(_folder(where), name)
        findings += _difference("tensor-missing", shard, promised[name] - inside, "which the index promises")
        findings += _difference("tensor-unlisted", shard, inside - promised[name], "not in the index")
    return findings


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
    return [
        _finding(
            "total-size", f"{where}: metadata.total_size", f"{total} bytes of tensors", repr(promised)[:60]
        )
    ]


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


def _numbering(folder: str, names: Sequence[str]) -> list[Finding]:
    """Shards named `X-n-of-m`: exactly n = 1 to m for each X, each number once."""
    sets: dict[str, list[tuple[int, int]]] = {}
    for name in names:
        match = _NUMBERED.fullmatch(name)
        if match:
            sets.setdefault(match["stem"], []).append((int(match["number"]), int(match["count"])))
    findings: list[Finding] = []
    for stem in sorted(sets):
        count = max(count for _, count in sets[stem])
        numbers = sorted(number for number, _ in sets[stem])
        if len({count for _, count in sets[stem]}) > 1 or numbers != list(range(1, count + 1)):
            found = _numbers_found(numbers, count)
            findings.append(_finding("shard-numbering", _beside(folder, stem), f"shards 1 to {count}", found))
    return findings


def _numbers_found(numbers: Sequence[int], count: int) -> str:
    missing = sorted(set(range(1, count + 1)) - set(numbers))
    if missing:
        return f"{len(numbers)} shards; missing {', '.join(map(str, missing[:SHOWN]))}"
    return f"{len(numbers)} shards with different totals, or a number twice"


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _beside(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


_WHAT = {
    "index-missing": "several shards have no index",
    "shard-index": "a shard index is not in its form",
    "shard-missing": "the index names a shard that is not there",
    "shard-numbering": "the numbers in shard names are not complete",
    "shard-unlisted": "a shard is in no index",
    "tensor-missing": "a shard lacks tensors",
    "tensor-twice": "a tensor is in two shards",
    "tensor-unlisted": "a shard holds tensors that the index does not name",
    "total-size": "the index and the shards disagree on the total size",
}
_HINTS = {
    "shard-unlisted": "leave it out with an exclude pattern in the spec",
    "shard-missing": "take it in with an include pattern in the spec, or fetch it again",
}


def _finding(reference: str, where: str, expected: str, found: str) -> Finding:
    return malformed(reference, _WHAT[reference], where, expected, found, hint=_HINTS.get(reference, COMPARE))
