"""The contamination check against slow and plain definitions: which phrases stand where, coverage, verdicts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from decontam.check import ContaminationCheck, run_check
from decontam.corpus import EmbeddedCorpus, MemoryCorpus
from decontam.embedded import ANCHOR, EmbeddedBackend, PhraseTable
from decontam.items import TestItem, TestSide
from decontam.outputs import strongest
from decontam.report import CorpusOrigin, benchmark_rates, make_report, threshold_values
from decontam.tokens import token_texts
from decontam.verdict import KINDS, Verdicts, decide
from harness.config import DecontamConfig, EmbedderConfig
from harness.errors import InputError
from harness.models.embedder import open_embedder

WORDS = "the of a to which is most likely cause patient old year man with pain fever café naïve 7 3.5 don't".split()  # noqa: SIM905


def _texts(count: int, low: int, high: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choice(WORDS) for _ in range(rng.randint(low, high))) for _ in range(count)]


def _check(items: Sequence[TestItem], texts: Sequence[str], shard: int = 7, **settings: object) -> Verdicts:
    check = ContaminationCheck(items, DecontamConfig(**settings), EmbeddedBackend())  # type: ignore[arg-type]
    corpus = MemoryCorpus(texts, shard)
    return decide(check, run_check(check, corpus), corpus.size)


def _pairs(found: Verdicts, kind: str) -> dict[tuple[int, int], float]:
    p = found.pairs
    mine = p.kind == KINDS.index(kind)  # type: ignore[arg-type]
    return {(int(d), int(i)): float(s) for d, i, s in zip(p.document[mine], p.item[mine], p.score[mine], strict=True)}


def _stands_in(short: Sequence[str], long: Sequence[str]) -> bool:
    return any(list(long[i : i + len(short)]) == list(short) for i in range(len(long) - len(short) + 1))


def _coverage(item: Sequence[str], text: Sequence[str], n: int) -> float:
    theirs = {tuple(text[i : i + n]) for i in range(len(text) - n + 1)}
    covered: set[int] = set()
    for i in range(len(item) - n + 1):
        if tuple(item[i : i + n]) in theirs:
            covered |= set(range(i, i + n))
    return len(covered) / len(item)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 9])
def test_every_score_is_the_definition(n: int) -> None:
    items = [
        TestItem("b", str(i), (a, b))
        for i, (a, b) in enumerate(zip(_texts(30, 3, 20, 1), _texts(30, 1, 6, 2), strict=True))
    ]
    parts = [" ".join(item.fields[0].split()[1:15]) for item in items[:20]]
    noise = _texts(60, 1, 60, 3)
    texts = [*noise, " ".join(items[4].fields), *(f"{a} {b}" for a, b in zip(parts, noise, strict=False))]
    settings = {"thresholds": (0.01,), "ngram_threshold": 0.01, "common_share": None, "ngram_size": n}
    found = _check(items, texts, **settings)
    expected = {}
    whole = {}
    for d, text in enumerate(map(token_texts, texts)):
        for i, item in enumerate(items):
            fields = [token_texts(field) for field in item.fields]
            weights = [min(max(0, len(field) - n + 1), 13 - n + 1) for field in fields]
            shares = [w * _coverage(field, text, n) for w, field in zip(weights, fields, strict=True)]
            score = sum(shares) / sum(weights) if sum(weights) else 0.0
            if score > 0.01:
                expected[d, i] = score
            if all(_stands_in(field, text) for field in fields):
                whole[d, i] = 1.0
    grams = _pairs(found, "ngram")
    assert grams.keys() == expected.keys() and len(grams) > 5
    assert all(abs(grams[key] - expected[key]) < 1e-12 for key in grams)
    assert _pairs(found, "text") == whole and (60, 4) in whole
    best = [max([expected.get((d, i), 0.0) for d in range(len(texts))]) for i in range(len(items))]
    above = np.array(best) > 0.01
    assert np.allclose(found.best["ngram"][above], np.array(best)[above], atol=1e-12)


def test_a_hash_collision_removes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every token hashing alike, every window collides with every phrase of its length."""
    from decontam import embedded

    items = [TestItem("b", "1", ("the old man with pain and fever of a year",))]
    side = TestSide(items, DecontamConfig())
    table = PhraseTable(side.question.phrases)
    plain = MemoryCorpus(["a year of fever and pain with man old the", items[0].fields[0]])

    def everything_alike(self: object, sums: object, inverse: object, length: int) -> np.ndarray:
        return np.zeros(max(0, len(sums) - length), np.uint64)  # type: ignore[arg-type]

    monkeypatch.setattr(embedded._Hasher, "windows", everything_alike)
    for t in table._tables:
        t.hashes[:] = 0
        t.seen[:] = True
    ids, starts = table.tokens.of([text for s in plain.shards() for text in s.texts])
    where, which = table.find(ids)
    assert len(where) and set(np.searchsorted(starts, where, side="right") - 1) == {1}
    for position, phrase in zip(where, which, strict=True):
        size = int(side.question.phrases.lengths[phrase])
        found = [side.question.phrases.vocabulary[t] for t in ids[position : position + size]]
        assert tuple(found) == side.question.phrases.words(int(phrase))


