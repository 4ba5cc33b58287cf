"""A tiny Llama in a GGUF file, written with the package `gguf`, in any quantisation that the package can write."""

from __future__ import annotations

from pathlib import Path

from support.tiny import CHATML, make_tokenizer

HIDDEN, LAYERS, HEADS, INNER = 32, 2, 2, 64


def make_tiny_gguf(path: Path, *, quantisation: str = "Q8_0", architecture: str = "llama", seed: int = 0) -> Path:
    """Write the file and return its path. Norms are stored in 32 bits, as llama.cpp does."""
    import json

    import numpy as np
    from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, quants

    spec = json.loads(make_tokenizer().backend_tokenizer.to_str())
    vocab = {**spec["model"]["vocab"], **{t["content"]: t["id"] for t in spec["added_tokens"]}}
    tokens = sorted(vocab, key=vocab.__getitem__)
    rng, kind = np.random.default_rng(seed), GGMLQuantizationType[quantisation]
    writer = GGUFWriter(path, architecture)
    writer.add_name("A title and no path")
    writer.add_file_type(LlamaFileType.MOSTLY_Q8_0)
    writer.add_block_count(LAYERS)
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if t.startswith("<|") else 1 for t in tokens])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in spec["model"]["merges"]])
    writer.add_eos_token_id(vocab["<|im_end|>"])
    writer.add_pad_token_id(vocab["<|im_end|>"])
    writer.add_chat_template(CHATML)
    for name, shape in _tensors(len(tokens)).items():
        if len(shape) == 1:
            writer.add_tensor(name, np.ones(shape, dtype=np.float32))
            continue
        values = rng.normal(scale=0.05, size=shape).astype(np.float32)
        packed = values if quantisation == "F32" else quants.quantize(values, kind)
        writer.add_tensor(name, packed, raw_dtype=None if quantisation == "F32" else kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensors(vocab: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (vocab, HIDDEN), "output_norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        attention = ("attn_q", "attn_k", "attn_v", "attn_output")
        shapes |= {f"blk.{layer}.{name}.weight": (HIDDEN, HIDDEN) for name in attention}
        shapes |= {f"blk.{layer}.{name}.weight": (INNER, HIDDEN) for name in ("ffn_gate", "ffn_up")}
        shapes |= {f"blk.{layer}.ffn_down.weight": (HIDDEN, INNER)}
        shapes |= {f"blk.{layer}.{name}.weight": (HIDDEN,) for name in ("attn_norm", "ffn_norm")}
    return shapes
