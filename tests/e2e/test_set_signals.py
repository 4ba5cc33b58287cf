"""Signals that choose sets: against explicit gradients and brute force, and what runs make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evals.coverage import FacilityLocation, KCenter, greedy
from harness.cli.main import main
from harness.config import EmbedderConfig, SignalChoice
from harness.errors import StageError
from harness.models.embedder import open_embedder
from harness.models.transformers_backend import load_causal_lm
from harness.training.chat import encode
from harness.types import Sample, Seed
from methods.drivers.rollout_rows import RolloutRow, accepted
from methods.signals.badge import PlusPlus, Space
from methods.signals.base import Archive, SignalContext, TargetState
from methods.signals.catalogue import make_signal
from methods.signals.sets import PICK
from methods.signals.target.head import head_gradients, product
from methods.stages.selection import Selection
from support.tiny_target import LENGTH, PAIRS, TOO_LONG, pair, warm_target

SEEDS = [Seed("d0", "fever and aspirin"), Seed("d1", "the court of law"), Seed("d2", " ")]
WORDS = ["fever", "aspirin", "court", "law", "poem"]
ITEMS = [
    pair(i, f"what of {WORDS[i % 5]} and {WORDS[(i * 2 + 1) % 5]} in year {i % 4}?", f"a{i}", f"d{i % 3}")
    for i in range(12)
]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> TargetState:
    return warm_target(tmp_path_factory.mktemp("sets"))


def ready(name: str, target: TargetState | None = None, seed: int = 0, **settings: Any) -> Any:
    signal = make_signal(SignalChoice.model_validate({"name": name, **settings}))
    signal.prepare(SignalContext(seed=seed, seeds=SEEDS), target)
    return signal


def unit(items: list[Sample]) -> Any:
    return open_embedder(EmbedderConfig()).embed([i.question for i in items]).astype(np.float64)


def cloud(seed: int, n: int = 14) -> Any:
    rows = np.random.default_rng(seed).normal(size=(n, 6))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_labelled_seeds_are_chosen_as_the_pairs_that_they_hold(target: TargetState) -> None:
    seeds = [Seed(p.id, None, p.messages) for p in PAIRS]
    for name in ("badge", "coreset"):
        of_pairs, of_seeds = (ready(name, target).choose(items, 3, Archive()) for items in (PAIRS, seeds))
        assert len(picked(of_seeds)) == 3
        if name == "badge":
            assert picked(of_seeds) == picked(of_pairs)
            assert [s.value for s in of_seeds] == pytest.approx([s.value for s in of_pairs])


def picked(scores: list[Any]) -> list[str]:
    return [s.item_id for s in sorted((s for s in scores if PICK in s.parts), key=lambda s: s.parts[PICK])]


# Coverage


@pytest.mark.parametrize("seed", range(4))
def test_a_k_centers_radius_never_grows(seed: int) -> None:
    function = KCenter(cloud(seed))
    gains = [gain for _, gain in greedy(function, 14)]
    assert gains == sorted(gains, reverse=True) and gains[-1] < gains[1]


@pytest.mark.parametrize("seed", range(4))
def test_facility_locations_gains_are_those_of_f_and_submodular(seed: int) -> None:
    rows, rng = cloud(seed), np.random.default_rng(seed)

    def f(chosen: list[int]) -> float:
        return float(((1 + rows @ rows[chosen].T) / 2).max(axis=1).mean()) if chosen else 0.0

    order = rng.permutation(14).tolist()
    small, large = order[:3], order[:8]
    for extra in order[8:]:
        at = [FacilityLocation(rows, rows[chosen], mean=True).gain(extra) for chosen in (small, large)]
        assert at == pytest.approx([f([*chosen, extra]) - f(chosen) for chosen in (small, large)], abs=1e-9)
        assert at[0] >= at[1] - 1e-12 >= -1e-12


@pytest.mark.parametrize("kind", [KCenter, FacilityLocation])
def test_a_choice_of_one_per_group_is_the_best_that_is_left_each_time(kind: Any) -> None:
    rows, groups = cloud(1), [i % 5 for i in range(14)]
    picks = greedy(kind(rows), 14, groups)
    assert sorted(groups[j] for j, _ in picks) == [0, 1, 2, 3, 4]
    for n in range(1, 5):
        done = [j for j, _ in picks[:n]]
        left = [j for j in range(14) if groups[j] not in {groups[d] for d in done}]
        gains = {j: kind(rows, rows[done]).gain(j) for j in left}
        assert gains[picks[n][0]] == pytest.approx(max(gains.values())) == pytest.approx(picks[n][1])
    assert greedy(kind(rows), 2, groups) == picks[:2]


# Embedding signals


def test_coreset_scores_the_distance_to_the_archive() -> None:
    rows, signal = unit(ITEMS), ready("coreset")
    for archive in ([ITEMS[3]], [ITEMS[3], ITEMS[7]]):
        at = [ITEMS.index(a) for a in archive]
        wanted = (1 - (rows @ rows[at].T).max(axis=1)).clip(min=0)
        found = [s.value for s in signal.score(ITEMS, Archive(archive))]
        assert found == pytest.approx(wanted.tolist(), abs=1e-6)
    assert {s.value for s in signal.score(ITEMS, Archive())} == {2.0}


def test_facility_location_covers_the_pool_or_the_documents() -> None:
    rows = unit(ITEMS)
    ground = open_embedder(EmbedderConfig()).embed([s.text or "" for s in SEEDS[:2]]).astype(np.float64)
    near = (1 + ground @ rows.T) / 2
    signal = ready("facility_location", covers="seeds")
    assert [s.value for s in signal.score(ITEMS, Archive())] == pytest.approx(near.mean(axis=0).tolist(), abs=1e-6)
    wanted = np.maximum(near - near[:, [2]], 0).mean(axis=0)
    found = [s.value for s in signal.score(ITEMS, Archive([ITEMS[2]]))]
    assert found == pytest.approx(wanted.tolist(), abs=1e-6)
    scores = ready("facility_location").choose(ITEMS, 3, Archive())
    sums = ((1 + rows @ rows.T) / 2).mean(axis=0)
    assert picked(scores)[0] == ITEMS[int(sums.argmax())].id and len(picked(scores)) == 3


@pytest.mark.parametrize("name", ["coreset", "facility_location", "badge"])
def test_marginal_gains_depend_on_no_batch_and_choices_on_no_order(target: TargetState, name: str) -> None:
    settings = {"covers": "seeds"} if name == "facility_location" else {}
    items, archive = (PAIRS, Archive(PAIRS[:2])) if name == "badge" else (ITEMS, Archive(ITEMS[:2]))
    signal = ready(name, target, **settings)
    together = [s.value for s in signal.score(items, archive)]
    back = [s.value for s in signal.score(items[::-1], archive)][::-1]
    alone = [ready(name, target, **settings).score([i], archive)[0].value for i in items[:4]]
    assert back == pytest.approx(together, rel=1e-6, abs=1e-6)
    assert alone == pytest.approx(together[:4], rel=1e-5, abs=1e-6)
    # Pairs of the tiny target are all unlike; questions of equal words would be a tie.
    order = picked(signal.choose(items, 5, archive))
    assert len(set(order)) == 5 and (name != "badge" or order == picked(signal.choose(items[::-1], 5, archive)))


def test_what_has_no_row_is_left_out_and_said(target: TargetState) -> None:
    scores = ready("badge", target).choose([TOO_LONG, PAIRS[0], Seed("d", "text")], 3, Archive())
    assert [s.reason for s in scores] == ["no completion token left", "", "no reference answer"]
    assert picked(scores) == [PAIRS[0].id]
    (blank,) = ready("coreset").choose([pair(1, " ", "yes")], 1, Archive())
    assert (blank.value, blank.reason) == (None, "no words to compare")


# BADGE


def _explicit(target: TargetState, item: Sample, label: str) -> torch.Tensor:
    """The head's whole gradient by autograd, on an untied head: [V, d]."""
    model, tokenizer = load_causal_lm(target.model)
    head = model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach().clone())
    code = encode(tokenizer, item.messages, LENGTH)
    ids = torch.tensor([code.ids])
    logits = model.eval()(input_ids=ids).logits[0, code.prompt_length - 1 : -1]
    labels = logits.argmax(dim=-1) if label == "argmax" else ids[0, code.prompt_length :]
    loss = torch.nn.functional.cross_entropy(logits, labels)
    return torch.autograd.grad(loss, head.weight)[0].double()


