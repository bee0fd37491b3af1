"""The command line of an engine, from a launch entry of the signed manifest and that version's flag table.

Nothing is guessed: an engine version without a table, a flag that is not in it and a value it does not know
are refused before anything starts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bundler.core.launch_profile import LaunchEntry
from bundler.engines.flag_tables import TABLES
from bundler.engines.table import FROM_PROFILE, EngineTable, Flag
from bundler.errors import ExitCode, Finding, PolicyError

DEFAULTS: Mapping[str, str] = {"tensorParallel": "1", "gpuMemoryUtilization": "0.90"}
"""What a profile says when its author said nothing: an engine without that flag loses nothing."""
WITHOUT_FLAG = {
    "servedName": "clients must send the path of the model instead of the served name",
    "contextLength": "the model's own context length applies",
    "toolCallParser": "tool calls are parsed by the model's chat template, or come back as text",
    "reasoningParser": "reasoning is separated by the model's chat template, or stays in the answer",
}
"""Members an engine may lack a flag for, and what follows; any other member is refused then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelToServe:
    """What is known about the verified model that decides flags.

    `path` is the local folder or file to open. `kimi` is whether it is of the Kimi family,
    `safetensors` whether its weights are in that form. `code` are its
    Python files; `unlisted_code` those that the manifest does not list as executable. `checksums` is a file
    with SHA-256 of the model's files, when one will be written.
    """

    path: Path
    kimi: bool
    safetensors: bool = False
    code: tuple[str, ...] = ()
    unlisted_code: tuple[str, ...] = ()
    checksums: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """Arguments for the engine (after interpreter and module), and what a person should know about them."""

    arguments: tuple[str, ...]
    notes: tuple[str, ...]


def find_table(engine: str, distribution: str, version: str) -> EngineTable:
    """The table of `engine` in exactly `version` (a local suffix such as `+cu129` does not count).

    Raises PolicyError (`unknown-engine-version`) that lists the known ones.
    """
    public = version.partition("+")[0]
    name = normalised(distribution)
    for table in TABLES:
        if (table.engine, table.version) == (engine, public) and name in table.distributions:
            return table
    known = sorted(f"{item}=={table.version}" for table in TABLES for item in table.distributions)
    raise PolicyError(
        "unknown-engine-version",
        "there is no flag table for this engine version: its flags would be guessed",
        where=engine,
        expected="one of: " + ", ".join(known),
        found=f"{distribution}=={version}",
        hint="pin one of these in the spec, or ask for a sealift that has a table for it",
    )


def normalised(name: str) -> str:
    """A project name as indexes compare it (PEP 503)."""
    from packaging.utils import canonicalize_name

    return str(canonicalize_name(name))


def render(table: EngineTable, entry: LaunchEntry, model: ModelToServe, *, accept_code: bool) -> Rendered:
    """The arguments that start `entry` on `model`.

    `accept_code` is the operator's acceptance of the model's own code; the signed profile may have accepted
    it already. Raises PolicyError with every finding: `kimi-parsers-missing`, `unknown-parser`,
    `model-code-not-listed`, `profile-not-supported`, and those of `argument_findings`.
    """
    findings = [*_parser_findings(table, entry, model), *_code_findings(entry, model, accept_code)]
    findings += argument_findings(table, entry.arguments)
    values = _values(entry, model, accept_code)
    findings += _member_findings(table, values)
    rendered, absent = _render_members(table, values)
    findings += [_unsupported(table, member) for member in absent if member not in WITHOUT_FLAG]
    if findings:
        raise PolicyError.of(findings)
    notes = [
        f"{table.engine} {table.version} has no flag for it: {WITHOUT_FLAG[member]}" for member in absent
    ]
    notes += _code_notes(values, model)
    return Rendered(arguments=(*rendered, *entry.arguments), notes=tuple(notes))


def profile_findings(entry: LaunchEntry, distribution: str) -> list[Finding]:
    """What a launch would refuse of a profile by itself, before the model's files or a machine are looked at.

    For the connected side: raised there, it costs minutes, not a transfer. Raises PolicyError
    (`unknown-engine-version`) when there is no table to judge by.
    """
    table = find_table(entry.engine, distribution, entry.engine_version)
    unread = ModelToServe(path=Path("/model"), kimi=False)
    values = _values(entry, unread, accept_code=False)
    absent = _render_members(table, values)[1]
    return [
        *_parser_findings(table, entry, unread),
        *argument_findings(table, entry.arguments),
        *_member_findings(table, values),
        *(_unsupported(table, member) for member in absent if member not in WITHOUT_FLAG),
        *environment_findings(table, entry.environment),
    ]


def environment_findings(table: EngineTable, wanted: Mapping[str, str]) -> list[Finding]:
    """Variables of a profile that are not on the engine's list (`environment-refused`)."""
    allowed = {**FROM_PROFILE, **table.environment}
    return [_refused(table, name, allowed) for name in sorted(wanted.keys() - allowed.keys())]


