"""The whole job once, small, with the real commands: what `sealift demo` does.

The commands are run as a person would type them; this module only starts the loopback Hub and registry,
makes the tiny model, and says what each step proved.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bundler.errors import MachineError, SealiftError, UsageError
from bundler.storage.child_environment import child_environment

MARKER = ".sealift-demo"
PASSPHRASE = "demo only"  # noqa: S105 - of a key that signs nothing but the demo
IMAGE = "demo/hello:1"
PORT = 8080
"""Bound inside a network namespace of its own, so it cannot be taken."""
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One command of the demo and what it proves."""

    title: str
    command: tuple[str, ...]
    proves: str
    offline: bool = False
    expect: int = 0


@dataclass(slots=True, kw_only=True)
class Rehearsal:
    """The demo in one folder, told through `say`."""

    folder: Path
    say: Say
    proved: list[dict[str, Any]] = field(default_factory=list)

    def run(self) -> list[dict[str, Any]]:
        """All steps, in order; gives back what each proved.

        Raises SealiftError when a command did not do what it must.
        """
        from bundler.demo.hub import LoopbackHub
        from bundler.demo.registry import LoopbackRegistry

        check_engine_libraries()
        start_over(self.folder)
        self.say("making a tiny Kimi-shaped model and a tiny image")
        make_repository(self.folder / "hub" / "demo" / "kimi-tiny")
        registry_root = self.folder / "registry"
        with ExitStack() as servers:
            hub = servers.enter_context(LoopbackHub(self.folder / "hub"))
            registry = servers.enter_context(LoopbackRegistry(registry_root))
            push_image(self.folder / "image", registry.url)
            (self.folder / "demo.yaml").write_text(demo_spec(registry.host))
            environment = {"HF_ENDPOINT": hub.url, "SEALIFT_PASSPHRASE": PASSPHRASE}
            for step in connected_steps():
                self.take(step, environment)
        self.say("\nthe Hub and the registry are gone now; from here on there is no network at all")
        if not can_cut_network():
            self.say("(this user may not make a network namespace: the steps below run WITH network)")
        digest = hashlib.sha256((self.folder / "policy.json").read_bytes()).hexdigest()
        self.take(verify_step(digest), {})
        self.show_tampering()
        for step in perimeter_steps():
            self.take(step, {})
        self.launch()
        return self.proved

    def take(self, step: Step, environment: Mapping[str, str]) -> str:
        """Run one step, say what it proves; gives back its stdout. Raises SealiftError when it failed."""
        self.say(f"\n== {step.title}\n$ sealift {' '.join(step.command)}")
        done = subprocess.run(
            [*(cut_network() if step.offline else ()), *sealift(), *step.command],
            cwd=self.folder,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            # What a refused command says is part of the show; of the others only the result.
            stderr=subprocess.STDOUT if step.expect else None,
            text=True,
            check=False,
        )
        self.say(done.stdout.rstrip())
        if done.returncode != step.expect:
            raise SealiftError(
                "demo-failed",
                f"a step of the demo ended with {done.returncode}, not {step.expect}",
                where=f"sealift {' '.join(step.command)}",
                hint=f"run it again in {self.folder} to see it alone",
            )
        self.say(f"-> {step.proves}")
        self.proved.append({"step": step.title, "command": ["sealift", *step.command], "proves": step.proves})
        return done.stdout

    def show_tampering(self) -> None:
        """One bit of one weight is flipped, refused, and flipped back."""
        shard = next((self.folder / "bundle").rglob("*.gguf"))
        flip_bit(shard, shard.stat().st_size - 1000)
        try:
            self.take(tampered_step(), {})
        finally:
            flip_bit(shard, shard.stat().st_size - 1000)

    def launch(self) -> None:
        """Start the server from the bundle, without network, and ask it one question."""
        command = launch_command()
        self.say(f"\n== launch: the server starts from the verified bundle\n$ sealift {' '.join(command)}")
        ask = (sys.executable, "-m", "bundler.demo.perimeter", "127.0.0.1", str(PORT), "kimi-tiny", "--")
        whole = [*cut_network(), *ask, *sealift(), *command]
        done = subprocess.run(whole, cwd=self.folder, capture_output=True, text=True, check=False)
        (self.folder / "server.log").write_text(done.stderr)
        if done.returncode:
            raise SealiftError(
                "demo-failed",
                "the server did not answer",
                where=str(self.folder / "server.log"),
                found=done.stderr.strip().rsplit("\n", 1)[-1][:300],
                hint="its own words are in that log; `sealift demo` begins anew",
            )
        answer = json.loads(done.stdout.strip().rsplit("\n", 1)[-1])
        proves = answer_in_words(answer)
        self.say(f"-> {proves}")
        self.proved.append(
            {"step": "launch", "command": ["sealift", *command], "proves": proves, "answer": answer}
        )


