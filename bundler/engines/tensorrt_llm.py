"""Flags of TensorRT-LLM's `trtllm-serve`, from its documentation."""

from __future__ import annotations

from bundler.engines import values
from bundler.engines.table import (
    HOST,
    OTHER_MODEL,
    PORT,
    REACHES_OUT,
    RUNS_CODE,
    EngineTable,
    Flag,
    Observability,
    by_name,
)
from bundler.engines.values import COUNT, SHARE, Whole

TENSORRT_LLM = EngineTable(
    engine="tensorrt-llm",
    version="1.2.1",
    distributions=("tensorrt-llm",),
    evidence="documented",
    start=("-m", "tensorrt_llm.commands.serve", "serve"),
    flags=by_name(
        Flag("", "DIR", "local folder of the weights (no flag: the first argument)", "model"),
        Flag("--served_model_name", "NAME", "model name clients must send", "servedName"),
        Flag(HOST, "ADDRESS", "address to bind", "host"),
        Flag(PORT, "PORT", "TCP port", "port", kind=values.PORT),
        Flag(
            "--tp_size",
            "N",
            "GPUs that share each layer",
            "tensorParallel",
            aliases=("--tensor_parallel_size",),
            kind=COUNT,
        ),
        Flag("--max_seq_len", "TOKENS", "longest context of one request", "contextLength", kind=COUNT),
        Flag(
            "--kv_cache_free_gpu_memory_fraction",
            "SHARE",
            "share of free GPU memory for the KV cache",
            "gpuMemoryUtilization",
            kind=SHARE,
        ),
        Flag("--tool_parser", "NAME", "turns tool-call text into tool_calls", "toolCallParser"),
        Flag("--reasoning_parser", "NAME", "separates reasoning from the answer", "reasoningParser"),
        Flag("--trust_remote_code", "", "lets the model's own Python code run", "trustRemoteCode"),
        Flag("--backend", "NAME", "which runtime", "engine", choices=("pytorch",)),
        Flag(
            "--ep_size",
            "N",
            "GPUs that share the experts",
            aliases=("--moe_expert_parallel_size",),
            kind=COUNT,
        ),
        Flag(
            "--pp_size",
            "N",
            "groups of layers on different GPUs",
            aliases=("--pipeline_parallel_size",),
            kind=COUNT,
        ),
        Flag("--max_batch_size", "N", "requests in one batch at most", kind=COUNT),
        Flag("--max_num_tokens", "N", "tokens in one batch at most", kind=COUNT),
        Flag("--gpus_per_node", "N", "GPUs of this node", kind=COUNT),
        Flag("--enable_chunked_prefill", "", "mixes long prompts with running answers"),
        Flag("--num_postprocess_workers", "N", "processes that turn tokens into text", kind=Whole(0)),
        Flag(
            "--log_level",
            "LEVEL",
            "detail of the log",
            choices=("internal_error", "error", "warning", "info", "verbose", "debug", "trace"),
        ),
    ),
    refused={
        **dict.fromkeys(("--custom_module_dirs", "--custom_tokenizer"), RUNS_CODE),
        **dict.fromkeys(
            ("--otlp_traces_endpoint", "--disagg_cluster_uri", "--metadata_server_config_file"), REACHES_OUT
        ),
        **dict.fromkeys(
            ("--tokenizer", "--revision", "--config", "--extra_llm_api_options", "--chat_template"),
            OTHER_MODEL,
        ),
    },
    switches={"TRTLLM_NO_USAGE_STATS": "1", "TELEMETRY_DISABLED": "1"},
    tool_parsers=frozenset({"kimi_k2"}),
    reasoning_parsers=frozenset({"kimi_k2", "kimi_k25"}),
    kimi_parsers=(("kimi_k2",), ("kimi_k2", "kimi_k25")),
    observability=Observability(
        turned_on=("/metrics: per-iteration statistics as JSON",),
        not_offered=(
            "queue-depth histogram, by request class",
            "per-expert activation counters",
            "routing entropy",
        ),
    ),
)
