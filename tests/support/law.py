"""A lawyer's folder for tests: the exam that the documentation shows, and made-up commentary to write pairs from."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "suites.md"

_MATTERS = (
    "lease",
    "pledge",
    "warranty",
    "easement",
    "mortgage",
    "patent",
    "partnership",
    "bequest",
    "tender",
    "surety",
    "charter",
    "licence",
    "franchise",
    "salvage",
    "trust",
    "custody",
    "guarantee",
    "annuity",
    "copyright",
    "mandate",
)
_COURTS = ("county court", "court of appeal", "commercial chamber", "land tribunal")
_DUTIES = ("registration", "written notice", "payment of a deposit", "approval by the registrar", "a signed schedule")


def write_exam(folder: Path) -> Path:
    """The documentation's exam as files in `folder`; returns the suite's path."""
    folder.mkdir(parents=True)
    text = DOCUMENTATION.read_text(encoding="utf-8")
    exam, practice = re.findall(r"```jsonl\n(.*?)```", text, re.DOTALL)
    (suite,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    for name, content in (("exam.jsonl", exam), ("practice.jsonl", practice), ("suite.yaml", suite)):
        (folder / name).write_text(content, encoding="utf-8")
    return folder / "suite.yaml"


def commentary(count: int) -> list[str]:
    """Documents of about 80 words; every one has a number, a definition, a cause, a comparison and a finding."""
    rng = random.Random(7)
    return [_document(f"{rng.choice(('private', 'public', 'joint'))} {m}", rng) for m in (_MATTERS * 9)[:count]]


def _document(matter: str, rng: random.Random) -> str:
    years, days, share, fee = rng.randint(2, 40), rng.randint(7, 90), rng.randint(11, 89), rng.randint(120, 980)
    court, duty = rng.choice(_COURTS), rng.choice(_DUTIES)
    title = matter.capitalize()
    return " ".join(
        (
            f"BACKGROUND: A {matter} is defined as an agreement that binds two parties for {years} years.",
            f"METHODS: The commission reviewed {fee} decisions of the {court} using a standard questionnaire.",
            f"RESULTS: {title} disputes were settled within {days} days in {share}% of the reviewed decisions.",
            f"The absence of {duty} caused most failures of a {matter} before the {court}.",
            f"Disputes about a {matter} lasted longer in the {court} than in arbitration.",
            f"CONCLUSION: {duty.capitalize()} significantly reduced the number of appeals against a {matter}.",
        )
    )


def write_commentary(path: Path, texts: list[str]) -> Path:
    """The documents as JSONL, with an id, a licence and a subject each."""
    rows = [{"id": f"c{i}", "text": t, "licence": "CC0", "domain": "law"} for i, t in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
