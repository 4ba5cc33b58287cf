"""The self-test of the contamination check: test items are altered, put among clean texts, and looked for.

Half of the items are the test side; the other half are clean documents, and hard ones, since they are of the same kind
and wording. Every item of the first half is injected once for each alteration. Recall is the share of injected texts
that are found with their own item; precision is the share of texts found that were injected. Alterations are rules, so
that the same items give the same numbers anywhere: they say what a mode can see and not how often the world looks like
this. `paraphrased` exchanges common words for synonyms and turns sentences around; a real paraphrase can be farther.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from decontam.check import ContaminationCheck, run_check
from decontam.corpus import EmbeddedCorpus, MemoryCorpus
from decontam.items import TestItem
from decontam.report import threshold_values
from decontam.tokens import clean, token_texts
from decontam.verdict import KINDS, MatchKind, Verdicts, decide, shown_score, thresholds
from harness.types import derive_seed

_BEFORE = "Here is something that a colleague passed on to me the other day."
_AFTER = "Please think about it for a while and tell me what you make of it."
_SYNONYMS = {
    "a": "one", "about": "regarding", "all": "every", "also": "too", "and": "as well as", "are": "remain",
    "because": "since", "best": "finest", "buy": "purchase", "buys": "purchases", "child": "kid", "day": "24 hours",
    "doctor": "physician", "each": "every", "find": "determine", "following": "ensuing", "get": "obtain",
    "gets": "obtains", "gives": "hands", "has": "possesses", "have": "possess", "help": "assist", "his": "this man's",
    "how": "in what way", "in": "within", "is": "happens to be", "large": "big", "many": "numerous", "more": "further",
    "most": "the greatest part of", "much": "a great deal", "number": "count", "of": "belonging to", "old": "aged",
    "patient": "sick person", "people": "persons", "physician": "doctor", "presents": "comes", "she": "this woman",
    "show": "display", "shows": "displays", "small": "little", "the": "that", "they": "those persons", "to": "towards",
    "total": "overall", "use": "employ", "used": "employed", "was": "had been", "week": "seven days",
    "were": "had been", "what": "which thing", "which": "what", "will": "is going to", "with": "along with",
    "woman": "lady", "year": "annum",
}  # fmt: skip
_SENTENCE = re.compile(r"(?<=[.?!])\s+")
_NUMBER = re.compile(r"\d+")


def _verbatim(text: str, rng: random.Random) -> str:
    return text


def _wrapped(text: str, rng: random.Random) -> str:
    """Inside other text, with line breaks at other places."""
    lines, line = [], ""
    for word in text.split():
        line = f"{line} {word}".strip()
        if len(line) > 40:
            lines.append(line)
            line = ""
    return "\n".join([_BEFORE, "", *lines, line, "", _AFTER])


def _truncated(text: str, rng: random.Random) -> str:
    """The first six tenths."""
    parts = text.split()
    return " ".join(parts[: max(1, round(0.6 * len(parts)))])


def _restyled(text: str, rng: random.Random) -> str:
    """Capitals, and other punctuation."""
    return re.sub(r"[,;:.?!](?=\s|$)", " —", text).upper()


def _renumbered(text: str, rng: random.Random) -> str:
    """Every number is another one."""
    return _NUMBER.sub(lambda m: str(int(m.group()[:9]) + rng.randint(1, 9)), text)


def _paraphrased(text: str, rng: random.Random) -> str:
    """Synonyms for common words, sentences in another order."""
    sentences = _SENTENCE.split(text)
    turned = sentences[1:] + sentences[:1]
    out = [" ".join(_SYNONYMS.get(w.lower(), w) for w in sentence.split()) for sentence in turned]
    return " ".join(out)


def _respelt(text: str, rng: random.Random) -> str:
    """The same words written otherwise: decomposed, in full width, with soft hyphens, entities, or tags."""
    way = rng.randrange(5)
    if way == 0:
        return unicodedata.normalize("NFD", text.replace("'", "\u2019"))
    if way == 1:
        return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)
    parts = text.split()
    if way == 2:
        return " ".join(part[: len(part) // 2] + "\u00ad" + part[len(part) // 2 :] for part in parts)
    return ("&nbsp;" if way == 3 else "</b><b>").join(parts)


ALTERATIONS: dict[str, Callable[[str, random.Random], str]] = {
    "verbatim": _verbatim,
    "re-wrapped": _wrapped,
    "truncated": _truncated,
    "case and punctuation": _restyled,
    "numbers changed": _renumbered,
    "paraphrased": _paraphrased,
    "respelt": _respelt,
}
_HEADS = {
    "re-wrapped": "wrapped",
    "truncated": "cut",
    "case and punctuation": "case",
    "numbers changed": "numbers",
    "paraphrased": "reworded",
}


@dataclass(frozen=True, slots=True)
class ModeRecall:
    """One mode at one threshold: recall by alteration (None: no item could be altered so) and precision over all."""

    mode: str
    threshold: float | None
    in_force: bool
    recall: dict[str, float | None]
    precision: float | None
    false_positives: int


@dataclass(frozen=True, slots=True)
class SelfTest:
    """`items` on the test side, `injected` texts by alteration, `clean` texts, and what was found."""

    items: int
    injected: dict[str, int]
    clean: int
    found: tuple[ModeRecall, ...]


def split_items(items: Sequence[TestItem], most: int, seed: int) -> tuple[list[TestItem], list[TestItem]]:
    """Two halves of at most `most` items each, drawn by `seed`; texts that are equal or empty are out."""
    seen: set[str] = set()
    usable = []
    for item in items:
        key = " ".join(token_texts(clean(item.text)))
        if key and key not in seen and all(token_texts(clean(field)) for field in item.fields):
            seen.add(key)
            usable.append(item)
    random.Random(derive_seed("decontam selftest", seed)).shuffle(usable)
    half = min(most, len(usable) // 2)
    return usable[:half], usable[half : 2 * half]


def reworded(texts: Sequence[str], seed: int = 0) -> list[tuple[str, str]]:
    """Texts with their rewordings by rule; those that the rule leaves alone are left out."""
    rng = random.Random(derive_seed("decontam rewordings", seed))
    pairs = ((text, _paraphrased(text, rng)) for text in dict.fromkeys(texts))
    return [(text, other) for text, other in pairs if other != text]


def inject(items: Sequence[TestItem], seed: int) -> list[tuple[str, int, str]]:
    """Altered items: alteration, number of the item, text. An alteration that changes nothing is left out."""
    rng = random.Random(derive_seed("decontam alterations", seed))
    texts = []
    for name, alter in ALTERATIONS.items():
        for number, item in enumerate(items):
            text = alter(clean(item.text), rng)
            if name == "verbatim" or text != item.text:
                texts.append((name, number, text))
    return texts


def run_selftest(check: ContaminationCheck, background: Sequence[TestItem], seed: int = 0) -> SelfTest:
    """Inject the check's own items among `background` and count what is found. Short items are left out of recall."""
    injected = [one for one in inject(check.side.items, seed) if not check.side.short[one[1]]]
    texts = [text for _, _, text in injected] + [item.text for item in background]
    corpus = MemoryCorpus(texts)
    embedding = check.embedder is not None and "embedding" in check.settings.modes
    checked = EmbeddedCorpus(corpus, check.embedder) if embedding and check.embedder is not None else corpus
    verdicts = decide(check, run_check(check, checked), corpus.size)
    kind_of = np.array([list(ALTERATIONS).index(name) for name, _, _ in injected], np.int64)
    own = np.array([number for _, number, _ in injected], np.int64)
    found: list[ModeRecall] = []
    modes = check.settings.modes
    if "text" in modes:
        found.append(_count("text", ("text", "contained"), None, True, check, verdicts, kind_of, own))
    for kind in thresholds(check):
        for value in threshold_values(check, kind):
            now = bool(np.isclose(value, _stated(check, kind)))
            found.append(_count(kind, (kind,), value, now, check, verdicts, kind_of, own))
    counts = {name: int((kind_of == i).sum()) for i, name in enumerate(ALTERATIONS)}
    return SelfTest(len(check.side.items), counts, len(background), tuple(found))


