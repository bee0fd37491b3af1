"""Signatures as upstream's tools write them: PEP 740 attestations, cosign signatures, model signatures."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bundler.content.oci import OCI_CONFIG, OCI_EMPTY, OCI_MANIFEST
from bundler.trust.dsse import encode_bundle, pre_authentication_encoding
from bundler.trust.keys import PrivateKey
from tests.servers.registry import FaultyRegistry
from tests.servers.sigstore import Sigstore

PUBLISH = "https://docs.pypi.org/attestations/publish/v1"
COSIGN_SIGN = "https://sigstore.dev/cosign/sign/v1"
OMS = "https://model_signing/signature/v1.0"
BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
GITHUB = "https://token.actions.githubusercontent.com"
COMMIT = "c" * 40
Sign = Callable[[bytes], bytes]
"""A statement's bytes to the Sigstore bundle around them."""


def with_key(key: PrivateKey) -> Sign:
    """Signs with a key, as cosign and model_signing do."""
    return lambda payload: encode_bundle(payload, key.sign(pre_authentication_encoding(payload)), hint="any")


def with_identity(sigstore: Sigstore, issuer: str, san: str) -> Sign:
    """Signs keyless."""
    return lambda payload: sigstore.sign(payload, issuer=issuer, san=san)


def with_workflow(
    sigstore: Sigstore,
    repository: str = "org/app",
    workflow: str = "release.yml",
    *,
    host: str = "https://github.com",
    issuer: str = GITHUB,
    **claims: str,
) -> Sign:
    """Signs keyless as a workflow on GitHub does; `claims` replace its claims by name."""
    source, ref = f"{host}/{repository}", "refs/tags/v1"
    folder = "//" if "gitlab" in host else "/.github/workflows/"
    said = {
        "source": source,
        "commit": COMMIT,
        "ref": ref,
        "config": f"{source}{folder}{workflow}@{ref}",
        **claims,
    }
    numbers = {"source": 12, "commit": 13, "ref": 14, "config": 18}
    extensions = {f"1.3.6.1.4.1.57264.1.{number}": said[name] for name, number in numbers.items()}
    return lambda payload: sigstore.sign(payload, issuer=issuer, san=said["config"], claims=extensions)


def statement(
    subjects: Sequence[tuple[str | None, str]], predicate_type: str, predicate: object = None
) -> bytes:
    """An in-toto statement about names (None for no name) with their SHA-256."""
    listed = [
        {**({"name": name} if name is not None else {}), "digest": {"sha256": sha256}}
        for name, sha256 in subjects
    ]
    value = {"_type": "https://in-toto.io/Statement/v1", "subject": listed, "predicateType": predicate_type}
    return json.dumps({**value, "predicate": predicate}).encode()


# --- wheels ---


def publish_statement(filename: str, data: bytes, predicate_type: str = PUBLISH) -> bytes:
    """What an index asks a publisher to sign."""
    return statement([(filename, hashlib.sha256(data).hexdigest())], predicate_type)


def attestation(bundle: bytes) -> dict[str, Any]:
    """A Sigstore bundle under the names of PEP 740."""
    value = json.loads(bundle)
    material, envelope = value["verificationMaterial"], value["dsseEnvelope"]
    return {
        "version": 1,
        "verification_material": {
            "certificate": material["certificate"]["rawBytes"],
            "transparency_entries": material["tlogEntries"],
        },
        "envelope": {"statement": envelope["payload"], "signature": envelope["signatures"][0]["sig"]},
    }


def provenance(*bundles: bytes, repository: str = "org/app") -> bytes:
    """The provenance object of one file, as an index serves it."""
    publisher = {"kind": "GitHub", "repository": repository, "workflow": "release.yml", "environment": None}
    attestations = [attestation(bundle) for bundle in bundles]
    value = {"version": 1, "attestation_bundles": [{"publisher": publisher, "attestations": attestations}]}
    return json.dumps(value).encode()


# --- images ---


def simple_payload(digest: str, kind: str = "cosign container image signature") -> bytes:
    """The payload that `cosign sign` made before version 3."""
    image = {"docker-manifest-digest": digest}
    critical = {"identity": {"docker-reference": "reg/app"}, "image": image, "type": kind}
    return json.dumps({"critical": critical, "optional": None}).encode()


