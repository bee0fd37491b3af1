"""Read leases on every file of a bundle: no one has it open for writing, and no one opens it unnoticed.

A stamp does not show every change. Who mapped a file shared and writable may change it through pages that
are writable already: size and times stay. But the kernel counts such a mapping as an open for writing, also
after its descriptor was closed, and then refuses a read lease (fcntl(2), F_SETLEASE, EAGAIN; seen on ext4
and tmpfs). A lease that is held is broken by the next open for writing, and says so.

Leases need the file's owner or CAP_LEASE, and a file system that keeps them; where they cannot be had, that
is reported as not checked. Also runs in `verify.pyz`: standard library only, Python 3.9.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import signal
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from bundler.errors import ExitCode, Finding, SealiftError
from bundler.storage.no_follow import open_file
from bundler.storage.tree import Stamp

F_SETSIG = getattr(fcntl, "F_SETSIG", 10)
F_SETLEASE = getattr(fcntl, "F_SETLEASE", 1024)
F_GETLEASE = getattr(fcntl, "F_GETLEASE", 1025)
RESERVED_DESCRIPTORS = 256
"""Left for everything else this process opens: readers, the journal, the state, output."""
LOOK_SECONDS = 0.05
"""Between two looks for broken leases. Whoever opens a file for writing waits until its lease is given back,
so it is given back soon; the verification has failed by then."""
_REMOTE = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "9p", "ceph", "lustre", "gpfs", "beegfs")
"""File systems whose refusal of a lease says nothing about writers: the server gave no delegation."""
HELD, WRITER = "held", "writer"
FOREIGN = "this user does not own"
UNSUPPORTED = "the file system keeps no leases on"
UNOPENED = "it was not possible to open"


class Leases:
    """The leases of one bundle's files. A context manager: closing it gives all of them back."""

    def __init__(self) -> None:
        self._held: dict[str, int] = {}
        self._looked_at: list[str] = []
        self._not_checked: Counter[str] = Counter()
        self._written: set[str] = set()
        self._limits: tuple[int, int] | None = None
        self._guard = threading.Lock()
        self._end = threading.Event()
        self._watcher: threading.Thread | None = None

    def __enter__(self) -> Leases:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def take(self, root: int, stamps: Mapping[str, Stamp]) -> list[Finding]:
        """Take a lease on every file below the descriptor `root`; findings for those that someone writes.

        As many as this process may have open are held until `close`; further ones are only looked at, now
        and in `findings`. A file that is gone or cannot be opened is reported by the reader of
        its bytes; here it counts as not checked.
        """
        room = self._make_room(len(stamps))
        remote = _is_remote(root)
        for path in stamps:
            self._take(root, path, hold=len(self._held) < room, remote=remote)
        if self._held and self._watcher is None:
            watcher = threading.Thread(target=self._watch, name="leases", daemon=True)
            try:
                watcher.start()
            except RuntimeError as error:
                raise OSError(errno.EAGAIN, f"{error} (see `ulimit -v` and `ulimit -u`)") from error
            self._watcher = watcher
        return self._written_findings()

    def findings(self, root: int) -> list[Finding]:
        """Files that are open for writing now, or were opened for writing since their lease was taken."""
        self._look()
        for path in self._looked_at:
            self._take(root, path, hold=False, remote=False, again=True)
        return self._written_findings()

    def not_checked(self) -> tuple[str, ...]:
        """For how many files it is not known whether someone writes them, by reason."""
        return tuple(
            f"whether another program has files open for writing: {reason} {count} files"
            for reason, count in sorted(self._not_checked.items())
        )

    def close(self) -> None:
        """Give every lease back; may be called twice."""
        self._end.set()
        if self._watcher is not None:
            self._watcher.join()
        with self._guard:
            for descriptor in self._held.values():
                os.close(descriptor)
            self._held.clear()
        self.restore_limit()

    def restore_limit(self) -> None:
        """Give back the limit of open files that the process had: an engine should not inherit ours."""
        if self._limits is not None:
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, self._limits)
            self._limits = None

    def _make_room(self, wanted: int) -> int:
        """How many leases may be held; raises the soft limit of open files as far as that is allowed."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        needed = wanted + RESERVED_DESCRIPTORS
        more = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        if soft != resource.RLIM_INFINITY and soft < more:
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
                self._limits = (soft, hard)
                soft = more
        return wanted if soft == resource.RLIM_INFINITY else max(0, soft - RESERVED_DESCRIPTORS)

    def _take(self, root: int, path: str, *, hold: bool, remote: bool, again: bool = False) -> None:
        try:
            descriptor = open_file(root, path)
        except (OSError, SealiftError):
            with self._guard:
                self._not_checked[UNOPENED] += 1
            return
        outcome = lease(descriptor)
        if outcome == WRITER and remote:
            outcome = UNSUPPORTED
        keep = hold and outcome == HELD
        with self._guard:
            if keep:
                self._held[path] = descriptor
            elif outcome == WRITER:
                self._written.add(path)
            elif outcome == HELD and not again:
                self._looked_at.append(path)
            elif not again:
                self._not_checked[outcome] += 1
        if not keep:
            os.close(descriptor)

    def _watch(self) -> None:
        while not self._end.wait(LOOK_SECONDS):
            self._look()

    def _look(self) -> None:
        """Note the leases that someone is breaking, and give those back: he waits for it."""
        with self._guard:
            for path in [path for path, descriptor in self._held.items() if _is_broken(descriptor)]:
                self._written.add(path)
                os.close(self._held.pop(path))

    def _written_findings(self) -> list[Finding]:
        with self._guard:
            return [_finding(path) for path in sorted(self._written)]


def lease(descriptor: int) -> str:
    """Take a read lease on an open file; it ends when the descriptor is closed. Gives back how that went."""
    try:
        # A broken lease is told by SIGIO, which would end the process; SIGURG is ignored by default.
        fcntl.fcntl(descriptor, F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        if error.errno == errno.EAGAIN:
            return WRITER
        return FOREIGN if error.errno in (errno.EACCES, errno.EPERM) else UNSUPPORTED
    return HELD


def _is_broken(descriptor: int) -> bool:
    # While a break waits, the kernel names the lease it will become (fcntl(2)): F_UNLCK for a writer.
    return fcntl.fcntl(descriptor, F_GETLEASE) != fcntl.F_RDLCK


def _is_remote(root: int) -> bool:
    """Whether the folder lies on a file system of another machine, by the mount table (proc(5))."""
    device = os.fstat(root).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return False
    return any(_kind(line) in _REMOTE for line in lines if line.split(" ")[2:3] == [number])


def _kind(line: str) -> str:
    return line.partition(" - ")[2].partition(" ")[0]


def _finding(path: str) -> Finding:
    return Finding(
        "open-for-writing",
        "a file is open for writing in another program, which can change it after it was read",
        where=path,
        expected="a file that no one has open for writing",
        found="a writer, or a writable mapping of it",
        hint="`fuser -v FILE` names the program; end it, or mount the bundle read-only, and verify again",
        exit_code=ExitCode.INTEGRITY,
    )
