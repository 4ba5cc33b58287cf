"""Settings: precedence of layers, where each value came from, and what a mistake is answered with."""

from __future__ import annotations

import math
import typing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from harness.config import RunConfig
from harness.errors import ConfigError
from harness.settings import (
    Layer,
    Resolved,
    dump_yaml,
    flatten,
    known_keys,
    nest,
    parse_assignment,
    read_config_file,
    resolve,
)

REQUIRED = {
    "method": "optimsyn",
    "driver": "grpo",
    "signal": "influence",
    "target": "nano",
    "suite": "lab",
    "budget": 60,
    "models": {"target": {"id": "t"}, "writer": {"id": "w"}, "generator": {"id": "g"}},
    "seeds": {"source": "lab"},
    "guide": {"set": "clean"},
}


def resolved(*layers: tuple[str, dict[str, Any]]) -> Resolved:
    return resolve([Layer("method", REQUIRED), *[Layer(name, values) for name, values in layers]])


def command_line(*assignments: str) -> Resolved:
    return resolved(("command line", nest(dict(parse_assignment(text) for text in assignments))))


def message(*layers: tuple[str, dict[str, Any]]) -> str:
    with pytest.raises(ConfigError) as caught:
        resolved(*layers)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_later_layers_win_key_by_key_and_leave_the_rest() -> None:
    got = resolved(
        ("preset paper", {"driver": {"group_size": 5, "learning_rate": 1e-6, "temperature": 1.5}}),
        ("target nano", {"driver": {"group_size": 8, "learning_rate": 2e-3}}),
        ("file x.yaml", {"driver": {"learning_rate": 1e-3}}),
        ("command line", {"seed": 4}),
    )
    grpo = got.config.driver.settings
    assert (grpo.group_size, grpo.learning_rate, grpo.temperature, got.config.seed) == (8, 1e-3, 1.5, 4)
    keys = ("driver.temperature", "driver.group_size", "driver.learning_rate", "seed", "driver.top_p", "method")
    assert [got.origin[key] for key in keys] == [
        "preset paper", "target nano", "file x.yaml", "command line", "default", "method",
    ]  # fmt: skip


def test_every_resolved_setting_has_an_origin() -> None:
    got = resolved()
    assert set(got.origin) == set(dict(flatten(got.config.model_dump(mode="json"))))


def test_setting_one_key_of_a_section_keeps_the_defaults_of_its_place() -> None:
    """The writer's sampling defaults differ from those of sampling in general."""
    before, after = (
        resolved().config,
        command_line("synthesis.writer.temperature=1.2", "driver.generator.top_p=0.5").config,
    )
    assert after.synthesis.writer == before.synthesis.writer.model_copy(update={"temperature": 1.2})
    assert after.driver.settings.generator == before.driver.settings.generator.model_copy(update={"top_p": 0.5})
    assert after.synthesis.generator == before.synthesis.generator


def test_a_section_can_be_switched_on_and_off() -> None:
    assert resolved().config.select is None
    on = ("file", {"select": {"keep": 0.3}})
    assert resolved(on).config.select is not None
    assert resolved(on, ("command line", {"select": None})).config.select is None
    assert resolved(("file", {"lab": {"world": 3}})).config.lab is not None


@pytest.mark.parametrize("text", ["1e-5", "1E-5", "0.00001", "1.0e-05"])
def test_scientific_notation_is_a_number_from_command_line_and_file(tmp_path: Path, text: str) -> None:
    """YAML 1.1 reads `1e-5` as text."""
    assert command_line(f"driver.learning_rate={text}").config.driver.settings.learning_rate == 1e-5
    (tmp_path / "c.yaml").write_text(f"sft:\n  learning_rate: {text}\n")
    got = resolve([Layer("method", REQUIRED), read_config_file(tmp_path / "c.yaml")])
    assert got.config.sft.learning_rate == 1e-5


def test_assignments() -> None:
    assert parse_assignment("a.b=[1, x]") == ("a.b", [1, "x"])
    assert parse_assignment("a=null") == ("a", None)
    assert parse_assignment("a=b=c") == ("a", "b=c")
    for text in ("seed", "=3", ""):
        with pytest.raises(ConfigError, match="expected KEY=VALUE"):
            parse_assignment(text)
    with pytest.raises(ConfigError, match="not valid YAML"):
        parse_assignment("a=[1")


def test_unknown_keys_are_refused_with_the_nearest_one_and_their_layer() -> None:
    said = message(("file my.yaml", {"driver": {"learning_rat": 1}}))
    assert said == "unknown setting 'driver.learning_rat' (file my.yaml); did you mean 'driver.learning_rate'?"
    assert "did you mean 'seed'" in message(("command line", {"sed": 1}))
    assert "unknown setting 'seed.x'" in message(("command line", {"seed": {"x": 1}}))


def test_wrong_values_name_key_layer_and_value() -> None:
    said = message(("file my.yaml", {"driver": {"group_size": "many"}}))
    assert said.startswith("setting 'driver.group_size' (file my.yaml): ") and said.endswith("got 'many'")
    assert "setting 'match' (command line)" in message(("command line", {"match": "smaples"}))
    assert "one of samples, sft_tokens," in message(("command line", {"match": "smaples"}))
    assert "(and 1 more)" in message(("command line", {"match": "x", "seed": -1}))
    assert "setting 'driver' (file)" in message(("file", {"driver": 5}))
    assert "setting 'synthesis.validity.excerpt_max' (file)" in message(
        ("file", {"synthesis": {"validity": {"excerpt_max": [1]}}})
    )


