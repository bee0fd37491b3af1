"""`sealift doctor`: what this machine can do, before a night in the data centre shows it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from bundler.cli.output import Output, json_option
from bundler.core.report import Report
from bundler.core.units import format_bytes
from bundler.errors import ExitCode, Finding
from bundler.storage.child_environment import CONTAINERS, child_environment

SIDES = ("both", "connected", "perimeter")
SLOW_SHA256 = 1_000_000_000
"""Bytes per second and core under which SHA instructions are probably missing (1.9 GB/s with SHA-NI)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing looked at: `state` is `ok`, `missing` (something will not work) or `note`."""

    name: str
    state: str
    says: str
    hint: str = ""


@click.command()
@click.option(
    "--side", type=click.Choice(SIDES), default="both", help="Which side of the gap this machine is on."
)
@click.option(
    "--at",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="Folder bundles will be stored in.",
)
@json_option
def command(side: str, folder: Path, as_json: bool) -> int:
    """Check tools, space, permissions and speed of this machine; changes nothing and asks no network."""
    output = Output(as_json)
    checks = [
        check
        for where, make in CHECKS
        if side in ("both", where) or where == "both"
        for check in make(folder)
    ]
    for check in checks:
        mark = {"ok": "ok     ", "missing": "MISSING", "note": "note   "}[check.state]
        output.data(f"{mark} {check.name:<22} {check.says}")
        if check.hint and check.state != "ok":
            output.data(f"{'':<30} {check.hint}")
    missing = tuple(_finding(check) for check in checks if check.state == "missing")
    if missing:
        output.verdict(f"LACKS: {', '.join(c.name for c in checks if c.state == 'missing')}", "failed")
    else:
        output.verdict("READY: nothing that is needed is missing", "passed")
    return output.emit(
        Report(
            verb="doctor",
            verdict="failed" if missing else "passed",
            exit_code=ExitCode.MACHINE if missing else ExitCode.PASSED,
            findings=missing,
            data={
                "checks": [{"name": c.name, "state": c.state, "says": c.says, "hint": c.hint} for c in checks]
            },
        )
    )


def _finding(check: Check) -> Finding:
    return Finding(
        "machine-lacks", f"{check.name}: {check.says}", hint=check.hint, exit_code=ExitCode.MACHINE
    )


def python_version(_: Path) -> Iterator[Check]:
    """The interpreter that runs us."""
    yield Check(name="python", state="ok", says=f"{sys.version.split()[0]} at {sys.executable}")


def hashing(_: Path) -> Iterator[Check]:
    """SHA-256 on one core, hot buffer: what verification can reach times the cores."""
    rate = max(_hash_rate() for _round in range(3))
    cores = len(os.sched_getaffinity(0))
    says = (
        f"{format_bytes(rate)}/s a core, {cores} cores: 1 TB in {10**12 / rate / cores / 60:.0f} min at best"
    )
    slow = rate < SLOW_SHA256
    has = has_sha_instructions(Path("/proc/cpuinfo"))
    hint = "something else keeps the processor busy" if has else "the processor lacks SHA instructions"
    yield Check(name="sha-256", state="note" if slow else "ok", says=says, hint=hint)


def _hash_rate() -> int:
    """Bytes per second of one core."""
    buffer, rounds = bytes(1 << 20), 32
    began = time.perf_counter()
    for _round in range(rounds):
        hashlib.sha256(buffer).digest()
    return int(rounds * len(buffer) / (time.perf_counter() - began))


def has_sha_instructions(cpuinfo: Path) -> bool:
    """Whether the kernel lists them: `sha_ni` on x86-64, `sha2` on Arm."""
    words = cpuinfo.read_text(errors="replace").split() if cpuinfo.is_file() else []
    return "sha_ni" in words or "sha2" in words


def space(folder: Path) -> Iterator[Check]:
    """Free bytes where bundles will lie, and whether we may write there."""
    usage = shutil.disk_usage(folder)
    writable = os.access(folder, os.W_OK)
    says = f"{format_bytes(usage.free)} free in {folder.resolve()}" + ("" if writable else ", not writable")
    yield Check(
        name="space",
        state="ok" if writable else "note",
        says=says,
        hint="reading a bundle needs no write access",
    )


def uv_program(_: Path) -> Iterator[Check]:
    """uv resolves on the connected side and installs on the far side."""
    try:
        from uv import find_uv_bin

        version = _first_line([find_uv_bin(), "--version"])
        yield Check(name="uv", state="ok", says=version)
    except (ImportError, FileNotFoundError):
        yield Check(
            name="uv",
            state="missing",
            says="not found",
            hint="`python3 -m pip install uv`; without a network "
            "`python3 -m pip install --no-index --find-links BUNDLE/payload/tools uv`",
        )


def _program(name: str, why: str, package: str, *, needed: bool = False) -> Callable[[Path], Iterator[Check]]:
    def check(_: Path) -> Iterator[Check]:
        if shutil.which(name):
            asked = "version" if name == "openssl" else "--version"
            yield Check(name=name, state="ok", says=f"{_first_line([name, asked])}: {why}")
        else:
            hint = f"if you need it: install the package {package} from this site's own mirror"
            yield Check(name=name, state="missing" if needed else "note", says=f"not found: {why}", hint=hint)

    return check


def _first_line(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
            env=child_environment(os.environ, *CONTAINERS),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"does not run: {error}"
    return (done.stdout or done.stderr).strip().split("\n")[0][:80]


def system_libraries(_: Path) -> Iterator[Check]:
    """Libraries of the system that wheels of known engines take from it; a minimal Debian has not all."""
    from bundler.content.system_libraries import KNOWN, described, known_needs, missing

    needs = known_needs(KNOWN).required
    absent = set(missing(needs))
    for name in needs:
        users = ", ".join(sorted(project for project, names in KNOWN.items() if name in names))
        there = name not in absent
        yield Check(
            name=name,
            state="ok" if there else "note",
            says=f"{'' if there else 'not there: '}needed by {users}",
            hint=f"only for these engines: install {described(name)} from this site's own mirror",
        )


def trust_policy(_: Path) -> Iterator[Check]:
    """Whether the host's default policy and state are there."""
    from bundler.cli.options import DEFAULT_POLICY
    from bundler.trust.perimeter.state_files import DEFAULT_STATE

    for name, path in (("trust policy", DEFAULT_POLICY), ("trust state", DEFAULT_STATE)):
        there = path.exists()
        hint = "the policy comes from your security officer; the first verification writes the state"
        yield Check(
            name=name,
            state="ok" if there else "note",
            says=f"{path}{'' if there else ': not there'}",
            hint=hint,
        )


