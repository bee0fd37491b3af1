"""Publish attestations of wheels: pinned as an index offers them, fetched again only as they were pinned."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from bundler.core.specs.lock import LockedEngine, LockedProvenance, LockedWheel
from bundler.core.specs.spec import EngineSpec, IndexSpec
from bundler.errors import IntegrityError, MalformedError, NetworkError, SealiftError
from bundler.sources.fetch import fetch_all
from bundler.sources.http import HttpByteSource, TransientError, session
from bundler.sources.retry import RetryPolicy
from bundler.sources.small_documents import read_job, read_small
from bundler.sources.wheels.indexes import engine_indexes
from bundler.sources.wheels.provenance import provenance_jobs, with_provenance
from bundler.sources.wheels.wheels import resolve_engine
from bundler.storage.payload import PayloadStore
from tests.servers.http import Fault, FileServer
from tests.servers.index import IndexServer, Offer
from tests.wheel_files import wheel

QUICK = RetryPolicy(tries=3, first=0.01, jitter=lambda: 0.0)
DOCUMENT = b'{"version": 1, "attestation_bundles": []}'
NAME = "helper-1.0-py3-none-any.whl"


@pytest.fixture(params=[False, True], ids=["json", "html"])
def index(request: pytest.FixtureRequest) -> Iterator[IndexServer]:
    with IndexServer(html=request.param) as server:
        server.add(*wheel("xllamacpp", "1.0", requires=["helper"]))
        server.add(*wheel("helper", "1.0"))
        yield server


@pytest.fixture
def json_index() -> Iterator[IndexServer]:
    with IndexServer() as server:
        server.add(*wheel("helper", "1.0"))
        yield server


def environ(index: IndexServer, tmp_path: Path) -> dict[str, str]:
    return {"UV_DEFAULT_INDEX": index.simple, "UV_CACHE_DIR": str(tmp_path / "cache"), "PATH": "/usr/bin"}


def locked(index: IndexServer, tmp_path: Path) -> LockedEngine:
    spec = EngineSpec(name="llama.cpp", requirement="xllamacpp==1.0", accelerator="cpu")
    return resolve_engine(spec, environ=environ(index, tmp_path))


def helper(index: IndexServer) -> Offer:
    return index.offers["helper"][0]


def pinned(index: IndexServer, **changes: str) -> LockedProvenance | None:
    """What is pinned for the wheel of `helper`."""
    offer = helper(index)
    value = {"name": "helper", "version": "1.0", "filename": NAME, "sha256": offer.sha256, **changes}
    one = LockedWheel.model_validate({**value, "size": offer.size})
    found = with_provenance([one], engine_indexes((), {}, {"UV_DEFAULT_INDEX": index.simple}))
    return found[0].provenance


def test_what_an_index_offers_is_pinned_by_size_and_digest(index: IndexServer, tmp_path: Path) -> None:
    index.attest(helper(index), DOCUMENT)
    found = {item.name: item.provenance for item in locked(index, tmp_path).wheels}
    pin = LockedProvenance(size=len(DOCUMENT), sha256=hashlib.sha256(DOCUMENT).hexdigest())
    assert found == {"helper": pin, "xllamacpp": None}


def test_a_link_of_a_mirror_without_the_document_behind_it_offers_nothing(json_index: IndexServer) -> None:
    path = json_index.attest(helper(json_index), DOCUMENT)
    del json_index.files[path]
    assert pinned(json_index) is None


def test_an_index_that_fails_is_not_taken_for_one_that_offers_nothing(json_index: IndexServer) -> None:
    path = json_index.attest(helper(json_index), DOCUMENT)
    json_index.always[path] = Fault(status=403)
    with pytest.raises(NetworkError) as caught:
        pinned(json_index)
    assert caught.value.reference == "forbidden"


def test_a_provenance_beside_other_bytes_is_not_that_of_the_wheel(json_index: IndexServer) -> None:
    json_index.attest(helper(json_index), DOCUMENT)
    assert pinned(json_index, sha256="a" * 64) is None


@pytest.mark.parametrize("link", ["file:///etc/passwd", "javascript:alert(1)", "http://[", "", "ftp://x/y"])
def test_a_link_that_cannot_be_one_offers_nothing(json_index: IndexServer, link: str) -> None:
    helper(json_index).extra = {"provenance": link}
    json_index.publish()
    assert pinned(json_index) is None


@pytest.mark.parametrize("said", [None, 7, ["x"], {"a": 1}])
def test_a_member_of_another_type_offers_nothing(json_index: IndexServer, said: object) -> None:
    helper(json_index).extra = {"provenance": said}
    json_index.publish()
    assert pinned(json_index) is None


def test_a_huge_document_is_refused_while_it_arrives(json_index: IndexServer) -> None:
    path = json_index.attest(helper(json_index), b"x" * (9 << 20))
    with pytest.raises(MalformedError) as caught:
        pinned(json_index)
    finding = caught.value.findings[0]
    assert (finding.reference, finding.where) == ("too-large", f"provenance of {NAME}")
    assert json_index.sent(path) <= len(json_index.files[path])


def test_a_password_of_the_index_stays_with_the_index(json_index: IndexServer) -> None:
    with FileServer({"/provenance": DOCUMENT}) as elsewhere:
        helper(json_index).provenance = f"{elsewhere.url}/provenance"
        json_index.publish()
        url = json_index.simple.replace("http://", "http://user:secret@")
        one = LockedWheel(
            name="helper", version="1.0", filename=NAME, size=1, sha256=str(helper(json_index).sha256)
        )
        (found,) = with_provenance([one], engine_indexes((), {}, {"UV_DEFAULT_INDEX": url}))
    assert found.provenance is not None
    assert "authorization" in json_index.gets("/simple/helper/")[-1].headers
    assert "authorization" not in elsewhere.requests[-1].headers


# --- the build ---


def fetched(index: IndexServer, engine: LockedEngine, folder: Path) -> Path:
    with PayloadStore(folder / "tree", folder / "work") as store:
        jobs = provenance_jobs(engine, (), environ=environ(index, folder))
        fetch_all(jobs, store, workers=2, retries=QUICK)
    return folder / "tree"


def test_a_build_fetches_the_document_to_its_place(index: IndexServer, tmp_path: Path) -> None:
    index.attest(helper(index), DOCUMENT)
    tree = fetched(index, locked(index, tmp_path), tmp_path)
    files = [path for path in tree.rglob("*") if path.is_file()]
    assert [str(path.relative_to(tree)) for path in files] == [
        f"payload/evidence/wheels/{NAME}.provenance.json"
    ]
    assert files[0].read_bytes() == DOCUMENT


@pytest.mark.parametrize(
    ("document", "reference"),
    [
        pytest.param(DOCUMENT.replace(b"1", b"2"), "digest-mismatch", id="other bytes of the same size"),
        pytest.param(DOCUMENT + b" ", "size-changed", id="another size"),
        pytest.param(None, "provenance-gone", id="no longer offered"),
    ],
)
def test_evidence_that_changed_since_it_was_locked_is_refused(
    json_index: IndexServer, tmp_path: Path, document: bytes | None, reference: str
) -> None:
    json_index.add(*wheel("xllamacpp", "1.0", requires=["helper"]))
    json_index.attest(helper(json_index), DOCUMENT)
    engine = locked(json_index, tmp_path)
    if document is None:
        helper(json_index).provenance = None
        json_index.publish()
    else:
        json_index.attest(helper(json_index), document)
    with pytest.raises(SealiftError) as caught:
        fetched(json_index, engine, tmp_path)
    assert caught.value.reference == reference
    assert not [path for path in (tmp_path / "tree").rglob("*") if path.is_file()]


def test_an_index_of_its_own_has_its_own_folder(json_index: IndexServer, tmp_path: Path) -> None:
    json_index.add(*wheel("xllamacpp", "1.0", requires=["helper"]))
    with IndexServer() as other:
        offer = other.add(*wheel("helper", "1.0"))
        other.attest(offer, DOCUMENT)
        inner = IndexSpec(name="inner", url=other.simple)
        spec = EngineSpec(
            name="llama.cpp",
            requirement="xllamacpp==1.0",
            accelerator="cpu",
            indexes=(inner,),
            sources={"helper": "inner"},
        )
        engine = resolve_engine(spec, environ=environ(json_index, tmp_path))
        jobs = provenance_jobs(engine, (inner,), environ=environ(json_index, tmp_path))
        assert [job.path for job in jobs] == [f"payload/evidence/wheels/inner/{NAME}.provenance.json"]
        assert read_job(jobs[0]) == DOCUMENT


# --- small documents ---


def test_a_small_document_is_tried_again_and_capped(tmp_path: Path) -> None:
    with FileServer({"/x": b"abc"}) as server, session() as asking:
        source = HttpByteSource(url=f"{server.url}/x", session=asking)
        server.faults["/x"] += [Fault(status=503), Fault(drop_after=1)]
        assert read_small(source, limit=3, where="x", retries=QUICK) == b"abc"
        with pytest.raises(MalformedError) as caught:
            read_small(source, limit=2, where="x", retries=QUICK)
        assert caught.value.reference == "too-large"
        server.always["/x"] = Fault(status=503)
        with pytest.raises(TransientError):
            read_small(source, limit=3, where="x", retries=QUICK)


def test_a_document_that_is_not_what_was_pinned_is_refused_while_locking(
    json_index: IndexServer, tmp_path: Path
) -> None:
    json_index.add(*wheel("xllamacpp", "1.0", requires=["helper"]))
    json_index.attest(helper(json_index), DOCUMENT)
    (job,) = provenance_jobs(locked(json_index, tmp_path), (), environ=environ(json_index, tmp_path))
    json_index.attest(helper(json_index), DOCUMENT.replace(b"1", b"2"))
    with pytest.raises(IntegrityError) as caught:
        read_job(job)
    assert caught.value.findings[0].where == job.path
