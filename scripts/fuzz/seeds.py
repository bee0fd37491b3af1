"""Good documents of every kind, as our own writers make them: where the fuzzing starts."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from bundler.assembly.wheel_index import wheel_documents
from bundler.content.gguf import ValueType
from bundler.core import strict_json
from bundler.core.manifest import Manifest
from bundler.core.specs.lock import Lock
from bundler.demo.registry import make_demo_image
from bundler.demo.tiny_gguf import StoredTensor, gguf_bytes
from bundler.demo.tiny_kimi import TinyTensor, safetensors_bytes
from bundler.storage.journal import encode_line
from bundler.trust.keys import PrivateKey, generate
from bundler.trust.model_signing_format import OMS_TYPE
from bundler.trust.perimeter.freshness import Challenge
from bundler.trust.perimeter.state import Release, State
from bundler.trust.statements import release_statement
from bundler.trust.upstream.provenance import PREDICATE_TYPES
from tests.servers import signatures
from tests.servers.sigstore import Sigstore
from tests.verification.bundles import make_bundle
from tests.wheel_files import packed, wheel_members

Seeds = Callable[[], Sequence[bytes]]
TEMPLATES = Path(__file__).parents[2] / "bundler" / "assembly" / "templates"
SHA = hashlib.sha256(b"seed").hexdigest()
COMMIT = "c" * 40
WHEEL = "app-1.0-py3-none-any.whl"


@cache
def _key() -> PrivateKey:
    return generate("ed25519")


@cache
def _bundle() -> dict[str, bytes]:
    """The small files of a real bundle: manifest, attestations, policy, chunk list."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = make_bundle(Path(folder), key=_key())
        paths = ["manifest.json", "payload/chunks.sha256"]
        paths += [f"attestations/{name}.sigstore.json" for name in ("release", "oms")]
        found = {path: bundle.path(path).read_bytes() for path in paths}
        return {**found, "policy.json": bundle.policy.read_bytes()}


def json_documents() -> Sequence[bytes]:
    """Every JSON there is, and what is special about JSON."""
    odd = {
        "text": '\u00e9\u2028\U0001f600"\\\n',
        "deep": [[[[[]]]]],
        "n": [0, -1, 2**53 - 1],
        "b": [True, None],
    }
    return [strict_json.dumps(odd), json.dumps(odd).encode(), *manifests(), *policies()]


def bundle_paths() -> Sequence[bytes]:
    """Paths as they stand in bundles, a line each."""
    listed = [entry.path for entry in Manifest.parse(_bundle()["manifest.json"]).files]
    more = [
        "payload/models/models--a--b/refs/main",
        "payload/wheels/x-1-py3-none-any.whl",
        "stra\u00dfe/\u00e9",
    ]
    return ["\n".join(listed).encode(), "\n".join(more).encode(), b"a/b\na/c"]


def manifests() -> Sequence[bytes]:
    """A bundle's manifest, and one with every optional member."""
    plain = json.loads(_bundle()["manifest.json"])
    full = {
        **plain,
        "artifacts": [{"id": "model:m", "kind": "model", "purl": "pkg:huggingface/a/b"}],
        "lock": SHA,
        "launch": [{"profile": "default", "engine": {"name": "vllm"}}],
        "critical": ["files"],
        "tool": {"name": "sealift", "version": "1"},
        "future": {"a": 1},
    }
    return [strict_json.dumps(plain), strict_json.dumps(full)]


def chunk_lists() -> Sequence[bytes]:
    """A manifest and its chunk list, an empty line between."""
    return [_bundle()["manifest.json"] + b"\n\n" + _bundle()["payload/chunks.sha256"]]


def attestations() -> Sequence[bytes]:
    """Release and OMS attestations."""
    return [data for path, data in _bundle().items() if path.startswith("attestations/")]


def statements() -> Sequence[bytes]:
    """A release statement, and a third party's with floats."""
    data = _bundle()["manifest.json"]
    digest = hashlib.sha256(data).hexdigest()
    sbom = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [
            {"name": "manifest.json", "digest": {"sha256": digest}},
            {"name": "b", "digest": {"sha256": SHA}},
        ],
        "predicateType": "https://cyclonedx.org/bom",
        "predicate": {"confidence": 0.5, "components": [{"name": "a"}]},
    }
    return [release_statement(Manifest.parse(data)), strict_json.dumps(sbom)]


