"""Licences as their artifacts declare them."""

from __future__ import annotations

import zipfile
from email.parser import HeaderParser
from pathlib import Path

METADATA_LIMIT = 4 << 20
SHORT = 80
"""A `License` header longer than this is a licence text, not a name."""


def wheel_license(path: Path) -> str | None:
    """What a wheel's metadata declares: `License-Expression`, a short `License`, or its classifiers.

    None when it declares nothing. Core metadata specification, packaging.python.org, sections License,
    License-Expression and Classifier.
    """
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            parts = member.filename.split("/")
            if len(parts) == 2 and parts[0].endswith(".dist-info") and parts[1] == "METADATA":
                if member.file_size > METADATA_LIMIT:
                    return None
                return _declared(archive.read(member).decode("utf-8", "replace"))
    return None


def _declared(metadata: str) -> str | None:
    headers = HeaderParser().parsestr(metadata)
    expression = headers.get("License-Expression")
    if expression:
        return str(expression).strip()
    short = str(headers.get("License") or "").strip()
    if 0 < len(short) <= SHORT and "\n" not in short and short.upper() != "UNKNOWN":
        return short
    classifiers = [
        str(value).rsplit(" :: ", 1)[-1]
        for value in headers.get_all("Classifier", [])
        if str(value).startswith("License ::")
    ]
    return "; ".join(sorted(classifiers)) or None
