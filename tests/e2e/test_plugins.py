"""Plug-ins of other packages: found, and where they cannot be used reported in one line that breaks nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from evals.catalogue import load_suite, unusable_suites
from harness import plugins
from harness.checks.doctor import examine
from harness.choice import plugin_class, plugin_classes
from harness.cli.main import main
from harness.errors import ConfigError
from harness.resolve.layers import resolve_run
from harness.resolve.registry import methods, unusable_methods
from support.packages import make_package

GOOD = """
from harness.types import Score
from methods.signals.base import Signal

class Sound(Signal):
    name = "sound"
    summary = "always one"

    def score(self, items, archive):
        return [Score(item.id, self.name, 1.0) for item in items]
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs packages for one test: `install("name", {"harness.signals": {...}}, {"file": "text"})`."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def one(name: str, entries: dict[str, dict[str, str]], files: dict[str, str]) -> None:
        make_package(tmp_path, name, entries, files)
        plugins.refresh()

    before = set(sys.modules)
    yield one
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
    monkeypatch.undo()
    plugins.refresh()


def signal(install: Install, name: str, value: str, source: str, package: str = "others") -> None:
    install(package, {plugins.SIGNALS: {name: value}}, {f"{value.partition(':')[0]}.py": source})


def test_the_projects_own_are_there_and_come_from_its_declaration() -> None:
    assert {"influence", "random"} <= set(plugins.names(plugins.SIGNALS))
    assert plugins.find(plugins.SIGNALS, "loss") == plugins.Entry(
        plugins.SIGNALS, "loss", "methods.signals.loss:LossSignal", "harness"
    )
    usable, faults = plugin_classes(plugins.SIGNALS)
    assert len(usable) >= 10 and faults == [] and plugins.foreign() == []
    assert unusable_methods() == [] and unusable_suites() == []


def test_a_foreign_signal_is_as_any_other(install: Install) -> None:
    signal(install, "sound", "others_sound:Sound", GOOD)
    assert plugin_class(plugins.SIGNALS, "sound").summary == "always one"
    assert resolve_run(method="optimsyn", target="nano", signal="sound").config.signal.name == "sound"
    assert [(e.name, e.package) for e in plugins.foreign()] == [("sound", "others 1.0")]


BAD = {
    "cannot be imported: ModuleNotFoundError: No module named 'nowhere'": "import nowhere\n",
    "cannot be imported: SystemExit: 3": "raise SystemExit(3)\n",
    "cannot be imported: AttributeError": "x = 1\n",
    "is no class of a signal": "Sound = 3\n",
    "its name is 'sound2'": GOOD.replace('"sound"', '"sound2"'),
    "summary must be one line": GOOD.replace('"always one"', '""'),
    "it lacks score": GOOD.replace("def score", "def scores"),
    "version must be a number from 1": GOOD.replace("name =", "version = 0\n    name ="),
    "direction must be": GOOD.replace("name =", "direction = 'up'\n    name ="),
    "Settings must be a subclass": GOOD.replace("name =", "Settings = int\n    name ="),
    "preset 'p' is refused: x: ": GOOD.replace("name =", "presets = {'p': {'x': 1}}\n    name ="),
    "needs 'gold' is none of": GOOD.replace(
        "name =", "needs = classmethod(lambda cls, settings: frozenset({'gold'}))\n    name ="
    ),
}


@pytest.mark.parametrize("said", BAD)
def test_one_that_cannot_be_used_says_so_where_it_is_named(
    install: Install, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    signal(install, "sound", "others_sound:Sound", BAD[said])
    assert main(["plan", "--method", "optimsyn", "--target", "nano", "--signal", "sound"]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and "others_sound:Sound of package others 1.0" in error
    # Nobody else minds.
    assert resolve_run(method="optimsyn", target="nano", signal="loss").config.signal.name == "loss"
    assert main(["signals"]) == 0
    listed = " ".join(capsys.readouterr().out.split())
    assert "control: uniform noise" in listed and "not usable: signal 'sound'" in listed
    (problem,) = (f for f in examine().findings if f.section == "plug-ins" and f.problem)
    assert said in problem.problem and "\n" not in problem.problem


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ("unit = 'set'", "unit 'set' is for subclasses of methods.signals.sets.SetSignal"),
        ("needs = classmethod(lambda cls, settings: frozenset({'judge'}))", "needs 'judge', which no run can give"),
    ],
)
def test_what_no_run_can_give_is_refused_before_it_begins(
    install: Install, declared: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    signal(install, "sound", "others_sound:Sound", GOOD.replace("name =", f"{declared}\n    name ="))
    assert main(["run", "--method", "optimsyn", "--target", "nano", "--signal", "sound"]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_listings_for_programs_hold_all_that_is_declared(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["signals", "--json"]) == 0
    found = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)["signals"]}
    assert found["loss"]["needs"] == ["warm_target"] and found["loss"]["settings"] == {"checkpoint": "warm"}
    exact = found["local_influence"]
    assert (exact["cost"], exact["uses"][0]["validation"], exact["uses"][0]["dtype"]) == ("backward", 1, "float32")
    assert {name for name, entry in found.items() if "seed" in entry["items"]} >= {"random", "val_bm25"}


