"""Warm-up checkpoints: kept at every epoch with LESS's weights, or the user's own, checked and stored by name."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from harness.config import RunConfig, SignalChoice
from harness.errors import ConfigError, HarnessError, InputError
from harness.models.transformers_backend import load_causal_lm
from harness.planning.costs import estimates, make_estimator
from harness.planning.plan import make_plan
from harness.planning.plan_text import render_plan
from harness.resolve.assemble import assemble
from harness.resolve.layers import resolve_run
from harness.runtime import outputs
from harness.runtime.execute import execute
from harness.shards import ShardOutput, Summary
from harness.stage import StageRun, stage_folder
from harness.training import sft, trainer
from harness.training.adam_state import AdamState, load_adam_state
from harness.training.adapters import UNKNOWN_RATES, given_checkpoints, load_adapter
from harness.training.recipe import LoraSettings, Recipe, Tuned
from harness.training.sft import finetune
from harness.types import Message, Sample
from methods.signals.base import Archive, SignalContext, TargetState, ValidationExample, WarmCheckpoint
from methods.signals.catalogue import make_signal
from methods.stages.warmup import read_checkpoints, warmup
from support.outside_trainer import Run, hugging_face, tiny_lora
from support.plain_stage import plain_stage
from support.store_worker import Watcher
from support.tiny import make_tiny_model

LORA = LoraSettings(4, 8, 0.0, ("q_proj", "v_proj"))


def sample(number: int) -> Sample:
    messages = (Message("user", f"which choice {number}"), Message("assistant", f"yes {number}"))
    return Sample(f"s{number}", ("d",), None, "", messages, "", "test", "stop", 0, 0)


SAMPLES = [sample(i) for i in range(10)]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("warmup") / "target")


def recipe(epochs: int, schedule: str = "linear") -> Recipe:
    return Recipe(1e-3, epochs, 4, 4, schedule, 0.1, 0.0, 0.999, 96, LORA)


def train(target: Path, folder: Path, *, save_every: int = 200) -> Tuned:
    return finetune(
        target, SAMPLES, recipe(3), seed=1, folder=folder, output="adapter", save_adam=True, keep_epochs=True,
        save_every=save_every,
    )  # fmt: skip


KEPT = ("adapter-epoch-1", "adapter-epoch-2", "adapter")


@pytest.fixture(scope="module")
def uncut(target: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tuned, Path]:
    folder = tmp_path_factory.mktemp("uncut")
    return train(target, folder), folder


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    adam = {f"adam {k}": v for k, v in load_file(folder / "adam.safetensors").items()}
    return {**load_file(folder / "adapter_model.safetensors"), **adam}


def assert_same_folders(a: Path, b: Path) -> None:
    for name in KEPT:
        first, second = tensors(a / name), tensors(b / name)
        assert set(first) == set(second)
        assert all(torch.equal(first[key], second[key]) for key in first)


def load(target: Path, checkpoint: WarmCheckpoint) -> AdamState:
    """The moments of a checkpoint, mapped to its adapter on the target."""
    base, _ = load_causal_lm(target)
    model = load_adapter(base, checkpoint.adapter, "tiny")
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    return load_adam_state(checkpoint.adam, trained, checkpoint.adapter)


def test_modules_that_the_model_does_not_have_are_refused_by_their_setting(target: Path, tmp_path: Path) -> None:
    foreign = replace(recipe(1), lora=LoraSettings(4, 8, 0.0, ("c_attn",)))
    with pytest.raises(ConfigError, match=r"lora_modules does not fit Qwen3ForCausalLM: c_attn matches nothing"):
        finetune(target, SAMPLES, foreign, seed=1, folder=tmp_path, output="adapter")


class TestEpochs:
    """`warmup.keep=epochs`."""

    def test_every_epochs_state_is_kept_and_the_last_is_the_adapter(
        self, target: Path, uncut: tuple[Tuned, Path]
    ) -> None:
        tuned, folder = uncut
        assert tuned.steps == 9
        assert {p.name for p in folder.glob("adapter*")} == set(KEPT)
        states = [tensors(folder / name) for name in KEPT]
        for earlier, later in itertools.pairwise(states):
            assert all(not torch.equal(earlier[key], later[key]) for key in earlier)
        for steps, name in zip((3, 6, 9), KEPT, strict=True):
            state = load(target, WarmCheckpoint(folder / name, folder / name / "adam.safetensors"))
            assert (state.step, state.learning_rate) == (steps, 1e-3)

    def test_weights_are_the_mean_rates_that_the_optimizer_used(
        self, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        used: list[float] = []

        class Spy(TrainerCallback):
            def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                used.append(kwargs["optimizer"].param_groups[0]["lr"])

        plain = trainer.train
        monkeypatch.setattr(sft, "train", lambda t, folder: (t.add_callback(Spy()), plain(t, folder))[1])
        tuned = train(target, tmp_path)
        assert len(used) == 9 and len(set(used)) > 5
        assert tuned.epoch_rates == pytest.approx([sum(used[i : i + 3]) / 3 for i in (0, 3, 6)], rel=1e-9)

    @pytest.mark.parametrize("at", [2, 3, 6])
    def test_a_killed_training_leaves_the_same_checkpoints(
        self, target: Path, uncut: tuple[Tuned, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
    ) -> None:
        """Stopped right after a checkpoint counts, at the end of an epoch too, and resumed."""
        whole, folder = uncut

        class Killed(BaseException):
            pass

        mark = trainer.write_json

        def write(path: Path, value: Any) -> None:
            mark(path, value)
            if value == {"step": at}:
                raise Killed

        monkeypatch.setattr(trainer, "write_json", write)
        with pytest.raises(Killed):
            train(target, tmp_path / "cut", save_every=1)
        monkeypatch.setattr(trainer, "write_json", mark)
        resumed = train(target, tmp_path / "cut", save_every=1)
        assert resumed.epoch_rates == whole.epoch_rates
        assert_same_folders(folder, tmp_path / "cut")

    def test_the_stage_lists_them_with_weights_that_sum_to_one(self, target: Path, tmp_path: Path) -> None:
        def write(run: StageRun) -> None:
            run.map_shards(SAMPLES, 8, lambda part, *_: ShardOutput(part))

        pairs = plain_stage("initial", 1, {}, (), write)
        for keep, count in (("epochs", 3), ("last", 1)):
            sets = {"warmup.keep": keep, "warmup.epochs": 3, "warmup.schedule": "linear", "warmup.share": 1.0}
            plan = assemble(settings(target, **sets)).plan
            stage = warmup(plan, pairs)
            execute([stage], tmp_path, Watcher(tmp_path / "events"))
            kept = read_checkpoints(stage_folder(tmp_path, stage))
            assert len(kept) == count and kept[-1].adapter.name == "adapter"
            weights = [checkpoint.weight for checkpoint in kept]
            assert sum(weights) == pytest.approx(1.0) and weights == sorted(weights, reverse=True)
            assert all(checkpoint.adam.is_file() for checkpoint in kept)


def settings(target: Path, **sets: Any) -> RunConfig:
    """A lab run on the tiny target."""
    changes = {"models.target.id": str(target), "models.target.max_length": 96, **sets}
    return resolve_run(method="optimsyn", driver="best_of_n", target="nano", scale="smoke", sets=changes).config


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two checkpoints of transformers' own trainer, at steps 3 and 6."""
    folder = tmp_path_factory.mktemp("given")
    return hugging_face(folder, tiny_lora(folder), steps=6, logging_steps=1)


