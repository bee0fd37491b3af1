"""Attest: what people say about a sealed bundle, written for them to sign and imported when they have."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bundler.core import strict_json
from bundler.core.manifest import ATTESTATIONS
from bundler.core.specs import yaml_text
from bundler.errors import MalformedError, SealiftError, UsageError
from bundler.signing.attestation_import import Accepted, Trusted, accept, statement_findings
from bundler.signing.attestations import Attestations, Attestor
from bundler.signing.release import SealedBundle, computed_statement
from bundler.signing.superseding import with_superseded
from bundler.trust.dsse import FILE_SUFFIX, Envelope, Statement, parse_bundle, parse_statement
from bundler.trust.predicates import COMPUTED, KINDS, SPOKEN, kind_of, predicate_findings
from bundler.trust.statements import about_manifest

PREDICATE_LIMIT = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """An attestation in its place below the bundle's root; `kept` when the signer already said the same."""

    path: str
    kept: bool
    statement: Statement


def read_predicate(data: bytes, *, where: str) -> dict[str, Any]:
    """The predicate in a JSON or YAML file, as strict JSON allows it (no floats, no duplicate names).

    Raises MalformedError as `strict_json.loads` and `yaml_text.loads` do, and `predicate` for anything
    that is not an object.
    """
    if not data.lstrip().startswith(b"{"):
        value = yaml_text.loads(data, limit=PREDICATE_LIMIT, where=where).value
        data = strict_json.dumps(value)
    value = strict_json.loads(data, limit=PREDICATE_LIMIT, where=where)
    if not isinstance(value, dict):
        raise MalformedError(
            "predicate",
            "a predicate is a set of named values",
            where=where,
            expected="for example `verdict: approved`",
            found=repr(value)[:200],
        )
    return value


def new_statement(
    bundle: SealedBundle,
    kind: str,
    predicate: Mapping[str, Any] | None,
    *,
    where: str = "predicate",
    supersedes: Sequence[tuple[str, bytes]] = (),
) -> bytes:
    """The exact bytes for someone to sign: a statement of `kind` about this bundle's manifest.

    Serial and channel are added to what a person says, so that they are in the text that is signed.
    `supersedes` are the attestation files (name and bytes) that it withdraws.
    Raises UsageError (`predicate-needed`, `predicate-not-needed`, `no-lock`), MalformedError (`predicate`,
    `other-release`) with every fault, and as `with_superseded`.
    """
    if (predicate is None) != (kind in COMPUTED):
        raise _predicate_missing(kind) if predicate is None else _predicate_unwanted(kind)
    if predicate is None:
        if supersedes:
            raise UsageError("usage", f"a {kind} statement withdraws nothing", hint="leave --supersedes out")
        return computed_statement(bundle, kind)
    predicate = with_superseded(predicate, kind, bundle.manifest.sha256, supersedes)
    findings = predicate_findings(SPOKEN[kind], predicate, bundle.manifest, where=where)
    if findings:
        raise MalformedError.of(findings)
    release = {"serial": bundle.manifest.serial, "channel": bundle.manifest.channel}
    return about_manifest(bundle.manifest.sha256, SPOKEN[kind], {**predicate, **release})


def attest(bundle: SealedBundle, attestor: Attestor, kind: str, payload: bytes) -> Written:
    """Sign `payload`, a statement of `kind`, and put it into the bundle."""
    place = Attestations.of(bundle.root).put(
        kind, payload, attestor.label, attestor.made, lambda: attestor.attest(payload)
    )
    statement = parse_statement(payload, where="statement")
    return Written(path=f"{ATTESTATIONS}/{place.path.name}", kept=place.kept, statement=statement)


def take_in(bundle: SealedBundle, data: bytes, trusted: Trusted, *, where: str) -> tuple[Written, Accepted]:
    """Check the attestation of another program and put it into the bundle in its final form.

    Raises as `incoming.accept`; nothing is written then.
    """
    accepted = accept(data, trusted, bundle.manifest, where=where)
    signer = _Known(accepted, trusted)
    payload = parse_bundle(accepted.data, where=where).payload
    statement = accepted.attestation.statement
    kind = kind_of(statement.predicate_type)
    place = Attestations.of(bundle.root).put(kind, payload, signer.label, signer.made, lambda: accepted.data)
    path = f"{ATTESTATIONS}/{place.path.name}"
    return Written(path=path, kept=place.kept, statement=statement), accepted


