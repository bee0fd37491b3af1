"""Bytes through Xet: the real hf_xet against its own store in a folder."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import hf_xet
import pytest

from bundler.core.specs.lock import LockedModel
from bundler.core.specs.spec import ModelSpec
from bundler.errors import IntegrityError, NetworkError
from bundler.sources.fetch import fetch_all
from bundler.sources.http import Timeouts, TransientError
from bundler.sources.hub.client import Patience
from bundler.sources.hub.repository import model_jobs, resolve_model
from bundler.sources.hub.xet import BOUNDED, XetByteSource
from bundler.sources.jobs import FetchJob
from bundler.sources.retry import RetryPolicy
from bundler.storage.payload import PayloadStore
from tests.servers.hub import FaultyHub, Refuse, Storage

REPO = "harbour/tiny-model"
SHARD = "model.safetensors"
SECRET = "hf_VerySecretTokenOfAPerson"
RETRIES = RetryPolicy(tries=3, first=0.01, longest=0.05)
PATIENCE = Patience(retries=RETRIES, timeouts=Timeouts(connect=2, stall=1))
SIZE = 3_000_000


def new_session() -> hf_xet.XetSession:
    return hf_xet.XetSession(hf_xet.XetConfig().with_config(dict(BOUNDED)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "hub" / REPO
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / SHARD).write_bytes(os.urandom(SIZE))
    return folder


@pytest.fixture
def hub(folder: Path, tmp_path: Path) -> Iterator[FaultyHub]:
    """A hub whose shard is in a Xet store below `tmp_path`."""
    store = tmp_path / "cas"
    store.mkdir()
    with new_session().new_upload_commit(endpoint=f"local://{store}") as commit:
        upload = commit.start_upload_file(str(folder / SHARD))
    with FaultyHub(tmp_path / "hub") as hub:
        hub.cas_url = f"local://{store}"
        hub.xet_hashes[SHARD] = upload.result().xet_info.hash
        yield hub


def resolve(hub: FaultyHub, token: str | None = None) -> LockedModel:
    return resolve_model(ModelSpec(repo=REPO), endpoint=hub.url, token=token or False, patience=PATIENCE)


def xet_jobs(hub: FaultyHub, token: str | None = None) -> list[FetchJob]:
    model = resolve(hub, token)
    return model_jobs(model, endpoint=hub.url, token=token or False, transport="xet", patience=PATIENCE)


def shard_source(hub: FaultyHub, token: str | None = None) -> XetByteSource:
    source = next(job.source for job in xet_jobs(hub, token) if job.path.endswith(SHARD))
    assert isinstance(source, XetByteSource)
    return source


def test_the_hash_is_locked_and_the_bytes_come_through_xet(
    hub: FaultyHub, folder: Path, tmp_path: Path
) -> None:
    model = resolve(hub)
    assert {file.path: file.xet_hash for file in model.files} == {
        "config.json": None,
        SHARD: hub.xet_hashes[SHARD],
    }
    notes: list[str] = []
    jobs = model_jobs(
        model, endpoint=hub.url, token=False, transport="xet", patience=PATIENCE, note=notes.append
    )
    with PayloadStore(tmp_path / "tree", tmp_path / "work") as store:
        fetch_all(jobs, store, retries=RETRIES)
    for name in ("config.json", SHARD):
        assert (tmp_path / "tree" / model.snapshot / name).read_bytes() == (folder / name).read_bytes()
    assert hub.asked(f"resolve/{model.commit}/{SHARD}") == []
    assert notes == [f"{REPO}: 1 files (2 B) are not in Xet and come over HTTP"]


@pytest.mark.parametrize("offset", [0, 1, 1_234_567, SIZE - 1])
def test_a_stream_starts_at_any_offset(hub: FaultyHub, folder: Path, offset: int) -> None:
    with shard_source(hub).open(offset) as body:
        pieces = list(body)
    assert b"".join(pieces) == (folder / SHARD).read_bytes()[offset:]
    assert max(map(len, pieces)) <= 1 << 20


def test_other_bytes_in_the_store_are_found_by_the_digest(hub: FaultyHub, tmp_path: Path) -> None:
    xorb = max((tmp_path / "cas").rglob("xorbs/default.*"), key=lambda path: path.stat().st_size)
    data = bytearray(xorb.read_bytes())
    data[len(data) // 2] ^= 1
    xorb.chmod(0o600)
    xorb.write_bytes(data)
    with PayloadStore(tmp_path / "tree", tmp_path / "work") as store, pytest.raises(IntegrityError) as caught:
        fetch_all([job for job in xet_jobs(hub) if job.path.endswith(SHARD)], store, retries=RETRIES)
    assert caught.value.reference == "digest-mismatch"
    assert [path for path in (tmp_path / "tree").rglob("*") if path.is_file()] == []


def test_an_object_that_is_not_in_the_store_is_not_an_empty_file(hub: FaultyHub) -> None:
    hub.xet_hashes[SHARD] = "0" * 64
    with pytest.raises(TransientError) as caught, shard_source(hub).open(0) as body:
        list(body)
    finding = caught.value.findings[0]
    assert (finding.reference, finding.expected) == ("ended-early", f"{SIZE} more bytes")
    assert "come over HTTP" in finding.hint


def test_a_store_that_cannot_be_reached_may_be_tried_again(
    hub: FaultyHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "bundler.sources.hub.xet.BOUNDED",
        {**BOUNDED, "client.retry_max_attempts": 0, "client.retry_base_delay": "1ms"},
    )
    hub.cas_url = "http://127.0.0.1:9"
    with pytest.raises(TransientError), shard_source(hub).open(0) as body:
        list(body)


@pytest.mark.parametrize(
    ("refuse", "kind", "reference"),
    [
        (Refuse(status=403, code="GatedRepo"), NetworkError, "gated-model"),
        (Refuse(status=404, code="RevisionNotFound"), NetworkError, "no-such-revision"),
        (Refuse(status=503), TransientError, "server-busy"),
    ],
)
def test_a_hub_that_gives_no_access_is_told_as_for_http(
    hub: FaultyHub, refuse: Refuse, kind: type[NetworkError], reference: str
) -> None:
    source = shard_source(hub)
    hub.inject("/xet-read-token/", refuse)
    with pytest.raises(kind) as caught, source.open(0):
        pass
    assert caught.value.reference == reference


@pytest.mark.parametrize("url", ["", "file:///tmp", "ftp://x", "x", "http://[x"])
def test_a_store_of_another_kind_is_not_opened(hub: FaultyHub, url: str) -> None:
    hub.cas_url = url
    with pytest.raises(NetworkError) as caught, shard_source(hub).open(0):
        pass
    assert caught.value.reference == "hub-answer"


def test_a_hub_elsewhere_names_no_folder_of_this_machine() -> None:
    from bundler.sources.hub.xet import _refuse_store

    for store in ("local:///root", "http://127.0.0.1:1"):
        with pytest.raises(NetworkError, match="hub-answer"):
            _refuse_store(store, "https://hub.example/api/models/a/b/xet-read-token/main")
    _refuse_store("https://cas.example", "https://hub.example/api/models/a/b/xet-read-token/main")


def test_the_token_goes_to_the_hub_only(hub: FaultyHub) -> None:
    hub.token = SECRET
    source = shard_source(hub, SECRET)
    assert SECRET not in repr(source)
    with Storage() as elsewhere:
        location = {"Location": f"{elsewhere.url}/token"}
        hub.inject("/xet-read-token/", Refuse(status=302, headers=location))
        with pytest.raises(NetworkError) as caught, source.open(0):
            pass
        assert [seen.authorization for seen in elsewhere.seen] == [""]
    assert SECRET not in str([finding.to_json() for finding in caught.value.findings])


def test_a_stream_that_waits_can_be_ended_from_another_thread(hub: FaultyHub) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hub.cas_url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with shard_source(hub).open(0) as body:
            reader = threading.Thread(target=lambda: list(body))
            reader.start()
            time.sleep(0.3)
            assert reader.is_alive()
            body.abort()
            reader.join(timeout=5)
            assert not reader.is_alive()


def test_hf_xet_loads_only_when_it_is_used() -> None:
    script = (
        "import sys, bundler.sources.hub.repository;"
        "print([name for name in ('hf_xet', 'huggingface_hub') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_the_settings_are_ones_hf_xet_knows() -> None:
    config = hf_xet.XetConfig().with_config(dict(BOUNDED))
    assert config.get("telemetry.enabled") is False
    assert config.get("reconstruction.download_buffer_limit") == 256_000_000
    assert set(BOUNDED) <= set(config.keys())


@pytest.mark.slow
def test_memory_stays_bounded_for_a_large_file(tmp_path: Path) -> None:
    """1 GB through Xet in a fresh process: the buffers, not the file, decide."""
    script = f"""
import os, sys
import hf_xet
from tests.peak_memory import peak_kibibytes
from bundler.sources.hub.xet import BOUNDED
root = {str(tmp_path)!r}
with open(root + "/big.bin", "wb") as file:
    for _ in range(100):
        file.write(os.urandom(10_000_000))
os.mkdir(root + "/cas")
if os.fork() == 0:
    with hf_xet.XetSession().new_upload_commit(endpoint="local://" + root + "/cas") as commit:
        upload = commit.start_upload_file(root + "/big.bin")
    open(root + "/hash", "w").write(upload.result().xet_info.hash)
    os._exit(0)
os.wait()
session = hf_xet.XetSession(hf_xet.XetConfig().with_config(dict(BOUNDED)))
group = session.new_download_stream_group(endpoint="local://" + root + "/cas")
info = hf_xet.XetFileInfo(open(root + "/hash").read(), 10**9)
assert sum(map(len, group.download_stream(info))) == 10**9
print(peak_kibibytes())
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 700 * 1024
