"""Files from a URL with its digest, and from this machine."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from bundler.core.specs.lock import LockedFile
from bundler.core.specs.spec import DocumentSpec, FileSpec
from bundler.errors import IntegrityError, MalformedError, NetworkError
from bundler.sources.fetch import fetch_all
from bundler.sources.files import LocalByteSource, destination, file_jobs, resolve_file
from bundler.sources.http import Timeouts, TransientError
from bundler.sources.retry import RetryPolicy
from bundler.storage.payload import PayloadStore
from tests.servers.http import Fault, FileServer

DATA = os.urandom(100_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
QUICK = Timeouts(connect=1, stall=0.3)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer({"/tool.bin": DATA}) as running:
        yield running


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "spec"
    (folder / "legal").mkdir(parents=True)
    (folder / "legal" / "opinion.pdf").write_bytes(DATA)
    return folder


def _by_url(server: FileServer, **members: str) -> FileSpec:
    return FileSpec(path="tools/tool.bin", url=f"{server.url}/tool.bin", sha256=members.get("sha256", SHA256))


def test_a_url_is_locked_by_asking_for_its_size_only(server: FileServer, base: Path) -> None:
    locked = resolve_file(_by_url(server), base)
    assert locked == LockedFile(
        path="payload/files/tools/tool.bin", size=100_000, sha256=SHA256, url=f"{server.url}/tool.bin"
    )
    assert [seen.method for seen in server.requests] == ["HEAD"]


@pytest.mark.parametrize("reason", ["no length", "coded", "405", "403"])
def test_a_url_that_does_not_tell_its_size_is_read_through(
    server: FileServer, base: Path, reason: str
) -> None:
    if reason == "no length":
        server.always["/tool.bin"] = Fault(short=1)
        expected = hashlib.sha256(DATA[:-1]).hexdigest()
        assert resolve_file(_by_url(server, sha256=expected), base).size == 99_999
    else:
        if reason == "coded":
            server.always["/tool.bin"] = Fault(
                head_headers={"Content-Encoding": "gzip", "Content-Length": "9"}
            )
        else:
            server.head_status = int(reason)
        assert resolve_file(_by_url(server), base).size == 100_000
    assert [seen.method for seen in server.requests] == ["HEAD", "GET"]


def test_a_url_with_other_bytes_than_the_spec_says_is_refused(server: FileServer, base: Path) -> None:
    server.head_status = 405
    with pytest.raises(IntegrityError) as caught:
        resolve_file(_by_url(server, sha256="0" * 64), base)
    finding = caught.value.findings[0]
    assert (finding.expected, finding.found) == (f"sha256:{'0' * 64}", f"sha256:{SHA256}")
    assert finding.where == f"{server.url}/tool.bin"


def test_a_url_that_is_not_there_is_refused(server: FileServer, base: Path) -> None:
    del server.files["/tool.bin"]
    with pytest.raises(NetworkError, match="not-found"):
        resolve_file(_by_url(server), base)


def test_a_server_that_is_busy_may_be_asked_again(server: FileServer, base: Path) -> None:
    server.head_status = 503
    with pytest.raises(TransientError):
        resolve_file(_by_url(server), base, timeouts=QUICK)


def test_a_local_file_is_hashed_when_it_is_locked(base: Path) -> None:
    locked = resolve_file(FileSpec(path="opinion.pdf", source="legal/opinion.pdf"), base)
    assert locked == LockedFile(
        path="payload/files/opinion.pdf", size=100_000, sha256=SHA256, source="legal/opinion.pdf"
    )


def test_a_local_file_with_another_digest_than_the_spec_says_is_refused(base: Path) -> None:
    spec = FileSpec(path="opinion.pdf", source="legal/opinion.pdf", sha256="0" * 64)
    with pytest.raises(IntegrityError, match="digest-mismatch"):
        resolve_file(spec, base)


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("license", "payload/licenses/opinion.pdf"),
        ("document", "payload/records/documents/opinion.pdf"),
    ],
)
def test_documents_have_their_folder_by_kind(
    base: Path, kind: Literal["license", "document"], path: str
) -> None:
    spec = DocumentSpec(source="legal/opinion.pdf", title="Legal opinion", applies_to=("kimi",))
    locked = resolve_file(spec, base, kind=kind)
    assert (locked.path, locked.kind, locked.title, locked.applies_to) == (
        path,
        kind,
        "Legal opinion",
        ("kimi",),
    )
    renamed = DocumentSpec(source="legal/opinion.pdf", name="LEGAL.pdf")
    assert resolve_file(renamed, base, kind=kind).path.endswith("/LEGAL.pdf")


@pytest.mark.parametrize("what", ["missing", "folder", "pipe"])
def test_what_is_no_readable_file_is_refused(base: Path, what: str) -> None:
    place = base / "thing"
    if what == "folder":
        place.mkdir()
    elif what == "pipe":
        os.mkfifo(place)
    with pytest.raises(MalformedError) as caught:
        resolve_file(DocumentSpec(source="thing"), base)
    assert caught.value.reference == "no-source"
    assert caught.value.findings[0].where == str(place)


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "a\nb", ".git/x", "con", "a//b", "x."])
def test_hostile_destinations_are_refused(base: Path, name: str) -> None:
    # The spec refuses these as well; this room does not rely on who filled the value.
    spec = FileSpec.model_construct(path=name, source="legal/opinion.pdf", url=None, sha256=None)
    with pytest.raises(MalformedError) as caught:
        resolve_file(spec, base)
    assert caught.value.reference == "bad-path"
    with pytest.raises(MalformedError):
        destination("license", name)


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("file", "payload/models/x"),
        ("license", "payload/files/x"),
        ("document", "payload/records/x"),
        ("file", "payload/files/../../x"),
        ("file", "manifest.json"),
    ],
)
def test_a_lock_that_sends_a_file_elsewhere_is_refused(
    base: Path, kind: Literal["file", "license", "document"], path: str
) -> None:
    locked = LockedFile(path=path, size=1, sha256=SHA256, source="x", kind=kind)
    with pytest.raises(MalformedError, match="bad-path"):
        file_jobs([locked], base)


def test_locked_files_are_fetched_and_copied_with_their_digests(
    server: FileServer, base: Path, tmp_path: Path
) -> None:
    locked = [
        resolve_file(_by_url(server), base),
        resolve_file(DocumentSpec(source="legal/opinion.pdf"), base, kind="license"),
    ]
    with PayloadStore(tmp_path / "tree", tmp_path / "work") as store:
        with store.writer("payload/licenses/opinion.pdf", 100_000) as writer:
            writer.write(DATA[:777])
        fetch_all(file_jobs(locked, base), store)
        assert sorted(store.stored()) == ["payload/files/tools/tool.bin", "payload/licenses/opinion.pdf"]
    assert (tmp_path / "tree/payload/licenses/opinion.pdf").read_bytes() == DATA


@pytest.mark.parametrize(("change", "reference"), [(b"x", "source-changed"), (b"", "digest-mismatch")])
def test_a_local_file_that_changed_since_the_lock_is_refused(
    base: Path, tmp_path: Path, change: bytes, reference: str
) -> None:
    locked = [resolve_file(DocumentSpec(source="legal/opinion.pdf"), base)]
    (base / "legal/opinion.pdf").write_bytes(DATA[::-1] + change)
    with PayloadStore(tmp_path / "tree", tmp_path / "work") as store:
        with pytest.raises(IntegrityError) as caught:
            fetch_all(file_jobs(locked, base), store, retries=RetryPolicy(first=0.01))
        assert caught.value.reference == reference
        assert store.stored() == {}


def test_a_local_source_can_be_read_from_anywhere(base: Path) -> None:
    source = LocalByteSource(path=base / "legal/opinion.pdf", size=100_000)
    with source.open(99_990) as pieces:
        assert b"".join(pieces) == DATA[99_990:]
