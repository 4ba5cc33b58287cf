"""The influence benchmark at a size of milliseconds."""

from __future__ import annotations

from dataclasses import replace

from harness.bench.influence import BenchPlan
from harness.bench.made import BenchSize
from harness.config_runtime import ScoringConfig
from methods.signals.influence.settings import InfluenceSettings

TINY = {
    "vocab_size": 120,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "tie_word_embeddings": True,
}


def plan(**changes: object) -> BenchPlan:
    size = BenchSize("tiny", rank=4, samples=8, validation=4, length=(6, 20))
    scoring = ScoringConfig(batch_tokens=64)
    base = BenchPlan(size, InfluenceSettings(), scoring, turns=2, slow=3, validation_sizes=(2, 40))
    return replace(base, **changes)
