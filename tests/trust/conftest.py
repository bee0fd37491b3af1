"""What all tests of trust share."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _quick_passphrases(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stretch passphrases less than the product does; a test that wants its real cost asks for it."""
    if "real_cost" not in request.fixturenames:
        monkeypatch.setattr("bundler.trust.key_encryption.SCRYPT_PARALLEL", 1)


@pytest.fixture
def real_cost() -> None:
    """Passphrases are stretched as in the product."""