def policies() -> Sequence[bytes]:
    """A first policy, and one that uses every member."""
    plain = json.loads(_bundle()["policy.json"])
    name, key = next(iter(plain["keys"].items()))
    identity = {"issuer": "https://token.example", "san": "https://example.org/a@refs/tags/v1"}
    full = {
        **plain,
        "version": 3,
        "previous": {"sha256": SHA},
        "keys": {name: {**key, "owner": "Ann \u00e9"}},
        "roles": {
            **plain["roles"],
            "ci": {"identities": [identity], "threshold": 1},
            "legal": {"keys": [name], "threshold": 1, "distinctFrom": ["ci"]},
        },
        "require": [
            *plain["require"],
            {"id": "l", "role": "legal", "predicateType": OMS_TYPE, "where": {"v": 1}},
        ],
        "revoked": {"keys": {SHA: {"reason": "lost"}}, "manifests": {SHA: "bad"}, "files": {}},
        "minSerial": {"a/b": 3},
        "sigstore": {"trusted_root": {"sha256": SHA}},
        "rules": {
            "licenses": {"allow": ["MIT"], "deny": []},
            "content": {"formats": ["safetensors"], "pickle": False},
            "engines": {"vllm": "0.19.1"},
            "expiry": "enforce",
        },
        "expires": "2030-01-01T00:00:00Z",
        "note": "n",
    }
    return [strict_json.dumps(plain), strict_json.dumps(full)]


def states() -> Sequence[bytes]:
    """A first use, and a state that remembers."""
    used = State(
        policy_version=3,
        policy_sha256=SHA,
        serials={"a/b": 7},
        last={"a/b": Release(serial=7, manifest=SHA)},
        newest_time=1_800_000_000,
        before=SHA,
        unknown={"future": [1]},
    )
    return [b"{}", used.to_bytes(), b'{"lastSignedTime":1800000000}']


def challenges() -> Sequence[bytes]:
    """A freshness challenge."""
    return [Challenge(nonce=SHA, version=3, policy_sha256=SHA).to_bytes()]


def provenances() -> Sequence[bytes]:
    """Publish attestations of one wheel, of both kinds."""
    subject = [(WHEEL, SHA)]
    statements = [signatures.statement(subject, kind) for kind in PREDICATE_TYPES]
    bundles = [signatures.with_workflow(Sigstore())(statement) for statement in statements]
    return [signatures.provenance(bundle) for bundle in bundles] + [signatures.provenance(*bundles)]


def image_signatures() -> Sequence[bytes]:
    """A simple signing payload and a Sigstore bundle about one image."""
    image = f"sha256:{SHA}"
    bundle = signatures.with_key(_key())(signatures.image_statement(image))
    return [signatures.simple_payload(image), bundle]


def model_signatures() -> Sequence[bytes]:
    """A model's signature over two files."""
    statement = signatures.model_statement({"config.json": b"{}", "model.safetensors": b"w"})
    return [signatures.with_key(_key())(statement)]


def public_keys() -> Sequence[bytes]:
    """A public key of every algorithm, one with an owner's line."""
    names = ("ecdsa-p256-sha256", "ecdsa-p384-sha384", "ml-dsa-65")
    return [
        f"Owner: Ann\n{_key().public.pem}".encode(),
        *(generate(name).public.pem.encode() for name in names),
    ]


def specs() -> Sequence[bytes]:
    """The specs that `sealift init` writes."""
    return [path.read_bytes() for path in sorted(TEMPLATES.glob("*.yaml"))]


def locks() -> Sequence[bytes]:
    """A lock with something of every kind."""
    return [Lock.model_validate(_lock_value()).to_bytes()]


def _lock_value() -> dict[str, Any]:
    oci = f"sha256:{SHA}"
    image_type = "application/vnd.oci.image.index.v1+json"
    blobs = ((oci, 3), (f"sha256:{'d' * 64}", 4))
    below = {"platform": "linux/amd64", "digest": oci, "size": 5, "media_type": image_type, "blobs": blobs}
    return {
        "spec_sha256": SHA,
        "name": "demo",
        "channel": "a/b",
        "serial": 7,
        "models": (
            {
                "id": "kimi",
                "repo": "a/b",
                "revision": "main",
                "commit": COMMIT,
                "format": "bf16",
                "files": ({"path": "x.safetensors", "size": 3, "git_blob_sha1": COMMIT, "lfs_sha256": SHA},),
            },
        ),
        "engines": (_engine(),),
        "images": (
            {
                "reference": "r.example/a:1",
                "digest": oci,
                "size": 5,
                "media_type": image_type,
                "platforms": (below,),
            },
        ),
        "files": ({"path": "payload/files/a", "size": 1, "sha256": SHA, "url": "https://example.org/a"},),
    }


