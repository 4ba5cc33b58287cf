"""The choices of an item and the right one among them, in the forms that published tests have.

Choices are a list of texts, a mapping from letters to texts (MedQA), parallel lists of labels and texts (ARC), a list
of labelled texts, or any of these as a JSON string. A wrong item would still be scored, so whatever is not plainly one
of these is refused with the row's place, and so is an answer that is not plainly one of the choices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.errors import InputError
from harness.synthesis.seeds import is_given
from harness.synthesis.turns import parsed

_TEXT_KEYS = ("text", "content", "value")
_LABEL_KEYS = ("label", "key", "letter")


@dataclass(frozen=True, slots=True)
class Choices:
    """Texts of the choices, and their labels where they have any (else none)."""

    texts: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


def read_choices(value: Any, where: str) -> Choices:
    """The choices of one row. Raises `InputError` for anything else."""
    found = _labelled(parsed(value) if isinstance(value, str) else value, where)
    if not 2 <= len(found) <= 26:
        raise InputError(f"{where}: 'choices' must be a list of 2 to 26 texts; correct the line.")
    texts = tuple(_text(text, where) for _, text in found)
    labels = tuple(str(label).strip() for label, _ in found if label is not None)
    if labels and len({label.upper() for label in labels}) != len(texts):
        raise InputError(f"{where}: two choices have the same label; correct the line.")
    return Choices(texts, labels)


def _labelled(value: Any, where: str) -> list[tuple[Any, Any]]:
    """Pairs of label (None: there is none) and text, in order."""
    if isinstance(value, Mapping):
        texts, labels = (next((value[k] for k in keys if k in value), None) for keys in (_TEXT_KEYS, _LABEL_KEYS))
        if isinstance(texts, (list, tuple)) and isinstance(labels, (list, tuple)) and len(texts) == len(labels):
            return list(zip(labels, texts, strict=True))
        pairs = sorted(value.items(), key=lambda pair: (len(str(pair[0])), str(pair[0])))
        # Tables give every row the letters of the longest one; what is null at the end is no choice.
        while pairs and not is_given(pairs[-1][1]):
            pairs.pop()
        return list(pairs)
    if not isinstance(value, (list, tuple)):
        return []
    if any(isinstance(one, Mapping) for one in value):
        return [_pair(one, where) for one in value]
    return [(None, one) for one in value]


def _pair(one: Any, where: str) -> tuple[Any, Any]:
    if isinstance(one, Mapping):
        texts = [one[key] for key in _TEXT_KEYS if key in one]
        labels = [one[key] for key in _LABEL_KEYS if key in one]
        if len(texts) == 1 and len(labels) == 1:
            return labels[0], texts[0]
    raise InputError(f"{where}: a choice is neither a text nor a label with a text; correct the line.")


def _text(value: Any, where: str) -> str:
    if not is_given(value) or (isinstance(value, str) and not value.strip()):
        raise InputError(f"{where}: one of the choices is empty; correct the line.")
    if not isinstance(value, (str, int, float)):
        raise InputError(f"{where}: one of the choices is a {type(value).__name__}, where text is expected.")
    return str(value)


def as_index(value: Any) -> int | None:
    """A whole number, as tables hold it (`2`, `2.0`, `"2"`), or None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    text = str(value).strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def right_choice(value: Any, text: str, form: str, choices: Choices, where: str) -> tuple[int | None, str]:
    """Index of the right choice and its text; without choices, the answer as it stands.

    `text` is `value` as text, `form` as `Source` has it. Raises `InputError` for an answer that is none of the choices.
    """
    if not choices.texts:
        if not text:
            raise InputError(f"{where} has an empty answer; remove the line or fill it in.")
        return None, text
    gold = _gold(value, text, form, choices)
    if gold is not None and 0 <= gold < len(choices.texts):
        return gold, choices.texts[gold]
    counted = form == "index" and as_index(value) == len(choices.texts)
    hint = "; if answers count from 1, declare answer_form: index_from_1" if counted else ""
    raise InputError(
        f"{where}: the answer {text!r} is not the {form} of one of its {len(choices.texts)} choices; correct the line, "
        f"or 'answer_form' in the suite{hint}."
    )


def _gold(value: Any, text: str, form: str, choices: Choices) -> int | None:
    number = as_index(value)
    if form == "index_from_1":
        return None if number is None else number - 1
    if form in ("index", "index_from_0"):
        return number
    if form == "letter" and choices.labels:
        named = [label.upper() for label in choices.labels]
        return named.index(text.upper()) if text.upper() in named else None
    if form == "letter":
        return ord(text.upper()) - ord("A") if len(text) == 1 and text.upper().isascii() else None
    return choices.texts.index(text) if choices.texts.count(text) == 1 else None
