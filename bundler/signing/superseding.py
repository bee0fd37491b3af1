"""Which earlier statement a new one withdraws: `supersedes` in the predicate (format.md section 6)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bundler.core.manifest import MANIFEST_NAME
from bundler.core.predicate_types import BY_KIND
from bundler.errors import ExitCode, Finding, SealiftError
from bundler.trust.dsse import Statement, parse_bundle, parse_statement
from bundler.trust.objections import SUPERSEDES, supersedes_fault


def with_superseded(
    predicate: Mapping[str, Any], kind: str, manifest_sha256: str, files: Iterable[tuple[str, bytes]]
) -> dict[str, Any]:
    """The predicate that also names the payloads of the attestations in `files` (name and bytes).

    What the predicate names by itself stays. Raises MalformedError for a file that is not an attestation or
    is of another type than `kind` (`other-type`), AuthenticityError (`other-subject`) for one that is about
    another manifest.
    """
    digests = [_payload_sha256(kind, manifest_sha256, name, data) for name, data in files]
    if not digests or supersedes_fault(predicate):
        return dict(predicate)
    own = predicate.get(SUPERSEDES, [])
    return {**predicate, SUPERSEDES: list(dict.fromkeys([*own, *digests]))}


def _payload_sha256(kind: str, manifest_sha256: str, name: str, data: bytes) -> str:
    statement = parse_statement(parse_bundle(data, where=name).payload, where=name)
    faults = tuple(_faults(kind, manifest_sha256, name, statement))
    if faults:
        raise SealiftError.of(faults)
    return statement.sha256


def _faults(kind: str, manifest_sha256: str, name: str, statement: Statement) -> Iterable[Finding]:
    if statement.predicate_type != BY_KIND[kind].uri:
        yield Finding(
            "other-type",
            "a statement withdraws only one of its own type",
            where=name,
            expected=BY_KIND[kind].uri,
            found=statement.predicate_type[:200],
            hint="`sealift attest list BUNDLE` shows the type of each attestation",
            exit_code=ExitCode.MALFORMED,
        )
    digest = statement.subjects.get(MANIFEST_NAME)
    if digest != manifest_sha256:
        yield Finding(
            "other-subject",
            "a statement withdraws only one about the same bundle",
            where=name,
            expected=f"{MANIFEST_NAME} with sha256:{manifest_sha256}",
            found=f"sha256:{digest}" if digest else f"no subject {MANIFEST_NAME}",
            hint="name a file of attestations/ in this bundle",
            exit_code=ExitCode.AUTHENTICITY,
        )
