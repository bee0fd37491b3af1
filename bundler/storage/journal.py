"""An append-only journal: one JSON object a line, each line durable before `append` returns.

A kill or a power cut can only leave the last line torn, which is dropped: what it said had not been
promised to anyone. A damaged line before the last one means that the disk or a person changed the file,
and is refused: every line carries a checksum of its entry for that.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any, NoReturn

from bundler.errors import MalformedError
from bundler.storage.atomic import fsync_directory, write_all
from bundler.storage.machine_errors import machine_faults

Entry = dict[str, Any]


def encode_line(entry: Entry) -> bytes:
    """One journal line: the entry and the first 16 hex digits of the SHA-256 of its JSON."""
    text = json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f'{{"sum":"{_checksum(text)}","entry":{text}}}\n'.encode()


def decode_lines(data: bytes, *, where: str) -> tuple[list[Entry], int]:
    """The entries of all whole lines, and how many bytes they take; a torn last line is not counted.

    Raises MalformedError (`damaged-journal`) with the line number of the first damaged whole line.
    """
    *lines, torn = data.split(b"\n")
    entries = [_decode_line(line, f"{where}, line {number}") for number, line in enumerate(lines, start=1)]
    return entries, len(data) - len(torn)


def _decode_line(line: bytes, where: str) -> Entry:
    try:
        value = json.loads(line)
        entry, checksum = value["entry"], value["sum"]
        text = json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    except (ValueError, KeyError, TypeError, RecursionError):
        _damaged(where, "no journal line")
    if not isinstance(entry, dict) or checksum != _checksum(text):
        _damaged(where, "an entry that does not fit its checksum")
    return entry


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _damaged(where: str, found: str) -> NoReturn:
    raise MalformedError(
        "damaged-journal",
        "the journal of finished files was changed or damaged",
        where=where,
        expected="lines exactly as they were written",
        found=found,
        hint="move the journal away and run again: files already there are hashed anew, not fetched",
    )


class Journal:
    """The journal at `path`, opened for appending by its only writer (hold a guard around it).

    `entries` are those found when it was opened. Raises as `decode_lines`, and MachineError when the disk
    refuses.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._guard = threading.Lock()
        with machine_faults(path):
            new = not path.exists()
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            with machine_faults(path):
                data = path.read_bytes()
                self.entries, self._length = decode_lines(data, where=str(path))
                if new:
                    fsync_directory(path.parent)
        except BaseException:
            self.close()
            raise

    def append(self, entry: Entry) -> None:
        """Adds `entry`; it is on the disk when this returns. Safe to call from several threads.

        When the disk refuses (MachineError) the journal still reads as before.
        """
        line = encode_line(entry)
        with self._guard, machine_faults(self.path, needed=len(line)):
            # A torn line, ours after a full disk or a dead process's, must never get a line after it.
            os.ftruncate(self._descriptor, self._length)
            os.lseek(self._descriptor, self._length, os.SEEK_SET)
            write_all(self._descriptor, line)
            os.fdatasync(self._descriptor)
            self._length += len(line)

    def close(self) -> None:
        """Lets go of the file."""
        os.close(self._descriptor)
