"""What must not stand in the repository, and what must."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# A marker and a body of at least one whole line: code that looks for the marker holds no key.
PRIVATE_KEY = re.compile(rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----\s+(?:[\w-]+: .*\s+)*[A-Za-z0-9+/=]{60}")
INDEX_HOST = re.compile(rb"https?://[\w.-]*(?:pypi|pythonhosted|artifactory|nexus)[\w.-]*")
MACHINE_PATH = re.compile(rb"(?:^|[\s\"'(=])/(?:root|home/\w+)/[\w.]", re.MULTILINE)


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return [ROOT / name.decode() for name in listed.split(b"\0") if name]


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


def test_ci_calls_the_second_command_of_the_readme() -> None:
    assert "scripts/test" in (ROOT / ".ci" / "run").read_text()
    assert "./scripts/test" in (ROOT / "README.md").read_text()


def test_every_dependency_has_its_reason_in_the_readme() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    readme = (ROOT / "README.md").read_text()
    for requirement in project["dependencies"]:
        name = re.split(r"[<>=~! \[]", requirement)[0]
        assert f"| {name} |" in readme, f"{name} has no line in the README"
