"""Options of the verbs that talk to the world: how long to keep trying, and how fast to fetch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import click

from bundler.core.units import format_bytes, format_seconds, parse_duration, parse_size
from bundler.errors import UsageError

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """How a verb uses the network. `lasting` is in seconds, `rate` in bytes a second."""

    lasting: float = 0.0
    rate: int | None = None

    @contextmanager
    def opened(self, say: Callable[[str], None]) -> Iterator[None]:
        """Within this block sources follow these choices, and `say` is told whenever one of them waits."""
        from bundler.sources.pace import limited
        from bundler.sources.retry import standing
        from bundler.sources.surroundings import connected

        if self.lasting:
            say(f"trying again for up to {format_seconds(self.lasting)} whenever nothing arrives")
        if self.rate is not None:
            say(f"fetching at most {format_bytes(self.rate)} a second")
        with connected(), limited(self.rate), standing(note=say, lasting=self.lasting):
            yield


def connection_options(command: Command) -> Command:
    """Add `--retry-for` and `--limit-rate`; the command gets a `connection`."""

    @click.option(
        "--retry-for",
        metavar="TIME",
        help="Keep trying for this long while nothing arrives (2h, 90m, 30s). [default: a few tries]",
    )
    @click.option(
        "--limit-rate",
        metavar="RATE",
        help="Fetch at most this much a second, all files together (50MB/s, 20MiB).",
    )
    @functools.wraps(command)
    def with_connection(*given: Any, retry_for: str | None, limit_rate: str | None, **named: Any) -> Any:
        connection = Connection(
            lasting=parse_duration(retry_for) if retry_for else 0.0,
            rate=_rate(limit_rate) if limit_rate else None,
        )
        return command(*given, connection=connection, **named)

    return cast(Command, with_connection)


def _rate(text: str) -> int:
    """Bytes a second from `50MB/s` or `50MB`. Raises UsageError (`bad-size`, `bad-rate`)."""
    rate = parse_size(text.strip().removesuffix("/s"))
    if rate < 1024:
        raise UsageError(
            "bad-rate",
            "the rate is too low to fetch anything",
            where="--limit-rate",
            expected="at least 1KiB/s",
            found=text[:40],
            hint="write for example --limit-rate 50MB/s",
        )
    return rate