def launch_command() -> tuple[str, ...]:
    """The verb that verifies and then becomes the server."""
    trust = ("--policy", "policy.json", "--state", "state.json")
    where = ("--env", "engine", "--host", "127.0.0.1", "--port", str(PORT))
    return ("launch", "bundle", *trust, "--profile", "default", *where)


def answer_in_words(answer: Mapping[str, Any]) -> str:
    """What the one answer shows. Raises SealiftError when it is not the model's known one."""
    from bundler.demo.tiny_kimi import REASONING_TEXT, TOOL_ARGUMENTS, TOOL_NAME

    call = f"{TOOL_NAME}({TOOL_ARGUMENTS})"
    said = (answer["reasoning"].strip(), list(answer["toolCalls"]))
    if said != (REASONING_TEXT, [call]):
        raise SealiftError(
            "demo-failed",
            "the server answers, but not what this model must answer",
            expected=f"{REASONING_TEXT!r} and {call}",
            found=repr(said)[:300],
        )
    interfaces = ", ".join(answer["interfaces"])
    return (
        f"with no interface but {interfaces}, ready after {answer['readySeconds']} s, it reasoned "
        f"{said[0]!r} and called {said[1][0]}: the known answer of these very weights"
    )


def sealift() -> tuple[str, ...]:
    """The command, from the interpreter that runs us."""
    return (sys.executable, "-m", "bundler")


def cut_network() -> tuple[str, ...]:
    """The prefix that runs a command in an empty network namespace; nothing where that is not allowed."""
    if not can_cut_network():
        return ()
    return ("unshare", "-n", "--") if os.geteuid() == 0 else ("unshare", "-rn", "--")


def check_engine_libraries() -> None:
    """Refuse a machine on which the engine cannot start, before anything is downloaded.

    Raises MachineError (`no-system-library`).
    """
    from bundler.install.host import check_known_libraries

    check_known_libraries(["xllamacpp"])


def can_cut_network() -> bool:
    """Whether this user may make a network namespace."""
    flag = "-n" if os.geteuid() == 0 else "-rn"
    if shutil.which("unshare") is None:
        return False
    environment = child_environment(os.environ)
    tried = subprocess.run(["unshare", flag, "true"], capture_output=True, check=False, env=environment)
    return tried.returncode == 0


def connected_steps() -> tuple[Step, ...]:
    """What the release engineer does."""
    return (
        Step(
            title="lock: every name becomes a commit, a size, a digest",
            command=("lock", "demo.yaml"),
            proves="nothing in this bundle can move any more, and the lock names no host",
        ),
        Step(
            title="plan: told before it starts",
            command=("plan", "demo.yaml", "--to", "bundle"),
            proves="bytes, disks and memory suffice",
        ),
        Step(
            title="build: fetch, check, seal",
            command=("build", "demo.yaml", "-o", "bundle", "--no-progress"),
            proves="every byte was hashed while it was written; nothing unlisted is in the tree",
        ),
        Step(
            title="keys: a release key and a root key",
            command=("keys", "generate", "--owner", "release-engineer", "-o", "release.key"),
            proves="the private half is encrypted and readable by its owner only",
        ),
        Step(
            title="keys: the root that will decide on policies",
            command=("keys", "generate", "--owner", "security-officer", "-o", "root.key"),
            proves="another person's key; it signs policies, never bundles",
        ),
        Step(
            title="sign: release, model signing and provenance statements",
            command=("sign", "bundle", "--key", "release.key"),
            proves="the manifest's digest is signed; cosign, model_signing and openssl can check it",
        ),
        Step(
            title="trust: the perimeter's own policy",
            command=("trust", "init", "--root", "root.pub", "--release", "release.pub", "-o", "policy.json"),
            proves="who may say what is decided inside, and never travels with a bundle",
        ),
    )


