"""A plug-in and its settings as one choice: layers, presets, mistakes, and what a run and its stages are named by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from harness.config import RunConfig, SignalChoice
from harness.errors import ConfigError
from harness.resolve.assemble import assemble
from harness.resolve.layers import resolve_run
from harness.runtime.run import identity_settings, naming_settings, run_name
from harness.settings import Resolved, dump_yaml
from methods.signals.influence.settings import InfluenceSettings
from methods.signals.influence.signal import InfluenceSignal
from methods.signals.loss import LossSettings


def run(**options: Any) -> Resolved:
    return resolve_run(**{"method": "optimsyn", "target": "nano", **options})


def refusal(**options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        run(**options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def identities(config: RunConfig) -> list[str]:
    return [stage.folder_name for stage in assemble(config).stages]


def test_a_name_alone_or_a_mapping_means_a_choice() -> None:
    by_name = SignalChoice.model_validate("loss")
    assert (by_name.name, by_name.settings) == ("loss", LossSettings())
    of_base = SignalChoice.model_validate({"name": "loss", "checkpoint": "base"})
    assert of_base.settings == LossSettings(checkpoint="base")
    nothing = SignalChoice.model_validate("none")
    assert not nothing.chosen and nothing.plugin is None and by_name.plugin is not None
    with pytest.raises(ValidationError, match="checkpoint: Input should be 'warm' or 'base'"):
        SignalChoice.model_validate({"name": "loss", "checkpoint": "cold"})
    with pytest.raises(ConfigError, match="no signal 'los'; did you mean 'loss'"):
        SignalChoice.model_validate("los")


def test_settings_of_the_chosen_signal_come_from_every_layer(tmp_path: Path) -> None:
    plain = run()
    assert plain.config.signal.settings == InfluenceSignal.with_preset("optimsyn-paper")
    assert plain.origin["signal.name"] == "method optimsyn"
    assert plain.origin["signal.eps_mode"] == "preset paper"
    mine = tmp_path / "mine.yaml"
    mine.write_text("signal: {name: influence, preset: less, eps: 1e-6}\n")
    filed = run(config_file=str(mine), sets={"signal.momentum": False})
    less = {**InfluenceSignal.presets["less"], "eps": 1e-6, "momentum": False}
    assert filed.config.signal.settings == InfluenceSettings(**less)
    assert filed.origin["signal.aggregate"] == f"file {mine}"
    assert (filed.origin["signal.eps"], filed.origin["signal.momentum"]) == (f"file {mine}", "command line")


def test_another_signal_drops_the_settings_of_the_former(tmp_path: Path) -> None:
    other = run(signal="loss", sets={"signal.checkpoint": "base"})
    assert other.config.signal.settings == LossSettings(checkpoint="base")
    assert [key for key in other.origin if key.startswith("signal.")] == ["signal.name", "signal.checkpoint"]
    # The same name again keeps them.
    assert run(signal="influence").config == run().config
    stored = tmp_path / "config.yaml"
    stored.write_text(dump_yaml(other.config))
    assert resolve_run(config_file=str(stored)).config == other.config
    assert resolve_run(config_file=str(stored), signal="random").config.signal.identity() == {"name": "random"}
    assert resolve_run(config_file=str(stored), driver="static").config.signal.name == "none"


def test_selection_has_a_signal_of_its_own_settings() -> None:
    """The same signal twice in one run, under other settings."""
    config = run(sets={"select.keep": 0.5, "select.signal": "influence", "select.signal.update": "sgd"}).config
    assert config.select is not None and config.select.signal is not None
    assert config.select.signal.identity() == {"name": "influence", "update": "sgd"}
    assert config.signal.identity() == {"name": "influence"}
    scores = assemble(config).stage("score")
    assert scores is not None and scores.settings["signal"] == {"name": "influence", "update": "sgd"}
    nested = run(sets={"select": {"keep": 0.5, "signal": {"name": "loss", "checkpoint": "base"}}}).config
    assert nested.select is not None and nested.select.signal == SignalChoice(
        name="loss", settings=LossSettings(checkpoint="base")
    )
    switched = run(sets={"select.keep": 0.5, "select.signal": None}).config
    assert switched.select is not None and switched.select.signal is None


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        ({"signal.updat": "sgd"}, "unknown setting 'signal.updat' (command line); did you mean 'signal.update'?"),
        ({"signal.update": "sdg"}, "'signal.update' (command line): expected adam or sgd ("),
        ({"signal.eps": True}, "setting 'signal.eps' (command line): expected a number, got true"),
        ({"signal.preset": "les"}, "signal 'influence' has no preset 'les'; did you mean 'less'?"),
        ({"signal": "influense"}, "there is no signal 'influense'; did you mean 'influence'?"),
        ({"signal": 5}, "there is no signal '5'"),
        ({"select.keep": 0.5, "select.signal.eps": 1}, "set select.signal=NAME, too"),
        ({"select.keep": 0.5, "select.signal.preset": "less"}, "set select.signal=NAME, too"),
        ({"influence.update": "sgd"}, "setting 'influence.update' (command line) is 'signal.update' now"),
        ({"loss.checkpoint": "base"}, "'signal.checkpoint' now, beside signal 'loss'"),
    ],
)
def test_mistakes_get_one_line(sets: dict[str, Any], said: str) -> None:
    assert said in refusal(sets=sets)


def test_a_setting_that_nothing_would_read_is_refused() -> None:
    assert "it has no settings (signal 'random')" in refusal(signal="random", sets={"signal.update": "sgd"})
    assert "driver 'static' uses no signal" in refusal(driver="static", sets={"signal.update": "sgd"})
    assert "name two of them" in refusal(signal="random", sets={"signal.name": "loss"})


def test_settings_of_signals_that_are_not_in_use_name_nothing() -> None:
    static = run(method="static").config
    assert "influence" not in dump_yaml(static).replace("influence:", "influence")
    assert naming_settings(static)["signal"] == {"name": "none"}
    changed = run(sets={"signal.update": "sgd"}).config
    assert run_name(changed) != run_name(run().config)
    assert identities(changed)[:3] == identities(run().config)[:3], "sources, initial pairs and warm-up"
    assert identities(changed)[3:] != identities(run().config)[3:]


def test_what_stands_at_its_default_names_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that is added tomorrow renames no run and no stage; a raised version renames both."""
    given = run(signal="loss", driver="best_of_n")
    name, stages = run_name(given.config), identities(given.config)

    class More(LossSettings):
        added: int = 3

    loss = given.config.signal.plugin
    assert loss is not None
    monkeypatch.setattr(loss, "Settings", More)
    later = run(signal="loss", driver="best_of_n")
    assert later.config.signal.settings == More() and "signal.added" in later.origin
    assert (run_name(later.config), identities(later.config)) == (name, stages)
    set_to = run(signal="loss", driver="best_of_n", sets={"signal.added": 4}).config
    assert run_name(set_to) != name and identities(set_to) != stages
    monkeypatch.setattr(loss, "version", 2)
    raised = run(signal="loss", driver="best_of_n").config
    assert run_name(raised) != name and identities(raised) != stages


def test_a_section_of_its_own_defaults_names_nothing_either() -> None:
    """All of a run's settings, not only its plug-ins', are named by what differs from the default."""
    config = run(method="static").config
    assert "max_passes" not in naming_settings(config)["synthesis"]
    assert identity_settings(config)["synthesis"]["max_passes"] == 8
    assert run_name(config) != run_name(run(method="static", sets={"synthesis.max_passes": 9}).config)
