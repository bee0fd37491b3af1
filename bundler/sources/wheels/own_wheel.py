"""sealift's own wheel, made again from the package that is running: the same bytes on every machine.

The perimeter installs the very tool that built the bundle. Nothing is compressed and every time is the
epoch of ZIP, so the bytes depend on the files alone. Works from an installed wheel and from an editable
checkout: files come from the package's folder, metadata from its distribution.
Source: https://packaging.python.org/en/latest/specifications/binary-distribution-format/
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
from collections.abc import Iterator, Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import bundler
from bundler.errors import MachineError
from bundler.storage.zip_writer import zip_bytes

DISTRIBUTION = "sealift"
_WHEEL = b"Wheel-Version: 1.0\nGenerator: sealift\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_METADATA_FILES = ("METADATA", "entry_points.txt")
_METADATA_FOLDERS = ("licenses/", "sboms/")


def own_distribution() -> Distribution:
    """sealift as it is installed here. Raises MachineError (`not-installed`) when only its files are."""
    try:
        return distribution(DISTRIBUTION)
    except PackageNotFoundError:
        raise MachineError(
            "not-installed",
            "sealift runs from its files but is not installed, so it has no metadata",
            expected="sealift installed",
            found="only the package's folder",
            hint="`python3 -m pip install -e .` in the checkout",
        ) from None


def own_wheel() -> tuple[str, bytes]:
    """File name and bytes of sealift's own wheel. Raises MachineError (`not-installed`)."""
    own = own_distribution()
    folder = f"{DISTRIBUTION}-{own.version}.dist-info"
    files = dict(sorted(_package_files(Path(bundler.__file__).parent)))
    files.update({f"{folder}/{name}": data for name, data in sorted(_metadata_files(own))})
    files[f"{folder}/WHEEL"] = _WHEEL
    files[f"{folder}/RECORD"] = _record(files, f"{folder}/RECORD")
    return f"{DISTRIBUTION}-{own.version}-py3-none-any.whl", zip_bytes(files)


def _package_files(root: Path) -> Iterator[tuple[str, bytes]]:
    """Every file of the package by its path in the wheel; no caches, nothing hidden."""
    for path in root.rglob("*"):
        parts = path.relative_to(root).parts
        skipped = path.suffix == ".pyc" or any(part == "__pycache__" or part[0] == "." for part in parts)
        if path.is_file() and not skipped:
            yield "/".join((root.name, *parts)), path.read_bytes()


def _metadata_files(own: Distribution) -> Iterator[tuple[str, bytes]]:
    """What of the installed `.dist-info` belongs in a wheel; not what the installer added."""
    for path in own.files or ():
        if len(path.parts) < 2 or not path.parts[0].endswith(".dist-info"):
            continue
        name = "/".join(path.parts[1:])
        if name in _METADATA_FILES or name.startswith(_METADATA_FOLDERS):
            yield name, Path(str(path.locate())).read_bytes()


def _record(files: Mapping[str, bytes], own_path: str) -> bytes:
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    for path, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        rows.writerow([path, f"sha256={digest}", len(data)])
    rows.writerow([own_path, "", ""])
    return text.getvalue().encode()
