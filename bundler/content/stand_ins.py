"""Files that are not themselves: something small stands where a tokenizer, a template or weights should be.

A repository pushed without git-lfs holds pointers, a broken mirror answers with a page or an error, an
interrupted copy leaves an empty file. Each has the right name, and an engine fails on it, or worse, starts.
"""

from __future__ import annotations

import json
import re
from pathlib import PurePosixPath

from bundler.errors import ExitCode, Finding

HEAD_BYTES = 4096
"""Bytes that are looked at; the longest stand-in that is recognised by its whole text is shorter."""
_LONGEST_POINTER = 1024
"""Bytes: git-lfs takes no longer file for a pointer."""
_POINTERS = (
    (
        re.compile(rb"version https?://(?:git-lfs\.github\.com|hawser\.github\.com)/spec/"),
        "a git-lfs pointer",
    ),
    (re.compile(rb"# xet version|version https?://xethub\.com/spec/"), "a Xet pointer"),
    (re.compile(rb"/annex/objects/|(?:\.\./)*\.git/annex/objects/"), "a git-annex pointer"),
)
_PAGE = re.compile(
    rb"(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|error)[\s>]", re.IGNORECASE | re.DOTALL
)
_SHORT_TEXTS = re.compile(
    rb"(?:(?:entry|repository|revision|file|page) )?not found|404(?::| -)? (?:page )?not found"
    rb"|access (?:denied|to .{1,200} is (?:denied|restricted|disabled).*)|invalid username or password"
    rb"|(?:40[13] )?(?:unauthorized|forbidden)|(?:50[0-9] )?(?:bad gateway|service unavailable)"
    rb"|gateway time-?out|internal server error|too many requests"
    rb"|(?:found|moved permanently|temporary redirect)\. redirecting to .*",
    re.IGNORECASE | re.DOTALL,
)
_TOLD = frozenset({"error", "errors", "message", "detail", "details"})
_ERROR_MEMBERS = _TOLD | {"status", "statusCode", "code", "success", "timestamp", "path"}
_MARKUP = frozenset({".html", ".htm", ".xml", ".svg", ".xhtml"})
_MAY_BE_EMPTY = frozenset({"", ".py", ".pyi", ".txt", ".md", ".log", ".cfg", ".yaml", ".yml", ".typed"})
_READ_BY_ENGINES = frozenset({"merges.txt", "vocab.txt", "chat_template.txt"})
_READ_BY_PEOPLE = frozenset(
    {"", ".md", ".rst", ".txt", ".pdf", ".html", ".yaml", ".yml"}
    | {".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp"}
)
"""A stand-in for one of these stops no engine: a warning."""


def stand_in_finding(path: str, head: bytes, size: int) -> Finding | None:
    """A finding (`stand-in-file`) when the file `path` is something else than its name says.

    `head` are its first bytes, `HEAD_BYTES` if it has so many; `size` its length.
    """
    kind = stand_in_kind(path, head, size)
    if not kind:
        return None
    return Finding(
        "stand-in-file",
        "something else stands in the place of a file",
        where=path,
        expected=_expected(path),
        found=kind,
        hint="take a revision of the repository that holds the file itself, or exclude it in the spec",
        severity="warning" if _for_people(_name(path)) else "error",
        exit_code=ExitCode.MALFORMED,
    )


def stand_in_kind(path: str, head: bytes, size: int) -> str:
    """What stands in the place of `path`, in words; empty when nothing speaks against it."""
    name = _name(path)
    needed = PurePosixPath(name).suffix not in _MAY_BE_EMPTY or name in _READ_BY_ENGINES
    if not size:
        return "an empty file" if needed or name.startswith(("license", "readme")) else ""
    if size <= HEAD_BYTES and not head.strip(b"\0 \t\r\n"):
        return "blanks only" if needed else ""
    return _text_kind(head.removeprefix(b"\xef\xbb\xbf").strip(), size, PurePosixPath(name).suffix)


def _name(path: str) -> str:
    return path.rsplit("/", 1)[-1].lower()


def _for_people(name: str) -> bool:
    return PurePosixPath(name).suffix in _READ_BY_PEOPLE and name not in _READ_BY_ENGINES


def _text_kind(text: bytes, size: int, suffix: str) -> str:
    for pattern, kind in _POINTERS:
        if size < _LONGEST_POINTER and pattern.match(text):
            return kind
    if suffix not in _MARKUP and _PAGE.match(text):
        return "an HTML or XML page" if suffix != ".md" or b"doctype" in text[:200].lower() else ""
    if size < _LONGEST_POINTER and _SHORT_TEXTS.fullmatch(text.rstrip(b".!")):
        return f"the text {text[:60].decode('utf-8', 'replace')!r}"
    return "the JSON body of an error" if _is_error_body(text, size) else ""


def _is_error_body(text: bytes, size: int) -> bool:
    """Whether it is a JSON object that has nothing but members of an error."""
    if size > HEAD_BYTES or not text.startswith(b"{"):
        return False
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    members = set(value) if isinstance(value, dict) else set()
    return bool(members & _TOLD) and members <= _ERROR_MEMBERS


def _expected(path: str) -> str:
    name = path.rsplit("/", 1)[-1].lower()
    kinds = (
        ("tokenizer", "a tokenizer's own file"),
        ("vocab", "a vocabulary"),
        ("merges", "a list of merges"),
        (".jinja", "a chat template"),
        ("readme", "a card"),
        (".safetensors", "weights"),
        (".gguf", "weights"),
        (".whl", "a wheel"),
        ("config", "a configuration"),
    )
    return next((words for part, words in kinds if part in name), "the file itself")
