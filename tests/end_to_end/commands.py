"""Running sealift as a person does: as a command, with or without a network."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SEALIFT = (sys.executable, "-m", "bundler")
NO_NETWORK = ("unshare", "-n", "--")
PASSPHRASE = "only for this test"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one command did."""

    code: int
    stdout: str
    stderr: str

    @property
    def report(self) -> dict[str, Any]:
        """The one JSON object of `--json`."""
        value = json.loads(self.stdout)
        assert isinstance(value, dict)
        return value

    @property
    def references(self) -> set[str]:
        """References of all findings."""
        return {finding["reference"] for finding in self.report["findings"]}


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """A folder with the environment commands run in."""

    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def command(self, *arguments: str, offline: bool = False) -> list[str]:
        """The whole command line."""
        return [*(NO_NETWORK if offline else ()), *SEALIFT, *arguments]

    def settings(self) -> dict[str, str]:
        """The environment: the caller's, without what would lead a client elsewhere."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "SEALIFT_"))}
        return {**kept, "HOME": str(self.folder), "SEALIFT_PASSPHRASE": PASSPHRASE, **self.environment}

    def run(self, *arguments: str, offline: bool = False) -> Outcome:
        """Run to the end."""
        done = subprocess.run(
            self.command(*arguments, offline=offline),
            cwd=self.folder,
            env=self.settings(),
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )
        return Outcome(code=done.returncode, stdout=done.stdout, stderr=done.stderr)

    def must(self, *arguments: str, offline: bool = False) -> Outcome:
        """Run to the end; it must pass."""
        outcome = self.run(*arguments, offline=offline)
        assert outcome.code == 0, f"{arguments}\n{outcome.stdout}\n{outcome.stderr}"
        return outcome

    def kill_when(self, condition: Callable[[], bool], *arguments: str) -> None:
        """Start a command and `kill -9` it as soon as `condition` holds; it must still be running then."""
        with subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=self.settings(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        ) as process:
            deadline = time.monotonic() + 120
            while not condition():
                assert process.poll() is None, f"it ended first: {process.communicate()[1].decode()}"
                assert time.monotonic() < deadline, "the moment to kill it never came"
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)

    def trust(self) -> tuple[str, ...]:
        """The options of a verification that may be the first one here."""
        digest = hashlib.sha256((self.folder / "policy.json").read_bytes()).hexdigest()
        first = () if (self.folder / "state.json").exists() else ("--trust-on-first-use", f"sha256:{digest}")
        return ("--policy", "policy.json", "--state", "state.json", *first)

    def make_trust(self) -> None:
        """Release and root keys, and a policy that requires what `sealift sign` writes."""
        self.must("keys", "generate", "--owner", "release-engineer", "-o", "release.key")
        self.must("keys", "generate", "--owner", "security-officer", "-o", "root.key")
        self.must("trust", "init", "--root", "root.pub", "--release", "release.pub", "-o", "policy.json")


def files_below(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes, to show that nothing changed."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
