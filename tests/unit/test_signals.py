"""Controls, the lab's oracles, and who may read the lab's truth."""

from __future__ import annotations

import ast
import random
import re
from pathlib import Path

import pytest

from harness import plugins
from harness.config import SignalChoice
from harness.errors import ConfigError
from harness.lab.pairs import RELATION_OF, pair_messages
from harness.lab.world import World
from harness.types import Message, Sample, Score, Seed, WorldId, stable_hash
from methods.signals.base import Archive, Item, SignalContext
from methods.signals.catalogue import make_signal, signal_class, signal_needs, signal_uses

ROOT = Path(__file__).parents[2]


def sample(messages: tuple[Message, ...], number: int = 0) -> Sample:
    return Sample(stable_hash(number), ("d",), None, "", messages, "", "test", "stop", 0, 0)


def talk(question: str, answer: str, number: int = 0) -> Sample:
    return sample((Message("user", question), Message("assistant", answer)), number)


def scored(name: str, items: list[Item], seed: int = 0, world: int | None = None) -> list[Score]:
    signal = make_signal(SignalChoice.model_validate(name))
    signal.prepare(SignalContext(seed=seed, lab_world=None if world is None else WorldId(world)), None)
    scores = signal.score(items, Archive())
    assert [s.item_id for s in scores] == [i.id for i in items]
    assert all(s.signal == name for s in scores)
    assert signal.usage() == []
    return scores


def values(scores: list[Score]) -> list[float]:
    assert all(s.status == "ok" and s.value is not None for s in scores)
    return [s.value or 0.0 for s in scores]


def test_random_is_uniform_and_depends_on_seed_and_item_only() -> None:
    items: list[Item] = [talk("q", "a", i) for i in range(2000)]
    drawn = values(scored("random", items))
    assert min(drawn) >= 0.0 and max(drawn) < 1.0 and len(set(drawn)) == 2000
    assert abs(sum(drawn) / 2000 - 0.5) < 0.03
    assert sum(d < 0.1 for d in drawn) == pytest.approx(200, abs=60)
    assert values(scored("random", items[::-1]))[::-1] == drawn
    other = values(scored("random", items, seed=1))
    assert sum(abs(a - b) for a, b in zip(drawn, other, strict=True)) / 2000 == pytest.approx(1 / 3, abs=0.03)


def test_constant_and_length() -> None:
    items: list[Item] = [talk("one two three", "four five"), talk("one", "two", 1), Seed("d", "a b c d")]
    assert values(scored("constant", items)) == [1.0, 1.0, 1.0]
    assert values(scored("length", items)) == [5.0, 2.0, 4.0]


def _pairs(world: World) -> dict[str, Sample]:
    """One pair of each kind that the lab plants."""
    draw = random.Random(0)
    rules = sorted(world.rules)

    def rule(kind: str) -> tuple[str, str]:
        useful, known = set(world.useful), set(world.known)
        for r in rules:
            asked = r[1] in world.asked
            if {"useful": r in useful, "known": asked and r in known, "unasked": not asked}[kind]:
                return r
        raise AssertionError(kind)

    def pair(kind: str, value: str | None = "", number: int = 0) -> Sample:
        cls, key = rule(kind)
        right = world.rules[cls, key]
        answer = right if value == "" else value
        name = world.names("seeds", cls)[0]
        return sample(pair_messages(name, cls, RELATION_OF[key], "short answer", answer, draw), number)

    cls, key = rule("useful")
    wrong = next(v for v in RELATION_OF[key].values if v != world.rules[cls, key])
    return {
        "useful": pair("useful", number=1),
        "known": pair("known", number=2),
        "unasked": pair("unasked", number=3),
        "false": pair("useful", wrong, number=4),
        "filler": pair("useful", None, number=5),
        "off_world": talk("What is two and two?", "Four.", 6),
    }


