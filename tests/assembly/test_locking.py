"""Locks: what is pinned, what is refused, and what counts as moved."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundler.assembly.launch_rules import profile_warnings
from bundler.assembly.locking import DocumentKind, Resolvers, lock_changes, make_lock, spec_warnings
from bundler.core.specs.lock import (
    Lock,
    LockedEngine,
    LockedFile,
    LockedImage,
    LockedModel,
    LockedModelFile,
    LockedPlatform,
    LockedWheel,
)
from bundler.core.specs.spec import DocumentSpec, EngineSpec, FileSpec, ImageSpec, ModelSpec, Spec
from bundler.core.specs.spec_text import parse_spec
from bundler.errors import IntegrityError, MalformedError, NetworkError, PolicyError
from bundler.sources.files import resolve_file
from bundler.sources.http import TransientError

SPEC = b"""\
apiVersion: sealift/v1
name: small
channel: tests
serial: 3
models:
  - {repo: org/model, format: gguf}
engines:
  - {name: llama.cpp, requirement: xllamacpp==1.0, accelerator: cpu}
images:
  - reference: reg.example/app:1
documents:
  - {source: opinion.txt, title: Opinion, appliesTo: [model]}
licenses:
  - {source: opinion.txt, name: LICENSE-model}
launch:
  - {profile: default, engine: llama.cpp, model: model, servedName: m, modelFile: "q2/*-00001-of-*.gguf"}
