"""Stages of the target: the final fine-tuning, and evaluation before and after; and how any stage trains it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from evals.evaluate import evaluate
from harness import memory
from harness.config import RunConfig
from harness.costs.estimator import LAB_RATES, AtOnce, Estimator, times
from harness.costs.records import Before, Cost, Load, Part
from harness.costs.sizer import Sizer
from harness.identity import identity
from harness.models.open import model_path
from harness.shards import ShardOutput
from harness.stage import Stage, StageRun
from harness.training.launch import accelerate_settings, sharding
from harness.training.lora_modules import plain_names, settled_names
from harness.training.recipe import LoraSettings, Recipe, Tuned, largest_divisor
from harness.training.sft import finetune
from harness.types import Sample, derive_seed
from methods.plan import Plan
from methods.stages.guide import answering


def tune(
    run: StageRun,
    plan: Plan,
    samples: Sequence[Sample],
    recipe: Recipe,
    *,
    seed: int,
    output: str,
    adam: bool,
    keep_epochs: bool = False,
    start: Path | None = None,
) -> Tuned:
    """Train the target into `output` of the stage's folder, and commit the stage's one row.

    `start` holds weights of it to go on from.
    """
    c = plan.config
    started = time.perf_counter()
    if adam and (kind := sharding(c.runtime.training)):
        count = c.runtime.training.processes
        how = f"data-parallel in {count} processes" if count > 1 else "in one process"
        run.event("notice", text=f"trains {how}, since {kind} would divide Adam's moments; {kind} is for finetune")
    tuned = finetune(
        start or model_path(c.models.target, plan.world),
        samples,
        recipe,
        seed=derive_seed(run.seed, seed),
        folder=run.folder,
        output=output,
        dtype=c.models.target.dtype,
        revision=None if start else c.models.target.revision,
        save_every=c.runtime.checkpoint_every * 20,
        save_adam=adam,
        training=c.runtime.training,
        keep_epochs=keep_epochs,
        on_step=lambda step, total: run.observer.progress(run.stage.name, step, total),
    )
    usage = replace(tuned.usage, role=plan.tuned, seconds=time.perf_counter() - started)
    row = {"steps": tuned.steps, "final_loss": tuned.final_loss}
    run.write(
        0,
        ShardOutput([row], usage=[usage], rows_in=len(samples), kept=len(samples) - tuned.unusable),
        time.perf_counter() - started,
    )
    return tuned


def micro_batch(config: RunConfig, batch_size: int) -> int:
    """The number of a step's samples that share a forward pass."""
    return min(batch_size, config.sft.micro_batch or batch_size)


def sft_recipe(config: RunConfig) -> Recipe:
    """The recipe of the final fine-tuning, the same for every arm."""
    s = config.sft
    return Recipe(
        learning_rate=s.learning_rate,
        epochs=s.epochs,
        batch_size=s.batch_size,
        micro_batch=micro_batch(config, s.batch_size),
        schedule=s.schedule,
        warmup_ratio=s.warmup_ratio,
        warmup_start=s.warmup_start,
        weight_decay=s.weight_decay,
        adam_beta2=s.adam_beta2,
        max_length=s.max_length,
        lora=LoraSettings(s.lora_rank, s.lora_alpha, 0.0, config.warmup.lora_modules) if s.tune == "lora" else None,
    )


GOES_ON = "each round's student was fine-tuned further, on the round's pairs alone: not the recipe of other arms"
"""What is said of a run whose fine-tuning does not start at the base."""


def finetune_stage(plan: Plan, dataset: Stage, student: Stage | None = None, seen: Stage | None = None) -> Stage:
    """The base target fine-tuned on the data set, with the one recipe that all arms share.

    With a `student` it goes on from that stage's weights, on what is not in the data set `seen` that these come from.
    """
    c = plan.config
    # A file that is not there is to stop the run before it begins, not at its end.
    accelerate_settings(c.runtime.training)
    settings: dict[str, Any] = {
        "target": plan.identity(c.models.target),
        "sft": identity(c.sft, exclude={"micro_batch"}),
        "seed": c.tuning_seed,
    }
    if c.sft.tune == "lora":
        settings["lora_modules"] = list(settled_names(c.warmup.lora_modules, c.models.target.id))

    def work(run: StageRun) -> Mapping[str, Any]:
        samples = run.records(dataset.name, Sample)
        start = run.input(student.name) / "model" if student else None
        if seen is not None:
            known = {s.id for s in run.records(seen.name, Sample)}
            samples = [s for s in samples if s.id not in known]
        tuned = tune(run, plan, samples, sft_recipe(c), seed=c.tuning_seed, output="model", adam=False, start=start)
        return {**training_notes(tuned), **({"variant": GOES_ON} if student else {})}

    def estimate(e: Estimator, before: Before) -> Cost | None:
        made, known = before[dataset.name], before[seen.name] if seen else None
        if made is None or not made.out:
            return None
        count = made.out - (known.out or 0) if known else made.out
        return e.trained(count, c.sft.epochs, f"{c.sft.tune}, {times(c.sft.epochs)}")

    return Stage(
        name="finetune",
        version=4,
        settings=settings,
        inputs=(dataset, *(stage for stage in (student, seen) if stage)),
        work=work,
        kind="model",
        estimate=estimate,
        loads=lambda sizer: Load("fine-tuning", tuple(finetuning(sizer))),
    )


