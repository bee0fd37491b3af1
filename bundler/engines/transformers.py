"""Flags of `transformers serve`, read in `transformers/cli/serve.py`."""

from __future__ import annotations

from bundler.engines import values
from bundler.engines.table import (
    HOST,
    PORT,
    EngineTable,
    Flag,
    Observability,
    by_name,
)
from bundler.engines.values import SEED, Text, Whole

TRANSFORMERS = EngineTable(
    engine="transformers",
    version="5.23.0",
    distributions=("transformers",),
    evidence="source",
    start=("-m", "transformers.cli.transformers", "serve"),
    flags=by_name(
        Flag("", "DIR", "local folder of the weights (no flag: the first argument)", "model"),
        Flag(HOST, "ADDRESS", "address to bind", "host"),
        Flag(PORT, "PORT", "TCP port", "port", kind=values.PORT),
        Flag("--trust-remote-code", "", "lets the model's own Python code run", "trustRemoteCode"),
        Flag("--continuous-batching", "", "several requests in one batch"),
        Flag(
            "--attn-implementation",
            "NAME",
            "attention kernels",
            choices=("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"),
        ),
        Flag("--compile", "", "torch.compile"),
        Flag(
            "--device",
            "NAME",
            "where to compute",
            kind=Text("auto, cpu, cuda or cuda:0", r"auto|(cpu|cuda|mps|xpu)(:[0-9]{1,2})?"),
        ),
        Flag(
            "--dtype",
            "TYPE",
            "type of the weights in memory",
            choices=("auto", "float16", "bfloat16", "float32", "float64"),
        ),
        Flag(
            "--log-level",
            "LEVEL",
            "detail of the log",
            choices=("debug", "info", "warning", "error", "critical"),
        ),
        Flag("--default-seed", "N", "seed of sampling", kind=SEED),
        Flag("--model-timeout", "SECONDS", "unload an idle model", kind=Whole(1, also=("-1",))),
    ),
    refused={"--enable-cors": "any page in a browser could use the server"},
    observability=Observability(
        turned_on=(),
        not_offered=("/metrics", "queue figures", "per-expert activation counters", "routing entropy"),
    ),
)
