"""Licences as their artifacts declare them."""

from __future__ import annotations

from email.parser import HeaderParser

SHORT = 80
"""A `License` header longer than this is a licence text, not a name."""


def declared_license(metadata: str) -> str | None:
    """What a distribution's core metadata declares; None when it declares nothing.

    `License-Expression` first, then a short `License`, then the classifiers. Core metadata specification
    (packaging.python.org), sections License, License-Expression and Classifier.
    """
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
