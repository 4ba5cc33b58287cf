"""What the shared stages do to samples: shortening, selection, and the line at which every arm stops."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ConfigError
from harness.models.backend import Completion, PromptRequest, Sampling
from harness.models.prompts import load_prompt
from harness.models.transformers_backend import TransformersBackend
from harness.resolve.assemble import assemble
from harness.resolve.layers import resolve_run
from harness.stage import Stage
from harness.synthesis.route import document_of
from harness.synthesis.synthesize import fit
from harness.types import Message, Sample, Seed
from methods.stages.dataset import trim_to_budget
from methods.stages.selection import Selection, SelectionRule
from methods.stages.synthesis import draws_of_pass
from support.tiny import make_tiny_model


def sample(number: int, seed: str = "d", words: int = 1) -> Sample:
    messages = (Message("user", f"q{number}"), Message("assistant", "w " * words))
    return Sample(f"s{number}", (seed,), None, "", messages, f"raw{number}", "test", "stop", 0, words)


SAMPLES = [sample(i, seed=f"d{i // 3}") for i in range(9)]
VALUES: dict[str, float | None] = {
    **{"s0": 0.1, "s1": 0.9, "s2": 0.9},
    **{"s3": None, "s4": -1.0, "s5": -2.0},
    **{"s6": None, "s7": None},
}


def ids(samples: Sequence[Any]) -> list[str]:
    return [getattr(s, "item_id", None) or s.id for s in samples]


def selection(rule: SelectionRule, keep: float = 1.0) -> Selection:
    return Selection(per_seed=3, rule=rule, keep=keep)


class TestSelection:
    def test_none_keeps_everything(self) -> None:
        assert selection("none", 0.1).choose(SAMPLES, {}) == (SAMPLES, [])

    def test_the_best_of_each_seed_and_nothing_unscored(self) -> None:
        """A tie goes to the earlier sample, a negative score beats none, and a seed without scores gives nothing."""
        kept, rejects = selection("best_of_seed").choose(SAMPLES, VALUES)
        assert ids(kept) == ["s1", "s4"]
        reasons = {r.item_id: r.reason for r in rejects}
        assert {k for k, v in reasons.items() if v == "unscored"} == {"s3", "s6", "s7", "s8"}
        assert {k for k, v in reasons.items() if v == "not_selected"} == {"s0", "s2", "s5"}
        assert all(r.raw == f"raw{r.item_id[1:]}" for r in rejects)

    @pytest.mark.parametrize("keep, wanted", [(0.2, ["s1"]), (0.4, ["s1", "s2"]), (0.8, ["s0", "s1", "s2", "s4"])])
    def test_the_best_share_in_generation_order(self, keep: float, wanted: list[str]) -> None:
        kept, rejects = selection("top_share", keep).choose(SAMPLES, VALUES)
        assert ids(kept) == wanted
        assert len(kept) + len(rejects) == len(SAMPLES)

    def test_zero_is_a_score(self) -> None:
        kept, rejects = selection("top_share", 0.99).choose(SAMPLES[:2], {"s0": 0.0, "s1": None})
        assert ids(kept) == ["s0"] and [r.reason for r in rejects] == ["unscored"]

    def test_the_worst_share_is_the_best_of_the_negatives(self) -> None:
        scored: dict[str, float | None] = {f"s{i}": float(v) for i, v in enumerate((3, 1, 4, 1, 5, 9, 2, 6, 5))}
        worst = Selection(per_seed=1, rule="top_share", keep=0.34, order="bottom")
        assert ids(worst.choose(SAMPLES, scored)[0]) == ["s1", "s3", "s6"]

    def test_gumbel_draws_in_proportion_and_between_best_and_chance(self) -> None:
        """One of four: the softmax of z / temperature, whatever unit the scores have; two: the same without the first.

        At temperature 0 the best, at a high one every set as often.
        """
        four, values = SAMPLES[:4], {"s0": 10.0, "s1": 20.0, "s2": 20.0, "s3": 50.0}
        z = [-1.0, -1 / 3, -1 / 3, 5 / 3]

        def taken(keep: float, temperature: float, seed: int, unit: float = 1.0) -> list[str]:
            drawn = Selection(
                per_seed=1, rule="top_share", keep=keep, order="gumbel", temperature=temperature, seed=seed
            )
            return ids(drawn.choose(four, {key: unit * value for key, value in values.items()})[0])

        assert taken(0.5, 0.0, 1) == ["s1", "s3"]
        draws = [taken(0.25, 2.0, seed) for seed in range(4000)]
        assert [taken(0.25, 2.0, seed, 1e-3) for seed in range(50)] == draws[:50]
        weights = [math.exp(each / 2) for each in z]
        for number, weight in enumerate(weights):
            share = weight / sum(weights)
            error = math.sqrt(share * (1 - share) / len(draws))
            assert draws.count([f"s{number}"]) / len(draws) == pytest.approx(share, abs=4 * error)
        pairs = Counter(tuple(taken(0.5, 1e6, seed)) for seed in range(3000))
        assert len(pairs) == 6 and max(abs(n - 500) for n in pairs.values()) < 4 * math.sqrt(500 * 5 / 6)

    def test_the_order_changes_no_identity_of_what_was_chosen_before(self) -> None:
        assert selection("top_share", 0.3).choice_settings == {"selection": "top_share", "keep": 0.3}
        drawn = Selection(per_seed=1, rule="top_share", keep=0.3, order="gumbel", temperature=2.0, seed=7)
        assert drawn.choice_settings["temperature"] == 2.0 and drawn.choice_settings["seed"] == 7


class TestTrim:
    def test_samples_are_cut_at_the_line_in_order(self) -> None:
        kept, beyond = trim_to_budget(SAMPLES, lambda s: 1.0, 4)
        assert ids(kept) == ["s0", "s1", "s2", "s3"]
        assert [(r.item_id, r.reason) for r in beyond] == [(f"s{i}", "beyond_budget") for i in range(4, 9)]

    def test_tokens_never_pass_the_line(self) -> None:
        pool = [sample(0, words=3), sample(1, words=3), sample(2, words=1)]
        kept, beyond = trim_to_budget(pool, lambda s: float(s.completion_tokens), 5)
        assert ids(kept) == ["s0"] and ids(beyond) == ["s1", "s2"]

    def test_lines_of_spending_cut_nothing(self) -> None:
        assert trim_to_budget(SAMPLES, None, 1.0) == (SAMPLES, [])


class TestLine:
    """Regeneration stops when even the least that a later selection can take reaches the line."""

    @pytest.mark.parametrize(
        "rule, keep", [("none", 1.0), ("top_share", 0.5), ("top_share", 0.3), ("best_of_seed", 1.0)]
    )
    def test_what_is_counted_is_the_least_that_can_be_chosen(self, rule: SelectionRule, keep: float) -> None:
        draw = random.Random(5)
        pool = [sample(i, seed=f"d{draw.randrange(5)}", words=draw.randint(1, 9)) for i in range(17)]
        chosen_by = selection(rule, keep)
        for weigh in (lambda s: 1.0, lambda s: float(s.completion_tokens)):
            counted = chosen_by.least(pool, weigh)
            for _ in range(300):
                chosen, _rejects = chosen_by.choose(pool, {s.id: draw.random() for s in pool})
                assert counted <= sum(map(weigh, chosen))
            chosen, _rejects = chosen_by.choose(pool, {s.id: -weigh(s) for s in pool})
            assert counted == sum(map(weigh, chosen))

    def test_a_share_is_to_the_nearest(self) -> None:
        half = selection("top_share", 0.5)
        assert [half.least([sample(i) for i in range(n)], lambda s: 1.0) for n in (0, 2, 9, 10)] == [0, 1, 4, 5]

    def test_draws_that_a_budget_takes(self) -> None:
        assert selection("best_of_seed").kept_share(0.75) == pytest.approx(1 / 3)
        assert selection("top_share", 0.5).kept_share(0.75) == 0.375
        assert selection("none").kept_share(0.75) == 0.75


def test_a_pass_draws_every_seed_in_an_order_of_its_own() -> None:
    seeds = [Seed(f"d{i}", "text") for i in range(20)]
    first, again, second = (draws_of_pass(seeds, 2, 7, n) for n in (0, 0, 1))
    assert first == again and len(first) == 40
    assert sorted(d.seed.id for d in first) == sorted([s.id for s in seeds] * 2)
    assert all(a.seed == b.seed for a, b in zip(first[::2], first[1::2], strict=True))
    assert [d.seed.id for d in first] != [d.seed.id for d in second]
    assert {d.rollout for d in first} == {0, 1} and {d.rollout for d in second} == {2, 3}


class TestFit:
    """A document that does not fit is cut to as many whole words as do."""

    @pytest.fixture(scope="class")
    def backend(self, tmp_path_factory: pytest.TempPathFactory) -> TransformersBackend:
        folder = make_tiny_model(tmp_path_factory.mktemp("model"))
        return TransformersBackend(folder, name="tiny", max_length=120)

    def prompt(self, folder: Path) -> Any:
        path = folder / "prompt.txt"
        path.write_text("[system]\nbe brief\n[user]\nAbout {{domain}}:\n{{document}}\nNow ask.")
        return load_prompt(path, required=("document",), known=("document", "domain"))

    def variables(self, words: int) -> Mapping[str, str]:
        return {"document": " ".join(f"word{i}" for i in range(words)), "domain": "tests"}

    def test_what_fits_is_left_alone(self, backend: TransformersBackend, tmp_path: Path) -> None:
        prompt = self.prompt(tmp_path)
        messages, cut = fit(prompt, self.variables(3), backend, Sampling(max_tokens=20))
        assert (messages, cut) == (prompt.render(self.variables(3)), False)

    def test_the_longest_beginning_that_fits(self, backend: TransformersBackend, tmp_path: Path) -> None:
        prompt, sampling = self.prompt(tmp_path), Sampling(max_tokens=20)
        messages, cut = fit(prompt, self.variables(200), backend, sampling)
        assert cut and backend.count_tokens(messages) <= backend.room(sampling) == 100
        lengths = [n for n in range(200) if prompt.render(self.variables(n)) == messages]
        assert len(lengths) == 1 and lengths[0] > 3
        assert backend.count_tokens(prompt.render(self.variables(lengths[0] + 1))) > backend.room(sampling)

    def test_a_script_without_spaces_is_cut_too(self, backend: TransformersBackend, tmp_path: Path) -> None:
        sampling = Sampling(max_tokens=20)
        messages, cut = fit(self.prompt(tmp_path), {"document": "阿司匹林" * 99, "domain": "x"}, backend, sampling)
        assert cut and "阿司匹林阿" in messages[-1].content
        assert 96 <= backend.count_tokens(messages) <= backend.room(sampling)

    def test_a_prompt_that_leaves_no_room_is_refused(self, backend: TransformersBackend, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"prompt\.txt leaves no room .* tiny takes 3 prompt tokens"):
            fit(self.prompt(tmp_path), self.variables(5), backend, Sampling(max_tokens=117))

    def test_a_completion_then_has_its_room(self, backend: TransformersBackend, tmp_path: Path) -> None:
        sampling = Sampling(max_tokens=20)
        messages, _ = fit(self.prompt(tmp_path), self.variables(200), backend, sampling)
        (done,) = backend.generate([PromptRequest(messages)], sampling, seed=1)
        assert done.prompt_tokens == backend.count_tokens(messages)
        assert done.prompt_tokens + done.completion_tokens <= 120

    def test_a_generator_without_a_context_sees_everything(self, tmp_path: Path) -> None:
        class Plain:
            name, flops_per_token = "plain", 0.0

            def generate(self, requests: Sequence[PromptRequest], sampling: Sampling, seed: int) -> list[Completion]:
                return []

        messages, cut = fit(self.prompt(tmp_path), self.variables(5000), Plain(), Sampling())
        assert not cut and "word4999" in messages[-1].content


def test_a_conversation_is_a_document_too() -> None:
    talk = (Message("user", "How?"), Message("assistant", "So."))
    assert document_of(Seed("d", None, talk)) == "user: How?\n\nassistant: So."


def stages(tmp_path: Path, **options: Any) -> dict[str, Stage]:
    sets = {"runtime.runs": str(tmp_path), **options.pop("sets", {})}
    settings = resolve_run(target="nano", scale="smoke", sets=sets, **options).config
    return {stage.name: stage for stage in assemble(settings).stages}


class TestIdentities:
    """Runs share what they have in common, and only that."""

    def test_arms_share_everything_before_the_feedback(self, tmp_path: Path) -> None:
        optimsyn, random = (stages(tmp_path, method="optimsyn", signal=s) for s in ("influence", "random"))
        best = stages(tmp_path, method="optimsyn", driver="best_of_n")
        for name in ("sources", "evaluate_base"):
            assert optimsyn[name].identity == random[name].identity == best[name].identity
        assert optimsyn["warmup"].identity == best["warmup"].identity
        assert "warmup" not in random
        assert optimsyn["grpo"].identity != random["grpo"].identity
        assert optimsyn["regenerate"].identity != best["regenerate"].identity

    def test_the_line_is_part_of_the_data_set(self, tmp_path: Path) -> None:
        lines = [("samples", 24.0), ("samples", 25.0), ("sft_tokens", 24.0), ("teacher_tokens", 24.0), ("flops", 24.0)]
        runs = [stages(tmp_path, method="static", match=match, budget=budget) for match, budget in lines]
        for name in ("regenerate", "dataset", "finetune", "evaluate"):
            assert len({run[name].identity for run in runs}) == len(lines)

    def test_fine_tuning_tokens_are_the_targets_and_its_length_counts(self, tmp_path: Path) -> None:
        line: dict[str, Any] = {"method": "static", "match": "sft_tokens", "budget": 1000.0}
        long, short = stages(tmp_path, **line), stages(tmp_path, **line, sets={"sft.max_length": 64})
        assert long["regenerate"].identity != short["regenerate"].identity
        by_samples = [stages(tmp_path, method="static", sets={"sft.max_length": n})["regenerate"] for n in (64, 512)]
        assert by_samples[0].identity == by_samples[1].identity

    def test_another_tuning_seed_retrains_on_the_same_data(self, tmp_path: Path) -> None:
        first, second = (stages(tmp_path, method="static", sets={"sft_seed": n}) for n in (1, 2))
        assert first["dataset"].identity == second["dataset"].identity
        assert first["finetune"].identity != second["finetune"].identity

    def test_selection_adds_scores_after_regeneration(self, tmp_path: Path) -> None:
        plain = stages(tmp_path, method="optimsyn")
        chosen = stages(tmp_path, method="optimsyn", sets={"select.keep": 0.5})
        assert "score" not in plain and plain["grpo"].identity == chosen["grpo"].identity
        assert chosen["score"] in chosen["dataset"].inputs and chosen["score"].signal == "influence"
        other = stages(tmp_path, method="static", sets={"select.keep": 0.5, "select.signal": "length"})
        assert other["score"].signal == "length" and "warmup" not in other


def test_selections_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"set select\.signal"):
        stages(tmp_path, method="static", sets={"select.keep": 0.5})
    with pytest.raises(ConfigError, match="selects already"):
        stages(tmp_path, method="optimsyn", driver="best_of_n", sets={"select.keep": 0.5})
