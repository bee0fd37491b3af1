"""Which artifact of the manifest describes each model file and each wheel (format.md section 6).

A rule can only judge what it knows to be there. So every file below `payload/models` and `payload/wheels`
must belong to exactly one artifact of the right kind. What the index of the wheels consists of (`simple/` and
`locks/`, section 1) belongs to all of them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from os.path import commonpath
from typing import Any

from packaging.version import InvalidVersion, Version

from bundler.content.shards import SHARD_SUFFIX
from bundler.content.unsafe_files import PICKLE_SUFFIXES
from bundler.content.wheels.name import WheelName, parse_wheel_name
from bundler.core.layout import MODELS, WHEELS, is_below
from bundler.core.manifest import FileEntry, Manifest
from bundler.core.paths import path_fault
from bundler.core.purl import parse_purl
from bundler.errors import ExitCode, Finding, MalformedError

MODEL, WHEEL = "model", "wheels"
_WHEEL_INDEX = re.compile(
    rf"{WHEELS}/(?:simple/(?:[^/]+/)?index\.html|locks/[^/]+/(?:pylock\.toml|requirements\.txt))"
)
_REFERENCE = re.compile(rf"({MODELS}/models--[^/]+)/refs/[^/]+")
_REFERENCE_BYTES = 128
"""A reference holds the name of one commit: 40 characters, a few more in other stores. It is no weight."""
_WEIGHTS = (SHARD_SUFFIX, ".gguf", *sorted(PICKLE_SUFFIXES))
SHOWN = 1000
"""Findings that are shown: a manifest with more was made to flood, not by mistake."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribedModel:
    """One artifact of kind `model`: its folder in the bundle and the bundle paths of its files."""

    id: str
    folder: str
    files: tuple[str, ...]
    artifact: Mapping[str, Any]


def artifacts(manifest: Manifest) -> list[Mapping[str, Any]]:
    """The manifest's artifacts; those that are no objects are left out, and found by `payload_findings`."""
    value = manifest.members.get("artifacts", [])
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def described_models(manifest: Manifest) -> list[DescribedModel]:
    """Every artifact of kind `model` that names a folder, or whose files name it."""
    found = []
    for artifact in artifacts(manifest):
        if artifact.get("kind") != MODEL:
            continue
        name, folder = artifact.get("id"), artifact.get("path")
        entries = [entry.path for entry in manifest.files if _claims_model(artifact, entry)]
        if isinstance(folder, str) and folder:
            files = tuple(path for path in entries if is_below(path, folder))
        elif entries:
            folder, files = _common_folder(entries), tuple(entries)
        else:
            continue
        found.append(DescribedModel(id=str(name), folder=folder, files=files, artifact=artifact))
    return found


def _common_folder(paths: Iterable[str]) -> str:
    return commonpath([path.rpartition("/")[0] for path in paths])


def payload_findings(manifest: Manifest) -> list[Finding]:
    """`undescribed-payload`: files that no artifact describes, or several, or one that contradicts them."""
    value = manifest.members.get("artifacts")
    if value is not None and not isinstance(value, list):
        return [_finding("manifest.json: artifacts", "a list of objects", type(value).__name__)]
    findings = list(_shape_findings(value or []))
    grouped: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    descriptions = _Descriptions(manifest)
    for entry in manifest.files:
        reason = descriptions.reason(entry)
        if reason:
            grouped[reason, "/".join(entry.path.split("/")[:3])].append(entry.path)
    findings += [_group_finding(reason, paths) for (reason, _), paths in grouped.items()]
    findings += _launch_findings(manifest)
    return _capped(findings)


def _capped(findings: list[Finding]) -> list[Finding]:
    if len(findings) <= SHOWN:
        return findings
    rest = len(findings) - SHOWN
    return [*findings[:SHOWN], _finding("manifest.json", "artifacts as above", f"{rest} more like these")]


