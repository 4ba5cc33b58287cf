"""The plan: complete, true to the settings, harmless, readable in 100 columns."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evals.catalogue import load_suite
from harness.cli import main as cli
from harness.errors import ConfigError, InputError
from harness.planning.costs import estimates, make_estimator
from harness.planning.plan import make_plan, same
from harness.planning.plan_text import render_plan, short_count
from harness.resolve.assemble import assemble, store_of
from harness.resolve.layers import resolve_run
from harness.screen import rough_duration
from harness.settings import Resolved, flatten
from harness.stage import DONE
from methods.plan import Plan
from methods.stages.target import evaluate_stage
from support.tiny import make_architecture, make_family


def _resolved(tmp_path: Path, **options: Any) -> Resolved:
    sets = {"runtime.runs": str(tmp_path / "runs"), **options.pop("sets", {})}
    return resolve_run(**{"method": "optimsyn", "target": "nano", "sets": sets, **options})


@pytest.fixture(autouse=True)
def _empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HARNESS_DATA", raising=False)


def test_a_plan_makes_nothing(tmp_path: Path) -> None:
    render_plan(make_plan(_resolved(tmp_path)))
    assert list(tmp_path.iterdir()) == []


def test_it_lists_every_setting_with_its_layer(tmp_path: Path) -> None:
    resolved = _resolved(tmp_path, sets={"driver.steps": 3})
    plan = make_plan(resolved)
    assert {s.key for s in plan.settings} == set(dict(flatten(resolved.config.model_dump(mode="json"))))
    layers = {s.key: s.layer for s in plan.settings}
    assert layers["driver.steps"] == "command line"
    assert layers["driver.reward.penalty"] == "preset paper"
    assert layers["driver.top_p"] == "default"
    text = render_plan(plan)
    for setting in plan.settings:
        assert f"{setting.key.split('.', 1)[-1]}=" in text


def test_stages_are_those_that_would_run(tmp_path: Path) -> None:
    resolved = _resolved(tmp_path)
    plan = make_plan(resolved)
    stages = assemble(resolved.config).stages
    assert [(s.name, s.identity) for s in plan.stages] == [(s.name, s.identity) for s in stages]
    costs = {s.name: s.cost for s in plan.stages}
    assert all(cost is not None for cost in costs.values())
    grpo, g = costs["grpo"], resolved.config.driver.settings
    assert grpo is not None and g.steps is not None
    assert grpo.rows == g.steps * g.prompts_per_step * g.group_size


def test_stages_in_the_store_are_marked_and_not_counted(tmp_path: Path) -> None:
    resolved = _resolved(tmp_path)
    stage = next(s for s in assemble(resolved.config).stages if s.name == "grpo")
    folder = store_of(resolved.config.runtime.runs) / stage.folder_name
    folder.mkdir(parents=True)
    empty = {"rows_in": 0, "kept": 0, "rejected": {}, "usage": [], "seconds": 1.0, "notes": {}}
    (folder / DONE).write_text(json.dumps(empty))
    plan = make_plan(resolved)
    assert [s.name for s in plan.stages if s.stored] == ["grpo"]
    text = render_plan(plan)
    assert "\n  = grpo" in text
    assert "is in the store already" in text
    fresh = render_plan(make_plan(_resolved(tmp_path, seed=1)))
    assert _total(text) != _total(fresh)


def _total(text: str) -> str:
    return next(line for line in text.splitlines() if "to do" in line)


def test_deviations_follow_the_preset(tmp_path: Path) -> None:
    paper = {d.key: d for d in make_plan(_resolved(tmp_path, target="qwen3-8b", preset="paper")).deviations}
    code = {d.key: d for d in make_plan(_resolved(tmp_path, target="qwen3-8b", preset="code")).deviations}
    assert (paper["driver.group_size"].paper, paper["driver.group_size"].code) == (5, 15)
    assert paper["driver.group_size"].here == 5
    assert code["driver.group_size"].here == 15
    assert "driver.temperature" not in paper and "driver.kl_bias_correction" not in code
    # Float32 weights of the writer do not fit on one device: the track trains an adapter, at another rate.
    assert (paper["driver.tune"].here, paper["driver.tune"].paper) == ("lora", "full")
    assert "driver.learning_rate" in paper
    nano = {d.key for d in make_plan(_resolved(tmp_path)).deviations}
    assert {"driver.learning_rate", "models.target.id", "budget"} <= nano
    assert any("TRL" in note for note in make_plan(_resolved(tmp_path)).notes)


def test_a_method_without_a_reference_has_no_deviations(tmp_path: Path) -> None:
    plan = make_plan(_resolved(tmp_path, method="static"))
    assert (plan.deviations, plan.notes) == ((), ())
    assert "paper or its released code" not in render_plan(plan)


def test_the_large_target_says_what_it_means_and_what_is_missing(tmp_path: Path) -> None:
    plan = make_plan(_resolved(tmp_path, target="qwen3-8b"))
    text = render_plan(plan)
    for part in (
        "medical",
        "Qwen/Qwen3-8B-Base: 8.19B parameters, 16.4 GB",
        "Qwen/Qwen3-8B:",
        "235B",
        "judge",
        "seeds",
    ):
        assert part in text
    assert plan.problems
    assert "listed at the end" in text
    grpo = next(s.cost for s in plan.stages if s.name == "grpo")
    assert grpo is not None and grpo.flops > 1e19 and grpo.seconds is not None
    assert "989 TFLOP/s" in " ".join(text.split())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scale": "smoke"},
        {"method": "static"},
        {"target": "qwen3-8b"},
        {"target": "qwen3-8b", "preset": "code"},
        {"driver": "best_of_n"},
        {"sets": {"select.keep": 0.5}},
        {"match": "sft_tokens", "budget": 5000.0},
        {"match": "teacher_tokens", "budget": 5e6},
        {"match": "flops", "budget": 1e13},
    ],
)
def test_it_fits_100_columns(tmp_path: Path, options: dict[str, Any]) -> None:
    text = render_plan(make_plan(_resolved(tmp_path, **options)))
    # A path may be longer than a line; nothing else may.
    long = [line for line in text.splitlines() if len(line) > 100 and str(tmp_path) not in line]
    assert long == []


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("chatml", []),
        ("endless", ["writes nothing after an answer: nothing teaches the model to stop"]),
        ("gemma", ["takes no system turn: its text is put at the head of the next user turn"]),
        ("dated", ["writes today's date: it is told 26 July 2024"]),
        ("{{ raise_exception('never') }}", ["a run would stop at its start: the chat template cannot render"]),
    ],
)
def test_templates_of_trained_models_are_named_as_a_run_names_them(
    tmp_path: Path, template: str, says: list[str]
) -> None:
    make_architecture("llama", tmp_path / "own", tokenizer=make_family("bytes", template))
    sets = {"models.writer.id": str(tmp_path / "own"), "models.writer.max_length": 128}
    found = [value for name, value in make_plan(_resolved(tmp_path, sets=sets)).meaning if name == "template"]
    assert len(found) == len(says)
    assert all(line.startswith("writer: ") and part in line for line, part in zip(found, says, strict=True))
    untrained = _resolved(tmp_path, method="static", sets=sets)
    assert not [name for name, _ in make_plan(untrained).meaning if name == "template"]


def test_a_lab_model_on_a_real_suite_is_called_a_rehearsal(tmp_path: Path) -> None:
    seeds = tmp_path / "documents.jsonl"
    seeds.write_text("".join(f'{{"text": "{"word " * 30} {number}"}}\n\n' for number in range(2)))
    options = {"suite": "pubmedqa", "seeds": str(seeds), "guide": "cv:100"}
    plan = make_plan(_resolved(tmp_path, **options))
    meaning = dict(plan.meaning)
    assert "near chance" in meaning["rehearsal"]
    assert meaning["seeds"].endswith("2 documents")
    assert meaning["guide"].startswith("cv: 100 items")
    # The lab's writer takes 320 tokens: a page of text must not be counted in full.
    assert max(load.bytes for load in plan.loads) < 4e9
    assert "rehearsal" not in dict(make_plan(_resolved(tmp_path)).meaning)


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.jsonl", b"text\nsome words\n", "line 1: not valid JSON"),
        ("a.jsonl", ('{"text": "%s"}' % ("word " * 30)).encode("utf-16"), "written in UTF-16"),
        ("a.jsonl", b'{"text": "word word', "line 1: not valid JSON"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "word"}\n' * 99, mtime=0)[:-9], "cannot be read after line"),
        ("a.jsonl", b'{"title": "x"}\n', "none of its 1 rows has the field"),
        ("a.jsonl", b'{"text": null}\n', "none of its 1 rows has the field"),
    ],
)
def test_documents_that_a_run_could_not_read_are_found(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=says) as caught:
        make_plan(_resolved(tmp_path, suite="pubmedqa", seeds=str(tmp_path / name), guide="cv:100"))
    assert "\n" not in str(caught.value)


def test_documents_are_counted_as_a_run_counts_them(tmp_path: Path) -> None:
    rows = [{"text": "word " * 30 + str(number)} for number in range(3)]
    (tmp_path / "a.jsonl").write_text(json.dumps([*rows, rows[0], {"text": "short"}], indent=1))
    options = {"suite": "pubmedqa", "seeds": [str(tmp_path / "a.jsonl")], "guide": "cv:100"}
    said = dict(make_plan(_resolved(tmp_path, **options)).meaning)["seeds"]
    assert said.endswith("3 documents of 5 read, 1 seed_duplicate, 1 seed_too_short")


def test_json_holds_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["plan", "--method", "optimsyn", "--target", "nano", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value == json.loads(json.dumps(make_plan(resolve_run(method="optimsyn", target="nano")).to_json()))
    assert value["settings"]["driver.group_size"]["layer"].startswith("scale")


def test_values_from_yaml_compare_as_numbers() -> None:
    assert same(1e-6, "1e-6") and same(256, 256.0) and same("mean", "mean") and same(True, True)
    assert not same(1e-6, 1e-5) and not same(None, 5) and not same(True, 1.5) and not same("a", None)


def test_numbers_are_short() -> None:
    assert [short_count(n) for n in (None, 0, 1234, 5_840_000, 2_000_000_000)] == ["-", "-", "1,234", "5.84M", "2G"]
    assert [rough_duration(s) for s in (3, 600, 7200, 400 * 3600)] == ["3 s", "10 min", "2 h", "17 days"]


def test_what_the_paper_reports_stands_beside_the_estimate(tmp_path: Path) -> None:
    plan = make_plan(_resolved(tmp_path, target="qwen3-8b"))
    (reported,) = plan.published
    assert reported.theirs == 80.0
    assert reported.here is not None and 0.3 < reported.here / reported.theirs < 3
    assert plan.tokens["target"][0] > 1e8 and plan.usd == 0.0
    assert "published" in render_plan(plan)


def test_devices_scale_with_their_peak_and_memory(tmp_path: Path) -> None:
    lines = {d.name: d for d in make_plan(_resolved(tmp_path, target="small")).devices}
    h100, l40s = lines["H100 80GB"], lines["L40S"]
    assert h100.fits_one and not l40s.fits_one and l40s.devices == 2
    assert h100.hours is not None and l40s.hours is not None and h100.hours < l40s.hours


def test_an_endpoint_costs_what_its_price_says(tmp_path: Path) -> None:
    sets = {"models.generator.backend": "openai", "models.generator.base_url": "https://example.org/v1"}
    assert make_plan(_resolved(tmp_path, target="small", sets=sets)).usd is None
    priced = {**sets, "models.generator.price": {"input": 1.0, "output": 2.0}}
    plan = make_plan(_resolved(tmp_path, target="small", sets=priced))
    tokens_in, tokens_out = plan.tokens["generator"]
    assert plan.usd == pytest.approx((tokens_in + 2 * tokens_out) / 1e6)
    # What somebody else's server holds needs no memory here.
    assert not [p for load in plan.loads for p in load.parts if p.role == "generator"]


VLLM = {"backend": "vllm", "base_url": "http://localhost:8000/v1"}


@pytest.mark.parametrize(
    "sets",
    [
        {},
        {"guide.strategy": "coverage"},
        {"guide.strategy": "coverage", "models.embedder.id": "Qwen/Qwen3-Embedding-0.6B"},
        {"decontam.modes": ["text", "embedding"], "models.embedder.id": "Qwen/Qwen3-Embedding-0.6B"},
    ],
)
def test_the_hours_of_a_device_are_those_of_the_stages(tmp_path: Path, sets: dict[str, Any]) -> None:
    plan = make_plan(_resolved(tmp_path, target="small", guide="clean:200", sets=sets))
    (h100,) = (d for d in plan.devices if d.name == "H100 80GB")
    seconds = [line.cost.seconds for line in plan.stages if line.cost]
    assert h100.hours == pytest.approx(sum(s for s in seconds if s is not None) / 3600)
    embeds = len(sets) == 2
    assert ("embedder" in plan.tokens) == embeds
    assert any(part.role == "embedder" for load in plan.loads for part in load.parts) == embeds


def test_what_is_not_known_makes_the_hours_unknown(tmp_path: Path) -> None:
    def hours(**sets: Any) -> float | None:
        dotted = {key.replace("__", "."): value for key, value in sets.items()}
        options = {"target": "small", "driver": "best_of_n", "signal": "val_cosine", "sets": dotted}
        return make_plan(_resolved(tmp_path, **options)).devices[0].hours

    assert hours(models__embedder__id="someone/unheard-of") is None
    assert hours() is not None


def test_a_benchmark_of_unknown_size_makes_the_evaluation_unknown(tmp_path: Path) -> None:
    def estimate(**sets: Any) -> Any:
        config = _resolved(tmp_path, target="small", sets=sets).config
        suite = load_suite("medical")
        first, *others = suite.benchmarks
        unknown = replace(first, rows=replace(first.rows, expected_count=None))
        suite = replace(suite, benchmarks=(unknown, *others))
        stage = evaluate_stage(Plan(config, suite), None)
        return estimates([stage], make_estimator(config))[stage.identity]

    assert estimate() is None
    assert estimate(**{"eval.limit": 50}).rows == 50 * 4


def test_a_reference_pass_is_counted_where_there_is_one(tmp_path: Path) -> None:
    def flops(kl: float) -> float:
        plan = make_plan(_resolved(tmp_path, target="small", sets={"driver.kl_coefficient": kl}))
        (cost,) = (line.cost for line in plan.stages if line.name == "grpo")
        assert cost is not None
        return cost.flops

    assert flops(0.0) < flops(0.001) == flops(0.01)


def test_rollouts_that_are_drawn_in_one_call_share_the_reading_of_weights(tmp_path: Path) -> None:
    def moved(batch: int) -> float:
        sets = {"driver.rollouts": "transformers", "runtime.batch_size": batch, "models.generator.id": "extractive"}
        sets["models.generator.backend"] = "extractive"
        plan = make_plan(_resolved(tmp_path, target="small", sets=sets))
        (cost,) = (line.cost for line in plan.stages if line.name == "grpo")
        assert cost is not None
        return cost.moved

    assert moved(1) == moved(64) > 0


def test_a_batch_that_is_one_update_holds_no_summed_gradients(tmp_path: Path) -> None:
    def policy(**grpo: int) -> int:
        sets = {"driver.tune": "full", "driver.rollouts": "transformers", **{f"driver.{k}": v for k, v in grpo.items()}}
        plan = make_plan(_resolved(tmp_path, target="nano", sets=sets))
        (load,) = (load for load in plan.loads if load.name == "GRPO")
        return load.parts[0].bytes

    split = {"prompts_per_step": 8, "group_size": 4, "mini_batch_prompts": 4}
    assert policy(**split, micro_batch=16) == policy(prompts_per_step=4, group_size=4, micro_batch=16)


def test_a_served_writer_needs_its_weights_only_to_be_trained(tmp_path: Path) -> None:
    sets = {**{f"models.writer.{k}": v for k, v in VLLM.items()}, "models.writer.id": "Qwen/Qwen3-8B"}

    def missing(method: str) -> list[str]:
        plan = make_plan(_resolved(tmp_path, method=method, target="small", sets=sets))
        return [p.what for p in plan.problems if p.what.startswith("weights") and "writer" in p.what]

    assert missing("optimsyn") and not missing("static")
    text = render_plan(make_plan(_resolved(tmp_path, method="static", target="small", sets=sets)))
    assert "Qwen/Qwen3-8B: 8.19B parameters, behind an endpoint" in text
    assert "that of endpoints, and waiting for them, is left out" in " ".join(text.split())


def test_a_writer_without_weights_is_not_trained(tmp_path: Path) -> None:
    sets = {"backend": "openai", "base_url": "https://example.org/v1", "id": "m"}
    dotted = {f"models.writer.{key}": value for key, value in sets.items()}
    with pytest.raises(ConfigError, match="trains its writer"):
        make_plan(_resolved(tmp_path, sets=dotted))
    make_plan(_resolved(tmp_path, method="static", sets=dotted))


def test_more_replicates_show_smaller_differences(tmp_path: Path) -> None:
    resolved = _resolved(tmp_path, target="qwen3-8b")
    points = [make_plan(resolved, replicates=n).detectable.points for n in (1, 2, 3, 5, 20)]
    assert points[0] is None
    known = [p for p in points if p is not None]
    assert known == sorted(known, reverse=True) and len(known) == 4


def test_the_detectable_difference_is_found_as_often_as_promised() -> None:
    """Against a simulation of the very test: two arms of three runs, run noise alone."""
    import numpy as np
    from scipy.stats import ttest_ind

    from harness.planning.sizing import _noncentral

    random = np.random.default_rng(0)
    runs, sd = 3, 1.4
    delta = _noncentral(2 * runs - 2) * (2 * sd**2 / runs) ** 0.5
    a, b = random.normal(delta, sd, (runs, 20000)), random.normal(0.0, sd, (runs, 20000))
    assert (ttest_ind(a, b).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize(
    ("options", "head"),
    [
        ({"method": "optimsyn"}, "optimsyn = grpo x influence, preset paper; "),
        ({"method": "static"}, "static x none; "),
        ({"method": "optimsyn", "signal": "random"}, "grpo x random, other settings of method optimsyn, preset"),
        ({"method": None, "driver": "best_of_n", "signal": "loss"}, "best_of_n x loss; "),
    ],
)
def test_a_pairing_has_a_methods_name_where_it_is_that_methods(
    tmp_path: Path, options: dict[str, str], head: str
) -> None:
    assert render_plan(make_plan(_resolved(tmp_path, **options))).startswith(head)
