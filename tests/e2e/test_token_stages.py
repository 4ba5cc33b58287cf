"""The stages take their tokens from one place: fine-tuning, GRPO, DPO, generation and lm-eval, and all of them stop."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from evals.model import load_model
from harness.models.backend import PromptRequest, Sampling
from harness.models.tokenizers import complete
from harness.models.transformers_backend import TransformersBackend, load_causal_lm
from harness.training.chat import encode, prompt_ids
from harness.training.dpo import DpoRecipe, Preference, train_preferences
from harness.training.grpo import PolicyPrompt, RolloutBatch, train_policy
from harness.training.grpo_config import GrpoConfig
from harness.training.recipe import LoraSettings, Recipe
from harness.training.sft import finetune
from harness.training.template import traits
from harness.types import Message, Sample
from support.tiny import make_architecture, make_family

BASE = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
"""A base model's tokens: its end is not the one with which the template closes a turn."""
BARE: dict[str, str | None] = {"eos_token": None, "pad_token": None}
LORA = LoraSettings(2, 4, 0.0, ("q_proj",))


def make(folder: Path, family: str = "bytes", template: str = "chatml", kind: str = "llama", **tokens: Any) -> Path:
    make_architecture(kind, folder, tokenizer=make_family(family, template, **tokens))
    return folder


def with_types(folder: Path) -> Path:
    """The tokenizer there returns `token_type_ids`, as those of BERT's kind do."""
    path = folder / "tokenizer_config.json"
    named = ["input_ids", "token_type_ids", "attention_mask"]
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_input_names": named}))
    return folder


def sample(question: str, answer: str, system: str = "") -> Sample:
    turns = (Message("system", system),) * bool(system) + (Message("user", question), Message("assistant", answer))
    return Sample(question, ("d",), None, "", turns, "", "t", "stop")


def tune(model: Path, folder: Path, samples: Sequence[Sample], lora: LoraSettings | None = None) -> Path:
    recipe = Recipe(1e-3, 1, 2, 2, "constant", 0.0, 0.0, 0.999, 256, lora)
    finetune(model, samples, recipe, seed=0, folder=folder, output="out")
    return folder / "out"


def stops(folder: Path) -> list[int]:
    found = json.loads((folder / "generation_config.json").read_text()).get("eos_token_id")
    return found if isinstance(found, list) else [found]


def policy(model: Path, folder: Path, tune: str = "lora", **prompt: Any) -> list[RolloutBatch]:
    batches: list[RolloutBatch] = []

    def reward(batch: RolloutBatch) -> list[float | None]:
        batches.append(batch)
        return [float(i % 2) for i, _ in enumerate(batch.rollouts)]

    sizes: dict[str, Any] = {"prompts_per_step": 2, "group_size": 2, "micro_batch": 2, "steps": 1, "max_tokens": 4}
    config = GrpoConfig(**sizes, tune=tune, lora_modules=("q_proj",), lora_rank=2, kl_coefficient=0.0)
    messages = (Message("system", "be brief"), Message("user", prompt.get("text", "is it red?")))
    train_policy(
        model,
        [PolicyPrompt(f"k{i}", messages) for i in range(2)],
        config,
        reward,
        seed=0,
        folder=folder,
        dtype="float32",
        revision=None,
        checkpoint_every=1,
        before_mark=lambda step: None,
        on_step=lambda step, total: None,
        on_log=lambda step, logs: None,
    )
    return batches


