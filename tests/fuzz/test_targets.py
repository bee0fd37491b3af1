"""No bytes make a parser do anything but accept them or refuse them in our own words."""

from __future__ import annotations

import os
import random
import subprocess
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scripts.fuzz.mutation import KINDS, TOKENS, VALUES, Edit, random_edits, variant
from scripts.fuzz.targets import TARGETS, Broken, Target, examine
from tests.wheel_files import packed

EXAMPLES = 100
"""For each target; the deeper run has no such limit."""
DEEP_SECONDS = 60.0
"""For all targets together."""
FIRST_NUMBER = 20261125 if os.environ.get("CI") else random.SystemRandom().randrange(1 << 32)
"""What chance begins with: the same in CI, so that what lands does not hang on luck; new at a run by hand."""
EDITS = st.lists(
    st.builds(
        Edit,
        kind=st.sampled_from(KINDS),
        place=st.integers(0, (1 << 16) - 1),
        length=st.sampled_from((1, 2, 4, 8, 64)),
        token=st.sampled_from(TOKENS) | st.binary(max_size=8),
        value=st.integers(0, len(VALUES) - 1),
    ),
    max_size=5,
)
ONCE_BROKEN = {
    "a manifest without files was a traceback": (
        "manifest",
        b'{"type":"urn:sealift:manifest:v1","channel":"c","serial":1}',
    ),
    "an entry nested deeply was a traceback": ("journal", b'{"sum":"0","entry":' + b"[" * 5000 + b"\n"),
    "a number of 5000 digits was a traceback": ("pylock", b"lock-version = " + b"9" * 5000),
    "a size of 5000 digits was a traceback": ("record", b"pkg/__init__.py,sha256=AAAA," + b"9" * 5000),
    "a path of 20 kB was repeated whole": ("record", b"x" * 20_000 + b",sha256=AAAA,1"),
    "a member for a reader of the future was accepted": (
        "wheel",
        packed({"a": b""}).replace(b"PK\x01\x02\x14\x03\x14", b"PK\x01\x02\x14\x03\x54"),
    ),
    "a time after the year 9999 was a traceback": ("state", b'{"lastSignedTime":99999999999999}'),
    "a time before the year 1 was a traceback": ("state", b'{"lastSignedTime":"0001-01-01T00:00:00+23:59"}'),
    "the year 33 did not round trip": ("state", b'{"lastSignedTime":"0033-01-01T00:00:00Z"}'),
    "an address that is none was a traceback": ("index-page", b'<a href="//[">x</a>'),
    "a channel of 5000 letters was repeated whole": (
        "state",
        b'{"last":{"' + b"c" * 5000 + b'":{"member":1}}}',
    ),
    "markup that is none was a traceback": ("index-page", b"<![ase href=x>"),
}
"""What fuzzing found once."""


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_good_documents_are_accepted_and_round_trip(target: Target) -> None:
    seeds = target.seeds()
    assert seeds
    assert all(examine(target, seed) for seed in seeds)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_no_variant_of_a_good_document_breaks_its_parser(target: Target) -> None:
    seeds = target.seeds()

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.sampled_from(seeds), EDITS, st.sampled_from(seeds))
    def no_variant(seed: bytes, edits: list[Edit], other: bytes) -> None:
        examine(target, variant(seed, edits, other))

    no_variant()


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_bytes_of_no_form_are_refused_or_empty(target: Target) -> None:
    for data in (b"", b"\0", b"\xff\xfe", b"{", b"[" * 100_000, b'"' * 10_000, b"9" * 20_000, b"{}", b"[]"):
        examine(target, data)


@pytest.mark.parametrize(("name", "data"), ONCE_BROKEN.values(), ids=ONCE_BROKEN)
def test_what_fuzzing_found_once_stays_repaired(name: str, data: bytes) -> None:
    examine(TARGETS[name], data)


def test_a_parser_that_raises_something_else_ends_the_run() -> None:
    def faulty(data: bytes) -> None:
        raise KeyError("files")

    with pytest.raises(KeyError):
        examine(Target(name="x", check=faulty, seeds=list), b"")


def test_a_parser_that_takes_too_much_ends_the_run() -> None:
    def greedy(data: bytes) -> None:
        assert len(bytearray(64 << 20))

    def slow(data: bytes) -> None:
        until = time.process_time() + 2.1
        while time.process_time() < until:
            pass

    for check in (greedy, slow):
        with pytest.raises(Broken, match=r"memory|processor time"):
            examine(Target(name="x", check=check, seeds=list), b"")


def test_edits_change_a_document_and_never_make_it_huge() -> None:
    source, seed = random.Random(7), b'{"a": [1, {"b": "c"}]}'
    made = {variant(seed, random_edits(source), seed) for _ in range(300)}
    assert len(made) > 200
    assert max(map(len, made)) <= 1 << 20


@pytest.mark.slow
def test_no_parser_breaks_in_a_minute_of_chance() -> None:
    share = DEEP_SECONDS / len(TARGETS)
    for target in TARGETS.values():
        source, seeds = random.Random(FIRST_NUMBER), target.seeds()
        end = time.monotonic() + share
        while time.monotonic() < end:
            data = variant(source.choice(seeds), random_edits(source), source.choice(seeds))
            try:
                examine(target, data, measured=False)
            except Exception as error:
                error.add_note(f"{target.name}, began with {FIRST_NUMBER}: {data[:2000]!r}")
                raise


def test_the_long_run_by_hand_lists_its_targets_and_runs_one(pytestconfig: pytest.Config) -> None:
    run = [str(pytestconfig.rootpath / "scripts" / "fuzz" / "run")]
    listed = subprocess.run(run, capture_output=True, text=True, check=False)
    assert listed.returncode == 2
    assert listed.stdout.splitlines()[1] == "targets: " + " ".join(TARGETS)
    once = [*run, "state", "1", str(FIRST_NUMBER)]
    done = subprocess.run(once, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"begins with the number {FIRST_NUMBER}" in done.stderr
