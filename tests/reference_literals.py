"""Every reference that the code can report, found in its source: no test needs a list by hand.

A reference is the first argument of an error or a `Finding`, or the argument `reference` of a function of the
same module or imported from ours; and a key or first member in a table that such a call reads.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "bundler"
KEBAB = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
TABLES = ("_FAULTS", "_FINAL", "_WHAT")
"""Constants whose keys or first members are references."""
COMPOSED = {
    "signing/attestation_import.py": ("ssh-signature", "pgp-signature"),
    "cli/options.py": ("no-policy", "no-trusted-root"),
}
"""References that a module composes from parts."""


@cache
def references() -> dict[str, tuple[str, ...]]:
    """Each reference, with the places (`path:line`) that report it."""
    found: dict[str, list[str]] = {}
    for path, tree in _modules().items():
        name = path.relative_to(SOURCE).as_posix()
        for reference, line in (*_in_calls(tree), *_in_tables(tree)):
            if KEBAB.fullmatch(reference):
                found.setdefault(reference, []).append(f"bundler/{name}:{line}")
        for reference in COMPOSED.get(name, ()):
            found.setdefault(reference, []).append(f"bundler/{name}:1")
    return {reference: tuple(places) for reference, places in sorted(found.items())}


@cache
def _modules() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_bytes()) for path in sorted(SOURCE.rglob("*.py"))}


@cache
def _errors() -> frozenset[str]:
    """Names of the classes whose first argument is a reference."""
    known = {"SealiftError", "Finding", "Damage"}
    classes = [
        node for tree in _modules().values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
    ]
    while True:
        more = {node.name for node in classes if {ast.unparse(b).split(".")[-1] for b in node.bases} & known}
        if more <= known:
            return frozenset(known)
        known |= more


def _positions(tree: ast.Module) -> dict[str, int]:
    """Functions of a module with a parameter `reference`, and its place among the arguments of a call."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            names = [one.arg for one in (*node.args.posonlyargs, *node.args.args)]
            keyword = [one.arg for one in node.args.kwonlyargs]
            if "reference" in names:
                found[node.name] = names.index("reference") - (names[0] in ("self", "cls"))
            elif "reference" in keyword:
                found[node.name] = 99
    return found


@cache
def _takers() -> dict[Path, dict[str, int]]:
    own = {path: _positions(tree) for path, tree in _modules().items()}
    return {path: {**_imported(tree, own), **own[path]} for path, tree in _modules().items()}


def _imported(tree: ast.Module, own: dict[Path, dict[str, int]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("bundler"):
            base = SOURCE.parent.joinpath(*node.module.split("."))
            for alias in node.names:
                for path in (base.with_suffix(".py"), base / f"{alias.name}.py"):
                    positions = own.get(path, {})
                    found.update(
                        {k: v for k, v in positions.items() if k == alias.name or path.stem == alias.name}
                    )
                    if alias.asname and alias.name in positions:
                        found[alias.asname] = positions[alias.name]
    return found


def _in_calls(tree: ast.Module) -> Iterator[tuple[str, int]]:
    takers = next(takers for path, takers in _takers().items() if _modules()[path] is tree)
    local = _choices(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func).split(".")[-1]
        position = {"Damage": 2}.get(name, 0) if name in _errors() else takers.get(name)
        if position is None:
            continue
        given = node.args[position : position + 1]
        given += [keyword.value for keyword in node.keywords if keyword.arg == "reference"]
        for value in given:
            yield from ((text, node.lineno) for text in _texts(value, local))


def _choices(tree: ast.Module) -> dict[str, list[str]]:
    """Texts that are assigned to a variable `reference`."""
    found: dict[str, list[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    found.setdefault(target.id, []).extend(_texts(node.value, {}))
                elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    for one, value in zip(target.elts, node.value.elts, strict=False):
                        if isinstance(one, ast.Name):
                            found.setdefault(one.id, []).extend(_texts(value, {}))
                elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Call):
                    # `reference, what, hint = TABLE.get(key, ("fallback", ...))`
                    for given in node.value.args:
                        if isinstance(given, ast.Tuple) and isinstance(target.elts[0], ast.Name):
                            found.setdefault(target.elts[0].id, []).extend(_texts(given.elts[0], {}))
    return found


def _texts(node: ast.expr, local: dict[str, list[str]]) -> list[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.IfExp):
        return _texts(node.body, local) + _texts(node.orelse, local)
    if isinstance(node, ast.Name) and node.id == "reference":
        return local.get(node.id, [])
    return []


def _in_tables(tree: ast.Module) -> Iterator[tuple[str, int]]:
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id in TABLES:
            value = getattr(node, "value", None)
            if not isinstance(value, ast.Dict):
                continue
            for key, row in zip(value.keys, value.values, strict=True):
                first = row.elts[0] if isinstance(row, ast.Tuple) else key
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    yield first.value, node.lineno
