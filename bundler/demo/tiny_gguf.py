"""The tiny model as GGUF (architecture deepseek2, multi-head latent attention), from the same weights.

Standard library only. Names, keys and the split of `kv_b_proj` as llama.cpp's own converter writes them
(`convert_hf_to_gguf.py`, DeepseekV2Model).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bundler.content.gguf import DEFAULT_ALIGNMENT, MAGIC, SCALARS, ValueType
from bundler.demo import tiny_kimi as kimi

ARCHITECTURE = "deepseek2"
MODEL_FILE = "tiny-kimi.gguf"
_F32, _BF16 = 0, 30
_ALL_BF16 = 32
"""`general.file_type`: LLAMA_FTYPE_MOSTLY_BF16."""
_SIGMOID = 2
"""`expert_gating_func`: LLAMA_EXPERT_GATING_FUNC_TYPE_SIGMOID."""
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4
"""Token types: user-defined tokens stay visible in text, as tool-call tokens must."""

Scalar = int | float | bool | str
Entry = tuple[ValueType, Scalar] | tuple[ValueType, ValueType, Sequence[Scalar]]
"""A metadata value: its type and value, or ARRAY, the element type and the elements."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as GGUF stores it: ggml type number, fastest-running dimension first, bytes."""

    type: int
    shape: tuple[int, ...]
    data: bytes


def write_gguf(folder: Path, *, parts: int = 1) -> tuple[str, ...]:
    """Write the GGUF below `folder`, in `parts` files when more than one; the file names in order."""
    files = gguf_files(parts=parts)
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return tuple(files)


def gguf_files(*, parts: int = 1) -> dict[str, bytes]:
    """`tiny-kimi.gguf`, or `tiny-kimi-00001-of-0000N.gguf` and so on, by name."""
    metadata, tensors = tiny_metadata(), tiny_tensors()
    if parts == 1:
        return {MODEL_FILE: gguf_bytes(metadata, tensors)}
    names = list(tensors)
    step = -(-len(names) // parts)
    files: dict[str, bytes] = {}
    for number in range(parts):
        own = {name: tensors[name] for name in names[number * step : (number + 1) * step]}
        split: dict[str, Entry] = {
            "split.no": (ValueType.UINT16, number),
            "split.count": (ValueType.UINT16, parts),
            "split.tensors.count": (ValueType.INT32, len(names)),
        }
        name = f"{MODEL_FILE.removesuffix('.gguf')}-{number + 1:05d}-of-{parts:05d}.gguf"
        files[name] = gguf_bytes(metadata | split if number == 0 else split, own)
    return files


def gguf_bytes(metadata: Mapping[str, Entry], tensors: Mapping[str, StoredTensor]) -> bytes:
    """One GGUF file, version 3, little-endian, aligned to 32 bytes."""
    pieces = [MAGIC, struct.pack("<IQQ", 3, len(tensors), len(metadata))]
    pieces += (_string(key) + _entry(value) for key, value in metadata.items())
    offset = 0
    for name, tensor in tensors.items():
        rank = len(tensor.shape)
        pieces.append(_string(name) + struct.pack(f"<I{rank}QIQ", rank, *tensor.shape, tensor.type, offset))
        offset += len(_padded(tensor.data))
    header = _padded(b"".join(pieces))
    return b"".join([header, *(_padded(tensor.data) for tensor in tensors.values())])


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % DEFAULT_ALIGNMENT)


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _entry(entry: Entry) -> bytes:
    if len(entry) == 2:
        kind, value = entry
        return struct.pack("<I", kind) + _scalar(kind, value)
    array, element, values = entry
    head = struct.pack("<IIQ", array, element, len(values))
    return head + b"".join(_scalar(element, value) for value in values)


def _scalar(kind: ValueType, value: Scalar) -> bytes:
    if kind is ValueType.STRING:
        assert isinstance(value, str)
        return _string(value)
    return SCALARS[kind].pack(value)


# --- metadata ---------------------------------------------------------------------------------------------


def tiny_metadata() -> dict[str, Entry]:
    """What llama.cpp needs to know: architecture, sizes, tokenizer, chat template."""
    general = {
        "general.architecture": _text(ARCHITECTURE),
        "general.name": _text("tiny-kimi"),
        "general.license": _text("other"),
        "general.file_type": _number(_ALL_BF16),
    }
    return general | _sizes() | _tokenizer()


