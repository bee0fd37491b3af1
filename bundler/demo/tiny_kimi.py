"""A tiny model in the shape of Kimi K2, the same bytes everywhere: for the demonstration and for tests.

Three layers (one dense, two with eight experts), multi-head latent attention with the real K2's latent sizes,
real tensor names and configuration keys. Embeddings and output head encode a fixed chain of tokens, so that
every engine gives the same known answer, greedy or sampled:

- `/v1/completions` with any prompt: `COMPLETION_TEXT`;
- `/v1/chat/completions`: the reasoning `REASONING_TEXT`, then one tool call `TOOL_CALL_ID` of
  `TOOL_NAME` with `TOOL_ARGUMENTS`.

The FP8 and INT4 variants have the published formats' tensors and scales; their values mean nothing.
Standard library only. Weights come from SHAKE-256 of the tensor's name: no random generator, no libm.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

Variant = Literal["bf16", "fp8", "int4"]

HIDDEN, HEADS, Q_RANK, KV_RANK = 256, 4, 128, 512
NOPE, ROPE, VALUE = 128, 64, 128
"""Per head: query dimensions without and with rotary position, and value dimensions."""
LAYERS, EXPERTS, ACTIVE_EXPERTS, EXPERT_WIDTH, DENSE_WIDTH = 3, 8, 2, 128, 256
FP8_BLOCK = 128
INT4_GROUP = 32
CONTEXT_LENGTH = 131072
SERVED_LENGTH = 4096
"""What the tokenizer and the GGUF promise: no test needs more."""
RMS_EPSILON, ROPE_THETA, ROUTED_SCALE = 1e-6, 50000.0, 2.827

TOOL_TOKENS = (
    "<|tool_calls_section_begin|>",
    "<|tool_calls_section_end|>",
    "<|tool_call_begin|>",
    "<|tool_call_argument_begin|>",
    "<|tool_call_end|>",
)
SPECIAL_TOKENS = (
    *("[BOS]", "[EOS]", "<|im_end|>", "<|im_user|>", "<|im_assistant|>", "<|im_system|>", "<|im_middle|>"),
    *("[UNK]", "[PAD]", "[EOT]", "<|start_header_id|>", "<|end_header_id|>"),
)
THINK_TOKENS = ("<think>", "</think>")
SENTENCE = ("Weights", " verified", " offline", " and", " served", " here.")
THOUGHT = ("plan", " first")

COMPLETION_TEXT = "".join(SENTENCE)
"""What `/v1/completions` answers to any prompt."""
REASONING_TEXT = "".join(THOUGHT)
"""What a chat completion gives as reasoning, where the engine has the parser."""
TOOL_NAME = "get_weather"
TOOL_CALL_ID = "functions.get_weather:0"
TOOL_ARGUMENTS = '{"city": "Paris"}'
"""Exact text of the tool call's arguments."""
END = "<|im_end|>"
_ANSWERS = (
    (*SENTENCE, END),
    (
        *("<|im_middle|>", "<think>", *THOUGHT, "</think>"),
        *("<|tool_calls_section_begin|>", "<|tool_call_begin|>", TOOL_CALL_ID),
        *("<|tool_call_argument_begin|>", TOOL_ARGUMENTS, "<|tool_call_end|>"),
        *("<|tool_calls_section_end|>", END),
    ),
)
"""Chains of tokens: each token is followed by the next; any other token by the sentence's first."""

CHAT_TEMPLATE = """\
{%- if tools -%}<|im_system|>tool_declare<|im_middle|>{{ tools | tojson }}<|im_end|>{%- endif -%}
{%- for m in messages -%}
{%- if m.role == 'user' -%}<|im_user|>user<|im_middle|>
{%- elif m.role == 'assistant' -%}<|im_assistant|>assistant<|im_middle|>
{%- elif m.role == 'tool' -%}<|im_system|>tool<|im_middle|>## Return of {{ m.tool_call_id }}
{% else -%}<|im_system|>system<|im_middle|>{%- endif -%}
{%- if m.role == 'assistant' -%}<think>{{ m.reasoning_content or '' }}</think>{%- endif -%}
{{- m.content if m.content is string else '' -}}
{%- if m.tool_calls -%}<|tool_calls_section_begin|>
{%- for c in m.tool_calls -%}<|tool_call_begin|>
{{- c.id or ('functions.' ~ c.function.name ~ ':' ~ loop.index0) }}<|tool_call_argument_begin|>
{{- c.function.arguments if c.function.arguments is string else c.function.arguments | tojson -}}
<|tool_call_end|>{%- endfor -%}
<|tool_calls_section_end|>{%- endif -%}<|im_end|>
{%- endfor -%}
{%- if add_generation_prompt -%}<|im_assistant|>assistant<|im_middle|>{%- endif -%}
"""

