"""Building `verify.pyz`: the portable part of sealift as one zip application (format.md section 9).

The modules are those that `verification.portable` imports, found by reading their import statements; the
bytes depend on nothing but them: fixed order, times and modes, nothing compressed (zlib differs by version).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from bundler.storage.zip_writer import zip_bytes

PACKAGE = "bundler"
ENTRY = "bundler.verification.portable"
SHEBANG = b"#!/usr/bin/env python3\n"
MAIN = f'''"""Verify a sealift bundle: python3 -I verify.pyz BUNDLE --policy policy.json"""

try:
    from {ENTRY} import run

    code = run()
except KeyboardInterrupt:
    code = 130

raise SystemExit(code)
'''


def build_verify_pyz() -> bytes:
    """The zip application, the same bytes on every machine that has this version of the modules."""
    sources = {"__main__.py": MAIN.encode()}
    for module in portable_modules():
        path = _source(module)
        sources[_name_in_archive(module, path)] = path.read_bytes()
    return zip_bytes(dict(sorted(sources.items())), prefix=SHEBANG)


def portable_modules() -> tuple[str, ...]:
    """Every module of ours that the portable verifier can load, packages included, sorted."""
    found: set[str] = set()
    waiting = [ENTRY]
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        found.add(module)
        waiting += [module.rpartition(".")[0]] if "." in module else []
        waiting += _imports(_source(module))
    return tuple(sorted(found))


def _imports(path: Path) -> Iterator[str]:
    for node in _statements(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if _ours(alias.name))
        elif isinstance(node, ast.ImportFrom) and node.module and _ours(node.module):
            yield node.module
            inner = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name for name in inner if _is_module(name))


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only a type checker runs."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
        else:
            waiting += ast.iter_child_nodes(node)


def _ours(module: str) -> bool:
    return module == PACKAGE or module.startswith(f"{PACKAGE}.")


def _is_module(module: str) -> bool:
    base = _base(module)
    return base.with_suffix(".py").is_file() or (base / "__init__.py").is_file()


def _source(module: str) -> Path:
    base = _base(module)
    return base / "__init__.py" if (base / "__init__.py").is_file() else base.with_suffix(".py")


def _base(module: str) -> Path:
    above = Path(__file__).parents[2]
    return above.joinpath(*module.split("."))


def _name_in_archive(module: str, path: Path) -> str:
    folder = module.replace(".", "/")
    return f"{folder}/__init__.py" if path.name == "__init__.py" else f"{folder}.py"
