"""Texts that differ only in how the same words are written are equal to the check, and evidence quotes the original."""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Callable

import pytest

from decontam.check import ContaminationCheck, run_check
from decontam.corpus import MemoryCorpus
from decontam.embedded import EmbeddedBackend
from decontam.evidence import evidence
from decontam.items import TestItem
from decontam.tokens import located, plain, token_texts
from decontam.verdict import KINDS, decide
from harness.config import DecontamConfig

TEXTS = {
    "english": "What did the old sailor's first mate find in the 12 sealed crates below deck?",
    "vietnamese": "Thủ đô của nước Việt Nam là thành phố nào trong các thành phố sau đây?",
    "korean": "대한민국의 수도는 어디이며 그 도시의 인구는 모두 몇 명입니까 대답하시오 지금",
    "french": "Où se trouve la forêt où l'élève aîné a été aperçu près du château hanté?",
    "german": "Welche Straße führt über die größte Brücke zum äußeren Tor der alten Festung?",
    "turkish": "Iğdır ile İzmir arasında ışıklı kaç istasyon vardır ve hangisi ilk İstanbul'a çıkar?",
    "greek": "Ποιος ήταν ο Οδυσσεύς και σε ποια νησιά έφτασε πριν από το τέλος;",
    "russian": "Какой ёжик нашёл зелёную ёлку у старой мельницы за холодной рекой?",
    "arabic": "ما هي عاصمة البلاد التي كتب فيها الشاعر هذه القصيدة الطويلة عن البحر؟",
    "hindi": "उस नदी का नाम क्या है जो पहाड़ों से निकलकर समुद्र में गिरती है?",
    "chinese": "下列哪一座城市位于河流的北岸并且以古老的石桥闻名？",
    "japanese": "この町で一番古い橋を作った人の名前は何ですか、カタカナで答えなさい。",
    "thai": "จังหวัดใดในประเทศนี้มีสะพานไม้ที่ยาวที่สุดและสร้างขึ้นเมื่อใด",
    "burmese": "မြန်မာနိုင်ငံ၏မြို့တော်သည်မည်သည့်မြို့ဖြစ်သနည်း",
}


