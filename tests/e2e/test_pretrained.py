"""What only a pretrained model shows: SmolLM2-135M-Instruct from its package, on real questions and documents.

Needs `make setup-model` and real data. Everything is as small as it can be while it still says something: short real
pairs, few steps, one thread.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
from harness.models.transformers_backend import TransformersBackend, decode, load_causal_lm
from harness.models.vllm.command import MODEL as SERVED
from harness.models.vllm.command import Weights, find_python
from harness.models.vllm.server import VllmServer
from harness.training.adam_state import load_adam_state
from harness.training.batches import Layout, collate
from harness.training.chat import Encoded, encode, prompt_ids
from harness.training.recipe import LoraSettings, Recipe
from harness.training.sft import finetune
from harness.types import Message, Sample, stable_hash
from methods.signals.base import Archive, SignalContext, TargetState, ValidationExample, WarmCheckpoint
from methods.signals.local_influence.signal import LocalInfluenceSettings, LocalInfluenceSignal
from methods.signals.target.warm import open_warm, read_adapter
from support.commands import Harness, finished, rows, run_folders, stage_folder

pytestmark = pytest.mark.slow

MODEL = "package:smollm2-135m-instruct"
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
"""What the model's template says where a conversation has no system turn."""
LENGTH = 256
MATRICES = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
ADAPTED = tuple(f"{layer}.{matrix}" for layer in range(22, 30) for matrix in MATRICES)
"""The matrices of the last 8 of 30 layers: what lies below them needs no gradient, which halves the time."""
LORA = LoraSettings(8, 16, 0.0, ADAPTED)
RECIPE = Recipe(2e-3, 1, 4, 4, "linear", 0.03, 0.0, 0.95, LENGTH, LORA)
STEP = 2e-4
"""Rate of the step that influence is about, the track's: of one as large as this training's, first order tells less."""
TRAINED, HELD_OUT, ASKED, SCORED, GUIDES = 24, 8, 20, 64, 1
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


def fine_tune(base: Path, pairs: Sequence[Sample], folder: Path, dtype: str) -> WarmCheckpoint:
    """An adapter that was trained on `pairs`, with Adam's moments."""
    finetune(base, pairs, RECIPE, seed=0, folder=folder, output="adapter", dtype=dtype, save_adam=True)
    return WarmCheckpoint(folder / "adapter", folder / "adapter" / "adam.safetensors")


