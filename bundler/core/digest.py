"""Digests: an algorithm and a value, as one text form `algorithm:hex`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bundler.errors import MalformedError

HEX_LENGTHS = {"sha1": 40, "sha256": 64, "sha384": 96, "sha512": 128}
_HEX = re.compile(r"[0-9a-f]+")


@dataclass(frozen=True)
class Digest:
    """An algorithm and its lower-case hexadecimal value. If it exists, both fit each other."""

    algorithm: str
    hex: str

    def __post_init__(self) -> None:
        length = HEX_LENGTHS.get(self.algorithm)
        if length is None or len(self.hex) != length or not _HEX.fullmatch(self.hex):
            raise MalformedError(
                "bad-digest",
                "a digest is not an algorithm with lower-case hex of its length",
                expected="one of " + ", ".join(f"{name}:<{n} hex>" for name, n in HEX_LENGTHS.items()),
                found=f"{self.algorithm}:{self.hex}"[:160],
            )

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"

    @classmethod
    def parse(cls, text: str) -> Digest:
        """The digest written as `sha256:<hex>`. Raises MalformedError (`bad-digest`)."""
        algorithm, _, value = text.partition(":")
        return cls(algorithm, value)


def is_sha256_hex(text: object) -> bool:
    """Whether `text` is 64 lower-case hexadecimal digits."""
    return isinstance(text, str) and len(text) == 64 and _HEX.fullmatch(text) is not None


def is_git_commit(text: object) -> bool:
    """Whether `text` is 40 lower-case hexadecimal digits: a full commit id, never a short one."""
    return isinstance(text, str) and len(text) == 40 and _HEX.fullmatch(text) is not None
