"""A whole Sigstore on loopback with real cryptography: Fulcio, CT log, Rekor v1 or v2, TSA, OIDC provider.

The unmodified `sigstore` library and cosign sign against it, and verify the result from its trusted root.
Sources: Fulcio and Rekor's OpenAPI documents, https://github.com/sigstore/rekor-tiles/blob/main/CLIENTS.md,
RFC 6962 section 2.1 (Merkle tree), RFC 3161, https://github.com/C2SP/C2SP/blob/main/signed-note.md.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
import secrets
import threading
import time
import urllib.parse
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.servers.sigstore import Sigstore

_DER = serialization.Encoding.DER
_SPKI = serialization.PublicFormat.SubjectPublicKeyInfo
_TREE_ID = "1193050959916656506"
_MEDIA = "application/vnd.dev.sigstore"
_TOKEN_KEY = ec.generate_private_key(ec.SECP256R1())
Answer = tuple[int, Any]


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _spki(key: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey) -> bytes:
    return key.public_bytes(_DER, _SPKI)


def _ecdsa(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    return key.sign(data, ec.ECDSA(hashes.SHA256()))


def tree_root(leaves: list[bytes]) -> bytes:
    """The Merkle tree hash over leaf hashes (RFC 6962 section 2.1)."""
    if len(leaves) == 1:
        return leaves[0]
    middle = 1 << ((len(leaves) - 1).bit_length() - 1)
    return _sha256(b"\x01" + tree_root(leaves[:middle]) + tree_root(leaves[middle:]))


def inclusion_path(index: int, leaves: list[bytes]) -> list[bytes]:
    """The audit path of a leaf (RFC 6962 section 2.1.1)."""
    if len(leaves) == 1:
        return []
    middle = 1 << ((len(leaves) - 1).bit_length() - 1)
    if index < middle:
        return [*inclusion_path(index, leaves[:middle]), tree_root(leaves[middle:])]
    return [*inclusion_path(index - middle, leaves[middle:]), tree_root(leaves[:middle])]


class Log:
    """A Rekor transparency log; `version` is that of its interface."""

    def __init__(self, version: int, origin: str) -> None:
        self.version, self.origin = version, origin
        self._ec, self._ed = ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()
        # Index 0 is never handed out: protojson leaves zeros out, and readers then miss the member.
        self._leaves = [_sha256(b"\0genesis")]
        self._guard = threading.Lock()

    @property
    def public(self) -> ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey:
        """P-256 for version 1, Ed25519 for version 2, as the public instances have it."""
        return self._ec.public_key() if self.version == 1 else self._ed.public_key()

    @property
    def key_id(self) -> bytes:
        """How entries and checkpoints name the log's key."""
        if self.version == 1:
            return _sha256(_spki(self.public))
        return _sha256(self.origin.encode() + b"\n\x01" + self._ed.public_key().public_bytes_raw())

    def sign(self, data: bytes) -> bytes:
        """The log's signature."""
        return _ecdsa(self._ec, data) if self.version == 1 else self._ed.sign(data)

    def append(self, body: bytes) -> tuple[int, dict[str, Any]]:
        """The index of a new leaf and its inclusion proof, digests as bytes."""
        with self._guard:
            self._leaves.append(_sha256(b"\0" + body))
            index, leaves = len(self._leaves) - 1, list(self._leaves)
        root = tree_root(leaves)
        proof = {"treeSize": len(leaves), "rootHash": root, "hashes": inclusion_path(index, leaves)}
        return index, {**proof, "checkpoint": self._checkpoint(len(leaves), root)}

    def _checkpoint(self, size: int, root: bytes) -> str:
        # A version 1 log is told from a version 2 one by the tree id behind its name.
        name = f"{self.origin} - {_TREE_ID}" if self.version == 1 else self.origin
        note = f"{name}\n{size}\n{_b64(root)}\n"
        return f"{note}\n\u2014 {self.origin} {_b64(self.key_id[:4] + self.sign(note.encode()))}\n"


