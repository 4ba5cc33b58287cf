"""The cost and loads of scoring by a signal: the one place that asks a signal for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness import memory
from harness.config import SignalChoice
from harness.costs.estimator import LAB_RATES, AtOnce, Estimator
from harness.costs.lengths import LAB_TEST_PROMPT, TEST_PROMPT
from harness.costs.records import Part
from harness.costs.sizer import Sizer
from harness.estimate import weight_bytes
from harness.training.lora_modules import plain_names
from methods.plan import Plan
from methods.signals.base import ModelUse
from methods.signals.catalogue import signal_raters, signal_terms, signal_uses
from methods.stages.guide import guide_items
from methods.stages.warmup import warm


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringCost:
    """Scoring some pairs: operations and whether these are known, a lab model's seconds, tokens in by role.

    `lab` is in the seconds of a pass for each; `passes` are the operations of a score over those of one forward and
    backward pass on a pair, where cheaper scores count as one. `drawn` are the operations of decoding, which are not in
    `flops`, and `moved` the bytes that it reads.
    """

    flops: float
    known: bool
    lab: float
    passes: float
    models: Mapping[str, tuple[int, int]]
    usd: float | None = 0.0
    drawn: float = 0.0
    moved: float = 0.0


def scoring_cost(e: Estimator, plan: Plan, signal: SignalChoice, count: int) -> ScoringCost:
    """The cost of scoring `count` pairs by the chosen signal, under the settings of `plan`."""
    uses = signal_uses(signal)
    read, back = _target_tokens(e, plan, uses)
    embedded = count * e.sizes.pair * sum(use.forward for use in uses if use.role == "embedder")
    rated = count * e.sizes.pair
    raters = [use for use in uses if use.role == "rater"]
    sampling = [(use, min(use.tokens, e.sizes.pair)) for use in uses if use.samples]
    written = count * sum(use.samples * tokens for use, tokens in sampling)
    flops = e.target.flops(count * (read + 2 * back)) + (e.embedder.flops(embedded) if e.embedder else 0.0)
    flops += sum(2.0 * use.parameters * rated for use in raters)
    # A lab model takes about as long for a decoding step as for a pass over a pair.
    steps = sum(tokens for _, tokens in sampling)
    passes = max(1.0, (read + 2 * back) / (3 * e.sizes.row)) + steps
    return ScoringCost(
        flops=flops,
        known=_known(e, plan, uses),
        lab=LAB_RATES.scored * count * passes,
        passes=passes,
        models={
            **({"target": (count * read, written)} if read else {}),
            **(e.embedder_tokens(embedded) if embedded else {}),
            **({"rater": (rated * len(raters), 0)} if raters else {}),
        },
        usd=e.embedder_usd if embedded else 0.0,
        drawn=e.target.flops(written),
        moved=sum(_decoded(e, use, count, tokens) for use, tokens in sampling),
    )


def _decoded(e: Estimator, use: ModelUse, count: int, tokens: int) -> float:
    """Bytes that decoding `tokens` tokens of every answer moves; an answer that is alone waits for no longer one."""
    longest = tokens if use.at_once == 1 else use.tokens
    at_once = AtOnce(use.at_once, longest, trained=False)
    return e.decoding(e.target, count * use.samples, e.sizes.row, tokens, longest, at_once)


def _target_tokens(e: Estimator, plan: Plan, uses: Sequence[ModelUse]) -> tuple[int, int]:
    """Tokens that go through the target to score one pair, and those of them that also come back."""
    read = back = 0
    for use in (use for use in uses if use.role == "target"):
        many = warm(plan.config).checkpoints if use.every_checkpoint else 1
        # Real prompts wherever the target is real, whatever it is tested on.
        probe = use.validation * (guide_items(plan) or 0) * (LAB_TEST_PROMPT if e.lab else TEST_PROMPT)
        read += many * (use.forward * e.sizes.row + probe)
        back += many * use.backward * e.sizes.row
    return read, back


def _known(e: Estimator, plan: Plan, uses: Sequence[ModelUse]) -> bool:
    """Whether the operations of a score are known: the size of the models that give it, and what it reads."""
    if any(use.role == "embedder" for use in uses) and e.embedder is not None and not e.embedder.sized:
        return False
    if any(use.role == "rater" and not use.parameters for use in uses):
        return False
    if not any(use.role == "target" for use in uses):
        return True
    return e.target.shape is not None and not (any(use.validation for use in uses) and guide_items(plan) is None)


def scoring_parts(sizer: Sizer, plan: Plan, signal: SignalChoice) -> list[Part]:
    """The parts that the chosen signal holds in memory while it scores: those of all its terms at once."""
    parts = [part for term in signal_terms(signal) for part in _parts(sizer, plan, signal_uses(term))]
    return [*parts, *_rating(signal)]


def _parts(sizer: Sizer, plan: Plan, uses: Sequence[ModelUse]) -> list[Part]:
    """The parts of a signal that uses models so."""
    target = [use for use in uses if use.role == "target"]
    if any(use.samples for use in target):
        parts = _answers(sizer, target)
    elif any(use.backward for use in target):
        parts = _gradients(sizer, plan, target)
    else:
        parts = sizer.reads() if target else []
    return [*parts, *(sizer.embeds() if any(use.role == "embedder" for use in uses) else [])]


def _rating(signal: SignalChoice) -> list[Part]:
    """The raters of the signal, of which all are in memory together."""
    held = sum(rater.weight_bytes for rater in signal_raters(signal))
    return [Part("rater", "weights", held)] if held else []


def _answers(sizer: Sizer, uses: Sequence[ModelUse]) -> list[Part]:
    """The target decoding its own answers."""
    target = sizer.target
    if target.shape is None:
        return []
    rows, longest = max(use.at_once for use in uses), max(use.tokens for use in uses)
    peak = memory.generation(target.shape, target.dtype, rows, sizer.row, longest)
    return [Part("target", "weights, cache, work space", peak.bytes)]


def _gradients(sizer: Sizer, plan: Plan, uses: Sequence[ModelUse]) -> list[Part]:
    """The target under a signal that reads its gradients: as many rows as a batch takes."""
    c, target = sizer.config, sizer.target
    if target.shape is None:
        return []
    rows = max(1, min(c.runtime.batch_size, c.runtime.scoring.batch_tokens // sizer.row))
    own = warm(plan.config)
    # A probe's loss differences are below what bfloat16 can tell, so it computes in float32.
    wide = any(use.dtype == "float32" for use in uses)
    peak = memory.scoring(
        target.shape,
        "float32" if wide else target.dtype,
        memory.Batch(rows, sizer.row, rows > 1),
        memory.Lora(own.rank, plain_names(own.modules, target.shape)),
        # At most: what belongs to the questions has no logits.
        predicting=rows * sizer.row,
        directions=2 if c.guide.withhold else 1,
        checkpoints=own.checkpoints,
        checkpointing=c.runtime.scoring.activation_checkpointing,
        cuda=sizer.cuda,
    )
    whole = weight_bytes(target.shape, target.dtype) if any(use.every_weight for use in uses) else 0
    return [Part("target", "scoring", peak.bytes + whole)]
