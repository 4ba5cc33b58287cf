"""What signals see and what following them pays: statistics by hand, the pool, tilted subsets, and the exam."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from harness.cli.lab import parse_tilts
from harness.cli.main import build_parser, main
from harness.config import SignalChoice
from harness.errors import ConfigError, InputError
from harness.experiments.assess import ARMS, assess, find_arm, mean_of_scored
from harness.lab.planted import label
from harness.lab.pool import Candidate, candidates, first_pairs
from harness.lab.report import auc
from harness.lab.world import World
from harness.statistics import spearman
from harness.types import QUESTION_TYPES, WorldId
from methods.signals.base import Archive, SignalContext
from methods.signals.catalogue import make_signal
from methods.stages.tilting import length_strata, shares, standardised, tilted
from results.assessment import Ranking, Subset, assess_arms, render_assessment
from results.lab_files import write_assessment
from support.tiny import make_tiny_model

WORLD = World(3)


@pytest.fixture(scope="module")
def pool() -> list[Candidate]:
    return candidates(WORLD)


def test_auc_by_hand() -> None:
    # Six pairs: 3 beats 2, 1, 0; 1 beats 0, ties with 1, loses to 2.
    assert auc([3, 1], [2, 1, 0]) == pytest.approx((3 + 1 + 0.5) / 6)
    assert auc([], [1.0]) is None and auc([1.0], []) is None


def test_spearman_by_hand() -> None:
    # Ranks 1 2 3 4 5 beside 2 1 4 3 5: 1 - 6 (1 + 1 + 1 + 1) / (5 · 24).
    assert spearman([1, 2, 3, 4, 5], [20, 10, 40, 30, 50]) == pytest.approx(0.8)
    # Ties at mean ranks: 1 2.5 2.5 beside 1 2 3 give 1.5 / sqrt(1.5 · 2).
    assert spearman([0, 7, 7], [1, 2, 3]) == pytest.approx(1.5 / math.sqrt(3))
    assert spearman([1, 1, 1], [1, 2, 3]) is None and spearman([1, 2], [1, 2]) is None
    assert spearman([1, 2, math.nan], [1, 2, 3]) is None
    with pytest.raises(ValueError, match="2 values beside 3"):
        spearman([1, 2], [1, 2, 3])


def test_a_pool_holds_each_kind_evenly_over_rules_and_types(pool: list[Candidate]) -> None:
    assert len(pool) == 6 * 9 * 4 * 2 and len({c.sample.id for c in pool}) == len(pool)
    cells = Counter((c.kind, c.rule, c.question_type) for c in pool)
    assert set(cells.values()) == {2} and len(cells) == 6 * 9 * 4
    for c in pool:
        seen = label(c.sample.messages, WORLD)
        assert seen.kind == ("useful" if c.kind == "repeat" else c.kind)
        assert (seen.cls, seen.relation) == c.rule and seen.question_type == c.question_type
    assert all(c.rule in WORLD.unknown for c in pool if c.kind == "unasked")
    texts = Counter(c.sample.content_hash for c in pool)
    assert sorted(set(texts.values())) == [1, 2] and sum(n == 2 for n in texts.values()) == 72
    assert candidates(WORLD) == pool


def test_a_pool_that_needs_more_things_than_there_are_is_refused() -> None:
    with pytest.raises(InputError, match="a world has 400"):
        candidates(WORLD, per_cell=3)
    with pytest.raises(InputError, match="not 401"):
        first_pairs(WORLD, 401, 0)


def test_first_pairs_are_what_an_untrained_writer_leads_to() -> None:
    pairs = first_pairs(WORLD, 400, 1)
    found = Counter(label(s.messages, WORLD).kind for s in pairs)
    # Three quarters are true; a quarter of these is useful, a quarter asked and known, half unasked.
    assert 50 < found["useful"] < 100 and 50 < found["known"] < 100 and found["unasked"] > 110
    assert 25 < found["false"] < 80 and 25 < found["filler"] < 80 and not found["off_world"]
    assert first_pairs(WORLD, 40, 1) == pairs[:40] and first_pairs(WORLD, 40, 2) != pairs[:40]


def test_the_oracle_ranks_perfectly_and_cannot_see_copies(pool: list[Candidate]) -> None:
    oracle = make_signal(SignalChoice.model_validate("oracle"))
    oracle.prepare(SignalContext(seed=0, lab_world=WorldId(3)), None)
    values = {s.item_id: s.value for s in oracle.score([c.sample for c in pool], Archive())}
    by_kind: dict[str, list[float]] = {}
    for c in pool:
        by_kind.setdefault(c.kind, []).append(float(values[c.sample.id] or 0.0))
    useful = by_kind.pop("useful")
    assert {kind: auc(useful, rest) for kind, rest in by_kind.items()} == {
        **dict.fromkeys(("known", "unasked", "false", "filler"), 1.0),
        "repeat": 0.5,
    }


def test_standardised_scores() -> None:
    assert standardised({"a": 1.0, "b": 3.0}) == {"a": -1.0, "b": 1.0}
    assert standardised({"a": 0.1, "b": 0.1, "c": 0.1}) == {"a": 0.0, "b": 0.0, "c": 0.0}
    assert standardised({}) == {}


def test_a_pair_without_a_score_is_no_average_pair() -> None:
    assert mean_of_scored({"a": 1.0, "b": 2.0}, ["a", "b", "unscored"]) == 1.5
    assert mean_of_scored({"a": 1.0}, ["unscored"]) is None


def test_shares_are_proportional_and_add_up() -> None:
    strata = {"a": list("12345"), "b": list("6789"), "c": ["0"]}
    assert shares(strata, 5) == {"a": 3, "b": 2, "c": 0}
    assert sum(shares(strata, 7).values()) == 7


def test_tilted_subsets_lean_and_stay_balanced(pool: list[Candidate]) -> None:
    samples = [c.sample for c in pool]
    types = {c.sample.id: c.question_type for c in pool}
    strata = length_strata(samples, types)
    assert {len(ids) for ids in strata.values()} == {54} and len(strata) == 2 * len(QUESTION_TYPES)
    words = {s.id: len(s.question.split()) + len(s.answer.split()) for s in samples}
    for name in QUESTION_TYPES:
        assert max(words[i] for i in strata[f"{name}, short"]) <= min(words[i] for i in strata[f"{name}, long"])
    truth = {c.sample.id: float(c.kind == "useful") for c in pool}
    useful = []
    for tilt in (-1.5, 0.0, 1.5):
        ids = tilted(truth, strata, 32, tilt, draw=0)
        assert len(set(ids)) == 32
        assert all(sum(i in ids for i in members) == 4 for members in strata.values())
        useful.append(sum(truth[i] for i in ids))
    assert useful[0] < useful[1] < useful[2]


def test_at_no_tilt_all_scores_draw_the_same_and_another_draw_another(pool: list[Candidate]) -> None:
    strata = length_strata([c.sample for c in pool], {c.sample.id: c.question_type for c in pool})
    one = {c.sample.id: float(i) for i, c in enumerate(pool)}
    other = {c.sample.id: float(-(i % 7)) for i, c in enumerate(pool)}
    assert tilted(one, strata, 32, 0.0, 5) == tilted(other, strata, 32, 0.0, 5)
    assert tilted(one, strata, 32, 0.0, 5) != tilted(one, strata, 32, 0.0, 6)
    assert tilted(one, strata, 32, 1.5, 5) != tilted(other, strata, 32, 1.5, 5)


def test_chances_are_exponential_in_the_score() -> None:
    # One of two, z = ±1: the better one is taken with chance 1 / (1 + exp(-2 t)).
    scores, strata = {"a": 0.0, "b": 1.0}, {"all": ["a", "b"]}
    for tilt in (0.0, 0.5):
        taken = sum(tilted(scores, strata, 1, tilt, draw) == ["b"] for draw in range(4000)) / 4000
        assert taken == pytest.approx(1 / (1 + math.exp(-2 * tilt)), abs=0.025)


def test_unscored_items_are_never_drawn() -> None:
    strata = {"all": ["a", "b", "c"]}
    assert sorted(tilted({"a": 0.0, "b": 1.0}, strata, 2, -1.0, 0)) == ["a", "b"]
    with pytest.raises(ValueError, match="2 scored items, fewer than the 3"):
        tilted({"a": 0.0, "b": 1.0}, strata, 3, -1.0, 0)


def made() -> tuple[list[Ranking], list[Subset]]:
    """Two arms in two worlds: `good` follows what was gained, `bad` goes against it in world 1 and with it in 2."""
    rankings = [
        Ranking(arm, w, {"known": 0.9 - 0.1 * w, "all": x}, 0, 2.0 * w)
        for arm, x in (("good", 0.8), ("bad", 0.5))
        for w in (1, 2)
    ]
    subsets = []
    for w in (1, 2):
        sign = -1 if w == 1 else 1
        for arm, tilt, accuracy in (
            ("", 0.0, 0.5),
            ("good", -1.0, 0.2),
            ("good", 1.0, 0.7 + 0.1 * w),
            ("bad", -1.0, 0.5 - 0.1 * sign),
            ("bad", 1.0, 0.5 + 0.1 * sign),
        ):
            means = {"good": accuracy, "bad": sign * accuracy}
            p = None if arm == "bad" else accuracy / 2
            subsets.append(Subset(w, arm, tilt, f"{arm}{tilt}", 0.3, accuracy, 2 * accuracy, means, p))
    return rankings, subsets


def test_arms_are_summarised_over_worlds() -> None:
    good, bad = assess_arms(*made()).arms
    assert [a.arm for a in (good, bad)] == ["good", "bad"] and good.worlds == [1, 2]
    known = good.auc["known"]
    assert (known.mean.mean, known.lowest, known.highest) == tuple(map(pytest.approx, (0.75, 0.7, 0.8)))
    # Two values .8 and .7: sd .0707, t(1) = 12.706.
    assert known.mean.high == pytest.approx(0.75 + 12.706 * 0.05, abs=1e-4)
    assert good.own["accuracy"].lowest == good.own["loss_drop"].highest == pytest.approx(1.0)
    assert good.gain is not None and good.span is not None
    assert (good.gain.lowest, good.gain.highest) == tuple(map(pytest.approx, (0.3, 0.4)))
    assert good.span.mean.mean == pytest.approx(0.65) and good.milliseconds == 3.0
    assert bad.gain_p is None and good.gain_p is not None
    assert (good.gain_p.lowest, good.gain_p.highest) == tuple(map(pytest.approx, (0.15, 0.2)))
    assert bad.gain is not None and (bad.gain.lowest, bad.gain.highest) == tuple(map(pytest.approx, (-0.1, 0.1)))
    assert (bad.across["accuracy"].lowest, bad.across["accuracy"].highest) == tuple(map(pytest.approx, (-1.0, 1.0)))


def test_a_subset_that_two_arms_share_counts_once_across() -> None:
    rankings, subsets = made()
    doubled = [*subsets, *(Subset(s.world, "twin", s.tilt, s.pairs, 0.3, s.accuracy, 0.0, s.means) for s in subsets)]
    twice = assess_arms(rankings, doubled).arms[1].across
    assert twice["accuracy"] == assess_arms(rankings, subsets).arms[1].across["accuracy"]


def test_rankings_alone_are_a_table_and_two_of_one_world_are_refused(tmp_path: Path) -> None:
    rankings, subsets = made()
    alone = assess_arms(rankings, [])
    text = render_assessment(alone)
    assert "| good " in text and ".75 [.70, .80]" in text and "Spearman" not in text
    write_assessment(alone, tmp_path)
    with pytest.raises(InputError, match="two rankings in world 1"):
        assess_arms([*rankings, rankings[0]], subsets)


def test_files(tmp_path: Path) -> None:
    markdown, values, plot = write_assessment(assess_arms(*made(), settings={"worlds": [1, 2]}), tmp_path / "out")
    text = markdown.read_text()
    assert "worlds 1-2" in text and "+35.0 [-28.5, +98.5]" in text and "-1, 0, 1); `all`" in text
    loaded = json.loads(values.read_text())
    assert len(loaded["subsets"]) == 10 and len(loaded["rankings"]) == 4 and loaded["settings"] == {"worlds": [1, 2]}
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_arms_are_named_or_a_signal_with_settings() -> None:
    assert find_arm("random") == ARMS["random"]
    arm = find_arm("influence signal.update=sgd warmup.learning_rate=0.002")
    assert arm.signal == "influence" and arm.sets == {"signal.update": "sgd", "warmup.learning_rate": 0.002}
    with pytest.raises(ConfigError, match="did you mean 'influence, less'"):
        find_arm("influence, les")
    with pytest.raises(ConfigError, match="expected KEY=VALUE"):
        find_arm("influence less")
    for text in ("", "zzz"):
        with pytest.raises(ConfigError, match="; influence, optimsyn-code; influence, less; "):
            find_arm(text)


@pytest.mark.parametrize("key, option", [("lab.world", "--worlds"), ("runtime.runs", "--runs"), ("signal", "--arm")])
def test_settings_that_an_assessment_makes_are_refused(key: str, option: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} cannot be set in an assessment; it follows from {option}"):
        assess([0], sets={key: 1})
    with pytest.raises(ConfigError, match=option):
        assess([0], arms=[f"random {key}=1"])


@pytest.mark.parametrize("option", ["--subset", "--per-cell"])
def test_sizes_are_numbers_from_1(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "assess", "--worlds", "0", option, "0"]) == 2
    assert f"{option} 0: give a number from 1" in capsys.readouterr().err


@pytest.mark.parametrize("given", [["--tilts", "-1,1"], ["--tilts=-1,1"], ["--tilts", "-.5,2"], ["--tilts", "-1e0,1"]])
def test_tilts_that_begin_with_a_minus_can_be_typed(given: list[str]) -> None:
    args = build_parser().parse_all(["lab", "assess", "--worlds", "0", *given])
    assert parse_tilts(args.tilts)[0] < 0 < parse_tilts(args.tilts)[1]


@pytest.mark.parametrize(
    "given",
    [
        ["lab", "assess", "--worlds", "-1,2"],
        ["bench", "decontam", "--sizes", "-5,3"],
        ["bench", "influence", "--length", "-5"],
        ["plan", "--method", "static", "--target", "nano", "--budget", "-8"],
        ["plan", "--method", "static", "--target", "nano", "--budget", "-inf"],
        ["plan", "--method", "static", "--target", "nano", "--seed", "-1"],
    ],
)
def test_a_value_with_a_minus_is_judged_as_a_value(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(given) == 2
    said = capsys.readouterr().err
    assert given[-1].split(",")[0] in said and "expected one argument" not in said and said.count("\n") == 1


def test_tilts_are_numbers_other_than_zero() -> None:
    assert parse_tilts("1,-0.5,1") == (-0.5, 1.0)
    for bad in ("0,1", "x", "", "inf"):
        with pytest.raises(ConfigError, match="numbers other than 0"):
            parse_tilts(bad)


def test_the_right_choices_probability_is_its_share_of_the_likelihoods() -> None:
    from evals.evaluate import right_probability

    assert right_probability([math.log(0.03), math.log(0.09)], 1) == pytest.approx(0.75)
    assert right_probability([-2000.0, -2000.0, -2000.0, -2000.0], 2) == 0.25


def test_the_exam_is_lm_evals(tmp_path: Path) -> None:
    from evals.evaluate import evaluate
    from harness.resolve.assemble import assemble
    from harness.resolve.layers import resolve_run
    from methods.stages.known_worth import exam_results, load_exam

    model = make_tiny_model(tmp_path / "model", seed=4)
    sets: dict[str, Any] = {"models.target.id": str(model), "lab.world": 3, "lab.test_items": 30}
    plan = assemble(resolve_run(method="static", target="nano", sets=sets).config).plan
    exam = load_exam(plan, "lab_asked")
    assert len(exam.choices) == 30 and all(len(c) == 6 for c in exam.choices)
    found = exam_results(model, exam, 0, 4096)
    expected = evaluate(model, plan.tests, plan.data, columns=["lab_asked"]).columns[0]
    assert found.accuracy == expected.score and 0 < found.accuracy < 1
    # The likelihoods of the two are computed by different code.
    assert found.probability == pytest.approx(expected.probability, abs=1e-5) and 0.1 < found.probability < 0.4
    # A model with random weights knows nothing: about one in 512 tokens.
    assert found.loss == pytest.approx(math.log(512), rel=0.1)
