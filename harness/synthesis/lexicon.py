"""The word patterns behind the validity checks, in one place so that they can be read and argued about.

Each is written against false alarms first: nouns such as "document" or "passage" count only with a determiner and a
verb or preposition that points at a text given to the reader; unsafe topics need a request for instructions together
with a weapon, drug or victim, so that medicine, history and law may speak of them.
"""

from __future__ import annotations

import re


def _any(listed: str) -> str:
    """A group that matches any of the alternatives in `listed`, separated by commas or line breaks."""
    return "(?:" + "|".join(item.strip() for item in re.split(r"[,\n]", listed) if item.strip()) + ")"


def _pattern(*alternatives: str) -> re.Pattern[str]:
    return re.compile("|".join(alternatives), re.IGNORECASE)


BARE_ANSWERS = frozenset({"yes", "no", "maybe", "true", "false"})
"""Answers that may stand in their question."""

BLANK = _pattern(
    r"_{2,}", r"\[\s*(?:blank|mask|\.{3}|…)?\s*\]", r"\(\s*(?:blank)?\s*\)", r"<\s*blank\s*>", r"\.{4,}|…{2,}|-{4,}"
)
"""A place to fill in."""

ALTERNATIVES = _pattern(r"\b(?:or|versus|vs|between|among|out of|following|these)\b")
"""A question that lists its possible answers."""

_THE = _any("the, this, that, these, those")
_TEXT = _any("documents?, passages?, texts?, articles?, excerpts?, abstracts?, paragraphs?, snippets?")
_NOUN = rf"(?:{_TEXT}|context|material)"
_GIVEN = _any(
    "given, provided, above, following, supplied, preceding, presented, attached, source, original, reference"
)
_TOLD = _any(
    """mentioned, described, stated, discussed, listed, reported, presented, outlined, provided, given, noted
    explained, referenced, cited, found, contained, used"""
)
_TELLS = _any(
    """states?, stated, mentions?, mentioned, says, said, describes?, described, discusses, discussed, explains?
    explained, notes, noted, indicates?, suggests?, reports?, reported, provides, emphasi[sz]es, highlights, implies
    argues, tells us, does not, doesn't, did not, specifies, outlines, focuses, only discusses"""
)
_ASKED = _any(
    """say, state, mention, describe, discuss, explain, suggest, imply, indicate, report, about, mainly, primarily
    trying"""
)

SOURCE_REFERENCE = _pattern(
    rf"\baccording to (?:{_THE} |{_GIVEN} )+(?:\w+ )?{_NOUN}\b",
    rf"\b{_any('in, from, by, on, of, per, within, using, given, about')} (?:(?:{_THE}|a) )?(?:\w+ )?"
    rf"{_GIVEN} (?:\w+ )?{_NOUN}\b(?! (?:of|for) )",
    rf"\b(?:based|drawing|relying) (?:up)?on {_THE} {_NOUN}\b",
    rf"\b{_THE} {_NOUN} (?:above|below|(?:that (?:is|was|you) )?(?:provided|given))\b",
    rf"\b{_THE} (?:{_GIVEN} )?{_TEXT} (?:\w+ly )?{_TELLS}\b",
    rf"\b{_TOLD} (?:\w+ly )?(?:in|by|throughout|within) {_THE} (?:{_GIVEN} )?{_NOUN}\b",
    rf"\b{_any('do, does, did, is, are, was, were')} {_THE} (?:{_GIVEN} )?{_TEXT} {_ASKED}\b",
    rf"\bin {_THE} (?:passage|excerpt|snippet)\b(?! of)",
)
"""Talk about a text that the reader is supposed to see."""

_CANNOT = (
    r"(?:(?:can(?:no|')t|cannot|can not|could(?: not|n't)|won't|will not)\b|(?:am|'m) (?:not able|unable) to\b"
    r"|must decline to\b)"
)
_HELP = _any(
    """help, assist, answer, provide, generate, create, comply, fulfil+, respond, complete, do that, offer, give
    share, discuss, determine, access"""
)
_SORRY = _any("i'?m (?:\\w+ )?sorry, i am (?:\\w+ )?sorry, sorry, my apologies, i apologi[sz]e, unfortunately")
_MISSING = _any("available, applicable, specified, mentioned, stated, provided, given, enough information")
REFUSAL = re.compile(
    r"\W*(?:"
    + "|".join(
        (
            rf"{_SORRY}\b[^.!?]{{0,60}}?\b(?:i|we)\s*{_CANNOT}",
            rf"(?:i|we)\s*{_CANNOT}\s+(?:\w+ly\s+)?{_HELP}\b",
            r"as an? (?:ai|artificial intelligence|(?:large )?language model)\b",
            r"i (?:do not|don't) (?:know\b\W*$|have (?:enough|sufficient|access|the (?:ability|information)))",
            rf"(?:sorry|n/?a|not {_MISSING})\W*$",
            rf"(?:there is )?(?:no|insufficient|not enough) (?:answer|information)(?: (?:is )?{_MISSING})?\W*$",
        )
    )
    + ")",
    re.IGNORECASE,
)
"""An answer that begins as a refusal or consists of a non-answer."""