def _refused(table: EngineTable, name: str, allowed: Mapping[str, str]) -> Finding:
    return Finding(
        "environment-refused",
        "the launch profile sets a variable that is not on the engine's list",
        where=f"{table.engine} {table.version}: environment",
        expected="one of: " + ", ".join(sorted(allowed)),
        found=name[:200],
        hint="change `environment` of the launch profile in the spec, and build the bundle again",
        exit_code=ExitCode.POLICY,
    )


def argument_findings(table: EngineTable, arguments: Sequence[str]) -> list[Finding]:
    """What is wrong with a profile's further arguments: `engine-flag-refused` (with the reason),
    `engine-flag-unknown`, `engine-flag-value`, `engine-flag-twice`.
    """
    findings: list[Finding] = []
    seen: set[str] = set()
    waiting = list(arguments)
    while waiting:
        name, has_value, value = waiting.pop(0).partition("=")
        flag = table.flags.get(name) if name else None
        fault = _flag_fault(table, name, flag)
        if fault is not None or flag is None:
            findings += [fault] if fault is not None else []
            # The value of a flag that is refused anyway is not told as a second fault.
            waiting = waiting[1:] if waiting and not waiting[0].startswith("-") else waiting
            continue
        # A word behind a switch is a value that the switch does not take: the engine's parser ends there.
        if not has_value and waiting and not _looks_like_flag(waiting[0]):
            has_value, value = "" if flag.value else " ", waiting.pop(0)
        if _same_setting(table, flag) in seen:
            findings.append(_flag_finding("engine-flag-twice", table, "every flag once", name))
        seen.add(_same_setting(table, flag))
        findings += _value_findings(table, flag, name, value, has_value)
    return findings


def _looks_like_flag(word: str) -> bool:
    return word.startswith("-") and not word[1:2].isdigit()


def _same_setting(table: EngineTable, flag: Flag) -> str:
    """One name for a switch and its opposite: of `--x` and `--no-x` the engine would take the last."""
    positive = "--" + flag.name.removeprefix("--no-")
    return positive if flag.name.startswith("--no-") and positive in table.flags else flag.name


def _flag_fault(table: EngineTable, name: str, flag: Flag | None) -> Finding | None:
    if name in table.refused:
        return _flag_finding("engine-flag-refused", table, "a flag without: " + table.refused[name], name)
    if flag is None:
        expected = "a flag of the table: " + ", ".join(sorted(_free_flags(table)))
        return _flag_finding("engine-flag-unknown", table, expected, name)
    if flag.member:
        expected = f"the profile's own member ({flag.member})"
        return _flag_finding("engine-flag-refused", table, expected, name)
    return None


def _free_flags(table: EngineTable) -> set[str]:
    return {flag.name for flag in table.flags.values() if not flag.member}


def _value_findings(table: EngineTable, flag: Flag, name: str, value: str, joint: str) -> list[Finding]:
    """`joint` is what stood between the flag and its value."""
    if not flag.value:
        found = f"{name}{joint}{value}"
        return [_flag_finding("engine-flag-value", table, "no value", found)] if joint else []
    expected = _expected_value(flag, value)
    if not expected:
        return []
    found = value or "no value"
    return [_flag_finding("engine-flag-value", table, f"{name} with {expected}", found)]


def _expected_value(flag: Flag, value: str) -> str:
    """What the value of a flag must be; empty when it is that."""
    if flag.choices:
        return "" if value in flag.choices else f"one of: {', '.join(flag.choices)}"
    return "" if value and flag.kind.accepts(value) else flag.kind.expected


def _member_findings(table: EngineTable, values: Mapping[str, str | None]) -> list[Finding]:
    """Values of the profile's own members that the engine's parser would refuse (`engine-flag-value`)."""
    findings = []
    for flag in _distinct(table.flags.values()):
        value = values.get(flag.member) if flag.member and flag.value else None
        expected = _expected_value(flag, value) if value and flag.name else ""
        if expected:
            findings.append(
                Finding(
                    "engine-flag-value",
                    "a member of the launch profile has a value that the engine refuses",
                    where=f"{table.engine} {table.version}: {flag.member}",
                    expected=f"{flag.name} with {expected}",
                    found=str(value)[:200],
                    hint=f"change `{flag.member}` in the launch profile of the spec, and build again",
                    exit_code=ExitCode.POLICY,
                )
            )
    return findings


def _flag_finding(reference: str, table: EngineTable, expected: str, found: str) -> Finding:
    return Finding(
        reference,
        "a further argument of the launch profile is refused",
        where=f"{table.engine} {table.version}: arguments",
        expected=expected,
        found=found[:200],
        hint="change `arguments` of the launch profile in the spec, and build the bundle again",
        exit_code=ExitCode.POLICY,
    )


