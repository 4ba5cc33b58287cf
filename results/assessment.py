"""Tables of what signals see and whether following them pays: rankings, tilted subsets of pairs of known worth.

A ranking says how well a signal's scores tell useful pairs from each kind of useless ones. A tilted subset says what a
target was worth after fine-tuning on pairs that lean towards high or low scores; its Spearman correlation with the mean
score asks of a signal what it is used for. The unit is the world: pairs of one world share its rules and its target.
Gives up: intervals are per arm and unadjusted, and worlds share the pool's layout and the fine-tuning recipe.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from harness.errors import InputError
from harness.statistics import spearman
from results.statistics import SKEW_NOTE, Difference, paired_difference
from results.text import markdown_table, percent, whole_ranges

KINDS = ("known", "unasked", "false", "filler", "repeat", "all")
"""What useful pairs are told from; `all` is every useless kind but verbatim copies, which no score of a pair tells."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """An arm's scores of one world's pool: AUC by kind (`KINDS`), pairs without a score, and what a pair took.

    `milliseconds` shares the signal's loading and preparation out over the pool's pairs.
    """

    arm: str
    world: int
    auc: Mapping[str, float | None]
    unscored: int
    milliseconds: float


@dataclass(frozen=True, slots=True)
class Subset:
    """A subset of one world's pool and what fine-tuning on it gave.

    `arm` and `tilt` say how it was drawn (arm empty: evenly), `pairs` identifies its pairs, `useful` is the share of
    different useful pairs in it, `accuracy` is in [0, 1], `loss_drop` is the fall of the mean loss of the right answers
    against the target before, and `means` holds the mean standardised score of its scored pairs under every arm that
    has scores of any. `probability` is the mean probability of the right choice; None where it was not measured.
    """

    world: int
    arm: str
    tilt: float
    pairs: str
    useful: float
    accuracy: float
    loss_drop: float
    means: Mapping[str, float]
    probability: float | None = None


@dataclass(frozen=True, slots=True)
class Spread:
    """A quantity over worlds: mean with Student's 95 % interval, the lowest and the highest world."""

    mean: Difference
    lowest: float
    highest: float


@dataclass(frozen=True, slots=True)
class ArmAssessment:
    """One arm over its worlds.

    `own` are Spearman correlations over the subsets that the arm itself tilted, with the even one; `across` over all
    subsets of the world; each with `accuracy` and `loss_drop`. `gain` is the accuracy at the arm's highest tilt less
    that of the even subset, `span` the same less that of its lowest tilt;
    `gain_p` is as `gain`, of the probability of the right choice. Empty where nothing was fine-tuned or measured.
    """

    arm: str
    worlds: Sequence[int]
    auc: Mapping[str, Spread]
    own: Mapping[str, Spread]
    across: Mapping[str, Spread]
    gain: Spread | None
    span: Spread | None
    useful: Spread | None
    milliseconds: float
    gain_p: Spread | None = None


@dataclass(frozen=True, slots=True)
class Assessment:
    """All arms, and the single rankings and subsets that they summarise."""

    arms: Sequence[ArmAssessment]
    rankings: Sequence[Ranking]
    subsets: Sequence[Subset]
    settings: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        return asdict(self)


def assess_arms(
    rankings: Sequence[Ranking], subsets: Sequence[Subset], settings: Mapping[str, Any] | None = None
) -> Assessment:
    """Summarise rankings and subsets arm by arm, in the order of the rankings.

    Raises `InputError` where an arm has two rankings in one world, or a value is no finite number.
    """
    _check_finite(rankings, subsets)
    by_arm: dict[str, dict[int, Ranking]] = {}
    for ranking in rankings:
        worlds = by_arm.setdefault(ranking.arm, {})
        if ranking.world in worlds:
            raise InputError(f"arm '{ranking.arm}' has two rankings in world {ranking.world}; give one each")
        worlds[ranking.world] = ranking
    by_world: dict[int, list[Subset]] = {}
    for subset in subsets:
        by_world.setdefault(subset.world, []).append(subset)
    return Assessment(
        [_arm(arm, found, by_world) for arm, found in by_arm.items()], rankings, subsets, dict(settings or {})
    )


