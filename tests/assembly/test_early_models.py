"""A wrong checkpoint is refused by `lock`, before a weight is fetched."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from bundler.assembly.early_models import LARGE, early_findings, hub_reader
from bundler.assembly.locking import make_lock
from bundler.cli.app import run
from bundler.core.specs.spec_text import parse_spec
from bundler.demo.hub import HubFile, LoopbackHub, Repository
from bundler.demo.serving import Answer, Request
from bundler.errors import Finding, SealiftError

SPEC = b"""apiVersion: sealift/v1
name: early
channel: early
serial: 1
models:
  - repo: acme/model
    id: model
    format: FORMAT
"""
CONFIG = b'{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}'
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 5\n"
INDEX = "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def weights(dtype: str = "BF16", *names: str) -> bytes:
    """A small safetensors file, with data much longer than its header."""
    names = names or ("model.embed.weight",)
    size = 1 << 16
    width = {"BF16": 2, "F8_E4M3": 1}[dtype]
    header = {
        name: {"dtype": dtype, "shape": [size // width], "data_offsets": [at * size, (at + 1) * size]}
        for at, name in enumerate(names)
    }
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(size * len(names))


def index(**files: str) -> bytes:
    """A shard index: tensor to shard."""
    return json.dumps({"metadata": {}, "weight_map": files}).encode()


class CountingHub(LoopbackHub):
    """A Hub that counts the bytes of weights it sends."""

    weight_requests: list[str]

    def resolve(self, request: Request, repository: Repository, path: str) -> Answer:
        if request.method == "GET" and path.endswith((".safetensors", ".gguf")):
            self.weight_requests.append(f"{path} {request.headers.get('Range', 'whole')}")
        return super().resolve(request, repository, path)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CountingHub]:
    (tmp_path / "hub/acme/model").mkdir(parents=True)
    with CountingHub(tmp_path / "hub") as running:
        running.weight_requests = []
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def judged_before_fetching(tmp_path: Path, files: dict[str, bytes], format: str = "any") -> list[Finding]:
    """What `plan` and `build` say of a repository that `lock` let pass, before a weight is fetched."""
    for name, data in files.items():
        (tmp_path / "hub/acme/model" / name).write_bytes(data)
    spec = SPEC.replace(b"FORMAT", format.encode())
    lock = make_lock(parse_spec(spec, "spec.yaml"), spec, tmp_path)
    return early_findings(lock.models[0], hub_reader())


def locked(tmp_path: Path, files: dict[str, bytes], format: str = "any") -> list[Finding]:
    """What `lock` says of a repository with `files`: errors raised or warnings given."""
    for name, data in files.items():
        (tmp_path / "hub/acme/model" / name).write_bytes(data)
    spec = SPEC.replace(b"FORMAT", format.encode())
    warnings: list[Finding] = []
    try:
        make_lock(parse_spec(spec, "spec.yaml"), spec, tmp_path, warn=warnings.append)
    except SealiftError as error:
        return [*error.findings]
    return warnings


@pytest.mark.parametrize(
    ("files", "reference"),
    [
        pytest.param({"tokenizer_config.json": b'{"a": 1,}'}, "bad-json", id="a document that is no JSON"),
        pytest.param({"tokenizer.model": POINTER}, "stand-in-file", id="a pointer as tokenizer"),
        pytest.param({"model.bin": b"\x80\x04."}, "pickle-refused", id="a pickle"),
        pytest.param({"merges.txt": b""}, "stand-in-file", id="an empty file"),
        pytest.param({INDEX: index(a=SHARDS[0]), SHARDS[0]: weights("BF16", "a")}, "second-copy",
                     id="a whole model beside the shards of the index"),
    ],
)  # fmt: skip
def test_small_faults_cost_no_request_for_a_weight(
    hub: CountingHub, tmp_path: Path, files: dict[str, bytes], reference: str
) -> None:
    found = locked(tmp_path, {"model.safetensors": weights(), "config.json": CONFIG, **files})
    assert reference in {finding.reference for finding in found if finding.is_error}
    assert all(finding.where.startswith("acme/model") for finding in found)
    assert hub.weight_requests == []


def test_another_format_than_asked_costs_headers_only(hub: CountingHub, tmp_path: Path) -> None:
    found = judged_before_fetching(tmp_path, {"model.safetensors": weights(), "config.json": CONFIG}, "int4")
    assert "weight-format" in {finding.reference for finding in found if finding.is_error}
    assert hub.weight_requests
    assert all(request.split()[1].startswith("bytes=0-") for request in hub.weight_requests)
    assert not any(request.endswith("whole") for request in hub.weight_requests)


def test_a_missing_shard_is_found_before_the_others_are_fetched(hub: CountingHub, tmp_path: Path) -> None:
    files = {
        SHARDS[0]: weights("BF16", "a"),
        INDEX: index(a=SHARDS[0], b=SHARDS[1]),
        "config.json": CONFIG,
    }
    found = judged_before_fetching(tmp_path, files)
    assert "shard-missing" in {finding.reference for finding in found if finding.is_error}
    assert not any(request.endswith("whole") for request in hub.weight_requests)


def test_a_good_model_is_locked_without_a_word(hub: CountingHub, tmp_path: Path) -> None:
    files = {
        SHARDS[0]: weights("BF16", "a"),
        SHARDS[1]: weights("BF16", "b"),
        INDEX: index(a=SHARDS[0], b=SHARDS[1]),
        "config.json": CONFIG,
    }
    assert judged_before_fetching(tmp_path, files) == []
    assert len(hub.weight_requests) == 4  # a length and a header each


def test_mistrals_own_copy_is_no_second_model(hub: CountingHub, tmp_path: Path) -> None:
    files = {
        "consolidated.safetensors": weights("BF16", "a"),
        "params.json": b"{}",
        SHARDS[0]: weights("BF16", "a"),
        INDEX: index(a=SHARDS[0]),
        "config.json": CONFIG,
    }
    found = locked(tmp_path, files)
    assert "second-copy" not in {finding.reference for finding in found}


class NoRanges(CountingHub):
    """A Hub that has no answer for ranges of weights."""

    def resolve(self, request: Request, repository: Repository, path: str) -> Answer:
        if path.endswith(".safetensors") and "Range" in request.headers:
            return Answer(status=416)
        return super().resolve(request, repository, path)


def test_a_hub_without_ranges_leaves_headers_to_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hub/acme/model").mkdir(parents=True)
    with NoRanges(tmp_path / "hub") as hub:
        hub.weight_requests = []
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        found = judged_before_fetching(tmp_path, {"model.safetensors": weights(), "config.json": CONFIG})
    assert [(finding.reference, finding.severity) for finding in found] == [("not-judged-early", "warning")]


class OtherETag(CountingHub):
    """A Hub that gives another ETag with a small file than it listed."""

    def file_headers(self, repository: Repository, file: HubFile) -> dict[str, str]:
        return {**super().file_headers(repository, file), "ETag": '"%s"' % ("0" * 40)}


def test_what_upstream_no_longer_gives_as_locked_is_left_to_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hub/acme/model").mkdir(parents=True)
    with OtherETag(tmp_path / "hub") as hub:
        hub.weight_requests = []
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        found = locked(tmp_path, {"model.safetensors": weights(), "config.json": CONFIG})
    assert [(finding.reference, finding.severity) for finding in found] == [("not-judged-early", "warning")]
    assert found[0].found.startswith("upstream-changed")
    assert hub.weight_requests == []


@pytest.mark.parametrize("verb", ["plan", "build"])
def test_a_large_wrong_model_is_refused_before_its_weights_are_fetched(
    hub: CountingHub, tmp_path: Path, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {SHARDS[0]: weights("BF16", "a", *(f"t{n}" for n in range(LARGE >> 16))), "config.json": CONFIG}
    files[INDEX] = index(a=SHARDS[0], b=SHARDS[1])
    for name, data in files.items():
        (tmp_path / "hub/acme/model" / name).write_bytes(data)
    spec = tmp_path / "spec.yaml"
    spec.write_bytes(SPEC.replace(b"FORMAT", b"any"))
    assert run(["lock", str(spec), "--json"]) == 0
    place = ["--to", str(tmp_path / "out")] if verb == "plan" else ["-o", str(tmp_path / "out")]
    capsys.readouterr()
    assert run([verb, str(spec), *place, "--json"]) == 3
    found = json.loads(capsys.readouterr().out)["findings"]
    assert "shard-missing" in {item["reference"] for item in found}
    assert not any(request.endswith("whole") for request in hub.weight_requests)
