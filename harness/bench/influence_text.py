"""The influence benchmark's result as text for a terminal."""

from __future__ import annotations

from harness.bench.influence import BenchResult


def render_influence(result: BenchResult) -> str:
    """The result for a terminal."""
    size = result.plan.size
    low, high = size.length
    logits = "full logits" if result.plan.full_logits else "logits of the completion only"
    scoring = result.plan.scoring
    lines = [
        f"{size.shape}: {result.parameters / 1e6:.1f} M parameters, {size.dtype}, LoRA rank {size.rank} on "
        f"{' '.join(m.removesuffix('_proj') for m in size.modules)} ({result.adapter_parameters / 1e6:.2f} M)",
        f"{size.samples} samples of {low} to {high} tokens, half completion; {logits}; {scoring.layout} layout, "
        f"at most {scoring.batch_tokens} tokens a batch, "
        f"activations {'recomputed' if scoring.activation_checkpointing else 'kept'}",
        ", ".join(f"{k} {v}" for k, v in result.machine.items()) + f"; {result.plan.turns} turns",
        "",
        f"{'':<34}{'samples':>8}{'samples/s':>11}{'tokens/s':>11}{'speed [range]':>23}{'peak MB':>9}",
    ]
    for row in result.rows:
        speed = f"{row.relative:.3f} [{row.low:.3f}, {row.high:.3f}]"
        peak = "" if row.peak is None else f"{row.peak / 1e6:.1f}"
        lines.append(
            f"{row.name:<34}{row.samples:>8}{row.samples_per_second:>11.2f}{row.tokens_per_second:>11.0f}{speed:>23}"
            f"{peak:>9}"
        )
    agreement, rank = result.agreement, result.agreement.spearman
    lines += [
        "",
        "speed: tokens per second relative to the plain step of the same turn, median over turns",
        *(f"{row.name}: {row.note}" for row in result.rows if row.note),
        f"engine against the definition, {agreement.samples} samples: largest error "
        f"{agreement.largest_error_of_rms:.1e} of the scores' rms, Spearman "
        + ("not defined" if rank is None else f"{rank:.4f}"),
        "milliseconds per candidate by validation items: "
        + ", ".join(f"{count}: {1000 * s:.2f}" for count, s in result.seconds_per_candidate.items()),
    ]
    return "\n".join(lines)