@pytest.fixture(scope="module")
def tuned(base: Path, pairs: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> TargetState:
    """The model after a fine-tuning on real pairs in float32, as signals see it."""
    checkpoint = fine_tune(base, pairs[:TRAINED], tmp_path_factory.mktemp("tuned"), "float32")
    return TargetState(base, "rev", LENGTH, "float32", checkpoints=(checkpoint,))


@pytest.fixture(scope="module")
def warm(tuned: TargetState) -> tuple[Any, Any]:
    """That model, loaded once for all that read it, with nothing but its adapter trainable, and its tokenizer."""
    return open_warm(tuned, "float32")


@pytest.fixture(scope="module")
def chosen(pairs: list[Sample]) -> list[Sample]:
    """The shortest pairs that were not trained on: the first guide, the others are scored."""
    short = sorted(pairs[TRAINED:], key=lambda pair: sum(len(turn.content) for turn in pair.messages))
    return short[: GUIDES + SCORED]


def influence(chosen: Sequence[Sample], tuned: TargetState, form: str) -> tuple[list[float], list[Encoded]]:
    """A form of local influence on the scored pairs, and the conversations that it took gradients of for that."""
    signal = LocalInfluenceSignal(LocalInfluenceSettings.model_validate({"form": form, "learning_rate": STEP}))
    guides = [ValidationExample(pair.id, pair.messages) for pair in chosen[:GUIDES]]
    signal.prepare(SignalContext(seed=0, validation=guides, batch_size=8), tuned)
    seen: list[Encoded] = []
    plain = signal._gradients.stream
    signal._gradients.stream = lambda items, *rest: (seen.extend(items), plain(items, *rest))[1]  # type: ignore
    return [score.value for score in signal.score(chosen[GUIDES:], Archive())], seen


@pytest.fixture(scope="module")
def first_order(chosen: list[Sample], tuned: TargetState) -> tuple[list[float], list[Encoded]]:
    """The first-order form's scores, and what they were taken of."""
    return influence(chosen, tuned, "first_order")


def codes(tokenizer: Any, pairs: Sequence[Sample]) -> list[Encoded]:
    """Pairs as training sees them."""
    return [encode(tokenizer, pair.messages, LENGTH) for pair in pairs]


def losses(model: Any, items: Sequence[Encoded], layout: Layout = "right") -> torch.Tensor:
    """Mean loss of every item's completion, [N], all of them in one batch."""
    batch = collate(items, [1.0] * len(items), 0, layout, "cpu")
    whole = model.get_base_model()
    read = whole.model(
        input_ids=batch.ids, position_ids=batch.positions, attention_mask=batch.attention, use_cache=False
    )
    # A fifth of the model's work is its head: only what predicts a completion goes through it.
    logits = whole.lm_head(read.last_hidden_state.flatten(0, 1)[batch.predicting])
    each = torch.nn.functional.cross_entropy(logits, batch.labels, reduction="none") * batch.shares
    sizes = [item.completion_length for item in items]
    return torch.stack([part.sum() for part in each.split(sizes)])


def test_trained_scored_tested_and_prompted_tokens_are_the_same(
    base: Path, chosen: list[Sample], first_order: tuple[list[float], list[Encoded]]
) -> None:
    """The template writes a system turn of its own, once, in every stage."""
    tokenizer = load_tokenizer(base)
    tested = load_model(str(base), 2, True, "float32")
    for pair, scored in zip(chosen[GUIDES:], first_order[1], strict=True):
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


def test_a_fine_tuned_model_stops_by_itself(pairs: list[Sample], warm: tuple[Any, Any]) -> None:
    """Though the token that ends an answer also pads: were it masked, nothing would teach to stop."""
    model, tokenizer = warm
    asked = [prompt_ids(tokenizer, [pair.messages[0]]) for pair in pairs[-ASKED:]]
    done = decode(model, tokenizer, asked, 60, do_sample=False)
    texts = [tokenizer.decode(answer.ids, skip_special_tokens=True).strip() for answer in done]
    assert sum(answer.ended for answer in done) >= 0.9 * ASKED, texts
    assert all(texts)


def gradients(model: Any, items: Sequence[Encoded], layout: Layout) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses, and the gradient of their mean with respect to the adapter as one vector."""
    model.zero_grad(set_to_none=True)
    found = losses(model, items, layout)
    found.mean().backward()
    trained = [p.grad.flatten() for _, p in sorted(model.named_parameters()) if p.grad is not None]
    return found.detach(), torch.cat(trained)


def test_layouts_and_types_give_the_same_losses_and_gradients(pairs: list[Sample], warm: tuple[Any, Any]) -> None:
    """Padded and packed batches against items one by one to 1e-4.

    Under bfloat16 autocast the items' mean loss keeps to 5 % and the gradient's cosine to 0.95 (seen: 0.3 % and 0.999).
    With an adapter in all layers 9 % and 0.90 were seen: this model's large activations cost bits, and answers of
    twenty tokens average little out.
    """
    model, tokenizer = warm
    items = sorted(codes(tokenizer, pairs[:3]), key=lambda item: len(item.ids))
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
    assert abs(mean - 1) < 0.05 and cosine > 0.95


def weights(model: Any) -> dict[str, torch.nn.Parameter]:
    """The adapter's weights by name."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


@contextmanager
def restored(model: Any) -> Iterator[dict[str, torch.Tensor]]:
    """A copy of the adapter's weights, which are put back at the end."""
    kept = {name: weight.detach().clone() for name, weight in weights(model).items()}
    yield kept
    with torch.no_grad():
        for name, weight in weights(model).items():
            weight.copy_(kept[name])


def test_bfloat16_learns_what_float32_learns(
    base: Path, pairs: list[Sample], warm: tuple[Any, Any], tmp_path: Path
) -> None:
    """The held-out loss in float32 of what was trained in either type."""
    narrow_adapter = fine_tune(base, pairs[:TRAINED], tmp_path, "bfloat16")
    model, tokenizer = warm
    rest = codes(tokenizer, pairs[TRAINED : TRAINED + HELD_OUT])
    with torch.no_grad(), restored(model):
        wide = float(losses(model, rest).mean())
        with model.disable_adapter():
            untrained = float(losses(model, rest).mean())
        read_adapter(model, narrow_adapter, weights(model))
        narrow = float(losses(model, rest).mean())
    print(f"held-out loss: {untrained:.3f} untrained, {wide:.3f} in float32, {narrow:.3f} in bfloat16")
    assert wide < 0.9 * untrained
    assert narrow != wide
    assert narrow == pytest.approx(wide, rel=0.02)


def real_steps(warm: tuple[Any, Any], checkpoint: WarmCheckpoint, chosen: Sequence[Sample]) -> list[float]:
    """By how much one step of torch's AdamW on each pair lowers the loss of the guides, from the adapter as it was."""
    model, tokenizer = warm
    items, guiding = codes(tokenizer, chosen[GUIDES:]), codes(tokenizer, chosen[:GUIDES])
    trained = weights(model)
    state = load_adam_state(checkpoint.adam, trained, checkpoint.adapter)
    betas = (state.beta1, state.beta2)

    def guide_loss() -> float:
        with torch.no_grad():
            return float(losses(model, guiding).double().mean())

    found, before = [], guide_loss()
    for item in items:
        with restored(model):
            optimizer = torch.optim.AdamW(trained.values(), lr=STEP, betas=betas, eps=state.eps, weight_decay=0.0)
            for name, weight in trained.items():
                moments = {"exp_avg": state.first[name].clone(), "exp_avg_sq": state.second[name].clone()}
                optimizer.state[weight] = {"step": torch.tensor(float(state.step)), **moments}
            optimizer.zero_grad()
            losses(model, [item]).sum().backward()
            optimizer.step()
            found.append(before - guide_loss())
    return found


def test_influence_is_what_a_real_step_does(
    chosen: list[Sample],
    tuned: TargetState,
    warm: tuple[Any, Any],
    first_order: tuple[list[float], list[Encoded]],
) -> None:
    """Over real pairs: both forms of local influence against the loss after a real optimizer step."""
    values = {"exact": influence(chosen, tuned, "exact")[0], "first_order": first_order[0]}
    stepped = real_steps(warm, tuned.checkpoints[0], chosen)
    assert len(stepped) == SCORED
    agreement = {form: float(spearmanr(found, stepped).statistic) for form, found in values.items()}
    print(f"rank correlation with real steps over {SCORED} pairs: {agreement}")
    assert agreement["exact"] >= 0.99
    assert agreement["first_order"] >= 0.95


def options(runs: Path, documents: Path) -> list[str]:
    """A whole run of the track at its smallest: the model writes, is fine-tuned and is tested."""
    sets = {
        "seeds.limit": 6,
        "synthesis.shard_size": 3,
        "models.writer.max_length": 384,
        "models.generator.max_length": 512,
        "sft.epochs": 1,
        "sft.batch_size": 2,
        "eval.limit": 1,
        "runtime.threads": 1,
        "runtime.runs": runs,
    }
    return [
        *("run", "--method", "static", "--target", "smollm2-135m-instruct", "--suite", "pubmedqa", "--quiet"),
        *("--seeds", str(documents), "--budget", "2"),
        *(word for key, value in sets.items() for word in ("--set", f"{key}={value}")),
    ]


def test_from_the_package_to_a_tuned_model_killed_once(
    base: Path, test_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_DATA", str(test_data))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    process = Harness(options(tmp_path / "runs", test_data / "seeds" / "pubmed_ncbi_disease.jsonl.gz"), tmp_path)
    process.until(lambda: bool(list((tmp_path / "runs" / ".stages").glob("*/part-*.parquet"))))
    process.kill()
    (run,) = run_folders(tmp_path / "runs")
    assert not (run / "record.json").exists()
    finished(["resume", str(run), "--quiet"], tmp_path)
    record = json.loads((run / "record.json").read_text(encoding="utf-8"))
    counts = {count["stage"]: count for count in record["counts"]}
    assert counts["dataset"]["kept"] == 2
    made = counts["regenerate"]
    assert made["rows_in"] == made["kept"] + sum(made["rejected"].values())
    # What the weights are is said wherever somebody may meet them.
    for place in ("record.json", "run.json", "README.md"):
        text = (run / place).read_text(encoding="utf-8")
        assert re.search("dequantised.from.Q4_1", text), place
    model, tokenizer = load_causal_lm(run / "model")
    asked = prompt_ids(tokenizer, [Message("user", "What causes gout?")])
    assert SYSTEM in tokenizer.decode(asked)
    (done,) = decode(model, tokenizer, [asked], 10, do_sample=False)
    assert tokenizer.decode(done.ids, skip_special_tokens=True).strip()
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
    asked = [pair.messages[0] for pair in pairs[:4]]
    own = backend.generate([PromptRequest((question,)) for question in asked], Sampling(0, 1, 16), 0)
    server = VllmServer(Weights(str(base), "float32", None, 1024, 8), small, tmp_path)
    tokenizer = load_tokenizer(base)
    try:
        server.start()
        for question, mine in zip(asked, own, strict=True):
            body = {
                "model": SERVED,
                "prompt": prompt_ids(tokenizer, [question]),
                "max_tokens": 16,
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
