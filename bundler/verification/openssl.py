"""Signatures checked by the host's `openssl` program, for a verifier that has nothing installed.

ECDSA works with OpenSSL 1.1.1 and 3 (and LibreSSL); Ed25519 needs the `-rawin` of OpenSSL 3. Anything else is
*not checked*, and the caller says so. Sources: openssl-dgst(1), openssl-pkeyutl(1). Python 3.9.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess

from bundler.errors import MachineError
from bundler.storage.private_folder import private_folder
from bundler.trust.policy_document import PolicyKey
from bundler.trust.spki import ECDSA_P256, ECDSA_P384, ED25519

_DGST = {ECDSA_P256: "-sha256", ECDSA_P384: "-sha384"}
_TIMEOUT_SECONDS = 60


class OpensslVerifier:
    """A `VerifySignature` that asks `program`; without a program every answer is None (not checked)."""

    def __init__(self, program: str | None = None) -> None:
        self.program = program or shutil.which("openssl")
        self.version = _run([self.program, "version"])[1].strip() if self.program else ""

    def __call__(self, key: PolicyKey, message: bytes, signature: bytes) -> bool | None:
        """Whether the signature is good; None when this `openssl` cannot say."""
        if self.program is None or not self.can_check(key.algorithm):
            return None
        with private_folder("sealift-verify-") as folder:
            files = {"key.pem": to_pem(key.spki), "message": message, "signature": signature}
            for name, data in files.items():
                (folder / name).write_bytes(data)
            return _run(self._arguments(self.program, key.algorithm), cwd=str(folder))[0] == 0

    def can_check(self, algorithm: str) -> bool:
        """Whether this program knows the algorithm."""
        modern = re.match(r"OpenSSL (\d+)\.", self.version)
        return algorithm in _DGST or (algorithm == ED25519 and modern is not None and int(modern[1]) >= 3)

    def _arguments(self, program: str, algorithm: str) -> list[str]:
        if algorithm in _DGST:
            digest = _DGST[algorithm]
            return [program, "dgst", digest, "-verify", "key.pem", "-signature", "signature", "message"]
        verify = [program, "pkeyutl", "-verify", "-pubin", "-inkey", "key.pem", "-rawin"]
        return [*verify, "-in", "message", "-sigfile", "signature"]


def to_pem(spki: bytes) -> bytes:
    """The PEM of a SubjectPublicKeyInfo."""
    body = base64.encodebytes(spki).replace(b"\n", b"")
    lines = [body[at : at + 64] for at in range(0, len(body), 64)]
    return b"\n".join([b"-----BEGIN PUBLIC KEY-----", *lines, b"-----END PUBLIC KEY-----", b""])


def from_pem(data: bytes) -> bytes:
    """The DER in a PEM public key; empty when there is none."""
    match = re.search(rb"-----BEGIN PUBLIC KEY-----([A-Za-z0-9+/=\s]+)-----END PUBLIC KEY-----", data)
    return base64.b64decode(match[1]) if match else b""


def _run(command: list[str], cwd: str | None = None) -> tuple[int, str]:
    # No configuration of the host may change what openssl accepts: OPENSSL_CONF and the like are dropped.
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "OPENSSL_CONF": os.devnull}
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MachineError(
            "openssl-failed", "the openssl program cannot be run", where=command[0], found=str(error)[:200]
        ) from error
    return done.returncode, done.stdout.decode("utf-8", "replace")
