"""Programs newer than Debian stable's, which `scripts/newer-tools` unpacks into `.tools/bin`."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

_BIN = Path(__file__).resolve().parent.parent / ".tools" / "bin"


def cosign() -> str:
    """The unmodified cosign, 3 or later. Skips the test where it is absent."""
    return _found("cosign") or pytest.skip("cosign is absent: run scripts/newer-tools")


def openssl_with_ml_dsa() -> str:
    """An OpenSSL program of version 3.5 or later. Skips the test where there is none."""
    program = _found("openssl")
    if program:
        said = subprocess.run([program, "version"], capture_output=True, text=True, check=False).stdout
        match = re.match(r"OpenSSL (\d+)\.(\d+)", said)
        if match and (int(match[1]), int(match[2])) >= (3, 5):
            return program
    pytest.skip("openssl 3.5 or later is absent: run scripts/newer-tools")


def _found(name: str) -> str | None:
    own = _BIN / name
    return str(own) if own.is_file() else shutil.which(name)
