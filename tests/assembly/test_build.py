"""Build: one tree, made beside its place, sealed or not there at all."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from bundler.assembly.build import BuildRequest, BuildResult, build, building_folder
from bundler.assembly.fetch_jobs import all_jobs
from bundler.assembly.locking import Resolvers, make_lock
from bundler.cli.app import run as command_line
from bundler.core.manifest import Manifest
from bundler.core.progress import SilentProgress
from bundler.core.specs.lock import Lock
from bundler.core.specs.spec_text import parse_spec
from bundler.demo.hub import LoopbackHub, Repository
from bundler.demo.serving import Answer, Request
from bundler.demo.tiny_gguf import write_gguf
from bundler.errors import IntegrityError, MachineError, PolicyError, UsageError

SPEC = """apiVersion: sealift/v1
name: small
channel: tests/build
serial: {serial}
files:
  - path: notes.txt
    source: notes.txt
licenses:
  - source: LICENSE
    title: The licence
"""
OWN_WHEEL = ("sealift-0.1.0-py3-none-any.whl", b"unused: no engine, no tools")


def request(folder: Path, *, serial: int = 1, text: str = SPEC, out: str = "bundle") -> BuildRequest:
    data = text.format(serial=serial).encode()
    spec = parse_spec(data, "spec.yaml")
    return BuildRequest(
        # Nothing is judged early, as when upstream changes its mind after the lock.
        lock=make_lock(spec, data, folder, resolvers=replace(Resolvers.of_sources(), early=None)),
        spec=data,
        out=folder / out,
        created_at="2026-11-22T00:00:00Z",
        workers=2,
        jobs=lambda lock: all_jobs(lock, spec=spec, base=folder, transport="http"),
        own_wheel=OWN_WHEEL,
    )


def run(asked: BuildRequest) -> BuildResult:
    return build(asked, SilentProgress())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "notes.txt").write_text("remember the milk\n")
    (tmp_path / "LICENSE").write_text("do as you like\n")
    return tmp_path


def test_a_build_leaves_one_sealed_tree_and_nothing_beside_it(folder: Path) -> None:
    asked = request(folder)
    result = run(asked)
    manifest = (asked.out / "manifest.json").read_bytes()
    assert result.manifest.sha256 == hashlib.sha256(manifest).hexdigest()
    assert Manifest.parse(manifest).members["lock"] == asked.lock.sha256
    assert (asked.out / "payload/files/notes.txt").read_text() == "remember the milk\n"
    assert not building_folder(asked.out).exists()


def test_the_lock_and_the_spec_travel_as_records(folder: Path) -> None:
    asked = request(folder)
    run(asked)
    record = (asked.out / "payload/records/lock.json").read_bytes()
    assert Lock.parse(record, where="lock") == asked.lock
    assert hashlib.sha256(record).hexdigest() == asked.lock.sha256
    assert (asked.out / "payload/records/spec.yaml").read_bytes() == asked.spec


def test_every_artifact_says_where_it_came_from(folder: Path) -> None:
    run(request(folder))
    manifest = Manifest.parse((folder / "bundle/manifest.json").read_bytes())
    artifacts = {item["id"]: item for item in manifest.members["artifacts"]}
    assert set(artifacts) == {"file:notes.txt", "license:LICENSE"}
    owned = {entry.artifact for entry in manifest.files if entry.artifact}
    assert owned == set(artifacts)


def test_two_builds_of_one_lock_are_byte_identical(folder: Path) -> None:
    run(request(folder, out="one"))
    run(request(folder, out="two"))
    one, two = folder / "one", folder / "two"
    names = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(two) for path in two.rglob("*") if path.is_file())
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077], ids=oct)
def test_modes_of_a_bundle_do_not_depend_on_the_umask(folder: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        run(request(folder))
    finally:
        os.umask(before)
    paths = [folder / "bundle", *(folder / "bundle").rglob("*")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths if path.is_dir()} == {0o755}
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths if path.is_file()} == {0o644}


def test_an_unfinished_bundle_that_another_user_began_is_not_continued(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = request(folder)
    building_folder(asked.out).mkdir()
    monkeypatch.setattr("bundler.storage.private_folder._trusted_owners", lambda itself: {4242})
    with pytest.raises(MachineError) as caught:
        run(asked)
    assert caught.value.reference == "work-folder-open"
    assert list(building_folder(asked.out).iterdir()) == []


def test_building_what_is_sealed_already_changes_nothing(folder: Path) -> None:
    run(request(folder))
    before = (folder / "bundle/manifest.json").stat()
    again = run(request(folder))
    assert again.already_sealed
    assert (folder / "bundle/manifest.json").stat() == before


def test_another_lock_does_not_replace_a_bundle(folder: Path) -> None:
    run(request(folder))
    with pytest.raises(UsageError, match="output-exists") as caught:
        run(request(folder, serial=2))
    assert caught.value.findings[0].found == "a bundle of another lock"


def test_something_else_in_the_place_is_left_alone(folder: Path) -> None:
    (folder / "bundle").mkdir()
    (folder / "bundle" / "precious").write_text("mine")
    with pytest.raises(UsageError, match="output-exists"):
        run(request(folder))
    assert (folder / "bundle" / "precious").read_text() == "mine"


def test_a_local_file_that_changed_after_locking_is_refused(folder: Path) -> None:
    asked = request(folder)
    (folder / "notes.txt").write_text("remember the oil.\n")
    with pytest.raises(IntegrityError) as caught:
        run(asked)
    assert caught.value.findings[0].reference == "digest-mismatch"
    assert not asked.out.exists()


def test_files_of_an_earlier_lock_do_not_stray_into_the_bundle(folder: Path) -> None:
    asked = request(folder)
    work = building_folder(asked.out)
    (work / "bundle" / "payload").mkdir(parents=True)
    (work / "bundle" / "payload" / "unknown.bin").write_bytes(b"?")
    with pytest.raises(IntegrityError) as caught:
        run(asked)
    assert [item.where for item in caught.value.findings] == ["payload/unknown.bin"]
    (work / "bundle" / "payload" / "unknown.bin").unlink()
    run(request(folder, serial=2))
    assert Manifest.parse((folder / "bundle/manifest.json").read_bytes()).serial == 2


MODEL_SPEC = """apiVersion: sealift/v1
name: small
channel: tests/build
serial: {serial}
models:
  - repo: demo/tiny
    format: bf16
