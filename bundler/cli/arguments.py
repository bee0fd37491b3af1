"""What a person names on the command line: bundles and specs. The wrong thing gets the right word here."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import click

from bundler.cli.output import printable
from bundler.core import layout
from bundler.errors import UsageError

LOCK_KIND = "a lock"
MANIFEST_KIND = "the manifest of a bundle"
POLICY_KIND = "a trust policy"
_JSON_TYPES = {
    "urn:sealift:lock:v1": LOCK_KIND,
    "urn:sealift:manifest:v1": MANIFEST_KIND,
    "urn:sealift:trust-policy:v1": POLICY_KIND,
}
_LOOKED_AT = 1 << 20
"""Bytes read of a file to say what it is. Larger JSON documents are not parsed: then nothing is said."""
_ENTRIES = 1000
"""Entries of a folder that are looked at for a bundle."""


class BundleFolder(click.Path):
    """The folder of a bundle; with `manifests` a manifest or lock file as well.

    Raises UsageError (`not-a-bundle`) for a folder around or inside a bundle and for another document. What
    may be a damaged bundle is left to the verifier.
    """

    def __init__(self, *, manifests: bool = False, exists: bool = False) -> None:
        super().__init__(exists=exists, path_type=Path)
        self._manifests = manifests

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path, when it may be a bundle."""
        path = Path(str(super().convert(value, param, ctx)))
        if path.is_dir():
            _refuse_neighbours(path)
        elif path.is_file() and not self._manifests:
            _refuse_file(path)
        return path


class SpecFile(click.Path):
    """The file of a spec; with `locks` a lock as well. Raises UsageError (`not-a-spec`) for what is known
    to be something else.
    """

    def __init__(self, *, locks: bool = False) -> None:
        super().__init__(exists=True, path_type=Path)
        self._locks = locks

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path, when it may be a spec."""
        path = Path(str(super().convert(value, param, ctx)))
        found = "a folder" if path.is_dir() else what_it_is(path)
        if found is None or found == "a spec" or (self._locks and found == LOCK_KIND):
            return path
        raise UsageError(
            "not-a-spec",
            "this is not a spec",
            where=str(path),
            expected="a spec (YAML that begins with `apiVersion: sealift/v1`)"
            + (" or its lock" if self._locks else ""),
            found="the folder of a bundle" if (path / layout.MANIFEST).is_file() else found,
            hint=_spec_hint(path, found),
        )


def what_it_is(path: Path) -> str | None:
    """What kind of document a file is, in words; None when that cannot be told from its beginning."""
    if not path.is_file():
        return None  # a pipe may be read only once, and not here
    with path.open("rb") as file:
        data = file.read(_LOOKED_AT)
    text = data.lstrip()
    if text.startswith(b"-----BEGIN"):
        return "a private key" if b"PRIVATE KEY" in text[:64] else "a public key or certificate"
    if text.startswith(b"GGUF"):
        return "a GGUF model"
    if not text.startswith(b"{"):
        return "a spec" if b"apiVersion:" in data else None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return _kind_of(value)


def _kind_of(value: dict[str, Any]) -> str | None:
    if "apiVersion" in value:
        return "a spec"
    if "dsseEnvelope" in value:
        return "a signed statement (an attestation)"
    if "_type" in value:
        return "a statement that is not signed"
    if "last" in value and "serials" in value:
        return "the state of a perimeter"
    return _JSON_TYPES.get(str(value.get("type")))


def _spec_hint(path: Path, found: str) -> str:
    beside = path.with_name(path.name.removesuffix(".lock.json") + ".yaml")
    if found == LOCK_KIND and beside.is_file():
        return f"did you mean {printable(str(beside))}?"
    return "`sealift init --profile NAME -o spec.yaml` writes a spec"


def _refuse_neighbours(path: Path) -> None:
    """Refuse a folder that is no bundle when a bundle is in it, around it or still being built."""
    if any((path / name).exists() for name in (layout.MANIFEST, layout.ATTESTATIONS, layout.PAYLOAD)):
        return
    around = next((folder for folder in path.absolute().parents if _is_bundle(folder)), None)
    if around is not None:
        raise _not_a_bundle(path, "a folder inside a bundle", [around])
    if path.name.endswith(".building"):
        raise _not_a_bundle(path, "an unfinished build", [])
    inside = [folder for folder in islice(sorted(path.iterdir()), _ENTRIES) if _is_bundle(folder)]
    if inside:
        raise _not_a_bundle(path, "a folder with bundles in it", inside)


def _refuse_file(path: Path) -> None:
    around = next((folder for folder in path.absolute().parents if _is_bundle(folder)), None)
    if around is not None:
        raise _not_a_bundle(path, "a file of a bundle", [around])
    raise _not_a_bundle(path, what_it_is(path) or "a file", [])


def _is_bundle(folder: Path) -> bool:
    return (folder / layout.MANIFEST).is_file() and (folder / layout.PAYLOAD).is_dir()


def _not_a_bundle(path: Path, found: str, meant: list[Path]) -> UsageError:
    names = " or ".join(printable(str(folder)) for folder in meant[:3])
    hint = f"did you mean {names}?" if names else "`sealift build SPEC -o FOLDER` makes a bundle"
    if found == "an unfinished build":
        hint = "run the same `sealift build` again: it continues where it stopped"
    return UsageError(
        "not-a-bundle",
        "this is not a bundle",
        where=str(path),
        expected="the folder that holds manifest.json",
        found=found,
        hint=hint,
    )
