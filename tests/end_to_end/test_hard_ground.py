"""Full disks, read-only targets, and what is left behind: expected states, not tracebacks."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from bundler.demo.hub import LoopbackHub
from bundler.demo.tiny_gguf import write_gguf
from tests.end_to_end.commands import Workplace, files_below

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
]

SPEC = """apiVersion: sealift/v1
name: small
channel: tests/hard-ground
serial: 1
models:
  - repo: demo/tiny
    format: gguf
"""


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """An ext4 file system of its own in a loop-mounted image."""
    image, point = folder / "disk.img", folder / "disk"
    point.mkdir()
    with image.open("wb") as stream:
        stream.truncate(megabytes << 20)
    subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", "-m", "0", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(point)], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", str(point)], check=True)


def fill(disk: Path, *, leave: int) -> Path:
    """Take all free bytes of a disk but about `leave`."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as stream, suppress(OSError):
        while os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize > leave:
            stream.write(bytes(4096))
    return filler


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Workplace]:
    repository = tmp_path / "hub" / "demo" / "tiny"
    repository.mkdir(parents=True)
    write_gguf(repository)
    (tmp_path / "small.yaml").write_text(SPEC)
    with LoopbackHub(tmp_path / "hub") as hub:
        workplace = Workplace(folder=tmp_path, environment={"HF_ENDPOINT": hub.url})
        workplace.must("lock", "small.yaml")
        yield workplace


def test_a_disk_that_is_too_small_is_refused_before_a_byte_is_fetched(place: Workplace) -> None:
    with small_disk(place.folder, 20) as disk:
        filler = fill(disk, leave=4 << 20)
        planned = place.run("plan", "small.yaml", "--to", str(disk / "bundle"), "--json")
        built = place.run("build", "small.yaml", "-o", str(disk / "bundle"), "--json")
        assert (planned.code, built.code) == (4, 4)
        assert "no-space" in built.references
        assert not list((disk / "bundle.building").rglob("*.part"))
        filler.unlink()
        place.must("build", "small.yaml", "-o", str(disk / "bundle"))


def test_a_disk_that_fills_up_while_sealing_leaves_no_bundle_and_the_next_run_ends_it(
    place: Workplace,
) -> None:
    with small_disk(place.folder, 24) as disk:
        size = next((place.folder / "hub").rglob("*.gguf")).stat().st_size
        # Room for the weights, and hardly any for what sealing writes behind them.
        filler = fill(disk, leave=size + (64 << 10))
        built = place.run("build", "small.yaml", "-o", str(disk / "bundle"), "--json")
        assert built.code == 4, built.stdout
        assert "disk-full" in built.references
        assert not (disk / "bundle").exists()
        filler.unlink()
        again = place.must("build", "small.yaml", "-o", str(disk / "bundle"), "--json")
        assert again.report["fetchedBytes"] < size, "what was fetched is not fetched again"


def test_signing_on_a_full_disk_says_so_and_leaves_no_half_signature(place: Workplace) -> None:
    place.make_trust()
    with small_disk(place.folder, 24) as disk:
        place.must("build", "small.yaml", "-o", str(disk / "bundle"))
        folder = disk / "bundle" / "attestations"
        folder.mkdir()
        filler = fill(disk, leave=0)
        signed = place.run("sign", str(disk / "bundle"), "--key", "release.key", "--json")
        assert signed.code == 4, signed.stdout
        for path in folder.iterdir():
            # What found room is whole: nothing temporary, nothing cut.
            assert path.name.endswith(".sigstore.json")
            assert json.loads(path.read_bytes())["dsseEnvelope"]["signatures"]
        filler.unlink()
        place.must("sign", str(disk / "bundle"), "--key", "release.key")
        place.must("verify", str(disk / "bundle"), *place.trust(), offline=True)


def test_a_read_only_medium_verifies_and_is_not_written_to(place: Workplace) -> None:
    place.make_trust()
    with small_disk(place.folder, 24) as disk:
        place.must("build", "small.yaml", "-o", str(disk / "bundle"))
        place.must("sign", str(disk / "bundle"), "--key", "release.key")
        before = files_below(disk)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        place.must("verify", str(disk / "bundle"), *place.trust(), offline=True)
        refused = place.run("sign", str(disk / "bundle"), "--key", "root.key", "--json")
        assert refused.code == 4
        built = place.run("build", "small.yaml", "-o", str(disk / "other"), "--json")
        assert built.code == 4
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        assert files_below(disk) == before


def test_a_state_that_cannot_be_written_refuses_and_stays_as_it_was(place: Workplace) -> None:
    place.make_trust()
    place.must("build", "small.yaml", "-o", "bundle")
    place.must("sign", "bundle", "--key", "release.key")
    with small_disk(place.folder, 16) as disk:
        state = disk / "state.json"
        state.write_bytes(b"{}")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        outcome = place.run("verify", "bundle", "--policy", "policy.json", "--state", str(state), "--json")
        assert outcome.code == 4, outcome.stdout
        assert state.read_bytes() == b"{}"
