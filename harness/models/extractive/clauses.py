"""A sentence as subject, verb and rest, where a closed list of verb forms shows the seam.

Enough for "X was Y" and its kin. Sentences with subordinate openings, relative subjects or verbs that the lists do
not know are not taken apart, and give no question of this sort.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.models.extractive.sentences import without_asides
from harness.models.extractive.terms import content_words
from harness.models.extractive.words import (
    BE,
    GENERIC,
    HAVE,
    INTRODUCTIONS,
    LEXICAL,
    MODALS,
    OPEN_SUBJECT,
    STOPWORDS,
    SUBORDINATORS,
    TRAILING,
)

_ADVERBS = frozenset(("also", "only", "often", "generally", "usually", "significantly"))
_FINITE = BE | HAVE | MODALS | LEXICAL


@dataclass(frozen=True, slots=True)
class Clause:
    """`intro`, `subject` `verb` `rest`: "In adults" / "overall survival" / "was" / "63% after five years"."""

    intro: str
    subject: str
    verb: str
    rest: str

    @property
    def pronoun(self) -> str:
        """The pronoun that can stand for the subject, agreeing with the verb; the subject where that is unknown."""
        if self.verb in ("is", "was", "has"):
            return "It"
        return "They" if self.verb in ("are", "were", "have") else capital(self.subject)


def read_clause(sentence: str, names: frozenset[str]) -> Clause | None:
    """Take a sentence apart, or None. `names` are words that keep their capital inside a sentence."""
    text = without_asides(sentence).rstrip(".").strip()
    intro = ""
    first = text.split(" ", 1)[0].strip(",").lower()
    if first in SUBORDINATORS:
        return None
    if "," in text and first in INTRODUCTIONS:
        intro, text = (part.strip() for part in text.split(",", 1))
        if len(intro.split()) > 12 or not text or text.split(" ", 1)[0].lower() in ("and", "or"):
            return None
    tokens = text.split()
    for place, token in enumerate(tokens[:15]):
        verb_of_a_name = place == 1 and tokens[0] in names and re.fullmatch(r"[a-z]{3,}s", token)
        if (token.lower() in _FINITE and place) or verb_of_a_name:
            return _clause(intro, tokens, place, names)
        if (
            token.strip(",") != token
            or token.endswith((";", ":"))
            or token.lower() in OPEN_SUBJECT - {"and", "or", "to", "not"}
        ):
            return None
    return None


def _clause(intro: str, tokens: list[str], place: int, names: frozenset[str]) -> Clause | None:
    subject, verb, rest = tokens[:place], tokens[place].lower(), tokens[place + 1 :]
    while subject and subject[-1].lower() in _ADVERBS:
        subject = subject[:-1]
    if not subject or not rest or subject[-1].lower() in TRAILING or subject[0].lower() in OPEN_SUBJECT:
        return None
    if set(content_words(" ".join(subject))) <= GENERIC:
        return None
    return Clause(intro, uncapital(" ".join(subject), names), verb, " ".join(rest))


def trim_to_words(text: str, longest: int) -> str:
    """`text` cut at its last clause boundary within `longest` words; empty where there is none."""
    if length(text) <= longest:
        return text.strip(" ,;:")
    cut = ""
    for match in re.finditer(r"[,;:](?=\s)", text):
        piece = text[: match.start()]
        if 2 <= length(piece) <= longest and piece.count("(") == piece.count(")"):
            cut = piece
    return cut.strip()


def length(text: str) -> int:
    """Words of `text`, the parts of a number such as 0.5 counted one by one."""
    return len(re.findall(r"\w+", text))


def names_in(document: str) -> frozenset[str]:
    """Words that stand with a capital inside sentences."""
    found = re.findall(r"(?<=[a-z,;] )[A-Z][\w'’-]*", document)
    return frozenset(word for word in found if word.lower() not in STOPWORDS)


def uncapital(text: str, names: frozenset[str]) -> str:
    """`text` with a small first letter, unless its first word is a name or an abbreviation."""
    word = text.split(" ", 1)[0]
    keeps = word.rstrip("'’s") in names or word in names or any(char.isupper() or char.isdigit() for char in word[1:])
    return text if keeps or (len(word) == 1 and word != "A") else text[0].lower() + text[1:]


def capital(text: str) -> str:
    """`text` with a capital first letter."""
    return text[:1].upper() + text[1:]