def _sizes() -> dict[str, Entry]:
    entries = {
        "block_count": _number(kimi.LAYERS),
        "context_length": _number(kimi.SERVED_LENGTH),
        "embedding_length": _number(kimi.HIDDEN),
        "feed_forward_length": _number(kimi.DENSE_WIDTH),
        "attention.head_count": _number(kimi.HEADS),
        # With latent attention every head reads the same latent vector: one KV head.
        "attention.head_count_kv": _number(1),
        "attention.layer_norm_rms_epsilon": _real(kimi.RMS_EPSILON),
        "attention.q_lora_rank": _number(kimi.Q_RANK),
        "attention.kv_lora_rank": _number(kimi.KV_RANK),
        "attention.key_length": _number(kimi.KV_RANK + kimi.ROPE),
        "attention.value_length": _number(kimi.KV_RANK),
        "attention.key_length_mla": _number(kimi.NOPE + kimi.ROPE),
        "attention.value_length_mla": _number(kimi.VALUE),
        "rope.freq_base": _real(kimi.ROPE_THETA),
        "rope.dimension_count": _number(kimi.ROPE),
        "leading_dense_block_count": _number(1),
        "expert_feed_forward_length": _number(kimi.EXPERT_WIDTH),
        "expert_count": _number(kimi.EXPERTS),
        "expert_used_count": _number(kimi.ACTIVE_EXPERTS),
        "expert_shared_count": _number(1),
        "expert_weights_scale": _real(kimi.ROUTED_SCALE),
        "expert_weights_norm": (ValueType.BOOL, True),
        "expert_gating_func": _number(_SIGMOID),
        "vocab_size": _number(len(kimi.vocabulary())),
    }
    return {f"{ARCHITECTURE}.{key}": entry for key, entry in entries.items()}


def _tokenizer() -> dict[str, Entry]:
    tokens = kimi.vocabulary()
    types = [_token_type(number, token) for number, token in enumerate(tokens)]
    # One merge that never applies (bytes FE FF are not UTF-8): llama.cpp refuses a BPE without merges.
    merge = f"{kimi.byte_tokens()[0xFE]} {kimi.byte_tokens()[0xFF]}"
    return {
        "tokenizer.ggml.model": _text("gpt2"),
        "tokenizer.ggml.pre": _text("kimi-k2"),
        "tokenizer.ggml.tokens": (ValueType.ARRAY, ValueType.STRING, tokens),
        "tokenizer.ggml.token_type": (ValueType.ARRAY, ValueType.INT32, types),
        "tokenizer.ggml.merges": (ValueType.ARRAY, ValueType.STRING, [merge]),
        "tokenizer.ggml.bos_token_id": _number(kimi.token_id("[BOS]")),
        "tokenizer.ggml.eos_token_id": _number(kimi.token_id(kimi.END)),
        "tokenizer.ggml.padding_token_id": _number(kimi.token_id("[PAD]")),
        "tokenizer.ggml.add_bos_token": (ValueType.BOOL, False),
        "tokenizer.chat_template": _text(kimi.CHAT_TEMPLATE),
    }


def _token_type(number: int, token: str) -> int:
    if number < 256:
        return _NORMAL
    return _CONTROL if kimi.is_special(token) else _USER_DEFINED


def _text(value: str) -> Entry:
    return ValueType.STRING, value


def _number(value: int) -> Entry:
    return ValueType.UINT32, value


def _real(value: float) -> Entry:
    return ValueType.FLOAT32, value


# --- tensors ----------------------------------------------------------------------------------------------


def tiny_tensors() -> dict[str, StoredTensor]:
    """The weights of `tiny_kimi.weights("bf16")` under llama.cpp's names: matrices BF16, norms F32."""
    source = kimi.weights("bf16")
    tensors = {
        "token_embd.weight": _matrix(source["model.embed_tokens.weight"]),
        "output_norm.weight": _vector(source["model.norm.weight"]),
        "output.weight": _matrix(source["lm_head.weight"]),
    }
    for layer in range(kimi.LAYERS):
        tensors |= _layer(source, layer)
    return tensors


def _layer(source: Mapping[str, kimi.TinyTensor], layer: int) -> dict[str, StoredTensor]:
    old, new = f"model.layers.{layer}.", f"blk.{layer}."
    tensors = {
        new + "attn_norm.weight": _vector(source[old + "input_layernorm.weight"]),
        new + "ffn_norm.weight": _vector(source[old + "post_attention_layernorm.weight"]),
    }
    tensors |= _attention(source, old + "self_attn.", new)
    tensors |= _dense(source, old, new) if layer == 0 else _experts(source, old, new)
    return tensors


