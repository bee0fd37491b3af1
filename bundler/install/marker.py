"""What `sealift install` left: its marker, and whether the environment is still what it was."""

from __future__ import annotations

import base64
import csv
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bundler.core import strict_json
from bundler.errors import SealiftError
from bundler.storage.bounded_read import read_small

MARKER = "sealift-install.json"
"""Written last into an environment: from which manifest it was installed, and what."""
MARKER_LIMIT = 64 << 20
INSTALL_TYPE = "urn:sealift:installation:v1"


def read_marker(environment: Path) -> dict[str, Any] | None:
    """The marker of the environment; None when there is none that can be read."""
    try:
        data = read_small(environment / MARKER, limit=MARKER_LIMIT, where=MARKER)
        value = strict_json.loads(data, limit=MARKER_LIMIT, where=MARKER)
    except SealiftError:
        return None
    return value if isinstance(value, dict) and value.get("type") == INSTALL_TYPE else None


def damage(environment: Path) -> list[str]:
    """Files of the installed packages that are missing or differ from what the installer recorded.

    Guards against accidents (a full disk, a half-deleted folder), not against someone who may write here:
    they could write the records too.
    """
    folders = sorted(environment.glob("lib/python3.*/site-packages"))
    found = [path for folder in folders for path in _damaged(folder)]
    broken = [] if (environment / "bin/python").is_file() else ["bin/python"]
    return broken + found if folders else ["lib", *broken]


def _damaged(folder: Path) -> Iterator[str]:
    # Two packages may bring a script of one name (fastapi and fastapi-cli do): it is as one of them says.
    for path, digests in _recorded(folder).items():
        if not any(_equals(folder / path, digest) for digest in digests):
            yield path
    for folder_without in sorted(folder.glob("*.dist-info")):
        if not (folder_without / "RECORD").is_file():
            yield f"{folder_without.name}/RECORD"


def _recorded(folder: Path) -> dict[str, set[str]]:
    """Path to all digests that the packages in `folder` recorded for it."""
    recorded: dict[str, set[str]] = {}
    for record in sorted(folder.glob("*.dist-info/RECORD")):
        with record.open(encoding="utf-8", newline="") as rows:
            for path, digest, _ in csv.reader(rows):
                if digest:
                    recorded.setdefault(path, set()).add(digest)
    return recorded


def _equals(path: Path, digest: str) -> bool:
    algorithm, _, value = digest.partition("=")
    try:
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, algorithm).digest()
    except (OSError, ValueError):
        return False
    return base64.urlsafe_b64encode(found).rstrip(b"=").decode() == value
