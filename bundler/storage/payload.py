"""The tree that is being built: files that are there only when they are whole and right.

Bytes are appended to a partial file in the working folder and hashed on the way. Only a file whose
digests are equal is renamed into the tree, and then noted in the journal. Whatever happens in between, the
next run continues: it hashes the partial once more (the state of a hash cannot be saved) and goes on
behind it.

    root/payload/...            finished files only
    work/guard                  held with flock while a process builds
    work/journal.jsonl          one line for each finished file
    work/partial/<key>.part     bytes received so far
    work/partial/<key>.bad      bytes that were whole but wrong, kept for whoever wants to know why
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bundler.core.chunks import DEFAULT_CHUNK_SIZE
from bundler.core.paths import parse_bundle_path
from bundler.errors import IntegrityError, MachineError, MalformedError
from bundler.storage.atomic import write_all
from bundler.storage.journal import Journal
from bundler.storage.machine_errors import machine_faults
from bundler.storage.no_follow import open_folder, parent_beneath, regular_file_facts
from bundler.storage.stream_digests import FileDigester, hashing_pool

PIECE_BYTES = 1 << 20
# Every 256 MB the bytes go to the disk and out of the page cache: a build neither fills the memory with
# bytes nobody reads again, nor loses more than that to a power cut, nor waits for 17 GB at the end.
SYNC_BYTES = 256 * 10**6
FICLONE = 0x40049409  # <linux/fs.h>: _IOW(0x94, 9, int)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A finished file of the tree: `chunk_digests` has 32 bytes for each chunk (format.md section 4)."""

    path: str
    size: int
    sha256: str
    chunk_digests: bytes
    git_blob_sha1: str | None = None
    """Known for files that were checked by it."""


@dataclass(frozen=True, slots=True)
class _Kept:
    file: StoredFile
    mtime_ns: int


def _ignore(_count: int) -> None:
    """Nobody watches."""


