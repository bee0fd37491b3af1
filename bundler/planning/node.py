"""A machine as it is typed: `16xH100`, `4xH200:140GB`, `512GiB`."""

from __future__ import annotations

import re

from bundler.core.specs.spec import NodeSpec
from bundler.core.units import parse_size
from bundler.errors import SealiftError, UsageError
from bundler.planning.gpu_fit import node_kind

_GPUS = re.compile(r"\s*([0-9]{1,4})\s*[xX×]\s*([A-Za-z][\w .-]{0,60}?)\s*(?::\s*(\S{1,20}))?\s*")


def parse_node(text: str) -> NodeSpec:
    """The machine that `text` names.

    Raises UsageError (`bad-node`, `bad-size`) and MalformedError (`unknown-gpu`).
    """
    match = _GPUS.fullmatch(text)
    if match is not None and 0 < int(match[1]) <= 4096:
        if match[3] is not None:
            parse_size(match[3])
        node = NodeSpec(gpu=match[2], count=int(match[1]), memory=match[3])
        node_kind(node)
        return node
    try:
        parse_size(text)
    except SealiftError as error:
        raise _bad(text) from error
    return NodeSpec(ram=text)


def _bad(text: str) -> UsageError:
    return UsageError(
        "bad-node",
        "this names no machine",
        where="--node",
        expected="COUNTxGPU with 1 to 4096 GPUs (16xH100, 4xH200:140GB), or main memory (512GiB)",
        found=text[:100],
        hint="`sealift plan --gpus` lists what is known",
    )
