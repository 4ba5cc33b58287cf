"""An ensemble of targets that predict the same answers: one model in memory, into which a member's adapter is put.

Members are warm-ups from different seeds, or one warm-up under different draws of its dropout. The base models of today
have no dropout of their own, so that without an adapter's all draws are one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import torch

from harness.errors import StageError
from harness.models.transformers_backend import load_causal_lm
from harness.training.batches import batches
from harness.training.chat import Encoded
from harness.types import derive_seed
from methods.signals.base import TargetState
from methods.signals.target.head import answer_logits
from methods.signals.target.warm import put, read_adapter

Kind: TypeAlias = Literal["warmups", "dropout"]
"""What members differ in: the seed of their warm-up, or the draw of one warm-up's dropout."""

_PROBABILITIES = 2**26
"""Most probabilities of a batch that are held at once, in float64: 0.5 GB."""


class Members:
    """The members of an ensemble on the model `model`, with its `tokenizer`; `tokens` bounds a batch.

    Raises `StageError` for dropout that the model does not have.
    """

    def __init__(self, target: TargetState, kind: Kind, count: int, dtype: str, seed: int) -> None:
        from peft import PeftModel

        self.kind, self.count, self._seed = kind, count, seed
        base, self.tokenizer = load_causal_lm(target.model, dtype, target.hub_revision)
        own = target.members[:count] if kind == "warmups" else target.checkpoints[-1:]
        self.model = PeftModel.from_pretrained(base, own[0].adapter).eval()
        self._trained = {name: p for name, p in self.model.named_parameters() if ".lora_" in name}
        self._adapters = [read_adapter(self.model, member, self._trained) for member in own]
        self._dropout = [m for m in self.model.modules() if isinstance(m, torch.nn.Dropout) and m.p > 0]
        if kind == "dropout" and not self._dropout:
            raise StageError(
                "the target has no dropout, so that its passes are all alike and members never disagree; warm it up "
                "with warmup.lora_dropout above 0, or take signal.ensemble=warmups"
            )

    def read(self, items: Sequence[Encoded], tokens: int) -> Iterator[tuple[int, int, torch.Tensor]]:
        """Member, item and logits [T, V] at its answer: of a batch of items first all by the first member, then on.

        An item is complete once its last member has been yielded.
        """
        width = self.model.get_input_embeddings().weight.shape[0]
        # A draw of dropout must be an item's own, whatever is scored beside it.
        most = 1 if self.kind == "dropout" else len(items)
        limit = max(1, min(tokens, _PROBABILITIES // width))
        for rows in batches([len(item.ids) for item in items], most, limit):
            chosen = [items[i] for i in rows]
            for member in range(self.count):
                with self._as(member, chosen[0]):
                    for found in answer_logits(self.model, self.tokenizer.pad_token_id, tokens, chosen):
                        yield member, rows[found.index], found.logits

    @contextmanager
    def _as(self, member: int, item: Encoded) -> Iterator[None]:
        """Make `member` the one that the model computes with; its dropout is that of `item`."""
        if self.kind == "warmups":
            put(self._adapters[member], self._trained)
            yield
            return
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(self._seed, "dropout", member, list(item.ids)))
            _train(self._dropout, True)
            try:
                yield
            finally:
                _train(self._dropout, False)


def _train(modules: Sequence[Any], on: bool) -> None:
    for module in modules:
        module.train(on)


def sliced(logits: torch.Tensor, use: Callable[[slice, torch.Tensor], None], elements: int = 2**22) -> None:
    """Call `use` with slices of the places and their probabilities [n, V], float64, `elements` at a time."""
    step = max(1, elements // logits.shape[-1])
    for start in range(0, len(logits), step):
        part = slice(start, start + step)
        use(part, torch.softmax(logits[part].double(), dim=-1))
