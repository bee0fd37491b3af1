"""Who we are to a registry: docker's configuration, credential helpers, and who may be told.

https://github.com/docker/docker-credential-helpers (helper protocol),
https://docs.docker.com/reference/cli/docker/login/ (config.json). Secrets live in these values only: their
`repr` hides them, and no error carries them.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from bundler.core.specs.image_reference import DOCKER_HUB, DOCKER_HUB_API
from bundler.errors import MachineError, MalformedError, NetworkError
from bundler.storage.child_environment import helper_environment

CONFIG_LIMIT = 4 << 20
HELPER_SECONDS = 60
"""A helper may ask a person to unlock a key ring."""
TOKEN_USER = "<token>"  # noqa: S105 - the name the helper protocol gives an identity token
_DOCKER_HUB_KEY = "https://index.docker.io/v1/"
_HELPER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A user with a password, or an identity token. Printing it shows no secret."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """The value of an `Authorization: Basic` header."""
        pair = f"{self.username}:{self.password}".encode()
        return "Basic " + base64.b64encode(pair).decode("ascii")


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerConfig:
    """What docker's `config.json` says about credentials; empty when there is none."""

    auths: Mapping[str, Any] = field(default_factory=dict, repr=False)
    helpers: Mapping[str, str] = field(default_factory=dict)
    default_helper: str = ""

    @classmethod
    def read(cls, environment: Mapping[str, str] | None = None) -> DockerConfig:
        """The configuration of this user: `$DOCKER_CONFIG/config.json`, or `~/.docker/config.json`.

        Raises MalformedError (`bad-docker-config`).
        """
        environment = os.environ if environment is None else environment
        home = environment.get("HOME") or str(Path.home())
        path = Path(environment.get("DOCKER_CONFIG") or f"{home}/.docker") / "config.json"
        try:
            data = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return cls()
        return cls.parse(data, where=str(path))

    @classmethod
    def parse(cls, data: bytes, *, where: str) -> DockerConfig:
        """The configuration in `data`. Raises MalformedError (`bad-docker-config`), showing nothing of it."""
        try:
            value = json.loads(data[: CONFIG_LIMIT + 1])
        except (ValueError, RecursionError):
            raise _bad_config(where, "JSON") from None
        if not isinstance(value, dict):
            raise _bad_config(where, "an object")
        auths, helpers = (value.get(name) or {} for name in ("auths", "credHelpers"))
        default = value.get("credsStore") or ""
        if not isinstance(auths, dict) or not isinstance(helpers, dict) or not isinstance(default, str):
            raise _bad_config(where, "auths, credHelpers: objects; credsStore: text")
        for name in [*helpers.values(), *([default] if default else [])]:
            # A helper is a program to run: a name with a slash would be a path of someone's choice.
            if not isinstance(name, str) or not _HELPER_NAME.fullmatch(name):
                raise _bad_config(where, "helper names of letters, digits, . _ -")
        return cls(auths=auths, helpers=helpers, default_helper=default)

    def credentials(self, registry: str) -> Credentials | None:
        """What to say to `registry`; None for anonymous. Helpers come first, as with docker.

        Raises MachineError (`credential-helper-missing`, `credential-helper-failed`) and MalformedError
        (`bad-docker-config`).
        """
        keys = _config_keys(registry)
        helper = next((self.helpers[key] for key in keys if key in self.helpers), self.default_helper)
        if helper:
            found = ask_helper(helper, keys[0])
            if found is not None:
                return found
        by_host = {_host_of(key): entry for key, entry in self.auths.items()}
        entry = next((by_host[host] for host in map(_host_of, keys) if host in by_host), None)
        return _read_entry(entry, registry) if entry else None


def _config_keys(registry: str) -> tuple[str, ...]:
    """The names under which docker files a registry; Docker Hub has its historical one."""
    if registry in (DOCKER_HUB, DOCKER_HUB_API):
        return (_DOCKER_HUB_KEY, "index.docker.io", DOCKER_HUB, DOCKER_HUB_API)
    return (registry, f"https://{registry}")


def _host_of(key: str) -> str:
    return key.partition("://")[2].partition("/")[0] if "://" in key else key.partition("/")[0]


