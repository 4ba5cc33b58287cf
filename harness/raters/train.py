"""Training a rater from judgments: a sequence classifier on any base, written as a folder that the signals take.

Comparisons teach by the Bradley-Terry model with soft labels (QuRating, arXiv 2402.09739 §3): the loss is
BCE(σ(s_b - s_a), p), summed over the heads that were judged and averaged over comparisons. Grades teach by regression,
or as classes. The model is trained through the same code that rates, so tokens and padding cannot differ. A text is
trained on by its first window. It gives up adapters and several devices: a rater is a small model.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness.config import ModelConfig
from harness.errors import ConfigError, InputError, PrerequisiteError, StageError
from harness.models.open import model_path
from harness.raters.declaration import FILE, Output, RaterDeclaration
from harness.raters.judgments import Judgment, Judgments, confident, require_contrast, split
from harness.raters.measure import Agreement, agreements
from harness.raters.model import Rater
from harness.shards import write_failure
from harness.types import derive_seed, file_hash

MICRO = 16
"""Judgments whose gradients are computed at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RaterTraining:
    """How a rater is trained. The defaults are QuRating's; `output` None is Bradley-Terry, or regression for grades.

    `confidence` is the least |2p - 1| of a comparison that is used, `held_out` the share that is measured on, `freeze`
    trains the head (and what pools for it) alone, as FineWeb-Edu's classifier was.
    """

    output: Output | None = None
    epochs: int = 2
    rate: float = 5e-5
    batch: int = 512
    warmup: float = 0.1
    decay: float = 0.1
    confidence: float = 0.5
    held_out: float = 0.1
    max_length: int = 512
    freeze: bool = False
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedRater:
    """A rater that was trained: its folder, the judgments it saw, what became of the rest, and its agreement.

    `dropped` are single judgments that were not confident; `apart` says that no held-out text was trained on.
    """

    folder: Path
    declaration: RaterDeclaration
    trained: int
    held_out: int
    dropped: int
    apart: bool
    agreement: tuple[Agreement, ...]


def train_rater(
    judgments: Judgments,
    source: Path,
    base: str,
    folder: Path,
    settings: RaterTraining,
    on_step: Callable[[int, int], None] = lambda step, total: None,
) -> TrainedRater:
    """Train a rater on `judgments`, which were read from `source`, and leave it in `folder`, which must not be there.

    Raises `ConfigError` for settings that do not fit the judgments, `InputError` for judgments that teach nothing.
    """
    output = _output(judgments, settings)
    usable, dropped = confident(judgments, settings.confidence)
    require_contrast(usable)
    if len(usable.rows) < 2:
        raise InputError(f"{source} leaves one judgment, and one has to be held out; give more")
    train, held, apart = split(usable, settings.held_out, settings.seed)
    require_contrast(train)
    with _made(folder) as work:
        grades = tuple(sorted({g for head in range(len(usable.heads)) for g in usable.column(head)}))
        declared = _begin(usable.heads, output, grades, base, work, settings, folder.name)
        rater = Rater(declared, keep=False)
        fit(rater, train, settings, on_step)
        found = tuple(agreements(held, measured(rater, held), grades))
        notes = _notes(source, base, train, held, found)
        declared = declared.model_copy(update={"trained": notes, "parameters": int(rater.parameters)})
        rater.model.save_pretrained(work)
        _write(declared, work)
    return TrainedRater(
        folder=folder,
        declaration=declared,
        trained=len(train.rows),
        held_out=len(held.rows),
        dropped=dropped,
        apart=apart,
        agreement=found,
    )


@contextmanager
def _made(folder: Path) -> Iterator[Path]:
    """A folder to work in, which becomes `folder` when all went well and is removed when not."""
    if folder.exists():
        raise InputError(f"{folder} is there already; name another folder with --to")
    work = folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        yield work
        os.chmod(work, 0o755)
        work.rename(folder)
    except OSError as error:
        raise write_failure(folder, error) from None
    finally:
        if work != folder:
            shutil.rmtree(work, ignore_errors=True)


def _output(judgments: Judgments, settings: RaterTraining) -> Output:
    output = settings.output or ("bradley_terry" if judgments.kind == "pairs" else "regression")
    if (output == "bradley_terry") != (judgments.kind == "pairs"):
        given = "comparisons" if judgments.kind == "pairs" else "grades"
        raise ConfigError(f"output {output} cannot be trained on {given}; leave --output out")
    if output == "digits":
        raise ConfigError("output digits reads a causal model as it is; train bradley_terry, regression or classes")
    return output


