"""From the wheels of a verified bundle to an environment an engine runs in: no index, no network.

uv installs from a requirements file made here in a private folder, every line with the digest the signed
manifest has for that wheel, so a wheel changed after verification is refused while it is unpacked. The
environment is built beside its place and renamed to it when all is checked: what failed, or was killed,
never looks installed, and the next run clears it away.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import re
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import distributions
from pathlib import Path

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from bundler import __version__
from bundler.content import zip_archive
from bundler.content.wheels.installed_files import installed_findings
from bundler.content.wheels.lock_file import LOCK_LIMIT, WheelFile, WheelLock, parse_wheel_lock
from bundler.core import layout, strict_json
from bundler.core.manifest import FileEntry, Manifest
from bundler.core.progress import Progress, SilentProgress
from bundler.errors import Finding, IntegrityError, MachineError, MalformedError, SealiftError, UsageError
from bundler.install import host
from bundler.install.marker import INSTALL_TYPE, MARKER, damage, read_marker
from bundler.storage.bounded_read import open_regular, read_small
from bundler.storage.private_folder import (
    SHARED,
    ensure_folder,
    make_new_folder,
    make_private_folder,
    private_folder,
    require_safe_place,
    require_safe_tree,
    share_tree,
)

LOCK_TRIES = 100
"""Times, 0.05 seconds apart, that the lock on the folder around an installation is tried."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
UV_LIMIT = 512 << 20
"""Bytes of the uv program that are unpacked from the bundle; it has 60 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """An installed engine. `reused` says that it was already there, whole."""

    path: Path
    folder: str
    engine: str
    version: str
    python: str
    wheels: int
    reused: bool
    warnings: tuple[Finding, ...] = ()


def engine_folders(manifest: Manifest) -> dict[str, str]:
    """Folder names of the engines a bundle carries as wheels, to the path of their lock, sorted."""
    found = {}
    for entry in manifest.files:
        folder, _, name = entry.path.removeprefix(f"{layout.WHEEL_LOCKS}/").partition("/")
        if entry.path.startswith(f"{layout.WHEEL_LOCKS}/") and name == "pylock.toml":
            found[folder] = str(entry.path)
    return found


def choose_folder(manifest: Manifest, wanted: str | None) -> str:
    """The engine folder meant by `wanted`: its name, or the id in front of `-cp…`; the only one when None.

    Of several for different processors, the one for this machine's.

    Raises UsageError (`no-such-engine`, `which-engine`).
    """
    folders = engine_folders(manifest)
    fitting = [name for name in folders if wanted in (None, name, name.rpartition("-cp")[0])]
    if len(fitting) > 1:
        fitting = [name for name in fitting if name.endswith(f"-{platform.machine()}")] or fitting
    if len(fitting) == 1:
        return fitting[0]
    raise UsageError(
        "which-engine" if fitting else "no-such-engine",
        "several engines fit" if fitting else "the bundle carries no such engine as wheels",
        where="--engine",
        expected=", ".join(folders) or "a bundle with wheels",
        found=wanted or "nothing chosen",
        hint=f"--engine {next(iter(fitting or folders))}" if folders else "`sealift inspect BUNDLE`",
    )


def check_ground(
    bundle: Path,
    manifest: Manifest,
    wanted: str | None,
    to: Path,
    *,
    python: str | None = None,
) -> None:
    """What manifest, lock and machine decide before a terabyte is read: which engine, that its place is free,
    and that its wheels are for this machine.

    A lock that is not the listed one is left to the verification that follows. Raises UsageError
    (`no-such-engine`, `which-engine`, `not-an-installation`) and MachineError (host, Python).
    """
    folder = choose_folder(manifest, wanted)
    _place(to)
    try:
        lock = _locked(bundle, folder, {str(entry.path): entry for entry in manifest.files})
    except (SealiftError, OSError):
        return
    host.check_host(lock.target)
    host.check_known_libraries(lock.pins)
    uv = _own_uv()
    # The bundle's own uv is run only after every byte was read.
    if uv is not None:
        host.find_python(lock.target, uv, wanted=python, caller=os.environ)


def install_engine(
    bundle: Path,
    folder: str,
    to: Path,
    *,
    manifest: Manifest,
    python: str | None = None,
    caller: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Installation:
    """The engine of `folder`, installed at `to` from the bundle alone. The bundle must be verified already.

    What `manifest` lists is compared once more with what is read here. An installation of the same bundle
    that is whole is left as it is; a damaged or another one is replaced.

    Raises IntegrityError (`file-changed`, `wheel-refused`, `installed-differs`), MalformedError (wheels that
    cannot be installed together), UsageError (`not-an-installation`, `no-such-engine`) and MachineError
    (host, Python, uv, space).
    """
    caller = os.environ if caller is None else caller
    entries = {str(entry.path): entry for entry in manifest.files}
    lock = _locked(bundle, choose_folder(manifest, folder), entries)
    host.check_host(lock.target)
    plan = _Plan(
        bundle=bundle, folder=folder, to=_place(to), lock=lock, manifest_sha256=manifest.sha256, caller=caller
    )
    with building_place(plan.to) as place, uv_program(bundle, entries) as uv:
        found = host.find_python(lock.target, uv, wanted=python, caller=caller)
        kept = _kept(plan, found)
        if kept is not None:
            return replace(kept, warnings=host.check_libraries(plan.to, plan.engine_projects))
        told = _require_installable(plan)
        (progress or SilentProgress()).note(
            f"unpacking {len(lock.files)} wheels of {lock.engine} {lock.version} for CPython {found.version}"
        )
        _build(plan, place / "environment", uv, found)
        warnings = (*told, *host.check_libraries(place / "environment", plan.engine_projects))
        _replace(place / "environment", plan.to)
    return replace(plan.installation(found, reused=False), warnings=warnings)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What is installed where."""

    bundle: Path
    folder: str
    to: Path
    lock: WheelLock
    manifest_sha256: str
    caller: Mapping[str, str]

    @property
    def engine_projects(self) -> tuple[str, ...]:
        """The engine's own distribution, normalised."""
        named = re.match(r"[A-Za-z0-9._-]+", self.lock.requirement)
        return (str(canonicalize_name(named[0])),) if named else ()

    def marker(self, python: host.HostPython) -> bytes:
        """The file that says what was installed from which bundle: launching compares it."""
        return strict_json.dumps(
            {
                "type": INSTALL_TYPE,
                "manifest": self.manifest_sha256,
                "folder": self.folder,
                "engine": {"id": self.lock.id, "name": self.lock.engine, "version": self.lock.version},
                "requirement": self.lock.requirement,
                "python": python.version,
                "versions": self.lock.pins,
                "wheels": {item.filename: item.sha256 for item in self.lock.files},
                "tool": {"name": "sealift", "version": __version__},
            }
        )

    def installation(self, python: host.HostPython, *, reused: bool) -> Installation:
        """What came of it."""
        return Installation(
            path=self.to,
            folder=self.folder,
            engine=self.lock.engine,
            version=self.lock.version,
            python=python.version,
            wheels=len(self.lock.files),
            reused=reused,
        )


