"""Checks that a model scores a sequence in a batch as alone: padded on the right or left, or packed in one row.

Three made-up sequences show it in a few forward passes, by two measurements that need no constant per type:

- With the other sequences' tokens exchanged, at equal lengths, the same kernels compute the same sums: what changes
  has leaked from them. The same exchange behind a causal model's sequence, where nothing can leak, gives the noise.
- Against the sequence alone, positions and masks are tested. The same sequence at the head of a longer one, and beside
  its twin, where nothing is padded, give the noise: a pretrained model's large activations can make much of the shapes.

Used by supervised fine-tuning, the warm-up, GRPO and the signals alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from harness.training.chat import Encoded
from harness.training.checks import Check, judge, require

if TYPE_CHECKING:
    from harness.training.batches import Layout

LENGTHS = (5, 13, 8)
"""Tokens of the made-up sequences; the second has neighbours on both sides."""

TAIL = 7
"""Tokens behind a sequence in the measurements of noise."""

NOISE = 8.0
"""How many times the noise is still taken for noise: kernels differ more between layouts than between shapes."""

Scores = Sequence[Any]
"""Logits [length, vocabulary] of each sequence, float64."""


def check_layout(model: Any, layout: Layout, setting: str, *, positions: bool = True) -> Check:
    """Whether `layout` gives each sequence the scores it has alone; `setting` is what to change where it does not.

    Measured is |difference| / |scores|. `positions=False`: only an attention mask tells where a sequence begins, as
    TRL passes batches. The model is left as it was.
    """
    import torch

    # One by one: layers that checkpoint activations may be flagged as training in a model that is not.
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            leak, leak_noise, apart, apart_noise = _measure(model, layout, positions)
    finally:
        for module, flag in flags:
            module.training = flag
    dtype = model.get_input_embeddings().weight.dtype
    eps = torch.finfo(dtype).eps
    layers = max(1, int(getattr(model.config.get_text_config(), "num_hidden_layers", 1) or 1))
    # Bounded above, since a model that reads what comes later has no sequence in which nothing can leak.
    leak_limit = min(max(NOISE * leak_noise, eps / 16, 1e-6), max(4 * eps, 1e-3))
    limits = leak_limit, min(NOISE * apart_noise + max(4 * eps * layers**0.5, 1e-5), 0.2)
    how = {"packed": "packed into one row", "left": "padded on the left", "right": "padded on the right"}[layout]
    how += "" if positions or layout == "packed" else ", without positions"
    where = f"{type(model).__name__} in {str(dtype).removeprefix('torch.')}"
    name = f"{layout} equals plain"
    if not leak <= limits[0]:
        found = "another sequence's tokens change the scores, or chance does"
        return judge(name, leak, limits[0], f"{where}, {how}: {found}", setting)
    return judge(name, apart, limits[1], f"{where}, {how}, against one by one", setting)


def settle_left_padding(model: Any, *beside: Any) -> None:
    """Have `model`, and models `beside` it, count positions from where a left-padded row begins.

    TRL passes an attention mask alone, from which GPT-2 and other learned positions do not see where that is. Models
    that need no positions are left as they are. Raises `StageError` where padding still changes the scores.
    """
    if check_layout(model, "left", "", positions=False).status == "passed":
        return
    for each in (model, *beside):
        each.register_forward_pre_hook(_with_positions, with_kwargs=True)
    remedy = "Train another writer, or take a driver that trains none"
    require([check_layout(model, "left", remedy, positions=False)], "GRPO, which pads prompts on the left,")


def _with_positions(module: Any, args: Any, given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    mask = given.get("attention_mask")
    if mask is None or given.get("position_ids") is not None or given.get("past_key_values") is not None:
        return args, given
    return args, {**given, "position_ids": (mask.long().cumsum(-1) - 1).clamp(min=0)}


def _measure(model: Any, layout: Layout, positions: bool) -> tuple[float, float, float, float]:
    """Leak and its noise, distance from plain and its noise; each |difference| / |scores|, the worst sequence's."""
    import torch

    pad = int(model.config.get_text_config().pad_token_id or 0)
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    generator = torch.Generator().manual_seed(0)

    def made(length: int) -> tuple[int, ...]:
        ids: list[int] = torch.randint(0, vocabulary, (length,), generator=generator).tolist()
        return tuple((i + 1) % vocabulary if i == pad else i for i in ids)

    items = [made(length) for length in LENGTHS]
    others = [made(length) for length in LENGTHS]
    tails = made(TAIL), made(TAIL)
    plain = [_scores(model, [item], "right", False)[0] for item in items]
    twins = [_scores(model, [item, item], "right", positions)[0] for item in items]
    behind = [_scores(model, [items[1] + tail], "right", False)[0][: LENGTHS[1]] for tail in tails]
    together = _scores(model, items, layout, positions)
    first = _scores(model, [others[0], *items[1:]], layout, positions)
    last = _scores(model, [*items[:2], others[2]], layout, positions)
    return (
        _worst([*zip(first[1:], together[1:], strict=True), *zip(last[:2], together[:2], strict=True)]),
        _worst([(behind[1], behind[0])]),
        _worst(zip(together, plain, strict=True)),
        _worst([(behind[0], plain[1]), *zip(twins, plain, strict=True)]),
    )


def _scores(model: Any, items: Sequence[tuple[int, ...]], layout: Layout, positions: bool) -> Scores:
    from harness.training.batches import collate

    device = next(model.parameters()).device
    batch = collate([Encoded(ids, 1) for ids in items], [1.0] * len(items), 0, layout, device)
    given: dict[str, Any] = {"position_ids": batch.positions} if positions or batch.packed else {}
    if batch.attention is not None and (len(items) > 1 or positions):
        given["attention_mask"] = batch.attention
    logits = model(input_ids=batch.ids, use_cache=False, **given).logits
    return [logits[row, start:end].double() for row, start, end in batch.spans]


def _worst(pairs: Iterable[tuple[Any, Any]]) -> float:
    found = [float((got - wanted).norm() / wanted.norm()) for got, wanted in pairs]
    return max(found) if all(value == value for value in found) else float("nan")
