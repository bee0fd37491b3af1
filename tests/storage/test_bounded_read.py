"""Bounded reading: what it costs, what is refused, and whose fault a refusal of the system is."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundler.errors import ExitCode, MachineError, MalformedError, SealiftError
from bundler.storage.bounded_read import open_regular, read_bounded, read_named, read_small, read_up_to
from bundler.storage.no_follow import open_fault, open_file
from bundler.storage.tree import opened_root
from tests.verification.bundles import TestBundle, make_bundle

OF_THE_MACHINE = (
    errno.EIO,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ESTALE,
    errno.EINTR,
    errno.EACCES,
    errno.EPERM,
    errno.ETIMEDOUT,
    errno.ENODEV,
    errno.EBUSY,
)
OF_THE_TREE = (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENXIO)
NAMES = [errno.errorcode[number] for number in OF_THE_MACHINE]


@pytest.fixture
def bundle(tmp_path: Path) -> TestBundle:
    return make_bundle(tmp_path)


@pytest.mark.parametrize("number", OF_THE_MACHINE, ids=NAMES)
def test_a_tired_host_is_never_called_tampering(number: int) -> None:
    fault = open_fault("a/b", OSError(number, os.strerror(number)))

    assert isinstance(fault, MachineError)
    assert fault.findings[0].hint
    assert fault.findings[0].where == "a/b"


@pytest.mark.parametrize("number", OF_THE_TREE)
def test_what_stands_in_the_place_of_a_file_is_the_tree_itself(number: int) -> None:
    assert open_fault("a/b", OSError(number, os.strerror(number))).exit_code == ExitCode.INTEGRITY


def refusing(name: str, number: int, wanted: Callable[..., bool]) -> Callable[..., Any]:
    """A function of `os` that fails with this error when its arguments are the wanted ones."""
    real = getattr(os, name)

    def function(*arguments: Any, **options: Any) -> Any:
        if wanted(*arguments, **options):
            raise OSError(number, os.strerror(number))
        return real(*arguments, **options)

    return function


@pytest.mark.parametrize("number", OF_THE_MACHINE, ids=NAMES)
@pytest.mark.parametrize("call", ["open", "scandir", "preadv"])
def test_verify_leaves_with_the_machines_code(
    bundle: TestBundle, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    # Opening by name (not the root), listing a folder below, reading bytes.
    wanted: dict[str, Callable[..., bool]] = {
        "open": lambda path, *rest, **options: path == b"weights.bin",
        "scandir": lambda path: str(Path(f"/proc/self/fd/{path}").readlink()).endswith("/models"),
        "preadv": lambda *rest: True,
    }
    state = bundle.state.read_bytes()
    monkeypatch.setattr(os, call, refusing(call, number, wanted[call]))

    report = bundle.verify().report

    monkeypatch.undo()
    assert (report.verdict, int(report.exit_code)) == ("failed", 4)
    assert {finding.exit_code for finding in report.findings} == {ExitCode.MACHINE}
    assert bundle.state.read_bytes() == state


def test_a_link_or_a_missing_file_is_told_from_trouble(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with opened_root(tmp_path) as root:
        for path, reference in (("link", "not-openable"), ("link/x", "not-openable"), ("x", "missing-file")):
            with pytest.raises(SealiftError) as refused:
                open_file(root, path)
            assert (refused.value.reference, refused.value.exit_code) == (reference, ExitCode.INTEGRITY)
        with pytest.raises(SealiftError) as refused, open_regular(tmp_path / "link", where="link"):
            pass
    assert refused.value.reference == "not-openable"


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 100_000])
def test_all_bytes_up_to_the_bound_are_read_and_no_more(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    path = tmp_path / "f"
    path.write_bytes(data)

    assert read_small(path, limit=size, where="f") == read_named(path, size) == data
    if size:
        with pytest.raises(MalformedError) as refused:
            read_small(path, limit=size - 1, where="f")
        assert refused.value.reference == "too-large"
        assert refused.value.findings[0].found == f"{size} bytes"


def test_a_file_that_says_it_is_empty_is_read_to_its_end() -> None:
    with open("/proc/self/status", "rb") as file:
        data = read_bounded(file.fileno(), 1 << 20, where="status")
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        with pytest.raises(MalformedError):
            read_bounded(file.fileno(), 10, where="status")
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        assert len(read_up_to(file.fileno(), 10)) == 10

    assert data.startswith(b"Name:")


def test_a_small_bundle_needs_no_memory_for_large_bounds(bundle: TestBundle) -> None:
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (1_000_000 << 10, 1_000_000 << 10))

    command = [sys.executable, "-m", "bundler", *bundle.arguments("--no-progress", "-j", "2")]
    done = subprocess.run(command, preexec_fn=limited, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