def _check_finite(rankings: Sequence[Ranking], subsets: Sequence[Subset]) -> None:
    """Raise `InputError` for a value that is NaN or infinite: a rank or a mean would take it without a word."""
    found: list[tuple[str, int, Mapping[str, float | None]]] = [
        (f"arm '{r.arm}'", r.world, {**r.auc, "milliseconds": r.milliseconds}) for r in rankings
    ]
    for s in subsets:
        means = {f"mean of {name}": mean for name, mean in s.means.items()}
        values: dict[str, float | None] = {
            "tilt": s.tilt,
            "useful": s.useful,
            "accuracy": s.accuracy,
            "loss_drop": s.loss_drop,
            "p": s.probability,
            **means,
        }
        found.append((f"subset of '{s.arm or 'even'}'", s.world, values))
    for who, world, own in found:
        for name, value in own.items():
            if value is not None and not math.isfinite(value):
                raise InputError(f"the {who} in world {world} has {value} as '{name}'; compute it again")


def _arm(arm: str, rankings: Mapping[int, Ranking], by_world: Mapping[int, Sequence[Subset]]) -> ArmAssessment:
    own: dict[int, list[Subset]] = {}
    across: dict[int, list[Subset]] = {}
    for world in rankings:
        drawn = [s for s in by_world.get(world, ()) if arm in s.means]
        if any(s.arm == arm for s in drawn):
            own[world] = sorted((s for s in drawn if s.arm in ("", arm)), key=lambda s: s.tilt)
        if drawn:
            across[world] = list({s.pairs: s for s in drawn}.values())
    even = {w: s.accuracy for w, found in own.items() for s in found if s.tilt == 0}
    even_p = {w: s.probability for w, found in own.items() for s in found if s.tilt == 0}
    return ArmAssessment(
        arm=arm,
        worlds=sorted(rankings),
        auc={
            kind: spread
            for kind in KINDS
            if (spread := _spread({w: r.auc.get(kind) for w, r in rankings.items()})) is not None
        },
        own=_correlations(arm, own),
        across=_correlations(arm, across),
        gain=_spread({w: found[-1].accuracy - even[w] for w, found in own.items() if w in even}),
        span=_spread({w: found[-1].accuracy - found[0].accuracy for w, found in own.items()}),
        useful=_spread({w: found[-1].useful for w, found in own.items()}),
        milliseconds=sum(r.milliseconds for r in rankings.values()) / len(rankings),
        gain_p=_spread({w: _difference(found[-1].probability, even_p.get(w)) for w, found in own.items()}),
    )


