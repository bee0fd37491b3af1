"""The tree of a bundle as it is on disk, read without ever following a link (format.md section 1).

Everything is opened relative to one directory descriptor of the root, component by component, so that a
link planted between two steps is refused by the kernel instead of being followed. Also runs in
`verify.pyz`: standard library only, Python 3.9.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bundler.core.manifest import ATTESTATIONS, MANIFEST_NAME, Manifest
from bundler.core.paths import MAX_PATH_BYTES, collision_key
from bundler.errors import ExitCode, Finding, IntegrityError, MachineError
from bundler.storage.bounded_read import read_bounded
from bundler.storage.machine_errors import machine_error
from bundler.storage.mount_table import mount_table
from bundler.storage.no_follow import open_beneath, open_fault, open_file

ATTESTATION_SUFFIX = ".sigstore.json"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KINDS = {
    stat.S_IFLNK: ("symbolic-link", "a symbolic link"),
    stat.S_IFIFO: ("special-file", "a FIFO"),
    stat.S_IFSOCK: ("special-file", "a socket"),
    stat.S_IFBLK: ("special-file", "a block device"),
    stat.S_IFCHR: ("special-file", "a character device"),
}
_ONLY = "regular files and directories only (format.md section 1)"


MOST_ENTRIES = 4_000_000
"""Entries that a walk looks at when nothing says how many there should be."""
SPARE_ENTRIES = 100_000
"""Entries beyond the listed ones that are still told; a medium with more was filled on purpose."""


@dataclass(frozen=True)
class Stamp:
    """What the kernel says about a file's identity and last change; times in nanoseconds since the epoch."""

    device: int
    inode: int
    size: int
    mtime: int
    ctime: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """The stamp in a `stat` result."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def to_json(self) -> list[int]:
        """The five numbers in field order."""
        return [self.device, self.inode, self.size, self.mtime, self.ctime]


@dataclass(frozen=True)
class Tree:
    """What is below a root: stamps of regular files by path, directories, and what must not be there.

    A file with a finding of its own (hard link) is still among `files`: it is not also called missing.
    `complete` is False when the walk stopped at its bound.
    """

    files: Mapping[str, Stamp]
    directories: tuple[str, ...]
    findings: tuple[Finding, ...]
    complete: bool = True


@contextmanager
def opened_root(root: Path) -> Iterator[int]:
    """A descriptor of the directory `root`, which must not itself be a link.

    Raises IntegrityError (`root-is-link`) and MachineError (`not-a-directory`, `no-such-bundle`).
    """
    try:
        descriptor = os.open(os.fsencode(root), _FOLDER)
    except OSError as error:
        raise _root_error(root, error) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _root_error(root: Path, error: OSError) -> Exception:
    if root.is_symlink():
        return IntegrityError(
            "root-is-link",
            "the bundle's own folder is a symbolic link",
            where=str(root),
            expected="a directory",
            found=f"a link to {root.readlink()}",
            hint=f"name the real folder: {os.path.realpath(root)}",
        )
    if isinstance(error, FileNotFoundError):
        return MachineError(
            "no-such-bundle",
            "there is no such folder",
            where=str(root),
            hint="mount the medium, or check the path",
        )
    if isinstance(error, NotADirectoryError):
        return MachineError(
            "not-a-directory",
            "a bundle is a folder",
            where=str(root),
            expected="the folder that holds manifest.json",
            found="something else",
        )
    return error


def read_small(root: int, path: str, limit: int) -> tuple[bytes, Stamp]:
    """The bytes of `path`, read once, and the file's stamp. `limit` is in bytes and checked first.

    Raises IntegrityError (those of `open_file`; `changed-while-verifying`) or MalformedError (`too-large`).
    """
    descriptor = open_file(root, path)
    try:
        before = Stamp.of(os.fstat(descriptor))
        data = read_bounded(descriptor, limit, where=path)
        if Stamp.of(os.fstat(descriptor)) != before or len(data) != before.size:
            raise IntegrityError("changed-while-verifying", "a file changed while it was read", where=path)
    except OSError as error:
        raise machine_error(error, path) from error
    finally:
        os.close(descriptor)
    return data, before


def walk_tree(root: int, most: int = MOST_ENTRIES) -> Tree:
    """Everything below the directory descriptor `root`. Bytes are not read and no link is followed.

    The walk stops after `most` entries (`too-many-entries`): what lies on a medium is nobody's signed word.

    Findings: `symbolic-link`, `hard-link`, `special-file`, `bad-name` (not UTF-8, or a path over 1024 bytes),
    `mount-inside`, `unreadable`.
    """
    walk = _Walk(root, most)
    waiting = [""]
    while waiting and not walk.full:
        waiting.extend(walk.directory(waiting.pop()))
    if walk.full:
        walk.findings.append(_too_many_entries(most))
    return Tree(
        files=dict(sorted(walk.files.items())),
        directories=tuple(sorted(walk.directories)),
        findings=tuple(walk.findings),
        complete=not walk.full,
    )


def _too_many_entries(most: int) -> Finding:
    return _finding(
        "too-many-entries",
        "the tree holds far more entries than the bundle has files",
        ".",
        expected=f"at most {most} files and folders",
        found="more; the rest was not looked at",
        hint="find out who put them there; copy the bundle alone to an empty folder and verify that",
    )


class _Walk:
    """What one walk has seen so far."""

    def __init__(self, root: int, most: int) -> None:
        self.root, self.most, self.seen = root, most, 0
        self.device = os.fstat(root).st_dev
        self.mounts = frozenset(mounts_below(root))
        self.files: dict[str, Stamp] = {}
        self.directories: list[str] = []
        self.findings: list[Finding] = []

    @property
    def full(self) -> bool:
        """Whether more entries were seen than are looked at."""
        return self.seen > self.most

    def directory(self, path: str) -> list[str]:
        """Take in the entries of one directory; gives back the directories in it that are to be entered."""
        try:
            descriptor = open_beneath(self.root, path, directory=True) if path else os.dup(self.root)
        except OSError as error:
            self._unread(path, error)
            return []
        inner: list[str] = []
        try:
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    self.seen += 1
                    if self.full:
                        break
                    inner.append(self._entry(path, entry))
        except OSError as error:
            self._unread(path, error)
        finally:
            os.close(descriptor)
        return [name for name in inner if name]

    def _entry(self, parent: str, entry: os.DirEntry[str]) -> str:
        path = self._path(parent, os.fsencode(entry.name))
        if not path:
            return ""
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError as error:
            self._unread(path, error)
            return ""
        kind = stat.S_IFMT(status.st_mode)
        # Regular files of an overlay may carry another device number than their directories: for them only
        # the mount table counts.
        if path in self.mounts or (kind == stat.S_IFDIR and status.st_dev != self.device):
            self._tell("mount-inside", "another file system is mounted inside the bundle", path)
            return ""
        if kind == stat.S_IFDIR:
            self.directories.append(path)
            return path
        if kind == stat.S_IFREG:
            self._file(path, status)
        else:
            reference, what = _KINDS.get(kind, ("special-file", "something unknown"))
            self._tell(reference, f"the bundle holds {what}", path, found=what)
        return ""

    def _file(self, path: str, status: os.stat_result) -> None:
        self.files[path] = Stamp.of(status)
        if status.st_nlink > 1:
            self._tell("hard-link", "a file has several names", path, found=f"{status.st_nlink} hard links")

    def _path(self, parent: str, raw: bytes) -> str:
        try:
            name = raw.decode("utf-8")
        except UnicodeDecodeError:
            shown = f"{parent}/{repr(raw)[2:-1]}".lstrip("/")
            self._tell("bad-name", "a name is not UTF-8", shown, found="bytes that are not UTF-8")
            return ""
        path = f"{parent}/{name}" if parent else name
        length = len(path.encode())
        if length > MAX_PATH_BYTES:
            self._tell("bad-name", "a path is too long", path, found=f"{length} bytes")
            return ""
        return path

    def _unread(self, path: str, error: OSError) -> None:
        """A folder or an entry that cannot be looked at: by the machine's fault, unless the tree changed."""
        self.findings += open_fault(path or ".", error).findings

    def _tell(self, reference: str, what: str, where: str, *, found: str = "") -> None:
        self.findings.append(_finding(reference, what, where, expected=_ONLY, found=found))


