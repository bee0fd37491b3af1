"""Targets: the tags and markers of another machine, compared with what packaging says of this one."""

from __future__ import annotations

import platform
import sys
from typing import cast

import pytest
from packaging.markers import Marker, default_environment
from packaging.tags import parse_tag, sys_tags

from bundler.core.specs.target import Target, needed_glibc


def target(python: str = "3.12", glibc: str = "2.31", machine: str = "linux/amd64") -> Target:
    return Target(python=python, platform=machine, glibc=glibc)


@pytest.mark.parametrize(
    ("tag", "accepted"),
    [
        ("cp312-cp312-manylinux_2_31_x86_64", True),
        ("cp312-cp312-manylinux2014_x86_64", True),
        ("cp38-abi3-manylinux_2_28_x86_64", True),
        ("py3-none-any", True),
        ("py2.py3-none-any", True),
        ("cp312-none-linux_x86_64", True),
        ("cp312-cp312-manylinux_2_32_x86_64", False),
        ("cp312-cp312-manylinux_2_28_aarch64", False),
        ("cp311-cp311-manylinux_2_28_x86_64", False),
        ("cp313-abi3-manylinux_2_28_x86_64", False),
        ("cp312-cp312t-manylinux_2_28_x86_64", False),
        ("cp312-cp312-musllinux_1_2_x86_64", False),
        ("cp312-cp312-win_amd64", False),
    ],
)
def test_tags_fit_or_not(tag: str, accepted: bool) -> None:
    assert target().accepts(parse_tag(tag)) is accepted


@pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="needs Linux with glibc"
)
def test_this_machine_described_as_a_target_accepts_what_packaging_accepts() -> None:
    machine = {"x86_64": "linux/amd64", "aarch64": "linux/arm64"}[platform.machine()]
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    own = target(version, ".".join(platform.libc_ver()[1].split(".")[:2]), machine)

    assert set(own.tags) == set(sys_tags())


def test_markers_are_the_targets() -> None:
    environment = cast("dict[str, str]", target(machine="linux/arm64").environment)

    assert environment.keys() == default_environment().keys()
    assert Marker("platform_machine == 'aarch64' and python_version == '3.12'").evaluate(environment)
    assert not Marker("sys_platform == 'win32' or python_full_version < '3.12'").evaluate(environment)


@pytest.mark.parametrize(
    ("glibc", "expected"),
    [
        ("2.31", "manylinux_2_31"),
        ("2.30", "manylinux_2_28"),
        ("2.26", "manylinux_2_17"),
        ("2.99", "manylinux_2_40"),
    ],
)
def test_uv_is_never_told_of_more_glibc_than_there_is(glibc: str, expected: str) -> None:
    assert target(glibc=glibc).uv_platform == f"x86_64-{expected}"


def test_the_needed_glibc_is_the_smallest_that_suits() -> None:
    assert needed_glibc(parse_tag("cp312-cp312-manylinux_2_34_x86_64.manylinux_2_28_x86_64")) == 28
    assert needed_glibc(parse_tag("cp312-cp312-manylinux2014_x86_64")) == 17
    assert needed_glibc(parse_tag("py3-none-any")) is None
