"""Wheels: one reading of the archive, names that stay inside, RECORD that is true, locks that fit."""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundler.content import zip_archive
from bundler.content.wheels.lock_file import parse_requirements, parse_wheel_lock
from bundler.content.wheels.name import parse_wheel_name
from bundler.content.wheels.wheel import check_wheel, check_wheels, has_accelerator
from bundler.errors import ExitCode, Finding, MalformedError, SealiftError
from tests.wheel_files import packed, record_line, wheel, wheel_members, write_wheel

NAME = "pkg-1.0-py3-none-any.whl"


def findings_of(folder: Path, data: bytes, name: str = NAME, *, deep: bool = True) -> list[Finding]:
    (folder / name).write_bytes(data)
    return check_wheel(folder / name, deep=deep)


def references(findings: list[Finding]) -> set[str]:
    return {finding.reference for finding in findings}


def members() -> dict[str, bytes]:
    return wheel_members(
        "pkg", "1.0", files={"pkg/__init__.py": b"x = 1\n" * 5000, "pkg/data.bin": b"y" * 300}
    )


def test_a_right_wheel_has_no_findings(tmp_path: Path) -> None:
    assert findings_of(tmp_path, packed(members())) == []
    assert (
        check_wheel(write_wheel(tmp_path, "other", "2.0+cu129", tags="cp312-cp312-manylinux_2_28_x86_64"))
        == []
    )


def test_an_archive_written_as_a_stream_is_read_as_well(tmp_path: Path) -> None:
    class Pipe:
        def __init__(self, path: Path) -> None:
            self.file = path.open("wb")

        def write(self, data: bytes) -> int:
            return self.file.write(data)

        def flush(self) -> None:
            self.file.flush()

    pipe = Pipe(tmp_path / NAME)
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:  # type: ignore[call-overload]
        for name, data in members().items():
            with archive.open(zipfile.ZipInfo(name), "w", force_zip64=name.endswith(".bin")) as member:
                member.write(data)
    pipe.file.close()

    assert check_wheel(tmp_path / NAME) == []


def test_a_file_changed_inside_is_named_with_both_digests(tmp_path: Path) -> None:
    changed = {**members(), "pkg/__init__.py": b"x = 2\n" * 5000}

    found = findings_of(tmp_path, packed(changed))

    assert [finding.reference for finding in found] == ["record-mismatch"]
    assert found[0].where == f"{NAME}: pkg/__init__.py"
    assert found[0].exit_code == ExitCode.INTEGRITY
    assert found[0].expected.startswith("sha256:")
    assert found[0].expected != found[0].found


def test_without_deep_the_same_size_change_is_not_looked_for(tmp_path: Path) -> None:
    changed = {**members(), "pkg/__init__.py": b"x = 2\n" * 5000}

    assert findings_of(tmp_path, packed(changed), deep=False) == []


RECORD = "pkg-1.0.dist-info/RECORD"


def with_record(change: Callable[[str], str]) -> dict[str, bytes]:
    value = members()
    return {**value, RECORD: change(value[RECORD].decode()).encode()}


@pytest.mark.parametrize(
    ("change", "reference", "severity"),
    [
        (
            lambda text: text.replace(record_line("pkg/data.bin", b"y" * 300), ""),
            "record-incomplete",
            "error",
        ),
        (lambda text: text + "pkg/gone.py,sha256=AAAA,1\n", "record-names-nothing", "warning"),
        (lambda text: text.replace("sha256=", "md5="), "record-weak-digest", "error"),
        (lambda text: text + "pkg/data.bin,sha256=AAAA,300\n", "record-ambiguous", "error"),
        (lambda text: text.replace(",300\n", ",301\n"), "record-mismatch", "error"),
        (lambda text: text + "one,two\n", "bad-record", "error"),
        (lambda text: text + 'a,sha256=A"b,1\n', "bad-record", "error"),
        (lambda text: text + "pkg/x.py,sha256,1\n", "bad-record", "error"),
    ],
    ids=[
        "a file not listed",
        "a listed file not there",
        "weak",
        "twice",
        "size",
        "fields",
        "quotes",
        "no value",
    ],
)
def test_record_must_be_complete_and_strong(
    tmp_path: Path, change: Callable[[str], str], reference: str, severity: str
) -> None:
    found = findings_of(tmp_path, packed(with_record(change)))

    assert reference in references(found)
    assert {finding.severity for finding in found if finding.reference == reference} == {severity}


