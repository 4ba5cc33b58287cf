"""Routes: how each asks, what it makes of what is written, and who drafts."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rouge_score.rouge_scorer import RougeScorer

from harness.config import SynthesisConfig
from harness.errors import ConfigError
from harness.models.backend import Completion, PromptRequest, Sampling
from harness.models.extractive.generator import ExtractiveGenerator
from harness.models.packaged import model_id
from harness.planning.plan import make_plan
from harness.resolve.assemble import assemble
from harness.resolve.layers import resolve_run
from harness.resolve.registry import targets
from harness.runtime.run import run_name
from harness.synthesis.copies import COPIES_SEED, COPIES_SIBLING, common_subsequence, drop_near_copies, rouge_l
from harness.synthesis.parsing import Failure
from harness.synthesis.reading import read_answer, read_question, read_tags
from harness.synthesis.route import Attempt, Draw, Route, reference_of
from harness.synthesis.synthesize import Counter, Synthesizer
from harness.types import Message, Sample, Seed
from methods.routes.catalogue import route_class
from support.made_runs import make_run

TAGS = """<question>
What treats gout?
</question>
<reasoning>
Urate falls.
</reasoning>
<answer>
Colchicine
</answer>"""
BY_JSON = '{"messages": [{"role": "user", "content": "What treats gout?"}, {"role": "assistant", "content": "It."}]}'
DOCUMENT = Seed("d", "Colchicine treats gout. It is taken with water.", domain="pharmacy")
TALK = (Message("user", "Which drug treats fever in adults?"), Message("assistant", "Paracetamol"))
LABELLED = Seed("q", None, TALK, domain="pharmacy")


class Scripted:
    """A backend that writes what it is told, in turn, and keeps what it was asked."""

    name, flops_per_token = "scripted", 2.0

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts, self.asked = list(texts), list[PromptRequest]()

    def generate(self, requests: Sequence[PromptRequest], sampling: Sampling, seed: int) -> list[Completion]:
        self.asked += requests
        return [Completion(self.texts.pop(0), "stop", 10, 5) for _ in requests]


def make(name: str, **settings: Any) -> Route[Any]:
    found = route_class(name)
    return found(found.Settings(**settings), SynthesisConfig(system_message=""))


def attempts(
    route: Route[Any], seeds: Sequence[Seed], drafts: Sequence[str], rest: Sequence[str] = ()
) -> list[Attempt]:
    drafter, answerer = Scripted(drafts), Scripted(rest) if route.answers else None
    maker, counter = Synthesizer(route, answerer), Counter()
    written = maker.write(drafter, [Draw(seed, 0) for seed in seeds], Sampling(), 0, counter)
    found = maker.realise(written, Sampling(), 0, counter)
    roles = [route.drafts, *([route.answers] if route.answers else [])]
    assert [u.role for u in counter.usage] == roles
    return found


def pair(attempt: Attempt) -> tuple[str, str]:
    assert attempt.sample is not None, attempt.reject
    return attempt.sample.question, attempt.sample.answer


def test_direct_takes_the_pair_from_the_tags_or_from_json() -> None:
    first, second = attempts(make("direct"), [DOCUMENT, DOCUMENT], [TAGS, BY_JSON])
    assert pair(first) == ("What treats gout?", "Urate falls.\n\nColchicine")
    assert pair(second) == ("What treats gout?", "It.")
    bare = attempts(make("direct", reasoning=False), [DOCUMENT], [TAGS])[0]
    assert pair(bare)[1] == "Colchicine"
    sample = first.sample
    assert sample is not None and (sample.generator, sample.rubric_id, sample.completion_tokens) == (
        "scripted",
        None,
        5,
    )


def test_question_is_answered_without_the_seed() -> None:
    route = make("question")
    drafter, answerer = Scripted(["<question>What lowers urate?</question>"]), Scripted(["Think.\nAnswer: Allopurinol"])
    maker, counter = Synthesizer(route, answerer), Counter()
    written = maker.write(drafter, [Draw(LABELLED, 3)], Sampling(), 0, counter)
    (made,) = maker.realise(written, Sampling(), 0, counter)
    assert pair(made) == ("What lowers urate?", "Think.\nAnswer: Allopurinol")
    assert "Which drug treats fever" in drafter.asked[0].messages[-1].content
    asked = answerer.asked[0]
    assert "What lowers urate?" in asked.messages[-1].content and "fever" not in str(asked)
    assert made.sample is not None and made.sample.rollout == 3


def test_a_labelled_seed_is_shown_as_an_example_and_a_document_as_a_text() -> None:
    for name in ("direct", "question"):
        route = make(name)
        example, document = route.ask(LABELLED), route.ask(DOCUMENT)
        assert example.cut == "answer" and document.cut == "document"
        assert TALK[0].content in example.prompt.render(example.variables)[-1].content
        assert "Colchicine" in document.prompt.render(document.variables)[-1].content
    system = Message("system", "Be brief.")
    assert reference_of(Seed("s", None, (system, *TALK))) == (TALK[0].content, TALK[1].content)
    assert reference_of(Seed("s", None, TALK[:1])) is None and reference_of(DOCUMENT) is None


@pytest.mark.parametrize(
    ("text", "finish", "reason"),
    [
        ("I cannot.", "stop", "pair_no_tags"),
        ("<question>What treats", "length", "pair_truncated"),
        (TAGS.replace("Colchicine", "..."), "stop", "pair_empty"),
        ("<think>never closed " + TAGS, "stop", "pair_no_tags"),
    ],
)
def test_what_is_no_pair_is_a_reject_with_its_reason(text: str, finish: str, reason: str) -> None:
    found = read_tags(text, finish, "", reasoning=True)
    assert isinstance(found, Failure) and found.reason == reason


def test_a_question_is_read_from_a_tag_a_line_or_one_paragraph() -> None:
    for text in (
        "<question>Why?</question> Because.",
        "Question: Why?\nAnswer: Because.",
        " Why?\n",
        "<think>x</think>Why?",
    ):
        assert read_question(text, "stop") == "Why?"
    cut, rambling = read_question("Question: Why", "length"), read_question("Let me think.\n\nWhy?", "stop")
    assert isinstance(cut, Failure) and cut.reason == "question_truncated"
    assert isinstance(rambling, Failure) and rambling.reason == "question_none"
    assert read_answer("**Answer:** Because.", "stop") == "Because."
    late = read_answer("Because", "length")
    assert isinstance(late, Failure) and late.reason == "answer_truncated"


def test_near_copies_of_the_seed_and_of_siblings_are_rejected() -> None:
    copied = "<question>Which drug treats fever in children?</question>"
    route = make("question")
    (made,) = attempts(route, [LABELLED], [copied], ["Paracetamol"])
    assert made.reject is not None and made.reject.reason == COPIES_SEED
    assert attempts(make("question", copy_limit=1.0), [LABELLED], [copied], ["Paracetamol"])[0].sample is not None
    asked = [
        "Where is the liver?",
        "Where is the left kidney?",
        "Where is the left kidney found?",
        "Why do cells divide?",
    ]
    samples = [
        Sample(f"s{i}", ("q",), None, "", (Message("user", q), Message("assistant", "x")), q, "g", "stop")
        for i, q in enumerate(asked)
    ]
    kept, rejects = drop_near_copies(samples, 0.7)
    assert [s.id for s in kept] == ["s0", "s1", "s3"] and [(r.item_id, r.reason) for r in rejects] == [
        ("s2", COPIES_SIBLING)
    ]
    assert drop_near_copies(samples, 1.0) == (samples, [])


def test_rouge_l_is_that_of_the_published_scorer() -> None:
    scorer, draw = RougeScorer(["rougeL"]), random.Random(0)
    for _ in range(200):
        one, other = (" ".join(draw.choices("abcdefg", k=draw.randrange(1, 70))) for _ in range(2))
        assert rouge_l(one, other) == pytest.approx(scorer.score(one, other)["rougeL"].fmeasure, abs=1e-12)
    assert rouge_l("Wo liegt die Leber?", "Wo liegt die Niere?") == 0.75 and rouge_l("", "x") == 0.0


def test_the_longest_common_subsequence_is_that_of_the_table() -> None:
    for first, second in itertools.product(itertools.product("ab", repeat=4), repeat=2):
        table = [[0] * 5 for _ in range(5)]
        for i, j in itertools.product(range(4), repeat=2):
            hit = table[i][j] + 1
            table[i + 1][j + 1] = hit if first[i] == second[j] else max(table[i][j + 1], table[i + 1][j])
        assert common_subsequence(first, second) == table[4][4]


def resolved(**options: Any) -> Any:
    return resolve_run(**{"driver": "static", "target": "nano", **options})


def test_a_route_is_chosen_by_flag_setting_or_method_and_brings_the_tracks_sizes() -> None:
    assert resolved().config.route.name == "rubric"
    direct = resolved(route="direct").config
    assert direct.models.generator.id == "lab:author" and direct.model_roles == ("target", "generator")
    assert resolved(sets={"route": "direct"}).config.route == direct.route
    asked = resolved(route="question", sets={"route.copy_limit": 0.5}).config
    assert asked.route.settings.copy_limit == 0.5 and asked.route.settings.answer_prompt == "lab:question_answer"
    with pytest.raises(ConfigError, match="there is no route 'directly'"):
        resolved(route="directly")


def test_a_learner_trains_the_model_that_drafts() -> None:
    for route, role in (("rubric", "writer"), ("direct", "generator"), ("question", "generator")):
        plan = make_plan(resolve_run(driver="grpo", signal="random", target="nano", route=route))
        load = next(load for load in plan.loads if load.name == "GRPO")
        assert load.parts[0].role == role
        assert {role for cost in plan.stages if (c := cost.cost) for role in c.models} <= {
            "target",
            *plan.config.route_roles,
        }


def test_a_server_held_to_json_is_refused_where_no_json_is_asked_for() -> None:
    sets = {"models.generator.backend": "openai", "models.generator.base_url": "http://127.0.0.1:1/v1"}
    with pytest.raises(ConfigError, match=r"models\.generator\.structured .* route 'direct' does not ask for"):
        make_plan(resolved(route="direct", sets={**sets, "models.generator.structured": True}))


def test_grpo_refuses_a_drafting_model_without_weights() -> None:
    with pytest.raises(ConfigError, match="extractive generator here, which has no weights"):
        make_plan(
            resolve_run(
                driver="grpo", signal="random", target="nano", route="direct", suite="pubmedqa", seeds="d.jsonl"
            )
        )


def test_the_extractive_generator_serves_the_direct_route_and_not_the_question_route() -> None:
    with pytest.raises(ConfigError, match=r"route 'question' .* the extractive generator"):
        make_plan(resolved(route="question", suite="pubmedqa", seeds="d.jsonl"))
    text = "Aspirin inhibits cyclooxygenase in platelets. The drug reduces fever within two hours in most adults."
    document = Seed("d", text, domain="medicine")
    maker = Synthesizer(make("direct"), None)
    drafts = maker.write(ExtractiveGenerator([text]), [Draw(document, i) for i in range(8)], Sampling(), 0, Counter())
    assert any(a.sample for a in maker.realise(drafts, Sampling(), 0, Counter()))


def test_a_runs_name_says_its_route_where_it_is_not_the_methods_own() -> None:
    named = {
        None: "static@nano-0-",
        "rubric": "static@nano-0-",
        "direct": "static.direct@nano-0-",
        "question": "static.question@nano-0-",
    }
    names = {route: run_name(resolved(route=route).config) for route in named}
    assert all(names[route].startswith(start) for route, start in named.items())
    assert names[None] == names["rubric"] and len(set(names.values())) == 3
    own = run_name(resolved(driver=None, method="acquisition-synthesis").config)
    assert own.startswith("acquisition-synthesis+confidence@nano-0-")


def test_a_policy_of_another_route_is_refused(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "runs", "old", {"lab_asked": [1]}, {"lab_asked": [0]})
    manifest = json.loads((folder / "run.json").read_text())
    manifest |= {"stages": {"grpo": "grpo-1"}, "kinds": {"grpo": "policy"}, "settings": {"route": {"name": "direct"}}}
    (folder / "run.json").write_text(json.dumps(manifest))
    sets = {"runtime.runs": str(folder.parent)}
    with pytest.raises(ConfigError, match=r"on route 'direct', and this run takes route 'rubric'; add --route direct"):
        assemble(resolved(writer_from="old", sets=sets).config)


def test_a_compact_answer_is_its_first_two_sentences() -> None:
    text = "Answer: It lowers urate. So gout is rare. It is old.\nQuestion: And then?"
    assert read_answer(text, "stop", compact=True) == "It lowers urate. So gout is rare."
    assert read_answer("It lowers urate. So gout", "length", compact=True) == "It lowers urate."
    cut = read_answer("It lowers", "length", compact=True)
    assert isinstance(cut, Failure) and cut.reason == "answer_truncated"


def test_a_route_that_is_badly_declared_says_what_is_wrong() -> None:
    class Bad(route_class("direct")):  # type: ignore[misc]
        answers = "answerer"
        drafts = "target"

    assert Bad.faults() == [
        "drafts must be 'writer' or 'generator', or None where the seed holds the pair",
        "a route with answers needs ask_rest and read_rest",
    ]
    assert route_class("question").faults() == []


@pytest.mark.parametrize("target", sorted(targets()))
@pytest.mark.parametrize("route", ["rubric", "direct", "question"])
def test_every_track_has_its_models_by_ids_that_hold_from_anywhere(target: str, route: str, tmp_path: Path) -> None:
    seeds = str(tmp_path / "d.jsonl") if target != "nano" else None
    config = resolved(target=target, route=route, seeds=seeds).config
    assert all(model_id(config.models.of(role).id) == config.models.of(role).id for role in config.model_roles)


def test_a_corpus_gives_its_own_pairs_and_no_model_drafts() -> None:
    more = (*TALK, Message("user", "And in children?"), Message("assistant", "Half."))
    route = make("corpus")
    counter = Counter()
    draws = [Draw(seed, 0) for seed in (LABELLED, Seed("t", None, more, source="talks.jsonl"), DOCUMENT)]
    found = Synthesizer(route, None).realise(
        Synthesizer(route, None).write(None, draws, None, 0, counter), None, 0, counter
    )
    # What a conversation goes on with rests on its first exchange.
    assert [pair(attempt) for attempt in found[:2]] == [(TALK[0].content, TALK[1].content)] * 2
    assert found[1].sample is not None and found[1].sample.generator == "talks.jsonl"
    assert found[2].reject is not None and found[2].reject.reason == "pair_no_reference"
    assert not counter.usage


def test_a_corpus_refuses_what_drafts_and_seeds_without_pairs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="on route 'corpus' none does"):
        resolved(driver="grpo", signal="length", route="corpus")
    with pytest.raises(ConfigError, match="a seed is one pair"):
        assemble(resolved(driver="best_of_n", signal="length", route="corpus").config)
    for line in ("teacher_tokens", "flops"):
        with pytest.raises(ConfigError, match=f"a budget of {line} is never used up"):
            assemble(resolved(method="dataset", match=line, budget=1000.0).config)
    table = tmp_path / "documents.jsonl"
    table.write_text(json.dumps({"text": "Colchicine treats gout. " * 10}) + "\n")
    plan = assemble(resolve_run(method="dataset", target="nano", seeds=str(table)).config)
    (lacks,) = [stage.lacks for stage in plan.stages if stage.name == "regenerate"]
    assert "can use none of the 1 seeds: it is a document" in lacks(1)
