"""PKCS#11 URIs (RFC 7512): which key on which token. Pure: opens nothing.

Read strictly: what a reader does not understand could have narrowed the choice, so it is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import unquote_to_bytes

from bundler.errors import UsageError

SCHEME = "pkcs11:"
_TEXT_ATTRIBUTES = {"token": "token", "object": "label", "serial": "serial"}
_TEXT_ATTRIBUTES |= {"manufacturer": "manufacturer", "model": "model"}
_QUERY_ATTRIBUTES = {"module-path": "module_path", "pin-source": "pin_source"}
_PATH_CHARACTERS = re.compile(r"(?:[A-Za-z0-9._~:\[\]@!$'()*+,=&-]|%[0-9A-Fa-f]{2})+")
_QUERY_CHARACTERS = re.compile(r"(?:[A-Za-z0-9._~:\[\]@!$'()*+,=/?|-]|%[0-9A-Fa-f]{2})+")
MAX_LENGTH = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Pkcs11Uri:
    """Which key is meant; empty members do not narrow the choice. `label` and `id` are those of the key."""

    token: str = ""
    serial: str = ""
    manufacturer: str = ""
    model: str = ""
    label: str = ""
    id: bytes = b""
    module_path: str = ""
    pin_source: str = ""

    @classmethod
    def parse(cls, text: str) -> Pkcs11Uri:
        """The URI that `text` is. Raises UsageError (`bad-pkcs11-uri`, `pin-on-command-line`)."""
        if not text.startswith(SCHEME) or len(text) > MAX_LENGTH:
            _refuse(f"a text that begins with {SCHEME}", text)
        path, question, query = text[len(SCHEME) :].partition("?")
        members: dict[str, Any] = {}
        for part in path.split(";") if path else []:
            _add(members, _path_member(part), part)
        for part in query.split("&") if question else []:
            _add(members, _query_member(part), part)
        return cls(**members)

    def __str__(self) -> str:
        """The selection in words of the URI, without module and PIN source: for messages."""
        named = {"token": self.token, "serial": self.serial, "manufacturer": self.manufacturer}
        named |= {"model": self.model, "object": self.label, "id": self.id.hex()}
        return SCHEME + ";".join(f"{name}={value}" for name, value in named.items() if value)


def is_pkcs11_uri(text: str) -> bool:
    """Whether `text` means a key on a token rather than a file."""
    return text.startswith(SCHEME)


def _add(members: dict[str, Any], member: tuple[str, Any], part: str) -> None:
    name, value = member
    # RFC 7512 section 2.3: an attribute must not stand twice; two readers would choose differently.
    if name in members:
        _refuse("every attribute once", part)
    if name:
        members[name] = value


def _path_member(part: str) -> tuple[str, Any]:
    name, equals, value = part.partition("=")
    if not equals or not _PATH_CHARACTERS.fullmatch(value):
        _refuse("attributes as name=value with the characters of RFC 7512", part)
    if name == "id":
        return "id", unquote_to_bytes(value)
    if name == "type":
        if value not in ("private", "public"):
            _refuse("type=private, or no type", part)
        return "", value
    if name not in _TEXT_ATTRIBUTES:
        _refuse("only the attributes " + ", ".join(sorted({*_TEXT_ATTRIBUTES, "id", "type"})), part)
    return _TEXT_ATTRIBUTES[name], _text(value, part)


def _query_member(part: str) -> tuple[str, Any]:
    name, _, value = part.partition("=")
    if name == "pin-value":
        raise UsageError(
            "pin-on-command-line",
            "a PIN on the command line can be read by everyone on this machine",
            where="pin-value",
            expected="a PIN from a prompt, a private file or the environment",
            hint="leave pin-value out; name a file with --pin-file, set SEALIFT_PIN, or type it when asked",
        )
    if name not in _QUERY_ATTRIBUTES or not _QUERY_CHARACTERS.fullmatch(value):
        _refuse("only module-path and pin-source after the question mark", part)
    text = _text(value, part)
    if name == "pin-source":
        text = text.removeprefix("file://").removeprefix("file:")
    # RFC 7512 section 2.4 lets `|command` be run: a signing key's URI must not be able to start programs.
    if not text.startswith("/"):
        _refuse(f"an absolute path for {name}", part)
    return _QUERY_ATTRIBUTES[name], text


def _text(value: str, part: str) -> str:
    try:
        text = unquote_to_bytes(value).decode("utf-8")
    except UnicodeDecodeError:
        _refuse("UTF-8 behind percent signs", part)
    if "\0" in text:
        _refuse("no NUL", part)
    return text


def _refuse(expected: str, found: str) -> NoReturn:
    raise UsageError(
        "bad-pkcs11-uri",
        "a PKCS#11 URI cannot be read",
        expected=expected,
        # A part that was refused may be a mistyped PIN: only its name is shown.
        found=found.partition("=")[0][:80],
        hint="for example: 'pkcs11:token=airgap;object=release?module-path=/usr/lib/softhsm/libsofthsm2.so'",
    )
