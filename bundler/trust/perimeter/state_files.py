"""Where the state lies: the host's own, kept twice, or the one file that `--state` names.

format.md section 7. Reading never writes. Writing happens once, after success, atomically; a refusal
leaves every byte as it was.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bundler.core import strict_json
from bundler.errors import AuthenticityError, MachineError, MalformedError, SealiftError, UsageError
from bundler.storage.atomic import write_atomic
from bundler.storage.named_file import read_at_most
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
    """The files that hold one state; all but the first are copies."""

    paths: tuple[Path, ...]

    @classmethod
    def of(cls, named: Path | None) -> StateFiles:
        """The one file a person named, or the host's own two."""
        return cls(paths=(named,) if named is not None else (DEFAULT_STATE, SECOND_COPY))

    def open(self, policy_sha256: str, first_use: str | None = None) -> OpenedState:
        """The state to compare with.

        `first_use` is what the operator typed after `--trust-on-first-use`: `sha256:<policy digest>`, from
        paper. It must equal `policy_sha256`, and lets a lost or damaged state begin anew from whatever
        copies can still be read. Raises AuthenticityError (`state-missing`, `state-lost`, `state-edited`,
        `first-use-digest`), MalformedError (`bad-state`), UsageError (`bad-first-use`).
        """
        trusted = first_use is not None and _typed_digest(first_use, policy_sha256)
        found = tuple(map(_read, self.paths))
        if trusted:
            return OpenedState(state=merged(self._readable(found)), found=found)
        return OpenedState(state=self._agreed(found), found=found)

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
        return states[-1]

    def write(self, opened: OpenedState, state: State) -> None:
        """Replace the state that was opened by `state`, copies first, each atomically with mode 0600.

        Raises MachineError (`state-changed`) when another process wrote it in between, and leaves that.
        """
        for path in self.paths:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _guard(self.paths[0].parent):
            if tuple(map(_read, self.paths)) != opened.found:
                raise MachineError(
                    "state-changed",
                    "another process changed the state meanwhile",
                    where=str(self.paths[0]),
                    hint="run the same command again",
                )
            before = hashlib.sha256(opened.found[0]).hexdigest() if opened.found[0] is not None else ""
            data = replace(state, before=before).to_bytes()
            for path in reversed(self.paths):
                write_atomic(path, data, mode=STATE_MODE)


def _read(path: Path) -> bytes | None:
    try:
        return read_at_most(path, strict_json.POLICY_LIMIT + 1)
    except FileNotFoundError:
        return None


@contextmanager
def _guard(folder: Path) -> Iterator[None]:
    """Only one writer at a time; the folder itself is locked, so nothing is left behind."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _typed_digest(typed: str, policy_sha256: str) -> bool:
    prefix, _, digest = typed.replace(" ", "").lower().partition(":")
    if prefix != "sha256" or len(digest) != 64:
        raise UsageError(
            "bad-first-use",
            "the typed policy digest cannot be read",
            expected="sha256:<64 hex digits>, from paper or read aloud",
            found=typed[:100],
            hint="ask the security officer for the digest of the current policy",
        )
    if digest != policy_sha256:
        raise AuthenticityError(
            "first-use-digest",
            "the policy is not the one whose digest was typed",
            where="--trust-on-first-use",
            expected=f"sha256:{digest}",
            found=f"sha256:{policy_sha256}",
            hint="compare with the security officer; do not copy the digest from this message",
        )
    return True


def _refuse(reference: str, what: str, path: Path, expected: str, found: str) -> SealiftError:
    return AuthenticityError(
        reference,
        what,
        where=str(path),
        expected=expected,
        found=found,
        hint="if this is a first use or a known loss: --trust-on-first-use sha256:<policy digest from paper>",
    )
