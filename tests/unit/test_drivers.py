"""Drivers as plug-ins: settings beside the class, tracks that know several, pairings without a method, old names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from harness import plugins
from harness.cli import main as cli
from harness.config import SftConfig
from harness.errors import ConfigError
from harness.identity import identity
from harness.resolve.assemble import assemble
from harness.resolve.layers import resolve_run
from harness.resolve.registry import targets
from harness.runtime.run import create_run, open_run, run_name
from harness.settings import dump_yaml
from methods.drivers.catalogue import driver_classes
from methods.drivers.grpo import Grpo
from methods.drivers.grpo_settings import GrpoSettings
from support.made_runs import make_run


def config(**options: Any) -> Any:
    return resolve_run(**{"target": "nano", "scale": "smoke", **options}).config


class TestPairing:
    def test_a_driver_and_a_signal_need_no_method(self, tmp_path: Path) -> None:
        found = config(driver="best_of_n", signal="loss")
        assert (found.method, found.driver.name, found.signal.name) == ("best_of_n", "best_of_n", "loss")
        assert run_name(found).startswith("best_of_n+loss@nano-0-")
        path = tmp_path / "config.yaml"
        path.write_text(dump_yaml(found), encoding="utf-8")
        assert resolve_run(config_file=str(path)).config == found

    def test_its_settings_are_the_classes_and_the_tracks(self) -> None:
        resolved = resolve_run(driver="grpo", signal="length", target="nano")
        assert not [key for key, layer in resolved.origin.items() if layer.startswith(("method", "preset"))]
        assert resolved.origin["driver.learning_rate"] == "target nano"
        assert resolved.origin["driver.entropy_coefficient"] == "default"

    def test_what_is_missing_is_said(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(ConfigError, match="driver 'grpo' needs a signal; give one with --signal"):
            config(driver="grpo")
        with pytest.raises(ConfigError, match="there is no method 'best_of_n', but a driver: --driver best_of_n"):
            config(method="best_of_n")
        assert cli.main(["plan", "--target", "nano"]) == 2
        assert "--driver and --signal" in capsys.readouterr().err

    def test_a_file_may_name_a_pairing(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.yaml"
        path.write_text("driver: {name: best_of_n, n: 7}\nsignal: length\ntarget: nano\n", encoding="utf-8")
        assert resolve_run(config_file=str(path)).config.driver.settings.n == 7


class TestSettings:
    def test_a_track_has_settings_for_drivers_and_gives_the_one_in_use_its_own(self) -> None:
        assert config(method="optimsyn").driver.settings.steps == 8
        assert config(driver="grpo", signal="length").driver.settings.steps == 8
        other = config(method="optimsyn", driver="best_of_n")
        assert other.driver.settings.model_dump() == {"n": 4}

    def test_tracks_name_drivers_that_there_are_and_settings_that_they_take(self) -> None:
        def sections(values: Mapping[str, Any]) -> list[Mapping[str, Any]]:
            below = [found for value in values.values() if isinstance(value, dict) for found in sections(value)]
            return [*([values["drivers"]] if "drivers" in values else []), *below]

        known = {found.name: found for found in driver_classes()[0]}
        seen = 0
        for track in targets().values():
            for part in (track.settings, track.lab or {}, track.rehearsal or {}, track.scales):
                for section in sections(part):
                    for name, own in section.items():
                        known[name].Settings.model_validate(own)
                        seen += 1
        assert seen >= 7

    def test_other_drivers_settings_are_not_taken(self) -> None:
        with pytest.raises(ConfigError, match=r"unknown setting 'driver\.n' \(command line\)"):
            config(method="optimsyn", sets={"driver.n": 3})
        with pytest.raises(ConfigError, match=r"it has no settings \(driver 'static'\)"):
            config(method="static", sets={"driver.steps": 3})

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"sets": {"grpo.steps": 3}}, r"setting 'grpo\.steps' \(command line\) is 'driver\.steps' now"),
            ({"sets": {"best_of": 3}}, r"is 'driver\.n' now, beside driver 'best_of_n'"),
            ({"driver": "grpo_rubric"}, "driver 'grpo_rubric' is called 'grpo' now"),
            ({"driver": "grpoo"}, "there is no driver 'grpoo'; did you mean 'grpo'"),
        ],
    )
    def test_old_spellings_name_the_new(self, options: dict[str, Any], said: str) -> None:
        with pytest.raises(ConfigError, match=said):
            config(method="optimsyn", **options)

    def test_raw_scores_do_not_reach_the_learner(self) -> None:
        with pytest.raises(ValidationError, match="raw scores"):
            GrpoSettings.model_validate({"reward": {"scope": "none"}, "advantage_scale": "none"})

    def test_rollouts_by_a_server_need_one_and_an_adapter(self) -> None:
        with pytest.raises(ConfigError, match=r"driver\.rollouts=server needs models\.writer\.backend=vllm"):
            assemble(config(method="optimsyn", sets={"driver.rollouts": "server", "driver.tune": "lora"}))

    def test_all_are_usable_and_listed(self, capsys: pytest.CaptureFixture[str]) -> None:
        usable, faults = driver_classes()
        assert {"static", "best_of_n", "grpo"} <= {found.name for found in usable} and faults == []
        assert plugins.names(plugins.DRIVERS) == sorted(found.name for found in usable)
        assert cli.main(["drivers"]) == 0
        assert "grpo         yes            the drafting model" in capsys.readouterr().out


class TestAddedSettings:
    """A setting that is added tomorrow, and whose default leaves everything as it was."""

    def test_it_moves_no_identity_until_it_is_set(self) -> None:
        today = SftConfig

        class SftConfig_(today):  # type: ignore[misc, valid-type]
            label_smoothing: float = 0.0

        SftConfig_.__name__ = "SftConfig"
        assert identity(SftConfig_(epochs=4)) == identity(today(epochs=4))
        assert identity(SftConfig_(label_smoothing=0.1)) == {**identity(today()), "label_smoothing": 0.1}

    def test_a_drivers_new_setting_moves_neither_stages_nor_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def named() -> tuple[str, list[str]]:
            found = config(method="optimsyn", signal="length")
            return run_name(found), [stage.identity for stage in assemble(found).stages]

        before = named()

        class GrpoSettings_(GrpoSettings):
            ratio_level: str = "token"

        GrpoSettings_.__name__ = "GrpoSettings"
        monkeypatch.setattr(Grpo, "Settings", GrpoSettings_)
        assert "ratio_level" in config(method="optimsyn").model_dump()["driver"]
        assert named() == before
        other = config(method="optimsyn", signal="length", sets={"driver.ratio_level": "sequence"})
        assert run_name(other) != before[0]
        changed = [stage.name for stage in assemble(other).stages if stage.identity not in before[1]]
        assert changed[0] == "grpo" and "sources" not in changed and "evaluate_base" not in changed

    def test_a_run_from_before_it_goes_on(self, tmp_path: Path) -> None:
        sets = {"runtime.runs": str(tmp_path)}
        resolved = resolve_run(method="optimsyn", signal="length", target="nano", scale="smoke", sets=sets)
        folder = create_run(resolved, ["run"]).path
        manifest = json.loads((folder / "run.json").read_text())
        for section, name in (("driver", "loss"), ("decontam", "contained"), ("guide", "withhold")):
            del manifest["settings"][section][name]
        (folder / "run.json").write_text(json.dumps(manifest))
        lines = (folder / "config.yaml").read_text().splitlines()
        kept = [line for line in lines if not line.startswith(("  contained:", "  withhold:", "  loss:"))]
        assert len(kept) == len(lines) - 3
        (folder / "config.yaml").write_text("\n".join(kept) + "\n")
        assert open_run(folder.name, tmp_path).config == resolved.config
        assert create_run(resolved, ["run"]).path == folder
        # What is set is no default, and its absence is a change.
        del manifest["settings"]["sft"]["weight_decay"]
        (folder / "run.json").write_text(json.dumps(manifest))
        with pytest.raises(ConfigError, match=r"drifted .*: sft\.weight_decay;"):
            open_run(folder.name, tmp_path)


class TestOldRuns:
    """A run folder of a version whose drivers had no settings of their own."""

    @pytest.fixture
    def runs(self, tmp_path: Path) -> Path:
        for name in ("a", "b"):
            folder = make_run(tmp_path, name, {"asked": [1, 0, 1]}, {"asked": [0, 0, 1]}, driver="grpo_rubric")
            manifest = json.loads((folder / "run.json").read_text())
            settings = {"driver": "grpo_rubric", "signal": "influence", "suite": "lab", "guide": {"set": "asked"}}
            manifest |= {"settings": {**settings, "grpo": {"steps": 3}, "best_of": 4}}
            manifest |= {"stages": {"sources": "sources-1", "grpo": "grpo-1", "finetune": "finetune-1"}}
            (folder / "run.json").write_text(json.dumps(manifest))
            lines = ("method: optimsyn", "driver: grpo_rubric", "target: nano", "best_of: 4", "grpo: {steps: 3}")
            (folder / "config.yaml").write_text("\n".join(lines), encoding="utf-8")
        return tmp_path

    def test_it_is_shown_and_compared(self, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["ls", "--runs", str(runs)]) == 0
        assert cli.main(["show", "a", "--runs", str(runs)]) == 0
        assert "optimsyn = grpo_rubric × influence" in capsys.readouterr().out
        assert cli.main(["compare", "a", "b", "--runs", str(runs)]) == 0

    def test_going_on_is_refused_in_one_line(self, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["resume", "a", "--runs", str(runs)]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "now" in said and "best_of" in said

    def test_its_trained_writer_is_found(self, runs: Path) -> None:
        from results.runs import load_run, stage_of

        run = load_run(runs / "a")
        assert stage_of(run, "policy") == "grpo-1" and stage_of(run, "checkpoints") is None


def test_drafts_answered_in_parts_are_another_result() -> None:
    """In the process a step's drafts are answered in parts of a shard; a server takes all of them at once."""

    def together(**sets: Any) -> Any:
        stages = assemble(resolve_run(method="optimsyn", target="nano", scale="smoke", sets=sets).config).stages
        (policy,) = [stage for stage in stages if stage.kind == "policy"]
        return policy.settings.get("answered_together")

    served = {"models.generator.backend": "openai", "models.generator.base_url": "http://127.0.0.1:1/v1"}
    served |= {"models.generator.id": "m"}
    assert together() is None
    assert together(**{"synthesis.shard_size": 3}) == 3
    assert together(**{"synthesis.shard_size": 3}, **served) is None
