"""Influence on a GPU: products of bfloat16 matrices into float32, in a model of real shape with random weights."""

from __future__ import annotations

import pytest
import torch

from harness.bench.influence import ENGINE, PLAIN, BenchPlan, bench_influence
from harness.bench.made import BenchSize
from harness.config_runtime import ScoringConfig
from methods.signals.influence.settings import InfluenceSettings

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU that torch can use"),
]


@pytest.mark.parametrize("layout", ["right", "packed"])
def test_bfloat16_scores_rank_as_the_float32_definition_does(layout: str) -> None:
    size = BenchSize("qwen3-0.6b", "bfloat16", 32, ("q_proj", "v_proj"), samples=32, length=(64, 256))
    scoring = ScoringConfig.model_validate({"layout": layout})
    result = bench_influence(BenchPlan(size, InfluenceSettings(), scoring, turns=2, slow=24, validation_sizes=(10,)))
    rows = {row.name: row for row in result.rows}
    assert result.agreement.spearman is not None and result.agreement.spearman >= 0.999
    assert rows[ENGINE].peak is not None and rows[PLAIN].peak is not None
    assert rows[ENGINE].peak <= 1.3 * rows[PLAIN].peak
