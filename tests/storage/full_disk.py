"""A real file system that is small enough to fill, for tests."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, mebibytes: int, *, options: str = "") -> Iterator[Path]:
    """A tmpfs of this size mounted on `folder`; the test is skipped where mounting is not allowed."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root: run the tests as root (`sudo`)")
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m{options}", "tmpfs", str(folder)]
    made = subprocess.run(mount, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        pytest.skip(f"this machine does not let us mount: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount_read_only(folder: Path) -> None:
    """What the kernel does to a disk with errors."""
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
