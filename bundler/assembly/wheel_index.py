"""The files beside the wheels that let standard installers use them: a simple index and lock files.

`payload/wheels/simple/` is a PEP 503 index with relative links, `locks/<folder>/pylock.toml` a PEP 751 lock
with relative paths, `requirements.txt` the same for pip. All follow from the lock alone, byte for byte.
"""

from __future__ import annotations

import hashlib
import html
import sys
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import tomli_w
from packaging.pylock import Pylock

from bundler import __version__
from bundler.core import layout
from bundler.core.specs.lock import LockedEngine, LockedWheel
from bundler.core.specs.target import ARCHITECTURES
from bundler.errors import ExitCode, Finding, MalformedError
from bundler.sources.wheels.own_wheel import DISTRIBUTION
from bundler.sources.wheels.uv import UvFailure, run_uv
from bundler.sources.wheels.wheels import target_of
from bundler.storage.private_folder import private_folder


def wheel_documents(engines: Sequence[LockedEngine]) -> dict[str, bytes]:
    """Path to bytes of everything below `payload/wheels` that is no wheel.

    Raises MalformedError (`conflicting-wheels`) when two engines want different bytes under one name.
    """
    wheels = distinct_wheels(engines)
    projects = sorted({wheel.name for wheel in wheels})
    documents = {f"{layout.WHEELS}/simple/index.html": _page("Simple index", map(_project_link, projects))}
    for project in projects:
        links = [_file_link(wheel) for wheel in wheels if wheel.name == project]
        documents[f"{layout.WHEELS}/simple/{project}/index.html"] = _page(f"Links for {project}", links)
    for engine in engines:
        documents.update(_lock_documents(engine, engine.wheels, f"{layout.WHEELS}/locks/{engine.folder}"))
    return documents


def tool_documents(tools: Sequence[LockedEngine], own_wheel: tuple[str, bytes]) -> dict[str, bytes]:
    """Path to bytes of the lock files below `payload/tools`: one pair for each target, and one for all.

    `own_wheel` is sealift's wheel by file name and bytes: it is listed everywhere, but not among the bytes.
    """
    own = _locked_own_wheel(*own_wheel)
    wholes = [(engine, (*engine.wheels, own)) for engine in tools]
    distinct_wheels(tools)
    documents: dict[str, bytes] = {}
    for engine, wheels in wholes:
        documents.update(_lock_documents(engine, wheels, f"{layout.TOOLS}/{engine.folder}"))
    documents[f"{layout.TOOLS}/requirements.txt"] = _joint_requirements(wholes)
    return documents


def distinct_wheels(engines: Iterable[LockedEngine]) -> list[LockedWheel]:
    """Wheels of `engines`, each file once, sorted by name. Raises MalformedError (`conflicting-wheels`)."""
    known: dict[str, LockedWheel] = {}
    for wheel in (wheel for engine in engines for wheel in engine.wheels):
        first = known.setdefault(wheel.filename, wheel)
        # Indexes do re-host files under the same name; one flat folder can hold only one of them.
        if (first.sha256, first.size) != (wheel.sha256, wheel.size):
            raise MalformedError(
                "conflicting-wheels",
                "two engines want different files of one name",
                where=wheel.filename,
                expected=f"sha256:{first.sha256} (index {first.index or 'default'})",
                found=f"sha256:{wheel.sha256} (index {wheel.index or 'default'})",
                hint="send the project to one index in both engines (`sources`), or make two bundles",
            )
    return [known[name] for name in sorted(known)]


def _locked_own_wheel(filename: str, data: bytes) -> LockedWheel:
    return LockedWheel(
        name=DISTRIBUTION,
        version=filename.split("-")[1],
        filename=filename,
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )


def _page(title: str, links: Iterable[str]) -> bytes:
    """An HTML page of the simple repository API, version 1.0."""
    head = (
        f'<!DOCTYPE html>\n<html>\n<head><meta charset="utf-8"><title>{html.escape(title)}</title></head>\n'
    )
    body = "".join(f"{link}<br>\n" for link in links)
    return f"{head}<body>\n{body}</body>\n</html>\n".encode()


def _project_link(project: str) -> str:
    return f'<a href="{quote(project)}/">{html.escape(project)}</a>'


def _file_link(wheel: LockedWheel) -> str:
    address = f"../../{quote(wheel.filename)}#sha256={wheel.sha256}"
    return f'<a href="{address}">{html.escape(wheel.filename)}</a>'


def _lock_documents(engine: LockedEngine, wheels: Sequence[LockedWheel], folder: str) -> dict[str, bytes]:
    up = "../" * (folder.count("/") - 1)
    ordered = sorted(wheels, key=lambda wheel: wheel.name)
    return {
        f"{folder}/pylock.toml": pylock(engine, ordered, up),
        f"{folder}/requirements.txt": requirements(engine, ordered),
    }


def pylock(engine: LockedEngine, wheels: Sequence[LockedWheel], up: str) -> bytes:
    """The PEP 751 lock of `engine`; `up` leads from its folder to that of the wheels.

    `[tool.sealift]` says for which engine and target it was made: what installing checks the host against.
    """
    value = {
        "lock-version": "1.0",
        "environments": [_marker(engine)],
        "requires-python": f"=={engine.python}.*",
        "created-by": "sealift",
        "packages": [_package(wheel, up) for wheel in wheels],
        "tool": {"sealift": _facts(engine)},
    }
    text = tomli_w.dumps(value)
    # A builder must not write what a reader refuses.
    Pylock.from_dict(tomllib.loads(text)).validate()
    return text.encode()


