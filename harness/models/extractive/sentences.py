"""A document as sentences that can stand alone, by rules.

Section labels, headings and list marks are taken off, openings such as "We found that" or "However," are stripped,
and what leans on its surroundings (pronouns, first person, questions) is left out. Splitting by rules errs at rare
abbreviations; a sentence that looks broken is dropped rather than repaired.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.models.extractive.words import BE, DEPENDENT, FIRST_PERSON, HAVE, LEXICAL, MODALS

_LABEL = re.compile(r"^([A-Z][A-Z/&,() -]{3,60}|[A-Z][a-z]+(?: and [a-z]+)?):\s+(?=[A-Z0-9])")
_BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+")
_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|vs|cf|al|Fig|Figs|Dr|Mr|Mrs|Ms|Prof|St|No|no|approx|ca|etc|Vol|vol|pp?|resp|Jr|Sr|Inc|Ltd|Co|"
    r"U\.S|U\.K|Ph\.D|sp|spp|var|subsp)|\b[A-Z]|\b\d)\.$"
)
_END = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+(?=[\"'“‘(\[]?[A-Z0-9])")
_OPENING = re.compile(
    r"^(?:(?:however|moreover|furthermore|in addition|additionally|consequently|therefore|thus|hence|conversely|"
    r"finally|also|interestingly|importantly|in contrast|on the other hand|for example|in conclusion|in summary|"
    r"similarly|indeed|nevertheless|accordingly|as a result|in fact|of course|now|and|but|yet|so),?\s+)+",
    re.IGNORECASE,
)
_REPORT = re.compile(
    r"^(?:we|our (?:results|data|findings|study)|the (?:present )?(?:results|data|findings|study|analysis)"
    r"(?: of (?:this|the) study)?|this (?:study|analysis|report)|these (?:results|data|findings)|results)\s+"
    r"(?:\w+ly\s+|also\s+)?(?:found|finds?|shows?|showed|observed?|concluded?|demonstrate[sd]?|suggest(?:s|ed)?|"
    r"indicate[sd]?|reveal(?:s|ed)?|report(?:s|ed)?|confirm(?:s|ed)?|believe) that\s+",
    re.IGNORECASE,
)
_ASIDE = re.compile(r"\s+(?:\((?:[^()]|\([^()]*\))*\)|\[[^\[\]]*\])")
_AIM = re.compile(
    r"^(?:to|examine)\b|\b(?:aim|purpose|objective|goal)s?\b.{0,60}\b(?:was|is|were|are) to\b", re.IGNORECASE
)
_FINITE = re.compile(
    rf"\b(?:{'|'.join(sorted(BE | HAVE | MODALS | LEXICAL))}|\w{{3,}}ed|"
    r"\w{3,}(?:ates|i[sz]es|ifies|[ue]ases|uces|otes|ides|ects))\b|^\w+ \w+s\b"
)
_BROKEN = re.compile(
    r"[<>]\s?or|\bor\s?=|\+/-|[{}|\\]|https?:|\b(?:table|figure)s? (?:below|\d)|www\.|"
    r"\b(?:this|the present|our) (?:article|paper|report|review|study)\b"
)


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence made to stand alone; `section` is its lower-case label ("results"), `position` its place."""

    text: str
    section: str
    position: int


def read_sentences(document: str, *, shortest: int = 3, longest: int = 40) -> tuple[Sentence, ...]:
    """The usable sentences of `document` in order, each of `shortest` to `longest` words."""
    raw: list[tuple[str, str]] = []
    section = ""
    for paragraph in re.split(r"\n+", document):
        paragraph = paragraph.strip()
        if paragraph.startswith("#"):
            section = paragraph.strip("# ").lower()
            continue
        paragraph = _BULLET.sub("", paragraph)
        label = _LABEL.match(paragraph)
        if label:
            section, paragraph = label[1].lower(), paragraph[label.end() :]
        raw += [(section, sentence) for sentence in split_sentences(paragraph)]
    name = _resolved_name([text for _, text in raw])
    found = []
    for position, (section, text) in enumerate(raw):
        whole = stand_alone(re.sub(r"^(?:It|They)\b", name, text) if name else text)
        if whole and shortest <= len(whole.split()) <= longest:
            found.append(Sentence(whole, section, position))
    return tuple(found)


def split_sentences(paragraph: str) -> list[str]:
    """Split one paragraph at sentence ends, not after abbreviations and initials."""
    sentences: list[str] = []
    start = 0
    for match in _END.finditer(paragraph):
        piece = paragraph[start : match.start()]
        if _ABBREVIATION.search(piece) and not re.search(r"\d{2,}\.$", piece):
            continue
        sentences.append(piece.strip() + match[0].strip())
        start = match.end()
    return [*sentences, paragraph[start:].strip()]


def stand_alone(text: str) -> str:
    """`text` without openings that point elsewhere; empty where it cannot stand alone."""
    text = re.sub(r"\s+", " ", text).strip()
    text = _REPORT.sub("", _OPENING.sub("", text)).strip()
    text = re.sub(r"\.\.+$", ".", text)
    text = re.sub(r",? in (?:this|the present) (?:study|trial|analysis|series)\b,?", "", text, flags=re.IGNORECASE)
    if not text or text[-1] != "." or _BROKEN.search(text) or text.count("(") != text.count(")"):
        return ""
    if text.count('"') % 2 or text.count("“") != text.count("”") or text.count("[") != text.count("]"):
        return ""
    if _AIM.search(text) or not _FINITE.search(text):
        return ""
    words = re.findall(r"[A-Za-z']+", text.lower())
    if not words or words[0] in DEPENDENT or FIRST_PERSON & set(words):
        return ""
    return text[0].upper() + text[1:]


def without_asides(text: str) -> str:
    """`text` without what stands in parentheses, which in studies is mostly statistics."""
    return re.sub(r"\s+([,.;:])", r"\1", re.sub(r"\s+", " ", _ASIDE.sub("", text))).strip()


def _resolved_name(sentences: list[str]) -> str:
    """The name for which "it" stands in a document that is all about one named thing; empty elsewhere."""
    leaning = sum(bool(re.match(r"(?:It|They)\b", sentence)) for sentence in sentences)
    if not sentences or leaning * 2 <= len(sentences):
        return ""
    found = re.search(r"(?<=\w )[A-Z][a-z]{2,}\b", sentences[0])
    return found[0] if found else ""
