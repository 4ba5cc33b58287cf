"""The focus of a rubric, and the sentences that fit it.

Six general kinds of content are recognised by cue words and section labels; any other focus is matched to sentences
by shared words. A focus that no sentence fits is a failure that is said, because a generator that answers something
else would hide from a method that its rubric was bad.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from harness.models.extractive.sentences import Sentence, without_asides
from harness.models.extractive.terms import content_words, overlap
from harness.models.extractive.words import RUBRIC_WORDS

_CUES = {
    "number": r"(?<![\w.-])\d+(?:[.,·]\d+)?(?![\w-])",
    "cause": (
        r"\b(?:caus\w+|because|due to|owing to|associated|association|lea?ds? to|led to|result(?:s|ed)? (?:in|from)|"
        r"risk|effects? (?:of|on)|effective\w*|predict\w*|related|relation\w*|influence\w*|contribut\w+|correlat\w+|"
        r"depend\w*|impact\w*|attribut\w+|reasons?|induc\w+|produc\w+|prevent\w*|therefore|arises?|affect\w*|"
        r"factors?|improv\w+|increase[sd]?|reduc\w+|decrease[sd]?|promot\w+|explain\w*)\b"
    ),
    "comparison": (
        r"\b(?:than|compar\w+|versus|vs|higher|lower|similar\w*|differen\w+|differ\w*|more|less|fewer|greater|"
        r"larger|smaller|longer|shorter|equal|whereas|while|both|better|worse|same|most|least|superior|inferior|between|"
        r"increase[sd]?|decrease[sd]?|groups)\b"
    ),
    "definition": (
        r"\b(?:defined|definition|refers? to|known as|called|considered|means|consists? of|consisted of|"
        r"(?:is|are|was) (?:an?|the|one of)|classified|type of|form of|includ(?:e|es|ed|ing)|kinds? of|such as|"
        r"characteri[sz]ed|diagnosed|described|categori[sz]ed|criteria)\b|\b[\w-]+ \([A-Z][A-Za-z]*[A-Z]s?\)"
    ),
    "finding": (
        r"\b(?:show\w*|found|finds?|significant\w*|increas\w+|decreas\w+|reduc\w+|improv\w+|observed|detected|"
        r"revealed|remain\w*|had|occurred|was|were|is|are)\b"
    ),
    "method": (
        r"\b(?:method\w*|measur\w+|assess\w+|using|analy[sz]\w+|randomi[sz]\w+|questionnaire\w*|survey\w*|scor\w+|"
        r"test\w*|evaluat\w+|collect\w+|review\w*|perform\w+|technique\w*|sampl\w+|enrolled|recruited|by means of|"
        r"divided|calculat\w+|studied|compared|underwent|stud(?:y|ies)|trial|data)\b"
    ),
}
_SECTIONS = {
    "finding": r"result|conclusion|finding|discussion",
    "method": r"method|material|design|setting|measure|participant|patients|intervention|procedure",
    "definition": r"background|introduction|overview",
}
_ALIASES = {
    "number": r"numbers?|numeric\w*|numerical|quantit\w+|figures?|percentages?|statistics?",
    "cause": r"caus\w+|reasons?|effects?|consequences?|risk factors?|associations?",
    "comparison": r"compari\w+|compare\w*|differences?|contrasts?",
    "definition": r"defin\w+|meanings?|terms?|concepts?",
    "finding": r"findings?|results?|outcomes?|conclusions?",
    "method": r"methods?|methodology|procedures?|designs?|techniques?",
}
_ABOUT = re.compile(
    r"\b(?:about|focus(?:es|ed|ing)? on|concerning|regarding|on the subject of|targets?)\s+([^.;:\n]{2,80})",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Focus:
    """A wanted content: `kind` is one of the six general kinds or empty, `words` are other words to match.

    `explicit` is set where the rubric says outright what to ask about, so that a miss is a failure.
    """

    kind: str
    words: tuple[str, ...]
    explicit: bool

    @property
    def name(self) -> str:
        """The focus in words, for messages."""
        return {"number": "a number", "": " ".join(self.words[:6]) or "any content"}.get(self.kind, f"a {self.kind}")


def read_focus(rubric: str) -> Focus:
    """The focus that the question's part of a rubric names, first what follows "about", then anything it mentions."""
    about = _ABOUT.search(rubric)
    if about:
        kind = _general(about[1])
        words = _own_words(about[1])
        if kind or words:
            return Focus(kind, () if kind else words, True)
    return Focus(_general(rubric), _own_words(rubric), False)


def rank(sentences: Sequence[Sentence], focus: Focus) -> list[tuple[float, Sentence]]:
    """The sentences that fit `focus` with how well they do; all of them for a focus that is not explicit."""
    ranked = []
    for sentence in sentences:
        fit = _fit(sentence, focus)
        if fit > 0 or not focus.explicit:
            ranked.append((fit, sentence))
    return ranked


def _fit(sentence: Sentence, focus: Focus) -> float:
    score = float(overlap(focus.words, sentence.text))
    if focus.kind:
        # An abbreviation's long form is a definition, and stands before parentheses that are otherwise statistics.
        definition = focus.kind == "definition"
        text = sentence.text if definition else without_asides(sentence.text)
        flags = re.NOFLAG if definition else re.IGNORECASE
        cue = re.search(_CUES[focus.kind], text, flags)
        section = focus.kind in _SECTIONS and re.search(_SECTIONS[focus.kind], sentence.section)
        score += 2.0 * bool(cue) + (1.0 * bool(section) if cue or focus.kind == "method" else 0.0)
    return score


def _general(text: str) -> str:
    matches = ((re.search(rf"\b(?:{alias})\b", text, re.IGNORECASE), kind) for kind, alias in _ALIASES.items())
    found = [(match.start(), kind) for match, kind in matches if match]
    return min(found)[1] if found else ""


def _own_words(text: str) -> tuple[str, ...]:
    return tuple(word for word in dict.fromkeys(content_words(text)) if word not in RUBRIC_WORDS)
