"""Flags of SGLang, read in `srt/server_args.py` and `srt/arg_groups/` of each version."""

from __future__ import annotations

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
from bundler.engines.values import COUNT, FILE, SECONDS, SEED, SHARE, TOKENS, Whole

_DTYPES = ("auto", "half", "float16", "bfloat16", "float", "float32")
_SGLANG_FLAGS = (
    Flag("--model-path", "DIR", "local folder of the weights", "model", aliases=("--model",)),
    Flag("--served-model-name", "NAME", "model name clients must send", "servedName"),
    Flag(HOST, "ADDRESS", "address to bind", "host"),
    Flag(PORT, "PORT", "TCP port", "port", kind=values.PORT),
    Flag(
        "--tp-size",
        "N",
        "GPUs that share each layer",
        "tensorParallel",
        aliases=("--tensor-parallel-size",),
        kind=COUNT,
    ),
    Flag("--context-length", "TOKENS", "longest context of one request", "contextLength", kind=TOKENS),
    Flag(
        "--mem-fraction-static",
        "SHARE",
        "share of GPU memory for weights and KV",
        "gpuMemoryUtilization",
        kind=SHARE,
    ),
    Flag("--tool-call-parser", "NAME", "turns tool-call text into tool_calls", "toolCallParser"),
    Flag("--reasoning-parser", "NAME", "separates reasoning from the answer", "reasoningParser"),
    Flag("--trust-remote-code", "", "lets the model's own Python code run", "trustRemoteCode"),
    Flag("--load-format", "FORMAT", "which weight files to open", "model.format"),
    Flag("--enable-metrics", "", "serves /metrics", "observability"),
    Flag("--model-checksum", "FILE", "hashes the weights again while loading", "model.checksums"),
    Flag("--ep-size", "N", "GPUs that share the experts", aliases=("--expert-parallel-size",), kind=COUNT),
    Flag("--dp-size", "N", "copies of the attention layers", aliases=("--data-parallel-size",), kind=COUNT),
    Flag(
        "--pp-size",
        "N",
        "groups of layers on different GPUs",
        aliases=("--pipeline-parallel-size",),
        kind=COUNT,
    ),
    Flag("--enable-dp-attention", "", "data parallelism for attention only"),
    Flag("--max-running-requests", "N", "requests in one batch at most", kind=COUNT),
    Flag("--max-queued-requests", "N", "waiting requests at most", kind=COUNT),
    Flag("--chunked-prefill-size", "TOKENS", "piece of a long prompt", kind=Whole(1, also=("-1",))),
    Flag("--max-total-tokens", "TOKENS", "size of the KV cache", kind=TOKENS),
    Flag("--disable-radix-cache", "", "keeps every request's KV cache apart"),
    Flag("--disable-cuda-graph", "", "starts sooner, runs slower"),
    Flag("--sampling-defaults", "SOURCE", "sampling defaults", choices=("openai", "model")),
    Flag("--dtype", "TYPE", "type of activations", choices=_DTYPES),
    Flag("--device", "NAME", "where to compute", choices=("cuda", "xpu", "hpu", "npu", "cpu", "musa")),
    Flag("--random-seed", "N", "seed of sampling", kind=SEED),
    Flag("--skip-server-warmup", "", "skips the first empty request"),
    Flag("--watchdog-timeout", "SECONDS", "ends a server that hangs", kind=SECONDS),
    Flag("--enable-eplb", "", "balances experts over GPUs by load"),
    Flag(
        "--expert-distribution-recorder-mode",
        "MODE",
        "counts experts",
        choices=("stat", "stat_approx", "per_pass", "per_token"),
    ),
    Flag(
        "--expert-distribution-recorder-buffer-size",
        "N",
        "passes kept by the recorder",
        kind=Whole(1, also=("-1",)),
    ),
    Flag("--enable-return-routed-experts", "", "expert ids of each token, on request"),
    Flag("--enable-cache-report", "", "cached tokens in each answer's usage"),
    Flag(
        "--log-level", "LEVEL", "detail of the log", choices=("debug", "info", "warning", "error", "critical")
    ),
    Flag("--log-requests", "", "a line per request"),
    Flag("--decode-log-interval", "N", "batches between two log lines", kind=COUNT),
    Flag("--ssl-keyfile", "FILE", "TLS key", kind=FILE),
    Flag("--ssl-certfile", "FILE", "TLS certificate", kind=FILE),
)


