"""Bundle-shaped folders for tests: small, signed with throw-away keys, with policy and state to verify them.

`make_bundle(tmp_path)` gives a `TestBundle` that verifies. Damage it, then ask what the verifier says.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bundler.core import layout
from bundler.core.chunks import DEFAULT_CHUNK_SIZE, is_chunked
from bundler.core.manifest import (
    MANIFEST_NAME,
    SHA256SUMS_PATH,
    ChunkList,
    FileEntry,
    Manifest,
    compose,
)
from bundler.core.paths import parse_bundle_path
from bundler.core.report import Report
from bundler.trust.dsse import encode_bundle, pre_authentication_encoding
from bundler.trust.keys import PrivateKey, generate
from bundler.trust.model_signing_format import OMS_TYPE, oms_statement
from bundler.trust.perimeter.first_policy import Holder, compose_policy
from bundler.trust.perimeter.state_files import StateFiles
from bundler.trust.statements import RELEASE_TYPE, release_statement
from bundler.verification.verify import Perimeter, VerificationResult, verify_bundle

CHUNK_SIZE = 4096
REQUIRE: tuple[Mapping[str, Any], ...] = (
    {"id": "release", "role": "release", "predicateType": RELEASE_TYPE},
    {"id": "oms", "role": "release", "predicateType": OMS_TYPE, "subject": "oms"},
)


def some_bytes(length: int, seed: str = "") -> bytes:
    """`length` bytes that look random and are always the same for one seed."""
    return hashlib.shake_128(f"sealift {seed}".encode()).digest(length)


def default_files() -> dict[str, bytes]:
    """A file of several chunks, a file of exactly two, small, empty, hidden and non-ASCII ones."""
    return {
        "README.md": b"# a bundle\n",
        "payload/empty": b"",
        "payload/models/m/.gitattributes": b"*.safetensors lfs\n",
        "payload/models/m/weights.bin": some_bytes(10 * CHUNK_SIZE + 17, "weights"),
        "payload/models/m/two.bin": some_bytes(2 * CHUNK_SIZE, "two"),
        "payload/records/stra\u00dfe-\u00e9.txt": "Stra\u00dfe \u00e9\n".encode(),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class TestBundle:
    """A signed bundle in `root`, and the perimeter's files beside it (never inside)."""

    __test__ = False
    root: Path
    policy: Path
    state: Path
    key: PrivateKey
    manifest: Manifest
    files: Mapping[str, bytes] = field(repr=False)

    def path(self, name: str) -> Path:
        """Where the listed file `name` lies."""
        return self.root / name

    def perimeter(self) -> Perimeter:
        """What `verify_bundle` needs of this side."""
        return Perimeter(policy=self.policy.read_bytes(), state=StateFiles.of(self.state))

    def verify(self, level: str = "full", **options: Any) -> VerificationResult:
        """Verify in this process."""
        return verify_bundle(self.root, self.perimeter(), level=level, workers=2, **options)

    def arguments(self, *more: str) -> list[str]:
        """The command line after `sealift`."""
        named = ["--policy", str(self.policy), "--state", str(self.state)]
        return ["verify", str(self.root), *named, *more]


