"""A registry on loopback that misbehaves when told to, and records who asked what with which headers."""

from __future__ import annotations

import base64
import gzip
import json
import secrets
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from bundler.content.oci import (
    DOCKER_CONFIG,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
)
from bundler.core import strict_json
from bundler.demo.registry import LoopbackRegistry, RegistryHandler, digest_of

GZIP_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What one request gets instead of a proper answer."""

    status: int | None = None
    """Answer with this status at once."""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    """Answer 200 with this body."""
    content_type: str = ""
    """Lie about the type."""
    drop_after: int | None = None
    """Cut the connection behind so many bytes of a blob."""
    flip: bool = False
    """Invert the first byte of a blob."""
    no_range: bool = False
    """Ignore Range."""


@dataclass(slots=True)
class Seen:
    """One request: `sent` counts the bytes of a blob that left."""

    method: str
    path: str
    headers: dict[str, str]
    sent: int = 0


class FaultyRegistry(LoopbackRegistry):
    """`faults[part of a path]` are used up one a request; `always` when there are none left."""

    handler: ClassVar[type[RegistryHandler]]

    def __init__(self, root: Path, *, auth: str = "", token_seconds: float = 300.0) -> None:
        super().__init__(root)
        self.auth = auth
        self.token_seconds = token_seconds
        self.realm: str | None = None
        self.users: dict[str, str] = {}
        self.identity_tokens: set[str] = set()
        self.tokens: dict[str, float] = {}
        self.faults: defaultdict[str, list[Fault]] = defaultdict(list)
        self.always: dict[str, Fault] = {}
        self.requests: list[Seen] = []
        self.blobs_elsewhere: str | None = None
        """Redirect blobs to this origin."""
        self.no_referrers_api = False
        self.hook: Callable[[FaultyHandler], bool] | None = None
        """Answers a request itself and says so, or leaves it to the registry."""
        self.rewrite: Callable[[FaultyHandler, dict[str, Any]], dict[str, Any]] | None = None
        """Changes the headers of an answer."""
        self.rate: int | None = None
        """Bytes a second of each blob."""
        self.closing = threading.Event()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        super().__exit__(kind, error, trace)

    def seen(self, part: str) -> list[Seen]:
        """The requests whose path holds `part`."""
        return [one for one in self.requests if part in one.path]

    def sent(self, digest: str) -> int:
        """Bytes of that blob sent so far."""
        return sum(one.sent for one in self.seen(digest))

    # --- content, without validation ---

    def add_blob(self, data: bytes, media_type: str) -> dict[str, Any]:
        """Keep a blob; its descriptor."""
        digest = digest_of(data)
        self.blob_path(digest).write_bytes(data)
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def add_manifest(self, name: str, value: dict[str, Any], tag: str = "") -> dict[str, Any]:
        """Keep a manifest that says its own media type; its descriptor."""
        data = strict_json.dumps(value)
        digest = self.put_manifest(name, tag or digest_of(data), value["mediaType"], data)
        return {"mediaType": value["mediaType"], "digest": digest, "size": len(data)}

    def image_manifest(
        self, platform: str = "linux/amd64", *, text: bytes = b"content", docker: bool = False
    ) -> dict[str, Any]:
        """A manifest with a config and one layer, both kept; not yet put anywhere."""
        system, architecture = platform.split("/")
        config = {"os": system, "architecture": architecture, "rootfs": {"type": "layers"}}
        config["rootfs"]["diff_ids"] = [digest_of(text)]  # type: ignore[index]
        layer_type = DOCKER_LAYER if docker else GZIP_LAYER
        return {
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST if docker else OCI_MANIFEST,
            "config": self.add_blob(strict_json.dumps(config), DOCKER_CONFIG if docker else OCI_CONFIG),
            "layers": [self.add_blob(gzip.compress(text, mtime=0), layer_type)],
        }

    def add_image(
        self, name: str, tag: str = "", platform: str = "linux/amd64", **how: Any
    ) -> dict[str, Any]:
        """Keep an image of one platform; its descriptor with the platform."""
        described = self.add_manifest(name, self.image_manifest(platform, **how), tag)
        system, architecture = platform.split("/")
        return {**described, "platform": {"os": system, "architecture": architecture}}

    def add_index(
        self, name: str, tag: str, manifests: list[dict[str, Any]], *, docker: bool = False
    ) -> dict[str, Any]:
        """Keep an index over these descriptors."""
        media_type = DOCKER_LIST if docker else OCI_INDEX
        return self.add_manifest(
            name, {"schemaVersion": 2, "mediaType": media_type, "manifests": manifests}, tag
        )

    def add_artifact(
        self, name: str, subject: dict[str, Any], tag: str = "", text: bytes = b"{}"
    ) -> dict[str, Any]:
        """Keep an artifact that refers to `subject`."""
        value = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": "application/vnd.example.sbom.v1+json",
            "config": self.add_blob(b"{}", "application/vnd.oci.empty.v1+json"),
            "layers": [self.add_blob(text, "application/spdx+json")],
            "subject": {key: subject[key] for key in ("mediaType", "digest", "size")},
        }
        return {**self.add_manifest(name, value, tag), "artifactType": value["artifactType"]}


class FaultyHandler(RegistryHandler):
    """The behaviour of FaultyRegistry."""

    fault = Fault()
    note = Seen("", "", {})

    @property
    def faulty(self) -> FaultyRegistry:
        """The registry, by its own type."""
        assert isinstance(self.registry, FaultyRegistry)
        return self.registry

    def intercept(self) -> bool:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.note = Seen(self.command, self.path, headers)
        self.faulty.requests.append(self.note)
        self.fault = self._next_fault()
        path = urlsplit(self.path).path
        if self.faulty.hook is not None and self.faulty.hook(self):
            return True
        if path == "/token":
            self._token()
        elif self.faulty.auth and not self._allowed():
            self._challenge()
        elif self.fault.status is not None or self.fault.body is not None:
            answer = self.fault.body or b""
            described = {"Content-Type": self.fault.content_type or "text/plain", **self.fault.headers}
            self.send_bytes(self.fault.status or 200, answer, described)
        elif self.faulty.no_referrers_api and "/referrers/" in path:
            self.send_fault(404, "NOT_FOUND", "no such API")
        elif self.faulty.blobs_elsewhere and "/blobs/" in path and self.command == "GET":
            self.send_bytes(
                307, b"", {"Location": self.faulty.blobs_elsewhere + self.path + "?signature=s3cret"}
            )
        else:
            if self.fault.no_range:
                del self.headers["Range"]
            return False
        return True

    def _next_fault(self) -> Fault:
        for part, waiting in self.faulty.faults.items():
            if part in self.path and waiting:
                return waiting.pop(0)
        return next((fault for part, fault in self.faulty.always.items() if part in self.path), Fault())

    # --- who asks ---

    def _allowed(self) -> bool:
        scheme, _, value = self.headers.get("Authorization", "").partition(" ")
        if self.faulty.auth == "basic":
            return scheme == "Basic" and self._is_user(value)
        return scheme == "Bearer" and self.faulty.tokens.get(value, 0.0) > time.monotonic()

    def _is_user(self, value: str) -> bool:
        name, _, password = base64.b64decode(value).decode().partition(":")
        return self.faulty.users.get(name) == password

    def _challenge(self) -> None:
        realm = self.faulty.realm or f"{self.faulty.url}/token"
        name = urlsplit(self.path).path.removeprefix("/v2/").rsplit("/", 2)[0]
        header = f'Bearer realm="{realm}",service="registry, of tests",scope="repository:{name}:pull"'
        if self.faulty.auth == "basic":
            header = 'Basic realm="tests"'
        self.send_bytes(401, b"{}", {"WWW-Authenticate": header})

    def _token(self) -> None:
        if self.command == "POST":
            form = parse_qs(b"".join(self.body()).decode())
            allowed = form.get("refresh_token", [""])[0] in self.faulty.identity_tokens
        else:
            scheme, _, value = self.headers.get("Authorization", "").partition(" ")
            allowed = not self.faulty.users or (scheme == "Basic" and self._is_user(value))
        if not allowed:
            self.send_fault(401, "UNAUTHORIZED", "no")
            return
        token = secrets.token_hex(16)
        self.faulty.tokens[token] = time.monotonic() + self.faulty.token_seconds
        self.send_json({"token": token, "expires_in": int(self.faulty.token_seconds)})

    # --- bytes ---

    def send_head(self, status: int, length: int, headers: Any) -> None:
        changed = dict(headers)
        if self.fault.content_type:
            changed["Content-Type"] = self.fault.content_type
        if self.faulty.rewrite is not None:
            changed = self.faulty.rewrite(self, changed)
        self.send_response(status)
        for name, value in {"Content-Length": str(length), **changed}.items():
            # A list is that many headers of one name.
            for one in value if isinstance(value, list) else [value]:
                self.send_header(name, one)
        self.end_headers()

    def send_piece(self, piece: bytes) -> None:
        if self.fault.flip and not self.note.sent:
            piece = bytes([piece[0] ^ 0xFF]) + piece[1:]
        if self.fault.drop_after is not None and self.note.sent + len(piece) > self.fault.drop_after:
            self._write(piece[: self.fault.drop_after - self.note.sent])
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            raise ConnectionAbortedError
        self._write(piece)

    def _write(self, piece: bytes) -> None:
        step = 1 << 16
        for at in range(0, len(piece), step):
            # Counted first: the client may look at the count as soon as it has the bytes.
            self.note.sent += len(piece[at : at + step])
            self.wfile.write(piece[at : at + step])
            if self.faulty.rate and self.faulty.closing.wait(step / self.faulty.rate):
                raise ConnectionAbortedError


FaultyRegistry.handler = FaultyHandler


def manifest_of(registry: LoopbackRegistry, digest: str) -> dict[str, Any]:
    """The manifest with that digest, parsed."""
    value: dict[str, Any] = json.loads(registry.blob_path(digest).read_bytes())
    return value