def verify_step(policy_sha256: str) -> Step:
    """The first verification, which makes the state."""
    return Step(
        title="verify: the far side says yes",
        command=(
            *("verify", "bundle", "--policy", "policy.json", "--state", "state.json"),
            *("--trust-on-first-use", f"sha256:{policy_sha256}", "--no-progress"),
        ),
        proves="signatures, roles, the exact set of files and every byte agree, without any network",
        offline=True,
    )


def tampered_step() -> Step:
    """The same bundle with one bit flipped."""
    return Step(
        title="verify again, after one bit of one weight was flipped",
        command=("verify", "bundle", "--policy", "policy.json", "--state", "state.json", "--no-progress"),
        proves="an engine would have started with it and said nothing; sealift names file and byte range",
        offline=True,
        expect=10,
    )


def perimeter_steps() -> tuple[Step, ...]:
    """What the operator does before the server starts."""
    trust = ("--policy", "policy.json", "--state", "state.json")
    return (
        Step(
            title="install: the engine, from the bundle only",
            command=("install", "bundle", *trust, "--engine", "llama.cpp", "--to", "engine"),
            proves="no index was asked; every wheel matched its digest",
            offline=True,
        ),
    )


def start_over(folder: Path) -> None:
    """An empty demo folder; one of an earlier demo is emptied, anything else is refused (UsageError)."""
    marker = folder / MARKER
    if folder.exists() and any(folder.iterdir()) and not marker.exists():
        raise UsageError(
            "output-exists",
            "the folder holds something that no demo made",
            where=str(folder),
            hint="choose another one: `sealift demo -o DIR`",
        )
    if marker.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    marker.write_text("made by `sealift demo`; safe to delete\n")


def make_repository(folder: Path) -> None:
    """The tiny Kimi-shaped model as a GGUF repository of the loopback Hub."""
    from bundler.demo.tiny_gguf import write_gguf

    folder.mkdir(parents=True)
    write_gguf(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# A tiny model with a known answer\n")


def push_image(layout: Path, url: str) -> None:
    """A tiny image in the loopback registry, to show that images travel too."""
    from bundler.demo.registry import make_demo_image, push_layout

    files = {"hello.txt": b"carried by sealift\n"}
    platforms = {"linux/amd64": files, "linux/arm64": files}
    make_demo_image(layout, f"localhost/{IMAGE}", platforms, ["/bin/sh", "-c", "cat /hello.txt"])
    push_layout(layout, url)


def demo_spec(registry: str) -> str:
    """The demo profile for this machine's Python, architecture and C library."""
    from bundler.assembly.templates import template

    libc = platform.libc_ver()[1]
    if not libc:
        raise MachineError(
            "no-glibc", "the demo's engine needs the GNU C library", hint="use Debian, Ubuntu or RHEL"
        )
    changes = {
        "127.0.0.1:5000": registry,
        "3.12": f"{sys.version_info.major}.{sys.version_info.minor}",
        "linux/amd64": {"aarch64": "linux/arm64"}.get(platform.machine(), "linux/amd64"),
        "2.31": ".".join(libc.split(".")[:2]),
    }
    text = template("demo")
    for before, after in changes.items():
        text = text.replace(before, after)
    return text


def flip_bit(path: Path, offset: int) -> None:
    """Flip the lowest bit of one byte of a file in place."""
    with path.open("r+b") as stream:
        stream.seek(offset)
        byte = stream.read(1)[0]
        stream.seek(offset)
        stream.write(bytes([byte ^ 1]))


def commands_to_play_on(folder: Path) -> Sequence[str]:
    """What a newcomer may type next."""
    from bundler.demo.tiny_gguf import MODEL_FILE

    trust = "--policy policy.json --state state.json"
    return (
        f"export PATH={Path(sys.executable).parent}:$PATH SEALIFT_PASSPHRASE='{PASSPHRASE}'",
        f"cd {folder}",
        f"sealift inspect bundle --chain {MODEL_FILE}",
        "sealift trust show policy.json",
        f"sealift verify bundle {trust} --json",
        f"sealift launch bundle {trust} --profile default --env engine --dry-run",
        "python3 -I bundle/verify.pyz bundle --policy policy.json",
        "touch bundle/payload/extra && sealift verify bundle " + trust + "; rm bundle/payload/extra",
    )