@pytest.mark.parametrize("template", ["chatml", "inst", "gemma", "dated"])
@pytest.mark.parametrize("family", ["bytes", "always", "first", "unigram", "wordpiece"])
def test_a_choice_is_scored_on_the_tokens_that_it_is_trained_on(tmp_path: Path, family: str, template: str) -> None:
    model = load_model(str(make(tmp_path, family, template)), 2, True)
    for question, answer in (("is it red?", "red"), ("what is <|im_end|> or </s>?", "a <s> token"), ("1+1?", "2")):
        history = [{"role": "system", "content": "be brief"}, {"role": "user", "content": question}]
        context = model.apply_chat_template(history)
        before, after = model._encode_pair(context, answer)
        messages = [Message(**turn) for turn in history]
        trained = encode(model.tokenizer, [*messages, Message("assistant", answer)], sys.maxsize)
        scored = [*before, *after]
        assert tuple(scored) == trained.ids[: len(scored)] and scored[-1] != traits(model.tokenizer).stop
        assert trained.ids[len(scored)] == traits(model.tokenizer).stop
        assert model.tok_encode(context) == prompt_ids(model.tokenizer, messages)
        batch, mask = model.tok_batch_encode([context, model.apply_chat_template(history[1:])])
        assert batch[0][mask[0].bool()].tolist() == model.tok_encode(context)


def test_without_a_template_special_tokens_in_a_question_are_text(tmp_path: Path) -> None:
    model = load_model(str(make(tmp_path)), 2, False)
    assert model.tokenizer.eos_token_id not in model.tok_encode("what is <|im_end|>?")
    before, after = model._encode_pair("what is <|im_end|>?", " a token")
    assert model.tokenizer.decode([*before, *after]) == "what is <|im_end|>? a token"


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_a_fine_tuned_base_model_stops_where_its_template_ends_a_turn(
    tmp_path: Path, lora: LoraSettings | None
) -> None:
    base = make(tmp_path / "m", kind="qwen3", **BASE)
    out = tune(base, tmp_path, [sample("q", "red"), sample("r", "no")], lora)
    model, tokenizer = load_causal_lm(out)
    turn, end = (tokenizer.convert_tokens_to_ids(t) for t in ("<|im_end|>", "<|endoftext|>"))
    assert stops(out) == [turn, end] == model.generation_config.eos_token_id
    tested = load_model(str(out), 1, True)
    assert tested.eot_token_id == turn and turn in tested.model.generation_config.eos_token_id


def test_a_model_that_declares_its_turns_end_is_left_as_it_is(tmp_path: Path) -> None:
    base = make(tmp_path / "m")
    assert stops(tune(base, tmp_path, [sample("q", "red"), sample("r", "no")])) == stops(base)
    assert isinstance(load_causal_lm(base)[0].generation_config.eos_token_id, int)


@pytest.mark.parametrize("how", ["lora", "full"])
def test_a_policy_samples_from_the_same_tokens_and_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Rollouts end at the template's end of turn; what is written out in a prompt is text; no system turn is lost."""
    from transformers import GenerationMixin

    model = with_types(make(tmp_path / "m", template="gemma", kind="gemma2", **BASE))
    seen: list[Any] = []
    plain = GenerationMixin.generate

    def watch(self: Any, **options: Any) -> Any:
        seen.append(options)
        return plain(self, **options)

    monkeypatch.setattr(GenerationMixin, "generate", watch)
    batches = policy(model, tmp_path, how, text="what is <|im_end|>?")
    tokenizer = load_causal_lm(model)[1]
    messages = [Message("system", "be brief"), Message("user", "what is <|im_end|>?")]
    wanted = prompt_ids(tokenizer, messages)
    assert seen[0]["input_ids"][0].tolist() == wanted and "token_type_ids" not in seen[0]
    turn = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert turn in seen[0]["generation_config"].eos_token_id and turn in stops(tmp_path / "policy")
    assert {r.prompt_tokens for b in batches for r in b.rollouts} == {len(wanted)}


