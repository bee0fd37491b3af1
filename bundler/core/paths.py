"""Bundle paths: the rules of format.md section 1, for one path and for a set of them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import NewType

from bundler.errors import ExitCode, Finding, MalformedError

BundlePath = NewType("BundlePath", str)
"""A relative POSIX path that obeys format.md section 1; made only by `parse_bundle_path`."""

MAX_COMPONENT_BYTES = 200
MAX_PATH_BYTES = 1024
_WINDOWS_RESERVED = frozenset(
    ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"]
    + [device + digit for device in ("COM", "LPT") for digit in "123456789\u00b9\u00b2\u00b3"]
)
"""Device names, with or without an extension (learn.microsoft.com, "Naming Files, Paths, and Namespaces")."""


def path_fault(path: object) -> str:
    """Why `path` is no bundle path, in words; empty when it is one."""
    if not isinstance(path, str):
        return "it is not text"
    if not path:
        return "it is empty"
    try:
        encoded = path.encode("utf-8")
    except UnicodeEncodeError:
        return "it holds a lone surrogate"
    if len(encoded) > MAX_PATH_BYTES:
        return f"it has {len(encoded)} bytes, at most {MAX_PATH_BYTES} are allowed"
    if path.startswith("/"):
        return "it is absolute"
    if "\\" in path:
        return "it holds a backslash"
    if unicodedata.normalize("NFC", path) != path:
        return "it is not in Unicode normal form C"
    components = path.split("/")
    faults = (fault for fault in map(_component_fault, components) if fault)
    return _first_component_fault(components[0]) or next(faults, "")


def _first_component_fault(component: str) -> str:
    folded = collision_key(component)
    if ":" in component:
        return "its first component holds a colon"
    if folded.startswith(".git"):
        return "its first component starts with .git"
    if folded == "attestations":
        return "its first component is `attestations`, which holds signatures only"
    return ""


def _component_fault(component: str) -> str:
    if component in ("", ".", ".."):
        return f"it has a component {component!r}"
    if len(component.encode("utf-8")) > MAX_COMPONENT_BYTES:
        return f"a component has more than {MAX_COMPONENT_BYTES} bytes"
    for character in component:
        if unicodedata.category(character) in ("Cc", "Cf"):
            return f"it holds the control or format character U+{ord(character):04X}"
    if component[-1] in ". ":
        return "a component ends in a dot or a space"
    if component.partition(".")[0].rstrip(" ").upper() in _WINDOWS_RESERVED:
        return f"the component {component!r} is a reserved name on Windows"
    return ""


def parse_bundle_path(path: object, *, where: str = "") -> BundlePath:
    """`path` as a bundle path. Raises MalformedError (`bad-path`) that names the rule it breaks."""
    fault = path_fault(path)
    if fault:
        raise MalformedError(
            "bad-path",
            f"a path is refused: {fault}",
            where=where or "path",
            expected="a relative path as in format.md section 1",
            found=repr(path)[:200],
            hint="rename the file upstream, or leave it out with an exclude pattern",
        )
    assert isinstance(path, str)
    return BundlePath(path)


def collision_key(path: str) -> str:
    """Two paths with the same key are one file on some file system: NFKC and case folding."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", path).casefold())


def path_set_findings(paths: Iterable[str], *, where: str = "") -> list[Finding]:
    """Findings for paths that collide with each other, or are both file and directory.

    Every path must already be a bundle path.
    """
    found: list[Finding] = []
    files: dict[str, str] = {}
    for path in paths:
        key = collision_key(path)
        if key in files:
            same = files[key] == path
            found.append(
                _malformed(
                    "duplicate-path" if same else "path-collision",
                    "a path is listed twice"
                    if same
                    else "two paths differ only by case or compatibility form",
                    where,
                    f"{files[key]!r} and {path!r}",
                )
            )
        files.setdefault(key, path)
    directories: dict[str, str] = {}
    for path in files.values():
        parts = path.split("/")
        for depth in range(1, len(parts)):
            directory = "/".join(parts[:depth])
            seen = directories.setdefault(collision_key(directory), directory)
            if seen != directory:
                found.append(
                    _malformed(
                        "path-collision",
                        "two directories differ only by case or compatibility form",
                        where,
                        f"{seen!r} and {directory!r}",
                    )
                )
                directories[collision_key(directory)] = directory
    for key in directories.keys() & files.keys():
        found.append(
            _malformed("path-collision", "a path is both a file and a directory", where, repr(files[key]))
        )
    return found


def _malformed(reference: str, what: str, where: str, found: str) -> Finding:
    return Finding(
        reference=reference,
        what=what,
        where=where,
        expected="every path once, distinct on every file system",
        found=found[:400],
        exit_code=ExitCode.MALFORMED,
    )
