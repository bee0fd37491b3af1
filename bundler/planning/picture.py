"""A plan as a picture: memory on each GPU by kind, disks, and what a longer context costs."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bundler.errors import MachineError, UsageError

if TYPE_CHECKING:
    from bundler.planning.gpu_fit import LaunchPlan
    from bundler.planning.plan import Plan
    from bundler.sizing.memory import Fit

FORMATS = ("svg", "png")
GB = 1e9
# Okabe and Ito's palette: told apart by people who do not see red and green.
COLOURS = {"weights": "#0072B2", "overhead": "#999999", "KV cache": "#E69F00", "free": "#F0F0F0"}
LIMIT_COLOUR = "#D55E00"


def require_picture(path: Path) -> None:
    """Check that a picture can be drawn into `path`, before anything else is done.

    Raises UsageError (`picture-format`) and MachineError (`no-matplotlib`).
    """
    if path.suffix[1:].lower() not in FORMATS:
        raise UsageError(
            "picture-format",
            "a picture is an SVG or a PNG",
            where=str(path),
            expected="a name that ends in .svg or .png",
            found=path.suffix or "no ending",
            hint="--plot plan.svg",
        )
    _library()


def picture(plan: Plan, form: str) -> bytes:
    """The picture's bytes, `form` being `svg` or `png`; the same plan gives the same SVG."""
    matplotlib, Figure = _library()  # noqa: N806 - a class
    judged = [launch for launch in plan.launches if launch.fit is not None]
    mounts = plan.fetch.space.mounts if plan.fetch else ()
    rows = len(judged) + bool(mounts)
    figure = Figure(figsize=(11, 1.2 + 2.6 * max(rows, 1)), layout="constrained")
    grid = figure.add_gridspec(max(rows, 1), 2, width_ratios=(2, 3))
    for row, launch in enumerate(judged):
        assert launch.fit is not None
        _draw_memory(figure.add_subplot(grid[row, 0]), launch, launch.fit)
        _draw_context(figure.add_subplot(grid[row, 1]), launch.fit)
    if mounts:
        _draw_disks(figure.add_subplot(grid[rows - 1, :]), mounts)
    if not rows:
        figure.text(
            0.5, 0.5, "nothing to draw: no launch profile is judged, and nothing is pinned", ha="center"
        )
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "sealift", "svg.fonttype": "none"}):
        figure.savefig(buffer, format=form, dpi=150, metadata={"Date": None} if form == "svg" else None)
    return buffer.getvalue()


def _draw_memory(axes: Any, launch: LaunchPlan, fit: Fit) -> None:
    """One stacked bar: weights, overhead, the cache of the wanted context, and what is left."""
    cache = _cache_bytes(fit, fit.wanted_context or 0)
    parts = {"weights": fit.weights, "overhead": fit.overhead, "KV cache": cache}
    parts["free"] = max(0, fit.budget - sum(parts.values()))
    start = 0.0
    for name, size in parts.items():
        label = f"{name} {size / GB:,.1f} GB"
        axes.barh([0], [size / GB], left=[start], color=COLOURS[name], edgecolor="white", label=label)
        start += size / GB
    axes.axvline(
        fit.budget / GB, color=LIMIT_COLOUR, linewidth=2, label=f"may take {fit.budget / GB:,.1f} GB"
    )
    where = "main memory" if fit.device == "RAM" else f"each of {fit.gpus}x {fit.device}"
    axes.set_title(f"{launch.name or launch.model}: {where}: {launch.verdict}", fontsize=10)
    axes.set_yticks([])
    axes.set_ylim(-0.5, 2.2)
    axes.set_xlabel("GB")
    axes.legend(fontsize=7, loc="upper left", ncols=2, frameon=False)


def _draw_context(axes: Any, fit: Fit) -> None:
    """Bytes of cache for one sequence over its length, and where memory and the model end."""
    axes.set_title("KV cache of one sequence" + ("" if fit.device == "RAM" else ", on each GPU"), fontsize=10)
    if not fit.kv_bytes_per_token:
        axes.text(0.5, 0.5, "not known: no configuration", ha="center", transform=axes.transAxes)
        return
    longest = max(filter(None, (fit.wanted_context, fit.model_context, fit.longest_context)), default=1024)
    steps = [longest * part // 40 for part in range(41)]
    axes.plot(steps, [_cache_bytes(fit, step) / GB for step in steps], color=COLOURS["KV cache"], linewidth=2)
    axes.axhline(max(fit.left, 0) / GB, color=LIMIT_COLOUR, linewidth=2)
    axes.text(0, max(fit.left, 0) / GB, f" room: {max(fit.left, 0) / GB:,.1f} GB", va="bottom", fontsize=8)
    if fit.wanted_context:
        axes.axvline(fit.wanted_context, color=COLOURS["overhead"], linestyle="--")
        axes.text(
            fit.wanted_context, 0, f"wanted: {fit.wanted_context:,} ", ha="right", va="bottom", fontsize=8
        )
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel("tokens")
    axes.set_ylabel("GB")


def _draw_disks(axes: Any, mounts: Sequence[Any]) -> None:
    """What the bundle still needs of each file system, against what is free there."""
    names = [mount.file_system.mount_point for mount in mounts]
    axes.barh(names, [mount.file_system.free / GB for mount in mounts], color=COLOURS["free"], label="free")
    axes.barh(
        names, [mount.needed / GB for mount in mounts], height=0.4, color=COLOURS["weights"], label="needed"
    )
    for position, mount in enumerate(mounts):
        text = f" needs {mount.needed / GB:,.1f} GB of {mount.file_system.free / GB:,.1f} GB free"
        axes.text(0, position + 0.42, text, fontsize=8, va="bottom")
    axes.set_ylim(-0.6, len(names) - 0.1)
    axes.set_title("disks", fontsize=10)
    axes.set_xlabel("GB")


def _cache_bytes(fit: Fit, tokens: int) -> int:
    return -(-tokens * (fit.kv_bytes_per_token or 0) // fit.layout.decode_context)


def _library() -> tuple[Any, Any]:
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MachineError(
            "no-matplotlib",
            "drawing needs a library that is not installed",
            where="--plot",
            expected="matplotlib",
            found=str(error),
            hint="`python3 -m pip install 'sealift[plot]'`",
        ) from error
    return matplotlib, Figure
