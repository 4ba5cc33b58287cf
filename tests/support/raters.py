"""Raters with random weights in the architectures and file layouts of the published ones, and items to rate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.raters.declaration import RaterDeclaration
from harness.types import Message, Sample, stable_hash
from support.tiny import make_family

KINDS: dict[str, dict[str, Any]] = {
    "llama": {"heads": ("style", "expertise", "facts", "educational"), "output": "bradley_terry", "pad_id": 0,
              "special_tokens": False, "max_length": 24},
    "bert": {"heads": ("educational",), "output": "regression", "grades": (0, 5), "max_length": 24},
    "modernbert": {"heads": ("reasoning",), "output": "classes", "grades": (0, 1, 2, 3, 4, 5), "max_length": 24},
    "digits": {"heads": ("complexity",), "output": "digits", "grades": (1, 2, 3, 4, 5, 6), "max_length": 200,
               "long_texts": "refuse", "text": "Rate {question} {answer}\nGrade:", "document": "Rate {text}\nGrade:"},
}  # fmt: skip
"""How a checkpoint of each kind is declared."""


def framed(family: str) -> Any:
    """A tokenizer that puts `<s>` before a text, and `</s>` after it unless it is a decoder's."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = make_family(family)
    ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<s>", "</s>")]
    single = "<s> $A" if family == "legacy" else "<s> $A </s>"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=single, special_tokens=ids)
    return tokenizer


def make_rater(kind: str, folder: Path, **declared: Any) -> RaterDeclaration:
    """Write a checkpoint of one of `KINDS` into `folder`; returns its declaration."""
    import torch
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        LlamaConfig,
        LlamaForCausalLM,
        LlamaForSequenceClassification,
        ModernBertConfig,
        ModernBertForSequenceClassification,
    )

    tokenizer = framed("wordpiece" if kind == "bert" else "legacy" if kind in ("llama", "digits") else "bytes")
    size = dict(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        initializer_range=0.5,
    )  # fmt: skip
    torch.manual_seed(0)
    made: Any
    if kind == "llama":
        made = LlamaForSequenceClassification(LlamaConfig(**size, num_labels=4, pad_token_id=None))
    elif kind == "bert":
        made = BertForSequenceClassification(BertConfig(**size, num_labels=1, max_position_embeddings=24))
    elif kind == "modernbert":
        ids = dict(pad_token_id=1, bos_token_id=4, eos_token_id=5, cls_token_id=4, sep_token_id=5)
        config = ModernBertConfig(
            **size, num_labels=6, classifier_pooling="cls", global_attn_every_n_layers=2, local_attention=8, **ids
        )
        made = ModernBertForSequenceClassification(config)
    else:
        made = LlamaForCausalLM(LlamaConfig(**size))
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return RaterDeclaration(**{"name": kind, "checkpoint": str(folder), **KINDS[kind], **declared})


def pairs(answers: Sequence[str], question: str = "what is the answer to the question") -> list[Sample]:
    """Samples with these answers."""
    turns = [(Message("user", question), Message("assistant", answer)) for answer in answers]
    return [Sample(stable_hash(i, t[1].content), ("d",), None, "", t, "", "test", "stop") for i, t in enumerate(turns)]
