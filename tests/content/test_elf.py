"""ELF files: what they need is read, and hostile ones are only not understood."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundler.content.elf import MAX_NAME, Read, read_needs
from bundler.content.system_libraries import file_needs
from tests.content.elf_files import elf_file


def reader(data: bytes) -> Read:
    return lambda offset, length: data[offset : offset + length]


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("order", ["<", ">"])
def test_names_are_read_from_all_word_sizes_and_byte_orders(wide: bool, order: str) -> None:
    data = elf_file(
        ["libgomp.so.1", "libc.so.6"], soname="x.so.2", runpath="$ORIGIN:/opt", wide=wide, order=order
    )
    found = read_needs(reader(data))
    assert found is not None
    assert found.needed == ("libgomp.so.1", "libc.so.6")
    assert (found.soname, found.search) == ("x.so.2", ("$ORIGIN", "/opt"))


def test_a_real_library_is_read() -> None:
    path = next(Path("/lib").resolve().rglob("libm.so.6"))
    found = file_needs(path.resolve())
    assert found is not None
    assert found.soname == "libm.so.6"
    assert "libc.so.6" in found.needed


def test_what_is_no_elf_file_has_no_needs(tmp_path: Path) -> None:
    assert file_needs(Path(__file__)) is None
    assert file_needs(tmp_path) is None
    assert file_needs(tmp_path / "absent") is None
    (tmp_path / "link").symlink_to(sys.executable)
    assert file_needs(tmp_path / "link") is None


def broken() -> Iterator[bytes]:
    good = elf_file(["liba.so.1"])
    for at, form, value in (
        (32, "<Q", 1 << 63),  # program headers far outside
        (54, "<H", 0),  # headers without bytes
        (54, "<H", 65535),
        (56, "<H", 65535),  # more headers than are read
        (64 + 56 + 8, "<Q", 1 << 62),  # the dynamic section far outside
        (64 + 56 + 32, "<Q", 1 << 40),  # a dynamic section of a terabyte
    ):
        yield good[:at] + struct.pack(form, value) + good[at + struct.calcsize(form) :]
    yield elf_file(["x" * (MAX_NAME + 1)])
    yield good[:-1] + b"x"  # the last name has no end
    yield from (good[:length] for length in (4, 16, 52, 63, 64, 120, 180))


@pytest.mark.parametrize("data", list(broken()))
def test_offsets_and_counts_that_make_no_sense_are_refused(data: bytes) -> None:
    found = read_needs(reader(data))
    assert found is None or found.needed == ()


@given(st.binary(max_size=300), st.integers(0, 400))
def test_any_damage_is_survived_with_bounded_reads(noise: bytes, at: int) -> None:
    data = elf_file(["liba.so.1", "libb.so.2"])
    damaged = data[:at] + noise + data[at + len(noise) :]
    asked: list[int] = []

    def read(offset: int, length: int) -> bytes:
        asked.append(length)
        return damaged[offset : offset + length]

    read_needs(read)
    assert max(asked) <= 4096 * 256