def finetuning(sizer: Sizer) -> list[Part]:
    """The target in its final fine-tuning."""
    c, target = sizer.config.sft, sizer.target
    if target.shape is None:
        return []
    micro = largest_divisor(c.batch_size, c.micro_batch)
    batch = memory.Batch(micro, sizer.row, micro > 1)
    checkpointing = sizer.config.runtime.training.activation_checkpointing
    if c.tune == "full":
        peak = memory.full_training(
            target.shape,
            target.dtype,
            batch,
            accumulate=micro < c.batch_size,
            checkpointing=checkpointing,
            cuda=sizer.cuda,
        )
    else:
        peak = memory.lora_training(
            target.shape,
            target.dtype,
            batch,
            memory.Lora(c.lora_rank, plain_names(sizer.config.warmup.lora_modules, target.shape)),
            accumulate=micro < c.batch_size,
            checkpointing=checkpointing,
            cuda=sizer.cuda,
        )
    divided = "by FSDP (runtime.training.accelerate_config), or sft.tune=lora for one"
    return [Part("target", f"{c.tune} training", peak.bytes, divided)]


def training_notes(tuned: Tuned) -> dict[str, Any]:
    """The notes of a stage that trained."""
    return {
        "steps": tuned.steps,
        "final_loss": round(tuned.final_loss, 4),
        "truncated": tuned.truncated,
        "unusable": tuned.unusable,
    }


def evaluate_stage(plan: Plan, tuned: Stage | None) -> Stage:
    """The suite's score of the fine-tuned target, or with `tuned=None` of the target before it."""
    c = plan.config
    settings = {
        "suite": plan.identity_of(plan.tests),
        "eval": identity(c.eval, exclude={"suite"}),
        "target": None if tuned else plan.identity(c.models.target),
        "dtype": c.models.target.dtype,
    }

    def work(run: StageRun) -> Mapping[str, Any]:
        started = time.perf_counter()
        path: Path | str = run.input(tuned.name) / "model" if tuned else model_path(c.models.target, plan.world)
        result = evaluate(
            path,
            plan.tests,
            plan.data,
            batch_size=c.runtime.batch_size,
            limit=c.eval.limit,
            seed=c.tuning_seed,
            apply_chat_template=c.eval.apply_chat_template,
            dtype=c.models.target.dtype,
            progress=lambda label, done, total: run.observer.progress(run.stage.name, done, total, label),
        )
        run.write(0, ShardOutput(result.items, rows_in=len(result.items)), time.perf_counter() - started)
        return {"columns": [asdict(column) for column in result.columns]}

    return Stage(
        name="evaluate" if tuned else "evaluate_base",
        version=5,
        settings=settings,
        inputs=(tuned,) if tuned else (),
        work=work,
        kind="tuned_answers" if tuned else "base_answers",
        estimate=lambda e, before: _evaluation(e, plan),
        loads=lambda sizer: Load("evaluation", tuple(answering(sizer))),
    )


def _evaluation(e: Estimator, plan: Plan) -> Cost | None:
    """None where a benchmark does not declare how many items it has."""
    c = plan.config
    rows = tokens_in = tokens_out = 0
    for benchmark in plan.tests.benchmarks:
        if benchmark.scorer != "lm_eval":
            continue
        limit = c.eval.limit
        declared = benchmark.rows.expected_count or (c.lab.test_items if c.lab else limit)
        if declared is None:
            return None
        count = min(declared, limit or declared)
        rows += count
        tokens_in += count * e.test_prompt * (1 + benchmark.shots)
        if benchmark.template.output == "generate_until":
            tokens_out += count * benchmark.template.max_tokens // 2
    compute, known = e.target.flops(tokens_in), e.target.shape is not None
    prompt, answer = tokens_in // max(1, rows), tokens_out // max(1, rows)
    moved = e.decoding(e.target, rows, prompt, answer, answer, AtOnce(c.runtime.batch_size, answer, trained=False))
    columns = sum(b.scorer == "lm_eval" for b in plan.tests.benchmarks)
    return Cost(
        rows=rows,
        out=rows,
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        flops=compute + e.target.flops(tokens_out),
        seconds=e.seconds(compute=compute, moved=moved, known=known, lab=LAB_RATES.tested * rows),
        note=f"{columns} column{'s' if columns > 1 else ''}",
        compute=compute,
        moved=moved,
        models={"target": (tokens_in, tokens_out)},
        usd=0.0,
    )
