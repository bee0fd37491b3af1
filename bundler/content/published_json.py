"""JSON documents that publishers wrote, read as the engines read them: with Python's `json`.

Strict JSON (`core.strict_json`) is for what sealift signs. A model's configuration, its tokenizer, an index
or a registry's answer may hold large integers, `NaN`, `Infinity` and floats. A key that stands twice is a
finding: Python keeps the last value, and other readers keep the first or stop.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from bundler.content.findings import COMPARE
from bundler.core import strict_json
from bundler.errors import ExitCode, Finding, MalformedError

DOCUMENT_LIMIT = 256 << 20
"""Bytes of one document. The index of Kimi-K3 has 60 MB."""
MAX_NESTING = 128
"""Levels. Python's own parser stops near 1,000; no published document that we know has more than 12."""
MAX_VALUES = 8_000_000
"""Values in one document, roughly: each can cost 100 bytes of memory. A tokenizer of 262,000 tokens with its
merges has 2 million.
"""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
MODEL_KEYS = frozenset(
    {"architectures", "auto_map", "custom_pipelines", "model_type", "_class_name", "weight_map"}
    | {"quantization_config", "compression_config", "quantization", "quant_method"}
    | {"tokenizer_class", "processor_class", "image_processor_type", "feature_extractor_type"}
    | {"chat_template", "additional_chat_templates", "tokenizer_file", "vocab_file", "added_tokens_decoder"}
)
"""Members that decide what an engine loads or executes."""
ANSWER_KEYS = frozenset(
    {"mediaType", "artifactType", "digest", "size", "urls", "config", "layers", "manifests", "subject"}
    | {"platform", "Entrypoint", "Cmd", "Env", "User", "rootfs", "diff_ids"}
    | {"sha", "oid", "lfs", "sha256", "path", "rfilename", "siblings", "xetHash", "token", "access_token"}
    | {"files", "filename", "url", "hashes", "core-metadata", "dist-info-metadata", "yanked"}
)
"""Members of answers of registries, package indexes and Hubs that decide what is fetched."""
_SHOWN = 8
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A document's value, and the findings about how it was written."""

    value: Any
    findings: tuple[Finding, ...] = ()

    def require(self) -> Any:
        """The value. Raises MalformedError when a finding is an error."""
        if any(finding.is_error for finding in self.findings):
            raise MalformedError.of(self.findings)
        return self.value


def parse_published_json(
    data: bytes,
    *,
    where: str,
    limit: int = DOCUMENT_LIMIT,
    values: int = MAX_VALUES,
    bom: bool = False,
    decisive: frozenset[str] = MODEL_KEYS,
    hint: str = COMPARE,
) -> Published:
    """The value that Python's `json` reads from `data`, with findings about keys that stand twice.

    `where` names the document in errors; `limit` is in bytes and `values` a number
    of values; both are checked before parsing. `bom` accepts a byte order
    mark: HTTP clients do, transformers does not (it opens files as `utf-8` and its parser stops at the mark).
    A key that stands twice with different values is an error (`duplicate-key`) if it, or anything in its
    values, is in `decisive`; otherwise it is a warning. Lone surrogates become U+FFFD, with a warning
    (`lone-surrogate`), so that no text here fails to print.

    Raises MalformedError: `too-large`, `too-many-values`, `too-deep`, `bad-json`; `hint` is theirs.
    """
    doubles: list[_Double] = []
    try:
        value = _bounded_value(data, where, limit, values, bom, doubles)
    except MalformedError as error:
        raise MalformedError.of([replace(finding, hint=hint) for finding in error.findings]) from None
    findings = _double_findings(value, doubles, where, decisive)
    # A surrogate can only come from a \ud800 escape, so most documents need no search.
    if b"\\u" in data and _has_surrogate(value):
        value = _without_surrogates(value)
        findings.append(_surrogate_finding(where))
    return Published(value=value, findings=tuple(findings))


def _bounded_value(
    data: bytes, where: str, limit: int, values: int, bom: bool, doubles: list[_Double]
) -> Any:
    _require_size(data, limit, where)
    # Counted before parsing: the objects that `[[],[],` makes take 30 times its size.
    if data.count(b",") + data.count(b"[") + data.count(b"{") > values:
        raise MalformedError(
            "too-many-values",
            "a document holds too many values",
            where=where,
            expected=f"at most {values} values",
            found="more",
        )
    if bom and data.startswith(BYTE_ORDER_MARK):
        data = data[len(BYTE_ORDER_MARK) :]
    strict_json.check_nesting(data, where, MAX_NESTING)
    return _parse(_text(data, where), doubles, where)


def _require_size(data: bytes, limit: int, where: str) -> None:
    if len(data) > limit:
        raise MalformedError(
            "too-large",
            "a document is larger than its limit",
            where=where,
            expected=f"at most {limit} bytes",
            found=f"{len(data)} bytes",
        )