"""


@pytest.mark.parametrize(
    ("name", "data", "reference"),
    [
        ("model.safetensors", b"\x02\0\0\0\0\0\0\0{}trailing", "safetensors-trailing-bytes"),
        ("pytorch_model.bin", b"\x80\x04\x95junk.", "pickle-refused"),
        ("model.gguf", b"GGUF\x03\0\0\0", "gguf-truncated"),
    ],
    ids=["trailing bytes behind the last tensor", "a pickle", "a GGUF cut short"],
)
def test_weights_that_are_not_what_they_must_be_prevent_sealing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, data: bytes, reference: str
) -> None:
    repository = folder / "hub" / "demo" / "tiny"
    repository.mkdir(parents=True)
    (repository / name).write_bytes(data)
    with LoopbackHub(folder / "hub") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        asked = request(folder, text=MODEL_SPEC)
        with pytest.raises(PolicyError) as caught:
            run(asked)
    assert reference in {item.reference for item in caught.value.findings}
    assert not asked.out.exists()
    assert not (building_folder(asked.out) / "bundle" / "manifest.json").exists()


class CountingHub(LoopbackHub):
    """A Hub that counts the bytes of files it sends."""

    sent = 0

    def resolve(self, request: Request, repository: Repository, path: str) -> Answer:
        answer = super().resolve(request, repository, path)
        if request.method == "GET":
            type(self).sent += answer.length
        return answer


def test_the_next_serial_fetches_only_what_is_new(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = folder / "hub" / "demo" / "tiny"
    repository.mkdir(parents=True)
    write_gguf(repository)
    (repository / "README.md").write_text("---\nlicense: mit\n---\n")
    monkeypatch.setattr(CountingHub, "sent", 0)
    text = MODEL_SPEC.replace("bf16", "gguf")
    with CountingHub(folder / "hub") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        first = run(request(folder, text=text, out="one"))
        new = b"new\n" * 12_250
        (repository / "NEWS.txt").write_bytes(new)
        asked = request(folder, serial=2, text=text, out="two")
        CountingHub.sent = 0
        second = run(replace(asked, reuse=(folder / "one",)))
    assert CountingHub.sent == second.fetched == len(new) == 49_000
    assert second.reused == first.fetched > 9_000_000
    assert (folder / "two/payload/records/lock.json").is_file()


def process(folder: Path, hub: str) -> subprocess.Popen[str]:
    """`sealift build` of the one spec in `folder`, as a process of its own."""
    words = [sys.executable, "-m", "bundler", "build", "spec.yaml", "-o", "bundle", "--no-progress"]
    environment = {**os.environ, "HF_ENDPOINT": hub, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(
        words, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


class HoldingHub(LoopbackHub):
    """A Hub that answers for a file only when it is let go."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.asked, self.go = threading.Event(), threading.Event()

    def resolve(self, request: Request, repository: Repository, path: str) -> Answer:
        if request.method == "GET" and path.endswith(".gguf"):
            self.asked.set()
            self.go.wait(60)
        return super().resolve(request, repository, path)


