"""What the libraries and programs we call find in their environment: certificates, proxies, no telemetry.

`requests`, `sigstore`, uv and hf_xet each look elsewhere for certificate authorities. A company's own, in
the system's store or named in one variable, has to work for all of them.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bundler.errors import MachineError

CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
"""Files of certificate authorities, in the order in which they are asked."""
_SYSTEM_STORES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_QUIET = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "HF_XET_TELEMETRY_ENABLED": "0",
}


def certificate_store(environ: Mapping[str, str]) -> str | None:
    """The file of certificate authorities to believe; None for the one that `requests` brings.

    A variable leads, else the system's store. Raises MachineError (`no-ca-file`) naming the variable that
    points to nothing.
    """
    for name in CA_VARIABLES:
        if value := environ.get(name):
            if not Path(value).exists():
                raise _no_ca_file(name, value)
            return value
    if environ.get("SSL_CERT_DIR"):
        return _directory(environ["SSL_CERT_DIR"])
    places = (ssl.get_default_verify_paths().openssl_cafile, *_SYSTEM_STORES)
    return next((place for place in places if _has_content(place)), None)


def _directory(value: str) -> str:
    """The first folder of a list that is there: `requests` takes one, hashed as by `c_rehash`."""
    found = next((place for place in value.split(os.pathsep) if Path(place).is_dir()), None)
    if found is None:
        raise _no_ca_file("SSL_CERT_DIR", value)
    return found


def _has_content(place: str) -> bool:
    try:
        return Path(place).is_file() and Path(place).stat().st_size > 0
    except OSError:
        return False


def _no_ca_file(name: str, value: str) -> MachineError:
    return MachineError(
        "no-ca-file",
        "the certificate authorities that a variable names are not there",
        where=name,
        expected="a PEM file of certificates",
        found=value[:300],
        hint=f"correct {name}, or `unset {name}` to use the system's own",
    )


def connected_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What to add to `environ`, so that every library sees the same. Raises as `certificate_store`."""
    added = dict(_QUIET)
    store = certificate_store(environ)
    if store is not None and Path(store).is_file():
        added |= {name: store for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE") if not environ.get(name)}
    for name in ("NO_PROXY", "no_proxy"):
        known = [one.strip() for one in environ.get(name, "").split(",") if one.strip()]
        if "*" not in known:
            added[name] = ",".join([*known, *(host for host in _LOOPBACK if host not in known)])
    return added


@contextmanager
def connected() -> Iterator[None]:
    """Within this block the process has the environment that its libraries should find."""
    before = dict(os.environ)
    added = connected_environment(before)
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            if name in before:
                os.environ[name] = before[name]
            else:
                os.environ.pop(name, None)