def test_no_phrase_reaches_over_the_edge_of_a_document() -> None:
    item = TestItem("b", "1", ("the old man with pain and fever of a year",))
    halves = ["x the old man with pain", "and fever of a year x"]
    found = _check([item], halves, ngram_threshold=0.6, thresholds=(0.6,))
    assert not _pairs(found, "text") and not _pairs(found, "ngram")
    assert _pairs(_check([item], [" ".join(halves)]), "text") == {(0, 0): 1.0}


@pytest.mark.parametrize("length", [ANCHOR, 127, 128, 129, 400])
def test_a_long_item_counts_only_to_its_last_token(length: int) -> None:
    text = " ".join(f"w{i}" for i in range(length))
    found = _check(
        [TestItem("b", "1", (text,))],
        [text, text.rpartition(" ")[0], "x " + text + " y"],
        modes=("text",),
        contained=False,
    )
    assert set(_pairs(found, "text")) == {(0, 0), (2, 0)}


def test_a_text_inside_an_item_is_found_from_the_least_length_on() -> None:
    item = TestItem("b", "1", (" ".join(f"w{i}" for i in range(30)),))
    inside = " ".join(f"W{i}," for i in range(5, 14))
    texts = [inside, " ".join(f"w{i}" for i in range(5, 12)), "w5 " + inside, inside + " w15"]
    assert set(_pairs(_check([item], texts, modes=("text",)), "contained")) == {(0, 0)}
    assert not _pairs(_check([item], texts, modes=("text",), contained=False), "contained")


def test_short_items_are_reported_and_kept() -> None:
    items = [
        TestItem("b", "short", ("what is the cause of pain",)),
        TestItem("b", "long", ("what is the most likely cause of this fever",)),
    ]
    texts = [f"Tell me: {items[0].fields[0]}?", f"Tell me: {items[1].fields[0]}?"]
    found = _check(items, texts)
    assert found.removed.tolist() == [False, True]
    assert found.touched().tolist() == [0, 1]
    assert _check(items, texts, remove_short=True).removed.tolist() == [True, True]


def test_a_removal_shows_the_item_that_it_is_for() -> None:
    items = [
        TestItem("b", "short", ("what is the law",)),
        TestItem("b", "long", ("what is the law of large numbers good for in practice",)),
    ]
    check = ContaminationCheck(items, DecontamConfig(modes=("text",)), EmbeddedBackend())
    corpus = MemoryCorpus(["So what is the law of large numbers good for in practice?", "What is the law?"])
    found = decide(check, run_check(check, corpus), corpus.size)
    assert found.removed.tolist() == [True, False]
    shown = strongest(check, found.pairs)
    assert shown.document.tolist() == [0, 1] and shown.item.tolist() == [1, 0]
    assert shown.removes.tolist() == [True, False]


@pytest.mark.parametrize(("threshold", "top"), [(0.85, 0.95), (0.95, 0.95), (1.0, 0.95)])
def test_bins_of_a_histogram_do_not_overlap(threshold: float, top: float) -> None:
    settings = DecontamConfig(modes=("embedding",), embedding_threshold=threshold)
    text = "the law of large numbers is good for a great deal"
    items, embedder = [TestItem("b", "1", (text,))], open_embedder(EmbedderConfig())
    check = ContaminationCheck(items, settings, EmbeddedBackend(), embedder)
    assert check.embedder is not None
    corpus = EmbeddedCorpus(MemoryCorpus([text]), check.embedder)
    found = decide(check, run_check(check, corpus), corpus.size)
    origin = CorpusOrigin(np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros(1, np.int64), ["s"], 1)
    edges, counts = make_report(check, found, origin, pair="p", train=["s"]).histogram["embedding"]
    assert list(edges) == sorted(set(edges)) and edges[-2] == top and list(counts) == [0] * (len(edges) - 2) + [1]
    assert max(threshold_values(check, "embedding")) <= 1


