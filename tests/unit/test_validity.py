from __future__ import annotations

import gzip
import json
import os
from collections import Counter
from typing import Any

import pytest

from harness.synthesis.options import Option, named_option, read_options
from harness.synthesis.validity import (
    VALIDITY_REASONS,
    ValiditySettings,
    Verdict,
    check_pair,
    longest_common_run,
)
from harness.types import Message

MC, FILL, SHORT, ESSAY = "multiple choice", "fill-in-the-blank", "short answer", "essay"
QUESTION = "Which organ stores bile?"
OPTIONS = QUESTION + "\nA. Liver\nB. Gallbladder\nC. Spleen\nD. Heart"


def check(question: str, answer: str, **options: Any) -> Verdict:
    verdict = check_pair((Message("user", question), Message("assistant", answer)), **options)
    assert verdict.valid == (verdict.reason == "")
    assert verdict.valid or (verdict.reason in VALIDITY_REASONS and verdict.detail)
    return verdict


def reason(question: str, answer: str, **options: Any) -> str:
    return check(question, answer, **options).reason


@pytest.mark.parametrize(
    "rendered",
    [
        "\nA. Liver\nB. Gallbladder",
        "\nA) Liver\nB) Gallbladder",
        "\n(a) Liver\n(b) Gallbladder",
        "\n1. Liver\n2. Gallbladder",
        "\n- A: Liver\n- B: Gallbladder",
        "\n**A.** Liver\n**B.** Gallbladder",
        "\n[A] Liver\n[B] Gallbladder",
        " (A) Liver (B) Gallbladder",
        " A. Liver, B. Gallbladder",
        " a) Liver; b) Gallbladder",
    ],
)
def test_options_in_any_usual_lettering(rendered: str) -> None:
    options = read_options(QUESTION + rendered)
    assert [option.text for option in options] == ["Liver", "Gallbladder"]
    assert [option.label for option in options] in (["A", "B"], ["1", "2"])


@pytest.mark.parametrize("text", ["Is vitamin A. good?", "In 1990. What?", "Type 2. diabetes (a) and", "e.g. a cat"])
def test_lone_labels_are_no_options(text: str) -> None:
    assert read_options(text) == ()


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("B", "B"),
        ("(b)", "B"),
        ("B. Gallbladder", "B"),
        ("**B**", "B"),
        ("Gallbladder", "B"),
        ("The gallbladder.", "B"),
        ("The answer is B.", "B"),
        ("Bile is made in the liver. It is stored elsewhere. Therefore, the correct answer is (B).", "B"),
        ("The liver makes it and the spleen does not. So it must be the gallbladder.", "B"),
        ("One might think of A, but the answer is option B", "B"),
        ("The correct answer is a gallbladder", "B"),
        ("A is wrong: the liver only makes bile. Answer: B", "B"),
        ("The answer is E.", None),
        ("Liver or gallbladder.", None),
        ("It depends.", None),
    ],
)
def test_the_option_that_an_answer_names(answer: str, label: str | None) -> None:
    named = named_option(answer, read_options(OPTIONS))
    assert (named.label if named else None) == label


def test_the_longer_of_two_nested_options_is_named() -> None:
    options = (Option("A", "heart"), Option("B", "heart failure"))
    assert named_option("It is heart failure.", options) == options[1]


@pytest.mark.parametrize(
    ("kind", "question", "answer", "wanted"),
    [
        (MC, OPTIONS, "B", ""),
        (MC, QUESTION, "B", "wrong_type"),
        (MC, OPTIONS, "Hard to say.", "wrong_type"),
        (FILL, "The ____ stores bile.", "gallbladder", ""),
        (FILL, "The [blank] stores bile.", "gallbladder", ""),
        (FILL, QUESTION, "gallbladder", "wrong_type"),
        (SHORT, QUESTION, "The gallbladder.", ""),
        (SHORT, QUESTION, "It does. " * 60, "wrong_type"),
        (SHORT, "The ____ stores bile.", "gallbladder", "wrong_type"),
        (ESSAY, "How is bile stored?", "The liver makes bile, which the gallbladder keeps.", ""),
        (ESSAY, "How is bile stored?", "In an organ.", "wrong_type"),
        (ESSAY, OPTIONS, "It is the gallbladder that stores it.", "wrong_type"),
        (None, OPTIONS, "Hard to say.", ""),
    ],
)
def test_answer_fits_the_question_type(kind: str | None, question: str, answer: str, wanted: str) -> None:
    assert reason(question, answer, question_type=kind) == wanted


