"""Judgments by a language model: which of two texts is better in one respect, asked in both orders.

As QuRating has it (arXiv 2402.09739 §3): each ordered pair is asked `votes` times, p(b better) is the share of valid
votes for b where more than half are valid, and the mean over both orders takes out what the judge gives to a place.
The prompts are of this project's own wording. It gives up log-probabilities, which few endpoints offer: one letter is
drawn at a temperature.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from harness.errors import InputError
from harness.models.backend import Backend, Completion, PromptRequest, Sampling
from harness.types import Message, derive_seed

CRITERIA: Mapping[str, str] = {
    "style": "Which one is better written?",
    "expertise": "Which one takes more knowledge of its field to be understood?",
    "facts": "Which one holds more facts that are worth knowing?",
    "educational": "From which one would a student learn more?",
}
"""The criteria that are judged by default, and what is asked for each."""

_PROMPT = """\
Below are two texts. Compare them in one respect only: {question}
Their order, their length and their language must not count.

Text A:
{a}

Text B:
{b}

Reply with a single letter: A or B."""

_LETTER = re.compile(r"\b([AB])\b")
AT_ONCE = 16
"""Pairs that are sent to the judge together."""


@dataclass(frozen=True, slots=True)
class Judged:
    """Two texts and, by criterion, the probability that b is better; None where too few votes were valid."""

    a: str
    b: str
    p: Mapping[str, float | None]


@dataclass(slots=True)
class Tally:
    """What became of all votes: how many were asked for and valid, and how many of those took the first text.

    `undecided` counts criteria of pairs that have no probability; `apart` collects how far the two orders lie apart.
    """

    votes: int = 0
    valid: int = 0
    first: int = 0
    undecided: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    apart: list[float] = field(default_factory=list)


def draw_pairs(texts: Sequence[str], count: int, seed: int) -> list[tuple[str, str]]:
    """`count` pairs of different texts: neighbours in one random order after another, so that texts recur late.

    Raises `InputError` where there are fewer than two different texts.
    """
    distinct = list(dict.fromkeys(text for text in texts if text.strip()))
    if len(distinct) < 2:
        raise InputError(f"{len(distinct)} different texts make no pair to judge; give two or more")
    draw = random.Random(derive_seed("judged pairs", seed))
    pairs: list[tuple[str, str]] = []
    while len(pairs) < count:
        order = draw.sample(distinct, len(distinct))
        pairs += zip(order[0::2], order[1::2], strict=False)
    return pairs[:count]


def judge_pairs(
    judge: Backend,
    pairs: Sequence[tuple[str, str]],
    criteria: Mapping[str, str],
    *,
    votes: int,
    sampling: Sampling,
    seed: int,
    tally: Tally,
    on_pairs: Callable[[int], None] = lambda done: None,
) -> Iterator[Judged]:
    """Judge every pair on every criterion, in order; `tally` is added to as answers come.

    Raises `StageError` for a judge that stays down and `BudgetError` at a limit; answers until then are kept.
    """
    for start in range(0, len(pairs), AT_ONCE):
        some = pairs[start : start + AT_ONCE]
        asked = [
            _asked(question, *order)
            for a, b in some
            for question in criteria.values()
            for order in ((a, b), (b, a))
            for _ in range(votes)
        ]
        answers = iter(judge.generate(asked, sampling, derive_seed("judge", seed, start)))
        for a, b in some:
            p: dict[str, float | None] = {}
            for name in criteria:
                ab, ba = (_share(tally, [next(answers) for _ in range(votes)]) for _ in range(2))
                p[name] = None if ab is None or ba is None else (ab + 1 - ba) / 2
                tally.undecided += p[name] is None
                tally.apart += [abs(ab - (1 - ba))] if ab is not None and ba is not None else []
            yield Judged(a, b, p)
        on_pairs(start + len(some))


def _asked(question: str, first: str, second: str) -> PromptRequest:
    # In one pass, so that no text's own braces are read.
    parts = {"question": question, "a": first, "b": second}
    text = re.sub(r"\{(question|a|b)\}", lambda match: parts[match[1]], _PROMPT)
    return PromptRequest((Message("user", text),))


def _share(tally: Tally, answers: Sequence[Completion]) -> float | None:
    """The share of valid votes for the second text; None where no more than half are valid."""
    letters = [letter for answer in answers if (letter := _vote(answer))]
    tally.votes += len(answers)
    tally.valid += len(letters)
    tally.first += letters.count("A")
    for answer in answers:
        tally.prompt_tokens += answer.prompt_tokens + answer.extra_prompt_tokens
        tally.completion_tokens += answer.completion_tokens + answer.extra_completion_tokens
    return letters.count("B") / len(letters) if 2 * len(letters) > len(answers) else None


def _vote(answer: Completion) -> str:
    """The letter that an answer names; empty where it names none, or both."""
    found = set() if answer.failure else set(_LETTER.findall(answer.text))
    return found.pop() if len(found) == 1 else ""
