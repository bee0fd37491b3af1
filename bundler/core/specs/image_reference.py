"""Image references: `registry/repository:tag@digest`, read the way docker and containerd read them.

Grammar: https://github.com/distribution/reference (reference.go); defaults: docker.io, library/, latest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from bundler.errors import MalformedError

DOCKER_HUB = "docker.io"
DOCKER_HUB_API = "registry-1.docker.io"
DEFAULT_TAG = "latest"
MAX_REPOSITORY = 255
_DOMAIN_PART = r"(?:[A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9-]*[A-Za-z0-9])"
_REGISTRY = re.compile(rf"(?:{_DOMAIN_PART}(?:\.{_DOMAIN_PART})*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{{1,5}})?")
_PATH_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_PATH_PART}(?:/{_PATH_PART})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_OCI_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def is_oci_digest(text: object) -> bool:
    """Whether `text` is `sha256:` with 64 lower-case hex digits, so that it is safe in paths and URLs."""
    return isinstance(text, str) and _OCI_DIGEST.fullmatch(text) is not None


def is_tag(text: object) -> bool:
    """Whether `text` is a tag (distribution specification, "Pulling manifests")."""
    return isinstance(text, str) and _TAG.fullmatch(text) is not None


@dataclass(frozen=True)
class ImageReference:
    """A reference in full: registry and repository always there, a tag or a digest or both."""

    registry: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    def __post_init__(self) -> None:
        for fault in self._faults():
            raise _refuse(str(self), fault)

    def _faults(self) -> list[str]:
        checks = (
            (_REGISTRY.fullmatch(self.registry), "the registry is not a host name with an optional port"),
            (
                _REPOSITORY.fullmatch(self.repository),
                "the repository is not lower-case names with single separators",
            ),
            (
                len(self.repository) <= MAX_REPOSITORY,
                f"the repository has more than {MAX_REPOSITORY} letters",
            ),
            (self.tag is None or is_tag(self.tag), "the tag is not 1-128 letters, digits, _ . -"),
            (self.digest is None or is_oci_digest(self.digest), "the digest is not sha256:<64 hex>"),
            (self.tag or self.digest, "it has neither tag nor digest"),
        )
        return [fault for passed, fault in checks if not passed]

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.registry}/{self.repository}{tag}{digest}"

    @property
    def name(self) -> str:
        """`registry/repository`, without tag and digest."""
        return f"{self.registry}/{self.repository}"

    @property
    def api_host(self) -> str:
        """Host and port the distribution API is served on."""
        return DOCKER_HUB_API if self.registry == DOCKER_HUB else self.registry

    @property
    def target(self) -> str:
        """What to ask the registry for: the digest when there is one, else the tag."""
        target = self.digest or self.tag
        assert target is not None
        return target

    @classmethod
    def parse(cls, text: str) -> ImageReference:
        """The reference that `text` says, defaults filled in.

        Raises MalformedError (`bad-image-reference`) with the rule it breaks.
        """
        rest, at, digest = text.partition("@")
        if at and not is_oci_digest(digest):
            raise _refuse(text, "the digest is not sha256:<64 hex>")
        registry, rest = _split_registry(rest)
        repository, colon, tag = rest.partition(":")
        if colon and not tag:
            raise _refuse(text, "the tag is empty")
        if registry == DOCKER_HUB and "/" not in repository:
            repository = f"library/{repository}"
        return cls(registry, repository, tag or (None if at else DEFAULT_TAG), digest or None)


def _split_registry(text: str) -> tuple[str, str]:
    """The registry and the rest: the first part is a registry only if it looks like a host."""
    first, slash, rest = text.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost" or first.lower() != first):
        return DOCKER_HUB, text
    return (DOCKER_HUB if first == "index.docker.io" else first), rest


def _refuse(text: str, fault: str) -> MalformedError:
    return MalformedError(
        "bad-image-reference",
        f"an image reference cannot be read: {fault}",
        where=text[:200],
        expected="[registry[:port]/]repository[:tag][@sha256:<64 hex>]",
        found=repr(text)[:200],
        hint="write for example docker.io/vllm/vllm-openai:v0.19.1",
    )