def mounts_below(root: int) -> Iterator[str]:
    """Paths below the root at which something is mounted, as far as this process' mount table says.

    A bind mount of the same file system has the same device number, so the table is asked. Without /proc
    there is no table; device numbers are then the only sign.
    """
    try:
        base = str(Path(f"/proc/self/fd/{root}").readlink())
    except OSError:
        return
    prefix = base.rstrip("/") + "/"
    points = (mount.point for mount in mount_table())
    yield from (point[len(prefix) :] for point in points if point.startswith(prefix))


def most_entries(manifest: Manifest) -> int:
    """How many entries the walk of a bundle looks at: its files, their folders, and some to be told."""
    folders: set[str] = set()
    for entry in manifest.files:
        folder = entry.path.rpartition("/")[0]
        while folder and folder not in folders:
            folders.add(folder)
            folder = folder.rpartition("/")[0]
    return len(manifest.files) + len(folders) + SPARE_ENTRIES


def tree_findings(tree: Tree, manifest: Manifest, manifest_size: int) -> list[Finding]:
    """How the tree differs from the manifest plus `manifest.json` and `attestations/*`; empty when equal.

    Findings: those of the walk, `missing-file`, `extra-file`, `renamed-file` (another Unicode form or case),
    `unlisted-directory`, `wrong-size`, `unexpected-attestation`.
    """
    sizes: dict[str, int] = {entry.path: entry.size for entry in manifest.files}
    sizes[MANIFEST_NAME] = manifest_size
    if not tree.complete:
        # What was not reached is not missing.
        extra = {path for path in tree.files if path not in sizes and not _is_attestation(path)}
        return [*tree.findings, *(_extra(path, tree.files[path].size) for path in sorted(extra))]
    told = {finding.where for finding in tree.findings}
    missing = {path for path in sizes if path not in tree.files and not _told(path, told)}
    extra = {path for path in tree.files if path not in sizes and not _is_attestation(path)}
    renamed = _renamed(missing, extra)
    return [
        *tree.findings,
        *(_renamed_finding(old, new) for old, new in renamed.items()),
        *(_missing(path, sizes[path]) for path in sorted(missing - renamed.keys())),
        *(_extra(path, tree.files[path].size) for path in sorted(extra - set(renamed.values()))),
        *_directory_findings(tree, sizes),
        *_size_findings(tree, sizes),
    ]


