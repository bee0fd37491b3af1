"""llama.cpp's own server, started from the `xllamacpp` wheel under `llama-server`'s flag names.

Run as a plain script by the installed environment's own Python (`python -I llama_server.py -m FILE ...`):
it imports nothing of this package. Flags it does not know end it with exit code 2.
"""

from __future__ import annotations

import argparse
import signal
import sys
from typing import Any


def parser() -> argparse.ArgumentParser:
    """The flags, named and meant as in `llama-server --help`."""
    flags = argparse.ArgumentParser("llama-server", description=__doc__, allow_abbrev=False)
    flags.add_argument("-m", "--model", required=True, metavar="FILE", help="GGUF file, the first when split")
    flags.add_argument("--host", default="127.0.0.1", help="address to bind")
    flags.add_argument("--port", type=int, default=8080, help="TCP port; 0 takes a free one")
    flags.add_argument("-a", "--alias", default="", help="served model name")
    flags.add_argument("-c", "--ctx-size", type=int, default=0, help="tokens of context; 0: the model's own")
    flags.add_argument("-np", "--parallel", type=int, default=1, help="requests served at once")
    flags.add_argument("-b", "--batch-size", type=int, default=2048, help="tokens per logical batch")
    flags.add_argument("-ub", "--ubatch-size", type=int, default=512, help="tokens per physical batch")
    flags.add_argument("-t", "--threads", type=int, default=0, help="processor threads; 0: llama.cpp decides")
    flags.add_argument("-ngl", "--n-gpu-layers", type=int, default=-1, help="layers on GPUs; -1: automatic")
    flags.add_argument("--jinja", action="store_true", help="use the model's chat template, with tools")
    flags.add_argument("--metrics", action="store_true", help="serve /metrics")
    flags.add_argument("--slots", action="store_true", help="serve /slots")
    flags.add_argument("--offline", action="store_true", help="never reach for the network")
    flags.add_argument("--no-ui", action="store_true", help="serve no web page")
    flags.add_argument("--no-warmup", action="store_true", help="skip the empty run before serving")
    flags.add_argument("--check-tensors", action="store_true", help="refuse weights that are not numbers")
    return flags


def parameters(module: Any, given: argparse.Namespace) -> Any:
    """`xllamacpp`'s parameters for what was given."""
    wanted = module.CommonParams()
    wanted.model.path = given.model
    wanted.hostnames, wanted.port = [given.host], given.port
    wanted.n_ctx, wanted.n_parallel = given.ctx_size, given.parallel
    wanted.n_batch, wanted.n_ubatch = given.batch_size, given.ubatch_size
    wanted.n_gpu_layers = given.n_gpu_layers
    wanted.use_jinja = given.jinja
    wanted.endpoint_metrics, wanted.endpoint_slots = given.metrics, given.slots
    wanted.offline, wanted.ui = given.offline, not given.no_ui
    wanted.warmup, wanted.check_tensors = not given.no_warmup, given.check_tensors
    if given.threads:
        wanted.cpuparams.n_threads = given.threads
    if given.alias:
        wanted.model_alias = {given.alias}
    return wanted


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    given = parser().parse_args()
    import xllamacpp

    stop = {signal.SIGTERM, signal.SIGINT}
    # Blocked before the server's threads start, so that they inherit it and only sigwait sees a signal.
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)
    try:
        server = xllamacpp.Server(parameters(xllamacpp, given))
    except RuntimeError as error:
        sys.exit(f"llama-server: {error}")
    sys.stdout.write(f"listening on {server.listening_address}\n")
    sys.stdout.flush()
    signal.sigwait(stop)


if __name__ == "__main__":
    main()
