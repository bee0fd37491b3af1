"""Keyless certificates count only while they and their authorities were valid: at signing, by the log."""

from __future__ import annotations

import datetime as dt

from tests.servers.sigstore import Sigstore
from tests.trust.test_keyless import case_signed_by, judged

LONG_AGO = dt.datetime.now(dt.UTC) - dt.timedelta(days=4000)


class ExpiredAuthority(Sigstore):
    """Goes on handing out certificates when its authorities' ten years are over."""

    def __init__(self) -> None:
        super().__init__(LONG_AGO)
        self.now += dt.timedelta(days=3660)


class LateEntry(Sigstore):
    """Logs a signature an hour after the certificate of ten minutes was made."""

    def certificate(self, *arguments: object, **options: object) -> object:  # type: ignore[override]
        made = super().certificate(*arguments, **options)  # type: ignore[arg-type]
        self.now += dt.timedelta(hours=1)
        return made


def references(instance: Sigstore) -> list[str]:
    """What is said about a release signed there, verified from its own pinned root."""
    root = instance.trusted_root()
    result = judged(case_signed_by(instance, root=root), root)
    return [finding.reference for finding in result.findings]


def test_the_same_instance_in_time_is_accepted() -> None:
    assert references(Sigstore(LONG_AGO)) == []


def test_an_authority_that_had_expired_vouches_for_nobody() -> None:
    assert references(ExpiredAuthority()) == ["unknown-signer"]


def test_a_signature_logged_after_its_certificate_ended_does_not_count() -> None:
    assert references(LateEntry(LONG_AGO)) == ["unknown-signer"]