def private_network(_: Path) -> Iterator[Check]:
    """Whether this user can run a command without any network, as the demo does."""
    command = ["unshare", "-n", "true"] if os.geteuid() == 0 else ["unshare", "-rn", "true"]
    try:
        environment = child_environment(os.environ)
        works = subprocess.run(command, capture_output=True, check=False, env=environment).returncode == 0
    except OSError:
        works = False
    says = "commands can be run without any network" if works else "network namespaces are not allowed here"
    hint = "only the demo's proof needs them; real perimeters have no network anyway"
    yield Check(name="network namespace", state="ok" if works else "note", says=says, hint=hint)


CHECKS: tuple[tuple[str, Callable[[Path], Iterator[Check]]], ...] = (
    ("both", python_version),
    ("both", hashing),
    ("both", space),
    ("both", uv_program),
    ("both", _program("openssl", "verify.pyz and auditors check signatures with it", "openssl")),
    ("perimeter", trust_policy),
    ("perimeter", system_libraries),
    ("perimeter", _program("podman", "`install --images podman`", "podman")),
    ("perimeter", _program("docker", "`install --images docker`", "docker.io")),
    ("perimeter", _program("ctr", "`install --images containerd`", "containerd")),
    ("perimeter", _program("skopeo", "`install --images registry`", "skopeo")),
    ("perimeter", private_network),
)