@pytest.mark.parametrize(
    "name",
    ["../evil.py", "pkg/../../evil.py", "/etc/evil", "pkg\\..\\evil.py", "C:/evil.py", "pkg//x.py", "./x.py"],
)
def test_a_member_that_would_land_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    found = findings_of(tmp_path, packed({**members(), name: b"evil"}))

    assert "unsafe-member" in references(found)


def test_a_null_in_a_name_is_refused_by_its_bytes(tmp_path: Path) -> None:
    data = packed({**members(), "pkg/evilX.py": b"evil"}).replace(b"pkg/evilX.py", b"pkg/evil\0.py")

    assert "unsafe-member" in references(findings_of(tmp_path, data))


def test_a_name_twice_is_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        data = packed([*members().items(), ("pkg/__init__.py", b"second")])

    assert references(findings_of(tmp_path, data)) == {"duplicate-member"}


def test_a_file_that_is_also_a_folder_is_refused(tmp_path: Path) -> None:
    assert "duplicate-member" in references(findings_of(tmp_path, packed({**members(), "pkg": b""})))


@pytest.mark.parametrize("mode", [0o120777, 0o020644, 0o010644], ids=["link", "device", "pipe"])
def test_links_and_devices_are_refused(tmp_path: Path, mode: int) -> None:
    info = zipfile.ZipInfo("pkg/link")
    info.create_system, info.external_attr = 3, mode << 16

    assert references(findings_of(tmp_path, packed([*members().items(), (info, b"/etc/passwd")]))) == {
        "unsafe-member"
    }


@pytest.mark.parametrize(
    ("stated", "name"),
    [
        (("other", "1.0"), NAME),
        (("pkg", "2.0"), NAME),
        (None, "pkg-2.0-py3-none-any.whl"),
        (None, "other-1.0-py3-none-any.whl"),
    ],
    ids=["other project inside", "other version inside", "renamed version", "renamed project"],
)
def test_a_wheel_that_says_it_is_another_is_refused(
    tmp_path: Path, stated: tuple[str, str] | None, name: str
) -> None:
    data = packed(wheel_members("pkg", "1.0", stated=stated))

    assert references(findings_of(tmp_path, data, name)) - {"wheel-tags-differ"} == {"wheel-name-mismatch"}


def test_names_and_versions_are_compared_as_python_compares_them(tmp_path: Path) -> None:
    data = packed(wheel_members("my-pkg", "2024.5.1", stated=("My.Pkg", "2024.05.01")))

    assert findings_of(tmp_path, data, "my_pkg-2024.5.1-py3-none-any.whl") == []


def test_other_tags_inside_are_only_a_note(tmp_path: Path) -> None:
    found = findings_of(tmp_path, packed(members()), "pkg-1.0-cp312-cp312-linux_x86_64.whl")

    assert [(one.reference, one.severity) for one in found] == [("wheel-tags-differ", "note")]


@pytest.mark.parametrize(
    ("change", "reference"),
    [
        (lambda value: {k: v for k, v in value.items() if "dist-info" not in k}, "bad-wheel"),
        (lambda value: {**value, "evil-1.0.dist-info/METADATA": b"x"}, "bad-wheel"),
        (lambda value: {k: v for k, v in value.items() if not k.endswith("/METADATA")}, "bad-wheel"),
        (lambda value: {k: v for k, v in value.items() if not k.endswith("/RECORD")}, "bad-wheel"),
        (lambda value: {**value, "evil-1.0.data/scripts/sh": b"x"}, "unsafe-member"),
        (lambda value: {**value, "pkg-1.0.data/elsewhere/sh": b"x"}, "unsafe-member"),
        (lambda value: {**value, "pkg-1.0.dist-info/WHEEL": b"Wheel-Version: 2.0\n"}, "bad-wheel"),
    ],
    ids=["no dist-info", "two", "no METADATA", "no RECORD", "another's data", "unknown scheme", "format 2"],
)
def test_the_folders_of_a_wheel_must_be_its_own(
    tmp_path: Path, change: Callable[[dict[str, bytes]], dict[str, bytes]], reference: str
) -> None:
    assert reference in references(findings_of(tmp_path, packed(change(members()))))