LICENSE_NAME = "sealift tiny"
LICENSE_TEXT = f"""\
Modified MIT License

Copyright (c) 2026 the authors of sealift

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without
limitation the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of
the Software, and to permit persons to whom the Software is furnished to do so, subject to the following
conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial
portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT
LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO
EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN
AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE
OR OTHER DEALINGS IN THE SOFTWARE.

Our only modification is that, if the Software (or any derivative works thereof) is used for any of your
commercial products or services that have more than 100 million monthly active users, or more than 20
million US dollars (or equivalent in other currencies) in monthly revenue, you shall prominently display
"{LICENSE_NAME}" on the user interface of such product or service.
"""

REMOTE_CODE = {
    "configuration_tiny.py": '''\
"""Configuration class of the tiny model: runs only with --trust-remote-code."""

from transformers import DeepseekV3Config


class TinyKimiConfig(DeepseekV3Config):
    model_type = "kimi_k2"
''',
    "modeling_tiny.py": '''\
"""Model class of the tiny model: runs only with --trust-remote-code."""

from transformers import DeepseekV3ForCausalLM

from .configuration_tiny import TinyKimiConfig


class TinyKimiForCausalLM(DeepseekV3ForCausalLM):
    config_class = TinyKimiConfig
''',
}
_AUTO_MAP = {
    "AutoConfig": "configuration_tiny.TinyKimiConfig",
    "AutoModelForCausalLM": "modeling_tiny.TinyKimiForCausalLM",
}


@dataclass(frozen=True, slots=True)
class TinyTensor:
    """One tensor with its bytes; `dtype` as safetensors names it, `shape` outermost dimension first."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


def write_model(
    folder: Path, variant: Variant = "bf16", *, shards: int = 3, remote_code: bool = False
) -> tuple[str, ...]:
    """Write the model below `folder` (made if need be); its files, sorted."""
    files = model_files(variant, shards=shards, remote_code=remote_code)
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return tuple(sorted(files))


def model_files(variant: Variant = "bf16", *, shards: int = 3, remote_code: bool = False) -> dict[str, bytes]:
    """All files of the model by name: weights in `shards` shards with their index, configuration, tokenizer,
    chat template and licence; with `remote_code`, Python files that `auto_map` names.
    """
    files = sharded(weights(variant), shards)
    files |= {
        "config.json": _json(config(variant, remote_code=remote_code)),
        "generation_config.json": _json({"eos_token_id": token_id(END), "max_length": SERVED_LENGTH}),
        "tokenizer.json": _json(_tokenizer()),
        "tokenizer_config.json": _json(_tokenizer_config()),
        "chat_template.jinja": CHAT_TEMPLATE.encode(),
        "tiktoken.model": _tiktoken(),
        "LICENSE": LICENSE_TEXT.encode(),
    }
    if remote_code:
        files |= {name: text.encode() for name, text in REMOTE_CODE.items()}
    return files


# --- vocabulary -------------------------------------------------------------------------------------------


@cache
def vocabulary() -> tuple[str, ...]:
    """All tokens by id: 256 bytes, then special tokens, then whole words; padded to a multiple of 64."""
    words = (*SENTENCE, *THOUGHT, TOOL_CALL_ID, TOOL_ARGUMENTS)
    tokens = [*byte_tokens(), *SPECIAL_TOKENS, *TOOL_TOKENS, *THINK_TOKENS, *words]
    while len(tokens) % 64:
        tokens.append(f"<|reserved_token_{len(tokens)}|>")
    return tuple(tokens)


@cache
def byte_tokens() -> tuple[str, ...]:
    """The printable character that byte-level BPE (GPT-2) writes for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    characters = dict(zip(printable, map(chr, printable), strict=True))
    characters.update((byte, chr(256 + n)) for n, byte in enumerate(others))
    return tuple(characters[byte] for byte in range(256))


def token_id(token: str) -> int:
    """The id of a token."""
    return vocabulary().index(token)


