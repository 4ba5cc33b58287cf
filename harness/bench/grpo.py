"""`harness bench grpo`: what the harness adds to a training of the policy, beside TRL's trainer alone.

Both sides train the lab's writer with the same settings, prompts, seed and rewards: rubrics are parsed, pairs
generated, checked and scored by the same code. The bare side is a `GRPOTrainer` with a reward function and nothing
else. The harness's side is the stage that a run executes: rollouts written with their rubric, pair, score and reward,
cost in the ledger, events, checkpoints that count only with their rollouts. Equal seeds give equal rewards, which is
checked, so the two do the same work; they take turns in one process, and the order changes every turn, since a machine
is noisy. A signal that costs nothing is the default: an expensive one would make the overhead look small.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.errors import StageError
from harness.models.open import model_path, open_backend
from harness.resolve.assemble import assemble
from harness.resolve.layers import resolve_run
from harness.runtime.execute import execute
from harness.runtime.progress import Progress
from harness.runtime.run import RunObserver
from harness.screen import ProgressCallback, no_progress
from harness.shards import read_shards
from harness.stage import Stage, StageRun, stage_folder, store_of
from harness.synthesis.route import Draft, Draw
from harness.synthesis.synthesize import Counter
from harness.training.grpo import PolicyPrompt, batch_sizes, prompt_order, trl_arguments
from harness.training.trainer import common_arguments
from harness.types import Seed, chat, derive_seed
from methods.drivers.grpo_settings import GrpoSettings
from methods.drivers.shaping import shape
from methods.plan import Plan
from methods.signals.base import Archive
from methods.stages.scoring import prepare_signal
from methods.stages.trajectories import sampling_of, synthesizer

Rewards = list[float | None]
"""Rewards of all rollouts, in order."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one training on each side: by the clock, and of this process on a processor."""

    bare: float
    harness: float
    bare_cpu: float
    harness_cpu: float

    @property
    def overhead(self) -> float:
        """The time that the harness adds, as a share of TRL's time."""
        return self.harness / self.bare - 1.0

    @property
    def cpu_overhead(self) -> float:
        """The same of processor time, which says more where other jobs take the machine away."""
        return self.harness_cpu / self.bare_cpu - 1.0


@dataclass(frozen=True, slots=True)
class GrpoBench:
    """The turns, and what each of them did."""

    turns: tuple[Timing, ...]
    signal: str
    steps: int
    rollouts: int

    @property
    def overhead(self) -> float:
        """The median over turns."""
        return statistics.median(turn.overhead for turn in self.turns)

    @property
    def cpu_overhead(self) -> float:
        """The median over turns, of processor time."""
        return statistics.median(turn.cpu_overhead for turn in self.turns)

    def to_json(self) -> dict[str, Any]:
        """Everything, for a file."""
        return {**asdict(self), "overhead": self.overhead, "cpu_overhead": self.cpu_overhead}


def bench_grpo(signal: str, steps: int, turns: int, progress: ProgressCallback = no_progress) -> GrpoBench:
    """Train in turns; the first turn warms up and is not counted. Needs the models of lab world 0, or builds them."""
    import torch

    from harness.runtime.allocator import keep_freed_memory
    from harness.training.trainer import quiet_libraries

    quiet_libraries()
    keep_freed_memory()
    torch.set_num_threads(1)
    counted = []
    with tempfile.TemporaryDirectory(prefix="harness-bench-") as name:
        folder = Path(name)
        plan, stage = _lay_out(signal, steps, folder)
        observer = _observer(folder / "prepare")
        execute(stage.inputs, store_of(plan.config.runtime.runs), observer)
        observer.close()
        for number in range(turns + 1):
            done: dict[str, tuple[float, float, Rewards]] = {}
            for side in ("bare", "harness") if number % 2 else ("harness", "bare"):
                train = _bare if side == "bare" else _with_harness
                started = time.perf_counter(), time.process_time()
                rewards = train(stage, plan, folder)
                done[side] = time.perf_counter() - started[0], time.process_time() - started[1], rewards
            bare, own = done["bare"], done["harness"]
            if bare[2] != own[2]:
                raise StageError("the two sides of the benchmark got different rewards, so their times do not compare")
            if number:
                counted.append(Timing(bare[0], own[0], bare[1], own[1]))
            progress("bench grpo", number + 1, turns + 1)
        g = _settings(plan)
    return GrpoBench(tuple(counted), signal, steps, steps * g.prompts_per_step * g.group_size)


def _lay_out(signal: str, steps: int, folder: Path) -> tuple[Plan, Stage]:
    sets = {"driver.steps": steps, "runtime.runs": str(folder / "runs")}
    config = resolve_run(driver="grpo", target="nano", signal=signal, sets=sets).config
    assembly = assemble(config)
    return assembly.plan, assembly.only("policy")


