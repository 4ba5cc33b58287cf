"""The record that a finished run leaves for comparison: `record.json` and `items.parquet`.

The record holds only numbers and names: whoever compares runs reads records and imports no trainer. A cell that was not
measured is None with its reason, never 0.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness.errors import InputError
from harness.shards import write_json

SCHEMA_VERSION = 2

RENAMED = {"accuracy": "score", "clean_accuracy": "clean_score"}
"""Fields of a column in records of schema 1, which knew accuracies alone, and their names now."""

LOWER_IS_BETTER = frozenset({"loss"})
"""Metrics of which less is better."""


class _NotFinite(InputError):
    """A number of a record that is NaN or infinite."""


@dataclass(frozen=True, slots=True)
class ColumnScore:
    """One benchmark's score under its metric, and its standard error over items (clustered where declared).

    An accuracy is in [0, 1]; a `loss` is in nats a token, and lower is better. `guided` marks a benchmark whose items,
    of any split, guided the run. `probability` is the items' mean probability of the right choice, None where there are
    no choices or the record is older than it is. The `clean_` fields are of the items that nothing which was used for
    the run matches (data set, validation items); None where that is not known.
    """

    column: str
    metric: str
    n: int
    score: float | None
    stderr: float | None
    status: str = "measured"
    reason: str = ""
    guided: bool = False
    clean_n: int | None = None
    clean_score: float | None = None
    clean_stderr: float | None = None
    probability: float | None = None

    def __post_init__(self) -> None:
        """Refuse what is no number: a mean or a comparison would take it without a word."""
        for name in ("score", "stderr", "clean_score", "clean_stderr", "probability"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise _NotFinite(f"the {name} of {self.column} is {value}, which is no finite number")

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher score is a better one."""
        return self.metric not in LOWER_IS_BETTER


@dataclass(frozen=True, slots=True)
class Origin:
    """An earlier run that something of this run was made in, and what guided it there.

    `what` is what came from it (`writer`, `target`, ...; `writer of RUN` where it came by way of RUN). `suite` and
    `guide` name the validation set; `reads_validation` is None where that is not known any more. `guided_columns` are
    the benchmarks whose items, of any split, were read.
    """

    what: str
    run: str
    signal: str
    suite: str
    guide: str
    reads_validation: bool | None
    guided_columns: Sequence[str] = ()

    def line(self) -> str:
        """One line on what came from where, and what guided it, for people."""
        read = f"which read validation set {self.guide} of suite {self.suite}"
        if self.reads_validation is None:
            read = "of which it is not known whether it read validation items"
        elif not self.reads_validation:
            read = "which read no validation items"
        signal = f" (signal {self.signal})" if self.signal not in ("", "none") else ""
        return f"the {self.what} is from run {self.run}{signal}, {read}"


@dataclass(frozen=True, slots=True)
class StageCost:
    """One role's cost in one stage. Tokens and seconds are of the stage as it was computed, by whichever run."""

    stage: str
    role: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    calls: int
    seconds: float
    flops: float


@dataclass(frozen=True, slots=True)
class StageCount:
    """Rows in, kept and rejected by reason, and wall seconds of one stage.

    Of the rows in, `shortened` had a document that was cut to fit the context of the model that read it. `mended` had
    single backslashes of LaTeX doubled in what a model wrote.
    """

    stage: str
    identity: str
    rows_in: int
    kept: int
    rejected: Mapping[str, int]
    seconds: float
    shortened: int = 0
    mended: int = 0


@dataclass(frozen=True, slots=True)
class Retention:
    """The retention of one benchmark's items: of `n` with a verdict on both sides, how many the base has right.

    Of these the tuned model has `still_right` right too; `newly_right` it alone has right.
    """

    column: str
    n: int
    right_before: int
    still_right: int
    newly_right: int

    @property
    def share(self) -> float | None:
        """P(right after | right before); None where nothing was right before."""
        return self.still_right / self.right_before if self.right_before else None


@dataclass(frozen=True, slots=True)
class Forgetting:
    """Change of accuracy, tuned minus base, over the `columns` that guided nothing: mean, worst, and whose that is."""

    columns: int
    mean: float
    worst: float
    worst_column: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundResult:
    """A round of a loop: how many `seeds` it chose, the `samples` of all rounds by its end, and what these came to.

    `scores` are the fine-tuned target's by column (None: not measured), `tokens` those read and written by role,
    `seconds` those of the round's own stages. `seed_score` and `pair_score` are medians over its pairs: of the scores
    of the seed that each was made after, and of its own under the same target; None where pairs were not scored.
    """

    number: int
    seeds: int
    samples: int
    scores: Mapping[str, float | None]
    seconds: float
    tokens: Mapping[str, int]
    seed_score: float | None = None
    pair_score: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Inheritance:
    """Rank correlations (Spearman's) of pairs' scores with those of the seeds that they were made after.

    `of_pairs` is over all `pairs`, `of_medians` over the medians of the `rounds`; None where values are equal or fewer
    than 3.
    """

    pairs: int
    of_pairs: float | None
    rounds: int
    of_medians: float | None