def _differing(cache: str, policies: str, attention: str, experts: str) -> tuple[Flag, ...]:
    """Flags whose values differ between the versions."""
    return (
        Flag(
            "--kv-cache-dtype", "TYPE", "type of the KV cache", "kvCacheDtype", choices=tuple(cache.split())
        ),
        Flag("--schedule-policy", "POLICY", "order of requests", choices=tuple(policies.split())),
        Flag("--attention-backend", "NAME", "attention kernels", choices=tuple(attention.split())),
        Flag("--moe-runner-backend", "NAME", "expert kernels", choices=tuple(experts.split())),
    )


_SGLANG_REFUSED = {
    **dict.fromkeys(("--custom-weight-loader", "--forward-hooks", "--custom-sigquit-handler"), RUNS_CODE),
    **dict.fromkeys(
        (
            *("--otlp-traces-endpoint", "--kv-events-config", "--tool-server", "--dist-init-addr"),
            *("--remote-instance-weight-loader-seed-instance-ip", "--hicache-storage-backend"),
        ),
        REACHES_OUT,
    ),
    **dict.fromkeys(
        (
            *(
                "--tokenizer-path",
                "--revision",
                "--download-dir",
                "--lora-paths",
                "--chat-template",
                "--config",
            ),
            *("--speculative-draft-model-path", "--json-model-override-args", "--decrypted-config-file"),
            *("--model-loader-extra-config", "--quantization-param-path", "--completion-template"),
        ),
        OTHER_MODEL,
    ),
    "--api-key": READABLE,
    "--admin-api-key": READABLE,
    "--enable-custom-logit-processor": "clients could send pickled code that runs in the server",
}
_SGLANG_ENVIRONMENT = {
    "SGLANG_HOST_IP": "address of this node among several",
    "SGLANG_EXPERT_DISTRIBUTION_RECORDER_DIR": "folder of expert counts (otherwise /tmp)",
    "SGLANG_LOG_MS": "milliseconds in log lines",
    "SGLANG_USE_CPU_ENGINE": "1: compute on the CPU",
}
_EXPERT_COUNTS = (
    "per-expert load: --expert-distribution-recorder-mode stat, then /start_expert_distribution_record, "
    "/stop_expert_distribution_record and /dump_expert_distribution_record"
)
_SGLANG_OBSERVABILITY = Observability(
    turned_on=(
        "/metrics (--enable-metrics)",
        "queue: gauges sglang:num_queue_reqs, sglang:num_running_reqs and sglang:num_grammar_queue_reqs",
        "queue time: histogram sglang:queue_time_seconds",
    ),
    on_request=(
        _EXPERT_COUNTS,
        "expert balance: sglang:eplb_balancedness with --enable-eplb",
        "experts of each token: --enable-return-routed-experts and the request's return_routed_experts",
    ),
    not_offered=(
        "queue-depth histogram, by request class",
        "routing entropy: compute it from the recorder's dump",
    ),
)
_DIFFERING_010 = _differing(
    "auto fp8_e5m2 fp8_e4m3 bf16 bfloat16 fp4_e2m1",
    "lpm random fcfs dfs-weight lof priority routing-key",
    """
        triton torch_native flex_attention nsa cutlass_mla fa3 fa4 flashinfer flashmla trtllm_mla trtllm_mha
        dual_chunk_flash_attn aiter wave intel_amx ascend intel_xpu
    """,
    """
        auto deep_gemm triton triton_kernel flashinfer_trtllm flashinfer_trtllm_routed flashinfer_cutlass
        flashinfer_mxfp4 flashinfer_cutedsl cutlass
    """,
)
SGLANG_010 = EngineTable(
    engine="sglang",
    version="0.5.10",
    distributions=("sglang",),
    evidence="source",
    start=("-m", "sglang.launch_server"),
    flags=by_name(
        *_SGLANG_FLAGS,
        *_DIFFERING_010,
        Flag("--enable-expert-distribution-metrics", "", "expert balance in /metrics"),
        Flag("--collect-tokens-histogram", "", "token counts in /metrics"),
    ),
    refused=_SGLANG_REFUSED,
    environment=_SGLANG_ENVIRONMENT,
    tool_parsers=names(
        """
        deepseekv3 deepseekv31 deepseekv32 gigachat3 glm glm45 glm47 gpt-oss hermes interns1 kimi_k2
        lfm2 llama3 mimo minimax-m2 mistral pythonic qwen qwen25 qwen3_coder step3 step3p5 trinity
        """
    ),
    reasoning_parsers=names(
        """
        deepseek-r1 deepseek-v3 glm45 gpt-oss interns1 kimi kimi_k2 mimo minimax minimax-append-think
        mistral nemotron_3 qwen3 qwen3-thinking step3 step3p5
        """
    ),
    kimi_parsers=(("kimi_k2",), ("kimi_k2",)),
    observability=_SGLANG_OBSERVABILITY,
)
_DIFFERING_023 = _differing(
    "auto fp8_e5m2 fp8_e4m3 mxfp8 bf16 bfloat16 nvfp4 fp4_mx_block16",
    "lpm random fcfs dfs-weight lof priority routing-key hrrn shortest-prefill-first",
    """
        triton torch_native flex_attention dsa nsa qsa dsv4 compressed fa3 fa4 flashinfer
        llada2_cfg_flashinfer flashmla trtllm_mla cutedsl_mla tokenspeed_mla trtllm_mha hpc_ops
        minicpm_flashattn minicpm_flashinfer aiter wave intel_amx ascend intel_xpu
    """,
    """
        auto deep_gemm triton triton_kernel flashinfer_trtllm experimental_sgl_trtllm
        flashinfer_trtllm_routed flashinfer_cutlass flashinfer_mxfp4 flashinfer_cutedsl flashinfer_megamoe
        cutlass aiter marlin humming experimental_sgl_marlin lora_cutedsl lora_triton lora_marlin hpc_ops
        megamoe intel_xpu
    """,
)
SGLANG_023 = EngineTable(
    engine="sglang",
    version="0.5.23",
    distributions=("sglang",),
    evidence="source",
    start=("-m", "sglang.launch_server"),
    flags=by_name(*_SGLANG_FLAGS, *_DIFFERING_023),
    refused={
        **_SGLANG_REFUSED,
        "--enable-expert-distribution-metrics": "this version does not have it any more",
        "--collect-tokens-histogram": "this version does not have it any more",
    },
    environment=_SGLANG_ENVIRONMENT,
    tool_parsers=names(
        """
        apertus2509 beam cohere_command4 deepseekv3 deepseekv31 deepseekv32 deepseekv4 deepseekv41 dots
        gemma4 gigachat3 gigachat35 glm glm45 glm47 gpt-oss hermes hunyuan inkling interns1 iquest_q1
        k2_horizon kimi_k2 kimi_k3 lfm2 ling3 llama3 mimo minicpm5 minimax-m2 minimax-m3 mistral muse
        nanbeige poolside_v1 pythonic qwen qwen25 qwen3_coder spark25 step3 step3p5 trinity
        """
    ),
    reasoning_parsers=names(
        """
        apertus2509 beam cohere_command4 deepseek-r1 deepseek-v3 deepseek-v4 deepseek-v41 dots gemma4
        gigachat35 glm45 gpt-oss granite_thinking_parser hunyuan inkling interns1 iquest_q1 k2_horizon
        kimi kimi_k2 kimi_k3 ling3 mimo minimax minimax-append-think minimax-m3 mistral muse nanbeige
        nemotron_3 poolside_v1 qwen3 qwen3-thinking step3 step3p5
        """
    ),
    kimi_parsers=(("kimi_k2", "kimi_k3"), ("kimi_k2", "kimi_k3")),
    observability=_SGLANG_OBSERVABILITY,
)