def is_special(token: str) -> bool:
    """Whether the tokenizer drops the token from text. Tool-call and think tokens are not special in the real
    tokenizer either: parsers must see them.
    """
    return token in SPECIAL_TOKENS or token.startswith("<|reserved")


@cache
def successors() -> Mapping[int, int]:
    """Which token follows which."""
    return {
        token_id(token): token_id(following) for answer in _ANSWERS for token, following in pairwise(answer)
    }


# --- weights ----------------------------------------------------------------------------------------------

_ONE = b"\x80\x3f"
"""1.0 in BF16, little-endian."""


def weights(variant: Variant = "bf16") -> dict[str, TinyTensor]:
    """All tensors by name, in the order in which they are stored."""
    tensors = {"model.embed_tokens.weight": _embeddings()}
    for layer in range(LAYERS):
        tensors |= _layer(layer, variant)
    tensors["model.norm.weight"] = _ones(HIDDEN)
    tensors["lm_head.weight"] = _head()
    return tensors


def _layer(layer: int, variant: Variant) -> dict[str, TinyTensor]:
    prefix = f"model.layers.{layer}."
    tensors = {
        prefix + "input_layernorm.weight": _ones(HIDDEN),
        prefix + "post_attention_layernorm.weight": _ones(HIDDEN),
    }
    tensors |= _attention(prefix + "self_attn.", variant)
    if layer == 0:
        tensors |= _mlp(prefix + "mlp.", DENSE_WIDTH, variant)
        return tensors
    tensors |= _linear(prefix + "mlp.gate", EXPERTS, HIDDEN, "bf16")
    tensors[prefix + "mlp.gate.e_score_correction_bias"] = TinyTensor("F32", (EXPERTS,), bytes(4 * EXPERTS))
    for expert in (*(f"experts.{number}" for number in range(EXPERTS)), "shared_experts"):
        tensors |= _mlp(f"{prefix}mlp.{expert}.", EXPERT_WIDTH, variant)
    return tensors


def _attention(prefix: str, variant: Variant) -> dict[str, TinyTensor]:
    return {
        **_linear(prefix + "q_a_proj", Q_RANK, HIDDEN, variant),
        prefix + "q_a_layernorm.weight": _ones(Q_RANK),
        **_linear(prefix + "q_b_proj", HEADS * (NOPE + ROPE), Q_RANK, variant),
        **_linear(prefix + "kv_a_proj_with_mqa", KV_RANK + ROPE, HIDDEN, variant),
        prefix + "kv_a_layernorm.weight": _ones(KV_RANK),
        **_linear(prefix + "kv_b_proj", HEADS * (NOPE + VALUE), KV_RANK, variant),
        **_linear(prefix + "o_proj", HIDDEN, HEADS * VALUE, variant),
    }


def _mlp(prefix: str, width: int, variant: Variant) -> dict[str, TinyTensor]:
    return {
        **_linear(prefix + "gate_proj", width, HIDDEN, variant),
        **_linear(prefix + "up_proj", width, HIDDEN, variant),
        **_linear(prefix + "down_proj", HIDDEN, width, variant),
    }


def _linear(name: str, rows: int, columns: int, variant: Variant) -> dict[str, TinyTensor]:
    """One matrix, and its scales when `variant` quantises it. INT4 packs routed experts only, as K2 does."""
    if variant == "fp8":
        return _fp8_linear(name, rows, columns)
    if variant == "int4" and ".experts." in name:
        return _int4_linear(name, rows, columns)
    # Magnitudes from 2^-7 to 2^-6: small beside the embeddings, so that they never decide the next token.
    data = bytearray(_noise(name, 2 * rows * columns))
    data[0::2] = data[0::2].translate(_masked(0x7F, 0))
    data[1::2] = data[1::2].translate(_masked(0x80, 0x3C))
    return {name + ".weight": TinyTensor("BF16", (rows, columns), bytes(data))}


