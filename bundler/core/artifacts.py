"""The members of a manifest that describe its contents, read once (format.md section 3).

`artifacts` and `launch` are optional to a verifier, so a manifest may hold anything there. What is not an
object is left out, and a member of another type reads as absent. Whether every file is described, and
rightly, is judged by `verification`; nothing here vouches for anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bundler.core.manifest import Manifest


@dataclass(frozen=True)
class Artifact:
    """One entry of `artifacts`: `members` as they are, and those of the right type by name."""

    members: Mapping[str, Any]

    @property
    def id(self) -> str:
        """The artifact's name inside this bundle; empty when there is none."""
        return text_of(self.members, "id")

    @property
    def kind(self) -> str:
        """`model`, `wheels`, `image`, `document`, `tool` or `file`; or whatever text is there."""
        return text_of(self.members, "kind")

    @property
    def purl(self) -> str:
        """The package URL; empty when there is none."""
        return text_of(self.members, "purl")

    @property
    def path(self) -> str:
        """The folder or file that it describes; empty for wheels and images, which are found by name."""
        return text_of(self.members, "path")

    @property
    def format(self) -> str:
        """The weight format of a model; empty when there is none."""
        return text_of(self.members, "format")

    @property
    def source(self) -> Mapping[str, Any]:
        """What was asked for and what it resolved to."""
        return object_of(self.members, "source")

    @property
    def license(self) -> Mapping[str, Any]:
        """Licence expressions (`declared`, `detected`, `concluded`) and `texts`."""
        return object_of(self.members, "license")

    @property
    def upstream_signature(self) -> Mapping[str, Any]:
        """What the builder found about a signature of the publisher; empty when it says nothing."""
        return object_of(self.source, "upstreamSignature")

    @property
    def executable(self) -> tuple[str, ...]:
        """Paths of code and templates that the artifact would run."""
        return texts_of(self.members, "executable")

    @property
    def targets(self) -> tuple[str, ...]:
        """The engine targets that use a wheel, such as `vllm-cp312-x86_64`."""
        return texts_of(self.members, "targets")


def artifacts_of(manifest: Manifest) -> tuple[Artifact, ...]:
    """Every artifact that the manifest describes, in its order."""
    return tuple(Artifact(item) for item in objects_of(manifest.members, "artifacts"))


def launch_members_of(manifest: Manifest) -> tuple[Mapping[str, Any], ...]:
    """Every entry of `launch`, in order."""
    return tuple(objects_of(manifest.members, "launch"))


def text_of(value: Mapping[str, Any], name: str) -> str:
    """A member that is text; empty when it is not."""
    member = value.get(name)
    return member if isinstance(member, str) else ""


def texts_of(value: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """A member that is a list of texts, without what is no text in it; empty when it is no list."""
    member = value.get(name)
    return tuple(item for item in member if isinstance(item, str)) if isinstance(member, list) else ()


def object_of(value: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A member that is an object; empty when it is not."""
    member = value.get(name)
    return member if isinstance(member, dict) else {}


def objects_of(value: Mapping[str, Any], name: str) -> Iterator[Mapping[str, Any]]:
    """The objects in a member that is a list; nothing when it is no list."""
    member = value.get(name)
    yield from (item for item in member if isinstance(item, dict)) if isinstance(member, list) else ()