def test_preferences_are_learned_on_the_same_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import trl

    model = with_types(make(tmp_path / "m", "first", "inst", eos_token="</s>", pad_token=None))
    batches: list[Any] = []
    plain = trl.DPOTrainer._compute_loss

    def watch(self: Any, model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
        batches.append({k: v.clone() for k, v in inputs.items()})
        return plain(self, model, inputs, *rest, **named)

    monkeypatch.setattr(trl.DPOTrainer, "_compute_loss", watch)
    prompt = (Message("system", "be brief"), Message("user", "which </s>?"))
    pairs = [Preference(prompt, "red", "blue")] * 2
    train_preferences(model, pairs, DpoRecipe(batch_size=2, micro_batch=2), seed=0, folder=tmp_path)
    tokenizer = complete(make_family("first", "inst", eos_token="</s>", pad_token=None), "t")
    ids, mask = batches[0]["input_ids"], batches[0]["attention_mask"].bool()
    trained = {tuple(row[m].tolist()) for row, m in zip(ids, mask, strict=True)}
    assert trained == {encode(tokenizer, [*prompt, Message("assistant", a)], 99).ids for a in ("red", "blue")}


@pytest.mark.parametrize("family", ["bytes", "legacy", "wordpiece"])
def test_a_tokenizer_without_pad_and_end_trains_generates_and_is_tested(tmp_path: Path, family: str) -> None:
    """Also with token types, which a Llama does not take, and with rows of unequal length."""
    base = with_types(make(tmp_path / "m", family, **BARE))
    out = tune(base, tmp_path, [sample("q", "red"), sample("is it longer?", "yes it is", "be brief")])
    backend = TransformersBackend(out, name="t", max_length=256)
    asked = [PromptRequest((Message("user", text),)) for text in ("q", "is it longer?")]
    together = backend.generate(asked, Sampling(0, 1, 6), 0)
    assert [c.text for c in together] == [backend.generate([r], Sampling(0, 1, 6), 0)[0].text for r in asked]
    tested = load_model(str(out), 2, True)
    assert tested.tokenizer.convert_ids_to_tokens(tested.eot_token_id) == "<|im_end|>"


def test_padding_and_end_of_turn_may_be_one_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding is masked by position: the end of every answer is learned although it is the token that pads."""
    import trl

    base = make(tmp_path / "m", pad_token="<|im_end|>")
    labels: list[Any] = []
    plain = trl.SFTTrainer.compute_loss

    def watch(self: Any, model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
        labels.extend(inputs["labels"])
        return plain(self, model, inputs, *rest, **named)

    monkeypatch.setattr(trl.SFTTrainer, "compute_loss", watch)
    tune(base, tmp_path, [sample("q", "red"), sample("is it longer?", "yes it is")])
    end = make_family("bytes").convert_tokens_to_ids("<|im_end|>")
    assert sum(int((row == end).sum()) for row in labels) == 2


def test_a_padding_token_without_a_row_is_replaced(tmp_path: Path) -> None:
    tokenizer = make_family("bytes", pad_token=None)
    make_architecture("llama", tmp_path, tokenizer=tokenizer)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(tmp_path)
    model, tokenizer = load_causal_lm(tmp_path)
    assert tokenizer.pad_token_id < model.get_input_embeddings().weight.shape[0]


def test_a_model_that_nothing_teaches_to_stop_still_runs(tmp_path: Path) -> None:
    base = make(tmp_path / "m", template="endless", **BARE)
    out = tune(base, tmp_path, [sample("q", "red"), sample("r", "no")])
    asked = [PromptRequest((Message("user", "q"),))]
    (done,) = TransformersBackend(out, name="t").generate(asked, Sampling(0, 1, 3), 0)
    assert (done.finish_reason, done.completion_tokens) == ("length", 3)
    assert load_model(str(out), 1, True).eot_token_id >= 0
    assert policy(base, tmp_path / "policy")[0].rollouts[0].finish_reason == "length"


def test_generation_ends_at_the_templates_end_of_turn(tmp_path: Path) -> None:
    backend = TransformersBackend(make(tmp_path, **BASE), name="t")
    model, tokenizer = backend._load()
    turn = tokenizer.convert_tokens_to_ids("<|im_end|>")

    def prefer(module: Any, inputs: Any, logits: Any) -> None:
        logits[..., turn] = 1e4

    model.lm_head.register_forward_hook(prefer)
    (done,) = backend.generate([PromptRequest((Message("user", "q"),))], Sampling(0, 1, 5), 0)
    assert (done.text, done.finish_reason, done.completion_tokens) == ("", "stop", 1)
