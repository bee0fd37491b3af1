"""A package index on loopback that says what a test tells it to, in JSON or in HTML."""

from __future__ import annotations

import hashlib
import html
import io
import json
import zipfile
from dataclasses import dataclass, field
from typing import Any

from tests.servers.http import FileServer


@dataclass(slots=True, kw_only=True)
class Offer:
    """One file as the index lists it; what is None is not said."""

    filename: str
    url: str
    sha256: str | None
    size: int | None
    upload_time: str | None
    metadata_sha256: str | None = None
    provenance: str | None = None
    """Where the index says its attestations are (PEP 740)."""
    extra: dict[str, Any] = field(default_factory=dict)


class IndexServer(FileServer):
    """A simple index at `/simple/`. `html` pages instead of JSON ones have neither sizes nor upload times."""

    def __init__(self, *, html: bool = False) -> None:
        super().__init__()
        self.html = html
        self.offers: dict[str, list[Offer]] = {}

    @property
    def simple(self) -> str:
        """The index's base URL."""
        return f"{self.url}/simple"

    def add(
        self, filename: str, data: bytes, *, project: str | None = None, listed_as: str | None = None
    ) -> Offer:
        """Offers `data` as `filename`; the offer may be changed before `publish` is called again."""
        name = project or filename.split("-")[0].replace("_", "-").lower()
        path = f"/files/{hashlib.sha256(data).hexdigest()[:12]}/{filename}"
        self.files[path] = data
        offer = Offer(
            filename=listed_as or filename,
            url=path,
            sha256=hashlib.sha256(data).hexdigest(),
            size=len(data),
            upload_time="2026-01-02T03:04:05Z",
        )
        metadata = _metadata(data) if filename.endswith(".whl") else None
        if metadata is not None:
            self.files[f"{path}.metadata"] = metadata
            offer.metadata_sha256 = hashlib.sha256(metadata).hexdigest()
        self.offers.setdefault(name, []).append(offer)
        self.publish()
        return offer

    def attest(self, offer: Offer, data: bytes) -> str:
        """Serves `data` as the provenance of an offer, at a path as the public index has it; the path."""
        project, version = offer.filename.split("-")[:2]
        path = f"/integrity/{project}/{version}/{offer.filename}/provenance"
        self.files[path] = data
        offer.provenance = self.url + path
        self.publish()
        return path

    def publish(self) -> None:
        """Writes all project pages anew."""
        render = _html_page if self.html else _json_page
        kind = "text/html" if self.html else "application/vnd.pypi.simple.v1+json"
        self.extra_headers = {"Content-Type": kind}
        for name, offers in self.offers.items():
            self.files[f"/simple/{name}/"] = render(name, offers)


def _metadata(data: bytes) -> bytes | None:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            name = next(item for item in archive.namelist() if item.endswith(".dist-info/METADATA"))
            return archive.read(name)
    except (zipfile.BadZipFile, StopIteration):
        return None


def _json_page(name: str, offers: list[Offer]) -> bytes:
    files = []
    for offer in offers:
        entry: dict[str, Any] = {"filename": offer.filename, "url": offer.url}
        entry["hashes"] = {"sha256": offer.sha256} if offer.sha256 else {}
        if offer.size is not None:
            entry["size"] = offer.size
        if offer.upload_time is not None:
            entry["upload-time"] = offer.upload_time
        if offer.metadata_sha256:
            entry["core-metadata"] = {"sha256": offer.metadata_sha256}
        if offer.provenance:
            entry["provenance"] = offer.provenance
        files.append({**entry, **offer.extra})
    return json.dumps({"meta": {"api-version": "1.1"}, "name": name, "files": files}).encode()


def _html_page(name: str, offers: list[Offer]) -> bytes:
    links = []
    for offer in offers:
        fragment = f"#sha256={offer.sha256}" if offer.sha256 else ""
        metadata = f' data-core-metadata="sha256={offer.metadata_sha256}"' if offer.metadata_sha256 else ""
        provenance = f' data-provenance="{html.escape(offer.provenance)}"' if offer.provenance else ""
        href = html.escape(offer.url + fragment)
        links.append(f'<a href="{href}"{metadata}{provenance}>{html.escape(offer.filename)}</a><br>')
    return f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>".encode()
