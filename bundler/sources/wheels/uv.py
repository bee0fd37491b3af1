"""uv as the resolver: which program, which default index, which environment, and what its failures mean.

uv is called as a program with `--no-config`: nothing of the machine's configuration reaches a lock but the
address of the default index, which uv is asked for first.
https://docs.astral.sh/uv/reference/settings/, https://docs.astral.sh/uv/concepts/configuration-files/
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from packaging.utils import canonicalize_name

from bundler.core.specs.target import Target
from bundler.errors import MachineError, MalformedError
from bundler.storage.child_environment import CERTIFICATES, PROXIES, child_environment
from bundler.storage.private_folder import private_folder

_PASSED_ON = (
    *("NETRC", *PROXIES, *CERTIFICATES),
    *("UV_CACHE_DIR", "UV_HTTP_TIMEOUT", "UV_HTTP_RETRIES", "UV_CONCURRENT_DOWNLOADS"),
    *("UV_NATIVE_TLS", "UV_SYSTEM_CERTS", "UV_INSECURE_HOST"),
)
THROW_AWAY_NAME = "sealift-throw-away"
"""The project that only exists to be resolved; a name no index has."""
_EXPLANATION_LIMIT = 1600
"""Characters of uv's explanation that are kept: its first sentences name the cause."""


def find_uv() -> str:
    """The path of the uv program of this environment. Raises MachineError (`no-uv`)."""
    from uv import find_uv_bin

    try:
        return str(find_uv_bin())
    except FileNotFoundError:
        raise MachineError(
            "no-uv",
            "the program uv is not where its package put it",
            expected="uv in sealift's own environment",
            found="none",
            hint="`python3 -m pip install --force-reinstall uv`",
        ) from None


def resolver_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What of `environ` uv may see: proxies, certificates, its cache, credentials of named indexes."""
    named = {name: value for name, value in environ.items() if _NAMED_CREDENTIAL.fullmatch(name)}
    return child_environment(environ, *_PASSED_ON) | named


_NAMED_CREDENTIAL = re.compile(r"UV_INDEX_[A-Z0-9_]+_(USERNAME|PASSWORD)")


def default_index(environ: Mapping[str, str]) -> str:
    """The address of the default index, as uv itself finds it: environment, configuration, its own default.

    uv is asked in an empty folder: a project's own `uv.toml` belongs to another project. Raises
    MalformedError (`bad-uv-config`).
    """
    wanted = child_environment(environ, *_CONFIGURES)
    arguments = ["pip", "compile", "nothing.in", "--emit-index-url", "--no-header", "--color", "never"]
    arguments += [
        "--python",
        sys.executable,
        "--no-python-downloads",
        "--quiet",
        "--output-file",
        "indexes.txt",
    ]
    with private_folder("sealift-index-") as folder:
        (folder / "nothing.in").touch()
        try:
            run_uv(arguments, folder, wanted)
        except UvFailure as failure:
            raise MalformedError(
                "bad-uv-config", "uv's configuration cannot be read", found=failure.explanation
            ) from None
        told = (folder / "indexes.txt").read_text("utf-8")
    return next(line.split(" ", 1)[1] for line in told.splitlines() if line.startswith("--index-url "))


_CONFIGURES = ("UV_CACHE_DIR", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_CONFIG_FILE", "UV_NO_CONFIG")


class UvFailure(Exception):
    """uv said no. `explanation` is what it wrote, trimmed; `whole` is all of it."""

    def __init__(self, explanation: str, whole: str) -> None:
        super().__init__(explanation)
        self.explanation = explanation
        self.whole = whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Compilation:
    """A throw-away project in `folder` (`pyproject.toml`, `overrides.txt`), to be resolved for `target`.

    Only wheels: uv builds nothing and runs nothing but this Python, to ask its version. `not_excluded` are
    projects that `exclude_newer` does not concern.
    """

    folder: Path
    target: Target
    index: str
    exclude_newer: str | None
    not_excluded: Sequence[str]
    environ: Mapping[str, str] = field(repr=False)

    def lock(self) -> str:
        """The text of its `pylock.toml`. Raises UvFailure."""
        return self._run("pylock.toml", "pylock.toml", "--no-annotate")

    def required_by(self) -> dict[str, set[str]]:
        """Each project that is installed with those that ask for it, by normalised name. Raises UvFailure."""
        return read_annotations(self._run("requirements.txt", "annotated.txt", "--annotation-style", "split"))

    def _run(self, form: str, output: str, *more: str) -> str:
        arguments = [
            "pip",
            "compile",
            "pyproject.toml",
            "--no-config",
            "--format",
            form,
            "--output-file",
            output,
        ]
        arguments += ["--overrides", "overrides.txt", "--no-header", *more]
        arguments += ["--python", sys.executable, "--no-python-downloads", "--only-binary", ":all:"]
        arguments += ["--python-version", self.target.python, "--python-platform", self.target.uv_platform]
        arguments += ["--default-index", self.index, "--no-progress", "--color", "never", "--quiet"]
        if self.exclude_newer is not None:
            arguments += ["--exclude-newer", self.exclude_newer]
            for project in self.not_excluded:
                arguments += ["--exclude-newer-package", f"{project}=false"]
        run_uv(arguments, self.folder, resolver_environment(self.environ))
        return (self.folder / output).read_text("utf-8")


def read_annotations(text: str) -> dict[str, set[str]]:
    """Who asks for each project, from the `# via` comments of uv's `requirements.txt`."""
    found: dict[str, set[str]] = {}
    asking: set[str] = set()
    for line in text.splitlines():
        comment = line.strip().removeprefix("#").strip() if line.lstrip().startswith("#") else None
        if comment is None and (match := _REQUIREMENT.match(line)):
            asking = found.setdefault(canonicalize_name(match[0]), set())
        elif comment and (match := _REQUIREMENT.match(comment.removeprefix("via").strip())):
            asking.add(canonicalize_name(match[0]))
    return found


_REQUIREMENT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")


def run_uv(arguments: Sequence[str], folder: Path, environment: Mapping[str, str]) -> str:
    """What uv wrote to stdout and stderr, started in `folder`. Raises UvFailure when it says no."""
    done = subprocess.run(
        [find_uv(), *arguments],
        cwd=folder,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        raise UvFailure(trimmed(done.stderr, folder), done.stderr)
    return done.stdout + done.stderr


def trimmed(text: str, folder: Path) -> str:
    """uv's explanation in one line: without warnings, our temporary folder, and passwords in addresses."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("warning:", "Using ", "Updating "))]
    plain = " ".join(kept).removeprefix("error: ").replace(str(folder) + os.sep, "")
    plain = re.sub(r"://[^/\s@]+@", "://", plain).replace(THROW_AWAY_NAME, "the spec")
    return plain if len(plain) <= _EXPLANATION_LIMIT else plain[:_EXPLANATION_LIMIT] + " …"
