"""Decoding follows the settings: what a model's folder asks for acts in no rollout, no pair and no test answer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from evals.model import load_model
from harness.models.backend import PromptRequest, Sampling
from harness.models.decoding import SERVED, neutral_decoding, set_aside
from harness.models.endpoint.backend import EndpointBackend, Served
from harness.models.transformers_backend import TransformersBackend, load_causal_lm
from harness.types import Message
from support.tiny import make_architecture, make_tiny_model

ASKED: dict[str, Any] = {
    "repetition_penalty": 5.0,
    "no_repeat_ngram_size": 1,
    "min_p": 0.9,
    "top_k": 1,
    "top_p": 0.1,
    "typical_p": 0.2,
    "temperature": 3.0,
    "epsilon_cutoff": 0.1,
    "eta_cutoff": 0.1,
    "suppress_tokens": list(range(60, 120)),
    "begin_suppress_tokens": list(range(120, 400)),
    "forced_eos_token_id": 5,
    "forced_bos_token_id": 5,
    "bad_words_ids": [[i] for i in range(20, 60)],
    "sequence_bias": [[[7], 50.0]],
    "exponential_decay_length_penalty": [1, 5.0],
    "length_penalty": 3.0,
    "num_beams": 2,
    "num_return_sequences": 1,
    "min_length": 30,
    "min_new_tokens": 5,
    "max_length": 3,
    "max_new_tokens": 2,
    "stop_strings": ["a"],
    "guidance_scale": 3.0,
    "renormalize_logits": True,
    "some_setting_of_tomorrow": 7,
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("plain") / "m", context=256)


def asking(plain: Path, folder: Path, name: str = "generation_config.json", **asked: Any) -> Path:
    """A copy of a model whose file `name` asks for more."""
    shutil.copytree(plain, folder)
    path = folder / name
    content = json.loads(path.read_text())
    if name == "config.json":
        (folder / "generation_config.json").unlink()
    path.write_text(json.dumps({**content, **asked}))
    return folder


def answers(folder: Path, temperature: float) -> list[tuple[str, str, int]]:
    backend = TransformersBackend(folder, name="m")
    requests = [PromptRequest((Message("user", text),)) for text in ("yes no maybe", "the answer")]
    made = backend.generate(requests, Sampling(temperature, 1.0, 12), 3)
    return [(c.text, c.finish_reason, c.completion_tokens) for c in made]


def settings_of(model: Any) -> dict[str, Any]:
    return {k: v for k, v in vars(model.generation_config).items() if not k.startswith("_")}


@pytest.mark.parametrize("name", sorted(ASKED))
def test_every_setting_of_a_model_is_reset_and_named(plain: Path, tmp_path: Path, name: str) -> None:
    folder = asking(plain, tmp_path / "m", **{name: ASKED[name]})
    model, _ = load_causal_lm(folder)
    assert settings_of(model) == settings_of(load_causal_lm(plain)[0])
    assert model.generation_config.eos_token_id is not None and model.generation_config.pad_token_id is not None
    neutral = name == "num_return_sequences"
    assert set_aside(folder) == ({} if neutral else {name: ASKED[name]})
    model.save_pretrained(tmp_path / "saved")
    assert set_aside(tmp_path / "saved") == {}


def test_generation_and_tests_do_not_feel_them(plain: Path, tmp_path: Path) -> None:
    harsh = {k: v for k, v in ASKED.items() if k not in ("stop_strings", "guidance_scale", "num_beams")}
    folders = [
        asking(plain, tmp_path / "harsh", **harsh),
        asking(plain, tmp_path / "older", "config.json", repetition_penalty=5.0, max_length=3, min_length=2),
    ]
    for temperature in (0.0, 1.0):
        wanted = answers(plain, temperature)
        assert max(tokens for *_, tokens in wanted) > 3
        for folder in folders:
            assert answers(folder, temperature) == wanted
    assert set_aside(folders[1]) == {"repetition_penalty": 5.0, "max_length": 3, "min_length": 2}
    for folder in folders:
        tested = load_model(str(folder), 2, True).model
        assert settings_of(tested) == settings_of(load_model(str(plain), 2, True).model)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2", "mamba"])
def test_token_ids_stay_in_every_architecture(kind: str) -> None:
    model = make_architecture(kind)
    ids = [getattr(model.generation_config, n) for n in ("bos_token_id", "eos_token_id", "pad_token_id", "use_cache")]
    model.generation_config.update(repetition_penalty=2.0, max_length=9)
    held = model.generation_config
    neutral_decoding(model)
    assert held is model.generation_config and held.repetition_penalty is held.max_length is None
    assert ids == [getattr(held, n) for n in ("bos_token_id", "eos_token_id", "pad_token_id", "use_cache")]


def test_a_folder_that_asks_for_nothing_is_not_named(plain: Path, tmp_path: Path) -> None:
    neutral = {"do_sample": True, "temperature": 1.0, "top_p": 1, "repetition_penalty": 1.0, "top_k": 0}
    assert set_aside(plain) == set_aside(asking(plain, tmp_path / "m", **neutral)) == {}
    assert set_aside(tmp_path / "nowhere") == {}
    (tmp_path / "m" / "generation_config.json").write_text("[]")
    assert set_aside(tmp_path / "m") == {}


def test_a_vllm_server_is_told_with_every_request_and_no_other_server_is() -> None:
    for takes in (True, False):
        backend = EndpointBackend(Served("m", 0.0, 64, takes_stops=takes), lambda: pytest.fail("not called"))
        body = backend._body("m", PromptRequest((Message("user", "x"),)), Sampling(), 1)
        assert (SERVED.items() <= body.items()) is takes
