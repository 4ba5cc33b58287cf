"""The terms that a question can ask for in a sentence, and what else could stand in their place.

A term is a number, a name or a telling word; its kind (numbers by form and size, words by case and ending) decides
which terms of other documents can stand beside it as wrong options. Kinds by ending keep options grammatical most of
the time without a tagger.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.models.extractive.sentences import read_sentences, without_asides
from harness.models.extractive.words import GENERIC, STOPWORDS, word_list

_NUMBER = re.compile(r"(?<![\w.,·/±-])(?<!± )(\d{1,3}(?:,\d{3})+|\d+)([.·]\d+)?(\s?%)?(?![\w·/-]|[.,]\d|\s?[x×=])")
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:['’-][A-Za-z0-9]+)*")
_ENDINGS = sorted(
    word_list(
        """ology osis itis emia opathy ectomy oscopy graphy plasty oma otomy therapy tions tion sion ities ity ments
        ment ness ance ence ships ship isms ism able ible ical ous ive ful less ic al ary ant ent ly ing ed ists ist
        ers er ors or ies s"""
    ),
    key=lambda ending: (-len(ending), ending),
)
"""Endings that tell kinds of words apart; the longest that a word has counts."""
_MAX_DOCUMENTS = 1000
_MAX_CHARS = 20_000
_POOL = 15


@dataclass(frozen=True, slots=True)
class Term:
    """A stretch `start:end` of a sentence that can be asked for. `kind[0]` is `number`, `name` or `word`."""

    text: str
    kind: tuple[str, str]
    start: int
    end: int
    weight: float = 1.0


class TermIndex:
    """Terms of a collection by document and kind, and in how many of its documents each word stands.

    At most 1000 documents, evenly spread, and the first 20,000 characters of each are read: enough to draw wrong
    options and to tell common words from rare ones.
    """

    def __init__(self, corpus: Sequence[str]) -> None:
        step = max(1, math.ceil(len(corpus) / _MAX_DOCUMENTS))
        documents = [text[:_MAX_CHARS] for text in corpus[::step]]
        self.documents = len(documents)
        self.frequency: Counter[str] = Counter()
        self._holders: dict[str, list[int]] = defaultdict(list)
        for number, text in enumerate(documents):
            words = {word.lower() for word in _WORD.findall(text)}
            self.frequency.update(words)
            for word in words:
                self._holders[word].append(number)
        self._terms: list[dict[tuple[str, str], list[str]]] = []
        for text in documents:
            by_kind: dict[tuple[str, str], set[str]] = defaultdict(set)
            for sentence in read_sentences(text):
                for term in self.terms(without_asides(sentence.text)):
                    by_kind[term.kind].add(term.text)
            self._terms.append({kind: sorted(texts) for kind, texts in by_kind.items()})

    def rarity(self, word: str) -> float:
        """Inverse document frequency, ln((1 + N) / (1 + n)), at least 0."""
        return math.log((1 + self.documents) / (1 + self.frequency[word.lower()]))

    def terms(self, text: str) -> list[Term]:
        """The terms of `text` in order. Numbers that are part of a name or a range are none."""
        found = [
            Term(text=m[0], kind=_number_kind(m), start=m.start(), end=m.end(), weight=4.0)
            for m in _NUMBER.finditer(text)
        ]
        for match in _WORD.finditer(text):
            word, lower = match[0], match[0].lower()
            if lower in STOPWORDS or lower in GENERIC or len(word) < 3:
                continue
            if match.start() and word[0].isupper():
                kind = "upper" if word[1:].upper() == word[1:] else "capital"
                if kind == "upper" and word.isalpha() and len(word) > 6:
                    continue
                found.append(
                    Term(
                        text=word,
                        kind=("name", kind),
                        start=match.start(),
                        end=match.end(),
                        weight=2 + self.rarity(word),
                    )
                )
            elif word.islower() and len(word) > 5:
                ending = next((e for e in _ENDINGS if lower.endswith(e)), "")
                if ending == "ly":
                    continue
                weight = self.rarity(word) * (0.5 if ending in ("ed", "ing") else 1.0)
                found.append(
                    Term(text=word, kind=("word", ending), start=match.start(), end=match.end(), weight=weight)
                )
        return sorted(found, key=lambda term: term.start)

    def neighbours(self, text: str) -> list[int]:
        """Numbers of the documents of the index, those that share most rare words with `text` first."""
        shared: Counter[int] = Counter()
        for word in {word.lower() for word in _WORD.findall(text)}:
            if 2 <= self.frequency[word] <= max(2, self.documents // 5):
                for number in self._holders[word]:
                    shared[number] += 1
        near = sorted(shared, key=lambda number: (-shared[number], number))
        return [*near, *(number for number in range(self.documents) if number not in shared)]

    def distractors(self, term: Term, document: str, count: int, rng: random.Random) -> list[str]:
        """Up to `count` terms of the same kind from other documents, from those on like subjects where there are any.

        None of them stands in `document` or shares its first five letters with `term` or with another. Where a
        collection is too small to have the kind, the next wider one serves: any number, name or word.
        """
        near = self.neighbours(document)
        chosen = self._draw(term, document, near, (term.kind,), rng)
        if len(chosen) < count:
            wider = tuple(sorted({kind for terms in self._terms for kind in terms if kind[0] == term.kind[0]}))
            chosen += [text for text in self._draw(term, document, near, wider, rng) if text not in chosen]
        return chosen[:count]

    def _draw(
        self, term: Term, document: str, near: Sequence[int], kinds: Sequence[tuple[str, str]], rng: random.Random
    ) -> list[str]:
        """Fitting terms of `kinds` in random order, from as many documents as give a pool to choose from."""
        taken = {word.lower() for word in _WORD.findall(document)} | set(re.findall(r"\d[\d.,·]*", document))
        pool: list[str] = []
        for number in near:
            for candidate in (text for kind in kinds for text in self._terms[number].get(kind, [])):
                if candidate.rstrip("% ").lower() not in taken and candidate not in pool:
                    pool.append(candidate)
            if len(pool) >= _POOL:
                break
        chosen: list[str] = []
        for candidate in rng.sample(pool, len(pool)):
            others = (term.text.lower(), *(other.lower() for other in chosen))
            if all(candidate.lower()[:5] != other[:5] for other in others) or candidate[0].isdigit():
                chosen.append(candidate)
        return chosen


def content_words(text: str) -> list[str]:
    """Lower-case words of `text` that are neither stop words nor shorter than three letters."""
    return [word.lower() for word in _WORD.findall(text) if len(word) > 2 and word.lower() not in STOPWORDS]


def topics(document: str, index: TermIndex) -> list[str]:
    """Phrases of up to three words that the document is about, best first.

    A phrase scores its count times its words' mean rarity, and more for more words; one that stands only once is a
    topic only where nothing is repeated.
    """
    counts: Counter[tuple[str, ...]] = Counter()
    spelled: dict[tuple[str, ...], str] = {}
    for clause in re.split(r"[.,;:()\[\]!?\n\"“”%<>=]+", document):
        words = _WORD.findall(clause)
        for length in (1, 2, 3):
            for start in range(len(words) - length + 1):
                part = words[start : start + length]
                if _is_topic(part, clause):
                    key = tuple(word.lower() for word in part)
                    counts[key] += 1
                    spelled[key] = min(spelled.get(key, " ".join(part)), " ".join(part), key=_capitals)
    # A single word is mostly too little to say what a text is about.
    repeated = {key: count for key, count in counts.items() if count > (1 if len(key) > 1 else 3)}
    repeated = repeated or {key: count for key, count in counts.items() if len(key) > 1} or dict(counts)

    def score(key: tuple[str, ...]) -> float:
        rarity = sum(index.rarity(word) for word in key) / len(key)
        return min(repeated[key], 6) * rarity * (1.0, 2.6, 3.3)[len(key) - 1]

    return [spelled[key] for key in sorted(repeated, key=lambda key: (-score(key), key))]


def _is_topic(part: Sequence[str], clause: str) -> bool:
    lower = [word.lower() for word in part]
    if any(word in STOPWORDS for word in lower) or lower[0] in GENERIC or lower[-1] in GENERIC:
        return False
    if any(len(word) < 3 for word in lower) or " ".join(part) not in clause:
        return False
    return not lower[-1].endswith(("ed", "ly", "ing", "ive", "ous", "ical", "al")) and not lower[0].endswith(
        ("ly", "ed")
    )


def _capitals(text: str) -> tuple[int, str]:
    return sum(char.isupper() for char in text), text


def _number_kind(match: re.Match[str]) -> tuple[str, str]:
    whole, fraction, percent = match[1].replace(",", ""), match[2], match[3]
    if percent:
        return "number", "percent"
    if fraction:
        return "number", "fraction"
    if len(whole) == 4 and whole[:2] in ("15", "16", "17", "18", "19", "20") and "," not in match[1]:
        return "number", "year"
    return "number", f"{min(len(whole), 5)} digits"


def overlap(words: Iterable[str], text: str) -> int:
    """The number of `words` that have a word with the same first five letters in `text`."""
    stems = {word[:5] for word in content_words(text)}
    return len({word[:5] for word in words} & stems)
