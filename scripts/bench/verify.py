"""How fast `sealift verify` reads, beside the machine's own limit and two other verifiers, in one run.

    python scripts/bench/verify.py                 6 GB, warm page cache
    python scripts/bench/verify.py --cold          drops the page cache before each reader (needs root)

Makes a bundle, signs it, and reads it with `sealift verify` (level full), `sha256sum -c`, and
`model_signing verify key` (installed into a throw-away environment with uv; `--no-model-signing` leaves it
out). The limit is cores x single-core SHA-256 of hashlib over one hot buffer, measured between the readers.
With --cold the limit is what `dd` reads from the same files, through the page cache or past it, whichever is
faster in that round, measured before and after each reader. Ratios compare within this run only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY))

from bundler.core import layout  # noqa: E402
from bundler.core.chunks import DEFAULT_CHUNK_SIZE  # noqa: E402
from bundler.core.manifest import (  # noqa: E402
    MANIFEST_NAME,
    SHA256SUMS_PATH,
    ChunkList,
    FileEntry,
    Manifest,
    compose,
)
from bundler.core.paths import parse_bundle_path  # noqa: E402
from bundler.core.units import parse_size  # noqa: E402
from bundler.storage.hashing import available_cores  # noqa: E402
from bundler.trust.dsse import encode_bundle, pre_authentication_encoding  # noqa: E402
from bundler.trust.keys import PrivateKey, generate  # noqa: E402
from bundler.trust.model_signing_format import oms_statement  # noqa: E402
from bundler.trust.perimeter.first_policy import Holder, compose_policy  # noqa: E402
from bundler.trust.statements import RELEASE_TYPE, release_statement  # noqa: E402

SHARDS = 6
LIMIT_SECONDS = 2.0
LIMIT_BUFFER = 1 << 20


@dataclass(frozen=True)
class Bundle:
    """What is read, and what reading it needs."""

    root: Path
    policy: Path
    state: Path
    public_key: Path
    size: int


def main() -> int:
    """Measure and print."""
    options = _options()
    with _folder(options.folder) as folder:
        bundle = make_bundle(folder, options.size)
        readers: dict[str, list[str]] = {"sealift verify": _sealift(bundle), "sha256sum -c": []}
        if not options.no_model_signing:
            readers["model_signing verify key"] = _model_signing(folder, bundle)
        print(f"{bundle.size / 1e9:.2f} GB in {SHARDS} shards, {available_cores()} cores", flush=True)
        for number in range(options.rounds):
            print(f"round {number + 1}", flush=True)
            _round(bundle, readers, cold=options.cold)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=parse_size, default=parse_size("6GB"), help="bytes to read (6GB)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cold", action="store_true", help="drop the page cache before each reader")
    parser.add_argument(
        "--folder", type=Path, help="where to put the files (a temporary folder when left out)"
    )
    parser.add_argument("--no-model-signing", action="store_true")
    return parser.parse_args()


@contextmanager
def _folder(parent: Path | None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sealift-bench-", dir=parent) as name:
        yield Path(name)


def _round(bundle: Bundle, readers: dict[str, list[str]], *, cold: bool) -> None:
    what = "dd" if cold else "the limit"
    for name, command in readers.items():
        # The machine's speed wanders: the mean of before and after, as the reader ran in between.
        core, device = core_rate(), device_rate(bundle) if cold else 0.0
        _prepare(bundle, cold=cold)
        said: list[bytes] = []
        wall, processor = _seconds(lambda: said.append(_read(bundle, name, command)))  # noqa: B023 - called at once
        core = (core + core_rate()) / 2
        bound = (device + device_rate(bundle)) / 2 if cold else available_cores() * core
        share = 100 * bundle.size / wall / bound
        effort = 100 * bundle.size / core / processor
        print(
            f"  {name:<26} {wall:7.2f} s  {bundle.size / wall / 1e9:6.3f} GB/s"
            f"  {share:5.1f} % of {what} ({bound / 1e9:.3f} GB/s)"
            f"  {processor:6.2f} processor s, {effort:5.1f} % of them hashing",
            flush=True,
        )
        if name.startswith("sealift"):
            step = _hashing_seconds(said[0])
            rate = bundle.size / step
            share = 100 * rate / bound
            told = f"{step:7.2f} s  {rate / 1e9:6.3f} GB/s  {share:5.1f} % of {what}"
            print(f"    its hashing step         {told}", flush=True)


def _hashing_seconds(report: bytes) -> float:
    """The seconds of step 8 (every byte), without start-up, signatures and tree walk."""
    steps = json.loads(report)["steps"]
    return float(next(step["seconds"] for step in steps if step["step"] == 8))


def _prepare(bundle: Bundle, *, cold: bool) -> None:
    bundle.state.write_text("{}")
    if cold:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3")
    else:
        subprocess.run(["cat", *map(str, _shards(bundle))], stdout=subprocess.DEVNULL, check=True)


def _read(bundle: Bundle, name: str, command: list[str]) -> bytes:
    if name.startswith("sha256sum"):
        command = ["sha256sum", "--quiet", "-c", SHA256SUMS_PATH]
    done = subprocess.run(
        command, cwd=bundle.root, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    return done.stdout


def _seconds(work: Callable[[], None]) -> tuple[float, float]:
    """Wall-clock seconds of `work`, and processor seconds of the programs it ran."""
    began, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    work()
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - began, now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime


def device_rate(bundle: Bundle) -> float:
    """Bytes per second at which `dd` reads the shards, one after the other: the better of its two ways."""
    return max(_dd_rate(bundle), _dd_rate(bundle, "iflag=direct"))


def _dd_rate(bundle: Bundle, *more: str) -> float:
    _prepare(bundle, cold=True)

    def work() -> None:
        for path in _shards(bundle):
            command = ["dd", f"if={path}", "of=/dev/null", "bs=4M", *more]
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)

    return sum(path.stat().st_size for path in _shards(bundle)) / _seconds(work)[0]


def core_rate() -> float:
    """Bytes that one core hashes from a buffer in its cache per second of processor time.

    Processor time, so that others on the machine do not make the limit look low.
    """
    buffer, done = bytes(LIMIT_BUFFER), 0
    began = now = time.thread_time()
    while now - began < LIMIT_SECONDS:
        hashlib.sha256(buffer)
        done += LIMIT_BUFFER
        now = time.thread_time()
    return done / (now - began)


def make_bundle(folder: Path, size: int) -> Bundle:
    """Shards of incompressible bytes with chunk list, SHA256SUMS, release and OMS attestation."""
    root = folder / "bundle"
    shards = [f"payload/models/model-{number:05}.bin" for number in range(1, SHARDS + 1)]
    (root / "payload/models").mkdir(parents=True)
    (root / "attestations").mkdir()
    entries, chunks = [], b""
    for path in shards:
        entry, digests = _write_shard(root, path, size // SHARDS)
        entries.append(entry)
        chunks += digests
    entries.append(_write(root, layout.CHUNKS, chunks))
    sums = "".join(f"{entry.sha256}  {entry.path}\n" for entry in sorted(entries, key=lambda e: e.path))
    entries.append(_write(root, SHA256SUMS_PATH, sums.encode()))
    where = ChunkList(path=parse_bundle_path(layout.CHUNKS), size=DEFAULT_CHUNK_SIZE)
    manifest = compose(channel="bench", serial=1, files=entries, chunks=where)
    (root / MANIFEST_NAME).write_bytes(manifest)
    return _signed(folder, root, manifest, sum(entry.size for entry in entries))


def _write_shard(root: Path, path: str, size: int) -> tuple[FileEntry, bytes]:
    whole, digests, left = hashlib.sha256(), b"", size
    with (root / path).open("wb") as file:
        while left:
            block = os.urandom(min(DEFAULT_CHUNK_SIZE, left))
            file.write(block)
            whole.update(block)
            digests += hashlib.sha256(block).digest()
            left -= len(block)
    return FileEntry(path=parse_bundle_path(path), size=size, sha256=whole.hexdigest()), digests


def _write(root: Path, path: str, data: bytes) -> FileEntry:
    (root / path).write_bytes(data)
    return FileEntry(path=parse_bundle_path(path), size=len(data), sha256=hashlib.sha256(data).hexdigest())


def _signed(folder: Path, root: Path, manifest_bytes: bytes, size: int) -> Bundle:
    key, manifest = generate(), Manifest.parse(manifest_bytes)
    digest = hashlib.sha256(manifest_bytes).hexdigest()
    _attest(root, "release", release_statement(manifest), key)
    _attest(root, "oms", oms_statement(manifest.files, digest, name=root.name), key)
    holders = [Holder(role=role, key=key.public, owner="bench") for role in ("root", "release")]
    require = [{"id": "release", "role": "release", "predicateType": RELEASE_TYPE}]
    policy, public, state = folder / "policy.json", folder / "key.pem", folder / "state.json"
    policy.write_bytes(compose_policy(holders, thresholds={}, require=require))
    public.write_text(key.public.pem)
    return Bundle(root=root, policy=policy, state=state, public_key=public, size=size)


def _attest(root: Path, name: str, statement: bytes, key: PrivateKey) -> None:
    hint = hashlib.sha256(key.public.pem.encode()).hexdigest()
    signature = key.sign(pre_authentication_encoding(statement))
    (root / "attestations" / f"{name}.sigstore.json").write_bytes(
        encode_bundle(statement, signature, hint=hint)
    )


def _shards(bundle: Bundle) -> list[Path]:
    return sorted((bundle.root / "payload/models").iterdir())


def _sealift(bundle: Bundle) -> list[str]:
    named = ["--policy", str(bundle.policy), "--state", str(bundle.state), "--json"]
    return [sys.executable, "-P", "-c", _RUN, str(REPOSITORY), "verify", str(bundle.root), *named]


_RUN = "import sys; sys.path.insert(0, sys.argv.pop(1)); from bundler.cli.app import main; main()"


def _model_signing(folder: Path, bundle: Bundle) -> list[str]:
    """The unmodified reference verifier; pyOpenSSL is missing from its own requirements (1.1.1)."""
    environment = folder / "model-signing"
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, str(environment)], check=True)
    python = str(environment / "bin/python")
    subprocess.run([uv, "pip", "install", "-q", "--python", python, "model-signing", "pyOpenSSL"], check=True)
    signature = bundle.root / "attestations/oms.sigstore.json"
    named = ["--signature", str(signature), "--public_key", str(bundle.public_key)]
    return [str(environment / "bin/model_signing"), "verify", "key", str(bundle.root), *named]


if __name__ == "__main__":
    raise SystemExit(main())
