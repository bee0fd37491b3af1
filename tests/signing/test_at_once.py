"""Several people sign one bundle at once, and a killed `sign` left a temporary file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bundler.signing.attestations import KeyAttestor
from bundler.signing.release import open_sealed, sign_bundle
from bundler.signing.signer import FileSigner
from bundler.trust.dsse import parse_bundle
from bundler.trust.keys import generate
from tests.signing.test_release import sealed_tree


def test_signers_at_once_lose_no_file(tmp_path: Path) -> None:
    root = sealed_tree(tmp_path / "bundle")
    running = []
    for number in range(4):
        key = tmp_path / f"{number}.key"
        key.write_bytes(generate().to_pem(None))
        key.chmod(0o600)
        command = [sys.executable, "-m", "bundler", "sign", str(root), "--key", str(key), "--json"]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE))
    for process in running:
        process.communicate(timeout=100)
    assert [process.returncode for process in running] == [0] * 4
    files = sorted((root / "attestations").iterdir())
    signatures = {parse_bundle(path.read_bytes(), where=path.name).signature for path in files}
    assert (len(files), len(signatures)) == (12, 12)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_leftover_of_a_killed_sign_is_removed_by_the_next(tmp_path: Path) -> None:
    root = sealed_tree(tmp_path / "bundle")
    leftover = root / "attestations" / ".sealift-0123456789abcdef.tmp"
    leftover.parent.mkdir()
    leftover.write_bytes(b"half")
    attestor = KeyAttestor(FileSigner(generate()))
    assert len(sign_bundle(open_sealed(root), attestor).written) == 3
    assert not leftover.exists()