node: {ram: 8GiB}
"""
SHARDS = ("q2/m-00001-of-00002.gguf", "q2/m-00002-of-00002.gguf")


def hex_of(text: str, length: int = 64) -> str:
    return hashlib.sha512(text.encode()).hexdigest()[:length]


def pin_model(spec: ModelSpec) -> LockedModel:
    return LockedModel(
        id=spec.identifier,
        repo=spec.repo,
        revision=spec.revision,
        commit=hex_of(spec.repo, 40),
        format=spec.format,
        files=tuple(
            LockedModelFile(path=path, size=10, git_blob_sha1=hex_of(path, 40), lfs_sha256=hex_of(path))
            for path in SHARDS
        ),
    )


def pin_engine(spec: EngineSpec) -> LockedEngine:
    return LockedEngine(
        id=spec.identifier,
        name=spec.name,
        requirement=spec.requirement,
        version="1.0",
        python=spec.python,
        platform=spec.platform,
        glibc=spec.glibc,
        accelerator=spec.accelerator,
        wheels=(wheel("xllamacpp"),),
    )


def wheel(name: str, version: str = "1.0") -> LockedWheel:
    filename = f"{name}-{version}-py3-none-any.whl"
    return LockedWheel(name=name, version=version, filename=filename, size=5, sha256=hex_of(filename))


def pin_tools(engines: Sequence[LockedEngine]) -> tuple[LockedEngine, ...]:
    return tuple(
        engine.model_copy(update={"id": "sealift", "name": "sealift", "wheels": (wheel("uv"),)})
        for engine in engines
    )


def pin_image(spec: ImageSpec) -> LockedImage:
    digest = f"sha256:{hex_of(spec.reference)}"
    blob = (f"sha256:{hex_of('config')}", 7)
    platform = LockedPlatform(platform="linux/amd64", digest=digest, size=9, media_type="m", blobs=(blob,))
    return LockedImage(reference=spec.reference, digest=digest, size=9, media_type="m", platforms=(platform,))


def pin_file(spec: FileSpec | DocumentSpec, base: Path, *, kind: DocumentKind = "document") -> LockedFile:
    return resolve_file(spec, base, kind=kind)


RESOLVERS = Resolvers(model=pin_model, engine=pin_engine, tools=pin_tools, image=pin_image, file=pin_file)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "opinion.txt").write_text("fine\n")
    return tmp_path


def made(base: Path, data: bytes = SPEC, resolvers: Resolvers = RESOLVERS) -> Lock:
    return make_lock(parse_spec(data, "spec.yaml"), data, base, resolvers=resolvers)


def failing(error: Exception) -> Callable[..., NoReturn]:
    def fail(*_: object, **__: object) -> NoReturn:
        raise error

    return fail


def test_everything_the_spec_asks_for_is_in_the_lock(base: Path) -> None:
    said: list[str] = []
    lock = make_lock(parse_spec(SPEC, "s"), SPEC, base, resolvers=RESOLVERS, say=said.append)
    assert lock.spec_sha256 == hashlib.sha256(SPEC).hexdigest()
    assert (lock.name, lock.channel, lock.serial) == ("small", "tests", 3)
    assert [model.repo for model in lock.models] == ["org/model"]
    assert [engine.folder for engine in lock.engines] == ["llama.cpp-cp312-x86_64"]
    assert [engine.folder for engine in lock.tools] == ["sealift-cp312-x86_64"]
    assert [file.kind for file in lock.files] == ["license", "document"]
    assert lock.node is not None
    assert said == [
        "pinning model org/model",
        "pinning engine xllamacpp==1.0",
        "pinning tools for linux/amd64 with Python 3.12",
        "pinning image reg.example/app:1",
        "pinning licence opinion.txt",
        "pinning document opinion.txt",
    ]


def test_the_same_answers_give_the_same_bytes_and_they_can_be_read_back(base: Path) -> None:
    first, second = made(base), made(base)
    assert first.to_bytes() == second.to_bytes()
    assert Lock.parse(first.to_bytes(), where="lock") == first


def test_a_pattern_for_the_model_file_becomes_the_one_file_it_names(base: Path) -> None:
    assert made(base).launch[0].model_file == SHARDS[0]


@pytest.mark.parametrize("pattern", [b"q2/*.gguf", b"q4/*-00001-of-*.gguf", b"absent.gguf"])
def test_a_model_file_that_is_not_exactly_one_is_refused_with_what_there_is(
    base: Path, pattern: bytes
) -> None:
    with pytest.raises(MalformedError) as caught:
        made(base, SPEC.replace(b"q2/*-00001-of-*.gguf", pattern))
    finding = caught.value.findings[0]
    assert finding.reference == "model-file"
    assert finding.where == "launch profile default: modelFile"
    assert finding.found == ", ".join(SHARDS)


def test_what_cannot_be_pinned_is_refused_all_at_once(base: Path) -> None:
    resolvers = replace(
        RESOLVERS,
        model=failing(NetworkError("gated-model", "the model is gated")),
        image=failing(PolicyError("foreign-layer", "a layer lies elsewhere")),
    )
    (base / "opinion.txt").unlink()
    with pytest.raises(PolicyError) as caught:
        made(base, resolvers=resolvers)
    references = [finding.reference for finding in caught.value.findings]
    assert references == ["gated-model", "foreign-layer", "no-source", "no-source"]


def test_the_error_is_of_the_family_of_the_fault(base: Path) -> None:
    with pytest.raises(IntegrityError) as caught:
        made(base, resolvers=replace(RESOLVERS, engine=failing(IntegrityError("hub-disagrees", "no"))))
    assert [finding.reference for finding in caught.value.findings] == ["hub-disagrees"]


def test_a_transient_failure_is_told_as_one_of_the_network(base: Path) -> None:
    error = TransientError("unreachable", "the server cannot be reached")
    with pytest.raises(NetworkError) as caught:
        made(base, resolvers=replace(RESOLVERS, model=failing(error)))
    assert caught.value.reference == "unreachable"


def test_an_unexpected_fault_stays_one(base: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        made(base, resolvers=replace(RESOLVERS, model=failing(ZeroDivisionError())))


def test_two_documents_of_one_name_are_refused(base: Path) -> None:
    data = SPEC.replace(b"documents:\n", b"documents:\n  - {source: opinion.txt}\n")
    with pytest.raises(MalformedError) as caught:
        made(base, data)
    assert caught.value.reference == "duplicate-path"


def test_two_engines_with_different_bytes_under_one_wheel_name_are_refused(base: Path) -> None:
    def engines(spec: EngineSpec) -> LockedEngine:
        size = 5 if spec.identifier == "llama.cpp" else 6
        return pin_engine(spec).model_copy(
            update={"wheels": (wheel("xllamacpp").model_copy(update={"size": size}),)}
        )

    data = SPEC.replace(
        b"engines:\n", b"engines:\n  - {name: llama.cpp, id: other, requirement: xllamacpp==1.0}\n"
    )
    with pytest.raises(MalformedError) as caught:
        made(base, data, replace(RESOLVERS, engine=engines))
    assert caught.value.reference == "conflicting-files"


def test_without_engines_no_tools_are_pinned(base: Path) -> None:
    data = b"apiVersion: sealift/v1\nname: x\nchannel: c\nserial: 0\nmodels: [{repo: a/b}]\n"
    assert made(base, data, replace(RESOLVERS, tools=failing(AssertionError()))).tools == ()


def test_an_engine_without_a_date_and_a_pattern_without_files_are_warnings(base: Path) -> None:
    def engine(spec: EngineSpec) -> LockedEngine:
        return pin_engine(spec).model_copy(update={"wheels": (wheel("a"), wheel("b"))})

    def model(spec: ModelSpec) -> LockedModel:
        return pin_model(spec).model_copy(update={"include": ("q2/*", "q9/*")})

    spec = parse_spec(SPEC, "s")
    lock = make_lock(spec, SPEC, base, resolvers=replace(RESOLVERS, engine=engine, model=model))
    warnings = {finding.reference: finding.where for finding in spec_warnings(spec, lock)}
    assert warnings == {"pattern-without-files": "model model: q9/*", "no-date": "engine llama.cpp"}


# Whether upstream moved.


def test_nothing_moved_when_everything_answers_as_locked(base: Path) -> None:
    assert lock_changes(made(base), made(base)) == ()


def moved_model(spec: ModelSpec) -> LockedModel:
    locked = pin_model(spec)
    changed = locked.files[0].model_copy(update={"lfs_sha256": "0" * 64})
    return locked.model_copy(update={"commit": "f" * 40, "files": (changed, *locked.files[1:])})


def moved_engine(spec: EngineSpec) -> LockedEngine:
    return pin_engine(spec).model_copy(update={"wheels": (wheel("xllamacpp", "1.1"), wheel("new"))})


def moved_image(spec: ImageSpec) -> LockedImage:
    return pin_image(spec).model_copy(update={"digest": f"sha256:{'0' * 64}"})


def gated_model(spec: ModelSpec) -> LockedModel:
    return pin_model(spec).model_copy(update={"gated": True})


MOVES: list[tuple[str, Resolvers, list[str]]] = [
    (
        "a branch that moved names the commit and each changed file",
        replace(RESOLVERS, model=moved_model),
        ["model model@main", f"model model: {SHARDS[0]}"],
    ),
    (
        "an engine names each wheel",
        replace(RESOLVERS, engine=moved_engine),
        ["engine llama.cpp: new", "engine llama.cpp: xllamacpp"],
    ),
    (
        "a tag that moved names both digests",
        replace(RESOLVERS, image=moved_image),
        ["image reg.example/app:1: digest"],
    ),
    ("a change that has no name of its own is told", replace(RESOLVERS, model=gated_model), ["model model"]),
]


@pytest.mark.parametrize(("resolvers", "where"), [row[1:] for row in MOVES], ids=[row[0] for row in MOVES])
def test_what_moved_is_named(base: Path, resolvers: Resolvers, where: list[str]) -> None:
    changes = lock_changes(made(base), made(base, resolvers=resolvers))
    assert [change.where for change in changes] == where
    assert all(change.locked != change.now for change in changes)


def test_the_words_of_a_move_do_not_swap_locked_and_now(base: Path) -> None:
    change = lock_changes(made(base), made(base, resolvers=replace(RESOLVERS, image=moved_image)))[0]
    finding = change.finding()
    assert finding.expected == f"sha256:{hex_of('reg.example/app:1')}, as locked"
    assert finding.found == f"sha256:{'0' * 64}"
    assert finding.severity == "warning"


def test_a_local_document_that_changed_is_told(base: Path) -> None:
    before = made(base)
    (base / "opinion.txt").write_text("not fine\n")
    changes = [change.where for change in lock_changes(before, made(base))]
    assert changes == [
        "file payload/licenses/LICENSE-model",
        "file payload/records/documents/opinion.txt",
    ]


def test_an_item_that_came_or_went_is_told(base: Path) -> None:
    without = SPEC.replace(b"images:\n  - reference: reg.example/app:1\n", b"")
    changes = lock_changes(made(base), made(base, without))
    assert [(change.where, change.locked, change.now) for change in changes[1:]] == [
        ("image reg.example/app:1", "here", "gone")
    ]
    assert changes[0].where == "the spec itself"


# The lock's own text.

NAMES = st.from_regex(r"\A[a-z0-9]([a-z0-9._-]{0,20}[a-z0-9])?\Z")
HEX = st.integers(0, 2**256 - 1).map(lambda number: f"{number:064x}")
COMMITS = HEX.map(lambda text: text[:40])
SIZES = st.integers(0, 2**53 - 1)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


def a_file(**members: Any) -> LockedFile:
    return LockedFile(**members)


def a_model_file(**members: Any) -> LockedModelFile:
    return LockedModelFile(**members)


def a_model(**members: Any) -> LockedModel:
    return LockedModel(repo="a/b", revision="main", **members)


def a_lock(**members: Any) -> Lock:
    return Lock(**members)


KINDS = st.sampled_from(["file", "license", "document"])
FILES = st.builds(a_file, path=TEXTS, size=SIZES, sha256=HEX, kind=KINDS, title=st.none() | TEXTS)
MODEL_FILES = st.builds(
    a_model_file, path=TEXTS, size=SIZES, git_blob_sha1=COMMITS, lfs_sha256=st.none() | HEX
)
MODELS = st.builds(
    a_model,
    id=NAMES,
    commit=COMMITS,
    format=st.sampled_from(["gguf", "int4", "any"]),
    gated=st.booleans(),
    files=st.lists(MODEL_FILES, max_size=4).map(tuple),
)
LOCKS = st.builds(
    a_lock,
    spec_sha256=HEX,
    name=NAMES,
    channel=TEXTS,
    serial=SIZES,
    models=st.lists(MODELS, max_size=3).map(tuple),
    files=st.lists(FILES, max_size=3).map(tuple),
)


@given(LOCKS)
def test_a_lock_reads_back_as_it_was_written(lock: Lock) -> None:
    data = lock.to_bytes()
    assert Lock.parse(data, where="lock") == lock
    assert Lock.parse(data, where="lock").to_bytes() == data
    assert lock.sha256 == hashlib.sha256(data).hexdigest()


@given(st.binary(max_size=200))
def test_no_bytes_make_reading_a_lock_end_in_a_traceback(data: bytes) -> None:
    with pytest.raises(MalformedError):
        Lock.parse(data, where="lock")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"serial": 3', b'"serial": "3"'),
        (b'"serial": 3', b'"serial": true'),
        (b'"serial": 3', b'"serial": 3, "surprise": 1'),
        (b'"specSha256"', b'"spec_sha256"'),
        (b'"size": 10', b'"size": -1'),
    ],
)
def test_an_edited_lock_is_refused(base: Path, old: bytes, new: bytes) -> None:
    data = made(base).to_bytes()
    assert old in data
    with pytest.raises(MalformedError) as caught:
        Lock.parse(data.replace(old, new), where="lock")
    assert caught.value.reference == "bad-lock"


def test_a_lock_holds_no_address_of_an_index(base: Path) -> None:
    spec: Spec = parse_spec(SPEC, "s")
    assert spec.engines
    assert b"://" not in made(base).to_bytes()


def pinned_vllm(spec: EngineSpec) -> LockedEngine:
    return pin_engine(spec).model_copy(update={"version": "0.19.1", "name": "vllm"})


@pytest.mark.parametrize(
    ("members", "reference"),
    [
        ('arguments: ["--max-num-seqs", "many"]', "engine-flag-value"),
        ("arguments: [--limit-mm-per-prompt, image=4]", "engine-flag-value"),
        ("arguments: [--no-such-flag]", "engine-flag-unknown"),
        ("arguments: [--tokenizer, other]", "engine-flag-refused"),
        ("kvCacheDtype: int3", "engine-flag-value"),
        ("toolCallParser: kimi_k9", "unknown-parser"),
        ("environment: {LD_PRELOAD: /x.so}", "environment-refused"),
    ],
)
def test_what_a_launch_would_refuse_of_a_profile_is_refused_when_pinning(
    base: Path, members: str, reference: str
) -> None:
    data = SPEC.replace(
        b"name: llama.cpp, requirement: xllamacpp==1.0", b"name: vllm, requirement: vllm==0.19.1"
    )
    data = data.replace(b"engine: llama.cpp, model: model", b"engine: vllm, model: model")
    data = data.replace(b"node: {ram: 8GiB}\n", b"").replace(
        b"servedName: m,", b"servedName: m, %s," % members.encode()
    )
    with pytest.raises(PolicyError) as caught:
        made(base, data, replace(RESOLVERS, engine=pinned_vllm))
    assert [finding.reference for finding in caught.value.findings] == [reference]
    assert caught.value.findings[0].where.startswith("launch: default: ")


def test_an_engine_without_a_flag_table_is_a_warning(base: Path) -> None:
    (finding,) = profile_warnings(made(base))
    assert (finding.reference, finding.severity) == ("unknown-engine-version", "warning")
