"""Which Hub is meant, and which token may go there.

A token goes to the Hub that the environment or the command line names. A spec may name another Hub, but a
spec is someone's file: it does not decide where a person's token is sent.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from bundler.errors import MachineError, UsageError
from bundler.sources.http import Headers, bearer, same_origin, shown_url
from bundler.sources.transport import is_loopback as is_loopback

PUBLIC_HUB = "https://huggingface.co"
TOKEN_FILE_LIMIT = 4096
TRUE = frozenset({"1", "ON", "YES", "TRUE"})

TokenChoice = str | Literal[False] | None
"""A token; None for the one of this machine (`read_token`); False for none at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubAccess:
    """A Hub's base URL and the token for it. The token is in no repr."""

    endpoint: str
    token: str | None = field(default=None, repr=False)
    withheld: bool = False
    """There is a token, but only the spec named this Hub, so the token is not sent."""

    def headers(self) -> Headers:
        """`Authorization` for URLs of the Hub's own origin, nothing for any other."""
        return bearer(lambda: self.token, self.endpoint)

    def without_secret(self, text: str) -> str:
        """`text` with the token blanked out: a server may send back what it was sent."""
        return text.replace(self.token, "[token]") if self.token else text


def hub_access(
    *,
    named: str | None = None,
    endpoint: str | None = None,
    token: TokenChoice = None,
    environment: Mapping[str, str] | None = None,
) -> HubAccess:
    """The access to the Hub at `endpoint` (said by the caller), or at `named` (said by a spec or lock), or at
    HF_ENDPOINT, or to the public one: the first that is given.

    Raises UsageError (`bad-endpoint`, `token-in-clear`) and what `read_token` raises.
    """
    variables = os.environ if environment is None else environment
    usual = variables.get("HF_ENDPOINT") or PUBLIC_HUB
    base = _checked(endpoint or named or usual)
    # A caller that only passes on what the file says has not chosen anything.
    chosen = endpoint is not None and not (named and same_origin(endpoint, named))
    own = chosen or same_origin(base, _checked(usual))
    secret = read_token(variables) if token is None else token or None
    if secret is None or not own:
        return HubAccess(endpoint=base, withheld=secret is not None)
    _refuse_clear_text(base)
    return HubAccess(endpoint=base, token=_well_formed(secret, where="token"))


def read_token(environment: Mapping[str, str] | None = None) -> str | None:
    """The token of this machine by the library's own rules; None when there is none.

    HF_TOKEN, then HUGGING_FACE_HUB_TOKEN, then the token file (HF_TOKEN_PATH, or `token` below HF_HOME);
    nothing when HF_HUB_DISABLE_IMPLICIT_TOKEN is set. See
    https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables. Raises MachineError
    (`token-exposed`) for a file that others may read, UsageError (`bad-token`) for what cannot be a token.
    """
    variables = os.environ if environment is None else environment
    if variables.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").upper() in TRUE:
        return None
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        secret = variables.get(name, "").strip()
        if secret:
            return _well_formed(secret, where=name)
    return _token_from(_token_path(variables))


def _token_path(variables: Mapping[str, str]) -> Path:
    home = Path(variables.get("HOME") or Path.home())
    cache = Path(variables.get("XDG_CACHE_HOME") or home / ".cache")
    folder = Path(variables.get("HF_HOME") or cache / "huggingface")
    path = str(variables.get("HF_TOKEN_PATH") or folder / "token")
    return Path(str(home) + path[1:] if path.startswith("~/") else path)


def _token_from(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(TOKEN_FILE_LIMIT)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise MachineError(
            "token-exposed",
            "other users of this machine may read your Hub token",
            where=str(path),
            expected="mode 0600",
            found=f"mode {stat.S_IMODE(mode):04o}",
            hint=f"`chmod 600 {path}`, or set HF_TOKEN",
        )
    secret = data.decode("ascii", "replace").strip()
    return _well_formed(secret, where=str(path)) if secret else None


def _well_formed(secret: str, *, where: str) -> str:
    """`secret` if it can appear in a header; the error never shows it."""
    if secret.isascii() and secret.isprintable() and " " not in secret and len(secret) < TOKEN_FILE_LIMIT:
        return secret
    raise UsageError(
        "bad-token",
        "what is given as token cannot be one",
        where=where,
        expected="one word of printable ASCII characters",
        hint="make a token with read access on the Hub's settings page and set HF_TOKEN to it",
    )


def _checked(url: str) -> str:
    """`url` without a trailing slash, if a Hub can be there and nothing secret is in it."""
    fault = _endpoint_fault(url)
    if fault:
        raise UsageError(
            "bad-endpoint",
            f"the address of the Hub cannot be used: {fault}",
            where=shown_url(url),
            expected=f"an origin such as {PUBLIC_HUB}",
            hint="correct `endpoint` in the spec, or HF_ENDPOINT",
        )
    return url.rstrip("/")


def _endpoint_fault(url: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return "it is no URL"
    if not usable:
        return "it is not http or https with a host"
    if parts.username is not None or parts.password is not None:
        return "it holds a user name or password, which would end up in the lock"
    return "it has a query or fragment" if parts.query or parts.fragment else ""


def _refuse_clear_text(endpoint: str) -> None:
    parts = urlsplit(endpoint)
    if parts.scheme == "https" or is_loopback(parts.hostname or ""):
        return
    raise UsageError(
        "token-in-clear",
        "the token would be sent unencrypted",
        where=endpoint,
        expected="https, or a loopback address",
        found="http",
        hint="use https, or unset HF_TOKEN if this Hub needs none",
    )