def _comment(data: bytes) -> bytes:
    return data[:-2] + struct.pack("<H", 4) + b"evil"


def _gap(data: bytes) -> bytes:
    """A byte between the last member and the directory, all offsets right."""
    end = len(data) - 22
    at = struct.unpack_from("<L", data, end + 16)[0]
    return data[:at] + b"\0" + data[at:end] + data[end : end + 16] + struct.pack("<LH", at + 1, 0)


def _local_name(data: bytes) -> bytes:
    return data.replace(b"pkg/data.bin", b"pkg/evil.bin", 1)


def _count(data: bytes) -> bytes:
    end = len(data) - 22
    count = struct.unpack_from("<H", data, end + 8)[0]
    return data[: end + 8] + struct.pack("<HH", count - 1, count - 1) + data[end + 12 :]


def _encrypted(data: bytes) -> bytes:
    at = data.index(b"PK\x01\x02")
    return data[: at + 8] + b"\x01\x00" + data[at + 10 :]


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"#!/bin/sh\n" + data,
        lambda data: data + b"more",
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        _comment,
        _gap,
        _local_name,
        _count,
        _encrypted,
        lambda data: data + data,
    ],
    ids=[
        "bytes before",
        "bytes behind",
        "one byte cut",
        "half of it",
        "a comment",
        "a gap",
        "another name in the local header",
        "a member not counted",
        "encrypted",
        "two archives in one",
    ],
)
def test_an_archive_with_two_readings_is_refused(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    assert references(findings_of(tmp_path, change(packed(members())))) == {"bad-zip"}


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zip_archive, "RATIO_COUNTS_FROM", 1 << 20)

    found = findings_of(tmp_path, packed(wheel_members("pkg", "1.0", files={"pkg/x": bytes(8 << 20)})))

    assert references(found) == {"zip-bomb"}


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_flipped_byte_of_an_archive_goes_unnoticed_or_crashes(data: st.DataObject) -> None:
    whole = packed(wheel_members("pkg", "1.0"))
    at = data.draw(st.integers(0, len(whole) - 1))
    bit = data.draw(st.integers(0, 7))
    changed = whole[:at] + bytes([whole[at] ^ (1 << bit)]) + whole[at + 1 :]
    fd = os.memfd_create("wheel")
    try:
        os.write(fd, changed)
        try:
            members = zip_archive.read_members(fd, "x")
            read = {one.name: b"".join(zip_archive.contents(fd, one, "x")) for one in members}
        except SealiftError:
            return
    finally:
        os.close(fd)
    # Times, versions and attributes of a member do not change what is read.
    assert sorted(read.values()) == sorted(wheel_members("pkg", "1.0").values())


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80))
def test_a_file_name_is_a_wheels_or_refused(text: str) -> None:
    try:
        name = parse_wheel_name(text)
    except MalformedError:
        return
    assert text.endswith(".whl")
    assert "/" not in text
    assert name.project


@pytest.mark.parametrize(
    "name",
    [
        "../a-1-py3-none-any.whl",
        "a-1-py3-none-x/y.whl",
        "a-1.whl",
        "a-1-py3-none-any.zip",
        "a-1-py3-none-any\x07.whl",
    ],
)
def test_a_bad_file_name_is_refused(name: str) -> None:
    with pytest.raises(MalformedError, match="bad-wheel-name"):
        parse_wheel_name(name)


LOCK = """\
lock-version = "1.0"
created-by = "sealift"
[[packages]]
name = "pkg"
version = "1.0"
[[packages.wheels]]
name = "{name}"
path = "../../{name}"
size = {size}
hashes = {{ sha256 = "{sha256}" }}
[tool.sealift]
id = "vllm"
engine = "vllm"
requirement = "pkg==1.0"
version = "1.0"
python = "3.12"
platform = "linux/amd64"
glibc = "2.31"
accelerator = "{accelerator}"
"""


def payload(folder: Path, *, name: str = NAME, accelerator: str = "cpu", data: bytes | None = None) -> Path:
    """A folder with one wheel and its lock files."""
    import hashlib

    content = packed(members()) if data is None else data
    digest = hashlib.sha256(content).hexdigest()
    (folder / "locks/vllm-cp312-x86_64").mkdir(parents=True)
    (folder / name).write_bytes(content)
    text = LOCK.format(name=name, size=len(content), sha256=digest, accelerator=accelerator)
    (folder / "locks/vllm-cp312-x86_64/pylock.toml").write_text(text)
    line = f"pkg==1.0 \\\n    --hash=sha256:{digest}\n"
    (folder / "locks/vllm-cp312-x86_64/requirements.txt").write_text(f"# made\n{line}")
    return folder


