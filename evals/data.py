"""Benchmark and validation items, loaded through their declaration and checked.

The canonical item is the same whatever the source: mapped fields, the list of choices, the index of the right one
and its text. Fields, counts, answers and duplicate ids are checked here, once, for everyone who reads a benchmark.
Equal texts under different ids are kept: published tests have them, and the count is part of their definition.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from decontam.items import TestItem
from evals.choices import Choices, as_index, read_choices, right_choice
from evals.read import DataContext, Raw, find_source, read_source
from evals.render import letters, render_template
from evals.suite import Benchmark, Rendering, Rows, Source, Suite, ValidationSet
from harness.errors import ConfigError, InputError
from harness.synthesis.parsing import is_unicode
from harness.synthesis.seeds import is_given
from harness.texts import read_text
from harness.types import Message, derive_seed, stable_hash


@dataclass(frozen=True, slots=True)
class Item:
    """One test item. `fields` are the mapped columns with the canonical `question` and `answer` (its text).

    `gold` indexes `choices` (None for open answers). `item_hash` depends on content alone; `cluster` is empty
    where the benchmark declares none.
    """

    id: str
    fields: Mapping[str, Any]
    choices: tuple[str, ...]
    gold: int | None
    item_hash: str
    cluster: str = ""
    keys: Mapping[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The question, by which equal items are found."""
        return as_text(self.fields["question"])


@dataclass(frozen=True, slots=True)
class ValidationItem:
    """One labelled item as a chat: the question as the test asks it, the answer as its set renders it.

    `subtask` is its group, empty where the set declares none.
    """

    id: str
    messages: tuple[Message, ...]
    keys: Mapping[str, str] = field(default_factory=dict)
    text: str = ""
    subtask: str = ""


Chooser: TypeAlias = "Callable[[Sequence[ValidationItem], int], Sequence[ValidationItem]]"
"""Chooses that many of the items, which come ordered by id."""


def as_text(value: Any) -> str:
    """A field as text: lists line by line, chat messages by their content, nothing for null and NaN."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return as_text(value["content"]) if "content" in value else "\n".join(as_text(v) for v in value.values())
    if isinstance(value, (list, tuple)):
        return "\n".join(as_text(v) for v in value)
    return str(value) if is_given(value) else ""


def field_text(value: Any) -> str:
    """A field of a test item as text: of labelled choices the texts alone, since the test's labels are no text."""
    if isinstance(value, Mapping) and isinstance(value.get("text"), (list, tuple)):
        return as_text(value["text"])
    if isinstance(value, (list, tuple)) and value and all(isinstance(v, Mapping) and "text" in v for v in value):
        return as_text([v["text"] for v in value])
    return as_text(value)


def unlimited(context: DataContext) -> DataContext:
    """`context` without its limit: what must not be trained on is the whole test, however much of it is run."""
    return replace(context, limit=None)


def load_items(benchmark: Benchmark, context: DataContext, suite_folder: Path) -> list[Item]:
    """The items of `benchmark`, in source order.

    Raises `InputError` for a missing field, an impossible answer, a repeated id or a count that is not the
    declared one, and `PrerequisiteError` where the hub is needed and not reachable.
    """
    what = f"Benchmark '{benchmark.id}'"
    items = _load(benchmark.rows, benchmark, what, context, suite_folder, context.test_items)
    return items if context.limit is None else items[: context.limit]


def load_pool(benchmark: Benchmark, context: DataContext, suite_folder: Path) -> list[Item]:
    """The items that demonstrations are drawn from (empty without a pool)."""
    if benchmark.pool is None:
        return []
    return _load(benchmark.pool, benchmark, f"Demonstrations of '{benchmark.id}'", context, suite_folder, 0)


def source_label(benchmark: Benchmark, context: DataContext, suite_folder: Path) -> str:
    """The declared source that is in use, as results record it."""
    return find_source(benchmark.rows, f"Benchmark '{benchmark.id}'", context, suite_folder)[0].label


