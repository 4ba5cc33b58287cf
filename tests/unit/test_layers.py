"""How names, files and flags become settings: what wins, what belongs together, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.errors import ConfigError
from harness.resolve.layers import resolve_run
from harness.settings import Resolved, dump_yaml


def _run(**options: Any) -> Resolved:
    return resolve_run(**{"method": "optimsyn", "target": "nano", **options})


def _file(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def _stored(path: Path, **options: Any) -> str:
    return _file(path / "config.yaml", dump_yaml(_run(**options).config))


def test_each_layer_wins_over_the_one_before(tmp_path: Path) -> None:
    plain = _run()
    assert plain.origin["synthesis.samples_per_seed"] == "method optimsyn"
    assert plain.origin["driver.reward.penalty"] == "preset paper"
    assert plain.origin["driver.learning_rate"] == "target nano"
    assert plain.origin["driver.steps"] == "scale full"
    path = _file(tmp_path / "mine.yaml", "driver: {steps: 3, learning_rate: 1e-4}\nbudget: 30\n")
    mine = _run(config_file=path, budget=31.0, sets={"driver.learning_rate": 0.5})
    grpo = mine.config.driver.settings
    assert (grpo.steps, grpo.learning_rate, mine.config.budget) == (3, 0.5, 31.0)
    assert mine.origin["driver.steps"] == f"file {path}"
    assert mine.origin["budget"] == "command line"


def test_flags_win_over_names_in_a_file(tmp_path: Path) -> None:
    path = _file(tmp_path / "mine.yaml", "method: static\ntarget: nano\nscale: full\n")
    config = resolve_run(config_file=path, method="optimsyn", scale="smoke").config
    assert (config.method, config.driver.name, config.signal.name, config.scale) == (
        "optimsyn",
        "grpo",
        "influence",
        "smoke",
    )
    assert config.budget == _run(scale="smoke").config.budget


def test_a_stored_config_resolves_to_itself(tmp_path: Path) -> None:
    stored = _stored(tmp_path, scale="smoke", seed=4)
    assert resolve_run(config_file=stored).config == _run(scale="smoke", seed=4).config
    same_names = resolve_run(config_file=stored, method="optimsyn", target="nano", scale="smoke")
    assert same_names.config == _run(scale="smoke", seed=4).config


@pytest.mark.parametrize("other", [{"method": "static"}, {"target": "qwen3-8b"}, {"scale": "full"}, {"preset": "code"}])
def test_another_name_beside_a_stored_config_would_only_change_the_label(tmp_path: Path, other: dict[str, str]) -> None:
    stored = _stored(tmp_path, scale="smoke")
    with pytest.raises(ConfigError, match=f"--{next(iter(other))} .*holds all settings.*leave the file out"):
        resolve_run(config_file=stored, **other)


def test_a_driver_beside_a_stored_config_takes_or_leaves_its_signal(tmp_path: Path) -> None:
    stored = _stored(tmp_path)
    static = resolve_run(config_file=stored, driver="static").config
    assert (static.driver.name, static.signal.name) == ("static", "none")
    best = resolve_run(config_file=stored, driver="best_of_n").config
    assert (best.driver.name, best.signal.name) == ("best_of_n", "influence")
    with pytest.raises(ConfigError, match="uses no signal"):
        resolve_run(config_file=stored, driver="static", signal="influence")


def test_the_lab_has_its_sizes_and_its_generator() -> None:
    config = _run(scale="smoke").config
    assert config.lab is not None and config.lab.seeds == 48
    assert config.models.generator.id == "lab:generator"
    assert config.seeds.source == "lab"


def test_another_suite_is_a_rehearsal_on_real_text() -> None:
    resolved = _run(suite="pubmedqa", seeds="documents.jsonl", guide="cv:50")
    config = resolved.config
    assert config.lab is None
    assert config.models.generator.backend == "extractive"
    assert config.synthesis.generator_prompt is None
    assert (config.guide.set, config.guide.n) == ("cv", 50)
    assert resolved.origin["driver.steps"] == "scale full on real text"
    # Whole answers must fit: a shorter limit would reject every longer one as truncated.
    assert config.synthesis.generator.max_tokens == config.driver.settings.generator.max_tokens == 512


def test_own_documents_in_the_lab_get_the_generator_for_real_text() -> None:
    config = _run(seeds="documents.jsonl", scale="smoke").config
    assert config.lab is not None
    assert config.models.generator.backend == "extractive"
    assert config.suite == "lab"
    by_setting = _run(sets={"seeds.source": "documents.jsonl"}, scale="smoke").config
    assert by_setting == config


def test_sizes_of_the_scale_hold_on_real_text_where_it_has_none_of_its_own() -> None:
    config = _run(suite="pubmedqa", seeds="documents.jsonl", scale="smoke").config
    assert config.eval.limit == 40 and _run(scale="smoke").config.eval.limit is None
    assert (config.budget, config.driver.settings.steps) == (24, _run(scale="smoke").config.driver.settings.steps)


def test_a_suite_without_documents_asks_for_them() -> None:
    with pytest.raises(ConfigError, match=r"suite 'pubmedqa' comes without documents.*--seeds"):
        _run(suite="pubmedqa")


def test_the_guide_is_the_suites_first_set_unless_named() -> None:
    resolved = _run(suite="pubmedqa", seeds="documents.jsonl")
    assert (resolved.config.guide.set, resolved.origin["guide.set"]) == ("cv", "suite")
    with pytest.raises(ConfigError, match=r"no validation set 'cw'.*cv"):
        _run(suite="pubmedqa", seeds="documents.jsonl", guide="cw")
    with pytest.raises(ConfigError, match="expected SET or SET:COUNT"):
        _run(guide="asked:many")


def test_a_suite_file_is_stored_by_its_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.resolve.layers import suite_path

    monkeypatch.chdir(tmp_path)
    assert suite_path("bar/suite.yaml") == str(tmp_path / "bar" / "suite.yaml")
    assert suite_path("pubmedqa") == "pubmedqa"


def test_lab_signals_need_lab_documents() -> None:
    with pytest.raises(ConfigError, match="planted truth"):
        _run(signal="oracle", seeds="documents.jsonl")
    assert _run(signal="oracle").config.signal.name == "oracle"


def test_names_are_required_and_checked() -> None:
    with pytest.raises(ConfigError, match="--method NAME"):
        resolve_run(target="nano")
    with pytest.raises(ConfigError, match="did you mean 'optimsyn'"):
        _run(method="optimsin")
    with pytest.raises(ConfigError, match="no scale of target nano 'huge'"):
        _run(scale="huge")