def test_the_oracle_tells_useful_pairs_from_every_trap() -> None:
    pairs = _pairs(World(0))
    oracle = dict(zip(pairs, values(scored("oracle", list(pairs.values()), world=0)), strict=True))
    assert oracle == {kind: float(kind == "useful") for kind in pairs}
    reverse = dict(zip(pairs, values(scored("anti_oracle", list(pairs.values()), world=0)), strict=True))
    assert reverse == {kind: -value for kind, value in oracle.items()}


def test_the_oracle_reads_its_own_world() -> None:
    """What one world makes useful, others mostly do not."""
    useful = _pairs(World(0))["useful"]
    elsewhere = [values(scored("oracle", [useful], world=w))[0] for w in range(1, 9)]
    assert sum(elsewhere) < 4


def test_the_oracle_has_no_truth_outside_the_lab() -> None:
    with pytest.raises(ConfigError, match="planted truth"):
        scored("oracle", [talk("q", "a")])
    (score,) = scored("oracle", [Seed("d", "text")], world=0)
    assert (score.value, score.status) == (None, "unscorable")


def test_a_wrong_name_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'influence'"):
        signal_class("influnce")


@pytest.mark.parametrize("name", plugins.names(plugins.SIGNALS))
def test_every_declared_signal_loads(name: str) -> None:
    choice = SignalChoice.model_validate(name)
    signal = make_signal(choice)
    assert signal.name == name and signal.faults() == []
    assert signal.lab_only == (name in ("oracle", "anti_oracle")) == ("planted" in signal_needs(choice))
    assert signal.student_aware == any(use.role == "target" for use in signal_uses(choice))
    assert signal.reads_validation == (name in ("epig", "influence", "local_influence", "val_bm25", "val_cosine"))


READERS = {"methods/signals/planted.py", "harness/experiments/calibrate.py"}
"""Outside the lab: the two oracles, and the calibration that reports on lab runs."""


def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_nothing_else_reads_the_labs_truth() -> None:
    packages = ("harness", "methods", "evals", "decontam", "results")
    files = [path for package in packages for path in (ROOT / package).rglob("*.py")]
    assert len(files) > 60
    readers = {
        str(path.relative_to(ROOT))
        for path in files
        if "harness.lab.planted" in _imports(path) and "harness/lab/" not in str(path)
    }
    assert "methods/signals/planted.py" in readers
    assert readers <= READERS, f"{sorted(readers - READERS)} read what only the oracles may"
    truth = ("planted", "utility", ".useful", "World(")
    for path in (ROOT / "methods").rglob("*.py"):
        assert "harness.lab.report" not in _imports(path)
    engine = [*(ROOT / "methods/signals/influence").glob("*.py"), ROOT / "methods/signals/controls.py"]
    assert [p.name for p in engine for word in truth if word in p.read_text(encoding="utf-8")] == []


def described() -> dict[str, tuple[str, str]]:
    """By signal: the section of docs/signals.md that it is in, and what stands there of its range."""
    found, section = {}, ""
    for line in (ROOT / "docs" / "signals.md").read_text(encoding="utf-8").splitlines():
        section = line.removeprefix("## ") if line.startswith("## ") else section
        if row := re.match(r"\| `([\w-]+)` \|[^|]*\|([^|]*)\|", line):
            assert row[1] not in found
            found[row[1]] = (section, row[2].split(",")[0].split("(")[0].strip())
    return found


def test_the_page_of_formulas_has_every_signal_with_its_range() -> None:
    group = plugins.SIGNALS
    own = [name for name in plugins.names(group) if plugins.find(group, name).package == plugins.OWN]
    page = described()
    assert sorted(page) == own
    for name in own:
        signal = signal_class(name)
        section, said = page[name]
        assert (section == "Read validation items") == signal.reads_validation, name
        low, high = signal.range
        if name == "confidence":
            # What is declared holds the released code's formula, too.
            high = 1.0
        if low is None:
            assert said == "open", name
        elif high is None:
            assert said == f"from {low:g}", name
        else:
            assert said == (f"{low:g}" if low == high else f"{low:g} to {high:g}"), name