def _stated(check: ContaminationCheck, kind: MatchKind) -> float:
    settings = check.settings
    return settings.ngram_threshold if kind == "ngram" else settings.embedding_threshold


def _count(
    mode: str,
    kinds: Sequence[MatchKind],
    threshold: float | None,
    now: bool,
    check: ContaminationCheck,
    verdicts: Verdicts,
    kind_of: NDArray[np.int64],
    own: NDArray[np.int64],
) -> ModeRecall:
    pairs = verdicts.pairs
    mine = np.isin(pairs.kind, [KINDS.index(kind) for kind in kinds])
    if threshold is not None:
        mine &= shown_score(kinds[0], pairs.score, check.settings) > threshold
    mine &= check.settings.remove_short | ~check.side.short[pairs.item]
    document, item = pairs.document[mine], pairs.item[mine]
    injected = document < len(own)
    right = np.zeros(len(own), np.bool_)
    right[document[injected][own[document[injected]] == item[injected]]] = True
    false = len(np.unique(document[~injected]))
    true = len(np.unique(document[injected]))
    recall: dict[str, float | None] = {}
    for number, name in enumerate(ALTERATIONS):
        of_kind = kind_of == number
        recall[name] = float(right[of_kind].mean()) if of_kind.any() else None
    return ModeRecall(
        mode=mode,
        threshold=threshold,
        in_force=now,
        recall=recall,
        precision=true / (true + false) if true + false else None,
        false_positives=false,
    )


def render_selftest(result: SelfTest) -> str:
    """The result as a screen of text."""
    names = list(result.injected)
    head = ["percent found", *names, "precision", "clean found"]
    rows = []
    for f in result.found:
        label = f.mode if f.threshold is None else f"{f.mode} above {f.threshold:g}{' *' if f.in_force else ''}"
        recall = ["" if (r := f.recall[name]) is None else f"{100 * r:.1f}" for name in names]
        precision = "" if f.precision is None else f"{100 * f.precision:.1f}"
        rows.append([label, *recall, precision, str(f.false_positives)])
    counts = ["injected", *(str(result.injected[name]) for name in names), "", str(result.clean)]
    lines = [f"Self-test: {result.items} test items, each injected once an alteration, {result.clean} clean texts"]
    table = [[_HEADS.get(cell, cell) for cell in head], *rows, counts]
    widths = [max(len(row[i]) for row in table) for i in range(len(head))]
    sides = [str.ljust, *[str.rjust] * (len(head) - 1)]
    lines += ["  ".join(s(c, w) for s, c, w in zip(sides, row, widths, strict=True)) for row in table]
    return "\n".join([*lines, "* in force"])
