"""The environment an engine starts in, and its private folders."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundler.engines.flag_tables import TABLES
from bundler.engines.flags import find_table
from bundler.engines.table import EngineTable
from bundler.errors import ExitCode, PolicyError
from bundler.launch.environment import (
    FIXED,
    FOLDERS,
    FROM_CALLER,
    WORK_PREFIX,
    build_environment,
    make_work_folder,
    sweep,
)

VLLM = find_table("vllm", "vllm", "0.19.1")
WORK = Path("/run/work")
HOSTILE = {
    "LD_PRELOAD": "/tmp/evil.so",
    "LD_LIBRARY_PATH": "/tmp",
    "PYTHONPATH": "/tmp",
    "PYTHONSTARTUP": "/tmp/x.py",
    "PYTHONHOME": "/tmp",
    "HF_TOKEN": "secret",
    "HF_ENDPOINT": "http://evil",
    "HF_HUB_OFFLINE": "0",
    "HF_MODULES_CACHE": "/tmp/poisoned",
    "HTTP_PROXY": "http://evil",
    "https_proxy": "http://evil",
    "LLAMA_ARG_MODEL": "/tmp/other.gguf",
    "VLLM_PLUGINS": "evil",
    "VLLM_MODEL_REDIRECT_PATH": "/tmp/redirect",
    "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",
    "VLLM_SERVER_DEV_MODE": "1",
    "VLLM_USE_MODELSCOPE": "1",
    "PATH": "/tmp/evil/bin",
    "HOME": "/root",
    "TMPDIR": "/tmp",
    "BASH_ENV": "/tmp/x",
    "LANG": "de_DE.UTF-8",
}


def built(caller: dict[str, str], wanted: dict[str, str] | None = None) -> dict[str, str]:
    return build_environment(VLLM, wanted or {}, programs=Path("/srv/env/bin"), work=WORK, caller=caller)


def test_nothing_hostile_of_the_caller_passes() -> None:
    assert built(HOSTILE) == built({})


def test_the_time_zone_and_the_choice_of_gpus_pass() -> None:
    environment = built({**HOSTILE, "TZ": "Europe/Paris", "CUDA_VISIBLE_DEVICES": "0,1"})
    assert environment["TZ"] == "Europe/Paris"
    assert environment["CUDA_VISIBLE_DEVICES"] == "0,1"


@given(st.dictionaries(st.text(min_size=1), st.text()))
def test_whatever_the_caller_has_only_the_list_passes(caller: dict[str, str]) -> None:
    more = built(caller).items() - built({}).items()
    assert {name for name, _ in more} <= FROM_CALLER


@pytest.mark.parametrize("table", TABLES, ids=lambda table: f"{table.engine}-{table.version}")
def test_every_engine_is_offline_and_silent(table: EngineTable) -> None:
    environment = build_environment(table, {}, programs=Path("/srv/env/bin"), work=WORK, caller=HOSTILE)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
        assert environment[name] == "1"
    assert environment["DO_NOT_TRACK"] == "1"
    assert environment["PYTHONNOUSERSITE"] == "1"
    assert environment.items() >= table.switches.items()


def test_vllm_sends_no_usage_and_loads_no_plugins() -> None:
    environment = built({})
    assert environment["VLLM_NO_USAGE_STATS"] == environment["VLLM_DO_NOT_TRACK"] == "1"
    assert environment["VLLM_PLUGINS"] == ""


def test_the_path_is_the_installed_environment_then_the_system() -> None:
    assert built(HOSTILE)["PATH"].startswith("/srv/env/bin:/usr/local")
    assert "evil" not in built(HOSTILE)["PATH"]


def test_every_cache_lies_below_the_work_folder() -> None:
    environment = built(HOSTILE)
    for name in ("HF_HOME", "HF_MODULES_CACHE", "VLLM_CACHE_ROOT", "TRITON_CACHE_DIR", "HOME", "TMPDIR"):
        assert Path(environment[name]).is_relative_to(WORK)
    assert len({environment[name] for name in FOLDERS}) == len(FOLDERS)


def test_a_profile_may_set_what_is_on_the_list() -> None:
    wanted = {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "2", "VLLM_HOST_IP": "10.0.0.1"}
    assert built({}, wanted).items() >= wanted.items()


@pytest.mark.parametrize(
    "name",
    [
        "LD_PRELOAD",
        "PYTHONPATH",
        "HF_TOKEN",
        "PATH",
        "HOME",
        "HF_HUB_OFFLINE",
        "VLLM_PLUGINS",
        "LLAMA_ARG_MODEL",
    ],
)
def test_a_profile_may_not_set_anything_else(name: str) -> None:
    with pytest.raises(PolicyError) as caught:
        built({}, {name: "x", "VLLM_API_KEY": "k"})
    (finding,) = caught.value.findings
    assert (finding.reference, finding.found, finding.exit_code) == (
        "environment-refused",
        name,
        ExitCode.POLICY,
    )
    assert "VLLM_API_KEY" in finding.expected


def test_no_table_lets_a_profile_change_the_offline_switches() -> None:
    for table in TABLES:
        assert not set(table.environment) & (set(FIXED) | set(FOLDERS))
        assert not any("PROXY" in name or "TOKEN" in name for name in table.environment)


# --- the work folder --------------------------------------------------------------------------------------

HOLD = """
import os, sys
from pathlib import Path
from bundler.launch.environment import make_work_folder
make_work_folder(Path(sys.argv[1]))
os.execv("/bin/sh", ["sh", "-c", "echo ready; read line"])
"""


@pytest.fixture
def running(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A program that took the place of the one that made the work folder, as an engine does."""
    work = tmp_path / f"{WORK_PREFIX}held"
    program = [sys.executable, "-c", HOLD, str(work)]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        if process.poll() is None:
            process.communicate("\n")


