"""What this machine offers an engine: architecture, C library, system libraries, and a CPython."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bundler.content.system_libraries import installed_needs, known_needs, library_findings
from bundler.core.specs.target import Target
from bundler.errors import Finding, MachineError
from bundler.storage.child_environment import child_environment

_ASK = (
    "import json, platform, sys; print(json.dumps({'implementation': sys.implementation.name, "
    "'version': platform.python_version(), 'machine': platform.machine(), 'path': sys.executable}))"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPython:
    """An interpreter of this machine: its path and version, such as `3.12.7`."""

    path: Path
    version: str


def environment(caller: Mapping[str, str]) -> dict[str, str]:
    """What programs started while installing see of `caller`: no index, no proxy, no PYTHONPATH."""
    return child_environment(caller, "UV_PYTHON_INSTALL_DIR")


def check_host(target: Target) -> None:
    """Raises MachineError (`wrong-architecture`, `glibc-too-old`) when the wheels are for other machines."""
    if platform.machine() != target.arch:
        raise MachineError(
            "wrong-architecture",
            "the wheels are for another kind of processor",
            expected=target.arch,
            found=platform.machine(),
            hint="`sealift inspect BUNDLE` shows its engines; ask for a bundle for this machine",
        )
    name, version = platform.libc_ver()
    minor = version.partition(".")[2].split(".")[0]
    if name != "glibc" or not minor.isdigit() or int(minor) < target.glibc_minor:
        raise MachineError(
            "glibc-too-old",
            "the C library of this machine is not what the wheels need",
            expected=f"glibc {target.glibc} or newer",
            found=f"{name or 'another C library'} {version}".strip(),
            hint="use a newer distribution, or the container image of the engine",
        )


def check_known_libraries(projects: Iterable[str]) -> None:
    """Refuse a machine without the libraries that wheels of these projects are known to need.

    Raises MachineError (`no-system-library`) with every one.
    """
    findings = library_findings(known_needs(projects))
    if findings:
        raise MachineError.of(findings)


def check_libraries(environment: Path, projects: Iterable[str]) -> tuple[Finding, ...]:
    """Warnings about libraries that files of an installed environment need and this machine lacks.

    Raises MachineError (`no-system-library`) with every one that `projects` cannot be imported without.
    """
    findings = library_findings(installed_needs(environment, projects))
    lacking = [finding for finding in findings if finding.is_error]
    if lacking:
        raise MachineError.of(lacking)
    return tuple(findings)


def find_python(target: Target, uv: Path, *, wanted: str | None, caller: Mapping[str, str]) -> HostPython:
    """A CPython of the target's version: `wanted` when given, else the first uv finds on this machine.

    Raises MachineError (`no-python`, `wrong-python`); nothing is ever downloaded.
    """
    path = wanted or _search(target, uv, caller)
    if path is None:
        raise MachineError(
            "no-python",
            f"this machine has no CPython {target.python}, and the wheels are for no other",
            expected=f"python{target.python} on the PATH, or named with --python",
            found="none",
            hint=f"install CPython {target.python} from this site's own mirror and name it with --python, "
            "or use the container image of the engine",
        )
    return _ask(path, target, caller)


def _search(target: Target, uv: Path, caller: Mapping[str, str]) -> str | None:
    command = [str(uv), "python", "find", "--no-config", "--no-project", "--system", "--offline"]
    command += ["--no-python-downloads", f"cpython@{target.python}"]
    done = _run(command, caller)
    return done.stdout.strip() if done.returncode == 0 else None


def _ask(path: str, target: Target, caller: Mapping[str, str]) -> HostPython:
    try:
        done = _run([path, "-I", "-c", _ASK], caller)
        told = json.loads(done.stdout)
    except (OSError, ValueError):
        told = {}
    version, machine = str(told.get("version", "")), told.get("machine")
    right = version.split(".")[:2] == target.python.split(".")
    if not right or told.get("implementation") != "cpython" or machine != target.arch:
        raise MachineError(
            "wrong-python",
            "an interpreter is not the one the wheels are for",
            where=path,
            expected=f"CPython {target.python} on {target.arch}",
            found=f"{told.get('implementation')} {version} on {machine}" if told else "nothing that answers",
            hint=f"name another one with --python, or install CPython {target.python} from this site's own "
            "mirror",
        )
    return HostPython(path=Path(path), version=version)


def _run(command: list[str], caller: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env=environment(caller),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        cwd=os.sep,
        timeout=120,
    )
