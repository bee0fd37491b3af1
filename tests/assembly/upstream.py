"""A whole upstream on loopback: a Hub, a package index and a registry, with a model, a wheel and an image."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bundler.assembly.build import BuildRequest, build
from bundler.assembly.fetch_jobs import all_jobs
from bundler.assembly.locking import Resolvers, make_lock
from bundler.core.progress import SilentProgress
from bundler.core.specs.lock import Lock
from bundler.core.specs.spec_text import parse_spec
from bundler.demo.hub import LoopbackHub
from tests.content.files import entry, raw_safetensors
from tests.servers.index import IndexServer, Offer
from tests.servers.registry import FaultyRegistry
from tests.wheel_files import wheel

MODEL_FILES = {
    "config.json": b'{"model_type": "tiny"}',
    "model.safetensors": raw_safetensors({"w": entry("F32", [1], 0, 4)}, bytes(4)),
}
WHEEL, WHEEL_DATA = wheel("xllamacpp", "1.0")
PLATFORMS = ("linux/amd64", "linux/arm64")


@dataclass(kw_only=True)
class Upstream:
    """The three servers and a folder for specs; what is signed is added by each test."""

    folder: Path
    repository: Path
    index: IndexServer
    offer: Offer
    registry: FaultyRegistry
    hub: LoopbackHub
    image: dict[str, Any]
    """Descriptor of the image index."""
    parts: list[dict[str, Any]]
    """Descriptors of the two platforms."""

    def write(self, name: str, data: bytes | str) -> str:
        """A file beside the spec; its name."""
        (self.folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
        return name

    def spec(
        self,
        *,
        model: dict[str, Any] | None = None,
        engine: dict[str, Any] | None = None,
        image: dict[str, Any] | None = None,
        platforms: tuple[str, ...] = PLATFORMS,
    ) -> bytes:
        """A spec that carries what is given: each with a rule about who must have signed, `{}` for none."""
        value: dict[str, Any] = {
            "apiVersion": "sealift/v1",
            "name": "signed",
            "channel": "tests",
            "serial": 1,
        }
        if model is not None:
            value["models"] = [{"repo": "org/tiny", "endpoint": self.hub.url, **_rule("signature", model)}]
        if engine is not None:
            wanted = {"name": "llama.cpp", "requirement": "xllamacpp==1.0", "accelerator": "cpu"}
            value["engines"] = [{**wanted, **_rule("attestations", engine)}]
        if image is not None:
            described = {"reference": f"{self.registry.host}/demo/app:v1", "platforms": list(platforms)}
            value["images"] = [{**described, "plainHttp": True, **_rule("signature", image)}]
        return json.dumps(value).encode()

    def lock(self, spec: bytes) -> Lock:
        """The spec locked, without the tools that a real index would have to give."""
        resolvers = dataclasses.replace(Resolvers.of_sources(), tools=lambda _engines: ())
        return make_lock(parse_spec(spec, "spec.yaml"), spec, self.folder, resolvers=resolvers)

    def build(self, spec: bytes, lock: Lock, name: str = "bundle") -> Path:
        """The sealed bundle."""
        parsed = parse_spec(spec, "spec.yaml")
        request = BuildRequest(
            lock=lock,
            spec=spec,
            out=self.folder / name,
            created_at="2026-01-01T00:00:00Z",
            workers=2,
            jobs=lambda locked: all_jobs(locked, spec=parsed, base=self.folder, transport="http"),
            own_wheel=("sealift-0-py3-none-any.whl", b""),
        )
        build(request, SilentProgress())
        return request.out


def _rule(name: str, value: dict[str, Any]) -> dict[str, Any]:
    return {name: value} if value else {}


@contextmanager
def serving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Upstream]:
    """All servers, with nothing signed."""
    repository = tmp_path / "hub/org/tiny"
    repository.mkdir(parents=True)
    (tmp_path / "work").mkdir()
    for name, data in MODEL_FILES.items():
        (repository / name).write_bytes(data)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    registry = FaultyRegistry(tmp_path / "registry")
    with LoopbackHub(tmp_path / "hub") as hub, IndexServer() as index, registry:
        monkeypatch.setenv("UV_DEFAULT_INDEX", index.simple)
        offer = index.add(WHEEL, WHEEL_DATA)
        parts = [registry.add_image("demo/app", platform=one, text=one.encode()) for one in PLATFORMS]
        yield Upstream(
            folder=tmp_path / "work",
            repository=repository,
            index=index,
            offer=offer,
            registry=registry,
            hub=hub,
            image=registry.add_index("demo/app", "v1", parts),
            parts=parts,
        )


def standings(bundle: Path) -> dict[str, dict[str, Any]]:
    """What the manifest says about upstream signatures, by artifact."""
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    return {
        item["id"]: item["source"]["upstreamSignature"]
        for item in manifest["artifacts"]
        if "upstreamSignature" in item["source"]
    }


def sha256(data: bytes) -> str:
    """Lower-case hex."""
    return hashlib.sha256(data).hexdigest()
