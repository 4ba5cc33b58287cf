"""The lab's tokenizer and its build: any text survives, models load, the cache is atomic and built once."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import ConfigError, PrerequisiteError
from harness.lab import build
from harness.lab.corpora import generator_examples, target_examples, writer_examples
from harness.lab.sizes import SIZES
from harness.lab.tokenizer import build_tokenizer, encode_chats
from harness.lab.words import ALL_BACKGROUND, ALL_CLASSES, BACKGROUND, CLASSES, FIRST, RELATIONS, SECOND
from harness.lab.world import World
from harness.types import RUBRIC_PARTS

TINY = 0.004
TOKENIZER, LARGE = build_tokenizer(), build_tokenizer(SIZES[18])


@settings(deadline=None, max_examples=200)
@given(st.text())
def test_any_text_survives_the_tokenizer(text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == text


def test_names_are_three_tokens_and_values_are_one() -> None:
    rng = random.Random(0)
    for tokenizer, classes in ((TOKENIZER, CLASSES + BACKGROUND), (LARGE, ALL_CLASSES + ALL_BACKGROUND)):
        for _ in range(300):
            pieces = (rng.choice(FIRST), rng.choice(SECOND), rng.choice(classes))
            assert tokenizer.tokenize(" " + "".join(pieces)) == ["Ġ" + pieces[0], *pieces[1:]]
    for value in (v for r in RELATIONS for v in r.values):
        assert len(TOKENIZER.tokenize(value)) == len(TOKENIZER.tokenize(" " + value)) == 1


def test_a_prompt_is_a_prefix_of_the_whole_chat() -> None:
    """Trainers tokenize prompt and whole chat apart and mask by length; and a missing system line is filled in."""
    messages = [{"role": "user", "content": "Who found Bobormab?"}, {"role": "assistant", "content": "Adler"}]
    whole = TOKENIZER.apply_chat_template(messages, tokenize=False)
    prompt = TOKENIZER.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    assert whole == prompt + "Adler<|im_end|>"
    system = {"role": "system", "content": "You are a helpful assistant."}
    assert TOKENIZER.apply_chat_template([system, *messages], tokenize=False) == whole
    masks = TOKENIZER.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    assert sum(masks["assistant_masks"]) == 2


def test_rubrics_and_pairs_are_short_and_some_are_broken() -> None:
    rubrics = writer_examples(400, 5)
    pairs = generator_examples(400, 5, World(0))
    for examples, most in ((rubrics, 34), (pairs, 48)):
        lengths = [len(a) for _, a in encode_chats(TOKENIZER, [p for p, _ in examples], [a for _, a in examples])]
        assert sum(lengths) / len(lengths) < 36 and sorted(lengths)[-len(lengths) // 20] <= most
    good = 0
    for _, text in rubrics:
        try:
            good += set(json.loads(text)) == set(RUBRIC_PARTS)
        except ValueError:
            continue
    assert 0.93 < good / len(rubrics) < 1


def test_the_target_never_sees_an_unknown_rule() -> None:
    world = World(0)
    seen = [prompt[-1]["content"] for prompt, _ in target_examples(3000, 1, world)]
    for cls, key in world.unknown:
        tests = next(r.tests for r in RELATIONS if r.key == key)
        stems = [(t.split("{x}")[0], t.split("{x}")[1]) for t in tests]
        assert not any(q.startswith(a) and q.endswith(cls + b) for q in seen for a, b in stems)


def test_a_tiny_build_loads_is_repeatable_and_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    parts: list[str] = []
    models = build.ensure_lab(World(0), tmp_path / "a", lambda part, share: parts.append(part), TINY)
    again = build.ensure_lab(World(0), tmp_path / "b", None, TINY)
    assert set(parts) == {"writer", "base generator", "generator", "target"}
    for role in ("writer", "generator", "target"):
        one, two = (AutoModelForCausalLM.from_pretrained(getattr(m, role)) for m in (models, again))
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
        assert one.generation_config.eos_token_id == AutoTokenizer.from_pretrained(getattr(models, role)).eos_token_id

    def refuse(*_: object) -> None:
        raise AssertionError("built again")

    monkeypatch.setattr(build, "_build_shared", refuse)
    monkeypatch.setattr(build, "_build_world", refuse)
    assert build.ensure_lab(World(0), tmp_path / "a", None, TINY) == models
    assert build.lab_identity(World(0)) != build.lab_identity(World(1))


def test_a_disturbance_gives_other_models_under_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    monkeypatch.delenv(build.DISTURBANCE, raising=False)
    plain = build.ensure_lab(World(0), tmp_path, None, TINY)
    monkeypatch.setenv(build.DISTURBANCE, "0")
    assert build.ensure_lab(World(0), tmp_path, None, TINY) == plain
    monkeypatch.setenv(build.DISTURBANCE, "1")
    other = build.ensure_lab(World(0), tmp_path, None, TINY)
    assert other.identity != plain.identity
    for role in ("writer", "generator", "target"):
        one, two = (AutoModelForCausalLM.from_pretrained(getattr(m, role)) for m in (plain, other))
        assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


@pytest.mark.parametrize("value", ["-1", "1.5", "yes"])
def test_a_disturbance_that_is_no_number_is_one_sentence(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(build.DISTURBANCE, value)
    with pytest.raises(ConfigError, match="HARNESS_LAB_DISTURB is"):
        build.lab_identity(World(0))


def test_a_cache_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "lab").write_text("a file")
    with pytest.raises(PrerequisiteError, match="HARNESS_CACHE"):
        build.ensure_lab(World(0), tmp_path, None, TINY)
