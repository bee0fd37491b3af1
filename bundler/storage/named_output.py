"""Writing the files that a person named: over nothing or a regular file only, whole, never two into one."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from bundler.errors import UsageError
from bundler.storage.atomic import write_atomic


def require_outputs(
    *outputs: Path | None,
    inputs: Iterable[Path | None] = (),
    replace: bool = False,
    hint: str = "choose another name with -o, or move the old file away",
) -> None:
    """Check every output of a command before it starts its work; None stands for an output not asked for.

    An output must be absent, or with `replace` a regular file; it must have a folder, and be neither an
    input nor another output of the same command, under any name. Raises UsageError (`output-exists`,
    `output-not-regular`, `output-is-input`, `same-output`, `no-folder`).
    """
    wanted = [path for path in outputs if path is not None]
    for position, path in enumerate(wanted):
        for other in wanted[:position]:
            if _is_same(path, other):
                raise _refused("same-output", "two outputs of one command are the same file", path, other)
        require_other_file(path, inputs=inputs)
        _require_target(path, replace=replace, hint=hint)


def require_other_file(output: Path | None, *, inputs: Iterable[Path | None]) -> None:
    """Check that a file which a command rewrites is none of those it only reads.

    Raises UsageError (`output-is-input`).
    """
    for source in inputs:
        if output is not None and source is not None and _is_same(output, source):
            raise _refused("output-is-input", "the output is also an input of this command", output, source)


def write_output(path: Path, data: bytes, *, mode: int = 0o644, replace: bool = False) -> None:
    """Write one output: readers see all of it or nothing; `mode` is exact whatever the umask.

    Durable on return. Without `replace` a file that appeared since `require_outputs` is refused, not
    replaced. A link is never followed. Raises what `require_outputs` raises, and MachineError.
    """
    _require_target(path, replace=replace, hint="choose another name with -o, or move the old file away")
    try:
        write_atomic(path, data, mode, replace=replace)
    except FileExistsError as error:
        raise _exists(path, "choose another name with -o, or move the old file away") from error


def _require_target(path: Path, *, replace: bool, hint: str) -> None:
    _require_folder(path)
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except NotADirectoryError:
        return  # told by _require_folder; here only when someone changes folders meanwhile
    if not stat.S_ISREG(mode):
        raise UsageError(
            "output-not-regular",
            "an output is written to a regular file only",
            where=str(path),
            expected="a name that is free, or a regular file" if replace else "a name that is free",
            found=f"{_kind(mode)} ({stat.filemode(mode)})",
            hint="choose another name with -o",
        )
    if not replace:
        raise _exists(path, hint)


def _require_folder(path: Path) -> None:
    if path.parent.is_dir() and path.name not in ("", "."):
        return
    raise UsageError(
        "no-folder",
        "there is no folder for this output",
        where=str(path),
        expected=f"the folder {path.parent}",
        found="a file" if path.parent.exists() else "nothing",
        hint=f"mkdir -p {path.parent}" if not os.path.lexists(path.parent) else "choose another name with -o",
    )


def _is_same(one: Path, other: Path) -> bool:
    """Whether two names mean one file, also through links, `..` and hard links."""
    if _place(one) == _place(other):
        return True
    try:
        return one.samefile(other)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return False
        raise


def _place(path: Path) -> Path:
    """The folder without links, and the name in it."""
    return Path(os.path.realpath(path.parent)) / path.name


def _kind(mode: int) -> str:
    kinds = (
        (stat.S_ISLNK, "a symbolic link"),
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    )
    return next((name for is_kind, name in kinds if is_kind(mode)), "something else")


def _refused(reference: str, what: str, path: Path, other: Path) -> UsageError:
    return UsageError(
        reference,
        what,
        where=str(path),
        expected="a file of its own",
        found=f"the same file as {other}",
        hint="name another file",
    )


def _exists(path: Path, hint: str) -> UsageError:
    return UsageError(
        "output-exists",
        "a file is not overwritten",
        where=str(path),
        expected="a name that is free",
        found="a file is there already",
        hint=hint,
    )
