"""The declared format of a model's weights against the one that its files have."""

from __future__ import annotations

from bundler.errors import ExitCode, Finding

SPEC_FORMATS = (
    *("bf16", "f16", "f32", "block-fp8", "fp8", "mxfp8", "int8", "int4", "int3", "int2"),
    *("mxfp4", "nvfp4", "gguf", "mixed", "any"),
)
"""What `format` of a model may say in a spec; a test compares it with the spec's own list."""


def spec_format(found: str) -> str:
    """The value of `format` that fits what was found: itself, or `any` for several kinds of files or none."""
    return found if found in SPEC_FORMATS else "any"


def format_finding(declared: str, found: str, *, where: str) -> Finding | None:
    """A finding (`weight-format`) when the weights are not what the spec declared; `any` fits all.

    `found` is `none` without weights; formats of GGUF and safetensors files are joined by `+`.
    """
    if declared in ("any", found):
        return None
    usable = spec_format(found)
    several = f" ({found})" if usable != found else ""
    return Finding(
        "weight-format",
        f"the weights are not in the declared format{several}",
        where=where,
        expected=declared,
        found=usable,
        hint=f"set `format: {usable}` in the spec if that is what was wanted, or take another revision",
        exit_code=ExitCode.POLICY,
    )
