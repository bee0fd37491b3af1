"""Options that several verbs share, each group as one value: whom to trust, and how to read.

A group is a decorator. It adds its options and passes them to the command as one frozen value.
"""

from __future__ import annotations

import functools
import hashlib
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from bundler.cli.arguments import POLICY_KIND, what_it_is
from bundler.cli.output import Output, json_option
from bundler.cli.progress import make_progress
from bundler.core.strict_json import POLICY_LIMIT
from bundler.errors import MalformedError, UsageError
from bundler.storage.named_output import require_other_file

if TYPE_CHECKING:
    from bundler.core.progress import Progress
    from bundler.verification.verify import Perimeter

DEFAULT_POLICY = Path("/etc/sealift/trust/policy.json")
TRUSTED_ROOT = "trusted_root.json"
TRUSTED_ROOT_LIMIT = 16 << 20
Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustOptions:
    """Whom this perimeter trusts and what it remembers, as it was typed.

    `first_use` is what was typed after `--trust-on-first-use`. With `insecure_first_use` a state may begin
    although nobody compared the policy with paper.
    """

    policy: Path
    state: Path | None
    trusted_root: Path | None
    first_use: str | None
    insecure_first_use: bool = False

    def perimeter(self) -> Perimeter:
        """The files that these options name. Raises UsageError (`no-policy`, `no-trusted-root`)."""
        from bundler.trust.perimeter.state_files import StateFiles
        from bundler.verification.verify import Perimeter

        root = self.trusted_root or self.policy.parent / TRUSTED_ROOT
        wanted = self.trusted_root is not None or root.is_file()
        require_other_file(self.state, inputs=[self.policy, root])
        policy = _read_policy(self.policy)
        state = StateFiles.of(self.state)
        first_use = self.first_use
        if first_use is None and self.insecure_first_use:
            first_use = hashlib.sha256(policy).hexdigest()
        elif first_use is None and state.is_blank():
            _warn_of_missing_paper(policy)
        return Perimeter(
            policy=policy,
            state=state,
            first_use=first_use,
            trusted_root=_read(root, TRUSTED_ROOT_LIMIT, "trusted root") if wanted else None,
        )

    def words(self, *, first_use: bool = False) -> list[str]:
        """The same options for a next command to type, without those that have their default."""
        given: list[tuple[str, Path | str | None]] = [
            ("--policy", None if self.policy == DEFAULT_POLICY else self.policy),
            ("--state", self.state),
            ("--trusted-root", self.trusted_root),
            ("--trust-on-first-use", self.first_use if first_use else None),
        ]
        words = [word for name, value in given if value for word in (name, str(value))]
        return [*words, "--insecure-first-use"] if first_use and self.insecure_first_use else words


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingOptions:
    """How to read a bundle and what to show meanwhile. `workers` is None for all cores."""

    workers: int | None
    progress: Progress
    output: Output


def trust_options(command: Command) -> Command:
    """Adds `--policy`, `--trusted-root`, `--state` and `--trust-on-first-use`, passed as `trust`."""
    options = (
        click.option(
            "--policy",
            type=click.Path(path_type=Path),
            default=DEFAULT_POLICY,
            show_default=True,
            help="Whose signatures count. The policy comes from your security officer, "
            "never from the bundle.",
        ),
        click.option(
            "--trusted-root",
            type=click.Path(path_type=Path),
            default=None,
            help="Sigstore root for keyless signatures; the policy pins its digest.  "
            "[default: trusted_root.json beside the policy]",
        ),
        click.option(
            "--state",
            type=click.Path(path_type=Path),
            default=None,
            help="The file that remembers what was accepted, so that nothing older gets in. "
            "Write {} into a new file for a first use.  [default: /var/lib/sealift/state.json]",
        ),
        click.option(
            "--trust-on-first-use",
            "first_use",
            metavar="sha256:DIGEST",
            default=None,
            help="Begin without a state: type the policy's digest from paper, in groups or not.",
        ),
        click.option(
            "--insecure-first-use",
            is_flag=True,
            help="Test benches: begin without a state and without the digest from paper.",
        ),
    )

    def grouped(given: dict[str, Any]) -> dict[str, Any]:
        names = ("policy", "trusted_root", "state", "first_use", "insecure_first_use")
        return {"trust": TrustOptions(**{name: given.pop(name) for name in names})}

    return _grouping(command, options, grouped)


