"""Room on disks: real file systems where the machine has them, written mount tables for the rest."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundler.errors import ExitCode
from bundler.storage.disk_space import (
    MountNeed,
    check_space,
    existing_folder,
    file_system,
    free_bytes,
    mount_findings,
    partial_bytes,
    present_files,
)
from bundler.storage.mount_table import Mount, parse_mount_table

GIB = 1 << 30


def mount_table(folder: Path, kind: str, options: str = "rw") -> Path:
    """A mountinfo that says `folder` is a mount of `kind`."""
    table = folder.parent / f"{folder.name}.mountinfo"
    escaped = str(folder).replace("\\", "\\134").replace(" ", "\\040")
    table.write_text(
        "22 27 0:21 / / rw,relatime - ext4 /dev/root rw\n"
        f"40 22 8:1 / {escaped} {options},relatime shared:1 master:2 - {kind} /dev/sdb1 rw\n"
    )
    return table


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A folder that stands for a disk; its name has a space, which mountinfo escapes."""
    folder = tmp_path / "my disk"
    folder.mkdir()
    return folder


def references(root: Path, files: dict[str, int], table: Path) -> list[str]:
    return [finding.reference for finding in check_space(root, files, mountinfo=table).findings]


def test_a_target_that_does_not_exist_is_judged_by_the_folder_above_it(tmp_path: Path) -> None:
    assert existing_folder(tmp_path / "a/b/c") == tmp_path.resolve()
    assert free_bytes(tmp_path / "a/b/c") > 0
    assert not (tmp_path / "a").exists()