def test_a_name_that_is_taken_is_nobodys(install: Install) -> None:
    """Which of the two was meant would be a guess, and a guess changes results."""
    signal(install, "loss", "others_loss:Loss", GOOD.replace("Sound", "Loss").replace('"sound"', '"loss"'))
    with pytest.raises(ConfigError) as caught:
        resolve_run(method="optimsyn", target="nano", signal="loss")
    assert str(caught.value) == (
        "signal 'loss' is registered by methods.signals.loss:LossSignal of package harness and by others_loss:Loss of "
        "package others 1.0; uninstall one of them, or rename its entry"
    )
    assert resolve_run(method="optimsyn", target="nano", signal="length").config.signal.name == "length"
    assert plugin_classes(plugins.SIGNALS)[1] == [str(caught.value)]


def test_a_method_and_a_suite_are_files(install: Install) -> None:
    method = "summary: mine\ndriver: best_of_n\nsignal: length\nsettings: {driver: {n: 3}}\n"
    entries = {
        plugins.METHODS: {"mine": "mine_pkg:mine.yaml", "lost": "mine_pkg:lost.yaml", "odd": "mine_pkg:odd.yaml"},
        plugins.SUITES: {"exam": "mine_pkg:exam.yaml", "gone": "no_such_package:gone.yaml"},
    }
    files = {"mine_pkg/mine.yaml": method, "mine_pkg/odd.yaml": "summary: x\n", "mine_pkg/exam.yaml": "name: exam\n"}
    install("mine", entries, {"mine_pkg/__init__.py": "", **files})
    config = resolve_run(method="mine", target="nano").config
    assert (config.driver.identity(), config.signal.name) == ({"name": "best_of_n", "n": 3}, "length")
    assert "mine" in methods() and not {"lost", "odd"} & methods().keys()
    lost, odd = unusable_methods()
    assert "method 'lost' (mine_pkg:lost.yaml of package mine 1.0) is no file" in lost
    assert "method 'odd'" in odd and "must set 'driver'" in odd
    with pytest.raises(ConfigError, match="method 'lost'"):
        resolve_run(method="lost", target="nano")
    exam, gone = unusable_suites()
    assert "exam.yaml" in exam and "suite 'gone'" in gone
    with pytest.raises(ConfigError, match="is no file"):
        load_suite("gone")
    assert load_suite("lab").name == "lab"


def test_listings_import_no_library_of_models() -> None:
    code = (
        "import sys; from harness.cli.main import main\n"
        "for c in ('signals', 'drivers', 'methods', 'suites'): main([c])\n"
        "print([m for m in ('torch', 'transformers', 'trl', 'peft', 'pandas', 'datasets', 'vllm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


ROUTE = """
from harness.costs.lengths import CallLengths
from methods.routes.direct import DirectRoute

class Twice(DirectRoute):
    name = "twice"
    summary = "example: the direct route at twice the length"

    @classmethod
    def calls(cls, sizes):
        return (CallLengths("generator", sizes.generator_prompt, 2 * sizes.pair),)
"""


def test_a_foreign_route_is_listed_chosen_and_planned(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    entries = {"twice": "others_twice:Twice", "lost": "others_twice:Lost"}
    install("others", {plugins.ROUTES: entries}, {"others_twice.py": ROUTE})
    assert main(["routes"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "twice generator - example: the direct route" in shown and "not usable: route 'lost'" in shown
    planned = ["plan", "--driver", "static", "--target", "nano", "--route"]
    assert main([*planned, "twice", "--set", "route.copy_limit=0.5"]) == 0
    assert "twice: example" in capsys.readouterr().out
    assert main([*planned, "lost"]) == 2
    assert "route 'lost'" in capsys.readouterr().err
