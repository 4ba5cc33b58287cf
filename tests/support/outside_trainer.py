"""Checkpoints as other trainers leave them: a tiny model under PEFT, trained and saved by transformers' own trainer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from harness.models.transformers_backend import load_causal_lm
from support.tiny import make_tiny_model

LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"], "task_type": "CAUSAL_LM"}


@dataclass(frozen=True)
class Run:
    """A checkpoint that a real trainer saved, and the model and optimizer that it saved it from."""

    checkpoint: Path
    model: Any
    optimizer: torch.optim.Optimizer

    def moments(self) -> dict[str, dict[str, torch.Tensor]]:
        """The optimizer's own state, by parameter name through the parameter itself."""
        return {n: dict(self.optimizer.state[p]) for n, p in self.model.named_parameters() if p.requires_grad}


ROWS = [{"input_ids": list(range(i, i + 9)), "labels": list(range(i, i + 9))} for i in range(3, 15)]


def hugging_face(folder: Path, model: Any, *, steps: int = 3, **changes: Any) -> Run:
    """Train on `ROWS` by transformers' trainer, which saves every third step."""
    arguments = TrainingArguments(
        str(folder / "trainer"), max_steps=steps, per_device_train_batch_size=4, save_steps=3, learning_rate=1e-3,
        weight_decay=0.1, adam_beta2=0.99, report_to="none", use_cpu=True, disable_tqdm=True, **changes,
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=ROWS)
    trainer.train()
    inner = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    return Run(folder / "trainer" / f"checkpoint-{steps}", model, inner)


def tiny_lora(folder: Path, **changes: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    path = folder / "model"
    base, _ = load_causal_lm(path if path.is_dir() else make_tiny_model(path))
    return get_peft_model(base, LoraConfig(**{**LORA, **changes}))
