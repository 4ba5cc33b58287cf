"""Peak tensor memory of training and scoring, measured with torch's profiler, beside what `harness.memory` derives.

Every case goes through the project's own functions (`finetune`, `train_policy`, the influence signal) on a random
Qwen3 that is written to a temporary folder. The measured peak is the largest sum of live allocations that the CPU
allocator reports; weights that a file is mapped into are added. It runs on a CPU: what a CUDA allocator adds by
fragmentation is not in it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import memory
from harness.bench.memory import peak_tensor_bytes
from harness.estimate import ModelShape
from harness.memory import Batch, Lora, Peak
from harness.training.trainer import loaded_dtype
from harness.types import Message, Sample
from support.tiny import make_tokenizer

QKVO = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass(frozen=True)
class Case:
    """One measurement: what is done, with which model, and the batch."""

    name: str
    what: str
    shape: ModelShape
    dtype: str
    batch: Batch
    steps: int = 1
    lora: Lora | None = None
    checkpointing: bool = False


def _shape(hidden: int, layers: int, vocab: int, *, heads: int = 4, kv: int = 2) -> ModelShape:
    return ModelShape(
        hidden=hidden,
        intermediate=3 * hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv,
        head_dim=hidden // heads,
        vocab=vocab,
        tied=True,
    )


SMALL, MIDDLE, DEEP = _shape(128, 4, 4096), _shape(256, 8, 8192), _shape(320, 12, 16384)

CASES = (
    Case(name="full-small", what="full", shape=SMALL, dtype="float32", batch=Batch(8, 256)),
    Case(name="full-middle", what="full", shape=MIDDLE, dtype="float32", batch=Batch(4, 256)),
    Case(name="full-middle-bf16", what="full", shape=MIDDLE, dtype="bfloat16", batch=Batch(4, 256)),
    Case(name="full-deep-bf16-accumulated", what="full", shape=DEEP, dtype="bfloat16", batch=Batch(2, 256), steps=4),
    Case(
        name="full-deep-bf16-checkpointed",
        what="full",
        shape=DEEP,
        dtype="bfloat16",
        batch=Batch(8, 256),
        checkpointing=True,
    ),
    Case(name="full-deep-accumulated", what="full", shape=DEEP, dtype="float32", batch=Batch(2, 256), steps=4),
    Case(
        name="full-deep-checkpointed", what="full", shape=DEEP, dtype="float32", batch=Batch(8, 256), checkpointing=True
    ),
    Case(
        name="warmup-small",
        what="warmup",
        shape=SMALL,
        dtype="float32",
        batch=Batch(8, 256),
        lora=Lora(16, QKVO, dropout=True),
    ),
    Case(
        name="warmup-middle",
        what="warmup",
        shape=MIDDLE,
        dtype="float32",
        batch=Batch(4, 512),
        lora=Lora(32, QKVO, dropout=True),
    ),
    Case(
        name="warmup-small-bf16",
        what="warmup",
        shape=SMALL,
        dtype="bfloat16",
        batch=Batch(4, 256),
        lora=Lora(32, QKVO, dropout=True),
    ),
    Case(name="warmup-deep", what="warmup", shape=DEEP, dtype="float32", batch=Batch(4, 256), lora=Lora(16, QKVO)),
    Case(
        name="influence-small",
        what="influence",
        shape=SMALL,
        dtype="float32",
        batch=Batch(16, 128),
        lora=Lora(16, QKVO),
    ),
    Case(
        name="influence-middle",
        what="influence",
        shape=MIDDLE,
        dtype="float32",
        batch=Batch(8, 256),
        lora=Lora(32, QKVO),
    ),
    Case(
        name="influence-middle-bf16",
        what="influence",
        shape=MIDDLE,
        dtype="bfloat16",
        batch=Batch(8, 256),
        lora=Lora(32, QKVO),
    ),
    Case(name="grpo-small", what="grpo", shape=SMALL, dtype="float32", batch=Batch(16, 192)),
    Case(name="grpo-middle", what="grpo", shape=MIDDLE, dtype="float32", batch=Batch(8, 256)),
    Case(name="grpo-middle-bf16", what="grpo", shape=MIDDLE, dtype="bfloat16", batch=Batch(8, 256)),
    Case(
        name="grpo-lora-middle-bf16",
        what="grpo",
        shape=MIDDLE,
        dtype="bfloat16",
        batch=Batch(8, 256),
        lora=Lora(16, QKVO),
    ),
    Case(name="grpo-lora-middle", what="grpo", shape=MIDDLE, dtype="float32", batch=Batch(8, 256), lora=Lora(16, QKVO)),
    Case(name="grpo-checkpointed", what="grpo", shape=MIDDLE, dtype="float32", batch=Batch(8, 256), checkpointing=True),
)


def write_model(folder: Path, shape: ModelShape, dtype: str, context: int) -> None:
    """A random Qwen3 of this shape with a byte tokenizer."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=context,
        tie_word_embeddings=shape.tied,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen3ForCausalLM(config).to(getattr(torch, dtype)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def peak_of(work: Callable[[], Any]) -> int:
    """Peak bytes of the CPU allocator while `work` runs, above what was live before."""
    import gc

    gc.collect()
    return peak_tensor_bytes(work, "cpu")


def _samples(batch: Batch, count: int) -> list[Sample]:
    """Pairs of which every batch has one of full length; the others are up to a quarter shorter."""
    from harness.training.chat import encode

    tokenizer = make_tokenizer()
    frame = len(encode(tokenizer, _messages(1), 10**6).ids) - 1
    samples = []
    for i in range(count):
        length = batch.length - (i % batch.sequences) * batch.length // (4 * batch.sequences)
        messages = _messages(length - frame)
        samples.append(
            Sample(
                id=f"s{i}",
                seed_ids=("d",),
                rubric_id=None,
                prompt_hash="p",
                messages=messages,
                raw="",
                generator="g",
                finish_reason="stop",
            )
        )
    assert len(encode(tokenizer, samples[0].messages, 10**6).ids) == batch.length
    return samples


def _completion_tokens(batch: Batch) -> int:
    from harness.training.chat import encode

    tokenizer = make_tokenizer()
    return sum(encode(tokenizer, s.messages, 10**6).completion_length for s in _samples(batch, batch.sequences))


def _messages(tokens: int) -> tuple[Message, ...]:
    """A conversation whose answer has this many tokens: letters that the tokenizer never merges."""
    return (Message("user", "Q"), Message("assistant", "Q" * tokens))


def measure(case: Case) -> int:
    """The measured peak of a case in bytes, weights included."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        # In the type that it is loaded in: what the loader's threads convert, the profiler does not see.
        stored = loaded_dtype(case.dtype, adapter=case.lora is not None)
        write_model(home / "model", case.shape, stored, 2 * case.batch.length)
        return {"full": _finetune, "warmup": _finetune, "influence": _influence, "grpo": _grpo}[case.what](home, case)


def _recipe(case: Case) -> Any:
    from harness.training.recipe import LoraSettings, Recipe

    lora = case.lora
    settings = LoraSettings(lora.rank, lora.rank, 0.1 if lora.dropout else 0.0, tuple(lora.modules)) if lora else None
    b = case.batch
    return Recipe(
        learning_rate=1e-3,
        epochs=1,
        batch_size=b.sequences * case.steps,
        micro_batch=b.sequences,
        schedule="constant",
        warmup_ratio=0.0,
        weight_decay=0.0,
        adam_beta2=0.999,
        max_length=b.length,
        lora=settings,
    )


def _finetune(home: Path, case: Case, *, adam: bool = False) -> int:
    from harness.config_runtime import TrainingConfig
    from harness.training.sft import finetune

    # Three optimizer steps: from the second on, Adam's moments are there.
    samples = _samples(case.batch, 3 * case.steps * case.batch.sequences)
    return peak_of(
        lambda: finetune(
            home / "model",
            samples,
            _recipe(case),
            seed=0,
            folder=home,
            output="out",
            dtype=case.dtype,
            save_adam=adam,
            training=TrainingConfig(activation_checkpointing=case.checkpointing),
        )
    )


def _influence(home: Path, case: Case) -> int:
    from methods.signals.base import Archive, SignalContext, TargetState, ValidationExample, WarmCheckpoint
    from methods.signals.influence.settings import InfluenceSettings
    from methods.signals.influence.signal import InfluenceSignal

    assert case.lora is not None
    warm = Case(name="", what="warmup", shape=case.shape, dtype=case.dtype, batch=Batch(2, 64), lora=case.lora)
    _finetune(home, warm, adam=True)
    samples = _samples(case.batch, case.batch.sequences)
    adapter = home / "out"
    checkpoint = WarmCheckpoint(adapter, adapter / "adam.safetensors")
    state = TargetState(
        model=home / "model",
        revision="r",
        max_length=case.batch.length,
        dtype=case.dtype,
        hub_revision=None,
        checkpoints=(checkpoint,),
    )
    guide = [ValidationExample("v", _messages(16))]
    context = SignalContext(0, guide, batch_size=case.batch.sequences)

    def work() -> None:
        signal = InfluenceSignal(InfluenceSettings())
        signal.prepare(context, state)
        signal.score(samples, Archive())

    return peak_of(work)


def _policy_adapter(lora: Lora | None) -> dict[str, Any]:
    if lora is None:
        return {}
    return {"tune": "lora", "lora_rank": lora.rank, "lora_alpha": lora.rank, "lora_modules": tuple(lora.modules)}


def _grpo(home: Path, case: Case) -> int:
    from harness.training.grpo import PolicyPrompt, train_policy
    from harness.training.grpo_config import GrpoConfig

    b = case.batch
    new = b.length // 2
    config = GrpoConfig(
        prompts_per_step=b.sequences // 2,
        group_size=2,
        steps=2,
        learning_rate=1e-4,
        max_tokens=new,
        kl_coefficient=0.1,
        entropy_coefficient=0.01,
        micro_batch=b.sequences,
        **_policy_adapter(case.lora),
    )
    frame = 8
    question = (Message("user", "Q" * (b.length - new - frame)),)
    prompts = [PolicyPrompt(str(i), question) for i in range(b.sequences // 2)]
    return peak_of(
        lambda: train_policy(
            home / "model",
            prompts,
            config,
            lambda batch: [float(i % 2) for i in range(len(batch.rollouts))],
            seed=0,
            folder=home,
            dtype=case.dtype,
            revision=None,
            checkpoint_every=100,
            checkpointing=case.checkpointing,
            before_mark=lambda step: None,
            on_step=lambda step, total: None,
            on_log=lambda step, logs: None,
        )
    )


def estimate(case: Case) -> Peak:
    """What the formulas say."""
    args: dict[str, bool] = {"accumulate": case.steps > 1, "checkpointing": case.checkpointing, "cuda": False}
    if case.what == "influence":
        assert case.lora is not None
        predicting = _completion_tokens(case.batch)
        return memory.scoring(case.shape, case.dtype, case.batch, case.lora, predicting=predicting, cuda=False)
    if case.what == "grpo":
        return memory.grpo_update(case.shape, case.dtype, case.batch, case.lora, reference=True, entropy=True, **args)
    if case.lora is not None:
        return memory.lora_training(case.shape, case.dtype, case.batch, case.lora, **args)
    return memory.full_training(case.shape, case.dtype, case.batch, **args)