def _locked(bundle: Path, folder: str, entries: Mapping[str, FileEntry]) -> WheelLock:
    """The lock of `folder`, read once, equal to what the manifest lists, its wheels too."""
    path = f"{layout.WHEEL_LOCKS}/{folder}/pylock.toml"
    data = read_small(bundle / path, limit=LOCK_LIMIT, where=path)
    _compare(path, entries[path].sha256, hashlib.sha256(data).hexdigest())
    lock = parse_wheel_lock(data, where=path)
    for item in lock.files:
        entry = entries.get(f"{layout.WHEELS}/{item.filename}")
        _compare(f"{layout.WHEELS}/{item.filename}", item.sha256, entry.sha256 if entry else "not listed")
    return lock


def _compare(path: str, expected: str, found: str) -> None:
    if expected != found:
        raise IntegrityError(
            "file-changed",
            "a file is not what the manifest and the lock say",
            where=path,
            expected=f"sha256:{expected}",
            found=f"sha256:{found}" if len(found) == 64 else found,
            hint="`sealift verify BUNDLE` names everything that differs",
        )


def _place(to: Path) -> Path:
    """Where to install, absolute. Raises UsageError (`not-an-installation`) for what must not be replaced,
    MachineError (`work-folder-open`) where others could exchange it.
    """
    place = Path(os.path.abspath(to))  # noqa: PTH100 - resolve() would follow a link we mean to refuse
    require_safe_place(place.parent)
    with contextlib.suppress(FileNotFoundError):
        is_folder = stat.S_ISDIR(place.lstat().st_mode)
        if is_folder and ((place / MARKER).is_file() or not any(place.iterdir())):
            return place
        raise UsageError(
            "not-an-installation",
            "something else is in the place and is left alone",
            where=str(place),
            expected="nothing, an empty folder, or an engine installed by sealift",
            found="a folder with other things in it" if is_folder else "not a folder",
            hint="name another folder with --to",
        )
    return place