@pytest.mark.parametrize("label", ["argmax", "answer"])
def test_badges_kernel_is_that_of_explicit_gradients(target: TargetState, label: Any) -> None:
    model, tokenizer = load_causal_lm(target.model)
    codes = [encode(tokenizer, p.messages, LENGTH) for p in PAIRS[:5]]
    found = dict(head_gradients(model.eval(), tokenizer.pad_token_id, 512, codes, label))
    whole = [_explicit(target, p, label) for p in PAIRS[:5]]
    for i, a in enumerate(whole):
        outer = found[i].errors.double().T @ found[i].states.double() / len(found[i].errors)
        assert (outer - a).norm() < 1e-5 * a.norm()
        for j, b in enumerate(whole):
            scale = float(a.norm() * b.norm())
            assert product(found[i], found[j]) == pytest.approx(float((a * b).sum()), abs=1e-5 * scale)


def test_badge_scores_the_squared_distance_to_the_nearest_gradient(target: TargetState) -> None:
    whole = [_explicit(target, p, "argmax") for p in PAIRS[:4]]
    signal = ready("badge", target, projection=0, checkpoint="base")
    norms = [s.value for s in signal.score(PAIRS[:4], Archive())]
    assert norms == pytest.approx([float(g.square().sum()) for g in whole], rel=1e-4)
    apart = [s.value for s in signal.score(PAIRS[1:4], Archive([PAIRS[0]]))]
    assert apart == pytest.approx([float((g - whole[0]).square().sum()) for g in whole[1:]], rel=1e-3)
    first = picked(signal.choose(PAIRS[:4], 2, Archive()))[0]
    assert first == PAIRS[int(np.argmax(norms))].id


