"""Installing from a bundle-shaped folder: offline, by digest, whole or not at all, repairable."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bundler.assembly.wheel_index import wheel_documents
from bundler.content.wheels.wheel import check_wheels
from bundler.core.manifest import FileEntry, Manifest, compose
from bundler.core.paths import parse_bundle_path
from bundler.core.specs.lock import LockedEngine
from bundler.core.specs.target import Target
from bundler.errors import IntegrityError, MachineError, SealiftError, UsageError
from bundler.install import engine as module
from bundler.install import host
from bundler.install.engine import Installation, building_place, choose_folder, install_engine, uv_program
from bundler.install.marker import MARKER, damage, read_marker
from tests.wheel_files import wheel

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
FOLDER = f"llama.cpp-cp{PYTHON.replace('.', '')}-{os.uname().machine}"


class Bundle:
    """A bundle-shaped folder with one engine: `demo-engine`, which needs `helper`."""

    def __init__(
        self, root: Path, *, contents: dict[str, dict[str, bytes]] | None = None, **facts: Any
    ) -> None:
        self.root = root
        wheels = root / "payload/wheels"
        wheels.mkdir(parents=True)
        entries = []
        for project, requires in (("xllamacpp", ["helper"]), ("helper", [])):
            name, data = wheel(project, "1.0", requires=requires, files=(contents or {}).get(project))
            (wheels / name).write_bytes(data)
            digest = hashlib.sha256(data).hexdigest()
            entries.append(
                {"name": project, "version": "1.0", "filename": name, "size": len(data), "sha256": digest}
            )
        machine = {"x86_64": "linux/amd64", "aarch64": "linux/arm64"}[os.uname().machine]
        value = {"id": "llama.cpp", "name": "llama.cpp", "requirement": "xllamacpp==1.0", "version": "1.0"}
        value |= {"python": PYTHON, "platform": machine, "glibc": "2.17", "accelerator": "cpu"}
        self.engine = LockedEngine.model_validate({**value, "wheels": entries, **facts})
        for path, data in wheel_documents([self.engine]).items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(data)
        self.seal()

    def seal(self) -> None:
        """Lists everything in a manifest."""
        files = [
            FileEntry(
                path=parse_bundle_path(path.relative_to(self.root).as_posix()),
                size=path.stat().st_size,
                sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            )
            for path in self.root.rglob("*")
            if path.is_file() and path.name != "manifest.json"
        ]
        data = compose(channel="test", serial=1, files=files, chunks=None)
        (self.root / "manifest.json").write_bytes(data)
        self.manifest, self.digest = Manifest.parse(data), hashlib.sha256(data).hexdigest()

    def wheel(self, project: str) -> Path:
        return next(self.root.glob(f"payload/wheels/{project}-*.whl"))

    def install(self, to: Path, **options: Any) -> Installation:
        return install_engine(
            self.root,
            self.engine.folder,
            to,
            manifest=self.manifest,
            **{"python": sys.executable, **options},
        )


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle(tmp_path / "bundle")


@pytest.fixture
def other_user() -> int:
    if os.geteuid() != 0:
        pytest.skip("needs chown: run as root")
    return 65534


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "bundle")


def answer(environment: Path) -> str:
    done = subprocess.run(
        [str(environment / "bin/python"), "-I", "-c", "import xllamacpp, helper; print(xllamacpp.answer)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_an_engine_is_installed_from_the_bundle_and_says_from_which(bundle: Bundle, tmp_path: Path) -> None:
    done = bundle.install(tmp_path / "engine")

    assert (done.engine, done.version, done.wheels, done.reused) == ("llama.cpp", "1.0", 2, False)
    assert answer(tmp_path / "engine") == "42"
    marker = read_marker(tmp_path / "engine")
    assert marker is not None
    assert marker["manifest"] == bundle.digest
    assert marker["versions"] == {"helper": "1.0", "xllamacpp": "1.0"}
    assert marker["wheels"] == {item.filename: item.sha256 for item in bundle.engine.wheels}
    assert leftovers(tmp_path) == ["engine"]


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare: apt-get install util-linux")
def test_nothing_is_asked_of_any_network(bundle: Bundle, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from bundler.core.manifest import Manifest;"
        "from bundler.install.engine import install_engine;"
        "root = Path(sys.argv[1]); data = (root / 'manifest.json').read_bytes();"
        "install_engine(root, sys.argv[2], Path(sys.argv[3]), manifest=Manifest.parse(data),"
        " python=sys.executable);"
        "assert not {'requests', 'pydantic', 'huggingface_hub', 'bundler.sources'} & set(sys.modules)"
    )
    arguments = [str(bundle.root), bundle.engine.folder, str(tmp_path / "engine")]

    done = subprocess.run(
        ["unshare", "-n", "--", sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if "Operation not permitted" in done.stderr:
        pytest.skip("unshare -n is not permitted here: run as root")

    assert done.returncode == 0, done.stderr
    assert answer(tmp_path / "engine") == "42"


def test_the_environment_can_be_started_where_it_was_renamed_to(bundle: Bundle, tmp_path: Path) -> None:
    bundle.install(tmp_path / "deep/er/engine")
    text = (tmp_path / "deep/er/engine/pyvenv.cfg").read_text()

    assert ".installing" not in text
    assert ".installing" not in (tmp_path / "deep/er/engine" / MARKER).read_text()


def test_the_same_again_leaves_a_whole_environment_alone(bundle: Bundle, tmp_path: Path) -> None:
    bundle.install(tmp_path / "engine")
    before = (tmp_path / "engine").stat().st_ino

    assert bundle.install(tmp_path / "engine").reused
    assert (tmp_path / "engine").stat().st_ino == before


def _remove(environment: Path) -> None:
    next(environment.glob("lib/*/site-packages/helper/__init__.py")).unlink()


def _alter(environment: Path) -> None:
    next(environment.glob("lib/*/site-packages/helper/__init__.py")).write_text("answer = 43\n")


def _forget(environment: Path) -> None:
    shutil.rmtree(next(environment.glob("lib/*/site-packages/helper")))


@pytest.mark.parametrize("harm", [_remove, _alter, _forget])
def test_the_same_again_repairs_a_damaged_environment(bundle: Bundle, tmp_path: Path, harm: Any) -> None:
    bundle.install(tmp_path / "engine")
    harm(tmp_path / "engine")
    assert damage(tmp_path / "engine")

    assert not bundle.install(tmp_path / "engine").reused
    assert damage(tmp_path / "engine") == []
    assert answer(tmp_path / "engine") == "42"
    assert leftovers(tmp_path) == ["engine"]


def test_another_bundles_environment_is_replaced(bundle: Bundle, tmp_path: Path) -> None:
    bundle.install(tmp_path / "engine")
    (bundle.root / "payload/more.txt").write_text("another bundle")
    bundle.seal()

    assert not bundle.install(tmp_path / "engine").reused
    assert json.loads((tmp_path / "engine" / MARKER).read_text())["manifest"] == bundle.digest


def _flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def _other_wheel(_: bytes) -> bytes:
    return wheel("helper", "1.0", files={"helper/__init__.py": b"evil = 1\n"})[1]


@pytest.mark.parametrize("change", [_flip, _other_wheel], ids=["one bit", "another valid wheel"])
def test_a_wheel_changed_after_verification_is_refused_and_nothing_is_left(
    bundle: Bundle, tmp_path: Path, change: Any
) -> None:
    path = bundle.wheel("helper")
    path.write_bytes(change(path.read_bytes()))

    with pytest.raises(IntegrityError) as caught:
        bundle.install(tmp_path / "engine")

    assert caught.value.reference == "wheel-refused"
    assert caught.value.findings[0].where == f"payload/wheels/{path.name}"
    assert leftovers(tmp_path) == []


def test_a_refused_replacement_leaves_the_old_environment_working(bundle: Bundle, tmp_path: Path) -> None:
    bundle.install(tmp_path / "engine")
    _alter(tmp_path / "engine")
    bundle.wheel("helper").write_bytes(b"not a wheel")

    with pytest.raises(IntegrityError):
        bundle.install(tmp_path / "engine")

    assert read_marker(tmp_path / "engine") is not None
    assert leftovers(tmp_path) == ["engine"]


def test_a_missing_wheel_is_told(bundle: Bundle, tmp_path: Path) -> None:
    bundle.wheel("helper").unlink()

    with pytest.raises(IntegrityError) as caught:
        bundle.install(tmp_path / "engine")

    assert caught.value.reference == "wheel-refused"
    assert leftovers(tmp_path) == []


def test_a_lock_changed_after_verification_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    path = bundle.root / f"payload/wheels/locks/{bundle.engine.folder}/pylock.toml"
    path.write_bytes(path.read_bytes() + b"# harmless\n")

    with pytest.raises(IntegrityError) as caught:
        bundle.install(tmp_path / "engine")

    assert caught.value.reference == "file-changed"
    assert caught.value.findings[0].where.endswith("pylock.toml")
    assert leftovers(tmp_path) == []


def test_a_lock_that_names_another_digest_than_the_manifest_is_refused(
    bundle: Bundle, tmp_path: Path
) -> None:
    bundle.wheel("helper").write_bytes(_other_wheel(b""))
    bundle.seal()

    with pytest.raises(IntegrityError) as caught:
        bundle.install(tmp_path / "engine")

    assert caught.value.reference == "file-changed"
    assert "helper" in caught.value.findings[0].where


@pytest.mark.parametrize("make", ["file", "folder", "link"])
def test_what_sealift_did_not_install_is_never_replaced(bundle: Bundle, tmp_path: Path, make: str) -> None:
    to = tmp_path / "engine"
    if make == "file":
        to.write_text("precious")
    elif make == "folder":
        (to / "inside").mkdir(parents=True)
    else:
        to.symlink_to(bundle.root)
    before = leftovers(tmp_path)

    with pytest.raises(UsageError) as caught:
        bundle.install(to)

    assert caught.value.reference == "not-an-installation"
    assert leftovers(tmp_path) == before


def test_an_empty_folder_is_a_place(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "engine").mkdir()

    bundle.install(tmp_path / "engine")

    assert answer(tmp_path / "engine") == "42"


def test_a_killed_installation_looks_like_none_and_the_next_one_clears_it(
    bundle: Bundle, tmp_path: Path
) -> None:
    script = (
        "import sys, time; from pathlib import Path; from bundler.core.manifest import Manifest;"
        "from bundler.install import engine as install;"
        "install._check_versions = lambda *_: (print('here', flush=True), time.sleep(60));"
        "root = Path(sys.argv[1]); data = (root / 'manifest.json').read_bytes();"
        "install.install_engine(root, sys.argv[2], Path(sys.argv[3]), manifest=Manifest.parse(data),"
        " python=sys.executable)"
    )
    arguments = [str(bundle.root), bundle.engine.folder, str(tmp_path / "engine")]
    with subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "engine").exists()
    (left,) = leftovers(tmp_path)
    assert re.fullmatch(r"\.engine\.installing-[0-9a-f]{16}", left)
    assert stat.S_IMODE((tmp_path / left).stat().st_mode) == 0o700

    bundle.install(tmp_path / "engine")

    assert answer(tmp_path / "engine") == "42"
    assert leftovers(tmp_path) == ["engine"]


def test_an_interrupted_installation_leaves_nothing(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_check_versions", interrupt)
    with pytest.raises(KeyboardInterrupt):
        bundle.install(tmp_path / "engine")

    assert leftovers(tmp_path) == []


def test_a_folder_another_user_prepared_is_not_adopted(
    bundle: Bundle, tmp_path: Path, other_user: int
) -> None:
    planted = tmp_path / ".engine.installing"
    (planted / "bin").mkdir(parents=True)
    (planted / "bin/python").write_text("#!/bin/sh\necho stolen\n")
    os.chown(planted, other_user, other_user)

    bundle.install(tmp_path / "engine")

    assert answer(tmp_path / "engine") == "42"
    assert (planted / "bin/python").read_text().endswith("stolen\n")


def test_an_environment_that_another_user_may_write_to_is_installed_anew(
    bundle: Bundle, tmp_path: Path
) -> None:
    bundle.install(tmp_path / "engine")
    (tmp_path / "engine/lib").chmod(0o777)

    assert not bundle.install(tmp_path / "engine").reused
    assert stat.S_IMODE((tmp_path / "engine/lib").stat().st_mode) == 0o755


def test_a_place_in_a_folder_open_to_all_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)

    with pytest.raises(MachineError) as caught:
        bundle.install(tmp_path / "open/engine")

    assert caught.value.reference == "work-folder-open"
    assert list((tmp_path / "open").iterdir()) == []
    (tmp_path / "open").chmod(0o1777)
    assert not bundle.install(tmp_path / "open/engine").reused


def test_a_place_in_a_folder_of_another_user_is_refused(
    bundle: Bundle, tmp_path: Path, other_user: int
) -> None:
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", other_user, other_user)

    with pytest.raises(MachineError) as caught:
        bundle.install(tmp_path / "theirs/new/engine")

    assert caught.value.reference == "work-folder-open"


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777], ids=oct)
def test_modes_of_an_installed_engine_do_not_depend_on_the_umask(
    bundle: Bundle, tmp_path: Path, umask: int
) -> None:
    before = os.umask(umask)
    try:
        bundle.install(tmp_path / "new/engine")
    finally:
        os.umask(before)

    paths = [tmp_path / "new", tmp_path / "new/engine", *(tmp_path / "new/engine").rglob("*")]
    modes = {stat.S_IMODE(path.lstat().st_mode) for path in paths if not path.is_symlink()}
    assert modes == {0o755, 0o644}
    assert answer(tmp_path / "new/engine") == "42"


def test_two_installations_to_one_place_do_not_meet(bundle: Bundle, tmp_path: Path) -> None:
    with building_place(tmp_path / "engine"), pytest.raises(MachineError) as caught:
        bundle.install(tmp_path / "engine")

    assert caught.value.reference == "installation-runs"
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ("facts", "reference"),
    [
        ({"glibc": "2.99"}, "glibc-too-old"),
        (
            {"platform": "linux/arm64" if os.uname().machine == "x86_64" else "linux/amd64"},
            "wrong-architecture",
        ),
    ],
)
def test_a_machine_the_wheels_are_not_for_is_told(
    tmp_path: Path, facts: dict[str, Any], reference: str
) -> None:
    bundle = Bundle(tmp_path / "bundle", **facts)

    with pytest.raises(MachineError) as caught:
        bundle.install(tmp_path / "engine")

    assert caught.value.reference == reference
    assert leftovers(tmp_path) == []


def test_a_missing_python_is_told_without_promising_a_package(tmp_path: Path) -> None:
    bundle = Bundle(tmp_path / "bundle", python="3.19")

    with pytest.raises(MachineError) as caught:
        bundle.install(tmp_path / "engine", python=None)

    assert caught.value.reference == "no-python"
    hint = caught.value.findings[0].hint
    assert hint.startswith("install CPython 3.19 from this site's own mirror")
    assert "apt" not in hint
    assert leftovers(tmp_path) == []


def test_a_python_of_another_version_is_refused(tmp_path: Path) -> None:
    bundle = Bundle(tmp_path / "bundle", python="3.19")

    with pytest.raises(MachineError) as caught:
        bundle.install(tmp_path / "engine")

    assert caught.value.reference == "wrong-python"
    assert caught.value.findings[0].expected.startswith("CPython 3.19")


def test_a_program_that_is_no_python_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="wrong-python"):
        bundle.install(tmp_path / "engine", python="/bin/true")


def test_a_python_is_found_without_being_named(bundle: Bundle, tmp_path: Path) -> None:
    caller = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(tmp_path)}
    with uv_program(bundle.root, {}) as uv:
        found = host.find_python(
            Target(python=PYTHON, platform=bundle.engine.platform, glibc="2.17"),
            uv,
            wanted=None,
            caller=caller,
        )

    assert found.version.startswith(f"{PYTHON}.")


def test_the_callers_indexes_and_paths_do_not_reach_the_installer() -> None:
    given = {"UV_INDEX_URL": "https://evil", "PYTHONPATH": "/evil", "PIP_INDEX_URL": "x", "PATH": "/usr/bin"}

    assert host.environment(given) == {"PATH": "/usr/bin"}


@pytest.fixture
def without_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host where sealift was installed without uv beside it."""
    monkeypatch.setattr(module, "_own_uv", lambda: None)