class PayloadStore:
    """The tree at `root` with the working folder `work`; both are made if missing. Use as a context manager.

    One process at a time: entering takes an exclusive guard, or raises MachineError (`busy`) that names the
    other process. Both folders must be on one file system (`other-file-system`). Methods may be called from
    several threads, for different paths.
    """

    def __init__(self, root: Path, work: Path, *, chunk_size: int = DEFAULT_CHUNK_SIZE) -> None:
        self.root = root
        self.work = work
        self.chunk_size = chunk_size
        self._open = ExitStack()
        self._tree_guard = threading.Lock()
        self._closed = False
        self._kept: dict[str, _Kept] = {}

    def __enter__(self) -> Self:
        # The process before may have renamed its working folder away while we waited at the guard in it.
        while not self._entered():
            continue
        return self

    def _entered(self) -> bool:
        with machine_faults(self.work), ExitStack() as opening:
            self._work = _opened(opening, self.work)
            opening.enter_context(_guard(self.work))
            if not _is_at(self._work, self.work):
                return False
            self._root = _opened(opening, self.root)
            self._partial = _opened(opening, self.work / "partial")
            self._check_one_file_system()
            self._journal = Journal(self.work / "journal.jsonl")
            opening.callback(self._journal.close)
            self.pool = opening.enter_context(hashing_pool())
            self._replay()
            self._open = opening.pop_all()
        return True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A thread left behind may still be in `commit`: its descriptors' numbers must not name other files.
        with self._tree_guard:
            self._closed = True
            self._open.close()

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the store is closed")

    def _check_one_file_system(self) -> None:
        if os.fstat(self._root).st_dev != os.fstat(self._partial).st_dev:
            raise MachineError(
                "other-file-system",
                "finished files cannot be renamed into the tree",
                where=str(self.work),
                expected=f"the file system of {self.root}",
                found="another one",
                hint="put the working folder beside the output",
            )

    def _replay(self) -> None:
        if not self._journal.entries:
            self._journal.append({"chunkSize": self.chunk_size})
        for entry in self._journal.entries:
            if "chunkSize" in entry:
                self._check_chunk_size(entry["chunkSize"])
            elif "discarded" in entry:
                self._kept.pop(entry["discarded"], None)
            else:
                kept = _from_entry(entry)
                self._kept[kept.file.path] = kept

    def _check_chunk_size(self, found: object) -> None:
        if found != self.chunk_size:
            raise MalformedError(
                "other-chunk-size",
                "the working folder was begun with another chunk size",
                where=str(self._journal.path),
                expected=f"{self.chunk_size} bytes",
                found=f"{found} bytes",
                hint="move the journal away: files already there are hashed anew, not fetched",
            )

    def kept(self, path: str) -> StoredFile | None:
        """The finished file at `path`; None when there is none or its size or mtime is no longer as noted."""
        noted = self._kept.get(path)
        facts = self._facts(path) if noted else None
        if noted is None or facts is None:
            return None
        same = facts.st_size == noted.file.size and facts.st_mtime_ns == noted.mtime_ns
        return noted.file if same else None

    def stored(self) -> dict[str, StoredFile]:
        """All files for which `kept` gives one, in code point order of path."""
        found = ((path, self.kept(path)) for path in sorted(self._kept))
        return {path: file for path, file in found if file is not None}

    def missing_bytes(self, path: str, size: int) -> int:
        """How many of the `size` bytes of `path` have still to come: 0 when kept, less for a partial."""
        kept = self.kept(path)
        if kept is not None and kept.size == size:
            return 0
        partial = self.work / "partial" / partial_name(path, size)
        there = partial.lstat().st_size if partial.is_file() else 0
        return size - min(there, size)

    def writer(
        self,
        path: str,
        size: int,
        *,
        git_blob: bool = False,
        resume: bool = True,
        watch: Callable[[int], None] = _ignore,
    ) -> PayloadWriter:
        """A writer for the file of `size` bytes that will stand at `path`; a context manager.

        With `resume` it continues the partial of an earlier run, which is hashed first; so is a file that
        stands at `path` without a journal line (killed between rename and journal). `watch` gets the count
        of bytes as they are hashed, and may raise to stop that. Without `resume` it begins at 0: right when
        no digest is known to check the sum of old and new bytes. `git_blob` also computes the git blob id.

        Raises MalformedError (`bad-path`), IntegrityError (`link-in-tree`), MachineError.
        """
        parse_bundle_path(path)
        name = partial_name(path, size)
        with machine_faults(self.root / path, needed=size):
            if resume:
                self._take_back(path, size, name)
            writer = PayloadWriter(self, path, size, name, git_blob=git_blob)
        try:
            writer._continue(resume, watch)
        except BaseException:
            writer.close()
            raise
        return writer

    def _take_back(self, path: str, size: int, name: str) -> None:
        """Makes a file at `path` that the journal does not vouch for the partial, to be hashed again."""
        facts = self._facts(path)
        if facts is None or facts.st_size > size or self.kept(path) is not None:
            return
        if regular_file_facts(self._partial, name, f"{self.work}/partial/{name}") is None:
            with parent_beneath(self._root, path) as (parent, last):
                os.rename(last, name, src_dir_fd=parent, dst_dir_fd=self._partial)

    def _facts(self, path: str) -> os.stat_result | None:
        try:
            with parent_beneath(self._root, path) as (parent, last):
                return regular_file_facts(parent, last, path)
        except FileNotFoundError:
            return None

    def put_bytes(self, path: str, data: bytes) -> StoredFile:
        """Stores `data` at `path`; does nothing when exactly these bytes are there."""
        sha256 = hashlib.sha256(data).hexdigest()
        kept = self.kept(path)
        if kept is not None and kept.sha256 == sha256:
            return kept
        with self.writer(path, len(data), resume=False) as writer:
            writer.write(data)
            return writer.commit(sha256=sha256)

    def put_file(self, path: str, source: Path, sha256: str | None = None) -> StoredFile:
        """Copies the regular file `source` to `path`, checked against `sha256` when given.

        Does nothing when the file with that digest is there. Raises IntegrityError also when `source`
        grows or shrinks meanwhile.
        """
        kept = self.kept(path)
        if kept is not None and kept.sha256 == sha256:
            return kept
        with source.open("rb") as reading:
            size = os.fstat(reading.fileno()).st_size
            with self.writer(path, size, resume=sha256 is not None) as writer:
                reading.seek(writer.offset)
                while piece := reading.read(PIECE_BYTES):
                    writer.write(piece)
                return writer.commit(sha256=sha256)

    def adopt(
        self,
        path: str,
        size: int,
        source: int,
        *,
        sha256: str | None,
        git_blob_sha1: str | None,
        watch: Callable[[int], None] = _ignore,
    ) -> StoredFile | None:
        """Stores what the descriptor `source` holds at `path`, if that has the wanted digests; else None.

        Blocks are shared where the file system can (FICLONE), and copied elsewhere; the source is never
        linked, for whoever changes it later must not change this tree. A partial of `path` stays as it is.

        Raises OSError when `source` cannot be read; MachineError as `writer`.
        """
        parse_bundle_path(path)
        name = f"{partial_name(path, size)}.reused"
        with machine_faults(self.root / path, needed=size):
            writer = PayloadWriter(self, path, size, name, git_blob=git_blob_sha1 is not None)
        with writer:
            try:
                writer._continue(resume=self._cloned(source, writer._descriptor, size), watch=watch)
                while piece := os.read(source, min(PIECE_BYTES, size - writer.offset)):
                    writer.write(piece)
                    watch(len(piece))
                if writer.has(sha256, git_blob_sha1):
                    return writer.commit(sha256, git_blob_sha1)
                return None
            finally:
                with suppress(FileNotFoundError):  # renamed into the tree when all was well
                    os.unlink(name, dir_fd=self._partial)

    def _cloned(self, source: int, target: int, size: int) -> bool:
        """Whether `target` now shares the blocks of `source`; False where the file system cannot share."""
        try:
            fcntl.ioctl(target, FICLONE, source)
        except OSError:
            return False
        return os.fstat(target).st_size == size

    def shares_blocks_with(self, source: int) -> bool:
        """Whether files of this tree can share blocks with `source`: then reusing it takes no space."""
        name = "probe.reused"
        descriptor = self._open_partial(name)
        try:
            return self._cloned(source, descriptor, os.fstat(source).st_size)
        finally:
            os.close(descriptor)
            os.unlink(name, dir_fd=self._partial)

    def discard(self, path: str) -> None:
        """Removes the file at `path` and the folders it leaves empty; nothing happens when there is none."""
        parse_bundle_path(path)
        with machine_faults(self.root / path), self._tree_guard:
            self._check_open()
            if path in self._kept:
                self._journal.append({"discarded": path})
                del self._kept[path]
            try:
                with parent_beneath(self._root, path) as (parent, last):
                    os.unlink(last, dir_fd=parent)
            except FileNotFoundError:
                return
            self._prune(path)

    def _prune(self, path: str) -> None:
        """Removes the empty folders above `path`: the bundle may hold no unlisted empty folder."""
        folders = path.split("/")[:-1]
        while folders:
            try:
                with parent_beneath(self._root, "/".join(folders)) as (parent, last):
                    os.rmdir(last, dir_fd=parent)
            except OSError:  # not empty, or gone: as good
                return
            folders.pop()

    def _accept(self, file: StoredFile, name: str, mtime_ns: int) -> None:
        """Renames the partial `name` into the tree and notes it; durable in this order."""
        kept = _Kept(file, mtime_ns)
        # The guard keeps `discard` from removing a folder between its making and the rename.
        with self._tree_guard:
            self._check_open()
            with parent_beneath(self._root, file.path, create=True) as (parent, last):
                regular_file_facts(parent, last, file.path)
                os.rename(name, last, src_dir_fd=self._partial, dst_dir_fd=parent)
                os.fsync(parent)
            self._journal.append(_to_entry(kept))
            self._kept[file.path] = kept

    def _reject(self, name: str) -> Path:
        """Puts the partial `name` aside as `.bad`, and says where it is now."""
        bad = f"{name.removesuffix('.part')}.bad"
        os.rename(name, bad, src_dir_fd=self._partial, dst_dir_fd=self._partial)
        return self.work / "partial" / bad

    def _open_partial(self, name: str) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        regular_file_facts(self._partial, name, f"{self.work}/partial/{name}")
        return os.open(name, flags, 0o644, dir_fd=self._partial)