def _attention(source: Mapping[str, kimi.TinyTensor], old: str, new: str) -> dict[str, StoredTensor]:
    keys, values = _split_kv(source[old + "kv_b_proj.weight"])
    return {
        new + "attn_q_a.weight": _matrix(source[old + "q_a_proj.weight"]),
        new + "attn_q_a_norm.weight": _vector(source[old + "q_a_layernorm.weight"]),
        new + "attn_q_b.weight": _matrix(source[old + "q_b_proj.weight"]),
        new + "attn_kv_a_mqa.weight": _matrix(source[old + "kv_a_proj_with_mqa.weight"]),
        new + "attn_kv_a_norm.weight": _vector(source[old + "kv_a_layernorm.weight"]),
        new + "attn_k_b.weight": keys,
        new + "attn_v_b.weight": values,
        new + "attn_output.weight": _matrix(source[old + "o_proj.weight"]),
    }


def _dense(source: Mapping[str, kimi.TinyTensor], old: str, new: str) -> dict[str, StoredTensor]:
    return {
        f"{new}ffn_{part}.weight": _matrix(source[f"{old}mlp.{part}_proj.weight"])
        for part in ("gate", "up", "down")
    }


def _experts(source: Mapping[str, kimi.TinyTensor], old: str, new: str) -> dict[str, StoredTensor]:
    bias = source[old + "mlp.gate.e_score_correction_bias"]
    tensors = {
        new + "ffn_gate_inp.weight": _widened(source[old + "mlp.gate.weight"]),
        new + "exp_probs_b.bias": StoredTensor(_F32, bias.shape, bias.data),
    }
    for part in ("gate", "up", "down"):
        routed = [source[f"{old}mlp.experts.{n}.{part}_proj.weight"] for n in range(kimi.EXPERTS)]
        tensors[f"{new}ffn_{part}_exps.weight"] = _stacked(routed)
        shared = source[f"{old}mlp.shared_experts.{part}_proj.weight"]
        tensors[f"{new}ffn_{part}_shexp.weight"] = _matrix(shared)
    return tensors


def _matrix(tensor: kimi.TinyTensor) -> StoredTensor:
    return StoredTensor(_BF16, tensor.shape[::-1], tensor.data)


def _vector(tensor: kimi.TinyTensor) -> StoredTensor:
    return _widened(tensor)


def _widened(tensor: kimi.TinyTensor) -> StoredTensor:
    """BF16 as F32: llama.cpp wants norms and routers so. A BF16 value is the upper half of an F32."""
    wide = bytearray(2 * len(tensor.data))
    wide[2::4], wide[3::4] = tensor.data[0::2], tensor.data[1::2]
    return StoredTensor(_F32, tensor.shape[::-1], bytes(wide))


def _stacked(tensors: Iterable[kimi.TinyTensor]) -> StoredTensor:
    """Matrices of one shape as one tensor with a third, slowest dimension."""
    parts = tuple(tensors)
    shape = (*parts[0].shape[::-1], len(parts))
    return StoredTensor(_BF16, shape, b"".join(part.data for part in parts))


def _split_kv(tensor: kimi.TinyTensor) -> tuple[StoredTensor, StoredTensor]:
    """`kv_b_proj` [heads x (nope + value), rank] as keys [heads, rank, nope] (transposed) and values
    [heads, value, rank]: llama.cpp absorbs them into the attention.
    """
    row_bytes = 2 * kimi.KV_RANK
    rows = [tensor.data[n : n + row_bytes] for n in range(0, len(tensor.data), row_bytes)]
    keys, values = [], []
    for head in range(kimi.HEADS):
        first = head * (kimi.NOPE + kimi.VALUE)
        keys.append(_transposed(rows[first : first + kimi.NOPE]))
        values += rows[first + kimi.NOPE : first + kimi.NOPE + kimi.VALUE]
    return (
        StoredTensor(_BF16, (kimi.NOPE, kimi.KV_RANK, kimi.HEADS), b"".join(keys)),
        StoredTensor(_BF16, (kimi.KV_RANK, kimi.VALUE, kimi.HEADS), b"".join(values)),
    )


def _transposed(rows: Sequence[bytes]) -> bytes:
    """Rows of two-byte values as columns."""
    count, width = len(rows), len(rows[0]) // 2
    result = bytearray(2 * count * width)
    for number, row in enumerate(rows):
        result[2 * number :: 2 * count] = row[0::2]
        result[2 * number + 1 :: 2 * count] = row[1::2]
    return bytes(result)
