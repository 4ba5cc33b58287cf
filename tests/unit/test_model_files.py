"""Identities of models that are folders: all that changes what a model does is in them, and nothing else."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from harness import types
from harness.config import EmbedderConfig
from harness.config_models import ModelConfig
from harness.errors import InputError
from harness.models.embedder import embedder_identity
from harness.models.open import model_identity
from harness.types import file_hash


def write(folder: Path, name: str, text: str = "{}") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def identity(folder: Path) -> str:
    return model_identity(ModelConfig(id=str(folder)), None)


def plain(folder: Path) -> Path:
    write(folder, "config.json")
    write(folder, "tokenizer.json")
    return folder


MATTERS = (
    *("pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model.pt", "model.pth", "model.ckpt", "model.gguf"),
    *("model.safetensors", "adapter_model.safetensors", "adapter_model.bin", "pytorch_model.bin.index.json"),
    *("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "merges.txt", "vocab.txt", "vocab.json"),
    *("added_tokens.json", "special_tokens_map.json", "qwen.tiktoken", "dict.vocab", "bpe.merges"),
    *("modeling_own.py", "layers/rope.py", "chat_template.jinja", "chat_template.json", "generation_config.json"),
    "additional_chat_templates/tool_use.jinja",
)


@pytest.mark.parametrize("name", MATTERS)
def test_what_changes_a_model_changes_its_identity(tmp_path: Path, name: str) -> None:
    without = identity(plain(tmp_path))
    write(tmp_path, name, "one")
    one = identity(tmp_path)
    write(tmp_path, name, "two")
    assert len({without, one, identity(tmp_path)}) == 3


INERT = (
    *("README.md", "LICENSE.txt", "NOTICE.txt", "requirements.txt", "optimizer.pt", "scheduler.pt", "rng_state.pth"),
    *("training_args.bin", ".gitattributes", "train.log", "figure.png", "checkpoint-5/model.safetensors"),
    "provenance.json",
)


@pytest.mark.parametrize("name", INERT)
def test_what_lies_beside_a_model_changes_nothing(tmp_path: Path, name: str) -> None:
    before = identity(plain(tmp_path))
    write(tmp_path, name, "one")
    assert identity(tmp_path) == before


def test_identities_of_folders_with_safetensors_are_what_they_were(tmp_path: Path) -> None:
    write(plain(tmp_path), "model.safetensors", "weights")
    write(tmp_path, "chat_template.jinja", "{{ x }}")
    named = "".join(p.name + file_hash(p) for p in sorted(tmp_path.iterdir()))
    assert identity(tmp_path) == f"files:{hashlib.sha256(named.encode()).hexdigest()[:16]}"
    # Weights that are not loaded, since there are safetensors.
    before = identity(tmp_path)
    write(tmp_path, "pytorch_model.bin", "others")
    assert identity(tmp_path) == before


@pytest.mark.parametrize("changed", ["base/config.json", "base/pytorch_model.bin", "adapter/adapter_model.bin"])
def test_an_adapter_is_itself_and_what_it_is_loaded_upon(tmp_path: Path, changed: str) -> None:
    write(tmp_path, "base/config.json")
    write(tmp_path, "adapter/adapter_config.json", json.dumps({"base_model_name_or_path": str(tmp_path / "base")}))
    before = identity(tmp_path / "adapter")
    write(tmp_path, changed, "other")
    assert identity(tmp_path / "adapter") != before
    write(tmp_path, "adapter/adapter_config.json", "no json")
    with pytest.raises(InputError, match="save the adapter again"):
        identity(tmp_path / "adapter")


@pytest.mark.parametrize("name", ["1_Pooling/config.json", "2_Dense/pytorch_model.bin", "own.py", "merges.txt"])
def test_embedders_are_all_their_modules(tmp_path: Path, name: str) -> None:
    write(plain(tmp_path), "modules.json")
    seen = set()
    for text in ("one", "two"):
        write(tmp_path, name, text)
        seen.add(embedder_identity(EmbedderConfig(id=str(tmp_path))))
    assert len(seen) == 2


def test_a_large_file_is_read_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(types, "LARGE", 4)
    reads = []
    real = types._content_hash
    monkeypatch.setattr(types, "_content_hash", lambda path: reads.append(path) or real(path))
    path = write(tmp_path, "model.bin", "weights one")
    first = file_hash(path)
    assert file_hash(path) == first and len(reads) == 1
    path.write_text("weights two")
    os.utime(path, ns=(1, 1))
    second = file_hash(path)
    other = write(tmp_path, "other.bin", "weights six")
    os.utime(other, ns=(1, 1))
    os.replace(other, path)
    assert len({first, second, file_hash(path)}) == 3 and len(reads) == 3
