"""Bundle paths: the rules of format.md section 1."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundler.core.paths import (
    collision_key,
    parse_bundle_path,
    path_fault,
    path_set_findings,
)
from bundler.errors import ExitCode, MalformedError

GOOD = [
    "README.md",
    "payload/models/models--org--name/snapshots/c0ffee/.gitattributes",
    "payload/wheels/simple/vllm/index.html",
    "payload/a:b",
    "payload/caf\u00e9",
    "payload/" + "x" * 200,
    "a b/c",
    "payload/.hidden",
    "payload/attestations/x",
    "payload/.git/x",
    "con2/x",
    "console",
    "x/com",
]
BAD = {
    "": "it is empty",
    "/etc/passwd": "it is absolute",
    "//x": "it is absolute",
    "a\\b": "it holds a backslash",
    "C:/x": "its first component holds a colon",
    "a//b": "it has a component ''",
    "a/": "it has a component ''",
    ".": "it has a component '.'",
    "..": "it has a component '..'",
    "a/../b": "it has a component '..'",
    "a/./b": "it has a component '.'",
    "a\x00b": "U+0000",
    "a\nb": "U+000A",
    "a\x7fb": "U+007F",
    "a\u200db": "U+200D",
    "a\u202eb": "U+202E",
    "a\u00adb": "U+00AD",
    "cafe\u0301": "it is not in Unicode normal form C",
    "a.": "a component ends in a dot or a space",
    "a /b": "a component ends in a dot or a space",
    "x/nul": "reserved name on Windows",
    "x/NUL.tar.gz": "reserved name on Windows",
    "x/com1.txt": "reserved name on Windows",
    "x/con .txt": "reserved name on Windows",
    "x/LPT\u00b9": "reserved name on Windows",
    ".git/config": "its first component starts with .git",
    ".GitHub/x": "its first component starts with .git",
    ".gitattributes": "its first component starts with .git",
    "attestations/x": "its first component is `attestations`",
    "Attestations": "its first component is `attestations`",
    "x" * 201: "more than 200 bytes",
    "\u00e9" * 101: "more than 200 bytes",
    "/".join(["x" * 100] * 11): "at most 1024",
    "a\ud800": "it holds a lone surrogate",
}


@pytest.mark.parametrize("path", GOOD)
def test_a_good_path_is_itself(path: str) -> None:
    assert parse_bundle_path(path) == path


@pytest.mark.parametrize("path", BAD, ids=ascii)
def test_a_bad_path_is_refused_and_its_rule_named(path: str) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_bundle_path(path, where="files[3].path")
    (finding,) = caught.value.findings
    assert (finding.reference, finding.where) == ("bad-path", "files[3].path")
    assert BAD[path] in finding.what


@pytest.mark.parametrize("value", [None, 1, b"a", ["a"]])
def test_what_is_no_text_is_no_path(value: object) -> None:
    assert path_fault(value) == "it is not text"


@given(st.text(max_size=40))
def test_a_path_that_is_accepted_stays_below_the_root_on_every_system(path: str) -> None:
    if path_fault(path):
        return
    components = path.split("/")
    assert not path.startswith("/")
    assert "\\" not in path
    assert not {"", ".", ".."} & set(components)
    assert unicodedata.is_normalized("NFC", path)
    assert not any(unicodedata.category(character) in ("Cc", "Cf", "Cs") for character in path)
    assert all(len(component.encode()) <= 200 for component in components)


@given(st.text(max_size=20))
def test_folding_for_collisions_is_stable(path: str) -> None:
    key = collision_key(path)
    assert collision_key(path.upper().lower()) in (key, collision_key(path.lower()))
    assert unicodedata.is_normalized("NFKC", key)


@pytest.mark.parametrize(
    ("paths", "reference"),
    [
        (["a", "b"], None),
        (["a/b", "a/c", "d"], None),
        (["a", "a"], "duplicate-path"),
        (["a/File", "a/file"], "path-collision"),
        (["stra\u00dfe", "STRASSE"], "path-collision"),
        (["\ufb01le", "file"], "path-collision"),
        (["Dir/a", "dir/b"], "path-collision"),
        (["a", "a/b"], "path-collision"),
        (["A", "a/b"], "path-collision"),
        (["x/\u2460", "x/1"], "path-collision"),
    ],
)
def test_paths_that_are_one_file_on_some_system_are_told(paths: list[str], reference: str | None) -> None:
    findings = path_set_findings(paths, where="manifest.json")
    assert {finding.reference for finding in findings} == ({reference} if reference else set())
    assert all(finding.exit_code == ExitCode.MALFORMED for finding in findings)


def test_every_collision_is_told_not_only_the_first() -> None:
    assert len(path_set_findings(["a", "A", "b", "B", "c", "c"])) == 3
