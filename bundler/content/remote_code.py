"""Which files of a model can be executed, what its configuration would run, and what steers its prompts.

With `--trust-remote-code` an engine imports the Python files named by `auto_map`; chat templates are Jinja
programs that run either way. What is *not* checked: what the code does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bundler.errors import ExitCode, Finding

PYTHON_SUFFIX = ".py"
TEMPLATE_SUFFIXES = (".jinja", ".jinja2", ".j2")
TEMPLATE_DOCUMENTS = ("tokenizer_config.json", "chat_template.json", "processor_config.json")
"""JSON documents that may hold a Jinja template in the member `chat_template`."""
CONFIG_SUFFIX = "config.json"
"""config.json, tokenizer_config.json, preprocessor_config.json, processor_config.json..."""
TOOL_CALL_TOKENS = frozenset(
    {
        "<|tool_calls_section_begin|>",
        "<|tool_calls_section_end|>",
        "<|tool_call_begin|>",
        "<|tool_call_argument_begin|>",
        "<|tool_call_end|>",
    }
)
"""The tokens the `kimi_k2` tool parser looks for in the text."""
_TARGET = re.compile(r"[A-Za-z_]\w*\.[A-Za-z_]\w*", re.ASCII)
# The two forms that transformers' dynamic_module_utils.get_relative_imports follows.
_RELATIVE_IMPORT = re.compile(
    rb"^[ \t]*(?:import[ \t]+\.(\w+)[ \t]*$|from[ \t]+\.(\w+)[ \t]+import)", re.MULTILINE
)


def is_config(path: str) -> bool:
    """Whether `path` names a JSON document in which `auto_map` may stand."""
    return path.rsplit("/", 1)[-1].endswith(CONFIG_SUFFIX)


def executable_files(files: Sequence[str], documents: Mapping[str, Any]) -> tuple[str, ...]:
    """The files that run: every `.py`, every template, every document that holds a template; sorted.

    `documents` maps paths of JSON documents to what they say.
    """
    found = {path for path in files if path.endswith((PYTHON_SUFFIX, *TEMPLATE_SUFFIXES))}
    for path, value in documents.items():
        named = path.rsplit("/", 1)[-1] in TEMPLATE_DOCUMENTS
        if named and isinstance(value, dict) and value.get("chat_template"):
            found.add(path)
    return tuple(sorted(found))


def code_findings(files: Sequence[str], documents: Mapping[str, Any]) -> list[Finding]:
    """Findings about `auto_map` and `custom_pipelines` in all `documents`: targets that are no listed file,
    that are in another repository, or that cannot be read.
    """
    listed = set(files)
    findings: list[Finding] = []
    for path in sorted(documents):
        folder = path.rpartition("/")[0]
        for where, target in _targets(documents[path], path):
            finding = _target_finding(where, target, folder, listed)
            if finding is not None:
                findings.append(finding)
    return findings


def import_findings(path: str, source: bytes, files: Sequence[str]) -> list[Finding]:
    """Warnings for modules beside the Python file `path` that its text imports and that are not listed."""
    folder = path.rpartition("/")[0]
    wanted = {
        (match[1] or match[2]).decode("ascii", "replace") for match in _RELATIVE_IMPORT.finditer(source)
    }
    listed = set(files)
    missing = [name for name in sorted(wanted) if not _module_listed(name, folder, listed)]
    return [
        Finding(
            "remote-code-import-missing",
            "the model's code imports a module that is not in the model",
            where=path,
            expected=_beside(folder, f"{name}.py"),
            found="no such file is listed",
            hint="take it in with an include pattern, or expect the engine to fail when it loads the code",
            severity="warning",
            exit_code=ExitCode.POLICY,
        )
        for name in missing
    ]


def special_token_findings(documents: Mapping[str, Any]) -> list[Finding]:
    """Warnings where a tool-call token is marked special.

    vLLM 0.19.1 then answers HTTP 200 with the call as plain text and no `tool_calls`: special tokens are
    dropped before the parser sees them. Measured; the published Kimi tokenizers say `special: false`.
    """
    findings = []
    for path in sorted(documents):
        marked = sorted(set(_special_tokens(documents[path])) & TOOL_CALL_TOKENS)
        if marked:
            findings.append(
                Finding(
                    "tool-call-tokens-special",
                    "tool-call tokens are marked special: tool calls would come back as plain text",
                    where=path,
                    expected='"special": false for ' + ", ".join(marked),
                    found='"special": true',
                    hint="use the publisher's own tokenizer files, or ask the publisher",
                    severity="warning",
                    exit_code=ExitCode.POLICY,
                )
            )
    return findings


def _targets(value: object, where: str) -> Iterator[tuple[str, object]]:
    """Every class reference below `value` with the place it stands at; nesting is bounded by strict JSON."""
    if isinstance(value, list):
        for item in value:
            yield from _targets(item, where)
    if not isinstance(value, dict):
        return
    for key, member in value.items():
        if key == "auto_map":
            yield from _references(member, f"{where}: auto_map")
        elif key == "custom_pipelines" and isinstance(member, dict):
            for name, pipeline in member.items():
                implementation = pipeline.get("impl") if isinstance(pipeline, dict) else pipeline
                yield from _references(implementation, f"{where}: custom_pipelines.{name}")
        else:
            yield from _targets(member, where)


def _references(value: object, where: str) -> Iterator[tuple[str, object]]:
    """The references in an `auto_map`: text, or [slow, fast] where either may be null."""
    if isinstance(value, dict):
        for name, member in value.items():
            yield from _references(member, f"{where}.{name}")
    elif isinstance(value, list):
        for member in value:
            if member is not None:
                yield where, member
    elif value is not None:
        yield where, value


def _target_finding(where: str, target: object, folder: str, listed: set[str]) -> Finding | None:
    if isinstance(target, str) and "--" in target:
        return _refusal(
            "remote-code-elsewhere",
            "the model's configuration runs code from another repository",
            where,
            "a class in one of the model's own files",
            target,
        )
    if not isinstance(target, str) or not _TARGET.fullmatch(target):
        return _refusal(
            "remote-code-target",
            "the model's configuration names code in a form that cannot be read",
            where,
            "module.Class",
            repr(target),
        )
    path = _beside(folder, target.partition(".")[0] + PYTHON_SUFFIX)
    if path in listed:
        return None
    return _refusal(
        "remote-code-missing",
        "the model's configuration runs code that is not in the model",
        where,
        f"the listed file {path}",
        f"{target}, and no such file",
    )


def _refusal(reference: str, what: str, where: str, expected: str, found: str) -> Finding:
    return Finding(
        reference,
        what,
        where=where,
        expected=expected,
        found=found[:200],
        hint="take a revision of the model that carries its own code",
        exit_code=ExitCode.POLICY,
    )


def _beside(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _module_listed(name: str, folder: str, listed: set[str]) -> bool:
    return _beside(folder, f"{name}.py") in listed or _beside(folder, f"{name}/__init__.py") in listed


def _special_tokens(value: object) -> Iterator[str]:
    """Contents of tokens marked special in a tokenizer_config.json or a tokenizer.json."""
    if not isinstance(value, dict):
        return
    decoder = value.get("added_tokens_decoder")
    added = value.get("added_tokens")
    tokens: list[Any] = list(decoder.values()) if isinstance(decoder, dict) else []
    tokens += added if isinstance(added, list) else []
    for token in tokens:
        if isinstance(token, dict) and token.get("special") is True and isinstance(token.get("content"), str):
            yield token["content"]