def _shape_findings(value: list[Any]) -> Iterator[Finding]:
    seen: set[str] = set()
    for number, item in enumerate(value):
        where = f"manifest.json: artifacts[{number}]"
        if not isinstance(item, dict):
            yield _finding(where, "an object", type(item).__name__)
            continue
        name, kind = item.get("id"), item.get("kind")
        if not isinstance(name, str) or not name or not isinstance(kind, str):
            yield _finding(where, "an id and a kind, both texts", f"id {name!r}, kind {kind!r}"[:200])
        elif name in seen:
            yield _finding(where, "every id once", f"{name} twice")
        else:
            seen.add(name)


class _Descriptions:
    """The artifacts that may describe models and wheels, found without a search per file."""

    def __init__(self, manifest: Manifest) -> None:
        described = artifacts(manifest)
        self.placed: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
        """Every artifact that names a file or folder, by that path."""
        for item in described:
            if _is_text(item.get("path")):
                self.placed[item["path"]].append(item)
        named = [item for item in described if _is_text(item.get("id"))]
        self.models = [item for item in named if item.get("kind") == MODEL]
        self.wheels: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
        """By the file names they list, else by `id:` and their own id, and by the project they name."""
        for item in named:
            if item.get("kind") == WHEEL:
                for key in _wheel_keys(item):
                    self.wheels[key].append(item)

    def reason(self, entry: FileEntry) -> str:
        """Why the file is not described as it must be; empty when it is, or when it need not be."""
        if is_below(entry.path, MODELS):
            claims = [item for item in self.models if _claims_model(item, entry)]
            shared = _referring_repository(entry) is not None
            return self._other_kind(entry, MODEL) or _claims_reason(claims, entry, MODEL, shared=shared)
        if is_below(entry.path, WHEELS) and not _WHEEL_INDEX.fullmatch(entry.path):
            return self._wheel_reason(entry)
        return ""

    def _wheel_reason(self, entry: FileEntry) -> str:
        filename = entry.path[len(WHEELS) + 1 :]
        try:
            name = parse_wheel_name(filename)
        except MalformedError:
            return "it is not a wheel in the one flat folder of wheels"
        keys = (filename, f"id:{entry.artifact}", f"project:{name.project}")
        near = [*self._at(entry.path), *(item for key in keys for item in self.wheels.get(key, ()))]
        items = {id(item): item for item in near if item.get("kind") == WHEEL and _is_text(item.get("id"))}
        claims = [item for item in items.values() if _claims_wheel(item, entry, filename, name)]
        reason = self._other_kind(entry, WHEEL) or _claims_reason(claims, entry, WHEEL)
        # The file is what will be installed: a description that does not fit it describes something else.
        if not reason and "purl" in claims[0] and not _fits(claims[0]["purl"], name):
            return f"its artifact describes {claims[0]['purl']!r:.100}"
        return reason

    def _at(self, path: str) -> Iterator[Mapping[str, Any]]:
        """The artifacts that name this path or a folder above it."""
        parts = path.split("/")
        for count in range(1, len(parts) + 1):
            yield from self.placed.get("/".join(parts[:count]), ())

    def _other_kind(self, entry: FileEntry, kind: str) -> str:
        """Why the file belongs to something else too: a rule for that kind would not look at it."""
        others = (item for item in self._at(entry.path) if item.get("kind") != kind)
        return next((f"an artifact of kind {item.get('kind')!r:.100} describes it" for item in others), "")


