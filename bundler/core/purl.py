"""Package URLs: the parts of `pkg:type/namespace/name@version?qualifiers#subpath` in normal form.

Source: the purl specification (ECMA-427): the type is case-insensitive, every part may be percent-encoded,
and names of type `pypi` are compared in the normal form of PEP 503. Also runs in `verify.pyz`: Python 3.9.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

_SEPARATORS = re.compile(r"[-_.]+")
_TYPE = re.compile(r"[a-z][a-z0-9.+-]*")
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True)
class Purl:
    """The parts that name something. `name` is in the normal form of PEP 503; `version` may be empty."""

    type: str
    namespace: str
    name: str
    version: str


def parse_purl(text: object) -> Purl | None:
    """The parts of a package URL, or None when `text` is not one."""
    if not isinstance(text, str) or not text.isprintable() or _BROKEN_ESCAPE.search(text):
        return None
    scheme, colon, rest = text.partition(":")
    if not colon or scheme.lower() != "pkg":
        return None
    rest = rest.lstrip("/").partition("#")[0].partition("?")[0]
    kind, slash, rest = rest.partition("/")
    path, _, version = _split_version(rest)
    *folders, name = path.strip("/").split("/")
    name = normal_name(unquote(name))
    if not slash or not _TYPE.fullmatch(kind.lower()) or not name:
        return None
    return Purl(
        type=kind.lower(),
        namespace="/".join(unquote(folder).lower() for folder in folders if folder),
        name=name,
        version=unquote(version),
    )


def _split_version(text: str) -> tuple[str, str, str]:
    """Path, separator and version; an `@` inside the path (`@scope/name`) is no separator."""
    path, at, version = text.rpartition("@")
    return (path, at, version) if at and "/" not in version else (text, "", "")


def normal_name(name: str) -> str:
    """A project's name as PEP 503 compares it: `vLLM`, `v_llm` and `v-LLM` are spellings of two names."""
    return _SEPARATORS.sub("-", name.strip()).lower()
