"""A check of conversations that are in memory: a run's samples, its validation items."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from decontam.check import ContaminationCheck, run_check
from decontam.corpus import EmbeddedCorpus, MemoryCorpus
from decontam.evidence import Shown, evidence
from decontam.fields import PARTS, Part
from decontam.outputs import strongest
from decontam.report import ContaminationReport, CorpusOrigin, make_report, touched_items
from decontam.verdict import KINDS, decide, shown_score
from harness.types import Message

_EXCERPT = 200


class Conversation(Protocol):
    """Anything with an id and chat messages: samples, validation items."""

    @property
    def id(self) -> str:
        """The row's id."""

    @property
    def messages(self) -> tuple[Message, ...]:
        """Its chat turns."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A conversation that matched a test item. `score` is in the settings' unit, `removes`: it has to go for this."""

    id: str
    part: str
    mode: str
    score: float
    benchmark: str
    item_id: str
    removes: bool
    excerpt: str
    item_excerpt: str

    @property
    def detail(self) -> str:
        """One line for people."""
        how = {"text": "contains", "contained": "stands in"}.get(self.mode, f"{self.mode} {self.score:.2f} with")
        return f"{self.part} {how} {self.benchmark} {self.item_id}: {self.excerpt}"


@dataclass(frozen=True, slots=True)
class Checked:
    """The findings of a check of conversations.

    `removed` are the ids that have to go; `kept_touched` are the items, by benchmark, that the others still match.
    """

    removed: frozenset[str]
    hits: tuple[Hit, ...]
    kept_touched: dict[str, list[str]]
    report: ContaminationReport


def turn_documents(rows: Sequence[Conversation], parts: Part | Literal["both"]) -> Iterator[tuple[int, Part, str]]:
    """The documents of `rows`: every turn of the wanted parts but system turns, with its row's number and its part."""
    for number, row in enumerate(rows):
        for message in row.messages:
            part: Part = "answer" if message.role == "assistant" else "prompt"
            if message.role != "system" and parts in ("both", part):
                yield number, part, message.content


def check_conversations(check: ContaminationCheck, rows: Sequence[Conversation], *, pair: str, source: str) -> Checked:
    """Check every turn of `rows`, but system turns, of the parts that the settings name."""
    texts: list[str] = []
    row_of: list[int] = []
    part_of: list[int] = []
    for number, part, text in turn_documents(rows, check.settings.parts):
        texts.append(text)
        row_of.append(number)
        part_of.append(PARTS.index(part))
    corpus = MemoryCorpus(texts)
    embedding = check.embedder is not None and "embedding" in check.settings.modes
    checked = EmbeddedCorpus(corpus, check.embedder) if embedding and check.embedder is not None else corpus
    verdicts = decide(check, run_check(check, checked), corpus.size)
    rows_of = np.array(row_of, np.int64)
    origin = CorpusOrigin(
        row_of=rows_of,
        part_of=np.array(part_of, np.int64),
        source_of=np.zeros(len(texts), np.int64),
        sources=[source],
        rows=len(rows),
    )
    removed = frozenset(rows[int(r)].id for r in np.unique(rows_of[verdicts.removed]))
    hits = []
    pairs = strongest(check, verdicts.pairs)
    for k in range(len(pairs)):
        document, item = int(pairs.document[k]), check.side.items[pairs.item[k]]
        kind = KINDS[pairs.kind[k]]
        shown, fields = evidence(kind, texts[document], item.fields, check.settings.ngram_size)
        score = float(shown_score(kind, pairs.score[k : k + 1], check.settings)[0])
        hits.append(
            Hit(
                id=rows[row_of[document]].id,
                part=PARTS[part_of[document]],
                mode=kind,
                score=round(score, 6),
                benchmark=item.benchmark,
                item_id=item.id,
                removes=bool(pairs.removes[k]),
                excerpt=_excerpt([shown]),
                item_excerpt=_excerpt(fields),
            )
        )
    every = verdicts.pairs
    gone = np.isin(rows_of[every.document], np.unique(rows_of[verdicts.removed]))
    kept_touched = touched_items(check, np.unique(every.item[every.hit & ~gone]))
    report = make_report(check, verdicts, origin, pair=pair, train=[source])
    return Checked(removed, tuple(hits), kept_touched, report)


def _excerpt(sides: Sequence[Shown]) -> str:
    """The marked text, or the beginning where nothing is marked."""
    marked = [side.text[start:end] for side in sides for start, end in side.spans]
    text = " … ".join(marked) if marked else " ".join(side.text for side in sides)
    return " ".join(text.split())[:_EXCERPT]
