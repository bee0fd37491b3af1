"""Room on disks: free bytes and files per mount, what a file system cannot hold, what is already there.

Everything is asked of the nearest folder that exists, so that a target can be judged before it is made.
Quotas are not seen: `statvfs` does not tell them.
"""

from __future__ import annotations

import functools
import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from bundler.core.units import format_bytes
from bundler.errors import ExitCode, Finding
from bundler.storage.mount_table import MOUNTINFO, mount_table

FAT_LARGEST = (1 << 32) - 1
"""FAT keeps sizes in 32 bits (Microsoft FAT specification 1.03, section 6, `DIR_FileSize`)."""
ISO_LARGEST = (1 << 32) - 1
"""One extent of ISO 9660 (ECMA-119 section 9.1.4); larger files need several, which few readers join."""
_FAT_NAMES = re.compile(r'["*:<>?|]')
_MEMORY = ("tmpfs", "ramfs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a kind of file system cannot hold; None where it holds anything of ours."""

    largest_file: int | None = None
    """Bytes."""
    refused_names: re.Pattern[str] | None = None
    """Characters no name may have."""


_LIMITS = {
    "vfat": Limits(largest_file=FAT_LARGEST, refused_names=_FAT_NAMES),
    "msdos": Limits(largest_file=FAT_LARGEST, refused_names=_FAT_NAMES),
    "exfat": Limits(refused_names=_FAT_NAMES),
    "ntfs": Limits(refused_names=_FAT_NAMES),
    "ntfs3": Limits(refused_names=_FAT_NAMES),
    "fuseblk": Limits(refused_names=_FAT_NAMES),
    "iso9660": Limits(largest_file=ISO_LARGEST),
}
"""Only limits that a bundle can meet: it has no links, permissions or sparse files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSystem:
    """One mounted file system as it is now."""

    mount_point: str
    kind: str
    """`ext4`, `vfat`, ...; `unknown` where the system does not say."""
    free: int
    """Bytes an ordinary user may still write."""
    free_files: int | None
    """Files that can still be made; None where there is no such limit."""
    block: int
    """Bytes every file is rounded up to."""
    longest_name: int
    """Bytes of one path component."""
    read_only: bool

    @property
    def limits(self) -> Limits:
        """What this kind cannot hold."""
        return _LIMITS.get(self.kind, Limits())

    def bytes_on_disk(self, sizes: Iterable[int]) -> int:
        """Bytes that files of `sizes` take, rounded up to whole blocks."""
        return sum(-(-size // self.block) * self.block for size in sizes)


@dataclass(frozen=True, slots=True, kw_only=True)
class MountNeed:
    """What one file system has to take: files by path with their sizes, and what is already on it."""

    file_system: FileSystem
    folder: str
    """The nearest existing folder through which it is reached."""
    files: Mapping[str, int]
    """Still to be written."""
    begun: int = 0
    """Bytes of them that are already in partial files."""

    @property
    def needed(self) -> int:
        """Bytes still to be written, in whole blocks."""
        return max(0, self.file_system.bytes_on_disk(self.files.values()) - self.begun)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceReport:
    """Whether everything fits: one need per file system, and what speaks against it."""

    mounts: tuple[MountNeed, ...]
    findings: tuple[Finding, ...] = field(default=())


def free_bytes(path: Path) -> int:
    """Bytes an ordinary user may still write where `path` is or would be."""
    return file_system(path).free


def file_system(path: Path, *, mountinfo: Path = MOUNTINFO) -> FileSystem:
    """The file system `path` is or would be on. Raises OSError when it cannot be asked."""
    folder = existing_folder(path)
    mount_point, kind, mounted_read_only = _mount(folder, mountinfo)
    facts = os.statvfs(folder)
    return FileSystem(
        mount_point=mount_point,
        kind=kind,
        free=facts.f_bavail * facts.f_frsize,
        free_files=facts.f_favail if facts.f_files else None,
        block=max(facts.f_frsize, 1),
        longest_name=facts.f_namemax,
        read_only=mounted_read_only or bool(facts.f_flag & os.ST_RDONLY),
    )


def existing_folder(path: Path) -> Path:
    """The nearest folder at or above `path` that exists, with links resolved."""
    place = Path(os.path.realpath(path))
    while not place.is_dir():
        place = place.parent
    return place


def may_write_below(folder: Path) -> bool:
    """Whether this process may create files in `folder`, or make it where it is missing."""
    place, effective = existing_folder(folder), os.access in os.supports_effective_ids
    return os.access(place, os.W_OK | os.X_OK, effective_ids=effective)


def check_space(
    root: Path, files: Mapping[str, int], *, begun: int = 0, mountinfo: Path = MOUNTINFO
) -> SpaceReport:
    """Whether `files` (path below `root` to size) can be written.

    Files are judged on the file system they would land on, also when a folder inside `root` is a mount of
    its own. `begun` bytes of them are in partial files on the file system of `root`. Findings: `no-space`,
    `no-inodes`, `read-only`, `no-permission`, `file-too-large`, `name-too-long`, `name-refused`, and the
    warning `memory-file-system`. Nothing is written.
    """
    folders: dict[Path, dict[str, int]] = {existing_folder(root): {}}
    nearest = functools.cache(existing_folder)
    for path, size in files.items():
        folders.setdefault(nearest((root / path).parent), {})[path] = size
    mounts = _by_mount(folders, begun, existing_folder(root), mountinfo)
    findings = [finding for mount in mounts for finding in mount_findings(mount)]
    return SpaceReport(mounts=tuple(mounts), findings=tuple(findings))


def _by_mount(
    folders: Mapping[Path, Mapping[str, int]], begun: int, root: Path, mountinfo: Path
) -> list[MountNeed]:
    """Folders on one device counted together; the first one found speaks for it."""
    devices: dict[int, tuple[Path, dict[str, int]]] = {}
    for folder, files in folders.items():
        _, together = devices.setdefault(folder.stat().st_dev, (folder, {}))
        together.update(files)
    return [
        MountNeed(
            file_system=file_system(folder, mountinfo=mountinfo),
            folder=str(folder),
            files=files,
            begun=begun if folder == root else 0,
        )
        for folder, files in devices.values()
    ]


def present_files(root: Path, files: Mapping[str, int]) -> set[str]:
    """The paths of `files` that are below `root` as regular files of that size. Contents are not read."""
    return {path for path, size in files.items() if _size(root / path) == size}


def partial_bytes(folder: Path) -> int:
    """Bytes of the unfinished files (`*.part`) in a working folder's `partial`."""
    sizes = (_size(path) for path in (folder / "partial").glob("*.part"))
    return sum(size for size in sizes if size is not None)


def _size(path: Path) -> int | None:
    try:
        facts = os.lstat(path)
    except OSError:
        return None
    return facts.st_size if stat.S_ISREG(facts.st_mode) else None


def _mount(folder: Path, mountinfo: Path) -> tuple[str, str, bool]:
    """Mount point, kind and whether it is read-only, from the deepest mount above `folder` (proc(5))."""
    best = ("/", "unknown", False)
    for mount in mount_table(mountinfo):
        # A later mount on the same point hides the earlier one.
        if folder.is_relative_to(mount.point) and len(mount.point) >= len(best[0]):
            best = (mount.point, mount.kind, mount.read_only)
    return best


def mount_findings(mount: MountNeed) -> list[Finding]:
    """What speaks against one file system; nothing when nothing has to be written to it."""
    if not mount.files:
        return []
    return [*_access_findings(mount), *_room_findings(mount), *_file_findings(mount)]


def _access_findings(mount: MountNeed) -> list[Finding]:
    system = mount.file_system
    if system.read_only:
        return [
            _machine("read-only", "the target is mounted read-only", mount, "a writable place", system.kind)
        ]
    findings = []
    if not os.access(mount.folder, os.W_OK | os.X_OK):
        what = "the target folder may not be written to"
        findings.append(_machine("no-permission", what, mount, "permission to write", f"user {os.geteuid()}"))
    if system.kind in _MEMORY:
        what = "the target is in main memory: it is gone after a restart"
        findings.append(
            _machine("memory-file-system", what, mount, "a disk", system.kind, severity="warning")
        )
    return findings


def _room_findings(mount: MountNeed) -> list[Finding]:
    system, findings = mount.file_system, []
    if mount.needed > system.free:
        missing = format_bytes(mount.needed - system.free)
        findings.append(
            _machine(
                "no-space",
                f"the file system lacks {missing}",
                mount,
                f"{mount.needed} bytes free ({format_bytes(mount.needed)})",
                f"{system.free} bytes free ({format_bytes(system.free)})",
            )
        )
    if system.free_files is not None and len(mount.files) > system.free_files:
        what = "the file system cannot hold that many more files"
        expected, found = f"{len(mount.files)} free inodes", f"{system.free_files}"
        findings.append(_machine("no-inodes", what, mount, expected, found))
    return findings


def _file_findings(mount: MountNeed) -> list[Finding]:
    limits, findings = mount.file_system.limits, []
    for path, size in sorted(mount.files.items()):
        names = PurePosixPath(path).parts
        if limits.largest_file is not None and size > limits.largest_file:
            what, expected = (
                "a file is too large for this file system",
                f"at most {limits.largest_file} bytes",
            )
            findings.append(_machine("file-too-large", what, mount, expected, f"{size} bytes", path=path))
        if any(len(os.fsencode(name)) > mount.file_system.longest_name for name in names):
            what, expected = (
                "a name is too long for this file system",
                f"{mount.file_system.longest_name} bytes",
            )
            findings.append(_machine("name-too-long", what, mount, expected, path, path=path))
        if limits.refused_names is not None and limits.refused_names.search(path):
            what, expected = "a name is not possible on this file system", 'none of "*:<>?|'
            findings.append(_machine("name-refused", what, mount, expected, path, path=path))
    return findings


def _machine(
    reference: str,
    what: str,
    mount: MountNeed,
    expected: str,
    found: str,
    *,
    path: str = "",
    severity: str = "error",
) -> Finding:
    system = mount.file_system
    where = f"{path}, on {system.mount_point}" if path else mount.folder
    return Finding(
        reference=reference,
        what=what,
        where=f"{where} ({system.kind})",
        expected=expected,
        found=found,
        hint="choose another disk; `sealift plan --to DIR` tries one without writing",
        severity=severity,
        exit_code=ExitCode.MACHINE,
    )
