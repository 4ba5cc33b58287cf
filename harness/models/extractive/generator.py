"""A generator of question-answer pairs that is not a language model.

It reads the document and the rubric's question part from the request's variables, picks a sentence that fits the
wanted focus, and makes a question of the wanted type from it. Real text can so run through the whole pipeline on any
machine with nothing downloaded. What it gives up is everything that needs understanding: answers restate the
document, quality standards in the rubric beyond type and focus are not heard.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Sequence

from harness.models.backend import Completion, PromptRequest, Sampling
from harness.models.extractive import questions
from harness.models.extractive.clauses import names_in
from harness.models.extractive.focus import rank, read_focus
from harness.models.extractive.sentences import Sentence, read_sentences
from harness.models.extractive.terms import TermIndex, topics
from harness.synthesis.rubric import question_type
from harness.types import QUESTION_TYPES, RUBRIC_PARTS, Message, chat, derive_seed

_TRIES = 6
_DEFAULT_SYSTEM = "You are a helpful assistant."


class ExtractiveGenerator:
    """`Backend` that makes pairs by rules; wrong options come from the other documents of `corpus`.

    Requests need the variable `document`; without the four rubric parts the question type is drawn. `system_message` is
    used where given. Every draw follows from the seed, the request and how often the same request came before in the
    call; at temperature 0 from the request alone. Tokens are counted as words. A document without what the rubric asks
    for gives the text `{"error": ...}`, which no parser takes for a pair.
    """

    VERSION = 1
    """Raised by hand with every change to what is generated; part of stage identities."""

    def __init__(self, corpus: Sequence[str]) -> None:
        self._index = TermIndex(corpus)
        self._read: dict[str, tuple[tuple[Sentence, ...], list[str], frozenset[str]]] = {}

    @property
    def name(self) -> str:
        """The name that is recorded as the generator of a sample."""
        return "extractive"

    @property
    def flops_per_token(self) -> float:
        """There is no model: 0."""
        return 0.0

    def generate(self, requests: Sequence[PromptRequest], sampling: Sampling, seed: int) -> list[Completion]:
        """One completion per request, in order."""
        seen: Counter[int] = Counter()
        completions = []
        for request in requests:
            key = derive_seed(dict(request.variables))
            draw = (0, 0) if sampling.temperature == 0 else (seed, seen[key])
            seen[key] += 1
            text = self._pair(request, random.Random(derive_seed(key, *draw)))
            completions.append(_completion(request, text, sampling.max_tokens))
        return completions

    def _pair(self, request: PromptRequest, rng: random.Random) -> str:
        variables = request.variables
        kind = question_type({part: variables.get(part, "") for part in RUBRIC_PARTS})
        if kind is None and not any(part in variables for part in RUBRIC_PARTS):
            # A route without rubrics leaves it open.
            kind = rng.choice(QUESTION_TYPES)
        if kind is None:
            return _error("the rubric names no question type")
        document = variables.get("document", "")
        focus = read_focus(variables.get(RUBRIC_PARTS[0], ""))
        sentences, document_topics, names = self._material(document)
        if not sentences:
            return _error("the document has no sentence that can stand alone")
        ranked = rank(sentences, focus)
        if not ranked:
            return _error(f"no sentence with {focus.name}")
        # Rollouts of one rubric should differ, so equally good sentences are taken in random order.
        jittered = [(fit + 1.5 * rng.random(), sentence) for fit, sentence in ranked]
        ordered = [sentence for _, sentence in sorted(jittered, key=lambda item: -item[0])]
        material = questions.Material(
            document=document, topics=document_topics, names=names, index=self._index, focus=focus, rng=rng
        )
        made = _make(kind, material, ordered, sentences)
        if made is None:
            return _error(f"no {kind} question in the sentences with {focus.name}")
        system = variables.get("system_message") or _DEFAULT_SYSTEM
        turns = (Message("system", system), Message("user", made[0]), Message("assistant", made[1]))
        return json.dumps({"messages": chat(turns)}, ensure_ascii=False)

    def _material(self, document: str) -> tuple[tuple[Sentence, ...], list[str], frozenset[str]]:
        """The material that does not depend on the draw, kept because a document comes back with every rollout."""
        if document not in self._read:
            self._read[document] = (read_sentences(document), topics(document, self._index), names_in(document))
        return self._read[document]


def _make(
    kind: str, material: questions.Material, ordered: Sequence[Sentence], sentences: Sequence[Sentence]
) -> questions.Pair | None:
    if kind == "essay":
        # A single fitting sentence is no essay: what stands next to it completes it.
        near = sorted(sentences, key=lambda sentence: abs(sentence.position - ordered[0].position))
        return questions.essay(material, [*ordered, *(sentence for sentence in near if sentence not in ordered)])
    make = {
        "multiple choice": questions.multiple_choice,
        "fill-in-the-blank": questions.fill_in,
        "short answer": questions.short_answer,
    }[kind]
    return next((made for sentence in ordered[:_TRIES] if (made := make(material, sentence))), None)


def _error(reason: str) -> str:
    return json.dumps({"error": reason}, ensure_ascii=False)


def _completion(request: PromptRequest, text: str, max_tokens: int) -> Completion:
    prompt_tokens = sum(len(message.content.split()) for message in request.messages)
    words = list(re.finditer(r"\S+", text))
    if len(words) > max_tokens:
        return Completion(text[: words[max_tokens - 1].end()], "length", prompt_tokens, max_tokens)
    return Completion(text, "stop", prompt_tokens, len(words))
