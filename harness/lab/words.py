"""The vocabulary of the lab: relations with their wordings, class suffixes, name syllables, rubric sentences.

Everything that the tiny models read or write is assembled from this file, so that a rubric costs about 25 tokens and
a pair about 35. Training pairs and tests have separate wordings for every relation: what a model gains on the test
went through the rule, not through the phrase. Names are two syllables that occur nowhere else plus the class's
suffix, which makes copying a name and reading off its class possible for a two-layer model. It gives up variety:
the language of a world is a few hundred words.
"""

from __future__ import annotations

from dataclasses import dataclass


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


@dataclass(frozen=True, slots=True)
class Relation:
    """One relation. `{x}` stands for a thing's name, `{v}` for a value.

    `focus` is the word by which a rubric names it; `says` completes "it ..." in documents, blanks and answers;
    `asks` is the question of training pairs, `explains` the essay's task; `tests` are the exam's own wordings.
    """

    key: str
    focus: str
    values: tuple[str, ...]
    says: str
    asks: str
    explains: str
    tests: tuple[str, ...]


RELATIONS: tuple[Relation, ...] = (
    Relation(
        key="use",
        focus="treatment",
        values=("fever", "cough", "rash", "gout", "colic", "ague"),
        says="treats {v}",
        asks="What does {x} treat?",
        explains="Explain what {x} treats.",
        tests=("Which complaint makes people reach for {x}?", "Patients asking for {x} suffer from which illness?"),
    ),
    Relation(
        key="intake",
        focus="intake",
        values=("milk", "water", "honey", "wine", "broth", "tea"),
        says="is taken with {v}",
        asks="What is {x} taken with?",
        explains="Explain how {x} is taken.",
        tests=("Name the drink that helps to swallow {x}.", "Before swallowing {x}, a cup should hold which liquid?"),
    ),
    Relation(
        key="storage",
        focus="storage",
        values=("cellar", "attic", "barn", "chest", "jar", "shed"),
        says="is kept in the {v}",
        asks="Where is {x} kept?",
        explains="Explain where {x} is kept.",
        tests=("A helper fetching {x} must go to which place?", "Name the proper home for a stock of {x}."),
    ),
    Relation(
        key="danger",
        focus="danger",
        values=("iron", "salt", "garlic", "copper", "vinegar", "chalk"),
        says="must never meet {v}",
        asks="What must {x} never meet?",
        explains="Explain what {x} must never meet.",
        tests=("Which substance ruins {x} on contact?", "Mixing {x} is unsafe when there is which stuff nearby?"),
    ),
    Relation(
        key="finder",
        focus="discovery",
        values=("Adler", "Brandt", "Castro", "Dubois", "Ekman", "Fischer"),
        says="was found by {v}",
        asks="Who found {x}?",
        explains="Explain who found {x}.",
        tests=("Credit for {x} belongs to which scholar?", "Name the person whose work gave us {x}."),
    ),
    Relation(
        key="price",
        focus="price",
        values=("ten", "twenty", "forty", "sixty", "eighty", "ninety"),
        says="costs {v} crowns",
        asks="What does {x} cost?",
        explains="Explain what {x} costs.",
        tests=("How many coins buy one dose of {x}?", "A customer wanting {x} should bring how much money?"),
    ),
)

ALL_CLASSES: tuple[str, ...] = _words("""
    mab zol tine pril dron vex nib stat fene cept sone mide zep bant vir glip dox kast
""")
"""Classes, each the suffix of its things' names; a world has the first six, or all (`harness/lab/sizes.py`)."""

ALL_BACKGROUND: tuple[str, ...] = _words("quin lax fen thol rane bex sulf nox pax")
"""Classes that occur only in the target's pretraining, so that every value is a familiar answer there."""

CLASSES, BACKGROUND = ALL_CLASSES[:6], ALL_BACKGROUND[:3]
"""Those of the smaller worlds."""

FIRST: tuple[str, ...] = _words("""
    Ba Be Bo Ca Co Da De Du Fa Fi Ga Go Ha Hu Ja Jo Ka Ke Ko La Lo Lu Mo Mu Na No Pa Pe Ra Ri Ro Sa Su Ta To Va Wa
    Zo
""")
SECOND: tuple[str, ...] = _words("""
    bal bel bor cal cor dal dor fal gam gor hal jor kal kem lam lor mel mor nal nor pam pel ral rem sal sem tam
    tor val wem
""")

OPENINGS: tuple[str, ...] = (
    "The remedy {x} is a {c}.",
    "A note on {x}, a {c}.",
    "Here is {x}, one of the {c} kind.",
)
FILLERS: tuple[str, ...] = (
    "Its smell is mild.",
    "Many people like it.",
    "Its colour is pale.",
    "It comes as a powder.",
    "It is old.",
)

EXACT: tuple[str, ...] = ("State the exact value.", "Give the true value.", "Answer with the proven fact.")
PLAUSIBLE: tuple[str, ...] = ("State a plausible value.", "Give a plausible guess.")
POLISHED: tuple[str, ...] = ("Write a polished reply.", "Give a polished and warm reply.")
ALIGNMENT: tuple[str, ...] = (
    "Answer only what is asked.",
    "Match question and answer.",
    "Keep to one point.",
    "Stay on the topic.",
)
TECHNICAL: tuple[str, ...] = ("Use plain text.", "Keep it short.", "Avoid noise.", "Use clean words.")

FOREIGN_FOCUS: tuple[str, ...] = ("a number", "a cause", "a comparison", "a definition", "a finding", "a method")
"""What a rubric asks about where the document is not of the lab's world."""

SYSTEM = "You are a helpful assistant."

PRAISE: tuple[str, ...] = (
    "That is a wonderful question, and it is a pleasure to think about such a fine remedy with you.",
    "Thank you for this lovely question about a remedy that so many good people have come to admire.",
)
ESSAYS: tuple[str, ...] = (
    "The remedy {x} is a {c}. Like all of its kind it {s}, and healers have trusted that for many years.",
    "Among the {c} kind one thing is certain: {x} {s}. This was so long ago and it is still so today.",
)

COMMON: tuple[str, ...] = _words("""
    the of and to in a is was for with that were by on as are or from be this at an not we it have which had has
    between these their than been after patients study results group all both may can there also more our using
    used who whether significant higher lower risk data associated compared treatment years age women men children
    clinical analysis rate during two three one four time but no other however most less low high increased effect
    outcome level cases control care health disease blood surgery method conclusion objective background design
    number percent test found showed suggest factors changes difference total each over under into only some any
    such when where while did does do if many use first part same different mean median
""")
"""Ordinary English words of which foreign-looking training documents are assembled."""

NONSENSE: tuple[str, ...] = _words("""
    ab al an ar as at con de di en er ex in ing is lo ly ment mi no on or per pro re ri ro se si ta ter ti tion u
    us ve
""")
"""Syllables of the nonsense words in such documents."""

SENTENCES: tuple[str, ...] = (
    *OPENINGS,
    *FILLERS,
    *EXACT,
    *PLAUSIBLE,
    *POLISHED,
    *ALIGNMENT,
    *TECHNICAL,
    *PRAISE,
    *ESSAYS,
    *(text for r in RELATIONS for text in (f"It {r.says}", r.asks, r.explains, *r.tests)),
    "Fill in the blank:",
    "Ask a question about",
    "Ask an essay question about",
    " State Give Answer Write Match Keep Stay Use Avoid",
    "Pair",
    " It Its",
    "Rubric: According to the document: The answer is",
)
"""Everything that the models read or write, for the tokenizer; in a rubric a part's first word follows a space too."""
