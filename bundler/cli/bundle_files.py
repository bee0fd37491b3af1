"""Reading the small files of a bundle for verbs that show rather than verify."""

from __future__ import annotations

import os
from pathlib import Path

from bundler.cli.arguments import MANIFEST_KIND, what_it_is
from bundler.core.manifest import MANIFEST_NAME, Manifest
from bundler.core.strict_json import MANIFEST_LIMIT
from bundler.errors import UsageError
from bundler.storage.bounded_read import read_bounded, refuse_other_kinds


def read_small(path: Path, limit: int) -> bytes:
    """The bytes of a small regular file, never through a link.

    Raises MalformedError (`too-large`) and UsageError (`not-a-file`).
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        refuse_other_kinds(path, os.fstat(descriptor).st_mode)
        return read_bounded(descriptor, limit, where=str(path))
    finally:
        os.close(descriptor)


def read_manifest(bundle: Path) -> tuple[Manifest, bytes]:
    """The manifest of a bundle (a folder) or a manifest file itself. Raises UsageError (`not-a-bundle`)."""
    path = bundle / MANIFEST_NAME if bundle.is_dir() else bundle
    if not path.is_file():
        raise UsageError(
            "not-a-bundle",
            "there is no sealed bundle here",
            where=str(bundle),
            expected="a folder with manifest.json",
            found="an unfinished build" if bundle.name.endswith(".building") else "no manifest.json",
            hint="`sealift build SPEC -o FOLDER` makes one",
        )
    kind = what_it_is(path)
    if kind is not None and kind != MANIFEST_KIND:
        raise UsageError(
            "not-a-bundle",
            "this is neither a bundle nor the manifest of one",
            where=str(path),
            expected="a folder with manifest.json, or that file",
            found=kind,
        )
    data = read_small(path, MANIFEST_LIMIT)
    return Manifest.parse(data), data