def test_common_ngrams_count_only_within_a_long_run() -> None:
    stock = "which of the following is the most likely"
    item = TestItem("b", "1", (f"{stock} reason for the tremor that this sailor has had since his last long voyage",))
    noise = [f"{stock} {w} {i}" for i, w in enumerate(_texts(40, 3, 3, 5))]
    rules = {"modes": ("ngram",), "common_share": 0.1, "common_documents": 5}
    assert _check([item], noise, modes=("ngram",), common_share=None).removed.all(), "eight of nineteen tokens are 0.42"
    found = _check([item], noise, **rules)
    assert not found.removed.any() and found.common.sum() == 4 and found.common_limit == 5
    # A leak that was copied often is common too, and must not be excused for it.
    leak = _check([item], [*noise, *[item.fields[0]] * 30], **rules)
    assert leak.removed.tolist() == [False] * 40 + [True] * 30


def test_results_do_not_depend_on_the_shards_or_on_where_a_check_stopped(tmp_path: Path) -> None:
    items = [TestItem("b", str(i), (t,)) for i, t in enumerate(_texts(20, 8, 20, 1))]
    texts = _texts(50, 5, 60, 2)
    check = ContaminationCheck(items, DecontamConfig(ngram_size=2, common_documents=12), EmbeddedBackend())
    whole = decide(check, run_check(check, MemoryCorpus(texts, 1000)), 50)
    corpus = MemoryCorpus(texts, 6)
    run_check(check, corpus, tmp_path)
    for part in sorted(tmp_path.glob("words-*"))[3:6]:
        part.unlink()
    seen: list[int] = []
    again = decide(check, run_check(check, corpus, tmp_path, lambda label, done, total: seen.append(done)), 50)
    assert seen == [7, 8, 9]
    for name in ("document", "item", "kind", "score", "hit", "removes"):
        assert np.array_equal(getattr(whole.pairs, name), getattr(again.pairs, name)), name
    assert len(whole.pairs) > 10 and np.array_equal(whole.frequency, again.frequency)


def test_the_fields_that_say_something_stand_for_an_item() -> None:
    items = [
        TestItem("b", "1", ("the old man with pain and fever", "?!")),
        TestItem("b", "2", ("the year of the old man and his pain",)),
        TestItem("b", "3", ("", "<>")),
    ]
    check = ContaminationCheck(items, DecontamConfig(), EmbeddedBackend())
    assert (check.side.empty.tolist(), check.side.partial.tolist()) == ([False, False, True], [True, False, False])
    found = _check(items, [items[0].fields[0], items[1].fields[0]])
    assert found.touched().tolist() == [0, 1] and np.isnan(found.best["ngram"][2])
    (rate,) = benchmark_rates(check, found)
    assert (rate.items, rate.empty, rate.partial, rate.found["text"]) == (3, 1, 1, 2)
    with pytest.raises(InputError, match="no test item has any text"):
        ContaminationCheck([items[2]], DecontamConfig(), EmbeddedBackend())
    strict = TestSide(items, DecontamConfig(compat="open-instruct"))
    assert strict.empty.tolist() == [True, False, True], "open-instruct leaves out items with an empty field"


def test_open_instruct_caps_documents_and_ngram_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rules: prompts only, the first `search_size` documents a phrase, short items removed for, strictly above."""
    import decontam.items

    def blanks(texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        out = []
        for text in texts:
            at, places = 0, []
            for part in text.split():
                at = text.index(part, at)
                places.append((at, at + len(part)))
                at += len(part)
            out.append(places)
        return out

    monkeypatch.setattr(decontam.items, "_spacy_tokens", blanks)
    # "a b c" twice: the dictionary keeps the last position only, so the first stays uncovered.
    item = TestItem("b", "1", ("a b c x y a b c",))
    rules = {"compat": "open-instruct", "ngram_size": 3, "ngram_threshold": 0.3}
    found = _check([item], ["a b c"] * 5, search_size=2, **rules)
    assert _pairs(found, "ngram") == {(0, 0): 3 / 8, (1, 0): 3 / 8}
    assert _pairs(_check([item], ["a b c"], ngram_size=3, common_share=None), "ngram") == {(0, 0): 6 / 8}
    exact = _check([TestItem("b", "1", ("a b c d e f g h i j",))], ["a b c"], **rules)
    assert not exact.removed.any(), "0.3 is not above 0.3"