def base_of(run: Run) -> Path:
    return run.checkpoint.parents[1] / "model"


def prepare(config: RunConfig, store: Path) -> tuple[WarmCheckpoint, ...]:
    """Carry out the warm-up stage alone."""
    stage = assemble(config).stage("warmup")
    assert stage is not None
    store.mkdir(exist_ok=True)
    execute([stage], store, Watcher(store / "events"))
    return read_checkpoints(stage_folder(store, stage))


class TestGiven:
    """`warmup.adapter`: the user's own checkpoints."""

    def test_a_checkpoint_takes_the_warmups_place(self, given: Run, tmp_path: Path) -> None:
        config = settings(base_of(given), **{"warmup.adapter": str(given.checkpoint)})
        names = [stage.name for stage in assemble(config).stages]
        assert "warmup" in names and "initial" not in names
        (kept,) = prepare(config, tmp_path)
        assert kept.weight == 1.0
        state = load(base_of(given), kept)
        assert (state.step, state.beta2, state.learning_rate) == (6, 0.99, 1e-3)
        for name, own in given.moments().items():
            assert torch.equal(state.first[name], own["exp_avg"])
            assert torch.equal(state.second[name], own["exp_avg_sq"])
        stored = {k: v for k, v in tensors(kept.adapter).items() if not k.startswith("adam")}
        for name, parameter in given.model.named_parameters():
            if parameter.requires_grad:
                assert torch.equal(stored[name.replace(".default.", ".")], parameter)

    def test_signals_score_at_it(self, given: Run, tmp_path: Path) -> None:
        for name in ("influence", "local_influence"):
            config = settings(base_of(given), **{"warmup.adapter": str(given.checkpoint.parent)})
            checkpoints = prepare(config, tmp_path)
            signal = make_signal(SignalChoice.model_validate(name))
            guide = [ValidationExample(s.id, s.messages) for s in SAMPLES[:4]]
            said = signal.prepare(
                SignalContext(seed=0, validation=guide),
                TargetState(base_of(given), "rev", 96, checkpoints=checkpoints),
            )
            scores = signal.score(SAMPLES[4:], Archive())
            assert all(s.status == "ok" for s in scores) and len({s.value for s in scores}) == 6
            assert said.facts and said.validation["rewarded"].items == 4

    def test_a_trainers_folder_stands_for_its_checkpoints_weighted_by_their_rates(self, given: Run) -> None:
        trainers = given.checkpoint.parent
        first, second = given_checkpoints([str(trainers)])
        assert (first.folder.name, second.folder.name) == ("checkpoint-3", "checkpoint-6")
        assert (first.step, second.step, first.rank, first.alpha) == (3, 6, 4, 8.0)
        # Linear decay from 1e-3 over six steps, as logged: 3/2 of the mean rate at first, then 1/2 of it.
        assert first.weighted_by == "mean learning rates"
        assert first.weight > 1.5 * second.weight > 0.0
        assert first.weight + second.weight == pytest.approx(1.0)
        backwards = given_checkpoints([str(trainers / "checkpoint-6"), str(trainers / "checkpoint-3")])
        assert backwards == (first, second)

    def test_without_a_log_all_checkpoints_count_the_same(self, given: Run, tmp_path: Path) -> None:
        for name in ("checkpoint-3", "checkpoint-6"):
            shutil.copytree(given.checkpoint.parent / name, tmp_path / name)
            (tmp_path / name / "trainer_state.json").unlink()
        checkpoints = given_checkpoints([str(tmp_path)])
        assert [c.weight for c in checkpoints] == [0.5, 0.5] and checkpoints[0].weighted_by == UNKNOWN_RATES
        for name in ("checkpoint-3", "checkpoint-6"):
            (tmp_path / name / "trainer_state.json").write_text('{"log_history": []}')
        assert given_checkpoints([str(tmp_path)]) == checkpoints

    def test_content_and_not_the_path_is_its_identity(self, given: Run, tmp_path: Path) -> None:
        def identity(folder: Path) -> str:
            stage = assemble(settings(base_of(given), **{"warmup.adapter": str(folder)})).stage("warmup")
            assert stage is not None
            return stage.identity

        copy = tmp_path / "copy"
        shutil.copytree(given.checkpoint, copy)
        assert identity(copy) == identity(given.checkpoint)
        assert identity(given.checkpoint.parent / "checkpoint-3") != identity(copy)
        (copy / "optimizer.pt").write_bytes((given.checkpoint.parent / "checkpoint-3" / "optimizer.pt").read_bytes())
        assert identity(copy) != identity(given.checkpoint)

    def test_a_killed_copy_is_finished(self, given: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from methods.stages import warmup as stages

        config = settings(base_of(given), **{"warmup.adapter": str(given.checkpoint.parent)})
        whole = prepare(config, tmp_path / "whole")
        assert [c.adapter.name for c in whole] == ["adapter-1", "adapter"]
        publish, loaded = stages.publish, []

        def once(temporary: Path, final: Path) -> None:
            if final.name == "adapter":
                raise KeyboardInterrupt
            publish(temporary, final)

        monkeypatch.setattr(stages, "publish", once)
        with pytest.raises(KeyboardInterrupt):
            prepare(config, tmp_path / "cut")
        monkeypatch.setattr(stages, "publish", publish)
        load_one = stages.load_adapter
        monkeypatch.setattr(stages, "load_adapter", lambda *a: (loaded.append(a[1].name), load_one(*a))[1])
        resumed = prepare(config, tmp_path / "cut")
        assert loaded == ["checkpoint-6"]
        for a, b in zip(whole, resumed, strict=True):
            assert (tensors(a.adapter).keys(), a.weight) == (tensors(b.adapter).keys(), b.weight)
            assert all(torch.equal(v, tensors(b.adapter)[k]) for k, v in tensors(a.adapter).items())

    def test_the_plan_says_what_it_is(self, given: Run) -> None:
        resolved = resolve_run(
            method="optimsyn",
            driver="best_of_n",
            target="nano",
            sets={"models.target.id": str(base_of(given)), "warmup.adapter": str(given.checkpoint.parent)},
        )
        plan = make_plan(resolved)
        text = render_plan(plan)
        shown = " ".join(text.split())
        assert "not trained here: LoRA rank 4, alpha 8 on down_proj, q_proj, v_proj, from" in shown
        assert "checkpoint-6 (optimizer.pt, step 6, weight" in shown and "weights by mean learning rates" in shown
        assert not any(d.key.startswith("warmup.") for d in plan.deviations)
        (line,) = [stage for stage in plan.stages if stage.name == "warmup"]
        assert line.cost is not None and (line.cost.rows, line.cost.flops) == (2, 0.0)
        assert "initial" not in {stage.name for stage in plan.stages}

    def test_the_record_says_that_its_training_is_uncounted(self, given: Run) -> None:
        assembly = assemble(settings(base_of(given), **{"warmup.adapter": str(given.checkpoint)}))
        done = {stage.identity: Summary(1, 1, {}, [], 0.0, {"columns": []}) for stage in assembly.stages}
        own = {assembly.only("checkpoints").identity: Summary(1, 1, {}, [], 0.0, {"given": ["/my/checkpoint-6"]})}
        said = "own warm-up: the signal read /my/checkpoint-6, whose training is in no cost of this run"
        assert said in outputs._flags(assembly, {**done, **own})
        assert not any(flag.startswith("own") for flag in outputs._flags(assembly, done))

    def test_what_cannot_be_used_is_one_line_before_anything_runs(self, given: Run, tmp_path: Path) -> None:
        def refused(match: str, *folders: Path, kind: type[HarnessError] = InputError) -> None:
            with pytest.raises(kind, match=match) as caught:
                assemble(settings(base_of(given), **{"warmup.adapter": [str(f) for f in folders]}))
            assert "\n" not in str(caught.value)

        refused("there is no folder", tmp_path / "absent")
        (tmp_path / "empty").mkdir()
        refused("holds no LoRA adapter .* and no checkpoint-N with one", tmp_path / "empty")
        refused("twice", given.checkpoint, given.checkpoint)
        bare = tmp_path / "bare"
        shutil.copytree(given.checkpoint, bare)
        (bare / "optimizer.pt").unlink()
        refused("save_only_model=False", bare)
        (bare / "adapter_model.safetensors").unlink()
        refused("has no adapter_model.safetensors", bare)
        config = json.loads((bare / "adapter_config.json").read_text())
        (bare / "adapter_config.json").write_text(json.dumps({**config, "peft_type": "IA3"}))
        refused("is of type IA3", bare)
        with pytest.raises(ConfigError, match="keep=epochs is about our own training"):
            settings(base_of(given), **{"warmup.adapter": str(given.checkpoint), "warmup.keep": "epochs"})

    def test_an_adapter_of_another_model_is_refused(self, given: Run, tmp_path: Path) -> None:
        wide = make_tiny_model(tmp_path / "wide", hidden=64)
        with pytest.raises(InputError, match=r"does not fit the target .*wide: .*size mismatch") as caught:
            prepare(settings(wide, **{"warmup.adapter": str(given.checkpoint)}), tmp_path / "runs")
        assert "\n" not in str(caught.value)
        deep = make_tiny_model(tmp_path / "deep", layers=3)
        with pytest.raises(InputError, match="holds 12 tensors and would train 18 on the target"):
            prepare(settings(deep, **{"warmup.adapter": str(given.checkpoint)}), tmp_path / "runs")


def test_costs_follow_the_checkpoints_and_the_probes(target: Path) -> None:
    def flops(signal: str, **sets: Any) -> float:
        config = resolve_run(method="optimsyn", driver="best_of_n", signal=signal, target="qwen3-8b", sets=sets).config
        assembly = assemble(config)
        cost = estimates(assembly.stages, make_estimator(config))[assembly.only("scores").identity]
        assert cost is not None
        return cost.flops

    one = flops("influence")
    assert flops("influence", **{"warmup.keep": "epochs", "warmup.epochs": 4}) == pytest.approx(4 * one)
    assert flops("local_influence", **{"signal.form": "first_order"}) == pytest.approx(one)
    # A probe reads every validation item: far more than the pair itself.
    assert flops("local_influence", **{"guide.n": 100}) > 10 * one
    assert flops("local_influence", **{"guide.n": 200}) > 1.8 * flops("local_influence", **{"guide.n": 100})