class LoopbackSigstore(Sigstore):
    """Serves one instance inside its `with` block; `requests` are the paths that were asked for."""

    def __init__(self, *, rekor: int = 1, timestamps: bool = True) -> None:
        super().__init__()
        self.log, self.timestamps = Log(rekor, "127.0.0.1"), timestamps
        self.tsa_key = ec.generate_private_key(ec.SECP256R1())
        self.tsa = self._timestamp_certificate()
        self.requests: list[str] = []
        self.person = "lena@example.org"
        self.job, self.job_secret = "https://example.org/repo/ci.yml@refs/heads/main", secrets.token_hex(8)
        self._codes: dict[str, str] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    # ---- what clients are told

    def trusted_root(self) -> bytes:
        """The instance's `trusted_root.json`."""
        value = json.loads(super().trusted_root())
        valid = {"start": self.start.strftime("%Y-%m-%dT%H:%M:%SZ")}
        details = "PKIX_ECDSA_P256_SHA_256" if self.log.version == 1 else "PKIX_ED25519"
        public = {"rawBytes": _b64(_spki(self.log.public)), "keyDetails": details, "validFor": valid}
        log = {"baseUrl": self.url, "hashAlgorithm": "SHA2_256", "publicKey": public}
        value["tlogs"] = [{**log, "logId": {"keyId": _b64(self.log.key_id)}}]
        chain = [{"rawBytes": _b64(item.public_bytes(_DER))} for item in (self.tsa, self.root)]
        authority = {**value["certificateAuthorities"][0], "certChain": {"certificates": chain}}
        value["timestampAuthorities"] = [authority]
        return _canonical(value)

    def signing_config(self) -> dict[str, Any]:
        """Where the services are."""

        def service(url: str, version: int = 1) -> list[dict[str, Any]]:
            valid = {"start": self.start.strftime("%Y-%m-%dT%H:%M:%SZ")}
            return [{"url": url, "majorApiVersion": version, "operator": "test", "validFor": valid}]

        return {
            "mediaType": f"{_MEDIA}.signingconfig.v0.2+json",
            "caUrls": service(self.url),
            "oidcUrls": service(self.url),
            "rekorTlogUrls": service(self.url, self.log.version),
            "tsaUrls": service(f"{self.url}/api/v1/timestamp") if self.timestamps else [],
            "rekorTlogConfig": {"selector": "ANY"},
            "tsaConfig": {"selector": "ANY"},
        }

    def trust_config(self) -> bytes:
        """The client trust config: trusted root and addresses in one file."""
        return _canonical(
            {
                "mediaType": f"{_MEDIA}.clienttrustconfig.v0.1+json",
                "trustedRoot": json.loads(self.trusted_root()),
                "signingConfig": self.signing_config(),
            }
        )

    def token(self, subject: str, *, issuer: str = "", lives: int = 600, audience: str = "sigstore") -> str:
        """An OIDC token for `subject`; an e-mail address is also its claim `email`."""
        now = int(time.time())
        email = {"email": subject, "email_verified": True} if "@" in subject else {}
        times = {"iat": now - 5, "nbf": now - 5, "exp": now + lives}
        claims = {"iss": issuer or self.url, "sub": subject, "aud": audience, **email, **times}
        return jwt.encode(claims, _TOKEN_KEY, algorithm="ES256")

    # ---- the services

    def answer(self, method: str, path: str, body: bytes, authorization: str) -> Answer:
        """Status and body (JSON or bytes) for a request."""
        target = urllib.parse.urlsplit(path)
        self.requests.append(target.path)
        routes: dict[tuple[str, str], Callable[[], Answer]] = {
            ("GET", "/.well-known/openid-configuration"): self._discovery,
            ("GET", "/auth"): lambda: self._authorize(dict(urllib.parse.parse_qsl(target.query))),
            ("GET", "/job-token"): lambda: self._job_token(
                dict(urllib.parse.parse_qsl(target.query)), authorization
            ),
            ("POST", "/token"): lambda: self._exchange(dict(urllib.parse.parse_qsl(body.decode()))),
            ("POST", "/api/v2/signingCert"): lambda: self._fulcio(json.loads(body), authorization),
            ("POST", "/api/v1/log/entries"): lambda: (201, self._rekor_v1(json.loads(body))),
            ("POST", "/api/v2/log/entries"): lambda: (201, self._rekor_v2(json.loads(body))),
            ("POST", "/api/v1/timestamp"): lambda: (201, self._timestamp(body)),
        }
        route = routes.get((method, target.path))
        return route() if route else (404, {})

    def _discovery(self) -> Answer:
        endpoints = {"authorization_endpoint": f"{self.url}/auth", "token_endpoint": f"{self.url}/token"}
        return 200, {"issuer": self.url, **endpoints}

    def _authorize(self, query: dict[str, str]) -> Answer:
        """`person` is logged in already: straight back to the client, with a code bound to its challenge."""
        code = secrets.token_hex(8)
        self._codes[code] = query["code_challenge"]
        back = urllib.parse.urlencode({"code": code, "state": query["state"]})
        return 302, f"{query['redirect_uri']}?{back}"

    def _exchange(self, form: dict[str, str]) -> Answer:
        proof = base64.urlsafe_b64encode(_sha256(form["code_verifier"].encode())).rstrip(b"=").decode()
        if self._codes.pop(form["code"], "") != proof:
            return 400, {"error": "invalid_grant"}
        return 200, {"access_token": self.token(self.person)}

    def _job_token(self, query: dict[str, str], authorization: str) -> Answer:
        """What GitHub answers a job that asks who it is, at ACTIONS_ID_TOKEN_REQUEST_URL."""
        if authorization != f"bearer {self.job_secret}":
            return 401, {"message": "bad credentials"}
        return 200, {"count": 1, "value": self.token(self.job, audience=query.get("audience", ""))}

    def _fulcio(self, request: dict[str, Any], authorization: str) -> Answer:
        given = (request.get("credentials") or {}).get("oidcIdentityToken")
        token = given or authorization.removeprefix("Bearer ")
        try:
            claims = jwt.decode(token, _TOKEN_KEY.public_key(), algorithms=["ES256"], audience="sigstore")
        except jwt.InvalidTokenError as error:
            return 401, {"code": 16, "message": f"invalid token: {error}"}
        if "certificateSigningRequest" in request:
            csr = base64.b64decode(request["certificateSigningRequest"])
            public: Any = x509.load_pem_x509_csr(csr).public_key()
        else:
            content = request["publicKeyRequest"]["publicKey"]["content"]
            public = serialization.load_pem_public_key(content.encode())
        self.now = dt.datetime.now(dt.UTC).replace(microsecond=0)
        leaf = self.certificate(public, claims["iss"], claims.get("email") or claims["sub"], {})
        chain = [
            item.public_bytes(serialization.Encoding.PEM).decode()
            for item in (leaf, self.authority, self.root)
        ]
        return 200, {"signedCertificateEmbeddedSct": {"chain": {"certificates": chain}}}

    def _rekor_v1(self, entry: dict[str, Any]) -> dict[str, Any]:
        body = _canonical(_dsse_entry(entry) if entry["kind"] == "dsse" else entry)
        index, proof = self.log.append(body)
        promise = {"body": _b64(body), "integratedTime": int(time.time()), "logIndex": index}
        promise["logID"] = self.log.key_id.hex()
        digests = {
            **proof,
            "rootHash": proof["rootHash"].hex(),
            "hashes": [item.hex() for item in proof["hashes"]],
        }
        verification = {
            "signedEntryTimestamp": _b64(self.log.sign(_canonical(promise))),
            "inclusionProof": {"logIndex": index, **digests},
        }
        return {secrets.token_hex(40): {**promise, "verification": verification}}

    def _rekor_v2(self, entry: dict[str, Any]) -> dict[str, Any]:
        request = entry["hashedRekordRequestV002"]
        data = {"algorithm": "SHA2_256", "digest": request["digest"]}
        spec = {"hashedRekordV002": {"data": data, "signature": request["signature"]}}
        body = _canonical({"apiVersion": "0.0.2", "kind": "hashedrekord", "spec": spec})
        index, proof = self.log.append(body)
        return {
            "logIndex": str(index),
            "logId": {"keyId": _b64(self.log.key_id)},
            "kindVersion": {"kind": "hashedrekord", "version": "0.0.2"},
            "integratedTime": "0",
            "inclusionProof": {
                "logIndex": str(index),
                "treeSize": str(proof["treeSize"]),
                "rootHash": _b64(proof["rootHash"]),
                "hashes": [_b64(item) for item in proof["hashes"]],
                "checkpoint": {"envelope": proof["checkpoint"]},
            },
            "canonicalizedBody": _b64(body),
        }

    # ---- RFC 3161

    def _timestamp_certificate(self) -> x509.Certificate:
        purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING])
        usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tsa")])
        issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.root_key.public_key())
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self.root.subject)
            .public_key(self.tsa_key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.start)
            .not_valid_after(self.start + dt.timedelta(days=3650))
            .add_extension(x509.BasicConstraints(False, None), True)
            .add_extension(usage, True)
            .add_extension(purposes, True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.tsa_key.public_key()), False)
            .add_extension(issuer_id, False)
        )
        return builder.sign(self.root_key, hashes.SHA256())

    def _timestamp(self, request: bytes) -> bytes:
        from asn1crypto import tsp

        query = tsp.TimeStampReq.load(request)
        now = dt.datetime.now(dt.UTC).replace(microsecond=0)
        nonce = query["nonce"].native
        info = tsp.TSTInfo(
            {
                "version": "v1",
                "policy": "1.3.6.1.4.1.57264.2",
                "message_imprint": query["message_imprint"],
                "serial_number": secrets.randbits(63),
                "gen_time": now,
                **({} if nonce is None else {"nonce": nonce}),
            }
        ).dump()
        signed = self._signed_data(info, now, with_certificate=query["cert_req"].native)
        token = {"content_type": "signed_data", "content": signed}
        response: bytes = tsp.TimeStampResp(
            {"status": {"status": "granted"}, "time_stamp_token": token}
        ).dump()
        return response

    def _signed_data(self, info: bytes, now: dt.datetime, *, with_certificate: bool) -> Any:
        from asn1crypto import cms, tsp
        from asn1crypto import x509 as asn1_x509

        certificate = asn1_x509.Certificate.load(self.tsa.public_bytes(_DER))
        own = {"hash_algorithm": {"algorithm": "sha256"}, "cert_hash": _sha256(certificate.dump())}
        attributes = cms.CMSAttributes(
            [
                cms.CMSAttribute({"type": "content_type", "values": ["tst_info"]}),
                cms.CMSAttribute({"type": "signing_time", "values": [cms.Time({"utc_time": now})]}),
                cms.CMSAttribute({"type": "message_digest", "values": [_sha256(info)]}),
                cms.CMSAttribute(
                    {
                        "type": "signing_certificate_v2",
                        "values": [tsp.SigningCertificateV2({"certs": [tsp.ESSCertIDv2(own)]})],
                    }
                ),
            ]
        )
        issuer = {"issuer": certificate.issuer, "serial_number": certificate.serial_number}
        signer = {
            "version": "v1",
            "sid": cms.SignerIdentifier({"issuer_and_serial_number": issuer}),
            "digest_algorithm": {"algorithm": "sha256"},
            "signed_attrs": attributes,
            "signature_algorithm": {"algorithm": "sha256_ecdsa"},
            "signature": _ecdsa(self.tsa_key, attributes.dump(force=True)),
        }
        return cms.SignedData(
            {
                "version": "v3",
                "digest_algorithms": [{"algorithm": "sha256"}],
                "encap_content_info": {"content_type": "tst_info", "content": cms.ParsableOctetString(info)},
                **({"certificates": [certificate]} if with_certificate else {}),
                "signer_infos": [signer],
            }
        )