def _begin(
    heads: tuple[str, ...],
    output: Output,
    grades: tuple[float, ...],
    base: str,
    work: Path,
    settings: RaterTraining,
    name: str,
) -> RaterDeclaration:
    """Put the base with a fresh head, its tokenizer and the declaration into `work`. Raises `PrerequisiteError`."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    known = {"regression": (grades[0], grades[-1]), "classes": grades}.get(output, ())
    declared = RaterDeclaration(
        name=name,
        summary=f"trained on judgments of {', '.join(heads)}",
        checkpoint=str(work),
        licence=f"that of {base}, and of the judgments",
        heads=heads,
        output=output,
        grades=known,
        max_length=settings.max_length,
    )
    torch.manual_seed(derive_seed("rater", settings.seed))
    try:
        path = model_path(ModelConfig(id=base), None)
        tokenizer = AutoTokenizer.from_pretrained(path)
        model = AutoModelForSequenceClassification.from_pretrained(
            path, num_labels=declared.logits, dtype=torch.float32, ignore_mismatched_sizes=True
        )
    except (OSError, ValueError, ImportError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise PrerequisiteError(f"the base {base} cannot be loaded ({reason}); name a folder, or a hub id") from None
    limit = min(getattr(model.config, "max_position_embeddings", None) or math.inf, tokenizer.model_max_length)
    if limit < declared.max_length:
        declared = declared.model_copy(update={"max_length": int(limit)})
    model.save_pretrained(work)
    tokenizer.save_pretrained(work)
    return declared


def fit(
    rater: Rater,
    judgments: Judgments,
    settings: RaterTraining,
    on_step: Callable[[int, int], None] = lambda step, total: None,
) -> None:
    """Train the rater's model in place: AdamW, a rate that rises over `warmup` of the steps and falls to 0.

    Raises `StageError` where the loss is not finite.
    """
    import torch

    rows = [row for row in judgments.rows if all(rater.windows(text) for text in row.texts)]
    if settings.freeze:
        for name, weight in rater.model.base_model.named_parameters():
            weight.requires_grad = "pooler" in name
    learned = [weight for weight in rater.model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=settings.rate, weight_decay=settings.decay)
    steps = settings.epochs * math.ceil(len(rows) / settings.batch)
    warm = settings.warmup * steps
    rates = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / (warm + 1), (steps - step) / max(1.0, steps - warm))
    )
    draw = torch.Generator().manual_seed(derive_seed("rater order", settings.seed))
    torch.manual_seed(derive_seed("rater", settings.seed))
    rater.model.train()
    step = 0
    for _ in range(settings.epochs):
        order = torch.randperm(len(rows), generator=draw).tolist()
        for start in range(0, len(order), settings.batch):
            batch = [rows[index] for index in order[start : start + settings.batch]]
            optimizer.zero_grad()
            for at in range(0, len(batch), MICRO):
                loss = judgment_loss(rater, batch[at : at + MICRO]) / len(batch)
                if not torch.isfinite(loss):
                    raise StageError("the loss of the rater is not finite; lower --rate")
                loss.backward()
            torch.nn.utils.clip_grad_norm_(learned, 1.0)
            optimizer.step()
            rates.step()
            step += 1
            on_step(step, steps)
    rater.model.eval()


def judgment_loss(rater: Rater, rows: Sequence[Judgment]) -> Any:
    """The sum over `rows` of each one's loss, which is the sum over the heads that it judges; a scalar tensor."""
    import torch
    from torch.nn import functional

    d = rater.declaration
    logits = rater.logits([rater.windows(text)[0] for row in rows for text in row.texts])
    values = torch.tensor([row.values for row in rows], dtype=logits.dtype, device=logits.device)
    judged = ~values.isnan()
    if d.output == "bradley_terry":
        apart = logits[1::2] - logits[0::2]
        return functional.binary_cross_entropy_with_logits(apart[judged], values[judged], reduction="sum")
    if d.output == "regression":
        return functional.mse_loss(logits[judged], values[judged], reduction="sum")
    classes = torch.tensor(d.grades, dtype=values.dtype, device=values.device)
    return functional.cross_entropy(
        logits[judged], (values[judged][:, None] - classes).abs().argmin(1), reduction="sum"
    )


def measured(rater: Rater, judgments: Judgments) -> list[Any]:
    """The rater's numbers [texts, heads] of every judgment's texts."""
    texts = [text for row in judgments.rows for text in row.texts]
    rows = rater.rate(texts)
    each = len(judgments.rows[0].texts) if judgments.rows else 1
    return [rows[at : at + each] for at in range(0, len(rows), each)]


def _notes(
    source: Path, base: str, train: Judgments, held: Judgments, found: Sequence[Agreement]
) -> dict[str, str | int | float | None]:
    """What the declaration says of the training."""
    notes: dict[str, str | int | float | None] = {
        "base": base,
        "judgments": file_hash(source),
        "trained": len(train.rows),
        "held_out": len(held.rows),
    }
    for own in found:
        notes |= {f"{own.head}_accuracy": own.accuracy, f"{own.head}_correlation": own.correlation}
    return notes


def _write(declared: RaterDeclaration, folder: Path) -> None:
    own = declared.model_dump(mode="json", exclude_defaults=True) | {"checkpoint": "."}
    own.pop("name")
    (folder / FILE).write_text(yaml.safe_dump(own, sort_keys=False, allow_unicode=True), encoding="utf-8")