def _inside(text: str, sign: str) -> str:
    """`sign` inside every word that has room for it."""
    return " ".join(w[: len(w) // 2] + sign + w[len(w) // 2 :] if len(w) > 3 else w for w in text.split(" "))


def _full_width(text: str) -> str:
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


SAME: dict[str, Callable[[str], str]] = {
    "decomposed": lambda t: unicodedata.normalize("NFD", t),
    "composed": lambda t: unicodedata.normalize("NFC", t),
    "compatible": lambda t: unicodedata.normalize("NFKD", t),
    "full width": _full_width,
    "soft hyphens": lambda t: _inside(t, "\u00ad"),
    "zero width space": lambda t: _inside(t, "\u200b"),
    "zero width joiner": lambda t: _inside(t, "\u200d"),
    "word joiner": lambda t: _inside(t, "\u2060"),
    "byte order mark": lambda t: _inside(t, "\ufeff"),
    "direction marks": lambda t: "\u202a" + _inside(t, "\u200e") + "\u202c",
    "no-break spaces": lambda t: t.replace(" ", "\u00a0"),
    "other blanks": lambda t: t.replace(" ", "\u3000\t\u2009"),
    "entities": lambda t: t.replace(" ", "&nbsp;"),
    "numeric entities": lambda t: "".join(f"&#{ord(c)};" if i % 3 == 0 else c for i, c in enumerate(t)),
    "escaped twice": lambda t: t.replace(" ", "&amp;nbsp;").replace("'", "&amp;#x27;"),
    "tags between words": lambda t: "<p class='x y'>" + t.replace(" ", "</span><span lang=en>") + "</p>",
    "line breaks": lambda t: t.replace(" ", "<br/>"),
    "comments": lambda t: t.replace(" ", " <!-- not a word --> "),
    "emphasis": lambda t: " ".join(f"**{w}**" if i % 2 else f"_{w}_" for i, w in enumerate(t.split(" "))),
    "curly quotes": lambda t: "“" + t.replace("'", "’") + "”",
    "capitals": lambda t: t.upper(),
    "small letters": lambda t: t.lower(),
    "punctuation": lambda t: t.replace("?", " …!").replace(",", " –"),
}


@pytest.mark.parametrize("language", TEXTS)
def test_spelling_does_not_matter(language: str) -> None:
    text = TEXTS[language]
    check = ContaminationCheck([TestItem("b", "1", (text,))], DecontamConfig(), EmbeddedBackend())
    assert not check.side.short.any()
    corpus = MemoryCorpus([f"x {change(text)} x" for change in SAME.values()])
    found = decide(check, run_check(check, corpus), corpus.size)
    for kind in ("text", "ngram"):
        removed = found.pairs.removes & (found.pairs.kind == KINDS.index(kind))  # type: ignore[arg-type]
        hits = set(found.pairs.document[removed].tolist())
        assert [name for i, name in enumerate(SAME) if i not in hits] == [], kind
    items = [TestItem("b", name, (change(text),)) for name, change in SAME.items()]
    back = ContaminationCheck(items, DecontamConfig(), EmbeddedBackend())
    found = decide(back, run_check(back, MemoryCorpus([text])), 1)
    assert len(found.touched(("text",))) == len(SAME)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ﬁnd the ﬂow oﬃce", "find the flow office"),
        ("STRASSE ẞ ß", "straße ss SS"),
        ("İSTANBUL ISPARTA", "istanbul ısparta"),
        ("H<sub>2</sub>O and x² and CO₂", "H2O and x2 and CO2"),
        ("¼ cup №5 ｶﾞﾗｽ ㎏", "1/4 cup No5 ガラス kg"),
        ("don`t", "don`t"),
        ("rock’n’roll don´t", "rock'n'roll don't"),
        ("❤️ 👨‍👩‍👧", "❤ 👨👩👧"),
        ("__init__ _a_ ____ b_", "init a b"),
        ("&lt;b&gt;bold&lt;/b&gt; AT&amp;T", "bold AT&T"),
        ("in ＆＃１６０；May ＆ａｍｐ；Co", "in&#160;May &amp; Co"),
        ("<P\u00adRE CLASS='x'>＜b＞bold</PRE>", "bold"),
    ],
)
def test_these_are_equal(one: str, other: str) -> None:
    assert token_texts(plain(one)) == token_texts(plain(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("café", "cafe"),
        ("snake_case", "snake case"),
        ("3.5", "35"),
        ("a<b and c>d", "ad"),
        ("1,000", "1000"),
        ('<path d="M 58.33,52.18 L 34.28"/>', '<path d="M 11,2 L 3"/>'),
        ("vector<int> x", "vector<char> x"),
        ("naïve Ａ", "naive A"),
        ("раде", "page"),
    ],
)
def test_these_are_not(one: str, other: str) -> None:
    assert token_texts(plain(one)) != token_texts(plain(other))


def test_plain_ascii_is_left_alone() -> None:
    text = 'Some "text", with 3 < 4 & more; foo_bar, f(x) = x^2.\n\tDON\'T'
    assert plain(text) is text


@pytest.mark.parametrize("language", TEXTS)
@pytest.mark.parametrize("change", ["decomposed", "soft hyphens", "escaped twice", "tags between words", "emphasis"])
def test_places_are_those_of_the_original(language: str, change: str) -> None:
    text = "é " + SAME[change](TEXTS[language])
    found = located(text)
    assert [t.word for t in found] == token_texts(plain(text))
    for token in found:
        assert token_texts(plain(text[token.start : token.end])) == [token.word]


def test_evidence_quotes_what_was_written() -> None:
    item, leak = TEXTS["german"], SAME["soft hyphens"](TEXTS["german"].upper())
    document, fields = evidence("text", f"Vorher. {leak} Nachher.", [item], 5)
    ((start, end),) = document.spans
    assert document.text[start:end] == leak.rstrip("?") and fields[0].text == item


@pytest.mark.parametrize(
    "text",
    [
        "<a " * 50_000,
        "&amp;" * 50_000,
        "<!--" * 50_000,
        "<a" + " b=x" * 50_000,
        "a" + "_" * 200_000 + "b",
        "e" + "\u0301" * 50_000,
    ],
)
def test_odd_texts_take_no_longer(text: str) -> None:
    started = time.process_time()
    plain(text)
    assert time.process_time() - started < 3
