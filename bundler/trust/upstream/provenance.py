"""Publish attestations of wheels (PEP 740): who uploaded a file, signed by the workflow that did.

https://peps.python.org/pep-0740/. An attestation is put into a Sigstore bundle and verified as one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from bundler.core import strict_json
from bundler.errors import AuthenticityError, SealiftError
from bundler.trust.dsse import BUNDLE_MEDIA_TYPE, PAYLOAD_TYPE
from bundler.trust.upstream.envelope import LARGEST, read_object, read_statement, refuse
from bundler.trust.upstream.expected_signers import Signer

PROVENANCE_LIMIT = 4 << 20
MAX_ATTESTATIONS = 64
PREDICATE_TYPES = ("https://docs.pypi.org/attestations/publish/v1", "https://slsa.dev/provenance/v1")
"""What an index that follows the PEP accepts; both say that the signer made or published the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attested:
    """What the attestations of one file prove: the predicate types of those that the signer made."""

    predicate_types: tuple[str, ...]


def check_provenance(data: bytes, *, filename: str, sha256: str, signer: Signer, where: str) -> Attested:
    """What `signer` attested about the wheel `filename` with that digest, in a provenance object.

    At least one attestation must be good; others, of other publishers, may be beside it. Raises
    MalformedError (`bad-envelope`, strict JSON) or AuthenticityError (`not-attested`) with every reason.
    """
    found: list[str] = []
    reasons: list[str] = []
    for place, attestation in _attestations(data, where):
        try:
            payload = signer.payload(_as_bundle(attestation, place), where=place)
            found.append(_check_statement(payload, filename, sha256, place))
        except SealiftError as error:
            reasons.append(error.findings[0].found or error.findings[0].what)
    if not found:
        raise AuthenticityError(
            "not-attested",
            "no attestation of a wheel is by its publisher and about it",
            where=where,
            found="; ".join(reasons) or "no attestation in the document",
        )
    return Attested(predicate_types=tuple(sorted(set(found))))


def claimed_publishers(data: bytes, *, where: str) -> str:
    """Whom the index says the attestations are by. Not checked: it only helps to write a spec."""
    try:
        bundles = _bundles(data, where)
    except SealiftError:
        return ""
    claims = {_claim(bundle.get("publisher")) for bundle in bundles}
    return ", ".join(sorted(claims - {""}))[:300]


def _claim(publisher: object) -> str:
    members = publisher if isinstance(publisher, dict) else {}
    names = ("kind", "repository", "workflow", "workflow_filepath", "email")
    words = [members[name] for name in names if isinstance(members.get(name), str)]
    return "".join(character for character in " ".join(words) if character.isprintable())[:200]


def _bundles(data: bytes, where: str) -> list[Mapping[str, Any]]:
    value = read_object(data, limit=PROVENANCE_LIMIT, where=where, largest=LARGEST)
    bundles = value.get("attestation_bundles")
    if value.get("version") != 1 or not isinstance(bundles, list) or len(bundles) > MAX_ATTESTATIONS:
        refuse(where, f"a PEP 740 provenance object, version 1, at most {MAX_ATTESTATIONS} bundles", value)
    if not all(isinstance(bundle, dict) for bundle in bundles):
        refuse(where, "objects in `attestation_bundles`", bundles)
    return bundles


def _attestations(data: bytes, where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each attestation with its place in the document."""
    count = 0
    for number, bundle in enumerate(_bundles(data, where)):
        attestations = bundle.get("attestations")
        count += len(attestations) if isinstance(attestations, list) else 0
        if not isinstance(attestations, list) or count > MAX_ATTESTATIONS:
            refuse(where, f"at most {MAX_ATTESTATIONS} attestations", attestations)
        for position, attestation in enumerate(attestations):
            yield f"{where}: attestation_bundles[{number}].attestations[{position}]", attestation


def _as_bundle(attestation: object, where: str) -> bytes:
    """An attestation as a Sigstore bundle v0.3, which holds the same things under other names."""
    material = attestation.get("verification_material") if isinstance(attestation, dict) else None
    envelope = attestation.get("envelope") if isinstance(attestation, dict) else None
    if not isinstance(material, dict) or not isinstance(envelope, dict):
        refuse(where, "an attestation with verification_material and envelope", attestation)
    assert isinstance(attestation, dict)
    if attestation.get("version") != 1:
        refuse(where, "version 1", attestation.get("version"))
    return strict_json.dumps(
        {
            "mediaType": BUNDLE_MEDIA_TYPE,
            "verificationMaterial": {
                "certificate": {"rawBytes": material.get("certificate")},
                "tlogEntries": material.get("transparency_entries"),
            },
            "dsseEnvelope": {
                "payload": envelope.get("statement"),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{"sig": envelope.get("signature")}],
            },
        }
    )


def _check_statement(payload: bytes, filename: str, sha256: str, where: str) -> str:
    """The predicate type of a statement about exactly this file. Raises SealiftError."""
    statement = read_statement(payload, where=where)
    if statement.predicate_type not in PREDICATE_TYPES:
        refuse(where, " or ".join(PREDICATE_TYPES), statement.predicate_type)
    if len(statement.subjects) != 1:
        refuse(where, "exactly one subject", f"{len(statement.subjects)} subjects")
    name, digest = statement.subjects[0]
    if not _same_wheel(name, filename):
        refuse(where, filename, f"an attestation about {name[:150]!r}")
    if digest != sha256:
        refuse(where, f"sha256:{sha256}", f"an attestation about sha256:{digest}")
    return statement.predicate_type


def _same_wheel(one: str, other: str) -> bool:
    """Whether two file names mean one wheel: the PEP compares them normalised."""
    try:
        return one == other or parse_wheel_filename(one) == parse_wheel_filename(other)
    except InvalidWheelFilename:
        return False
