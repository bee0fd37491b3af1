"""`sealift plan`: what would be fetched, whether disks can take it, whether the machine can serve it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bundler.cli import plan_tables
from bundler.cli.arguments import LOCK_KIND, SpecFile, what_it_is
from bundler.cli.connection import Connection
from bundler.cli.output import Output, json_option
from bundler.core.report import Report
from bundler.core.units import parse_size
from bundler.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from bundler.core.specs.lock import Lock
    from bundler.core.specs.spec import NodeSpec, Spec
    from bundler.planning.plan import Plan


@click.command()
@click.argument(
    "source",
    metavar="[SPEC_OR_LOCK]",
    required=False,
    type=SpecFile(locks=True),
)
@click.option(
    "--to",
    "out",
    type=click.Path(path_type=Path),
    help="Folder the bundle would be built in. [default: NAME-SERIAL]",
)
@click.option(
    "--node",
    metavar="COUNTxGPU",
    help="Judge this machine instead of the spec's: 16xH100, 4xH200:140GB (memory of one), or 512GiB (main "
    "memory). The lock stays valid.",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.svg|FILE.png",
    help="Draw memory on each GPU, disks and the cost of a longer context. Needs sealift[plot].",
)
@click.option("--overhead", metavar="SIZE", help="Memory beside weights and KV cache, on each GPU or in RAM.")
@click.option(
    "--config",
    "config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A model's config.json: judge the GPUs by formula, before anything is pinned.",
)
@click.option("--gpus", is_flag=True, help="List the GPU kinds that are known.")
@click.option("--reference", is_flag=True, help="Print how Kimi K2 fits the usual nodes.")
@click.option(
    "--simple", is_flag=True, help="Print the weights-only arithmetic of the guides; decide nothing by it."
)
@json_option
def command(
    source: Path | None,
    out: Path | None,
    node: str | None,
    plot: Path | None,
    overhead: str | None,
    config: Path | None,
    gpus: bool,
    reference: bool,
    simple: bool,
    as_json: bool,
) -> int:
    """Say before anything is fetched whether disks, file systems and GPUs will suffice.

    Takes a spec or its lock. Of a spec without a lock everything is pinned first, and nothing is written.

    Exits with 4 when a disk cannot take the bundle and with 12 when the stated node cannot serve it. Sizes
    are those of the pinned files; the KV cache comes from the model's own configuration. The overhead of
    11.2 GB on each GPU is calibrated on one published figure: override it when you know better. Only memory
    is judged, not whether an engine has kernels for a GPU.
    """
    from bundler.cli.lock import lock_path
    from bundler.planning.node import parse_node
    from bundler.planning.picture import picture, require_picture
    from bundler.storage.named_output import require_outputs, write_output

    output = Output(as_json)
    size = None if overhead is None else parse_size(overhead)
    data = print_tables(output, gpus=gpus, reference=reference, simple=simple, overhead=size)
    if source is None:
        if not data:
            raise UsageError(
                "nothing-to-plan", "name a spec or a lock", hint="`sealift plan spec.yaml --to DIR`"
            )
        return output.emit(Report(verb="plan", data=data))
    machine = None if node is None else parse_node(node)
    if plot is not None:
        require_picture(plot)
        require_outputs(plot, inputs=[source, config, lock_path(source)], replace=True)
    with Connection().opened(output.say):
        if config:
            plan = formula_plan(source, config, size, machine)
        else:
            plan = make_plan(source, out, size, machine, output)
    for line in plan_tables.plan_lines(plan):
        output.data(line)
    if plot is not None:
        write_output(plot, picture(plan, plot.suffix[1:].lower()), replace=True)
        output.data(f"picture   {plot}")
    code = output.emit(report(plan, data))
    verdict = "passed" if plan.exit_code is ExitCode.PASSED else "failed"
    output.verdict(f"verdict: {verdict}", verdict)
    if plan.exit_code is ExitCode.PASSED and plan.fetch is not None:
        spec = spec_of(source)
        output.command(["sealift", "build", str(spec), "-o", str(plan.fetch.out)])
    return code


def spec_of(source: Path) -> Path:
    """The spec to build from: `source`, or the spec beside it when a lock was planned."""
    return source.with_name(source.name.removesuffix(".lock.json") + ".yaml") if is_lock(source) else source


def is_lock(source: Path) -> bool:
    """Whether the file is a lock, not a spec."""
    return what_it_is(source) == LOCK_KIND or source.name.endswith(".lock.json")


def print_tables(
    output: Output, *, gpus: bool, reference: bool, simple: bool, overhead: int | None
) -> dict[str, Any]:
    """The tables that need no spec, printed and as data."""
    data: dict[str, Any] = {}
    if gpus:
        data["gpus"] = plan_tables.show_gpus(output)
    if reference:
        data["reference"] = plan_tables.show_reference(output, overhead)
    if simple:
        data["simple"] = plan_tables.show_simple(output)
    return data


def make_plan(
    source: Path, out: Path | None, overhead: int | None, node: NodeSpec | None, output: Output
) -> Plan:
    """The plan for a lock, or for a spec and its lock; of a spec without one everything is pinned now."""
    from bundler.assembly.early_models import hub_reader
    from bundler.core.specs.lock import LOCK_LIMIT, Lock
    from bundler.planning.model_shape import plan_patience
    from bundler.planning.plan import plan_lock
    from bundler.storage.bounded_read import read_named

    data = read_named(source, LOCK_LIMIT)
    parsed = Lock.parse(data, where=str(source)) if is_lock(source) else None
    lock = parsed or lock_of_spec(source, data, output)
    place = out or Path(f"{lock.name}-{lock.serial}")
    return plan_lock(lock, place, overhead=overhead, node=node, early=hub_reader(plan_patience()))


def lock_of_spec(source: Path, data: bytes, output: Output) -> Lock:
    """The lock beside the spec when it was made from this very spec, else a new one in memory."""
    import hashlib

    from bundler.assembly.locking import make_lock
    from bundler.cli.lock import lock_path
    from bundler.core.specs.lock import LOCK_LIMIT, Lock
    from bundler.core.specs.spec_text import parse_spec
    from bundler.storage.bounded_read import read_named

    spec = parse_spec(data, str(source))
    path = lock_path(source)
    if path.is_file():
        lock = Lock.parse(read_named(path, LOCK_LIMIT), where=str(path))
        if lock.spec_sha256 == hashlib.sha256(data).hexdigest():
            return lock
        output.say(f"{path} is of an older spec and not used")
    output.say(
        f"no lock of this spec yet: pinning now, nothing is written (`sealift lock {source}` keeps it)"
    )
    return make_lock(spec, data, source.resolve().parent, say=output.say)


def formula_plan(source: Path, config: Path, overhead: int | None, node: NodeSpec | None) -> Plan:
    """The fit of a spec's launch profiles from a model's configuration alone."""
    from bundler.content.published_json import parse_published_json
    from bundler.core.specs.spec_text import SPEC_LIMIT, parse_spec
    from bundler.planning.model_shape import CONFIG_LIMIT
    from bundler.planning.plan import plan_formula
    from bundler.storage.bounded_read import read_named

    spec: Spec = parse_spec(read_named(source, SPEC_LIMIT), str(source))
    data = read_named(config, CONFIG_LIMIT)
    value = parse_published_json(data, limit=CONFIG_LIMIT, where=str(config)).value
    formats = {model.identifier: model.format for model in spec.models}
    members = value if isinstance(value, dict) else {}
    return plan_formula(spec.launch, spec.engines, formats, members, node or spec.node, overhead=overhead)


def report(plan: Plan, data: dict[str, Any]) -> Report:
    """The verdict: failed when a disk or the node cannot do it."""
    code = plan.exit_code
    return Report(
        verb="plan",
        verdict="passed" if code is ExitCode.PASSED else "failed",
        exit_code=code,
        findings=plan.findings,
        data={**data, **plan_tables.plan_data(plan)},
    )