def _difference(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _correlations(arm: str, found: Mapping[int, Sequence[Subset]]) -> dict[str, Spread]:
    correlations: dict[str, Spread] = {}
    for name in ("accuracy", "loss_drop"):
        values = {w: spearman([s.means[arm] for s in d], [getattr(s, name) for s in d]) for w, d in found.items()}
        spread = _spread(values)
        if spread is not None:
            correlations[name] = spread
    return correlations


def _spread(values: Mapping[int, float | None]) -> Spread | None:
    """Mean, interval and range of the values that there are; None where there is none."""
    known = {world: x for world, x in values.items() if x is not None}
    if not known:
        return None
    return Spread(paired_difference(known, dict.fromkeys(known, 0.0)), min(known.values()), max(known.values()))


def render_assessment(assessment: Assessment) -> str:
    """The tables as Markdown, with how to read them."""
    worlds = sorted({r.world for r in assessment.rankings})
    lines = [
        "Chance that a useful pair outscores a useless one of each kind (AUC; 0.5 is guessing): mean over worlds",
        f"[lowest, highest world]; worlds {whole_ranges(worlds)}. `all` is every kind but verbatim copies, which no",
        "score of a single pair can tell from the original; its interval is Student's, 95 %. Milliseconds share out",
        "what loading and preparing the signal took.",
        "",
        *markdown_table(
            ["arm", *KINDS[:-1], "all", "95 % of all", "ms a pair"],
            [
                [a.arm, *[_ranged(a.auc.get(k)) for k in KINDS], _interval(a.auc.get("all")), f"{a.milliseconds:.1f}"]
                for a in assessment.arms
            ],
        ),
    ]
    if assessment.subsets:
        lines += ["", *_realised(assessment)]
    lines += ["", *SKEW_NOTE]
    return "\n".join(lines) + "\n"


def _realised(assessment: Assessment) -> list[str]:
    tilts = sorted({s.tilt for s in assessment.subsets})
    worlds = sorted({s.world for s in assessment.subsets})
    return [
        "Spearman correlation of a subset's mean score with what fine-tuning on it gave: mean over worlds [lowest,",
        f"highest world]; worlds {whole_ranges(worlds)}. `own`: over the arm's own subsets (tilts",
        f"{', '.join(f'{t:g}' for t in tilts)}); `all`: over all subsets of the world, whoever tilted them.",
        "Loss: the drop of the right answers' mean loss.",
        "",
        *markdown_table(
            ["arm", "own, accuracy", "own, loss", "all, accuracy", "all, loss"],
            [
                [a.arm, *[_signed(side.get(k)) for side in (a.own, a.across) for k in ("accuracy", "loss_drop")]]
                for a in assessment.arms
            ],
        ),
        "",
        f"Accuracy after fine-tuning on the arm's subset of tilt {max(tilts):g}, in points above the evenly drawn one",
        f"and above the arm's subset of tilt {min(tilts):g}: mean with Student's 95 % interval, lowest and highest",
        "world; the same of the mean probability of the right choice (p); and the share of different useful pairs in",
        "the subset of the highest tilt.",
        "",
        *markdown_table(
            ["arm", "above even", "range", "above lowest tilt", "range", "above even, p", "useful pairs"],
            [
                [
                    a.arm,
                    *[text for s in (a.gain, a.span) for text in (_points(s), _points_range(s))],
                    _points(a.gain_p),
                    "" if a.useful is None else percent(a.useful.mean.mean),
                ]
                for a in assessment.arms
            ],
        ),
    ]


def _ranged(s: Spread | None) -> str:
    return "" if s is None else f"{_two(s.mean.mean)} [{_two(s.lowest)}, {_two(s.highest)}]"


def _interval(s: Spread | None) -> str:
    if s is None or s.mean.low is None or s.mean.high is None:
        return ""
    return f"{s.mean.low:.2f} to {s.mean.high:.2f}{' skewed' if s.mean.skewed else ''}"


def _signed(s: Spread | None) -> str:
    """A correlation: its interval over worlds would not know the bound at 1."""
    return "" if s is None else f"{s.mean.mean:+.2f} [{s.lowest:+.2f}, {s.highest:+.2f}]"


def _points(s: Spread | None) -> str:
    if s is None:
        return ""
    mean = percent(s.mean.mean, signed=True)
    if s.mean.low is None or s.mean.high is None:
        return mean
    interval = f"[{percent(s.mean.low, signed=True)}, {percent(s.mean.high, signed=True)}]"
    return f"{mean} {interval}{' skewed' if s.mean.skewed else ''}"


def _points_range(s: Spread | None) -> str:
    return "" if s is None else f"{percent(s.lowest, signed=True)} to {percent(s.highest, signed=True)}"


def _two(x: float) -> str:
    """A share with two digits and no leading zero, as AUCs are usually written."""
    return f"{x:.2f}".removeprefix("0") if x < 1 else "1.0"
