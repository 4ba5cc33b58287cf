"""What each stage of a run would cost: rows, tokens, operations, time; estimated from the settings alone.

The basis (`harness.runtime.estimator`) is printed with the figures. What is not known, such as the size of a model or
the number of items, makes the figure unknown and never smaller.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from harness import estimate
from harness.config import SignalChoice
from harness.runtime.estimator import LAB_RATES, Cost, Estimator
from harness.runtime.needs import warm
from harness.runtime.role_models import RoleModel
from methods.signals.catalogue import signal_uses

SURVIVE = 0.75
"""Assumed share of drawn samples that survive validity checks, duplicate removal and the contamination gate."""

EVAL_PROMPT, EVAL_LAB_PROMPT = 400, 40
"""Typical prompt tokens of a test item."""


def _here(e: Estimator, model: RoleModel, flops: float) -> float:
    """Operations of a model that runs on this side; none where somebody else's server answers."""
    settings = getattr(e.config.models, model.role)
    return 0.0 if settings.base_url else flops


def _usd(e: Estimator, models: Mapping[str, tuple[int, int]]) -> float | None:
    """What endpoints charge: 0 where there is none, None where one of them has no known price."""
    total = 0.0
    for role, (tokens_in, tokens_out) in models.items():
        settings = getattr(e.config.models, role)
        if not settings.base_url:
            continue
        if settings.price is None:
            return None
        total += settings.price.usd(tokens_in, tokens_out)
    return total


def _flops(model: RoleModel, tokens: float) -> float:
    return estimate.forward_flops(model.shape, tokens) if model.shape else 0.0


def _sized(model: RoleModel) -> bool:
    """Whether what a model computes on this side is known: nothing, or by its architecture."""
    return model.shape is not None or model.kind in ("built-in", "vectors", "endpoint", "service")


def estimate_stage(e: Estimator, name: str) -> Cost | None:
    """The cost of the stage called `name`; None for one that is not known here."""
    estimators = {
        "evaluate_guide": _evaluate_guide,
        "sources": _sources,
        "initial": _initial,
        "warmup": _warmup,
        "grpo": _grpo,
        "regenerate": _regenerate,
        "decontaminate": _decontaminate,
        "score": _score,
        "dataset": _dataset,
        "finetune": _finetune,
        "evaluate": _evaluate,
        "evaluate_base": _evaluate,
    }
    return estimators[name](e) if name in estimators else None


def _trajectories(e: Estimator, count: int, out: int, note: str, together: int | None = None) -> Cost:
    """`count` rubrics and the pairs made from them. `together`: see `Estimator.decoding`, for the rubrics."""
    s, w, g = e.sizes, e.writer, e.generator
    compute = _here(e, w, _flops(w, count * s.writer_prompt)) + _here(e, g, _flops(g, count * s.generator_prompt))
    moved = e.decoding(w, count, s.writer_prompt, s.rubric, together) + e.decoding(g, count, s.generator_prompt, s.pair)
    flops = compute + _here(e, w, _flops(w, count * s.rubric)) + _here(e, g, _flops(g, count * s.pair))
    known = _sized(w) and _sized(g)
    models = {
        "writer": (count * s.writer_prompt, count * s.rubric),
        "generator": (count * s.generator_prompt, count * s.pair),
    }
    return Cost(
        count,
        out,
        sum(m[0] for m in models.values()),
        sum(m[1] for m in models.values()),
        flops,
        e.seconds(compute=compute, moved=moved, known=known, lab=LAB_RATES.trajectory * count),
        note,
        compute,
        moved,
        models,
        _usd(e, models),
    )


def _candidates(e: Estimator) -> int | None:
    """Items of the validation set before any is chosen; None where their number is not declared."""
    declared = e.suite.validation_set(e.config.guide.set).rows.expected_count
    return declared or (e.config.lab.validation_items if e.config.lab else None)


