"""`sources` says where a project comes from if it is needed; it never makes one needed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bundler.core.specs.lock import LockedEngine
from bundler.core.specs.spec import EngineSpec
from bundler.errors import MalformedError
from bundler.sources.wheels.uv import read_annotations
from bundler.sources.wheels.wheels import resolve_engine
from tests.servers.index import IndexServer
from tests.wheel_files import wheel


@pytest.fixture
def default() -> Iterator[IndexServer]:
    with IndexServer() as server:
        server.add(*wheel("transformers", "1.0", requires=["torch"]))
        yield server


@pytest.fixture
def other() -> Iterator[IndexServer]:
    with IndexServer() as server:
        yield server


def lock(default: IndexServer, other: IndexServer, tmp_path: Path, *routed: str, **more: Any) -> LockedEngine:
    value = {
        "name": "transformers",
        "requirement": "transformers==1.0",
        "accelerator": "cpu",
        "indexes": [{"name": "x", "url": other.simple}],
        "sources": dict.fromkeys(routed, "x"),
    }
    environ = {"UV_DEFAULT_INDEX": default.simple, "UV_CACHE_DIR": str(tmp_path / "c"), "PATH": "/usr/bin"}
    return resolve_engine(EngineSpec.model_validate({**value, **more}), environ=environ)


def chosen(engine: LockedEngine) -> dict[str, tuple[str, str | None]]:
    return {one.name: (one.version, one.index) for one in engine.wheels if one.name != "transformers"}


def test_a_needed_project_comes_from_its_index(
    default: IndexServer, other: IndexServer, tmp_path: Path
) -> None:
    default.add(*wheel("torch", "9.0"))
    other.add(*wheel("torch", "2.0"))
    assert chosen(lock(default, other, tmp_path, "torch")) == {"torch": ("2.0", "x")}


def test_a_needed_project_may_be_in_its_index_only(
    default: IndexServer, other: IndexServer, tmp_path: Path
) -> None:
    other.add(*wheel("torch", "2.0", requires=["deep"]))
    other.add(*wheel("deep", "1.0"))
    assert chosen(lock(default, other, tmp_path, "torch", "deep")) == {
        "torch": ("2.0", "x"),
        "deep": ("1.0", "x"),
    }


@pytest.mark.parametrize("there", [True, False], ids=["in the index", "in no index"])
def test_a_project_nobody_needs_is_left_out(
    default: IndexServer, other: IndexServer, tmp_path: Path, there: bool
) -> None:
    other.add(*wheel("torch", "2.0"))
    if there:
        other.add(*wheel("torchaudio", "1.0", requires=["torch<2"]))
    assert chosen(lock(default, other, tmp_path, "torch", "torchaudio")) == {"torch": ("2.0", "x")}


def test_what_only_another_build_needs_is_left_out(
    default: IndexServer, other: IndexServer, tmp_path: Path
) -> None:
    """The default index's torch needs triton, the CPU build of the other index does not."""
    default.add(*wheel("torch", "2.0", requires=["triton"]))
    default.add(*wheel("triton", "1.0"))
    other.add(*wheel("torch", "2.0"))
    other.add(*wheel("triton", "1.0"))
    assert chosen(lock(default, other, tmp_path, "torch", "triton")) == {"torch": ("2.0", "x")}


def test_a_link_to_a_file_of_this_machine_is_refused(
    default: IndexServer, other: IndexServer, tmp_path: Path
) -> None:
    name, data = wheel("torch", "2.0")
    (tmp_path / name).write_bytes(data)
    default.add(name, data).url = (tmp_path / name).as_uri()
    default.publish()
    with pytest.raises(MalformedError) as caught:
        lock(default, other, tmp_path)
    assert caught.value.reference == "bad-index-answer"
    assert caught.value.findings[0].found == "a link to a file of this machine"


def test_annotations_are_read_in_both_forms() -> None:
    text = "a==1\n    # via the (pyproject.toml)\nB_c==2 ; x\n    # via\n    #   a\n    #   d.e\n"
    assert read_annotations(text) == {"a": {"the"}, "b-c": {"a", "d-e"}}
