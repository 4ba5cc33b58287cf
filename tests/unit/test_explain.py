"""Settings that explain themselves: on a screen, on the reference page, in a run's file, and in errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cli.main import main
from harness.config import RunConfig
from harness.errors import ConfigError
from harness.explain import find_settings, markdown, settings, typed
from harness.resolve.layers import resolve_run
from harness.settings import dump_yaml, flatten, parse_assignment, read_config_file, resolve

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def test_the_reference_page_is_what_the_classes_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == markdown(), "run: harness explain --markdown > docs/settings.md"


def test_every_setting_says_what_it_means() -> None:
    for setting in settings():
        assert setting.meaning.endswith("."), setting.key
        assert setting.section or setting.takes, setting.key


def test_every_setting_of_a_run_is_known() -> None:
    known = {setting.key for setting in settings()}
    for method in ("optimsyn", "static"):
        config = resolve_run(method=method, target="nano").config
        named = {key for key, _ in flatten(config.model_dump(mode="json"))}
        assert {k for k in named if not k.endswith(".name")} <= known


def test_a_key_a_section_and_words_are_found() -> None:
    (epochs,) = find_settings(["sft.epochs"])
    assert (epochs.takes, epochs.default) == ("a whole number, at least 1", "3")
    guide = find_settings(["guide"])
    assert guide[0].section and {"guide.n", "guide.withhold"} <= {s.key for s in guide}
    assert {s.owner for s in find_settings(["signal.aggregate"])} == {
        "signal influence",
        "signal val_bm25",
        "signal val_cosine",
    }
    assert "sft.learning_rate" in {s.key for s in find_settings(["peak", "Rate"])}
    with pytest.raises(ConfigError, match=r"no setting mentions 'sft\.epoks'; did you mean 'sft\.epochs'"):
        find_settings(["sft.epoks"])


OPTIONAL = ("answerer.", "labeller.", "labels.")
"""Sections that a run has only where they are asked for."""


def test_values_are_shown_as_they_can_be_typed() -> None:
    """What a screen shows of a value gives the same setting when it is typed behind --set."""
    plain = resolve_run(method="optimsyn", target="nano").config
    own = [s.key for s in settings() if not s.section and not s.owner and ".price" not in s.key]
    keys = [
        key
        for key in own
        if key.split(".")[0] not in ("signal", "select", "driver", "route")
        and not any(part in key for part in OPTIONAL)
    ]
    assert len(keys) > 130
    sets = dict(parse_assignment(f"{key}={typed(_of(plain, key))}") for key in keys)
    assert resolve_run(method="optimsyn", target="nano", sets=sets).config == plain


def _of(config: RunConfig, key: str) -> object:
    value: object = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


@pytest.mark.parametrize("text", ["a\nb: # c", "  # x", "é: {", "null", "- a"])
def test_a_commented_file_reads_back_as_the_settings(tmp_path: Path, text: str) -> None:
    sets = {"synthesis.system_message": text, "select.signal": "val_bm25", "warmup.lora_modules": "q_proj,v_proj"}
    config = resolve_run(method="optimsyn", target="nano", sets=sets).config
    assert config.warmup.lora_modules == ("q_proj", "v_proj")
    path = tmp_path / "config.yaml"
    path.write_text(dump_yaml(config), encoding="utf-8")
    assert resolve([read_config_file(path)]).config == config
    assert "  epochs: " in path.read_text(encoding="utf-8") and "# Passes over the data set." in path.read_text()


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("sft.epochs", 0, "expected a whole number, at least 1 (Passes over the data set), got 0"),
        ("sft", 3, "expected settings of its own, such as KEY: VALUE below it"),
        ("models.target.dtype", "fp16", "expected float32 or bfloat16"),
        ("seeds.source", [1], "expected text or a list, a,b or [a,b], each text"),
        ("seeds.source", 3, "expected text or a list"),
        ("decontam.modes", "text,ngrams", "expected a list, a,b or [a,b], each one of text, ngram, embedding"),
        ("signal.update", "sdg", "expected adam or sgd"),
    ],
)
def test_errors_say_what_is_expected(key: str, value: object, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_run(method="optimsyn", target="nano", sets={key: value})
    said = str(caught.value)
    assert f"setting '{key}' (command line): {says}" in said
    assert not any(word in said for word in ("tuple", "Config", "Input should", "instance"))


def test_prompts_are_listed_and_filled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prompts"]) == 0
    assert "rubric_compact" in capsys.readouterr().out
    documents = tmp_path / "d.jsonl"
    documents.write_text('{"text": "%s"}\n' % ("A pledge is a security. " * 8))
    assert main(["prompts", "--show", "generator", "--seeds", str(documents)]) == 0
    out = capsys.readouterr().out
    # The document is in its place; what the writer will say is still open.
    assert "A pledge is a security." in out and "{{document}}" not in out and "{{Prompt-related}}" in out
    assert main(["prompts", "--seeds", str(documents)]) != 0
    assert "--show" in capsys.readouterr().err