def test_a_link_is_followed_to_the_disk_the_bytes_would_go_to(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert existing_folder(tmp_path / "link/below") == (tmp_path / "real").resolve()


def test_the_real_file_system_is_named_and_agrees_with_statvfs(tmp_path: Path) -> None:
    system = file_system(tmp_path)
    assert system.kind not in ("", "unknown")
    assert tmp_path.resolve().is_relative_to(system.mount_point)
    assert system.free <= os.statvfs(tmp_path).f_blocks * system.block
    assert not system.read_only


def test_files_that_fit_give_no_errors(disk: Path) -> None:
    report = check_space(disk, {"a/b": 10, "c": 5000}, mountinfo=mount_table(disk, "ext4"))
    assert report.findings == ()
    assert len(report.mounts) == 1
    assert report.mounts[0].needed % report.mounts[0].file_system.block == 0
    assert list(disk.iterdir()) == []


def test_more_than_is_free_is_refused_with_both_numbers(disk: Path) -> None:
    report = check_space(disk, {"huge": 1 << 60}, mountinfo=mount_table(disk, "ext4"))
    finding = report.findings[0]
    assert finding.reference == "no-space"
    assert finding.exit_code is ExitCode.MACHINE
    assert finding.expected.startswith(str(1 << 60))
    assert finding.found.startswith(str(report.mounts[0].file_system.free))


def test_bytes_already_begun_are_not_asked_for_again(disk: Path) -> None:
    table = mount_table(disk, "ext4")
    whole = check_space(disk, {"x": 1 << 20}, mountinfo=table).mounts[0].needed
    rest = check_space(disk, {"x": 1 << 20}, begun=1 << 19, mountinfo=table).mounts[0].needed
    assert whole - rest == 1 << 19


@pytest.mark.parametrize("kind", ["vfat", "msdos", "iso9660"])
def test_a_file_of_four_gib_is_refused_where_sizes_have_32_bits(disk: Path, kind: str) -> None:
    table = mount_table(disk, kind)
    assert "file-too-large" not in references(disk, {"x": 4 * GIB - 1}, table)
    assert "file-too-large" in references(disk, {"x": 4 * GIB}, table)


@pytest.mark.parametrize("kind", ["exfat", "ext4", "xfs", "btrfs", "ntfs3", "never-heard-of"])
def test_a_file_of_four_gib_is_fine_elsewhere(disk: Path, kind: str) -> None:
    assert "file-too-large" not in references(disk, {"x": 4 * GIB}, mount_table(disk, kind))


@pytest.mark.parametrize("kind", ["vfat", "exfat", "ntfs3"])
def test_names_windows_file_systems_refuse_are_told_before_fetching(disk: Path, kind: str) -> None:
    assert references(disk, {"a/b:c.txt": 1}, mount_table(disk, kind)) == ["name-refused"]


def test_a_name_longer_than_the_file_system_allows_is_refused(disk: Path) -> None:
    longest = file_system(disk).longest_name
    table = mount_table(disk, "ext4")
    assert references(disk, {"n" * longest: 1}, table) == []
    assert references(disk, {"n" * (longest + 1): 1}, table) == ["name-too-long"]


def test_a_read_only_mount_is_refused(disk: Path) -> None:
    assert references(disk, {"x": 1}, mount_table(disk, "ext4", "ro")) == ["read-only"]


def test_a_memory_file_system_is_a_warning(disk: Path) -> None:
    report = check_space(disk, {"x": 1}, mountinfo=mount_table(disk, "tmpfs"))
    assert [(f.reference, f.severity) for f in report.findings] == [("memory-file-system", "warning")]


@pytest.mark.parametrize(("free_files", "expected"), [(2, ["no-inodes"]), (3, []), (None, [])])
def test_files_are_counted_where_the_file_system_counts_them(
    disk: Path, free_files: int | None, expected: list[str]
) -> None:
    system = replace(file_system(disk, mountinfo=mount_table(disk, "ext4")), free_files=free_files)
    need = MountNeed(file_system=system, folder=str(disk), files={"a": 0, "b": 0, "c": 0})
    assert [finding.reference for finding in mount_findings(need)] == expected


def test_nothing_to_write_has_nothing_against_it(disk: Path) -> None:
    assert references(disk, {}, mount_table(disk, "vfat", "ro")) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere: run the tests as an ordinary user")
def test_a_folder_that_may_not_be_written_is_refused(disk: Path) -> None:
    disk.chmod(0o500)
    assert references(disk, {"x": 1}, mount_table(disk, "ext4")) == ["no-permission"]


def test_the_last_mount_on_a_point_counts(disk: Path) -> None:
    table = mount_table(disk, "vfat")
    table.write_text(table.read_text() + mount_table(disk, "xfs").read_text())
    assert file_system(disk, mountinfo=table).kind == "xfs"


def test_a_neighbour_with_the_same_beginning_is_another_place(tmp_path: Path) -> None:
    for name in ("disk", "disk2"):
        (tmp_path / name).mkdir()
    assert file_system(tmp_path / "disk2", mountinfo=mount_table(tmp_path / "disk", "vfat")).kind == "ext4"


def test_without_a_mount_table_the_kind_is_unknown(disk: Path) -> None:
    system = file_system(disk, mountinfo=disk / "absent")
    assert (system.kind, system.mount_point) == ("unknown", "/")


def test_only_regular_files_of_the_right_size_count_as_here(tmp_path: Path) -> None:
    (tmp_path / "right").write_bytes(b"1234")
    (tmp_path / "short").write_bytes(b"1")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("right")
    wanted = dict.fromkeys(("right", "short", "folder", "link", "absent", "right/below"), 4)
    assert present_files(tmp_path, wanted) == {"right"}


def test_partial_files_count_with_what_they_have(tmp_path: Path) -> None:
    assert partial_bytes(tmp_path) == 0
    (tmp_path / "partial").mkdir()
    (tmp_path / "partial/a.part").write_bytes(b"12345")
    (tmp_path / "partial/b.bad").write_bytes(b"12345")
    assert partial_bytes(tmp_path) == 5


@given(st.binary(max_size=400))
def test_no_mount_table_is_too_odd_to_read(data: bytes) -> None:
    line = b"40 22 8:1 / /mnt/a\\040b ro,relatime shared:1 - iso9660 /dev/sr0 ro\n"

    assert Mount("/mnt/a b", "iso9660", True) in parse_mount_table(data + b"\n" + line)


@pytest.fixture
def memory_disk() -> Iterator[Path]:
    """A folder on another file system than the tests' own: Linux's shared memory."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or file_system(shared).kind != "tmpfs":
        pytest.skip("needs a second file system: `mount -t tmpfs tmpfs /dev/shm`")
    folder = shared / f"space-test-{os.getpid()}"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def test_files_are_judged_on_the_mount_they_would_land_on(tmp_path: Path, memory_disk: Path) -> None:
    root = tmp_path / "bundle"
    root.mkdir()
    (root / "elsewhere").symlink_to(memory_disk)
    if root.stat().st_dev == memory_disk.stat().st_dev:
        pytest.skip("TMPDIR lies on the same file system as /dev/shm")
    report = check_space(root, {"here": 10, "elsewhere/x": 20, "elsewhere/y": 30})
    needs = {mount.file_system.kind: sorted(mount.files) for mount in report.mounts}
    assert needs.pop("tmpfs") == ["elsewhere/x", "elsewhere/y"]
    assert list(needs.values()) == [["here"]]


@pytest.mark.slow
def test_a_real_fat_disk_is_recognised(tmp_path: Path) -> None:
    if shutil.which("mkfs.vfat") is None or shutil.which("mount") is None:
        pytest.skip("apt-get install dosfstools mount")
    image, disk = tmp_path / "fat.img", tmp_path / "fat"
    disk.mkdir()
    with image.open("wb") as file:
        file.truncate(8 << 20)
    subprocess.run(["mkfs.vfat", str(image)], check=True, capture_output=True)
    mounted = subprocess.run(["mount", "-o", "loop", str(image), str(disk)], check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip(f"loop mounts are not possible here: {mounted.stderr.decode().strip()}")
    try:
        found = check_space(disk, {"a": 4 * GIB, "b:c": 1})
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert [finding.reference for finding in found.findings] == ["no-space", "file-too-large", "name-refused"]
    assert found.mounts[0].file_system.mount_point == str(disk.resolve())
