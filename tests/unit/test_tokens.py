"""One way from a conversation to tokens, over families of tokenizers and templates."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import pytest

from harness.errors import PrerequisiteError
from harness.models.tokenizers import complete
from harness.training.chat import encode, prompt_ids
from harness.training.literal import OPEN, mark, neutralise, unmark
from harness.training.template import DATE, dateless, render_prompt, traits, turns_for_server
from harness.types import Message, chat
from support.tiny import CHATML, ENDLESS, FAMILIES, TEMPLATES, make_family

SPOKEN = [f for f in FAMILIES if f != "wordpiece"]
"""Families that can tell a blank from none."""


@lru_cache
def made(family: str, template: str = "chatml", **tokens: str | None) -> Any:
    return complete(make_family(family, template, **tokens), family)


def talk(*texts: str, system: str = "") -> list[Message]:
    turns = [Message(("user", "assistant")[i % 2], text) for i, text in enumerate(texts)]
    return [Message("system", system), *turns] if system else turns


def ids(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    return list(encode(tokenizer, messages, sys.maxsize).ids)


def spelled(tokenizer: Any, messages: Sequence[Message]) -> str:
    """The template's own text, encoded at once."""
    text: str = tokenizer.apply_chat_template(chat(messages), tokenize=False, strftime_now=DATE.strftime)
    return text.rstrip("\n")


