"""Runs of earlier versions: shown as they are, and refused in one line where their settings have another form now."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.cli.main import main
from harness.errors import ConfigError
from harness.resolve.layers import resolve_run
from harness.runtime.run import identity_settings, open_run
from harness.settings import dump_yaml
from support.made_runs import make_run

OLD_SECTIONS: dict[str, Any] = {
    "influence": {"preset": "optimsyn-paper", "update": "adam", "eps": 1e-8, "aggregate": "mean_cosine"},
    "local_influence": {"form": "exact", "learning_rate": None},
    "loss": {"checkpoint": "warm"},
    "val_bm25": {"k1": 1.2, "b": 0.75, "aggregate": "mean"},
    "val_cosine": {"aggregate": "mean"},
}
OLD_SIGNALS = {
    "grpo": {
        "signal": "influence",
        "facts": {"checks": [{"name": "hook coverage", "status": "passed"}], "rewarded": {"validation_items": 16}},
        "diagnostics": {"scored": 30.0, "halves_agreement": 0.8},
    }
}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A finished run as versions left it whose signals' settings were sections of their own."""
    folder = make_run(tmp_path / "runs", "old", {"lab_asked": [1, 0, 1]}, {"lab_asked": [0, 0, 1]})
    config = resolve_run(method="optimsyn", target="nano", scale="smoke").config
    settings = {**config.model_dump(mode="json"), "signal": "influence", **OLD_SECTIONS}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    manifest = json.loads((folder / "run.json").read_text())
    settings.pop("runtime")
    manifest |= {"run": "old", "settings": settings, "stages": {"grpo": "grpo-1"}, "signals": OLD_SIGNALS}
    (folder / "run.json").write_text(json.dumps(manifest))
    return folder


def test_an_old_run_is_listed_shown_and_compared(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = make_run(old.parent, "new", {"lab_asked": [1, 1, 1]}, {"lab_asked": [0, 0, 1]}, signal="random")
    for command in (["ls", "--runs", str(old.parent)], ["show", str(old)], ["compare", str(old), str(other)]):
        assert main(command) == 0, command
        out = capsys.readouterr().out
        assert "lab_asked" in out and "old" in out


@pytest.mark.parametrize("command", [["resume", "OLD"], ["run", "OLD/config.yaml"], ["plan", "OLD/config.yaml"]])
def test_an_old_runs_settings_are_refused_with_what_to_do(
    old: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    assert main([word.replace("OLD", str(old)) for word in command]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "is of an earlier version" in said and "signal: {name: influence" in said
    assert f"delete the sections {', '.join(sorted(OLD_SECTIONS))}, and start a new run" in said
    assert before == {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}


def _stored(folder: Path, forget: str = "", **changes: Any) -> Path:
    """A run of today's version, whose manifest may lack a setting that came later."""
    config = resolve_run(method="optimsyn", target="nano", signal="loss").config
    folder.mkdir(parents=True)
    text = yaml.safe_load(dump_yaml(config))
    settings = identity_settings(config)
    for tree in (text, settings):
        *parents, leaf = forget.split(".") if forget else ("",)
        for parent in parents:
            tree = tree[parent]
        tree.pop(leaf, None)
    text["signal"] |= changes
    (folder / "config.yaml").write_text(yaml.safe_dump(text), encoding="utf-8")
    (folder / "run.json").write_text(json.dumps({"status": "failed", "settings": settings}))
    return folder


@pytest.mark.parametrize("forget", ["signal.checkpoint", "synthesis.max_passes", "sft.warmup_ratio"])
def test_a_setting_that_came_later_stops_no_resume(tmp_path: Path, forget: str) -> None:
    """It stands in neither file of the run, and is at its default."""
    folder = _stored(tmp_path / "mine", forget)
    assert open_run(str(folder), tmp_path).config.signal.name == "loss"


def test_a_setting_that_was_changed_does(tmp_path: Path) -> None:
    folder = _stored(tmp_path / "mine", checkpoint="base")
    with pytest.raises(ConfigError, match=r"drifted from what the run was created with: signal\.checkpoint"):
        open_run(str(folder), tmp_path)
