"""A Sigstore instance with real cryptography and no sockets: certificate authority, CT log, Rekor v1.

It gives out what a signer would hold after signing keyless: a Sigstore bundle v0.3. Every byte is signed
with real keys, so the unmodified `sigstore` library verifies the result from `trusted_root()` alone.
Sources: RFC 6962 (SCT, Merkle tree), Fulcio's certificate specification, Rekor's inclusion proofs.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
import struct
from collections.abc import Mapping
from typing import Any

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from bundler.trust.dsse import BUNDLE_MEDIA_TYPE, PAYLOAD_TYPE, pre_authentication_encoding

_DER = serialization.Encoding.DER
_SCT_LIST = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
_ISSUER_V1 = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
_ISSUER_V2 = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
_TREE_ID = "1193050959916656506"
_HOST = "rekor.test"


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(_DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _sign(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    return key.sign(data, ec.ECDSA(hashes.SHA256()))


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "sigstore.test"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


class Sigstore:
    """One instance; two of them do not trust each other. `now` is when it signs."""

    def __init__(self, now: dt.datetime | None = None) -> None:
        self.now = (now or dt.datetime.now(dt.UTC)).replace(microsecond=0)
        self.start = self.now - dt.timedelta(minutes=5)
        self.root_key, self.ca_key, self.ct_key, self.log_key = (_new_key() for _ in range(4))
        self.root = self._authority("root", self.root_key, "root", self.root_key, path_length=None)
        self.authority = self._authority("intermediate", self.ca_key, "root", self.root_key, path_length=0)

    def _authority(
        self,
        name: str,
        key: ec.EllipticCurvePrivateKey,
        issuer: str,
        issuer_key: ec.EllipticCurvePrivateKey,
        path_length: int | None,
    ) -> x509.Certificate:
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        subject_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name(issuer))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.start)
            .not_valid_after(self.start + dt.timedelta(days=3650))
            .add_extension(x509.BasicConstraints(True, path_length), True)
            .add_extension(usage, True)
            .add_extension(subject_id, False)
            .add_extension(issuer_id, False)
        )
        if path_length is not None:
            purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])
            builder = builder.add_extension(purposes, False)
        return builder.sign(issuer_key, hashes.SHA256())

    def certificate(
        self, key: ec.EllipticCurvePublicKey, issuer: str, san: str, claims: Mapping[str, str]
    ) -> x509.Certificate:
        """A leaf for ten minutes with a signed certificate timestamp inside."""
        name = x509.RFC822Name(san) if "@" in san and "/" not in san else x509.UniformResourceIdentifier(san)
        encoded = issuer.encode()
        usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.authority.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now)
            .not_valid_after(self.now + dt.timedelta(minutes=10))
            .add_extension(usage, True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.ca_key.public_key()), False
            )
            .add_extension(x509.SubjectAlternativeName([name]), True)
            .add_extension(x509.UnrecognizedExtension(_ISSUER_V1, encoded), False)
            .add_extension(
                x509.UnrecognizedExtension(_ISSUER_V2, b"\x0c" + bytes([len(encoded)]) + encoded), False
            )
        )
        for oid, text in claims.items():
            value = asn1.encode_der(text)
            builder = builder.add_extension(
                x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), False
            )
        unsealed = builder.sign(self.ca_key, hashes.SHA256()).tbs_certificate_bytes
        sealed = builder.add_extension(
            x509.UnrecognizedExtension(_SCT_LIST, self._timestamp_list(unsealed)), False
        )
        return sealed.sign(self.ca_key, hashes.SHA256())

    def _timestamp_list(self, certificate: bytes) -> bytes:
        """RFC 6962 section 3.2 and 3.3: one signed certificate timestamp in a list in an octet string."""
        stamp = int(self.now.timestamp()) * 1000
        head = struct.pack(">BBQH", 0, 0, stamp, 1) + _sha256(_spki(self.ca_key))
        signed = head + struct.pack(">I", len(certificate))[1:] + certificate + b"\0\0"
        signature = _sign(self.ct_key, signed)
        entry = b"\0" + _sha256(_spki(self.ct_key)) + struct.pack(">Q", stamp) + b"\0\0"
        entry += b"\x04\x03" + struct.pack(">H", len(signature)) + signature
        entries = struct.pack(">H", len(entry)) + entry
        listed = struct.pack(">H", len(entries)) + entries
        length = bytes([len(listed)]) if len(listed) < 128 else b"\x81" + bytes([len(listed)])
        return b"\x04" + length + listed

    def _log_entry(self, payload: bytes, signature: bytes, certificate: x509.Certificate) -> dict[str, Any]:
        """A `dsse` entry of Rekor v1 as the second leaf of the log, with promise and inclusion proof."""
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        body = _canonical(
            {
                "apiVersion": "0.0.1",
                "kind": "dsse",
                "spec": {
                    "envelopeHash": {"algorithm": "sha256", "value": hashlib.sha256(b"envelope").hexdigest()},
                    "payloadHash": {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()},
                    "signatures": [{"signature": _b64(signature), "verifier": _b64(pem)}],
                },
            }
        )
        first, leaf = _sha256(b"\0genesis"), _sha256(b"\0" + body)
        root = _sha256(b"\x01" + first + leaf)
        log_id = _sha256(_spki(self.log_key))
        promise = {
            "body": _b64(body),
            "integratedTime": int(self.now.timestamp()),
            "logID": log_id.hex(),
            "logIndex": 1,
        }
        return {
            "logIndex": "1",
            "logId": {"keyId": _b64(log_id)},
            "kindVersion": {"kind": "dsse", "version": "0.0.1"},
            "integratedTime": str(promise["integratedTime"]),
            "inclusionPromise": {"signedEntryTimestamp": _b64(_sign(self.log_key, _canonical(promise)))},
            "inclusionProof": {
                "logIndex": "1",
                "rootHash": _b64(root),
                "treeSize": "2",
                "hashes": [_b64(first)],
                "checkpoint": {"envelope": self._checkpoint(root)},
            },
            "canonicalizedBody": _b64(body),
        }

    def _checkpoint(self, root: bytes) -> str:
        note = f"{_HOST} - {_TREE_ID}\n2\n{_b64(root)}\n"
        signature = _sha256(_spki(self.log_key))[:4] + _sign(self.log_key, note.encode())
        return f"{note}\n\u2014 {_HOST} {_b64(signature)}\n"

    def sign(
        self, payload: bytes, *, issuer: str, san: str, claims: Mapping[str, str] | None = None
    ) -> bytes:
        """The Sigstore bundle of a keyless signature over a statement's bytes.

        `claims` are further texts in the certificate by object identifier, such as the workflow that ran.
        """
        key = _new_key()
        certificate = self.certificate(key.public_key(), issuer, san, claims or {})
        signature = _sign(key, pre_authentication_encoding(payload))
        return _canonical(
            {
                "mediaType": BUNDLE_MEDIA_TYPE,
                "verificationMaterial": {
                    "certificate": {"rawBytes": _b64(certificate.public_bytes(_DER))},
                    "tlogEntries": [self._log_entry(payload, signature, certificate)],
                },
                "dsseEnvelope": {
                    "payload": _b64(payload),
                    "payloadType": PAYLOAD_TYPE,
                    "signatures": [{"sig": _b64(signature), "keyid": ""}],
                },
            }
        )

    def trusted_root(self) -> bytes:
        """The instance's `trusted_root.json`."""
        valid = {"start": self.start.strftime("%Y-%m-%dT%H:%M:%SZ")}

        def log(key: ec.EllipticCurvePrivateKey, url: str) -> dict[str, Any]:
            public = {
                "rawBytes": _b64(_spki(key)),
                "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                "validFor": valid,
            }
            return {
                "baseUrl": url,
                "hashAlgorithm": "SHA2_256",
                "publicKey": public,
                "logId": {"keyId": _b64(_sha256(_spki(key)))},
            }

        chain = [{"rawBytes": _b64(item.public_bytes(_DER))} for item in (self.authority, self.root)]
        authority = {
            "subject": {"organization": "sigstore.test", "commonName": "x"},
            "uri": "https://fulcio.test",
            "certChain": {"certificates": chain},
            "validFor": valid,
        }
        return _canonical(
            {
                "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
                "tlogs": [log(self.log_key, f"https://{_HOST}")],
                "certificateAuthorities": [authority],
                "ctlogs": [log(self.ct_key, "https://ct.test")],
                "timestampAuthorities": [],
            }
        )