@contextlib.contextmanager
def building_place(to: Path) -> Iterator[Path]:
    """A new private folder beside `to`, held by a guard and removed at the end.

    Nobody else can have made it or enter it: what is built in it is run later, perhaps by root. Folders that
    a killed run of ours left are removed. Raises MachineError (`installation-runs`, `work-folder-open`).
    """
    ensure_folder(to.parent, mode=SHARED)
    prefix = f".{to.name}.installing-"
    # One run at a time looks for others and makes its folder: of two that begin together one goes on.
    with _parent_lock(to.parent):
        _remove_left_behind(to, prefix)
        place = make_private_folder(to.parent, prefix)
        guard = _locked_folder(place)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        os.close(guard)


@contextlib.contextmanager
def _parent_lock(parent: Path) -> Iterator[None]:
    """Hold the folder's lock for a moment. Someone else who keeps it does not stop us for ever."""
    descriptor = os.open(parent, _FOLDER)
    try:
        for _ in range(LOCK_TRIES):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


def _remove_left_behind(to: Path, prefix: str) -> None:
    """Remove what killed runs of this user left beside `to`. Raises MachineError (`installation-runs`)."""
    for path in sorted(to.parent.iterdir()):
        if not path.name.startswith(prefix) or not _is_own_folder(path):
            continue
        try:
            os.close(_locked_folder(path))
        except FileNotFoundError:
            continue
        except BlockingIOError:
            raise MachineError(
                "installation-runs",
                "another installation to the same place is running",
                where=str(path),
                hint="wait for it to end, then run the same command again",
            ) from None
        shutil.rmtree(path, ignore_errors=True)


def _is_own_folder(path: Path) -> bool:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


def _locked_folder(place: Path) -> int:
    """A descriptor of the folder with an exclusive lock. Raises BlockingIOError, FileNotFoundError."""
    guard = os.open(place, _FOLDER)
    try:
        fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(guard)
        raise
    return guard


@contextlib.contextmanager
def uv_program(bundle: Path, entries: Mapping[str, FileEntry]) -> Iterator[Path]:
    """The uv program: that of sealift's own environment, else the one the bundle carries, unpacked.

    Raises MachineError (`no-uv`).
    """
    found = _own_uv()
    if found is not None:
        yield found
        return
    from packaging.tags import sys_tags

    from bundler.content.wheels.name import parse_wheel_name

    accepted = set(sys_tags())
    carried = [path for path in entries if path.startswith(f"{layout.TOOLS}/uv-") and path.endswith(".whl")]
    fitting = [path for path in carried if accepted & parse_wheel_name(path.rpartition("/")[2]).tags]
    if not fitting:
        raise MachineError(
            "no-uv",
            "the program uv is missing, here and in the bundle",
            expected="uv in sealift's own environment, or its wheel in payload/tools",
            found="neither",
            hint="`python3 -m pip install --no-index --find-links BUNDLE/payload/tools uv`",
        )
    with private_folder("sealift-uv-") as folder:
        yield _unpacked_uv(bundle, entries[fitting[0]], folder)


def _own_uv() -> Path | None:
    try:
        from uv import find_uv_bin

        return Path(find_uv_bin())
    except (ImportError, FileNotFoundError):
        return None


def _unpacked_uv(bundle: Path, entry: FileEntry, folder: Path) -> Path:
    where = str(entry.path)
    with open_regular(bundle / entry.path, where=where) as fd:
        digest = hashlib.sha256()
        for piece in iter(lambda: os.read(fd, 1 << 20), b""):
            digest.update(piece)
        _compare(where, entry.sha256, digest.hexdigest())
        members = zip_archive.read_members(fd, where)
        program = next((item for item in members if item.name.endswith(".data/scripts/uv")), None)
        if program is None:
            raise MachineError("no-uv", "the uv wheel of the bundle holds no program", where=where)
        data = zip_archive.read_member(fd, program, limit=UV_LIMIT, where=where)
    path = folder / "uv"
    path.write_bytes(data)
    path.chmod(0o700)
    return path


def _kept(plan: _Plan, python: host.HostPython) -> Installation | None:
    """What is installed already, when it is the same and whole."""
    marker = read_marker(plan.to)
    if marker is None or strict_json.dumps(marker) != plan.marker(python) or damage(plan.to):
        return None
    # What another user put there, or may write to, is not ours whatever its marker says.
    try:
        require_safe_tree(plan.to)
    except MachineError:
        return None
    return plan.installation(python, reused=True)


