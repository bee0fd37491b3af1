"""The manifest's account of what a bundle holds: artifacts, the files they own, and launch entries.

Everything comes from the lock and from what the content checks read in the files themselves, so that a
rebuild from the same lock gives the same members (format.md section 3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from bundler.assembly.signature_status import Standing
from bundler.core import layout
from bundler.core.evidence import image_evidence, image_signatures, model_evidence, provenance_path
from bundler.core.specs.lock import Lock, LockedEngine, LockedFile, LockedImage, LockedModel, LockedWheel

LICENSE_NAMES = ("license", "licence", "copying", "notice", "third_party_notices")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What the content check read in a model's files."""

    executable: tuple[str, ...]
    """Code and templates the model would run, as paths inside the model."""
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What only the fetched files can tell, by artifact."""

    models: Mapping[str, ModelFacts]
    """By model id."""
    wheel_licenses: Mapping[str, str]
    """Licence text of the wheel's own metadata, by file name."""
    signatures: Mapping[str, Standing] = field(default_factory=dict)
    """What is known of the upstream signature, by artifact id; not of files, which have none."""


def describe(lock: Lock, contents: Contents) -> list[dict[str, Any]]:
    """All artifacts of the bundle, sorted by id."""
    artifacts = [_model(model, contents.models[model.id]) for model in lock.models]
    artifacts += _wheels(lock.engines, layout.WHEELS, contents)
    artifacts += _wheels(lock.tools, layout.TOOLS, contents)
    artifacts += [_image(image) for image in lock.images]
    artifacts += [_file(item) for item in lock.files]
    for artifact in artifacts:
        if artifact["id"] in contents.signatures:
            artifact["source"]["upstreamSignature"] = contents.signatures[artifact["id"]].to_json()
    return sorted(artifacts, key=lambda artifact: str(artifact["id"]))


def owners(lock: Lock) -> dict[str, str]:
    """The artifact id of each path that one artifact owns; shared and generated files own themselves."""
    owned: dict[str, str] = {}
    for model in lock.models:
        owned[f"{layout.model_folder(model.repo)}/refs/main"] = model_id(model)
        owned.update({f"{model.snapshot}/{item.path}": model_id(model) for item in model.files})
    for folder, engines in ((layout.WHEELS, lock.engines), (layout.TOOLS, lock.tools)):
        for wheel in (wheel for engine in engines for wheel in engine.wheels):
            owned[f"{folder}/{wheel.filename}"] = wheel_id(wheel, folder)
    owned.update({item.path: file_id(item) for item in lock.files})
    return owned | _evidence_owners(lock)


def _evidence_owners(lock: Lock) -> dict[str, str]:
    """The artifact that each file of evidence is about; keys and Sigstore roots belong to none."""
    owned: dict[str, str] = {}
    for model in lock.models:
        owned |= {model_evidence(model, file).path: model_id(model) for file in model.signature_files}
    for folder, engines in ((layout.TOOLS, lock.tools), (layout.WHEELS, lock.engines)):
        for wheel in (wheel for engine in engines for wheel in engine.wheels):
            if wheel.provenance is not None:
                owned[provenance_path(wheel)] = wheel_id(wheel, folder)
    for image in lock.images:
        for referrer in image_signatures(image):
            owned |= {file.path: image_id(image) for file in image_evidence(referrer)}
    return owned


def model_id(model: LockedModel) -> str:
    """`model:<id>`."""
    return f"model:{model.id}"


def wheel_id(wheel: LockedWheel, folder: str) -> str:
    """`wheels:<project>@<version>`, or `tools:…` for what installs sealift itself."""
    return f"{PurePosixPath(folder).name}:{wheel.name}@{wheel.version}"


def image_id(image: LockedImage) -> str:
    """`image:<registry>/<repository>[:<tag>]`."""
    return f"image:{image.reference.split('@')[0]}"


def file_id(item: LockedFile) -> str:
    """`<kind>:<path below its folder>`."""
    return f"{item.kind}:{item.path.split('/', 2)[-1]}"


def _model(model: LockedModel, content: ModelFacts) -> dict[str, Any]:
    texts = [f"{model.snapshot}/{item.path}" for item in model.files if _is_license(item.path)]
    matched = [item for item in model.files if item.lfs_sha256]
    return {
        "id": model_id(model),
        "kind": "model",
        "purl": f"pkg:huggingface/{model.repo}@{model.commit}",
        "source": {
            "asked": f"{model.repo}@{model.revision}",
            "resolved": model.commit,
            "url": f"{model.endpoint or 'https://huggingface.co'}/{model.repo}/tree/{model.commit}",
            "upstreamDigests": {
                "lfsSha256": _state(len(matched)),
                "gitBlobSha1": _state(len(model.files) - len(matched)),
            },
        },
        "license": _license(model.declared_license, model.concluded_license, texts),
        "path": model.snapshot,
        "format": model.format,
        "executable": [f"{model.snapshot}/{path}" for path in content.executable],
        "allowPickle": list(model.allow_pickle),
        "facts": dict(content.facts),
    }


