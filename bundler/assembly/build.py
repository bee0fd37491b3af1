"""Build: fetch what the lock pins, check what the bytes look like, seal. One copy of the payload, ever.

Work goes on in `<bundle>.building` beside the bundle; the finished tree is renamed to its own name as the
very last act, so nothing that failed looks like a bundle. Running it again continues.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from bundler import __version__
from bundler.assembly import bundle_readme, image_layout, seal, wheel_index
from bundler.assembly.artifact_entries import (
    Contents,
    ModelFacts,
    describe,
    launch_entries,
    owners,
)
from bundler.assembly.early_models import LARGE, EarlyReader, early_findings, is_large, located
from bundler.assembly.upstream import assess
from bundler.assembly.upstream_findings import no_such_evidence
from bundler.content.model import check_model
from bundler.content.oci import check_layout
from bundler.content.second_opinion import library_findings
from bundler.content.shards import SHARD_SUFFIX
from bundler.content.wheels.wheel import check_wheels, metadata_text
from bundler.core import layout
from bundler.core.artifacts import Artifact
from bundler.core.manifest import MANIFEST_NAME, Manifest
from bundler.core.progress import Progress
from bundler.core.specs.lock import Lock, LockedModel
from bundler.errors import Finding, IntegrityError, MachineError, SealiftError, UsageError
from bundler.records import license_table
from bundler.records.licences import declared_license
from bundler.sources.fetch import fetch_all
from bundler.sources.jobs import FetchJob
from bundler.sources.reuse import ReusableFiles
from bundler.storage.atomic import rename_directory
from bundler.storage.disk_space import free_bytes
from bundler.storage.payload import PayloadStore
from bundler.storage.private_folder import require_own_folder, share_tree
from bundler.verification.pyz import build_verify_pyz

_DONE = ".done"
JobMaker = Callable[[Lock], list[FetchJob]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """One build: what, from what, to where."""

    lock: Lock
    spec: bytes
    """The spec as it was written; carried as a record."""
    out: Path
    """The bundle's folder; must not exist."""
    created_at: str
    """RFC 3339 UTC."""
    workers: int
    jobs: JobMaker
    """Everything to fetch; made late because it asks indexes and registries for addresses."""
    own_wheel: tuple[str, bytes]
    """sealift's own wheel: file name and bytes."""
    early: EarlyReader | None = None
    """Reads documents and headers of large models before their weights are fetched; None skips this look."""
    reuse: tuple[Path, ...] = ()
    """Earlier bundles, Hub caches and folders whose files are taken instead of fetched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """A sealed bundle."""

    out: Path
    manifest: Manifest
    files: int
    bytes: int
    fetched: int
    """Bytes fetched by this run; the rest was already here."""
    reused: int
    """Bytes taken by this run from the places of `reuse`."""
    warnings: tuple[Finding, ...]
    already_sealed: bool = False


def building_folder(out: Path) -> Path:
    """Where the unfinished bundle of `out` lies: beside it, on the same file system."""
    return out.with_name(out.name + ".building")


def _refuse_foreign(work: Path) -> None:
    """Refuse to go on in a folder that another user made: its name can be guessed.

    Raises MachineError (`work-folder-open`).
    """
    with contextlib.suppress(FileNotFoundError):
        require_own_folder(work)


def build(request: BuildRequest, progress: Progress) -> BuildResult:
    """The sealed bundle, or an error that leaves everything fetched for the next run.

    Raises MachineError (space), NetworkError, IntegrityError (digests, closed world), PolicyError (a required
    upstream signature that is absent), AuthenticityError (an upstream signature by another). A fault of
    content has the exit code that `sealift verify` gives for it.
    """
    if request.out.exists() or request.out.is_symlink():
        return _already_there(request)
    work = building_folder(request.out)
    _refuse_foreign(work)
    with PayloadStore(work / "bundle", work) as store:
        if os.path.lexists(request.out):
            return _sealed_meanwhile(request, work)
        jobs = request.jobs(request.lock)
        planned = {job.path for job in jobs}
        _drop_what_no_lock_asks_for(store, planned)
        reusable = ReusableFiles(request.reuse, progress)
        _refuse_without_space(store.root, _missing_bytes(store, jobs) - reusable.shared_bytes(jobs, store))
        reused = reusable.take(jobs, store)
        fetched = _missing_bytes(store, jobs)
        early = _refuse_early(request, store, jobs)
        fetch_all(jobs, store, workers=request.workers, progress=progress)
        signatures = assess(request.lock, _reader(store), lambda path: _sha256_of(store, path))
        signatures.refuse()
        planned.update(_put_documents(request, store))
        contents, findings = check_contents(request.lock, store, workers=request.workers)
        errors = [finding for finding in findings if finding.is_error]
        if errors:
            raise SealiftError.of(errors)
        artifacts = describe(request.lock, replace(contents, signatures=signatures.standings))
        planned.add(_put_readme(request.lock, store, artifacts))
        manifest = _seal(request, store, artifacts, planned)
        share_tree(work / "bundle")
        # Both under the store's guard: another build of this output must find the old name or the new one.
        rename_directory(work / "bundle", request.out)
        done = _put_aside(work)
    shutil.rmtree(done, ignore_errors=True)
    return replace(_result(request.out, manifest, (*early, *findings)), fetched=fetched, reused=reused.bytes)


def _result(out: Path, manifest: bytes, warnings: tuple[Finding, ...]) -> BuildResult:
    parsed = Manifest.parse(manifest)
    return BuildResult(
        out=out,
        manifest=parsed,
        files=len(parsed.files),
        bytes=parsed.total_bytes,
        fetched=0,
        reused=0,
        warnings=warnings,
    )


def _already_there(request: BuildRequest) -> BuildResult:
    """The bundle that is already sealed from this very lock; anything else in the place is refused."""
    marker = request.out / MANIFEST_NAME
    if marker.is_file() and not request.out.is_symlink():
        data = marker.read_bytes()
        if Manifest.parse(data).members.get("lock") == request.lock.sha256:
            _remove_work(building_folder(request.out))
            return replace(_result(request.out, data, ()), already_sealed=True)
    raise UsageError(
        "output-exists",
        "the output exists and is not this bundle",
        where=str(request.out),
        expected=f"nothing there, or the bundle sealed from lock sha256:{request.lock.sha256}",
        found="a bundle of another lock" if marker.is_file() else "something else",
        hint="choose another folder with -o, or move the old one away",
    )


def _drop_what_no_lock_asks_for(store: PayloadStore, planned: set[str]) -> None:
    """Remove what an earlier run put here for another lock; only files this store wrote itself."""
    for path in set(store.stored()) - planned:
        store.discard(path)


def _refuse_early(request: BuildRequest, store: PayloadStore, jobs: Sequence[FetchJob]) -> list[Finding]:
    """Warnings about large models of which much is still to be fetched; raises what is wrong with them."""
    findings: list[Finding] = []
    for model in request.lock.models if request.early is not None else ():
        own = [job for job in jobs if layout.is_below(job.path, model.snapshot)]
        if request.early is not None and is_large(model) and _missing_bytes(store, own) >= LARGE:
            findings += located(model, early_findings(model, request.early))
    errors = [finding for finding in findings if finding.is_error]
    if errors:
        raise SealiftError.of(errors)
    return [finding for finding in findings if finding.reference == "not-judged-early"]


def _missing_bytes(store: PayloadStore, jobs: Sequence[FetchJob]) -> int:
    return sum(store.missing_bytes(job.path, job.size) for job in jobs)


def _refuse_without_space(folder: Path, needed: int) -> None:
    """Raises MachineError (`no-space`) before a byte is fetched when the file system cannot take it."""
    free = free_bytes(folder)
    if needed > free:
        raise MachineError(
            "no-space",
            "the file system cannot take what is still to be fetched",
            where=str(folder),
            expected=f"{needed} bytes free",
            found=f"{free} bytes free",
            hint="free space or choose another disk with -o; `sealift plan` shows what is needed where",
        )


def _reader(store: PayloadStore) -> Callable[[str], bytes]:
    """Reads finished files of evidence."""

    def read(path: str) -> bytes:
        kept = store.kept(path)
        if kept is None:
            raise no_such_evidence(path)
        data = (store.root / path).read_bytes()
        # These bytes decide about trust: they must be those that were hashed when they came.
        if hashlib.sha256(data).hexdigest() != kept.sha256:
            raise IntegrityError(
                "digest-mismatch",
                "evidence changed after it was fetched",
                where=path,
                expected=f"sha256:{kept.sha256}",
                found=f"sha256:{hashlib.sha256(data).hexdigest()}",
            )
        return data

    return read


def _sha256_of(store: PayloadStore, path: str) -> str | None:
    kept = store.kept(path)
    return kept.sha256 if kept is not None else None


def _put_documents(request: BuildRequest, store: PayloadStore) -> list[str]:
    """Write everything that is not fetched but follows from the lock; gives back the paths."""
    return [store.put_bytes(path, data).path for path, data in documents(request).items()]


def documents(request: BuildRequest) -> dict[str, bytes]:
    """Path to bytes of all generated files but the README, the chunk list, `SHA256SUMS` and the manifest."""
    lock = request.lock
    texts: dict[str, bytes] = {layout.LOCK_RECORD: lock.to_bytes(), layout.SPEC_RECORD: request.spec}
    for model in lock.models:
        texts[f"{layout.model_folder(model.repo)}/refs/main"] = model.commit.encode()
    if lock.engines:
        texts.update(wheel_index.wheel_documents(lock.engines))
    if lock.tools:
        name, wheel = request.own_wheel
        texts[f"{layout.TOOLS}/{name}"] = wheel
        texts.update(wheel_index.tool_documents(lock.tools, request.own_wheel))
    if lock.images:
        texts.update(image_layout.layout_documents(lock.images))
    texts["verify.pyz"] = build_verify_pyz()
    return texts


def check_contents(lock: Lock, store: PayloadStore, *, workers: int) -> tuple[Contents, list[Finding]]:
    """What the fetched bytes look like, with the findings of all content checks."""
    findings: list[Finding] = []
    models: dict[str, ModelFacts] = {}
    for model in lock.models:
        models[model.id] = _check_model(model, store.root, findings)
    findings += _wheel_findings(lock, store, workers)
    if lock.images:
        findings += check_layout(store.root / layout.IMAGES)
    return Contents(models=models, wheel_licenses=_wheel_licenses(lock, store.root, workers)), findings


def _check_model(model: LockedModel, root: Path, findings: list[Finding]) -> ModelFacts:
    content = check_model(
        root / model.snapshot,
        [item.path for item in model.files],
        format=model.format,
        allow_pickle=model.allow_pickle,
        label=model.snapshot,
    )
    findings += content.findings
    shards = [item.path for item in model.files if item.path.lower().endswith(SHARD_SUFFIX)]
    findings += library_findings(root / model.snapshot, shards, label=model.snapshot)
    return ModelFacts(executable=tuple(content.executable), facts=content.facts)


def _wheel_findings(lock: Lock, store: PayloadStore, workers: int) -> list[Finding]:
    """Each wheel on its own, the folders as wholes, and whether uv could install each engine from them."""
    findings: list[Finding] = []
    stored = store.stored()
    for folder, engines in ((layout.WHEELS, lock.engines), (layout.TOOLS, lock.tools)):
        if engines:
            digests = {
                PurePosixPath(path).name: item.sha256
                for path, item in stored.items()
                if path.startswith(folder + "/")
            }
            findings += check_wheels(store.root / folder, workers=workers, digests=digests)
    for engine in lock.engines:
        findings += wheel_index.completeness_findings(engine, store.root / layout.WHEELS)
    return findings


def _wheel_licenses(lock: Lock, root: Path, workers: int) -> Mapping[str, str]:
    places = {
        wheel.filename: root / folder / wheel.filename
        for folder, engines in ((layout.WHEELS, lock.engines), (layout.TOOLS, lock.tools))
        for engine in engines
        for wheel in engine.wheels
    }
    with ThreadPoolExecutor(max_workers=workers) as pool:
        declared = pool.map(lambda path: declared_license(metadata_text(path)), places.values())
        return {name: text for name, text in zip(places, declared, strict=True) if text}


def _put_readme(lock: Lock, store: PayloadStore, artifacts: Sequence[dict[str, Any]]) -> str:
    """Write the README, whose licences are known only when the contents were read; gives back its path."""
    described = [Artifact(item) for item in artifacts]
    rows = license_table.license_rows(described, owners(lock).keys())
    licences = bundle_readme.Licences(rows, license_table.added_texts(described))
    return store.put_bytes("README.md", bundle_readme.render(lock, licences)).path


def _seal(
    request: BuildRequest, store: PayloadStore, artifacts: Sequence[dict[str, Any]], planned: set[str]
) -> bytes:
    lock = request.lock
    members = {
        "name": lock.name,
        "createdAt": request.created_at,
        "tool": {"name": "sealift", "version": __version__},
        "artifacts": list(artifacts),
        "lock": lock.sha256,
        "launch": launch_entries(lock),
    }
    return seal.seal(
        store,
        planned=planned,
        channel=lock.channel,
        serial=lock.serial,
        owners=owners(lock),
        members=members,
    )


def _sealed_meanwhile(request: BuildRequest, work: Path) -> BuildResult:
    """What another process built while this one waited for the working folder; the new empty one goes."""
    done = _put_aside(work)
    shutil.rmtree(done, ignore_errors=True)
    return _already_there(request)


def _put_aside(work: Path) -> Path:
    """The working folder under a name nobody asks for: it is of no more use, and its name is free at once."""
    done = work.with_name(f"{work.name}.{secrets.token_hex(8)}{_DONE}")
    work.rename(done)
    return done


def _remove_work(work: Path) -> None:
    """Remove what a build that was killed after its last act left: journal, guard and empty folders."""
    left = [work, *work.parent.glob(f"{glob.escape(work.name)}.*{_DONE}")]
    for folder in left:
        shutil.rmtree(folder, ignore_errors=True)
