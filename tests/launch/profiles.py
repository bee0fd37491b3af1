"""Manifests, models and environments to launch from, as small as they can be."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bundler.core.manifest import FileEntry, Manifest, compose
from bundler.core.paths import parse_bundle_path

MODEL = "payload/models/models--tiny--kimi/snapshots/" + "a" * 40
MARKER = "sealift-install.json"
ENGINES = {
    "vllm": ("vllm", "0.19.1"),
    "sglang": ("sglang", "0.5.10"),
    "tensorrt-llm": ("tensorrt-llm", "1.2.1"),
    "llama.cpp": ("xllamacpp", "2026.10.11549"),
    "transformers": ("transformers", "5.23.0"),
}


def launch_member(engine: str = "vllm", **members: Any) -> dict[str, Any]:
    """One entry of the manifest's `launch`, as the builder writes it."""
    distribution, pinned = ENGINES[engine]
    distribution = members.pop("distribution", distribution)
    version = members.pop("version", pinned)
    kimi = (
        {}
        if engine in ("llama.cpp", "transformers")
        else {"toolCallParser": "kimi_k2", "reasoningParser": "kimi_k2"}
    )
    return {
        "profile": "default",
        "engine": {
            "id": engine,
            "name": engine,
            "version": version,
            "folder": f"{engine}-cp311-x86_64",
            "requirement": f"{distribution}=={version}",
        },
        "model": {"id": "kimi", "path": MODEL, "format": "gguf" if engine == "llama.cpp" else "bf16"},
        "servedName": "kimi-tiny",
        "host": "127.0.0.1",
        "port": 8000,
        "tensorParallel": 1,
        "gpuMemoryUtilization": "0.90",
        "arguments": [],
        "environment": {},
        **kimi,
        **members,
    }


def bundle_of(root: Path, files: Mapping[str, bytes], *launch: Mapping[str, Any], **members: Any) -> Manifest:
    """A bundle tree at `root` with these files of the model; gives back its manifest."""
    entries = []
    for name, data in files.items():
        path = root / MODEL / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        entries.append(
            FileEntry(
                path=parse_bundle_path(f"{MODEL}/{name}"),
                size=len(data),
                sha256=hashlib.sha256(data).hexdigest(),
            )
        )
    data = compose(channel="tests", serial=1, files=entries, chunks=None, launch=list(launch), **members)
    (root / "manifest.json").write_bytes(data)
    return Manifest.parse(data)


def executable(*names: str) -> list[dict[str, Any]]:
    """An artifact that lists these files of the model as executable."""
    return [{"id": "kimi", "kind": "model", "executable": [f"{MODEL}/{name}" for name in names]}]


def install(environment: Path, sha256: str, engine: str = "vllm", version: str = "", **marker: Any) -> None:
    """What `sealift install` leaves, as far as launching looks at it: marker, interpreter, metadata."""
    distribution, pinned = ENGINES[engine]
    site = environment / "lib/python3.11/site-packages"
    info = site / f"{distribution.replace('-', '_')}-{version or pinned}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version or pinned}\n"
    )
    (info / "RECORD").write_text(f"{info.name}/METADATA,,\n{info.name}/RECORD,,\n")
    (environment / "bin").mkdir()
    (environment / "bin/python").write_text("#!/bin/sh\nexit 0\n")
    (environment / "bin/python").chmod(0o755)
    write_marker(environment, sha256, folder=f"{engine}-cp311-x86_64", **marker)


def write_marker(environment: Path, sha256: str, **members: Any) -> None:
    """The marker alone."""
    value = {"type": "urn:sealift:installation:v1", "manifest": sha256, **members}
    (environment / MARKER).write_text(json.dumps(value))