def _dsse_entry(entry: dict[str, Any]) -> dict[str, Any]:
    """The canonical body of a proposed `dsse` entry: digests in the place of the envelope."""
    proposed = entry["spec"]["proposedContent"]
    envelope = json.loads(proposed["envelope"])

    def digest(data: bytes) -> dict[str, str]:
        return {"algorithm": "sha256", "value": hashlib.sha256(data).hexdigest()}

    signatures = [
        {"signature": signature["sig"], "verifier": verifier}
        for signature, verifier in zip(envelope["signatures"], proposed["verifiers"], strict=True)
    ]
    spec = {
        "envelopeHash": digest(proposed["envelope"].encode()),
        "payloadHash": digest(base64.b64decode(envelope["payload"])),
        "signatures": signatures,
    }
    return {"apiVersion": "0.0.1", "kind": "dsse", "spec": spec}


def _handler(instance: LoopbackSigstore) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            """Tests are silent."""

        def do_GET(self) -> None:
            self._send(*instance.answer("GET", self.path, b"", self.headers.get("Authorization", "")))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self._send(*instance.answer("POST", self.path, body, self.headers.get("Authorization", "")))

        def _send(self, status: int, value: Any) -> None:
            self.send_response(status)
            if status == 302:
                self.send_header("Location", value)
                value = b""
            if status == 201 and isinstance(value, dict) and len(value) == 1:
                # Rekor v1 names the new entry; Go clients look it up by this header.
                self.send_header("ETag", next(iter(value)))
            data = value if isinstance(value, bytes) else json.dumps(value).encode()
            binary = isinstance(value, bytes) and value
            self.send_header("Content-Type", "application/timestamp-reply" if binary else "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    return Handler
