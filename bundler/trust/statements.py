"""Statements that sealift writes: in-toto Statement v1 bytes, deterministic (format.md section 5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bundler.core import strict_json
from bundler.core.manifest import MANIFEST_NAME, Manifest
from bundler.trust.dsse import STATEMENT_TYPE
from bundler.trust.policy_document import TrustPolicy

RELEASE_TYPE = "urn:sealift:release:v1"
PROVENANCE_TYPE = "https://slsa.dev/provenance/v1"
APPROVAL_TYPE = "urn:sealift:trust-policy-approval:v1"
FRESHNESS_TYPE = "urn:sealift:freshness:v1"
BUILD_TYPE = "urn:sealift:build:v1"
BUILDER_ID = "urn:sealift:builder:v1"


def compose(subjects: Mapping[str, str], predicate_type: str, predicate: Mapping[str, Any]) -> bytes:
    """The bytes of a statement about `subjects` (name to hex SHA-256), names in order."""
    return strict_json.dumps(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": name, "digest": {"sha256": subjects[name]}} for name in sorted(subjects)],
            "predicateType": predicate_type,
            "predicate": predicate,
        }
    )


def about_manifest(manifest_sha256: str, predicate_type: str, predicate: Mapping[str, Any]) -> bytes:
    """A statement whose one subject is `manifest.json`."""
    return compose({MANIFEST_NAME: manifest_sha256}, predicate_type, predicate)


def release_statement(manifest: Manifest) -> bytes:
    """`release`: this manifest is serial n of its channel; how many files and bytes it lists."""
    return about_manifest(
        manifest.sha256,
        RELEASE_TYPE,
        {
            "serial": manifest.serial,
            "channel": manifest.channel,
            "files": len(manifest.files),
            "bytes": manifest.total_bytes,
        },
    )


def provenance_statement(manifest: Manifest, lock: Mapping[str, Any], lock_sha256: str) -> bytes:
    """SLSA provenance v1: the lock as external parameters, every upstream as a resolved dependency.

    `lock` is the parsed lock (`core.lock`, as plain JSON) whose bytes have the SHA-256 `lock_sha256`.
    Source: https://slsa.dev/spec/v1.0/provenance
    """
    run: dict[str, Any] = {"builder": {"id": BUILDER_ID}}
    tool = manifest.members.get("tool")
    if isinstance(tool, dict) and isinstance(tool.get("version"), str):
        run["builder"]["version"] = {"sealift": tool["version"]}
    if isinstance(manifest.members.get("createdAt"), str):
        run["metadata"] = {"finishedOn": manifest.members["createdAt"]}
    return about_manifest(
        manifest.sha256,
        PROVENANCE_TYPE,
        {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"lock": lock, "lockSha256": lock_sha256},
                "resolvedDependencies": resolved_dependencies(lock),
            },
            "runDetails": run,
        },
    )


def approval_statement(policy_name: str, policy: TrustPolicy) -> bytes:
    """The approval of a trust policy file (format.md section 6, rotation)."""
    return compose({policy_name: policy.sha256}, APPROVAL_TYPE, {"version": policy.version})


def resolved_dependencies(lock: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every upstream of the lock as SLSA resource descriptors, each once, in the lock's order."""
    found = [_model(model) for model in lock.get("models", ())]
    for engine in [*lock.get("engines", ()), *lock.get("tools", ())]:
        found += [_wheel(wheel) for wheel in engine["wheels"]]
    found += [_image(image) for image in lock.get("images", ())]
    found += [_file(item) for item in lock.get("files", ())]
    return list({strict_json.dumps(item): item for item in found}.values())


def _model(model: Mapping[str, Any]) -> dict[str, Any]:
    uri = f"hf://{model['repo']}@{model['commit']}"
    return {"name": model["id"], "uri": uri, "digest": {"gitCommit": model["commit"]}}


def _wheel(wheel: Mapping[str, Any]) -> dict[str, Any]:
    uri = f"pkg:pypi/{wheel['name']}@{wheel['version']}"
    return {"name": wheel["filename"], "uri": uri, "digest": {"sha256": wheel["sha256"]}}


def _image(image: Mapping[str, Any]) -> dict[str, Any]:
    digest = image["digest"].partition(":")[2]
    return {"name": image["reference"], "uri": f"oci://{image['reference']}", "digest": {"sha256": digest}}


def _file(item: Mapping[str, Any]) -> dict[str, Any]:
    # A local source is a path of the build machine: its place in the bundle says enough.
    uri = item.get("url") or f"urn:sealift:file:{item['path']}"
    return {"name": item["path"], "uri": uri, "digest": {"sha256": item["sha256"]}}