def _read_entry(entry: object, registry: str) -> Credentials | None:
    where = f"auths of {registry}"
    if not isinstance(entry, dict):
        raise _bad_config(where, "an object")
    identity_token = entry.get("identitytoken") or ""
    username, password = entry.get("username") or "", entry.get("password") or ""
    if entry.get("auth"):
        try:
            pair = base64.b64decode(str(entry["auth"]), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise _bad_config(where, "auth: base64 of user:password") from None
        username, _, password = pair.partition(":")
    if not all(isinstance(part, str) for part in (username, password, identity_token)):
        raise _bad_config(where, "text")
    if not (username or identity_token):
        return None  # docker leaves an empty entry behind when a helper holds the secret
    return Credentials(username=username, password=password.strip("\0"), identity_token=identity_token)


def ask_helper(name: str, server: str) -> Credentials | None:
    """What the program `docker-credential-<name>` holds for `server`; None when it has nothing.

    Raises MachineError (`credential-helper-missing`, `credential-helper-failed`). What the program printed is
    never repeated: it may hold the secret.
    """
    program = shutil.which(f"docker-credential-{name}")
    if program is None:
        raise MachineError(
            "credential-helper-missing",
            "docker's configuration names a credential helper that is not installed",
            where=f"credentials for {server}",
            expected=f"docker-credential-{name} on PATH",
            found="no such program",
            hint=f"install docker-credential-{name}, or set DOCKER_CONFIG to a folder without it",
        )
    try:
        done = subprocess.run(
            [program, "get"],
            input=server.encode(),
            capture_output=True,
            timeout=HELPER_SECONDS,
            check=False,
            env=helper_environment(os.environ, name),
        )
    except subprocess.TimeoutExpired:
        raise _helper_failed(name, server, f"no answer in {HELPER_SECONDS} s") from None
    if done.returncode != 0 and b"credentials not found" in done.stdout + done.stderr:
        return None
    if done.returncode != 0:
        raise _helper_failed(name, server, f"exit code {done.returncode}")
    return _read_helper_answer(done.stdout, name, server)


def _read_helper_answer(data: bytes, name: str, server: str) -> Credentials:
    try:
        value = json.loads(data)
        username, secret = value["Username"], value["Secret"]
    except (ValueError, KeyError, TypeError):
        raise _helper_failed(name, server, "no JSON with Username and Secret") from None
    if not isinstance(username, str) or not isinstance(secret, str):
        raise _helper_failed(name, server, "no JSON with Username and Secret")
    if username == TOKEN_USER:
        return Credentials(identity_token=secret)
    return Credentials(username=username, password=secret)


def check_realm(realm: str, *, registry_url: str) -> None:
    """Refuse a token service that would read the password in clear.

    https always passes. http passes only for a registry that is itself asked without TLS, and then only
    on the registry's own host or on loopback. Raises NetworkError (`insecure-token-realm`, and
    `bad-token-realm` for an address that cannot be read or holds a user name).
    """
    asked, registry = _realm_parts(realm, registry_url), urlsplit(registry_url)
    if asked.scheme == "https" and asked.hostname:
        return
    own = asked.hostname == registry.hostname or is_loopback(asked.hostname or "")
    if asked.scheme == "http" and registry.scheme == "http" and own:
        return
    raise NetworkError(
        "insecure-token-realm",
        "the registry sends us to a token service without TLS",
        where=registry_url,
        expected="a realm that begins with https://",
        found=realm[:200],
        hint="nothing was sent there; ask whoever runs the registry, or check for a proxy in between",
    )


def _realm_parts(realm: str, registry_url: str) -> SplitResult:
    try:
        parts = urlsplit(realm)
        _ = parts.port  # raises for a port that is no number
        readable = "@" not in parts.netloc and realm.isascii() and realm.isprintable() and " " not in realm
    except ValueError:
        readable = False
    if readable:
        return parts
    raise NetworkError(
        "bad-token-realm",
        "the registry names a token service whose address is not valid",
        where=registry_url,
        expected="a realm such as https://auth.example/token",
        found=repr(realm.rpartition("@")[2])[:200],
        hint="nothing was sent there; ask whoever runs the registry, or check for a proxy in between",
    )


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine: `localhost` or a loopback address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _bad_config(where: str, expected: str) -> MalformedError:
    return MalformedError(
        "bad-docker-config",
        "docker's configuration cannot be read",
        where=where,
        expected=expected,
        found="something else (not shown: it may hold secrets)",
        hint="`docker login REGISTRY` writes it anew, or set DOCKER_CONFIG to another folder",
    )


def _helper_failed(name: str, server: str, found: str) -> MachineError:
    return MachineError(
        "credential-helper-failed",
        "a credential helper gave no usable answer",
        where=f"docker-credential-{name} get, for {server}",
        expected="JSON with Username and Secret",
        found=found,
        hint=f"run `echo {server} | docker-credential-{name} get` yourself; its output is not shown here",
    )
