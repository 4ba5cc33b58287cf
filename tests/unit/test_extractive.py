from __future__ import annotations

import json
import os
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.models.backend import PromptRequest, Sampling
from harness.models.extractive.clauses import names_in, read_clause, trim_to_words
from harness.models.extractive.focus import rank, read_focus
from harness.models.extractive.generator import ExtractiveGenerator
from harness.models.extractive.sentences import read_sentences, split_sentences, stand_alone, without_asides
from harness.models.extractive.terms import TermIndex, topics
from harness.synthesis.options import named_option, read_options
from harness.synthesis.pairs import parse_pair
from harness.synthesis.parsing import Failure
from harness.synthesis.seeds import load_seeds
from harness.synthesis.validity import check_pair
from harness.types import QUESTION_TYPES, RUBRIC_PARTS, Message

FOCI = ("a number", "a cause", "a comparison", "a definition", "a finding", "a method")
ASPIRIN = (
    "BACKGROUND: Low-dose aspirin is a common treatment for patients with stable angina.\n\n"
    "METHODS: Blood pressure was measured using an automatic cuff at every visit. A total of 412 adults were enrolled "
    "in Denmark.\n\n"
    "RESULTS: Low-dose aspirin was associated with fewer infarctions over five years. Median survival was 63%. "
    "Bleeding was more frequent in the aspirin group than in the placebo group (P=0.03)."
)
OTHERS = (
    "RESULTS: Warfarin therapy reduced thrombosis in Norway among 250 veterans. Median recovery was 47% in the clinic.",
    "RESULTS: Insulin resistance was related to obesity in Finland among 318 workers. Remission was 71% after surgery.",
    "RESULTS: Vitamin supplementation improved mobility in Poland among 905 pensioners. Adherence was 88% at the end.",
    "RESULTS: Antibiotic prophylaxis prevented pneumonia in Greece among 131 children. Mortality was 12% in both arms.",
)
SAMPLING = Sampling()


def request(document: str, kind: str, focus: str, **more: str) -> PromptRequest:
    parts = (f"Ask a {kind} question about {focus}.", "State the exact value.", "Keep to one point.", "Use plain text.")
    return PromptRequest((), {"document": document, **dict(zip(RUBRIC_PARTS, parts, strict=True)), **more})


@pytest.fixture(scope="module")
def generator() -> ExtractiveGenerator:
    return ExtractiveGenerator((ASPIRIN, *OTHERS))


def pair(generator: ExtractiveGenerator, kind: str, focus: str, seed: int = 0) -> tuple[Message, ...]:
    parsed = parse_pair(generator.generate([request(ASPIRIN, kind, focus)], SAMPLING, seed)[0].text)
    assert not isinstance(parsed, Failure), parsed
    return parsed


@pytest.mark.parametrize("kind", QUESTION_TYPES)
@pytest.mark.parametrize("focus", FOCI)
def test_every_type_and_focus_gives_a_valid_pair_of_that_type(
    generator: ExtractiveGenerator, kind: str, focus: str
) -> None:
    for seed in range(5):
        messages = pair(generator, kind, focus, seed)
        verdict = check_pair(messages, document=ASPIRIN, question_type=kind)
        assert verdict.valid, (verdict, messages)
        assert messages[0].content == "You are a helpful assistant."


def test_wrong_options_come_from_other_documents_and_the_answer_reasons(generator: ExtractiveGenerator) -> None:
    for seed in range(10):
        _, question, answer = pair(generator, "multiple choice", "a number", seed)
        options = read_options(question.content)
        right = named_option(answer.content, options)
        assert right is not None
        assert right.text in ASPIRIN
        wrong = [option.text for option in options if option != right]
        assert len(wrong) >= 2
        assert all(text not in ASPIRIN and any(text in other for other in OTHERS) for text in wrong)
        assert len(answer.content.split()) > 15


def test_the_focus_decides_what_is_asked(generator: ExtractiveGenerator) -> None:
    for seed in range(5):
        assert any(char.isdigit() for char in pair(generator, "fill-in-the-blank", "a number", seed)[2].content)
        assert "cuff" in pair(generator, "short answer", "the cuff that measured blood pressure", seed)[2].content
    assert "associated with" in pair(generator, "short answer", "a cause")[1].content


