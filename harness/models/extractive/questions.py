"""The four question types, each made from one or a few sentences of a document.

Every function returns (question, answer) or None where its sentence does not lend itself. Answers are kept short or
broken by words of their own, so that a pair teaches what a sentence says and does not recite it; multiple-choice
answers reason about the gap before they settle on a letter.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.models.extractive.clauses import Clause, capital, length, read_clause, trim_to_words, uncapital
from harness.models.extractive.focus import Focus
from harness.models.extractive.sentences import Sentence, without_asides
from harness.models.extractive.terms import Term, TermIndex, content_words

Pair = tuple[str, str]

_BLANK = "____"
_LONGEST_ANSWER = 19
_COMPARES = re.compile(
    r"\b(?:than|similar|higher|lower|greater|fewer|differen\w+|compared (?:with|to)|better|worse|equal|same)\b"
)
_LINKED = re.compile(
    r"^(?:(?:\w+ly|also|not) )?(?:associated with|related to|linked to|caused by|due to|correlated with|followed by|"
    r"characteri[sz]ed by|based on|composed of|found in|attributed to|influenced by|used to|known as|defined as|"
    r"considered|called|divided into|limited to|randomi[sz]ed to|assigned to)\b"
)
_DONE = re.compile(
    r"^((?:\w+ly |also |then |first )?\w+ed)\b(.*?)\b(using|by|with|through|via|on the basis of)\b\s+(.+)$"
)
_REASON = re.compile(r"^(.{6,}?),?\s+(because|due to|owing to|as a result of)\s+(.{6,})$")
_LONG_FORM = re.compile(r"\b((?:[A-Za-z]+[ -]){2,6})\(([A-Z]{2,6})s?\)")
_AMOUNT = re.compile(r"^(?:(?:about|approximately|only|around|nearly|over) )?[$£€]?\d[\d,.·]*\s?%?(?![\w-]*\d)")


@dataclass(frozen=True, slots=True)
class Material:
    """The material of questions: the document's ranked sentences, its topics, and the collection's terms."""

    document: str
    topics: Sequence[str]
    names: frozenset[str]
    index: TermIndex
    focus: Focus
    rng: random.Random

    def topic(self, *avoid: str) -> str:
        """The best topic that shares no word with `avoid`; empty where all do."""
        taken = {word[:5] for text in avoid for word in content_words(text)}
        for topic in self.topics[:12]:
            if not {word[:5] for word in content_words(topic)} & taken:
                return uncapital(topic, self.names)
        return ""

    def clause(self, sentence: Sentence) -> Clause | None:
        """The sentence taken apart."""
        return read_clause(sentence.text, self.names)


def fill_in(material: Material, sentence: Sentence) -> Pair | None:
    """A sentence with one term blanked out; the answer is the term."""
    found = _gap(material, sentence)
    if found is None:
        return None
    term, gapped, _ = found
    topic = material.topic(term.text, gapped) or material.topic(term.text)
    lead = material.rng.choice(("Fill in the blank", "Complete the sentence", "Which word or figure is missing?"))
    about = f" (topic: {topic})" if topic else ""
    return f"{lead}{about}{'' if lead.endswith('?') and not about else ':'} {gapped}", term.text


def multiple_choice(material: Material, sentence: Sentence) -> Pair | None:
    """A gap with four options of one kind, three of them from other documents; the answer reasons, then concludes."""
    found = _gap(material, sentence)
    if found is None:
        return None
    term, gapped, text = found
    wrong = material.index.distractors(term, material.document, 3, material.rng)
    if len(wrong) < 2:
        return None
    options = [term.text, *wrong]
    material.rng.shuffle(options)
    label = "ABCD"[options.index(term.text)]
    listed = "\n".join(f"{letter}. {option}" for letter, option in zip("ABCD", options, strict=False))
    topic = material.topic(term.text, gapped) or material.topic(term.text)
    stem = _amount_question(material, sentence, term)
    if stem is None:
        about = f" about {topic}" if topic else ""
        stem = f"Which option completes this statement{about}?\n{gapped}"
    near = _around(text, term)
    others = ", ".join(option for option in options if option != term.text)
    kind = "a figure" if term.kind[0] == "number" else "a name" if term.kind[0] == "name" else "a word"
    reasoning = material.rng.choice(
        (
            f'What is missing is {kind} that fits "{near}". Of the options, {others} belong to other matters and '
            f"do not agree with what is known here, while {term.text} does.",
            f'Step by step: the gap needs {kind}, and around it the statement reads "{near}". This rules out {others}, '
            f"which belong in other contexts, and leaves {term.text}.",
        )
    )
    return f"{stem}\n{listed}", f"{reasoning} Therefore, the answer is {label}. {term.text}"


def short_answer(material: Material, sentence: Sentence) -> Pair | None:
    """A question with a question word, answered in a phrase or a short sentence."""
    spelled = _LONG_FORM.search(sentence.text) if material.focus.kind == "definition" else None
    if spelled and _initials(spelled[1]).endswith(spelled[2].upper()):
        long_form = " ".join(spelled[1].split()[-len(spelled[2]) :])
        return _in_context(material, "", f"what does {spelled[2]} stand for?", long_form), capital(long_form) + "."
    clause = material.clause(sentence)
    if clause is None or len(clause.subject.split()) > 14:
        return None
    for make in _FORMS:
        made = make(clause)
        if made is None:
            continue
        question, answer = made
        answer = trim_to_words(answer, _LONGEST_ANSWER)
        if not answer or answer.lower() in question.lower():
            continue
        return _in_context(material, clause.intro, question, answer), capital(answer) + "."
    return None


def essay(material: Material, sentences: Sequence[Sentence]) -> Pair | None:
    """A question about a topic of the document, answered from up to three of its sentences in frames of its own."""
    told = [without_asides(s.text) for s in sentences if 5 <= length(without_asides(s.text)) <= 32][:3]
    # With one sentence, or one that outweighs the others, the answer would be little but a quotation.
    if len(told) < 2 or max(map(length, told)) > 0.7 * sum(map(length, told)):
        return None
    topic = material.topic()
    subject = next((c.subject for s in sentences[:3] if (c := material.clause(s)) and len(c.subject.split()) <= 8), "")
    wanted = _ESSAY_ANGLES.get(material.focus.kind, "its main points")
    if not topic and not subject:
        return None
    if subject and topic and not set(content_words(subject)) & set(content_words(topic)):
        question = f"Discuss {subject} in relation to {topic}, covering {wanted}."
    else:
        question = f"Explain in a short essay what is known about {topic or subject}, covering {wanted}."
    opening = f"Several points matter for an understanding of {topic or subject}. First, "
    links = ("A further point is this: ", "It is also worth noting the following. ")
    body = opening + uncapital(told[0], material.names)
    for link, text in zip(links, told[1:], strict=False):
        body += " " + link + text
    closing = (
        f" Taken together, these points show {material.rng.choice(('what is at stake', 'how the matter stands'))}."
    )
    return question, body + closing


_ESSAY_ANGLES = {
    "number": "the most important figures",
    "cause": "what it is linked to and why",
    "comparison": "how the groups or conditions compare",
    "definition": "what the central notions mean",
    "finding": "the main findings",
    "method": "how it has been examined",
}


def _gap(material: Material, sentence: Sentence) -> tuple[Term, str, str] | None:
    """A term to ask for, the sentence with the term blanked out wherever it stands, and the whole sentence."""
    text = without_asides(sentence.text)
    terms = material.index.terms(text)
    if material.focus.kind == "number":
        terms = [term for term in terms if term.kind[0] == "number"]
        if not terms:
            text = sentence.text
            terms = [term for term in material.index.terms(text) if term.kind[0] == "number"]
    else:
        terms = [term for term in terms if term.kind[0] != "number"] or terms
    if not terms or len(text.split()) > 38:
        return None
    best = sorted(terms, key=lambda term: -term.weight)[:4]
    term = material.rng.choice(best[: max(1, min(3, len(best)))])
    pattern = rf"(?<![\w.,-]){re.escape(term.text)}(?![\w-]|[.,]\d)"
    gapped = re.sub(pattern, _BLANK, text, flags=re.IGNORECASE)
    if _BLANK not in gapped or re.search(rf"\b{re.escape(term.text)}\b", gapped, re.IGNORECASE):
        return None
    return term, re.sub(r"\b([Aa])n? (?=____)", r"\1(n) ", gapped), text


def _initials(words: str) -> str:
    return "".join(word[0].upper() for word in re.findall(r"[A-Za-z]+", words))


def _around(text: str, term: Term) -> str:
    """The words next to a term, the term left out."""
    before, after = text[: term.start].split()[-5:], text[term.end :].split()[:5]
    return " ".join([*before, "...", *after]).strip(" ,;:") if after else " ".join([*before, "..."])


def _amount_question(material: Material, sentence: Sentence, term: Term) -> str | None:
    """A question such as "What was X?" where the term is the whole amount that the sentence gives."""
    clause = material.clause(sentence)
    if clause is None or clause.verb not in ("is", "was") or term.kind[0] != "number":
        return None
    if not re.fullmatch(rf"{re.escape(term.text)}(?: [\w ]{{1,30}})?", clause.rest):
        return None
    unit = clause.rest[len(term.text) :].strip()
    question = f"what {clause.verb} {clause.subject}" + (f" (in {unit})?" if unit else "?")
    return _in_context(material, clause.intro, question, term.text)


def _in_context(material: Material, intro: str, question: str, answer: str) -> str:
    """`question` with the sentence's own opening and a topic, so that it can stand alone."""
    topic = material.topic(question, intro, answer)
    lead = [f"{material.rng.choice(('With regard to', 'Concerning', 'On the subject of'))} {topic}"] if topic else []
    if intro:
        lead.append(intro if not lead else intro[0].lower() + intro[1:])
    return capital(", ".join([*lead, question]))


