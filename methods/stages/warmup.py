"""`warmup`: the target's LoRA checkpoints that gradients are taken at, with Adam's moments: trained, or the user's own.

Whichever they are, the stage leaves one folder a checkpoint, with the adapter and its moments by parameter name, and
`checkpoints.json`, which lists them with their weights: signals need not know where they come from.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import StageError
from harness.models.open import model_path
from harness.shards import ShardOutput, write_json
from harness.stage import Stage, StageRun
from harness.training.adapters import FILES, GivenCheckpoint, given_checkpoints, load_adapter
from harness.training.lora_modules import settled_names
from harness.training.recipe import LoraSettings, Recipe
from harness.training.sft import epoch_name
from harness.training.trainer import publish
from harness.types import Sample
from methods.plan import Plan
from methods.signals.base import WarmCheckpoint
from methods.stages.target import micro_batch, notes, tune

LIST = "checkpoints.json"


def warmup(plan: Plan, initial: Stage) -> Stage:
    """LoRA warm-up of the target on a share of the initial pairs (OptimSyn §3.1.3, App. D.4)."""
    c = plan.config
    w = c.warmup
    modules = list(settled_names(w.lora_modules, c.models.target.id))
    settings: dict[str, Any] = {
        "target": plan.identity(c.models.target),
        "max_length": c.models.target.max_length,
        "warmup": {**w.model_dump(mode="json", exclude={"adapter"}), "lora_modules": modules},
        "seed": c.synthesis_seed,
    }

    def work(run: StageRun) -> Mapping[str, Any]:
        pool = run.records("initial", Sample)
        share = pool[: max(1, round(len(pool) * w.share))]
        if not pool:
            raise StageError("no valid initial pair to warm the target up with; see the rejects of stage initial")
        recipe = Recipe(
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
        every = w.keep == "epochs"
        tuned = tune(run, plan, share, recipe, seed=c.synthesis_seed, output="adapter", adam=True, keep_epochs=every)
        rates = tuned.epoch_rates if every else tuned.epoch_rates[-1:]
        names = [epoch_name("adapter", epoch) for epoch in range(1, len(rates))] + ["adapter"]
        kept = _list_checkpoints(run.folder, names, rates)
        return {"pairs": len(share), "of": len(pool), **notes(tuned), "checkpoints": kept}

    return Stage("warmup", 4, settings, (initial,), work)


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

    return Stage("warmup", 3, settings, (), work)


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
