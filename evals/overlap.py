"""Removing what seeds, validation and test have in common, before any of it is used.

Two rows overlap when they share the value of a key (a `pmid`, a `thing`) or when their texts are equal after
normalisation. The test is never changed: a seed gives way to both, a validation item to the test. Longer partial
overlaps are the contamination gate's work; this gives exact, cheap and explainable removals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from decontam.tokens import clean, token_texts
from evals.data import Chooser, Item, ValidationItem, draw, load_items, load_validation_pool, unlimited
from evals.read import DataContext
from evals.suite import Rendering, Suite
from harness.errors import InputError
from harness.synthesis.route import reference_of
from harness.types import Seed


class Keyed(Protocol):
    """Anything with an id, shared keys and a text (None where it has none)."""

    @property
    def id(self) -> str:
        """The row's id."""

    @property
    def keys(self) -> Mapping[str, str]:
        """Identifiers shared with other data."""

    @property
    def text(self) -> str | None:
        """The text that is compared."""


def normalise(text: str) -> str:
    """`text` as its tokens joined by blanks: case, punctuation and white space folded."""
    return " ".join(token_texts(clean(text)))


@dataclass(frozen=True, slots=True)
class Overlap:
    """One removed row, the row that it shares something with, and what: `key:NAME` or `text`."""

    id: str
    other_id: str
    reason: str


T = TypeVar("T", bound=Keyed)
Leaks = Callable[[Sequence[ValidationItem], Sequence[str]], Mapping[str, str]]


def drop_overlaps(
    rows: Sequence[T],
    others: Iterable[Keyed],
    what: str,
    other: str,
    *,
    text: Callable[[T], str | None] = lambda row: row.text,
) -> tuple[list[T], list[Overlap]]:
    """`rows` without those that share a key or a text with one of `others`, and what was dropped, in order.

    `text` is what of a row is compared. Raises `InputError`, naming `what` and `other`, if rows were given and none is
    left.
    """
    by_key: dict[tuple[str, str], str] = {}
    by_text: dict[str, str] = {}
    for row in others:
        for pair in row.keys.items():
            by_key.setdefault(pair, row.id)
        if row.text and (theirs := normalise(row.text)):
            by_text.setdefault(theirs, row.id)
    kept: list[T] = []
    dropped: list[Overlap] = []
    for mine in rows:
        shared = next((pair for pair in mine.keys.items() if pair in by_key), None)
        if shared is not None:
            dropped.append(Overlap(mine.id, by_key[shared], f"key:{shared[0]}"))
        elif (own := text(mine)) and (found := by_text.get(normalise(own))) is not None:
            dropped.append(Overlap(mine.id, found, "text"))
        else:
            kept.append(mine)
    if rows and not kept:
        raise InputError(
            f"Nothing is left of {what}: all {len(rows)} items overlap with {other} (first: '{dropped[0].id}' and "
            f"'{dropped[0].other_id}', {dropped[0].reason}); use data that the other side does not contain."
        )
    return kept, dropped


def _asked(seed: Seed) -> str | None:
    """A document's text, or the question of a labelled seed, which is what a test item would share with it."""
    reference = reference_of(seed)
    return reference[0] if reference else seed.text


@dataclass(frozen=True, slots=True)
class Splits:
    """Seeds, validation and tests that share nothing, but for the columns that a set declares in `same_items_as`.

    `declared_overlaps` counts, per such column, the validation items that are its test items.
    """

    seeds: tuple[Seed, ...]
    validation: tuple[ValidationItem, ...]
    tests: Mapping[str, tuple[Item, ...]]
    dropped_seeds: tuple[Overlap, ...]
    dropped_validation: tuple[Overlap, ...]
    declared_overlaps: Mapping[str, int]


def split_without_overlaps(
    suite: Suite,
    set_name: str | None,
    n: int | None,
    seed: int,
    seeds: Sequence[Seed],
    context: DataContext,
    *,
    rendering: Rendering | None = None,
    leaks: Leaks | None = None,
    choose: Chooser | None = None,
) -> Splits:
    """Load tests and validation, drop validation items found in a test, draw `n` (or let `choose` choose them), drop
    seeds found in either.

    `leaks` is the contamination check: which of the items that are left match test items of the columns that it is
    given, by id, and how.

    Tests are loaded whole, whatever the context's limit. Judge-scored benchmarks are left out: they may be gated,
    and their cells stay empty anyway.
    """
    declared = suite.validation_set(set_name)
    tests = {
        b.id: tuple(load_items(b, unlimited(context), suite.folder)) for b in suite.benchmarks if b.scorer == "lm_eval"
    }
    what = f"validation set '{declared.name}'"
    pool: list[ValidationItem] = load_validation_pool(suite, set_name, context, rendering=rendering)
    strict = [item for name, items in tests.items() if name not in declared.same_items_as for item in items]
    pool, dropped = drop_overlaps(pool, strict, what, "the tests")
    if leaks is not None:
        found = leaks(pool, [name for name in tests if name not in declared.same_items_as])
        dropped += [Overlap(i.id, found[i.id].partition(" ")[2], found[i.id]) for i in pool if i.id in found]
        pool = [item for item in pool if item.id not in found]
        if not pool:
            raise InputError(
                f"Nothing is left of {what}: all of its items match test items; use items that the tests do not "
                "contain, or declare same_items_as."
            )
    count = declared.count if n is None else n
    drawn = draw(pool, count, seed, f"After {len(dropped)} overlaps with the tests were dropped, {what}", choose)
    shared: dict[str, int] = {}
    for name in declared.same_items_as:
        texts = {normalise(item.text) for item in tests.get(name, ())}
        shared[name] = sum(normalise(item.text) in texts for item in drawn)
    guarded: list[Keyed] = [*drawn, *(item for items in tests.values() for item in items)]
    kept, dropped_seeds = drop_overlaps(list(seeds), guarded, "the seeds", "validation or test", text=_asked)
    return Splits(
        seeds=tuple(kept),
        validation=tuple(drawn),
        tests=tests,
        dropped_seeds=tuple(dropped_seeds),
        dropped_validation=tuple(dropped),
        declared_overlaps=shared,
    )