def _text(data: bytes, where: str) -> str:
    if data.startswith(BYTE_ORDER_MARK):
        _refuse(where, "it starts with a byte order mark, which the engines' parser refuses")
    try:
        return data.decode("utf-8", "strict")
    except UnicodeDecodeError as error:
        _refuse(where, f"it is not UTF-8 at byte {error.start}")


def _parse(text: str, doubles: list[_Double], where: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_keep_last(doubles), parse_int=_integer(where))
    except json.JSONDecodeError as error:
        _refuse(where, f"line {error.lineno}, column {error.colno}: {error.msg}")
    except RecursionError:
        _refuse(where, "it is nested too deeply for Python's parser")


def _refuse(where: str, found: str) -> NoReturn:
    raise MalformedError(
        "bad-json",
        "a published document is not JSON",
        where=where,
        expected="JSON as Python's `json` module reads it",
        found=found,
    )


def _integer(where: str) -> Callable[[str], int]:
    def parse(text: str) -> int:
        # Python, and so the engine, refuses longer integers: CVE-2020-10735.
        longest = sys.get_int_max_str_digits() or len(text)
        if len(text.lstrip("-")) > longest:
            _refuse(where, f"an integer of {len(text.lstrip('-'))} digits; Python reads at most {longest}")
        return int(text)

    return parse


@dataclass(frozen=True, slots=True)
class _Double:
    """A key that stands twice in `holder` (the object as Python keeps it), with all its values."""

    holder: dict[str, Any]
    key: str
    values: tuple[Any, ...]


def _keep_last(doubles: list[_Double]) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        holder = dict(pairs)
        if len(holder) != len(pairs):
            values: dict[str, list[Any]] = {}
            for key, value in pairs:
                values.setdefault(key, []).append(value)
            doubles.extend(_Double(holder, key, tuple(v)) for key, v in values.items() if len(v) > 1)
        return holder

    return build


def _double_findings(
    value: object, doubles: list[_Double], where: str, decisive: frozenset[str]
) -> list[Finding]:
    """One finding per key that stands twice, errors first; a long list is counted."""
    if not doubles:
        return []
    paths = {id(item): path for path, item in _objects(value, ())}
    findings = [_double_finding(double, paths.get(id(double.holder)), where, decisive) for double in doubles]
    findings.sort(key=lambda finding: (not finding.is_error, finding.where))
    more = len(findings) - _SHOWN
    return findings if more <= 0 else [*findings[:_SHOWN], _counted(findings[_SHOWN], where, more)]


def _counted(finding: Finding, where: str, more: int) -> Finding:
    severity = "error" if finding.is_error else "warning"
    return _duplicate(where, f"{more} more keys that stand twice", severity)


def _double_finding(
    double: _Double, path: tuple[str, ...] | None, where: str, decisive: frozenset[str]
) -> Finding:
    # An object that a later value of the same key replaced has no path any more: judge it by its key alone.
    names = (*(path or ()), double.key)
    differ = any(other != double.values[0] for other in double.values[1:])
    matters = (
        path is None or not decisive.isdisjoint(names) or any(_holds(v, decisive) for v in double.values)
    )
    place = f"{where}: {'.'.join(names)[:200]}"
    found = f"{len(double.values)} times, with {'different values' if differ else 'one value'}"
    return _duplicate(place, found, "error" if differ and matters else "warning")


def _holds(value: object, decisive: frozenset[str]) -> bool:
    return any(not decisive.isdisjoint(item) for _, item in _objects(value, ()))


def _duplicate(where: str, found: str, severity: str) -> Finding:
    return Finding(
        "duplicate-key",
        "an object has the same key twice: readers differ on which value counts",
        where=where,
        expected="every key once",
        found=found,
        hint=COMPARE,
        severity=severity,
        exit_code=ExitCode.MALFORMED,
    )


def _objects(value: object, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Every object in `value` with the keys that lead to it."""
    waiting: list[tuple[tuple[str, ...], object]] = [(path, value)]
    while waiting:
        at, item = waiting.pop()
        if isinstance(item, dict):
            yield at, item
            waiting.extend(((*at, key), member) for key, member in item.items() if _is_container(member))
        elif isinstance(item, list):
            waiting.extend((at, member) for member in item if _is_container(member))


def _is_container(value: object) -> bool:
    return isinstance(value, dict | list)


def _has_surrogate(value: object) -> bool:
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            if _SURROGATE.search(item):
                return True
        elif isinstance(item, dict):
            waiting.extend((*item.keys(), *item.values()))
        elif isinstance(item, list):
            waiting.extend(item)
    return False


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(member) for key, member in value.items()}
    return [_without_surrogates(member) for member in value] if isinstance(value, list) else value


def _surrogate_finding(where: str) -> Finding:
    return Finding(
        "lone-surrogate",
        "a document holds half a character: some readers refuse it",
        where=where,
        expected="whole characters",
        found="an escape such as \\ud800 without its second half",
        hint=COMPARE,
        severity="warning",
        exit_code=ExitCode.MALFORMED,
    )
