"""The environment an engine starts in: built from an allow-list, never by adding to the caller's.

`LD_PRELOAD`, `PYTHONPATH`, `LLAMA_ARG_*`, `VLLM_*` switches, proxies and tokens of the caller all change
what is loaded or where it goes; none of them passes. Caches are new, empty and private for every launch:
with `--trust-remote-code` the code that runs is a copy in `HF_MODULES_CACHE`, and a poisoned copy was
executed while the verified folder was untouched (measured with transformers 4.57.6).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from bundler.engines.flags import environment_findings
from bundler.engines.table import EngineTable
from bundler.errors import PolicyError
from bundler.storage.private_folder import make_new_folder

FROM_CALLER = frozenset(
    {
        "TZ",
        "NO_COLOR",
        "CUDA_VISIBLE_DEVICES",
        "CUDA_DEVICE_ORDER",
        "NVIDIA_VISIBLE_DEVICES",
        "NVIDIA_DRIVER_CAPABILITIES",
        "HIP_VISIBLE_DEVICES",
        "ROCR_VISIBLE_DEVICES",
    }
)
"""Taken from the caller: time zone, colour, and which devices to use."""
FIXED: Mapping[str, str] = {
    "LANG": "C.UTF-8",
    "PYTHONNOUSERSITE": "1",
    "PYTHONUNBUFFERED": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "DO_NOT_TRACK": "1",
    # No child imports from the folder it is in (Python 3.11 and later).
    "PYTHONSAFEPATH": "1",
    # An empty list of hosts to reach through a proxy: no library looks for one elsewhere.
    "NO_PROXY": "*",
}
FOLDERS: Mapping[str, str] = {
    "HOME": "home",
    "TMPDIR": "tmp",
    "HF_HOME": "hf",
    "HF_HUB_CACHE": "hf/hub",
    "HF_MODULES_CACHE": "hf/modules",
    "VLLM_CACHE_ROOT": "vllm/cache",
    "VLLM_CONFIG_ROOT": "vllm/config",
    "SGLANG_CACHE_DIR": "sglang",
    "TRITON_CACHE_DIR": "triton",
    "TRITON_HOME": "triton/home",
    "TORCHINDUCTOR_CACHE_DIR": "torch/inductor",
    "TORCH_HOME": "torch/home",
    "TORCH_EXTENSIONS_DIR": "torch/extensions",
    "FLASHINFER_WORKSPACE_BASE": "flashinfer",
    "DG_JIT_CACHE_DIR": "deepgemm",
    "CUDA_CACHE_PATH": "cuda",
    "NUMBA_CACHE_DIR": "numba",
    "LLAMA_CACHE": "llama",
    "XDG_CACHE_HOME": "xdg/cache",
    "XDG_CONFIG_HOME": "xdg/config",
    "XDG_DATA_HOME": "xdg/data",
    "XDG_STATE_HOME": "xdg/state",
}
"""Variables that name a folder, and the folder below the work folder."""
SYSTEM_PATH = "/usr/local/cuda/bin:/usr/local/bin:/usr/bin:/bin"
"""Behind the environment's own programs: compilers that Triton and FlashInfer call."""
WORK_PREFIX = "sealift-launch-"
_GUARD = "guard"
_NEW_GUARD = "guard.new"


def build_environment(
    table: EngineTable,
    wanted: Mapping[str, str],
    *,
    programs: Path,
    work: Path,
    caller: Mapping[str, str],
) -> dict[str, str]:
    """Every variable the engine gets.

    `wanted` are the profile's variables, `programs` the `bin` folder of the installed environment, `work` the
    work folder of this launch, `caller` the environment of whoever starts it. Raises PolicyError
    (`environment-refused`) for each variable of the profile that is not on the list.
    """
    findings = environment_findings(table, wanted)
    if findings:
        raise PolicyError.of(findings)
    return {
        **{name: caller[name] for name in sorted(FROM_CALLER & caller.keys())},
        "PATH": f"{programs}:{SYSTEM_PATH}",
        **FIXED,
        **{name: str(work / folder) for name, folder in FOLDERS.items()},
        **table.switches,
        **wanted,
    }


def make_work_folder(work: Path) -> None:
    """Make `work` and every cache folder in it: new, empty, mode 0700.

    A lock on a file in it is held by this process and kept across `exec`, so that `sweep` of a later launch
    can tell a running server's folder from one that was left behind. Raises FileExistsError if `work` exists.
    """
    make_new_folder(work)
    # Locked before it has its name: a sweep that finds a guard without a lock removes the folder.
    guard = os.open(work / _NEW_GUARD, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
    (work / _NEW_GUARD).rename(work / _GUARD)
    os.set_inheritable(guard, True)
    for folder in sorted(_with_parents(FOLDERS.values())):
        make_new_folder(work / folder)


def _with_parents(folders: Iterable[str]) -> set[str]:
    paths = [PurePosixPath(folder) for folder in folders]
    return {str(at) for path in paths for at in (path, *path.parents)} - {"."}


def sweep(parent: Path) -> tuple[Path, ...]:
    """Remove the work folders below `parent` whose server has ended; gives back what was removed.

    Other launches sweep at the same time: what one of them removes first is simply gone. A folder that
    cannot be removed whole is left for the next sweep; it stops no launch.
    """
    return tuple(folder for folder in sorted(_own_work_folders(parent)) if _removed(folder))


def _own_work_folders(parent: Path) -> Iterator[Path]:
    for path in parent.glob(WORK_PREFIX + "*"):
        with contextlib.suppress(FileNotFoundError):
            status = path.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
                yield path


def _removed(folder: Path) -> bool:
    """Whether the folder's server has ended and the folder is gone now. Its guard is held meanwhile."""
    guard = _ended(folder)
    if guard is None:
        return False
    try:
        # Another sweep may have removed all of it before we got the lock. The guard goes last: a sweep that
        # is killed here leaves a folder that the next one removes.
        with contextlib.suppress(FileNotFoundError):
            for path in folder.iterdir():
                if path.name != _GUARD:
                    _remove(path)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(guard)
    return not folder.exists()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _ended(folder: Path) -> int | None:
    """The lock of a folder whose server has ended, as a descriptor; None while it runs or is being made.

    A folder without a guard is being made by another launch.
    """
    try:
        guard = os.open(folder / _GUARD, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(guard)
        return None
    return guard
