"""YAML files: each key once, and one line with file and line for whatever cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from evals.catalogue import load_suite
from harness.config_runtime import TrainingConfig
from harness.errors import ConfigError
from harness.settings import parse_assignment, read_config_file
from harness.training.launch import accelerate_settings
from harness.yaml_text import parse_yaml


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "the file f.yaml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "key", "line", "first"),
    [
        ("a: 1\nb: 2\na: 3\n", "a", 3, 1),
        ("a:\n  b: 1\n  c: 2\n  b: 1\n", "b", 4, 2),
        ("{a: 1, a: 1}", "a", 1, 1),
        ("- x: 1\n- y: 1\n  y: 2\n", "y", 3, 2),
        ('a: 1\n"a": 2\n', "a", 2, 1),
        ("base: &b {k: 1, k: 2}\nuse: {<<: *b}\n", "k", 1, 1),
        ("1: a\n1: b\n", "1", 2, 1),
    ],
)
def test_a_key_that_stands_twice_is_refused(text: str, key: str, line: int, first: int) -> None:
    assert (
        refused(text) == f"the file f.yaml, line {line} names the key '{key}' twice (first in line {first}); correct it"
    )


def test_equal_keys_in_different_mappings_and_merges_are_fine() -> None:
    text = "base: &b {k: 1, m: 1}\nuse:\n  <<: *b\n  k: 2\nagain: {<<: *b, k: 3}\nlist: [{k: 1}, {k: 1}]\n"
    value = parse_yaml(text, "f")
    assert (value["use"], value["again"]) == ({"k": 2, "m": 1}, {"k": 3, "m": 1})


@pytest.mark.parametrize(
    "text",
    ["a: 2026-13-45", "a: " + "9" * 5000, "a: [1", "a: *b", "!!python/object:x.Y {}", "- " * 5000, "a: \x01"],
)
def test_what_cannot_be_read_is_one_line(text: str) -> None:
    assert refused(text).startswith("the file f.yaml") and len(refused(text)) < 200


@pytest.mark.parametrize("text", ["a: 2026-13-45", "a: " + "9" * 5000])
def test_a_date_or_number_that_does_not_exist_is_called_so(text: str) -> None:
    assert refused(text) == "the file f.yaml, line 1 holds a date or number that does not exist; correct it"


def test_what_a_caller_changes_stays_its_own() -> None:
    first = parse_yaml("a: {b: [1]}", "f")
    first["a"]["b"].append(2)
    assert parse_yaml("a: {b: [1]}", "f") == {"a": {"b": [1]}}


def test_a_byte_order_mark_is_no_content() -> None:
    assert parse_yaml("\ufeffa: 1\n", "f") == {"a": 1}


def test_all_files_of_users_are_read_this_way(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("name: a\nname: b\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"twice\.yaml, line 2 names the key 'name' twice"):
        read_config_file(path)
    with pytest.raises(ConfigError, match=r"twice\.yaml, line 2 names the key 'name' twice"):
        load_suite(path)
    with pytest.raises(ConfigError, match=r"twice\.yaml, line 2 names the key 'name' twice"):
        accelerate_settings(TrainingConfig(accelerate_config=str(path)))
    with pytest.raises(ConfigError, match="names the key 'a' twice"):
        parse_assignment("x={a: 1, a: 2}")


def test_a_setting_that_stands_nested_and_dotted_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("driver: {steps: 3}\ndriver.steps: 4\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"sets 'driver\.steps' twice"):
        read_config_file(path)


@pytest.mark.parametrize("key", ["shots", "max_tokens", "expected_count", "count"])
def test_counts_of_suites_are_no_truth_values(tmp_path: Path, key: str) -> None:
    where = {"shots": "benchmarks:\n- {id: x, %s}", "count": "validation:\n- {name: x, %s}"}
    where |= {"max_tokens": "benchmarks:\n- {template: {%s}}", "expected_count": "benchmarks:\n- {rows: {%s}}"}
    path = tmp_path / "s.yaml"
    for value, said in (("true", "got true"), ("-1", "got -1"), (str(10**30), "expected a whole number from 0 to")):
        path.write_text("name: x\n" + where[key] % f"{key}: {value}", encoding="utf-8")
        with pytest.raises(ConfigError, match=said):
            load_suite(path)
