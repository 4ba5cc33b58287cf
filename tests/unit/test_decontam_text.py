from __future__ import annotations

import random
import time
import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st

from decontam.text import TestText, TextIndex, check_validation_against_tests, gate, normalise
from evals.data import ValidationItem
from harness.types import Message, Sample

QUESTION = "Do mitochondria play a role in remodelling lace plant leaves during programmed cell death?"
ITEM = TestText("pubmedqa", "21645374", QUESTION)


def sample(name: str, *turns: str) -> Sample:
    messages = tuple(Message("assistant" if n % 2 else "user", text) for n, text in enumerate(turns))
    return Sample(name, ("s",), None, "p", messages, "", "g", "stop")


def test_containment_both_ways_with_evidence() -> None:
    index = TextIndex.from_items([ITEM])
    wrapped = f"Read this. DO mitochondria play\na role in re-x… {QUESTION.upper().replace(' ', '  ')} Thanks!"
    match = index.check(wrapped)
    assert match is not None and match.direction == "text_contains_item" and match.tokens == 14
    assert (
        unicodedata.normalize("NFKC", wrapped)[slice(*match.text_span)]
        == match.excerpt
        == QUESTION.upper().replace(" ", "  ")[:-1]
    )
    assert QUESTION[slice(*match.item_span)] == QUESTION[:-1]
    part = index.check("a role in remodelling lace plant leaves during programmed")
    assert part is not None and part.direction == "item_contains_text"
    assert QUESTION[slice(*part.item_span)] == "a role in remodelling lace plant leaves during programmed"


def test_what_does_not_match() -> None:
    index = TextIndex.from_items([ITEM])
    assert index.check(QUESTION.replace("lace plant", "maize")) is None, "one word differs"
    assert index.check("role in remodelling lace plant leaves") is None, "six tokens prove nothing"
    assert index.check("") is None and index.check("?!") is None
    assert index.check(QUESTION.rsplit(" ", 1)[0] + " life?") is None, "the last token differs"


def test_normalisation_folds_forms_case_and_punctuation() -> None:
    assert normalise("The ﬁrst—“Ångström” ＡＢＣ_x²!") == "the first ångström abc x2"
    index = TextIndex.from_items([TestText("b", "1", "该患者最可能的诊断是什么")])
    assert index.check("问题:该患者最可能的诊断是什么?") is not None, "scripts without spaces are cut into characters"


def test_short_items_are_listed_and_never_remove() -> None:
    short = TestText("b", "1", "What is the diagnosis?")
    index = TextIndex.from_items([short, ITEM])
    assert index.short == (short,)
    assert index.check("Tell me: what is the diagnosis? It is not easy to tell.") is None
    assert TextIndex.from_items([short], min_tokens=4).check("Tell me: what is the diagnosis?") is not None


def test_gate_checks_prompt_and_answer() -> None:
    samples = [
        sample("clean", "What do leaves do in the lace plant when they are young?", "They grow."),
        sample("in prompt", QUESTION, "Yes."),
        sample("in answer", "Ask me something.", f"Sure: {QUESTION}"),
        sample("later turn", "Hello", "Hi", QUESTION, "Yes."),
    ]
    kept, removed = gate(samples, TextIndex.from_items([ITEM]))
    assert [s.id for s in kept] == ["clean"]
    assert [(r.id, r.part, r.match.item_id) for r in removed] == [
        ("in prompt", "prompt", "21645374"),
        ("in answer", "answer", "21645374"),
        ("later turn", "prompt", "21645374"),
    ]


def test_validation_against_tests_names_every_pair() -> None:
    items = [
        ValidationItem("v1", (Message("user", f"Question: {QUESTION}"), Message("assistant", "yes"))),
        ValidationItem(
            "v2", (Message("user", "Is there anything new under the sun, they asked."), Message("assistant", QUESTION))
        ),
    ]
    index = TextIndex.from_items([ITEM, TestText("pubmedqa", "copy", QUESTION), TestText("medqa", "7", "short")])
    medqa, pubmedqa = check_validation_against_tests("cv", items, index)
    assert (medqa.validation, medqa.benchmark, medqa.checked, medqa.matches) == ("cv", "medqa", 2, ())
    assert (pubmedqa.benchmark, [m.id for m in pubmedqa.matches]) == ("pubmedqa", ["v1"])


words = st.lists(st.sampled_from("abcd"), min_size=0, max_size=14)


@settings(max_examples=300, deadline=None)
@given(st.lists(words, min_size=1, max_size=5), words)
def test_agrees_with_a_plain_search(items: list[list[str]], text: list[str]) -> None:
    index = TextIndex.from_items([TestText("b", str(n), " ".join(w)) for n, w in enumerate(items)], min_tokens=3)

    def inside(a: list[str], b: list[str]) -> bool:
        return len(a) >= 3 and any(b[i : i + len(a)] == a for i in range(len(b) - len(a) + 1))

    expected = {str(n) for n, w in enumerate(items) if inside(w, text) or inside(text, w)}
    found = [m.item_id for m in index.matches(" ".join(text))]
    # A text that equals an item matches it once, although it is contained both ways.
    assert set(found) == expected and len(found) == len(expected)


def test_every_injected_item_is_found_and_time_grows_with_the_text() -> None:
    rng = random.Random(0)
    vocabulary = [f"w{n}" for n in range(2000)]
    items = [TestText("b", str(n), " ".join(rng.choices(vocabulary, k=rng.randint(8, 40)))) for n in range(500)]
    documents = [rng.choices(vocabulary, k=200) for _ in range(2000)]
    injected = dict(zip(rng.sample(range(2000), 500), items, strict=True))
    texts = [" ".join([*d[:90], injected[n].text, *d[90:]] if n in injected else d) for n, d in enumerate(documents)]
    index = TextIndex.from_items(items)
    started = time.perf_counter()
    found = {n: m.item_id for n, t in enumerate(texts) if (m := index.check(t)) is not None}
    assert found == {n: item.item_id for n, item in injected.items()}
    assert time.perf_counter() - started < 20
