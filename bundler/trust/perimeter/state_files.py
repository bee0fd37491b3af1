"""Where the state is stored: the host's own, kept twice, or the one file that `--state` names.

format.md section 7. Reading never writes. Writing happens once, after success, atomically and under a lock:
what another process wrote meanwhile is read again, compared and kept. A refusal leaves every byte as it was.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bundler.core import strict_json
from bundler.core.digest import is_sha256_hex
from bundler.errors import AuthenticityError, Finding, MalformedError, SealiftError, UsageError
from bundler.storage.atomic import write_atomic
from bundler.storage.bounded_read import read_at_most
from bundler.storage.private_folder import ensure_folder
from bundler.trust.perimeter.state import State, merged

DEFAULT_STATE = Path("/var/lib/sealift/state.json")
SECOND_COPY = Path("/var/backups/sealift/state.json")
"""Another folder, so that whoever removes or edits one of them is noticed."""
STATE_MODE = 0o600


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedState:
    """A state as it was read, and the bytes of each file then (None where there was none)."""

    state: State
    found: tuple[bytes | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StateFiles:
    """The files that hold one state; all but the first are copies.

    With `asks_for_paper` an empty state is no first use by itself: the policy's digest must be typed.
    """

    paths: tuple[Path, ...]
    asks_for_paper: bool = False

    @classmethod
    def of(cls, named: Path | None) -> StateFiles:
        """The one file a person named, or the host's own two."""
        if named is not None:
            return cls(paths=(named,))
        return cls(paths=(DEFAULT_STATE, SECOND_COPY), asks_for_paper=True)

    def open(self, policy_sha256: str, first_use: str | None = None) -> OpenedState:
        """The state to compare with.

        `first_use` is what the operator typed after `--trust-on-first-use`: the digest of the policy, from
        paper. It must equal `policy_sha256`, and lets a lost or damaged state begin anew from whatever
        copies can still be read. Raises AuthenticityError (`state-missing`, `state-lost`, `state-edited`,
        `first-use-digest`), MalformedError (`bad-state`), UsageError (`bad-first-use`).
        """
        return self._opened(self._read_all(), policy_sha256, first_use)

    def open_locked(self, policy_sha256: str, first_use: str | None = None) -> OpenedState:
        """The same as `open`, for whoever holds the lock."""
        return self._opened(tuple(map(_read, self.paths)), policy_sha256, first_use)

    def _opened(
        self, found: tuple[bytes | None, ...], policy_sha256: str, first_use: str | None
    ) -> OpenedState:
        if first_use is not None:
            compare_with_paper(first_use, policy_sha256)
            return OpenedState(state=merged(self._readable(found)), found=found)
        return OpenedState(state=self._agreed(found), found=found)

    def is_blank(self) -> bool:
        """Whether the state remembers nothing yet, so that nothing but paper can show a false policy.

        False also when it cannot be read: `open` reports that.
        """
        try:
            return self._agreed(self._read_all()).first_use
        except (SealiftError, OSError):
            return False

    def _read_all(self) -> tuple[bytes | None, ...]:
        """Every copy as it is now, never one from before and one from after a write."""
        folder = self.paths[0].parent
        if len(self.paths) == 1 or not folder.is_dir():
            return tuple(map(_read, self.paths))
        with locked_folders((folder,), fcntl.LOCK_SH):
            return tuple(map(_read, self.paths))

    def _readable(self, found: tuple[bytes | None, ...]) -> Iterator[State]:
        for path, data in zip(self.paths, found, strict=True):
            try:
                if data is not None:
                    yield State.parse(data, where=str(path))
            except MalformedError:
                # The operator typed the digest because this copy is damaged; the others still count.
                continue

    def _agreed(self, found: tuple[bytes | None, ...]) -> State:
        present = [(path, data) for path, data in zip(self.paths, found, strict=True) if data is not None]
        if not present:
            raise _refuse("state-missing", "there is no state", self.paths[0], "a state file", "nothing")
        if len(present) < len(found):
            lost = next(path for path, data in zip(self.paths, found, strict=True) if data is None)
            raise _refuse("state-lost", "a copy of the state is gone", lost, "both copies", "one")
        states = [State.parse(data, where=str(path)) for path, data in present]
        first = present[0][1]
        for (path, data), state in zip(present[1:], states[1:], strict=True):
            # Copies are written first: one that names the main file as what it replaces is the newer of
            # an interrupted write. It refuses all that the older one refuses.
            if data != first and state.before != hashlib.sha256(first).hexdigest():
                raise _refuse(
                    "state-edited", "the copies of the state differ", path, "the same bytes in both", "others"
                )
        if self.asks_for_paper and states[-1].first_use:
            raise _refuse(
                "state-missing", "the state remembers nothing", self.paths[0], "an accepted policy", "none"
            )
        return states[-1]

    def advance(
        self,
        opened: OpenedState,
        change: Callable[[State], State],
        check: Callable[[State], Iterable[Finding]] = lambda state: (),
    ) -> bool:
        """Apply `change` to the newest state and write it, copies first; False when nothing was new.

        The files are read again under the lock. When another process wrote them since they were `opened`,
        `check` says whether what was verified may still follow: a finding is raised, and nothing is written.
        Raises AuthenticityError for such findings and as `open` does, OSError when a file cannot be written.
        """
        with self.locked():
            return self.advance_locked(opened, change, check)

    def advance_locked(
        self,
        opened: OpenedState,
        change: Callable[[State], State],
        check: Callable[[State], Iterable[Finding]] = lambda state: (),
    ) -> bool:
        """The same as `advance`, for whoever holds the lock."""
        found = tuple(map(_read, self.paths))
        current = opened.state if found == opened.found else self._agreed(found)
        findings = tuple(check(current))
        if findings:
            raise AuthenticityError.of(findings)
        changed = replace(change(current), before=current.before)
        if changed == current and found[0] is not None and len(set(found)) == 1:
            return False
        self._write(found, changed)
        return True

    def _write(self, found: tuple[bytes | None, ...], state: State) -> None:
        before = hashlib.sha256(found[0]).hexdigest() if found[0] is not None else ""
        data = replace(state, before=before).to_bytes()
        for path in self.paths[1:]:
            ensure_folder(path.parent)
        for path in reversed(self.paths):
            write_atomic(path, data, mode=STATE_MODE)

    @contextmanager
    def locked(self, *others: Path) -> Iterator[None]:
        """Hold the lock of this state, and of the folders `others`; one process at a time has it.

        The folder is locked itself, so no lock file is left behind. Not to be taken twice by one process.
        Raises MachineError (`work-folder-open`) when others could put back an older state.
        """
        folder = self.paths[0].parent
        ensure_folder(folder)
        with locked_folders((folder, *others)):
            yield


