"""sealift's own wheel: the same bytes each time, a right wheel, and it installs."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import bundler
from bundler import __version__
from bundler.content.wheels.wheel import check_wheel
from bundler.sources.wheels.own_wheel import own_wheel
from bundler.sources.wheels.uv import find_uv


def test_it_is_the_same_each_time_and_a_right_wheel(tmp_path: Path) -> None:
    name, data = own_wheel()
    (tmp_path / name).write_bytes(data)

    assert own_wheel() == (name, data)
    assert name == f"sealift-{__version__}-py3-none-any.whl"
    assert check_wheel(tmp_path / name) == []


def test_it_holds_the_running_package_and_nothing_that_is_not_it() -> None:
    with zipfile.ZipFile(io.BytesIO(own_wheel()[1])) as archive:
        names = archive.namelist()
        root = Path(bundler.__file__).parent
        for path in root.rglob("*.py"):
            member = f"bundler/{path.relative_to(root).as_posix()}"
            assert archive.read(member) == path.read_bytes()

    assert "bundler/py.typed" in names
    assert f"sealift-{__version__}.dist-info/entry_points.txt" in names
    for unwanted in ("__pycache__", ".pyc", "direct_url.json", "INSTALLER", "REQUESTED", "tests/"):
        assert not [name for name in names if unwanted in name]


def test_it_holds_the_licence_as_the_tree_has_it() -> None:
    text = (Path(bundler.__file__).parents[1] / "LICENSE").read_text()
    with zipfile.ZipFile(io.BytesIO(own_wheel()[1])) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/licenses/LICENSE")]
        assert wheel.read(name).decode() == text
        metadata = wheel.read(name.replace("licenses/LICENSE", "METADATA")).decode()
    assert "License-Expression: Apache-2.0\nLicense-File: LICENSE\n" in metadata


def test_it_does_not_depend_on_this_machine() -> None:
    with zipfile.ZipFile(io.BytesIO(own_wheel()[1])) as archive:
        for member in archive.infolist():
            assert member.date_time == (1980, 1, 1, 0, 0, 0)
            assert member.external_attr >> 16 == 0o100644
            assert member.compress_type == zipfile.ZIP_STORED
        assert str(Path(bundler.__file__).parents[1]).encode() not in b"".join(
            archive.read(name) for name in archive.namelist() if ".dist-info/" in name
        )


@pytest.mark.slow
def test_a_clean_environment_runs_it_and_makes_the_same_wheel_again(tmp_path: Path) -> None:
    name, data = own_wheel()
    (tmp_path / name).write_bytes(data)
    uv, python = find_uv(), str(tmp_path / "venv/bin/python")
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(tmp_path / "venv")], check=True)
    done = subprocess.run(
        [uv, "pip", "install", "--quiet", "--python", python, str(tmp_path / name)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0 and "No solution" not in done.stderr:
        pytest.skip(f"no package index here: {done.stderr[:200]}")
    assert done.returncode == 0, done.stderr

    sealift = tmp_path / "venv/bin/sealift"
    shown = subprocess.run(
        [str(sealift), "--version"], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    code = (
        "import sys; from bundler.sources.wheels.own_wheel import own_wheel; "
        "sys.stdout.buffer.write(own_wheel()[1])"
    )
    again = subprocess.run([python, "-I", "-c", code], capture_output=True, check=True, cwd=tmp_path)

    assert __version__ in shown.stdout
    assert again.stdout == data
