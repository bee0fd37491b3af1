"""The options of every verb that verifies: which policy, which state, and how a first use is allowed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bundler.core.strict_json import POLICY_LIMIT
from bundler.errors import MalformedError, UsageError

if TYPE_CHECKING:
    from bundler.verification.verify import Perimeter

DEFAULT_POLICY = Path("/etc/sealift/trust/policy.json")
TRUSTED_ROOT = "trusted_root.json"
TRUSTED_ROOT_LIMIT = 16 << 20
Command = TypeVar("Command", bound=Callable[..., Any])


def trust_options(command: Command) -> Command:
    """Adds `--policy`, `--trusted-root`, `--state` and `--trust-on-first-use`, of which `perimeter` makes a
    Perimeter.
    """
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
            help="Begin without a state: type the policy's digest from paper.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def trust_words(policy: Path, state: Path | None, trusted_root: Path | None) -> list[str]:
    """The same options again, for a next command to type; what is the default is left out."""
    given = [("--policy", None if policy == DEFAULT_POLICY else policy)]
    given += [("--state", state), ("--trusted-root", trusted_root)]
    return [word for name, path in given if path is not None for word in (name, str(path))]


def perimeter(
    policy: Path, state: Path | None, first_use: str | None, trusted_root: Path | None = None
) -> Perimeter:
    """What these options bring. Raises UsageError (`no-policy`, `no-trusted-root`) for what is not there."""
    from bundler.trust.perimeter.state_files import StateFiles
    from bundler.verification.verify import Perimeter

    root = trusted_root or policy.parent / TRUSTED_ROOT
    wanted = trusted_root is not None or root.is_file()
    return Perimeter(
        policy=_read(policy, POLICY_LIMIT, "policy"),
        state=StateFiles.of(state),
        first_use=first_use,
        trusted_root=_read(root, TRUSTED_ROOT_LIMIT, "trusted root") if wanted else None,
    )


def _read(path: Path, limit: int, what: str) -> bytes:
    if not path.is_file():
        raise UsageError(
            f"no-{what.replace(' ', '-')}",
            f"there is no {what} to verify against",
            where=str(path),
            expected="a file from your security officer",
            found="nothing",
            hint=f"name it with --{what.replace(' ', '-')} FILE"
            + ("; `sealift trust init` makes a first one" if what == "policy" else ""),
        )
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise MalformedError(
            "too-large", f"the {what} is larger than its limit", where=str(path), expected=f"{limit} bytes"
        )
    return data
