"""Flags of llama.cpp's server, as the wheel of `xllamacpp` carries it."""

from __future__ import annotations

from bundler.engines import values
from bundler.engines.table import (
    HOST,
    OTHER_MODEL,
    PORT,
    REACHES_OUT,
    READABLE,
    EngineTable,
    Flag,
    Observability,
    by_name,
)
from bundler.engines.values import COUNT, Whole

LLAMA_CPP = EngineTable(
    engine="llama.cpp",
    version="2026.10.11549",
    distributions=("xllamacpp",),
    evidence="run",
    start=(),
    flags=by_name(
        Flag("--model", "FILE", "GGUF file, the first when split", "model", aliases=("-m",)),
        Flag("--alias", "NAME", "model name clients must send", "servedName", aliases=("-a",)),
        Flag(HOST, "ADDRESS", "address to bind", "host"),
        Flag(PORT, "PORT", "TCP port", "port", kind=values.PORT),
        Flag("--ctx-size", "TOKENS", "tokens of context", "contextLength", aliases=("-c",), kind=COUNT),
        Flag("--jinja", "", "the model's own chat template, with tools and reasoning", "engine"),
        Flag("--metrics", "", "serves /metrics", "observability"),
        Flag("--offline", "", "never reaches for the network", "engine"),
        Flag("--no-ui", "", "serves no web page", "engine"),
        Flag("--parallel", "N", "requests served at once", aliases=("-np",), kind=Whole(1, also=("-1",))),
        Flag("--batch-size", "N", "tokens per logical batch", aliases=("-b",), kind=COUNT),
        Flag("--ubatch-size", "N", "tokens per physical batch", aliases=("-ub",), kind=COUNT),
        Flag("--threads", "N", "processor threads", aliases=("-t",), kind=Whole(1, also=("-1",))),
        Flag(
            "--n-gpu-layers",
            "N",
            "layers on GPUs",
            aliases=("-ngl",),
            kind=Whole(0, also=("-1", "auto", "all")),
        ),
        Flag("--slots", "", "serves /slots"),
        Flag("--no-warmup", "", "skips the empty run before serving"),
        Flag("--check-tensors", "", "refuses weights that are not numbers"),
    ),
    refused={
        **dict.fromkeys(("--hf-repo", "-hf", "--hf-file", "--model-url", "-mu", "--hf-token"), REACHES_OUT),
        **dict.fromkeys(("--lora", "--mmproj", "--chat-template-file", "--model-draft", "-md"), OTHER_MODEL),
        "--api-key": READABLE,
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
