"""A small OCI registry on loopback, a tiny image to put in it, and the push that does so.

Standard library only. It speaks what `sealift demo` and common clients need of the distribution
specification 1.1: pull with Range, push in one piece or in parts, tags and the referrers API. No
authentication, no deletion, no TLS: it only ever binds to 127.0.0.1.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import json
import re
import tarfile
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self
from urllib.parse import parse_qs, urlsplit

from bundler.content.oci import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    REF_NAME,
    Descriptor,
    ImageIndex,
    parse_manifest,
)
from bundler.core import strict_json
from bundler.core.specs.image_reference import ImageReference, is_oci_digest
from bundler.errors import NetworkError

PIECE = 1 << 20
_NAME = r"(?P<name>[a-z0-9][a-z0-9._/-]*)"
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass(slots=True)
class Repository:
    """What one repository holds; blobs are on disk and are shared by all repositories."""

    tags: dict[str, str] = field(default_factory=dict)
    manifests: dict[str, str] = field(default_factory=dict)
    """Digest to media type."""
    referrers: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Digest of the subject to descriptors of what refers to it."""


class LoopbackRegistry:
    """The registry as a context manager: it serves while the block runs, on a port the system chose."""

    handler: ClassVar[type[RegistryHandler]]

    def __init__(self, root: Path) -> None:
        self.root = root
        self.guard = threading.Lock()
        self.repositories: dict[str, Repository] = {}
        (root / "blobs").mkdir(parents=True, exist_ok=True)
        (root / "uploads").mkdir(exist_ok=True)

    def __enter__(self) -> Self:
        self._server = _Server(("127.0.0.1", 0), self.handler)
        self._server.registry = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def host(self) -> str:
        """Host and port, as they are in an image reference."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        """Base URL without a trailing slash."""
        return f"http://{self.host}"

    def repository(self, name: str) -> Repository:
        """The repository of that name, made when it is new."""
        with self.guard:
            return self.repositories.setdefault(name, Repository())

    def blob_path(self, digest: str) -> Path:
        """Where a blob (or a manifest's bytes) lies."""
        return self.root / "blobs" / digest.partition(":")[2]

    def put_manifest(self, name: str, target: str, media_type: str, data: bytes) -> str:
        """Keep a manifest under its digest, and under `target` when that is a tag; its digest."""
        digest = digest_of(data)
        self.blob_path(digest).write_bytes(data)
        repository = self.repository(name)
        repository.manifests[digest] = media_type
        if not is_oci_digest(target):
            repository.tags[target] = digest
        self._note_subject(repository, digest, media_type, data)
        return digest

    def _note_subject(self, repository: Repository, digest: str, media_type: str, data: bytes) -> None:
        value = json.loads(data)
        if value.get("subject") is None:
            return
        referrer = {"mediaType": media_type, "digest": digest, "size": len(data)}
        referrer["artifactType"] = value.get("artifactType") or value.get("config", {}).get("mediaType", "")
        known = repository.referrers.setdefault(value["subject"]["digest"], [])
        if referrer not in known:
            known.append(referrer)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    registry: LoopbackRegistry

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class RegistryHandler(BaseHTTPRequestHandler):
    """One connection. Subclasses may override `intercept` and the `send_` methods to misbehave."""

    protocol_version = "HTTP/1.1"
    server: _Server
    ROUTES: ClassVar[tuple[tuple[str, re.Pattern[str], str], ...]] = (
        ("GET HEAD", re.compile(r"/v2/"), "get_base"),
        ("GET HEAD", re.compile(rf"/v2/{_NAME}/blobs/(?P<target>[^/]+)"), "get_blob"),
        ("GET HEAD", re.compile(rf"/v2/{_NAME}/manifests/(?P<target>[^/]+)"), "get_manifest"),
        ("GET", re.compile(rf"/v2/{_NAME}/referrers/(?P<target>[^/]+)"), "get_referrers"),
        ("GET", re.compile(rf"/v2/{_NAME}/tags/list"), "get_tags"),
        ("PUT", re.compile(rf"/v2/{_NAME}/manifests/(?P<target>[^/]+)"), "put_manifest"),
        ("POST", re.compile(rf"/v2/{_NAME}/blobs/uploads/"), "start_upload"),
        ("PATCH PUT", re.compile(rf"/v2/{_NAME}/blobs/uploads/(?P<target>[0-9a-f]{{32}})"), "upload"),
    )

    @property
    def registry(self) -> LoopbackRegistry:
        """The registry this connection talks to."""
        return self.server.registry

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: only the command line prints."""

    def intercept(self) -> bool:
        """Whether the request has been answered already; the place for a subclass's faults."""
        return False

    def handle_any(self) -> None:
        """Find the route and run it."""
        if self.intercept():
            return
        path = urlsplit(self.path).path
        for methods, pattern, name in self.ROUTES:
            match = pattern.fullmatch(path)
            if match and self.command in methods.split():
                getattr(self, name)(**match.groupdict())
                return
        self.send_fault(404, "UNSUPPORTED", "no such route")

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = handle_any  # noqa: N815 - names that http.server calls

    def get_base(self) -> None:
        """The version check every client may begin with."""
        self.send_json({})

    def get_tags(self, name: str) -> None:
        """All tags of a repository."""
        self.send_json({"name": name, "tags": sorted(self.registry.repository(name).tags)})

    def get_referrers(self, name: str, target: str) -> None:
        """What refers to a manifest (distribution-spec 1.1, "Listing Referrers")."""
        found = self.registry.repository(name).referrers.get(target, [])
        self.send_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": found}, media_type=OCI_INDEX)

    def get_manifest(self, name: str, target: str) -> None:
        """A manifest by tag or digest, with the media type it was pushed with."""
        repository = self.registry.repository(name)
        digest = repository.tags.get(target, target)
        if digest not in repository.manifests:
            self.send_fault(404, "MANIFEST_UNKNOWN", "manifest unknown")
            return
        data = self.registry.blob_path(digest).read_bytes()
        self.send_bytes(
            200, data, {"Content-Type": repository.manifests[digest], "Docker-Content-Digest": digest}
        )

    def get_blob(self, name: str, target: str) -> None:
        """A blob, whole or from the start of a Range."""
        path = self.registry.blob_path(target)
        if not is_oci_digest(target) or not path.is_file():
            self.send_fault(404, "BLOB_UNKNOWN", "blob unknown")
            return
        size = path.stat().st_size
        match = _RANGE.fullmatch(self.headers.get("Range", ""))
        start = int(match[1]) if match else 0
        end = min(int(match[2]) + 1 if match and match[2] else size, size)
        if match and start >= size:
            self.send_bytes(416, b"", {"Content-Range": f"bytes */{size}"})
            return
        headers = {"Docker-Content-Digest": target, "Accept-Ranges": "bytes", "ETag": f'"{target}"'}
        if match:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        self.send_file(206 if match else 200, path, start, end, headers)

    def start_upload(self, name: str) -> None:
        """Where to send a blob; or the blob itself, in one POST."""
        query = parse_qs(urlsplit(self.path).query)
        upload = uuid.uuid4().hex
        (self.registry.root / "uploads" / upload).touch()
        if "digest" in query:
            self._receive(upload)
            self._finish(name, upload, query["digest"][0])
            return
        self._receive(upload)
        self.send_bytes(202, b"", self._upload_headers(name, upload))

    def upload(self, name: str, target: str) -> None:
        """One part of a blob (PATCH), or the last part with the digest (PUT)."""
        if not (self.registry.root / "uploads" / target).is_file():
            self.send_fault(404, "BLOB_UPLOAD_UNKNOWN", "no such upload")
            return
        self._receive(target)
        if self.command == "PATCH":
            self.send_bytes(202, b"", self._upload_headers(name, target))
            return
        self._finish(name, target, parse_qs(urlsplit(self.path).query).get("digest", [""])[0])

    def put_manifest(self, name: str, target: str) -> None:
        """Keep a manifest whose blobs are all here."""
        data = b"".join(self.body())
        media_type = self.headers.get("Content-Type", "")
        missing = [one for one in _named_digests(data) if not self.registry.blob_path(one).is_file()]
        if missing or (is_oci_digest(target) and target != digest_of(data)):
            self.send_fault(400, "MANIFEST_INVALID", f"blobs unknown: {missing}")
            return
        digest = self.registry.put_manifest(name, target, media_type, data)
        headers = {"Location": f"/v2/{name}/manifests/{digest}", "Docker-Content-Digest": digest}
        subject = json.loads(data).get("subject")
        self.send_bytes(201, b"", headers | ({"OCI-Subject": subject["digest"]} if subject else {}))

    def body(self) -> Iterator[bytes]:
        """The request's body in pieces, chunked or with a length."""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("Content-Length") or 0)
        while left and (piece := self.rfile.read(min(left, PIECE))):
            left -= len(piece)
            yield piece

    def _receive(self, upload: str) -> None:
        with (self.registry.root / "uploads" / upload).open("ab") as file:
            for piece in self.body():
                file.write(piece)

    def _finish(self, name: str, upload: str, digest: str) -> None:
        path = self.registry.root / "uploads" / upload
        with path.open("rb") as file:
            found = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        if found != digest:
            path.unlink()
            self.send_fault(400, "DIGEST_INVALID", "the bytes do not hash to the digest")
            return
        path.replace(self.registry.blob_path(digest))
        headers = {"Location": f"/v2/{name}/blobs/{digest}", "Docker-Content-Digest": digest}
        self.send_bytes(201, b"", headers)

    def _upload_headers(self, name: str, upload: str) -> dict[str, str]:
        done = (self.registry.root / "uploads" / upload).stat().st_size
        location = f"{self.registry.url}/v2/{name}/blobs/uploads/{upload}"
        return {"Location": location, "Docker-Upload-UUID": upload, "Range": f"0-{max(done - 1, 0)}"}

    def send_json(self, value: object, *, status: int = 200, media_type: str = "application/json") -> None:
        """A JSON answer."""
        self.send_bytes(status, json.dumps(value).encode(), {"Content-Type": media_type})

    def send_fault(self, status: int, code: str, message: str) -> None:
        """An error in the specification's form."""
        self.send_json({"errors": [{"code": code, "message": message}]}, status=status)

    def send_bytes(self, status: int, data: bytes, headers: Mapping[str, str]) -> None:
        """A small answer; no body to HEAD."""
        self.send_head(status, len(data), headers)
        if self.command != "HEAD":
            self.wfile.write(data)

    def send_file(self, status: int, path: Path, start: int, end: int, headers: Mapping[str, str]) -> None:
        """The half-open byte range of a file."""
        self.send_head(status, end - start, {"Content-Type": "application/octet-stream", **headers})
        if self.command == "HEAD":
            return
        with path.open("rb") as file:
            file.seek(start)
            while start < end and (piece := file.read(min(PIECE, end - start))):
                self.send_piece(piece)
                start += len(piece)

    def send_piece(self, piece: bytes) -> None:
        """One piece of a blob's body."""
        self.wfile.write(piece)

    def send_head(self, status: int, length: int, headers: Mapping[str, str]) -> None:
        """Status line and headers."""
        self.send_response(status)
        for name, value in {"Content-Length": str(length), **headers}.items():
            self.send_header(name, value)
        self.end_headers()


