"""What changed between two manifests or two locks, as values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bundler.core.artifacts import artifacts_of, launch_members_of
from bundler.core.manifest import FileEntry, Manifest


@dataclass(frozen=True)
class Change:
    """One difference: `added`, `removed` or `changed`, and what was there before and after."""

    kind: str
    where: str
    before: str = ""
    after: str = ""

    def to_json(self) -> dict[str, str]:
        """All four members."""
        return {"kind": self.kind, "where": self.where, "before": self.before, "after": self.after}


@dataclass(frozen=True)
class ManifestDifference:
    """How to get from one bundle to another.

    `new_bytes` counts bytes whose digest the first bundle does not hold under any path: what a medium
    would have to carry.
    """

    files: tuple[Change, ...]
    artifacts: tuple[Change, ...]
    members: tuple[Change, ...]
    new_bytes: int


def manifest_difference(before: Manifest, after: Manifest) -> ManifestDifference:
    """File by file, artifact by artifact, member by member."""
    held = {entry.sha256 for entry in before.files}
    fresh = {entry.sha256: entry.size for entry in after.files if entry.sha256 not in held}
    return ManifestDifference(
        files=tuple(_compare(_files(before), _files(after))),
        artifacts=tuple(_compare(_artifacts(before), _artifacts(after))),
        members=tuple(_compare(_heads(before), _heads(after))),
        new_bytes=sum(fresh.values()),
    )


def value_difference(before: Any, after: Any) -> tuple[Change, ...]:
    """The differences of two JSON values, each with its path such as `models[0].commit`."""
    return tuple(_compare(dict(_leaves(before, "")), dict(_leaves(after, ""))))


def _compare(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[Change]:
    for where in sorted(before.keys() | after.keys()):
        if where not in after:
            yield Change("removed", where, before=before[where])
        elif where not in before:
            yield Change("added", where, after=after[where])
        elif before[where] != after[where]:
            yield Change("changed", where, before=before[where], after=after[where])


def _files(manifest: Manifest) -> dict[str, str]:
    return {entry.path: _file_text(entry) for entry in manifest.files}


def _file_text(entry: FileEntry) -> str:
    return f"sha256:{entry.sha256} ({entry.size} bytes)"


def _artifacts(manifest: Manifest) -> dict[str, str]:
    return {item.id: str(item.source.get("resolved")) for item in artifacts_of(manifest) if item.source}


def _heads(manifest: Manifest) -> dict[str, str]:
    names = ("name", "channel", "serial", "createdAt", "lock")
    heads = {name: str(manifest.members[name]) for name in names if name in manifest.members}
    profiles = {item["profile"]: item for item in launch_members_of(manifest) if "profile" in item}
    heads.update({f"launch.{path}": text for path, text in _leaves(profiles, "")})
    return heads


def _leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for name, item in _named(value):
            yield from _leaves(item, f"{path}[{name}]")
    else:
        yield path, str(value)


def _named(items: list[Any]) -> Iterator[tuple[str, Any]]:
    """List items by the name they carry, so that one insertion does not change all that follow."""
    for position, item in enumerate(items):
        name = None
        if isinstance(item, dict):
            keys = ("path", "filename", "id", "profile", "reference", "platform", "digest")
            name = next((item[key] for key in keys if isinstance(item.get(key), str)), None)
        yield (name or str(position)), item
