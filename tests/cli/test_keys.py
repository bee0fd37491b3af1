"""`sealift keys`: an interrupted run, names of owners, and where secrets may not go."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bundler.cli.app import run
from bundler.core.names.people import owner_fault
from bundler.trust.keys import declared_owner, generate, read_private_key, read_public_key

GENERATE = ["keys", "generate", "-o", "release.key", "--passphrase-file", "passphrase"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("passphrase").write_text("long enough\n")
    Path("passphrase").chmod(0o600)
    return tmp_path


def test_an_interrupted_generate_runs_again_and_keeps_the_key() -> None:
    assert run([*GENERATE, "--owner", "Ann Abel"]) == 0
    private = Path("release.key").read_bytes()
    public = read_public_key(Path("release.pub"))
    Path("release.pub").unlink()
    assert run([*GENERATE, "--owner", "Ann Abel"]) == 0
    assert Path("release.key").read_bytes() == private
    assert read_public_key(Path("release.pub")) == public
    assert declared_owner(Path("release.pub").read_bytes()) == "Ann Abel"


def test_a_key_that_the_passphrase_does_not_open_stays_alone() -> None:
    assert run(GENERATE) == 0
    Path("release.pub").unlink()
    private = Path("release.key").read_bytes()
    Path("passphrase").write_text("another one\n")
    assert run(GENERATE) == 11
    assert (Path("release.key").read_bytes(), Path("release.pub").exists()) == (private, False)


@pytest.mark.parametrize("options", [["--insecure-no-passphrase"], ["--algorithm", "p384"], []])
def test_a_key_that_may_be_of_somebody_else_is_not_taken(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    key = generate()
    encrypted = options[:1] == ["--algorithm"]
    Path("release.key").write_bytes(key.to_pem(b"long enough" if encrypted else None))
    Path("release.key").chmod(0o600)
    before = Path("release.key").read_bytes()
    assert run([*GENERATE, *options]) == 2
    told = capsys.readouterr().err
    assert "output-exists" in told
    assert not Path("release.pub").exists()
    command = re.search(r"`sealift (keys show [^`]*)`", " ".join(told.split()))
    assert command is not None
    assert run([*command[1].split(), "--passphrase-file", "passphrase"]) == 0
    assert Path("release.key").read_bytes() == before
    assert read_public_key(Path("release.pub")) == key.public


def test_a_generate_killed_at_any_moment_can_run_again(folder: Path) -> None:
    """Real kills: whatever was written, the same command works and the key is not lost."""
    for number in range(6):
        name = f"{number}.key"
        command = [sys.executable, "-m", "bundler", *GENERATE[:3], name, *GENERATE[4:]]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # The kill comes as soon as the private key has its name; from the fourth on a little later.
        for _ in range(5000):
            if (folder / name).exists() or process.poll() is not None:
                break
            os.sched_yield()
        if number < 4:
            process.kill()
        process.wait(60)
        if not (folder / f"{number}.pub").exists():
            assert run([*GENERATE[:3], name, *GENERATE[4:]]) == 0
        assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
        private = read_private_key(folder / name, lambda: b"long enough")
        assert private.public == read_public_key(folder / f"{number}.pub")


@pytest.mark.parametrize(
    "owner",
    ["Ann\x1b[31m", "Ann\nBen", "Ann\u200b", "\u202eAnn", "Ann\u3164", "\u0410nn", "Al\u03b9ce", "\uff21nn",
     "\U0001d400nn", " Ann", "Ann  Abel", "A" * 501, " "],
)  # fmt: skip
@pytest.mark.parametrize("verb", ["generate", "show"])
def test_an_owner_who_prints_as_somebody_else_is_refused(
    verb: str, owner: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("p.pub").write_text(generate().public.pem)
    what = ["generate", "-o", "x.key"] if verb == "generate" else ["show", "p.pub", "-o", "x.pub"]
    assert run(["keys", *what, "--owner", owner]) == 2
    told = capsys.readouterr().err
    assert "bad-owner" in told
    assert "\x1b" not in told
    assert sorted(path.name for path in folder.iterdir()) == ["p.pub", "passphrase"]


@pytest.mark.parametrize(
    "owner",
    [
        "Ann Abel",
        "Jos\u00e9 Nu\u00f1ez",
        "\u0410\u043d\u043d\u0430",
        "O'Neil-Smith",
        "\u5c71\u7530 Taro",
        "\u0e2a\u0e21",
    ],
)
def test_ordinary_names_of_the_world_are_taken(owner: str) -> None:
    assert owner_fault(owner) == ""


PROBE = """
import ctypes, sys
from bundler.cli import app
code = app.run(sys.argv[1:])
limits = [line for line in open("/proc/self/limits") if line.startswith("Max core file size")]
print(code, *limits[0].split()[4:6], ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
"""


def holders() -> Iterator[list[str]]:
    yield ["keys", "generate", "-o", "new.key", "--insecure-no-passphrase"]
    yield ["keys", "show", "plain.key"]
    yield ["keys", "fingerprint", "locked.key", "--passphrase-file", "passphrase"]
    yield ["attest", "sign", "statement.json", "--key", "plain.key"]
    yield ["trust", "approve", "policy.json", "--key", "plain.key", "-o", "."]


@pytest.mark.parametrize("arguments", list(holders()), ids=" ".join)
def test_a_process_with_a_secret_writes_no_core_and_is_not_read(arguments: list[str]) -> None:
    from bundler.trust.statements import about_manifest
    from tests.vectors.trust import dump, good_policy

    key = generate()
    for name, passphrase in (("plain.key", None), ("locked.key", b"long enough")):
        Path(name).write_bytes(key.to_pem(passphrase))
        Path(name).chmod(0o600)
    Path("statement.json").write_bytes(
        about_manifest("a" * 64, "urn:sealift:approval:v1", {"decision": "approve"})
    )
    Path("policy.json").write_bytes(dump(good_policy()))
    assert ctypes.CDLL(None).prctl(3, 0, 0, 0, 0) in (0, 1, 2)
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments], capture_output=True, text=True, timeout=60
    )
    code, soft, hard, dumpable = done.stdout.split("\n")[-2].split()
    assert (soft, hard, dumpable) == ("0", "0", "0"), done.stderr
    if arguments[0] == "keys":
        assert code == "0", done.stderr
