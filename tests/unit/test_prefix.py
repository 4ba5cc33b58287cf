"""A beginning that all prompts of a batch share is read once, and changes no token."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.models import attention, prefix, transformers_backend
from harness.models.backend import PromptRequest, Sampling
from harness.models.prefix import attends_to_all, common_prefix
from harness.models.transformers_backend import TransformersBackend
from harness.types import Message
from support.tiny import make_architecture, make_tokenizer

LONG = "the answer to the question is one of the choices " * 4


def asked(*texts: str) -> list[PromptRequest]:
    return [PromptRequest((Message("system", LONG), Message("user", text))) for text in texts]


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3", "mistral"])
def test_a_shared_beginning_changes_no_token(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make_architecture(kind, tmp_path, tokenizer=make_tokenizer())
    requests = asked("yes", "no, it is maybe one of the choices", "maybe")
    read: list[int] = []
    plain = prefix.read_prefix

    def counted(model: object, ids: list[int], rows: int) -> object:
        read.append(len(ids))
        return plain(model, ids, rows)

    monkeypatch.setattr(transformers_backend, "read_prefix", counted)
    backend = TransformersBackend(tmp_path, name="t")
    for sampling in (Sampling(0, 1, 12), Sampling(1.0, 0.9, 12)):
        shared = backend.generate(requests, sampling, 3)
        with monkeypatch.context() as patch:
            patch.setattr(transformers_backend, "common_prefix", lambda rows: 0)
            assert backend.generate(requests, sampling, 3) == shared
    # Windows count places, padding included, so models that have them read whole rows.
    assert bool(read) == (kind in ("llama", "qwen3"))
    assert len(backend.generate(requests[:1], Sampling(0, 1, 12), 3)) == 1


def test_grouped_queries_share_their_keys_on_a_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit what copies of the keys give; with gradients the copies stay."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.integrations import sdpa_attention

    with monkeypatch.context() as patch:
        patch.setattr(sdpa_attention, "use_gqa_in_sdpa", lambda *_: False)
        config = make_architecture("qwen3", tokenizer=make_tokenizer()).config
        config.num_key_value_heads = 1
        model = AutoModelForCausalLM.from_config(config).eval()
        ids, mask = torch.randint(0, 200, (3, 9)), torch.ones(3, 9, dtype=torch.long)
        mask[0, :4] = 0
        with torch.no_grad():
            copied = model(input_ids=ids, attention_mask=mask).logits
    attention.share_keys()
    written: list[int] = []
    plain = sdpa_attention.repeat_kv
    monkeypatch.setattr(sdpa_attention, "repeat_kv", lambda *a: (written.append(1), plain(*a))[1])
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids, attention_mask=mask).logits, copied)
    assert not written
    model(input_ids=ids, attention_mask=mask)
    assert written


def test_a_beginning_leaves_every_row_a_token_of_its_own() -> None:
    begin = list(range(40))
    assert common_prefix([[*begin, 1], [*begin, 2, 3], [*begin, 1, 3]]) == 40
    assert common_prefix([begin, begin]) == 39
    assert common_prefix([[*begin, 1], [*begin[:10], 99, *begin]]) == 0
    assert common_prefix([begin]) == 0


def test_only_full_attention_in_every_layer_counts() -> None:
    assert attends_to_all({"model_type": "llama"})
    assert attends_to_all({"model_type": "any", "layer_types": ["full_attention"] * 2})
    assert not attends_to_all({"model_type": "any"})
    assert not attends_to_all({"model_type": "qwen2", "sliding_window": 8})
    assert not attends_to_all(SimpleNamespace(model_type="any", layer_types=["full_attention", "sliding_attention"]))
    assert not attends_to_all({"model_type": "any", "layer_types": ["linear_attention", "full_attention"]})