def reading_options(command: Command) -> Command:
    """Adds `--jobs`, `--no-progress` and `--json`, passed as `reading`."""
    options = (
        click.option(
            "-j",
            "--jobs",
            type=click.IntRange(1, 1024),
            default=None,
            help="Parallel readers.  [default: all cores]",
        ),
        click.option("--no-progress", is_flag=True, help="Show no progress."),
        json_option,
    )

    def grouped(given: dict[str, Any]) -> dict[str, Any]:
        as_json = given.pop("as_json")
        progress = make_progress(wanted=not (given.pop("no_progress") or as_json))
        return {
            "reading": ReadingOptions(workers=given.pop("jobs"), progress=progress, output=Output(as_json))
        }

    return _grouping(command, options, grouped)


def _grouping(
    command: Command,
    options: Sequence[Callable[[Any], Any]],
    grouped: Callable[[dict[str, Any]], dict[str, Any]],
) -> Command:
    """`command` with `options`, whose values `grouped` takes out of the arguments and joins into one."""

    @functools.wraps(command)
    def joined(*arguments: Any, **given: Any) -> Any:
        return command(*arguments, **grouped(given), **given)

    decorated: Any = joined
    for option in reversed(options):
        decorated = option(decorated)
    return cast(Command, decorated)


def _read_policy(path: Path) -> bytes:
    data = _read(path, POLICY_LIMIT, "policy")
    _warn_of_open_policy(path)
    found = what_it_is(path) or (None if data.lstrip()[:1] == b"{" else "not even JSON")
    if found not in (None, POLICY_KIND):
        raise MalformedError(
            "bad-policy",
            "this is not a trust policy",
            where=str(path),
            expected="the policy from your security officer (JSON with type urn:sealift:trust-policy:v1)",
            found=found,
            hint="name the policy with --policy FILE; it never comes with a bundle",
        )
    return data


def _warn_of_open_policy(path: Path) -> None:
    """Warn if others could exchange the policy: then they decide whom this perimeter trusts."""
    from bundler.storage.private_folder import folder_fault

    fault = folder_fault(path.stat())
    if fault and not _as_json():
        output = Output(as_json=False)
        text = f"others can change the policy {path}: {fault}."
        output.say(text, mark="warning:", fg="yellow", bold=True)
        output.say(f"  Let its owner be root or you, then: chmod go-w {shlex.quote(str(path))}")


def _as_json() -> bool:
    context = click.get_current_context(silent=True)
    return context is None or bool(context.params.get("as_json"))


def _warn_of_missing_paper(policy: bytes) -> None:
    """Say that a first use with an empty state file compares the policy with nothing."""
    if _as_json():
        return
    digest = hashlib.sha256(policy).hexdigest()
    output = Output(as_json=False)
    text = "the state is empty, and the policy was not compared with the digest on paper."
    output.say(text, mark="warning:", fg="yellow", bold=True)
    output.say(f"  Compare sha256:{digest}, or begin with --trust-on-first-use DIGEST")


def _read(path: Path, limit: int, what: str) -> bytes:
    if not path.is_file():
        raise UsageError(
            f"no-{what.replace(' ', '-')}",
            f"there is no {what} to verify against",
            where=str(path),
            expected="a file from your security officer",
            found="nothing",
            # Never a command that makes one: who makes the policy decides whom this site trusts.
            hint=f"ask your security officer for it and name it with --{what.replace(' ', '-')} FILE; "
            "never take one that came with a bundle",
        )
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise MalformedError(
            "too-large", f"the {what} is larger than its limit", where=str(path), expected=f"{limit} bytes"
        )
    return data
