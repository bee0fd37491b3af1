"""What wheels declare as their licence."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from bundler.records.licences import wheel_license


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
def test_the_declared_licence_is_read_from_the_metadata(
    tmp_path: Path, headers: str, declared: str | None
) -> None:
    wheel = tmp_path / "x-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("x-1.dist-info/METADATA", f"Metadata-Version: 2.4\n{headers}\n\nbody")
    assert wheel_license(wheel) == declared


def test_a_wheel_without_metadata_declares_nothing(tmp_path: Path) -> None:
    wheel = tmp_path / "x-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("x.py", "")
    assert wheel_license(wheel) is None
