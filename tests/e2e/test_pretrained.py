"""What only a pretrained model shows: SmolLM2-135M-Instruct from its package, on real questions and documents.

Needs `make setup-model` and real data. Everything is as small as it can be while it still says something: short real
pairs, few steps, one thread.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr

from evals.model import load_model
from harness.config_models import VllmConfig
from harness.errors import PrerequisiteError
from harness.models.backend import PromptRequest, Sampling
from harness.models.dequantise import ensure_converted
from harness.models.tokenizers import load_tokenizer
from harness.models.transformers_backend import TransformersBackend, load_causal_lm
from harness.models.vllm.command import MODEL as SERVED
from harness.models.vllm.command import Weights, find_python
from harness.models.vllm.server import VllmServer
from harness.training.batches import Layout, collate
from harness.training.chat import Encoded, encode, prompt_ids
from harness.training.recipe import LoraSettings, Recipe
from harness.training.sft import finetune
from harness.types import Message, Sample, stable_hash
from methods.signals.base import Archive, SignalContext, TargetState, ValidationExample, WarmCheckpoint
from methods.signals.local_influence.signal import LocalInfluenceSettings, LocalInfluenceSignal
from methods.signals.target.warm import open_warm
from support.commands import Harness, finished, rows, run_folders, stage_folder

pytestmark = pytest.mark.slow

MODEL = "package:smollm2-135m-instruct"
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
"""What the model's template says where a conversation has no system turn."""
LENGTH = 256
LORA = LoraSettings(8, 16, 0.0, ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"))
RECIPE = Recipe(5e-4, 1, 8, 8, "linear", 0.03, 0.0, 0.95, LENGTH, LORA)
TRAINED, HELD_OUT, ASKED, SCORED, GUIDES = 48, 16, 20, 64, 2
"""Pairs that are trained on, whose loss is compared, that are asked, that are scored, and that guide."""


@pytest.fixture(scope="module")
def base() -> Path:
    """The folder of the converted model."""
    try:
        return ensure_converted(MODEL)
    except PrerequisiteError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def pairs(test_data: Path) -> list[Sample]:
    """Short question-answer pairs from medical pages, in an order that mixes what they ask."""
    found = {}
    with gzip.open(test_data / "qa" / "medquad_qa.jsonl.gz", "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            if len(row["question"]) <= 70 and len(row["answer"]) <= 110:
                found[row["question"]] = row["answer"]
    chosen = sorted(found.items(), key=lambda pair: stable_hash(*pair))
    return [sample(question, answer) for question, answer in chosen]


def sample(question: str, answer: str) -> Sample:
    """A pair as generators leave it."""
    turns = (Message("user", question), Message("assistant", answer))
    return Sample(stable_hash(question), ("d",), None, "", turns, answer, "people", "stop")


@pytest.fixture(scope="module")
def tuned(base: Path, pairs: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that was trained on real pairs in float32, with Adam's moments beside it."""
    folder = tmp_path_factory.mktemp("tuned")
    finetune(base, pairs[:TRAINED], RECIPE, seed=0, folder=folder, output="adapter", save_adam=True)
    return folder / "adapter"


def state(base: Path, adapter: Path, dtype: str = "float32") -> TargetState:
    """The tuned model as signals see it."""
    return TargetState(base, "rev", LENGTH, dtype, checkpoints=(WarmCheckpoint(adapter, adapter / "adam.safetensors"),))


def codes(base: Path, pairs: Sequence[Sample]) -> list[Encoded]:
    """Pairs as training sees them."""
    tokenizer = load_tokenizer(base)
    return [encode(tokenizer, pair.messages, LENGTH) for pair in pairs]


def losses(model: Any, items: Sequence[Encoded], layout: Layout = "right") -> torch.Tensor:
    """Mean loss of every item's completion, [N], all of them in one batch."""
    batch = collate(items, [1.0] * len(items), 0, layout, "cpu")
    read = model(input_ids=batch.ids, position_ids=batch.positions, attention_mask=batch.attention, use_cache=False)
    logits = read.logits.flatten(0, 1)[batch.predicting].float()
    each = torch.nn.functional.cross_entropy(logits, batch.labels, reduction="none") * batch.shares
    sizes = [item.completion_length for item in items]
    return torch.stack([part.sum() for part in each.split(sizes)])


def held_out(base: Path, adapter: Path, pairs: Sequence[Sample]) -> float:
    """Mean loss in float32 of pairs that were not trained on."""
    model, _ = open_warm(state(base, adapter), "float32")
    with torch.no_grad():
        return float(losses(model, codes(base, pairs)).mean())


def test_trained_scored_tested_and_prompted_tokens_are_the_same(base: Path, pairs: list[Sample], tuned: Path) -> None:
    """The template writes a system turn of its own, once, in every stage."""
    tokenizer = load_tokenizer(base)
    tested = load_model(str(base), 2, True, "float32")
    signal, _ = prepared(base, tuned, pairs, "first_order")
    seen: list[Encoded] = []
    plain = signal._gradients.stream
    signal._gradients.stream = lambda items, *rest: (seen.extend(items), plain(items, *rest))[1]  # type: ignore
    signal.score(pairs[:4], Archive())
    for pair, scored in zip(pairs[:4], seen, strict=True):
        question, answer = pair.messages
        trained = encode(tokenizer, pair.messages, LENGTH)
        begin, end = trained.ids[: trained.prompt_length], trained.ids[trained.prompt_length :]
        assert tokenizer.decode(begin).count(SYSTEM) == 1
        assert list(begin) == prompt_ids(tokenizer, [question])
        rendered = tested.apply_chat_template([{"role": "user", "content": question.content}])
        context, choice = tested._encode_pair(rendered, answer.content)
        # What closes the turn is trained, and is no part of an answer whose likelihood is asked for.
        assert (context, choice) == (list(begin), list(end[: len(choice)]))
        assert tokenizer.decode(end[len(choice) :]).strip() == tokenizer.eos_token == tokenizer.pad_token
        assert scored == trained


def test_a_fine_tuned_model_stops_by_itself(base: Path, pairs: list[Sample], tuned: Path, tmp_path: Path) -> None:
    """Though the token that ends an answer also pads: were it masked, nothing would teach to stop."""
    model, tokenizer = open_warm(state(base, tuned), "float32")
    merged = model.merge_and_unload()
    merged.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    backend = TransformersBackend(tmp_path, name="tuned")
    asked = [PromptRequest((pair.messages[0],)) for pair in pairs[-ASKED:]]
    done = backend.generate(asked, Sampling(0, 1, 60), 0)
    assert sum(c.finish_reason == "stop" for c in done) >= 0.9 * ASKED, [c.text for c in done]
    assert all(c.text.strip() for c in done)


def gradients(model: Any, items: Sequence[Encoded], layout: Layout) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses, and the gradient of their mean with respect to the adapter as one vector."""
    model.zero_grad(set_to_none=True)
    found = losses(model, items, layout)
    found.mean().backward()
    trained = [p.grad.flatten() for _, p in sorted(model.named_parameters()) if p.grad is not None]
    return found.detach(), torch.cat(trained)


def test_layouts_and_types_give_the_same_losses_and_gradients(base: Path, pairs: list[Sample], tuned: Path) -> None:
    """Padded and packed batches against items one by one to 1e-4.

    Under bfloat16 autocast the items' mean loss keeps to 10 % and the gradient's cosine to 0.8 (seen: 4 % and
    0.90): this model's large activations cost bits, and answers of twenty tokens average little out.
    """
    model, _ = open_warm(state(base, tuned), "float32")
    items = sorted(codes(base, pairs[:5]), key=lambda item: len(item.ids))
    alone = [gradients(model, [item], "right") for item in items]
    loss, gradient = torch.cat([one for one, _ in alone]), torch.stack([g for _, g in alone]).mean(dim=0)

    def off(found: tuple[torch.Tensor, torch.Tensor]) -> tuple[float, float]:
        return (
            float(((found[0] - loss) / loss).abs().max()),
            float((found[1] - gradient).norm() / gradient.norm()),
        )

    for layout in ("right", "left", "packed"):
        loss_off, gradient_off = off(gradients(model, items, layout))
        print(f"{layout}: losses within {loss_off:.1e}, gradient within {gradient_off:.1e}")
        assert max(loss_off, gradient_off) < 1e-4, layout
    with torch.autocast("cpu", torch.bfloat16):
        narrow = gradients(model, items, "right")
    cosine = float(torch.nn.functional.cosine_similarity(narrow[1], gradient, dim=0))
    mean = float(narrow[0].mean() / loss.mean())
    print(f"bfloat16 autocast: mean loss by a factor of {mean:.4f}, cosine of the gradients {cosine:.4f}")
    assert abs(mean - 1) < 0.1 and cosine > 0.8


def test_bfloat16_learns_what_float32_learns(base: Path, pairs: list[Sample], tmp_path: Path) -> None:
    """At the learning rate of the track `laptop`; at two and a half times of it the two are 1.9 % apart."""
    recipe = replace(RECIPE, learning_rate=2e-4)
    for name, dtype in (("wide", "float32"), ("narrow", "bfloat16")):
        options = {"seed": 0, "folder": tmp_path / name, "output": "adapter", "dtype": dtype, "save_adam": True}
        finetune(base, pairs[:TRAINED], recipe, **options)
    rest = pairs[TRAINED : TRAINED + HELD_OUT]
    model, _ = load_causal_lm(base)
    with torch.no_grad():
        untrained = float(losses(model, codes(base, rest)).mean())
    wide, narrow = (held_out(base, tmp_path / name / "adapter", rest) for name in ("wide", "narrow"))
    print(f"held-out loss: {untrained:.3f} untrained, {wide:.3f} in float32, {narrow:.3f} in bfloat16")
    assert wide < 0.9 * untrained
    # 0.03 % were seen on a processor without bfloat16 arithmetic.
    assert narrow == pytest.approx(wide, rel=0.02)


def guides(pairs: Sequence[Sample]) -> list[ValidationExample]:
    """Pairs that guide: the first ones."""
    return [ValidationExample(pair.id, pair.messages) for pair in pairs[:GUIDES]]


def prepared(base: Path, adapter: Path, pairs: Sequence[Sample], form: str) -> tuple[LocalInfluenceSignal, Any]:
    """The signal at the tuned model, ready to score, and its facts."""
    signal = LocalInfluenceSignal(LocalInfluenceSettings.model_validate({"form": form}))
    context = SignalContext(seed=0, validation=guides(pairs), batch_size=8)
    return signal, signal.prepare(context, state(base, adapter))


def real_steps(base: Path, adapter: Path, pairs: Sequence[Sample], signal: LocalInfluenceSignal) -> list[float]:
    """By how much one step of torch's AdamW on each pair lowers the loss of the guides, from the adapter as it was."""
    model, _ = open_warm(state(base, adapter), "float32")
    (point,) = signal._points
    named = dict(model.named_parameters())
    weights = {name: named[name] for name in point.adapter}
    for name, parameter in named.items():
        parameter.requires_grad_(name in weights)
    items, guiding = codes(base, pairs[GUIDES:]), codes(base, pairs[:GUIDES])
    found = []
    with torch.no_grad():
        before = float(losses(model, guiding).double().mean())
    for item in items:
        betas = (point.state.beta1, point.state.beta2)
        optimizer = torch.optim.AdamW(
            weights.values(), lr=point.learning_rate, betas=betas, eps=point.state.eps, weight_decay=0.0
        )
        for name, weight in weights.items():
            moments = {"exp_avg": point.state.first[name].clone(), "exp_avg_sq": point.state.second[name].clone()}
            optimizer.state[weight] = {"step": torch.tensor(float(point.state.step)), **moments}
        optimizer.zero_grad()
        losses(model, [item]).sum().backward()
        optimizer.step()
        with torch.no_grad():
            found.append(before - float(losses(model, guiding).double().mean()))
            for name, weight in weights.items():
                weight.copy_(point.adapter[name])
    return found


def test_influence_is_what_a_real_step_does(base: Path, pairs: list[Sample], tuned: Path) -> None:
    """Over real pairs: both forms of local influence against the loss after a real optimizer step."""
    short = sorted(pairs[TRAINED:], key=lambda pair: sum(len(turn.content) for turn in pair.messages))
    chosen, values = short[: GUIDES + SCORED], {}
    for form in ("exact", "first_order"):
        signal, _ = prepared(base, tuned, chosen, form)
        values[form] = [score.value for score in signal.score(chosen[GUIDES:], Archive())]
    stepped = real_steps(base, tuned, chosen, signal)
    agreement = {form: float(spearmanr(found, stepped).statistic) for form, found in values.items()}
    print(f"rank correlation with real steps over {SCORED} pairs: {agreement}")
    assert agreement["exact"] >= 0.99
    assert agreement["first_order"] >= 0.95


def options(runs: Path, documents: Path) -> list[str]:
    """A whole run of the track at its smallest: the model writes, is fine-tuned and is tested."""
    sets = {
        "seeds.limit": 8,
        "synthesis.shard_size": 4,
        "models.writer.max_length": 384,
        "models.generator.max_length": 512,
        "sft.epochs": 1,
        "eval.limit": 2,
        "runtime.threads": 1,
        "runtime.runs": runs,
    }
    return [
        *("run", "--method", "static", "--target", "smollm2-135m-instruct", "--suite", "pubmedqa", "--quiet"),
        *("--seeds", str(documents), "--budget", "4"),
        *(word for key, value in sets.items() for word in ("--set", f"{key}={value}")),
    ]


def test_from_the_package_to_a_tuned_model_killed_once(
    base: Path, test_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_DATA", str(test_data))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    process = Harness(options(tmp_path / "runs", test_data / "seeds" / "pubmed_ncbi_disease.jsonl.gz"), tmp_path)
    process.until(lambda: bool(list((tmp_path / "runs" / ".stages").glob("*/part-*.parquet"))[1:]))
    process.kill()
    (run,) = run_folders(tmp_path / "runs")
    assert not (run / "record.json").exists()
    finished(["resume", str(run), "--quiet"], tmp_path)
    record = json.loads((run / "record.json").read_text(encoding="utf-8"))
    counts = {count["stage"]: count for count in record["counts"]}
    assert counts["dataset"]["kept"] == 4
    made = counts["regenerate"]
    assert made["rows_in"] == made["kept"] + sum(made["rejected"].values())
    # What the weights are is said wherever somebody may meet them.
    for place in ("record.json", "run.json", "README.md"):
        text = (run / place).read_text(encoding="utf-8")
        assert re.search("dequantised.from.Q4_1", text), place
    model, tokenizer = load_causal_lm(run / "model")
    assert SYSTEM in tokenizer.decode(prompt_ids(tokenizer, [Message("user", "What causes gout?")]))
    (done,) = TransformersBackend(run / "model", name="tuned").generate(
        [PromptRequest((Message("user", "What causes gout?"),))], Sampling(0, 1, 40), 0
    )
    assert done.text.strip()
    columns = {column["task"] for column in rows(stage_folder(run, "evaluate"))}
    assert columns == {"pubmedqa"}
    assert model.dtype == torch.float32


@pytest.mark.server
def test_a_server_answers_to_the_token_as_the_process_does(base: Path, pairs: list[Sample], tmp_path: Path) -> None:
    """Greedy decoding in float32 through vLLM and through transformers."""
    small = VllmConfig(kv_cache_gb=1, max_num_seqs=8)
    try:
        find_python(small)
    except PrerequisiteError as error:
        pytest.skip(str(error))
    backend = TransformersBackend(base, name="model")
    asked = [pair.messages[0] for pair in pairs[:6]]
    own = backend.generate([PromptRequest((question,)) for question in asked], Sampling(0, 1, 24), 0)
    server = VllmServer(Weights(str(base), "float32", None, 1024, 8), small, tmp_path)
    tokenizer = load_tokenizer(base)
    try:
        server.start()
        for question, mine in zip(asked, own, strict=True):
            body = {
                "model": SERVED,
                "prompt": prompt_ids(tokenizer, [question]),
                "max_tokens": 24,
                "temperature": 0,
                "return_token_ids": True,
            }
            status, text = server._call("POST", "/v1/completions", body)
            assert status == 200, text
            (choice,) = json.loads(text)["choices"]
            ids = [i for i in choice["token_ids"] if i != tokenizer.eos_token_id]
            assert tokenizer.decode(ids) == mine.text
    finally:
        server.stop()
