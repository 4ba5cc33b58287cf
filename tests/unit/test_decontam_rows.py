"""What of a training row is read: every shape that trainers take, and nothing that looks read and is not."""

from __future__ import annotations

from typing import Any

import pytest

from decontam.corpus import Fields, pieces
from harness.errors import InputError

USER, ASSISTANT = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}
WHY, BECAUSE = ("prompt", "Why?"), ("answer", "Because.")


def _read(row: dict[str, Any], fields: Fields | None = None) -> list[tuple[str, str]]:
    return [(piece.part, piece.text) for piece in pieces(row, fields or Fields(), "train.jsonl, line 1")]


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({"messages": [{"role": "system", "content": "Be brief."}, USER, ASSISTANT]}, [WHY, BECAUSE]),
        ({"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]}, [WHY, BECAUSE]),
        ({"prompt": "Why?", "completion": "Because."}, [WHY, BECAUSE]),
        ({"prompt": [USER], "completion": [ASSISTANT]}, [WHY, BECAUSE]),
        ({"prompt": [USER, ASSISTANT, USER], "completion": "Because."}, [WHY, BECAUSE, WHY, BECAUSE]),
        ({"prompt": [USER], "chosen": [ASSISTANT], "rejected": "No."}, [WHY, BECAUSE, ("answer", "No.")]),
        ({"chosen": [USER, ASSISTANT], "rejected": None}, [WHY, BECAUSE]),
        ({"instruction": "Add.", "input": "2 and 2", "output": "4"}, [("prompt", "Add.\n2 and 2"), ("answer", "4")]),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Why?"}, {"type": "image"}]}]}, [WHY]),
        ({"text": "Why?", "id": 3}, [WHY]),
        ({"question": "", "answer": "Because."}, [BECAUSE]),
    ],
)
def test_every_turn_of_a_row_is_read(row: dict[str, Any], found: list[tuple[str, str]]) -> None:
    assert _read(row) == found


def test_a_named_field_may_hold_turns() -> None:
    assert _read({"dialog": [USER, ASSISTANT], "prompt": "x"}, Fields(prompt="dialog")) == [WHY, BECAUSE]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"label": 1}, "has no text: neither messages"),
        ({"prompt": [{"speaker": "user", "said": "Why?"}]}, "'prompt' is a list, where text is expected"),
        ({"prompt": [USER, {"role": "assistant"}]}, "turn 2, has no role with content"),
    ],
)
def test_what_cannot_be_read_is_said(row: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        _read(row)
