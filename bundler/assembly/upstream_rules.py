"""Who must have signed, from the spec into the lock: keys and Sigstore roots become size and digest."""

from __future__ import annotations

import hashlib
from pathlib import Path

from bundler.core.specs.lock import LockedAttestationRule, LockedSignatureRule, LockedTrustFile
from bundler.core.specs.spec import AttestationsSpec, SignatureSpec
from bundler.errors import MalformedError
from bundler.trust.keyless import TRUSTED_ROOT_LIMIT


def signature_rule(spec: SignatureSpec | None, base: Path) -> LockedSignatureRule | None:
    """The rule with its key or trusted root pinned; paths are relative to `base`, the folder of the spec.

    Raises MalformedError (`no-source`).
    """
    if spec is None:
        return None
    return LockedSignatureRule(
        require=spec.require,
        key=_pinned(spec.key, base),
        identity=spec.identity,
        trusted_root=_pinned(spec.trusted_root, base),
    )


def attestation_rule(spec: AttestationsSpec | None, base: Path) -> LockedAttestationRule | None:
    """The rule with its trusted root pinned. Raises MalformedError (`no-source`)."""
    root = _pinned(spec.trusted_root, base) if spec else None
    if spec is None or root is None:
        return None
    return LockedAttestationRule(publishers=spec.publishers, require=spec.require, trusted_root=root)


def _pinned(source: str | None, base: Path) -> LockedTrustFile | None:
    if source is None:
        return None
    path = base / source
    if path.exists() and not path.is_file():
        raise _no_source(path, "something else")
    try:
        with path.open("rb") as stream:
            data = stream.read(TRUSTED_ROOT_LIMIT + 1)
    except OSError as error:
        raise _no_source(path, error.strerror or "it cannot be read") from error
    if len(data) > TRUSTED_ROOT_LIMIT:
        raise _no_source(path, f"more than {TRUSTED_ROOT_LIMIT} bytes")
    return LockedTrustFile(source=source, size=len(data), sha256=hashlib.sha256(data).hexdigest())


def _no_source(path: Path, found: str) -> MalformedError:
    return MalformedError(
        "no-source",
        "a key or Sigstore root that the spec names cannot be read",
        where=str(path),
        expected="a readable file",
        found=found,
        hint="correct `key` or `trustedRoot` in the spec: they are relative to the spec's folder",
    )