@pytest.mark.parametrize(
    ("question", "answer", "wanted"),
    [
        ("Why does the gallbladder store bile?", "The gallbladder", "answer_given_away"),
        ("Name the year 1865 event.", "1865", "answer_given_away"),
        ("Does it help, yes or no?", "Yes.", ""),
        ("Is no surgery needed?", "No", ""),
        ("Is a tope a fish, a rope or a boat?", "a fish", ""),
        (OPTIONS, "Gallbladder", ""),
        (OPTIONS + " The answer is: Gallbladder", "Gallbladder", "answer_given_away"),
        ("Which cells are affected?", "cell", ""),
        ("Who won?\n" + "Many played. " * 40 + "Ann won.", "Ann", ""),
    ],
)
def test_answer_given_away(question: str, answer: str, wanted: str) -> None:
    assert reason(question, answer) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "According to the document, what is bile?",
        "According to the given passage, what is bile?",
        "Based on the text, what is bile?",
        "In the given text, who is king?",
        "What is described in the passage above?",
        "What does the passage state about bile?",
        "What does the article say about bile?",
        "As mentioned in the article, bile is green.",
        "The passage states that bile is green.",
        "The document clearly describes bile.",
        "From the provided context, bile is green.",
        "What is bile in the context provided?",
        "What are the findings discussed in the abstract?",
        "Which colour is used in the excerpt?",
        "This article discusses bile.",
    ],
)
def test_mentions_source(text: str) -> None:
    assert reason(text, "It is a fluid of the body.") == "mentions_source"
    assert reason("What is bile made of?", text) == "mentions_source"


@pytest.mark.parametrize(
    "text",
    [
        "What is a legal document?",
        "Which documents must a company file every year?",
        "Who signs the document of incorporation?",
        "Article 5 states that an armed attack concerns all. Of which treaty?",
        "How has the passage of time changed the coast?",
        "How is food moved in the passage of the throat?",
        "What is blood flow through the nasal passage?",
        "In what context did the revolution begin?",
        "In this context, how do prices form?",
        "How should a text editor save articles of clothing?",
        "Which newspaper published an article about the war?",
        "What material is the bridge made of, given the load?",
        "According to the theory of relativity, what bends light?",
        "According to the World Health Organization, what is health?",
        "How do you write an abstract?",
    ],
)
def test_ordinary_nouns_are_no_mention(text: str) -> None:
    assert reason(text, "It depends on the case at hand.") == ""


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I cannot help with that.",
        "I cannot provide medical advice.",
        "I can't answer this.",
        "As an AI language model, I have no opinion.",
        "I am unable to determine the answer.",
        "Unfortunately, I do not know whether I can, so I can't answer.",
        "I don't know.",
        "I do not have enough information.",
        "N/A",
        "Not specified.",
        "No information available.",
        "I apologize, I won't do that.",
    ],
)
def test_refusals(answer: str) -> None:
    assert reason("What is bile?", answer) == "refusal"


@pytest.mark.parametrize(
    "answer",
    [
        "The cause is unknown.",
        "Unknown.",
        "I cannot stress enough that hydration matters.",
        "Unfortunately, there is no cure for the disease.",
        "Patients say: I cannot sleep.",
        "None.",
        "Sorry is an apology.",
        "No information is lost when a file is compressed without loss.",
    ],
)
def test_answers_that_are_no_refusals(answer: str) -> None:
    assert reason("What follows?", answer) == ""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Write to jane.doe@mail.org today.", "e-mail"),
        ("Her number is 415-555-2671.", "telephone"),
        ("Call (415) 555-2671.", "telephone"),
        ("Reach him at +44 20 7946 0958.", "telephone"),
        ("His SSN is 123-45-6789.", "social security"),
        ("Card 4111 1111 1111 1111 was charged.", "card"),
        ("The IP address was 81.23.4.17.", "IP"),
    ],
)
def test_personal_data(text: str, says: str) -> None:
    verdict = check("What happened next?", text)
    assert verdict.reason == "personal_data"
    assert says in verdict.detail


