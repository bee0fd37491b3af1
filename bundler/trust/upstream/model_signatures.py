"""Signatures of models in their repository: OpenSSF Model Signing v1.0.

https://github.com/ossf/model-signing-spec. Which names a signed digest belongs to is compared here, because
the digest of the signed subject binds none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bundler.core.digest import is_sha256_hex
from bundler.errors import AuthenticityError
from bundler.trust.model_signing_format import OMS_TYPE, root_digest
from bundler.trust.upstream.envelope import read_statement, refuse
from bundler.trust.upstream.expected_signers import Signer

SIGNATURE_SUFFIXES = (".sig", ".sigstore", ".sigstore.json")
"""`model.sig` is what `model_signing sign` writes."""
NEVER_SIGNED = (".git", ".gitattributes", ".github", ".gitignore")
"""Top-level names that `model_signing sign` leaves out unless told otherwise."""


def is_signature_name(path: str) -> bool:
    """Whether a file of a repository is called as model signatures are."""
    return path.endswith(SIGNATURE_SUFFIXES)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedModel:
    """What a signature says about a model: paths in the repository with their SHA-256."""

    digests: Mapping[str, str]

    def faults(self, files: Mapping[str, str | None], *, signatures: frozenset[str]) -> list[str]:
        """Why `files` (path to SHA-256, None when not known yet) are not what was signed.

        Signed files that are not among them do no harm: a bundle may carry a part. Files that nobody signed
        do, but for the signatures themselves and git's own files.
        """
        found = []
        for path, sha256 in sorted(files.items()):
            signed = self.digests.get(path)
            if signed is None and path not in signatures and path.split("/")[0] not in NEVER_SIGNED:
                found.append(f"{path} is not signed")
            elif signed is not None and sha256 not in (None, signed):
                found.append(f"{path} was signed as sha256:{signed} and is sha256:{sha256}")
        return found


def check_model_signature(bundle: bytes, *, signer: Signer, where: str) -> SignedModel:
    """What `signer` signed.

    Raises MalformedError (`bad-envelope`) or AuthenticityError (`not-this-signer`, `bad-oms-root`).
    """
    statement = read_statement(signer.payload(bundle, where=where), where=where)
    if statement.predicate_type != OMS_TYPE:
        refuse(where, OMS_TYPE, statement.predicate_type)
    predicate = statement.predicate if isinstance(statement.predicate, dict) else {}
    _check_serialization(predicate.get("serialization"), where)
    resources = predicate.get("resources")
    if not isinstance(resources, list) or not all(map(_is_resource, resources)):
        refuse(where, "resources with a name, sha256 and its digest", resources)
    digests = {item["name"]: item["digest"] for item in resources}
    if len(digests) != len(resources):
        refuse(where, "every resource once", "a name that is listed twice")
    root = root_digest([item["digest"] for item in resources])
    if [sha256 for _, sha256 in statement.subjects] != [root]:
        raise AuthenticityError(
            "bad-oms-root",
            "the signed digest of a model is not that of the files listed with it",
            where=where,
            expected=f"sha256:{root}",
            found=repr(statement.subjects)[:200],
        )
    return SignedModel(digests=digests)


def _check_serialization(value: object, where: str) -> None:
    members = value if isinstance(value, dict) else {}
    if (members.get("method"), members.get("hash_type")) != ("files", "sha256"):
        refuse(where, "serialization by files with sha256", value)


def _is_resource(item: Any) -> bool:
    return (
        isinstance(item, dict)
        and isinstance(item.get("name"), str)
        and item.get("algorithm") == "sha256"
        and is_sha256_hex(item.get("digest"))
    )
