"""What of a training row is read: every text that would be trained on, in every shape that trainers take."""

from __future__ import annotations

import json
from typing import Any

import pytest

from decontam.fields import Fields, Uses, read_row
from harness.errors import InputError

USER, ASSISTANT = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}
WHY, BECAUSE = ("prompt", "Why?"), ("answer", "Because.")
LEAK = "After how many days is the cedar chest of the sailor empty of lanterns?"
"""A text of more words than a describing field may have unread."""


def _read(row: dict[str, Any], fields: Fields | None = None) -> list[tuple[str, str]]:
    found = read_row(row, fields or Fields(), "train.jsonl, line 1")
    return [(piece.part, piece.text) for piece in found.documents()]


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({"messages": [{"role": "system", "content": "Be brief."}, USER]}, [("prompt", "Be brief."), WHY]),
        ({"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]}, [WHY, BECAUSE]),
        ({"messages": json.dumps([USER, ASSISTANT])}, [WHY, BECAUSE]),
        ({"messages": str([USER, ASSISTANT])}, [WHY, BECAUSE]),
        ({"messages": {"role": ["user", "assistant"], "content": ["Why?", "Because."]}}, [WHY, BECAUSE]),
        ({"messages": ["Why?", "Because."]}, [WHY, BECAUSE]),
        ({"messages": [{"role": "user", "text": "Why?"}]}, [WHY]),
        ({"messages": [], "prompt": "Why?", "response": "Because."}, [WHY, BECAUSE]),
        ({"prompt": "Why?", "completion": "Because."}, [WHY, BECAUSE]),
        ({"prompt": [USER], "completion": [ASSISTANT]}, [WHY, BECAUSE]),
        ({"prompt": [USER], "chosen": [ASSISTANT], "rejected": "No."}, [WHY, BECAUSE, ("answer", "No.")]),
        ({"chosen": [USER, ASSISTANT], "rejected": None}, [WHY, BECAUSE]),
        ({"input": [USER], "output": "Because.", "system_prompt": ""}, [WHY, BECAUSE]),
        ({"instruction": "Add.", "input": "2 and 2", "output": "4"}, [("prompt", "Add.\n2 and 2"), ("answer", "4")]),
        ({"instruction": "And?", "history": [["Why?", "Because."]]}, [WHY, BECAUSE, ("prompt", "And?")]),
        ({"instruction": "Add.", "instances": [{"input": "2", "output": "4"}]}, None),
        ({"problem": "Why?", "solution": "Because.", "answer": 42}, [WHY, BECAUSE, ("answer", "42")]),
        ({"question": "Why?", "options": {"A": "So", "B": "Thus"}, "cop": 1}, [("prompt", "Why?\nSo\nThus")]),
        ({"question": "Why?", "opa": "So", "opb": "Thus", "exp": "Because."}, [("prompt", "Why?\nSo\nThus"), BECAUSE]),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Why?"}, {"type": "image"}]}]}, [WHY]),
        ({"inputs": "Why?", "targets": "Because."}, [WHY, BECAUSE]),
        ({"text": "Why?", "id": 3}, [WHY]),
        ({"text": b"Why?"}, [WHY]),
        ({"data": ["Why?", "Because."]}, [WHY, BECAUSE]),
        ({"data": {"text": "Why?"}}, [WHY]),
        ({"question": "", "answer": "Because."}, [BECAUSE]),
        ({"answer": float("nan"), "label": 1}, []),
        ({"text": None}, []),
    ],
)
def test_every_text_of_a_row_is_read(row: dict[str, Any], found: list[tuple[str, str]] | None) -> None:
    if found is None:
        found = [("prompt", "Add."), ("prompt", "2"), ("answer", "4")]
    assert _read(row) == found


