"""The one declaration of a benchmark, and the suites that group them.

Everything that reads a benchmark reads it here: evaluation its prompts and metric, guidance its validation sets,
decontamination its test text, plans its counts and licence. A suite is a YAML file, packaged or the user's own;
unknown keys are refused with the nearest known one. What this gives up is arbitrary code in a task: a benchmark
is data plus Jinja templates, which is enough for choices, extracted answers and chain-of-thought.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from harness.errors import ConfigError, suggest

SUITE_FOLDER = Path(__file__).parent / "suites"

AnswerForm = Literal["index", "index_from_0", "index_from_1", "letter", "text"]
Rendering = Literal["letter", "answer", "reasoning"]
Output = Literal["multiple_choice", "generate_until", "loglikelihood"]
Metric = Literal["acc", "acc_norm", "acc_bytes", "acc_tokens", "exact_match", "loss"]
_CLOSED: Any = {"extra": "forbid"}


@dataclass(frozen=True, slots=True)
class Source:
    """One place where rows can be had: exactly one of `file`, `hub` and `lab`.

    `fields` maps our field names to the source's columns. A dotted path descends into an object; a
    comma-separated list gathers several columns into one list. `answer_form` says what the `answer` column
    holds: the right choice's letter or label, its text, or its index. `index` counts from 0, which the rows have to
    show (one of them answers 0); `index_from_0` and `index_from_1` are taken as stated.
    """

    __pydantic_config__ = _CLOSED

    fields: Mapping[str, str]
    file: str | None = None
    hub: str | None = None
    lab: str | None = None
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    answer_form: AnswerForm = "text"

    @property
    def label(self) -> str:
        """The name of this source in messages and results."""
        if self.hub:
            return ":".join(filter(None, ("hub", self.hub, self.config, self.split, self.revision)))
        return f"lab:{self.lab}" if self.lab else str(self.file)


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows from the first of `sources` that is there, filtered. `expected_count` is checked after filtering.

    `where` compares fields, by their text, with one value or any of a list; `ids_in` and `ids_not_in` name a
    file beside the YAML with one item id per line.
    """

    __pydantic_config__ = _CLOSED

    sources: tuple[Source, ...]
    where: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    ids_in: str | None = None
    ids_not_in: str | None = None
    expected_count: int | None = None


@dataclass(frozen=True, slots=True)
class Template:
    """The form in which an item is put to the model, in Jinja over the fields, `choices`, `letters` and `lettered`.

    With `multiple_choice` the choices (or their letters) are compared by log-likelihood; with `generate_until`
    the model writes up to `max_tokens` until one of `stop`, and `extract`, a regular expression with one group,
    takes the answer from what it wrote (the last match); with `loglikelihood` the model is given the answer that
    `reference` renders, and its loss a token is the item's score. `shot_target` renders a demonstration's answer.
    """

    __pydantic_config__ = _CLOSED

    prompt: str
    output: Output = "multiple_choice"
    choices: tuple[str, ...] = ()
    continuation: Literal["text", "letter"] = "text"
    shot_target: str | None = None
    stop: tuple[str, ...] = ()
    max_tokens: int = 64
    extract: str | None = None
    reference: str = "{{ answer }}"


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One column of a suite. `metric` says what an item scores.

    Choices are compared by the sum of their tokens' log-likelihoods (`acc`), or that sum per character (`acc_norm`, as
    lm-eval has it), byte (`acc_bytes`) or token (`acc_tokens`): with `continuation: text` and a length norm the test is
    a cloze, on which small models can move where letters are chance to them. `exact_match` compares generated answers;
    `loss` is that of the reference answer, mean over its tokens, and lower is better. `contamination` lists the fields
    that are test text for decontamination.

    In text mode all of them have to stand in one training text, in n-gram mode their coverages are averaged, and for
    embeddings they are joined, so a field that says little by itself belongs in the list only beside one that does.
    `keys` maps the name of an identifier that other data share (for example `pmid`) to a field;
    `cluster_key` names the field whose equal values are not independent. `scorer: judge` marks answers that
    need a judge: the cell stays empty until one has scored them. `scorer: none` declares test text alone: nothing is
    evaluated, and neither template nor answer is needed.
    """

    __pydantic_config__ = _CLOSED

    id: str
    rows: Rows
    contamination: tuple[str, ...]
    template: Template = Template(prompt="{{ question }}")
    metric: Metric = "acc"
    shots: int = 0
    pool: Rows | None = None
    cluster_key: str | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    scorer: Literal["lm_eval", "judge", "none"] = "lm_eval"
    licence: str = ""
    gated: bool = False
    description: str = ""


@dataclass(frozen=True, slots=True)
class ValidationSet:
    """Labelled items that may guide a method. `guides` are the columns that they make *guided*.

    `like` names the benchmark whose template renders the question. `same_items_as` lists guided columns whose
    very test items this set is made of, as published; their overlap is declared, not removed. `subtask` is the field
    that groups the items, for aggregates over subtasks.
    """

    __pydantic_config__ = _CLOSED

    name: str
    rows: Rows
    guides: tuple[str, ...]
    like: str
    rendering: Rendering = "answer"
    count: int | None = None
    same_items_as: tuple[str, ...] = ()
    keys: Mapping[str, str] = field(default_factory=dict)
    subtask: str | None = None
    reasoning: str = "{{ reasoning }}\n\nThe answer is {{ answer }}."
    description: str = ""


@dataclass(frozen=True, slots=True)
class Suite:
    """A set of columns, the validation sets that may guide a method towards them, and labelled sets to write after.

    `training` are declared as validation sets are; a run takes one as its seeds with `--seeds suite:NAME`.
    """

    __pydantic_config__ = _CLOSED

    name: str
    description: str
    benchmarks: tuple[Benchmark, ...]
    domain: str = ""
    validation: tuple[ValidationSet, ...] = ()
    training: tuple[ValidationSet, ...] = ()
    folder: Path = SUITE_FOLDER

    def benchmark(self, name: str) -> Benchmark:
        """The column called `name`; `ConfigError` if there is none."""
        return _by_name(name, {b.id: b for b in self.benchmarks}, f"Suite '{self.name}' has no benchmark")

    def validation_set(self, name: str | None = None) -> ValidationSet:
        """The validation set called `name` (None: the first); `ConfigError` if there is none."""
        if not self.validation:
            raise ConfigError(f"Suite '{self.name}' declares no validation set; add one under 'validation'.")
        if name is None:
            return self.validation[0]
        return _by_name(name, {v.name: v for v in self.validation}, f"Suite '{self.name}' has no validation set")

    def training_set(self, name: str) -> ValidationSet:
        """The training set called `name`; `ConfigError` if there is none."""
        if not self.training:
            raise ConfigError(
                f"Suite '{self.name}' declares no training set; give seeds from elsewhere (--seeds FILE)."
            )
        return _by_name(name, {v.name: v for v in self.training}, f"Suite '{self.name}' has no training set")

    def guided_columns(self, set_name: str) -> tuple[str, ...]:
        """The columns whose items, of any split, the validation set `set_name` contains."""
        return self.validation_set(set_name).guides


T = TypeVar("T")


def _by_name(name: str, known: Mapping[str, T], what: str) -> T:
    if name not in known:
        raise ConfigError(f"{what} '{name}'{suggest(name, known)}")
    return known[name]