def _require_installable(plan: _Plan) -> tuple[Finding, ...]:
    """What building asks of the wheels as a whole, asked once more; gives back warnings.

    Raises MalformedError (`wheels-write-one-file`, `wheel-replaces-environment`, `bad-wheel`). Wheels that
    changed since verification are left to the installer, which compares their digests.
    """
    where = f"{layout.WHEEL_LOCKS}/{plan.folder}"
    findings = installed_findings(plan.lock, plan.bundle / layout.WHEELS, where)
    errors = [finding for finding in findings if finding.is_error]
    if errors and all(_is_unchanged(plan.bundle, item) for item in plan.lock.files):
        raise MalformedError.of(errors)
    return tuple(finding for finding in findings if not finding.is_error)


def _build(plan: _Plan, place: Path, uv: Path, python: host.HostPython) -> None:
    _run_uv(plan, uv, "venv", "--relocatable", "--python", str(python.path), str(place))
    private = place.parent / "uv"
    make_new_folder(private)
    lines = [
        f"{item.project}=={item.version} --hash=sha256:{item.sha256}\n"
        for item in sorted(plan.lock.files, key=lambda item: item.project)
    ]
    (private / "requirements.txt").write_text("".join(lines), "utf-8")
    # The cache is on the same file system, so that unpacked files are linked, not copied.
    arguments = ["pip", "sync", "--python", str(place / "bin/python"), "--cache-dir", str(private / "cache")]
    arguments += ["--no-index", "--find-links", str((plan.bundle / layout.WHEELS).absolute())]
    arguments += ["--require-hashes", "--only-binary", ":all:", "--link-mode", "hardlink"]
    _run_uv(plan, uv, *arguments, str(private / "requirements.txt"))
    shutil.rmtree(private)
    _check_versions(plan.lock, place)
    (place / MARKER).write_bytes(plan.marker(python))
    share_tree(place)


def _run_uv(plan: _Plan, uv: Path, *arguments: str) -> None:
    command = [str(uv), *arguments, "--offline", "--no-config", "--no-python-downloads"]
    command += ["--no-progress", "--color", "never"]
    done = subprocess.run(
        command,
        env=host.environment(plan.caller),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        cwd=plan.to.parent,
    )
    if done.returncode != 0:
        raise _refused(plan, done.stderr)


def _refused(plan: _Plan, told: str) -> IntegrityError | MachineError:
    """What uv's refusal means: the wheels are hashed again to tell a changed one from other trouble."""
    text = " ".join(line.strip() for line in told.splitlines() if line.strip())[:1500]
    changed = [item for item in plan.lock.files if not _is_unchanged(plan.bundle, item)]
    if changed:
        return IntegrityError(
            "wheel-refused",
            "a wheel is not the one that was verified; nothing was installed",
            where=", ".join(f"{layout.WHEELS}/{item.filename}" for item in changed[:10]),
            expected=f"sha256:{changed[0].sha256}",
            found=text,
            hint="`sealift verify BUNDLE` tells what else differs",
        )
    return MachineError(
        "install-failed",
        "uv could not install the wheels; nothing was installed",
        where=f"{plan.folder}: {plan.to}",
        expected="an environment with every wheel of the lock",
        found=text,
        hint="read what uv says; `sealift doctor` checks space and tools",
    )


def _is_unchanged(bundle: Path, item: WheelFile) -> bool:
    try:
        with (bundle / layout.WHEELS / item.filename).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == item.sha256
    except OSError:
        return False


def _check_versions(lock: WheelLock, place: Path) -> None:
    """Compares what is installed with the lock, both ways. Raises IntegrityError (`installed-differs`)."""
    folders = [str(path) for path in place.glob("lib/python3.*/site-packages")]
    installed = distributions(path=folders)
    found = {str(canonicalize_name(item.name)): item.version for item in installed}
    wanted = lock.pins
    different = sorted(
        name for name in found.keys() | wanted.keys() if not _same(found.get(name), wanted.get(name))
    )
    if different:
        raise IntegrityError(
            "installed-differs",
            "what was installed is not what the lock says",
            where=str(place),
            expected=", ".join(f"{name} {wanted.get(name, 'absent')}" for name in different[:10]),
            found=", ".join(f"{name} {found.get(name, 'absent')}" for name in different[:10]),
            hint="run `sealift install` again; if it stays so, tell the release engineer",
        )


def _same(one: str | None, other: str | None) -> bool:
    try:
        return one is not None and other is not None and Version(one) == Version(other)
    except InvalidVersion:
        return one == other


def _replace(place: Path, to: Path) -> None:
    """Rename the finished environment to its place; an older one goes to the working folder and away."""
    if (to / MARKER).is_file():
        to.rename(place.with_name("replaced"))
    place.rename(to)
