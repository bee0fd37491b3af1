"""What a flag table is made of: flags, what is refused and why, the environment, and what can be watched.

One table per engine and exact version: flags come, go and change meaning between releases. Each table says
where it comes from: `run` (put through that version's own argument parser here), `source` (read in that
version's installed source), `documented` (its publisher's documentation only).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from bundler.engines.values import TEXT, ValueKind

Evidence = Literal["run", "source", "documented"]


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag an engine version understands.

    `value` is a placeholder for its one value, empty for a switch. `member` is the launch profile's member
    that sets it: such a flag is rendered by us and refused among a profile's further `arguments`.
    `choices` are the only values allowed: the engine's own, or fewer when others are not safe or not local.
    `kind` is what else a value must be.
    """

    name: str
    value: str
    meaning: str
    member: str = ""
    choices: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    kind: ValueKind = TEXT


@dataclass(frozen=True, slots=True, kw_only=True)
class Observability:
    """What can be watched: `turned_on` by our flags, `on_request` with further flags or calls, and what the
    engine does `not_offered` at all.
    """

    turned_on: tuple[str, ...]
    on_request: tuple[str, ...] = ()
    not_offered: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineTable:
    """One engine in one version.

    `distributions` are the Python distributions that may carry it. `start` follows the interpreter: a module
    started with `-m`, or nothing when `script` is the server's own script. `environment` are the variables a
    profile may set, with their meaning; `switches` those that are always set (offline, telemetry off).
    """

    engine: str
    version: str
    distributions: tuple[str, ...]
    evidence: Evidence
    start: tuple[str, ...]
    flags: Mapping[str, Flag]
    refused: Mapping[str, str]
    environment: Mapping[str, str] = field(default_factory=dict)
    switches: Mapping[str, str] = field(default_factory=dict)
    tool_parsers: frozenset[str] = frozenset()
    reasoning_parsers: frozenset[str] = frozenset()
    kimi_parsers: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    """Names that fit Kimi models: tool parsers, reasoning parsers. Empty: the engine has no such flags."""
    observability: Observability


FROM_PROFILE: Mapping[str, str] = {
    "OMP_NUM_THREADS": "processor threads of one worker",
    "CUDA_VISIBLE_DEVICES": "which GPUs",
    "NCCL_DEBUG": "detail of NCCL's log",
    "NCCL_IB_HCA": "InfiniBand adapters of NCCL",
    "NCCL_P2P_DISABLE": "no direct transfers between GPUs",
    "NCCL_SOCKET_IFNAME": "network interface of NCCL",
    "GLOO_SOCKET_IFNAME": "network interface of Gloo",
    "PYTORCH_CUDA_ALLOC_CONF": "settings of PyTorch's GPU allocator",
}
"""A profile may set these for any engine, beside those of the engine's own table."""


def by_name(*flags: Flag) -> dict[str, Flag]:
    """Flags by each of their names."""
    return {name: flag for flag in flags for name in (flag.name, *flag.aliases)}


def names(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


RUNS_CODE = "it makes the engine import Python code that is not in the signed model"
REACHES_OUT = "it sends data to, or fetches it from, another machine"
OTHER_MODEL = "it points at files that the bundle's signature does not cover"
READABLE = "a secret on the command line can be read by every user of the machine"
HOST = "--host"
PORT = "--port"