def _reason(clause: Clause) -> Pair | None:
    match = _REASON.match(clause.rest)
    if not match or clause.verb not in ("is", "are", "was", "were", "can", "may", "must", "should", "will"):
        return None
    return f"why {clause.verb} {clause.subject} {match[1]}?", f"{capital(match[2])} {match[3]}"


def _link(clause: Clause) -> Pair | None:
    match = _LINKED.match(clause.rest)
    if not match or clause.verb not in ("is", "are", "was", "were"):
        return None
    return f"what {clause.verb} {clause.subject} {match[0]}?", clause.rest[match.end() :].strip()


def _procedure(clause: Clause) -> Pair | None:
    match = _DONE.match(clause.rest)
    if not match or clause.verb not in ("is", "are", "was", "were") or len(match[2].split()) > 8:
        return None
    if _COMPARES.search(clause.rest):
        return None
    return f"how {clause.verb} {clause.subject} {match[1]}{match[2].rstrip(' ,')}?", f"{capital(match[3])} {match[4]}"


def _amount(clause: Clause) -> Pair | None:
    if clause.verb not in ("is", "are", "was", "were") or not _AMOUNT.match(clause.rest):
        return None
    return f"what {clause.verb} {clause.subject}?", clause.rest


def _definition(clause: Clause) -> Pair | None:
    if clause.verb not in ("is", "are") or not re.match(r"(?:an?|the|one of)\b", clause.rest):
        return None
    return f"what {clause.verb} {clause.subject}?", f"{clause.pronoun} {clause.verb} {clause.rest}"


def _comparison(clause: Clause) -> Pair | None:
    if not _COMPARES.search(clause.rest):
        return None
    return f"what comparison holds for {clause.subject}?", f"{clause.pronoun} {clause.verb} {clause.rest}"


def _anything(clause: Clause) -> Pair | None:
    return f"what is known about {clause.subject}?", f"{clause.pronoun} {clause.verb} {clause.rest}"


_FORMS: tuple[Callable[[Clause], Pair | None], ...] = (
    _reason,
    _link,
    _procedure,
    _amount,
    _definition,
    _comparison,
    _anything,
)
"""Question forms, the most telling first."""
