"""Reading a spec: from YAML bytes to a `Spec`, every fault with its line; and the JSON Schema for editors."""

from __future__ import annotations

import difflib
import json
import types
from collections.abc import Iterator
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from bundler.core.specs import yaml_text
from bundler.core.specs.spec import Spec
from bundler.core.specs.yaml_text import Document, Path, Place
from bundler.errors import ExitCode, Finding, MalformedError

SPEC_LIMIT = 1 << 20
"""Bytes. The largest sensible spec (a thousand files with digests) has about 300 KiB."""
SCHEMA_ID = "urn:sealift:spec:v1"


def parse_spec(data: bytes, where: str) -> Spec:
    """The spec that `data` says; `where` names the file in errors.

    Raises MalformedError with every fault found: those of `yaml_text.loads`, and `unknown-name`,
    `missing-name`, `bad-value`. The shape only: whether the repositories exist is for the lock.
    """
    document = yaml_text.loads(data, limit=SPEC_LIMIT, where=where)
    if not isinstance(document.value, dict):
        raise MalformedError(
            "bad-spec",
            "a spec is not a list of named values",
            where=f"{where}, line 1",
            expected="`apiVersion: sealift/v1` and further names",
            found=_shown(document.value),
            hint="`sealift init --profile kimi-k2-vllm -o spec.yaml` writes one to start from",
        )
    try:
        # The JSON door is the strict one: lists and dates as text pass, `"8"` is no number, 1 is not true.
        return Spec.model_validate_json(json.dumps(document.value), strict=True, by_alias=True, by_name=False)
    except ValidationError as error:
        faults = sorted(_own(error.errors(include_url=False)), key=lambda fault: _place(fault, document).line)
        raise MalformedError.of([_finding(fault, document, where) for fault in faults]) from error


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a spec, with each field's documentation, for editors."""
    schema = Spec.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA_ID, **schema}


def schema_bytes() -> bytes:
    """`json_schema()` as it is published in `docs/spec.schema.json`."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False).encode() + b"\n"


def _finding(fault: ErrorDetails, document: Document, where: str) -> Finding:
    path, place = _path(fault), _place(fault, document)
    makers = {"extra_forbidden": _unknown_name, "missing": _missing_name, "value_error": _disagreement}
    words = makers.get(fault["type"], _bad_value)(fault, path, document)
    at = f"{where}, line {place.line}"
    return Finding(
        where=f"{at}: {yaml_text.path_text(path)}" if path else at,
        exit_code=ExitCode.MALFORMED,
        **words,
    )


def _own(faults: list[ErrorDetails]) -> list[ErrorDetails]:
    """Without "too few items" where the items are only too few because each was refused."""
    below = {fault["loc"][:end] for fault in faults for end in range(len(fault["loc"]))}
    return [fault for fault in faults if fault["type"] != "too_short" or fault["loc"] not in below]


def _path(fault: ErrorDetails) -> Path:
    return tuple(part for part in fault["loc"] if part != "[key]")


def _place(fault: ErrorDetails, document: Document) -> Place:
    return document.place(_path(fault))


def _unknown_name(fault: ErrorDetails, path: Path, document: Document) -> dict[str, str]:
    names = [alias for alias, _ in _fields(_model_at(path[:-1]))]
    near = difflib.get_close_matches(str(path[-1]), names, n=1, cutoff=0.5)
    return {
        "reference": "unknown-name",
        "what": "a name is not known here",
        "expected": f"one of {', '.join(names)}",
        "found": str(path[-1])[:100],
        "hint": f"did you mean `{near[0]}`?" if near else "",
    }


def _missing_name(fault: ErrorDetails, path: Path, document: Document) -> dict[str, str]:
    return {
        "reference": "missing-name",
        "what": "a name that is needed is missing",
        "expected": f"{path[-1]}: {_documentation(path)}",
        "found": "nothing",
    }


def _disagreement(fault: ErrorDetails, path: Path, document: Document) -> dict[str, str]:
    """A rule of ours, told in its own words."""
    return {
        "reference": "bad-value",
        "what": str(fault["ctx"]["error"]),
        "expected": _documentation(path),
        # An address may hold a secret, and the words say enough.
        "found": ""
        if isinstance(fault["input"], dict) or "@" in str(fault["input"])
        else _shown(fault["input"]),
    }


def _bad_value(fault: ErrorDetails, path: Path, document: Document) -> dict[str, str]:
    place = document.place(path)
    expected, hint = fault["msg"].replace("Input should", "it should"), ""
    if fault["type"] == "literal_error":
        allowed = fault["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        near = difflib.get_close_matches(str(fault["input"]), allowed, n=1, cutoff=0.5)
        expected, hint = f"one of {', '.join(allowed)}", f"did you mean `{near[0]}`?" if near else ""
    elif fault["type"] == "string_type" and place.plain:
        expected, hint = "text", f'quote it: {path[-1]}: "{place.raw[:60]}"'
        if isinstance(path[-1], int):
            hint = f'quote it: "{place.raw[:60]}"'
    documentation = _documentation(path)
    return {
        "reference": "bad-value",
        "what": "a value is not valid",
        "expected": f"{expected} ({documentation})" if documentation else expected,
        "found": _found(fault["input"], place.raw if place.plain else ""),
        "hint": hint,
    }


def _found(value: Any, raw: str) -> str:
    """The value as it was written; with what YAML makes of it when that is another thing."""
    if isinstance(value, (bool, float)) and raw and str(value).lower() != raw:
        return f"{raw}, which YAML reads as {_shown(value)}"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"the number {raw or value}"
    return _shown(value)


def _shown(value: Any) -> str:
    """A short form of any value."""
    if value is None:
        return "nothing"
    if isinstance(value, (dict, list)):
        return "named values" if isinstance(value, dict) else "a list"
    return json.dumps(value, ensure_ascii=False)[:200]


def _documentation(path: Path) -> str:
    """The documentation of the field at `path`; empty for what has none."""
    if not path or isinstance(path[-1], int):
        return _documentation(path[:-1]) if path else ""
    for alias, field in _fields(_model_at(path[:-1])):
        if alias == path[-1]:
            return (field.description or "").replace("\n", " ").rstrip(".")
    return ""


def _fields(model: type[BaseModel] | None) -> list[tuple[str, FieldInfo]]:
    """Names as they are in YAML, with their fields."""
    return [(field.alias or name, field) for name, field in model.model_fields.items()] if model else []


def _model_at(path: Path) -> type[BaseModel] | None:
    """The model that a mapping at `path` must be; None where there is none."""
    model: type[BaseModel] | None = Spec
    for part in path:
        if isinstance(part, str):
            annotation = next((field.annotation for alias, field in _fields(model) if alias == part), None)
            model = next(_models(annotation), None)
    return model


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models inside `tuple[Model, ...]`, `Model | None` or `Model`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (tuple, Union, types.UnionType):
        for argument in get_args(annotation):
            yield from _models(argument)
