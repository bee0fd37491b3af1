"""What wheels declare as their licence."""

from __future__ import annotations

import pytest

from bundler.records.licences import declared_license


@pytest.mark.parametrize(
    ("headers", "declared"),
    [
        ("License-Expression: MIT OR Apache-2.0\nLicense: ignored", "MIT OR Apache-2.0"),
        ("License: BSD 3-Clause", "BSD 3-Clause"),
        ("License: UNKNOWN\nClassifier: License :: OSI Approved :: MIT License", "MIT License"),
        ("License: " + "a whole licence text " * 10, None),
        ("Name: x", None),
    ],
    ids=[
        "expression first",
        "short name",
        "classifier when unknown",
        "a text is not a name",
        "nothing declared",
    ],
)
def test_the_declared_licence_is_read_from_the_metadata(headers: str, declared: str | None) -> None:
    assert declared_license(f"Metadata-Version: 2.4\n{headers}\n\nLicense: of the body") == declared
