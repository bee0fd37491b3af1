"""Continuing an interrupted verification: what may be trusted, and what no journal can make pass."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bundler.core.progress import SilentProgress
from bundler.errors import MachineError
from bundler.verification.resume import journal_path, open_journal
from bundler.verification.verify import verify_bundle
from tests.verification import damages
from tests.verification.bundles import TestBundle, make_bundle, references, some_bytes

FILES = {f"payload/{number:02}.bin": some_bytes(3 * 4096 + number, str(number)) for number in range(12)}
KILLED_VERIFY = """
import os, signal, sys
from pathlib import Path
from bundler.core.progress import SilentProgress
from bundler.trust.perimeter.state_files import StateFiles
from bundler.verification.verify import Perimeter, verify_bundle

class Killer(SilentProgress):
    chunks = 0
    def advance(self, count):
        self.chunks += 1
        if self.chunks == 22:
            os.kill(os.getpid(), signal.SIGKILL)

root, policy, state = map(Path, sys.argv[1:])
perimeter = Perimeter(policy=policy.read_bytes(), state=StateFiles.of(state))
verify_bundle(root, perimeter, workers=1, progress=Killer())
"""


@pytest.fixture
def bundle(tmp_path: Path) -> TestBundle:
    return make_bundle(tmp_path, FILES)


def kill_in_the_middle(bundle: TestBundle) -> Path:
    """Run a verification that dies by SIGKILL while it reads; gives back its journal."""
    command = [sys.executable, "-c", KILLED_VERIFY, str(bundle.root), str(bundle.policy), str(bundle.state)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    digest = bundle.verify("signatures").report.data["manifest"]["sha256"]
    path = journal_path(bundle.state.parent, digest)
    assert path.exists()
    return path


class Stopper(SilentProgress):
    """Ctrl-C after some chunks."""

    chunks = 0

    def advance(self, count: int) -> None:
        self.chunks += 1
        if self.chunks == 22:
            raise KeyboardInterrupt


def interrupt(bundle: TestBundle) -> Path:
    """Run a verification that ends by Ctrl-C while it reads; gives back its journal."""
    with pytest.raises(KeyboardInterrupt):
        verify_bundle(bundle.root, bundle.perimeter(), workers=1, progress=Stopper())
    (path,) = (bundle.state.parent / "verifications").iterdir()
    return path


def resumed(bundle: TestBundle) -> tuple[dict[str, Any], set[str]]:
    report = bundle.verify(resume=True).report
    return dict(report.data), references(report)


def total(bundle: TestBundle) -> int:
    return sum(map(len, bundle.files.values()))


def test_a_killed_verification_continues_and_tells_trusted_from_read(bundle: TestBundle) -> None:
    journal = kill_in_the_middle(bundle)

    data, found = resumed(bundle)

    assert found == set()
    assert data["bytesTrustedFromEarlierRun"] > 0
    assert data["bytesRead"] + data["bytesTrustedFromEarlierRun"] == total(bundle)
    assert not journal.exists(), "a finished verification leaves no journal"


def test_the_command_line_continues_too(bundle: TestBundle) -> None:
    kill_in_the_middle(bundle)

    command = [sys.executable, "-m", "bundler", *bundle.arguments("--resume", "--no-progress")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0
    assert "not read again, trusted from the interrupted run" in done.stderr


def test_without_resume_everything_is_read_again(bundle: TestBundle) -> None:
    interrupt(bundle)

    data = bundle.verify().report.data

    assert (data["bytesRead"], data["bytesTrustedFromEarlierRun"]) == (total(bundle), 0)


@pytest.mark.parametrize("restore_times", [False, True], ids=["plainly", "and its old times put back"])
def test_a_file_changed_after_the_interruption_is_read_again(bundle: TestBundle, restore_times: bool) -> None:
    interrupt(bundle)
    first = bundle.path("payload/00.bin")
    before = first.stat()
    damages.flip(first, 5)
    if restore_times:
        os.utime(first, ns=(before.st_atime_ns, before.st_mtime_ns))

    data, found = resumed(bundle)

    assert found == {"digest-mismatch"}
    assert data["bytesTrustedFromEarlierRun"] > 0


def test_damage_not_yet_reached_is_found_when_continuing(bundle: TestBundle) -> None:
    interrupt(bundle)
    damages.flip(bundle.path("payload/11.bin"), 0)

    assert resumed(bundle)[1] == {"digest-mismatch"}


def test_after_a_failed_verification_only_the_rest_is_read_again(bundle: TestBundle) -> None:
    path, good = bundle.path("payload/03.bin"), FILES["payload/03.bin"]
    damages.flip(path, 0)
    assert references(bundle.verify().report) == {"digest-mismatch"}
    path.write_bytes(good)

    data, found = resumed(bundle)

    assert found == set()
    # SHA256SUMS and the other eleven files are trusted; the repaired file and the chunk list are read.
    assert data["bytesRead"] == len(good) + len(bundle.files["payload/chunks.sha256"])


def test_the_journal_of_another_manifest_proves_nothing(bundle: TestBundle) -> None:
    journal = interrupt(bundle)
    lines = journal.read_text().splitlines()
    head = json.loads(lines[0])
    head["manifest"] = "0" * 64
    journal.write_text("\n".join([json.dumps(head), *lines[1:]]) + "\n")

    data, found = resumed(bundle)

    assert (found, data["bytesTrustedFromEarlierRun"]) == (set(), 0)


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line[: len(line) // 2],
        lambda line: "{}",
        lambda line: line.replace("[", "{", 1),
        lambda line: json.dumps([*json.loads(line)[:4], [1, 2, 3, 4, 5]]),
        lambda line: json.dumps([*json.loads(line)[:4], ["a"] * 5]),
        lambda line: json.dumps(["payload/11.bin", *json.loads(line)[1:]]),
        lambda line: "\x00" * len(line),
    ],
    ids=["torn", "object", "no JSON", "other stamp", "stamp of text", "other file", "zeros"],
)
def test_an_edited_line_makes_nothing_pass_unread(bundle: TestBundle, damage: Any) -> None:
    journal = interrupt(bundle)
    head, *lines = journal.read_text().splitlines()
    journal.write_text("\n".join([head, *map(damage, lines)]) + "\n")
    for name in FILES:
        damages.flip(bundle.path(name), 1)

    data, found = resumed(bundle)

    assert (found, data["bytesTrustedFromEarlierRun"]) == ({"digest-mismatch"}, 0)


def test_a_torn_last_line_is_cut_off_and_the_rest_is_used(bundle: TestBundle) -> None:
    journal = interrupt(bundle)
    with journal.open("a") as file:
        file.write('["payload/11.bin", 40')

    data, found = resumed(bundle)

    assert found == set()
    assert data["bytesTrustedFromEarlierRun"] > 0


def test_a_journal_that_others_may_write_is_refused(bundle: TestBundle) -> None:
    journal = interrupt(bundle)
    journal.chmod(0o666)

    result = bundle.verify(resume=True)

    assert references(result.report) == {"unsafe-journal"}
    assert "mode 0666" in result.report.findings[0].found


def test_a_link_in_place_of_the_journal_is_refused(bundle: TestBundle, tmp_path: Path) -> None:
    journal = interrupt(bundle)
    journal.rename(tmp_path / "elsewhere")
    journal.symlink_to(tmp_path / "elsewhere")

    assert references(bundle.verify(resume=True).report) == {"unsafe-journal"}


def test_a_journal_inside_the_bundle_is_refused(bundle: TestBundle) -> None:
    inside = bundle.root / "payload" / "journal"

    with pytest.raises(MachineError) as refused:
        open_journal(inside, bundle.root, manifest="0" * 64, chunks="", resume=True)

    assert refused.value.reference == "journal-inside-bundle"
    assert not inside.exists()


def test_a_journal_is_private_from_the_start(bundle: TestBundle) -> None:
    journal = interrupt(bundle)

    assert journal.stat().st_mode & 0o777 == 0o600


def test_without_a_place_for_a_journal_verification_still_works(bundle: TestBundle) -> None:
    (bundle.state.parent / "verifications").write_bytes(b"a file in the way")

    assert verify_bundle(bundle.root, bundle.perimeter()).report.verdict == "passed"
