"""Files that run code when they are merely opened: pickles in all their wrappings, and machine code.

Told by name and by their first bytes: an engine goes by the name, an attacker chooses it.
"""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path, PurePosixPath

from bundler.errors import ExitCode, Finding
from bundler.storage.bounded_read import open_regular

PICKLE_SUFFIXES = frozenset(
    {".bin", ".ckpt", ".dill", ".h5", ".hdf5", ".joblib", ".keras", ".mar"}
    | {".nemo", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth"}
)
"""Formats that hold pickles, or whose usual reader accepts them (numpy, Keras)."""
NATIVE_SUFFIXES = frozenset({".pyc", ".pyo", ".pyd", ".so", ".dll", ".dylib", ".exe", ".o", ".a"})
_NATIVE_NAME = re.compile(r".*\.so(\.[0-9]+)+")
_HEAD_BYTES = 16
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_MAGICS = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"\x93NUMPY", "a numpy file"),
)
_NATIVE_MAGICS = (
    (b"\x7fELF", "an ELF file"),
    (b"MZ\x90\x00", "a Windows program"),
    (b"\xcf\xfa\xed\xfe", "a Mach-O file"),
    (b"\xca\xfe\xba\xbe", "a Mach-O or Java class file"),
)
# CPython's magic: a number that has been between 3000 and 3999 since Python 3.0, then CR LF.
_PYC = re.compile(rb"[\x00-\xff][\x0b-\x0f]\r\n", re.DOTALL)


def unsafe_finding(folder: Path, path: str, *, waived: bool) -> Finding | None:
    """What is wrong with `path` below `folder`, if anything.

    A waived pickle is reported as a warning (`pickle-waived`); machine code cannot be waived.
    Raises IntegrityError when the file cannot be opened as a regular file.
    """
    with open_regular(folder / path, where=path) as fd:
        head = os.pread(fd, _HEAD_BYTES, 0)
        native = native_kind(path, head)
        if native:
            return _native(path, native)
        kind = pickle_kind(path, head) or _archive_kind(fd, head)
    return _pickle(path, kind, waived) if kind else None


def unsafe_name_finding(path: str, *, waived: bool) -> Finding | None:
    """What the name of `path` alone tells, as `unsafe_finding` would of the file."""
    native = native_kind(path, b"")
    if native:
        return _native(path, native)
    kind = pickle_kind(path, b"")
    return _pickle(path, kind, waived) if kind else None


def native_kind(path: str, head: bytes) -> str:
    """How `path` shows itself as compiled code, in words; empty when it does not."""
    name = path.rsplit("/", 1)[-1].lower()
    if _suffix(name) in NATIVE_SUFFIXES or _NATIVE_NAME.fullmatch(name):
        return f"the name {name[-40:]!r}"
    if _PYC.match(head):
        return "compiled Python"
    return next((kind for magic, kind in _NATIVE_MAGICS if head.startswith(magic)), "")


def pickle_kind(path: str, head: bytes) -> str:
    """How `path` shows itself as pickle-based, in words; empty when it does not."""
    suffix = _suffix(path)
    if suffix in PICKLE_SUFFIXES:
        return f"the suffix {suffix}"
    if _PICKLE.match(head):
        return "a pickle's first bytes"
    return next((kind for magic, kind in _MAGICS if head.startswith(magic)), "")


def _suffix(path: str) -> str:
    return PurePosixPath(path.lower()).suffix


def _archive_kind(fd: int, head: bytes) -> str:
    """Whether a zip archive holds a pickle, as torch writes it; one that cannot be read counts as one."""
    if not head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return ""
    try:
        with os.fdopen(os.dup(fd), "rb") as file, zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, UnicodeDecodeError):
        return "a zip archive that cannot be read"
    inside = next((name for name in names if _suffix(name) in PICKLE_SUFFIXES), "")
    return f"a zip archive with {inside[-60:]!r} in it" if inside else ""


def _native(path: str, kind: str) -> Finding:
    return Finding(
        "compiled-code",
        "a model carries compiled code",
        where=path,
        expected="weights, configuration and readable source",
        found=kind,
        hint="leave it out with an exclude pattern in the spec",
        exit_code=ExitCode.POLICY,
    )


def _pickle(path: str, kind: str, waived: bool) -> Finding:
    if waived:
        return Finding(
            "pickle-waived",
            "a pickle-based file is carried because it was waived by name: opening it can run code",
            where=path,
            found=kind,
            severity="warning",
            exit_code=ExitCode.POLICY,
        )
    return Finding(
        "pickle-refused",
        "a pickle-based file can run code when it is opened",
        where=path,
        expected="safetensors or GGUF weights",
        found=kind,
        hint="leave it out with an exclude pattern, or waive it by name with `allowPickle` in the spec",
        exit_code=ExitCode.POLICY,
    )
