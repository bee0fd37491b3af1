"""The specs that `sealift init` writes: commented, and complete enough to lock as they stand."""

from __future__ import annotations

from importlib.resources import files

from bundler.errors import UsageError

PROFILES = {
    "kimi-k2-vllm": "Kimi K2.7 Code in native INT4 with vLLM 0.19.1, for 8x H200",
    "kimi-k2-sglang": "Kimi K2.7 Code in native INT4 with SGLang 0.5.10, for 8x H200",
    "kimi-k2-fp8": "Kimi K2 Instruct 0905 in block-FP8 with vLLM 0.19.1, for 8x B200",
    "kimi-gguf": "Kimi K2.7 Code as a 2-bit GGUF with llama.cpp, for a machine with 512 GiB of main memory",
    "demo": "A tiny model with llama.cpp on the CPU: what `sealift demo` uses",
}
"""Name to one line about it."""
SCHEMA_FILE = "spec.schema.json"
"""The JSON Schema of a spec, as it is named beside what `sealift init` writes."""


def template(profile: str) -> str:
    """The spec of `profile`, with its comments. Raises UsageError (`unknown-profile`)."""
    if profile not in PROFILES:
        raise UsageError(
            "unknown-profile",
            "there is no such profile",
            expected=f"one of {', '.join(PROFILES)}",
            found=profile[:100],
        )
    return files(__name__).joinpath(f"{profile}.yaml").read_text(encoding="utf-8")


def template_for_editors(profile: str, schema: str = SCHEMA_FILE) -> str:
    """`template(profile)` below a line that tells editors where its schema is, relative to the spec.

    A relative path works without network (yaml-language-server, "Using inlined schema").
    """
    return f"# yaml-language-server: $schema={schema}\n{template(profile)}"
