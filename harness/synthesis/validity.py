"""Is a pair fit for training? One set of checks, the same for every arm, each with a reason code.

The checks look for what makes a pair useless or harmful whatever the method: an answer that does not fit its question,
a question that gives the answer away, talk about a text that the trained model will not see, refusals, personal data,
instructions for harm, copied passages. They are rules over words, so they are cheap, equal on every machine and open
to reading; they do not judge whether an answer is true, and rare wordings slip through. Each rule prefers missing a
bad pair over losing a good one, because what it loses it loses for every arm.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from harness.config_validity import ValiditySettings
from harness.synthesis import lexicon
from harness.synthesis.options import named_option, read_options
from harness.types import Message

WRONG_TYPE = "wrong_type"
ANSWER_GIVEN_AWAY = "answer_given_away"
MENTIONS_SOURCE = "mentions_source"
REFUSAL = "refusal"
PERSONAL_DATA = "personal_data"
UNSAFE_TOPIC = "unsafe_topic"
VERBATIM_EXCERPT = "verbatim_excerpt"

VALIDITY_REASONS: Mapping[str, str] = MappingProxyType(
    {
        WRONG_TYPE: "the pair is not of the question type that its rubric names",
        ANSWER_GIVEN_AWAY: "the whole answer stands in the question",
        MENTIONS_SOURCE: "question or answer speaks of a document that the trained model will not see",
        REFUSAL: "the answer declines to answer",
        PERSONAL_DATA: "an e-mail address, telephone, social security, card or IP number",
        UNSAFE_TOPIC: "instructions for causing harm are asked for or given",
        VERBATIM_EXCERPT: "a long run of words is copied from the document",
    }
)
"""Reason codes of invalid pairs in the order of checking, with what each means."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome: `reason` is empty when valid, else a key of `VALIDITY_REASONS`; `detail` says what was found."""

    valid: bool
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class _Pair:
    question: str
    answer: str
    document: str
    question_type: str | None
    settings: ValiditySettings


def check_pair(
    messages: Sequence[Message],
    *,
    document: str = "",
    question_type: str | None = None,
    settings: ValiditySettings | None = None,
) -> Verdict:
    """Check one pair, as `parse_pair` returns it; the first check that fails decides.

    `document` is the seed's text (empty: the excerpt check has nothing to compare with); `question_type` is what the
    rubric names (None: a question of any type will do).
    """
    question = next((m.content for m in reversed(messages) if m.role == "user"), "")
    answer = next((m.content for m in reversed(messages) if m.role == "assistant"), "")
    pair = _Pair(
        question=question,
        answer=answer,
        document=document,
        question_type=question_type,
        settings=settings or ValiditySettings(),
    )
    for reason, check in _CHECKS.items():
        found = check(pair)
        if found:
            return Verdict(False, reason, found)
    return Verdict(True)


def words(text: str) -> list[str]:
    """Lower-case words and numbers of `text`, without punctuation; what answers and excerpts are compared by."""
    return re.findall(r"\w+", text.casefold())


def longest_common_run(text: str, document: str) -> int:
    """Length in words of the longest run of words that stands in both."""
    run, haystack = words(text), f" {' '.join(words(document))} "
    best = 0
    for start in range(len(run)):
        while start + best < len(run) and f" {' '.join(run[start : start + best + 1])} " in haystack:
            best += 1
    return best


def _wrong_type(pair: _Pair) -> str:
    kind, settings = pair.question_type, pair.settings
    options = read_options(pair.question)
    blank = lexicon.BLANK.search(pair.question)
    if kind == "multiple choice":
        if len(options) < 2:
            return "multiple choice without two lettered or numbered options"
        return "" if named_option(pair.answer, options) else "the answer does not settle on one of the options"
    if kind == "fill-in-the-blank":
        return "" if blank else "fill-in-the-blank without a blank"
    length = len(pair.answer.split())
    if kind in ("short answer", "essay") and len(options) > 2 and options[0].label == "A":
        return f"{kind} with the options of a multiple-choice question"
    if kind in ("short answer", "essay") and blank:
        return f"{kind} with a blank to fill in"
    if kind == "short answer" and length > settings.short_answer_max:
        return f"short answer of {length} words"
    if kind == "essay" and length < settings.essay_min:
        return f"essay of {length} words"
    return ""


def _given_away(pair: _Pair) -> str:
    answer, question = " ".join(words(pair.answer)), words(pair.question)
    if not answer or answer in lexicon.BARE_ANSWERS or f" {answer} " not in f" {' '.join(question)} ":
        return ""
    if f" answer is {answer} " in f" {' '.join(question)} ":
        return f"the question ends by saying that the answer is '{pair.answer[:80]}'"
    # Options, "is it A or B?" and a passage to read have to name the answer.
    if len(read_options(pair.question)) > 1 or lexicon.ALTERNATIVES.search(pair.question):
        return ""
    if len(question) >= pair.settings.passage_from:
        return ""
    return f"'{pair.answer[:80]}' stands in the question"


def _mentions_source(pair: _Pair) -> str:
    for text in (pair.question, pair.answer):
        match = lexicon.SOURCE_REFERENCE.search(text)
        if match:
            return f"'{match[0]}'"
    return ""


def _refusal(pair: _Pair) -> str:
    match = lexicon.REFUSAL.match(pair.answer)
    return f"'{match[0].strip()}'" if match else ""


def _personal_data(pair: _Pair) -> str:
    return lexicon.personal_data(f"{pair.question}\n{pair.answer}")


def _unsafe_topic(pair: _Pair) -> str:
    match = lexicon.UNSAFE.search(f"{pair.question}\n{pair.answer}")
    return f"'{match[0]}'" if match else ""


def _verbatim_excerpt(pair: _Pair) -> str:
    if not pair.document:
        return ""
    settings = pair.settings
    for name, text in (("question", pair.question), ("answer", pair.answer)):
        run, length = longest_common_run(text, pair.document), len(words(text))
        if run > settings.excerpt_max:
            return f"{run} words of the {name} are copied in one run"
        if name == "answer" and length > settings.excerpt_share_from and run > settings.excerpt_share * length:
            return f"{run} of the answer's {length} words are copied in one run"
    return ""


_CHECKS: Mapping[str, Callable[[_Pair], str]] = {
    WRONG_TYPE: _wrong_type,
    ANSWER_GIVEN_AWAY: _given_away,
    MENTIONS_SOURCE: _mentions_source,
    REFUSAL: _refusal,
    PERSONAL_DATA: _personal_data,
    UNSAFE_TOPIC: _unsafe_topic,
    VERBATIM_EXCERPT: _verbatim_excerpt,
}
