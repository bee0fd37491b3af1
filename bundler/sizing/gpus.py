"""GPU kinds and how much memory an engine finds in them."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from bundler.errors import MalformedError

MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuKind:
    """A kind of GPU: `memory` is what its driver reports as total, in bytes, not what the box says."""

    name: str
    memory: int
    aliases: tuple[str, ...] = ()


GPU_KINDS = (
    GpuKind(name="A100-80G", memory=81920 * MIB, aliases=("A100",)),
    GpuKind(name="H100-80G", memory=81559 * MIB, aliases=("H100",)),
    GpuKind(name="H20-141G", memory=143771 * MIB, aliases=("H20",)),
    GpuKind(name="H200-141G", memory=143771 * MIB, aliases=("H200",)),
    GpuKind(name="B200-180G", memory=183359 * MIB, aliases=("B200", "B200-192G")),
    GpuKind(name="B300-268G", memory=275040 * MIB, aliases=("B300", "B300-288G")),
    GpuKind(name="MI300X-192G", memory=196592 * MIB, aliases=("MI300X",)),
)
"""Totals as `nvidia-smi` and `rocm-smi` print them, in MiB. B200: 180 GB usable, although sold as 192 GB."""


def gpu_kind(name: str, *, memory: int | None = None, where: str = "") -> GpuKind:
    """The kind called `name` (any case, or an alias).

    With `memory` in bytes the name may be unknown. Raises MalformedError (`unknown-gpu`).
    """
    wanted = name.upper()
    for kind in GPU_KINDS:
        if wanted == kind.name or wanted in kind.aliases:
            return kind if memory is None else GpuKind(name=kind.name, memory=memory)
    if memory is not None:
        return GpuKind(name=name, memory=memory)
    names = [kind.name for kind in GPU_KINDS]
    near = difflib.get_close_matches(wanted, names, n=1, cutoff=0.4)
    raise MalformedError(
        "unknown-gpu",
        "a GPU kind is not known",
        where=where,
        expected=f"one of {', '.join(names)}",
        found=name[:100],
        hint=f"did you mean `{near[0]}`? Or say how much it has: memory: 96GB"
        if near
        else "say how much it has: memory: 96GB",
    )