def make_bundle(
    folder: Path,
    files: Mapping[str, bytes] | None = None,
    *,
    chunk_size: int | None = CHUNK_SIZE,
    channel: str = "test/stable",
    serial: int = 7,
    algorithm: str = "ecdsa-p256-sha256",
    key: PrivateKey | None = None,
    require: Sequence[Mapping[str, Any]] = REQUIRE,
    policy_members: Mapping[str, Any] | None = None,
    members: Mapping[str, Any] | None = None,
) -> TestBundle:
    """Write `<folder>/bundle`, `<folder>/policy.json` and `<folder>/state/state.json`.

    `files` are bundle paths with their bytes (`SHA256SUMS` and the chunk list are added). `chunk_size` None
    makes a bundle without chunk digests. `policy_members` and `members` go into policy and manifest.
    """
    key = key or generate(algorithm)
    root = folder / "bundle"
    content = dict(default_files() if files is None else files)
    chunks = None
    if chunk_size is not None:
        content[layout.CHUNKS] = chunk_list(content, chunk_size)
        chunks = ChunkList(path=parse_bundle_path(layout.CHUNKS), size=chunk_size)
    content[SHA256SUMS_PATH] = sha256sums(content)
    manifest_bytes = compose(
        channel=channel,
        serial=serial,
        files=[entry(path, data) for path, data in content.items()],
        chunks=chunks,
        **{"name": "test", "createdAt": "2026-11-22T00:00:00Z", **(members or {})},
    )
    write_files(root, {**content, MANIFEST_NAME: manifest_bytes})
    sign_bundle(root, key)
    policy = write_policy(folder / "policy.json", key, require, policy_members or {})
    state = folder / "state" / "state.json"
    state.parent.mkdir(mode=0o700, exist_ok=True)
    if not state.exists():
        state.write_text("{}")
    manifest = Manifest.parse(manifest_bytes)
    return TestBundle(root=root, policy=policy, state=state, key=key, manifest=manifest, files=content)


def entry(path: str, data: bytes) -> FileEntry:
    """The manifest's entry of these bytes."""
    return FileEntry(path=parse_bundle_path(path), size=len(data), sha256=hashlib.sha256(data).hexdigest())


def chunk_list(files: Mapping[str, bytes], chunk_size: int = DEFAULT_CHUNK_SIZE) -> bytes:
    """The chunk digests of all covered files, in code point order (format.md section 4)."""
    return b"".join(
        hashlib.sha256(files[path][at : at + chunk_size]).digest()
        for path in sorted(files)
        if is_chunked(path, layout.CHUNKS)
        for at in range(0, len(files[path]), chunk_size)
    )


def sha256sums(files: Mapping[str, bytes]) -> bytes:
    """What `sha256sum -c` reads."""
    return b"".join(f"{hashlib.sha256(files[path]).hexdigest()}  {path}\n".encode() for path in sorted(files))


def write_files(root: Path, files: Mapping[str, bytes]) -> None:
    """Write every file below `root`."""
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)


def sign_bundle(root: Path, key: PrivateKey, *, prefix: str = "") -> None:
    """Write the release and the OMS attestation of what manifest.json says now."""
    data = (root / MANIFEST_NAME).read_bytes()
    manifest, digest = Manifest.parse(data), hashlib.sha256(data).hexdigest()
    write_attestation(root, f"{prefix}release", release_statement(manifest), key)
    write_attestation(root, f"{prefix}oms", oms_statement(manifest.files, digest, name=root.name), key)


def write_attestation(root: Path, name: str, statement: bytes, key: PrivateKey) -> Path:
    """`attestations/<name>.sigstore.json`: the statement in an envelope signed by `key`."""
    signature = key.sign(pre_authentication_encoding(statement))
    hint = hashlib.sha256(key.public.pem.encode()).hexdigest()
    path = root / "attestations" / f"{name}.sigstore.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_bundle(statement, signature, hint=hint))
    return path


def write_policy(
    path: Path, key: PrivateKey, require: Sequence[Mapping[str, Any]], members: Mapping[str, Any]
) -> Path:
    """A policy in which alice holds `key` for the roles root and release."""
    holders = [Holder(role=role, key=key.public, owner="alice") for role in ("root", "release")]
    value = json.loads(compose_policy(holders, thresholds={}, require=require))
    path.write_text(json.dumps({**value, **members}))
    return path


def references(report: Report) -> set[str]:
    """The references of all findings that are errors."""
    return {finding.reference for finding in report.findings if finding.severity == "error"}


def snapshot(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Mode, mtime and bytes of every regular file below `folder`: to show that nothing changed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            status = path.stat()
            found[str(path.relative_to(folder))] = (status.st_mode, status.st_mtime_ns, path.read_bytes())
    return found