def _wheel_keys(artifact: Mapping[str, Any]) -> set[str]:
    if "wheels" in artifact:
        listed = artifact["wheels"]
        named = [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
        return {str(item.get("filename")) for item in named}
    purl = parse_purl(artifact.get("purl"))
    return {f"id:{artifact['id']}", f"project:{purl.name}" if purl else ""}


def _claims_reason(
    claims: list[Mapping[str, Any]], entry: FileEntry, kind: str, *, shared: bool = False
) -> str:
    if not claims:
        return f"no artifact of kind {kind} describes it"
    if len(claims) > 1 and not shared:
        return f"{len(claims)} artifacts describe it"
    if entry.artifact and entry.artifact not in {claim.get("id") for claim in claims}:
        return f"its entry names the artifact {entry.artifact!r:.100}, which does not describe it"
    return ""


def _claims_model(artifact: Mapping[str, Any], entry: FileEntry) -> bool:
    """By its folder when it names one; else the file's own entry must name the artifact."""
    if artifact.get("kind") != MODEL or not _is_text(artifact.get("id")):
        return False
    if "path" not in artifact:
        return is_below(entry.path, MODELS) and entry.artifact == artifact["id"]
    folder = artifact["path"]
    if not isinstance(folder, str) or path_fault(folder):
        return False
    repository = _referring_repository(entry)
    if repository is not None and is_below(folder, repository):
        return True
    return is_below(entry.path, folder)


def _referring_repository(entry: FileEntry) -> str | None:
    """The folder of the model repository in which this is a reference; None when it is none.

    Nobody judges what a reference says: one that could hold weights is a file of the model like any other.
    """
    match = _REFERENCE.fullmatch(entry.path)
    if match is None or entry.size > _REFERENCE_BYTES or entry.path.lower().endswith(_WEIGHTS):
        return None
    return match[1]


def _claims_wheel(artifact: Mapping[str, Any], entry: FileEntry, filename: str, name: WheelName) -> bool:
    if "wheels" not in artifact and "path" in artifact:
        folder, own = artifact["path"], entry.artifact in ("", artifact["id"])
        there = isinstance(folder, str) and (entry.path == folder or is_below(entry.path, folder))
        return there and own and ("purl" not in artifact or _fits(artifact["purl"], name))
    if "wheels" not in artifact:
        return entry.artifact == artifact["id"] if entry.artifact else _fits(artifact.get("purl"), name)
    listed = artifact["wheels"]
    named = [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
    return any(
        item.get("filename") == filename and item.get("sha256", entry.sha256) == entry.sha256
        for item in named
    )


def _fits(purl: object, name: WheelName) -> bool:
    parsed = parse_purl(purl)
    if parsed is None or parsed.type != "pypi" or parsed.name != name.project:
        return False
    try:
        return Version(parsed.version) == name.version
    except InvalidVersion:
        return False


def _launch_findings(manifest: Manifest) -> Iterator[Finding]:
    """Whatever a profile starts must be a model whose content was checked."""
    launch = manifest.members.get("launch")
    if launch is None:
        return
    if not isinstance(launch, list):
        yield _finding("manifest.json: launch", "a list of objects", type(launch).__name__)
        return
    folders = {model.folder for model in described_models(manifest) if model.files}
    for number, item in enumerate(launch):
        model = item.get("model", {}) if isinstance(item, dict) else None
        where = f"manifest.json: launch[{number}].model.path"
        if not isinstance(model, dict):
            yield _finding(where, "an object with a model", repr(item))
        elif "path" in model and not _is_checked(model["path"], folders):
            yield _finding(where, "the folder of a model that an artifact describes", repr(model["path"]))


def _is_checked(path: object, folders: set[str]) -> bool:
    if not isinstance(path, str) or path_fault(path):
        return False
    return any(path == folder or is_below(path, folder) for folder in folders)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _group_finding(reason: str, paths: list[str]) -> Finding:
    more = f", and {len(paths) - 1} more files of this folder" if len(paths) > 1 else ""
    return _finding(paths[0], "exactly one artifact of a known kind that describes it", reason + more)


def _finding(where: str, expected: str, found: str) -> Finding:
    return Finding(
        "undescribed-payload",
        "the policy has rules, and they cannot judge a file that the manifest does not describe",
        where=where,
        expected=expected,
        found=found[:300],
        hint="ask the release engineer to build the bundle again with `sealift build`",
        exit_code=ExitCode.POLICY,
    )