def _settings(plan: Plan) -> GrpoSettings:
    settings = plan.config.driver.settings
    assert isinstance(settings, GrpoSettings)
    return settings


def _observer(folder: Path) -> RunObserver:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return RunObserver(folder, Progress(quiet=True))


def _with_harness(stage: Stage, plan: Plan, folder: Path) -> Rewards:
    """The stage as a run executes it."""
    store = store_of(plan.config.runtime.runs)
    shutil.rmtree(stage_folder(store, stage), ignore_errors=True)
    observer = _observer(folder / "run")
    execute([stage], store, observer)
    observer.close()
    return [row["reward"] for row in read_shards(stage_folder(store, stage))]


def _bare(stage: Stage, plan: Plan, folder: Path) -> Rewards:
    """TRL's trainer with a reward function, as one would write it without the harness."""
    from datasets import Dataset
    from transformers import AutoTokenizer, PrinterCallback
    from trl import GRPOTrainer

    c, g = plan.config, _settings(plan)
    observer = _observer(folder / "bare")
    run = StageRun(stage, store_of(c.runtime.runs), observer)
    signal, _ = prepare_signal(run.inputs, plan, c.signal)
    seeds = {seed.id: seed for seed in run.records("sources", Seed)}
    maker = synthesizer(plan, list(seeds.values()))
    path = model_path(c.drafter, plan.world)
    tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
    drafts = open_backend(c.drafter, plan.world, [])
    prompts = [PolicyPrompt(s.id, maker.messages(s, drafts, sampling_of(g))[0]) for s in seeds.values()]
    seed = derive_seed(run.seed, c.synthesis_seed)
    kept: Rewards = []
    sizes = batch_sizes(g)
    updates = sizes["steps_per_generation"] // sizes["gradient_accumulation_steps"]

    def reward(completions: list[Any], completion_ids: list[list[int]], key: list[str], **extra: Any) -> Rewards:
        step = extra["trainer_state"].global_step // updates
        drafts = []
        for i, (name, text, ids) in enumerate(zip(key, completions, completion_ids, strict=True)):
            finish = "stop" if ids and ids[-1] in trainer.eos_token_ids else "length"
            drafts.append(Draft(Draw(seeds[name], i, f"grpo-{step}"), text[0]["content"], finish))
        attempts = maker.realise(drafts, sampling_of(g.generator), derive_seed(run.seed, "rollout", step), Counter())
        scores = {s.item_id: s.value for s in signal.score([a.sample for a in attempts if a.sample], Archive())}
        values = [scores[a.sample.id] if a.sample else None for a in attempts]
        groups = [i // g.group_size for i in range(len(attempts))]
        rewards = shape(
            values, [a.sample is not None for a in attempts], groups, g.reward, [draft.text for draft in drafts]
        )
        kept.extend(rewards)
        return rewards

    steps = g.steps or 1
    arguments = trl_arguments(
        g, steps * updates, common_arguments(folder / "trl", seed, c.runtime.checkpoint_every * updates, "float32")
    )
    arguments.model_init_kwargs = {"dtype": "float32"}
    ordered = [prompts[i] for i in prompt_order(len(prompts), g.prompts_per_step, steps, seed)]
    rows = {"prompt": [chat(p.messages) for p in ordered], "key": [p.key for p in ordered]}
    trainer = GRPOTrainer(
        model=str(path),
        reward_funcs=reward,
        args=arguments,
        train_dataset=Dataset.from_dict(rows),
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    trainer.save_model(str(folder / "bare-policy"))
    observer.close()
    return kept


def render_grpo(result: GrpoBench) -> str:
    """The result for a terminal."""
    wall, cpu = (sorted(getattr(turn, name) for turn in result.turns) for name in ("overhead", "cpu_overhead"))
    lines = [
        f"{result.steps} steps, {result.rollouts} rollouts, rewards by {result.signal}; seconds of a training",
        "turn   TRL alone   harness   added   of processor time",
        *(
            f"{i:>4}   {t.bare:>9.2f}   {t.harness:>7.2f}   {t.overhead:+.1%}   {t.cpu_overhead:+.1%}"
            for i, t in enumerate(result.turns, 1)
        ),
        f"the harness adds {result.overhead:+.1%} of time ({wall[0]:+.1%} to {wall[-1]:+.1%}) and "
        f"{result.cpu_overhead:+.1%} of processor time ({cpu[0]:+.1%} to {cpu[-1]:+.1%}), medians of {len(wall)} turns",
    ]
    return "\n".join(lines)
