"""Tiny random models of many architectures, and tokenizers of many families, made on the spot for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer(*, printable: bool = False) -> Any:
    """A byte-level BPE tokenizer with few merges and the chatml template.

    `printable`: it has tokens for printable ASCII and line breaks alone, so that a model with random weights writes no
    control characters; other characters of a text are left out.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=specials,
        initial_alphabet=[*map(chr, range(33, 127)), "Ġ", "Ċ"] if printable else pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(["the answer to the question is one of the choices yes no maybe " * 3], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHATML
    )


INST = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}\n\n"
    "{% elif m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]{% else %} {{ m['content'] }}{{ eos_token }}"
    "{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn here') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% set role = 'model' if m['role'] == 'assistant' else"
    " m['role'] %}<|im_start|>{{ role }}\n{{ m['content'] | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
)
ENDLESS = (
    "{% for m in messages %}{{ m['role'] | capitalize }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant: {% endif %}"
)
DATED = "Today is {{ strftime_now('%d %b %Y') }}.\n" + CHATML
TEMPLATES = {"chatml": CHATML, "inst": INST, "gemma": GEMMA, "endless": ENDLESS, "dated": DATED}
"""`inst` begins with a begin token and joins words over the boundary; `gemma` takes no system turn, and alternates."""

FAMILIES = ("bytes", "always", "first", "never", "legacy", "unigram", "wordpiece", "python")
"""Tokenizers of `make_family`: byte-level BPE; SentencePiece's blanks by Metaspace's three schemes, by a normalizer as
Llama 2 has it, and as a unigram model with its special tokens in the vocabulary; words; and one written in Python."""

_SPECIALS = ["<unk>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>"]
_TEXT = ["the answer to the question is one of the choices yes no maybe red INST user assistant model system " * 3]


def make_family(family: str, template: str = "chatml", **tokens: str | None) -> Any:
    """A tokenizer of one of `FAMILIES` under one of `TEMPLATES`; `tokens` are its named special tokens."""
    from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

    named = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": "<s>", "unk_token": "<unk>"} | tokens
    named = {name: token for name, token in named.items() if token is not None}
    chosen = TEMPLATES.get(template, template)
    if family == "python":
        return ByT5Tokenizer(extra_ids=0, extra_special_tokens=_SPECIALS[1:], chat_template=chosen, **named)
    return PreTrainedTokenizerFast(tokenizer_object=_family(family), chat_template=chosen, **named)


def _family(family: str) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    alphabet = [chr(i) for i in range(32, 127)] + ["\n", "\u2581"]
    bpe = dict(vocab_size=512, special_tokens=_SPECIALS, initial_alphabet=alphabet, show_progress=False)
    if family == "bytes":
        raw = Tokenizer(models.BPE())
        raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        trainer = trainers.BpeTrainer(**bpe | dict(initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    elif family == "wordpiece":
        raw = Tokenizer(models.WordPiece(unk_token="<unk>"))
        raw.normalizer, raw.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        raw.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(**bpe)
    elif family == "unigram":
        raw = Tokenizer(models.Unigram())
        raw.pre_tokenizer, raw.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        more = dict(special_tokens=_SPECIALS, initial_alphabet=alphabet, show_progress=False)
        trainer = trainers.UnigramTrainer(vocab_size=200, unk_token="<unk>", **more)
    elif family == "legacy":
        raw = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
        raw.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
        raw.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
        trainer = trainers.BpeTrainer(**bpe)
    else:
        raw = Tokenizer(models.BPE(unk_token="<unk>"))
        raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=family)
        raw.decoder = decoders.Metaspace(prepend_scheme=family)
        trainer = trainers.BpeTrainer(**bpe)
    raw.train_from_iterator(_TEXT if family != "legacy" else [w for t in _TEXT for w in t.split()], trainer)
    return raw


def make_tiny_model(
    folder: Path, *, seed: int = 0, hidden: int = 32, layers: int = 2, context: int = 2048, printable: bool = False
) -> Path:
    """Write weights and tokenizer into `folder` and return it. Equal arguments give equal weights."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = make_tokenizer(printable=printable)
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=hidden // 2,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


ARCHITECTURES = (
    *("llama", "mistral", "gemma2", "gemma3", "gpt2", "phi3", "qwen3", "qwen3_moe", "mixtral", "bloom", "falcon"),
    *("mpt", "opt", "mamba", "qwen3_next", "longrope", "dynamic"),
)
"""What `make_architecture` can build; `longrope` (Phi-3) and `dynamic` (Llama) have RoPE that depends on length."""

ROPE_BOUNDARY = 32
"""Tokens from which the models with RoPE that depends on length take other frequencies."""


def _architecture(kind: str, context: int, vocab: int, special: dict[str, Any]) -> Any:
    from transformers import CONFIG_MAPPING

    base = dict(
        vocab_size=vocab, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=context, tie_word_embeddings=False, **special,
    )  # fmt: skip
    gemma = dict(tie_word_embeddings=True, head_dim=16, query_pre_attn_scalar=16, sliding_window=16)
    experts = dict(moe_intermediate_size=16, num_experts=4, num_experts_per_tok=2, head_dim=16)
    rope = dict(rope_theta=10000.0, original_max_position_embeddings=ROPE_BOUNDARY, factor=4.0)
    small = dict(vocab_size=vocab, hidden_size=32, **special)
    more: dict[str, dict[str, Any]] = {
        "llama": base,
        "mistral": base | dict(sliding_window=16),
        "gemma2": base | gemma,
        "gemma3": base | gemma,
        "phi3": base,
        "qwen3": base | dict(head_dim=16),
        "qwen3_moe": base | experts,
        "mixtral": base | dict(num_local_experts=4, num_experts_per_tok=2),
        "gpt2": dict(vocab_size=vocab, n_embd=32, n_layer=2, n_head=2, n_positions=context, **special),
        "bloom": small | dict(n_layer=2, n_head=2),
        "falcon": small | dict(num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=context),
        "mpt": dict(d_model=32, n_layers=2, n_heads=2, max_seq_len=context, vocab_size=vocab, **special),
        "opt": base | dict(ffn_dim=64, word_embed_proj_dim=32),
        "mamba": small | dict(num_hidden_layers=2, state_size=4),
        "qwen3_next": base
        | experts
        | dict(
            linear_num_key_heads=2, linear_num_value_heads=2, linear_key_head_dim=16, linear_value_head_dim=16,
            shared_expert_intermediate_size=16, layer_types=["linear_attention", "full_attention"],
        ),
        "longrope": base
        | dict(
            original_max_position_embeddings=ROPE_BOUNDARY,
            rope_parameters=rope | dict(rope_type="longrope", short_factor=[1.0] * 8, long_factor=[4.0] * 8),
        ),
        "dynamic": base | dict(max_position_embeddings=ROPE_BOUNDARY, rope_parameters=rope | dict(rope_type="dynamic")),
    }  # fmt: skip
    name = {"gemma3": "gemma3_text", "longrope": "phi3", "dynamic": "llama"}.get(kind, kind)
    return CONFIG_MAPPING[name](**more[kind])


def make_architecture(
    kind: str, folder: Path | None = None, *, context: int = 256, seed: int = 0, tokenizer: Any = None
) -> Any:
    """A random model of one of `ARCHITECTURES`, in evaluation mode; with `folder` it lies there with its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = tokenizer or make_tokenizer()
    special = dict(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=0)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(_architecture(kind, context, len(tokenizer), special))
    if folder is not None:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return model.eval()