def _evaluate_guide(e: Estimator) -> Cost | None:
    count = _candidates(e)
    if count is None:
        return None
    tokens = count * (EVAL_LAB_PROMPT if e.lab and e.config.suite == "lab" else EVAL_PROMPT)
    flops = _flops(e.target, tokens)
    seconds = e.seconds(compute=flops, known=e.target.shape is not None, lab=LAB_RATES.tested * count)
    note, models = "validation items, to choose among", {"target": (tokens, 0)}
    return Cost(count, count, tokens, 0, flops, seconds, note, flops, 0.0, models, 0.0)


def _sources(e: Estimator) -> Cost:
    strategy, count = e.config.guide.strategy, _candidates(e)
    if strategy == "random" or count is None:
        return Cost(e.seeds, e.seeds, note="documents, before overlaps go")
    # Choosing compares the embeddings of all candidates.
    tokens = count * (EVAL_LAB_PROMPT if e.lab and e.config.suite == "lab" else EVAL_PROMPT)
    return _embedded(e, e.seeds, e.seeds, tokens, f"documents; {count:,} items embedded")


def _embedded(e: Estimator, rows: int | None, out: int | None, tokens: int, note: str) -> Cost:
    """`tokens` through the embedder."""
    model = e.embedder
    flops = _flops(model, tokens) if model else 0.0
    seconds = e.device.seconds(flops, 0.0) if model is None or _sized(model) else None
    runs = model is not None and model.kind not in ("built-in", "vectors")
    models = {"embedder": (tokens, 0)} if runs else {}
    # The settings have no price for an embedder.
    usd = None if model is not None and model.kind == "endpoint" else 0.0
    return Cost(rows, out, tokens, 0, flops, seconds, note, flops, 0.0, models, usd)


def _initial_count(e: Estimator) -> int | None:
    s = e.config.synthesis
    if s.initial_samples:
        return s.initial_samples
    return e.seeds * s.samples_per_seed if e.seeds else None


def _initial(e: Estimator) -> Cost | None:
    count = _initial_count(e)
    return _trajectories(e, count, round(count * SURVIVE), "rubrics, then pairs") if count else None


def _passes(e: Estimator) -> int:
    """Forward passes that one training pass costs: 3, or 4 where activations are computed again."""
    return 4 if e.config.runtime.training.activation_checkpointing else 3


def _on_target(
    e: Estimator, count: int, out: int | None, tokens: int, lab: float, note: str, passes: int = 3
) -> Cost:
    """Forward and backward passes of the target over `tokens` tokens."""
    flops = passes * _flops(e.target, tokens)
    seconds = e.seconds(compute=flops, known=e.target.shape is not None, lab=lab)
    return Cost(count, out, tokens, 0, flops, seconds, note, flops, 0.0, {"target": (tokens, 0)}, 0.0)


def _trained(e: Estimator, count: int, epochs: int, note: str) -> Cost:
    tokens, lab = count * epochs * e.sizes.row, LAB_RATES.trained * count * epochs
    return _on_target(e, count, None, tokens, lab, note, _passes(e))


def _warmup(e: Estimator) -> Cost | None:
    count = _initial_count(e)
    w = e.config.warmup
    if w.adapter:
        kept = warm(e.config).checkpoints
        return Cost(kept, kept, note="checkpoints of your own, checked and stored; nothing is trained")
    pairs = max(1, round(count * SURVIVE * w.share)) if count else 0
    note = f"{_times(w.epochs)} on {w.share:.0%} of the pairs" + (", each kept" if w.keep == "epochs" else "")
    return _trained(e, pairs, w.epochs, note) if pairs else None


