"""OpenSSF Model Signing v1.0: the statement that third-party tools verify over the whole tree.

Written by us from digests we already have, without the `model-signing` package (format.md section 5;
https://github.com/ossf/model-signing-spec). Its subject digest does not bind file names, so the resources
are always compared with the manifest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from bundler.core.digest import is_sha256_hex
from bundler.core.manifest import ATTESTATIONS, MANIFEST_NAME, FileEntry
from bundler.trust.dsse import Statement
from bundler.trust.statements import compose

OMS_TYPE = "https://model_signing/signature/v1.0"
_SERIALIZATION_MEMBERS = {"method", "hash_type", "allow_symlinks", "ignore_paths"}


def oms_resources(files: Sequence[FileEntry], manifest_sha256: str) -> dict[str, str]:
    """Path to hex SHA-256 of every listed file and of `manifest.json`, in code point order of path."""
    digests = {str(entry.path): entry.sha256 for entry in files}
    digests[MANIFEST_NAME] = manifest_sha256
    return {path: digests[path] for path in sorted(digests)}


def root_digest(digests: Sequence[str]) -> str:
    """SHA-256 over the concatenated raw digests, in this order."""
    return hashlib.sha256(b"".join(bytes.fromhex(digest) for digest in digests)).hexdigest()


def oms_statement(files: Sequence[FileEntry], manifest_sha256: str, *, name: str) -> bytes:
    """The OMS statement of a bundle; `name` is the folder's name, which verifiers show and do not check."""
    resources = oms_resources(files, manifest_sha256)
    predicate = {
        "serialization": {
            "method": "files",
            "hash_type": "sha256",
            "allow_symlinks": False,
            "ignore_paths": [ATTESTATIONS],
        },
        "resources": [
            {"name": path, "algorithm": "sha256", "digest": digest} for path, digest in resources.items()
        ],
    }
    return compose({name: root_digest(tuple(resources.values()))}, OMS_TYPE, predicate)


def oms_fault(statement: Statement, files: Sequence[FileEntry], manifest_sha256: str) -> str:
    """Why an OMS statement is not about exactly this manifest's tree; empty when it is.

    Refuses what `model_signing verify` lets pass: other ignored paths, an empty or shorter list, the same
    name twice, symbolic links allowed.
    """
    predicate = statement.predicate
    if set(predicate) != {"serialization", "resources"}:
        return "its predicate has other members than serialization and resources"
    return (
        _serialization_fault(predicate["serialization"])
        or _resources_fault(predicate["resources"], oms_resources(files, manifest_sha256))
        or _root_fault(statement)
    )


def _serialization_fault(value: Any) -> str:
    if not isinstance(value, dict) or not set(value) <= _SERIALIZATION_MEMBERS:
        return "its serialization has unknown members"
    if value.get("method") != "files" or value.get("hash_type") != "sha256":
        return "its serialization is not files with sha256"
    if value.get("allow_symlinks") is not False:
        return "it allows symbolic links"
    ignored = value.get("ignore_paths", [])
    if not isinstance(ignored, list) or not all(map(_may_be_ignored, ignored)):
        return f"it ignores more than attestations and top-level .git*: {ignored!r}"[:200]
    return ""


def _may_be_ignored(path: object) -> bool:
    """`attestations` holds the signatures themselves; a bundle has no top-level `.git*` (section 1)."""
    return isinstance(path, str) and (path == ATTESTATIONS or (path.startswith(".git") and "/" not in path))


def _resources_fault(value: Any, expected: Mapping[str, str]) -> str:
    if not isinstance(value, list) or not all(map(_is_resource, value)):
        return "a resource is not a name with a sha256 digest"
    found = {item["name"]: item["digest"] for item in value}
    if len(found) != len(value):
        return "a resource is listed twice"
    if found != expected:
        return f"its {len(found)} resources are not the {len(expected)} files of the manifest"
    if list(found) != list(expected):
        return "its resources are not in code point order of their names"
    return ""


def _is_resource(item: object) -> bool:
    return (
        isinstance(item, dict)
        and set(item) == {"name", "algorithm", "digest"}
        and isinstance(item["name"], str)
        and item["algorithm"] == "sha256"
        and is_sha256_hex(item["digest"])
    )


def _root_fault(statement: Statement) -> str:
    digests = [item["digest"] for item in statement.predicate["resources"]]
    if len(statement.subjects) != 1:
        return "it has several subjects"
    if next(iter(statement.subjects.values())) != root_digest(digests):
        return "its subject is not the digest of its resources"
    return ""
