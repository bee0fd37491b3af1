"""What was accepted is remembered, kept twice, and never goes back."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundler.core.manifest import Manifest
from bundler.core.timestamps import format_instant, parse_instant
from bundler.errors import AuthenticityError, MalformedError, UsageError
from bundler.trust.perimeter.state import (
    MOST_AHEAD,
    Release,
    State,
    ahead_findings,
    effective_time,
    merged,
    rememberable,
)
from bundler.trust.perimeter.state_files import (
    DEFAULT_STATE,
    SECOND_COPY,
    OpenedState,
    StateFiles,
    paper_digest,
)
from bundler.trust.policy import TrustPolicy
from tests.vectors.trust import CHANNEL, SERIAL, Case, dump, good_policy, sha256

DIGESTS = st.text("0123456789abcdef", min_size=64, max_size=64)
SERIALS = st.integers(0, 2**53 - 1)
RELEASES = st.builds(Release, serial=SERIALS, manifest=DIGESTS)
STATES = st.builds(
    State,
    policy_version=st.integers(1, 100),
    policy_sha256=DIGESTS,
    serials=st.dictionaries(st.text(max_size=4), SERIALS, max_size=3),
    last=st.dictionaries(st.text(max_size=4), RELEASES, max_size=3),
    newest_time=st.none() | st.integers(0, 4_000_000_000),
    before=st.just("") | DIGESTS,
)
POLICY = dump(good_policy())
POLICY_SHA256 = sha256(POLICY)
NEW = State(policy_version=3, policy_sha256=POLICY_SHA256, serials={"c": 5})


def files(folder: Path, count: int = 2) -> StateFiles:
    """State files in folders of their own, not there yet."""
    return StateFiles(paths=tuple(folder / str(number) / "state.json" for number in range(count)))


def write(where: StateFiles, opened: OpenedState, state: State) -> bool:
    """Make `state` the newest one."""
    return where.advance(opened, lambda before: state)


def put(where: StateFiles, *contents: bytes | None) -> None:
    """Write the files; None leaves one away."""
    for path, data in zip(where.paths, contents, strict=True):
        path.parent.mkdir(exist_ok=True)
        if data is not None:
            path.write_bytes(data)


@given(STATES)
def test_a_state_round_trips(state: State) -> None:
    assert State.parse(state.to_bytes()) == state


@given(st.binary(max_size=80))
def test_no_bytes_make_the_state_parser_fail_otherwise(data: bytes) -> None:
    with pytest.raises(MalformedError):
        State.parse(b"x" + data)


@given(STATES, STATES, st.integers(0, 40), st.sampled_from(["", "a", CHANNEL]))
def test_a_merged_state_refuses_what_any_of_them_refuses(
    one: State, other: State, serial: int, channel: str
) -> None:
    case = Case(serial=serial, channel=channel or "x")
    manifest = Manifest.parse(case.manifest)
    both = merged([one, other])
    for state in (one, other):
        if any(item.reference == "serial-rollback" for item in state.release_findings(manifest)):
            assert both.release_findings(manifest)
        assert both.policy_version >= state.policy_version


@given(STATES, SERIALS)
@settings(max_examples=50)
def test_advancing_never_goes_back(state: State, serial: int) -> None:
    case = Case(serial=serial)
    manifest, policy = Manifest.parse(case.manifest), TrustPolicy.parse(POLICY)
    after = state.advanced(policy, manifest, 5)
    assert after.policy_version == max(3, state.policy_version)
    assert after.floor(CHANNEL) == max(serial, state.floor(CHANNEL))
    assert after.newest_time is not None
    assert after.newest_time >= (state.newest_time or 0)
    assert all(after.floor(channel) >= state.floor(channel) for channel in state.serials)


def test_rollback_errors_say_what_was_expected_and_what_was_found() -> None:
    case = Case()
    manifest = Manifest.parse(case.manifest)
    state = State(last={CHANNEL: Release(serial=SERIAL, manifest="e" * 64)}, serials={CHANNEL: SERIAL})
    (finding,) = state.release_findings(manifest)
    assert (finding.expected, finding.found) == (f"sha256:{'e' * 64}", f"sha256:{sha256(case.manifest)}")
    state = State(serials={CHANNEL: 99})
    (finding,) = state.release_findings(manifest)
    assert (finding.reference, finding.expected, finding.found) == ("serial-rollback", "99 or later", "17")
    state = State(policy_version=4, policy_sha256="d" * 64)
    (finding,) = state.policy_findings(TrustPolicy.parse(POLICY))
    assert (finding.expected, finding.found) == ("version 4 or later", "version 3")


def test_members_of_a_later_version_are_kept() -> None:
    state = State.parse(b'{"future":{"a":1}}').advanced(TrustPolicy.parse(POLICY))
    assert json.loads(state.to_bytes())["future"] == {"a": 1}


@pytest.mark.parametrize("clock", [0, 10, 2**40])
def test_the_clock_is_never_proof_that_something_is_still_valid(clock: int) -> None:
    assert effective_time(clock, None, 1_800_000_000) == max(clock, 1_800_000_000)
    assert effective_time(clock) == clock


@given(st.integers(0, 250_000_000_000))
def test_instants_round_trip(seconds: int) -> None:
    assert parse_instant(format_instant(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-05-01T12:00:00+02:00", 1777629600),
        ("2026-05-01T10:00:00.999Z", 1777629600),
        ("2026-05-01t10:00:00z", 1777629600),
        ("2016-12-31T23:59:60Z", 1483228799),
        ("2026-02-30T00:00:00Z", None),
        ("2026-05-01", None),
        ("2026-05-01T10:00:00", None),
        ("٢٠٢٦-05-01T10:00:00Z", None),
        (5, None),
        (None, None),
    ],
)
def test_only_rfc_3339_is_an_instant(text: object, seconds: int | None) -> None:
    assert parse_instant(text) == seconds


def test_the_hosts_state_is_kept_twice_and_a_named_one_once() -> None:
    assert StateFiles.of(None).paths == (DEFAULT_STATE, SECOND_COPY)
    assert DEFAULT_STATE.parent != SECOND_COPY.parent
    assert StateFiles.of(Path("x")).paths == (Path("x"),)


def test_a_state_is_written_twice_privately_and_read_back(tmp_path: Path) -> None:
    where = files(tmp_path)
    opened = where.open(POLICY_SHA256, f"sha256:{POLICY_SHA256}")
    assert opened.state.first_use
    write(where, opened, NEW)
    assert [stat.S_IMODE(path.stat().st_mode) for path in where.paths] == [0o600, 0o600]
    assert where.paths[0].read_bytes() == where.paths[1].read_bytes()
    assert [path.name for path in where.paths[0].parent.iterdir()] == ["state.json"]
    assert where.open(POLICY_SHA256).state.serials == {"c": 5}


def test_an_empty_object_is_a_first_use(tmp_path: Path) -> None:
    where = files(tmp_path, 1)
    put(where, b"{}")
    assert where.open(POLICY_SHA256).state.first_use


def test_a_state_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AuthenticityError) as caught:
        files(tmp_path).open(POLICY_SHA256)
    assert caught.value.reference == "state-missing"
    assert "--trust-on-first-use sha256:" in caught.value.findings[0].hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("gone", [0, 1])
def test_a_lost_copy_is_noticed(tmp_path: Path, gone: int) -> None:
    where = files(tmp_path)
    put(where, NEW.to_bytes(), NEW.to_bytes())
    where.paths[gone].unlink()
    with pytest.raises(AuthenticityError) as caught:
        where.open(POLICY_SHA256)
    assert caught.value.reference == "state-lost"
    assert caught.value.findings[0].where == str(where.paths[gone])


@pytest.mark.parametrize("edited", [0, 1])
def test_an_edited_copy_is_noticed(tmp_path: Path, edited: int) -> None:
    where = files(tmp_path)
    contents = [NEW.to_bytes(), NEW.to_bytes()]
    contents[edited] = State(policy_version=3, policy_sha256=POLICY_SHA256, serials={"c": 4}).to_bytes()
    put(where, *contents)
    with pytest.raises(AuthenticityError) as caught:
        where.open(POLICY_SHA256)
    assert caught.value.reference == "state-edited"
    assert [path.read_bytes() for path in where.paths] == contents


def test_the_typed_digest_begins_anew_from_what_is_left(tmp_path: Path) -> None:
    where = files(tmp_path)
    put(where, b"garbage", NEW.to_bytes())
    with pytest.raises(MalformedError):
        where.open(POLICY_SHA256)
    opened = where.open(POLICY_SHA256, f"sha256:{POLICY_SHA256.upper()}")
    assert opened.state.serials == {"c": 5}


def test_another_typed_digest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AuthenticityError) as caught:
        files(tmp_path).open(POLICY_SHA256, "sha256:" + "0" * 64)
    assert caught.value.reference == "first-use-digest"
    assert caught.value.findings[0].expected == "sha256:" + "0" * 64
    with pytest.raises(UsageError):
        files(tmp_path).open(POLICY_SHA256, "yes")


def test_a_write_cut_off_between_the_copies_is_completed_by_the_next(tmp_path: Path) -> None:
    where = files(tmp_path)
    old = State(policy_version=2, policy_sha256="d" * 64)
    put(where, old.to_bytes(), old.to_bytes())
    opened = where.open(POLICY_SHA256)
    write(where, opened, NEW)
    newer = where.paths[1].read_bytes()
    assert json.loads(newer)["before"] == hashlib.sha256(old.to_bytes()).hexdigest()
    put(where, old.to_bytes(), newer)
    assert where.open(POLICY_SHA256).state.serials == {"c": 5}


def test_a_main_file_set_back_to_yesterdays_does_not_set_the_state_back(tmp_path: Path) -> None:
    where = files(tmp_path)
    put(where, b"{}", b"{}")
    write(where, where.open(POLICY_SHA256), NEW)
    yesterday = where.paths[0].read_bytes()
    write(
        where,
        where.open(POLICY_SHA256),
        State(policy_version=3, policy_sha256=POLICY_SHA256, serials={"c": 9}),
    )
    where.paths[0].write_bytes(yesterday)
    assert where.open(POLICY_SHA256).state.serials == {"c": 9}


def accepting(serial: int, manifest: str = "ab" * 32) -> State:
    """The state after serial `serial` of the channel c."""
    release = Release(serial=serial, manifest=manifest)
    return State(policy_version=3, policy_sha256=POLICY_SHA256, serials={"c": serial}, last={"c": release})


def test_what_another_process_wrote_meanwhile_is_kept(tmp_path: Path) -> None:
    where = files(tmp_path, 1)
    put(where, b"{}")
    opened = where.open(POLICY_SHA256)
    put(where, NEW.to_bytes())
    policy = TrustPolicy.parse(POLICY)
    other = Manifest.parse(Case(channel="other").manifest)
    assert where.advance(opened, lambda state: state.advanced(policy, other))
    assert where.open(POLICY_SHA256).state.serials == {"c": 5, "other": SERIAL}


def test_nothing_new_writes_nothing(tmp_path: Path) -> None:
    where = files(tmp_path)
    put(where, NEW.to_bytes(), NEW.to_bytes())
    before = [path.stat().st_mtime_ns for path in where.paths]
    assert write(where, where.open(POLICY_SHA256), NEW) is False
    assert [path.stat().st_mtime_ns for path in where.paths] == before


def test_a_newer_state_of_another_process_refuses_what_was_verified(tmp_path: Path) -> None:
    where = files(tmp_path, 1)
    put(where, b"{}")
    opened = where.open(POLICY_SHA256)
    manifest = Manifest.parse(Case(channel="c", serial=7).manifest)
    put(where, accepting(8).to_bytes())
    before = where.paths[0].read_bytes()
    policy = TrustPolicy.parse(POLICY)
    with pytest.raises(AuthenticityError) as caught:
        where.advance(
            opened,
            lambda state: state.advanced(policy, manifest),
            lambda state: state.findings(policy, manifest),
        )
    assert caught.value.reference == "serial-rollback"
    assert where.paths[0].read_bytes() == before


GROUPED = " ".join(POLICY_SHA256[at : at + 4] for at in range(0, 64, 4))


@pytest.mark.parametrize(
    "typed",
    [
        POLICY_SHA256,
        f"sha256:{POLICY_SHA256}",
        POLICY_SHA256.upper(),
        f"SHA256:{POLICY_SHA256}",
        GROUPED,
        f"sha256: {GROUPED.upper()}",
        GROUPED.replace(" ", "-"),
        f" {GROUPED}\n",
    ],
    # The policy has fresh keys: a digest in the name of a test would differ between processes.
    ids=["plain", "prefix", "upper", "upper prefix", "groups", "prefix and groups", "dashes", "spaces"],
)
def test_a_digest_from_paper_is_read_as_people_write_it(typed: str) -> None:
    assert paper_digest(typed) == POLICY_SHA256


@pytest.mark.parametrize(
    "typed",
    ["", "sha256:", POLICY_SHA256[:-1], POLICY_SHA256 + "0", "sha512:" + POLICY_SHA256],
    ids=["empty", "prefix alone", "too short", "too long", "another algorithm"],
)
def test_another_text_is_no_digest_from_paper(typed: str) -> None:
    with pytest.raises(UsageError):
        paper_digest(typed)


def test_the_hosts_own_state_asks_for_the_paper_when_it_is_blank(tmp_path: Path) -> None:
    paths = files(tmp_path).paths
    where = StateFiles(paths=paths, asks_for_paper=True)
    put(where, b"{}", b"{}")
    with pytest.raises(AuthenticityError) as caught:
        where.open(POLICY_SHA256)
    assert caught.value.reference == "state-missing"
    assert where.open(POLICY_SHA256, POLICY_SHA256).state.first_use
    assert StateFiles.of(None).asks_for_paper
    assert not StateFiles.of(paths[0]).asks_for_paper


@pytest.mark.parametrize(
    ("counted", "expected"),
    [(None, None), (50, 50), (100 + MOST_AHEAD, 100 + MOST_AHEAD), (10**10, 100 + MOST_AHEAD)],
)
def test_no_time_is_remembered_more_than_a_day_beyond_the_clock(
    counted: int | None, expected: int | None
) -> None:
    assert rememberable(counted, 100) == expected


def test_a_remembered_time_far_ahead_is_reported() -> None:
    assert ahead_findings(State(newest_time=100 + MOST_AHEAD), 100) == ()
    (finding,) = ahead_findings(State(newest_time=101 + MOST_AHEAD), 100)
    assert (finding.reference, finding.severity) == ("state-time-ahead", "warning")
    assert "sealift trust reset-time" in finding.hint
