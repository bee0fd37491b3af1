"""A second opinion on safetensors headers, from the library that engines use. Connected side only.

Our reader is stricter on purpose; here the question is whether the library sees the same tensors where ours
accepts. Nothing that runs in the perimeter imports this module: there our reader alone decides.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bundler.content.findings import COMPARE, malformed
from bundler.content.safetensors import read_header
from bundler.errors import Finding, MachineError, SealiftError
from bundler.storage.bounded_read import open_regular
from bundler.storage.child_environment import child_environment

# The library loads numpy when it opens a file, though only shapes are asked for: an empty module in a process
# of its own does, and spares the dependency.
_ASK = """
import json, sys, types
sys.modules["numpy"] = types.ModuleType("numpy")
from safetensors import safe_open
for path in sys.argv[1:]:
    try:
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}
            seen = {name: [one.get_dtype(), one.get_shape()] for name, one in slices.items()}
        print(json.dumps({"seen": seen}))
    except Exception as error:
        print(json.dumps({"refused": str(error)[:300]}))
"""
_AT_ONCE = 64
"""Files that one process opens, so that its answer stays some megabytes."""
_SECONDS = 600
_SHOWN = 120
Seen = dict[str, tuple[str, tuple[int, ...]]]


def library_findings(folder: Path, shards: Iterable[str], *, label: str = "") -> list[Finding]:
    """Findings (`safetensors-readers-differ`) about shards that our reader accepts and the library reads
    differently or not at all. `label` goes before the paths. What our reader refuses is skipped here: it was
    reported already.

    Raises MachineError (`no-second-opinion`) when the library cannot be asked.
    """
    ours = dict(_our_reading(folder, sorted(shards)))
    paths = list(ours)
    findings: list[Finding] = []
    for start in range(0, len(paths), _AT_ONCE):
        some = paths[start : start + _AT_ONCE]
        for path, answer in zip(some, _library_reads(folder, some), strict=True):
            difference = _difference(ours[path], answer)
            if difference:
                findings.append(_differ(f"{label}/{path}".lstrip("/"), *difference))
    return findings


def _our_reading(folder: Path, shards: Iterable[str]) -> Iterator[tuple[str, Seen]]:
    for path in shards:
        try:
            with open_regular(folder / path, where=path) as fd:
                header = read_header(fd, where=path)
        except SealiftError:
            continue
        yield path, {name: (tensor.dtype, tensor.shape) for name, tensor in header.tensors.items()}


def _difference(ours: Seen, answer: dict[str, Any]) -> tuple[str, str] | None:
    """What our reader saw and what the library saw, in words; None when they agree."""
    if "seen" not in answer:
        return f"{len(ours)} tensors", f"the library refuses the file: {answer.get('refused')}"
    theirs = {name: (dtype, tuple(shape)) for name, (dtype, shape) in answer["seen"].items()}
    if ours == theirs:
        return None
    name = next(name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name))
    shown = repr(name)[:_SHOWN]
    return f"{shown}: {ours.get(name, 'absent')}", f"{shown}: {theirs.get(name, 'absent')}"


def _library_reads(folder: Path, paths: Sequence[str]) -> list[dict[str, Any]]:
    """What the library says, one answer for each path."""
    command = [sys.executable, "-I", "-c", _ASK, *(str(folder / path) for path in paths)]
    done = subprocess.run(
        command, capture_output=True, check=False, timeout=_SECONDS, env=child_environment(os.environ)
    )
    lines = done.stdout.splitlines()
    if done.returncode or len(lines) != len(paths):
        raise MachineError(
            "no-second-opinion",
            "the safetensors library could not be asked about the weights",
            where="safetensors",
            expected="an answer for each file",
            found=done.stderr.decode("utf-8", "replace"),
            hint=f"`{sys.executable} -m pip install safetensors` and run the command again",
        )
    return [json.loads(line) for line in lines]


def _differ(where: str, ours: str, theirs: str) -> Finding:
    what = "two readers see different tensors in one safetensors file"
    return malformed("safetensors-readers-differ", what, where, ours, theirs, hint=COMPARE)
