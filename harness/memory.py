"""Peak memory of training, scoring and generation, derived from what PyTorch keeps for the backward pass.

The terms are read off the code that runs: transformers' decoder layers (RMSNorm in 32 bits, gated MLP, fused
attention), torch's autocast, TRL 1.16's tiled output layer, PEFT's LoRA layers (adapters in 32 bits), the fused AdamW
and this project's engine of sample gradients. Weights that are trained in full are float32 whatever the model is
computed in; under bfloat16 autocast a cast of every linear layer's is kept from its forward to its backward pass. A
term is a tensor that some operation saves, in bytes per token; nothing is fitted.
`tests/benchmarks/plan_memory.py` compares the sums with the allocator's peak on models that a CPU can run. Given up:
what a CUDA allocator adds by fragmentation, CUDA's own context (about half a gigabyte), and kernels' work space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harness.estimate import BYTES, ModelShape, weight_bytes

TILE_TOKENS, TILE_VOCABULARY = 4096, 32768
"""TRL's output layer makes logits for this many tokens and words at a time (`trl.kernels.chunked_logprob`)."""


CPU_PIECE, GPU_PIECE = 1 << 18, 1 << 27
"""Elements of sample gradients that signals work on at once, which bounds its temporary."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences that pass through a model together, `length` tokens each with padding.

    `masked`: their true lengths differ, so attention takes a mask instead of its causal short cut.
    """

    sequences: int
    length: int
    masked: bool = True

    @property
    def tokens(self) -> int:
        """Tokens, padding included."""
        return self.sequences * self.length


@dataclass(frozen=True, slots=True)
class Lora:
    """An adapter: its rank, what it adapts, and whether its inputs pass through dropout."""

    rank: int
    modules: Sequence[str]
    dropout: bool = False


@dataclass(frozen=True, slots=True)
class Peak:
    """Bytes by part, and the largest sum that is in memory at one time."""

    bytes: int
    parts: Mapping[str, int] = field(default_factory=dict)


def saved_by_layer(shape: ModelShape, dtype: str, batch: Batch, lora: Lora | None, *, train: bool, cuda: bool) -> int:
    """Bytes that one decoder layer keeps until its backward pass.

    With trainable weights: a norm keeps its 32-bit input, its normalised output and what it hands on, which the linear
    layers keep too, under autocast as a 16-bit copy for each of the five that follow a norm; queries and keys before
    and after their norm and after rotation; values; the attention's output; the gate, its activation, the up projection
    and their product. A frozen linear layer keeps no input, a frozen norm its 32-bit copy. A LoRA matrix does: A its
    input (in training cast anew for each module, with dropout's mask), B the rank's few numbers. Expanded keys and
    values are kept where a mask rules out grouped attention (`use_gqa_in_sdpa`), and the mask itself as numbers.
    """
    w, s = BYTES[dtype], shape
    full = lora is None
    per_token = 2 * 4 * s.hidden
    if full:
        per_token += 2 * 4 * s.hidden + (5 * w * s.hidden if w < 4 else 2 * w * s.hidden)
    if s.kind == "qwen3":
        per_token += 4 * (s.q + s.kv) + (w * (s.q + s.kv) if full else 0)
    grouped = s.kv if not batch.masked or s.kv == s.q else s.q
    per_token += w * (2 * s.q + 2 * grouped) + 4 * s.heads
    active = max(1, s.active_experts)
    per_token += w * s.intermediate * active * (4 if full else 3)
    if lora is not None:
        per_token += _lora_inputs(s, w, lora, train=train, cuda=cuda)
    mask = w * batch.sequences * batch.length**2 if batch.masked and not cuda else 0
    return per_token * batch.tokens + mask


def _lora_inputs(s: ModelShape, w: int, lora: Lora, *, train: bool, cuda: bool) -> int:
    """Bytes per token that the adapters of a layer keep: their inputs, dropout's masks, and A's outputs."""
    groups = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("o_proj",), ("down_proj",))
    widths = (s.hidden, s.hidden, s.q, s.intermediate)
    total = 0
    for names, width in zip(groups, widths, strict=True):
        adapted = sum(name in lora.modules for name in names)
        total += w * lora.rank * adapted
        if not adapted:
            continue
        if lora.dropout and train:
            # CUDA keeps a mask of bytes, the CPU a mask of numbers; and the dropped-out input of every module.
            total += adapted * width * (w + (1 if cuda else 4))
        elif w == 4 or not train:
            # One shared tensor; the attention keeps its own output already.
            total += w * width if names != ("o_proj",) else 0
        else:
            total += adapted * w * width
    return total