def _told(path: str, told: set[str]) -> bool:
    parts = path.split("/")
    return any("/".join(parts[:depth]) in told for depth in range(1, len(parts) + 1))


def _is_attestation(path: str) -> bool:
    folder, _, name = path.rpartition("/")
    return folder == ATTESTATIONS and name.endswith(ATTESTATION_SUFFIX)


def _renamed(missing: Iterable[str], extra: Iterable[str]) -> dict[str, str]:
    """Missing paths that are there under another Unicode form or case, with the name they have."""
    there = {collision_key(path): path for path in extra}
    pairs = ((path, there.get(collision_key(path))) for path in sorted(missing))
    return {path: found for path, found in pairs if found is not None}


def _renamed_finding(expected: str, found: str) -> Finding:
    return _finding(
        "renamed-file",
        "a file's name has another Unicode form or another case",
        expected,
        expected=ascii(expected),
        found=ascii(found),
        hint="copy with a tool and a file system that keep names byte for byte (not HFS+ or FAT)",
    )


def _missing(path: str, size: int) -> Finding:
    return _finding(
        "missing-file",
        "a listed file is missing",
        path,
        expected=f"{size} bytes",
        found="nothing",
        hint="copy or receive this file again, then verify again",
    )


def _extra(path: str, size: int) -> Finding:
    if path.startswith(f"{ATTESTATIONS}/"):
        return _finding(
            "unexpected-attestation",
            "a file in attestations/ is no attestation",
            path,
            expected=f"only *{ATTESTATION_SUFFIX} directly in {ATTESTATIONS}/",
            found=f"{size} bytes",
        )
    hidden = any(component.startswith(".") for component in path.split("/"))
    what = "a hidden file is not in the manifest" if hidden else "a file is not in the manifest"
    return _finding(
        "extra-file",
        what,
        path,
        expected="nothing",
        found=f"{size} bytes",
        hint="find out who put it there; then move it out of the bundle and verify again",
    )


def _directory_findings(tree: Tree, sizes: Mapping[str, int]) -> Iterator[Finding]:
    wanted = {ATTESTATIONS}
    for path in [*sizes, *tree.files]:
        parts = path.split("/")
        wanted.update("/".join(parts[:depth]) for depth in range(1, len(parts)))
    for directory in tree.directories:
        # Report an unlisted directory only if it is empty; otherwise its files are reported already.
        if directory not in wanted:
            yield _finding(
                "unlisted-directory",
                "an unlisted directory holds no file",
                directory,
                expected="only directories of listed files",
                found="a directory without files",
            )


def _size_findings(tree: Tree, sizes: Mapping[str, int]) -> Iterator[Finding]:
    for path, size in sizes.items():
        stamp = tree.files.get(path)
        if stamp is not None and stamp.size != size:
            what = "a file is shorter than listed" if stamp.size < size else "a file is longer than listed"
            yield _finding("wrong-size", what, path, expected=f"{size} bytes", found=f"{stamp.size} bytes")


def changed_findings(before: Tree, after: Tree) -> list[Finding]:
    """What changed in the tree between two walks of it (`changed-while-verifying`)."""
    paths = sorted(before.files.keys() | after.files.keys())
    changed = [path for path in paths if before.files.get(path) != after.files.get(path)]
    changed += sorted(set(before.directories) ^ set(after.directories))
    return [
        *(_changed(path, before, after) for path in changed),
        *(finding for finding in after.findings if finding not in before.findings),
    ]


def _changed(path: str, before: Tree, after: Tree) -> Finding:
    if path not in before.files and path not in before.directories:
        found = "it appeared"
    elif path not in after.files and path not in after.directories:
        found = "it vanished"
    else:
        found = "another device, inode, size or time"
    return _finding(
        "changed-while-verifying",
        "the bundle changed while it was being verified",
        path,
        expected="the same tree before and after",
        found=found,
        hint="stop whatever writes there, or mount it read-only, and verify again",
    )


def _finding(
    reference: str, what: str, where: str, *, expected: str = "", found: str = "", hint: str = ""
) -> Finding:
    return Finding(
        reference, what, where=where, expected=expected, found=found, hint=hint, exit_code=ExitCode.INTEGRITY
    )
