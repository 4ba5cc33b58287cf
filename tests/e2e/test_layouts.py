"""Padded and packed batches against one by one, over architectures: what leaks is found in either type."""

from __future__ import annotations

import pytest
import torch

from harness.models.rope import RopeSwitch, apart_in_generation, forget_lengths, rope_switch
from harness.training.batches import batches
from harness.training.layouts import check_layout, settle_left_padding
from support.tiny import ARCHITECTURES, ROPE_BOUNDARY, make_architecture

LEAKS_WHEN_PACKED = {"bloom", "falcon", "mpt", "opt", "mamba", "qwen3_next"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_packing_is_sound_where_attention_parts_the_samples(kind: str, dtype: torch.dtype) -> None:
    check = check_layout(make_architecture(kind).to(dtype), "packed", "Set runtime.training.packing=false")
    assert check.status == ("failed" if kind in LEAKS_WHEN_PACKED else "passed"), check.line()
    if kind in LEAKS_WHEN_PACKED:
        assert "another sequence's tokens change the scores" in check.detail and "packing=false" in check.remedy


@pytest.mark.parametrize("kind", ["gpt2", "opt", "bloom", "mamba", "gemma3", "qwen3_next"])
def test_padding_is_sound(kind: str) -> None:
    model = make_architecture(kind)
    assert check_layout(model, "right", "").status == check_layout(model, "left", "").status == "passed"


def test_padding_on_the_left_without_positions_shifts_learned_ones() -> None:
    assert check_layout(make_architecture("gpt2"), "left", "", positions=False).status == "failed"
    assert check_layout(make_architecture("llama"), "left", "", positions=False).status == "passed"


def test_a_small_leak_in_bfloat16_is_no_noise() -> None:
    """What a neighbour adds stays below the tenth that was once allowed for rounding in this type."""
    model = make_architecture("llama").bfloat16()

    def mix(module: torch.nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        return output + 0.2 * output.mean(dim=0, keepdim=True)

    assert check_layout(model, "right", "").status == "passed"
    handle = model.model.layers[0].register_forward_hook(mix)
    check = check_layout(model, "right", "")
    assert check.status == "failed" and check.measured is not None and check.measured < 0.1
    handle.remove()


def test_what_the_shape_of_a_batch_changes_is_noise() -> None:
    """As kernels do that large activations make much of; padding that is counted still shows beside it."""
    model = make_architecture("gpt2")

    def shaped(module: torch.nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        return output * (1 + 5e-4 * torch.linspace(0, 1, output.shape[-1])) if output.shape[0] > 1 else output

    model.lm_head.register_forward_hook(shaped)
    assert check_layout(model, "right", "").status == check_layout(model, "left", "").status == "passed"
    assert check_layout(model, "left", "", positions=False).status == "failed"


def test_the_model_is_left_as_it_was() -> None:
    model = make_architecture("llama").train()
    model.model.layers[0].eval()
    before = [module.training for module in model.modules()]
    check_layout(model, "right", "")
    assert [module.training for module in model.modules()] == before


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({"rope_scaling": {"type": "su"}, "original_max_position_embeddings": 4096}, ("su", 4096, False)),
        (
            {"rope_parameters": {"rope_type": "longrope", "original_max_position_embeddings": 64}},
            ("longrope", 64, False),
        ),
        ({"rope_scaling": {"rope_type": "dynamic"}, "max_position_embeddings": 512}, ("dynamic", 512, True)),
        (
            {"text_config": {"rope_scaling": {"type": "dynamic"}, "max_position_embeddings": 8}},
            ("dynamic", 8, True),
        ),
        (
            {"rope_parameters": {"full": {"rope_type": "dynamic"}, "slide": {"rope_type": "default"}},
             "max_position_embeddings": 9},
            ("dynamic", 9, True),
        ),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}, "max_position_embeddings": 512}, None),
        ({"rope_scaling": None}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_the_switch_is_read_from_any_form_of_configuration(config: object, wanted: object) -> None:
    assert rope_switch(config) == (RopeSwitch(*wanted) if isinstance(wanted, tuple) else None)


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_a_long_sequence_changes_no_scores_of_its_batch_mates(kind: str) -> None:
    model = make_architecture(kind)
    forget_lengths(model)
    switch = rope_switch(model.config)
    assert switch is not None and switch.boundary == ROPE_BOUNDARY
    lengths = [7, 50, 31, 32, 33, 60, 50]
    generator = torch.Generator().manual_seed(0)
    items = [torch.randint(3, 250, (length,), generator=generator) for length in lengths]

    def scores(rows: list[int]) -> dict[int, torch.Tensor]:
        padded = torch.nn.utils.rnn.pad_sequence([items[i] for i in rows], batch_first=True)
        with torch.no_grad():
            logits = model(input_ids=padded, use_cache=False).logits
        return {i: logits[n, : lengths[i]] for n, i in enumerate(rows)}

    alone = {i: scores([i])[i] for i in range(len(items))}
    mixed = scores([0, 5])[0]
    assert (mixed - alone[0]).norm() > 1e-4 * alone[0].norm()
    for rows in batches(lengths, 8, 10_000, "right", switch):
        for i, found in scores(rows).items():
            assert (found - alone[i]).norm() < 1e-5 * alone[i].norm()


def test_what_may_cross_the_boundary_is_generated_alone() -> None:
    assert apart_in_generation(RopeSwitch("longrope", 32, False), [20, 40, 32, 50]) == [[0, 2], [1], [3]]
    assert apart_in_generation(RopeSwitch("longrope", 32, False), [33]) == [[0]]


def test_learned_positions_are_given_to_left_padded_rows() -> None:
    model, beside = make_architecture("gpt2"), make_architecture("gpt2")
    settle_left_padding(model, beside)
    for each in (model, beside):
        assert check_layout(each, "left", "", positions=False).status == "passed"
    rotary = make_architecture("llama")
    settle_left_padding(rotary)
    assert not rotary._forward_pre_hooks