@dataclass(frozen=True, slots=True)
class StudentResult:
    """Another student of the run's data set: the `model` by id, its scores after and before, and the stage with it.

    No score of the run's signal was taken of it.
    """

    role: str
    model: str
    columns: Sequence[ColumnScore]
    base_columns: Sequence[ColumnScore]
    stage: str


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run in numbers. `columns` are of the fine-tuned target, `base_columns` of the target before it.

    `reads_validation` and `guided_columns` are of the run with all that it was made from; `upstream` names the earlier
    runs among that, nearest first, and `reads_itself` is of the run's own feedback (None in records from before there
    was `upstream`, where `reads_validation` is that). `contamination` holds the reports of the contamination check
    (`decontam/report.py`), one for every pair. `retention` and `forgetting` say what the fine-tuning kept; empty and
    None where no column has verdicts, or the record is older than they are. `rounds` are those of a loop, and
    `inheritance` says whether its pairs score as their seeds did. `students` are models beside the target that were
    fine-tuned on the same data set.
    """

    run: str
    method: str
    driver: str
    signal: str
    target: str
    suite: str
    scale: str | None
    lab_world: int | None
    synth_seed: int
    sft_seed: int
    match: str
    budget: float
    reads_validation: bool
    guided_columns: Sequence[str]
    columns: Sequence[ColumnScore]
    base_columns: Sequence[ColumnScore]
    cost: Sequence[StageCost]
    counts: Sequence[StageCount]
    validity_flags: Sequence[str]
    data_metrics: Mapping[str, Any] = field(default_factory=dict)
    contamination: Sequence[Mapping[str, Any]] = ()
    upstream: Sequence[Origin] = ()
    reads_itself: bool | None = None
    retention: Sequence[Retention] = ()
    forgetting: Forgetting | None = None
    rounds: Sequence[RoundResult] = ()
    inheritance: Inheritance | None = None
    students: Sequence[StudentResult] = ()
    schema: int = SCHEMA_VERSION

    def write(self, path: Path) -> None:
        """Write `record.json`, atomically."""
        write_json(path, asdict(self))


def _with_columns(value: Mapping[str, Any]) -> dict[str, Any]:
    """A stored record, or a student's part of it, with its scores as such."""
    sides = {side: value[side] for side in ("columns", "base_columns")}
    renamed = {side: [{RENAMED.get(k, k): v for k, v in c.items()} for c in found] for side, found in sides.items()}
    return {**value, **{side: [ColumnScore(**c) for c in found] for side, found in renamed.items()}}


def _no_number(text: str) -> float:
    raise _NotFinite(f"{text} is no finite number")


def _finite(text: str) -> float:
    return float(text) if math.isfinite(float(text)) else _no_number(text)


def read_record(path: Path) -> RunRecord:
    """Read `record.json`. Raises `InputError` where it is missing, malformed or of another schema version."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number, parse_float=_finite)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; has the run finished? see 'harness ls'") from None
    except _NotFinite as error:
        raise InputError(f"{path}: {error}; run 'harness resume' on the run to write it again") from None
    except ValueError:
        raise InputError(f"{path} is not valid JSON; run 'harness resume' on the run to write it again") from None
    schema = value.get("schema") if isinstance(value, dict) else None
    if schema not in (1, SCHEMA_VERSION):
        raise InputError(f"{path} has schema {schema}, this version reads up to {SCHEMA_VERSION}; run it again")
    try:
        value["students"] = [StudentResult(**s) for s in map(_with_columns, value.get("students", ()))]
        value = _with_columns(value)
        value["cost"] = [StageCost(**c) for c in value["cost"]]
        value["counts"] = [StageCount(**c) for c in value["counts"]]
        value["upstream"] = [Origin(**o) for o in value.get("upstream", ())]
        value["retention"] = [Retention(**r) for r in value.get("retention", ())]
        value["forgetting"] = Forgetting(**value["forgetting"]) if value.get("forgetting") else None
        value["rounds"] = [RoundResult(**r) for r in value.get("rounds", ())]
        value["inheritance"] = Inheritance(**value["inheritance"]) if value.get("inheritance") else None
        return RunRecord(**value)
    except _NotFinite as error:
        raise InputError(f"{path}: {error}; run 'harness resume' on the run to write it again") from None
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} does not have the fields of a record ({error}); run it again") from None
