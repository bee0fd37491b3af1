"""What this perimeter has already accepted: the memory that makes going back impossible.

format.md section 7. Values only; the files are `trust.state_files`. The clock is never proof that something
is still valid: `effective_time` never lies before the newest authenticated time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from bundler.core import strict_json
from bundler.core.digest import is_sha256_hex
from bundler.core.manifest import MANIFEST_NAME, Manifest
from bundler.core.timestamps import format_instant, is_instant, parse_instant
from bundler.errors import ExitCode, Finding, MalformedError
from bundler.trust.dsse import check_shape
from bundler.trust.policy_document import TrustPolicy

_SHAPE = {
    "policy?": {"version": int, "sha256": str},
    "serials?": dict,
    "last?": dict,
    "lastSignedTime?": (str, int, type(None)),
    "before?": str,
    "chunkLists?": [str],
}
CHUNK_LISTS = 64
"""Manifests whose chunk list is remembered, the newest: more than a host keeps bundles."""
MOST_AHEAD = 24 * 3600
"""Seconds that a remembered time may lie beyond the clock: a signer's clock may be wrong by a day at most."""
_LAST_SHAPE = {"serial": int, "manifest": str}


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A manifest that was accepted under a serial."""

    serial: int
    manifest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The newest policy, the highest serial of each channel, the last release of each, the newest time.

    `newest_time` is in seconds since 1970 UTC. `unknown` are members of a later version, kept as they are.
    `before` is the SHA-256 of the state this one replaced: it tells an interrupted write from an edit.
    `chunk_lists` names manifests whose chunk list agreed with their file digests (format.md section 4).
    """

    policy_version: int = 0
    policy_sha256: str = ""
    serials: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    last: Mapping[str, Release] = field(default_factory=lambda: MappingProxyType({}))
    newest_time: int | None = None
    before: str = ""
    chunk_lists: tuple[str, ...] = ()
    unknown: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def parse(cls, data: bytes, *, where: str = "state") -> State:
        """The state that `data` says; an empty object is a first use. Raises MalformedError (`bad-state`)."""
        value = strict_json.loads(data, limit=strict_json.POLICY_LIMIT, where=where)
        if not isinstance(value, dict):
            raise _bad(where, "an object", value)
        known = {name: value[name] for name in value if f"{name}?" in _SHAPE}
        check_shape(known, _SHAPE, where=where, reference="bad-state")
        policy = known.get("policy", {})
        if policy and (policy["version"] < 1 or not is_sha256_hex(policy["sha256"])):
            raise _bad(f"{where}: policy", "a version >= 1 and a SHA-256", policy)
        return cls(
            policy_version=policy.get("version", 0),
            policy_sha256=policy.get("sha256", ""),
            serials=_parse_serials(known.get("serials", {}), where),
            last=_parse_last(known.get("last", {}), where),
            newest_time=_parse_time(known.get("lastSignedTime"), where),
            before=known.get("before", ""),
            chunk_lists=_parse_chunk_lists(known.get("chunkLists", []), where),
            unknown={name: value[name] for name in value if name not in known},
        )

    def to_bytes(self) -> bytes:
        """The bytes written to the state file."""
        value: dict[str, Any] = dict(self.unknown)
        if self.policy_version:
            value["policy"] = {"version": self.policy_version, "sha256": self.policy_sha256}
        value["serials"] = dict(self.serials)
        value["last"] = {
            channel: {"serial": release.serial, "manifest": release.manifest}
            for channel, release in self.last.items()
        }
        if self.newest_time is not None:
            value["lastSignedTime"] = format_instant(self.newest_time)
        if self.before:
            value["before"] = self.before
        if self.chunk_lists:
            value["chunkLists"] = list(self.chunk_lists)
        return strict_json.dumps(value) + b"\n"

    @property
    def first_use(self) -> bool:
        """Whether nothing was ever accepted."""
        return not (self.policy_version or self.serials or self.last)

    def findings(self, policy: TrustPolicy, manifest: Manifest) -> tuple[Finding, ...]:
        """Everything that goes back behind this state: `policy_findings` and `release_findings`."""
        return (
            *self.policy_findings(policy),
            *self.release_findings(manifest),
        )

    def policy_findings(self, policy: TrustPolicy) -> tuple[Finding, ...]:
        """`policy-rollback`: an older policy; `policy-equivocation`: another one of the same version."""
        if policy.version < self.policy_version:
            what = "the policy is older than the one this perimeter already used"
            wanted = f"version {self.policy_version} or later"
            return (
                _finding("policy-rollback", what, "policy: version", wanted, f"version {policy.version}"),
            )
        if policy.version == self.policy_version and policy.sha256 != self.policy_sha256:
            what = "the policy differs from the one this perimeter used under the same version"
            where = f"policy: version {policy.version}"
            wanted, got = f"sha256:{self.policy_sha256}", f"sha256:{policy.sha256}"
            return (_finding("policy-equivocation", what, where, wanted, got),)
        return ()

    def release_findings(self, manifest: Manifest) -> tuple[Finding, ...]:
        """`serial-rollback`: an older serial; `equivocation`: another manifest under an accepted serial."""
        where = f"{MANIFEST_NAME}: serial, channel {manifest.channel}"
        floor = self.floor(manifest.channel)
        if manifest.serial < floor:
            what = "the bundle is older than one this perimeter already accepted"
            found = str(manifest.serial)
            return (_finding("serial-rollback", what, where, f"{floor} or later", found),)
        last = self.last.get(manifest.channel)
        if last and last.serial == manifest.serial and last.manifest != manifest.sha256:
            what = "another manifest was already accepted under this serial"
            wanted, got = f"sha256:{last.manifest}", f"sha256:{manifest.sha256}"
            return (_finding("equivocation", what, where, wanted, got),)
        return ()

    def floor(self, channel: str) -> int:
        """The lowest serial still accepted in `channel`."""
        last = self.last.get(channel)
        return max(self.serials.get(channel, 0), last.serial if last else 0)

    def advanced(
        self,
        policy: TrustPolicy,
        manifest: Manifest | None = None,
        newest_time: int | None = None,
    ) -> State:
        """The state after accepting this policy and, when given, this release. Never goes back.

        `newest_time` is one that may be remembered: see `rememberable`.
        """
        times = [time for time in (self.newest_time, newest_time) if time is not None]
        state = replace(self, newest_time=max(times, default=None))
        if policy.version > self.policy_version:
            state = replace(state, policy_version=policy.version, policy_sha256=policy.sha256)
        if manifest is None or manifest.serial < self.floor(manifest.channel):
            return state
        release = Release(serial=manifest.serial, manifest=manifest.sha256)
        return replace(
            state,
            serials={**self.serials, manifest.channel: manifest.serial},
            last={**self.last, manifest.channel: release},
        )

    def noting_chunk_list(self, manifest_sha256: str) -> State:
        """The state that also knows that this manifest's chunk list may be used alone."""
        if manifest_sha256 in self.chunk_lists:
            return self
        return replace(self, chunk_lists=(*self.chunk_lists[1 - CHUNK_LISTS :], manifest_sha256))