def _engine() -> dict[str, Any]:
    name, data = "pkg-1.0-py3-none-any.whl", wheels()[0]
    digest = hashlib.sha256(data).hexdigest()
    wheel = {"name": "pkg", "version": "1.0", "filename": name, "size": len(data), "sha256": digest}
    return {
        "id": "vllm",
        "name": "vllm",
        "requirement": "pkg==1.0",
        "version": "1.0",
        "python": "3.12",
        "platform": "linux/amd64",
        "glibc": "2.31",
        "accelerator": "cpu",
        "wheels": (wheel,),
    }


def safetensors_files() -> Sequence[bytes]:
    """Two small files."""
    one = {"a": TinyTensor("BF16", (2, 3), bytes(12)), "b": TinyTensor("F8_E4M3", (4,), bytes(4))}
    return [safetensors_bytes(one), safetensors_bytes({"x": TinyTensor("I64", (), bytes(8))})]


def gguf_files() -> Sequence[bytes]:
    """A small file with values of several types."""
    metadata = {
        "general.architecture": (ValueType.STRING, "tiny"),
        "split.no": (ValueType.UINT16, 0),
        "split.count": (ValueType.UINT16, 2),
        "flag": (ValueType.BOOL, True),
        "real": (ValueType.FLOAT32, 1.5),
        "tokens": (ValueType.ARRAY, ValueType.STRING, ["a", "bc"]),
        "ids": (ValueType.ARRAY, ValueType.INT32, [1, 2, 3]),
    }
    tensors = {"x": StoredTensor(0, (4, 2), bytes(32)), "y": StoredTensor(8, (32,), bytes(34))}
    return [gguf_bytes(metadata, tensors)]  # type: ignore[arg-type]


def wheels() -> Sequence[bytes]:
    """Two small wheels."""
    return [packed(wheel_members("pkg", "1.0")), packed({"a/b.txt": b"x" * 100, "c.txt": b""})]


def records() -> Sequence[bytes]:
    """The RECORD of a wheel, and quoted names."""
    record = next(data for path, data in wheel_members("pkg", "1.0").items() if path.endswith("RECORD"))
    return [record, b'"a ""b"", c.py",sha512=AAAA,3\r\nx,,\r\n']


@cache
def _image() -> tuple[bytes, ...]:
    with tempfile.TemporaryDirectory() as folder:
        layout = Path(folder) / "images"
        make_demo_image(layout, "demo/app:v1", {"linux/amd64": {"bin/hello": b"x"}}, ["/bin/hello"])
        blobs = [path.read_bytes() for path in sorted((layout / "blobs/sha256").iterdir())]
        return tuple(data for data in blobs if data.startswith(b"{"))


def oci_documents() -> Sequence[bytes]:
    """Index, manifest and config of an image."""
    return _image()


def pylocks() -> Sequence[bytes]:
    """The lock of an engine's wheels."""
    return [data for path, data in _wheel_documents().items() if path.endswith("pylock.toml")]


def requirements() -> Sequence[bytes]:
    """The requirements file of an engine's wheels."""
    return [data for path, data in _wheel_documents().items() if path.endswith("requirements.txt")]


def _wheel_documents() -> dict[str, bytes]:
    return wheel_documents(Lock.model_validate(_lock_value()).engines)


def hub_listings() -> Sequence[bytes]:
    """A page of a Hub's tree: a folder, a plain file, an LFS file."""
    large = {"oid": SHA, "size": 9, "pointerSize": 130}
    return [
        strict_json.dumps(
            [
                {"type": "directory", "oid": COMMIT, "size": 0, "path": "a"},
                {"type": "file", "oid": COMMIT, "size": 3, "path": "a/config.json"},
                {
                    "type": "file",
                    "oid": COMMIT,
                    "size": 9,
                    "path": "m.safetensors",
                    "lfs": large,
                    "xetHash": SHA,
                },
            ]
        )
    ]


def index_pages() -> Sequence[bytes]:
    """A page of a package index, as JSON and as HTML."""
    file = {
        "filename": "pkg-1-py3-none-any.whl",
        "url": "../../pkg.whl#x",
        "hashes": {"sha256": SHA},
        "size": 3,
    }
    html = f'<!doctype html><base href="/x/"><a href="pkg-1.whl#sha256={SHA}" data-yanked="">pkg-1.whl</a>'
    return [strict_json.dumps({"meta": {"api-version": "1.1"}, "files": [file]}), html.encode()]


def journals() -> Sequence[bytes]:
    """Two lines and a torn one."""
    entries = [{"path": "payload/a", "size": 3, "sha256": SHA}, {"path": "\u00e9", "chunks": [1, 2, None]}]
    return [b"".join(map(encode_line, entries)) + b'{"sum":"12']
