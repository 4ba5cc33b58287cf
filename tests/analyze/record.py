"""Record what a live Elasticsearch node's `standard` analyzer makes of strings of our own.

    python tests/analyze/record.py http://127.0.0.1:PORT [http://127.0.0.1:PORT ...]

writes `standard.jsonl.gz` beside this file: tests compare our tokenizer with it where no node is at hand. Every string
is made here, by words and sentences written for this purpose or by drawing code points with a fixed seed. One line per
string: `kind`, `text`, `tokens`, and `spans`, the flat list of start and end offsets in UTF-16 units. Kinds `prose`
(what data consist of) and `ascii` must be met exactly; `script` and `unicode` are random code points of one script and
of all scripts, where two implementations with different Unicode versions differ in rare characters. With several
nodes, strings on which they disagree are left out and counted, so that the file holds for each of them.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("standard.jsonl.gz")

# Plain sentences, one per line, chosen for what they hold: apostrophes, numbers, units, joined scripts, signs.
SENTENCES = """\
The nurse didn't chart the patient's 3.5 mg dose until 08:45, did she?
Rock 'n' roll isn't dead; it's the '90s that won't end.
O'Neill's well-known state-of-the-art approach cost $1,250,000.00 (roughly 1.1M).
Let f(x)=x^2+3x-4; then f'(x)=2x+3 and f(1)=0.
Email j.doe@example.org or visit https://example.org/a/b?c=d&e=f#g_h for v2.10.3-beta.
snake_case, camelCase, SCREAMING_SNAKE, kebab-case, __dunder__ and a_1_b.
He scored 7/10, then 70%, then 0.7e-3; the range was 1–2 (or 1-2).
A.B.C. vs. U.S.A., e.g. i.e. etc., a.m. and p.m., Ph.D., No. 5.
x+y=2, 3:15 pm, 12:30:59, 1.2.3.4, 10,000,000 and 1;2;3 but also 1,,2 and 3..4.
\t tabs\tand\nnew lines\r\nand  double  blanks  
Use "straight", “curly”, ‘single’ and «guillemets»; don’t mix ’em.
© 2024 Acme™, ® registered, § 12, ¶ 3, † and ‡, 5 °C, 20 µg, ½ cup, x², H₂O.
Straße, Äpfel, Übermut, façade, naïve, coöperate, Ærøskøbing, Łódź, Dvořák, señor, garçon.
STRASSE GROSS ÄRGER ÉCOLE ŒUVRE ĲSSEL ǅENAN ẞ.
İstanbul'da IŞIK ılık, Iğdır'ın İÇİN çığ ve öğretmenler.
Diyarbakır’ın ÇİĞ KÖFTESİ, İZMİR’in IHLAMURU.
Ο ΣΟΦΟΣ ΟΔΥΣΣΕΥΣ είπε: «Τι κάνεις;» και έφυγε στις 10:30.
Ἐν ἀρχῇ ἦν ὁ λόγος, ᾳδης ΑΪΔΗΣ ΐ ΰ.
Привет, мир! Ёлка и ёж съели 3,5 кг яблок; объём — 12 л.
Україна, з'їзд, м’ята, ґанок, їжак.
Здраво, Ђорђе; Љубљана и Џеп.
שלום עולם, צה"ל ו־ג'ירפה בתל־אביב, ב-1948.
مرحبا بالعالم، كتبتُ ٣٫١٤ و١٢٬٥٠٠ كتابًا؛ هل هذا صحيح؟
سلام دنیا، می‌خواهم کتاب‌ها را بخوانم.
हिन्दी में नमस्ते दुनिया। यह १२३ है, क्या नहीं?
বাংলা ভাষায় স্বাগতম, ৪৫৬ টাকা।
தமிழ் மொழி வணக்கம் உலகம்.
ไทยเป็นภาษาที่ไม่มีช่องว่าง ราคา ๑๒๓ บาท (25 USD)
ພາສາລາວ ສະບາຍດີ
ភាសាខ្មែរ សួស្តី
မြန်မာဘာသာ မင်္ဂလာပါ
中文分词需要把每个汉字分开，例如：北京大学２０２４年招生１，２３４人。
東京タワーは333mです。カタカナとひらがなと漢字が混ざる。スーパーマーケット・コンビニ
ﾊﾝｶｸｶﾀｶﾅ と ＦＵＬＬ ｗｉｄｔｈ １２３．４５
한국어 문장은 띄어쓰기가 있습니다. 2024년 3월 1일, AI가 99.9% 정확하다!
한글 분해: 한글 자모 ㄱㄴㄷ
GPT-4를 써서 北京의 날씨를 예측する。
😀 smile 😂😂 and 👍🏽 thumbs 👨‍👩‍👧‍👦 family 🏳️‍🌈 flag 🇩🇪🇫🇷🇯🇵 codes 1️⃣ 2⃣ #️⃣ *️⃣ ❤️ ❤ ☀︎ ©️
Mixed🙂text🙂between👩🏻‍💻words and ✈︎ ✈️ arrows → ⇒ ⟶ ✓ ✗ ★.
∑_{i=1}^n x_i ≤ ∫_0^1 f(t)dt, α→β, ∀x∈ℝ: |x|≥0, ℕ⊂ℤ, 𝔽₂, 𝑥𝑦𝑧 and 𝟏𝟐𝟑.
soft\u00adhyphen, zero\u200bwidth space, zero\u200cwidth\u200djoiner, word\u2060joiner, \ufeffbom, non\u00a0breaking, narrow\u202fgap.
e\u0301te\u0301 cafe\u0301 n\u0303 A\u030a \u0301lone a\u0301\u0323 o\u0302\u0301
bidi \u202eoverride\u202c and \u2067isolate\u2069 with العربية 123 abc עברית.
null\x00byte, bell\x07, escape\x1b[0m, delete\x7f, next\x85line, line\u2028sep, para\u2029sep, form\x0cfeed, vertical\x0btab.
$$$ ... --- ___ *** ??? !!! ,,, ''' \"\"\" ((())) [[]] {{}} <> // \\\\ || ~~ ``
_ __ ___ _a a_ _1 1_ a_b _'_ a_' '_a 1_.2 _._
a'b a''b 'a a' a.b a..b .a a. a:b a::b a,b a;b a-b a–b a—b a·b a‧b a’b a‘b
1'2 1''2 '1 1' 1.2 1..2 .1 1. 1:2 1,2 1;2 1-2 1·2 1’2 1٫2 1٬2 1a a1 1a2 a1b 1.a a.1 1,a a,1 1'a a'1
ǅ ǆ Ǆ ŉ ǰ ΐ ẖ ẗ ﬀ ﬃ ﬆ Ω K Å ℡ № ª º ʰ ˢ ⁿ ₓ ① ⑳ Ⅷ ⅷ ↀ 〇 々 〆 ヶ ヵ ゝ ー ｰ
"""  # noqa: E501

TEXT = (
    "which of following is most likely diagnosis patient year old presents with history explain answer because "
    "therefore theorem integral function returns value list string court statute plaintiff treaty empire river dose "
    "don't it's they're can't O'Brien's rock'n'roll e.g. U.S. 3.14 1,000 50% $20 v1.2.3 foo_bar x_1 A-level co-op "
    "naïve façade Straße ÉTÉ Ångström İstanbul IŞIK ığdır ΟΔΟΣ σοφός λόγος Привет мир ёлка слово שלום כתב مرحبا كتاب "
    "नमस्ते दुनिया สวัสดี ครับ 東京 大学 タワー ひらがな カタカナー 北京 汉字 한국어 문장 😀 👍🏽 👩‍🚀 🇩🇪 ❤️ 1️⃣ α β ∑ x² ½ №5"
)
WORDS = TEXT.split()
GLUE = (*[" "] * 12, "", ", ", ". ", "-", "/", "'", "’", ":", ";", ".", ",", "_", "\n", "\t", "(", ") ", '"', "…", "·", "—", "\u00a0")  # fmt: skip  # noqa: E501

# Blocks from which single-script strings are drawn: first and last code point.
SCRIPTS = (
    (0x00A0, 0x00FF), (0x0100, 0x024F), (0x0250, 0x02FF), (0x0370, 0x03FF), (0x1F00, 0x1FFF), (0x0400, 0x052F),
    (0x0530, 0x058F), (0x0590, 0x05FF), (0x0600, 0x06FF), (0x0900, 0x097F), (0x0980, 0x09FF), (0x0B80, 0x0BFF),
    (0x0E00, 0x0E7F), (0x0E80, 0x0EFF), (0x1000, 0x109F), (0x10A0, 0x10FF), (0x1100, 0x11FF), (0x1780, 0x17FF),
    (0x1E00, 0x1EFF), (0x2000, 0x206F), (0x2070, 0x20CF), (0x2100, 0x214F), (0x2460, 0x24FF), (0x2600, 0x27BF),
    (0x3000, 0x303F), (0x3040, 0x30FF), (0x3130, 0x318F), (0x4E00, 0x4FFF), (0xAC00, 0xAFFF), (0xFF00, 0xFFEF),
    (0x1D400, 0x1D7FF), (0x1F1E6, 0x1F1FF), (0x1F300, 0x1F6FF), (0x20000, 0x200FF),
)  # fmt: skip
ASCII = "".join(map(chr, range(32, 127)))
JOINERS = " .,'’:;_-\u200d\ufe0f\u0301aB19"


def _long(rng: random.Random) -> Iterator[str]:
    """Tokens around the analyzer's limit of 255 UTF-16 units, where a token is split."""
    for length in (254, 255, 256, 257, 509, 510, 511, 512, 765, 766, 1100):
        yield "a" * length
        yield "pre " + "7" * length + " post"
        yield "".join(rng.choice("abcXYZ019_") for _ in range(length)) + " tail"
        yield "é" * length + "x"
        yield "ab" * (length // 2) + "'s and " + "z" * length
    for length in (127, 128, 129, 255, 256):
        yield "𝒳" * length + " end"
        yield "ab.c" * length + " end"
        yield "カ" * length + " ไทย" + "ก" * length
        yield "x" * 254 + "𝒳" * length
        yield "x" * 253 + "e\u0301" * length


def strings(seed: int = 0) -> Iterator[tuple[str, str]]:
    """All (kind, text), in an order that depends on nothing but `seed`."""
    rng = random.Random(seed)
    lines = SENTENCES.split("\n")
    yield from (("prose", text) for text in ("", " ", *lines, *(line.upper() for line in lines)))
    yield from (("prose", rng.choice(lines) + " " + rng.choice(lines)) for _ in range(150))
    for _ in range(900):
        yield "prose", "".join(rng.choice(WORDS) + rng.choice(GLUE) for _ in range(rng.randint(2, 14)))
    yield from (("prose", text) for text in _long(rng))
    for _ in range(700):
        yield "ascii", "".join(rng.choice(ASCII) for _ in range(rng.randint(1, 40)))
    for _ in range(300):
        yield "ascii", "".join(rng.choice("aZ09_.,:;'-\" ") for _ in range(rng.randint(2, 16)))
    for first, last in SCRIPTS:
        for _ in range(24):
            letters = (chr(rng.randint(first, last)) for _ in range(rng.randint(2, 18)))
            yield "script", "".join(c + (rng.choice(JOINERS) if rng.random() < 0.25 else "") for c in letters)
    for _ in range(400):
        count = rng.randint(1, 10)
        points = (rng.choice((rng.randrange(0xD800), rng.randrange(0xE000, 0x20000))) for _ in range(count))
        yield "unicode", "".join(chr(p) + (rng.choice(JOINERS) if rng.random() < 0.3 else "") for p in points)


def analyze(url: str, text: str) -> tuple[list[str], list[int]]:
    """Tokens and flat UTF-16 offsets of `text` by the node at `url`; positions are checked to be consecutive."""
    body = json.dumps({"analyzer": "standard", "text": text}).encode()
    request = urllib.request.Request(f"{url}/_analyze", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        found: list[dict[str, Any]] = json.load(answer)["tokens"]
    assert [t["position"] for t in found] == list(range(len(found))), text
    return [t["token"] for t in found], [x for t in found for x in (t["start_offset"], t["end_offset"])]


def main(urls: list[str]) -> None:
    versions = []
    for url in urls:
        with urllib.request.urlopen(url, timeout=30) as answer:
            versions.append(json.load(answer)["version"])
    rows, differing = [], 0
    for kind, text in strings():
        answers = [analyze(url, text) for url in urls]
        if any(answer != answers[0] for answer in answers):
            differing += 1
            print("nodes differ:", kind, ascii(text), *(ascii(a[0]) for a in answers), sep="\n  ")
            continue
        rows.append({"kind": kind, "text": text, "tokens": answers[0][0], "spans": answers[0][1]})
    head = {
        "analyzer": "standard",
        "servers": [{"elasticsearch": v["number"], "lucene": v["lucene_version"]} for v in versions],
        "strings": len(rows),
        "left_out": differing,
    }
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as packed:
        for row in (head, *rows):
            packed.write((json.dumps(row, ensure_ascii=True, separators=(",", ":")) + "\n").encode())
    FILE.write_bytes(buffer.getvalue())
    print(json.dumps(head), f"{FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