def _read(path: Path) -> bytes | None:
    try:
        return read_at_most(path, strict_json.POLICY_LIMIT + 1)
    except FileNotFoundError:
        return None


@contextmanager
def locked_folders(folders: Iterable[Path], kind: int = fcntl.LOCK_EX) -> Iterator[None]:
    """Lock each of these folders once, in one order for all: two processes never wait for each other."""
    with ExitStack() as stack:
        opened: dict[tuple[int, int], int] = {}
        for folder in folders:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, descriptor)
            status = os.fstat(descriptor)
            opened.setdefault((status.st_dev, status.st_ino), descriptor)
        for identity in sorted(opened):
            fcntl.flock(opened[identity], kind)
        yield


def paper_digest(typed: str) -> str:
    """The hex SHA-256 that a person typed from paper: with or without `sha256:`, in groups or not, any case.

    Raises UsageError (`bad-first-use`).
    """
    digest = re.sub(r"[\s:.-]", "", typed.lower())
    digest = digest.removeprefix("sha256")
    if not is_sha256_hex(digest):
        raise UsageError(
            "bad-first-use",
            "the typed policy digest cannot be read",
            expected="64 hexadecimal digits, in groups or not, with or without sha256:",
            found=typed[:100],
            hint="ask the security officer for the digest of the current policy",
        )
    return digest


def compare_with_paper(typed: str, policy_sha256: str) -> None:
    """Raises AuthenticityError (`first-use-digest`) unless the typed digest is that of the policy."""
    digest = paper_digest(typed)
    if digest != policy_sha256:
        raise AuthenticityError(
            "first-use-digest",
            "the policy is not the one whose digest was typed",
            where="--trust-on-first-use",
            expected=f"sha256:{digest}",
            found=f"sha256:{policy_sha256}",
            hint="compare with the security officer; do not copy the digest from this message",
        )


def _refuse(reference: str, what: str, path: Path, expected: str, found: str) -> SealiftError:
    return AuthenticityError(
        reference,
        what,
        where=str(path),
        expected=expected,
        found=found,
        hint="if this is a first use or a known loss: --trust-on-first-use sha256:<policy digest from paper>",
    )
