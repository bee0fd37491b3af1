"""Plans for launching: what must fit, what is refused, and that a refusal leaves nothing behind."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from bundler.core.manifest import Manifest
from bundler.errors import IntegrityError, MachineError, PolicyError, SealiftError, UsageError
from bundler.launch.launch import CHECKSUMS, LaunchPlan, LaunchRequest, plan_launch
from tests.content.elf_files import elf_file
from tests.launch.profiles import MODEL, bundle_of, executable, install, launch_member, write_marker

FILES = {
    "config.json": json.dumps({"model_type": "kimi_k2"}).encode(),
    "model.safetensors": b"weights",
    "modeling.py": b"x = 1\n",
    "sub/notes.md": b"notes",
}


def free_port() -> int:
    with socket.socket() as attempt:
        attempt.bind(("127.0.0.1", 0))
        port = attempt.getsockname()[1]
        assert isinstance(port, int)
        return port


@dataclass(frozen=True)
class Perimeter:
    """A bundle, an environment installed from it, and a request to launch."""

    root: Path
    manifest: Manifest
    sha256: str
    request: LaunchRequest

    def plan(self, **changes: Any) -> LaunchPlan:
        return plan_launch(self.root, self.manifest, replace(self.request, **changes))


def perimeter(
    tmp_path: Path, engine: str = "vllm", files: dict[str, bytes] | None = None, **members: Any
) -> Perimeter:
    root = tmp_path / "bundle"
    root.mkdir()
    code = executable("modeling.py", "chat_template.jinja")
    port = members.pop("port", free_port())
    member = launch_member(engine, port=port, **members)
    manifest = bundle_of(root, FILES if files is None else files, member, artifacts=code)
    sha256 = hashlib.sha256((root / "manifest.json").read_bytes()).hexdigest()
    install(tmp_path / "env", sha256, engine)
    work = Path("/tmp/sealift-t")  # never made: nothing here starts an engine
    request = LaunchRequest(
        profile="default", environment=tmp_path / "env", work=work, caller={"HF_TOKEN": "s"}
    )
    return Perimeter(root=root, manifest=manifest, sha256=sha256, request=request)


@contextmanager
def refused(
    reference: str, kind: type[SealiftError], *places: Path
) -> Iterator[pytest.ExceptionInfo[SealiftError]]:
    """The block raises this error, and no file below `places` appears, goes or changes."""

    def contents() -> dict[Path, bytes]:
        return {path: path.read_bytes() for place in places for path in place.rglob("*") if path.is_file()}

    before = contents()
    with pytest.raises(kind) as caught:
        yield caught
    assert caught.value.reference == reference
    assert contents() == before


def test_a_plan_runs_the_installed_interpreter_isolated_on_local_files(tmp_path: Path) -> None:
    side = perimeter(tmp_path)
    plan = side.plan()
    assert plan.command[:4] == (
        str(tmp_path / "env/bin/python"),
        "-I",
        "-m",
        "vllm.entrypoints.openai.api_server",
    )
    assert plan.command[4:6] == ("--model", str(side.root / MODEL))
    assert "HF_TOKEN" not in plan.environment
    assert plan.environment["HF_HOME"] == f"{plan.work}/hf"
    assert plan.url == f"http://127.0.0.1:{plan.entry.port}/v1"
    assert not plan.work.exists()


def test_two_plans_never_share_a_work_folder(tmp_path: Path) -> None:
    side = perimeter(tmp_path)
    assert side.plan().work != side.plan().work


def test_the_plan_says_what_can_be_watched_and_what_not(tmp_path: Path) -> None:
    plan = perimeter(tmp_path).plan()
    told = plan.to_json()
    assert "/metrics is always on" in told["observability"]["turnedOn"]
    assert "routing entropy" in told["observability"]["notOffered"]
    assert any(note.startswith("not offered by this engine: routing entropy") for note in plan.notes)
    assert json.loads(json.dumps(told)) == told


def test_host_and_port_of_the_operator_replace_the_profiles(tmp_path: Path) -> None:
    port = free_port()
    plan = perimeter(tmp_path).plan(host="127.0.0.2", port=port)
    assert plan.command[plan.command.index("--host") + 1] == "127.0.0.2"
    assert plan.command[plan.command.index("--port") + 1] == str(port)


def test_sglang_gets_checksums_of_the_verified_manifest(tmp_path: Path) -> None:
    side = perimeter(tmp_path, "sglang")
    plan = side.plan()
    assert plan.command[plan.command.index("--model-checksum") + 1] == str(plan.work / CHECKSUMS)
    listed = json.loads(plan.files[CHECKSUMS])["files"]
    assert listed["model.safetensors"] == {"sha256": hashlib.sha256(b"weights").hexdigest(), "size": 7}
    # SGLang knows flat names only.
    assert "sub/notes.md" not in listed


def test_the_models_code_runs_only_with_the_operators_or_the_profiles_word(tmp_path: Path) -> None:
    side = perimeter(tmp_path)
    assert "--trust-remote-code" not in side.plan().command
    assert "--trust-remote-code" in side.plan(accept_code=True).command


def test_code_the_manifest_does_not_list_never_runs(tmp_path: Path) -> None:
    side = perimeter(tmp_path, files={**FILES, "sneaked.py": b"x"})
    with refused("model-code-not-listed", PolicyError, tmp_path) as caught:
        side.plan(accept_code=True)
    assert caught.value.findings[0].where == "sneaked.py"


def test_a_kimi_model_is_known_by_its_configuration(tmp_path: Path) -> None:
    files = {"config.json": b'{"text_config": {"model_type": "kimi_k25"}}'}
    side = perimeter(tmp_path, files=files, toolCallParser=None)
    with refused("kimi-parsers-missing", PolicyError, tmp_path):
        side.plan()


def test_another_model_needs_no_kimi_parsers(tmp_path: Path) -> None:
    side = perimeter(tmp_path, files={"config.json": b'{"model_type": "llama"}'}, toolCallParser=None)
    assert "--tool-call-parser" not in side.plan().command


def test_an_environment_from_another_bundle_is_refused(tmp_path: Path) -> None:
    side = perimeter(tmp_path)
    write_marker(tmp_path / "env", "b" * 64, folder="vllm-cp311-x86_64")
    with refused("installed-from-another-bundle", IntegrityError, tmp_path) as caught:
        side.plan()
    finding = caught.value.findings[0]
    assert finding.expected == f"sha256:{side.sha256}, vllm-cp311-x86_64"
    assert finding.found == f"sha256:{'b' * 64}, vllm-cp311-x86_64"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"manifest": "x"}', '{"a":1,"a":1}'])
def test_a_marker_that_cannot_be_read_is_refused(tmp_path: Path, text: str) -> None:
    side = perimeter(tmp_path)
    (tmp_path / "env/sealift-install.json").write_text(text)
    with refused("installed-from-another-bundle", IntegrityError, tmp_path):
        side.plan()


def test_an_environment_without_a_marker_is_refused(tmp_path: Path) -> None:
    side = perimeter(tmp_path)
    (tmp_path / "env/sealift-install.json").unlink()
    with refused("installed-from-another-bundle", IntegrityError, tmp_path):
        side.plan()


def test_the_environment_of_another_engine_of_the_bundle_is_refused(tmp_path: Path) -> None:
    side = perimeter(tmp_path)
    write_marker(tmp_path / "env", side.sha256, folder="sglang-cp311-x86_64")
    with refused("installed-from-another-bundle", IntegrityError, tmp_path):
        side.plan()


@pytest.mark.parametrize("installed", ["0.19.0", "0.19.10", "0.19.1.post1"])
def test_another_installed_version_is_refused(tmp_path: Path, installed: str) -> None:
    side = perimeter(tmp_path)
    install(tmp_path / "other", side.sha256, "vllm", installed)
    with refused("engine-version", PolicyError, tmp_path) as caught:
        side.plan(environment=tmp_path / "other")
    finding = caught.value.findings[0]
    assert (finding.expected, finding.found) == ("vllm 0.19.1", installed)


def test_two_installed_versions_are_refused(tmp_path: Path) -> None:
    side = perimeter(tmp_path)
    info = tmp_path / "env/lib/python3.11/site-packages/vllm-0.32.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0\n")
    with refused("engine-version", PolicyError, tmp_path) as caught:
        side.plan()
    assert caught.value.findings[0].found == "0.19.1, 0.32.0"


def test_a_version_without_a_flag_table_is_refused(tmp_path: Path) -> None:
    with refused("unknown-engine-version", PolicyError):
        perimeter(tmp_path, version="0.20.0").plan()


def test_an_environment_that_is_not_there_is_refused_with_the_next_command(tmp_path: Path) -> None:
    side = perimeter(tmp_path)
    with refused("no-environment", MachineError, tmp_path) as caught:
        side.plan(environment=tmp_path / "nowhere")
    assert "sealift install" in caught.value.findings[0].hint


def test_a_port_in_use_is_told_before_anything_loads(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        side = perimeter(tmp_path, port=taken.getsockname()[1])
        with refused("port-in-use", MachineError, tmp_path) as caught:
            side.plan()
    assert caught.value.findings[0].where == f"127.0.0.1:{side.manifest.members['launch'][0]['port']}"


def test_an_address_of_another_machine_cannot_be_bound(tmp_path: Path) -> None:
    side = perimeter(tmp_path)
    with refused("port-in-use", MachineError, tmp_path):
        side.plan(host="192.0.2.1")


@pytest.mark.parametrize("host", ["", "-x", "a\nb"])
def test_an_address_that_is_none_is_refused(tmp_path: Path, host: str) -> None:
    side = perimeter(tmp_path)
    with refused("bad-host", UsageError, tmp_path):
        side.plan(host=host)


def test_a_work_folder_that_leaves_no_room_for_sockets_is_refused(tmp_path: Path) -> None:
    side = perimeter(tmp_path)
    with refused("work-folder-too-long", MachineError, tmp_path):
        side.plan(work=tmp_path / ("x" * 60))


def test_a_work_folder_anybody_may_write_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    side = perimeter(tmp_path)
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bundler.launch.launch.LONGEST_WORK", 4096)
    with refused("work-folder-open", MachineError, tmp_path):
        side.plan(work=Path("open"))


# --- which file llama.cpp opens ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "opened"),
    [
        (["model.gguf"], "model.gguf"),
        (["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"], "m-00001-of-00002.gguf"),
        (["Q4/m-00001-of-00002.gguf", "Q4/m-00002-of-00002.gguf"], "Q4/m-00001-of-00002.gguf"),
    ],
)
def test_the_only_gguf_or_its_first_part_is_opened(tmp_path: Path, names: list[str], opened: str) -> None:
    side = perimeter(tmp_path, "llama.cpp", files=dict.fromkeys(names, b"x"))
    command = side.plan().command
    assert command[1:3] == ("-I", command[2])
    assert Path(command[2]).name == "llama_server.py"
    assert command[command.index("--model") + 1] == str(side.root / MODEL / opened)


@pytest.mark.parametrize("names", [["a.gguf", "b.gguf"], ["readme.md"], ["a-00002-of-00002.gguf"]])
def test_without_one_gguf_the_profile_must_say_which(tmp_path: Path, names: list[str]) -> None:
    side = perimeter(tmp_path, "llama.cpp", files=dict.fromkeys(names, b"x"))
    with refused("model-file", PolicyError, tmp_path):
        side.plan()


def test_a_model_file_that_is_not_listed_is_refused(tmp_path: Path) -> None:
    side = perimeter(tmp_path, "llama.cpp", files={"a.gguf": b"x"}, modelFile="b.gguf")
    with refused("model-file", PolicyError, tmp_path):
        side.plan()


def test_launching_loads_nothing_of_the_connected_side() -> None:
    program = (
        "import sys, bundler.launch.launch, bundler.engines.flags, bundler.cli.launch\n"
        "connected = {'requests', 'huggingface_hub', 'pydantic', 'sigstore', 'urllib3'}\n"
        "loaded = [name for name in sys.modules if name.split('.')[0] in connected]\n"
        "print(loaded + [name for name in sys.modules if name.startswith('bundler.sources')])"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"


def test_an_engine_whose_libraries_are_missing_is_refused(tmp_path: Path) -> None:
    side = perimeter(tmp_path)
    site = next((tmp_path / "env").glob("lib/python3.*/site-packages"))
    (site / "vllm").mkdir()
    (site / "vllm/_C.abi3.so").write_bytes(elf_file(["libnothing.so.9", "libc.so.6"]))
    record = next(site.glob("vllm*.dist-info/RECORD"))
    record.write_text(record.read_text() + "vllm/_C.abi3.so,,\n")
    with refused("no-system-library", MachineError, tmp_path) as caught:
        side.plan()
    assert caught.value.findings[0].expected == "libnothing.so.9"
