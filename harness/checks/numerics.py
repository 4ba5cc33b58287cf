"""Checks of this machine's arithmetic: products, bfloat16, and the gradients of a tiny model, in some seconds."""

from __future__ import annotations

from typing import Any

from harness.checks.findings import Finding


def numeric_findings() -> list[Finding]:
    """Precision of products, bfloat16, repeatability, and gradients of a tiny model against float64."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return [_products(torch, device), _bfloat16(torch, device), *_tiny_model(torch, device)]


def _products(torch: Any, device: str) -> Finding:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 256, generator=generator) for _ in range(2))
    exact = a.double() @ b.double()
    got = (a.to(device) @ b.to(device)).cpu().double()
    off = float((got - exact).norm() / exact.norm())
    mode = torch.get_float32_matmul_precision()
    value = f"32-bit products on {device}: relative error {off:.1e} (precision setting '{mode}')"
    fix = "torch.set_float32_matmul_precision('highest'): TF32 shortens products to 10 bits" if off > 1e-5 else ""
    return Finding("numerics", "float32", value, fix)


def _bfloat16(torch: Any, device: str) -> Finding:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(64, 64, generator=generator) for _ in range(2))
    try:
        got = (a.to(device, torch.bfloat16) @ b.to(device, torch.bfloat16)).float().cpu()
    except RuntimeError as error:
        value = f"not supported on {device} ({str(error).splitlines()[0]})"
        return Finding("numerics", "bfloat16", value, "set the models' dtype to float32")
    off = float((got - a @ b).norm() / (a @ b).norm())
    return Finding(
        "numerics",
        "bfloat16",
        f"products on {device}: relative error {off:.1e}",
        "set the models' dtype to float32" if off > 2e-2 else "",
    )


def _tiny_model(torch: Any, device: str) -> list[Finding]:
    """Loss and gradients of a two-layer Qwen3: the same twice, and those of float64 on the processor."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        tie_word_embeddings=True,
    )
    model = Qwen3ForCausalLM(config)
    ids = torch.randint(0, 64, (2, 24), generator=torch.Generator().manual_seed(1))

    def gradients(place: str, dtype: Any) -> Any:
        copy = Qwen3ForCausalLM(config).to(place, dtype)
        copy.load_state_dict(model.state_dict())
        copy(input_ids=ids.to(place), labels=ids.to(place)).loss.backward()
        return torch.cat([p.grad.flatten() for p in copy.parameters()]).cpu()

    first, again = gradients(device, torch.float32), gradients(device, torch.float32)
    exact = gradients("cpu", torch.float64)
    off = float((first.double() - exact).norm() / exact.norm())
    same = bool(torch.equal(first, again))
    differs = "equal seeds will give results that differ in the last digits here"
    return [
        Finding("numerics", "repeatable", "gradients are the same twice, to the bit" if same else differs),
        Finding(
            "numerics",
            "gradients",
            f"of a tiny Qwen3 in 32 bits against 64: relative error {off:.1e}",
            "do not trust scores from this installation: reinstall torch and transformers" if off > 1e-4 else "",
        ),
    ]