def test_a_folder_of_wheels_with_its_locks_has_no_findings(tmp_path: Path) -> None:
    assert check_wheels(payload(tmp_path)) == []


def _delete(folder: Path) -> None:
    (folder / NAME).unlink()


def _extra(folder: Path) -> None:
    write_wheel(folder, "extra", "1")


def _sdist(folder: Path) -> None:
    (folder / "pkg-1.0.tar.gz").write_bytes(b"x")


def _longer(folder: Path) -> None:
    lock = folder / "locks/vllm-cp312-x86_64/pylock.toml"
    lock.write_text(lock.read_text().replace("size = ", "size = 1"))


def _other_pin(folder: Path) -> None:
    text = folder / "locks/vllm-cp312-x86_64/requirements.txt"
    text.write_text(text.read_text().replace("pkg==1.0", "pkg==1.1"))


def _no_hash(folder: Path) -> None:
    (folder / "locks/vllm-cp312-x86_64/requirements.txt").write_text("pkg==1.0\n")


def _index(folder: Path) -> None:
    text = folder / "locks/vllm-cp312-x86_64/requirements.txt"
    text.write_text("--index-url https://evil/simple\n" + text.read_text())


def _url(folder: Path) -> None:
    lock = folder / "locks/vllm-cp312-x86_64/pylock.toml"
    lock.write_text(lock.read_text().replace('path = "../../', 'url = "https://evil/'))


def _upwards(folder: Path) -> None:
    lock = folder / "locks/vllm-cp312-x86_64/pylock.toml"
    lock.write_text(lock.read_text().replace('path = "../../', 'path = "../../../../'))


@pytest.mark.parametrize(
    ("change", "reference"),
    [
        (_delete, "wheel-missing"),
        (_extra, "wheel-unlisted"),
        (_sdist, "not-a-wheel"),
        (_longer, "wheel-differs"),
        (_other_pin, "lock-disagrees"),
        (_no_hash, "bad-requirements"),
        (_index, "bad-requirements"),
        (_url, "bad-wheel-lock"),
        (_upwards, "bad-wheel-lock"),
    ],
)
def test_a_folder_that_does_not_fit_its_locks_is_told(
    tmp_path: Path, change: Callable[[Path], None], reference: str
) -> None:
    folder = payload(tmp_path)
    change(folder)

    assert reference in references(check_wheels(folder))


def test_digests_of_the_manifest_are_compared_with_the_lock(tmp_path: Path) -> None:
    folder = payload(tmp_path)

    assert references(check_wheels(folder, digests={NAME: "0" * 64})) == {"wheel-differs"}


def test_a_wheel_for_another_machine_is_told(tmp_path: Path) -> None:
    name = "pkg-1.0-cp312-cp312-manylinux_2_34_x86_64.whl"

    assert "wheel-tags" in references(check_wheels(payload(tmp_path, name=name)))


def test_a_torch_without_cuda_is_refused_where_cuda_is_meant() -> None:
    assert has_accelerator(["torch/lib/libtorch_cuda_linalg.so"], "cuda")
    assert has_accelerator([], "cpu")
    assert not has_accelerator(["torch/lib/libtorch_cpu.so", "torch/libtorch_cuda.so"], "cuda")


def test_a_torch_in_a_folder_is_looked_into(tmp_path: Path) -> None:
    name, data = wheel("torch", "2.10.0")
    folder = payload(tmp_path, name=name, accelerator="cuda", data=data)
    lock = folder / "locks/vllm-cp312-x86_64/pylock.toml"
    lock.write_text(
        lock.read_text().replace('name = "pkg"', 'name = "torch"').replace('"1.0"\n[[', '"2.10.0"\n[[')
    )

    assert "no-gpu-library" in references(check_wheels(folder))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_locks_are_read_or_refused(data: bytes) -> None:
    for parse in (parse_wheel_lock, parse_requirements):
        try:
            parse(data, where="x")
        except MalformedError:
            continue