def test_projected_products_are_near_the_exact_ones(target: TargetState) -> None:
    exact = [s.value for s in ready("badge", target, projection=0).score(PAIRS, Archive())]
    narrow = np.array([[s.value for s in ready("badge", target, k).score(PAIRS, Archive())] for k in range(6)])
    assert narrow.mean(axis=0) == pytest.approx(exact, rel=0.15) and not np.allclose(narrow[0], narrow[1])


def test_k_means_plus_plus_draws_in_proportion_to_the_squared_distance() -> None:
    rows = np.array([[5.0, 0.0], [4.0, 0.0], [2.0, 0.0], [5.0, 0.0]])
    space = Space(lambda one: rows @ one, lambda one: float(one @ one))
    counts = [0, 0, 0, 0]
    for seed in range(2000):
        second = greedy(PlusPlus(list(rows), space, list("abcd"), seed), 2)[1][0]
        counts[second] += 1
    # Squared distances from the first: 0, 1, 9, 0.
    assert counts[0] == counts[3] == 0 and counts[2] / 2000 == pytest.approx(0.9, abs=0.03)
    everything = [j for j, _ in greedy(PlusPlus(list(rows), space, list("abcd"), 0), 4)]
    assert sorted(everything) == [0, 1, 2, 3]


def test_exact_gradients_of_a_large_head_are_refused(target: TargetState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("methods.signals.badge.EXACT", 100)
    with pytest.raises(StageError, match=r"too large; set signal\.projection=64"):
        ready("badge", target, projection=0)


# In runs


def test_a_selection_keeps_what_was_chosen() -> None:
    from methods.stages.dataset import _values

    signal = ready("coreset")
    best, share = Selection(per_seed=4, rule="best_of_seed"), Selection(per_seed=4, rule="top_share", keep=0.25)
    for selection, count in ((best, 3), (share, 3)):
        wanted, groups = selection.wanted(ITEMS)
        scores = signal.choose(ITEMS, wanted, Archive(), groups)
        kept, rejects = selection.choose(ITEMS, _values("coreset", scores))
        assert sorted(s.id for s in kept) == sorted(picked(scores)) and len(kept) == count == wanted
        assert {r.reason for r in rejects} == {"not_selected"}
    assert {s.seed_ids for s in best.choose(ITEMS, _values("coreset", signal.choose(ITEMS, *_args(best))))[0]} == {
        ("d0",),
        ("d1",),
        ("d2",),
    }


def _args(selection: Selection) -> tuple[Any, Any, Any]:
    count, groups = selection.wanted(ITEMS)
    return count, Archive(), groups


def row(step: int, number: int, value: float | None, reward: float | None) -> RolloutRow:
    return RolloutRow(f"{step}-{number}", step, "d", "", "", "q", "a", "", value, None, reward, 1)


def test_the_archive_is_the_best_of_every_group_so_far() -> None:
    rows = [
        row(0, 0, 1.0, 0.1), row(0, 1, 2.0, 0.9), row(0, 2, None, -0.1), row(0, 3, None, None),
        row(1, 0, 3.0, 0.5), row(1, 1, 3.0, 0.5), row(1, 2, 0.0, 0.0), row(1, 3, None, -0.1),
    ]  # fmt: skip
    found = accepted(rows, 2, "be brief")
    assert [s.id for s in found] == ["0-1", "1-0", "1-2"]
    assert [m.role for m in found[0].messages] == ["system", "user", "assistant"] and found[0].question == "q"


def test_a_learner_has_no_pool_and_plan_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    plan = ["plan", "--method", "optimsyn", "--target", "nano", "--scale", "smoke", "--signal", "facility_location"]
    plan += ["--runs", str(tmp_path)]
    assert main(plan) == 2
    error = capsys.readouterr().err
    assert "has no pool to cover under a driver that trains; set signal.covers=seeds" in error
    assert error.count("\n") == 1
    assert main([*plan, "--set", "signal.covers=seeds"]) == 0