def _fp8_linear(name: str, rows: int, columns: int) -> dict[str, TinyTensor]:
    # Exponent 0111: magnitudes from 1 to 1.875, never the NaN of E4M3.
    data = _noise(name, rows * columns).translate(_masked(0x87, 0x38))
    blocks = (-(-rows // FP8_BLOCK), -(-columns // FP8_BLOCK))
    scales = struct.pack("<f", 0.01) * (blocks[0] * blocks[1])
    return {
        name + ".weight": TinyTensor("F8_E4M3", (rows, columns), data),
        name + ".weight_scale_inv": TinyTensor("F32", blocks, scales),
    }


def _int4_linear(name: str, rows: int, columns: int) -> dict[str, TinyTensor]:
    groups = columns // INT4_GROUP
    scale = struct.pack("<f", 0.003)[2:]
    return {
        name + ".weight_packed": TinyTensor("I32", (rows, columns // 8), _noise(name, rows * columns // 2)),
        name + ".weight_scale": TinyTensor("BF16", (rows, groups), scale * (rows * groups)),
        name + ".weight_shape": TinyTensor("I32", (2,), struct.pack("<2i", rows, columns)),
    }


def _embeddings() -> TinyTensor:
    """A row of signs per token: nearly orthogonal. Dimension 0 marks the tokens without a successor."""
    rows = (_pack_bf16(_embedding(token)) for token in range(len(vocabulary())))
    return TinyTensor("BF16", (len(vocabulary()), HIDDEN), b"".join(rows))


def _embedding(token: int) -> list[float]:
    row = _signs(f"embedding {token}", HIDDEN)
    row[0] = 0.0 if token in successors() else 16.0
    return row


def _head() -> TinyTensor:
    """A row per token that answers to the embeddings of the tokens before it."""
    rows = (_pack_bf16(_head_row(token)) for token in range(len(vocabulary())))
    return TinyTensor("BF16", (len(vocabulary()), HIDDEN), b"".join(rows))


def _head_row(token: int) -> list[float]:
    row = [sign / 128 for sign in _signs(f"head {token}", HIDDEN)]
    for before, following in successors().items():
        if following == token:
            row = [value + other / 2 for value, other in zip(row, _embedding(before), strict=True)]
    if token == token_id(SENTENCE[0]):
        row[0] += 16.0
    return row


def _ones(count: int) -> TinyTensor:
    return TinyTensor("BF16", (count,), _ONE * count)


def _noise(name: str, count: int) -> bytes:
    """`count` bytes that depend on `name` alone."""
    return hashlib.shake_256(f"sealift tiny kimi: {name}".encode()).digest(count)


def _signs(name: str, count: int) -> list[float]:
    bits = int.from_bytes(_noise(name, -(-count // 8)), "little")
    return [1.0 if bits >> n & 1 else -1.0 for n in range(count)]


@cache
def _masked(keep: int, set_bits: int) -> bytes:
    """A translation table: keep some bits of a byte, set others."""
    return bytes(byte & keep | set_bits for byte in range(256))


def _pack_bf16(values: Sequence[float]) -> bytes:
    """BF16 by truncation: the upper half of each F32."""
    wide = struct.pack(f"<{len(values)}f", *values)
    narrow = bytearray(2 * len(values))
    narrow[0::2], narrow[1::2] = wide[2::4], wide[3::4]
    return bytes(narrow)


# --- files ------------------------------------------------------------------------------------------------


def sharded(tensors: Mapping[str, TinyTensor], shards: int) -> dict[str, bytes]:
    """Safetensors files in the published naming (5 and 6 digits) with `model.safetensors.index.json`."""
    groups = _grouped(tensors, shards)
    files: dict[str, bytes] = {}
    weight_map: dict[str, str] = {}
    for number, group in enumerate(groups, start=1):
        name = f"model-{number:05d}-of-{len(groups):06d}.safetensors"
        files[name] = safetensors_bytes(group)
        weight_map.update(dict.fromkeys(group, name))
    total = sum(len(tensor.data) for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    files["model.safetensors.index.json"] = _json(index)
    return files


def _grouped(tensors: Mapping[str, TinyTensor], shards: int) -> list[dict[str, TinyTensor]]:
    """The tensors in order, cut into `shards` groups of about the same bytes."""
    share = sum(len(tensor.data) for tensor in tensors.values()) / shards
    groups: list[dict[str, TinyTensor]] = [{} for _ in range(shards)]
    position = 0
    for name, tensor in tensors.items():
        groups[min(int(position / share), shards - 1)][name] = tensor
        position += len(tensor.data)
    return [group for group in groups if group]


def safetensors_bytes(tensors: Mapping[str, TinyTensor]) -> bytes:
    """One safetensors file: length of the header, header padded to eight bytes, data without gaps."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + len(tensor.data)
        header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([struct.pack("<Q", len(text)), text, *(tensor.data for tensor in tensors.values())])


def config(variant: Variant = "bf16", *, remote_code: bool = False) -> dict[str, Any]:
    """config.json with the keys and values of the real one, apart from the sizes."""
    value: dict[str, Any] = {
        "architectures": ["DeepseekV3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": token_id("[BOS]"),
        "eos_token_id": token_id(END),
        "ep_size": 1,
        "first_k_dense_replace": 1,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": DENSE_WIDTH,
        "kv_lora_rank": KV_RANK,
        "max_position_embeddings": CONTEXT_LENGTH,
        "model_type": "kimi_k2",
        "moe_intermediate_size": EXPERT_WIDTH,
        "moe_layer_freq": 1,
        "n_group": 1,
        "n_routed_experts": EXPERTS,
        "n_shared_experts": 1,
        "norm_topk_prob": True,
        "num_attention_heads": HEADS,
        "num_experts_per_tok": ACTIVE_EXPERTS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": HEADS,
        "num_nextn_predict_layers": 0,
        "pretraining_tp": 1,
        "q_lora_rank": Q_RANK,
        "qk_nope_head_dim": NOPE,
        "qk_rope_head_dim": ROPE,
        "rms_norm_eps": RMS_EPSILON,
        "rope_scaling": _rope_scaling(),
        "rope_theta": ROPE_THETA,
        "routed_scaling_factor": ROUTED_SCALE,
        "scoring_func": "sigmoid",
        "seq_aux": True,
        "tie_word_embeddings": False,
        "topk_group": 1,
        "topk_method": "noaux_tc",
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "v_head_dim": VALUE,
        "vocab_size": len(vocabulary()),
    }
    if variant != "bf16":
        value["quantization_config"] = _quantization(variant)
    if remote_code:
        value["auto_map"] = dict(_AUTO_MAP)
    return value


def _rope_scaling() -> dict[str, Any]:
    # SGLang on the CPU asserts that it is present; the real model has these values too.
    return {
        "beta_fast": 1.0,
        "beta_slow": 1.0,
        "factor": 32.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096,
        "type": "yarn",
    }


def _quantization(variant: Variant) -> dict[str, Any]:
    if variant == "fp8":
        return {
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "quant_method": "fp8",
            "weight_block_size": [FP8_BLOCK, FP8_BLOCK],
        }
    scheme: dict[str, Any] = {
        "actorder": None,
        "block_structure": None,
        "dynamic": False,
        "group_size": INT4_GROUP,
        "num_bits": 4,
        "observer": "minmax",
        "observer_kwargs": {},
        "strategy": "group",
        "symmetric": True,
        "type": "int",
    }
    group = {"input_activations": None, "output_activations": None, "targets": ["Linear"], "weights": scheme}
    return {
        "config_groups": {"group_0": group},
        "format": "pack-quantized",
        "ignore": [
            "lm_head",
            "re:.*self_attn.*",
            "re:.*shared_experts.*",
            r"re:.*mlp\.(gate|up|gate_up|down)_proj.*",
        ],
        "kv_cache_scheme": None,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
    }


def _added_tokens() -> list[dict[str, Any]]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [
        {"id": number, "content": token, **plain, "special": is_special(token)}
        for number, token in enumerate(vocabulary())
        if number >= 256
    ]


def _tokenizer() -> dict[str, Any]:
    """tokenizer.json: bytes, no merges, and every word as an added token."""
    byte_level = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(),
        "normalizer": None,
        "pre_tokenizer": {**byte_level, "add_prefix_space": False},
        "post_processor": None,
        "decoder": {**byte_level, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {token: number for number, token in enumerate(byte_tokens())},
            "merges": [],
        },
    }


def _tokenizer_config() -> dict[str, Any]:
    decoder = {
        str(token["id"]): {key: value for key, value in token.items() if key != "id"}
        for token in _added_tokens()
    }
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "[BOS]",
        "eos_token": END,
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "clean_up_tokenization_spaces": False,
        "model_max_length": SERVED_LENGTH,
        "added_tokens_decoder": decoder,
    }


def _tiktoken() -> bytes:
    """tiktoken.model in the real one's layout, with 256 ranks."""
    return b"".join(base64.b64encode(bytes([byte])) + f" {byte}\n".encode() for byte in range(256))


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode() + b"\n"