@pytest.mark.parametrize("template", ["chatml", "inst", "gemma", "dated"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_conversation_has_the_ids_that_it_has_as_a_whole(family: str, template: str) -> None:
    """No blank is added before the answer, whatever the tokenizer puts before a text's first word."""
    tokenizer = made(family, template)
    for messages in (talk("is it red?", "no red"), talk("is it?", "yes", "or no?", "12, maybe")):
        code = encode(tokenizer, messages, sys.maxsize)
        whole = tokenizer(spelled(tokenizer, messages), add_special_tokens=False)["input_ids"]
        assert list(code.ids) == whole
        assert whole[: code.prompt_length] == prompt_ids(tokenizer, messages[:-1])


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("family", FAMILIES)
def test_training_begins_with_the_tokens_that_a_model_is_prompted_with(family: str, template: str) -> None:
    tokenizer = made(family, template)
    for answer in ("red", " red", "\nred", "0", ")", "\u00e9"):
        messages = talk("is it red?", answer)
        code = encode(tokenizer, messages, sys.maxsize)
        assert list(code.ids[: code.prompt_length]) == prompt_ids(tokenizer, messages[:-1])
        opened = encode(tokenizer, messages, sys.maxsize, closed=False)
        assert opened.ids == code.ids[: len(opened.ids)] and opened.completion_length > 0


@pytest.mark.parametrize("family", SPOKEN)
def test_an_answer_that_would_join_its_prompt_is_a_continuation_of_it(family: str) -> None:
    """'Assistant: ' before 'red' is read as ':' and ' red'; the prompt's ids stand, and no second blank comes."""
    tokenizer = made(family, ENDLESS)
    code = encode(tokenizer, talk("is it?", "red"), sys.maxsize)
    assert tokenizer.decode(code.ids[code.prompt_length :]).strip() == "red"
    assert tokenizer.decode(list(code.ids)).endswith("Assistant: red")


def test_byte_level_tokens_are_those_of_prompt_and_answer_apart() -> None:
    """What holds for byte-level BPE, and held before answers were read in their place."""
    tokenizer = made("bytes")
    for answer in ("red", " red", "\n\nred", "\ttwo  blanks ", "x\r\ny", "<b>"):
        messages = talk("is it?", answer, system="be brief")
        text = tokenizer.apply_chat_template(chat(messages[:-1]), tokenize=False, add_generation_prompt=True)
        apart = [tokenizer(t, add_special_tokens=False)["input_ids"] for t in (text, f"{answer}<|im_end|>")]
        assert ids(tokenizer, messages) == apart[0] + apart[1]


@pytest.mark.parametrize("template", ["chatml", "inst"])
def test_a_begin_token_stands_where_the_template_writes_it_and_nowhere_else(template: str) -> None:
    """The tokenizer would add one by itself; a template decides, in training and in prompts alike."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = complete(make_family("first", template), "t")
    begin = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", begin)]
    )
    messages = talk("<s> or not?", "no")
    wanted = 1 if template == "inst" else 0
    assert prompt_ids(tokenizer, messages[:1]).count(begin) == ids(tokenizer, messages).count(begin) == wanted


@pytest.mark.parametrize("template", ["chatml", "inst", "gemma", "endless"])
@pytest.mark.parametrize("family", FAMILIES)
def test_special_tokens_that_a_turn_writes_out_are_text(family: str, template: str) -> None:
    tokenizer = made(family, template)
    special = {tokenizer.convert_tokens_to_ids(t) for t in traits(tokenizer).controls} - {tokenizer.unk_token_id}
    plain, written = talk("what?", "it is so"), talk("what <|im_end|></s>?", "it <s>is<|im_start|>user\nso<|im_end|>")
    found = [[i for i in ids(tokenizer, m) if i in special] for m in (plain, written)]
    assert found[0] == found[1]
    if family in ("bytes", "first", "python"):
        assert "it <s>is<|im_start|>user\nso<|im_end|>" in tokenizer.decode(ids(tokenizer, written))


def test_text_tokens_of_a_written_token_are_the_tokenizers_own() -> None:
    tokenizer = made("bytes")
    code = encode(tokenizer, talk("q", "a <|im_end|> b"), sys.maxsize, closed=False)
    alone = tokenizer("a <|im_end|> b", add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert list(code.ids[code.prompt_length :]) == alone


def test_markers_of_other_templates_are_text_and_change_nothing() -> None:
    tokenizer = made("bytes")
    messages = talk("is <|eot_id|> or <end_of_turn> one?", "[/INST] <think>no</think>")
    assert OPEN not in render_prompt(tokenizer, messages[:1])
    assert ids(tokenizer, messages) == tokenizer(spelled(tokenizer, messages), add_special_tokens=False)["input_ids"]


def test_a_marker_that_is_not_declared_special_is_text_too_and_a_word_stays_a_token() -> None:
    from tokenizers import AddedToken

    tokenizer = make_family("bytes", CHATML.replace("<|im_end|>", "<|end|>"), eos_token=None)
    tokenizer.add_tokens([AddedToken("<|end|>", special=False), AddedToken("<think>", special=False)])
    complete(tokenizer, "t")
    end, think = (tokenizer.convert_tokens_to_ids(t) for t in ("<|end|>", "<think>"))
    code = ids(tokenizer, talk("q", "<think> x <|end|> y"))
    assert traits(tokenizer).stop == end == tokenizer.eos_token_id
    assert (code.count(end), code.count(think)) == (2, 1)


def test_marks_can_be_taken_back_and_other_characters_are_left() -> None:
    tokens = ("<|im_end|>", "<s>")
    text = "a <s><|im_end|> \ufdd09\ufdd1 b"
    assert unmark(mark(text, tokens), tokens) == text
    assert mark("nothing here", tokens) == "nothing here"


def test_what_a_server_is_sent_has_no_special_token_in_it() -> None:
    tokenizer = made("bytes", "gemma")
    sent = turns_for_server(tokenizer, talk("is <|im_end|> one?", system="be brief </s>"))
    assert sent == [Message("user", "be brief < /s>\n\nis < |im_end|> one?")]
    assert neutralise("<<s>s>", ("<s>",)) == "<< s>s>"


@pytest.mark.parametrize(
    "template", ["gemma", "{% for m in messages if m['role'] != 'system' %}{{ m['content'] }};{% endfor %}"]
)
def test_a_system_turn_that_a_template_does_not_take_heads_the_next_user_turn(template: str) -> None:
    tokenizer = made("bytes", template)
    assert not traits(tokenizer).system
    assert ids(tokenizer, talk("why?", "so", system="be brief")) == ids(tokenizer, talk("be brief\n\nwhy?", "so"))


def test_turns_are_joined_only_where_a_template_insists_on_alternation() -> None:
    twice = [Message("user", "one"), Message("user", "two"), Message("assistant", "so")]
    strict, free = made("bytes", "gemma"), made("bytes")
    assert ids(strict, twice) == ids(strict, talk("one\n\ntwo", "so"))
    assert ids(free, twice) != ids(free, talk("one\n\ntwo", "so"))


def test_a_conversation_that_a_template_refuses_ends_in_one_line() -> None:
    with pytest.raises(PrerequisiteError, match="refuses a conversation of the turns assistant"):
        encode(made("bytes", "gemma"), [Message("assistant", "hi"), Message("assistant", "hello")], 99)
    broken = make_family("bytes", "{{ raise_exception('never') }}")
    with pytest.raises(PrerequisiteError, match="cannot render a question"):
        complete(broken, "t")
        traits(broken)


def test_a_template_is_told_one_date_whatever_the_day(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.utils import chat_template_utils

    class Later(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return cls(2030, 1, 2)

    tokenizer = made("bytes", "dated")
    before = ids(tokenizer, talk("q", "a"))
    monkeypatch.setattr(chat_template_utils, "datetime", Later)
    assert ids(tokenizer, talk("q", "a")) == before
    assert "Today is 26 Jul 2024" in render_prompt(tokenizer, talk("q"))
    assert traits(tokenizer).dated and not traits(made("bytes")).dated
    assert dateless(tokenizer, "t") == TEMPLATES["dated"].replace("strftime_now('%d %b %Y')", "'26 Jul 2024'")
    assert dateless(made("bytes"), "t") is None
    with pytest.raises(PrerequisiteError, match="fixed date"):
        dateless(made("bytes", "{% set f = '%d' %}{{ strftime_now(f) }}" + CHATML), "t")


@pytest.mark.parametrize(
    ("named", "pad", "eos"),
    [
        ({"pad_token": None}, "<|im_end|>", "<|im_end|>"),
        ({"pad_token": None, "eos_token": None}, "<unk>", "<|im_end|>"),
        ({"pad_token": None, "eos_token": None, "unk_token": None, "bos_token": None}, "<unk>", "<|im_end|>"),
        ({"eos_token": "<|endoftext|>"}, "<|endoftext|>", "<|endoftext|>"),
    ],
)
def test_what_a_tokenizer_lacks_is_chosen(named: dict[str, str | None], pad: str, eos: str) -> None:
    tokenizer = complete(make_family("bytes", **named), "t")
    assert (tokenizer.pad_token, tokenizer.eos_token) == (pad, eos)


def test_a_tokenizer_without_any_special_token_is_refused_in_one_line() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    with pytest.raises(PrerequisiteError, match="no special token to pad with"):
        complete(PreTrainedTokenizerFast(tokenizer_object=words, chat_template=CHATML), "t")


def test_a_server_is_sent_turns_that_it_can_render_and_told_where_a_turn_ends() -> None:
    from harness.models.backend import PromptRequest, Sampling
    from harness.models.endpoint.backend import CountingBackend, Served

    def body(tokenizer: Any, takes_stops: bool) -> dict[str, Any]:
        backend = CountingBackend(Served("m", 0.0, 512, takes_stops=takes_stops), pytest.fail, lambda: tokenizer)
        request = PromptRequest(tuple(talk("is <|im_end|> one?", system="be brief")))
        sent = backend._body("m", request, Sampling(0, 1, 8), 0)
        turns = [Message(**turn) for turn in sent["messages"]]
        assert backend.count_tokens(request.messages) == len(prompt_ids(tokenizer, turns))
        return sent

    base = made("bytes", "gemma", eos_token="<|endoftext|>")
    sent = body(base, True)
    assert sent["messages"] == [{"role": "user", "content": "be brief\n\nis < |im_end|> one?"}]
    assert sent["stop_token_ids"] == [base.convert_tokens_to_ids("<|im_end|>")]
    assert "stop_token_ids" not in body(base, False)
    assert "stop_token_ids" not in body(made("bytes"), True)
