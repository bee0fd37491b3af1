"""Sizes and durations as people write and read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundler.core.units import format_bytes, format_seconds, parse_duration, parse_size
from bundler.errors import UsageError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("12", 12),
        ("12B", 12),
        ("700GB", 700 * 10**9),
        ("700 gb", 700 * 10**9),
        ("650GiB", 650 * 2**30),
        ("1.5TB", 1_500_000_000_000),
        ("0.1KiB", 102),
        (" 2PB ", 2 * 10**15),
        ("1.000000000000000001EB", None),
        ("", None),
        ("GB", None),
        ("-1GB", None),
        ("1,5GB", None),
        ("1 G B", None),
        ("1e3", None),
        ("١GB", None),
    ],
)
def test_sizes_are_read_or_refused(text: str, size: int | None) -> None:
    if size is not None:
        assert parse_size(text) == size
        return
    with pytest.raises(UsageError) as caught:
        parse_size(text)
    assert caught.value.reference == "bad-size"
    assert repr(text) in caught.value.findings[0].found


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 KB"),
        (9_995, "10.0 KB"),
        (16_400_000, "16.4 MB"),
        (999_499_999, "999 MB"),
        (999_500_000, "1.00 GB"),
        (1_029_000_000_000, "1.03 TB"),
        (2 * 10**18, "2000 PB"),
    ],
)
def test_sizes_are_shown_with_three_digits(count: int, text: str) -> None:
    assert format_bytes(count) == text


@given(st.integers(0, 10**17))
def test_what_is_shown_can_be_read_back_within_half_a_percent(count: int) -> None:
    assert abs(parse_size(format_bytes(count)) - count) <= count * 0.0051


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.85, "850 ms"),
        (12.34, "12.3 s"),
        (0.9996, "1.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (245, "4 min 05 s"),
        (3599.6, "1 h 00 min"),
        (7620, "2 h 07 min"),
    ],
)
def test_durations_are_shown_in_two_units(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2h", 7200), ("90m", 5400), ("1h30m", 5400), ("45s", 45), ("45", 45), ("1h 5s", 3605), ("2H", 7200)],
)
def test_lengths_of_time_are_read(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "2d", "-5", "1.5h", "soon", "5s2h", "9" * 50])
def test_other_lengths_of_time_are_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_duration(text)
    assert caught.value.reference == "bad-duration"
