"""The stages of an iteration of `dpo`: drafts that are probed, preferences between them, and the training on these.

Preferences are a stage of their own, which needs no model but a tokenizer: what DPO would drop, for want of a
difference or for length, is counted there, and an iteration without any preference ends there, before anything is
trained.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.config import SignalChoice
from harness.costs.estimator import LAB_RATES, SURVIVE, Estimator, times
from harness.costs.records import Before, Cost, Load, Part
from harness.costs.sizer import Sizer, no_models
from harness.errors import InputError
from harness.facts import Fact, facts_to_rows
from harness.identity import identity
from harness.memory import Batch, Lora, grpo_update
from harness.models.open import model_path
from harness.shards import ShardOutput
from harness.stage import Stage, StageRun
from harness.synthesis.route import Draw
from harness.synthesis.synthesize import Synthesizer
from harness.training.dpo import DpoRecipe, Preference, train_preferences, unusable
from harness.training.lora_modules import plain_names, settled_names
from harness.training.recipe import LoraSettings, largest_divisor
from harness.types import Reject, Sample, Score, Seed, derive_seed
from methods.drivers.dpo_settings import DpoSettings
from methods.drivers.preferences import CLOSE, ONE_SIDE, PreferenceRow, Preferences, Rated, prefer, split_of
from methods.plan import Plan
from methods.signals.catalogue import sign, signal_class
from methods.stages.seed_choice import pool_of
from methods.stages.trajectories import DRAFTS, DraftText, drafting_prompts, synthesis_worker

DIVIDED = "which DPO does not divide: set driver.tune=lora"
"""How a model in training that is too large for a device goes on several."""


def probe_stage(plan: Plan, g: DpoSettings, source: Stage, policy: Stage | None, number: int) -> Stage:
    """Pairs from several drafts of each probed seed, the drafts that became pairs as side table `DRAFTS`."""
    c = plan.config
    settings = {
        **plan.synthesis_settings(),
        "writer_model": "trained" if policy else plan.drafter_identity,
        "probe": g.probe,
        "per_seed": g.drafts,
        "shard": c.synthesis.shard_size,
        "seed": c.synthesis_seed,
    }

    def work(run: StageRun) -> Mapping[str, Any]:
        seeds = run.records(source.name, Seed)
        pool = pool_of(seeds, g.probe or len(seeds), derive_seed(c.synthesis_seed, "probe", number))
        draws = [Draw(seed, i, f"probe {number}") for seed in pool for i in range(g.drafts)]
        folder = run.input(policy.name) / "policy" if policy else plan.policy[1] if plan.policy else None
        run.map_shards(draws, c.synthesis.shard_size, synthesis_worker(run, plan, seeds, folder, keep_drafts=True))
        return {}

    def estimate(e: Estimator, before: Before) -> Cost | None:
        seeds = min(e.seeds, g.probe) if e.seeds and g.probe else e.seeds or g.probe
        return e.trajectories(seeds * g.drafts, f"{seeds:,} prompts x {g.drafts} drafts") if seeds else None

    trained = policy is not None or plan.policy is not None
    return Stage(
        name="probe",
        version=1,
        settings=settings,
        inputs=(source, policy) if policy else (source,),
        work=work,
        kind="pairs",
        estimate=estimate,
        loads=lambda sizer: Load("synthesis", tuple(sizer.makes(trained=trained))),
    )


def preference_stage(
    plan: Plan,
    g: DpoSettings,
    signal: SignalChoice,
    made: tuple[Stage, Stage, Stage],
    policy: Stage | None,
    number: int,
) -> Stage:
    """Preferences between scored drafts of one prompt; `made` are the stages of seeds, of probes and of their scores.

    Raises `InputError` in its work where there is none that DPO can use.
    """
    source, probe, scores = made
    settings = {**identity(g, exclude=_OTHER), "max_length": g.max_length}

    def work(run: StageRun) -> Mapping[str, Any]:
        found = _preferences(run, g, signal, probe, scores)
        if not found.rows:
            raise InputError(_none(found, number))
        kept, rejects = _usable(run, plan, g, found.rows, source, policy)
        run.write(0, ShardOutput(kept, rejects, rows_in=len(found.rows)), 0.0)
        facts = _facts(found, kept, Counter(reject.reason for reject in rejects))
        return {"prepared": {"facts": facts_to_rows(facts), "checks": [], "validation": {}}}

    def estimate(e: Estimator, before: Before) -> Cost | None:
        pairs = before[probe.name]
        if pairs is None or pairs.out is None:
            return None
        each = g.drafts * SURVIVE
        a_prompt = each * (each - 1) / 4 if g.pairs == "sides" else 1.0
        out = round(pairs.out / each * a_prompt)
        return Cost(rows=pairs.out, out=out, note="preferences, were scores split evenly")

    return Stage(
        name="prefer",
        version=1,
        settings=settings,
        inputs=(source, probe, scores, *([policy] if policy else [])),
        work=work,
        kind="measurement",
        estimate=estimate,
        loads=no_models,
        signal=signal.name,
    )


_TRAINING = ("beta", "learning_rate", "epochs", "batch_size", "schedule", "warmup_ratio", "tune")
_LORA = ("lora_rank", "lora_alpha", "lora_modules")
_OTHER = ("iterations", "probe", "drafts", "rewarm", "max_length", "micro_batch", *_TRAINING, *_LORA)
"""Settings that the preferences do not depend on, or that stand in their identity by themselves."""


def _preferences(run: StageRun, g: DpoSettings, signal: SignalChoice, probe: Stage, scores: Stage) -> Preferences:
    """All preferences between the drafts of one prompt."""
    texts = {draft.id: draft.text for draft in run.records(probe.name, DraftText, DRAFTS)}
    better = sign(signal.name)
    values = {s.item_id: None if s.value is None else better * s.value for s in run.records(scores.name, Score)}
    groups: dict[str, list[Rated]] = defaultdict(list)
    for sample in run.records(probe.name, Sample):
        text = texts[sample.id] if g.preferred == "draft" else f"{texts[sample.id].rstrip()}\n\n{sample.answer}"
        groups[sample.seed_ids[0]].append(Rated(sample.id, text, values.get(sample.id)))
    known = [value for value in values.values() if value is not None]
    low, high = signal_class(signal.name).range
    bounds = (low, high) if better > 0 else (None if high is None else -high, None if low is None else -low)
    given = better * g.split if isinstance(g.split, float) else g.split
    split = split_of(known, given, bounds) if g.pairs == "sides" else None
    unit = statistics.pstdev(known) if g.margin_unit == "sd" and known else 1.0
    return prefer(groups, g.pairs, split, g.margin * unit)


def _usable(
    run: StageRun,
    plan: Plan,
    g: DpoSettings,
    rows: Sequence[PreferenceRow],
    source: Stage,
    policy: Stage | None,
) -> tuple[list[PreferenceRow], list[Reject]]:
    """The preferences that DPO can use, and the others with the reason. Raises `InputError` where none can be."""
    from harness.models.tokenizers import load_tokenizer

    path, revision = _start(run, plan, policy)
    reasons = unusable(load_tokenizer(path, revision), _as_trained(run, plan, rows, source, path), g.max_length)
    kept = [row for row, reason in zip(rows, reasons, strict=True) if not reason]
    if not kept:
        counts = ", ".join(f"{count} {reason}" for reason, count in Counter(reasons).items())
        raise InputError(
            f"no preference pair is left of {len(rows)} ({counts}); raise driver.max_length={g.max_length}, or shorten "
            "the prompt"
        )
    rejects = [
        Reject(f"{row.chosen_id}>{row.rejected_id}", reason.replace(" ", "_"), row.chosen)
        for row, reason in zip(rows, reasons, strict=True)
        if reason
    ]
    return kept, rejects


def _as_trained(
    run: StageRun, plan: Plan, rows: Sequence[PreferenceRow], source: Stage, path: Path | str
) -> list[Preference]:
    """Preferences with the chats that their drafts answered, cut as they were for sampling."""
    wanted = {row.seed_id for row in rows}
    seeds = [seed for seed in run.records(source.name, Seed) if seed.id in wanted]
    tokens = getattr(plan.config.synthesis, plan.config.drafting_role).max_tokens
    prompts = drafting_prompts(plan, Synthesizer(plan.route, None), seeds, path, tokens)
    return [Preference(prompts[row.seed_id][0], row.chosen, row.rejected) for row in rows]


def _start(run: StageRun, plan: Plan, policy: Stage | None) -> tuple[Path | str, str | None]:
    """Where the weights are that an iteration starts from, and their revision on the hub."""
    if policy is not None:
        return run.input(policy.name) / "policy", None
    if plan.policy is not None:
        return plan.policy[1], None
    model = plan.config.drafter
    return model_path(model, plan.world), model.revision


def _none(found: Preferences, number: int) -> str:
    why = ", ".join(f"{count} {reason}" for reason, count in found.without.items()) or "none has a valid pair"
    at = "" if found.split is None else f", split {found.split:.4g}"
    ways = ["more drafts (driver.drafts)"]
    ways += ["driver.split=mean"] if ONE_SIDE in found.without else []
    ways += ["a smaller driver.margin"] if CLOSE in found.without else []
    return (
        f"no preference pair in iteration {number}: {found.prompts} prompts, {why} (margin {found.margin:.4g}{at}); "
        f"take {', '.join(ways)}, or a signal that tells drafts of one prompt apart"
    )


def _facts(found: Preferences, kept: Sequence[PreferenceRow], dropped: Mapping[str, int]) -> list[Fact]:
    apart = [row.chosen_score - row.rejected_score for row in kept]
    return [
        Fact("prompts", found.prompts, "prompts with a valid pair", "prompts"),
        Fact("with_preferences", found.with_pairs, "of which have a preference", "prompts"),
        *(Fact(f"without: {why}", count, f"without one: {why}", "prompts") for why, count in found.without.items()),
        Fact("preferences", len(kept), "preferences between drafts", "preferences"),
        *(Fact(f"dropped: {why}", count, f"left out of DPO: {why}", "preferences") for why, count in dropped.items()),
        Fact("split", found.split, "score that parts the sides"),
        Fact("margin", found.margin, "margin between the scores"),
        Fact("apart", statistics.fmean(apart), "mean difference of the scores"),
    ]


def policy_stage(
    plan: Plan, g: DpoSettings, signal: SignalChoice, made: tuple[Stage, Stage], policy: Stage | None
) -> Stage:
    """DPO of the drafting model, left in `policy/`; `made` are the stages of seeds and of preferences."""
    c = plan.config
    source, found = made
    own = _TRAINING if g.tune == "full" else (*_TRAINING, *_LORA)
    settings: dict[str, Any] = {
        "writer_model": "trained" if policy else plan.drafter_identity,
        "prompts": plan.route.hash,
        "context": [c.drafter.max_length, getattr(c.synthesis, c.drafting_role).max_tokens, c.drafter.dtype],
        "dpo": {**{name: value for name, value in identity(g).items() if name in own}, "max_length": g.max_length},
        "seed": c.synthesis_seed,
    }
    if g.tune == "lora":
        settings["dpo"]["lora_modules"] = list(settled_names(g.lora_modules, c.drafter.id))
    return Stage(
        name="dpo",
        version=1,
        settings=settings,
        inputs=(source, found, *([policy] if policy else [])),
        work=lambda run: _train(run, plan, g, made, policy),
        kind="policy",
        estimate=lambda e, before: _estimate(e, g, before[found.name]),
        loads=lambda sizer: Load("DPO", tuple(_parts(sizer, g))),
        signal=signal.name,
    )


def _train(
    run: StageRun, plan: Plan, g: DpoSettings, made: tuple[Stage, Stage], policy: Stage | None
) -> Mapping[str, Any]:
    c, started = plan.config, time.perf_counter()
    path, revision = _start(run, plan, policy)
    rows = run.records(made[1].name, PreferenceRow)
    trained = train_preferences(
        path,
        _as_trained(run, plan, rows, made[0], path),
        _recipe(g),
        seed=derive_seed(run.seed, c.synthesis_seed),
        folder=run.folder,
        dtype=c.drafter.dtype,
        revision=revision,
        save_every=c.runtime.checkpoint_every,
        training=c.runtime.training,
        setting="driver.lora_modules",
        on_step=lambda step, total: run.observer.progress(run.stage.name, step, total),
        on_log=lambda step, logs: _log(run, step, logs),
    )
    # Tokens of training are not tokens that a teacher wrote: such usage has no calls.
    usage = replace(trained.usage, role=c.drafting_role, calls=0, seconds=time.perf_counter() - started)
    row = {"steps": trained.steps, "accuracy": trained.accuracy}
    run.write(0, ShardOutput([row], usage=[usage], rows_in=len(rows), kept=len(rows)), usage.seconds)
    facts = [
        Fact("steps", trained.steps, "DPO steps", "steps"),
        Fact("accuracy", trained.accuracy, "share of the last epoch's preferences that the model shares"),
        Fact("cut", trained.truncated, f"preferences with a side cut at {g.max_length} tokens", "preferences"),
    ]
    return {"prepared": {"facts": facts_to_rows(facts), "checks": [], "validation": {}}}


def _log(run: StageRun, step: int, logs: Mapping[str, float]) -> None:
    wanted = ("loss", "grad_norm", "learning_rate", "rewards/accuracies", "rewards/margins")
    kept = {name: round(value, 9) for name, value in logs.items() if name in wanted}
    if kept:
        run.event("dpo_learner", step=step, **kept)


def _recipe(g: DpoSettings) -> DpoRecipe:
    lora = LoraSettings(g.lora_rank, g.lora_alpha, 0.0, g.lora_modules)
    return DpoRecipe(
        beta=g.beta,
        learning_rate=g.learning_rate,
        epochs=g.epochs,
        batch_size=g.batch_size,
        micro_batch=g.micro_batch,
        schedule=g.schedule,
        warmup_ratio=g.warmup_ratio,
        max_length=g.max_length,
        lora=lora if g.tune == "lora" else None,
    )


def _tokens(e: Estimator | Sizer, g: DpoSettings) -> int:
    """Tokens of one side with its prompt."""
    draft, rest = e.way[0][0], e.way[1:]
    more = sum(call.completion for call, _ in rest) if g.preferred == "pair" else 0
    return min(g.max_length, draft.prompt + draft.completion + more)


def _estimate(e: Estimator, g: DpoSettings, found: Cost | None) -> Cost | None:
    """Both sides through the policy and back, and through the reference; None where their number is not known."""
    if found is None or found.out is None:
        return None
    policy = e.way[0][1]
    tokens = found.out * 2 * _tokens(e, g) * g.epochs
    flops = (e.passes + 1) * policy.flops(tokens)
    lab = LAB_RATES.trained * 2 * found.out * g.epochs
    return Cost(
        rows=found.out,
        out=None,
        tokens_in=tokens,
        flops=flops,
        seconds=e.seconds(compute=flops, known=policy.sized, lab=lab),
        note=f"DPO of all weights, {times(g.epochs)}" if g.tune == "full" else f"DPO of an adapter, {times(g.epochs)}",
        compute=flops,
        usd=0.0,
    )


def _parts(sizer: Sizer, g: DpoSettings) -> list[Part]:
    """The policy under DPO, whose update is that of GRPO with a reference and two rows a preference."""
    policy = sizer.way[0][1]
    if policy.shape is None:
        return []
    rows = largest_divisor(g.batch_size, g.micro_batch)
    adapter = Lora(g.lora_rank, plain_names(g.lora_modules, policy.shape)) if g.tune == "lora" else None
    peak = grpo_update(
        policy.shape,
        policy.dtype,
        Batch(2 * rows, _tokens(sizer, g), True),
        adapter,
        accumulate=rows < g.batch_size,
        reference=True,
        entropy=False,
        checkpointing=sizer.config.runtime.training.activation_checkpointing,
        cuda=sizer.cuda,
    )
    return [Part(policy.role, f"{g.tune} training", peak.bytes, DIVIDED)]
