"""What `sealift plan` prints: tables for people, and the same numbers for machines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from bundler.cli.output import Output, printable
from bundler.core.units import format_bytes

if TYPE_CHECKING:
    from bundler.planning.gpu_fit import LaunchPlan
    from bundler.planning.plan import FetchPlan, Plan
    from bundler.sizing.examples import ReferenceRow
    from bundler.sizing.memory import Fit


def table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows as aligned lines; the first row is the head, the first column is left-aligned."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        cells[0] = row[0].ljust(widths[0])
        yield "  ".join(cells).rstrip()


def plan_lines(plan: Plan) -> Iterator[str]:
    """The plan for people."""
    if plan.fetch is not None:
        yield from _fetch_lines(plan.fetch)
    else:
        yield "nothing is pinned yet: bytes and disks are not known before `sealift lock`"
    for line in plan.machine_needs:
        yield f"every machine needs: {printable(line)}"
    for launch in plan.launches:
        yield ""
        yield from _launch_lines(launch)


def _fetch_lines(fetch: FetchPlan) -> Iterator[str]:
    rows = [("kind", "files", "bytes", "", "already here")]
    for total in fetch.totals:
        here = f"{total.present_files} files, {format_bytes(total.present_bytes)}"
        rows.append((total.kind, str(total.files), f"{total.bytes:,}", format_bytes(total.bytes), here))
    yield from table(rows)
    begun = f", {format_bytes(fetch.begun)} of it begun" if fetch.begun else ""
    yield f"to fetch: {fetch.fetch_bytes:,} bytes ({format_bytes(fetch.fetch_bytes)}) into {fetch.out}{begun}"
    for mount in fetch.space.mounts:
        system = mount.file_system
        needed, free = format_bytes(mount.needed), format_bytes(system.free)
        yield f"disk {printable(system.mount_point)} ({system.kind}): needs {needed}, {free} free"


def _launch_lines(launch: LaunchPlan) -> Iterator[str]:
    how = "by formula" if launch.formula else "in the pinned files"
    name = f"launch {launch.name}" if launch.name else "model"
    yield f"{name}: {launch.model}, {format_bytes(launch.weights)} of weights {how}"
    if launch.fit is not None:
        yield from (f"  {line}" for line in _fit_lines(launch.fit))
    if launch.idle:
        yield f"  idle:       {launch.idle} GPUs"
    yield f"  verdict:    {launch.verdict}"
    if launch.nodes:
        yield "  memory would also do on:"
        yield from (f"    {_node_text(node)}" for node in launch.nodes)


def _fit_lines(fit: Fit) -> Iterator[str]:
    on_each = "" if fit.device == "RAM" else " on each GPU"
    yield f"on:         {_node_text(fit)}"
    yield f"weights:    {format_bytes(fit.weights)}{on_each}"
    yield f"overhead:   {format_bytes(fit.overhead)} (--overhead)"
    yield f"may take:   {format_bytes(fit.budget)}"
    yield f"KV cache:   {_cache_text(fit)}"


def _cache_text(fit: Fit) -> str:
    left = format_bytes(fit.left)
    if fit.kv_tokens is None or fit.longest_context is None:
        return f"{left} left; tokens not known"
    if fit.left <= 0:
        return f"{left} left"
    wanted = f" (wanted: {fit.wanted_context:,})" if fit.wanted_context else ""
    return f"{left} left, {fit.kv_tokens:,} tokens; longest context {fit.longest_context:,}{wanted}"


def _node_text(fit: Fit) -> str:
    if fit.device == "RAM":
        return "main memory"
    stages = f" x pipeline {fit.layout.pipeline}" if fit.layout.pipeline > 1 else ""
    return f"{fit.gpus}x {fit.device} (tensor parallel {fit.layout.tensor}{stages})"


def plan_data(plan: Plan) -> dict[str, Any]:
    """The plan for machines: integers, bytes."""
    fetch = plan.fetch
    return {
        "fetch": None if fetch is None else _fetch_data(fetch),
        "machineNeeds": list(plan.machine_needs),
        "launches": [
            {
                "profile": launch.name or None,
                "model": launch.model,
                "weights": launch.weights,
                "byFormula": launch.formula,
                "verdict": launch.verdict,
                "idleGpus": launch.idle,
                "fit": launch.fit.to_json() if launch.fit else None,
                "nodesThatWouldDo": [node.to_json() for node in launch.nodes],
            }
            for launch in plan.launches
        ],
    }


def _fetch_data(fetch: FetchPlan) -> dict[str, Any]:
    return {
        "to": str(fetch.out),
        "bytes": fetch.fetch_bytes,
        "begunBytes": fetch.begun,
        "kinds": [
            {
                "kind": total.kind,
                "files": total.files,
                "bytes": total.bytes,
                "presentFiles": total.present_files,
                "presentBytes": total.present_bytes,
            }
            for total in fetch.totals
        ],
        "mounts": [
            {
                "mountPoint": mount.file_system.mount_point,
                "fileSystem": mount.file_system.kind,
                "needed": mount.needed,
                "free": mount.file_system.free,
                "freeFiles": mount.file_system.free_files,
                "files": len(mount.files),
                "readOnly": mount.file_system.read_only,
            }
            for mount in fetch.space.mounts
        ],
    }


def show_gpus(output: Output) -> list[dict[str, Any]]:
    """Print the known GPU kinds; gives back the same as data."""
    from bundler.sizing.gpus import GPU_KINDS

    rows = [("kind", "usable bytes", "", "also called")]
    for kind in GPU_KINDS:
        rows.append((kind.name, f"{kind.memory:,}", format_bytes(kind.memory), ", ".join(kind.aliases)))
    for line in table(rows):
        output.data(line)
    return [{"kind": kind.name, "memory": kind.memory, "aliases": list(kind.aliases)} for kind in GPU_KINDS]


def show_reference(output: Output, overhead: int | None) -> list[dict[str, Any]]:
    """Print how Kimi K2 fits the usual nodes; gives back the same as data."""
    from bundler.sizing.examples import reference_table
    from bundler.sizing.memory import DEFAULT_OVERHEAD

    used = DEFAULT_OVERHEAD if overhead is None else overhead
    rows = reference_table(used)
    head = ("weights", "node", "W/GPU", "budget", "left for KV", "KV tokens", "verdict", "often said")
    output.data("Kimi K2 by formula, 262,144 tokens, utilisation 0.90, GB on each GPU")
    for line in table([head, *(_reference_cells(row) for row in rows)]):
        output.data(line)
    output.data(
        f"overhead {format_bytes(used)} on each GPU, from one published 8-GPU figure; --overhead changes it"
    )
    return [
        {"weights": row.weights, "verdict": row.verdict, "said": row.said, "fit": row.fit.to_json()}
        for row in rows
    ]


def _reference_cells(row: ReferenceRow) -> tuple[str, ...]:
    fit, known = row.fit, row.weights != "any"
    return (
        row.weights,
        f"{row.gpus}x {row.gpu}",
        _gigabytes(fit.weights) if known else f"{fit.weights // 10**9}+",
        _gigabytes(fit.budget),
        _gigabytes(fit.left) if known else "",
        f"{fit.kv_tokens:,}" if known else "",
        row.verdict,
        row.said or "-",
    )


def _gigabytes(count: int) -> str:
    return f"{count / 10**9:.1f}"


def show_simple(output: Output) -> list[dict[str, Any]]:
    """Print the weights-only arithmetic; gives back the same as data."""
    from bundler.sizing.examples import weights_only_table

    rows = weights_only_table()
    head = ("format", "weights", "node", "memory", "headroom", "would fit")
    output.data(
        "One million million parameters, sold memory, no KV cache and no overhead: do not decide by it"
    )
    cells = [
        (
            row.weights_format,
            *(_whole(row.weights), row.node, _whole(row.memory), _whole(row.headroom)),
            "yes" if row.headroom >= 0 else "no",
        )
        for row in rows
    ]
    for line in table([head, *cells]):
        output.data(line)
    return [
        {"format": row.weights_format, "weights": row.weights, "node": row.node, "memory": row.memory}
        | {"headroom": row.headroom}
        for row in rows
    ]


def _whole(count: int) -> str:
    return f"{count // 10**9:,} GB"