def grpo_steps(e: Estimator) -> int | None:
    """Optimizer batches of GRPO, or None where the number of seeds is not known."""
    g = e.config.grpo
    if g.steps:
        return g.steps
    return max(1, int(e.seeds * g.epochs) // g.prompts_per_step) if e.seeds else None


def _grpo(e: Estimator) -> Cost | None:
    steps = grpo_steps(e)
    if steps is None:
        return None
    g = e.config.grpo
    batch = g.prompts_per_step * g.group_size
    count = steps * batch
    note = f"{steps} steps of {g.prompts_per_step} x {g.group_size}"
    # A trainer that samples by itself draws all rollouts of a step in one call.
    made = _trajectories(e, count, round(count * SURVIVE), note, batch if g.rollouts == "transformers" else None)
    s = e.sizes
    # The update, and where there is a KL term one pass of the reference model.
    learn = (_passes(e) + (g.kl_coefficient > 0)) * _flops(e.writer, count * (s.writer_prompt + s.rubric))
    valid = made.out or 0
    score = _scoring_flops(e, e.config.signal, valid)
    scored = valid * _scoring_tokens(e, e.config.signal)[0]
    # A rollout's rate has one backward pass of the target in it.
    lab = LAB_RATES.rollout * count + LAB_RATES.scored * count * (_times_a_pass(e, e.config.signal) - 1)
    extra = e.seconds(compute=learn + score, known=_scorer_sized(e, e.config.signal), lab=lab)
    seconds = made.seconds
    if seconds is not None and extra is not None and not e.lab:
        extra += seconds
    seconds = None if seconds is None else extra
    models = {**made.models, **({"target": (scored, 0)} if scored else {})}
    return replace(
        made,
        flops=made.flops + learn + score,
        seconds=seconds,
        compute=made.compute + learn + score,
        models=models,
    )


def _draws(e: Estimator) -> int | None:
    """Draws that the declared budget takes, at the assumed surviving share."""
    c = e.config
    many = _draws_per_seed(e)
    share = 1.0 / many if many > 1 else SURVIVE * (c.select.keep if c.select else 1.0)
    if c.match == "samples":
        return round(c.budget / share)
    if c.match == "sft_tokens":
        return round(c.budget / e.sizes.pair / share)
    before = {name: estimate_stage(e, name) for name in ("initial", "warmup", "grpo") if name in e.stages}
    if any(cost is None for cost in before.values()):
        return None
    one = _trajectories(e, 1, 1, "")
    if c.match == "flops":
        left = c.budget - sum(cost.flops for cost in before.values() if cost)
        return max(0, round(left / one.flops)) if one.flops else None
    each = e.sizes.generator_prompt + e.sizes.pair
    made = sum(cost.rows or 0 for name, cost in before.items() if cost and name != "warmup")
    return max(0, round(c.budget / each - made))


def _draws_per_seed(e: Estimator) -> int:
    """Draws of which one survives: more than 1 where a driver keeps the best of several."""
    return e.config.best_of if e.config.driver == "best_of_n" else 1


def _regenerate(e: Estimator) -> Cost | None:
    draws = _draws(e)
    if draws is None:
        return None
    return _trajectories(e, draws, round(draws * SURVIVE), "until the budget is met")


def _score(e: Estimator) -> Cost | None:
    made = _regenerate(e)
    if made is None or made.out is None:
        return None
    signal = e.config.select.signal if e.config.select and e.config.select.signal else e.config.signal
    flops = _scoring_flops(e, signal, made.out)
    lab = LAB_RATES.scored * made.out * _times_a_pass(e, signal)
    seconds = e.seconds(compute=flops, known=_scorer_sized(e, signal), lab=lab)
    tokens = made.out * max(e.sizes.row, _scoring_tokens(e, signal)[0])
    models = {"target": (tokens, 0)} if _scoring_tokens(e, signal)[0] else {}
    return Cost(made.out, made.out, tokens, 0, flops, seconds, f"scored by {signal.name}", flops, 0.0, models, 0.0)


def _samples(e: Estimator) -> int | None:
    """Samples of the data set."""
    draws = _draws(e)
    if draws is None or e.config.match == "samples":
        return int(e.config.budget) if e.config.match == "samples" else None
    if (many := _draws_per_seed(e)) > 1:
        return round(draws / many)
    return round(draws * SURVIVE * (e.config.select.keep if e.config.select else 1.0))


def _decontaminate(e: Estimator) -> Cost | None:
    made = _regenerate(e)
    if made is None:
        return None
    note = f"duplicates and test text ({', '.join(e.config.decontam.modes)}) go"
    if "embedding" not in e.config.decontam.modes:
        return Cost(made.out, made.out, note=note)
    # Test items of benchmarks that do not declare their number are left out.
    items = sum(benchmark.rows.expected_count or 0 for benchmark in e.suite.benchmarks)
    return _embedded(e, made.out, made.out, (made.out or 0) * e.sizes.pair + items * EVAL_PROMPT, note)


def _dataset(e: Estimator) -> Cost | None:
    made, kept = _regenerate(e), _samples(e)
    return Cost(made.out, kept, note="the checked, up to the budget") if made else None


def _finetune(e: Estimator) -> Cost | None:
    count = _samples(e)
    s = e.config.sft
    return _trained(e, count, s.epochs, f"{s.tune}, {_times(s.epochs)}") if count else None


def _times(epochs: int) -> str:
    return "1 epoch" if epochs == 1 else f"{epochs} epochs"


def _evaluate(e: Estimator) -> Cost | None:
    """None where a benchmark does not declare how many items it has."""
    rows = tokens_in = tokens_out = 0
    prompt = EVAL_LAB_PROMPT if e.lab and e.config.suite == "lab" else EVAL_PROMPT
    for benchmark in e.suite.benchmarks:
        if benchmark.scorer != "lm_eval":
            continue
        limit = e.config.eval.limit
        declared = benchmark.rows.expected_count or (e.config.lab.test_items if e.config.lab else limit)
        if declared is None:
            return None
        count = min(declared, limit or declared)
        rows += count
        tokens_in += count * prompt * (1 + benchmark.shots)
        if benchmark.template.output == "generate_until":
            tokens_out += count * benchmark.template.max_tokens // 2
    compute, known = _flops(e.target, tokens_in), e.target.shape is not None
    moved = e.decoding(e.target, rows, tokens_in // max(1, rows), tokens_out // max(1, rows))
    seconds = e.seconds(compute=compute, moved=moved, known=known, lab=LAB_RATES.tested * rows)
    columns = sum(b.scorer == "lm_eval" for b in e.suite.benchmarks)
    note = f"{columns} column{'s' if columns > 1 else ''}"
    flops = compute + _flops(e.target, tokens_out)
    models = {"target": (tokens_in, tokens_out)}
    return Cost(rows, rows, tokens_in, tokens_out, flops, seconds, note, compute, moved, models, 0.0)


def _scoring_flops(e: Estimator, signal: SignalChoice, count: int) -> float:
    """Operations of scoring `count` pairs by target and embedder."""
    read, differentiated = _scoring_tokens(e, signal)
    embedded = sum(use.forward for use in signal_uses(signal) if use.role == "embedder")
    own = _flops(e.embedder, count * embedded * e.sizes.pair) if e.embedder and embedded else 0.0
    return own + _flops(e.target, count * (read + 2 * differentiated))


def _scoring_tokens(e: Estimator, signal: SignalChoice) -> tuple[int, int]:
    """Tokens that go through the target to score one pair, and those of them that also come back."""
    read = differentiated = 0
    for use in signal_uses(signal):
        if use.role != "target":
            continue
        many = warm(e.config).checkpoints if use.every_checkpoint else 1
        probe = use.validation * (_guide_items(e) or 0) * (EVAL_LAB_PROMPT if e.lab else EVAL_PROMPT)
        read += many * (use.forward * e.sizes.row + probe)
        differentiated += many * use.backward * e.sizes.row
    return read, differentiated


def _guide_items(e: Estimator) -> int | None:
    """Validation items that guide; None where their number is not declared."""
    guide = e.suite.validation_set(e.config.guide.set)
    lab = e.config.lab.validation_items if e.config.lab else None
    return e.config.guide.n or guide.count or guide.rows.expected_count or lab


def _scorer_sized(e: Estimator, signal: SignalChoice) -> bool:
    """Whether the operations of a score are known: the size of the model that gives it, and what it reads."""
    uses = signal_uses(signal)
    if any(use.role == "embedder" for use in uses) and e.embedder is not None and not _sized(e.embedder):
        return False
    if not any(use.role == "target" for use in uses):
        return True
    return e.target.shape is not None and not (any(u.validation for u in uses) and _guide_items(e) is None)


def _times_a_pass(e: Estimator, signal: SignalChoice) -> float:
    """Operations of a score over those of one forward and backward pass on a pair; cheaper ones count as one."""
    read, differentiated = _scoring_tokens(e, signal)
    return max(1.0, (read + 2 * differentiated) / (3 * e.sizes.row))