def head_bytes(
    shape: ModelShape, dtype: str, tokens: int, *, cuda: bool, entropy: bool = False, forward: bool = False
) -> int:
    """Work space of TRL's output layer in its backward pass, or in its `forward` pass.

    A tile of logits, as wide as the constant even for a smaller vocabulary; without Triton (any CPU) five more of 32
    bits and the vocabulary's width, a mask of bytes, and the temporaries of the line that adds the gradient (two, or
    three for an entropy term). And the hidden states' copy and 32-bit gradient. The forward pass has the tile, and
    without Triton three of the vocabulary's width.
    """
    w = BYTES[dtype]
    rows = min(tokens, TILE_TOKENS)
    if forward:
        return rows * TILE_VOCABULARY * w + (0 if cuda else rows * min(shape.vocab, TILE_VOCABULARY) * 12)
    work = 0 if cuda else rows * min(shape.vocab, TILE_VOCABULARY) * (20 + 1 + (12 if entropy else 8))
    return rows * TILE_VOCABULARY * w + work + tokens * shape.hidden * (4 + w)


def _training(
    shape: ModelShape,
    dtype: str,
    batch: Batch,
    lora: Lora | None,
    *,
    accumulate: bool,
    checkpointing: bool,
    entropy: bool,
    cuda: bool,
    reference: int = 0,
) -> Peak:
    """Peak of one optimizer step, from the second on: Adam's moments are there.

    Three moments compete: the end of the forward pass, the start of the backward pass (all activations, the output
    layer's work space; with both, under accumulation, all gradients) and its end (all gradients, and the embedding's
    before it is added).
    """
    w, s = BYTES[dtype], shape
    weights = weight_bytes(s, "float32" if lora is None else dtype)
    trained = s.parameters if lora is None else s.lora_parameters(lora.rank, lora.modules)
    gradients, moments = trained * 4, 2 * trained * 4
    casts = 0 if lora is not None or w == 4 else w * s.linear_parameters
    layer = saved_by_layer(s, dtype, batch, lora, train=True, cuda=cuda)
    activations, cast = layer * s.layers, casts
    if checkpointing:
        # What passes between layers is as wide as the embedding; a layer's weights are cast anew with its activations.
        activations = (4 if lora is None else w) * s.hidden * batch.tokens * s.layers + layer
        cast = casts // s.layers
    final = (12 if lora is None else 4) * s.hidden * batch.tokens
    head = head_bytes(s, dtype, batch.tokens, entropy=entropy, cuda=cuda)
    embedding = 0
    if lora is None:
        # The output layer's gradient is summed in 32 bits from a tile's cast weights; the embedding's is dense.
        head += 4 * s.vocab * s.hidden + (w * min(s.vocab, TILE_VOCABULARY) * s.hidden if w < 4 else 0)
        embedding = 4 * s.vocab * s.hidden
    adapters = 0 if lora is None else trained * 4
    fixed = weights + adapters + moments + reference
    # Autocast keeps all its casts until the forward pass ends, also those that checkpointing drops.
    end = casts + activations + final + head_bytes(s, dtype, batch.tokens, forward=True, cuda=cuda)
    early = max(cast + activations + final + head, end) + (gradients if accumulate else 0)
    late = gradients + embedding + (layer + cast if checkpointing else 0)
    parts = {"weights": weights + adapters, "Adam": moments, "gradients": gradients}
    if casts:
        parts["casts"] = casts
    if reference:
        parts["reference"] = reference
    parts["activations"] = activations + final
    parts["output layer"] = head
    return Peak(fixed + max(early, late), parts)


def full_training(
    shape: ModelShape, dtype: str, batch: Batch, *, accumulate: bool, checkpointing: bool = False, cuda: bool = True
) -> Peak:
    """Supervised fine-tuning of all weights; weights, gradients and both of Adam's moments in 32 bits."""
    return _training(
        shape, dtype, batch, None, accumulate=accumulate, checkpointing=checkpointing, entropy=False, cuda=cuda
    )


def lora_training(
    shape: ModelShape,
    dtype: str,
    batch: Batch,
    lora: Lora,
    *,
    accumulate: bool,
    checkpointing: bool = False,
    cuda: bool = True,
) -> Peak:
    """Supervised fine-tuning of an adapter: frozen weights, and adapter, gradients and moments in 32 bits."""
    return _training(
        shape, dtype, batch, lora, accumulate=accumulate, checkpointing=checkpointing, entropy=False, cuda=cuda
    )


