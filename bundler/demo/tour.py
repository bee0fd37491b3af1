"""The tour of README.md with real names: a Hub and a registry that stay, and the commands to type."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bundler.demo.rehearsal import PASSPHRASE, demo_spec, make_repository, push_image, start_over
from bundler.storage.named_output import write_output

PASSPHRASE_FILE = "passphrase"  # noqa: S105 - a file name


@dataclass(frozen=True, slots=True, kw_only=True)
class Tour:
    """Where the tour takes place; valid while its `with` block lasts."""

    folder: Path
    hub: str
    registry: str
    """Base URLs, without a trailing slash."""

    def commands(self) -> tuple[str, ...]:
        """The tour for a POSIX shell, in order; the first two lines prepare a fresh terminal."""
        return (
            f"cd {shlex.quote(str(self.folder))}",
            f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH HF_ENDPOINT={self.hub}",
            *_release_engineer(),
            *_officer(),
            *_operator(),
        )


@contextmanager
def open_tour(folder: Path) -> Iterator[Tour]:
    """Make the tiny model, image and spec in `folder`, and serve them while the block runs.

    Raises UsageError (`output-exists`) for a folder that no demo made; that of an earlier demo is emptied.
    """
    from bundler.demo.hub import LoopbackHub
    from bundler.demo.registry import LoopbackRegistry

    start_over(folder)
    make_repository(folder / "hub" / "demo" / "kimi-tiny")
    write_output(folder / PASSPHRASE_FILE, f"{PASSPHRASE}\n".encode(), mode=0o600)
    with LoopbackHub(folder / "hub") as hub, LoopbackRegistry(folder / "registry") as registry:
        push_image(folder / "image", registry.url)
        write_output(folder / "demo.yaml", demo_spec(registry.host).encode())
        yield Tour(folder=folder, hub=hub.url, registry=registry.url)


def _release_engineer() -> tuple[str, ...]:
    from bundler.demo.tiny_gguf import MODEL_FILE

    return (
        "sealift lock demo.yaml",
        "sealift plan demo.yaml --to bundle",
        "sealift build demo.yaml -o bundle",
        f'sealift keys generate --owner "Rita Roth" -o release.key --passphrase-file {PASSPHRASE_FILE}',
        f"sealift sign bundle --key release.key --passphrase-file {PASSPHRASE_FILE}",
        f"sealift inspect bundle --chain {MODEL_FILE}",
    )


def _officer() -> tuple[str, ...]:
    return (
        f'sealift keys generate --owner "Ann Abel" -o root.key --passphrase-file {PASSPHRASE_FILE}',
        "sealift trust init --root root.pub --release release.pub -o policy.json",
        "sha256sum policy.json | cut -d ' ' -f 1 > paper",
    )


def _operator() -> tuple[str, ...]:
    trust = "--policy policy.json --state state.json"
    return (
        f'sealift verify bundle {trust} --trust-on-first-use "sha256:$(cat paper)"',
        f"sealift install bundle {trust} --engine llama.cpp --to engine",
        f"sealift launch bundle {trust} --profile default --env engine",
    )
