"""Planted contamination in real documents: verbatim, re-wrapped and respelt items are found, no clean document goes."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from decontam.check import ContaminationCheck, run_check
from decontam.corpus import MemoryCorpus
from decontam.embedded import EmbeddedBackend
from decontam.items import TestItem
from decontam.selftest import ALTERATIONS
from decontam.tokens import token_texts
from decontam.verdict import KINDS, decide
from evals.against import load_against
from evals.read import DataContext
from harness.config import DecontamConfig

ROWS = ("qa/*", "seeds/*", "sft/*")
PLANTED = 1500
PLANTS = ("verbatim", "re-wrapped", "respelt")


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)


def _paragraphs(folder: Path) -> tuple[int, list[str]]:
    """The number of rows, and their texts cut at blank lines and, where long, after 150 words."""
    rows = 0
    found: list[str] = []
    for pattern in ROWS:
        for path in sorted(folder.glob(pattern)):
            opener = gzip.open if path.suffix == ".gz" else open
            with opener(path, "rt", encoding="utf-8") as stream:
                for line in stream:
                    rows += 1
                    for text in _texts(json.loads(line)):
                        for part in text.split("\n\n"):
                            parts = part.split()
                            if len(parts) >= 5:
                                found += [" ".join(parts[i : i + 150]) for i in range(0, len(parts), 150)]
    return rows, found


@pytest.mark.slow
def test_planted_items_are_found_and_clean_documents_stay(test_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items = list(load_against(["benchmarks"], DataContext(data_folder=test_data)).items)
    rows, clean = _paragraphs(test_data)
    rng = random.Random(7)
    check = ContaminationCheck(items, DecontamConfig(), EmbeddedBackend())
    usable = [i for i in range(len(items)) if not check.side.empty[i] and not check.side.short[i]]
    planted = [(name, i) for i in rng.sample(usable, PLANTED) for name in PLANTS]
    documents = [("", -1, text) for text in clean]
    documents += [(name, i, ALTERATIONS[name](_as_document(items[i]), rng)) for name, i in planted]
    rng.shuffle(documents)
    corpus = MemoryCorpus([text for _, _, text in documents])
    found = decide(check, run_check(check, corpus), corpus.size)
    pairs = found.pairs
    removing = pairs.select(pairs.removes)
    by_kind = {kind: removing.select(removing.kind == number) for number, kind in enumerate(KINDS)}
    lines = [f"{rows:,} rows, {len(clean):,} clean paragraphs, {len(items):,} items, {len(planted):,} planted texts"]
    for mode in ("text", "ngram"):
        hit = set(zip(by_kind[mode].document.tolist(), by_kind[mode].item.tolist(), strict=True))
        for name in PLANTS:
            mine = [d for d, (what, _, _) in enumerate(documents) if what == name]
            lost = [d for d in mine if (d, documents[d][1]) not in hit]
            lines.append(f"{mode}, {name}: {len(mine) - len(lost):,} of {len(mine):,} found with their item")
            assert not lost, [documents[d] for d in lost[:3]]
    kinds = [KINDS.index("text"), KINDS.index("contained")]
    for kind in kinds:
        wrong = sorted({d for d in by_kind[KINDS[kind]].document.tolist() if documents[d][1] < 0})
        lines.append(f"{KINDS[kind]}: {len(wrong):,} of {len(clean):,} clean paragraphs found")
        if KINDS[kind] == "text":
            assert not wrong, [
                (documents[d][2], _items_of(removing.document, removing.item, d, items)) for d in wrong[:5]
            ]
    grams = {d for d in by_kind["ngram"].document.tolist() if documents[d][1] < 0}
    lines.append(f"ngram: {len(grams):,} of {len(clean):,} clean paragraphs found")
    with capsys.disabled():
        print("\n" + "\n".join(lines))


def _as_document(item: TestItem) -> str:
    return "\n".join(item.fields)


def _items_of(document: object, item: object, wanted: int, items: list[TestItem]) -> list[str]:
    import numpy as np

    return [" ".join(token_texts(items[i].text))[:200] for i in np.asarray(item)[np.asarray(document) == wanted]]