@pytest.fixture
def locked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, HoldingHub]]:
    """A locked spec with a model on a Hub that can be held."""
    repository = folder / "hub" / "demo" / "tiny"
    repository.mkdir(parents=True)
    write_gguf(repository)
    with HoldingHub(folder / "hub") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        (folder / "spec.yaml").write_text(MODEL_SPEC.replace("bf16", "gguf").format(serial=1))
        hub.go.set()
        assert command_line(["lock", str(folder / "spec.yaml")]) == 0
        hub.go.clear()
        hub.asked.clear()
        yield folder, hub
        hub.go.set()


def test_a_second_build_of_one_output_is_refused_with_the_first_named(
    locked: tuple[Path, HoldingHub],
) -> None:
    folder, hub = locked
    first = process(folder, hub.url)
    assert hub.asked.wait(60)
    second = process(folder, hub.url)
    said = second.communicate(timeout=60)[1]
    hub.go.set()
    assert first.communicate(timeout=60)
    assert (first.returncode, second.returncode) == (0, 4), said
    assert "busy" in said
    assert f"process {first.pid}" in said
    assert sorted(path.name for path in folder.iterdir() if "bundle" in path.name) == ["bundle"]


def test_a_killed_build_continues_and_leaves_nothing(locked: tuple[Path, HoldingHub]) -> None:
    folder, hub = locked
    first = process(folder, hub.url)
    assert hub.asked.wait(60)
    first.kill()
    first.communicate(timeout=60)
    assert not (folder / "bundle").exists()
    hub.go.set()
    again = process(folder, hub.url)
    assert again.communicate(timeout=60)
    assert again.returncode == 0
    assert sorted(path.name for path in folder.iterdir() if "bundle" in path.name) == ["bundle"]


def test_many_builds_at_once_make_one_bundle(folder: Path) -> None:
    asked = request(folder)
    with ThreadPoolExecutor(max_workers=8) as pool:
        outcomes = list(pool.map(lambda _: outcome(asked), range(24)))
    assert set(outcomes) <= {"sealed", "already sealed", "busy"}
    assert outcomes.count("sealed") == 1
    assert sorted(path.name for path in folder.iterdir() if "bundle" in path.name) == ["bundle"]
    assert run(asked).already_sealed


def outcome(asked: BuildRequest) -> str:
    try:
        return "already sealed" if run(asked).already_sealed else "sealed"
    except MachineError as error:
        return error.reference


def test_what_a_build_killed_at_its_very_end_left_is_removed(folder: Path) -> None:
    asked = request(folder)
    run(asked)
    (folder / "bundle.building.0123456789abcdef.done").mkdir()
    assert run(asked).already_sealed
    assert sorted(path.name for path in folder.iterdir() if "bundle" in path.name) == ["bundle"]
