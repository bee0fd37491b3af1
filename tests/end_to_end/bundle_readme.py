"""Runs the commands of a bundle's README as they are printed, on a read-only bundle, without `jq`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && cd "$0" && exec bash -euc "$1"'
"""Makes the bundle read-only in a mount namespace of its own, then runs a script there."""


@dataclass(frozen=True)
class Reader:
    """A person with a medium, some files of their own and a bare machine."""

    bundle: Path
    home: Path
    programs: Path
    settings: Mapping[str, str]

    @classmethod
    def of(cls, bundle: Path, home: Path, **settings: str) -> Reader:
        """A reader whose PATH has everything that is installed but `jq`, and `sealift`."""
        programs = home / "programs"
        programs.mkdir(parents=True)
        for folder in ("/usr/sbin", "/usr/bin", "/sbin", "/bin"):
            for program in Path(folder).iterdir():
                ours = programs / program.name
                if program.name not in ("jq", "sealift", "python3") and not ours.is_symlink():
                    ours.symlink_to(program)
        (programs / "python3").symlink_to(Path(sys.executable).resolve())
        (programs / "sealift").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m bundler "$@"\n')
        (programs / "sealift").chmod(0o755)
        return cls(bundle, home, programs, settings)

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        """One script in the folder of the bundle, which nothing can write to."""
        kept = {name: text for name, text in os.environ.items() if not name.startswith(("HF_", "SEALIFT_"))}
        places = {
            "HOME": str(self.home),
            "PATH": str(self.programs),
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
        return subprocess.run(
            ["unshare", "-rm", "sh", "-c", READ_ONLY, str(self.bundle), script],
            env={**kept, **places, **self.settings},
            capture_output=True,
            text=True,
            check=False,
            timeout=500,
        )


def blocks(bundle: Path) -> list[str]:
    """The shell blocks of the bundle's README, in order."""
    text = (bundle / "README.md").read_text("utf-8")
    return [part.split("```")[0] for part in text.split("```sh\n")[1:]]


def block_with(bundle: Path, words: str) -> str:
    """The settings block and the only block that holds `words`, as one script."""
    first, *others = blocks(bundle)
    (found,) = (block for block in others if words in block)
    return first + found
