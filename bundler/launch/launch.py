"""From a verified bundle and an installed environment to a running server: everything is checked and laid
out as a plan first, then this process becomes the engine.

Order: profile, flag table, installed origin and version, model, command, port, environment. Nothing is
written before the plan stands. `bundler.launch.gate` verifies the bundle first and looks at it last. What is
*not* closed: a file changed between that look and the engine's own reading of it (SGLang hashes again while
loading; mount the bundle read-only for the others).
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shlex
import shutil
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from bundler.content.published_json import parse_published_json
from bundler.core.artifacts import artifacts_of
from bundler.core.launch_profile import LaunchEntry, find_entry
from bundler.core.manifest import Manifest
from bundler.engines.flags import ModelToServe, find_table, normalised, render
from bundler.engines.table import EngineTable
from bundler.errors import IntegrityError, MachineError, PolicyError, UsageError
from bundler.install.host import check_libraries
from bundler.install.marker import MARKER, damage, read_marker
from bundler.launch import environment as variables
from bundler.storage.bounded_read import read_small
from bundler.storage.private_folder import (
    ensure_folder,
    require_safe_place,
    require_safe_tree,
    write_private,
)

if TYPE_CHECKING:
    from bundler.verification.verify import VerifiedBundle

CONFIG_LIMIT = 16 << 20
SERVER_SCRIPT = Path(__file__).with_name("llama_server.py")
CHECKSUMS = "model-checksums.json"
LONGEST_WORK = 60
"""Bytes of the work folder's path: engines put sockets below it, whose paths may have 107 (unix(7))."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchRequest:
    """What the operator asks for. `host` and `port` replace the profile's when given; `work` is the folder
    below which this launch's caches are made; `caller` the environment of whoever asks.
    """

    profile: str
    environment: Path
    work: Path
    caller: Mapping[str, str]
    host: str | None = None
    port: int | None = None
    accept_code: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchPlan:
    """All that will happen: `command` and `environment` exactly as the engine gets them, `work` the folder
    that will be made, `files` what will be written into it, `notes` what a person should know.
    """

    entry: LaunchEntry
    table: EngineTable
    command: tuple[str, ...]
    environment: Mapping[str, str]
    work: Path
    files: Mapping[str, bytes]
    notes: tuple[str, ...]

    @property
    def url(self) -> str:
        """Base URL of the OpenAI-compatible endpoint, as clients on this machine reach it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.entry.host, self.entry.host)  # noqa: S104
        return f"http://{host}:{self.entry.port}/v1"

    @property
    def shell(self) -> str:
        """The command as a shell reads it."""
        return shlex.join(self.command)

    def to_json(self) -> dict[str, Any]:
        """JSON values for reports."""
        return {
            "profile": self.entry.profile,
            "engine": f"{self.entry.engine} {self.entry.engine_version}",
            "flagTable": {"version": self.table.version, "evidence": self.table.evidence},
            "servedName": self.entry.served_name,
            "url": self.url,
            "command": list(self.command),
            "environment": dict(self.environment),
            "work": str(self.work),
            "notes": list(self.notes),
            "observability": {
                "turnedOn": list(self.table.observability.turned_on),
                "onRequest": list(self.table.observability.on_request),
                "notOffered": list(self.table.observability.not_offered),
            },
        }


def prepare(verified: VerifiedBundle, request: LaunchRequest) -> LaunchPlan:
    """The plan for a bundle that was verified at level full.

    Raises PolicyError (`not-fully-verified`) for any other level, and what `plan_launch` raises.
    """
    if verified.level != "full":
        raise PolicyError(
            "not-fully-verified",
            "a server only starts from a bundle whose every byte was read",
            where=str(verified.root),
            expected="level full",
            found=f"level {verified.level}",
            hint="`sealift verify BUNDLE --level full`",
        )
    return plan_launch(verified.root, verified.manifest, request)


def plan_launch(root: Path, manifest: Manifest, request: LaunchRequest) -> LaunchPlan:
    """The plan for the bundle at `root`; that it was verified is the caller's word (`prepare` is the door).

    Raises UsageError (`unknown-profile`), PolicyError (flags, parsers, code, environment, version),
    MachineError (`no-environment`, `port-in-use`, `work-folder-open`, `work-folder-too-long`),
    IntegrityError (`installed-from-another-bundle`, `installed-damaged`).
    """
    entry, table, python, work = check_ground(manifest, request)
    model = _model(Path(os.path.abspath(root)), manifest, entry, table, work)  # noqa: PTH100
    _check_undamaged(Path(os.path.abspath(request.environment)))  # noqa: PTH100 - as in check_ground
    rendered = render(table, entry, model, accept_code=request.accept_code)
    start = table.start or (str(SERVER_SCRIPT),)
    return LaunchPlan(
        entry=entry,
        table=table,
        command=(str(python), "-I", *start, *rendered.arguments),
        environment=variables.build_environment(
            table, entry.environment, programs=python.parent, work=work, caller=request.caller
        ),
        work=work,
        files={CHECKSUMS: checksums(manifest, entry.model_path)} if model.checksums else {},
        notes=(*rendered.notes, *_notes(table)),
    )


def check_ground(manifest: Manifest, request: LaunchRequest) -> tuple[LaunchEntry, EngineTable, Path, Path]:
    """What manifest and machine alone decide: profile, its flag table, the engine's Python, the work folder.

    Reads nothing of the payload, so a wrong name is reported before a terabyte is hashed. Raises what
    `plan_launch` raises for these.
    """
    entry = _with_address(find_entry(manifest, request.profile), request)
    distribution = requirement_name(entry.requirement)
    table = find_table(entry.engine, distribution, entry.engine_version)
    installed = Path(os.path.abspath(request.environment))  # noqa: PTH100 - links stay: a venv's python is one
    python = _interpreter(installed)
    check_marker(installed, manifest.sha256, entry.folder)
    check_installed_version(installed, distribution, entry.engine_version)
    check_libraries(installed, [distribution])
    work = _work_folder(request.work)
    _check_port(entry.host, entry.port)
    return entry, table, python, work


def start(plan: LaunchPlan, last_look: Callable[[], None] | None = None) -> NoReturn:
    """Make the work folder, write its files, and become the engine. Does not come back.

    Folders of earlier launches whose server has ended are removed first. `last_look` is the last thing that
    is done: what it raises starts nothing, and the work folder is removed again. Raises MachineError
    (`work-folder-open`).
    """
    ensure_folder(plan.work.parent)
    variables.sweep(plan.work.parent)
    variables.make_work_folder(plan.work)
    try:
        for name, data in plan.files.items():
            write_private(plan.work / name, data)
        # An empty folder: engines start `python -m` children, and Python imports from where they stand. In
        # the work folder itself the cache folder `triton` was imported as the package of that name.
        os.chdir(plan.work / variables.FOLDERS["HOME"])
        environment = dict(plan.environment)
        if last_look is not None:
            last_look()
        # An argument list, not a shell: S606 asks for what is meant here.
        os.execve(plan.command[0], plan.command, environment)  # noqa: S606
    except BaseException:
        os.chdir(os.sep)
        shutil.rmtree(plan.work, ignore_errors=True)
        raise


def requirement_name(requirement: str) -> str:
    """The project of a requirement such as `vllm==0.19.1`. Raises PolicyError (`bad-requirement`)."""
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        return normalised(Requirement(requirement).name)
    except InvalidRequirement as error:
        raise PolicyError(
            "bad-requirement",
            "the engine's requirement cannot be read",
            where="manifest.json: launch: engine.requirement",
            expected="a requirement such as vllm==0.19.1",
            found=requirement[:120],
            hint="build the bundle again with this version of sealift",
        ) from error


def check_marker(environment: Path, manifest_sha256: str, folder: str) -> None:
    """Refuse an environment that was not installed from this very bundle, from its wheels in `folder`.

    Raises IntegrityError (`installed-from-another-bundle`).
    """
    marker = read_marker(environment)
    found = f"no readable {MARKER}"
    if marker is not None:
        found = f"sha256:{marker.get('manifest')}, {marker.get('folder')}"[:200]
    expected = f"sha256:{manifest_sha256}, {folder}"
    if found != expected:
        raise IntegrityError(
            "installed-from-another-bundle",
            "the environment was not installed from this bundle, or for another engine of it",
            where=str(environment / MARKER),
            expected=expected,
            found=found,
            hint="`sealift install BUNDLE --to NEW_DIR`, then launch with `--env NEW_DIR`",
        )


def check_installed_version(environment: Path, distribution: str, version: str) -> None:
    """Compare the engine's installed version with the pin, from its metadata: nothing of it is run.

    Raises PolicyError (`engine-version`).
    """
    from packaging.utils import canonicalize_version

    found = sorted(
        item.version for item in _installed(environment) if normalised(item.name or "-") == distribution
    )
    if [canonicalize_version(item) for item in found] != [canonicalize_version(version)]:
        raise PolicyError(
            "engine-version",
            "the installed engine is not the pinned one",
            where=str(environment),
            expected=f"{distribution} {version}",
            found=", ".join(found) or "not installed",
            hint="`sealift install BUNDLE --to NEW_DIR`, then launch with `--env NEW_DIR`",
        )


def _installed(environment: Path) -> list[Distribution]:
    folders = [str(path) for path in sorted(environment.glob("lib/python3.*/site-packages"))]
    return list(distributions(path=folders)) if folders else []


def checksums(manifest: Manifest, model_path: str) -> bytes:
    """SGLang's `--model-checksum` file for the files directly in the model's folder, from the manifest."""
    prefix = model_path + "/"
    files = {
        entry.path.removeprefix(prefix): {"sha256": entry.sha256, "size": entry.size}
        for entry in manifest.files
        if entry.path.startswith(prefix) and "/" not in entry.path.removeprefix(prefix)
    }
    return json.dumps({"files": files}, indent=1, sort_keys=True).encode() + b"\n"


def _with_address(entry: LaunchEntry, request: LaunchRequest) -> LaunchEntry:
    host = entry.host if request.host is None else request.host
    if host.startswith("-") or not host.isprintable() or not host:
        raise UsageError(
            "bad-host", "an address cannot be read", expected="an address to bind", found=repr(host)
        )
    return replace(entry, host=host, port=entry.port if request.port is None else request.port)


def _interpreter(environment: Path) -> Path:
    python = environment / "bin" / "python"
    if not python.is_file() or not os.access(python, os.X_OK):
        raise MachineError(
            "no-environment",
            "there is no installed engine there",
            where=str(python),
            expected="the environment that `sealift install` made",
            found="nothing that can be run",
            hint="`sealift install BUNDLE --to DIR`, then launch with `--env DIR`",
        )
    # Whoever may write there decides what runs as this user.
    require_safe_tree(environment)
    return python


def _check_undamaged(environment: Path) -> None:
    """Refuse an engine whose files are no longer what was installed; reads all of them once."""
    changed = damage(environment)
    if changed:
        raise IntegrityError(
            "installed-damaged",
            f"{len(changed)} files of the installed engine are missing or changed",
            where=str(environment),
            expected="what `sealift install` put there",
            found=", ".join(changed[:5]) + (", …" if len(changed) > 5 else ""),
            hint=f"`sealift install BUNDLE --to {shlex.quote(str(environment))}` repairs it",
        )


def _work_folder(parent: Path) -> Path:
    work = Path(os.path.abspath(parent)) / f"{variables.WORK_PREFIX}{secrets.token_hex(4)}"  # noqa: PTH100
    if len(os.fsencode(work)) > LONGEST_WORK:
        raise MachineError(
            "work-folder-too-long",
            "the work folder's path leaves no room for the engine's sockets",
            where=str(work),
            expected=f"at most {LONGEST_WORK} bytes",
            found=f"{len(os.fsencode(work))} bytes",
            hint="name a shorter folder with --work, such as /run/sealift",
        )
    require_safe_place(parent)
    return work


def _model(
    root: Path, manifest: Manifest, entry: LaunchEntry, table: EngineTable, work: Path
) -> ModelToServe:
    prefix = entry.model_path + "/"
    files = [item.path.removeprefix(prefix) for item in manifest.files if item.path.startswith(prefix)]
    code = tuple(path for path in files if path.endswith(".py"))
    listed = _listed_executable(manifest)
    checks_weights = any(flag.member == "model.checksums" for flag in table.flags.values())
    return ModelToServe(
        path=root / entry.model_path / _model_file(entry, table, files),
        kimi=_is_kimi(root / entry.model_path, files),
        safetensors=any(path.endswith(".safetensors") for path in files),
        code=code,
        unlisted_code=tuple(path for path in code if prefix + path not in listed),
        checksums=work / CHECKSUMS if checks_weights else None,
    )


def _listed_executable(manifest: Manifest) -> set[str]:
    """All paths that artifacts of the manifest name as executable."""
    return {path for artifact in artifacts_of(manifest) for path in artifact.executable}


def _model_file(entry: LaunchEntry, table: EngineTable, files: list[str]) -> str:
    """The file to open below the model's folder: what the profile says; for llama.cpp its only GGUF, or the
    first part of its only split GGUF; otherwise empty for the folder itself.
    """
    if entry.model_file:
        if entry.model_file not in files:
            _refuse_model_file(entry, files)
        return entry.model_file
    if table.engine != "llama.cpp":
        return ""
    whole = [path for path in files if path.endswith(".gguf") and "-of-" not in path]
    first = [path for path in files if path.endswith(".gguf") and "-00001-of-" in path]
    if len(whole) + len(first) != 1:
        _refuse_model_file(entry, files)
    return (whole + first)[0]


def _refuse_model_file(entry: LaunchEntry, files: list[str]) -> NoReturn:
    known = sorted(path for path in files if path.endswith((".gguf", ".safetensors")))
    raise PolicyError(
        "model-file",
        "the launch profile does not say which file of the model to open, or one that is not there",
        where=f"manifest.json: launch: {entry.profile}: modelFile",
        expected="one of: " + ", ".join(known[:20]),
        found=entry.model_file or "nothing",
        hint="set `modelFile` of the launch profile in the spec, and build the bundle again",
    )


def _is_kimi(folder: Path, files: list[str]) -> bool:
    """Whether config.json says the Kimi family (`kimi_k2`, `kimi_k25`...), at its top or in `text_config`."""
    if "config.json" not in files:
        return False
    data = read_small(folder / "config.json", limit=CONFIG_LIMIT, where="config.json")
    config = parse_published_json(data, limit=CONFIG_LIMIT, where="config.json").value
    if not isinstance(config, dict):
        return False
    inner = config.get("text_config")
    kinds = [config.get("model_type"), inner.get("model_type") if isinstance(inner, dict) else None]
    return any(isinstance(kind, str) and kind.startswith("kimi") for kind in kinds)


def _check_port(host: str, port: int) -> None:
    """Try the address once: an engine that finds its port taken after minutes of loading helps nobody."""
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        # A name: the engine resolves it; we ask no resolver.
        return
    family, kind, protocol, _, address = addresses[0]
    with socket.socket(family, kind, protocol) as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind(address)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES):
                raise
            raise MachineError(
                "port-in-use",
                "the address cannot be bound",
                where=f"{host}:{port}",
                expected="a free port on an address of this machine",
                found=error.strerror or str(error),
                hint="end the server that holds it, or give another with --port",
            ) from error


def _notes(table: EngineTable) -> tuple[str, ...]:
    evidence = {
        "run": (),
        "source": (f"the flag table of {table.engine} {table.version} was read from its source, not run",),
        "documented": (
            f"the flag table of {table.engine} {table.version} is from its documentation, not run",
        ),
    }
    offered = table.observability
    return (
        *evidence[table.evidence],
        *(f"watch: {text}" for text in offered.turned_on),
        *(f"not offered by this engine: {text}" for text in offered.not_offered),
    )