_SHAPES: list[Any] = [
    {"prompt": "Answer.", "question": LEAK},
    {"instruction": "Answer.", "context": LEAK, "response": "Four."},
    {"question": "Restate it.", "generated_solution": LEAK},
    {"text": "n/a", "prompt": LEAK},
    {"text": LEAK, "query": "src:7"},
    {"a field that nobody thought of": {"deep": [{"inside": LEAK}]}},
    {"source": LEAK, "text": "x"},
    {"contexts": ["one", LEAK], "question": "Why?"},
    {"metadata": json.dumps({"original": LEAK}), "text": "x"},
    {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [{"function": {"arguments": LEAK}}]}]},
    {"messages": [USER, {"role": "assistant", "content": "x", "reasoning_content": LEAK}]},
    {"messages": [USER, {"role": "assistant", "content": [{"type": "thinking", "thinking": LEAK}]}]},
    {"messages": [{"role": "system", "content": LEAK}, USER, ASSISTANT]},
    {"dialogue": [["Why?", LEAK]]},
    {"reward_model": {"ground_truth": [LEAK]}, "prompt": [USER]},
    {"answer": json.dumps({"final": LEAK})},
    {"pairs": {LEAK: "Four."}},
    {LEAK: "Four."},
]


@pytest.mark.parametrize("row", _SHAPES)
def test_a_text_is_found_wherever_it_stands(row: dict[str, Any]) -> None:
    assert any(LEAK in text for _, text in _read(row))


@pytest.mark.parametrize(
    "value", ["[[1, 2], [3, 4]]", "{'a': 1}", "[x for x in y]", "{['d']: 'x'}", "['\\d', 1", '{"broken": ', "[1, 2"]
)
def test_notation_without_text_stays_one_text(value: str) -> None:
    assert _read({"answer": value}) == [("answer", value)]


@pytest.mark.parametrize(
    ("asks", "answers"),
    [
        ("user", "assistant"), ("human", "gpt"), ("User", "Assistant"), ("human", "chatgpt"), ("user", "bing"),
        ("prompter", "assistant"), ("user", "gpt-4-turbo"), ("user", "Claude"), ("question", "answer"),
        ("USER", "model"), ("Customer", "bot"), ("Alice", "assistant"), ("user", "Dr. Who"), ("Alice", "Bob"),
    ],
)  # fmt: skip
def test_roles_are_known_in_any_spelling(asks: str, answers: str) -> None:
    turns = [{"from": asks, "value": "Why?"}, {"from": answers, "value": "Because."}]
    again = [{"from": asks, "value": "Why so?"}, {"from": answers, "value": "Just so."}]
    more = [("prompt", "Why so?"), ("answer", "Just so.")]
    assert _read({"conversations": [*turns, *again]}) == [WHY, BECAUSE, *more]
    system = {"from": "System", "value": "Be brief."}
    assert _read({"conversations": [system, *turns]}) == [("prompt", "Be brief."), WHY, BECAUSE]


def test_long_fields_of_a_prompt_stand_by_themselves_too() -> None:
    passage = "The children kept their kites in the loft above the old barn."
    row = {"context": passage, "question": "Where were the kites kept by them, and why was that?"}
    together = ("prompt", "\n".join(row.values()))
    assert _read(row) == [together, *(("prompt", text) for text in row.values())]


def test_named_fields_and_no_others() -> None:
    assert _read({"dialog": [USER, ASSISTANT], "prompt": "x"}, Fields(prompt=("dialog",))) == [WHY, BECAUSE]
    row = {"q": "Why?", "hint": "Think.", "meta": {"a": "Because."}, "other": LEAK}
    named = Fields(prompt=("q", "hint"), answer=("meta.a",))
    assert _read(row, named) == [("prompt", "Why?\nThink."), BECAUSE]
    assert _read({"q": "Why?"}, named) == [WHY], "a row may lack some of them"
    with pytest.raises(InputError, match=r"line 1 has no field q, hint, meta\.a \(fields present: x\)"):
        _read({"x": "Why?"}, named)


def test_the_account_names_what_was_read_and_what_was_not() -> None:
    uses = Uses()
    for row in ({"id": "a1", "question": "Why?", "remark": "odd"}, {"id": "a2", "source": "web", "question": "How?"}):
        found = read_row(row, Fields(), "here")
        uses.count(found, found.documents())
    table = [(use.field, use.part, use.rows, use.known) for use in uses.table()]
    assert table == [
        ("question", "prompt", 2, True),
        ("remark", "prompt", 1, False),
        ("id", "", 2, True),
        ("source", "", 1, True),
    ]
    named = Fields(prompt=("question",), answer=("reply",))
    uses = Uses()
    found = read_row({"id": "a1", "question": "Why?", "extra": {"note": LEAK}, "n": 3}, named, "here")
    uses.count(found, found.documents())
    assert {use.field for use in uses.table() if not use.part} == {"id", "extra.note"}
    assert uses.missing(named) == ["reply"]