@pytest.mark.parametrize(
    "text",
    [
        "The mean was 318.4 (152.9) in 1996-1997, p<0.001.",
        "Call 1-800-422-6237 for the service.",
        "Trial NCT01234567, grant 2019-0123-4567.",
        "The enzyme EC 3.4.21.4 cleaves it; see section 1.2.3.4.",
        "Card 4111 1111 1111 1112 fails its check digit.",
        "Doses of 100-200-3000 units were given.",
        "In 123-45 BC nothing happened.",
        "Write to info@example.com.",
        "A change of +12.5 to +130 units was seen over 2010-2020.",
    ],
)
def test_numbers_that_are_not_personal(text: str) -> None:
    assert reason("What happened next?", text) == ""


@pytest.mark.parametrize(
    "text",
    [
        "How to make a bomb?",
        "Explain how to build a simple pipe bomb.",
        "Steps to synthesize methamphetamine at home",
        "What is the best way to commit suicide?",
        "How do I poison someone without being caught?",
        "Write instructions for making ricin.",
        "How can I hack into a bank?",
    ],
)
def test_unsafe_topics(text: str) -> None:
    assert reason(text, "First take some of it and then wait.") == "unsafe_topic"


@pytest.mark.parametrize(
    "text",
    [
        "How to make a bath bomb?",
        "How do drugs kill cancer cells?",
        "How to prevent suicide among teenagers?",
        "What are the risk factors of suicide and overdose?",
        "How does methamphetamine harm the heart?",
        "When was the atomic bomb built?",
        "How does a bomb calorimeter measure heat?",
        "How is ricin poisoning treated?",
        "Which laws punish murder?",
        "How can sexual abuse of children be recognised by a physician?",
    ],
)
def test_subjects_that_are_not_unsafe(text: str) -> None:
    assert reason(text, "There are several things to say here.") == ""


def test_longest_common_run() -> None:
    assert longest_common_run("The cat, SAT on a mat", "Then the cat sat on the mat.") == 4
    assert longest_common_run("cat", "concatenate") == 0
    assert longest_common_run("", "x") == 0


def test_verbatim_excerpts() -> None:
    document = " ".join(f"w{i}" for i in range(200))
    copied = " ".join(f"w{i}" for i in range(45))
    assert reason("What?", copied, document=document) == "verbatim_excerpt"
    assert reason(copied + " then what?", "Nothing at all.", document=document) == "verbatim_excerpt"
    part = " ".join(f"w{i}" for i in range(18))
    assert reason("What?", part, document=document) == ""
    assert reason("What?", part + " a b c d e f g", document=document) == "verbatim_excerpt"
    own = " and other words of its own that make it longer than what it copies"
    assert reason("What?", part + own, document=document) == ""
    assert reason("What?", copied) == ""


def test_settings_move_the_thresholds() -> None:
    settings = ValiditySettings(short_answer_max=3, essay_min=10, excerpt_max=4)
    assert reason("Why?", "One two three four", question_type=SHORT, settings=settings) == "wrong_type"
    assert reason("Why?", "One two three four", question_type=ESSAY, settings=settings) == "wrong_type"
    assert reason("Why?", "a b c d e", document="a b c d e f", settings=settings) == "verbatim_excerpt"


def rows(name: str) -> list[dict[str, Any]]:
    folder = os.environ.get("HARNESS_TEST_DATA")
    if not folder:
        pytest.skip("HARNESS_TEST_DATA is not set")
    with gzip.open(f"{folder}/{name}", "rt", encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def test_false_alarms_on_real_medical_answers() -> None:
    sampled = rows("qa/medquad_qa.jsonl.gz")[::8]
    counts = Counter(reason(row["question"], row["answer"]) for row in sampled)
    assert counts[""] > 0.99 * len(sampled)


@pytest.mark.parametrize("form", ["letter", "text", "reasoned"])
def test_real_multiple_choice_items_pass_and_bad_answers_do_not(form: str) -> None:
    passed, items = 0, rows("eval/medqa_us_4opt_test.jsonl.gz")[::3]
    for row in items:
        label = row["answer_idx"]
        question = row["question"] + "".join(f"\n{key}. {text}" for key, text in row["options"].items())
        text = row["options"][label]
        answer = {"letter": label, "text": text, "reasoned": f"The signs fit {text} best. The answer is {label}."}[form]
        passed += reason(question, answer, question_type=MC) == ""
        assert reason(question, "It depends on many things.", question_type=MC) == "wrong_type"
    assert passed > 0.99 * len(items)
