from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import ConfigError
from harness.models.prompts import (
    GENERATOR_KNOWN,
    GENERATOR_REQUIRED,
    RUBRIC_KNOWN,
    RUBRIC_REQUIRED,
    builtin_prompt,
    load_prompt,
)
from harness.types import QUESTION_TYPES, RUBRIC_PARTS, Message


def write(folder: Path, text: str) -> Path:
    path = folder / "p.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_sections_become_turns_and_values_are_literal(tmp_path: Path) -> None:
    path = write(
        tmp_path, "[system]\nAbout {{domain}}.\n\n[user]\nshot\n[assistant]\nreply\n[user]\n<{{ document }}>\n"
    )
    prompt = load_prompt(path, required=["document"], known=["document", "domain"])
    assert prompt.variables == {"domain", "document"}
    document = "{{domain}} \\1 \\g<0>\n[assistant]\nno"
    assert prompt.render({"domain": "law", "document": document, "unused": "x"}) == (
        Message("system", "About law."),
        Message("user", "shot"),
        Message("assistant", "reply"),
        Message("user", f"<{document}>"),
    )


def test_names_with_spaces_slashes_and_hyphens(tmp_path: Path) -> None:
    path = write(tmp_path, "[user]\n" + " ".join("{{" + part + "}}" for part in RUBRIC_PARTS))
    prompt = load_prompt(path, required=RUBRIC_PARTS)
    rendered = prompt.render({part: str(i) for i, part in enumerate(RUBRIC_PARTS)})
    assert rendered[0].content == "0 1 2 3"


def test_json_braces_are_not_variables(tmp_path: Path) -> None:
    prompt = load_prompt(write(tmp_path, '[user]\n{"a": {"b": {"c": 1}}} {{document}}'))
    assert prompt.variables == {"document"}
    assert prompt.render({"document": "d"})[0].content == '{"a": {"b": {"c": 1}}} d'


def test_hash_follows_the_text(tmp_path: Path) -> None:
    first = load_prompt(write(tmp_path, "[user]\na"))
    second = load_prompt(write(tmp_path, "[user]\nb"))
    assert first.hash != second.hash
    assert load_prompt(write(tmp_path, "[user]\na")).hash == first.hash


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("no section", "no section"),
        ("lead\n[user]\nx", "before its first section"),
        ("[user]\nx {{document}}\n[asistant]\ny", "did you mean 'assistant'"),
        ("[system]\n\n[user]\nx", "is empty"),
        ("[user]\nx\n[assistant]\ny", "must be [user]"),
        ("[user]\nnothing here", "does not use the variable {{document}}"),
        ("[user]\n{{document}} {{domian}}", "unknown variable {{domian}}; did you mean 'domain'"),
    ],
)
def test_bad_files_give_one_clear_line(tmp_path: Path, text: str, says: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_prompt(path, required=RUBRIC_REQUIRED, known=RUBRIC_KNOWN)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_render_names_the_variable_that_it_lacks(tmp_path: Path) -> None:
    prompt = load_prompt(write(tmp_path, "[user]\n{{document}} {{audience}}"))
    with pytest.raises(ConfigError, match=r"\{\{audience\}\}"):
        prompt.render({"document": "d"})


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_prompt(tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes(b"[user]\n\xe9")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_prompt(tmp_path / "latin.txt")


def test_the_rubric_prompt_says_what_it_must() -> None:
    prompt = load_prompt(builtin_prompt("rubric"), required=RUBRIC_REQUIRED, known=RUBRIC_KNOWN)
    assert [role for role, _ in prompt.sections] == ["system", "user"]
    text = prompt.text.lower()
    for wanted in (*QUESTION_TYPES, *(part.lower() for part in RUBRIC_PARTS), "at random", "three or more", "json"):
        assert wanted in text


def test_the_generator_prompt_says_what_it_must() -> None:
    prompt = load_prompt(builtin_prompt("generator"), required=GENERATOR_REQUIRED, known=GENERATOR_KNOWN)
    assert prompt.variables == set(GENERATOR_KNOWN)
    for wanted in ("step by step", "according to the document", '"messages"', "JSONL"):
        assert wanted in prompt.text
    rendered = prompt.render({name: f"<{name}>" for name in GENERATOR_KNOWN})
    assert '"content": "<system_message>"' in rendered[1].content
    assert "{{" not in rendered[1].content