@pytest.mark.usefixtures("without_uv")
def test_without_uv_here_the_bundles_own_is_used(bundle: Bundle, tmp_path: Path) -> None:
    from bundler.sources.wheels.uv import find_uv

    tools = bundle.root / "payload/tools"
    tools.mkdir()
    files = {"uv-1.0.data/scripts/uv": Path(find_uv()).read_bytes()}
    name, data = wheel("uv", "1.0", files=files)
    (tools / name).write_bytes(data)
    bundle.seal()

    bundle.install(tmp_path / "engine")

    assert answer(tmp_path / "engine") == "42"


@pytest.mark.usefixtures("without_uv")
def test_a_changed_uv_in_the_bundle_is_not_run(bundle: Bundle, tmp_path: Path) -> None:
    tools = bundle.root / "payload/tools"
    tools.mkdir()
    name, data = wheel("uv", "1.0", files={"uv-1.0.data/scripts/uv": b"#!/bin/sh\ntouch /tmp/never\n"})
    (tools / name).write_bytes(data)
    bundle.seal()
    (tools / name).write_bytes(data + b"x")

    with pytest.raises(SealiftError) as caught:
        bundle.install(tmp_path / "engine")

    assert caught.value.reference == "file-changed"


@pytest.mark.usefixtures("without_uv")
def test_no_uv_anywhere_is_told(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(MachineError) as caught:
        bundle.install(tmp_path / "engine")

    assert caught.value.reference == "no-uv"
    assert "payload/tools" in caught.value.findings[0].hint


def test_engines_are_chosen_by_id_by_folder_or_because_there_is_only_one(bundle: Bundle) -> None:
    assert choose_folder(bundle.manifest, None) == FOLDER
    assert choose_folder(bundle.manifest, "llama.cpp") == FOLDER
    assert choose_folder(bundle.manifest, FOLDER) == FOLDER
    with pytest.raises(UsageError) as caught:
        choose_folder(bundle.manifest, "vllm")
    assert caught.value.reference == "no-such-engine"
    assert caught.value.findings[0].hint == f"--engine {FOLDER}"


def _entry_point(project: str, name: str) -> dict[str, bytes]:
    text = f"[console_scripts]\n{name} = {project}:main\n".encode()
    return {f"{project}/__init__.py": b"answer = 42\n", f"{project}-1.0.dist-info/entry_points.txt": text}


@pytest.mark.parametrize(
    ("reference", "one", "other"),
    [
        ("wheels-write-one-file", {"x/y.py": b"1"}, {"x/y.py": b"2"}),
        ("wheel-replaces-environment", {"xllamacpp-1.0.data/scripts/python": b"#!python"}, {"x": b""}),
        ("wheel-replaces-environment", _entry_point("xllamacpp", "python3"), {"x": b""}),
        ("bad-wheel", _entry_point("xllamacpp", "../x"), {"x": b""}),
    ],
)
def test_what_installing_refuses_of_the_wheels_building_refuses_too(
    tmp_path: Path, reference: str, one: dict[str, bytes], other: dict[str, bytes]
) -> None:
    bundle = Bundle(tmp_path / "bundle", contents={"xllamacpp": one, "helper": other})

    with pytest.raises(SealiftError) as caught:
        bundle.install(tmp_path / "engine")

    assert caught.value.reference == reference
    assert leftovers(tmp_path) == []
    built = check_wheels(bundle.root / "payload/wheels")
    assert [item.reference for item in built if item.is_error] == [reference]


def test_a_script_that_two_packages_declare_does_not_look_like_damage(tmp_path: Path) -> None:
    contents = {name: _entry_point(name, "serve") for name in ("xllamacpp", "helper")}
    bundle = Bundle(tmp_path / "bundle", contents=contents)

    installed = bundle.install(tmp_path / "engine")

    assert [item.reference for item in installed.warnings] == ["wheels-write-one-file"]
    assert damage(tmp_path / "engine") == []
    (tmp_path / "engine/bin/serve").write_text("changed")
    assert [Path(path).name for path in damage(tmp_path / "engine")] == ["serve"]
