"""Launch profiles as the signed manifest tells them (format.md section 3, member `launch`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from bundler.core.artifacts import launch_members_of, object_of
from bundler.core.manifest import Manifest
from bundler.core.paths import path_fault
from bundler.errors import MalformedError, UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchEntry:
    """One way to start a server. Member names are those of the spec's launch profile, in snake case.

    `model_path` is the model's folder from the root of the bundle; `model_file` a file in it, or empty.
    """

    profile: str
    engine: str
    engine_version: str
    requirement: str
    folder: str
    model_path: str
    model_format: str
    served_name: str
    model_file: str = ""
    host: str = "127.0.0.1"
    port: int = 8000
    context_length: int | None = None
    tensor_parallel: int = 1
    gpu_memory_utilization: str = "0.90"
    tool_call_parser: str = ""
    reasoning_parser: str = ""
    trust_remote_code: bool = False
    kv_cache_dtype: str = ""
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


def find_entry(manifest: Manifest, profile: str) -> LaunchEntry:
    """The launch entry named `profile`.

    Raises UsageError (`unknown-profile`) when the bundle has none of that name, and MalformedError
    (`bad-launch-entry`) when the entry is not valid.
    """
    named = launch_members_of(manifest)
    found = [item for item in named if item.get("profile") == profile]
    if len(found) != 1:
        known = ", ".join(sorted(str(item.get("profile")) for item in named)) or "none"
        raise UsageError(
            "unknown-profile",
            "the bundle has no launch profile of that name"
            if not found
            else "a launch profile is there twice",
            where="manifest.json: launch",
            expected=f"one of: {known}",
            found=profile,
            hint="`sealift inspect BUNDLE` shows the profiles",
        )
    return _parse(found[0], f"manifest.json: launch: {profile}")


def profiles_for(manifest: Manifest, folder: str) -> tuple[str, ...]:
    """Names of the launch profiles whose engine is installed from the wheels in `folder`."""
    return tuple(
        str(item.get("profile"))
        for item in launch_members_of(manifest)
        if object_of(item, "engine").get("folder") == folder
    )


def parse_entry(value: Mapping[str, Any], where: str) -> LaunchEntry:
    """The launch entry that a value of the manifest's `launch` describes. Raises MalformedError."""
    return _parse(value, where)


def _parse(value: Mapping[str, Any], where: str) -> LaunchEntry:
    engine, model = _object(value, "engine", where), _object(value, "model", where)
    return LaunchEntry(
        profile=_text(value, "profile", where),
        engine=_text(engine, "name", f"{where}: engine"),
        engine_version=_text(engine, "version", f"{where}: engine"),
        requirement=_text(engine, "requirement", f"{where}: engine"),
        folder=_text(engine, "folder", f"{where}: engine"),
        model_path=_path(model, "path", f"{where}: model"),
        model_format=_text(model, "format", f"{where}: model"),
        served_name=_text(value, "servedName", where),
        model_file=_path(value, "modelFile", where) if "modelFile" in value else "",
        host=_text(value, "host", where, "127.0.0.1"),
        port=_integer(value, "port", where, 8000, most=65535),
        context_length=_integer(value, "contextLength", where, 0) or None,
        tensor_parallel=_integer(value, "tensorParallel", where, 1),
        gpu_memory_utilization=_text(value, "gpuMemoryUtilization", where, "0.90"),
        tool_call_parser=_text(value, "toolCallParser", where, ""),
        reasoning_parser=_text(value, "reasoningParser", where, ""),
        trust_remote_code=_boolean(value, "trustRemoteCode", where),
        kv_cache_dtype=_text(value, "kvCacheDtype", where, ""),
        arguments=_texts(value, "arguments", where),
        environment=_variables(value, "environment", where),
    )


def _object(value: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    member = value.get(name)
    if not isinstance(member, dict):
        raise _fault(where, name, "an object", member)
    return member


def _text(value: Mapping[str, Any], name: str, where: str, default: str | None = None) -> str:
    """Text that no argument parser can take for a flag; `default` when the member is absent."""
    if default is not None and value.get(name) is None:
        return default
    member = value.get(name)
    if not isinstance(member, str) or not member or member.startswith("-") or not member.isprintable():
        raise _fault(where, name, "printable text that does not begin with -", member)
    return member


def _path(value: Mapping[str, Any], name: str, where: str) -> str:
    member = _text(value, name, where)
    if path_fault(member):
        raise _fault(where, name, "a path as in format.md section 1", member)
    return str(PurePosixPath(member))


def _integer(value: Mapping[str, Any], name: str, where: str, default: int, *, most: int = 2**53) -> int:
    member = value.get(name, default)
    if type(member) is not int or not (member == default or 1 <= member <= most):
        raise _fault(where, name, f"an integer from 1 to {most}", member)
    return member


def _boolean(value: Mapping[str, Any], name: str, where: str) -> bool:
    member = value.get(name, False)
    if not isinstance(member, bool):
        raise _fault(where, name, "true or false", member)
    return member


def _texts(value: Mapping[str, Any], name: str, where: str) -> tuple[str, ...]:
    member = value.get(name, [])
    if not isinstance(member, list) or not all(
        isinstance(item, str) and item.isprintable() for item in member
    ):
        raise _fault(where, name, "a list of printable texts", member)
    return tuple(member)


def _variables(value: Mapping[str, Any], name: str, where: str) -> dict[str, str]:
    member = value.get(name, {})
    if not isinstance(member, dict) or not all(
        isinstance(item, str) and item.isprintable() for item in member.values()
    ):
        raise _fault(where, name, "an object of printable texts", member)
    return dict(member)


def _fault(where: str, name: str, expected: str, found: object) -> MalformedError:
    return MalformedError(
        "bad-launch-entry",
        "a launch entry of the manifest is not valid",
        where=f"{where}: {name}",
        expected=expected,
        found=repr(found)[:160],
        hint="build the bundle again with this version of sealift",
    )
