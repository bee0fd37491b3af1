"""What can be wrong with a bundle, each with the sentence, the reference and the exit code it must get.

One table for `sealift verify` and `verify.pyz`: both must say the same about every row.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bundler.core import layout, strict_json
from bundler.core.manifest import MANIFEST_NAME
from bundler.trust.keys import generate
from tests.verification.bundles import CHUNK_SIZE, TestBundle, chunk_list, sign_bundle, write_attestation

WEIGHTS = "payload/models/m/weights.bin"
TWO = "payload/models/m/two.bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """One row: what is done, and what must be said about it."""

    sentence: str
    do: Callable[[TestBundle], None]
    reference: str
    exit_code: int
    where: str = ""
    """A part of some finding's `where`."""
    step: int = 0
    """The step that must fail."""


def flip(path: Path, offset: int) -> None:
    """Change one bit."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def _flip(name: str, offset: int) -> Callable[[TestBundle], None]:
    return lambda bundle: flip(bundle.path(name), offset)


def _write(name: str, data: bytes) -> Callable[[TestBundle], None]:
    def do(bundle: TestBundle) -> None:
        bundle.path(name).parent.mkdir(parents=True, exist_ok=True)
        bundle.path(name).write_bytes(data)

    return do


def _rename(bundle: TestBundle) -> None:
    bundle.path(TWO).rename(bundle.path(f"{TWO}.old"))


def _swap(bundle: TestBundle) -> None:
    one, other = bundle.path(TWO), bundle.path("payload/models/m/.gitattributes")
    one_bytes = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(one_bytes)


def _swap_chunks(bundle: TestBundle) -> None:
    data = bundle.path(TWO).read_bytes()
    bundle.path(TWO).write_bytes(data[CHUNK_SIZE:] + data[:CHUNK_SIZE])


def _link_file(bundle: TestBundle) -> None:
    away = bundle.root.parent / "away"
    bundle.path(TWO).rename(away)
    bundle.path(TWO).symlink_to(away)


def _link_folder(bundle: TestBundle) -> None:
    away = bundle.root.parent / "away"
    bundle.path("payload/models").rename(away)
    bundle.path("payload/models").symlink_to(away)


def _socket(bundle: TestBundle) -> None:
    here = Path.cwd()
    os.chdir(bundle.root)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("s")
    finally:
        os.chdir(here)


def _decompose(bundle: TestBundle) -> None:
    (path,) = bundle.path("payload/records").iterdir()
    path.rename(path.with_name(unicodedata.normalize("NFD", path.name)))


def _edit_manifest(bundle: TestBundle) -> None:
    path = bundle.path(MANIFEST_NAME)
    value = json.loads(path.read_bytes())
    value["serial"] += 1
    path.write_bytes(strict_json.dumps(value))


def hostile_path(path: str) -> Callable[[TestBundle], None]:
    """A manifest that lists `path`, properly signed by the release key."""

    def do(bundle: TestBundle) -> None:
        manifest = bundle.path(MANIFEST_NAME)
        value = json.loads(manifest.read_bytes())
        good = manifest.read_bytes()
        value["files"] = sorted(
            [*value["files"], {"path": path, "size": 0, "sha256": "0" * 64}],
            key=lambda entry: str(entry["path"]),
        )
        data = strict_json.dumps(value)
        sign_bundle(bundle.root, bundle.key)
        assert data != good
        manifest.write_bytes(data)

    return do


def lie_about(path: str, sha256: str) -> Callable[[TestBundle], None]:
    """Another digest for a file in the signed manifest; bytes and chunk digests stay."""

    def do(bundle: TestBundle) -> None:
        manifest = bundle.path(MANIFEST_NAME)
        value = json.loads(manifest.read_bytes())
        (entry,) = [entry for entry in value["files"] if entry["path"] == path]
        entry["sha256"] = sha256
        manifest.write_bytes(strict_json.dumps(value))
        sign_bundle(bundle.root, bundle.key)

    return do


def lie_in_chunks(path: str) -> Callable[[TestBundle], None]:
    """Other chunk digests for a file, in a chunk list that the signed manifest names; its bytes stay."""

    def do(bundle: TestBundle) -> None:
        files = {name: bundle.path(name).read_bytes() for name in bundle.files}
        lies = chunk_list({**files, path: bytes(len(files[path]))}, CHUNK_SIZE)
        bundle.path(layout.CHUNKS).write_bytes(lies)
        lie_about(layout.CHUNKS, hashlib.sha256(lies).hexdigest())(bundle)

    return do


def _foreign_signature(bundle: TestBundle) -> None:
    sign_bundle(bundle.root, generate(), prefix="other-")


def _wrong_key(bundle: TestBundle) -> None:
    sign_bundle(bundle.root, generate())


def _remove_attestations(bundle: TestBundle) -> None:
    for path in bundle.path("attestations").iterdir():
        path.unlink()


def _replay(bundle: TestBundle) -> None:
    write_attestation(
        bundle.root,
        "release",
        strict_json.dumps(
            {
                "_type": "https://in-toto.io/Statement/v1",
                "subject": [{"name": MANIFEST_NAME, "digest": {"sha256": "1" * 64}}],
                "predicateType": "urn:sealift:release:v1",
                "predicate": {},
            }
        ),
        bundle.key,
    )


def _many_attestations(bundle: TestBundle) -> None:
    for number in range(100):
        _write(f"attestations/{number}.sigstore.json", b"{}")(bundle)


def _again_as(name: str) -> Callable[[TestBundle], None]:
    """A good attestation once more, under another name."""

    def do(bundle: TestBundle) -> None:
        data = bundle.path("attestations/release.sigstore.json").read_bytes()
        (bundle.path("attestations") / name).write_bytes(data)

    return do


def _large_attestation(bundle: TestBundle) -> None:
    with bundle.path("attestations/release.sigstore.json").open("ab") as file:
        file.truncate((32 << 20) + 1)


def _name_of_bytes(bundle: TestBundle) -> None:
    Path(os.fsdecode(os.fsencode(bundle.root) + b"/caf\xe9")).write_bytes(b"")


INTEGRITY = (
    Damage(
        sentence="the first byte of a file is flipped",
        do=_flip(WEIGHTS, 0),
        reference="digest-mismatch",
        exit_code=10,
        where=f"{WEIGHTS}, bytes 0-4095 (chunk 0)",
        step=8,
    ),
    Damage(
        sentence="the last byte of a file is flipped",
        do=_flip(WEIGHTS, 10 * CHUNK_SIZE + 16),
        reference="digest-mismatch",
        exit_code=10,
        where=f"{WEIGHTS}, bytes 40960-40976 (chunk 10)",
        step=8,
    ),
    Damage(
        sentence="two chunks of a file are exchanged",
        do=_swap_chunks,
        reference="digest-mismatch",
        exit_code=10,
        where=f"{TWO}, bytes 0-8191 (chunks 0-1)",
        step=8,
    ),
    Damage(
        sentence="the chunk list is flipped",
        do=_flip(layout.CHUNKS, 40),
        reference="digest-mismatch",
        exit_code=10,
        where=layout.CHUNKS,
        step=8,
    ),
    Damage(
        sentence="SHA256SUMS is flipped",
        do=_flip("SHA256SUMS", 3),
        reference="digest-mismatch",
        exit_code=10,
        where="SHA256SUMS, bytes",
        step=8,
    ),
    Damage(
        sentence="a file is missing",
        do=lambda bundle: bundle.path(WEIGHTS).unlink(),
        reference="missing-file",
        exit_code=10,
        where=WEIGHTS,
        step=6,
    ),
    Damage(
        sentence="the chunk list is missing",
        do=lambda bundle: bundle.path(layout.CHUNKS).unlink(),
        reference="missing-file",
        exit_code=10,
        where=layout.CHUNKS,
        step=6,
    ),
    Damage(
        sentence="there is a file too many",
        do=_write("payload/models/m/more.py", b"import os"),
        reference="extra-file",
        exit_code=10,
        where="payload/models/m/more.py",
        step=6,
    ),
    Damage(
        sentence="there is a hidden file too many",
        do=_write("payload/.hidden", b""),
        reference="extra-file",
        exit_code=10,
        where="payload/.hidden",
        step=6,
    ),
    Damage(
        sentence="there is a file too many under .git",
        do=_write(".git/config", b""),
        reference="extra-file",
        exit_code=10,
        where=".git/config",
        step=6,
    ),
    Damage(
        sentence="a file is renamed",
        do=_rename,
        reference="missing-file",
        exit_code=10,
        where=TWO,
        step=6,
    ),
    Damage(
        sentence="a name is in another Unicode form",
        do=_decompose,
        reference="renamed-file",
        exit_code=10,
        where="payload/records/",
        step=6,
    ),
    Damage(
        sentence="a file is one byte shorter",
        do=lambda bundle: os.truncate(bundle.path(WEIGHTS), 10 * CHUNK_SIZE + 16),
        reference="wrong-size",
        exit_code=10,
        where=WEIGHTS,
        step=6,
    ),
    Damage(
        sentence="a file is one byte longer",
        do=lambda bundle: os.truncate(bundle.path(WEIGHTS), 10 * CHUNK_SIZE + 18),
        reference="wrong-size",
        exit_code=10,
        where=WEIGHTS,
        step=6,
    ),
    Damage(
        sentence="two files are exchanged",
        do=_swap,
        reference="wrong-size",
        exit_code=10,
        where=TWO,
        step=6,
    ),
    Damage(
        sentence="a file is a link to the same bytes",
        do=_link_file,
        reference="symbolic-link",
        exit_code=10,
        where=TWO,
        step=6,
    ),
    Damage(
        sentence="a folder is a link to the same files",
        do=_link_folder,
        reference="symbolic-link",
        exit_code=10,
        where="payload/models",
        step=6,
    ),
    Damage(
        sentence="a file has a second name outside",
        do=lambda bundle: os.link(bundle.path(TWO), bundle.root.parent / "second"),
        reference="hard-link",
        exit_code=10,
        where=TWO,
        step=6,
    ),
    Damage(
        sentence="there is a FIFO",
        do=lambda bundle: os.mkfifo(bundle.path("payload/pipe")),
        reference="special-file",
        exit_code=10,
        where="payload/pipe",
        step=6,
    ),
    Damage(
        sentence="there is a socket",
        do=_socket,
        reference="special-file",
        exit_code=10,
        where="s",
        step=6,
    ),
    Damage(
        sentence="there is an empty folder",
        do=lambda bundle: bundle.path("payload/models/m/empty").mkdir(),
        reference="unlisted-directory",
        exit_code=10,
        where="payload/models/m/empty",
        step=6,
    ),
    Damage(
        sentence="there is a name that is not UTF-8",
        do=_name_of_bytes,
        reference="bad-name",
        exit_code=10,
        where="caf\\xe9",
        step=6,
    ),
    Damage(
        sentence="there is a folder in attestations",
        do=lambda bundle: bundle.path("attestations/more").mkdir(),
        reference="unexpected-attestation",
        exit_code=10,
        where="attestations/more",
        step=2,
    ),
    Damage(
        sentence="the manifest has another digest for a file of one chunk than the chunk list",
        do=lie_about("README.md", "1" * 64),
        reference="chunk-list-contradicts",
        exit_code=10,
        where="README.md",
        step=6,
    ),
    Damage(
        sentence="the chunk list has another digest for a file of one chunk than the manifest",
        do=lie_in_chunks("README.md"),
        reference="chunk-list-contradicts",
        exit_code=10,
        where="README.md",
        step=6,
    ),
    Damage(
        sentence="the manifest has another digest for a file of several chunks than its bytes",
        do=lie_about(WEIGHTS, "1" * 64),
        reference="digest-mismatch",
        exit_code=10,
        where=f"{WEIGHTS}, bytes 0-40976",
        step=8,
    ),
    Damage(
        sentence="the chunk list has other digests for a file of several chunks than its bytes",
        do=lie_in_chunks(WEIGHTS),
        reference="chunk-list-contradicts",
        exit_code=10,
        where=WEIGHTS,
        step=8,
    ),
    Damage(
        sentence="the manifest is missing",
        do=lambda bundle: bundle.path(MANIFEST_NAME).unlink(),
        reference="missing-file",
        exit_code=10,
        where=MANIFEST_NAME,
        step=3,
    ),
)

TRUST = (
    Damage(
        sentence="the manifest was edited after signing",
        do=_edit_manifest,
        reference="threshold",
        exit_code=11,
        where="require.release",
        step=5,
    ),
    Damage(
        sentence="there is no attestation",
        do=_remove_attestations,
        reference="threshold",
        exit_code=11,
        where="require.release",
        step=5,
    ),
    Damage(
        sentence="another key signed everything",
        do=_wrong_key,
        reference="unknown-signer",
        exit_code=11,
        where="attestations/release.sigstore.json",
        step=4,
    ),
    Damage(
        sentence="a stranger signed too",
        do=_foreign_signature,
        reference="unknown-signer",
        exit_code=11,
        where="attestations/other-oms.sigstore.json",
        step=4,
    ),
    Damage(
        sentence="the release statement is about another manifest",
        do=_replay,
        reference="threshold",
        exit_code=11,
        where="require.release",
        step=5,
    ),
    Damage(
        sentence="a file in attestations is no JSON",
        do=_write("attestations/x.sigstore.json", b"hello"),
        reference="bad-json",
        exit_code=3,
        where="attestations/x.sigstore.json",
        step=4,
    ),
    Damage(
        sentence="a good attestation is hidden",
        do=_again_as(".release.sigstore.json"),
        reference="attestation-name",
        exit_code=3,
        where="attestations/.release",
        step=2,
    ),
    Damage(
        sentence="the name of a good attestation turns the text around",
        do=_again_as("a\u202e.sigstore.json"),
        reference="attestation-name",
        exit_code=3,
        where="attestations/a\u202e",
        step=2,
    ),
    Damage(
        sentence="the name of a good attestation is in another Unicode form",
        do=_again_as("e\u0301.sigstore.json"),
        reference="attestation-name",
        exit_code=3,
        where="attestations/e\u0301",
        step=2,
    ),
    Damage(
        sentence="two attestations differ only by case",
        do=_again_as("Release.sigstore.json"),
        reference="path-collision",
        exit_code=3,
        where="attestations",
        step=2,
    ),
    Damage(
        sentence="the name of a good attestation is not UTF-8",
        do=_again_as("\udcff.sigstore.json"),
        reference="unexpected-attestation",
        exit_code=10,
        where="attestations/\\xff",
        step=2,
    ),
    Damage(
        sentence="there are too many attestations",
        do=_many_attestations,
        reference="too-many",
        exit_code=3,
        where="attestations",
        step=2,
    ),
    Damage(
        sentence="an attestation is too large to be read",
        do=_large_attestation,
        reference="too-large",
        exit_code=3,
        where="attestations/release.sigstore.json",
        step=2,
    ),
    Damage(
        sentence="the manifest is huge and nobody signed it",
        do=_write(MANIFEST_NAME, b'{"files":[' + b"{}," * (6 << 20) + b"{}]}"),
        reference="unsigned-manifest",
        exit_code=11,
        where=MANIFEST_NAME,
        step=3,
    ),
    Damage(
        sentence="the manifest is no JSON",
        do=_write(MANIFEST_NAME, b"{"),
        reference="bad-json",
        exit_code=3,
        where=MANIFEST_NAME,
        step=3,
    ),
    Damage(
        sentence="the manifest lists a path that leaves the bundle",
        do=hostile_path("../outside"),
        reference="bad-path",
        exit_code=3,
        where="manifest.json: files[0].path",
        step=3,
    ),
    Damage(
        sentence="the manifest lists an absolute path",
        do=hostile_path("/etc/passwd"),
        reference="bad-path",
        exit_code=3,
        where="manifest.json: files[0].path",
        step=3,
    ),
    Damage(
        sentence="the manifest lists an attestation",
        do=hostile_path("attestations/release.sigstore.json"),
        reference="bad-path",
        exit_code=3,
        where="manifest.json: files",
        step=3,
    ),
    Damage(
        sentence="the manifest lists a path twice but for its case",
        do=hostile_path("payload/EMPTY"),
        reference="path-collision",
        exit_code=3,
        where=MANIFEST_NAME,
        step=3,
    ),
)
ALL = INTEGRITY + TRUST
