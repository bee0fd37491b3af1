"""Step 7: what the files claim to be, and what is said when a damaged file no longer claims anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from bundler.content.model import check_model
from bundler.demo.tiny_kimi import model_files
from bundler.errors import ExitCode
from tests.verification.bundles import TestBundle, make_bundle, references

FOLDER = "payload/models/models--demo--tiny/snapshots/" + "c" * 40


@pytest.fixture
def bundle(tmp_path: Path) -> TestBundle:
    files = model_files("bf16")
    for name, data in files.items():
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model" / name).write_bytes(data)
    executable = check_model(tmp_path / "model", sorted(files), format="bf16").executable
    model = {
        "id": "model:tiny",
        "kind": "model",
        "path": FOLDER,
        "format": "bf16",
        "executable": [f"{FOLDER}/{name}" for name in executable],
    }
    listed = {f"{FOLDER}/{name}": data for name, data in files.items()}
    return make_bundle(tmp_path, listed, members={"artifacts": [model]})


def test_a_whole_model_passes_at_every_level(bundle: TestBundle) -> None:
    for level in ("quick", "full"):
        assert bundle.verify(level).report.exit_code == ExitCode.PASSED


@pytest.mark.parametrize("level", ["quick", "full"])
def test_a_flipped_byte_in_a_header_is_an_integrity_finding_with_its_range(
    bundle: TestBundle, level: str
) -> None:
    shard = bundle.path(f"{FOLDER}/model-00002-of-000003.safetensors")
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    state = bundle.state.read_bytes()

    report = bundle.verify(level).report

    assert report.exit_code == ExitCode.INTEGRITY
    assert {"digest-mismatch", "safetensors-tensor"} <= references(report)
    (damage,) = [item for item in report.findings if item.reference == "digest-mismatch"]
    assert damage.where.startswith(f"{FOLDER}/model-00002-of-000003.safetensors, bytes 0-")
    assert bundle.state.read_bytes() == state


def test_a_signed_model_with_a_bad_header_is_a_matter_of_content(tmp_path: Path) -> None:
    files = {f"{FOLDER}/model.safetensors": b"\x08\0\0\0\0\0\0\0{}      trailing"}
    model = {"id": "model:tiny", "kind": "model", "path": FOLDER, "format": "any", "executable": []}
    report = make_bundle(tmp_path, files, members={"artifacts": [model]}).verify("quick").report
    assert report.exit_code in (ExitCode.MALFORMED, ExitCode.POLICY)
    assert "digest-mismatch" not in references(report)
