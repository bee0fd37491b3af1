"""Which engines a bundle brings, and whether each has reached the policy's floor (format.md section 6).

Wheels are judged by the file names as they are stored, whatever describes them; launch entries, package URLs
and image names by what they say. What cannot be read is refused: it could be any version.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote

from packaging.version import InvalidVersion, Version

from bundler.core.artifacts import object_of, text_of
from bundler.core.manifest import Manifest
from bundler.core.purl import normal_name, parse_purl
from bundler.errors import ExitCode, Finding

# Names in these are repositories of models and images, not distributions of an engine.
_OTHER_TYPES = frozenset({"huggingface", "oci", "docker"})
_PROJECT = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_TAG_VERSION = re.compile(r"v?(\d+(?:\.\d+)+(?:\.?(?:rc|post|dev|a|b)\d+)?)(?![0-9.])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """An engine that a bundle brings. `version` is empty where nothing says it; `where` says who names it."""

    name: str
    version: str
    where: str


def engine_findings(floors: Mapping[str, str], manifest: Manifest) -> Iterator[Finding]:
    """`engine-floor`: an engine older than its floor, or of a version that cannot be compared with it."""
    wanted = {normal_name(name): floor for name, floor in floors.items()}
    if len(wanted) != len(floors):
        names = ", ".join(sorted(floors))
        yield _finding("policy: rules.engines", "every engine once", f"two spellings of one name: {names}")
    for engine in brought_engines(manifest, wanted):
        floor = wanted.get(engine.name)
        fault = "" if floor is None else version_fault(engine.version, floor)
        if fault:
            yield _finding(engine.where, f"{engine.name} {floor} or later", fault)


def version_fault(version: str, floor: str) -> str:
    """Why a version does not reach a floor (PEP 440); empty when it does.

    An epoch (`1!0.1`) starts a new numbering: versions of two epochs do not tell which code is newer.
    """
    if not version:
        return "no version can be read"
    try:
        found, wanted = Version(version), Version(floor)
    except InvalidVersion:
        return "" if version == floor else f"{version!r:.100} cannot be compared with {floor!r:.100}"
    if found.epoch != wanted.epoch:
        return f"{version:.100}, in the numbering of another epoch"
    return "" if found >= wanted else version[:100]


def brought_engines(manifest: Manifest, names: Iterable[str]) -> list[Engine]:
    """Everything in the bundle that shows itself as one of the engines `names` (normal form)."""
    wanted = frozenset(names)
    found = [*_launched(manifest), *_described(manifest), *_stored_wheels(manifest)]
    found += _images(manifest, wanted)
    # A launch entry without a readable engine could start any of them.
    found += [
        Engine(name=name, version="", where=item.where) for item in found if not item.name for name in wanted
    ]
    return sorted({item for item in found if item.name in wanted}, key=lambda item: (item.name, item.where))


def _launched(manifest: Manifest) -> Iterator[Engine]:
    launch = manifest.members.get("launch")
    for number, entry in enumerate(launch if isinstance(launch, list) else [launch] if launch else []):
        engine = entry.get("engine") if isinstance(entry, dict) else None
        engine = engine if isinstance(engine, dict) else {}
        name = _project(_text(engine.get("name")))
        where = f"manifest.json: launch[{number}].engine"
        yield Engine(name=name, version=_text(engine.get("version")), where=where)


def _described(manifest: Manifest) -> Iterator[Engine]:
    for number, artifact in enumerate(_artifacts(manifest)):
        where = f"manifest.json: artifacts[{number}].purl"
        purl = parse_purl(artifact.get("purl"))
        if purl is not None and purl.type not in _OTHER_TYPES:
            yield Engine(name=_project(purl.name), version=purl.version, where=where)
        elif purl is None and artifact.get("purl") is not None and artifact.get("kind") in ("wheels", "tool"):
            yield Engine(name="", version="", where=where)


def _stored_wheels(manifest: Manifest) -> Iterator[Engine]:
    """The project and version in the name of each file that an installer would take for a wheel."""
    for entry in manifest.files:
        filename = unquote(entry.path.rpartition("/")[2])
        if filename.lower().endswith(".whl"):
            project, _, rest = filename[: -len(".whl")].partition("-")
            version = rest.partition("-")[0].replace("_", "+", 1)
            yield Engine(name=normal_name(project), version=version, where=entry.path)


def _images(manifest: Manifest, names: Iterable[str]) -> Iterator[Engine]:
    """Container images whose repository is called after an engine; the tag is all that tells the version."""
    for number, artifact in enumerate(_artifacts(manifest)):
        if artifact.get("kind") != "image":
            continue
        said = [_split_reference(reference) for reference in _image_references(artifact)]
        words = {word for repository, _ in said for word in _words(repository)}
        tags = {match[1] for _, tag in said if (match := _TAG_VERSION.match(tag))} or {""}
        where = f"manifest.json: artifacts[{number}] ({said[0][0] if said else artifact.get('id')!r:.200})"
        for name in names:
            if name in words:
                yield from (Engine(name=name, version=tag, where=where) for tag in sorted(tags))


def _image_references(artifact: Mapping[str, Any]) -> list[str]:
    """Everything in an image's description that may name its repository: no one place is required."""
    source, name = object_of(artifact, "source"), text_of(artifact, "id")
    texts = [text_of(source, "asked"), text_of(source, "resolved"), name.removeprefix("image:")]
    return [text for text in (*texts, *_purl_references(artifact.get("purl"))) if text]


def _purl_references(value: object) -> Iterator[str]:
    """`repository:tag` as a package URL says it; its qualifiers may hold both (type `oci`)."""
    purl = parse_purl(value)
    if purl is None:
        return
    qualifiers = parse_qs(_text(value).partition("#")[0].partition("?")[2])
    tag = "" if purl.version.startswith("sha256:") else purl.version
    tag = "".join(qualifiers.get("tag", [])) or tag
    for repository in (f"{purl.namespace}/{purl.name}", *qualifiers.get("repository_url", [])):
        yield f"{repository.strip('/')}:{tag}" if tag else repository.strip("/")


def _split_reference(reference: str) -> tuple[str, str]:
    """Repository and tag; a port of the registry is no tag."""
    reference = reference.partition("@")[0]
    repository, _, tag = reference.rpartition(":")
    return (reference, "") if not repository or "/" in tag else (repository, tag)


def _project(name: str) -> str:
    """The name as PEP 503 compares it; empty when it is no project name, and could pass for any."""
    name = normal_name(name)
    return name if _PROJECT.fullmatch(name) else ""


def _words(repository: str) -> set[str]:
    """Path components of a repository, and what stands before a `-` in each (`vllm-openai` is vllm)."""
    parts = [normal_name(part) for part in repository.split("/")]
    return {
        "-".join(words[:count])
        for words in (p.split("-") for p in parts)
        for count in range(1, len(words) + 1)
    }


def _artifacts(manifest: Manifest) -> list[Mapping[str, Any]]:
    value = manifest.members.get("artifacts", [])
    return [item if isinstance(item, dict) else {} for item in value] if isinstance(value, list) else []


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _finding(where: str, expected: str, found: str) -> Finding:
    return Finding(
        "engine-floor",
        "an engine is older than the policy's floor, or its version cannot be compared with it",
        where=where,
        expected=expected,
        found=found,
        hint="ask for a bundle with a newer engine; `sealift trust show POLICY` shows the floors",
        exit_code=ExitCode.POLICY,
    )
