"""What the wheels of one engine would do to an environment: judged before anything is unpacked."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from bundler.content.wheels.installed_files import installed_findings, installed_path
from bundler.content.wheels.lock_file import WheelFile, WheelLock
from bundler.core.specs.target import Target
from bundler.errors import ExitCode, Finding
from tests.wheel_files import wheel


def judged(folder: Path, *contents: dict[str, bytes]) -> list[Finding]:
    """The findings of one engine made of projects `a`, `b`, … with these files."""
    files = []
    for project, members in zip("abcd", contents, strict=False):
        name, data = wheel(project, "1.0", files=members)
        (folder / name).write_bytes(data)
        files.append(WheelFile(project, "1.0", name, len(data), hashlib.sha256(data).hexdigest()))
    target = Target(python="3.12", platform="linux/amd64", glibc="2.28")
    return installed_findings(WheelLock("e", "vllm", "a", "1.0", "cpu", target, tuple(files)), folder, "lock")


def told(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(item.reference, item.severity) for item in findings]


def entry(project: str, text: str) -> dict[str, bytes]:
    return {f"{project}/__init__.py": b"", f"{project}-1.0.dist-info/entry_points.txt": text.encode()}


INTERPRETERS = ["python", "python3", "python3.12", "python3.13t", "Python", "pythonw", "pypy3", "python.exe"]
ACTIVATION = ["activate", "activate.csh", "activate_this.py"]


@pytest.mark.parametrize("name", [*INTERPRETERS, *ACTIVATION])
def test_a_script_named_as_the_environments_own_is_refused(tmp_path: Path, name: str) -> None:
    expected = [("wheel-replaces-environment", "error")]

    assert told(judged(tmp_path, {f"a-1.0.data/scripts/{name}": b"#!python\n"})) == expected
    assert told(judged(tmp_path, {f"a-1.0.data/data/bin/{name}": b"x"})) == expected
    for group in ("console_scripts", "gui_scripts"):
        assert told(judged(tmp_path, entry("a", f"[{group}]\n{name} = a:main\n"))) == expected


@pytest.mark.parametrize("name", ["pyvenv.cfg", "sealift-install.json", "lib64", "bin"])
def test_a_data_file_over_the_environments_settings_is_refused(tmp_path: Path, name: str) -> None:
    findings = judged(tmp_path, {f"a-1.0.data/data/{name}": b"home = /elsewhere\n"})

    assert told(findings) == [("wheel-replaces-environment", "error")]
    assert findings[0].found == name


@pytest.mark.parametrize("name", ["pip", "python-config", "pythonic", "torchrun", "activate-global-complete"])
def test_other_scripts_are_a_packages_own(tmp_path: Path, name: str) -> None:
    assert judged(tmp_path, {f"a-1.0.data/scripts/{name}": b"#!python\n"}) == []
    assert judged(tmp_path, entry("a", f"[console_scripts]\n{name} = a:main\n")) == []


SITE = "lib/python3.12/site-packages"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x/y.py", "x/y.py"),
        ("x/y.py", "b-1.0.data/purelib/x/y.py"),
        ("a-1.0.data/platlib/x.so", "x.so"),
        ("x/y.py", f"b-1.0.data/data/{SITE}/x/y.py"),
        ("a-1.0.data/scripts/tool", "b-1.0.data/scripts/tool"),
        ("a-1.0.data/scripts/tool", "b-1.0.data/data/bin/tool"),
        ("x", "x/y.py"),
        ("x/y.py", "b-1.0.data/purelib/x"),
    ],
)
def test_two_wheels_that_write_one_file_differently_are_refused(tmp_path: Path, one: str, other: str) -> None:
    findings = judged(tmp_path, {one: b"1"}, {other: b"2"})

    assert told(findings) == [("wheels-write-one-file", "error")]
    assert findings[0].exit_code is ExitCode.MALFORMED
    assert "a-1.0-py3-none-any.whl" in findings[0].found
    assert "b-1.0-py3-none-any.whl" in findings[0].found


def test_the_same_bytes_from_two_wheels_are_usual(tmp_path: Path) -> None:
    shared = {"nvidia/__init__.py": b""}

    assert judged(tmp_path, {**shared, "nvidia/one.py": b"1"}, {**shared, "nvidia/two.py": b"2"}) == []


def test_names_that_differ_in_case_are_different_files(tmp_path: Path) -> None:
    assert judged(tmp_path, {"x/Y.py": b"1"}, {"x/y.py": b"2"}) == []


def test_an_entry_point_that_two_wheels_declare_is_a_warning(tmp_path: Path) -> None:
    one, other = entry("a", "[console_scripts]\nx = a:main\n"), entry("b", "[console_scripts]\nx = b:main\n")

    assert told(judged(tmp_path, one, other)) == [("wheels-write-one-file", "warning")]


def test_an_entry_point_over_a_script_of_another_wheel_is_refused(tmp_path: Path) -> None:
    findings = judged(
        tmp_path, entry("a", "[console_scripts]\nx = a:main\n"), {"b-1.0.data/scripts/x": b"#!python\n"}
    )

    assert told(findings) == [("wheels-write-one-file", "error")]


@pytest.mark.parametrize(
    "text",
    [
        "[console_scripts]\n../x = a:main\n",
        "[console_scripts]\nx/y = a:main\n",
        "[gui_scripts]\n/x = a:main\n",
        "[console_scripts]\n.. = a:main\n",
        "[console_scripts]\n= a:main\n",
        "[console_scripts]\nx\x1b[1m = a:main\n",
        "[console_scripts]\nx = a\n",
        "[console_scripts]\nx = a b c\n",
        "[console_scripts]\nx = a:main # why\n",
        "[console_scripts]\nx =\n  a:main\n",
        "[console_scripts]\nx = a:main\nx = a:other\n",
        "[other]\nno value\n",
        "no section\n",
    ],
)
def test_entry_points_that_an_installer_refuses_are_refused(tmp_path: Path, text: str) -> None:
    assert told(judged(tmp_path, entry("a", text))) == [("bad-wheel", "error")]


@pytest.mark.parametrize("target", ["a:main", "a : main", "a.b:c.d", "a:main [extra]", "a:main[x,y]"])
def test_entry_points_that_an_installer_takes_are_taken(tmp_path: Path, target: str) -> None:
    assert judged(tmp_path, entry("a", f"[console_scripts]\nx = {target}\n[other]\ny = a\n")) == []


@pytest.mark.parametrize(
    "name", ["../x.py", "a-1.0.data/data/../../x", "a-1.0.data/scripts/../python", "/etc/x"]
)
def test_a_path_that_leaves_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    assert ("unsafe-member", "error") in told(judged(tmp_path, {name: b"x"}))


def test_members_land_by_their_scheme() -> None:
    def landed(name: str) -> str:
        return installed_path(name, "some-project", "3.12")

    assert landed("a/b.py") == f"{SITE}/a/b.py"
    assert landed("a-1.data/platlib/b.so") == f"{SITE}/b.so"
    assert landed("a-1.data/scripts/run") == "bin/run"
    assert landed("a-1.data/data/share/x") == "share/x"
    assert landed("a-1.data/headers/x.h") == "include/site/python3.12/some-project/x.h"
