"""What must not stand in the repository, and what must."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.servers.programs import both_ends

ROOT = Path(__file__).resolve().parent.parent
# A marker and a body of at least one whole line: code that looks for the marker holds no key.
PRIVATE_KEY = re.compile(rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----\s+(?:[\w-]+: .*\s+)*[A-Za-z0-9+/=]{60}")
INDEX_HOST = re.compile(rb"https?://[\w.-]*(?:pypi|pythonhosted|artifactory|nexus)[\w.-]*")
MACHINE_PATH = re.compile(rb"(?:^|[\s\"'(=])/(?:root|home/\w+)/[\w.]", re.MULTILINE)


def tracked_files() -> list[Path]:
    """The files of a checkout; of a tree without `.git`, an unpacked archive, whatever is not ignored."""
    if not (ROOT / ".git").exists():
        return sorted(unignored(ROOT))
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return [ROOT / name.decode() for name in listed.split(b"\0") if name]


def unignored(folder: Path) -> Iterator[Path]:
    """Files below `folder` that no line of `.gitignore` names; ours are names of folders and suffixes."""
    patterns = [line.strip("/") for line in (ROOT / ".gitignore").read_text().split()]
    for path in folder.iterdir():
        if any(fnmatch(path.name, pattern) for pattern in patterns):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from unignored(path)
        else:
            yield path


def offenders(pattern: re.Pattern[bytes], *, but: tuple[str, ...] = ()) -> list[str]:
    found = []
    for path in tracked_files():
        name = str(path.relative_to(ROOT))
        if path.is_file() and not name.startswith(but) and pattern.search(path.read_bytes()):
            found.append(name)
    return found


def test_no_private_key_is_tracked() -> None:
    assert offenders(PRIVATE_KEY) == []


def test_the_search_for_private_keys_finds_one() -> None:
    from bundler.trust.keys import generate

    key = generate("ecdsa-p256-sha256")
    assert PRIVATE_KEY.search(key.to_pem(b"secret"))
    assert PRIVATE_KEY.search(key.to_pem(None))


def test_no_path_of_one_machine_is_tracked() -> None:
    assert offenders(MACHINE_PATH, but=("tests/test_repository.py",)) == []


def test_no_address_of_a_package_index_is_tracked() -> None:
    # The attestation types of PEP 740 and an article are names and reading, not places to fetch from.
    index = re.compile(
        rb"https?://(?:[\w-]+\.)*(?:pypi\.org/simple|pythonhosted\.org|registry\.npmjs\.org|debian\.org/debian)"
    )
    assert offenders(index, but=("tests/test_repository.py",)) == []


def test_requirements_are_pinned_by_hash_and_name_no_index() -> None:
    for path in (ROOT / "requirements").glob("*.txt"):
        text = path.read_bytes()
        assert INDEX_HOST.search(text) is None, path.name
        pins = [line for line in text.splitlines() if b"==" in line and not line.lstrip().startswith(b"#")]
        assert pins, path.name
        assert all(line.endswith(b"\\") for line in pins), f"{path.name} has an unhashed pin"


def test_the_list_without_git_is_the_list_with_git() -> None:
    if (ROOT / ".git").exists():
        new = subprocess.run(
            ["git", "ls-files", "-z", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        ).stdout
        untracked = {ROOT / name.decode() for name in new.split(b"\0") if name}
        listed = {path for path in tracked_files() if path.exists()} | untracked
        assert {
            path for path in unignored(ROOT) if ".git" not in path.relative_to(ROOT).parts
        } - listed == set()
        assert listed - set(unignored(ROOT)) == set()
    assert ROOT / "tests/test_repository.py" in unignored(ROOT)


def test_ci_runs_both_commands_of_the_readme_here_and_on_a_bare_machine() -> None:
    assert [
        line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith('"$scripts')
    ] == [
        '"$scripts/test"',
        '"$scripts/bare-machine"',
    ]
    bare, readme = (ROOT / "scripts/bare-machine").read_text(), (ROOT / "README.md").read_text()
    assert "./scripts/demo  " in readme
    assert "./scripts/test  " in readme
    assert "inside ./scripts/demo --yes\n" in bare
    assert 'inside ./scripts/test "$tests"\n' in bare


def test_the_whole_licence_is_in_the_tree() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert text.lstrip().startswith("Apache License\n")
    assert all(f"\n   {number}. " in text for number in range(1, 10))
    assert "APPENDIX: How to apply the Apache License to your work." in text


@pytest.mark.slow
def test_the_source_distribution_holds_the_licence(tmp_path: Path) -> None:
    build = f"from hatchling.build import build_sdist; print(build_sdist({str(tmp_path)!r}))"
    done = subprocess.run([sys.executable, "-c", build], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, both_ends(done.stderr)
    with tarfile.open(tmp_path / done.stdout.split()[-1]) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers()}
    assert {"LICENSE", "README.md", "pyproject.toml", "bundler/__main__.py"} <= names


def test_no_test_cuts_off_the_beginning_of_what_a_program_said() -> None:
    cut = re.compile(rb"std(?:err|out)(?:\.strip\(\))?\[-[\d_]+:\]|read_text\(\)\[-[\d_]+:\]")
    assert offenders(cut, but=("tests/test_repository.py",)) == []


def test_every_dependency_has_its_reason_in_the_readme() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    readme = (ROOT / "README.md").read_text()
    for requirement in project["dependencies"]:
        name = re.split(r"[<>=~! \[]", requirement)[0]
        assert f"| {name} |" in readme, f"{name} has no line in the README"


@pytest.mark.parametrize("path", sorted((ROOT / "scripts/bench").glob("*.py")), ids=lambda path: path.name)
def test_benchmarks_find_what_they_import(path: Path) -> None:
    runpy.run_path(str(path), run_name="imported")