@dataclass(frozen=True, slots=True)
class _Known:
    """The signer of an accepted attestation, so that its other files can be told from those of others."""

    accepted: Accepted
    trusted: Trusted

    @property
    def label(self) -> str:
        attestation = self.accepted.attestation
        if attestation.identity is None:
            return attestation.key[:8]
        return hashlib.sha256(attestation.identity.owner.encode()).hexdigest()[:8]

    def made(self, envelope: Envelope) -> bool:
        own = parse_bundle(self.accepted.data, where="attestation")
        return self.trusted.signer_of(envelope) == self.trusted.signer_of(own)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A file of `attestations/`: what it says, whether about this manifest, and who signed it if known.

    `fault` is why the file says nothing about this bundle; `signer` is empty when it was not checked.
    """

    name: str
    kind: str = ""
    predicate_type: str = ""
    signer: str = ""
    fault: str = ""
    says: Mapping[str, Any]


def list_attestations(bundle: SealedBundle, trusted: Trusted | None = None) -> tuple[Listed, ...]:
    """Every file of `attestations/` in name order; signatures are checked when `trusted` is given."""
    folder = bundle.root / ATTESTATIONS
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    return tuple(_listed(path, bundle, trusted) for path in paths)


def _listed(path: Path, bundle: SealedBundle, trusted: Trusted | None) -> Listed:
    where = f"{ATTESTATIONS}/{path.name}"
    try:
        envelope = parse_bundle(path.read_bytes(), where=where)
        statement = parse_statement(envelope.payload, where=where)
    except SealiftError as error:
        return Listed(name=path.name, fault=str(error), says={})
    findings = statement_findings(statement, bundle.manifest, where=where)
    fault = "; ".join(f"{finding.what}: {finding.found}" for finding in findings)
    signer = ""
    if trusted is not None:
        signer = trusted.signer_of(envelope)
        fault = fault or ("" if signer else "signed by nobody who is known")
    return Listed(
        name=path.name,
        kind=kind_of(statement.predicate_type),
        predicate_type=statement.predicate_type,
        signer=signer,
        fault=fault,
        says=_in_short(statement),
    )


def _in_short(statement: Statement) -> dict[str, Any]:
    """All that a person says; of other statements (files, a bill of materials) no lists and objects."""
    if kind_of(statement.predicate_type) in SPOKEN:
        return dict(statement.predicate)
    return {name: value for name, value in statement.predicate.items() if not isinstance(value, (dict, list))}


def members(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every value in a predicate with its path (`conditions[0]`, `document.sha256`), names in order.

    An empty list or object is a value, too.
    """
    if isinstance(value, dict) and value:
        for key, item in sorted(value.items()):
            yield from members(item, f"{name}.{key}" if name else key)
    elif isinstance(value, list) and value:
        for number, item in enumerate(value):
            yield from members(item, f"{name}[{number}]")
    else:
        yield name, value


def attestation_file(statement: Path) -> Path:
    """Where the attestation of a statement file goes by default: beside it."""
    return statement.with_name(statement.name.removesuffix(".json") + FILE_SUFFIX)


def _predicate_missing(kind: str) -> UsageError:
    return UsageError(
        "predicate-needed",
        f"what a {kind} statement says is for a person to write",
        where=KINDS[kind],
        expected="a predicate file (JSON or YAML)",
        found="none",
        hint=f"`sealift attest template {kind} > {kind}.json`; fill it in, then add --predicate {kind}.json",
    )


def _predicate_unwanted(kind: str) -> UsageError:
    return UsageError(
        "predicate-not-needed",
        f"a {kind} statement follows from the bundle alone",
        where=KINDS[kind],
        hint="leave --predicate out",
    )
