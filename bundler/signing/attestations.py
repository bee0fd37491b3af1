"""The folder `attestations/` of a bundle: who makes its files, and under which name each one lies."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bundler.core import strict_json
from bundler.core.manifest import ATTESTATIONS
from bundler.errors import IntegrityError, MachineError
from bundler.signing.attestation_import import hint_for
from bundler.signing.signer import Signer
from bundler.storage.atomic import remove_leftovers, write_into_closed
from bundler.storage.bounded_read import read_at_most
from bundler.trust.dsse import (
    FILE_SUFFIX,
    Envelope,
    encode_bundle,
    parse_bundle,
    parse_statement,
    pre_authentication_encoding,
)
from bundler.trust.predicates import COMPUTED

_TRIES = 200
"""More than there can be attestations (64) and signers at once."""


class Attestor(Protocol):
    """Makes attestations in the name of one key or identity."""

    @property
    def label(self) -> str:
        """Eight characters that tell this signer's files from another's."""

    def made(self, envelope: Envelope) -> bool:
        """Whether this signer signed that envelope."""

    def attest(self, payload: bytes) -> bytes:
        """The bytes of an attestation file with the statement `payload`."""


class KeyAttestor:
    """Attests with a key, wherever that lies."""

    def __init__(self, signer: Signer) -> None:
        self.signer = signer

    @property
    def label(self) -> str:
        """The beginning of the key's fingerprint."""
        return self.signer.public.fingerprint[:8]

    def made(self, envelope: Envelope) -> bool:
        """Whether this key signed that envelope."""
        public = self.signer.public
        return not envelope.keyless and public.verifies(envelope.signed_bytes, envelope.signature)

    def attest(self, payload: bytes) -> bytes:
        """A Sigstore bundle with one signature of this key."""
        kind = parse_statement(payload, where="statement").predicate_type
        signature = self.signer.sign(pre_authentication_encoding(payload))
        return encode_bundle(payload, signature, hint=hint_for(kind, self.signer.public))


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an attestation goes; `kept` when the same signer already says the same there.

    With `replaces` an older statement of the same signer is there, which says nothing about this bundle.
    """

    path: Path
    kept: bool = False
    replaces: bool = False


@dataclass(frozen=True, slots=True)
class Attestations:
    """The folder with the attestations of one bundle."""

    folder: Path

    @classmethod
    def of(cls, root: Path) -> Attestations:
        """The folder of the bundle at `root`, made when it is not there yet.

        Raises MachineError (`read-only`), IntegrityError (`symbolic-link`).
        """
        folder = root / ATTESTATIONS
        if folder.is_symlink():
            raise IntegrityError(
                "symbolic-link",
                "a bundle holds no links",
                where=str(folder),
                expected="a folder",
                found="a symbolic link",
            )
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise MachineError(
                "read-only",
                "the bundle's attestations cannot be written",
                where=str(folder),
                found=error.strerror or "",
                hint="sign before the bundle is put on read-only media",
            ) from error
        return cls(folder)

    def place(self, kind: str, payload: bytes, label: str, made: Callable[[Envelope], bool]) -> Place:
        """Where a statement of `kind` by the signer whose envelopes `made` knows belongs.

        `<kind>.sigstore.json` for whoever comes first, `<kind>-<label>.sigstore.json` for others, with a
        number behind it when the same signer says something else about the same manifest. A statement of
        this signer that speaks of another manifest, or that the bundle alone determines, is replaced.
        Raises MalformedError when a file of this kind cannot be read.
        """
        said = parse_statement(payload, where="statement")
        for path in self._of_kind(kind):
            where = f"{ATTESTATIONS}/{path.name}"
            envelope = parse_bundle(_bytes_of(path), where=where)
            if not made(envelope):
                continue
            before = parse_statement(envelope.payload, where=where)
            if before.predicate_type != said.predicate_type:
                continue
            if _says_the_same(kind, envelope.payload, payload):
                return Place(path=path, kept=True)
            if kind in COMPUTED or before.subjects != said.subjects:
                return Place(path=path, replaces=True)
        return Place(path=self._free(kind, label))

    def put(
        self,
        kind: str,
        payload: bytes,
        label: str,
        made: Callable[[Envelope], bool],
        attest: Callable[[], bytes],
    ) -> Place:
        """Write the attestation that `attest` makes of `payload`, unless the same one is there already.

        Never over the file of another signer: who signs at the same moment gets the next free name. A kill
        leaves no file that the bundle must not have. Raises as `place`, MachineError (`output-exists`).
        """
        remove_leftovers(self.folder)
        data = b""
        for _ in range(_TRIES):
            place = self.place(kind, payload, label, made)
            if place.kept:
                return place
            data = data or attest()
            try:
                outside = self.folder.resolve().parent.parent
                write_into_closed(place.path, data, beside=outside, replace=place.replaces)
            except FileExistsError:
                continue
            return place
        raise MachineError(
            "output-exists",
            "no name is free for the attestation: other programs write there all the time",
            where=str(self.folder),
            hint="run the same command again",
        )

    def _of_kind(self, kind: str) -> list[Path]:
        return sorted(
            {*self.folder.glob(f"{kind}{FILE_SUFFIX}"), *self.folder.glob(f"{kind}-*{FILE_SUFFIX}")}
        )

    def _free(self, kind: str, label: str) -> Path:
        stems = [kind, f"{kind}-{label}"]
        number = 2
        while os.path.lexists(self.folder / f"{stems[0]}{FILE_SUFFIX}"):
            stems = [*stems[1:], f"{kind}-{label}-{number}"]
            number += 1
        return self.folder / f"{stems[0]}{FILE_SUFFIX}"


def _bytes_of(path: Path) -> bytes:
    """The bytes of an attestation, at most one more than its limit."""
    return read_at_most(path, strict_json.ATTESTATION_LIMIT + 1)


def _says_the_same(kind: str, signed: bytes, payload: bytes) -> bool:
    """Whether the signed statement says what would be said now.

    The OMS subject's name is the folder's name, which may change when a bundle is copied and means nothing.
    """
    if kind != "oms" or signed == payload:
        return signed == payload
    before, now = (strict_json.loads(data, limit=len(data), where=kind) for data in (signed, payload))
    for statement in (before, now):
        statement["subject"][0]["name"] = ""
    return bool(before == now)
