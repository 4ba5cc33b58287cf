"""The influence benchmark at a tiny size: its contestants do the same work, and its figures are what they say."""

from __future__ import annotations

import json

import pytest
import torch

from harness.bench import made, oracle
from harness.bench.influence import ENGINE, PLAIN, InfluenceBench, bench_influence
from harness.bench.influence_text import render_influence
from harness.bench.less_loop import LessLoop
from harness.bench.memory import peak_tensor_bytes
from harness.cli.main import main
from methods.signals.influence.signal import InfluenceSignal
from support.influence_bench import TINY, plan
from support.influence_reference import assert_close


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(made.SHAPES, "tiny", TINY)


def test_one_run_compares_all_on_the_same_work() -> None:
    result = bench_influence(plan())
    rows = {row.name: row for row in result.rows}
    assert rows[PLAIN].relative == 1.0 and rows[PLAIN].samples == rows[ENGINE].samples == 8
    assert all(row.samples == 3 for name, row in rows.items() if name not in (PLAIN, ENGINE))
    assert all(0 < row.low <= row.relative <= row.high for row in result.rows)
    assert result.agreement.largest_error_of_rms < 1e-4
    assert set(result.seconds_per_candidate) == {2, 40}
    assert "peak MB" in render_influence(result) and json.dumps(result.to_json())


def test_the_engine_leaves_the_model_trainable_for_the_plain_step() -> None:
    """Both share the model: the plain step must build weight gradients, and the engine must not."""
    bench = InfluenceBench(plan())
    before = bench.engine()
    grads: list[bool] = []
    for parameter in bench.adapter:
        parameter.register_hook(lambda g: grads.append(True)) if parameter.requires_grad else None
    with bench.trainable():
        handles = [p.register_hook(lambda g: grads.append(True)) for p in bench.adapter]
        bench.plain_step()
    for handle in handles:
        handle.remove()
    assert len(grads) >= len(bench.adapter)
    assert_close(bench.engine().tolist(), before.tolist(), 1e-6)


def test_the_less_style_loop_approximates_the_definition() -> None:
    """Rademacher projections to 8192 dimensions keep a cosine to about 1/√8192."""
    bench = InfluenceBench(plan(influence=InfluenceSignal.with_preset("optimsyn-code")))
    with bench.trainable():
        loop = LessLoop(bench.model, bench.validation, bench.state, bench.plan.influence)
        got = loop.score(bench.items)
        candidates = [oracle.gradient(bench.model, item) for item in bench.items]
        validation = [oracle.gradient(bench.model, item) for item in bench.validation]
    wanted = torch.tensor(oracle.scores(candidates, validation, bench.state, bench.plan.influence))
    assert float((got.scores - wanted).abs().max()) < 5 / 8192**0.5
    assert float(wanted.abs().min()) > 10 / 8192**0.5
    assert got.seconds > got.seconds_without_projection > 0


def test_peak_memory_counts_what_is_held_at_once() -> None:
    def work() -> None:
        first = torch.zeros(250_000)
        second = first + 1
        del first, second
        torch.zeros(100)

    assert peak_tensor_bytes(work, "cpu") == pytest.approx(2_000_000, rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "qwen9"], "no model shape 'qwen9'"),
        (["--length", "long"], "--length 'long'"),
        (["--length", "9-4"], "not above the greatest"),
        (["--turns", "0"], "--turns 0"),
        (["--batch-tokens", "0"], "--batch-tokens 0"),
        (["--rank", "0"], "--rank 0"),
        (["--samples", "0"], "--samples 0"),
        (["--modules", "q_proj,qproj"], "no linear 'qproj'; did you mean 'q_proj'?"),
    ],
)
def test_bad_options_get_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "influence", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
