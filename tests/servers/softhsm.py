"""SoftHSM tokens in a folder of the test's own, made by the unmodified `softhsm2-util`."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

PIN = "654321"
_MODULES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftHsm:
    """Some tokens, and the environment in which the module finds them."""

    folder: Path
    module: str

    @property
    def environment(self) -> Mapping[str, str]:
        """What must be set before the module is loaded."""
        return {"SOFTHSM2_CONF": str(self.folder / "softhsm2.conf"), "SEALIFT_PKCS11_MODULE": self.module}

    def add_token(self, label: str) -> None:
        """A further token; a module that is loaded already may not see it."""
        command = ["softhsm2-util", "--init-token", "--free", "--label", label, "--pin", PIN]
        subprocess.run(
            [*command, "--so-pin", "12345678"],
            env={**os.environ, **self.environment},
            check=True,
            capture_output=True,
        )


def make_softhsm(folder: Path, *tokens: str) -> SoftHsm:
    """Tokens in `folder`. Skips the test where SoftHSM is absent."""
    module = next((path for path in _MODULES if Path(path).is_file()), None)
    if module is None or shutil.which("softhsm2-util") is None:
        pytest.skip("SoftHSM is not installed: apt-get install softhsm2")
    (folder / "tokens").mkdir(parents=True)
    (folder / "softhsm2.conf").write_text(
        f"directories.tokendir = {folder}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n"
    )
    made = SoftHsm(folder=folder, module=module)
    for label in tokens:
        made.add_token(label)
    return made
