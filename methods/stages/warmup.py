"""`warmup`: the target's LoRA checkpoints that gradients are taken at, with Adam's moments: trained, or the user's own.

Whichever they are, the stage leaves one folder a checkpoint, with the adapter and its moments by parameter name, and
`checkpoints.json`, which lists them with their weights: signals need not know where they come from.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import memory
from harness.config import RunConfig
from harness.costs.estimator import SURVIVE, Estimator, times
from harness.costs.records import Before, Cost, Load, Part
from harness.costs.sizer import Sizer
from harness.errors import ConfigError, StageError
from harness.identity import identity
from harness.models.open import model_path
from harness.shards import ShardOutput, write_json
from harness.stage import Stage, StageRun
from harness.training.adapters import FILES, GivenCheckpoint, given_checkpoints, load_adapter
from harness.training.lora_modules import plain_names, settled_names
from harness.training.recipe import LoraSettings, Recipe, largest_divisor
from harness.training.sft import epoch_name
from harness.training.trainer import publish
from harness.types import Sample, derive_seed
from methods.plan import Plan
from methods.signals.base import WarmCheckpoint
from methods.stages.target import micro_batch, training_notes, tune

LIST = "checkpoints.json"


def warmup(plan: Plan, initial: Stage, member: int = 0) -> Stage:
    """LoRA warm-up of the target on a share of the initial pairs (OptimSyn §3.1.3, App. D.4).

    From 1 on, `member` is one of an ensemble: the same warm-up from another seed, which draws the adapter's first
    weights, the order of the pairs and the dropout. Its moments are not kept.
    """
    c = plan.config
    w = c.warmup
    modules = list(settled_names(w.lora_modules, c.models.target.id))
    settings: dict[str, Any] = {
        "target": plan.identity(c.models.target),
        "max_length": c.models.target.max_length,
        "warmup": {**identity(w, exclude={"adapter"}), "lora_modules": modules},
        "seed": c.synthesis_seed,
    }
    if member:
        settings["member"] = member
    seed = derive_seed(c.synthesis_seed, "member", member) if member else c.synthesis_seed

    def work(run: StageRun) -> Mapping[str, Any]:
        pool = run.records(initial.name, Sample)
        share = pool[: max(1, round(len(pool) * w.share))]
        if not pool:
            raise StageError("no valid initial pair to warm the target up with; see the rejects of stage initial")
        every = w.keep == "epochs" and not member
        tuned = tune(run, plan, share, _recipe(c), seed=seed, output="adapter", adam=not member, keep_epochs=every)
        rates = tuned.epoch_rates if every else tuned.epoch_rates[-1:]
        names = [epoch_name("adapter", epoch) for epoch in range(1, len(rates))] + ["adapter"]
        kept = _list_checkpoints(run.folder, names, rates)
        return {"pairs": len(share), "of": len(pool), **training_notes(tuned), "checkpoints": kept}

    def estimate(e: Estimator, before: Before) -> Cost | None:
        pairs = before[initial.name]
        if pairs is None or not pairs.rows:
            return None
        count = max(1, round(pairs.rows * SURVIVE * w.share))
        kept = ", each kept" if w.keep == "epochs" and not member else ""
        note = f"{times(w.epochs)} on {w.share:.0%} of the pairs{kept}"
        return e.trained(count, w.epochs, note)

    return Stage(
        name=f"member_{member}" if member else "warmup",
        version=1 if member else 4,
        settings=settings,
        inputs=(initial,),
        work=work,
        kind="checkpoints",
        estimate=estimate,
        loads=_training,
    )


def _recipe(c: RunConfig) -> Recipe:
    """The recipe of a warm-up."""
    w = c.warmup
    return Recipe(
        learning_rate=w.learning_rate,
        epochs=w.epochs,
        batch_size=w.batch_size,
        micro_batch=micro_batch(c, w.batch_size),
        schedule=w.schedule,
        warmup_ratio=w.warmup_ratio,
        weight_decay=0.0,
        adam_beta2=0.999,
        max_length=c.models.target.max_length,
        lora=LoraSettings(w.lora_rank, w.lora_alpha, w.lora_dropout, w.lora_modules),
    )


def member_names(count: int) -> list[str]:
    """The names of the stages that make an ensemble of this size."""
    return [f"member_{number}" for number in range(1, count + 1)]


def ensemble(plan: Plan, initial: Stage, count: int) -> tuple[Stage, ...]:
    """Warm-ups of `count` seeds, a stage each. Raises `ConfigError` where the warm-up is the user's own."""
    if plan.config.warmup.adapter:
        raise ConfigError(
            "an ensemble is warmed up from several seeds, and warmup.adapter names adapters that are trained already; "
            "leave it out, or take a signal that needs no ensemble"
        )
    return tuple(warmup(plan, initial, number) for number in range(1, count + 1))