def test_what_cannot_be_asked_is_said_and_is_no_pair(generator: ExtractiveGenerator) -> None:
    cases = [
        (request("Nothing here has digits in it.", "short answer", "a number"), "no sentence with a number"),
        (request(ASPIRIN, "short answer", "medieval bridges"), "no sentence with medieval bridges"),
        (request(ASPIRIN, "good", "a number"), "names no question type"),
        (request("???", "essay", "a finding"), "no sentence that can stand alone"),
        (PromptRequest((), {}), "no sentence that can stand alone"),
    ]
    for (asked, says), completion in zip(cases, generator.generate([c[0] for c in cases], SAMPLING, 0), strict=True):
        assert says in json.loads(completion.text)["error"], asked
        parsed = parse_pair(completion.text, completion.finish_reason)
        assert isinstance(parsed, Failure) and parsed.reason == "pair_schema"


def test_draws_follow_from_seed_and_request(generator: ExtractiveGenerator) -> None:
    requests = [request(ASPIRIN, "fill-in-the-blank", "a finding")] * 12
    texts = [completion.text for completion in generator.generate(requests, SAMPLING, 1)]
    again = ExtractiveGenerator((ASPIRIN, *OTHERS)).generate(requests, SAMPLING, 1)
    assert [completion.text for completion in again] == texts
    assert len(set(texts)) > 2
    assert texts[:3] == [completion.text for completion in generator.generate(requests[:3], SAMPLING, 1)]
    greedy = generator.generate(requests, Sampling(temperature=0), 5)
    assert len({completion.text for completion in greedy}) == 1


def test_a_draw_does_not_depend_on_its_neighbours(generator: ExtractiveGenerator) -> None:
    one, two = request(ASPIRIN, "essay", "a finding"), request(OTHERS[0], "fill-in-the-blank", "a finding")
    alone = generator.generate([two], SAMPLING, 3)[0]
    assert generator.generate([one, two], SAMPLING, 3)[1] == alone


def test_the_token_limit_cuts_and_says_so(generator: ExtractiveGenerator) -> None:
    completion = generator.generate([request(ASPIRIN, "essay", "a finding")], Sampling(max_tokens=9), 0)[0]
    assert (completion.finish_reason, completion.completion_tokens) == ("length", 9)
    parsed = parse_pair(completion.text, completion.finish_reason)
    assert isinstance(parsed, Failure) and parsed.reason == "pair_truncated"


def test_the_system_message_is_used(generator: ExtractiveGenerator) -> None:
    asked = request(ASPIRIN, "essay", "a finding", system_message="Be kind.")
    parsed = parse_pair(generator.generate([asked], SAMPLING, 0)[0].text)
    assert not isinstance(parsed, Failure) and parsed[0].content == "Be kind."


def test_a_document_about_one_named_thing() -> None:
    documents = [
        f"A note on {name}, a {cls}. It costs {price} crowns. It treats {ill}. It is kept in the {place}."
        for name, cls, price, ill, place in (
            ("Kobalmab", "mab", "ten", "fever", "cellar"),
            ("Wademvex", "vex", "forty", "cough", "stable"),
            ("Rasalzol", "zol", "ninety", "gout", "garden"),
        )
    ]
    texts = [sentence.text for sentence in read_sentences(documents[0])]
    assert texts == ["Kobalmab costs ten crowns.", "Kobalmab treats fever.", "Kobalmab is kept in the cellar."]
    asked = request(documents[0], "short answer", "the cellar where it is kept")
    parsed = parse_pair(ExtractiveGenerator(documents).generate([asked], SAMPLING, 0)[0].text)
    assert not isinstance(parsed, Failure)
    assert "Kobalmab" in parsed[1].content and "cellar" in parsed[2].content


