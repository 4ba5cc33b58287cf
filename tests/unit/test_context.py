"""Contexts under any of their names, and the limits of a run within them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.errors import ConfigError
from harness.models.context import Context, model_context
from harness.resolve.contexts import NAME
from harness.resolve.layers import resolve_run
from harness.settings import Resolved
from support.tiny import make_architecture


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({"max_position_embeddings": 512, "model_type": "llama"}, Context(512, "max_position_embeddings", False)),
        ({"max_position_embeddings": 512, "model_type": "opt"}, Context(512, "max_position_embeddings", True)),
        ({"n_positions": 1024, "n_ctx": 1024, "model_type": "gpt2"}, Context(1024, "n_positions", True)),
        ({"max_seq_len": 2048, "model_type": "mpt"}, Context(2048, "max_seq_len", True)),
        ({"text_config": {"max_position_embeddings": 64}}, Context(64, "max_position_embeddings", False)),
        (
            {"text_config": {"n_positions": 64}, "max_position_embeddings": 512},
            Context(64, "n_positions", True),
        ),
        ({"model_type": "bloom", "seq_length": 2048}, None),
        ({"max_position_embeddings": "512"}, None),
        ({"max_position_embeddings": True, "n_positions": 0}, None),
        ({}, None),
    ],
)
def test_the_context_is_read_under_any_of_its_names(config: dict[str, Any], wanted: Context | None) -> None:
    assert model_context(config) == wanted


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for kind in ("gpt2", "mpt", "opt", "llama", "bloom"):
        make_architecture(kind, folder / kind, context=128)
    return folder


def resolved(target: str, **sets: Any) -> Resolved:
    return resolve_run(method="static", target=target, seeds="x/y", suite="medical", sets=sets)


@pytest.mark.parametrize("kind", ["gpt2", "mpt", "opt", "llama"])
def test_a_folders_model_bounds_what_is_trained_and_scored(kind: str, models: Path) -> None:
    found = resolved(str(models / kind))
    assert found.config.models.target.max_length == found.config.sft.max_length == 128
    assert found.origin["sft.max_length"] == NAME


def test_positions_without_an_end_bound_nothing(models: Path) -> None:
    assert resolved(str(models / "bloom")).config.sft.max_length > 128


def test_a_limit_beyond_a_table_of_positions_is_refused(models: Path) -> None:
    for key in ("sft.max_length", "models.target.max_length"):
        with pytest.raises(ConfigError, match=rf"{key}=256 is more than the 128 tokens .*\(n_positions in its config"):
            resolved(str(models / "gpt2"), **{key: 256})
        assert resolved(str(models / "gpt2"), **{key: 64})
        assert dict(_flat(resolved(str(models / "llama"), **{key: 256})))[key] == 256


def test_a_writer_is_bounded_by_its_own_positions(models: Path) -> None:
    config = resolved(str(models / "llama"), **{"models.writer.id": str(models / "gpt2")}).config
    assert config.models.writer.max_length == 128 and config.models.target.max_length == 128


def test_a_models_limits_do_not_move_the_labs() -> None:
    config = resolve_run(method="static", target="nano").config
    assert (config.models.target.max_length, config.sft.max_length) == (1024, 512)


def _flat(found: Resolved) -> Any:
    from harness.settings import flatten

    return flatten(found.config.model_dump(mode="json"))