def _parser_findings(table: EngineTable, entry: LaunchEntry, model: ModelToServe) -> list[Finding]:
    """Both Kimi parsers must be set where the engine has them: leaving one out gives malformed tool calls
    under load, which smoke tests do not show.
    """
    given = (("toolCallParser", entry.tool_call_parser), ("reasoningParser", entry.reasoning_parser))
    known = (table.tool_parsers, table.reasoning_parsers)
    findings = []
    for (member, name), names, kimi in zip(given, known, table.kimi_parsers, strict=True):
        where = f"{table.engine} {table.version}: {member}"
        if model.kimi and kimi and name not in kimi:
            findings.append(_parser_finding("kimi-parsers-missing", where, " or ".join(kimi), name or "none"))
        elif name and names and name not in names:
            findings.append(_parser_finding("unknown-parser", where, ", ".join(sorted(names)), name))
    return findings


def _parser_finding(reference: str, where: str, expected: str, found: str) -> Finding:
    what = {
        "kimi-parsers-missing": "a Kimi model needs both of its parsers",
        "unknown-parser": "this engine version has no parser of that name",
    }
    return Finding(
        reference,
        what[reference],
        where=where,
        expected=expected,
        found=found,
        hint="set `toolCallParser` and `reasoningParser` of the launch profile in the spec",
        exit_code=ExitCode.POLICY,
    )


def _code_findings(entry: LaunchEntry, model: ModelToServe, accept_code: bool) -> list[Finding]:
    if not (entry.trust_remote_code or accept_code):
        return []
    return [
        Finding(
            "model-code-not-listed",
            "the model's code may only run when the signed manifest lists it as executable",
            where=path,
            expected="a path in the member `executable` of the model's artifact",
            found="a Python file that is not there",
            hint="build the bundle again with this version of sealift, or launch without accepting the code",
            exit_code=ExitCode.POLICY,
        )
        for path in model.unlisted_code
    ]


def _code_notes(values: Mapping[str, str | None], model: ModelToServe) -> list[str]:
    if values["trustRemoteCode"] is not None:
        return [f"the model's own code runs: {', '.join(model.code)}"]
    if model.code:
        names = ", ".join(model.code)
        return [f"the model carries code that was not accepted and does not run: {names} (`--accept-code`)"]
    return []


def _values(entry: LaunchEntry, model: ModelToServe, accept_code: bool) -> dict[str, str | None]:
    """What each member of a profile says to a flag; None for members that say nothing."""
    accepted = bool(model.code) and (entry.trust_remote_code or accept_code)
    return {
        "model": str(model.path),
        "servedName": entry.served_name,
        "host": entry.host,
        "port": str(entry.port),
        "tensorParallel": str(entry.tensor_parallel),
        "contextLength": str(entry.context_length) if entry.context_length else None,
        "gpuMemoryUtilization": entry.gpu_memory_utilization,
        "toolCallParser": entry.tool_call_parser or None,
        "reasoningParser": entry.reasoning_parser or None,
        "trustRemoteCode": "" if accepted else None,
        "kvCacheDtype": entry.kv_cache_dtype or None,
        "model.format": "safetensors" if model.safetensors else None,
        "model.checksums": str(model.checksums) if model.checksums else None,
        "observability": "",
        "engine": "",
    }


_NEVER_ABSENT = frozenset({"trustRemoteCode", "model.format", "model.checksums", "observability", "engine"})
"""Members that mean nothing to an engine without a flag for them."""


def _render_members(
    table: EngineTable, values: Mapping[str, str | None]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Arguments for all members that say something, in the table's order, and members without a flag."""
    words: list[str] = []
    rendered: set[str] = set()
    for flag in _distinct(table.flags.values()):
        value = values.get(flag.member)
        if not flag.member or value is None:
            continue
        rendered.add(flag.member)
        words += _words(flag, value)
    absent = [
        member
        for member, value in values.items()
        if value is not None
        and member not in rendered
        and member not in _NEVER_ABSENT
        and value != DEFAULTS.get(member)
    ]
    return tuple(words), tuple(absent)


def _distinct(flags: Iterable[Flag]) -> Iterable[Flag]:
    """Each flag once, whatever aliases lead to it."""
    return dict.fromkeys(flags)


def _words(flag: Flag, value: str) -> list[str]:
    if not flag.name:
        return [value]
    if not flag.value:
        return [flag.name]
    # A member `engine` says nothing itself: the table's only choice is what we always set.
    return [flag.name, value or flag.choices[0]]


def _unsupported(table: EngineTable, member: str) -> Finding:
    return Finding(
        "profile-not-supported",
        "the launch profile asks for something this engine version has no flag for",
        where=f"{table.engine} {table.version}: {member}",
        expected="a profile without it",
        found=member,
        hint="change the launch profile in the spec, or take another engine",
        exit_code=ExitCode.POLICY,
    )
