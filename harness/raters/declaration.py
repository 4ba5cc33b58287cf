"""The declaration of a rater: the one YAML file that says how a checkpoint is loaded, asked and read.

A published rater is right only with the tokens, padding and precision that it was trained with, and its checkpoint says
little of them, so they are written down once, with the licence and the source. A trained rater's folder holds the same
file (`rater.yaml`) beside its weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from harness.config_models import Section
from harness.types import Json, stable_hash

Output = Literal["bradley_terry", "regression", "classes", "digits"]

FILE = "rater.yaml"
"""The declaration's name within a rater's folder."""

BYTES = {"float32": 4, "bfloat16": 2}


class RaterDeclaration(Section):
    """One rater: what it is called and loaded by, and all that decides what it says of a text."""

    name: str = Field(min_length=1)
    """The name that it is registered under, or its folder's."""
    summary: str = ""
    """What it judges, in one line."""
    checkpoint: str = Field(min_length=1)
    """A hub id, or a folder; `.` is the folder of the declaration."""
    revision: str | None = None
    """Commit, branch or tag of a hub checkpoint; by default the newest, whose commit is recorded."""
    licence: str = ""
    """The licence of the weights."""
    source: str = ""
    """The paper or page that it is from."""
    heads: tuple[str, ...] = Field(min_length=1)
    """Its criteria, in the order of its outputs."""
    output: Output
    """`bradley_terry`: a logit per head, of which only differences mean anything; `regression`: a grade per head;
    `classes`: a logit per head and grade; `digits`: a causal model's next token, one of the grades' digits."""
    grades: tuple[float, ...] = ()
    """The grades of `classes` and `digits` in the order of their logits; of `regression` the lowest and the highest."""
    digit_ids: tuple[int, ...] = ()
    """The tokens of the grades of `digits`; by default the last token of each digit by itself."""
    pad_id: int | None = Field(None, ge=0)
    """The token that fills a batch; by default the tokenizer's own."""
    padding_side: Literal["right", "left"] = "right"
    """Where a batch is filled. A model that reads its first position has to be filled on the right."""
    max_length: int = Field(512, ge=8)
    """Most tokens in a window, special tokens included."""
    special_tokens: bool = True
    """Whether a window has the tokenizer's own begin and end tokens."""
    long_texts: Literal["windows", "cut", "refuse"] = "windows"
    """A text beyond `max_length`: the mean over its windows, weighted by their tokens; its first window; or nothing."""
    pooling: str | None = None
    """What `classifier_pooling` must be in the checkpoint's configuration, where it has one."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """The type that it computes in."""
    text: str = "{question}\n{answer}"
    """The text of a pair."""
    document: str = "{text}"
    """The text of anything that is no pair."""
    golden: Mapping[str, tuple[int, ...]] = {}
    """Texts and their tokens, without begin and end tokens, which are compared whenever the rater is loaded."""
    parameters: int = Field(0, ge=0)
    """The size of the model, for estimates of cost and memory."""
    trained: Mapping[str, str | int | float | None] = {}
    """Of a rater that was trained here: on what, and what it was measured to do on held-out judgments."""

    @model_validator(mode="after")
    def _fits(self) -> RaterDeclaration:
        if len(set(self.heads)) < len(self.heads):
            raise ValueError("heads: a head is named twice")
        if self.output in ("classes", "digits") and len(self.grades) < 2:
            raise ValueError(f"grades: output {self.output} needs the grades of its logits")
        if self.output == "regression" and len(self.grades) != 2:
            raise ValueError("grades: output regression needs the lowest and the highest grade")
        if self.grades and max(self.grades) <= min(self.grades):
            raise ValueError("grades: the highest is no higher than the lowest")
        if self.output == "digits" and (len(self.heads) > 1 or self.long_texts == "windows"):
            raise ValueError("output digits has one head, and long_texts cut or refuse")
        if self.digit_ids and len(self.digit_ids) != len(self.grades):
            raise ValueError("digit_ids: one for each of the grades is needed")
        if "{question}" not in self.text or "{answer}" not in self.text or "{text}" not in self.document:
            raise ValueError("text must name {question} and {answer}, document {text}")
        return self

    @property
    def logits(self) -> int:
        """The number of outputs that a classification checkpoint must have."""
        return len(self.heads) * (len(self.grades) if self.output == "classes" else 1)

    @property
    def weight_bytes(self) -> int:
        """The size of the weights in memory."""
        return self.parameters * BYTES[self.dtype]

    def of_pair(self, question: str, answer: str) -> str:
        """The text of a pair, as the rater reads it."""
        return _filled(self.text, {"{question}": question, "{answer}": answer})

    def of_document(self, text: str) -> str:
        """The text of anything else, as the rater reads it."""
        return _filled(self.document, {"{text}": text})

    def identity(self, weights: str) -> str:
        """Hash (16 hex characters) of all that decides what it says of a given text; `weights` identifies those."""
        told = ("output", "grades", "digit_ids", "pad_id", "padding_side", "max_length", "special_tokens", "long_texts")
        own: dict[str, Json] = {name: self.model_dump(mode="json")[name] for name in (*told, "dtype", "heads")}
        return stable_hash(weights, own)


def _filled(template: str, values: Mapping[str, str]) -> str:
    """`template` with every placeholder replaced once; what a text itself holds is never taken for a placeholder."""
    if not values:
        return template
    name, *others = values
    rest = {other: values[other] for other in others}
    return values[name].join(_filled(part, rest) for part in template.split(name))