@pytest.mark.parametrize("key", ["x", "max_excerpt_words", "short_answer_maxx"])
def test_every_section_is_closed(key: str) -> None:
    """Also those that were open mappings: a threshold that no check reads would be a silent nothing."""
    said = message(("command line", {"synthesis": {"validity": {key: 3}}}))
    assert said.startswith(f"unknown setting 'synthesis.validity.{key}' (command line)")
    assert "did you mean" in said or "known:" in said


def _numbers(model: type[BaseModel] = RunConfig, prefix: str = "") -> list[str]:
    """Dotted keys of all settings that are numbers alone."""
    found = []
    for name, info in model.model_fields.items():
        kinds = {info.annotation, *typing.get_args(info.annotation)} - {type(None)}
        # What is in a list has no key.
        listed = typing.get_origin(info.annotation) is tuple
        sections = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel) and not listed]
        found += [key for section in sections for key in _numbers(section, f"{prefix}{name}.")]
        if kinds & {int, float} and not sections:
            found.append(prefix + name)
    return found


@pytest.mark.parametrize("key", _numbers())
def test_no_number_is_a_truth_value_or_out_of_bounds(key: str) -> None:
    whole = {f"{key.rpartition('.')[0]}.{name}": 1 for name in ("input", "output")} if ".price." in key else {}
    # A role that is optional has a model of its own, which needs a name.
    whole |= {f"models.{role}.id": "m" for role in ("answerer", "labeller") if f".{role}." in key}
    for value in (True, False, math.nan, -math.inf, "nan", 10**400, [1], "text"):
        text = message(("command line", nest({**whole, key: value})))
        assert key in text and len(text) < 400


def test_a_count_is_a_whole_number_of_reasonable_size() -> None:
    for value in ("1e3", 1.5, 2**53 + 1, "0x10"):
        assert "'driver.steps'" in message(("command line", {"driver": {"steps": value}}))
    assert command_line("driver.steps=1000.0", "budget=1e3").config.budget == 1000.0
    assert command_line("match=flops", "budget=1e18").config.budget == 1e18
    assert "expected a number" in message(("file", {"decontam": {"thresholds": [0.1, True]}}))


def test_a_missing_setting_says_that_it_is_missing() -> None:
    with pytest.raises(ConfigError, match="setting 'driver' is required and no layer sets it"):
        resolve([Layer("method", {key: value for key, value in REQUIRED.items() if key != "driver"})])


def test_contradictions_are_refused() -> None:
    both = {"driver": {"reward": {"scope": "none"}, "advantage_scale": "none"}}
    assert "without a scale" in message(("command line", both))
    assert "multiple of mini_batch_prompts" in message(("file", {"driver": {"mini_batch_prompts": 100}}))
    assert "not a whole number of samples" in message(("command line", {"budget": 1.5}))
    assert resolved(("command line", {"budget": 1.5, "match": "flops"})).config.budget == 1.5


def test_file_errors_name_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    with pytest.raises(ConfigError, match=r"cannot read the config file .*c\.yaml: No such file"):
        read_config_file(path)
    path.write_text("seed: 1\ngrpo: {group_size: 3\nsft: 2\n")
    with pytest.raises(ConfigError, match=r"c\.yaml, line 3 is not valid YAML"):
        read_config_file(path)
    path.write_bytes(b"seed: \xff\xfe\n")
    with pytest.raises(ConfigError, match=r"c\.yaml is not valid YAML"):
        read_config_file(path)
    for text in ("", "- 1\n", "just text\n"):
        path.write_text(text)
        with pytest.raises(ConfigError, match="must hold settings as 'key: value' lines"):
            read_config_file(path)
    with pytest.raises(ConfigError, match="cannot read the config file"):
        read_config_file(tmp_path)


def test_a_written_config_resolves_to_itself(tmp_path: Path) -> None:
    config = command_line(
        "driver.learning_rate=1e-6", "select.keep=0.25", "lab.world=7", "synthesis.validity.excerpt_max=9",
        "seeds.domain=médecine «x»", "runtime.runs=/tmp/elsewhere",
    ).config  # fmt: skip
    (tmp_path / "config.yaml").write_text(dump_yaml(config), encoding="utf-8")
    again = resolve([read_config_file(tmp_path / "config.yaml")])
    assert again.config == config
    assert again.origin["driver.learning_rate"] == f"file {tmp_path / 'config.yaml'}"


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        resolved().config.seed = 3  # type: ignore[misc]


def test_seeds_of_data_and_tuning_follow_the_seed_unless_set() -> None:
    config = command_line("seed=5", "sft_seed=0").config
    assert (config.synthesis_seed, config.tuning_seed) == (5, 0)


def test_known_keys_reach_into_optional_sections() -> None:
    keys = known_keys()
    assert {
        "lab.world",
        "select.signal",
        "models.writer.revision",
        "models.judge",
        "synthesis.writer.top_p",
    } <= keys
    assert set(RunConfig.model_fields) <= keys


KEYS = st.text("abc", min_size=1, max_size=3)
TREES: st.SearchStrategy[Any] = st.recursive(
    st.integers() | st.none() | st.lists(st.integers(), max_size=2),
    lambda leaf: st.dictionaries(KEYS, leaf, min_size=1, max_size=3),
    max_leaves=4,
)


@given(st.dictionaries(KEYS, TREES, max_size=3))
def test_nest_is_the_inverse_of_flatten(tree: dict[str, Any]) -> None:
    assert nest(dict(flatten(tree))) == tree


def test_half_a_character_in_any_setting_is_refused() -> None:
    for path, value in (("seeds.domain", "a\ud83d"), ("seeds.source", "f\udcff.jsonl"), ("models.target.id", "\udfff")):
        assert f"setting '{path}' (file f) holds half a character" in message(("file f", nest({path: value})))
    assert "holds half a character" in message(("file f", {"driver": {"lora_modules": ["q_proj", "\ud83d"]}}))
