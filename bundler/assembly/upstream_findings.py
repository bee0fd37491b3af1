"""Why an upstream signature refuses a lock or a build, in words."""

from __future__ import annotations

from collections.abc import Sequence

from bundler.core.specs.lock import LockedEngine, LockedWheel
from bundler.errors import ExitCode, Finding, MalformedError
from bundler.trust.upstream.expected_signers import Signer


def described(signer: Signer) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(signer.description.items()))


def words(reasons: Sequence[Finding]) -> str:
    """Why none of several signatures counts, each reason once."""
    each = list(dict.fromkeys(reason.found or reason.what for reason in reasons))
    more = f"; {len(each) - 3} more" if len(each) > 3 else ""
    return ("; ".join(each[:3]) or "nothing that is a signature")[:900] + more


def wrong_signature(artifact: str, signer: Signer, reasons: Sequence[Finding]) -> Finding:
    return Finding(
        "upstream-signature",
        "what upstream signed is not what the spec asks for",
        where=artifact,
        expected=f"a signature over this very artifact by {described(signer)}",
        found=words(reasons),
        hint="find out why before anything else; if upstream signs otherwise now, correct the spec",
        exit_code=ExitCode.AUTHENTICITY,
    )


def missing_signature(artifact: str, signer: Signer) -> Finding:
    return Finding(
        "upstream-signature-missing",
        "upstream offers no signature, and the spec requires one",
        where=artifact,
        expected=f"a signature by {described(signer)}",
        found="none",
        hint="take a release that is signed, another index or registry, or drop `require` from the spec",
        exit_code=ExitCode.POLICY,
    )


def no_publisher(engine: LockedEngine, wheel: LockedWheel) -> Finding:
    return Finding(
        "publisher-not-pinned",
        "an attestation is required of a wheel whose publisher the spec does not name",
        where=f"engine {engine.id}: {wheel.name}",
        expected="an entry in `publishers` for it, or for `*`",
        found="none",
        hint="`sealift inspect` shows whom an unchecked attestation names; ask the project if it is right",
        exit_code=ExitCode.POLICY,
    )


def unknown_project(engine: LockedEngine, name: str) -> Finding:
    return Finding(
        "upstream-signature-missing",
        "an attestation is required of a project that the engine does not need",
        where=f"engine {engine.id}: attestations: require",
        expected="names of projects among its wheels",
        found=name[:100],
        hint="correct the name",
        exit_code=ExitCode.POLICY,
    )


def no_such_evidence(path: str) -> MalformedError:
    """The error for a lock that speaks of evidence it does not pin."""
    return MalformedError(
        "no-such-evidence",
        "the lock names a signature whose parts it does not pin",
        where=path,
        expected="a file of evidence",
        found="none",
        hint="write the lock anew with `sealift lock SPEC`; a lock is not edited by hand",
    )
