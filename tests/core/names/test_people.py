"""Names of people: what may stand in them, and which two a reader takes for one."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundler.core.names.confusables import PROTOTYPES, UNICODE_VERSION
from bundler.core.names.people import (
    MAX_NAME,
    fold_name,
    look_alike_keys,
    look_alikes,
    name_fault,
    skeleton,
    text_fault,
)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param("paul", "р\u0430ul", id="cyrillic letters"),
        pytest.param("Alice", "\u0391lice", id="a greek capital"),
        pytest.param("Max", "\u039cax", id="a greek capital that folds to another letter"),
        pytest.param("Boris", "\u0412oris", id="a cyrillic capital"),
        pytest.param("Bob", "B0b", id="zero for o"),
        pytest.param("Alice", "A1ice", id="one for l"),
        pytest.param("Alice", "AIice", id="capital i for l"),
        pytest.param("sam", "sarn", id="rn for m"),
        pytest.param("fin", "\ufb01n", id="a ligature"),
        pytest.param("Ann", "A\u034fnn", id="a joiner that is not shown"),
        pytest.param("Ann", "A\u200bnn", id="a space without width"),
        pytest.param("José", "Jose\u0301", id="a combining accent"),
        pytest.param("ida", "\u0131da", id="a dotless i"),
        pytest.param("ida", "i\u0307da", id="an i with a second dot"),
        pytest.param("Ann Abel", "ann  ABEL", id="case and spaces"),
        pytest.param("Ann Abel", "Ann\u00a0Abel", id="a space that does not break"),
        pytest.param("Ann", "\U0001d400nn", id="a mathematical letter"),
        pytest.param("Straße", "STRASSE", id="a letter whose capital has two"),
    ],
)
def test_names_that_print_alike_are_found(one: str, other: str) -> None:
    assert list(look_alikes([one, other])) == [(one, other)]
    assert look_alike_keys(one) & look_alike_keys(other)


def test_names_that_people_tell_apart_are_not_taken_for_one() -> None:
    people = ["Ann Abel", "Anna Abel", "Ben Blau", "Müller", "Muller", "王芳", "Ольга", "Παύλος", "Cy"]
    people += [f"owner-{number}" for number in range(40)]
    assert list(look_alikes(people)) == []
    assert list(look_alikes(["Ann", "Ann"])) == []


@pytest.mark.parametrize("character", [*"\x00\x1b\x7f\x9b\u200d\u202e\u2028\ufeff"])
def test_control_and_format_characters_are_no_text(character: str) -> None:
    assert f"U+{ord(character):04X}" in text_fault(f"a{character}b")
    assert name_fault(f"a{character}b")


@pytest.mark.parametrize("name", ["", " ", "\u3000", "\u3164", "\u034f"])
def test_a_name_that_shows_nothing_is_refused(name: str) -> None:
    assert name_fault(name) == "it is empty"


def test_a_name_has_a_bound() -> None:
    assert name_fault("a" * MAX_NAME) == ""
    assert name_fault("a" * (MAX_NAME + 1))


@given(st.text(max_size=20))
def test_folding_again_changes_nothing(name: str) -> None:
    assert fold_name(fold_name(name)) == fold_name(name)


def test_the_table_is_the_whole_one_of_its_version() -> None:
    assert UNICODE_VERSION == "17.0.0"
    assert len(PROTOTYPES.split()) > 6000
    assert skeleton("\u0430") == "a"
    assert skeleton("m") == "rn"
    assert unicodedata.normalize("NFD", skeleton("ﬁ")) == "fi"