class PayloadWriter:
    """Appends the bytes of one file; made by `PayloadStore.writer`.

    Leaving its context without `commit` keeps the partial: the next writer for the path continues it.
    """

    def __init__(self, store: PayloadStore, path: str, size: int, name: str, *, git_blob: bool) -> None:
        self.path = path
        self.size = size
        self.offset = 0
        """Bytes written so far: where the source has to go on."""
        self.resumed = 0
        """Bytes that were there from an earlier run."""
        self._store = store
        self._where = store.root / path
        self._name = name
        self._synced = 0
        self._digester = FileDigester(
            chunk_size=store.chunk_size, git_blob_size=size if git_blob else None, pool=store.pool
        )
        self._descriptor = store._open_partial(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the partial and leaves it as it is."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _continue(self, resume: bool, watch: Callable[[int], None]) -> None:
        with machine_faults(self._where):
            there = os.fstat(self._descriptor).st_size
            if not resume or there > self.size:
                os.ftruncate(self._descriptor, 0)
                there = 0
            while self.offset < there:
                piece = os.pread(self._descriptor, min(PIECE_BYTES, there - self.offset), self.offset)
                self._digester.update(piece)
                self.offset += len(piece)
                watch(len(piece))
            os.lseek(self._descriptor, self.offset, os.SEEK_SET)
        self.resumed = self._synced = self.offset

    def write(self, data: bytes) -> None:
        """Appends `data`, which must not be changed afterwards.

        Raises IntegrityError (`too-many-bytes`) before a byte beyond `size` is written; the partial is then
        put aside as `.bad`, for its source serves another file. MachineError keeps it resumable.
        """
        if self.offset + len(data) > self.size:
            raise self._refused("too-many-bytes", f"{self.size} bytes", "more bytes than that")
        self._digester.update(data)
        with machine_faults(self._where, needed=self.size - self.offset):
            write_all(self._descriptor, data)
            self.offset += len(data)
            if self.offset - self._synced >= SYNC_BYTES:
                self._sync()

    def _sync(self) -> None:
        os.fdatasync(self._descriptor)
        os.posix_fadvise(self._descriptor, 0, self.offset, os.POSIX_FADV_DONTNEED)
        self._synced = self.offset

    def commit(self, sha256: str | None = None, git_blob_sha1: str | None = None) -> StoredFile:
        """The finished file, in its place and noted in the journal; both durable.

        Raises IntegrityError: `too-few-bytes` (the partial stays resumable), `digest-mismatch` (kept as
        `.bad`). MachineError keeps the partial. `git_blob_sha1` needs a writer opened with `git_blob`.
        """
        if self.offset < self.size:
            raise self._mismatch("too-few-bytes", f"{self.size} bytes", f"{self.offset} bytes")
        file = StoredFile(
            path=self.path,
            size=self.size,
            sha256=self._digester.sha256(),
            chunk_digests=self._digester.chunk_digests(),
            git_blob_sha1=self._digester.git_blob_sha1(),
        )
        self._compare("sha256", sha256, file.sha256)
        self._compare("git blob sha1", git_blob_sha1, file.git_blob_sha1)
        with machine_faults(self._where):
            self._sync()
            facts = os.fstat(self._descriptor)
            self._store._accept(file, self._name, facts.st_mtime_ns)
        self.close()
        return file

    def has(self, sha256: str | None, git_blob_sha1: str | None) -> bool:
        """Whether all bytes are here and have these digests, of which at least one must be given."""
        wanted = [(sha256, self._digester.sha256()), (git_blob_sha1, self._digester.git_blob_sha1())]
        known = [expected == found for expected, found in wanted if expected is not None]
        return self.offset == self.size and bool(known) and all(known)

    def _compare(self, algorithm: str, expected: str | None, found: str | None) -> None:
        if expected is not None and expected != found:
            raise self._refused("digest-mismatch", f"{algorithm}:{expected}", f"{algorithm}:{found}")

    def _refused(self, reference: str, expected: str, found: str) -> IntegrityError:
        with machine_faults(self._where):
            bad = self._store._reject(self._name)
        self.close()
        return self._mismatch(reference, expected, f"{found} (kept as {bad})")

    def _mismatch(self, reference: str, expected: str, found: str) -> IntegrityError:
        return IntegrityError(
            reference,
            "the bytes received are not the file that was locked",
            where=self.path,
            expected=expected,
            found=found,
            hint="run again to fetch it anew; if it differs again, ask upstream, and `sealift lock --check`",
        )


def partial_name(path: str, size: int) -> str:
    """The name of the partial of `path`: always the same, legal whatever `path` is, told apart by people."""
    key = hashlib.sha256(f"{size} {path}".encode()).hexdigest()[:32]
    return f"{key}-{path.rsplit('/', 1)[-1]}.part"


def _to_entry(kept: _Kept) -> dict[str, Any]:
    file = kept.file
    entry: dict[str, Any] = {
        "stored": file.path,
        "size": file.size,
        "sha256": file.sha256,
        "mtimeNs": kept.mtime_ns,
        "chunks": base64.b64encode(file.chunk_digests).decode(),
    }
    if file.git_blob_sha1 is not None:
        entry["gitBlobSha1"] = file.git_blob_sha1
    return entry


def _from_entry(entry: dict[str, Any]) -> _Kept:
    file = StoredFile(
        path=entry["stored"],
        size=entry["size"],
        sha256=entry["sha256"],
        chunk_digests=base64.b64decode(entry["chunks"]),
        git_blob_sha1=entry.get("gitBlobSha1"),
    )
    return _Kept(file, entry["mtimeNs"])


def _opened(stack: ExitStack, folder: Path) -> int:
    descriptor = open_folder(folder)
    stack.callback(os.close, descriptor)
    return descriptor


def _is_at(descriptor: int, folder: Path) -> bool:
    """Whether `folder` still names the folder that `descriptor` holds."""
    try:
        return os.path.samestat(os.fstat(descriptor), folder.lstat())
    except FileNotFoundError:
        return False


@contextmanager
def _guard(work: Path) -> Iterator[None]:
    """The exclusive right to build in `work`; the kernel gives it back however this process ends."""
    path = work / "guard"
    work.mkdir(parents=True, exist_ok=True)  # renamed away a moment ago: `_entered` notices and begins again
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _busy(work, os.pread(descriptor, 64, 0)) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        yield
    finally:
        os.close(descriptor)


def _busy(work: Path, noted: bytes) -> MachineError:
    pid = noted.decode("ascii", "replace").strip()
    return MachineError(
        "busy",
        "another process builds in this working folder",
        where=str(work),
        expected="one process at a time",
        found=f"process {pid}{_command(pid)}",
        hint=f"wait for it, or stop it with `kill {pid}` and run again: work continues where it stopped",
    )


def _command(pid: str) -> str:
    """`: program arguments` of a process of this machine, empty when it is not known."""
    try:
        line = Path(f"/proc/{int(pid)}/cmdline").read_bytes()
    except (OSError, ValueError):
        return ""
    words = line.replace(b"\0", b" ").decode("utf-8", "replace").strip()
    return f": {words[:120]}" if words else ""