def _marker(engine: LockedEngine) -> str:
    machine = ARCHITECTURES[engine.platform]
    return f"sys_platform == 'linux' and platform_machine == '{machine}' and implementation_name == 'cpython'"


def _package(wheel: LockedWheel, up: str) -> dict[str, Any]:
    entry = {
        "name": wheel.filename,
        "path": f"{up}{wheel.filename}",
        "size": wheel.size,
        "hashes": {"sha256": wheel.sha256},
    }
    return {"name": wheel.name, "version": wheel.version, "wheels": [entry]}


def _facts(engine: LockedEngine) -> dict[str, Any]:
    facts = {
        "id": engine.id,
        "engine": engine.name,
        "requirement": engine.requirement,
        "version": engine.version,
        "python": engine.python,
        "platform": engine.platform,
        "glibc": engine.glibc,
        "accelerator": engine.accelerator,
        "exclude-newer": engine.exclude_newer,
        "overrides": list(engine.overrides),
        "with": list(engine.with_),
    }
    return {name: value for name, value in facts.items() if value not in (None, [])}


def requirements(engine: LockedEngine, wheels: Sequence[LockedWheel]) -> bytes:
    """The lock as pip's requirements file, every line with its digest (`--require-hashes`)."""
    head = (
        f"# {engine.requirement} for {target_of(engine)} or newer.\n"
        f"# Made by sealift {__version__}; install only from the verified bundle:\n"
        "# pip install --no-index --find-links <folder of the wheels> --require-hashes -r requirements.txt\n"
    )
    return (head + "".join(_line(wheel.name, wheel.version, [wheel.sha256]) for wheel in wheels)).encode()


def _line(name: str, version: str, digests: Sequence[str], marker: str = "") -> str:
    hashes = "".join(f" \\\n    --hash=sha256:{digest}" for digest in digests)
    return f"{name}=={version}{f' ; {marker}' if marker else ''}{hashes}\n"


def _joint_requirements(wholes: Sequence[tuple[LockedEngine, Sequence[LockedWheel]]]) -> bytes:
    """One requirements file for all targets: several digests a line, a marker where versions differ."""
    lines: dict[tuple[str, str], tuple[set[str], list[LockedEngine]]] = {}
    for engine, wheels in wholes:
        for wheel in wheels:
            digests, engines = lines.setdefault((wheel.name, wheel.version), (set(), []))
            digests.add(wheel.sha256)
            engines.append(engine)
    head = f"# sealift's own requirements for {len(wholes)} target(s). Made by sealift {__version__}.\n"
    body = (
        _line(name, version, sorted(digests), "" if len(engines) == len(wholes) else _any_of(engines))
        for (name, version), (digests, engines) in sorted(lines.items())
    )
    return (head + "".join(body)).encode()


def _any_of(engines: Sequence[LockedEngine]) -> str:
    each = [
        f"(python_version == '{engine.python}' and platform_machine == '{ARCHITECTURES[engine.platform]}')"
        for engine in engines
    ]
    return " or ".join(each)


def completeness_findings(engine: LockedEngine, wheels: Path) -> list[Finding]:
    """Whether the folder `wheels` alone satisfies what was asked, on the target: uv resolves it offline.

    A rehearsal of the installation without the target machine: catches a missing wheel, a glibc that is too
    old, and metadata inside a wheel that asks for more than its index said.
    """
    target = target_of(engine)
    with private_folder("sealift-rehearsal-") as folder:
        pins = "".join(f"{wheel.name}=={wheel.version}\n" for wheel in engine.wheels)
        asked = "".join(f"{text}\n" for text in (engine.requirement, *engine.with_))
        overrides = "".join(f"{text}\n" for text in engine.overrides)
        for file, text in (("pins.txt", pins), ("asked.txt", asked), ("overrides.txt", overrides)):
            (folder / file).write_text(text, "utf-8")
        arguments = ["pip", "install", "--dry-run", "--offline", "--no-index", "--no-config", "--no-cache"]
        arguments += ["--find-links", str(wheels.absolute()), "--only-binary", ":all:", "--color", "never"]
        arguments += ["--python-version", target.python, "--python-platform", target.uv_platform]
        arguments += ["--target", str(folder / "nowhere"), "--no-progress"]
        arguments += ["--python", sys.executable, "--no-python-downloads"]
        arguments += ["-r", "asked.txt", "-c", "pins.txt", "--overrides", "overrides.txt"]
        try:
            told = run_uv(arguments, folder, {})
        except UvFailure as failure:
            return [_incomplete(engine, failure.explanation)]
    return _differences(engine, told)


def _differences(engine: LockedEngine, told: str) -> list[Finding]:
    """Findings when uv would install another set than the locked one; `told` is what it wrote."""
    lines = (line.strip() for line in told.splitlines())
    wanted = {line[2:].split(" ")[0] for line in lines if line.startswith("+ ")}
    locked = {f"{wheel.name}=={wheel.version}" for wheel in engine.wheels}
    if wanted == locked:
        return []
    return [_incomplete(engine, ", ".join(sorted(wanted ^ locked))[:400])]


def _incomplete(engine: LockedEngine, found: str) -> Finding:
    return Finding(
        "wheels-incomplete",
        "the wheels do not make a whole installation on the target",
        where=f"engine {engine.id}, {engine.folder}",
        expected=f"{engine.requirement} and all it needs for {target_of(engine)}, nothing else",
        found=found,
        hint="lock again with `sealift lock SPEC`, then build",
        exit_code=ExitCode.POLICY,
    )
