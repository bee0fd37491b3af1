"""Every flag table there is: one module per engine, one table per exact version."""

from __future__ import annotations

from bundler.engines.llama_cpp import LLAMA_CPP
from bundler.engines.sglang import SGLANG_010, SGLANG_023
from bundler.engines.table import EngineTable
from bundler.engines.tensorrt_llm import TENSORRT_LLM
from bundler.engines.transformers import TRANSFORMERS
from bundler.engines.vllm import VLLM_019, VLLM_032

TABLES: tuple[EngineTable, ...] = (
    VLLM_019,
    VLLM_032,
    SGLANG_010,
    SGLANG_023,
    TENSORRT_LLM,
    LLAMA_CPP,
    TRANSFORMERS,
)