def load_validation(
    suite: Suite,
    set_name: str | None,
    n: int | None,
    seed: int,
    context: DataContext,
    *,
    rendering: Rendering | None = None,
) -> list[ValidationItem]:
    """`n` items of a validation set drawn by `seed` (None: the declared count, else all), rendered as chats."""
    pool = load_validation_pool(suite, set_name, context, rendering=rendering)
    declared = suite.validation_set(set_name)
    return draw(pool, declared.count if n is None else n, seed, f"Validation set '{declared.name}'")


def load_validation_pool(
    suite: Suite, set_name: str | None, context: DataContext, *, rendering: Rendering | None = None
) -> list[ValidationItem]:
    """All items of a validation set, in source order."""
    declared = suite.validation_set(set_name)
    return _labelled(suite, declared, f"Validation set '{declared.name}'", context, rendering or declared.rendering)


def load_training(suite: Suite, set_name: str, context: DataContext) -> list[ValidationItem]:
    """All items of a training set, in source order. Raises as loading a validation set."""
    declared = suite.training_set(set_name)
    return _labelled(suite, declared, f"Training set '{declared.name}'", context, declared.rendering)


def _labelled(
    suite: Suite, declared: ValidationSet, what: str, context: DataContext, form: Rendering
) -> list[ValidationItem]:
    """The items of a labelled set as chats, in the form that `form` names."""
    like = suite.benchmark(declared.like)
    if form == "reasoning" and any("reasoning" not in s.fields for s in declared.rows.sources):
        raise ConfigError(f"{what} has no 'reasoning' field, so it cannot be rendered as reasoning; use 'answer'.")
    out: list[ValidationItem] = []
    for item in _load(declared.rows, like, what, context, suite.folder, context.validation_items):
        question = render_template(like.template.prompt, item.fields, item.choices, item.gold)
        if form == "letter":
            if item.gold is None:
                raise ConfigError(f"{what}: item '{item.id}' has no choices, so it has no letter; render its answer.")
            answer = letters(len(item.choices))[item.gold]
        else:
            answer = item.fields["answer"]
        if form == "reasoning":
            answer = render_template(declared.reasoning, item.fields, item.choices, item.gold)
        keys = {name: as_text(item.fields[column]) for name, column in declared.keys.items()}
        messages = (Message("user", question), Message("assistant", answer))
        subtask = as_text(item.fields[declared.subtask]) if declared.subtask else ""
        out.append(ValidationItem(id=item.id, messages=messages, keys=keys, text=item.text, subtask=subtask))
    return out


def draw(
    items: list[ValidationItem], n: int | None, seed: int, what: str, choose: Chooser | None = None
) -> list[ValidationItem]:
    """`n` of `items` without replacement, a function of `seed` and of the set of ids alone (None: all of them).

    `choose` takes the place of chance; the order of what it chose is then drawn by `seed`, because the first items may
    be withheld and a greedy order would withhold the most telling ones.
    """
    if n is None:
        return items
    if not 1 <= n <= len(items):
        raise InputError(f"{what} has {len(items)} items, but {n} are asked for; ask for 1 to {len(items)}.")
    ordered = sorted(items, key=lambda item: item.id)
    chance = random.Random(derive_seed("validation", seed))
    return chance.sample(ordered if choose is None else list(choose(ordered, n)), n)


def contamination_items(suite: Suite, context: DataContext, columns: Sequence[str] | None = None) -> Iterator[TestItem]:
    """The test text of `columns` of `suite`, by their declared contamination fields; all items, whatever the limit.

    None means every column that evaluation measures: judge-scored ones, whose data may be gated, are then left out
    as their cells stay empty.
    """
    names = [b.id for b in suite.benchmarks if b.scorer == "lm_eval"] if columns is None else columns
    for benchmark in map(suite.benchmark, names):
        yield from benchmark_items(benchmark, load_items(benchmark, unlimited(context), suite.folder))


def benchmark_items(benchmark: Benchmark, items: Iterable[Item]) -> Iterator[TestItem]:
    """The contamination fields of every item, each by itself."""
    for item in items:
        parts = (field_text(item.choices if f == "choices" else item.fields[f]) for f in benchmark.contamination)
        yield TestItem(benchmark.id, item.id, tuple(parts))