def merged(states: Iterable[State]) -> State:
    """The strictest of several states: what any of them refuses is refused."""
    total = State()
    for state in states:
        newer = state.policy_version > total.policy_version
        times = [time for time in (total.newest_time, state.newest_time) if time is not None]
        channels = {*total.last, *state.last}
        total = State(
            policy_version=state.policy_version if newer else total.policy_version,
            policy_sha256=state.policy_sha256 if newer else total.policy_sha256,
            serials={
                channel: max(total.serials.get(channel, 0), state.serials.get(channel, 0))
                for channel in {*total.serials, *state.serials}
            },
            last={channel: _later(total.last.get(channel), state.last.get(channel)) for channel in channels},
            newest_time=max(times, default=None),
            unknown={**state.unknown, **total.unknown},
        )
    return total


def _later(one: Release | None, other: Release | None) -> Release:
    found = [release for release in (one, other) if release is not None]
    return max(found, key=lambda release: release.serial)


def effective_time(clock: int, *authenticated: int | None) -> int:
    """Seconds since 1970 UTC: the clock, but never earlier than a time that was authenticated.

    A clock set back cannot make an expired thing valid again; one set forward only expires more.
    """
    return max([clock, *(time for time in authenticated if time is not None)])


def rememberable(counted: int | None, clock: int) -> int | None:
    """The newest time of counted statements, but at most a day beyond the clock.

    Else one signer with a wrong clock could make everything expire in this perimeter, for ever.
    """
    return None if counted is None else min(counted, clock + MOST_AHEAD)


def ahead_findings(state: State, clock: int) -> tuple[Finding, ...]:
    """`state-time-ahead`, a warning: the remembered time lies further ahead than any verify writes it."""
    if state.newest_time is None or state.newest_time <= clock + MOST_AHEAD:
        return ()
    return (
        Finding(
            "state-time-ahead",
            "the state remembers a time that lies ahead of the clock: things may expire too early",
            where="state: lastSignedTime",
            expected=f"at most a day after the clock, {format_instant(clock)}",
            found=format_instant(state.newest_time),
            hint="set the clock; if it is right: `sealift trust reset-time --trust-on-first-use DIGEST`",
            severity="warning",
            exit_code=ExitCode.AUTHENTICITY,
        ),
    )


def _parse_serials(value: Mapping[str, Any], where: str) -> dict[str, int]:
    for channel, serial in value.items():
        if type(serial) is not int or serial < 0:
            raise _bad(f"{where}: serials.{channel}", "an integer >= 0", serial)
    return dict(value)


def _parse_chunk_lists(value: list[str], where: str) -> tuple[str, ...]:
    for digest in value:
        if not is_sha256_hex(digest):
            raise _bad(f"{where}: chunkLists", "SHA-256 digests of manifests", digest)
    return tuple(value)


def _parse_last(value: Mapping[str, Any], where: str) -> dict[str, Release]:
    found: dict[str, Release] = {}
    for channel, item in value.items():
        place = f"{where}: last.{channel}"
        check_shape(item, _LAST_SHAPE, where=place, reference="bad-state")
        if item["serial"] < 0 or not is_sha256_hex(item["manifest"]):
            raise _bad(place, "a serial >= 0 and a SHA-256", item)
        found[channel] = Release(serial=item["serial"], manifest=item["manifest"])
    return found


def _parse_time(value: str | int | None, where: str) -> int | None:
    time = value if isinstance(value, int) else parse_instant(value)
    if value is not None and (time is None or not is_instant(time)):
        raise _bad(f"{where}: lastSignedTime", "an RFC 3339 time", value)
    return time


def _bad(where: str, expected: str, found: object) -> MalformedError:
    return MalformedError(
        "bad-state",
        "the state is not valid",
        where=where,
        expected=expected,
        found=repr(found)[:200],
        hint="put it back from a backup, or begin anew: --trust-on-first-use sha256:<policy digest>",
    )


def _finding(reference: str, what: str, where: str, expected: str, found: str) -> Finding:
    return Finding(
        reference,
        what,
        where=where,
        expected=expected,
        found=found,
        hint="ask the release engineer which bundle and policy are current; do not edit the state",
        exit_code=ExitCode.AUTHENTICITY,
    )