_MAKE = _any(
    """mak(?:e|ing), build(?:ing)?, construct(?:ing)?, synthesi[sz](?:e|ing), produc(?:e|ing), creat(?:e|ing)
    manufactur(?:e|ing), assembl(?:e|ing), cook(?:ing)?, brew(?:ing)?, prepar(?:e|ing), weaponi[sz](?:e|ing)"""
)
_HOW = (
    r"(?:how (?:to|do i|do you|can i|can you|could i|would (?:i|you|one)|one can)"
    r"|(?:instructions?|steps|recipe|guide|directions|ways?|methods?) (?:for|to|on how to|of))(?: \w+){0,2}?"
)
_WEAPON = _any(
    """(?:pipe|nail|car|dirty|fertili[sz]er|petrol|time|letter)[ -]bombs?, bombs?, explosives?
    explosive (?:device|vest)
    ieds?, molotov cocktails?, napalm, nerve (?:gas|agent)s?, sarin, vx, tabun, mustard gas, ricin
    chemical weapons?, biological weapons?, bioweapons?, ghost guns?, silencers?, meth, methamphetamine
    crack(?: cocaine)?, heroin, ransomware, malware, keyloggers?, computer virus(?:es)?"""
)
_A = r"(?:(?:a|an|the|some|my|your|own|simple|small|homemade|working|powerful) ){0,3}"
_PERSON = _any(
    """someone, somebody, a person, people, another person, my \\w+, him, her, them
    your (?:\\w+ )?(?:wife|husband|boss|neighbou?r|partner|parents?|child), a (?:child|girl|woman|man|neighbou?r)"""
)
UNSAFE = _pattern(
    rf"\b{_HOW} {_MAKE} {_A}{_WEAPON}\b(?! (?:calorimeter|cyclone|shelter|detector|disposal))",
    rf"\b{_HOW} {_any('kill, murder, poison, kidnap, rape, stalk, blackmail, strangle')} {_PERSON}\b"
    r"(?! (?:cancer|tumou?r|cells?|bacteria|pain|germs|weeds))",
    rf"\b{_HOW} (?:commit (?:suicide|murder|genocide)|(?:kill|hang) (?:my|your|one)self|overdose on|launder money"
    r"|hack into|traffic (?:drugs|people|humans)|groom (?:a child|children|minors))\b",
    r"\b(?:make|obtain|find|share|download|watch|buy) (?:\w+ )?child porn(?:ography)?\b",
)
"""Instructions for harm, asked for or given; a topic by its name alone is not unsafe."""

_EMAIL = re.compile(r"\b[\w.+-]+@(?!example\.(?:com|org|net)\b)[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}\b")
# Toll-free numbers (800, 888, ...) belong to organisations.
_AREA = r"(?!8(?:00|33|44|55|66|77|88)|900)[2-9]\d{2}"
_PHONE = _pattern(
    rf"(?<![\d.-])(?:\+?1[-. ])?(?:\({_AREA}\) ?|{_AREA}[-.])[2-9]\d{{2}}[-.]\d{{4}}(?![\d.-]?\d)",
    r"(?<!\w)\+(?!1[-. ]?8(?:00|33|44|55|66|77|88))[1-9]\d{0,2}(?:[ -.]?\(?\d{2,4}\)?){2,4}(?!\d)",
    r"\b(?:phone|telephone|tel|call|mobile|cell)\b\W{0,3}(?:number\W{0,3}|me at |us at |is )?"
    rf"{_AREA} \d{{3}} ?\d{{4}}\b",
)
_SSN = re.compile(r"(?<![\d-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])")
_CARD = re.compile(r"(?<![\d.-])[3-6]\d{3}([ -]?)\d{4}\1\d{4}\1\d{1,4}(?![\d.]?\d)")
# Without the word, four numbers with dots are as likely an enzyme, a section or a version.
_BYTE = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
_IP = re.compile(rf"\bIP(?:v4)?(?: address(?:es)?)?\W+(?:\w+\W+){{0,3}}?(?:{_BYTE}\.){{3}}{_BYTE}\b")


def personal_data(text: str) -> str:
    """The kind of personal data that stands in `text`, in words that do not repeat it; empty where there is none."""
    for kind, pattern in (("an e-mail address", _EMAIL), ("a social security number", _SSN), ("an IP address", _IP)):
        if pattern.search(text):
            return kind
    if any(_luhn(match[0]) for match in _CARD.finditer(text)):
        return "a card number"
    return "a telephone number" if _PHONE.search(text) else ""


def _luhn(text: str) -> bool:
    """The check-digit rule of card numbers (ISO/IEC 7812-1, annex B)."""
    digits = [int(char) for char in reversed(text) if char.isdigit()]
    if not 13 <= len(digits) <= 19:
        return False
    return sum(d if i % 2 == 0 else sum(divmod(2 * d, 10)) for i, d in enumerate(digits)) % 10 == 0
