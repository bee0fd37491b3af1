"""The verification journal: which ranges an interrupted full verification has already read and found good.

It is in the perimeter, beside the state, never inside the bundle; only its owner may read or write it.
It is bound to the manifest and to the chunk list by digest, and each range to the file's device, inode,
size, mtime and ctime: a file that was touched since is read again. What it cannot prove is that the medium
still gives the same bytes; the report therefore tells trusted bytes apart from bytes read.
"""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bundler.errors import MachineError, SealiftError
from bundler.storage.bounded_read import read_up_to
from bundler.storage.hashing import Unit
from bundler.storage.private_folder import ensure_folder
from bundler.storage.tree import Stamp

JOURNAL_TYPE = "urn:sealift:verification-journal:v1"
FOLDER = "verifications"
LIMIT = 64 << 20
Range = tuple[str, int, int, int]
"""Path, chunk size, first chunk, one past the last chunk."""


class ResumeJournal:
    """One journal file, open for appending. Use `open_journal`."""

    def __init__(self, descriptor: int, known: dict[Range, list[int]]) -> None:
        self._descriptor, self._known = descriptor, known
        self._guard = threading.Lock()
        self.dropped = ""
        """Why nothing more is recorded, in words; empty while all is well."""

    def trusts(self, unit: Unit) -> bool:
        """Whether an earlier run verified this very range of a file with this very stamp."""
        return self._known.get(_range(unit)) == unit.stamp.to_json()

    def record(self, unit: Unit) -> None:
        """Append one verified range; safe from several threads and against being killed between two lines."""
        line = (json.dumps([*_range(unit), unit.stamp.to_json()]) + "\n").encode()
        with self._guard:
            if not self.dropped:
                self.dropped = _refusal(self._descriptor, line)

    def close(self) -> None:
        """Give the file back."""
        os.close(self._descriptor)


def _refusal(descriptor: int, line: bytes) -> str:
    """Append `line`; why that failed, in words. A torn line is harmless: reading ends before it."""
    try:
        return "" if os.write(descriptor, line) == len(line) else "the disk is full"
    except OSError as error:
        return error.strerror or str(error)


def journal_path(folder: Path, manifest_sha256: str) -> Path:
    """Where the journal of a manifest is below the state's folder."""
    return folder / FOLDER / f"{manifest_sha256}.journal"


def open_journal(path: Path, bundle: Path, *, manifest: str, chunks: str, resume: bool) -> ResumeJournal:
    """The journal at `path`: with `resume` what it knows about these two digests, else empty.

    Raises MachineError: `journal-inside-bundle`; `unsafe-journal` when it is a link, belongs to someone else
    or others may read or write it; `work-folder-open` when others may exchange it.
    """
    if path.resolve().is_relative_to(bundle.resolve()):
        raise _unsafe("journal-inside-bundle", "the verification journal must not be in the bundle", path, "")
    ensure_folder(path.parent)
    descriptor = _open_private(path)
    try:
        head = {"type": JOURNAL_TYPE, "manifest": manifest, "chunks": chunks}
        known = _known(descriptor, head) if resume else None
        if known is None:
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps(head).encode() + b"\n")
    except BaseException:
        os.close(descriptor)
        raise
    return ResumeJournal(descriptor, known or {})


def _open_private(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        raise _unsafe(
            "unsafe-journal", "the verification journal cannot be opened", path, str(error.strerror)
        ) from error
    status = os.fstat(descriptor)
    fault = ""
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        fault = "no plain file"
    elif status.st_uid != os.geteuid():
        fault = f"it belongs to user {status.st_uid}"
    elif status.st_mode & 0o077:
        fault = f"mode {stat.S_IMODE(status.st_mode):04o}"
    if fault:
        os.close(descriptor)
        raise _unsafe(
            "unsafe-journal", "the verification journal could have been written by others", path, fault
        )
    return descriptor


def _unsafe(reference: str, what: str, path: Path, found: str) -> SealiftError:
    return MachineError(
        reference,
        what,
        where=str(path),
        expected="a plain file of this user with mode 0600, outside the bundle",
        found=found,
        hint="remove it and verify without --resume, or choose another folder with --state",
    )


def _known(descriptor: int, head: dict[str, str]) -> dict[Range, list[int]] | None:
    """The ranges recorded under this very head; None when it is another one's journal.

    A line that has not its form ends the reading: what stands after a torn write proves nothing. The torn
    end is cut off, so that the next line does not continue it.
    """
    os.lseek(descriptor, 0, os.SEEK_SET)
    data = read_up_to(descriptor, LIMIT)
    lines = data[: data.rfind(b"\n") + 1].split(b"\n")[:-1]
    if not lines or _parsed(lines[0]) != head:
        return None
    known: dict[Range, list[int]] = {}
    good = len(lines[0]) + 1
    for line, entry in zip(lines[1:], _entries(lines[1:]), strict=False):
        known[entry[0]] = entry[1]
        good += len(line) + 1
    os.ftruncate(descriptor, good)
    return known


def _entries(lines: list[bytes]) -> Iterator[tuple[Range, list[int]]]:
    for line in lines:
        value = _parsed(line)
        if not _is_entry(value):
            return
        path, size, first, end, stamp = value
        yield (path, size, first, end), stamp


def _is_entry(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 5
        and isinstance(value[0], str)
        and all(type(number) is int for number in value[1:4])
        and isinstance(value[4], list)
        and len(value[4]) == len(Stamp.__dataclass_fields__)
        and all(type(number) is int for number in value[4])
    )


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _range(unit: Unit) -> Range:
    return unit.path, unit.chunk_size, unit.first, unit.first + unit.count