def test_sentences() -> None:
    text = "Dr. Smith treated 3.5 cases vs. 4 before. We agree. Is it so? It fell. However, rates (n=3) were low."
    assert split_sentences(text)[0] == "Dr. Smith treated 3.5 cases vs. 4 before."
    assert [s.text for s in read_sentences(text)] == [
        "Dr. Smith treated 3.5 cases vs. 4 before.",
        "Rates (n=3) were low.",
    ]
    assert stand_alone("We found that sleep was short.") == "Sleep was short."
    assert stand_alone("The aim of the study was to examine sleep.") == ""
    assert without_asides("Rates (n=3, mean(2)) were low.") == "Rates were low."
    assert read_sentences("RESULTS: Sleep was short.")[0].section == "results"


def test_clauses() -> None:
    clause = read_clause("In adults, overall survival was 63% at five years.", frozenset())
    assert clause is not None
    assert (clause.intro, clause.subject, clause.verb, clause.rest) == (
        "In adults", "overall survival", "was", "63% at five years",
    )  # fmt: skip
    assert read_clause("Although it rained, the match was played.", frozenset()) is None
    assert read_clause("No difference was found between groups.", frozenset()) is None
    assert names_in("He met The king and Ann in Rome.") == {"Ann", "Rome"}
    assert trim_to_words("one two, three four five", 3) == "one two"
    assert trim_to_words("one two three four", 3) == ""


def test_focus() -> None:
    sentences = read_sentences(ASPIRIN)
    assert read_focus("Ask an essay question about a comparison.").kind == "comparison"
    assert {s.section for _, s in rank(sentences, read_focus("Ask about a number."))} == {"methods", "results"}
    loose = read_focus("The question should be clear and name low-dose aspirin precisely")
    assert not loose.explicit
    assert len(rank(sentences, loose)) == len(sentences)
    assert max(rank(sentences, loose), key=lambda item: item[0])[1].text.startswith("Low-dose aspirin")


def test_terms_and_topics() -> None:
    index = TermIndex((ASPIRIN, *OTHERS))
    kinds = {term.text: term.kind for term in index.terms("The 412 adults from Denmark lost 63% over 5-year spans.")}
    assert kinds == {
        "412": ("number", "3 digits"), "adults": ("word", "s"), "Denmark": ("name", "capital"),
        "63%": ("number", "percent"),
    }  # fmt: skip
    assert topics(ASPIRIN, index)[0] == "Low-dose aspirin"
    denmark = next(term for term in index.terms("in Denmark") if term.text == "Denmark")
    drawn = index.distractors(denmark, ASPIRIN, 3, random.Random(0))
    assert set(drawn) <= {"Norway", "Finland", "Poland", "Greece"} and len(set(drawn)) == 3


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=400), st.sampled_from(QUESTION_TYPES), st.sampled_from(FOCI))
def test_any_text_gives_json(document: str, kind: str, focus: str) -> None:
    generator = ExtractiveGenerator([document])
    assert set(json.loads(generator.generate([request(document, kind, focus)], SAMPLING, 0)[0].text)) <= {
        "messages",
        "error",
    }


def test_yield_on_real_abstracts() -> None:
    folder = os.environ.get("HARNESS_TEST_DATA")
    if not folder:
        pytest.skip("HARNESS_TEST_DATA is not set")
    documents = [str(seed.text) for seed in load_seeds(f"{folder}/seeds/pubmedqa_cv_contexts.jsonl.gz").seeds]
    rng = random.Random(0)
    asked = [(document, rng.choice(QUESTION_TYPES), rng.choice(FOCI)) for document in documents]
    completions = ExtractiveGenerator(documents).generate([request(*item) for item in asked], SAMPLING, 0)
    outcomes: Counter[str] = Counter()
    for (document, kind, _), completion in zip(asked, completions, strict=True):
        parsed = parse_pair(completion.text, completion.finish_reason)
        failed = isinstance(parsed, Failure)
        verdict = None if isinstance(parsed, Failure) else check_pair(parsed, document=document, question_type=kind)
        outcomes["refused" if failed else verdict.reason if verdict and not verdict.valid else "valid"] += 1
    assert outcomes["valid"] >= 0.75 * len(documents), outcomes
    assert outcomes["valid"] + outcomes["refused"] >= 0.98 * len(documents), outcomes