LoopbackRegistry.handler = RegistryHandler


def digest_of(data: bytes) -> str:
    """`sha256:<hex>` of some bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _named_digests(data: bytes) -> list[str]:
    value = json.loads(data)
    children = [*value.get("manifests", []), *value.get("layers", []), value.get("config")]
    return [child["digest"] for child in children if child]


# --- a tiny image -------------------------------------------------------------------------------------


def make_demo_image(
    layout: Path, name: str, files: Mapping[str, Mapping[str, bytes]], command: Sequence[str]
) -> str:
    """Write an image into the OCI layout folder `layout` and give back the digest of its index.

    `name` is a full reference with a tag; `files` maps platform (`linux/amd64`) to path (`bin/sh`) to bytes.
    Every file is executable, belongs to root and is dated 1970, so the same input gives the same digests.
    The images already in the layout are kept.
    """
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    manifests = [_platform_image(blobs, platform, content, command) for platform, content in files.items()]
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}
    root = _put(blobs, OCI_INDEX, strict_json.dumps(index))
    root["annotations"] = {REF_NAME: str(ImageReference.parse(name))}
    _list_root(layout, root)
    digest: str = root["digest"]
    return digest


def _list_root(layout: Path, root: dict[str, Any]) -> None:
    (layout / "oci-layout").write_bytes(strict_json.dumps({"imageLayoutVersion": "1.0.0"}))
    path = layout / "index.json"
    known = json.loads(path.read_bytes())["manifests"] if path.is_file() else []
    others = [one for one in known if one["annotations"] != root["annotations"]]
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [*others, root]}
    path.write_bytes(strict_json.dumps(index))


def _platform_image(
    blobs: Path, platform: str, files: Mapping[str, bytes], command: Sequence[str]
) -> dict[str, Any]:
    system, architecture = platform.split("/")
    tar = _layer_tar(files)
    layer = _put(
        blobs, "application/vnd.oci.image.layer.v1.tar+gzip", gzip.compress(tar, compresslevel=6, mtime=0)
    )
    config = {
        "architecture": architecture,
        "os": system,
        "config": {"Entrypoint": list(command), "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(tar)]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": _put(blobs, OCI_CONFIG, strict_json.dumps(config)),
        "layers": [layer],
    }
    described = _put(blobs, OCI_MANIFEST, strict_json.dumps(manifest))
    return {**described, "platform": {"os": system, "architecture": architecture}}


def _layer_tar(files: Mapping[str, bytes]) -> bytes:
    """An uncompressed layer: folders and files in code point order, all dated 1970 and owned by root."""
    parents = {path.rsplit("/", depth)[0] for path in files for depth in range(1, path.count("/") + 1)}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path in sorted({*files, *parents}):
            member = tarfile.TarInfo(path)
            member.mode = 0o755
            if path in files:
                member.size = len(files[path])
                tar.addfile(member, io.BytesIO(files[path]))
            else:
                member.type = tarfile.DIRTYPE
                tar.addfile(member)
    return buffer.getvalue()


def _put(blobs: Path, media_type: str, data: bytes) -> dict[str, Any]:
    digest = digest_of(data)
    (blobs / digest.partition(":")[2]).write_bytes(data)
    return {"mediaType": media_type, "digest": digest, "size": len(data)}


# --- push ---------------------------------------------------------------------------------------------


def push_layout(layout: Path, url: str) -> tuple[str, ...]:
    """Push every named image of an OCI layout to the registry at `url` (http, loopback).

    Repository and tag are those of the image's own name; gives back the references at the new place.
    """
    index = parse_manifest((layout / "index.json").read_bytes(), OCI_INDEX, where="index.json")
    assert isinstance(index, ImageIndex)
    host = urlsplit(url).netloc
    pushed: list[str] = []
    for root in index.manifests:
        name = ImageReference.parse(root.annotations[REF_NAME])
        push_graph(layout, host, name.repository, root, name.tag or root.digest)
        pushed.append(
            f"{host}/{name.repository}:{name.tag}" if name.tag else f"{host}/{name.repository}@{root.digest}"
        )
    return tuple(pushed)


def push_graph(layout: Path, host: str, repository: str, root: Descriptor, target: str) -> None:
    """Push a manifest with everything below it, children first."""
    data = (layout / "blobs" / "sha256" / root.hex).read_bytes()
    manifest = parse_manifest(data, root.media_type, where=root.digest)
    if isinstance(manifest, ImageIndex):
        for child in manifest.manifests:
            push_graph(layout, host, repository, child, child.digest)
    else:
        for blob in manifest.blobs:
            path = layout / "blobs" / "sha256" / blob.hex
            _put_blob(host, repository, blob.digest, path)
    _send(host, "PUT", f"/v2/{repository}/manifests/{target}", data, {"Content-Type": root.media_type}, 201)


def _put_blob(host: str, repository: str, digest: str, path: Path) -> None:
    headers = {"Content-Length": str(path.stat().st_size), "Content-Type": "application/octet-stream"}
    location = _send(host, "POST", f"/v2/{repository}/blobs/uploads/", b"", {}, 202)
    target = urlsplit(location)
    query = "&".join(part for part in (target.query, f"digest={digest}") if part)
    with path.open("rb") as file:
        _send(host, "PUT", f"{target.path}?{query}", file, headers, 201)


def _send(host: str, method: str, path: str, body: Any, headers: Mapping[str, str], expected: int) -> str:
    """One request; gives back its Location. Raises NetworkError (`push-refused`)."""
    connection = http.client.HTTPConnection(host, timeout=60)
    try:
        connection.request(method, path, body=body, headers=dict(headers))
        answer = connection.getresponse()
        text = answer.read(2000)
        if answer.status != expected:
            raise NetworkError(
                "push-refused",
                "the registry did not take a part of an image",
                where=f"{method} http://{host}{path}",
                expected=f"status {expected}",
                found=f"status {answer.status}: {text!r}",
            )
        return answer.getheader("Location") or ""
    finally:
        connection.close()