def promised(
    sigstore: Sigstore, payload: bytes, *, issuer: str, san: str, seconds: int = 0, **changes: Any
) -> tuple[bytes, dict[str, str]]:
    """A keyless signature and what cosign kept beside it before version 3: certificate and log promise.

    The log says it came `seconds` after the certificate; `changes` replace parts: `body` of the entry,
    `logged` (the certificate in it), `log_key`.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = sigstore.certificate(key.public_key(), issuer, san, {})
    signature = key.sign(payload, ec.ECDSA(hashes.SHA256()))
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    data = {"hash": {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()}}
    public = {"content": base64.b64encode(changes.get("logged", pem)).decode()}
    spec = {
        "data": data,
        "signature": {"content": base64.b64encode(signature).decode(), "publicKey": public},
    }
    body = {"apiVersion": "0.0.1", "kind": "hashedrekord", "spec": spec, **changes.get("body", {})}
    log_key: ec.EllipticCurvePrivateKey = changes.get("log_key", sigstore.log_key)
    spki = log_key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    entry = {
        "body": base64.b64encode(json.dumps(body).encode()).decode(),
        "integratedTime": int(sigstore.now.timestamp()) + seconds,
        "logID": hashlib.sha256(spki).hexdigest(),
        "logIndex": 7,
    }
    canonical = json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()
    promise = base64.b64encode(log_key.sign(canonical, ec.ECDSA(hashes.SHA256()))).decode()
    bundle = json.dumps({"SignedEntryTimestamp": promise, "Payload": entry})
    return signature, {"dev.sigstore.cosign/bundle": bundle, "dev.sigstore.cosign/certificate": pem.decode()}


def add_signature_tag(
    registry: FaultyRegistry,
    name: str,
    subject: str,
    layers: Sequence[tuple[bytes, bytes]],
    annotations: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """`sha256-<hex>.sig` with payloads and their signatures: how cosign keeps them beside an image."""
    described = []
    for payload, signature in layers:
        said = {"dev.cosignproject.cosign/signature": base64.b64encode(signature).decode()}
        blob = registry.add_blob(payload, SIMPLE_SIGNING)
        described.append({**blob, "annotations": {**said, **(annotations or {})}})
    diff_ids = [layer["digest"] for layer in described]
    config = {"architecture": "", "os": "", "rootfs": {"type": "layers", "diff_ids": diff_ids}, "config": {}}
    value = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": registry.add_blob(json.dumps(config).encode(), OCI_CONFIG),
        "layers": described,
    }
    return registry.add_manifest(name, value, subject.replace(":", "-") + ".sig")


def add_bundle_referrer(
    registry: FaultyRegistry, name: str, subject: Mapping[str, Any], bundle: bytes
) -> dict[str, Any]:
    """A Sigstore bundle that refers to the image `subject`, as cosign 3 keeps it."""
    value = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": BUNDLE_TYPE,
        "config": registry.add_blob(b"{}", OCI_EMPTY),
        "layers": [registry.add_blob(bundle, BUNDLE_TYPE)],
        "subject": {key: subject[key] for key in ("mediaType", "digest", "size")},
    }
    return registry.add_manifest(name, value)


def image_statement(digest: str, predicate_type: str = COSIGN_SIGN) -> bytes:
    """What `cosign sign` signs since version 3: a subject without a name."""
    return statement([(None, digest.removeprefix("sha256:"))], predicate_type, {})


# --- models ---


def model_statement(files: Mapping[str, bytes], **changes: Any) -> bytes:
    """An OpenSSF Model Signing statement over `files`; `changes` replace members of the predicate."""
    digests = {name: hashlib.sha256(data).digest() for name, data in sorted(files.items())}
    resources = [
        {"name": name, "algorithm": "sha256", "digest": digest.hex()} for name, digest in digests.items()
    ]
    serialization = {
        "method": "files",
        "hash_type": "sha256",
        "allow_symlinks": False,
        "ignore_paths": ["model.sig"],
    }
    root = hashlib.sha256(b"".join(digests.values())).hexdigest()
    predicate = {"serialization": serialization, "resources": resources, **changes}
    return statement([("model", root)], OMS, predicate)