def _wheels(engines: tuple[LockedEngine, ...], folder: str, contents: Contents) -> list[dict[str, Any]]:
    grouped: dict[str, dict[str, Any]] = {}
    for engine in engines:
        for wheel in engine.wheels:
            artifact = grouped.setdefault(wheel_id(wheel, folder), _wheel(wheel, folder, contents))
            artifact["targets"] = sorted({*artifact["targets"], engine.folder})
            names = {entry["filename"] for entry in artifact["wheels"]}
            if wheel.filename not in names:
                artifact["wheels"].append(_wheel_file(wheel))
                artifact["wheels"].sort(key=lambda entry: entry["filename"])
    return list(grouped.values())


def _wheel(wheel: LockedWheel, folder: str, contents: Contents) -> dict[str, Any]:
    return {
        "id": wheel_id(wheel, folder),
        "kind": "wheels" if folder == layout.WHEELS else "tool",
        "purl": f"pkg:pypi/{wheel.name}@{wheel.version}",
        "source": {
            "asked": wheel.name,
            "resolved": wheel.version,
            "index": wheel.index or "default",
            "upstreamDigests": {"sha256": "matched"},
        },
        "license": _license(contents.wheel_licenses.get(wheel.filename), None, []),
        "targets": [],
        "wheels": [_wheel_file(wheel)],
    }


def _wheel_file(wheel: LockedWheel) -> dict[str, Any]:
    return {"filename": wheel.filename, "sha256": wheel.sha256, "size": wheel.size}


def _image(image: LockedImage) -> dict[str, Any]:
    name = image.reference.split("@")[0]
    return {
        "id": image_id(image),
        "kind": "image",
        "purl": f"pkg:oci/{name.rsplit('/', 1)[-1].split(':')[0]}@{image.digest}",
        "mediaType": image.media_type,
        "source": {
            "asked": image.reference,
            "resolved": image.digest,
            "upstreamDigests": {"sha256": "matched"},
        },
        "license": _license(None, None, []),
        "digest": image.digest,
        "platforms": [{"platform": item.platform, "digest": item.digest} for item in image.platforms],
        "referrers": [
            {"digest": item.digest, "mediaType": item.media_type, "subject": item.subject}
            for item in image.referrers
        ],
    }


def _file(item: LockedFile) -> dict[str, Any]:
    source = {"url": item.url} if item.url else {"local": item.source}
    return {
        "id": file_id(item),
        "kind": "file" if item.kind == "file" else "document",
        "source": {**source, "resolved": f"sha256:{item.sha256}", "upstreamDigests": {"sha256": "matched"}},
        "license": _license(None, None, []),
        "title": item.title or PurePosixPath(item.path).name,
        "appliesTo": list(item.applies_to),
        "path": item.path,
    }


def launch_entries(lock: Lock) -> list[dict[str, Any]]:
    """What the far side needs to start each profile, from the manifest alone."""
    engines = {engine.id: engine for engine in lock.engines}
    models = {model.id: model for model in lock.models}
    entries = []
    for profile in lock.launch:
        engine, model = engines[profile.engine], models[profile.model]
        entry = profile.model_dump(mode="json", by_alias=True, exclude_none=True)
        entry["engine"] = {
            "id": engine.id,
            "name": engine.name,
            "version": engine.version,
            "requirement": engine.requirement,
            "folder": engine.folder,
            "python": engine.python,
            "platform": engine.platform,
            "accelerator": engine.accelerator,
        }
        entry["model"] = {"id": model.id, "path": model.snapshot, "format": model.format}
        if lock.node is not None:
            entry["node"] = lock.node.model_dump(mode="json", by_alias=True)
        entries.append(entry)
    return entries


def _license(declared: str | None, concluded: str | None, texts: list[str]) -> dict[str, Any]:
    return {"declared": declared, "detected": None, "concluded": concluded, "texts": texts}


def _state(count: int) -> str:
    return "matched" if count else "not-offered"


def _is_license(path: str) -> bool:
    return PurePosixPath(path).name.lower().startswith(LICENSE_NAMES)