def _load(rows: Rows, benchmark: Benchmark, what: str, context: DataContext, folder: Path, count: int) -> list[Item]:
    source, path = find_source(rows, what, context, folder)
    wanted = _ids(rows.ids_in, folder) if rows.ids_in else None
    refused = _ids(rows.ids_not_in, folder) if rows.ids_not_in else frozenset()
    seen: dict[str, str] = {}
    items: list[Item] = []
    zero = source.answer_form != "index" or source.lab is not None
    for raw in read_source(source, path, what, context, count):
        fields = {name: _column(raw, column, name) for name, column in source.fields.items()}
        item_id = as_text(fields["id"])
        zero = zero or as_index(fields.get("answer")) == 0
        if not _selected(fields, rows) or item_id in refused or (wanted is not None and item_id not in wanted):
            continue
        if item_id in seen:
            raise InputError(f"{raw.where} repeats the id '{item_id}' of {seen[item_id]}; ids must be unique.")
        seen[item_id] = raw.where
        items.append(_item(item_id, fields, source, benchmark, raw.where))
    if rows.expected_count is not None and len(items) != rows.expected_count:
        raise InputError(
            f"{what}: {source.label} gives {len(items)} items where {rows.expected_count} are declared; use the "
            "complete data set, or correct 'expected_count'."
        )
    if not items:
        raise InputError(f"{what}: {source.label} gives no items; check the file and the filters.")
    if not zero and "answer" in source.fields and items[0].choices:
        raise InputError(
            f"{what}: no row of {source.label} answers 0, so nothing shows that its answers count from 0; declare "
            "'answer_form' as index_from_0 or index_from_1."
        )
    return items


def _ids(name: str, folder: Path) -> frozenset[str]:
    try:
        return frozenset(read_text(folder / name).split())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The list of ids {folder / name} cannot be read: {error}.") from None


def _column(raw: Raw, column: str, name: str) -> Any:
    """The value of `column` (a dotted path, or several joined by commas) in one row."""
    if "," in column:
        return [_column(raw, part.strip(), name) for part in column.split(",")]
    value: Any = raw.values
    for part in column.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise InputError(
                f"{raw.where} has no field '{column}', which '{name}' is read from; add it, or correct "
                "'fields' in the suite."
            )
        value = value[part]
    return value


def _selected(fields: Mapping[str, Any], rows: Rows) -> bool:
    for name, wanted in rows.where.items():
        if as_text(fields[name]) not in ((wanted,) if isinstance(wanted, str) else wanted):
            return False
    return True


def _item(item_id: str, fields: dict[str, Any], source: Source, benchmark: Benchmark, where: str) -> Item:
    """The canonical item of one row; `where` names the row in errors."""
    if not item_id.strip():
        raise InputError(f"{where} has no id; every item needs one of its own.")
    for name, value in fields.items():
        if not is_unicode(as_text(value)):
            raise InputError(f"{where}: '{name}' holds half of a surrogate pair, which is no character; correct it.")
    if not as_text(fields["question"]).strip():
        raise InputError(f"{where} has an empty question; remove the line or fill it in.")
    choices = Choices(benchmark.template.choices)
    if "choices" in fields and not choices.texts:
        choices = read_choices(fields["choices"], where)
    gold: int | None = None
    if "answer" in fields:
        text = as_text(fields["answer"]).strip()
        gold, answer = right_choice(fields["answer"], text, source.answer_form, choices, where)
        fields = {**fields, "answer": answer}
    return Item(
        id=item_id,
        fields=fields,
        choices=choices.texts,
        gold=gold,
        item_hash=stable_hash(as_text(fields["question"]), list(choices.texts), as_text(fields.get("answer"))),
        cluster=as_text(fields[benchmark.cluster_key]) if benchmark.cluster_key else "",
        keys={name: as_text(fields[column]) for name, column in benchmark.keys.items() if column in fields},
    )