def test_folders_are_new_empty_and_private(tmp_path: Path) -> None:
    work = tmp_path / f"{WORK_PREFIX}x"
    make_work_folder(work)
    for folder in (work, *(work / name for name in FOLDERS.values())):
        assert folder.stat().st_mode & 0o777 == 0o700
    with pytest.raises(FileExistsError):
        make_work_folder(work)


def test_a_running_servers_folder_stays_and_is_swept_when_it_has_ended(
    tmp_path: Path, running: subprocess.Popen[str]
) -> None:
    assert sweep(tmp_path) == ()
    running.communicate("\n")
    assert sweep(tmp_path) == (tmp_path / f"{WORK_PREFIX}held",)
    assert list(tmp_path.iterdir()) == []


def test_sweeping_follows_no_links_and_touches_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/guard").write_text("")
    (tmp_path / f"{WORK_PREFIX}link").symlink_to(tmp_path / "precious")
    (tmp_path / f"{WORK_PREFIX}making").mkdir()
    (tmp_path / "sealift-other").mkdir()
    before = sorted(path.name for path in tmp_path.iterdir())
    assert sweep(tmp_path) == ()
    assert sorted(path.name for path in tmp_path.iterdir()) == before


RACE = """
import sys
from pathlib import Path
from bundler.launch.environment import FOLDERS, make_work_folder, sweep
parent, me, rounds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
for number in range(rounds):
    sweep(parent)
    work = parent / f"sealift-launch-{me}-{number}"
    make_work_folder(work)
    sweep(parent)
    assert all((work / name).is_dir() for name in FOLDERS.values()), "a running launch lost its folder"
"""


def test_launches_at_the_same_time_sweep_without_trouble(tmp_path: Path) -> None:
    for _ in range(3):
        left = [sys.executable, "-c", RACE, str(tmp_path), "left", "8"]
        subprocess.run(left, check=True)  # eight folders whose process has ended
        begun = [
            subprocess.Popen(
                [sys.executable, "-c", RACE, str(tmp_path), str(number), "4"],
                stderr=subprocess.PIPE,
                text=True,
            )
            for number in range(6)
        ]
        said = [process.communicate(timeout=60)[1] for process in begun]
        assert said == [""] * 6
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_skips_what_another_one_removes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f"{WORK_PREFIX}gone").mkdir()
    lstat = Path.lstat

    def vanishing(path: Path) -> os.stat_result:
        if path.name.startswith(WORK_PREFIX):
            path.rmdir()
        return lstat(path)

    monkeypatch.setattr(Path, "lstat", vanishing)
    assert sweep(tmp_path) == ()


@pytest.mark.parametrize("umask", [0o000, 0o777], ids=oct)
def test_modes_of_work_folders_do_not_depend_on_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        make_work_folder(tmp_path / f"{WORK_PREFIX}x")
    finally:
        os.umask(before)
    folders = [path for path in tmp_path.rglob("*") if path.is_dir()]
    assert {path.stat().st_mode & 0o777 for path in folders} == {0o700}
