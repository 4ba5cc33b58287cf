"""A rater at work: texts in, one number per text and head out.

One class for every checkpoint: sequence classification over any encoder or decoder, and causal models that are read at
the tokens of digits. What differs is in the declaration. Texts are cut into windows of tokens, windows are sorted into
batches by length, and a text's number is the mean of its windows', weighted by their tokens (QuRating's annotation).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from harness.errors import StageError
from harness.raters.catalogue import weights_identity
from harness.raters.declaration import RaterDeclaration
from harness.raters.kept import KeptRatings
from harness.raters.loading import load_rater
from harness.training.checks import Check, judge
from harness.types import Usage, well_formed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix: TypeAlias = NDArray[np.float64]

PADDING_LIMIT = {"float32": 1e-3, "bfloat16": 1e-1}
"""How far padding may move a rating, in units of 1 + its size: rounding, which bfloat16 has 2^16 times as much of."""


class Rater:
    """A loaded rater; `batch_tokens` and `batch_size` bound what it reads at once. `keep` is where ratings are kept."""

    def __init__(
        self,
        declaration: RaterDeclaration,
        *,
        batch_tokens: int = 16384,
        batch_size: int = 64,
        keep: bool = True,
        cache: Path | None = None,
    ) -> None:
        self.declaration = declaration
        self.model, self.tokenizer, self.frame = load_rater(declaration)
        self._batch_tokens, self._batch_size = batch_tokens, batch_size
        self.commit: str | None = getattr(self.model.config, "_commit_hash", None)
        self.parameters = float(self.model.num_parameters())
        identity = declaration.identity(weights_identity(declaration, self.commit))
        self.kept = KeptRatings(identity, len(declaration.heads), cache) if keep else None
        self.identity = identity
        self._usage: list[Usage] = []

    def rate(self, texts: Sequence[str]) -> Matrix:
        """Ratings [texts, heads], float64; a row of NaN for a text without tokens, or one that is too long to read.

        Bradley-Terry heads give logits, regression grades as they come, classes and digits the expected grade.
        """
        import numpy as np

        started = time.perf_counter()
        plain = [well_formed(text) for text in texts]
        found = self.kept.get(plain) if self.kept else {}
        new = list(dict.fromkeys(text for text in plain if text not in found))
        rows, tokens = self._rate(new)
        computed = dict(zip(new, rows, strict=True))
        if self.kept:
            self.kept.put({text: row for text, row in computed.items() if np.isfinite(row).all()})
        if new:
            self._spend(tokens, len(new), time.perf_counter() - started)
        found |= computed
        heads = len(self.declaration.heads)
        return np.stack([found[text] for text in plain]) if plain else np.zeros((0, heads))

    def _rate(self, texts: Sequence[str]) -> tuple[Matrix, int]:
        """Ratings of texts that were not kept, and the tokens that they took."""
        import numpy as np

        windows = [self.windows(text) for text in texts]
        flat = [window for own in windows for window in own]
        values = self.read(flat)
        out = np.full((len(texts), len(self.declaration.heads)), np.nan)
        at = 0
        for number, own in enumerate(windows):
            if own:
                weights = [len(window) - self.frame.size for window in own]
                out[number] = np.average(values[at : at + len(own)], axis=0, weights=weights)
            at += len(own)
        if not np.isfinite(out[[bool(own) for own in windows]]).all():
            raise StageError(
                f"rater '{self.declaration.name}' gives numbers that are not finite; with dtype bfloat16, try float32"
            )
        return out, sum(map(len, flat))

    def windows(self, text: str) -> list[list[int]]:
        """The tokens of a text's windows, as the declaration cuts it; none where there is nothing to read."""
        d = self.declaration
        room = d.max_length - self.frame.size
        ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if d.long_texts == "refuse" and len(ids) > room:
            return []
        last = len(ids) if d.long_texts == "windows" else min(len(ids), room)
        return [self.frame.around(ids[start : min(start + room, last)]) for start in range(0, last, room)]

    def read(self, windows: Sequence[Sequence[int]]) -> Matrix:
        """Ratings [windows, heads] of windows of tokens."""
        import numpy as np
        import torch

        from harness.training.batches import batches

        out = np.zeros((len(windows), len(self.declaration.heads)))
        lengths = [len(window) for window in windows]
        with torch.inference_mode():
            for batch in batches(lengths, self._batch_size, self._batch_tokens):
                logits = self.logits([windows[index] for index in batch])
                out[batch] = self.frame.values(logits).double().cpu().numpy()
        return out

    def logits(self, windows: Sequence[Sequence[int]]) -> Any:
        """The model's outputs of one padded batch, float32: [windows, heads], or [windows, heads, grades]."""
        import torch

        pad, left = self.frame.pad_id, self.declaration.padding_side == "left"
        width, device = max(map(len, windows)), self.model.device
        ids = torch.full((len(windows), width), pad)
        mask = torch.zeros((len(windows), width), dtype=torch.long)
        for row, window in enumerate(windows):
            place = slice(width - len(window), width) if left else slice(0, len(window))
            ids[row, place] = torch.tensor(window)
            mask[row, place] = 1
        extra = {"position_ids": (mask.cumsum(1) - 1).clamp(min=0).to(device)} if self.frame.positions else {}
        found = self.model(input_ids=ids.to(device), attention_mask=mask.to(device), **extra).logits.float()
        if self.declaration.output == "digits":
            last = torch.full((len(windows),), width - 1) if left else mask.sum(1) - 1
            found = found[torch.arange(len(windows)), last.to(found.device)][:, self.frame.digits]
        return found.view(len(windows), len(self.declaration.heads), -1).squeeze(-1)

    def check_padding(self) -> Check:
        """The check that a short text is rated in a batch with a longer one as it is alone."""
        import numpy as np

        short, long = self.windows("One short sentence.")[:1], self.windows("A longer text. " * 12)[:1]
        alone, both = self.read(short), self.read(short + long)[:1]
        apart = float(np.max(np.abs(alone - both) / (1 + np.abs(alone)), initial=0.0))
        return judge(
            "padding",
            apart,
            PADDING_LIMIT[self.declaration.dtype],
            f"rater '{self.declaration.name}' rates a text in a batch as alone",
            "It reads a position that padding moves; set padding_side and pad_id in its declaration as it was trained",
        )

    def _spend(self, tokens: int, calls: int, seconds: float) -> None:
        self._usage.append(
            Usage(
                role="rater",
                model=self.declaration.checkpoint,
                prompt_tokens=tokens,
                completion_tokens=0,
                calls=calls,
                seconds=seconds,
                flops=2.0 * self.parameters * tokens,
            )
        )

    def usage(self) -> list[Usage]:
        """The cost of rating since the last call; a text that was rated before costs nothing."""
        spent, self._usage = self._usage, []
        return spent
