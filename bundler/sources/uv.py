"""uv as the resolver: which program, which default index, which environment, and what its failures mean.

uv is called as a program with `--no-config`: nothing of the machine's configuration reaches a lock but the
address of the default index, which is looked up where uv itself would look.
https://docs.astral.sh/uv/reference/settings/, https://docs.astral.sh/uv/concepts/configuration-files/
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bundler.core.target import Target
from bundler.errors import MachineError, MalformedError

PUBLIC_INDEX = "https://pypi.org/simple"
_PASSED_ON = (
    *("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "XDG_CACHE_HOME", "NETRC"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "SSL_CLIENT_CERT"),
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
            hint="python -m pip install --force-reinstall uv",
        ) from None


def resolver_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What of `environ` uv may see: proxies, certificates, its cache, credentials of named indexes."""
    named = {name: value for name, value in environ.items() if _NAMED_CREDENTIAL.fullmatch(name)}
    return {name: environ[name] for name in _PASSED_ON if name in environ} | named


_NAMED_CREDENTIAL = re.compile(r"UV_INDEX_[A-Z0-9_]+_(USERNAME|PASSWORD)")


def default_index(environ: Mapping[str, str]) -> str:
    """The address of the default index: environment, then the user's and the system's uv.toml, then PyPI.

    A project's own `uv.toml` is not looked at: it belongs to another project. Raises MalformedError
    (`bad-uv-config`).
    """
    named = environ.get("UV_DEFAULT_INDEX", "")
    if named:
        return _NAME_IN_FRONT.sub("", named)
    if environ.get("UV_INDEX_URL"):
        return environ["UV_INDEX_URL"]
    for path in _config_files(environ):
        found = _index_in(path)
        if found:
            return found
    return PUBLIC_INDEX


_NAME_IN_FRONT = re.compile(r"^[A-Za-z0-9._-]+=(?=\S+://|/)")
"""`UV_DEFAULT_INDEX` may be `name=url`."""


def _config_files(environ: Mapping[str, str]) -> Iterator[Path]:
    if environ.get("UV_NO_CONFIG"):
        return
    if environ.get("UV_CONFIG_FILE"):
        yield Path(environ["UV_CONFIG_FILE"])
        return
    home = environ.get("XDG_CONFIG_HOME") or (f"{environ['HOME']}/.config" if environ.get("HOME") else "")
    if home:
        yield Path(home, "uv/uv.toml")
    for folder in (environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":"):
        yield Path(folder, "uv/uv.toml")
    yield Path("/etc/uv/uv.toml")


def _index_in(path: Path) -> str:
    """The default index a uv.toml names; empty when there is none."""
    try:
        value = tomllib.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return ""
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MalformedError(
            "bad-uv-config", "uv's configuration cannot be read", where=str(path), found=str(error)
        ) from None
    indexes = value.get("index", [])
    chosen = [item for item in indexes if isinstance(item, dict) and item.get("default") is True]
    candidates: list[Any] = [item.get("url") for item in chosen]
    candidates += [value.get("index-url"), value.get("pip", {}).get("index-url")]
    return next((text for text in candidates if isinstance(text, str) and text), "")


class UvFailure(Exception):
    """uv said no. `explanation` is what it wrote, trimmed; `whole` is all of it."""

    def __init__(self, explanation: str, whole: str) -> None:
        super().__init__(explanation)
        self.explanation = explanation
        self.whole = whole


def compile_project(
    folder: Path,
    target: Target,
    *,
    index: str,
    exclude_newer: str | None,
    not_excluded: Sequence[str],
    environ: Mapping[str, str],
) -> str:
    """The text of the `pylock.toml` for the project in `folder`, resolved for `target`.

    Only wheels: uv builds nothing and runs nothing but this Python, to ask its version. `folder` holds
    `pyproject.toml` and `overrides.txt`. `not_excluded` are projects that `exclude_newer` does not concern.
    Raises UvFailure.
    """
    lock = folder / "pylock.toml"
    arguments = ["pip", "compile", "pyproject.toml", "--no-config", "--format", "pylock.toml"]
    arguments += ["--output-file", lock.name, "--overrides", "overrides.txt", "--no-header", "--no-annotate"]
    arguments += ["--python", sys.executable, "--no-python-downloads", "--only-binary", ":all:"]
    arguments += ["--python-version", target.python, "--python-platform", target.uv_platform]
    arguments += ["--default-index", index, "--no-progress", "--color", "never", "--quiet"]
    if exclude_newer is not None:
        arguments += ["--exclude-newer", exclude_newer]
        for project in not_excluded:
            arguments += ["--exclude-newer-package", f"{project}=false"]
    run_uv(arguments, folder, resolver_environment(environ))
    return lock.read_text("utf-8")


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