def _training(sizer: Sizer) -> Load:
    """LoRA training of the target."""
    w, target = sizer.config.warmup, sizer.target
    if target.shape is None:
        return Load("warm-up", ())
    micro = largest_divisor(w.batch_size, sizer.config.sft.micro_batch)
    peak = memory.lora_training(
        target.shape,
        target.dtype,
        memory.Batch(micro, sizer.row, micro > 1),
        memory.Lora(w.lora_rank, plain_names(w.lora_modules, target.shape), w.lora_dropout > 0),
        accumulate=micro < w.batch_size,
        checkpointing=sizer.config.runtime.training.activation_checkpointing,
        cuda=sizer.cuda,
    )
    return Load("warm-up", (Part("target", "LoRA training", peak.bytes),))


@dataclass(frozen=True, slots=True)
class Warm:
    """The warm-up's LoRA shape, and at how many checkpoints gradients are taken."""

    rank: int
    modules: tuple[str, ...]
    checkpoints: int


def warm(config: RunConfig) -> Warm:
    """As the settings say, or as the user's own checkpoints are. Raises `InputError` where those are not there."""
    w = config.warmup
    if w.adapter:
        given = given_checkpoints(w.adapter)
        return Warm(given[0].rank, given[0].modules, len(given))
    return Warm(w.lora_rank, w.lora_modules, w.epochs if w.keep == "epochs" else 1)


def given_warmup(plan: Plan) -> Stage:
    """The user's own checkpoints (`warmup.adapter`), checked against the target and stored with named moments."""
    c = plan.config
    given = given_checkpoints(c.warmup.adapter)
    settings: dict[str, Any] = {
        "target": plan.identity(c.models.target),
        "given": [[checkpoint.identity, checkpoint.weight] for checkpoint in given],
    }

    def work(run: StageRun) -> Mapping[str, Any]:
        started = time.perf_counter()
        names = [f"adapter-{number}" for number in range(1, len(given))] + ["adapter"]
        _store(run, plan, given, names)
        kept = _list_checkpoints(run.folder, names, [checkpoint.weight for checkpoint in given])
        rows = [{"folder": str(g.folder), "steps": g.step, "weight": g.weight} for g in given]
        run.write(0, ShardOutput(rows), time.perf_counter() - started)
        return {"given": [str(g.folder.resolve()) for g in given], "checkpoints": kept}

    note = "checkpoints of your own, checked and stored; nothing is trained"
    return Stage(
        name="warmup",
        version=3,
        settings=settings,
        inputs=(),
        work=work,
        kind="checkpoints",
        estimate=lambda e, before: Cost(rows=len(given), out=len(given), note=note),
        loads=lambda sizer: Load("warm-up", tuple(sizer.reads())),
    )


def _store(run: StageRun, plan: Plan, given: Sequence[GivenCheckpoint], names: Sequence[str]) -> None:
    """Copy what is not yet in the stage's folder, one checkpoint at a time, each once it has been loaded and mapped."""
    from harness.models.transformers_backend import load_causal_lm
    from harness.training.adam_state import load_adam_state, write_adam_state

    target = plan.config.models.target
    base: Any = None
    for number, (checkpoint, name) in enumerate(zip(given, names, strict=True)):
        if not (run.folder / name).exists():
            if base is None:
                base, _ = load_causal_lm(model_path(target, plan.world), target.dtype, target.revision)
            model = load_adapter(base, checkpoint.folder, target.id)
            trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
            state = load_adam_state(checkpoint.moments, trained, checkpoint.folder)
            temporary = run.folder / f".{name}.tmp"
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            for file in FILES:
                shutil.copyfile(checkpoint.folder / file, temporary / file)
            write_adam_state(temporary / "adam.safetensors", state)
            publish(temporary, run.folder / name)
            base = model.unload()
        run.observer.progress(run.stage.name, number + 1, len(given))


def _list_checkpoints(folder: Path, names: Sequence[str], weights: Sequence[float]) -> dict[str, float]:
    """Write which checkpoints there are, oldest first, with weights that sum to 1."""
    total = sum(weights)
    shares = [weight / total if total else 1.0 / len(weights) for weight in weights]
    kept = dict(zip(names, shares, strict=True))
    write_json(folder / LIST, kept)
    return kept


def read_checkpoints(folder: Path) -> tuple[WarmCheckpoint, ...]:
    """The checkpoints of a finished warm-up stage at `folder`, oldest first."""
    kept: dict[str, float] = json.loads((folder / LIST).read_text(encoding="utf-8"))
    return tuple(WarmCheckpoint(folder / name, folder / name / "adam.safetensors", w) for name, w in kept.items())
