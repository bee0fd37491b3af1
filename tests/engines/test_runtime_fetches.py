"""What engines fetch when they first compute is named when they are locked."""

from __future__ import annotations

import pytest

from bundler.engines.runtime_fetches import runtime_fetch_findings


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_flashinfer_without_its_kernels_is_named_with_the_remedy(engine: str) -> None:
    (found,) = runtime_fetch_findings(engine, {"flashinfer-python": "0.6.20", engine: "1"}, where="engine x")
    assert (found.reference, found.severity) == ("fetched-at-run-time", "warning")
    assert found.expected == "flashinfer-cubin 0.6.20"
    assert "flashinfer-cubin==0.6.20" in found.hint
    assert "https://flashinfer.ai/whl" in found.hint


def test_kernels_of_another_version_are_named() -> None:
    wheels = {"flashinfer-python": "0.6.20", "flashinfer-cubin": "0.6.13"}
    (found,) = runtime_fetch_findings("vllm", wheels, where="engine x")
    assert found.found.startswith("flashinfer-cubin 0.6.13")


@pytest.mark.parametrize(
    "wheels",
    [
        {"flashinfer-python": "0.6.20", "flashinfer-cubin": "0.6.20"},
        {"flashinfer-python": "0.6.20+cu129", "flashinfer-cubin": "0.6.20"},
        {"deep-gemm": "2.0", "nvidia-cuda-nvcc": "13.0"},
        {"torch": "2.9"},
    ],
)
def test_a_closed_set_has_no_findings(wheels: dict[str, str]) -> None:
    assert runtime_fetch_findings("vllm", wheels, where="engine x") == []


def test_a_compiler_that_is_missing_is_named() -> None:
    (found,) = runtime_fetch_findings("sglang", {"deep-gemm": "2.0"}, where="engine x")
    assert found.expected == "nvidia-cuda-nvcc"