def grpo_update(
    shape: ModelShape,
    dtype: str,
    batch: Batch,
    lora: Lora | None,
    *,
    accumulate: bool,
    reference: bool,
    entropy: bool,
    checkpointing: bool = False,
    cuda: bool = True,
) -> Peak:
    """A GRPO update (without its rollouts). A KL term needs the reference model, unless the policy is an adapter."""
    extra = weight_bytes(shape, "float32") if reference and lora is None else 0
    return _training(
        shape,
        dtype,
        batch,
        lora,
        accumulate=accumulate,
        checkpointing=checkpointing,
        entropy=entropy,
        cuda=cuda,
        reference=extra,
    )


def generation(
    shape: ModelShape, dtype: str, sequences: int, prompt: int, completion: int, *, trained: bool = False
) -> Peak:
    """Sampling with transformers: weights, keys and values of all sequences, and the larger of two work spaces.

    Reading the prompts keeps, in the MLP of one layer, residual and norm (2 widths) and gate, activation and up
    projection; sampling keeps logits in 32 bits and, for top-p, their sorted copy with 64-bit indices, softmax, sum
    and mask (28 bytes a word in all). `trained`: by a policy all of whose weights are trained, which are float32; under
    autocast every pass casts them, and rotation leaves keys in 32 bits.
    """
    w = BYTES[dtype]
    wide = trained and w < 4
    weights = weight_bytes(shape, "float32") + w * shape.linear_parameters if wide else weight_bytes(shape, dtype)
    cache = shape.kv_bytes_per_token * (3 if wide else w) // 2 * sequences * (prompt + completion)
    active = max(1, shape.active_experts)
    reading = sequences * prompt * w * (2 * shape.hidden + 3 * shape.intermediate * active)
    sampling = sequences * shape.vocab * 28
    parts = {"weights": weights, "cache": cache, "work space": max(reading, sampling)}
    return Peak(sum(parts.values()), parts)


def likelihood(shape: ModelShape, dtype: str, sequences: int, tokens: int) -> Peak:
    """Likelihoods as lm-eval takes them: weights, and every token's logits and their log-softmax."""
    parts = {
        "weights": weight_bytes(shape, dtype),
        "logits, log-softmax": 2 * BYTES[dtype] * sequences * tokens * shape.vocab,
    }
    return Peak(sum(parts.values()), parts)


def scoring(
    shape: ModelShape,
    dtype: str,
    batch: Batch,
    lora: Lora,
    *,
    predicting: int,
    directions: int = 1,
    checkpoints: int = 1,
    checkpointing: bool = False,
    cuda: bool = True,
) -> Peak:
    """Influence scores of a batch: forward and backward through frozen weights, per-sample adapter gradients.

    Adapters are in the model's dtype here, with a 32-bit copy, both moments and the directions of every checkpoint.
    Only the `predicting` tokens (those whose successor carries loss) have logits, of which the backward pass holds the
    log-softmax and the gradients of both in 32 bits. Later, one matrix at a time, it holds the gradients of all samples
    and one temporary.
    """
    w = BYTES[dtype]
    weights = weight_bytes(shape, dtype)
    state = shape.lora_parameters(lora.rank, lora.modules) * (w + checkpoints * 4 * (3 + directions))
    layer = saved_by_layer(shape, dtype, batch, lora, train=False, cuda=cuda)
    activations = layer * shape.layers + 4 * shape.hidden * batch.tokens
    if checkpointing:
        activations = w * shape.hidden * batch.tokens * shape.layers + layer
    logits = 12 * shape.vocab * predicting
    widest = max(_ends(shape, name) for name in lora.modules)
    sample = 4 * batch.sequences * lora.rank * widest
    gradients = sample + min(sample, 4 * (GPU_PIECE if cuda else CPU_PIECE))
    parts = {
        "weights": weights,
        "adapter, moments, directions": state,
        "activations": activations,
        "logits": logits,
        "sample gradients": gradients,
    }
    return Peak(weights + state + activations + max(logits, gradients), parts)


def _ends(shape: ModelShape, module: str) -> int:
    """The wider end of an adapted linear layer."""
    inner = {"q_proj": shape.q, "k_proj": shape.kv, "v_proj": shape.kv, "o_proj": shape.q}
    return max(shape.hidden, inner.get(module, shape.intermediate))
