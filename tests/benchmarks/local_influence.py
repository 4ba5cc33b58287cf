"""Cost and agreement of local influence's two forms, beside a loop over copies of the model, in a lab world.

    .venv/bin/python tests/benchmarks/local_influence.py [WORLD] [LEARNING_RATE]

Warm-up, validation items and candidates are those of an ordinary run, and are stored like one's (in `bench-runs`).
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr

from harness.config import RunConfig
from harness.models.open import model_path
from harness.resolve.assemble import assemble
from harness.resolve.layers import resolve_run
from harness.runtime.execute import execute
from harness.shards import read_records
from harness.stage import stage_folder
from harness.training.chat import Encoded, encode
from harness.types import Sample
from methods.signals.base import Archive, SignalContext, TargetState, ValidationExample
from methods.signals.local_influence.signal import LocalInfluenceSettings, LocalInfluenceSignal
from methods.stages.sources import GuideRow
from methods.stages.warmup import read_checkpoints

STORE = Path("bench-runs")


class Silent:
    """An observer that says nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


def load(config: RunConfig) -> tuple[TargetState, list[ValidationExample], list[Sample]]:
    """The warmed-up target, the validation items and the pairs of a run's first stages."""
    stages = {stage.name: stage for stage in assemble(config).stages}
    STORE.mkdir(exist_ok=True)
    execute([stages["warmup"], stages["sources"]], STORE, Silent())
    folder = {name: stage_folder(STORE, stage) for name, stage in stages.items()}
    target = TargetState(
        model_path(config.models.target, config.lab.id if config.lab else None),
        "bench",
        config.models.target.max_length,
        checkpoints=read_checkpoints(folder["warmup"]),
    )
    guide = [row.example() for row in read_records(folder["sources"] / "validation", GuideRow)]
    return target, guide, read_records(folder["initial"], Sample)


def scored(
    form: str, rate: float | None, target: TargetState, guide: Sequence[ValidationExample], pairs: Sequence[Sample]
) -> tuple[list[float], float, Any, LocalInfluenceSignal]:
    """Values, seconds a pair, and the signal's facts."""
    signal = LocalInfluenceSignal(LocalInfluenceSettings.model_validate({"form": form, "learning_rate": rate}))
    said = signal.prepare(SignalContext(seed=0, validation=guide), target)
    facts = {fact.name: fact.value for fact in said.facts}
    signal.score(pairs[:4], Archive())
    started = time.perf_counter()
    scores = signal.score(pairs, Archive())
    return [s.value or 0.0 for s in scores], (time.perf_counter() - started) / len(pairs), facts, signal


def loop(
    signal: LocalInfluenceSignal, target: TargetState, guide: Sequence[ValidationExample], pairs: Sequence[Sample]
) -> tuple[list[float], float]:
    """The plain way: a copy, a step, and the reference loss in batches of 8, for every pair."""
    model, tokenizer, point = signal._probe.reference.model, signal._tokenizer, signal._points[0]
    names = list(point.adapter)
    reference = [encode(tokenizer, v.messages, target.max_length) for v in guide]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in point.adapter)
    before = mean_loss(model, reference)
    started = time.perf_counter()
    values = []
    for pair in pairs:
        stepped = copy.deepcopy(model)
        named = dict(stepped.named_parameters())
        optimizer = torch.optim.AdamW([named[n] for n in names], lr=point.learning_rate, weight_decay=0.0)
        for n in names:
            first, second = point.state.first[n].clone(), point.state.second[n].clone()
            step = torch.tensor(float(point.state.step))
            optimizer.state[named[n]] = {"step": step, "exp_avg": first, "exp_avg_sq": second}
        losses(stepped, [encode(tokenizer, pair.messages, target.max_length)]).sum().backward()
        optimizer.step()
        values.append(before - mean_loss(stepped, reference))
    return values, (time.perf_counter() - started) / len(pairs)


def mean_loss(model: Any, items: Sequence[Encoded]) -> float:
    """Mean over items, in float64, of their mean completion losses."""
    with torch.no_grad():
        return float(torch.cat([losses(model, items[i : i + 8]) for i in range(0, len(items), 8)]).double().mean())


def losses(model: Any, items: Sequence[Encoded]) -> torch.Tensor:
    """Mean completion loss of each item."""
    width = max(len(item.ids) for item in items)
    ids = torch.tensor([[*item.ids, *[0] * (width - len(item.ids))] for item in items])
    logits = model(input_ids=ids).logits[:, :-1]
    each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    return torch.stack(
        [row[item.prompt_length - 1 : len(item.ids) - 1].mean() for row, item in zip(each, items, strict=True)]
    )


def main(world: int, rate: float | None) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    sets = {"lab.world": world, "runtime.runs": str(STORE)}
    config = resolve_run(
        method="optimsyn", driver="best_of_n", signal="local_influence", target="nano", sets=sets
    ).config
    target, guide, pairs = load(config)
    exact, exact_seconds, facts, signal = scored("exact", rate, target, guide, pairs)
    first, first_seconds, _, _ = scored("first_order", rate, target, guide, pairs)
    plain, plain_seconds = loop(signal, target, guide, pairs)
    rms = float(torch.tensor(exact).square().mean().sqrt())
    worst = float((torch.tensor(exact) - torch.tensor(plain)).abs().max())
    off = float((torch.tensor(exact) - torch.tensor(first)).abs().max())
    print(f"world {world}, {len(pairs)} pairs, {len(guide)} validation items, rate {facts['learning_rate'][0]:g}")
    print(f"reference loss {facts['reference_loss'][0]:.4f}, its rounding {facts['reference_loss_rounding'][0]:.1e}")
    print(f"rms of the scores {rms:.2e}")
    print(f"{'exact':<14}{1000 * exact_seconds:8.1f} ms a pair")
    print(f"{'copy and step':<14}{1000 * plain_seconds:8.1f} ms a pair, off from exact by {worst / rms:.1e} of the rms")
    rank = spearmanr(exact, first).statistic
    print(f"{'first order':<14}{1000 * first_seconds:8.1f} ms a pair, off by {off / rms:.1e}, Spearman {rank:.4f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 0, float(sys.argv[2]) if len(sys.argv) > 2 else None)
