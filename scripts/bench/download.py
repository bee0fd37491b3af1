"""How long it takes to have a model here and checked: ours against `hf download` and `hf cache verify`.

Ours hashes while it writes (whole files and 4 MiB chunks) and has everything on the disk when it ends; the
other way downloads, then reads everything once more to hash it, and leaves the writing to the system. Both
talk to the same loopback Hub in a process of its own, one after the other, in this one run:

    python scripts/bench/download.py [--size 3GB] [--files 6] [--jobs 4] [--folder DIR]
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

REPO = "bench/model"
HF = Path(sys.executable).with_name("hf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Seconds by the clock, peak resident bytes and processor seconds of one process."""

    seconds: float
    peak: int
    processor: float


def main() -> int:
    """0 when everything arrived right, and the table on stdout."""
    options = _options()
    if options.ours is not None:
        return _fetch(options.ours, Path(options.folder), options.jobs)
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="sealift-bench-") as name:
        folder = Path(name)
        _generate(folder / "hub" / REPO, _bytes(options.size), options.files)
        with subprocess.Popen(
            [sys.executable, "-m", "bundler.demo.hub", str(folder / "hub")], stdout=subprocess.PIPE, text=True
        ) as hub:
            try:
                assert hub.stdout is not None
                _compare(hub.stdout.readline().strip(), folder, _bytes(options.size), options)
            finally:
                hub.terminate()
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="3GB", help="bytes in all, such as 3GB")
    parser.add_argument("--files", type=int, default=6, help="files of equal size")
    parser.add_argument("-j", "--jobs", type=int, default=4, help="files at a time, for both")
    parser.add_argument("--folder", help="where to put everything (twice the size and a half is needed)")
    parser.add_argument("--ours", metavar="ENDPOINT", help=argparse.SUPPRESS)
    return parser.parse_args()


def _bytes(text: str) -> int:
    from bundler.core.units import parse_size

    return parse_size(text)


def _generate(folder: Path, size: int, files: int) -> None:
    """Incompressible files without holes, on the disk before anything is measured."""
    folder.mkdir(parents=True)
    for number in range(files):
        left = size // files
        with (folder / f"model-{number + 1:05}-of-{files:05}.safetensors").open("wb") as file:
            while left:
                left -= file.write(os.urandom(min(left, 8 << 20)))
    os.sync()


def _compare(endpoint: str, folder: Path, size: int, options: argparse.Namespace) -> None:
    environment = _environment(endpoint, folder)
    ours = [
        sys.executable,
        __file__,
        "--ours",
        endpoint,
        "--folder",
        str(folder / "ours"),
        "-j",
        str(options.jobs),
    ]
    own = _timed("sealift: fetch, hash twice, sync", ours, environment, size)
    shutil.rmtree(folder / "ours")
    os.sync()
    target = ["--local-dir", str(folder / "hf")]
    fetched = _timed(
        "hf download",
        [str(HF), "download", REPO, *target, "--max-workers", str(options.jobs)],
        environment,
        size,
    )
    checked = _timed("hf cache verify", [str(HF), "cache", "verify", REPO, *target], environment, size)
    print(f"ratio: {(fetched.seconds + checked.seconds) / own.seconds:.2f} (download then verify / sealift)")


def _environment(endpoint: str, folder: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "PYTHONPATH") if name in os.environ}
    return {
        **kept,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(folder / "hf-home"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "NO_PROXY": "127.0.0.1",
    }


def _timed(name: str, command: list[str], environment: dict[str, str], size: int) -> Run:
    began = time.monotonic()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    output = process.stdout.read().decode("utf-8", "replace")
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - began
    process.stdout.close()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{name} failed with {process.returncode}:\n{output}")
    run = Run(seconds=seconds, peak=usage.ru_maxrss << 10, processor=usage.ru_utime + usage.ru_stime)
    print(
        f"{name:34} {run.seconds:6.1f} s  {size / run.seconds / 1e6:6.0f} MB/s  "
        f"{run.processor:5.1f} s of processor  {run.peak / 1e6:5.0f} MB peak memory",
        flush=True,
    )
    return run


def _fetch(endpoint: str, folder: Path, jobs: int) -> int:
    """What `sealift lock` and `sealift build` do with a model: pin it, fetch it, hash it, sync it."""
    from bundler.core.specs.spec import ModelSpec
    from bundler.sources.fetch import fetch_all
    from bundler.sources.hub.repository import model_jobs, resolve_model
    from bundler.storage.payload import PayloadStore

    model = resolve_model(ModelSpec(repo=REPO), endpoint=endpoint)
    with PayloadStore(folder / "tree", folder / "work") as store:
        fetch_all(model_jobs(model, endpoint=endpoint), store, workers=jobs)
        stored = store.stored().values()
    return 0 if len(stored) == len(model.files) else 1


if __name__ == "__main__":
    sys.exit(main())
